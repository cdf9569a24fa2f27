//! The HTTP client `minreq` against nginx. See `ureq.rs` for the page.

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use greenlet_real::{GREENLETS, WHILE, is_the_page, overlap, overlap_threads};
use greenlet_real::{run_with_server, together};

fn main() {
    run_with_server(
        "GREENLET_NGINX",
        &[
            ("a_slow_page_is_got", a_slow_page_is_got),
            ("a_body_is_read_byte_by_byte", a_body_is_read_byte_by_byte),
            ("a_slow_page_is_got_in_time", a_slow_page_is_got_in_time),
            ("with_a_timeout_light_greenlets_stand_still", with_a_timeout),
            ("with_a_timeout_threads_go_on", threads_go_on),
        ],
    );
}

fn a_slow_page_is_got(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap(|_, flight| {
        let response = flight.during(|| minreq::get(&url).send().unwrap());
        assert_eq!(response.status_code, 200);
        assert!(is_the_page(response.as_bytes()));
    });
}

#[expect(
    clippy::unbuffered_bytes,
    reason = "many small reads are what is tried"
)]
fn a_body_is_read_byte_by_byte(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap(|_, flight| {
        let body: Vec<u8> = flight.during(|| {
            let response = minreq::get(&url).send_lazy().unwrap();
            response.bytes().map(Result::unwrap).collect()
        });
        assert!(is_the_page(&body));
    });
}

fn a_slow_page_is_got_in_time(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap(|_, flight| {
        let request = minreq::get(&url).with_timeout(60);
        assert!(is_the_page(
            flight.during(|| request.send().unwrap()).as_bytes()
        ));
    });
}

/// With a timeout minreq asks on a thread of its own, and waits for the beginning of
/// the answer as threads wait for each other: all light greenlets of the OS thread
/// stand still meanwhile, and who sleeps there oversleeps.
fn with_a_timeout(_: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::thread::sleep(10 * WHILE);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").unwrap();
    });
    let (start, slept) = (Instant::now(), Cell::new(Duration::ZERO));
    together(2, |number, flight| {
        flight.meet();
        if number == 0 {
            let answer = minreq::get(&url).with_timeout(60).send().unwrap();
            assert_eq!(answer.as_bytes(), b"late");
        } else {
            std::thread::sleep(WHILE);
            slept.set(start.elapsed());
        }
    });
    assert!(
        slept.get() > start.elapsed() / 2,
        "it slept {:?}",
        slept.get()
    );
    server.join().unwrap();
}

/// In threads nobody stands still but who waits.
fn threads_go_on(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap_threads(GREENLETS, |_, flight| {
        let request = minreq::get(&url).with_timeout(60);
        flight.meet();
        let answer = flight.during(|| request.send().unwrap());
        assert!(is_the_page(answer.as_bytes()));
    });
}
