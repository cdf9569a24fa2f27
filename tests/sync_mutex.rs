//! `Mutex` and `Condvar`.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::{Log, MS, fork, quiet_panics, until, watchdog};
use greenlet::sync::{Condvar, Mutex};
use greenlet::{joinall, sleep, spawn, timeout, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// G133
#[test]
fn five_who_want_a_lock_get_it_in_their_order() {
    let _watchdog = watchdog();
    let mutex = Rc::new(Mutex::new(Vec::new()));
    let guard = mutex.lock();
    let takers: Vec<_> = (0..5)
        .map(|n| {
            let mutex = mutex.clone();
            spawn(move || {
                let mut list = mutex.lock();
                yield_now();
                list.push(n);
            })
        })
        .collect();
    yield_now();
    assert!(mutex.try_lock().is_none());
    drop(guard);
    assert!(mutex.try_lock().is_none(), "handed on, not left about");
    joinall(takers);
    assert_eq!(*mutex.try_lock().unwrap(), [0, 1, 2, 3, 4]);
}

/// G133: gevent's lock is released when its block is left by an error.
#[test]
fn a_panic_releases_the_lock_and_poisons_nothing() {
    let _watchdog = watchdog();
    quiet_panics();
    let mutex = Arc::new(Mutex::new(1));
    let failing = std::thread::spawn({
        let mutex = mutex.clone();
        move || {
            let _guard = mutex.lock();
            panic!("on purpose");
        }
    });
    assert!(failing.join().is_err());
    assert_eq!(*mutex.lock(), 1);
    let killed = spawn({
        let mutex = mutex.clone();
        move || {
            let _guard = mutex.lock();
            sleep(HOUR);
        }
    });
    yield_now();
    killed.kill();
    *mutex.lock() += 1;
    assert_eq!(*mutex.lock(), 2);
}

/// G133: the holder that locks again waits, until its time is up.
#[test]
fn the_holder_waits_for_itself() {
    let _watchdog = watchdog();
    let mutex = Mutex::new(());
    let guard = mutex.lock();
    assert!(mutex.lock_timeout(MS).is_none());
    assert!(timeout(MS, || mutex.lock()).is_err());
    drop(guard);
    assert!(mutex.lock_timeout(Duration::ZERO).is_some());
}

#[test]
fn two_hubs_and_their_greenlets_never_meet_in_it() {
    let _watchdog = watchdog();
    let mutex = Arc::new(Mutex::new(0u32));
    let threads = [0, 1].map(|_| {
        let mutex = mutex.clone();
        std::thread::spawn(move || {
            let greenlets = (0..10).map(|_| {
                let mutex = mutex.clone();
                spawn(move || {
                    for _ in 0..200 {
                        let mut count = mutex.lock();
                        let before = *count;
                        yield_now();
                        *count = before + 1;
                    }
                })
            });
            joinall(greenlets);
        })
    });
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!(*mutex.lock(), 4000);
}

#[test]
fn an_unsized_value_can_be_locked() {
    let mutex: Box<Mutex<[u8]>> = Box::new(Mutex::new([1, 2, 3]));
    mutex.lock()[1] = 7;
    assert_eq!(format!("{mutex:?}"), "Mutex { value: [1, 7, 3] }");
    let _guard = mutex.lock();
    assert_eq!(format!("{mutex:?}"), "Mutex { value: <locked> }");
}

#[test]
fn a_lock_whose_waiters_stayed_behind_in_a_fork_is_usable() {
    let _watchdog = watchdog();
    let mutex = Rc::new(Mutex::new(0));
    let guard = mutex.lock();
    let waiter = spawn({
        let mutex = mutex.clone();
        move || *mutex.lock() += 1
    });
    yield_now();
    let mut guard = Some(guard);
    let code = fork(|| {
        drop(guard.take());
        // Handed to nobody: the waiter is the parent's.
        i32::from(mutex.try_lock().is_none())
    });
    assert_eq!(code, 0);
    drop(guard.take());
    waiter.join().unwrap();
    assert_eq!(*mutex.lock(), 1);
}

#[test]
fn a_notification_wakes_the_first_and_notify_all_the_rest() {
    let _watchdog = watchdog();
    let pair = Rc::new((Mutex::new(()), Condvar::new()));
    let log = Log::new();
    let waiters: Vec<_> = (0..2500)
        .map(|n| {
            let (pair, log) = (pair.clone(), log.clone());
            spawn(move || {
                let _guard = pair.1.wait(pair.0.lock());
                log.add(n);
            })
        })
        .collect();
    yield_now();
    let guard = pair.0.lock();
    pair.1.notify_one();
    yield_now();
    assert!(log.is_empty(), "it needs the mutex first");
    drop(guard);
    until(|| !log.is_empty());
    assert_eq!(log.joined(), "0");
    pair.1.notify_all();
    joinall(waiters);
    let expected: Vec<String> = (0..2500).map(|n| n.to_string()).collect();
    assert_eq!(log.entries(), expected);
    // Nobody waits: these are not remembered.
    pair.1.notify_one();
    pair.1.notify_all();
    assert!(pair.1.wait_timeout(pair.0.lock(), MS).1.timed_out());
}

#[test]
fn a_wait_gives_the_mutex_back_meanwhile() {
    let _watchdog = watchdog();
    let pair = Arc::new((Mutex::new(0), Condvar::new()));
    let thread = std::thread::spawn({
        let pair = pair.clone();
        move || {
            for _ in 0..100 {
                let mut turn = pair.1.wait_while(pair.0.lock(), |turn| *turn % 2 == 0);
                *turn += 1;
                pair.1.notify_one();
            }
        }
    });
    for _ in 0..100 {
        let mut turn = pair.1.wait_while(pair.0.lock(), |turn| *turn % 2 == 1);
        *turn += 1;
        pair.1.notify_one();
    }
    thread.join().unwrap();
    assert_eq!(*pair.0.lock(), 200);
}

#[test]
fn a_wait_with_a_condition_and_a_limit_tells_which_it_was() {
    let _watchdog = watchdog();
    let (mutex, condvar) = (Mutex::new(5), Condvar::new());
    let (guard, result) = condvar.wait_timeout_while(mutex.lock(), HOUR, |n| *n != 5);
    assert!(!result.timed_out());
    let (_, result) = condvar.wait_timeout_while(guard, 2 * MS, |n| *n == 5);
    assert!(result.timed_out());
}

#[test]
fn a_notification_is_not_lost_with_the_one_who_is_killed() {
    let _watchdog = watchdog();
    let pair = Rc::new((Mutex::new(()), Condvar::new()));
    let went_on = Rc::new(Cell::new(0));
    let waiters = [0, 1].map(|_| {
        let (pair, went_on) = (pair.clone(), went_on.clone());
        spawn(move || {
            let guard = pair.1.wait(pair.0.lock());
            went_on.set(went_on.get() + 1);
            drop(guard);
            yield_now();
        })
    });
    yield_now();
    // Killed first: the second gets it.
    waiters[0].kill();
    pair.1.notify_one();
    let [killed, other] = waiters;
    assert!(killed.join().unwrap_err().is_killed());
    other.join().unwrap();
    assert_eq!(went_on.get(), 1);
    // Notified first: it has been notified, and dies at its next wait.
    let late = spawn({
        let (pair, went_on) = (pair.clone(), went_on.clone());
        move || {
            let guard = pair.1.wait(pair.0.lock());
            went_on.set(went_on.get() + 1);
            drop(guard);
            yield_now();
        }
    });
    yield_now();
    pair.1.notify_one();
    late.kill();
    assert!(late.join().unwrap_err().is_killed());
    assert_eq!(went_on.get(), 2);
    assert!(pair.0.try_lock().is_some(), "the mutex is free after both");
}
