//! The same jobs one after the other, by threads, by processes and by greenlets: what waits
//! gains by all of them, what computes does not.
//!
//! ```text
//! $ cargo run --release --features process --example serial_threads_greenlets
//! 8 jobs at a time        waiting for answers     computing
//! one after the other                 ~0.80 s        ~0.45 s
//! by 8 threads                        ~0.10 s        ~0.23 s
//! by 8 processes                      ~0.11 s        ~0.24 s
//! by 8 greenlets                      ~0.10 s        ~0.45 s
//!
//! waiting for answers
//! one after the other  ████████████████████████████████████████
//! by 8 threads         ██████
//! by 8 processes       ███████
//! by 8 greenlets       ██████
//!
//! computing
//! one after the other  ███████████████████████
//! by 8 threads         ████████████
//! by 8 processes       ████████████
//! by 8 greenlets       ███████████████████████
//!
//! Who waits needs no processor: 8 waits side by side take about as long as one, in
//! one thread as in 8. Who computes needs one, and this machine has ~2 for the
//! threads; greenlets share their thread's one, and switching adds nothing to it.
//! ```

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use greenlet::executor::{GreenletPoolExecutor, ProcessPoolExecutor, ThreadPoolExecutor};
use greenlet::net::{SocketAddr, TcpStream};
use greenlet::server::StreamServer;

const USAGE: &str = "usage: serial_threads_greenlets [JOBS]    (2 to 100, default 8)";
/// How long the server thinks about its answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Up to here primes are counted, which takes about 55 ms; a little more without
/// optimisation.
const PRIMES_UP_TO: usize = 600_000;
/// The longest bar.
const WIDTH: f64 = 40.0;

/// A job, which is told of the server, and returns something to be checked.
type Work = fn(SocketAddr) -> usize;
/// A way to have so many of them done.
type Way = fn(usize, Work, SocketAddr) -> Vec<usize>;

/// Bound by I/O: asks the server, and waits for its answer.
fn ask(server: SocketAddr) -> usize {
    let mut answer = [0];
    let mut stream = TcpStream::connect(server).expect("the server listens");
    stream.write_all(b"?").expect("it takes the question");
    stream.read_exact(&mut answer).expect("it answers");
    answer[0].into()
}

/// Bound by the processor: counts primes.
fn count_primes(_server: SocketAddr) -> usize {
    (2..=PRIMES_UP_TO).filter(|n| is_prime(*n)).count()
}

fn is_prime(n: usize) -> bool {
    let mut divisor = 2;
    while divisor * divisor <= n {
        if n % divisor == 0 {
            return false;
        }
        divisor += 1;
    }
    true
}

fn in_series(jobs: usize, work: Work, server: SocketAddr) -> Vec<usize> {
    (0..jobs).map(|_| work(server)).collect()
}

fn by_threads(jobs: usize, work: Work, server: SocketAddr) -> Vec<usize> {
    let pool = ThreadPoolExecutor::with_workers(jobs).expect("there are some");
    let results = pool.map(work, vec![server; jobs]);
    let results = results.expect("the pool takes jobs");
    results
        .map(|result| result.expect("it does not panic"))
        .collect()
}

fn by_processes(jobs: usize, work: Work, server: SocketAddr) -> Vec<usize> {
    let pool = ProcessPoolExecutor::with_workers(jobs).expect("there are some");
    let results = pool.map(work, vec![server; jobs]);
    let results = results.expect("the pool takes jobs");
    results
        .map(|result| result.expect("it does not panic"))
        .collect()
}

fn by_greenlets(jobs: usize, work: Work, server: SocketAddr) -> Vec<usize> {
    let pool = GreenletPoolExecutor::with_workers(jobs).expect("there are some");
    let results = pool.map(work, vec![server; jobs]);
    let results = results.expect("the pool takes jobs");
    results
        .map(|result| result.expect("it does not panic"))
        .collect()
}

/// Starts a server that takes its time, on a thread of its own.
fn start_server() -> io::Result<SocketAddr> {
    let listener = greenlet::net::TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        let server = StreamServer::new(listener, |mut stream, _| {
            stream.read_exact(&mut [0])?;
            greenlet::sleep(PAUSE);
            stream.write_all(b"!")
        })?;
        server.serve_forever()
    });
    Ok(address)
}

fn run(jobs: usize) -> io::Result<()> {
    let server = start_server()?;
    let ways: [(String, Way); 4] = [
        ("one after the other".into(), in_series),
        (format!("by {jobs} threads"), by_threads),
        (format!("by {jobs} processes"), by_processes),
        (format!("by {jobs} greenlets"), by_greenlets),
    ];
    let measure = |work: Work| {
        let expected = vec![work(server); jobs];
        let measured = ways.iter().map(|(_, way)| {
            let start = Instant::now();
            let results = way(jobs, work, server);
            let seconds = start.elapsed().as_secs_f64();
            assert_eq!(results, expected);
            seconds
        });
        measured.collect::<Vec<_>>()
    };
    let waiting = measure(ask);
    let computing = measure(count_primes);

    println!(
        "{:22}  waiting for answers     computing",
        format!("{jobs} jobs at a time")
    );
    for (n, (name, _)) in ways.iter().enumerate() {
        println!("{name:22} {:18.2} s {:12.2} s", waiting[n], computing[n]);
    }
    let longest = waiting
        .iter()
        .chain(&computing)
        .fold(0.0, |a: f64, b| a.max(*b));
    for (title, column) in [("waiting for answers", &waiting), ("computing", &computing)] {
        println!("\n{title}");
        for ((name, _), seconds) in ways.iter().zip(column) {
            println!(
                "{name:20} {}",
                "█".repeat((seconds / longest * WIDTH).ceil() as usize)
            );
        }
    }
    let processors = std::thread::available_parallelism()?;
    println!(
        "
Who waits needs no processor: {jobs} waits side by side take about as long as one, in
one thread as in {jobs}. Who computes needs one, and this machine has {processors} for the
threads; greenlets share their thread's one, and switching adds nothing to it."
    );
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let jobs = match arguments.as_slice() {
        [] => Some(8),
        [help] if help == "--help" || help == "-h" => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        [number] => number.parse().ok().filter(|jobs| (2..=100).contains(jobs)),
        _ => None,
    };
    let Some(jobs) = jobs else {
        eprintln!("serial_threads_greenlets: a number is expected, not {arguments:?}\n{USAGE}");
        return ExitCode::from(2);
    };
    match run(jobs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serial_threads_greenlets: {error}");
            ExitCode::FAILURE
        }
    }
}
