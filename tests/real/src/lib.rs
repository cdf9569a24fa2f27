//! What the tests share: 200 greenlets at once, or 200 threads that are greenlets, how
//! many of them were in flight, and how many OS threads the process had.
//!
//! Each test is a program of its own, without libtest and without the watchdog: its
//! `main` is the only OS thread, and what it finds beside it was started by the crate
//! under test.
//! Servers are other people's, named by an environment variable; without it the
//! test says that it was skipped, and passes. `.ci/servers` has a script that
//! starts each server and runs its tests.

pub mod alike;
pub mod http;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;
use std::{env, fs, io, thread};

/// So many greenlets do the same at once.
pub const GREENLETS: usize = 200;
/// So many of them have to be in flight at once, at least.
pub const ENOUGH: usize = 100;
/// Seconds until a test that hangs ends the program.
const LIMIT: u32 = 60;

/// A test, by the fact that it shows.
pub type Test<F> = (&'static str, F);

/// Patches the process, and runs the tests: those whose names have one of the
/// program's arguments in them, or all.
pub fn run(tests: &[Test<fn()>]) {
    run_each(tests.iter().map(|(name, test)| (*name, test)));
}

/// As `run`, with the address of the server that an environment variable names.
pub fn run_with_server(variable: &str, tests: &[Test<fn(&str)>]) {
    match env::var(variable) {
        Ok(address) => {
            let with_address = |test: fn(&str)| {
                let address = address.as_str();
                move || test(address)
            };
            run_each(
                tests
                    .iter()
                    .map(|(name, test)| (*name, with_address(*test))),
            );
        }
        Err(_) => println!("skipped: {variable} does not say where the server is"),
    }
}

fn run_each<'a>(tests: impl Iterator<Item = (&'a str, impl Fn())>) {
    greenlet::diagnostics::watchdog(None);
    greenlet::monkey::patch_all().expect("threads can be greenlets here");
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, test) in tests {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            // SAFETY: without a handler SIGALRM ends the process, which is what it is for.
            unsafe { libc::alarm(LIMIT) };
            test();
            println!("test {name} ... ok");
        }
    }
}

/// Counts how many are at something at the same time, greenlets or threads.
#[derive(Debug)]
pub struct Flight {
    now: AtomicUsize,
    most: AtomicUsize,
    start: Barrier,
}

impl Flight {
    fn of(count: usize) -> Flight {
        Flight {
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            start: Barrier::new(count),
        }
    }

    /// Waits until all have come so far. Without it the first may be through with
    /// all that it does before the last has connected.
    pub fn meet(&self) {
        self.start.wait();
    }

