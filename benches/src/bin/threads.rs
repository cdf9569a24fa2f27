//! Threads that are greenlets, beside threads of the OS, in a program that only calls
//! `std::thread` and `std::net`.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin threads            # all of it
//! cargo run --release -p greenlet-benches --bin threads switch     # one of
//! cargo run --release -p greenlet-benches --bin threads spawn      #
//! cargo run --release -p greenlet-benches --bin threads echo       #   these
//! cargo run --release -p greenlet-benches --bin threads park [GREENLETS]
//! cargo run --release -p greenlet-benches --bin threads hold [CONNECTIONS]
//! cargo run --release -p greenlet-benches --bin threads hubs [MICROSECONDS]
//! ```
//!
//! | | what |
//! |---|---|
//! | `switch` | a yield of 2, 10 and 1,000 isolated greenlets, beside that of light ones |
//! | `spawn` | one thread spawned and joined after the other, and 1,000 at a time |
//! | `echo` | processor time for a request of 64 bytes, at 64 and 1,000 connections, with a thread for each |
//! | `park` | what 100,000 of them cost in memory, as `std::thread::spawn` makes them and as `spawn_isolated` does |
//! | `hold` | 10,000 connections, and one OS thread |
//! | `hubs` | requests a second that need 100 µs of computing, by one and by two further hubs |
//!
//! A server is a process of its own: this program again, patched or not. The load is a
//! process too, one epoll loop on the second processor.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use greenlet::monkey::{Patch, os_thread};
use greenlet_benches::load::{self, Load, SERVER_CPU, SIZE};
use greenlet_benches::proc::{self, CpuClock};
use greenlet_benches::stats::median;

const ROUNDS: usize = 9;

