//! The locks of C under `monkey::patch_all`: greenlets of one OS thread, isolated and
//! light ones, and OS threads, in both directions.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;
#[path = "common/patched.rs"]
mod patched;
#[path = "common/pthread.rs"]
mod pthread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use common::{MS, os_thread, until, watchdog};
use greenlet::{sleep, spawn, spawn_isolated, yield_now};
use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME};
use pthread::*;

// Mutexes.

#[test]
fn a_mutex_parks_who_waits_for_it() {
    let _watchdog = watchdog();
    for kind in [
        libc::PTHREAD_MUTEX_NORMAL,
        libc::PTHREAD_MUTEX_RECURSIVE,
        libc::PTHREAD_MUTEX_ERRORCHECK,
        3, // adaptive
    ] {
        let ticker = ticker();
        let mutex = Mutex::of(kind, false);
        assert_eq!(mutex.lock(), 0);
        let waiting = [(); 3].map(|()| {
            spawn_isolated(move || {
                assert_eq!(mutex.lock(), 0);
                sleep(MS);
                assert_eq!(mutex.unlock(), 0);
            })
        });
        ticker.tick();
        assert!(waiting.iter().all(|it| !it.is_finished()));
        assert_eq!(mutex.unlock(), 0);
        join_all(waiting);
        assert_eq!(mutex.try_lock(), 0);
        assert_eq!(mutex.unlock(), 0);
    }
}

#[test]
fn light_greenlets_wait_for_each_other_at_a_normal_mutex() {
    let _watchdog = watchdog();
    let mutex = Mutex::new();
    let take = move || {
        assert_eq!(mutex.lock(), 0);
        assert_eq!(mutex.unlock(), 0);
    };
    parks(
        take,
        move || assert_eq!(mutex.lock(), 0),
        move || {
            assert_eq!(mutex.unlock(), 0);
        },
    );
}

#[test]
fn a_thread_that_has_the_mutex_lets_an_isolated_greenlet_park() {
    let _watchdog = watchdog();
    let mutex = Mutex::new();
    let take = move || {
        assert_eq!(mutex.lock(), 0);
        assert_eq!(mutex.unlock(), 0);
    };
    parks_for_a_thread(
        take,
        move || assert_eq!(mutex.lock(), 0),
        move || {
            assert_eq!(mutex.unlock(), 0);
        },
    );
}

/// An allocator may be waiting: see `monkey::locks::mutex`.
#[test]
fn a_light_greenlet_blocks_for_a_mutex_that_another_thread_has() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Mutex::new();
    let taken = Arc::new(AtomicBool::new(false));
    let thread = os_thread({
        let taken = Arc::clone(&taken);
        move || {
            assert_eq!(mutex.lock(), 0);
            taken.store(true, Ordering::SeqCst);
            std::thread::sleep(20 * MS);
            assert_eq!(mutex.unlock(), 0);
        }
    });
    until(|| taken.load(Ordering::SeqCst));
    let before = ticker.ticks();
    assert_eq!(mutex.lock(), 0);
    assert_eq!(ticker.ticks(), before);
    assert_eq!(mutex.unlock(), 0);
    thread.join().unwrap();
}

#[test]
fn a_thread_waits_for_a_greenlet() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Mutex::new();
    let (started, done) = (Count::default(), Count::default());
    assert_eq!(mutex.lock(), 0);
    let threads = [(); 2].map(|()| {
        let (started, done) = (started.clone(), done.clone());
        os_thread(move || {
            started.add();
            assert_eq!(mutex.lock(), 0);
            done.add();
            assert_eq!(mutex.unlock(), 0);
        })
    });
    until(|| started.get() == 2);
    ticker.tick();
    assert_eq!(done.get(), 0);
    assert_eq!(mutex.unlock(), 0);
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(done.get(), 2);
}

#[test]
fn an_errorcheck_mutex_tells_who_has_it() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    let mutex = Mutex::of(libc::PTHREAD_MUTEX_ERRORCHECK, false);
    let owner = spawn_isolated(move || {
        assert_eq!(mutex.lock(), 0);
        assert_eq!(mutex.lock(), libc::EDEADLK);
        assert_eq!(mutex.lock_until(after(CLOCK_REALTIME, HOUR)), libc::EDEADLK);
        sleep(3 * MS);
        assert_eq!(mutex.unlock(), 0);
        assert_eq!(mutex.unlock(), libc::EPERM);
    });
    yield_now();
    let other = spawn_isolated(move || {
        assert_eq!(mutex.unlock(), libc::EPERM);
        assert_eq!(mutex.lock(), 0);
        assert_eq!(mutex.unlock(), 0);
    });
    join_all([owner, other]);
}

