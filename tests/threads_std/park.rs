//! `park` and `unpark`, `yield_now` and `sleep`.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::shared::{HOUR, MS, event};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("park: a permit is kept, and one only", permit),
    ("park: unpark ends it", ended),
    ("park: the first one, with a time", first_timed),
    ("park: with a time", timed),
    ("park: to and fro", to_and_fro),
    ("park: many, each by another", many),
    ("park: unpark of who has ended", of_ended),
    ("yield_now: lets others run", yields),
    ("sleep: the shortest ends first", sleep_order),
    ("sleep: is not shorter than asked", sleep_length),
    ("sleep: a thousand at once", sleep_many),
];

/// Whether it took at least as long as that. How much longer is not to be known.
fn takes(least: Duration, f: impl FnOnce()) -> bool {
    let start = Instant::now();
    f();
    start.elapsed() >= least
}

fn permit() {
    thread::current().unpark();
    thread::current().unpark();
    thread::park();
    println!("one");
    println!(
        "no other: {}",
        takes(20 * MS, || thread::park_timeout(20 * MS))
    );
    let (go, gone) = event();
    let thread = thread::spawn(move || {
        gone.recv().unwrap();
        // The permit may have been used up by `recv`, which parks as well.
        thread::current().unpark();
        thread::park();
        "parked with a permit"
    });
    thread.thread().unpark();
    go.send(()).unwrap();
    println!("{}", thread.join().unwrap());
}

fn ended() {
    let flag = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let parked = {
        let flag = Arc::clone(&flag);
        thread::spawn(move || {
            tell.send(thread::current()).unwrap();
            while !flag.load(SeqCst) {
                thread::park();
            }
            "ended"
        })
    };
    let handle = told.recv().unwrap();
    println!("the same: {}", handle.id() == parked.thread().id());
    flag.store(true, SeqCst);
    let unparker = thread::spawn(move || handle.unpark());
    unparker.join().unwrap();
    println!("{}", parked.join().unwrap());
    // Main, by another thread.
    let (main, flag) = (thread::current(), Arc::new(AtomicBool::new(false)));
    let setter = {
        let flag = Arc::clone(&flag);
        thread::spawn(move || {
            flag.store(true, SeqCst);
            main.unpark();
        })
    };
    while !flag.load(SeqCst) {
        thread::park();
    }
    setter.join().unwrap();
    println!("main: ended");
}

fn first_timed() {
    let thread = thread::spawn(|| takes(30 * MS, || thread::park_timeout(30 * MS)));
    println!("waits: {}", thread.join().unwrap());
}

fn timed() {
    let thread = thread::spawn(|| {
        thread::park_timeout(Duration::from_nanos(1));
        takes(30 * MS, || thread::park_timeout(30 * MS))
    });
    println!("waits: {}", thread.join().unwrap());
    thread::spawn(|| thread::park_timeout(Duration::ZERO))
        .join()
        .unwrap();
    println!("none: ended");
    let flag = Arc::new(AtomicBool::new(false));
    let parked = {
        let flag = Arc::clone(&flag);
        thread::spawn(move || {
            while !flag.load(SeqCst) {
                thread::park_timeout(HOUR);
            }
        })
    };
    flag.store(true, SeqCst);
    parked.thread().unpark();
    parked.join().unwrap();
    println!("an hour: ended");
}

fn to_and_fro() {
    const ROUNDS: u32 = 2000;
    let turn = Arc::new(AtomicU32::new(0));
    let main = thread::current();
    let other = {
        let turn = Arc::clone(&turn);
        thread::spawn(move || {
            for round in 0..ROUNDS {
                while turn.load(SeqCst) != 2 * round + 1 {
                    thread::park();
                }
                turn.store(2 * round + 2, SeqCst);
                main.unpark();
            }
        })
    };
    for round in 0..ROUNDS {
        turn.store(2 * round + 1, SeqCst);
        other.thread().unpark();
        while turn.load(SeqCst) != 2 * round + 2 {
            thread::park();
        }
    }
    other.join().unwrap();
    println!("{}", turn.load(SeqCst));
}

/// Each wakes the next one; the first is woken by main.
fn many() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut next: Option<thread::Thread> = None;
    let mut threads = Vec::new();
    for number in 0..50 {
        let (order, next_one) = (Arc::clone(&order), next.take());
        let thread = thread::spawn(move || {
            while order.lock().unwrap().last() != Some(&(number + 1)) {
                thread::park();
            }
            order.lock().unwrap().push(number);
            if let Some(next) = next_one {
                next.unpark();
            }
        });
        next = Some(thread.thread().clone());
        threads.push(thread);
    }
    // Afterwards they may all be through at any moment.
    count_threads();
    order.lock().unwrap().push(50);
    next.unwrap().unpark();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("{:?}", order.lock().unwrap());
}

fn of_ended() {
    let thread = thread::spawn(|| ());
    let handle = thread.thread().clone();
    thread.join().unwrap();
    handle.unpark();
    println!("nothing happens");
}

fn yields() {
    let turn = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let turn = Arc::clone(&turn);
            thread::spawn(move || {
                for round in 0..200 {
                    while turn.load(SeqCst) != 3 * round + number {
                        thread::yield_now();
                    }
                    turn.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("{}", turn.load(SeqCst));
}

/// The one thing here that is about time: on a busy machine one may oversleep, so it
/// is tried with longer and longer ones.
fn sleep_order() {
    let is_in_order = |unit: Duration| {
        let (tell, told) = mpsc::channel();
        for units in [9, 1, 3] {
            let tell = tell.clone();
            thread::spawn(move || {
                thread::sleep(unit * units);
                tell.send(units).unwrap();
            });
        }
        drop(tell);
        told.iter().eq([1, 3, 9])
    };
    let in_order = (0..6).any(|power| is_in_order(5 * MS * 2_u32.pow(power)));
    println!("in order: {in_order}");
}

fn sleep_length() {
    for length in [0, 1, 7, 20].map(|number| number * MS) {
        let thread = thread::spawn(move || takes(length, || thread::sleep(length)));
        println!("{length:?}: {}", thread.join().unwrap());
    }
    println!("main: {}", takes(5 * MS, || thread::sleep(5 * MS)));
}

fn sleep_many() {
    let asleep = Arc::new(AtomicU32::new(0));
    let threads: Vec<_> = (0..1000)
        .map(|_| {
            let asleep = Arc::clone(&asleep);
            thread::spawn(move || {
                asleep.fetch_add(1, SeqCst);
                thread::sleep(10 * MS);
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("{}", asleep.load(SeqCst));
}
