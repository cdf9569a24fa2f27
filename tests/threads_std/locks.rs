//! `Mutex` and `RwLock`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier, Mutex, RwLock};
use std::thread;

use crate::shared::{MS, event, text};
use crate::twice::{Section, count_threads};

pub const SECTIONS: &[Section] = &[
    ("mutex: one at a time", one_at_a_time),
    ("mutex: held across waits", held),
    ("mutex: try_lock", try_lock),
    ("mutex: poison", poison),
    ("rwlock: readers together, a writer alone", readers),
    ("rwlock: tries", rw_tries),
    ("rwlock: poison", rw_poison),
    ("rwlock: readers and writers", rw_many),
];

fn one_at_a_time() {
    let total = Arc::new(Mutex::new(0_u64));
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let total = Arc::clone(&total);
            thread::spawn(move || {
                for _ in 0..1000 {
                    let mut total = total.lock().unwrap();
                    let seen = *total;
                    if number == 0 && seen % 16 == 0 {
                        thread::yield_now();
                    }
                    *total = seen + 1;
                }
            })
        })
        .collect();
    count_threads();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    println!("{}", Arc::into_inner(total).unwrap().into_inner().unwrap());
}

/// Who holds it sleeps, waits for a message and for another thread.
fn held() {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (tell, told) = event();
    let (go, gone) = event();
    let holder = {
        let log = Arc::clone(&log);
        thread::spawn(move || {
            let mut log = log.lock().unwrap();
            tell.send(()).unwrap();
            thread::sleep(MS);
            gone.recv().unwrap();
            thread::spawn(|| thread::sleep(MS)).join().unwrap();
            log.push("holder");
        })
    };
    told.recv().unwrap();
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || log.lock().unwrap().push("waiter"))
        })
        .collect();
    go.send(()).unwrap();
    log.lock().unwrap().push("main");
    holder.join().unwrap();
    waiters
        .into_iter()
        .for_each(|waiter| waiter.join().unwrap());
    let log = log.lock().unwrap();
    println!("{} of {}", log[0], log.len());
}

fn try_lock() {
    let mutex = Arc::new(Mutex::new(1));
    let other = {
        let mutex = Arc::clone(&mutex);
        move || thread::spawn(move || format!("{:?}", mutex.try_lock())).join()
    };
    let guard = mutex.lock().unwrap();
    println!("{}", other.clone()().unwrap());
    drop(guard);
    println!("{}", other().unwrap());
    println!("{mutex:?}");
}

fn poison() {
    let mutex = Arc::new(Mutex::new(1));
    println!("{}", mutex.is_poisoned());
    let (tell, told) = event();
    let waiter = {
        let mutex = Arc::clone(&mutex);
        thread::spawn(move || {
            told.recv().unwrap();
            mutex
                .lock()
                .map(|guard| *guard)
                .map_err(|error| *error.into_inner())
        })
    };
    let thrower = {
        let mutex = Arc::clone(&mutex);
        thread::spawn(move || {
            let mut guard = mutex.lock().unwrap();
            tell.send(()).unwrap();
            thread::sleep(MS);
            *guard = 2;
            panic!("with the lock");
        })
    };
    println!("{}", thrower.join().is_err());
    println!("the waiter: {:?}", waiter.join().unwrap());
    println!("{} {:?}", mutex.is_poisoned(), mutex.try_lock());
    let unwrapped = catch_unwind(AssertUnwindSafe(|| drop(mutex.lock().unwrap())));
    println!("{}", text(&*unwrapped.unwrap_err()));
    mutex.clear_poison();
    println!("{} {:?}", mutex.is_poisoned(), mutex.lock());
}

fn readers() {
    let lock = Arc::new(RwLock::new(5));
    let inside = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (lock, inside) = (Arc::clone(&lock), Arc::clone(&inside));
            thread::spawn(move || {
                let guard = lock.read().unwrap();
                // All four are inside at once, or nobody gets past it.
                inside.wait();
                *guard
            })
        })
        .collect();
    let sum: i32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    println!("{sum}");
    let (tell, told) = event();
    let guard = lock.read().unwrap();
    let writer = {
        let lock = Arc::clone(&lock);
        thread::spawn(move || {
            tell.send(()).unwrap();
            *lock.write().unwrap() += 1;
        })
    };
    told.recv().unwrap();
    thread::yield_now();
    println!("while it is read: {guard}");
    drop(guard);
    writer.join().unwrap();
    println!("written: {}", lock.read().unwrap());
}

fn rw_tries() {
    let lock = RwLock::new(1);
    let tries = || {
        let there = |scope| {
            let (read, write) = (lock.try_read().is_ok(), lock.try_write().is_ok());
            println!("{scope}: read {read}, write {write}");
        };
        thread::scope(|scope| scope.spawn(|| there("another thread")).join().unwrap());
    };
    let guard = lock.read().unwrap();
    tries();
    drop(guard);
    let guard = lock.write().unwrap();
    tries();
    drop(guard);
    tries();
}

fn rw_poison() {
    let lock = RwLock::new(1);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _guard = lock.read().unwrap();
            panic!("a reader");
        });
        println!("{} {}", reader.join().is_err(), lock.is_poisoned());
        let writer = scope.spawn(|| {
            let mut guard = lock.write().unwrap();
            *guard = 7;
            panic!("a writer");
        });
        println!("{} {}", writer.join().is_err(), lock.is_poisoned());
        let read = lock.read().map_err(|error| **error.get_ref());
        println!("{:?}", read.map(|guard| *guard));
    });
    lock.clear_poison();
    println!("{lock:?}");
}

fn rw_many() {
    let lock = Arc::new(RwLock::new((0_u64, 0_u64)));
    let threads: Vec<_> = (0..12)
        .map(|number| {
            let lock = Arc::clone(&lock);
            thread::spawn(move || {
                let mut torn = 0;
                for _ in 0..300 {
                    if number % 4 == 0 {
                        let mut pair = lock.write().unwrap();
                        pair.0 += 1;
                        thread::yield_now();
                        pair.1 += 1;
                    } else {
                        let pair = lock.read().unwrap();
                        torn += u32::from(pair.0 != pair.1);
                    }
                }
                torn
            })
        })
        .collect();
    let torn: u32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
    println!("torn: {torn}, {:?}", lock.read().unwrap());
}
