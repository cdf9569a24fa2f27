//! One yield, among 2, 10 and 1,000 that take turns.
//!
//! One of them is timed: between two of its turns all others have one. So a
//! round is as many yields as there are tasks, and starting them is not in it.
//!
//! All run the same code, as the handlers of one server's connections do, and
//! as the bare coroutines do. Greenlets that yield at different places cost the
//! processor mispredicted jumps; "two places" shows how many nanoseconds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use greenlet_benches::{coroutines, per_item, proc, scale};

fn rounds(iters: u64, tasks: u64) -> u64 {
    // The first few rounds are not yet in step.
    iters.div_ceil(tasks).max(8)
}

/// One coroutine, resumed and suspended: the least that a switch can cost.
fn bare_pair(iters: u64) -> Duration {
    let mut coroutine = coroutines::endless();
    coroutine.resume(());
    let time = per_item(iters, 1, || {
        black_box(coroutine.resume(()));
    });
    // SAFETY: nothing on its stack needs to be dropped.
    unsafe { coroutine.force_reset() };
    time
}

/// Coroutines in a queue, taken from its front and put to its end.
fn bare_ring(tasks: u64, iters: u64) -> Duration {
    let mut ring: VecDeque<_> = (0..tasks)
        .map(|_| Box::new(coroutines::endless()))
        .collect();
    ring.iter_mut().for_each(|coroutine| {
        coroutine.resume(());
    });
    let time = per_item(iters, 1, || {
        if let Some(mut coroutine) = ring.pop_front() {
            black_box(coroutine.resume(()));
            ring.push_back(coroutine);
        }
    });
    for mut coroutine in ring {
        // SAFETY: nothing on its stack needs to be dropped.
        unsafe { coroutine.force_reset() };
    }
    time
}

fn greenlets(tasks: u64, iters: u64) -> Duration {
    let stop = Rc::new(Cell::new(false));
    let rounds = rounds(iters, tasks);
    let start_one = |rounds: u64| {
        let stop = Rc::clone(&stop);
        greenlet::spawn(move || {
            greenlet::yield_now();
            let start = Instant::now();
            for _ in 0..rounds {
                if stop.get() {
                    break;
                }
                greenlet::yield_now();
            }
            let time = start.elapsed();
            stop.set(true);
            time
        })
    };
    let timed = start_one(rounds);
    let others: Vec<_> = (1..tasks).map(|_| start_one(u64::MAX)).collect();
    let time = timed.join().expect("it neither panics nor is killed");
    greenlet::joinall(others);
    scale(time, rounds * tasks, iters)
}

/// Two greenlets that yield at different places in the code.
fn two_places(iters: u64) -> Duration {
    let stop = Rc::new(Cell::new(false));
    let other = greenlet::spawn({
        let stop = Rc::clone(&stop);
        move || {
            while !stop.get() {
                greenlet::yield_now();
            }
        }
    });
    let rounds = rounds(iters, 2);
    let timed = greenlet::spawn(move || {
        let start = Instant::now();
        for _ in 0..rounds {
            greenlet::yield_now();
        }
        let time = start.elapsed();
        stop.set(true);
        time
    });
    let time = timed.join().expect("it neither panics nor is killed");
    other.join().expect("it neither panics nor is killed");
    scale(time, rounds * 2, iters)
}

/// One task of an async runtime; all of them are on one thread.
async fn take_turns<F: Future<Output = ()>>(
    rounds: u64,
    stop: Arc<AtomicBool>,
    yield_now: impl Fn() -> F,
) -> Duration {
    yield_now().await;
    let start = Instant::now();
    for _ in 0..rounds {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        yield_now().await;
    }
    let time = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    time
}

fn tokio_tasks(tasks: u64, iters: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("no tokio");
    let rounds = rounds(iters, tasks);
    let stop = Arc::new(AtomicBool::new(false));
    let start_one = |rounds| {
        tokio::spawn(take_turns(
            rounds,
            Arc::clone(&stop),
            tokio::task::yield_now,
        ))
    };
    let time = runtime.block_on(async {
        let timed = start_one(rounds);
        (1..tasks).for_each(|_| drop(start_one(u64::MAX)));
        timed.await
    });
    scale(time.expect("it does not panic"), rounds * tasks, iters)
}

