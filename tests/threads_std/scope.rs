//! `thread::scope`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Barrier, mpsc};
use std::thread;

use crate::shared::{event, text};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("scope: borrows what is around it", borrows),
    ("scope: gives what it and its threads return", results),
    ("scope: waits for those that nobody joins", waits),
    ("scope: a panic that is joined is given", joined_panic),
    ("scope: a panic that nobody joins is thrown", thrown_panic),
    ("scope: a panic of its own waits for all", own_panic),
    ("scope: its threads spawn in it", spawning),
    ("scope: nested ones", nested),
    ("scope: names and handles", names),
    ("scope: many rounds", rounds),
];

fn borrows() {
    let text = "borrowed".to_owned();
    let mut numbers = [1, 2, 3, 4];
    let (left, right) = numbers.split_at_mut(2);
    thread::scope(|scope| {
        scope.spawn(|| left.iter_mut().for_each(|n| *n *= 10));
        scope.spawn(|| right.iter_mut().for_each(|n| *n *= 100));
        scope.spawn(|| println!("{text}"));
    });
    println!("{text} {numbers:?}");
    let (total, barrier) = (AtomicU32::new(0), Barrier::new(9));
    thread::scope(|scope| {
        for number in 0..8 {
            let (total, barrier) = (&total, &barrier);
            scope.spawn(move || {
                barrier.wait();
                total.fetch_add(number, SeqCst);
            });
        }
        count_threads();
        barrier.wait();
    });
    println!("{}", total.load(SeqCst));
}

fn results() {
    let words = ["one", "three", "fifteen"];
    let lengths = thread::scope(|scope| {
        let threads = words.map(|word| scope.spawn(move || word.len()));
        threads.map(|thread| thread.join().unwrap())
    });
    println!("{lengths:?}");
}

fn waits() {
    let (go, gone) = event();
    let ended = AtomicU32::new(0);
    let opener = thread::spawn(move || {
        thread::yield_now();
        go.send(()).unwrap();
    });
    thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            gone.recv().unwrap();
            ended.fetch_add(1, SeqCst);
        });
        scope.spawn(|| ended.fetch_add(1, SeqCst));
    });
    println!("ended: {}", ended.load(SeqCst));
    opener.join().unwrap();
}

fn joined_panic() {
    let result = thread::scope(|scope| {
        let thrower = scope.spawn(|| panic!("in a scope"));
        text(&*thrower.join().unwrap_err())
    });
    println!("{result}");
}

fn thrown_panic() {
    let ended = AtomicU32::new(0);
    let (go, gone) = event();
    let result = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|scope| {
            scope.spawn(move || {
                let _go = go;
                panic!("nobody joins");
            });
            let ended = &ended;
            scope.spawn(move || {
                println!("told: {}", gone.recv().is_ok());
                ended.fetch_add(1, SeqCst);
            });
        });
    }));
    println!("{}", text(&*result.unwrap_err()));
    println!("the other has ended: {}", ended.load(SeqCst));
}

fn own_panic() {
    let ended = AtomicU32::new(0);
    let (go, gone) = event();
    let result = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|scope| {
            let ended = &ended;
            scope.spawn(move || {
                println!("told: {}", gone.recv().is_ok());
                ended.fetch_add(1, SeqCst);
            });
            let _go = go;
            panic!("of the scope itself");
        });
    }));
    println!("{}", text(&*result.unwrap_err()));
    println!("the thread has ended: {}", ended.load(SeqCst));
}

fn spawning() {
    let count = AtomicU32::new(0);
    thread::scope(|scope| {
        let count = &count;
        scope.spawn(move || {
            for _ in 0..3 {
                scope.spawn(move || {
                    scope.spawn(|| count.fetch_add(1, SeqCst));
                    count.fetch_add(10, SeqCst);
                });
            }
            count.fetch_add(100, SeqCst);
        });
    });
    println!("{}", count.load(SeqCst));
}

fn nested() {
    let outer = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 1..=3 {
            let outer = &outer;
            scope.spawn(move || {
                let inner = AtomicU32::new(0);
                thread::scope(|scope| {
                    for _ in 0..number {
                        scope.spawn(|| inner.fetch_add(number, SeqCst));
                    }
                });
                outer.fetch_add(inner.into_inner(), SeqCst);
            });
        }
    });
    println!("{}", outer.load(SeqCst));
    let result = catch_unwind(|| {
        thread::scope(|scope| {
            let inner = scope.spawn(|| {
                thread::scope(|scope| {
                    scope.spawn(|| panic!("at the bottom"));
                });
            });
            text(&*inner.join().unwrap_err())
        })
    });
    println!("{}", result.unwrap());
}

fn names() {
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("scoped".to_owned());
        let (go, gone) = event();
        let thread = builder.spawn_scoped(scope, move || {
            gone.recv().unwrap();
            let me = thread::current();
            (me.name().map(str::to_owned), me.id())
        });
        let thread = thread.unwrap();
        println!("finished: {}", thread.is_finished());
        let id = thread.thread().id();
        go.send(()).unwrap();
        while !thread.is_finished() {
            thread::yield_now();
        }
        let (name, own) = thread.join().unwrap();
        println!("{name:?}, the same id: {}", id == own);
    });
}

fn rounds() {
    let mut total = 0;
    for round in 0..200 {
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            for number in 0..4 {
                let tell = tell.clone();
                scope.spawn(move || tell.send(round * number).unwrap());
            }
            drop(tell);
            total += told.iter().sum::<u32>();
        });
    }
    println!("{total}");
}
