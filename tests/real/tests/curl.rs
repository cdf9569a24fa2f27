//! libcurl by the crate `curl`: a C library that waits by poll. Against nginx; see
//! `ureq.rs` for the page.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use curl::easy::{Easy, IpResolve, List};
use greenlet_real::{Certificate, WHILE, is_the_page, overlap, run_with_server, serve, the_page};
use greenlet_real::{GREENLETS, overlap_threads};

fn main() {
    run_with_server(
        "GREENLET_NGINX",
        &[
            ("a_slow_page_is_got", a_slow_page_is_got),
            ("a_connection_is_used_again", a_connection_is_used_again),
            ("a_timeout_ends_a_wait", a_timeout_ends_a_wait),
            (
                "a_name_is_looked_up_by_a_thread_of_its_own",
                a_name_is_looked_up,
            ),
            ("an_encrypted_page_is_got", an_encrypted_page_is_got),
            ("threads_get_pages_too", threads_get_pages_too),
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
        flight.meet();
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

/// The look-up is a thread that libcurl starts, and it polls for its answer.
fn a_name_is_looked_up(address: &str) {
    let (_, port) = address.rsplit_once(':').unwrap();
    let url = format!("http://localhost:{port}/slow.txt");
    overlap(|_, flight| {
        let mut easy = easy(&url);
        easy.ip_resolve(IpResolve::V4).unwrap();
        assert!(is_the_page(&flight.during(|| perform(&mut easy).unwrap())));
    });
}

/// libcurl with OpenSSL, against a server with OpenSSL.
fn an_encrypted_page_is_got(_: &str) {
    let made = Certificate::for_localhost();
    let acceptor = made.acceptor();
    let server = serve(move |stream: TcpStream| -> io::Result<()> {
        let stream = acceptor.accept(stream).map_err(io::Error::other)?;
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        while stream.read_line(&mut line)? > 2 {
            line.clear();
        }
        std::thread::sleep(WHILE);
        let page = the_page();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len());
        stream
            .get_mut()
            .write_all(&[head.as_bytes(), &page].concat())?;
        stream.get_mut().shutdown()
    });
    let server = server.unwrap();
    let url = format!("https://localhost:{}/", server.port());
    overlap(|_, flight| {
        let mut easy = easy(&url);
        let mut addresses = List::new();
        addresses
            .append(&format!("localhost:{}:127.0.0.1", server.port()))
            .unwrap();
        easy.resolve(addresses).unwrap();
        easy.ssl_cainfo_blob(made.certificate.as_bytes()).unwrap();
        assert!(is_the_page(&flight.during(|| perform(&mut easy).unwrap())));
    });
}

fn threads_get_pages_too(address: &str) {
    let (fast, slow) = (
        format!("http://{address}/fast.txt"),
        format!("http://{address}/slow.txt"),
    );
    overlap_threads(GREENLETS, |_, flight| {
        let mut easy = easy(&slow);
        flight.meet();
        flight.during(|| {
            assert!(is_the_page(&perform(&mut easy).unwrap()));
            easy.url(&fast).unwrap();
            assert!(is_the_page(&perform(&mut easy).unwrap()));
        });
    });
}
