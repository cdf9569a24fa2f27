//! libcurl by the crate `curl`: a C library that waits by poll. Against nginx; see
//! `ureq.rs` for the page.

use curl::easy::Easy;
use greenlet_real::{WHILE, is_the_page, overlap, run_with_server, serve};

fn main() {
    run_with_server(
        "GREENLET_NGINX",
        &[
            ("a_slow_page_is_got", &a_slow_page_is_got),
            ("a_connection_is_used_again", &a_connection_is_used_again),
            ("a_timeout_ends_a_wait", &a_timeout_ends_a_wait),
        ],
    );
}

fn easy(url: &str) -> Easy {
    let mut easy = Easy::new();
    easy.url(url).unwrap();
    easy.noproxy("*").unwrap();
    easy
}

fn perform(easy: &mut Easy) -> Result<Vec<u8>, curl::Error> {
    let mut body = Vec::new();
    let mut transfer = easy.transfer();
    transfer.write_function(|data| {
        body.extend_from_slice(data);
        Ok(data.len())
    })?;
    transfer.perform()?;
    drop(transfer);
    Ok(body)
}

fn a_slow_page_is_got(address: &str) {
    let url = format!("http://{address}/slow.txt");
    overlap(|_, flight| {
        let mut easy = easy(&url);
        let body = flight.during(|| perform(&mut easy).unwrap());
        assert_eq!(easy.response_code().unwrap(), 200);
        assert!(is_the_page(&body));
    });
}

fn a_connection_is_used_again(address: &str) {
    let url = format!("http://{address}/fast.txt");
    overlap(|_, flight| {
        let mut easy = easy(&url);
        for _ in 0..5 {
            assert!(is_the_page(&flight.during(|| perform(&mut easy).unwrap())));
        }
    });
}

fn a_timeout_ends_a_wait(_: &str) {
    let silent = serve(|mut stream| std::io::copy(&mut stream, &mut std::io::sink()).map(drop));
    let url = format!("http://{}/", silent.unwrap());
    overlap(|_, flight| {
        let mut easy = easy(&url);
        easy.timeout(WHILE).unwrap();
        let error = flight.during(|| perform(&mut easy).unwrap_err());
        assert!(error.is_operation_timedout(), "{error}");
    });
}
