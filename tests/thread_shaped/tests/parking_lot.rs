//! parking_lot keeps its place in a queue in a thread-local: of a thread, one greenlet
//! waits at a time, and the thread with it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use greenlet::{sleep, spawn, yield_now};
use greenlet_thread_shaped::{End, HOUR, MS, join_all, run, stuck};
use parking_lot::{Condvar, Mutex, RwLock};

const WAIT: &str = "a plain FUTEX_WAIT";

fn main() {
    run(&[
        ("a_lock_that_is_free_needs_no_wait", End::Well, free),
        ("another_thread_lets_go_of_the_lock", End::Well, answered),
        ("two_threads_of_greenlets_share_a_lock", End::Well, shared),
        ("another_thread_notifies", End::Well, notified),
        ("a_wait_with_a_timeout_ends", End::Well, timed),
        (
            "a_lock_of_another_greenlet_aborts",
            End::Aborted(WAIT),
            held,
        ),
        (
            "a_rwlock_of_another_greenlet_aborts",
            End::Aborted(WAIT),
            rwlock,
        ),
        (
            "a_greenlet_that_would_notify_aborts",
            End::Aborted(WAIT),
            unnotified,
        ),
    ]);
}

fn free() {
    let mutex = Rc::new(Mutex::new(0));
    join_all((0..10).map(|_| {
        let mutex = Rc::clone(&mutex);
        spawn(move || {
            for _ in 0..100 {
                *mutex.lock() += 1;
                yield_now();
            }
        })
    }));
    assert_eq!(*mutex.lock(), 1000);
}

fn answered() {
    for _ in 0..20 {
        let mutex = Arc::new(Mutex::new(0));
        let held = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (mutex, held) = (Arc::clone(&mutex), Arc::clone(&held));
            move || {
                let mut guard = mutex.lock();
                held.store(true, Ordering::Relaxed);
                thread::sleep(2 * MS);
                *guard = 1;
            }
        });
        while !held.load(Ordering::Relaxed) {
            sleep(MS / 10);
        }
        join_all((0..3).map(|_| {
            let mutex = Arc::clone(&mutex);
            spawn(move || assert_eq!(*mutex.lock(), 1))
        }));
        thread.join().unwrap();
    }
}

fn shared() {
    let mutex = Arc::new(Mutex::new(0));
    let work = |mutex: &Arc<Mutex<u32>>| {
        join_all((0..4).map(|_| {
            let mutex = Arc::clone(mutex);
            spawn(move || {
                for round in 0..500 {
                    *mutex.lock() += 1;
                    if round % 7 == 0 {
                        yield_now();
                    }
                }
            })
        }));
    };
    let thread = thread::spawn({
        let mutex = Arc::clone(&mutex);
        move || work(&mutex)
    });
    work(&mutex);
    thread.join().unwrap();
    assert_eq!(*mutex.lock(), 4000);
}

fn notified() {
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let thread = thread::spawn({
        let shared = Arc::clone(&shared);
        move || {
            for _ in 0..2 {
                thread::sleep(2 * MS);
                *shared.0.lock() += 1;
                shared.1.notify_all();
            }
        }
    });
    join_all((0..2).map(|_| {
        let shared = Arc::clone(&shared);
        spawn(move || {
            let mut count = shared.0.lock();
            while *count < 2 {
                shared.1.wait(&mut count);
            }
        })
    }));
    thread.join().unwrap();
}

fn timed() {
    let shared = Rc::new((Mutex::new(()), Condvar::new()));
    join_all((0..2).map(|_| {
        let shared = Rc::clone(&shared);
        spawn(move || {
            let mut guard = shared.0.lock();
            assert!(shared.1.wait_for(&mut guard, 5 * MS).timed_out());
        })
    }));
    let guard = shared.0.lock();
    assert!(shared.0.try_lock_for(5 * MS).is_none());
    drop(guard);
}

fn held() {
    let mutex = Rc::new(Mutex::new(()));
    let holder = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            let _guard = mutex.lock();
            sleep(2 * MS);
        }
    });
    join_all([holder, stuck(move || drop(mutex.lock()))]);
}

fn rwlock() {
    let lock = Rc::new(RwLock::new(()));
    let reader = spawn({
        let lock = Rc::clone(&lock);
        move || {
            let _guard = lock.read();
            sleep(2 * MS);
        }
    });
    join_all([reader, stuck(move || drop(lock.write()))]);
}

fn unnotified() {
    let shared = Rc::new((Mutex::new(()), Condvar::new()));
    let waiter = stuck({
        let shared = Rc::clone(&shared);
        move || shared.1.wait(&mut shared.0.lock())
    });
    let notifier = spawn(move || {
        sleep(MS);
        shared.1.notify_all();
        sleep(HOUR);
    });
    join_all([waiter, notifier]);
}
