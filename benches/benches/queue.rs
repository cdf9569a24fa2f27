//! One item from a greenlet to another of the same hub: through a queue of 100,
//! and by rendezvous.
//!
//! One puts `iters` items, the other gets them; the time is from the start of
//! the one to the end of the other. The queues are those that several threads
//! may share.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use greenlet::queue::{Channel, LifoQueue, PriorityQueue, Queue};

macro_rules! pass {
    ($queue:expr) => {
        |iters: u64| -> Duration {
            let queue = Arc::new($queue);
            let producer = greenlet::spawn({
                let queue = Arc::clone(&queue);
                move || {
                    for n in 0..iters {
                        queue.put(n).unwrap();
                    }
                }
            });
            let consumer = greenlet::spawn(move || {
                for _ in 0..iters {
                    black_box(queue.get().unwrap());
                }
            });
            let start = Instant::now();
            producer.join().unwrap();
            consumer.join().unwrap();
            start.elapsed()
        }
    };
}

fn queues(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.bench_function("Queue of 100", |b| {
        b.iter_custom(pass!(Queue::bounded(100)))
    });
    group.bench_function("Queue unbounded", |b| {
        b.iter_custom(pass!(Queue::unbounded()))
    });
    group.bench_function("Queue of 1", |b| b.iter_custom(pass!(Queue::bounded(1))));
    group.bench_function("LifoQueue of 100", |b| {
        b.iter_custom(pass!(LifoQueue::bounded(100)))
    });
    group.bench_function("PriorityQueue of 100", |b| {
        b.iter_custom(pass!(PriorityQueue::bounded(100)))
    });
    group.bench_function("Channel", |b| b.iter_custom(pass!(Channel::new())));
    group.finish();
}

criterion_group!(benches, queues);
criterion_main!(benches);
