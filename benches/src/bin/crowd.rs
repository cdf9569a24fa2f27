//! How long one who has nothing to do with it is held up when an `Event` wakes a
//! crowd.
//!
//! ```text
//! cargo run --release -p greenlet-benches --bin crowd [WAITERS [REPEATS]]
//! ```
//!
//! All wait for one event on one thread, and note the order in which they go on.
//! Beside them a greenlet yields in a loop; the longest time between two of its
//! turns, from the moment of the `set`, is what the crowd costs it. The event is
//! set by a greenlet of the thread, and by another thread.

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use greenlet::sync::Event;
use greenlet::{Builder, joinall, spawn, yield_now};
use greenlet_benches::stats::median;

fn main() -> ExitCode {
    let number = |at: usize, default: usize| {
        let given = std::env::args().nth(at).map(|given| given.parse());
        given.unwrap_or(Ok(default))
    };
    let (Ok(waiters), Ok(repeats)) = (number(1, 100_000), number(2, 9)) else {
        eprintln!("usage: crowd [WAITERS [REPEATS]]");
        return ExitCode::FAILURE;
    };
    for (how, elsewhere) in [("by a greenlet", false), ("by a thread", true)] {
        let (mut held_up, mut all) = (Vec::new(), Vec::new());
        for _ in 0..repeats.max(1) {
            let (longest, whole) = wake(waiters.max(1), elsewhere);
            held_up.push(longest.as_secs_f64() * 1e3);
            all.push(whole.as_secs_f64() * 1e3);
        }
        println!(
            "{waiters} woken in their order, set {how}: held up for {:.2} ms at most \
             ({:.2} in the worst of {repeats}), {:.0} ms for all",
            median(&held_up),
            held_up.iter().fold(0.0, |most: f64, one| most.max(*one)),
            median(&all)
        );
    }
    ExitCode::SUCCESS
}

/// The longest that the bystander waited for a turn, and how long it all took.
fn wake(count: usize, elsewhere: bool) -> (Duration, Duration) {
    let event = Arc::new(Event::new());
    let order = Rc::new(RefCell::new(Vec::with_capacity(count)));
    let waiters: Vec<_> = (0..count)
        .map(|n| {
            let (event, order) = (Arc::clone(&event), Rc::clone(&order));
            let body = move || {
                event.wait();
                order.borrow_mut().push(n);
            };
            let small = Builder::new().stack_size(16 << 10);
            small.spawn(body).expect("no memory for a stack")
        })
        .collect();
    yield_now();
    let longest = Rc::new(Cell::new(Duration::ZERO));
    let start = Instant::now();
    let bystander = spawn({
        let (order, longest) = (Rc::clone(&order), Rc::clone(&longest));
        move || {
            let mut before = start;
            while order.borrow().len() < count {
                yield_now();
                let now = Instant::now();
                longest.set(longest.get().max(now - before));
                before = now;
            }
            start.elapsed()
        }
    });
    let set = {
        let event = Arc::clone(&event);
        move || event.set()
    };
    match elsewhere {
        true => drop(std::thread::spawn(set)),
        false => set(),
    }
    let whole = bystander.join().expect("it does not panic");
    assert!(order.borrow().iter().copied().eq(0..count));
    joinall(waiters);
    (longest.get(), whole)
}
