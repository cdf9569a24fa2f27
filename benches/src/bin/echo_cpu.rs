//! How much processor time an echo server needs for one request of 64 bytes.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin echo_cpu [REQUESTS [ROUNDS]]
//! ```
//!
//! Four servers of one thread each: a bare epoll loop without tasks (the limit),
//! greenlets, greenlets with std's sockets after `patch_all`, and tokio's
//! current-thread runtime; and one that has a thread for each connection. Each serves the same
//! load, at 64 and at 1,000 connections: every connection sends a request, and
//! the next one when the answer has come. The load is a process of its own, a
//! bare epoll loop, on another processor than the server. What is counted is
//! the clock of the server's process, in which nobody else does anything, read when the
//! load has warmed up and again when its last answer has come. Each server has a process
//! of its own, for what is patched stays so. They take turns, so that what the machine
//! does meanwhile meets them all.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Command, ExitCode};

use greenlet_benches::epoll::Epoll;
use greenlet_benches::load::{self, Load, SERVER_CPU};
use greenlet_benches::proc::{self, CpuClock};
use greenlet_benches::stats::median;

/// What a server reads at once, at most.
const BUFFER: usize = 4096;

type Server = fn(TcpListener);

const EPOLL: usize = 0;
const GREENLET: usize = 1;
const PATCHED: usize = 2;
const THREADS: usize = 4;

/// The first argument of the process that serves; then come which server it is, and the
/// numbers of connections and requests.
const MARK: &str = "--serve";

const SERVERS: [(&str, Server); 5] = [
    ("epoll loop", epoll_server),
    ("greenlet", greenlet_server),
    ("patched std", patched_server),
    ("tokio", tokio_server),
    ("threads", thread_server),
];

fn main() -> ExitCode {
    proc::raise_descriptor_limit();
    if load::is_this() {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mark, which, connections, requests] = arguments.as_slice() {
        if mark == MARK {
            let number = |text: &str| text.parse().expect("a number");
            let server = SERVERS[number(which) as usize].1;
            let needed = measure(server, number(connections) as usize, number(requests));
            println!("{needed}");
            return ExitCode::SUCCESS;
        }
    }
    let number = |at: usize, default: u64| {
        let given = arguments.get(at).map(|argument| argument.parse());
        given.unwrap_or(Ok(default))
    };
    let (Ok(requests), Ok(rounds)) = (number(0, 200_000), number(1, 9)) else {
        eprintln!("usage: echo_cpu [REQUESTS [ROUNDS]]");
        return ExitCode::FAILURE;
    };
    for connections in [64, 1000] {
        compare(connections, requests, rounds.max(1));
    }
    ExitCode::SUCCESS
}

/// Lets the servers take turns and prints what each needed.
fn compare(connections: usize, requests: u64, rounds: u64) {
    println!("{connections} connections, {rounds} rounds of {requests} requests:");
    let mut needed = [const { Vec::new() }; SERVERS.len()];
    for round in 0..rounds as usize {
        for turn in 0..SERVERS.len() {
            // Nobody is always the first.
            let which = (round + turn) % SERVERS.len();
            needed[which].push(measured_apart(which, connections, requests));
        }
    }
    // Each round has its own ratio: the machine's mood is in both numbers.
    let ratio = |which: usize, beside: usize| {
        let pairs = needed[which].iter().zip(&needed[beside]);
        median(
            &pairs
                .map(|(this, other)| this / other)
                .collect::<Vec<f64>>(),
        )
    };
    for (which, (name, _)) in SERVERS.iter().enumerate() {
        println!(
            "  {name:<12} {:>6.0} ns a request, {:.3} of the epoll loop's",
            median(&needed[which]),
            ratio(which, EPOLL)
        );
    }
    println!(
        "  patched std needs {:.3} of greenlet's, and {:.3} of the threads'",
        ratio(PATCHED, GREENLET),
        ratio(PATCHED, THREADS)
    );
}

