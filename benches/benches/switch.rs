//! One explicit switch that hands a number over.
//!
//! Two greenlets switch to each other; each such switch is one suspend and one
//! resume of the coroutine below. Or the main greenlet and another one do, as
//! a generator is used: then two switches share one resume and one suspend.

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult};
use criterion::{Criterion, criterion_group, criterion_main};
use greenlet::Greenlet;
use greenlet_benches::coroutines::STACK;
use greenlet_benches::per_item;

/// One resume and one suspend, with a number each way.
fn bare_pair(iters: u64) -> Duration {
    let stack = DefaultStack::new(STACK).expect("no memory for a stack");
    let mut coroutine = Coroutine::<u64, u64, (), _>::with_stack(stack, |yielder, mut value| {
        loop {
            value = yielder.suspend(value + 1);
        }
    });
    let mut value = 0;
    let time = per_item(iters, 1, || {
        if let CoroutineResult::Yield(next) = coroutine.resume(black_box(value)) {
            value = next;
        }
    });
    black_box(value);
    // SAFETY: nothing on its stack needs to be dropped.
    unsafe { coroutine.force_reset() };
    time
}

fn two_greenlets(iters: u64) -> Duration {
    let (one, other) = (Greenlet::<u64>::unbound(), Greenlet::<u64>::unbound());
    let took = Rc::new(Cell::new(Duration::ZERO));
    other.bind({
        let one = one.clone();
        move |mut value| {
            loop {
                value = one.switch(value + 1);
            }
        }
    });
    one.bind({
        let (other, took) = (other.clone(), Rc::clone(&took));
        move |mut value| {
            value = other.switch(value);
            took.set(per_item(iters, 2, || {
                value = other.switch(black_box(value));
            }));
            value
        }
    });
    black_box(one.switch(0));
    took.get()
}

fn main_and_one(iters: u64) -> Duration {
    let parent = Greenlet::<u64>::current();
    let generator = Greenlet::new(move |mut value: u64| {
        loop {
            value = parent.switch(value + 1);
        }
    });
    let mut value = generator.switch(0);
    let time = per_item(iters, 2, || {
        value = generator.switch(black_box(value));
    });
    black_box(value);
    time
}

/// Two OS threads that hand a number back and forth.
fn threads(iters: u64) -> Duration {
    let (there, inbox) = sync_channel::<u64>(0);
    let (back, outbox) = sync_channel::<u64>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(value) = inbox.recv() {
                back.send(value + 1).expect("it is awaited");
            }
        });
        let mut value = 0;
        let start = Instant::now();
        for _ in 0..iters.div_ceil(2) {
            there.send(black_box(value)).expect("it is awaited");
            value = outbox.recv().expect("it is answered");
        }
        let time = start.elapsed();
        drop(there);
        greenlet_benches::scale(time, iters.div_ceil(2) * 2, iters)
    })
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("switch");
    group.measurement_time(Duration::from_secs(2));
    group.warm_up_time(Duration::from_millis(500));
    group.sample_size(30);
    group.bench_function("bare resume+suspend", |b| b.iter_custom(bare_pair));
    group.bench_function("greenlet, two", |b| b.iter_custom(two_greenlets));
    group.bench_function("greenlet, main and one", |b| b.iter_custom(main_and_one));
    group.bench_function("threads", |b| b.iter_custom(threads));
    group.finish();
}

criterion_group!(group, benches);
criterion_main!(group);
