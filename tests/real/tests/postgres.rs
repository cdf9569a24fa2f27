//! The synchronous crate `postgres`, which is tokio inside, against PostgreSQL.
//!
//! Each of its calls is a `block_on`, which marks the thread as being in a runtime
//! and waits in `epoll_wait`. Had that parked, the next greenlet would find the mark.
//! So it blocks the thread, and what is to run side by side goes to helper threads.

use greenlet::offload;
use greenlet_real::{GREENLETS, run_with_server, threads, together};
use postgres::{Client, NoTls};

fn main() {
    run_with_server(
        "GREENLET_POSTGRES",
        &[
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