/// As `measure`, in a process of its own.
fn measured_apart(which: usize, connections: usize, requests: u64) -> f64 {
    let output = Command::new("/proc/self/exe")
        .args([MARK, &which.to_string()])
        .args([connections.to_string(), requests.to_string()])
        .output()
        .expect("cannot start the server");
    let said = String::from_utf8_lossy(&output.stdout);
    let needed = said.trim().parse();
    needed.unwrap_or_else(|_| panic!("{}: {output:?}", SERVERS[which].0))
}

/// Nanoseconds of the server's time for one request.
fn measure(server: Server, connections: usize, requests: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("no port");
    let address = listener.local_addr().expect("it is bound").to_string();
    // It serves until the process ends: what serves no one costs nothing.
    std::thread::spawn(move || {
        proc::pin_to(SERVER_CPU);
        server(listener);
    });
    let clock = CpuClock::of_process();
    let mut load = Load::start(&address, connections, requests);
    let before = clock.now();
    load.go();
    let after = clock.now();
    (after - before).as_nanos() as f64 / requests as f64
}

/// Without tasks: whoever can be read is read and answered. No server of this
/// kind that makes one call for each read and write can need less.
fn epoll_server(listener: TcpListener) {
    const LISTENER: u64 = u64::MAX;
    let mut epoll = Epoll::new().expect("no epoll");
    epoll.add(listener.as_raw_fd(), LISTENER).expect("epoll");
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut new = Vec::new();
    let mut buffer = [0; BUFFER];
    loop {
        epoll
            .wait(|token| {
                if token == LISTENER {
                    new.push(listener.accept().expect("cannot accept").0);
                    return;
                }
                let slot = &mut streams[token as usize];
                if let Some(stream) = slot {
                    match stream.read(&mut buffer) {
                        Ok(count @ 1..) => {
                            // 64 bytes always fit: nobody sends more before
                            // the answer.
                            let sent = stream.write(&buffer[..count]).expect("cannot send");
                            assert_eq!(sent, count);
                        }
                        _ => *slot = None,
                    }
                }
            })
            .expect("epoll");
        for stream in new.drain(..) {
            stream.set_nodelay(true).expect("cannot set an option");
            stream.set_nonblocking(true).expect("cannot set an option");
            epoll
                .add(stream.as_raw_fd(), streams.len() as u64)
                .expect("epoll");
            streams.push(Some(stream));
        }
    }
}

fn greenlet_server(listener: TcpListener) {
    let listener = greenlet::net::TcpListener::from(listener);
    for stream in listener.incoming() {
        let mut stream = stream.expect("cannot accept");
        stream.set_nodelay(true).expect("cannot set an option");
        greenlet::spawn(move || {
            let mut buffer = [0; BUFFER];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..count]).expect("cannot send");
            }
        });
    }
}

/// The program that never heard of greenlets, but for its first line and its `spawn`.
fn patched_server(listener: TcpListener) {
    greenlet::monkey::patch_all().expect("cannot patch");
    serve_each(listener, |serve| drop(greenlet::spawn(serve)));
}

fn thread_server(listener: TcpListener) {
    serve_each(listener, |serve| drop(std::thread::spawn(serve)));
}

fn serve_each(listener: TcpListener, spawn: impl Fn(Box<dyn FnOnce() + Send>)) {
    for stream in listener.incoming() {
        let mut stream = stream.expect("cannot accept");
        stream.set_nodelay(true).expect("cannot set an option");
        spawn(Box::new(move || {
            let mut buffer = [0; BUFFER];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                stream.write_all(&buffer[..count]).expect("cannot send");
            }
        }));
    }
}

fn tokio_server(listener: TcpListener) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    listener
        .set_nonblocking(true)
        .expect("cannot set an option");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("no tokio");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).expect("no reactor");
        loop {
            let (mut stream, _) = listener.accept().await.expect("cannot accept");
            stream.set_nodelay(true).expect("cannot set an option");
            tokio::spawn(async move {
                let mut buffer = [0; BUFFER];
                while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                    stream
                        .write_all(&buffer[..count])
                        .await
                        .expect("cannot send");
                }
            });
        }
    });
}
