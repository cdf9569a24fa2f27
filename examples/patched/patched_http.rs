//! A hundred pages at once with `ureq`, which blocks its thread, as far as it knows.
//!
//! ```text
//! $ cargo run --release -p greenlet-patched --bin patched_http
//! its own site is at http://127.0.0.1:~41073/
//! 100 requests: 100 pages, 108000 bytes, 0 errors
//! their times add up to ~20.9 s, and it took ~0.2 s
//! OS threads of this process: 1
//! $ cargo run --release -p greenlet-patched --bin patched_http -- http://127.0.0.1:1/
//! 100 requests: 0 pages, 0 bytes, 100 errors
//! the first error: io: Connection refused (os error 111)
//! their times add up to ~0.1 s, and it took ~0.0 s
//! OS threads of this process: 1
//! ```
//!
//! The site is the simplest that one can write with `std::net`, and runs in greenlets
//! of the same thread. It takes 200 ms for each page.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use greenlet::{joinall, monkey, spawn};

const USAGE: &str = "usage: patched_http [URL]    (without one, it starts a site of its own)";
const REQUESTS: usize = 100;

/// The code that everybody writes for a thread.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut request = BufReader::new(&stream).lines();
    // The first empty line ends it.
    while request
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    std::thread::sleep(Duration::from_millis(200));
    let page = "a greenlet for each of you\n".repeat(40);
    let length = page.len();
    write!(
        &stream,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{page}"
    )
}

fn start_site() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", listener.local_addr()?);
    spawn(move || {
        for stream in listener.incoming().flatten() {
            spawn(move || answer(stream));
        }
    });
    Ok(url)
}

/// How long the page is, and how long it took.
fn get(url: &str) -> (Result<usize, ureq::Error>, Duration) {
    let start = Instant::now();
    let page = ureq::get(url)
        .call()
        .and_then(|mut page| page.body_mut().read_to_vec());
    (page.map(|page| page.len()), start.elapsed())
}

fn run(url: Option<String>) -> Result<(), Box<dyn std::error::Error>> {
    monkey::patch_all()?;
    let url = match url {
        Some(url) => url,
        None => {
            let url = start_site()?;
            println!("its own site is at {url}");
            url
        }
    };
    let start = Instant::now();
    let requests: Vec<_> = (0..REQUESTS)
        .map(|_| {
            let url = url.clone();
            spawn(move || get(&url))
        })
        .collect();
    let (mut pages, mut bytes, mut sum, mut errors) = (0, 0, Duration::ZERO, Vec::new());
    for request in joinall(requests) {
        let (page, time) = request?;
        sum += time;
        match page {
            Ok(length) => (pages, bytes) = (pages + 1, bytes + length),
            Err(error) => errors.push(error),
        }
    }
    let took = start.elapsed();
    println!(
        "{REQUESTS} requests: {pages} pages, {bytes} bytes, {} errors",
        errors.len()
    );
    if let Some(error) = errors.first() {
        println!("the first error: {error}");
    }
    let (sum, took) = (sum.as_secs_f64(), took.as_secs_f64());
    println!("their times add up to {sum:.1} s, and it took {took:.1} s");
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    println!("OS threads of this process: {threads}");
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (url, more) = (arguments.next(), arguments.next());
    match url.as_deref() {
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(option) if option.starts_with('-') || more.is_some() => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
        _ => {}
    }
    match run(url) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("patched_http: {error}");
            ExitCode::FAILURE
        }
    }
}
