//! A hundred thousand greenlets asleep at the same time, on one OS thread.
//!
//! ```text
//! $ cargo run --release --example hundred_thousand
//! greenlets asleep at once: 100000
//! OS threads of the process: 1
//! memory of each: ~4.4 KB, and ~0.6 KB of page tables
//! all asleep after ~0.5 s, all ended after ~2.9 s (each slept 2 s)
//! ```
//!
//! Numbers behind `~` vary with the machine. A greenlet costs the pages of its
//! stack that it has touched: one page of 4 KB, if it does no more than sleep.
//! The 256 KiB that its stack may grow to are address space, which costs
//! nothing but the page tables. The same with OS threads would be refused by
//! most systems' limits.
//!
//! A progress line goes to standard error. Another number of greenlets may be
//! given as an argument.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use greenlet::{Builder, joinall, sleep, spawn, yield_now};

const NAP: Duration = Duration::from_secs(2);

/// A number of kilobytes out of `/proc/self/status`.
fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_whitespace().nth(1))
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn main() {
    let argument = std::env::args().nth(1);
    let wanted: usize = match argument.map(|text| text.parse()) {
        None => 100_000,
        Some(Ok(number)) => number,
        Some(Err(error)) => {
            eprintln!("the argument is to be the number of greenlets: {error}");
            std::process::exit(2);
        }
    };

    let (memory, tables) = (status("VmRSS"), status("VmPTE"));
    let start = Instant::now();
    // Shared without a lock: see the example `shared_counter`.
    let asleep = Rc::new(Cell::new(0));

    let mut handles = Vec::with_capacity(wanted);
    for _ in 0..wanted {
        let asleep = Rc::clone(&asleep);
        let spawned = Builder::new().spawn(move || {
            asleep.set(asleep.get() + 1);
            sleep(NAP);
            asleep.set(asleep.get() - 1);
        });
        match spawned {
            Ok(handle) => handles.push(handle),
            // For instance the number of mappings, on kernels before 6.13. The
            // error says which limit it is and how to raise it.
            Err(error) => {
                eprintln!("after {} greenlets: {error}", handles.len());
                std::process::exit(1);
            }
        }
        if handles.len() % 1000 == 0 {
            eprint!("\rspawned: {}", handles.len());
        }
    }

    // None of them has run so far: now each has a turn, up to its `sleep`.
    yield_now();
    let all_asleep = start.elapsed();
    let most = asleep.get();
    let threads = status("Threads");
    let memory = status("VmRSS").saturating_sub(memory);
    let tables = status("VmPTE").saturating_sub(tables);

    // While they sleep, one more tells how it goes.
    let progress = spawn({
        let asleep = Rc::clone(&asleep);
        move || loop {
            eprint!("\rasleep: {:<10}", asleep.get());
            sleep(Duration::from_millis(100));
        }
    });
    for result in joinall(handles) {
        result.expect("a greenlet that sleeps does not panic");
    }
    let all_ended = start.elapsed();
    progress.kill_wait();
    eprintln!("\rasleep: {:<10}", asleep.get());

    let each = |kilobytes: u64| kilobytes as f64 / wanted.max(1) as f64;
    println!("greenlets asleep at once: {most}");
    println!("OS threads of the process: {threads}");
    println!(
        "memory of each: ~{:.1} KB, and ~{:.1} KB of page tables",
        each(memory),
        each(tables)
    );
    println!(
        "all asleep after ~{:.1} s, all ended after ~{:.1} s (each slept {} s)",
        all_asleep.as_secs_f64(),
        all_ended.as_secs_f64(),
        NAP.as_secs()
    );
}
