//! N3: a server on a pool of processes. The accepted socket itself is handed to one
//! of three workers, which pauses, reads, pauses again and answers 121212.
//!
//! ```text
//! $ cargo run --release --features process --example process_pool_server
//! 开启
//! listening on 127.0.0.1:8848, for 3 clients at a time; Ctrl-C ends it
//! client ~50912 has a worker: process ~4711
//! client ~50912 says: hello
//! client ~50912 has gone
//! client ~50914 has a worker: process ~4712
//! client ~50914 says: hello
//! client ~50914 has gone
//! client ~50916 has a worker: process ~4713
//! client ~50916 says: hello
//! client ~50916 has gone
//! client ~50918 has a worker: process ~4711
//! client ~50918 says: hello
//! client ~50918 has gone
//! 4 clients were here
//! ```
//!
//! A client is `-- --client`: it sends what is typed, a line at a time. Open four.
//! The fourth is connected, and nobody speaks to it until a worker is free: that is
//! what a pool is. A worker has no keyboard, so it cannot ask an operator.

use std::cell::Cell;
use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use greenlet::executor::ProcessPoolExecutor;
use greenlet::net::{TcpListener, TcpStream};
use greenlet::{signal, spawn};

#[path = "support/server_and_client.rs"]
mod server_and_client;

const USAGE: &str = "usage: process_pool_server [--client] [ADDRESS]    (default 127.0.0.1:8848)";
const WORKERS: usize = 3;
const MOST_BYTES: usize = 1024;

/// What a worker does with a connection; it runs in another process.
fn communicate(mut stream: TcpStream) -> Result<(), String> {
    let port = stream
        .peer_addr()
        .map_err(|error| error.to_string())?
        .port();
    println!("client {port} has a worker: process {}", std::process::id());
    let served = answer_all(&mut stream, port);
    println!("client {port} has gone");
    served.map_err(|error| error.to_string())
}

fn answer_all(stream: &mut TcpStream, port: u16) -> io::Result<()> {
    let mut buffer = [0; MOST_BYTES];
    loop {
        // Work that takes its time, before the question and before the answer.
        greenlet::sleep(Duration::from_millis(300));
        let n = stream.read(&mut buffer)?;
        // Nothing more will come. Without this the loop would never end.
        if n == 0 {
            return Ok(());
        }
        println!(
            "client {port} says: {}",
            String::from_utf8_lossy(&buffer[..n]).trim_end()
        );
        greenlet::sleep(Duration::from_millis(500));
        stream.write_all(b"121212")?;
    }
}

fn serve(address: &str) -> io::Result<()> {
    println!("开启");
    let pool = ProcessPoolExecutor::with_workers(WORKERS).map_err(io::Error::other)?;
    let listener = TcpListener::bind(address)?;
    let signals = signal::Signals::new(&[signal::SIGINT, signal::SIGTERM])?;
    let address = listener.local_addr()?;
    println!("listening on {address}, for {WORKERS} clients at a time; Ctrl-C ends it");

    let clients = Rc::new(Cell::new(0));
    // One pool, made before the first connection: a pool for each bounds nothing.
    spawn({
        let clients = Rc::clone(&clients);
        move || {
            for stream in listener.incoming() {
                let stream = match stream {
                    Ok(stream) => stream,
                    Err(error) => {
                        eprintln!("accept: {error}");
                        greenlet::sleep(Duration::from_millis(100));
                        continue;
                    }
                };
                clients.set(clients.get() + 1);
                match pool.submit(communicate, stream) {
                    Ok(job) => job.add_done_callback(|job| match job.result() {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => eprintln!("a client: {error}"),
                        Err(error) => eprintln!("a worker: {error}"),
                    }),
                    Err(error) => eprintln!("no worker: {error}"),
                }
            }
        }
    });
    signals.wait()?;
    println!("{} clients were here", clients.get());
    Ok(())
}

/// Sends what is typed, a line at a time, and shows each answer.
fn talk(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = [0; MOST_BYTES];
    for line in io::stdin().lock().lines() {
        let line = line?;
        // Nothing cannot be sent: the other side would wait for ever.
        if line.is_empty() {
            continue;
        }
        stream.write_all(line.as_bytes())?;
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            println!("the server has gone");
            return Ok(());
        }
        println!("the server says: {}", String::from_utf8_lossy(&buffer[..n]));
    }
    Ok(())
}

fn main() -> ExitCode {
    server_and_client::run("process_pool_server", USAGE, serve, talk)
}