    /// Does it, and counts while it lasts.
    pub fn during<R>(&self, f: impl FnOnce() -> R) -> R {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let result = f();
        self.now.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// How many there are now.
    pub fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    /// The most that there were at once.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

/// Runs `work` in so many greenlets, each with its number, and returns the most
/// that were in flight at once, by what they did inside `during`. Their panics are
/// the caller's.
pub fn together(greenlets: usize, work: impl Fn(usize, &Flight)) -> usize {
    let flight = Flight::of(greenlets);
    greenlet::scope(|scope| {
        for number in 0..greenlets {
            let (work, flight) = (&work, &flight);
            scope.spawn(move || work(number, flight));
        }
    });
    assert_eq!(flight.now(), 0);
    flight.most()
}

/// Runs `work` in 200 greenlets, and fails unless they overlapped, on one thread.
#[track_caller]
pub fn overlap(work: impl Fn(usize, &Flight)) {
    let most = together(GREENLETS, work);
    assert!(most >= ENOUGH, "only {most} were in flight at once");
    assert_eq!(threads(), [main_thread()], "the threads of the process");
}

/// Runs `work` in so many threads of std's, which are greenlets, and returns the most
/// that were in flight at once. Their panics are the caller's.
pub fn threads_together(count: usize, work: impl Fn(usize, &Flight) + Sync) -> usize {
    let flight = Flight::of(count);
    thread::scope(|scope| {
        for number in 0..count {
            let (work, flight) = (&work, &flight);
            scope.spawn(move || work(number, flight));
        }
    });
    assert_eq!(flight.now(), 0);
    flight.most()
}

/// Runs `work` in so many threads of std's, and fails unless all of them overlapped, on
/// one OS thread, the whole time.
#[track_caller]
pub fn overlap_threads(count: usize, work: impl Fn(usize, &Flight) + Sync) {
    let most = on_one_os_thread(|| threads_together(count, work));
    assert_eq!(most, count, "so many were in flight at once");
}

/// Runs `f` and looks, now and then while it waits, how many OS threads there are.
#[track_caller]
pub fn on_one_os_thread<R>(f: impl FnOnce() -> R) -> R {
    let over = Arc::new(AtomicBool::new(false));
    let looks = thread::spawn({
        let over = Arc::clone(&over);
        move || {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(threads(), [main_thread()], "the threads of the process");
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let result = f();
    over.store(true, Ordering::SeqCst);
    looks.join().expect("there is one OS thread");
    result
}

/// The names of the process's OS threads, sorted.
pub fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc is mounted");
    let mut names: Vec<String> = tasks
        // One that has ended meanwhile is none.
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect();
    names.sort();
    names
}

/// The name of the thread that `main` runs on.
pub fn main_thread() -> String {
    let name = fs::read_to_string("/proc/self/comm").expect("/proc is mounted");
    name.trim_end().to_owned()
}

/// A server that was written for threads: it accepts in a greenlet, for ever, and
/// serves each connection in another. What goes wrong with one of them is printed.
pub fn serve<E: std::fmt::Debug>(
    serve_one: impl Fn(TcpStream) -> Result<(), E> + Clone + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    greenlet::spawn(move || {
        for stream in listener.incoming() {
            let serve_one = serve_one.clone();
            greenlet::spawn(move || {
                let served = stream.map(serve_one);
                if !matches!(served, Ok(Ok(()))) {
                    eprintln!("a connection ended with {served:?}");
                }
            });
        }
    });
    Ok(address)
}

/// As `serve`, with threads of std's: one that accepts, and one per connection.
pub fn serve_with_threads<E: std::fmt::Debug + Send>(
    serve_one: impl Fn(TcpStream) -> Result<(), E> + Clone + Send + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            let serve_one = serve_one.clone();
            thread::spawn(move || {
                let served = stream.map(serve_one);
                if !matches!(served, Ok(Ok(()))) {
                    eprintln!("a connection ended with {served:?}");
                }
            });
        }
    });
    Ok(address)
}

/// Bytes that are not all the same, other ones for each number.
pub fn pattern(number: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at * 7 + at / 251 + number) as u8)
        .collect()
}

/// Long enough for all the others to get so far too.
pub const WHILE: Duration = Duration::from_millis(50);

/// The page that `.ci/servers/nginx` has nginx serve.
pub fn the_page() -> Vec<u8> {
    let lines = (1..=4000).map(|line| format!("{line:05}\n"));
    lines.collect::<String>().into_bytes()
}

/// Whether it is that page.
pub fn is_the_page(body: &[u8]) -> bool {
    body == the_page()
}

/// A certificate that has signed itself, and its key, both as PEM.
#[derive(Debug)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Certificate {
    pub fn for_localhost() -> Certificate {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("the name can be certified");
        Certificate {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    /// For servers that show it.
    #[cfg(feature = "native")]
    pub fn acceptor(&self) -> native_tls::TlsAcceptor {
        let (certificate, key) = (self.certificate.as_bytes(), self.key.as_bytes());
        let identity = native_tls::Identity::from_pkcs8(certificate, key);
        native_tls::TlsAcceptor::new(identity.expect("it is PEM")).expect("OpenSSL takes it")
    }
}

/// Sends back what it gets, until there is no more.
pub fn echo(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read])?,
        }
        stream.flush()?;
    }
}

/// What is sent to `echo` at a time, in bytes: little, and as much as fits neither
/// into a record of TLS nor into the buffer of a socket.
pub const LENGTHS: [usize; 4] = [1, 100, 16 << 10, 100_000];
