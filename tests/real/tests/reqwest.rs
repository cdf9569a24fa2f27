//! `reqwest::blocking` against nginx: a runtime of tokio's per client, on a thread that
//! the client starts, and a wait by `thread::park` for what that one does. See `ureq.rs`
//! for the page.

use greenlet_real::{WHILE, is_the_page, overlap_threads, run_with_server, serve_with_threads};
use reqwest::blocking::Client;

fn main() {
    run_with_server(
        "GREENLET_NGINX",
        &[
            ("a_slow_page_is_got", a_slow_page_is_got),
            ("one_client_serves_all", one_client_serves_all),
            ("a_timeout_ends_a_wait_for_an_answer", a_timeout_ends_a_wait),
        ],
    );
}

const CLIENTS: usize = 100;

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn get(client: &Client, url: &str) {
    let response = client.get(url).send().unwrap();
    assert_eq!(response.status(), 200);
    assert!(is_the_page(&response.bytes().unwrap()));
}

/// A client each, and so 100 runtimes.
fn a_slow_page_is_got(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap_threads(CLIENTS, |_, flight| {
        let client = client();
        flight.meet();
        flight.during(|| get(&client, &url));
    });
}

fn one_client_serves_all(address: &str) {
    let (fast, slow) = (
        format!("http://{address}/fast.txt"),
        format!("http://{address}/slow.txt"),
    );
    let client = client();
    overlap_threads(CLIENTS, |_, flight| {
        flight.meet();
        for url in [&fast, &slow, &fast] {
            flight.during(|| get(&client, url));
        }
    });
}

fn a_timeout_ends_a_wait(_: &str) {
    let silent =
        serve_with_threads(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop));
    let url = format!("http://{}/", silent.unwrap());
    overlap_threads(CLIENTS, |_, flight| {
        let client = Client::builder().no_proxy().timeout(WHILE).build().unwrap();
        flight.meet();
        let error = flight.during(|| client.get(&url).send().unwrap_err());
        assert!(error.is_timeout(), "{error}");
    });
}
