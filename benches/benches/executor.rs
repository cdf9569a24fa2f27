//! A job handed to a pool of threads, and its result waited for.
//!
//! `one by one` waits for each result before the next job is handed in: two
//! wake-ups across threads for each. `a thousand at a time` hands all in first.
//! Beside it stand workers as one writes them by hand: threads that take boxed
//! closures from a crossbeam channel, and a channel of one for each result.

use std::hint::black_box;
use std::thread::JoinHandle;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use greenlet::executor::ThreadPoolExecutor;
use greenlet_benches::per_item;

const BATCH: u64 = 1000;
const WORKERS: usize = 2;

type Work = Box<dyn FnOnce() + Send>;

/// Threads that take boxed closures from a channel.
struct ByHand {
    jobs: Option<Sender<Work>>,
    workers: Vec<JoinHandle<()>>,
}

impl ByHand {
    fn new() -> ByHand {
        let (jobs, work) = unbounded::<Work>();
        let workers = (0..WORKERS)
            .map(|_| {
                let work: Receiver<Work> = work.clone();
                std::thread::spawn(move || work.iter().for_each(|job| job()))
            })
            .collect();
        ByHand {
            jobs: Some(jobs),
            workers,
        }
    }

    fn submit<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
        let (result, handle) = bounded(1);
        let job: Work = Box::new(move || drop(result.send(f())));
        let jobs = self.jobs.as_ref().expect("it is taken in the end");
        jobs.send(job).expect("the workers have ended");
        handle
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.jobs.take();
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker panicked");
        }
    }
}

fn by_hand(iters: u64, batch: u64) -> Duration {
    let pool = ByHand::new();
    let mut live = Vec::with_capacity(batch as usize);
    let mut round = || {
        for i in 0..batch {
            let seed = black_box(i);
            live.push(pool.submit(move || black_box(seed)));
        }
        for one in live.drain(..) {
            black_box(one.recv().expect("it does not panic"));
        }
    };
    round();
    per_item(iters, batch, round)
}

fn executor(iters: u64, batch: u64) -> Duration {
    let pool = ThreadPoolExecutor::with_workers(WORKERS).expect("there are some");
    let mut live = Vec::with_capacity(batch as usize);
    let mut round = || {
        for i in 0..batch {
            let seed = black_box(i);
            let job = pool.submit(move || black_box(seed));
            live.push(job.expect("it has not been shut down"));
        }
        for one in live.drain(..) {
            black_box(one.join().expect("it does not panic"));
        }
    };
    round();
    per_item(iters, batch, round)
}

fn benches(c: &mut Criterion) {
    for (name, batch) in [("one by one", 1), ("a thousand at a time", BATCH)] {
        let mut group = c.benchmark_group(format!("executor, {name}"));
        group.measurement_time(Duration::from_secs(2));
        group.warm_up_time(Duration::from_millis(500));
        group.sample_size(30);
        group.bench_function("greenlet", |b| b.iter_custom(|n| executor(n, batch)));
        group.bench_function("crossbeam", |b| b.iter_custom(|n| by_hand(n, batch)));
        group.finish();
    }
}

criterion_group!(group, benches);
criterion_main!(group);
