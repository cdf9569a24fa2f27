//! The server of the example `greenlet_server` on OS threads: each connection
//! has one of a pool's threads while it lasts, and what blocks there blocks
//! nobody else.
//!
//! ```text
//! $ cargo run --release --example thread_pool_server
//! listening on 127.0.0.1:8848, for 5 clients at a time; Ctrl-C ends it
//! client 50912 says: is anybody there?
//! to 50912 >>>
//! client 50914 says: me too
//! to 50912 >>> I am
//! to 50914 >>> so you are
//! client 50912 has gone
//! client 50914 has gone
//! ^C2 clients were here
//! ```
//!
//! The clients are as in `greenlet_server`: `-- --client`. A sixth is accepted
//! and waits until a thread is free.

use std::cell::Cell;
use std::io::{self, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use std::time::Duration;

use greenlet::executor::ThreadPoolExecutor;
use greenlet::{net::TcpListener, signal, spawn};

#[path = "support/server_and_client.rs"]
mod server_and_client;

const USAGE: &str = "usage: thread_pool_server [--client] [ADDRESS]    (default 127.0.0.1:8848)";
/// As many threads, and so many clients at a time.
const CLIENTS: usize = 5;
/// As much of what a client says is read at once.
const MOST_BYTES: usize = 1024;

/// The one terminal, which all connections share. Threads need locks for it.
#[derive(Default)]
struct Operator {
    /// Held by the one whose answer is being typed.
    keyboard: Mutex<()>,
    /// Held for printing; whose answer is being typed.
    asked_by: Mutex<Option<u16>>,
}

impl Operator {
    /// Prints a line, and the prompt again if it has cut in on one.
    fn tell(&self, line: &str) {
        let asked_by = self.asked_by.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked_by {
            Some(port) => {
                println!("\n{line}");
                prompt(&format!("to {port} >>> "));
            }
            None => println!("{line}"),
        }
    }

    fn set_asked_by(&self, port: Option<u16>, then: impl FnOnce()) {
        let mut asked_by = self.asked_by.lock().unwrap_or_else(PoisonError::into_inner);
        *asked_by = port;
        then();
    }

    /// Has the answer to a client typed; none when the keyboard is at its end.
    fn ask(&self, port: u16) -> io::Result<Option<String>> {
        let _mine = self.keyboard.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("to {port} >>> ");
        loop {
            self.set_asked_by(Some(port), || prompt(&text));
            let line = read_line();
            self.set_asked_by(None, || echo(&line));
            match line? {
                Some(line) if line.is_empty() => {}
                answer => return Ok(answer),
            }
        }
    }

    /// One connection, until the client has no more to say.
    fn communicate(&self, mut stream: TcpStream, port: u16) -> io::Result<()> {
        let mut buffer = [0; MOST_BYTES];
        loop {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&buffer[..n]);
            self.tell(&format!("client {port} says: {said}"));
            match self.ask(port)? {
                Some(answer) => stream.write_all(answer.as_bytes())?,
                None => return Ok(()),
            }
        }
    }
}

fn prompt(text: &str) {
    print!("{text}");
    // If nobody can see the prompt, nobody misses it.
    let _ = io::stdout().flush();
}

/// A line from the keyboard; none at its end.
fn read_line() -> io::Result<Option<String>> {
    let mut line = String::new();
    let n = io::stdin().read_line(&mut line)?;
    Ok((n != 0).then(|| line.trim_end().to_owned()))
}

/// A terminal shows what is typed, but not the end; a pipe shows nothing.
fn echo(line: &io::Result<Option<String>>) {
    match line {
        Ok(Some(line)) if !io::stdin().is_terminal() => println!("{line}"),
        Ok(Some(_)) => {}
        _ => println!(),
    }
}

fn serve(address: &str) -> io::Result<()> {
    let pool = ThreadPoolExecutor::with_workers(CLIENTS).map_err(io::Error::other)?;
    let operator = Arc::new(Operator::default());
    let listener = TcpListener::bind(address)?;
    let signals = signal::Signals::new(&[signal::SIGINT, signal::SIGTERM])?;
    let address = listener.local_addr()?;
    println!("listening on {address}, for {CLIENTS} clients at a time; Ctrl-C ends it");

    let clients = Rc::new(Cell::new(0));
    // One greenlet accepts, while the main one waits for Ctrl-C.
    spawn({
        let clients = Rc::clone(&clients);
        move || {
            loop {
                let (stream, from) = match listener.accept() {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        eprintln!("accept: {error}");
                        greenlet::sleep(Duration::from_millis(100));
                        continue;
                    }
                };
                clients.set(clients.get() + 1);
                let (operator, port) = (Arc::clone(&operator), from.port());
                // A socket of std, which blocks its thread.
                let stream = TcpStream::from(stream);
                let job = pool.submit(move || match operator.communicate(stream, port) {
                    Ok(()) => operator.tell(&format!("client {port} has gone")),
                    Err(error) => operator.tell(&format!("client {port}: {error}")),
                });
                if let Err(error) = job {
                    eprintln!("client {port}: {error}");
                }
            }
        }
    });
    signals.wait()?;
    // The threads end with the process: nothing can end one from outside.
    println!("{} clients were here", clients.get());
    Ok(())
}

/// Sends what is typed, a line at a time, and shows each answer.
fn talk(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = [0; MOST_BYTES];
    loop {
        prompt(">>> ");
        let line = read_line();
        echo(&line);
        let Some(line) = line? else { return Ok(()) };
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
        let said = String::from_utf8_lossy(&buffer[..n]);
        println!("the server says: {said}");
    }
}

fn main() -> ExitCode {
    server_and_client::run("thread_pool_server", USAGE, serve, talk)
}
