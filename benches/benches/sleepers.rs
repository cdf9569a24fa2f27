//! Ten thousand asleep at once: spawned, each sleeps a millisecond, all joined.
//!
//! The time is that of all of them. Less than a millisecond it cannot be; what
//! is above that is the work of starting, waking and ending them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use corosensei::Coroutine;
use corosensei::stack::DefaultStack;
use criterion::{Criterion, criterion_group, criterion_main};
use greenlet_benches::coroutines::STACK;

const SLEEPERS: usize = 10_000;
const NAP: Duration = Duration::from_millis(1);

fn greenlets() {
    let handles: Vec<_> = (0..SLEEPERS)
        .map(|_| greenlet::spawn(|| greenlet::sleep(NAP)))
        .collect();
    black_box(greenlet::joinall(handles));
}

/// Coroutines and a heap of deadlines: a scheduler that can do nothing else.
struct Bare {
    stacks: Vec<DefaultStack>,
}

impl Bare {
    fn run(&mut self) {
        let mut sleepers: Vec<Coroutine<(), Instant, (), DefaultStack>> = (0..SLEEPERS)
            .map(|_| {
                let stack = match self.stacks.pop() {
                    Some(stack) => stack,
                    None => DefaultStack::new(STACK).expect("no memory for a stack"),
                };
                Coroutine::with_stack(stack, |yielder, ()| {
                    yielder.suspend(Instant::now() + NAP);
                })
            })
            .collect();
        let mut deadlines = BinaryHeap::with_capacity(SLEEPERS);
        for (at, sleeper) in sleepers.iter_mut().enumerate() {
            if let Some(deadline) = sleeper.resume(()).as_yield() {
                deadlines.push(Reverse((deadline, at)));
            }
        }
        while let Some(Reverse((deadline, at))) = deadlines.pop() {
            let now = Instant::now();
            if deadline > now {
                std::thread::sleep(deadline - now);
            }
            sleepers[at].resume(());
        }
        self.stacks
            .extend(sleepers.into_iter().map(Coroutine::into_stack));
    }
}

fn tokio_tasks(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let handles: Vec<_> = (0..SLEEPERS)
            .map(|_| tokio::spawn(tokio::time::sleep(NAP)))
            .collect();
        for handle in handles {
            handle.await.expect("it does not panic");
        }
    });
}

fn smol_tasks() {
    let executor = smol::LocalExecutor::new();
    smol::block_on(executor.run(async {
        let handles: Vec<_> = (0..SLEEPERS)
            .map(|_| executor.spawn(smol::Timer::after(NAP)))
            .collect();
        for handle in handles {
            black_box(handle.await);
        }
    }));
}

fn may_coroutines() {
    let handles: Vec<_> = (0..SLEEPERS)
        .map(|_| {
            // SAFETY: it uses no thread-local storage and little stack.
            unsafe { may::coroutine::spawn(|| may::coroutine::sleep(NAP)) }
        })
        .collect();
    for handle in handles {
        handle.join().expect("it does not panic");
    }
}

fn os_threads() {
    let handles: Vec<_> = (0..SLEEPERS)
        .map(|_| {
            std::thread::Builder::new()
                .stack_size(STACK)
                .spawn(|| std::thread::sleep(NAP))
                .expect("no thread left")
        })
        .collect();
    for handle in handles {
        handle.join().expect("it does not panic");
    }
}

fn benches(c: &mut Criterion) {
    may::config().set_workers(1);
    let mut group = c.benchmark_group("sleepers, 10,000 times 1 ms");
    group.measurement_time(Duration::from_secs(3));
    group.warm_up_time(Duration::from_millis(500));
    group.sample_size(20);
    group.bench_function("greenlet", |b| b.iter(greenlets));
    let mut bare = Bare { stacks: Vec::new() };
    group.bench_function("bare and a heap", |b| b.iter(|| bare.run()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("no tokio");
    group.bench_function("tokio", |b| b.iter(|| tokio_tasks(&runtime)));
    group.bench_function("smol", |b| b.iter(smol_tasks));
    group.bench_function("may", |b| b.iter(may_coroutines));
    group.sample_size(10);
    group.bench_function("threads", |b| b.iter(os_threads));
    group.finish();
}

criterion_group!(group, benches);
criterion_main!(group);
