//! The synchronous crate `postgres`, which is tokio inside, against PostgreSQL.
//!
//! Each of its calls is a `block_on`, which marks the thread as being in a runtime
//! and waits in `epoll_wait`. In a thread of std's, and in an isolated greenlet, the mark
//! is its own, and it parks.
//!
//! Had it parked in a light greenlet, the next one would find the mark. So there it
//! blocks the OS thread, and what is to run side by side goes to helper threads.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use greenlet::offload;
use greenlet_real::{GREENLETS, overlap_threads, run_with_server, threads, together};
use greenlet_real::{main_thread, on_one_os_thread};
use postgres::{Client, NoTls};

fn main() {
    run_with_server(
        "GREENLET_POSTGRES",
        &[
            ("threads_wait_together", threads_wait_together),
            ("isolated_greenlets_wait_together", isolated_wait_together),
            ("one_connection_serves_many_threads", one_connection),
            (
                "in_greenlets_one_waits_after_the_other",
                one_waits_after_the_other,
            ),
            ("helper_threads_wait_together", helper_threads_wait_together),
            (
                "a_connection_goes_from_helper_to_helper",
                a_connection_goes_around,
            ),
        ],
    );
}

/// Most helper threads of `offload`.
const HELPERS: usize = 64;

fn connect(address: &str) -> Client {
    let (host, port) = address.rsplit_once(':').unwrap();
    let config = format!("host={host} port={port} user=postgres dbname=postgres");
    Client::connect(&config, NoTls).unwrap()
}

fn squares(client: &mut Client, number: i64) {
    let query = "SELECT n * n FROM generate_series(1::bigint, $1) AS n, pg_sleep(0.01) ORDER BY n";
    let rows = client.query(query, &[&number]).unwrap();
    let got: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(got, (1..=number).map(|n| n * n).collect::<Vec<_>>());
}

/// So many threads and isolated greenlets have a connection each.
const THREADS: usize = 100;

/// Nobody's query ends before all have begun theirs.
fn threads_wait_together(address: &str) {
    overlap_threads(THREADS, |number, flight| {
        let mut client = connect(address);
        flight.meet();
        flight.during(|| {
            client.execute("SELECT pg_sleep(0.3)", &[]).unwrap();
            squares(&mut client, number as i64);
        });
    });
}

fn isolated_wait_together(address: &str) {
    let all_are_connected = Arc::new(Barrier::new(THREADS));
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((now, most));
    let all: Vec<_> = (0..THREADS)
        .map(|number| {
            let (counts, address) = (Arc::clone(&counts), address.to_owned());
            let all_are_connected = Arc::clone(&all_are_connected);
            greenlet::spawn_isolated(move || {
                let mut client = connect(&address);
                all_are_connected.wait();
                let now = counts.0.fetch_add(1, Ordering::SeqCst) + 1;
                counts.1.fetch_max(now, Ordering::SeqCst);
                client.execute("SELECT pg_sleep(0.3)", &[]).unwrap();
                squares(&mut client, number as i64);
                counts.0.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    for handle in all {
        handle.join().unwrap();
    }
    let most = counts.1.load(Ordering::SeqCst);
    assert_eq!(most, THREADS, "in flight at once");
    assert_eq!(threads(), [main_thread()], "the threads of the process");
}

/// Behind std's lock, which is held while a query runs.
fn one_connection(address: &str) {
    let client = std::sync::Mutex::new(connect(address));
    on_one_os_thread(|| {
        std::thread::scope(|scope| {
            for number in 0..THREADS {
                let client = &client;
                scope.spawn(move || squares(&mut client.lock().unwrap(), number as i64));
            }
        });
    });
}

fn one_waits_after_the_other(address: &str) {
    let most = together(GREENLETS, |number, flight| {
        flight.during(|| squares(&mut connect(address), number as i64));
    });
    assert_eq!(most, 1);
    assert_eq!(threads().len(), 1, "{:?}", threads());
}

/// Nobody's query ends before as many run as there are helpers.
fn helper_threads_wait_together(address: &str) {
    let most = together(GREENLETS, |number, flight| {
        let address = address.to_owned();
        flight.during(|| {
            offload(move || {
                let mut client = connect(&address);
                client.execute("SELECT pg_sleep(0.1)", &[]).unwrap();
                squares(&mut client, number as i64);
            });
        });
    });
    assert_eq!(most, GREENLETS);
    // All of them, and our own.
    assert_eq!(threads().len(), HELPERS + 1);
}

fn a_connection_goes_around(address: &str) {
    let most = together(HELPERS, |number, flight| {
        let address = address.to_owned();
        let mut client = flight.during(|| offload(move || connect(&address)));
        for round in 0..5 {
            client = flight.during(|| {
                offload(move || {
                    squares(&mut client, (number + round) as i64);
                    client
                })
            });
        }
        // Closing it is a `block_on` too.
        offload(move || drop(client));
    });
    assert_eq!(most, HELPERS);
}
