//! A crawler: four OS threads get pages with a blocking HTTP client, and parse
//! them, first inside the task, then in a callback.
//!
//! ```text
//! $ cargo run --example crawler
//! its own site is at http://127.0.0.1:~41073/
//!
//! parsed inside the task, results collected at the end:
//! http://127.0.0.1:~41073/missing: None
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! 7 pages by 4 threads in ~2.0 s
//!
//! parsed by a callback when each completes:
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/: 1080 characters
//! http://127.0.0.1:~41073/missing: None
//! 7 pages by 4 threads in ~2.0 s
//! $ cargo run --example crawler -- http://127.0.0.1:1/ www.example.com
//! parsed inside the task, results collected at the end:
//! http://127.0.0.1:1/: Connection refused (os error 111)
//! www.example.com: the url does not start with http:// or https://
//! 2 pages by 4 threads in ~0.0 s
//!
//! parsed by a callback when each completes:
//! ...
//! 2 pages by 4 threads in ~0.0 s
//! ```
//!
//! The first page asked for is the slowest. Collected results stand in the order
//! of the questions, and none is seen before the last is there; callbacks come in
//! the order of the answers.
//!
//! One after the other, the pages would take 2.6 s. The client knows nothing of
//! greenlets, so it has threads. The site serves all of them from greenlets of
//! the main thread, while that waits for the pool.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use greenlet::error::JoinError;
use greenlet::executor::ThreadPoolExecutor;
use greenlet::net::{SocketAddr, TcpStream};
use greenlet::server::StreamServer;

const USAGE: &str = "usage: crawler [URL...]    (without one, it starts a site of its own)";
const THREADS: usize = 4;
/// Seconds until a site that does not answer is given up.
const PATIENCE: u64 = 10;

/// The text of a page; none if the site's answer is not "here it is".
fn get(url: &str) -> Result<Option<String>, minreq::Error> {
    let response = minreq::get(url).with_timeout(PATIENCE).send()?;
    match response.status_code {
        200 => Ok(Some(response.as_str()?.to_owned())),
        _ => Ok(None),
    }
}

/// A real crawler would look for links, or prices.
fn parse(text: &str) -> usize {
    text.chars().count()
}

/// What became of one URL does not concern the others.
fn report(url: &str, parsed: Result<Result<Option<usize>, minreq::Error>, JoinError>) {
    match parsed {
        Ok(Ok(Some(length))) => println!("{url}: {length} characters"),
        Ok(Ok(None)) => println!("{url}: None"),
        Ok(Err(error)) => println!("{url}: {error}"),
        // The task has panicked.
        Err(error) => println!("{url}: {error}"),
    }
}

/// One task does two things: whoever wants only one of them has to change it.
fn parse_inside(urls: &[String], pool: &ThreadPoolExecutor) {
    let mut jobs = Vec::new();
    for url in urls {
        let url = url.clone();
        let task = move || Ok(get(&url)?.map(|text| parse(&text)));
        jobs.push(pool.submit(task).expect("the pool takes jobs"));
    }
    // Waits for all jobs. The pool would not take another one.
    pool.shutdown(true);
    for (url, job) in urls.iter().zip(jobs) {
        report(url, job.result());
    }
}

/// The task gets, and what is done with the page is said beside it.
fn parse_in_callback(urls: &[String], pool: &ThreadPoolExecutor) {
    for url in urls {
        let (to_get, url) = (url.clone(), url.clone());
        let task = move || get(&to_get);
        let job = pool.submit(task).expect("the pool takes jobs");
        // It gets the finished job, on the thread that has done it, and has to
        // reckon with what there can be instead of a page.
        job.add_done_callback(move |job| {
            let parsed = job
                .result()
                .map(|page| page.map(|text| text.map(|text| parse(&text))));
            report(&url, parsed);
        });
    }
    pool.shutdown(true);
}

fn crawl(urls: &[String], how: fn(&[String], &ThreadPoolExecutor)) {
    let pool = ThreadPoolExecutor::with_workers(THREADS).expect("there are some");
    let start = Instant::now();
    how(urls, &pool);
    println!(
        "{} pages by {THREADS} threads in {:.1} s",
        urls.len(),
        start.elapsed().as_secs_f64()
    );
}

/// A site with one page, and a slow excuse for the lack of others.
fn answer(mut stream: TcpStream, _from: SocketAddr) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 1024];
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            _ if request.len() > 8 * 1024 => return Ok(()),
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let (pause, status, text) = if request.starts_with(b"GET / ") {
        (100, "200 OK", "a greenlet for each of you\n".repeat(40))
    } else {
        (2000, "404 Not Found", "there is no such page\n".into())
    };
    // It waits as for a database, and the other requests are answered meanwhile.
    greenlet::sleep(Duration::from_millis(pause));
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )
}

/// The site accepts and answers whenever this thread waits.
fn start_site() -> io::Result<(StreamServer, String)> {
    let site = StreamServer::bind("127.0.0.1:0", answer)?;
    site.start()?;
    let home = format!("http://{}/", site.local_addr()?);
    Ok((site, home))
}

fn run(mut urls: Vec<String>) -> io::Result<()> {
    let mut site = None;
    if urls.is_empty() {
        let (server, home) = start_site()?;
        println!("its own site is at {home}\n");
        urls.push(format!("{home}missing"));
        urls.extend(std::iter::repeat_n(home, 6));
        site = Some(server);
    }
    println!("parsed inside the task, results collected at the end:");
    crawl(&urls, parse_inside);
    println!("\nparsed by a callback when each completes:");
    crawl(&urls, parse_in_callback);
    drop(site);
    Ok(())
}

fn main() -> ExitCode {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    match urls.iter().find(|url| url.starts_with('-')) {
        Some(help) if help == "--help" || help == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(option) => {
            eprintln!("crawler: {option}: no such option\n{USAGE}");
            return ExitCode::from(2);
        }
        None => {}
    }
    match run(urls) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crawler: no site can be started: {error}");
            ExitCode::FAILURE
        }
    }
}
