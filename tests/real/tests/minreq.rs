//! The HTTP client `minreq` against nginx. See `ureq.rs` for the page.

use std::io::Read;

use greenlet_real::{is_the_page, overlap, run_with_server, together};

fn main() {
    run_with_server(
        "GREENLET_NGINX",
        &[
            ("a_slow_page_is_got", &a_slow_page_is_got),
            ("a_body_is_read_byte_by_byte", &a_body_is_read_byte_by_byte),
            ("with_a_timeout_one_waits_after_the_other", &with_a_timeout),
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

/// With a timeout it works on a thread of its own, whose end it awaits as threads
/// do: the answers are right, but the greenlet's thread stands still meanwhile.
fn with_a_timeout(address: &str) {
    let url = format!("http://{address}/fast.txt");
    let most = together(20, |_, flight| {
        let response = flight.during(|| minreq::get(&url).with_timeout(60).send().unwrap());
        assert!(is_the_page(response.as_bytes()));
    });
    assert_eq!(most, 1);
}
