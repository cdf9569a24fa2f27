//! Three orders in which a queue gives its items, and what it says when there are none.
//!
//! ```text
//! $ cargo run --example queues
//! first in, first out: first second third
//! last in, first out:  third second first
//! the lowest first:    -10 -5 0 20 a 20 b 30
//!
//! a queue of 3: 1 2 3 are in, and it is full: true
//! get: 1
//! get: 2
//! get, without waiting: 3
//! get, for at most 2 s: Empty, after ~2.0 s
//! ```
//!
//! The priority is the first part of the item; where it is equal, the rest of
//! the item decides. So `20 a` comes before `20 b`, which was put first.

use std::fmt::Display;
use std::time::{Duration, Instant};

use greenlet::queue::{LifoQueue, PriorityQueue, Queue};

const WORDS: [&str; 3] = ["first", "second", "third"];

fn main() {
    let queue = Queue::unbounded();
    for word in WORDS {
        queue.put(word).expect("nobody has shut it down");
    }
    // Nothing more will be put: the loop over the items ends after the last.
    queue.shutdown();
    println!("first in, first out: {}", joined(&queue));

    let queue = LifoQueue::unbounded();
    for word in WORDS {
        queue.put(word).expect("nobody has shut it down");
    }
    queue.shutdown();
    println!("last in, first out:  {}", joined(&queue));

    let queue = PriorityQueue::unbounded();
    for item in [(-10, ""), (-5, ""), (20, "b"), (20, "a"), (0, ""), (30, "")] {
        queue.put(item).expect("nobody has shut it down");
    }
    queue.shutdown();
    let items = queue.iter().map(|(priority, name)| match name {
        "" => priority.to_string(),
        name => format!("{priority} {name}"),
    });
    println!("the lowest first:    {}", joined(items));

    println!();
    a_queue_of_three();
}

fn a_queue_of_three() {
    let queue = Queue::bounded(3);
    for n in 1..=3 {
        queue.put(n).expect("there is room");
    }
    println!(
        "a queue of 3: 1 2 3 are in, and it is full: {}",
        queue.is_full()
    );
    for _ in 0..2 {
        println!("get: {}", queue.get().expect("there are three"));
    }
    match queue.try_get() {
        Ok(item) => println!("get, without waiting: {item}"),
        Err(error) => println!("get, without waiting: {error:?}"),
    }
    let start = Instant::now();
    match queue.get_timeout(Duration::from_secs(2)) {
        Ok(item) => println!("get, for at most 2 s: {item}"),
        Err(error) => {
            let waited = start.elapsed().as_secs_f64();
            println!("get, for at most 2 s: {error:?}, after ~{waited:.1} s");
        }
    }
}

fn joined<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    words.join(" ")
}
