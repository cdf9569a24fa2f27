//! Where a callback runs: in which process, on which thread, in which greenlet.
//!
//! ```text
//! $ cargo run --features process --example callbacks
//! main:          process ~4711 (main's), thread main, greenlet main
//!
//! a pool of threads
//!   the job:     process ~4711 (main's), thread worker-0, greenlet main
//!   a callback:  process ~4711 (main's), thread worker-0, greenlet main
//!   a late one:  process ~4711 (main's), thread main, greenlet main
//! a pool of greenlets
//!   the job:     process ~4711 (main's), thread main, greenlet executor's worker
//!   a callback:  process ~4711 (main's), thread main, greenlet executor's worker
//!   a late one:  process ~4711 (main's), thread main, greenlet main
//! a pool of processes
//!   the job:     process ~4712 (a worker), thread worker, greenlet main
//!   a callback:  process ~4711 (main's), thread process-0, greenlet main
//!   a late one:  process ~4711 (main's), thread main, greenlet main
//! ```
//!
//! A callback runs where the job was finished: what it needs has to be safe
//! there, and while it blocks, its worker does nothing else. A process cannot call
//! into another one, so the callbacks of its jobs run at home. A callback
//! that is added when the job is over runs at once, where it was added.
//!
//! "greenlet main" is the thread's own stack: every thread has one.

use std::time::Duration;

use greenlet::executor::{GreenletPoolExecutor, ProcessPoolExecutor, ThreadPoolExecutor};

/// A process by its number, a thread and a greenlet by their names.
type Place = (u32, String, String);

fn here() -> Place {
    let thread = std::thread::current();
    (
        std::process::id(),
        thread.name().unwrap_or("without a name").to_owned(),
        greenlet::current().name(),
    )
}

/// It takes a while, so that a callback can be added before it is over.
fn job() -> Place {
    greenlet::sleep(Duration::from_secs(1));
    here()
}

fn print(what: &str, main: u32, (process, thread, greenlet): Place) {
    let whose = if process == main {
        "main's"
    } else {
        "a worker"
    };
    println!("{what:15}process {process} ({whose}), thread {thread}, greenlet {greenlet}");
}

fn main() {
    let main = std::process::id();
    print("main:", main, here());

    println!("\na pool of threads");
    let pool = ThreadPoolExecutor::new();
    let submitted = pool.submit(job).expect("the pool takes jobs");
    submitted.add_done_callback(move |job| {
        print("  the job:", main, job.result().expect("it has a result"));
        print("  a callback:", main, here());
    });
    // Waits for the job, and for its callbacks.
    pool.shutdown(true);
    submitted.add_done_callback(move |_| print("  a late one:", main, here()));

    println!("a pool of greenlets");
    let pool = GreenletPoolExecutor::new();
    let submitted = pool.submit(job).expect("the pool takes jobs");
    submitted.add_done_callback(move |job| {
        print("  the job:", main, job.result().expect("it has a result"));
        print("  a callback:", main, here());
    });
    pool.shutdown(true);
    submitted.add_done_callback(move |_| print("  a late one:", main, here()));

    println!("a pool of processes");
    let pool = ProcessPoolExecutor::new();
    let submitted = pool.submit(|()| job(), ()).expect("the pool takes jobs");
    submitted.add_done_callback(move |job| {
        print("  the job:", main, job.result().expect("it has a result"));
        print("  a callback:", main, here());
    });
    pool.shutdown(true);
    submitted.add_done_callback(move |_| print("  a late one:", main, here()));
}
