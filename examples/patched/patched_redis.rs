//! A hundred clients with the crate `redis`, which blocks its thread, as far as it
//! knows.
//!
//! ```text
//! $ cargo run --release -p greenlet-patched --bin patched_redis
//! its own server is at 127.0.0.1:~41073
//! 100 clients: 1000 values set, 1000 got, all of them right
//! their times add up to ~45.7 s, and it took ~0.5 s
//! OS threads of this process: 1
//! ```
//!
//! `patched_redis -- 127.0.0.1:6379` talks to a real one, and leaves keys there
//! that begin with "greenlet:" and are gone after a minute. Its own server knows no
//! more commands than are needed here, and takes 20 ms for each. It is written with
//! `std::net`, and runs in greenlets of the same thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use greenlet::{joinall, monkey, spawn};
use redis::{Client, Commands, RedisResult};

const USAGE: &str =
    "usage: patched_redis [ADDRESS]    (without one, it starts a server of its own)";
const CLIENTS: usize = 100;
const ROUNDS: usize = 10;
/// Seconds for which a real server keeps the values.
const KEPT: u64 = 60;

/// How long it took.
fn client(address: &str, number: usize) -> RedisResult<Duration> {
    let start = Instant::now();
    let mut connection = Client::open(format!("redis://{address}/"))?.get_connection()?;
    for round in 0..ROUNDS {
        let (key, value) = (format!("greenlet:{number}:{round}"), number * round);
        let () = connection.set_ex(&key, value, KEPT)?;
        let got: usize = connection.get(&key)?;
        assert_eq!(got, value, "{key}");
    }
    Ok(start.elapsed())
}

type Values = Rc<RefCell<HashMap<Vec<u8>, Vec<u8>>>>;

/// A line that says how much there is of something: `*3`, `$5`. None at the end.
fn length(input: &mut impl BufRead, mark: char) -> std::io::Result<Option<usize>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let length = line
        .strip_prefix(mark)
        .and_then(|length| length.trim_end().parse().ok());
    length
        .map(Some)
        .ok_or(std::io::ErrorKind::InvalidData.into())
}

/// A command and its arguments. None at the end.
fn command(input: &mut impl BufRead) -> std::io::Result<Option<Vec<Vec<u8>>>> {
    let Some(words) = length(input, '*')? else {
        return Ok(None);
    };
    let mut command = Vec::new();
    for _ in 0..words {
        let length = length(input, '$')?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let mut word = Vec::new();
        // With the end of its line.
        input
            .by_ref()
            .take(length as u64 + 2)
            .read_to_end(&mut word)?;
        word.truncate(length);
        command.push(word);
    }
    Ok(Some(command))
}

/// The code that everybody writes for a thread.
fn serve(stream: TcpStream, values: Values) -> std::io::Result<()> {
    let mut input = BufReader::new(&stream);
    while let Some(words) = command(&mut input)? {
        std::thread::sleep(Duration::from_millis(20));
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let answer = match words[..] {
            [b"SETEX", key, _, value] => {
                values.borrow_mut().insert(key.to_vec(), value.to_vec());
                b"+OK\r\n".to_vec()
            }
            [b"GET", key] => match values.borrow().get(key) {
                Some(value) => {
                    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
                }
                None => b"$-1\r\n".to_vec(),
            },
            // The client tells its name and version.
            [b"CLIENT", ..] => b"+OK\r\n".to_vec(),
            _ => b"-ERR unknown command\r\n".to_vec(),
        };
        (&stream).write_all(&answer)?;
    }
    Ok(())
}

fn start_server() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let values = Values::default();
    spawn(move || {
        for stream in listener.incoming().flatten() {
            let values = Rc::clone(&values);
            spawn(move || serve(stream, values));
        }
    });
    Ok(address)
}

fn run(address: Option<String>) -> Result<(), Box<dyn std::error::Error>> {
    monkey::patch_all()?;
    let address = match address {
        Some(address) => address,
        None => {
            let address = start_server()?;
            println!("its own server is at {address}");
            address
        }
    };
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = address.clone();
            spawn(move || client(&address, number))
        })
        .collect();
    let mut sum = Duration::ZERO;
    for client in joinall(clients) {
        sum += client??;
    }
    let took = start.elapsed();
    let values = CLIENTS * ROUNDS;
    println!("{CLIENTS} clients: {values} values set, {values} got, all of them right");
    let (sum, took) = (sum.as_secs_f64(), took.as_secs_f64());
    println!("their times add up to {sum:.1} s, and it took {took:.1} s");
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    println!("OS threads of this process: {threads}");
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (address, more) = (arguments.next(), arguments.next());
    match address.as_deref() {
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some(option) if option.starts_with('-') || more.is_some() => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
        _ => {}
    }
    match run(address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("patched_redis: {error}");
            ExitCode::FAILURE
        }
    }
}
