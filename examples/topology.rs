//! N19: processes, in each of them threads, on each of them greenlets: one port, and
//! all processors.
//!
//! ```text
//! $ cargo run --release --features process --example topology
//! 2 processes x 2 threads x greenlets on 127.0.0.1:~41073
//! process ~4711, thread hub-0: ~125 connections
//! process ~4711, thread hub-1: ~125 connections
//! process ~4712, thread hub-0: ~125 connections
//! process ~4712, thread hub-1: ~125 connections
//! 500 connections at a time, each for 100 ms: ~0.2 s in all
//! stopped, 0 were cut off
//! ```
//!
//! Every thread listens by itself on the one port, and the kernel shares the
//! connections out. What waits costs a greenlet; what crashes costs a process; what
//! computes has a processor of its own.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use greenlet::net::TcpStream;
use greenlet::{joinall, server, sleep, spawn};

#[path = "support/mod.rs"]
mod support;

const USAGE: &str = "usage: topology [PROCESSES [THREADS]]    (1 to 64 each, default 2 and 2)";
const CONNECTIONS: usize = 500;
const PAUSE: Duration = Duration::from_millis(100);

/// Serves a connection, in a worker process: waits, and says where it was.
fn serve(mut stream: TcpStream, _from: SocketAddr) {
    sleep(PAUSE);
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let _ = write!(stream, "process {}, thread {name}", std::process::id());
}

fn ask(server: SocketAddr) -> io::Result<String> {
    let mut place = String::new();
    TcpStream::connect(server)?.read_to_string(&mut place)?;
    Ok(place)
}

fn run(processes: usize, threads: usize) -> io::Result<()> {
    support::raise_descriptor_limit();
    let server = server::workers(processes, threads)
        .backlog(CONNECTIONS as u32)
        .bind("127.0.0.1:0", serve)?;
    let address = server.local_addr();
    println!("{processes} processes x {threads} threads x greenlets on {address}");

    let start = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| spawn(move || ask(address)))
        .collect();
    let mut served = BTreeMap::new();
    for client in joinall(clients) {
        let place = client.map_err(|error| io::Error::other(error.to_string()))??;
        *served.entry(place).or_insert(0) += 1;
    }
    let elapsed = start.elapsed().as_secs_f64();
    for (place, connections) in served {
        println!("{place}: {connections} connections");
    }
    let pause = PAUSE.as_millis();
    println!("{CONNECTIONS} connections at a time, each for {pause} ms: {elapsed:.1} s in all");
    println!(
        "stopped, {} were cut off",
        server.stop(Duration::from_secs(1))
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [help] = arguments.as_slice() {
        if help == "--help" || help == "-h" {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
    }
    let number = |at: usize| match arguments.get(at) {
        None => Some(2),
        Some(text) => text.parse().ok().filter(|n| (1..=64).contains(n)),
    };
    let (Some(processes), Some(threads), true) = (number(0), number(1), arguments.len() <= 2)
    else {
        eprintln!(
            "topology: two numbers are expected, not {:?}\n{USAGE}",
            arguments.join(" ")
        );
        return ExitCode::from(2);
    };
    match run(processes, threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("topology: {error}");
            ExitCode::FAILURE
        }
    }
}