#[test]
fn a_recursive_mutex_counts() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Mutex::of(libc::PTHREAD_MUTEX_RECURSIVE, false);
    let go = Arc::new(AtomicBool::new(false));
    let owner = spawn_isolated({
        let go = Arc::clone(&go);
        move || {
            for _ in 0..3 {
                assert_eq!(mutex.lock(), 0);
            }
            until(|| go.load(Ordering::Relaxed));
            for _ in 0..3 {
                assert_eq!(mutex.try_lock(), 0);
                assert_eq!(mutex.unlock(), 0);
                assert_eq!(mutex.unlock(), 0);
            }
            assert_eq!(mutex.unlock(), libc::EPERM);
        }
    });
    yield_now();
    let other = spawn_isolated(move || {
        assert_eq!(mutex.lock(), 0);
        assert_eq!(mutex.unlock(), 0);
    });
    ticker.tick();
    assert!(!other.is_finished());
    go.store(true, Ordering::Relaxed);
    join_all([owner, other]);
}

#[test]
fn a_timed_lock_ends_in_time_and_answers_as_libc_does() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Mutex::new();
    let bad = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000_000,
    };
    // It is not looked at where there is no need to wait.
    assert_eq!(mutex.lock_until(bad), 0);
    let told = Count::default();
    let tell = told.clone();
    let waiter = spawn_isolated(move || {
        for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
            let start = Instant::now();
            let answer = mutex.lock_by(clock, after(clock, 10 * MS));
            assert_eq!(answer, libc::ETIMEDOUT);
            assert!(start.elapsed() >= 10 * MS);
            assert_eq!(mutex.lock_by(clock, bad), libc::EINVAL);
            let long_ago = libc::timespec {
                tv_sec: -1,
                tv_nsec: 0,
            };
            assert_eq!(mutex.lock_by(clock, long_ago), libc::ETIMEDOUT);
        }
        let other = libc::CLOCK_PROCESS_CPUTIME_ID;
        assert_eq!(
            mutex.lock_by(other, after(CLOCK_REALTIME, HOUR)),
            libc::EINVAL
        );
        tell.add();
        assert_eq!(mutex.lock_until(after(CLOCK_REALTIME, HOUR)), 0);
        assert_eq!(mutex.unlock(), 0);
    });
    ticker.ticks_during(|| until(|| told.get() == 1));
    ticker.tick();
    assert!(!waiter.is_finished());
    assert_eq!(mutex.unlock(), 0);
    waiter.join().unwrap();
}

/// 50 greenlets of two hubs and 2 OS threads hand a mutex around.
#[test]
fn every_wake_up_arrives() {
    const ROUNDS: usize = 400;
    let _watchdog = watchdog();
    common::patch();
    let mutex = Mutex::new();
    struct Plain(std::cell::UnsafeCell<usize>);
    // SAFETY: it is reached under the mutex.
    unsafe impl Sync for Plain {}
    static NUMBER: Plain = Plain(std::cell::UnsafeCell::new(0));
    let work = move |greenlet: bool| {
        for round in 0..ROUNDS {
            assert_eq!(mutex.lock(), 0);
            // SAFETY: under the mutex.
            unsafe { *NUMBER.0.get() += 1 };
            if greenlet && round % 16 == 0 {
                yield_now();
            }
            assert_eq!(mutex.unlock(), 0);
            if greenlet && round % 5 == 0 {
                yield_now();
            }
        }
    };
    let hub = move || {
        join_all((0..25).map(|_| spawn_isolated(move || work(true))));
    };
    let threads = [
        os_thread(hub),
        os_thread(move || work(false)),
        os_thread(move || work(false)),
    ];
    hub();
    for thread in threads {
        thread.join().unwrap();
    }
    // SAFETY: all of them have ended.
    assert_eq!(unsafe { *NUMBER.0.get() }, 52 * ROUNDS);
}

/// A greenlet that wants its own normal mutex again waits for ever, as a thread would; and
/// where nobody can end that, it is said.
#[test]
fn a_deadlock_is_reported() {
    let finished = common::run_alone("a_deadlock_is_reported", || {
        let code = common::fork(|| {
            common::patch();
            let stuck = greenlet::Builder::new().name("stuck").spawn(|| {
                let mutex = Mutex::new();
                mutex.lock();
                mutex.lock();
            });
            assert!(stuck.unwrap().join().is_err());
            0
        });
        assert_eq!(code, 0);
    });
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said("stuck: waiting for a mutex of C's");
    }
}

