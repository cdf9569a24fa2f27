//! Load for an echo server: many connections on one OS thread, every byte that
//! comes back is checked.
//!
//! ```text
//! $ cargo run --release --example echo_load -- --connections 1000 --seconds 3
//! 1000 connections to 127.0.0.1:41073 in 136ms; requests of 64 bytes for 3 s
//!    1 s:    48764 requests/s, 0 errors
//! ...
//! requests    183597 in 3.01 s, every byte checked
//! rate        60965 requests/s
//! latency     p50 17.3ms, p99 35.7ms, p99.9 49.3ms, max 50.4ms
//! errors      0
//! ```
//!
//! (On two cores that had other work to do besides.) Without an address it
//! starts a server of its own, on another thread.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use greenlet::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use greenlet::{joinall, sleep, spawn};

mod support;

const USAGE: &str = "\
usage: echo_load [ADDRESS] [--connections N] [--seconds S] [--size BYTES]
  ADDRESS          of the server; without one, it starts its own
  --connections N  open at the same time, 1 to 1000000 (default 64)
  --seconds S      how long to send, 1 to 86400 (default 5)
  --size BYTES     of a request, 1 to 67108864 (default 64)";

/// A request is sent and read back in pieces of so many bytes: more than the
/// sockets' buffers hold would have both sides wait for the other to read.
const PIECE: usize = 16 * 1024;
/// An answer that takes longer is an error.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many connections are begun at once, a queue that any server has.
const BATCH: usize = 100;

#[derive(Debug, PartialEq)]
struct Options {
    address: Option<String>,
    connections: usize,
    seconds: u64,
    size: usize,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            address: None,
            connections: 64,
            seconds: 5,
            size: 64,
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut number = |least: u64, most: u64| {
                let text = arguments
                    .next()
                    .ok_or(format!("{argument} needs a value"))?;
                match text.parse() {
                    Ok(number) if (least..=most).contains(&number) => Ok(number),
                    _ => Err(format!(
                        "{argument} {text}: not a number of {least} to {most}"
                    )),
                }
            };
            match argument.as_str() {
                "--connections" => options.connections = number(1, 1_000_000)? as usize,
                "--seconds" => options.seconds = number(1, 86_400)?,
                "--size" => options.size = number(1, 64 << 20)? as usize,
                _ if argument.starts_with('-') => {
                    return Err(format!("{argument}: no such option"));
                }
                _ if options.address.is_some() => {
                    return Err(format!("{argument}: a second address"));
                }
                _ => options.address = Some(argument),
            }
        }
        Ok(options)
    }
}

/// Counts latencies in buckets that are 3 % wide.
struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    most: u64,
}

impl Histogram {
    /// 32 buckets for each power of two.
    const SHIFT: u32 = 5;

    fn new() -> Histogram {
        Histogram {
            buckets: vec![0; 64 << Histogram::SHIFT],
            count: 0,
            most: 0,
        }
    }

    fn add(&mut self, latency: Duration) {
        let nanoseconds = latency.as_nanos() as u64;
        let exponent = (nanoseconds | 1).ilog2().saturating_sub(Histogram::SHIFT);
        let bucket = (exponent << Histogram::SHIFT) as usize + (nanoseconds >> exponent) as usize;
        self.buckets[bucket] += 1;
        self.count += 1;
        self.most = self.most.max(nanoseconds);
    }

    /// The latency that so many of a thousand requests did not exceed.
    fn per_mille(&self, part: u64) -> Duration {
        let wanted = (self.count * part).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                let exponent = (bucket >> Histogram::SHIFT).saturating_sub(1) as u32;
                let mantissa = bucket as u64 - (u64::from(exponent) << Histogram::SHIFT);
                let upper = ((mantissa + 1) << exponent) - 1;
                return Duration::from_nanos(upper.min(self.most));
            }
        }
        Duration::ZERO
    }
}

/// What all connections share; they are on one thread, so it needs no lock.
struct Load {
    size: usize,
    until: Instant,
    requests: Cell<u64>,
    errors: Cell<u64>,
    latencies: RefCell<Histogram>,
}

impl Load {
    /// Sends requests until the time is over.
    fn send_all(&self, connection: usize, mut stream: TcpStream) {
        let mut sent = vec![0; self.size.min(PIECE)];
        let mut back = vec![0; self.size.min(PIECE)];
        let mut request = 0;
        let mut start = Instant::now();
        while start < self.until {
            if let Err(error) =
                self.send_one(&mut stream, connection, request, &mut sent, &mut back)
            {
                self.errors.set(self.errors.get() + 1);
                eprintln!("connection {connection}, request {request}: {error}");
                return;
            }
            let end = Instant::now();
            self.latencies.borrow_mut().add(end - start);
            self.requests.set(self.requests.get() + 1);
            request += 1;
            start = end;
        }
    }

