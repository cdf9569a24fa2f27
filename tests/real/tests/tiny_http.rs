//! The server `tiny_http` in the shape of its examples: several threads that take
//! requests from one server. It has itself a thread that accepts, and a pool with a
//! thread for each connection. All are greenlets, and so are the clients.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use greenlet_real::http::Connection;
use greenlet_real::{GREENLETS, overlap_threads, pattern, run};
use tiny_http::{Method, Response, Server};

fn main() {
    run(&[
        ("four_workers_serve_all_connections", four_workers),
        ("a_client_crate_asks_it", a_client_crate),
        ("connections_that_end_early_end_no_worker", ended_early),
    ]);
}

const WORKERS: usize = 4;

/// Runs `clients` against a server with four workers, which `answer`, and ends it.
fn serve<F>(answer: fn(tiny_http::Request), clients: F)
where
    F: FnOnce(std::net::SocketAddr),
{
    let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
    let address = server.server_addr().to_ip().unwrap();
    let mut handles = Vec::new();
    for _ in 0..WORKERS {
        let server = server.clone();
        handles.push(thread::spawn(move || {
            for request in server.incoming_requests() {
                answer(request);
            }
        }));
    }
    clients(address);
    // Each ends one worker.
    for _ in 0..WORKERS {
        server.unblock();
    }
    for handle in handles {
        handle.join().unwrap();
    }
}

/// Says back what it was told, and otherwise where it was asked from and for what.
fn answer(mut request: tiny_http::Request) {
    // What a database would take.
    thread::sleep(Duration::from_millis(1));
    let mut text = Vec::new();
    if *request.method() == Method::Post {
        request.as_reader().read_to_end(&mut text).unwrap();
    } else {
        let from = request.remote_addr().unwrap();
        text.extend(format!("{from} {}", request.url()).bytes());
    }
    let _ = request.respond(Response::from_data(text));
}

/// 200 connections are there at once, and each is used several times.
fn four_workers() {
    let seen = Mutex::new(HashSet::new());
    serve(answer, |server| {
        overlap_threads(GREENLETS, |number, flight| {
            let mut connection = Connection::to(server);
            flight.meet();
            flight.during(|| {
                for round in 0..3 {
                    let path = format!("/{number}/{round}");
                    let (status, text) = connection.ask("GET", &path, b"");
                    let text = String::from_utf8(text).unwrap();
                    let (from, asked) = text.split_once(' ').unwrap();
                    assert_eq!((status, asked), (200, path.as_str()));
                    seen.lock().unwrap().insert(from.to_owned());
                }
                for length in [1, 1000, 100_000] {
                    let sent = pattern(number, length);
                    let (status, back) = connection.ask("POST", "/", &sent);
                    assert_eq!(status, 200);
                    assert!(back == sent, "{length} bytes of {number}");
                }
            });
        });
    });
    assert_eq!(seen.into_inner().unwrap().len(), GREENLETS);
}

fn a_client_crate() {
    serve(answer, |server| {
        overlap_threads(GREENLETS, |number, flight| {
            flight.meet();
            flight.during(|| {
                for round in 0..3 {
                    let url = format!("http://{server}/{number}/{round}");
                    let response = minreq::get(url).send().unwrap();
                    let asked = format!(" /{number}/{round}");
                    assert!(response.as_str().unwrap().ends_with(&asked));
                }
            });
        });
    });
}

fn ended_early() {
    serve(answer, |server| {
        overlap_threads(GREENLETS, |number, flight| {
            flight.during(|| {
                let mut connection = Connection::to(server);
                flight.meet();
                if number % 2 == 0 {
                    connection
                        .send(b"POST / HTTP/1.1\r\nHost: it\r\nContent-Length: 9\r\n\r\nhalf");
                } else {
                    assert_eq!(
                        connection.ask("POST", "/", b"whole"),
                        (200, b"whole".to_vec())
                    );
                }
            });
        });
    });
}
