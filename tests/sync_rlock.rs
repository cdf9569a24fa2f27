//! `RLock`: who owns it, and how often.

mod common;

use std::rc::Rc;
use std::sync::Arc;

use common::{MS, flag, until, watchdog};
use greenlet::error::NotOwner;
use greenlet::sync::{Event, RLock};
use greenlet::{joinall, spawn, yield_now};

/// G134
#[test]
fn the_owner_takes_it_again_and_releases_it_as_often() {
    let lock = RLock::new();
    assert!(!lock.is_owned() && !lock.is_locked());
    for _ in 0..3 {
        lock.acquire();
    }
    drop(lock.try_lock().unwrap());
    for _ in 0..3 {
        assert!(lock.is_owned());
        assert_eq!(lock.release(), Ok(()));
    }
    assert!(!lock.is_locked());
    assert_eq!(lock.release(), Err(NotOwner));
}

/// G134
#[test]
fn the_owner_is_the_greenlet_and_not_its_thread() {
    let _watchdog = watchdog();
    let lock = Rc::new(RLock::new());
    let guard = lock.lock();
    let tried = flag();
    let other = spawn({
        let (lock, tried) = (lock.clone(), tried.clone());
        move || {
            assert!(!lock.is_owned() && lock.is_locked());
            assert_eq!(lock.release(), Err(NotOwner));
            assert!(lock.try_lock().is_none());
            assert!(lock.lock_timeout(MS).is_none());
            tried.set(true);
            let _guard = lock.lock();
            assert!(lock.is_owned());
        }
    });
    until(|| tried.get());
    drop(guard);
    assert!(lock.is_locked() && lock.try_lock().is_none(), "handed on");
    other.join().unwrap();
    assert!(!lock.is_locked());
}

#[test]
fn another_thread_is_another_owner() {
    let _watchdog = watchdog();
    let lock = Arc::new(RLock::new());
    let tried = Arc::new(Event::new());
    let guard = lock.lock();
    let thread = std::thread::spawn({
        let (lock, tried) = (lock.clone(), tried.clone());
        move || {
            assert_eq!(lock.release(), Err(NotOwner));
            assert!(lock.try_lock().is_none());
            tried.set();
            let _outer = lock.lock();
            let _inner = lock.lock();
            assert!(lock.is_owned());
        }
    });
    tried.wait();
    drop(guard);
    thread.join().unwrap();
    assert!(lock.try_lock().is_some());
}

#[test]
fn a_guard_that_another_greenlet_drops_releases_its_own_level_only() {
    let _watchdog = watchdog();
    let lock: &'static RLock = Box::leak(Box::new(RLock::new()));
    let guard = lock.lock();
    lock.acquire();
    spawn(move || drop(guard)).join().unwrap();
    assert!(lock.is_owned());
    lock.release().unwrap();
    assert!(!lock.is_locked());
    // One that is out of date does not take the lock from its new owner.
    let stale = lock.lock();
    lock.release().unwrap();
    let owner = spawn(move || {
        lock.acquire();
        yield_now();
        assert!(lock.is_owned());
        lock.release().unwrap();
    });
    yield_now();
    drop(stale);
    owner.join().unwrap();
}

#[test]
fn a_waiter_that_is_killed_when_it_is_served_gives_it_to_the_next() {
    let _watchdog = watchdog();
    let lock = Rc::new(RLock::new());
    let guard = lock.lock();
    let takers: Vec<_> = (0..3)
        .map(|_| {
            let lock = lock.clone();
            spawn(move || {
                let _guard = lock.lock();
                yield_now();
            })
        })
        .collect();
    yield_now();
    drop(guard);
    takers[0].kill();
    takers[1].kill();
    let killed = joinall(takers).into_iter().map(|result| result.is_err());
    assert_eq!(killed.collect::<Vec<_>>(), [true, true, false]);
    assert!(!lock.is_locked());
}