/// A wait that nobody may interrupt.
#[test]
fn a_kill_comes_after_the_lock() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Mutex::new();
    assert_eq!(mutex.lock(), 0);
    let has_it = Count::default();
    let victim = spawn({
        let has_it = has_it.clone();
        move || {
            assert_eq!(mutex.lock(), 0);
            has_it.add();
            assert_eq!(mutex.unlock(), 0);
            sleep(HOUR);
        }
    });
    yield_now();
    victim.kill();
    ticker.tick();
    assert!(!victim.is_finished());
    assert_eq!(mutex.unlock(), 0);
    assert!(victim.join().unwrap_err().is_killed());
    assert_eq!(has_it.get(), 1);
}

// Rwlocks.

#[test]
fn an_rwlock_parks_readers_and_writers() {
    let _watchdog = watchdog();
    let lock = Rwlock::new(false);
    let read = move || {
        assert_eq!(lock.read(), 0);
        sleep(MS);
        lock.unlock();
    };
    let write = move || {
        assert_eq!(lock.write(), 0);
        sleep(MS);
        lock.unlock();
    };
    let take = move || assert_eq!(lock.write(), 0);
    parks_for_a_thread(read, take, move || lock.unlock());
    parks_for_a_thread(write, take, move || lock.unlock());
    let ticker = ticker();
    let owner = spawn_isolated(move || {
        assert_eq!(lock.write(), 0);
        assert_eq!(lock.write(), libc::EDEADLK);
        assert_eq!(lock.read(), libc::EDEADLK);
        sleep(5 * MS);
        lock.unlock();
    });
    yield_now();
    let (reading, most) = (Count::default(), Count::default());
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let (reading, most) = (reading.clone(), most.clone());
            spawn_isolated(move || {
                assert_eq!(lock.read(), 0);
                most.0.fetch_max(reading.add() + 1, Ordering::SeqCst);
                sleep(3 * MS);
                reading.0.fetch_sub(1, Ordering::SeqCst);
                lock.unlock();
            })
        })
        .collect();
    let writers: Vec<_> = (0..2)
        .map(|_| {
            let reading = reading.clone();
            spawn(move || {
                assert_eq!(lock.write(), 0);
                assert_eq!(reading.get(), 0);
                sleep(MS);
                assert_eq!(reading.get(), 0);
                lock.unlock();
            })
        })
        .collect();
    ticker.tick();
    join_all(readers);
    greenlet::joinall(writers);
    owner.join().unwrap();
    assert_eq!(most.get(), 4, "they read together");
    assert_eq!(lock.try_write(), 0);
    lock.unlock();
}

/// glibc knows all of them by one number, which is no reason to tell one that it has the
/// lock already.
#[test]
fn light_greenlets_wait_for_each_other_at_an_rwlock() {
    let _watchdog = watchdog();
    let lock = Rwlock::new(false);
    let take = move || assert_eq!(lock.write(), 0);
    for way in [Rwlock::read, Rwlock::write] {
        let wait = move || {
            assert_eq!(way(lock), 0);
            lock.unlock();
        };
        parks(wait, take, move || lock.unlock());
    }
}

#[test]
fn a_timed_wait_for_an_rwlock_ends_in_time() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let lock = Rwlock::new(false);
    let bad = libc::timespec {
        tv_sec: 0,
        tv_nsec: -1,
    };
    let others = move || {
        for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
            let start = Instant::now();
            assert_eq!(lock.read_by(clock, after(clock, 6 * MS)), libc::ETIMEDOUT);
            assert_eq!(lock.write_by(clock, after(clock, 6 * MS)), libc::ETIMEDOUT);
            assert!(start.elapsed() >= 12 * MS);
        }
        assert_eq!(lock.read_until(bad), libc::EINVAL);
        assert_eq!(lock.write_until(bad), libc::EINVAL);
        let past = libc::timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        assert_eq!(lock.read_until(past), libc::ETIMEDOUT);
        assert_eq!(lock.write_until(past), libc::ETIMEDOUT);
    };
    assert_eq!(lock.write_until(bad), libc::EINVAL);
    let held = Arc::new(AtomicBool::new(true));
    let owner = spawn_isolated({
        let held = Arc::clone(&held);
        move || {
            assert_eq!(lock.write(), 0);
            until(|| !held.load(Ordering::Relaxed));
            lock.unlock();
        }
    });
    yield_now();
    ticker.ticks_during(|| spawn_isolated(others).join().unwrap());
    held.store(false, Ordering::Relaxed);
    owner.join().unwrap();
}

// Spin locks.

#[test]
fn a_spin_lock_lets_others_run() {
    let _watchdog = watchdog();
    let spin = Spin::new();
    let take = move || {
        spin.lock();
        spin.unlock();
    };
    parks(take, move || spin.lock(), move || spin.unlock());
    parks_for_a_thread(take, move || spin.lock(), move || spin.unlock());
}
