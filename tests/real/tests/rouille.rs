//! The server `rouille`, which has a thread for each request, or a pool, and `tiny_http`
//! under it. All are greenlets, and so are the clients.

// The example has this line too, for what its handler panics.
#![allow(unreachable_code)]

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use greenlet_real::http::Connection;
use greenlet_real::{GREENLETS, overlap_threads, run};
use rouille::{Request, Response, Server, router};

fn main() {
    run(&[
        ("a_thread_per_request_answers_all", thread_per_request),
        ("a_pool_answers_all", a_pool),
        ("a_handler_that_panics_is_an_error_of_the_server", panics),
    ]);
}

/// That of its example `hello-world`, but for what it prints and that it takes a while.
fn handler(request: &Request) -> Response {
    router!(request,
        (GET) (/) => { Response::redirect_302("/hello/world") },
        (GET) (/hello/world) => {
            thread::sleep(Duration::from_millis(1));
            Response::text("hello world")
        },
        (GET) (/panic) => { panic!("Oops!") },
        (GET) (/{_id: u32}) => { Response::empty_400() },
        (GET) (/{id: String}) => { Response::text(format!("hello, {id}")) },
        _ => Response::empty_404()
    )
}

/// Runs `clients` against a server with a pool of so many, or with a thread for each request, and ends it.
fn serve(pool: Option<usize>, clients: impl FnOnce(SocketAddr)) {
    let server = Server::new("127.0.0.1:0", handler).unwrap();
    let server = match pool {
        Some(size) => server.pool_size(size),
        None => server,
    };
    let address = server.server_addr();
    let (handle, stop) = server.stoppable();
    clients(address);
    stop.send(()).unwrap();
    handle.join().unwrap();
}

fn ask_all(server: SocketAddr) {
    overlap_threads(GREENLETS, |number, flight| {
        let mut connection = Connection::to(server);
        let mut get = |path: &str| connection.ask("GET", path, b"");
        flight.meet();
        flight.during(|| {
            for _ in 0..3 {
                assert_eq!(get("/hello/world"), (200, b"hello world".to_vec()));
                let hello = format!("hello, number-{number}");
                assert_eq!(get(&format!("/number-{number}")), (200, hello.into_bytes()));
            }
            assert_eq!(get("/").0, 302);
            assert_eq!(get(&format!("/{number}")).0, 400);
            assert_eq!(get("/nothing/here").0, 404);
        });
    });
}

fn thread_per_request() {
    serve(None, ask_all);
}

fn a_pool() {
    serve(Some(8), ask_all);
}

fn panics() {
    // 200 times it would say so.
    std::panic::set_hook(Box::new(|_| ()));
    serve(None, |server| {
        overlap_threads(GREENLETS, |_, flight| {
            let mut connection = Connection::to(server);
            flight.meet();
            flight.during(|| {
                let (status, text) = connection.ask("GET", "/panic", b"");
                assert_eq!(status, 500);
                assert!(text.starts_with(b"<h1>Internal Server Error"));
                assert_eq!(connection.ask("GET", "/hello/world", b"").0, 200);
            });
        });
    });
    let _ = std::panic::take_hook();
}
