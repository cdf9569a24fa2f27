//! Every primitive under two hubs and two plain threads at once, with random
//! kills and timeouts: what went in came out once. Run one again with
//! `GREENLET_SEED=<what was printed>`.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use common::stress::stress;
use common::watchdog;
use greenlet::sync::{
    AsyncResult, Barrier, BoundedSemaphore, Condvar, Event, Mutex, OnceLock, RLock, Semaphore,
};
use greenlet::{sleep, timeout};

/// Counts who is inside, also when they leave by an unwinding.
struct Inside<'a>(&'a AtomicUsize);

impl<'a> Inside<'a> {
    fn enter(count: &'a AtomicUsize, limit: usize) -> Inside<'a> {
        assert!(count.fetch_add(1, SeqCst) < limit, "too many inside");
        Inside(count)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[test]
fn semaphore() {
    let _watchdog = watchdog();
    let semaphore = Arc::new(Semaphore::new(3));
    let inside = Arc::new(AtomicUsize::new(0));
    let shared = (semaphore.clone(), inside.clone());
    stress("semaphore", move |random| {
        let (semaphore, inside) = (&shared.0, &shared.1);
        let permit = match random.below(4) {
            0 => semaphore.try_acquire(),
            1 => semaphore.acquire_timeout(random.short()),
            2 => timeout(random.short(), || semaphore.acquire()).ok(),
            _ => Some(semaphore.acquire()),
        };
        if let Some(_permit) = permit {
            let _inside = Inside::enter(inside, 3);
            random.pause();
        }
    });
    assert_eq!((semaphore.available(), inside.load(SeqCst)), (3, 0));
}

#[test]
fn bounded_semaphore() {
    let _watchdog = watchdog();
    let semaphore = Arc::new(BoundedSemaphore::new(2));
    let inside = Arc::new(AtomicUsize::new(0));
    let shared = (semaphore.clone(), inside.clone());
    stress("bounded_semaphore", move |random| {
        let permit = match random.below(2) {
            0 => shared.0.acquire_timeout(random.short()),
            _ => Some(shared.0.acquire()),
        };
        if let Some(permit) = permit {
            let inside = Inside::enter(&shared.1, 2);
            random.pause();
            drop(inside);
            match random.below(2) {
                0 => drop(permit),
                _ => {
                    permit.forget();
                    shared.0.release().unwrap();
                }
            }
        }
    });
    assert_eq!((semaphore.available(), inside.load(SeqCst)), (2, 0));
    assert!(semaphore.release().is_err());
}

#[test]
fn mutex() {
    let _watchdog = watchdog();
    let mutex = Arc::new(Mutex::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let shared = (mutex.clone(), done.clone());
    stress("mutex", move |random| {
        let mutex = &shared.0;
        let guard = match random.below(4) {
            0 => mutex.try_lock(),
            1 => mutex.lock_timeout(random.short()),
            2 => timeout(random.short(), || mutex.lock()).ok(),
            _ => Some(mutex.lock()),
        };
        if let Some(mut guard) = guard {
            let before = *guard;
            random.pause();
            *guard = before + 1;
            shared.1.fetch_add(1, SeqCst);
        }
    });
    assert_eq!(*mutex.try_lock().unwrap(), done.load(SeqCst));
}

#[test]
fn rlock() {
    let _watchdog = watchdog();
    let lock = Arc::new(RLock::new());
    let inside = Arc::new(AtomicUsize::new(0));
    let shared = (lock.clone(), inside.clone());
    stress("rlock", move |random| {
        let lock = &shared.0;
        let guard = match random.below(3) {
            0 => lock.try_lock(),
            1 => lock.lock_timeout(random.short()),
            _ => Some(lock.lock()),
        };
        if let Some(_guard) = guard {
            let _inside = Inside::enter(&shared.1, 1);
            random.pause();
            let _again = lock.lock();
            assert!(lock.is_owned());
            random.pause();
        }
    });
    assert!(!lock.is_locked());
    assert_eq!(inside.load(SeqCst), 0);
}

#[test]
fn condvar() {
    let _watchdog = watchdog();
    let pair = Arc::new((Mutex::new(0usize), Condvar::new()));
    let (made, used) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shared = (pair.clone(), made.clone(), used.clone());
    stress("condvar", move |random| {
        let (pair, made, used) = &shared;
        match random.below(5) {
            0 | 1 => {
                let mut tokens = pair.0.lock();
                *tokens += 1;
                made.fetch_add(1, SeqCst);
                match random.below(10) {
                    0 => pair.1.notify_all(),
                    _ => pair.1.notify_one(),
                }
            }
            how => {
                let tokens = pair.0.lock();
                let wait = random.short();
                let got = match how {
                    2 => timeout(wait, || pair.1.wait_while(tokens, |n| *n == 0)).ok(),
                    _ => Some(pair.1.wait_timeout_while(tokens, wait, |n| *n == 0).0),
                };
                if let Some(mut tokens) = got {
                    if *tokens > 0 {
                        *tokens -= 1;
                        used.fetch_add(1, SeqCst);
                    }
                }
            }
        }
    });
    let left = *pair.0.try_lock().unwrap();
    assert_eq!(made.load(SeqCst), used.load(SeqCst) + left);
}

/// Sets an event again and again until it is dropped.
struct Driver(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Driver {
    fn start(mut turn: impl FnMut() + Send + 'static) -> Driver {
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let over = over.clone();
            move || {
                while !over.load(SeqCst) {
                    sleep(Duration::from_micros(100));
                    turn();
                }
            }
        });
        Driver(over, Some(thread))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
        if let Some(thread) = self.1.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

#[test]
fn event() {
    let _watchdog = watchdog();
    let event = Arc::new(Event::new());
    // Whoever waits when it is set goes through, however short that is.
    let driver = Driver::start({
        let event = event.clone();
        move || {
            event.set();
            event.clear();
        }
    });
    let shared = event.clone();
    stress("event", move |random| {
        match random.below(5) {
            0 => drop(shared.wait_timeout(random.short())),
            1 => drop(timeout(random.short(), || shared.wait())),
            2 => {
                shared.set();
                random.pause();
                shared.clear();
            }
            _ => shared.wait(),
        };
    });
    drop(driver);
    event.clear();
    assert!(!event.wait_timeout(Duration::from_millis(1)));
}

#[test]
fn async_result() {
    const MANY: usize = 300;
    let _watchdog = watchdog();
    let results: Arc<Vec<AsyncResult<usize>>> =
        Arc::new((0..MANY).map(|_| AsyncResult::new()).collect());
    let set = Arc::new(AtomicUsize::new(0));
    let give = {
        let (results, set) = (results.clone(), set.clone());
        move |at: usize| {
            if results[at].set(at).is_ok() {
                set.fetch_add(1, SeqCst);
            }
        }
    };
    let driver = Driver::start({
        let (mut next, give) = (0, give.clone());
        move || {
            give(next % MANY);
            next += 1;
        }
    });
    let shared = results.clone();
    stress("async_result", move |random| {
        let at = random.below(MANY as u64);
        let value = match random.below(4) {
            0 => shared[at].wait_timeout(random.short()).copied(),
            1 => timeout(random.short(), || shared[at].get()).ok(),
            2 => {
                give(at);
                shared[at].try_get().copied()
            }
            _ => Some(shared[at].get()),
        };
        assert!(value.is_none_or(|value| value == at));
    });
    drop(driver);
    let there = results.iter().filter(|result| result.is_ready()).count();
    assert_eq!(set.load(SeqCst), there, "each was given once");
}

#[test]
fn barrier() {
    const PARTIES: usize = 4;
    let _watchdog = watchdog();
    let barrier = Arc::new(Barrier::new(PARTIES));
    let (led, passed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shared = (barrier.clone(), led.clone(), passed.clone());
    let killed = stress("barrier", move |random| {
        let result = match random.below(3) {
            0 => shared.0.wait_timeout(random.short() / 10),
            _ => shared.0.wait_timeout(random.short() * 5),
        };
        if let Some(result) = result {
            shared.1.fetch_add(usize::from(result.is_leader()), SeqCst);
            shared.2.fetch_add(1, SeqCst);
        }
    });
    // One that was killed when all had come has come, and tells nobody.
    let (led, passed) = (led.load(SeqCst), passed.load(SeqCst));
    let all = led * PARTIES;
    assert!(led > 0 && passed <= all && all <= passed + killed);
    assert!(
        format!("{barrier:?}").ends_with("waiting: 0 }"),
        "{barrier:?}"
    );
}

#[test]
fn once_lock() {
    const MANY: usize = 400;
    let _watchdog = watchdog();
    let cells: Arc<Vec<OnceLock<usize>>> = Arc::new((0..MANY).map(|_| OnceLock::new()).collect());
    let made: Arc<Vec<AtomicUsize>> = Arc::new((0..MANY).map(|_| AtomicUsize::new(0)).collect());
    let shared = (cells.clone(), made.clone());
    stress("once_lock", move |random| {
        let at = random.below(MANY as u64);
        let limit = random.short() * 10;
        let _ = timeout(limit, || {
            let value = shared.0[at].get_or_init(|| {
                sleep(random.short());
                shared.1[at].fetch_add(1, SeqCst);
                at
            });
            assert_eq!(*value, at);
        });
    });
    for (cell, made) in cells.iter().zip(made.iter()) {
        assert_eq!(usize::from(cell.get().is_some()), made.load(SeqCst));
    }
}
