//! A server with a person at its keyboard: each connection is a greenlet, and
//! the operator answers them one by one, while the others go on.
//!
//! ```text
//! $ cargo run --release --example greenlet_server
//! listening on 127.0.0.1:8848, for 5 clients at a time; Ctrl-C ends it
//! client 50912 says: is anybody there?
//! to 50912 >>>
//! client 50914 says: me too
//! to 50912 >>> I am
//! to 50914 >>> so you are
//! client 50912 has gone
//! client 50914 has gone
//! ^C2 clients were here, 0 were cut off
//! ```
//!
//! The second client came while the operator was asked for an answer to the
//! first: reading the keyboard is left to a helper thread, so it holds nobody
//! up. The first client saw this, and ended it with Ctrl-D:
//!
//! ```text
//! $ cargo run --release --example greenlet_server -- --client
//! >>> is anybody there?
//! the server says: I am
//! >>>
//! ```

use std::cell::Cell;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use greenlet::net::TcpStream;
use greenlet::server::StreamServer;
use greenlet::{Pool, offload, signal};

#[path = "support/server_and_client.rs"]
mod server_and_client;

const USAGE: &str = "usage: greenlet_server [--client] [ADDRESS]    (default 127.0.0.1:8848)";
/// So many clients at a time; the next wait until one has gone.
const CLIENTS: usize = 5;
/// How many may wait.
const BACKLOG: u32 = 5;
/// As much of what a client says is read at once.
const MOST_BYTES: usize = 1024;

/// The one terminal, which all connections share.
struct Operator {
    /// A pool of one: who wants an answer gets the keyboard in turn.
    keyboard: Pool,
    /// Whose answer is being typed.
    asked_by: Cell<Option<u16>>,
    clients: Cell<u32>,
}

impl Operator {
    /// Prints a line, and the prompt again if it has cut in on one.
    fn tell(&self, line: &str) {
        match self.asked_by.get() {
            Some(port) => {
                println!("\n{line}");
                prompt(&format!("to {port} >>> "));
            }
            None => println!("{line}"),
        }
    }

    /// Has the answer to a client typed; none when the keyboard is at its end.
    fn ask(self: &Rc<Self>, port: u16) -> io::Result<Option<String>> {
        let this = Rc::clone(self);
        let typed = self.keyboard.apply(move || {
            this.asked_by.set(Some(port));
            let line = typed_line(&format!("to {port} >>> "));
            this.asked_by.set(None);
            line
        });
        typed.map_err(|error| io::Error::other(error.to_string()))?
    }

    /// One connection, until the client has no more to say.
    fn communicate(self: &Rc<Self>, mut stream: TcpStream, port: u16) -> io::Result<()> {
        self.clients.set(self.clients.get() + 1);
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

/// The next line from the keyboard that is not empty; none at its end. Reading
/// it blocks a helper thread, and the other greenlets go on.
fn typed_line(text: &str) -> io::Result<Option<String>> {
    loop {
        prompt(text);
        let line = offload(|| {
            let mut line = String::new();
            io::stdin().read_line(&mut line).map(|_| line)
        })?;
        if line.is_empty() || !io::stdin().is_terminal() {
            // A terminal has shown what was typed, but not the end.
            println!("{}", line.trim_end());
        }
        if line.is_empty() {
            return Ok(None);
        }
        // Nothing cannot be sent: the other side would wait for ever.
        let line = line.trim_end();
        if !line.is_empty() {
            return Ok(Some(line.to_owned()));
        }
    }
}

fn serve(address: &str) -> io::Result<()> {
    let operator = Rc::new(Operator {
        keyboard: Pool::new(1),
        asked_by: Cell::new(None),
        clients: Cell::new(0),
    });
    let server = StreamServer::bind(address, {
        let operator = Rc::clone(&operator);
        move |stream, from| {
            let port = from.port();
            match operator.communicate(stream, port) {
                Ok(()) => operator.tell(&format!("client {port} has gone")),
                Err(error) => operator.tell(&format!("client {port}: {error}")),
            }
        }
    })?
    .max_connections(CLIENTS)
    .backlog(BACKLOG)?;
    let signals = signal::Signals::new(&[signal::SIGINT, signal::SIGTERM])?;
    server.start()?;
    let address = server.local_addr()?;
    println!("listening on {address}, for {CLIENTS} clients at a time; Ctrl-C ends it");

    signals.wait()?;
    let cut_off = server.stop(Duration::ZERO);
    let clients = operator.clients.get();
    println!("{clients} clients were here, {cut_off} were cut off");
    Ok(())
}

/// Sends what is typed, a line at a time, and shows each answer.
fn talk(address: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = [0; MOST_BYTES];
    while let Some(line) = typed_line(">>> ")? {
        stream.write_all(line.as_bytes())?;
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            println!("the server has gone");
            break;
        }
        let said = String::from_utf8_lossy(&buffer[..n]);
        println!("the server says: {said}");
    }
    Ok(())
}

fn main() -> ExitCode {
    server_and_client::run("greenlet_server", USAGE, serve, talk)
}
