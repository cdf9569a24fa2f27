//! A hub that has nothing to do sleeps, once, and asks the kernel for nothing.

use std::time::{Duration, Instant};

use greenlet::net::TcpListener;
use greenlet::{sleep, spawn, yield_now};

mod common;

/// How often the calling thread has gone to sleep in the kernel.
fn times_asleep() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .expect("the kernel counts them")
}

/// The processor time that the calling thread has used.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanoseconds = stat.split_whitespace().next().unwrap().parse().unwrap();
    Duration::from_nanos(nanoseconds)
}

/// Sleeps on the hub and checks that the thread slept in one piece.
fn sleeps_in_one_piece(what: &str) {
    // The first time, the hub makes its reactor.
    sleep(Duration::from_millis(1));
    let (asleep, cpu, start) = (times_asleep(), cpu_time(), Instant::now());
    sleep(Duration::from_millis(500));
    let (asleep, cpu, wall) = (times_asleep() - asleep, cpu_time() - cpu, start.elapsed());
    // One is the sleep; a second may be a page that had to be read in.
    assert!((1..=2).contains(&asleep), "{what}: woken {asleep} times");
    // One that polls without sleeping would use all of it.
    assert!(cpu < wall / 5, "{what}: {cpu:?} of {wall:?} used");
}

#[test]
fn a_hub_whose_only_greenlet_sleeps_is_woken_once() {
    let _watchdog = common::watchdog();
    sleeps_in_one_piece("a sleep");
}

#[test]
fn a_hub_whose_greenlets_all_wait_is_woken_once() {
    let _watchdog = common::watchdog();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let waiting: Vec<_> = (0..100)
        .map(|i| {
            let listener = listener.try_clone().unwrap();
            spawn(move || {
                if i % 2 == 0 {
                    let _ = listener.accept();
                } else {
                    sleep(Duration::from_secs(3600));
                }
            })
        })
        .collect();
    yield_now();
    sleeps_in_one_piece("a hundred that wait");
    assert!(waiting.iter().all(|handle| !handle.is_finished()));
    greenlet::killall(&waiting);
}
