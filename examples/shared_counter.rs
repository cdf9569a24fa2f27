//! Data that greenlets share without a lock, and the one switch that breaks it.
//!
//! ```text
//! $ cargo run --example shared_counter
//! 10 greenlets, each adds 1 to the same counter 1000 times
//! switching between the additions:            10000
//! switching between the read and the write:    1000
//! switching there, but behind a flag:         10000
//! ```
//!
//! Greenlets of one thread take turns. A turn ends only where the greenlet
//! blocks: in `sleep`, `yield_now`, a `join`, a read that has to wait. Between
//! two such places nobody else runs, so what stands there happens as one step,
//! and a plain `Cell` will do where threads need a `Mutex` or an atomic.
//!
//! The reverse is the one rule to keep: do not block between looking at shared
//! data and acting on what you saw.

use std::cell::Cell;
use std::rc::Rc;

use greenlet::{joinall, spawn, yield_now};

const GREENLETS: usize = 10;
const ADDITIONS: usize = 1000;

/// Lets ten greenlets call `add` on one counter, and returns what it shows.
fn count(add: impl Fn(&Cell<usize>) + Clone + 'static) -> usize {
    // Neither `Arc` nor `Mutex`: the greenlets stay on this thread.
    let counter = Rc::new(Cell::new(0));
    let handles: Vec<_> = (0..GREENLETS)
        .map(|_| {
            let (counter, add) = (Rc::clone(&counter), add.clone());
            spawn(move || {
                for _ in 0..ADDITIONS {
                    add(&counter);
                }
            })
        })
        .collect();
    for result in joinall(handles) {
        result.expect("a greenlet that adds does not panic");
    }
    counter.get()
}

fn main() {
    println!("{GREENLETS} greenlets, each adds 1 to the same counter {ADDITIONS} times");

    // Right: the read and the write are one step, then the others have a turn.
    let right = count(|counter| {
        counter.set(counter.get() + 1);
        yield_now();
    });
    println!("switching between the additions:          {right:>7}");

    // Wrong: between the read and the write everybody else has a turn, reads
    // the same number, and later writes the same sum. Ten additions become one,
    // every time; with threads it would be now and then, which is worse.
    let wrong = count(|counter| {
        let seen = counter.get();
        yield_now();
        counter.set(seen + 1);
    });
    println!("switching between the read and the write: {wrong:>7}");

    // Where a step has to block in the middle, the others must be kept out. A
    // flag is enough, for looking at it and setting it is one step, too.
    let taken = Rc::new(Cell::new(false));
    let guarded = count(move |counter| {
        while taken.replace(true) {
            yield_now();
        }
        let seen = counter.get();
        yield_now();
        counter.set(seen + 1);
        taken.set(false);
        yield_now();
    });
    println!("switching there, but behind a flag:       {guarded:>7}");
}
