//! `Condvar`.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use crate::shared::{HOUR, MS, event};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("condvar: wait and notify_one", notify_one),
    ("condvar: notify_all", notify_all),
    ("condvar: wait_while", wait_while),
    ("condvar: with a time", timed),
    ("condvar: a bounded buffer", buffer),
    ("condvar: poison", condvar_poison),
];

/// One ticket at a time lets one in at a time.
fn notify_one() {
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let (tell, told) = mpsc::channel();
    let threads: Vec<_> = (0..5)
        .map(|_| {
            let (pair, tell) = (Arc::clone(&pair), tell.clone());
            thread::spawn(move || {
                let (tickets, changed) = &*pair;
                let mut tickets = tickets.lock().unwrap();
                while *tickets == 0 {
                    tickets = changed.wait(tickets).unwrap();
                }
                *tickets -= 1;
                tell.send(*tickets).unwrap();
            })
        })
        .collect();
    let (tickets, changed) = &*pair;
    for _ in 0..5 {
        *tickets.lock().unwrap() += 1;
        changed.notify_one();
        println!("left: {:?}, more: {:?}", told.recv(), told.try_recv());
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

fn notify_all() {
    let pair = Arc::new((Mutex::new((0, false)), Condvar::new()));
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let pair = Arc::clone(&pair);
            thread::spawn(move || {
                let (state, changed) = &*pair;
                let mut state = state.lock().unwrap();
                state.0 += 1;
                changed.notify_all();
                while !state.1 {
                    state = changed.wait(state).unwrap();
                }
            })
        })
        .collect();
    let (state, changed) = &*pair;
    let mut waiting = state.lock().unwrap();
    while waiting.0 < 20 {
        waiting = changed.wait(waiting).unwrap();
    }
    count_threads();
    waiting.1 = true;
    drop(waiting);
    changed.notify_all();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("all 20 waited at once");
}

fn wait_while() {
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let other = {
        let pair = Arc::clone(&pair);
        thread::spawn(move || {
            let (number, changed) = &*pair;
            for expected in [0, 2, 4] {
                let guard = number.lock().unwrap();
                let mut guard = changed.wait_while(guard, |n| *n != expected).unwrap();
                *guard += 1;
                changed.notify_one();
            }
        })
    };
    let (number, changed) = &*pair;
    for expected in [1, 3, 5] {
        let guard = number.lock().unwrap();
        let mut guard = changed.wait_while(guard, |n| *n != expected).unwrap();
        print!("{guard} ");
        *guard += 1;
        changed.notify_one();
    }
    println!();
    other.join().unwrap();
}

fn timed() {
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let waiter = {
        let pair = Arc::clone(&pair);
        thread::spawn(move || {
            let start = Instant::now();
            let (flag, changed) = &*pair;
            let guard = flag.lock().unwrap();
            let (guard, answer) = changed.wait_timeout_while(guard, 20 * MS, |f| !*f).unwrap();
            let waited = start.elapsed() >= 20 * MS;
            (*guard, answer.timed_out(), waited)
        })
    };
    println!("{:?}", waiter.join().unwrap());
    let waiter = {
        let pair = Arc::clone(&pair);
        thread::spawn(move || {
            let (flag, changed) = &*pair;
            let mut guard = flag.lock().unwrap();
            let mut timed_out = false;
            while !*guard {
                let (again, answer) = changed.wait_timeout(guard, HOUR).unwrap();
                (guard, timed_out) = (again, answer.timed_out());
            }
            (*guard, timed_out)
        })
    };
    *pair.0.lock().unwrap() = true;
    pair.1.notify_one();
    println!("{:?}", waiter.join().unwrap());
}

fn buffer() {
    const ROOM: usize = 3;
    let shared = Arc::new((Mutex::new(VecDeque::new()), Condvar::new(), Condvar::new()));
    let producers = (0..4).map(|_| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (queue, not_empty, not_full) = &*shared;
            for number in 0..250_u64 {
                let queue = queue.lock().unwrap();
                let mut queue = not_full.wait_while(queue, |q| q.len() == ROOM).unwrap();
                queue.push_back(number);
                not_empty.notify_one();
            }
            0
        })
    });
    let consumers = (0..4).map(|_| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            let (queue, not_empty, not_full) = &*shared;
            let mut sum = 0;
            for _ in 0..250 {
                let queue = queue.lock().unwrap();
                let mut queue = not_empty.wait_while(queue, |q| q.is_empty()).unwrap();
                sum += queue.pop_front().unwrap();
                not_full.notify_one();
            }
            sum
        })
    });
    let all: Vec<_> = producers.chain(consumers).collect();
    let sum: u64 = all.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("{sum}");
}

fn condvar_poison() {
    let pair = Arc::new((Mutex::new(false), Condvar::new()));
    let (tell, told) = event();
    let waiter = {
        let pair = Arc::clone(&pair);
        thread::spawn(move || {
            let (flag, changed) = &*pair;
            let guard = flag.lock().unwrap();
            // The lock can be had as soon as this one waits.
            tell.send(()).unwrap();
            let answer = changed.wait_while(guard, |f| !*f);
            answer
                .map(|guard| *guard)
                .map_err(|error| *error.into_inner())
        })
    };
    let thrower = {
        let pair = Arc::clone(&pair);
        thread::spawn(move || {
            told.recv().unwrap();
            let mut guard = pair.0.lock().unwrap();
            *guard = true;
            pair.1.notify_all();
            panic!("with the lock of a condition");
        })
    };
    println!("{}", thrower.join().is_err());
    println!("{:?}", waiter.join().unwrap());
}