fn tokio_local(tasks: u64, iters: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("no tokio");
    let rounds = rounds(iters, tasks);
    let stop = Arc::new(AtomicBool::new(false));
    let local = tokio::task::LocalSet::new();
    let start_one = |rounds| {
        tokio::task::spawn_local(take_turns(
            rounds,
            Arc::clone(&stop),
            tokio::task::yield_now,
        ))
    };
    let time = local.block_on(&runtime, async {
        let timed = start_one(rounds);
        (1..tasks).for_each(|_| drop(start_one(u64::MAX)));
        timed.await
    });
    scale(time.expect("it does not panic"), rounds * tasks, iters)
}

fn smol_tasks(tasks: u64, iters: u64) -> Duration {
    let executor = smol::LocalExecutor::new();
    let rounds = rounds(iters, tasks);
    let stop = Arc::new(AtomicBool::new(false));
    let start_one = |rounds| {
        executor.spawn(take_turns(
            rounds,
            Arc::clone(&stop),
            smol::future::yield_now,
        ))
    };
    let time = smol::block_on(executor.run(async {
        let timed = start_one(rounds);
        (1..tasks).for_each(|_| start_one(u64::MAX).detach());
        timed.await
    }));
    scale(time, rounds * tasks, iters)
}

/// may's coroutines, all of them on one worker thread. It does not promise
/// turns either (a busy worker takes few of its own queue before the newest
/// again), so all yields are counted; by one thread, so without a locked add.
fn may_coroutines(tasks: u64, iters: u64) -> Duration {
    let stop = Arc::new(AtomicBool::new(false));
    let yields = Arc::new(AtomicU64::new(0));
    let yield_now = |yields: &AtomicU64| {
        yields.store(yields.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        may::coroutine::yield_now();
    };
    let timed = move || {
        for _ in 1..tasks {
            let stop = Arc::clone(&stop);
            let yields = Arc::clone(&yields);
            // SAFETY: it uses no thread-local storage and little stack.
            unsafe {
                may::coroutine::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        yield_now(&yields);
                    }
                });
            }
        }
        yield_now(&yields);
        let before = yields.load(Ordering::Relaxed);
        let start = Instant::now();
        let mut done = 0;
        while done < iters {
            yield_now(&yields);
            done = yields.load(Ordering::Relaxed) - before;
        }
        let time = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        scale(time, done, iters)
    };
    // SAFETY: as above.
    let timed = unsafe { may::coroutine::spawn(timed) };
    timed.join().expect("it does not panic")
}

/// OS threads on one processor. The kernel does not promise turns, so all
/// their yields are counted.
fn os_threads(tasks: u64, iters: u64) -> Duration {
    let stop = AtomicBool::new(false);
    let yields = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 1..tasks {
            scope.spawn(|| {
                proc::pin_to(0);
                while !stop.load(Ordering::Relaxed) {
                    yields.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        let timed = scope.spawn(|| {
            proc::pin_to(0);
            std::thread::yield_now();
            let before = yields.load(Ordering::Relaxed);
            let start = Instant::now();
            let mut done = 0;
            while done < iters {
                yields.fetch_add(1, Ordering::Relaxed);
                std::thread::yield_now();
                done = yields.load(Ordering::Relaxed) - before;
            }
            let time = start.elapsed();
            stop.store(true, Ordering::Relaxed);
            scale(time, done, iters)
        });
        timed.join().expect("it does not panic")
    })
}

fn benches(c: &mut Criterion) {
    may::config().set_workers(1);
    let mut group = c.benchmark_group("yield_now");
    group.measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    group.sample_size(30);
    group.bench_function("bare resume+suspend", |b| b.iter_custom(bare_pair));
    group.bench_function("greenlet, two places", |b| b.iter_custom(two_places));
    type Contender = (&'static str, fn(u64, u64) -> Duration);
    let contenders: [Contender; 7] = [
        ("greenlet", greenlets),
        ("bare ring", bare_ring),
        ("tokio", tokio_tasks),
        ("tokio LocalSet", tokio_local),
        ("smol", smol_tasks),
        ("may", may_coroutines),
        ("threads", os_threads),
    ];
    for tasks in [2, 10, 1000] {
        for (name, run) in contenders {
            group.bench_function(BenchmarkId::new(name, tasks), |b| {
                b.iter_custom(|iters| run(tasks, iters));
            });
        }
    }
    group.finish();
}

criterion_group!(group, benches);
criterion_main!(group);
