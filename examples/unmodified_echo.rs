//! An echo server and its clients, written with `std::net` alone: nothing in them
//! knows of greenlets, except that they are spawned.
//!
//! ```text
//! $ cargo run --release --example unmodified_echo
//! 100 clients have sent 100 lines each and got them back
//! 1 OS thread
//! ```
//!
//! A debug build has one thread more: that of the watchdog.

use std::io::{BufRead, BufReader, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use greenlet::{joinall, monkey, spawn};

const CLIENTS: usize = 100;
const LINES: usize = 100;

/// A connection: the code that everybody writes for a thread.
fn serve(stream: TcpStream) -> Result<()> {
    let mut writer = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        writeln!(writer, "{}", line?)?;
    }
    Ok(())
}

fn listen(listener: TcpListener) -> Result<()> {
    for stream in listener.incoming() {
        let stream = stream?;
        spawn(move || serve(stream));
    }
    Ok(())
}

fn client(number: usize, server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    for line in 0..LINES {
        writeln!(stream, "line {line} of client {number}")?;
        let answer = answers.next().transpose()?;
        assert_eq!(answer, Some(format!("line {line} of client {number}")));
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    monkey::patch_all()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = listener.local_addr()?;
    spawn(move || listen(listener));
    let clients = (0..CLIENTS).map(|number| spawn(move || client(number, server)));
    for result in joinall(clients.collect::<Vec<_>>()) {
        result??;
    }
    println!("{CLIENTS} clients have sent {LINES} lines each and got them back");
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    println!("{threads} OS thread{}", if threads == 1 { "" } else { "s" });
    Ok(())
}
