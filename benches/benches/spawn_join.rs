//! A task's whole life: spawned, run, joined, its result taken.
//!
//! A thousand at a time are spawned, then all are joined, on a scheduler that
//! has done so before.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use greenlet_benches::coroutines::Stacks;
use greenlet_benches::per_item;

const BATCH: u64 = 1000;

/// One coroutine after the other, all of them on the same warm stack.
fn bare_one_live(iters: u64) -> Duration {
    let mut stacks = Stacks::warmed(1);
    let mut i = 0;
    per_item(iters, 1, || {
        i += 1;
        let seed = black_box(i);
        let mut one = stacks.start(move || black_box(seed));
        black_box(stacks.finish(&mut one));
        stacks.recycle(one);
    })
}

/// A thousand coroutines made, then each run to its end and dropped: the same
/// pattern as the greenlets', with a stack for each from the start.
fn bare_thousand_live(iters: u64) -> Duration {
    let mut stacks = Stacks::warmed(BATCH as usize);
    let mut live = Vec::with_capacity(BATCH as usize);
    per_item(iters, BATCH, || {
        for i in 0..BATCH {
            let seed = black_box(i);
            live.push(stacks.start(move || black_box(seed)));
        }
        for mut one in live.drain(..) {
            black_box(stacks.finish(&mut one));
            stacks.recycle(one);
        }
    })
}

fn greenlets(iters: u64) -> Duration {
    let mut live = Vec::with_capacity(BATCH as usize);
    let mut batch = || {
        for i in 0..BATCH {
            let seed = black_box(i);
            live.push(greenlet::spawn(move || black_box(seed)));
        }
        for one in live.drain(..) {
            black_box(one.join().expect("it neither panics nor is killed"));
        }
    };
    batch();
    per_item(iters, BATCH, batch)
}

fn tokio_tasks(iters: u64) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("no tokio");
    let mut live = Vec::with_capacity(BATCH as usize);
    let mut batch = || {
        runtime.block_on(async {
            for i in 0..BATCH {
                let seed = black_box(i);
                live.push(tokio::spawn(async move { black_box(seed) }));
            }
            for one in live.drain(..) {
                black_box(one.await.expect("it does not panic"));
            }
        });
    };
    batch();
    per_item(iters, BATCH, batch)
}

fn smol_tasks(iters: u64) -> Duration {
    let executor = smol::LocalExecutor::new();
    let mut live = Vec::with_capacity(BATCH as usize);
    let mut batch = || {
        smol::block_on(executor.run(async {
            for i in 0..BATCH {
                let seed = black_box(i);
                live.push(executor.spawn(async move { black_box(seed) }));
            }
            for one in live.drain(..) {
                black_box(one.await);
            }
        }));
    };
    batch();
    per_item(iters, BATCH, batch)
}

fn may_coroutines(iters: u64) -> Duration {
    let mut live = Vec::with_capacity(BATCH as usize);
    let mut batch = || {
        for i in 0..BATCH {
            let seed = black_box(i);
            // SAFETY: it uses no thread-local storage and little stack.
            live.push(unsafe { may::coroutine::spawn(move || black_box(seed)) });
        }
        for one in live.drain(..) {
            black_box(one.join().expect("it does not panic"));
        }
    };
    batch();
    per_item(iters, BATCH, batch)
}

fn os_threads(iters: u64) -> Duration {
    let mut live = Vec::with_capacity(BATCH as usize);
    per_item(iters, BATCH, || {
        for i in 0..BATCH {
            let seed = black_box(i);
            live.push(std::thread::spawn(move || black_box(seed)));
        }
        for one in live.drain(..) {
            black_box(one.join().expect("it does not panic"));
        }
    })
}

fn benches(c: &mut Criterion) {
    may::config().set_workers(1);
    let mut group = c.benchmark_group("spawn_join");
    group.measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    group.sample_size(30);
    group.bench_function("greenlet", |b| b.iter_custom(greenlets));
    group.bench_function("bare, 1,000 live", |b| b.iter_custom(bare_thousand_live));
    group.bench_function("bare, 1 live", |b| b.iter_custom(bare_one_live));
    group.bench_function("tokio", |b| b.iter_custom(tokio_tasks));
    group.bench_function("smol", |b| b.iter_custom(smol_tasks));
    group.bench_function("may", |b| b.iter_custom(may_coroutines));
    group.sample_size(10);
    group.bench_function("threads", |b| b.iter_custom(os_threads));
    group.finish();
}

criterion_group!(group, benches);
criterion_main!(group);