fn main() -> ExitCode {
    proc::raise_descriptor_limit();
    if load::is_this() {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        [] => {
            switch();
            spawn();
            echo();
            park(100_000);
            hold(10_000);
            hubs(100);
        }
        ["switch"] => switch(),
        ["spawn"] => spawn(),
        ["echo"] => echo(),
        ["park"] => park(100_000),
        ["park", count] => park(count.parse().expect("a number")),
        ["--park", how, count] => park_as(how, count.parse().expect("a number")),
        ["hold"] => hold(10_000),
        ["hold", connections] => hold(connections.parse().expect("a number")),
        ["hubs"] => hubs(100),
        ["hubs", micros] => hubs(micros.parse().expect("a number")),
        ["--serve", how, work] => serve(how, work.parse().expect("a number")),
        _ => {
            eprintln!(
                "usage: threads [switch | spawn | echo | park [GREENLETS] | hold [CONNECTIONS] | hubs [MICROSECONDS]]"
            );
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// One turn.
fn switch() {
    greenlet::diagnostics::watchdog(None);
    for count in [2, 10, 1000] {
        let turns = 2_000_000 / count;
        let take_turns = move || {
            for _ in 0..turns {
                greenlet::yield_now();
            }
        };
        // Processor time of one turn, in nanoseconds.
        let clock = CpuClock::of_process();
        let each = |run: &dyn Fn()| {
            let before = clock.now();
            run();
            (clock.now() - before).as_nanos() as f64 / (turns * count) as f64
        };
        let (mut light, mut isolated) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            light.push(each(&|| {
                let all: Vec<_> = (0..count).map(|_| greenlet::spawn(take_turns)).collect();
                for ended in greenlet::joinall(all) {
                    ended.expect("it only yields");
                }
            }));
            isolated.push(each(&|| {
                let all = (0..count).map(|_| greenlet::spawn_isolated(take_turns));
                for one in all.collect::<Vec<_>>() {
                    one.join().expect("it only yields");
                }
            }));
        }
        let more: Vec<f64> = isolated.iter().zip(&light).map(|(i, l)| i - l).collect();
        println!(
            "a yield of {count}: light {:.1} ns, isolated {:.1} ns: {:.1} more",
            median(&light),
            median(&isolated),
            median(&more)
        );
    }
}

/// Spawned and joined.
fn spawn() {
    const COUNT: usize = 2000;
    greenlet::diagnostics::watchdog(None);
    Patch::new().apply().expect("cannot patch");
    let each = |at_once: usize| {
        let start = Instant::now();
        for _ in 0..COUNT / at_once {
            let threads: Vec<_> = (0..at_once).map(|n| thread::spawn(move || n)).collect();
            for thread in threads {
                black_box(thread.join().expect("it does not panic"));
            }
        }
        start.elapsed().as_secs_f64() * 1e6 / COUNT as f64
    };
    for at_once in [1, 1000] {
        let (mut greenlets, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            greenlets.push(each(at_once));
            threads.push(os_thread::within(|| each(at_once)));
        }
        let ratios: Vec<f64> = threads.iter().zip(&greenlets).map(|(t, g)| t / g).collect();
        println!(
            "std::thread::spawn and join, {at_once} at a time: {:.2} us as a greenlet, {:.2} us as \
             an OS thread: {:.1} times as fast",
            median(&greenlets),
            median(&threads),
            median(&ratios)
        );
    }
}

/// Memory, each way in a process of its own.
fn park(count: usize) {
    for how in ["thread", "isolated"] {
        let child = Command::new("/proc/self/exe")
            .args(["--park", how, &count.to_string()])
            .env("GREENLET_WATCHDOG", "off")
            .status();
        assert!(child.expect("cannot start").success());
    }
}

fn park_as(how: &str, count: usize) {
    Patch::new().apply().expect("cannot patch");
    thread::spawn(|| ()).join().expect("it does not panic");
    let memory = || ["VmRSS", "VmPTE"].map(proc::status_kib);
    let begun = Arc::new(AtomicUsize::new(0));
    let begin = {
        let begun = Arc::clone(&begun);
        move || {
            begun.fetch_add(1, Ordering::Relaxed);
            loop {
                thread::park();
            }
        }
    };
    let before = memory();
    for at in 0..count {
        let begin = begin.clone();
        match how {
            "thread" => drop(thread::spawn(begin)),
            _ => drop(greenlet::spawn_isolated(begin)),
        }
        // So that they start one after the other, as connections would come.
        if at % 1000 == 999 {
            greenlet::yield_now();
        }
    }
    while begun.load(Ordering::Relaxed) < count {
        greenlet::yield_now();
    }
    let after = memory();
    let [resident, tables] =
        [0, 1].map(|at| (after[at] - before[at]) as f64 * 1024.0 / count as f64);
    println!(
        "{count} parked, {how}: {resident:.0} bytes resident each, {tables:.0} of page tables"
    );
    std::process::exit(0);
}

/// A server's process.
struct Server {
    child: Child,
    address: SocketAddr,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    stdin: ChildStdin,
}

impl Server {
    /// `how` is `os`, `greenlets`, or a number of further hubs.
    fn start(how: &str, work: u64) -> Server {
        let mut child = Command::new("/proc/self/exe")
            .args(["--serve", how, &work.to_string()])
            .env("GREENLET_WATCHDOG", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cannot start the server");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let stdin = child.stdin.take().expect("it is piped");
        let address = lines.next().expect("it ended").expect("cannot read");
        Server {
            child,
            address: address.parse().expect("an address"),
            lines,
            stdin,
        }
    }

    /// Nanoseconds of processor time so far, resident KiB, and OS threads.
    fn state(&mut self) -> [u64; 3] {
        self.stdin.write_all(b"?\n").expect("cannot write");
        let line = self.lines.next().expect("it ended").expect("cannot read");
        let mut numbers = line.split(' ').map(|n| n.parse().expect("a number"));
        std::array::from_fn(|_| numbers.next().expect("three of them"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Warms the server up, and returns what it needed then: processor time for each request
/// (nanoseconds), and requests a second.
fn put_under_load(server: &mut Server, connections: usize, requests: u64) -> (f64, f64) {
    let mut load = Load::start(&server.address.to_string(), connections, requests);
    let [before, ..] = server.state();
    let start = Instant::now();
    load.go();
    let took = start.elapsed();
    let [after, ..] = server.state();
    let needed = (after - before) as f64 / requests as f64;
    (needed, requests as f64 / took.as_secs_f64())
}

/// A thread for each connection: processor time for a request.
fn echo() {
    for connections in [64, 1000] {
        let needed = ["os", "greenlets"].map(|how| (how, Vec::new()));
        let mut needed = needed;
        for round in 0..ROUNDS {
            for turn in 0..needed.len() {
                let at = (round + turn) % needed.len();
                let (how, needed) = &mut needed[at];
                let mut server = Server::start(how, 0);
                needed.push(put_under_load(&mut server, connections, 200_000).0);
            }
        }
        let [(_, threads), (_, greenlets)] = &needed;
        let ratios: Vec<f64> = greenlets.iter().zip(threads).map(|(g, t)| g / t).collect();
        println!(
            "echo with a thread for each of {connections} connections: {:.0} ns a request as \
             greenlets, {:.0} ns as OS threads: {:.2} of it",
            median(greenlets),
            median(threads),
            median(&ratios)
        );
    }
}

/// Many connections at once.
fn hold(connections: usize) {
    for how in ["greenlets", "os"] {
        let mut server = Server::start(how, 0);
        let [_, empty, _] = server.state();
        let mut streams: Vec<TcpStream> = (0..connections)
            .map(|_| TcpStream::connect(server.address).expect("cannot connect"))
            .collect();
        let mut answer = [0; SIZE];
        for stream in &mut streams {
            stream.write_all(&[7; SIZE]).expect("cannot send");
        }
        for stream in &mut streams {
            stream.read_exact(&mut answer).expect("cannot receive");
        }
        let [_, full, threads] = server.state();
        println!(
            "{connections} connections held, each served once, as {how}: {threads} OS threads, \
             {:.1} KiB resident each",
            (full - empty) as f64 / connections as f64
        );
    }
}

/// Computing that several processors can share. The load has its share of them, too: the
/// more there is to be computed, the less that is.
fn hubs(micros: u64) {
    let rounds = rounds_in(micros);
    let mut rates = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (count, rates) in ["1", "2"].iter().zip(&mut rates) {
            let mut server = Server::start(count, rounds);
            rates.push(put_under_load(&mut server, 64, 2_000_000 / micros).1);
        }
    }
    let ratios: Vec<f64> = rates[1].iter().zip(&rates[0]).map(|(b, a)| b / a).collect();
    println!(
        "requests that need {micros} us: {:.0} a second on one hub, {:.0} on two: {:.2} times as many",
        median(&rates[0]),
        median(&rates[1]),
        median(&ratios)
    );
}

/// The server: but for the first lines it never heard of greenlets.
fn serve(how: &str, work: u64) {
    let patch = Patch::new();
    match how {
        "os" => proc::pin_to(SERVER_CPU),
        "greenlets" => {
            proc::pin_to(SERVER_CPU);
            patch.apply().expect("cannot patch");
        }
        hubs => {
            let hubs = hubs.parse().expect("a number");
            patch.hubs(hubs).apply().expect("cannot patch");
        }
    }
    let clock = CpuClock::of_process();
    let listener = TcpListener::bind("127.0.0.1:0").expect("no port");
    println!("{}", listener.local_addr().expect("it is bound"));
    // Outside of what is measured, but for its few answers.
    os_thread::spawn(move || {
        for _ in std::io::stdin().lines() {
            let threads = proc::status("Threads") - 1;
            let resident = proc::status_kib("VmRSS");
            println!("{} {resident} {threads}", clock.now().as_nanos());
        }
    });
    for stream in listener.incoming() {
        let mut stream = stream.expect("cannot accept");
        stream.set_nodelay(true).expect("cannot set an option");
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                compute(work);
                stream.write_all(&buffer[..count]).expect("cannot send");
            }
        });
    }
}

/// Something to do.
fn compute(rounds: u64) {
    black_box((0..rounds).fold(0, |sum, n| black_box(sum ^ n)));
}

/// How many rounds of `compute` take so many microseconds.
fn rounds_in(micros: u64) -> u64 {
    const MANY: u64 = 10_000_000;
    let start = Instant::now();
    compute(MANY);
    MANY * micros * 1000 / start.elapsed().as_nanos() as u64
}
