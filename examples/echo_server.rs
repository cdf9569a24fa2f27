//! An echo server: one greenlet per connection, all on one OS thread.
//!
//! ```text
//! $ cargo run --release --example echo_server -- 127.0.0.1:7777
//! listening on 127.0.0.1:7777 (up to 20000 descriptors); Ctrl-C ends it
//! ^Csignal 2: no new connections; 2 are open and have 5 s to finish
//! 1002 connections, 1002 finished, 0 cut off, 0 failed, 10889 KiB echoed
//! ```
//!
//! That was 5 s of `echo_load 127.0.0.1:7777 --connections 1000`, and two idle
//! clients, which got what they had sent and then the end of the stream.
//! Talk to it with `nc 127.0.0.1 7777`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use greenlet::net::{Shutdown, TcpListener, TcpStream};
use greenlet::{JoinHandle, joinall_timeout, signal, spawn};

mod support;

const USAGE: &str = "usage: echo_server [ADDRESS]    (default 127.0.0.1:7777)";
/// How long open connections may go on after Ctrl-C.
const GRACE: Duration = Duration::from_secs(5);

/// What all greenlets share; they are on one thread, so it needs no lock.
#[derive(Default)]
struct Server {
    open: RefCell<HashMap<u64, Connection>>,
    accepted: Cell<u64>,
    finished: Cell<u64>,
    failed: Cell<u64>,
    echoed: Cell<u64>,
    stopping: Cell<bool>,
}

struct Connection {
    stream: Rc<TcpStream>,
    handle: JoinHandle<()>,
}

impl Server {
    /// Takes connections until the listener is closed.
    fn accept_all(self: Rc<Self>, listener: &TcpListener) {
        while !self.stopping.get() {
            match listener.accept() {
                Ok((stream, _)) => self.start(stream),
                Err(_) if self.stopping.get() => {}
                Err(error) => {
                    // Most often no descriptor is left. The connection stays in
                    // the queue, so wait for one of the others to end.
                    eprintln!("accept: {error}");
                    greenlet::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn start(self: &Rc<Self>, stream: TcpStream) {
        let number = self.accepted.get();
        self.accepted.set(number + 1);
        let stream = Rc::new(stream);
        let handle = spawn({
            let (server, stream) = (Rc::clone(self), Rc::clone(&stream));
            move || {
                let counter = match server.echo(&stream) {
                    Ok(()) => &server.finished,
                    Err(_) => &server.failed,
                };
                counter.set(counter.get() + 1);
                server.open.borrow_mut().remove(&number);
            }
        });
        // It has not run yet: a spawned greenlet waits until this one blocks.
        let connection = Connection { stream, handle };
        self.open.borrow_mut().insert(number, connection);
    }

    /// Sends back what comes in, until the peer has no more to say.
    fn echo(&self, mut stream: &TcpStream) -> io::Result<()> {
        // It lies on the greenlet's stack, where every page counts once per
        // connection.
        let mut buffer = [0; 4 * 1024];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => {
                    stream.write_all(&buffer[..n])?;
                    self.echoed.set(self.echoed.get() + n as u64);
                }
            }
        }
    }

    /// Lets the open connections finish; returns how many had to be cut off.
    fn finish(&self) -> usize {
        let open = self.open.take();
        for connection in open.values() {
            // What has arrived is still echoed; then the reader sees the end.
            // An error means that the connection is over anyway.
            let _ = connection.stream.shutdown(Shutdown::Read);
        }
        let handles: Vec<_> = open.into_values().map(|c| c.handle).collect();
        joinall_timeout(&handles, GRACE);
        let slow: Vec<_> = handles.iter().filter(|h| !h.is_finished()).collect();
        for handle in &slow {
            handle.kill_wait();
        }
        slow.len()
    }
}

fn run(address: &str) -> io::Result<()> {
    let limit = support::raise_descriptor_limit();
    let listener = Rc::new(TcpListener::bind(address)?);
    let address = listener.local_addr()?;
    let signals = signal::Signals::new(&[signal::SIGINT, signal::SIGTERM])?;
    println!("listening on {address} (up to {limit} descriptors); Ctrl-C ends it");

    let server = Rc::new(Server::default());
    let acceptor = spawn({
        let (server, listener) = (Rc::clone(&server), Rc::clone(&listener));
        move || server.accept_all(&listener)
    });

    let signal = signals.wait()?;
    server.stopping.set(true);
    // Wakes the acceptor, whose `accept` fails.
    listener.close()?;
    acceptor.wait();
    let (open, grace) = (server.open.borrow().len(), GRACE.as_secs());
    println!("signal {signal}: no new connections; {open} are open and have {grace} s to finish");
    let cut_off = server.finish();
    println!(
        "{} connections, {} finished, {cut_off} cut off, {} failed, {} KiB echoed",
        server.accepted.get(),
        server.finished.get(),
        server.failed.get(),
        server.echoed.get() / 1024,
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match arguments.as_slice() {
        [] => "127.0.0.1:7777",
        [help] if help == "--help" || help == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [address] if !address.starts_with('-') => address,
        [argument, ..] => {
            eprintln!("echo_server: one address is expected, not {argument:?}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("echo_server: {address:?}: {error}\n{USAGE}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("echo_server: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}
