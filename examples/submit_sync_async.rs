//! N6, N7: the same 20 jobs for a pool of processes, first waited for one by one,
//! then handed in together and collected at the end.
//!
//! ```text
//! $ cargo run --release --features process --example submit_sync_async
//! synchronous: wait for each result before the next job is handed in
//! task 0 begins, in process ~4711
//! task 0 ends
//! result: 0
//! ...
//! task 19 ends
//! result: 19
//! ~0.6 s
//!
//! asynchronous: hand all in, shut down, collect
//! ...
//! results: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19
//! ~0.3 s
//!
//! one more? the executor has been shut down
//! ===main
//! ```
//!
//! `result()` right after `submit` makes the call synchronous: one process works,
//! and the others stand by. Handed in together, as many run at a time as there are
//! workers, and which of them speaks first is up to the system.
//!
//! `shutdown(true)` waits for all of them, and takes no more after that. Within the
//! loop it would refuse the second job.

use std::time::{Duration, Instant};

use greenlet::error::{JoinError, NoWorkers};
use greenlet::executor::ProcessPoolExecutor;

const JOBS: u64 = 20;
const WORKERS: usize = 4;

/// What a job does: it waits for a while, as for an answer.
fn task(number: u64) -> u64 {
    println!("task {number} begins, in process {}", std::process::id());
    std::thread::sleep(Duration::from_millis(20 * (1 + number % 3)));
    println!("task {number} ends");
    number
}

fn synchronous(pool: &ProcessPoolExecutor) -> Result<(), JoinError> {
    for number in 0..JOBS {
        let job = pool.submit(task, number).expect("the pool takes jobs");
        println!("result: {}", job.result()?);
    }
    Ok(())
}

fn asynchronous(pool: &ProcessPoolExecutor) -> Result<(), JoinError> {
    let jobs = (0..JOBS).map(|number| pool.submit(task, number).expect("the pool takes jobs"));
    let jobs: Vec<_> = jobs.collect();
    pool.shutdown(true);
    print!("results:");
    for job in jobs {
        print!(" {}", job.join()?);
    }
    println!();
    Ok(())
}

fn main() -> Result<(), JoinError> {
    let pool =
        ProcessPoolExecutor::with_workers(WORKERS).unwrap_or_else(|NoWorkers| unreachable!());

    println!("synchronous: wait for each result before the next job is handed in");
    let start = Instant::now();
    synchronous(&pool)?;
    println!("{:.1} s\n", start.elapsed().as_secs_f64());

    println!("asynchronous: hand all in, shut down, collect");
    let start = Instant::now();
    asynchronous(&pool)?;
    println!("{:.1} s\n", start.elapsed().as_secs_f64());

    if let Err(error) = pool.submit(task, JOBS) {
        println!("one more? {error}");
    }
    println!("===main");
    Ok(())
}