    fn send_one(
        &self,
        stream: &mut TcpStream,
        connection: usize,
        request: u64,
        sent: &mut [u8],
        back: &mut [u8],
    ) -> Result<(), String> {
        let mut done = 0;
        while done < self.size {
            let len = PIECE.min(self.size - done);
            // No two connections, requests or places look alike for long, so
            // an answer to somebody else is noticed.
            let first = connection as u64 * 0x9e37_79b9 + request * 0x85eb_ca6b + done as u64;
            for (place, byte) in sent[..len].iter_mut().enumerate() {
                *byte = (first.wrapping_add(place as u64 * 131) >> (place % 4 * 8)) as u8;
            }
            let lost = |error: io::Error| match error.kind() {
                io::ErrorKind::WouldBlock => format!("no answer within {} s", PATIENCE.as_secs()),
                _ => error.to_string(),
            };
            stream.write_all(&sent[..len]).map_err(lost)?;
            stream.read_exact(&mut back[..len]).map_err(lost)?;
            if let Some(place) = (0..len).find(|&place| sent[place] != back[place]) {
                let (sent, back) = (sent[place], back[place]);
                let place = done + place;
                return Err(format!(
                    "byte {place} was {sent:#04x} and came back as {back:#04x}"
                ));
            }
            done += len;
        }
        Ok(())
    }

    /// Says once a second how far it has come.
    fn report(&self) {
        let mut before = 0;
        for second in 1.. {
            sleep(Duration::from_secs(1));
            // The last second is in the sum, which follows at once.
            if Instant::now() >= self.until {
                return;
            }
            let requests = self.requests.get();
            let errors = self.errors.get();
            println!(
                "{second:4} s: {:8} requests/s, {errors} errors",
                requests - before
            );
            before = requests;
        }
    }
}

/// Opens the connections, in batches.
fn connect_all(address: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    while streams.len() < count {
        let batch = BATCH.min(count - streams.len());
        let connecting: Vec<_> = (0..batch)
            .map(|_| {
                spawn(move || {
                    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    // The kernel connects before the server accepts, and drops
                    // what its queue has no room for. So wait for an answer.
                    stream.write_all(b"?")?;
                    stream.read_exact(&mut [0])?;
                    Ok::<_, io::Error>(stream)
                })
            })
            .collect();
        for result in joinall(connecting) {
            streams.push(result.map_err(|ended| io::Error::other(ended.to_string()))??);
        }
    }
    Ok(streams)
}

/// A server on a thread, and so on a hub, of its own.
fn start_server() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            spawn(move || {
                let mut buffer = [0; PIECE];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(address)
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let first = address.to_socket_addrs()?.next();
    first.ok_or_else(|| io::Error::other("no address of that name"))
}

fn run(options: &Options, address: SocketAddr) -> Result<bool, String> {
    let limit = support::raise_descriptor_limit();
    let own = if options.address.is_none() { 2 } else { 1 };
    let needed = options.connections as u64 * own + 20;
    if needed > limit {
        return Err(format!(
            "{} connections need {needed} descriptors; the hard limit is {limit} (see `ulimit -Hn`)",
            options.connections
        ));
    }
    let began = Instant::now();
    let streams = connect_all(address, options.connections)
        .map_err(|error| format!("connecting to {address}: {error}"))?;
    println!(
        "{} connections to {address} in {:.0?}; requests of {} bytes for {} s",
        streams.len(),
        began.elapsed(),
        options.size,
        options.seconds,
    );

    let start = Instant::now();
    let load = Rc::new(Load {
        size: options.size,
        until: start + Duration::from_secs(options.seconds),
        requests: Cell::new(0),
        errors: Cell::new(0),
        latencies: RefCell::new(Histogram::new()),
    });
    let progress = spawn({
        let load = Rc::clone(&load);
        move || load.report()
    });
    let connections = streams.into_iter().enumerate().map(|(number, stream)| {
        let load = Rc::clone(&load);
        spawn(move || load.send_all(number, stream))
    });
    let panicked = joinall(connections)
        .into_iter()
        .filter(Result::is_err)
        .count();
    let elapsed = start.elapsed();
    progress.kill_wait();

    let (requests, errors) = (load.requests.get(), load.errors.get() + panicked as u64);
    let latencies = load.latencies.borrow();
    let row = |name: &str, value: &dyn Display| println!("{name:<12}{value}");
    row(
        "requests",
        &format!(
            "{requests} in {:.2} s, every byte checked",
            elapsed.as_secs_f64()
        ),
    );
    row(
        "rate",
        &format!("{:.0} requests/s", requests as f64 / elapsed.as_secs_f64()),
    );
    row(
        "latency",
        &format!(
            "p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?}, max {:.1?}",
            latencies.per_mille(500),
            latencies.per_mille(990),
            latencies.per_mille(999),
            Duration::from_nanos(latencies.most),
        ),
    );
    row("errors", &errors);
    Ok(errors == 0)
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("echo_load: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let address = match &options.address {
        Some(address) => resolve(address),
        None => start_server(),
    };
    let address = match address {
        Ok(address) => address,
        Err(error) => {
            let given = options.address.as_deref().unwrap_or("own server");
            eprintln!("echo_load: {given}: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&options, address) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("echo_load: {message}");
            ExitCode::FAILURE
        }
    }
}
