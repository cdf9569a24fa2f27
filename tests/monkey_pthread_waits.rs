//! What C code waits with under `monkey::patch_all`, beside mutexes and rwlocks:
//! conditions, semaphores, barriers, initialisers; and what is shared with those who have
//! been waiting since before, and with other processes.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;
#[path = "common/patched.rs"]
mod patched;
#[path = "common/pthread.rs"]
mod pthread;

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use common::{MS, alone, os_thread, until, watchdog};
use greenlet::{sleep, spawn, spawn_isolated, yield_now};
use libc::{CLOCK_MONOTONIC, CLOCK_REALTIME};
use patched::Ticker;
use pthread::*;

// Conditions.

/// 4 who put and 4 who take, 10,000 items in all, of these kinds.
fn produce_and_consume(spawn_all: impl Fn(Vec<Box<dyn FnOnce() + Send>>)) {
    const ITEMS: usize = 10_000;
    const ROOM: usize = 3;
    let (mutex, not_full, not_empty) = (Mutex::new(), Cond::new(), Cond::new());
    let (room, sum) = (Arc::new(AtomicUsize::new(0)), Count::default());
    let mut jobs: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for number in 0..8 {
        let (room, sum) = (Arc::clone(&room), sum.clone());
        jobs.push(Box::new(move || {
            for _ in 0..ITEMS / 4 {
                assert_eq!(mutex.lock(), 0);
                let items = || room.load(Ordering::Relaxed);
                if number % 2 == 0 {
                    while items() == ROOM {
                        assert_eq!(not_full.wait(mutex), 0);
                    }
                    room.store(items() + 1, Ordering::Relaxed);
                    not_empty.signal();
                } else {
                    while items() == 0 {
                        assert_eq!(not_empty.wait(mutex), 0);
                    }
                    room.store(items() - 1, Ordering::Relaxed);
                    sum.add();
                    not_full.signal();
                }
                assert_eq!(mutex.unlock(), 0);
            }
        }));
    }
    spawn_all(jobs);
    assert_eq!((sum.get(), room.load(Ordering::Relaxed)), (ITEMS, 0));
}

#[test]
fn producers_and_consumers_are_isolated_greenlets() {
    let _watchdog = watchdog();
    common::patch();
    produce_and_consume(|jobs| drop(join_all(jobs.into_iter().map(spawn_isolated))));
}

#[test]
fn producers_and_consumers_are_light_greenlets() {
    let _watchdog = watchdog();
    common::patch();
    produce_and_consume(|jobs| {
        let all: Vec<_> = jobs.into_iter().map(spawn).collect();
        assert!(greenlet::joinall(all).into_iter().all(|it| it.is_ok()));
    });
}

#[test]
fn producers_and_consumers_are_greenlets_and_threads() {
    let _watchdog = watchdog();
    common::patch();
    produce_and_consume(|jobs| {
        let (mut greenlets, mut threads) = (Vec::new(), Vec::new());
        for (number, job) in jobs.into_iter().enumerate() {
            match number / 2 % 2 {
                0 => greenlets.push(spawn_isolated(job)),
                _ => threads.push(os_thread(job)),
            }
        }
        join_all(greenlets);
        threads.into_iter().for_each(|it| it.join().unwrap());
    });
}

#[test]
fn a_condition_wakes_one_or_all() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let (mutex, cond) = (Mutex::new(), Cond::new());
    let (open, through) = (Count::default(), Count::default());
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let (open, through) = (open.clone(), through.clone());
            spawn_isolated(move || {
                assert_eq!(mutex.lock(), 0);
                while open.get() <= through.get() {
                    assert_eq!(cond.wait(mutex), 0);
                }
                through.add();
                assert_eq!(mutex.unlock(), 0);
            })
        })
        .collect();
    ticker.tick();
    // Signalled by an OS thread.
    let opens = open.clone();
    os_thread(move || {
        assert_eq!(mutex.lock(), 0);
        opens.add();
        assert_eq!(mutex.unlock(), 0);
        cond.signal();
    })
    .join()
    .unwrap();
    until(|| through.get() == 1);
    ticker.tick();
    assert_eq!(through.get(), 1);
    (0..4).for_each(|_| _ = open.add());
    cond.broadcast();
    join_all(waiters);
}

#[test]
fn a_condition_has_its_clock() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    let wait = || {
        for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
            let (mutex, cond) = (Mutex::new(), Cond::of(clock, false));
            assert_eq!(mutex.lock(), 0);
            let start = Instant::now();
            let answer = cond.wait_until(mutex, after(clock, 10 * MS));
            // Taken for a time of the other clock, it would be over, or for ever.
            assert_eq!(answer, libc::ETIMEDOUT);
            assert!(start.elapsed() >= 10 * MS);
            for by in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
                let start = Instant::now();
                let answer = cond.wait_by(mutex, by, after(by, 5 * MS));
                assert_eq!(answer, libc::ETIMEDOUT);
                assert!(start.elapsed() >= 5 * MS);
            }
            let time = |tv_sec, tv_nsec| libc::timespec { tv_sec, tv_nsec };
            assert_eq!(cond.wait_until(mutex, time(0, -1)), libc::EINVAL);
            assert_eq!(cond.wait_until(mutex, time(-1, 0)), libc::ETIMEDOUT);
            let other = libc::CLOCK_PROCESS_CPUTIME_ID;
            assert_eq!(cond.wait_by(mutex, other, time(0, 0)), libc::EINVAL);
            // It is held again.
            assert_eq!(mutex.try_lock(), libc::EBUSY);
            assert_eq!(mutex.unlock(), 0);
        }
    };
    let ticker = Ticker::new();
    ticker.ticks_during(|| spawn_isolated(wait).join().unwrap());
    os_thread(wait).join().unwrap();
}

#[test]
fn a_condition_needs_its_mutex() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    let mutex = Mutex::of(libc::PTHREAD_MUTEX_ERRORCHECK, false);
    let wait = move || {
        let cond = Cond::new();
        assert_eq!(cond.wait(mutex), libc::EPERM);
        assert_eq!(
            cond.wait_until(mutex, after(CLOCK_REALTIME, HOUR)),
            libc::EPERM
        );
    };
    spawn_isolated(wait).join().unwrap();
    os_thread(wait).join().unwrap();
}

// Semaphores.

#[test]
fn a_semaphore_parks_who_waits_for_it() {
    let _watchdog = watchdog();
    let semaphore = Semaphore::new(1, false);
    let take = move || {
        set_errno(4242);
        assert_eq!(semaphore.wait(), Ok(()));
        assert_eq!(patched::errno(), 4242);
    };
    parks(
        take,
        move || {
            while semaphore.value() > 0 {
                semaphore.wait().unwrap()
            }
        },
        move || {
            semaphore.post();
        },
    );
    let thread = move || _ = semaphore.wait();
    parks_for_a_thread(thread, || (), move || semaphore.post());
    // The other way round.
    let thread = os_thread(move || semaphore.wait());
    sleep(2 * MS);
    semaphore.post();
    assert_eq!(thread.join().unwrap(), Ok(()));
}

fn set_errno(value: c_int) {
    // SAFETY: errno has no preconditions.
    unsafe { *libc::__errno_location() = value };
}

#[test]
fn a_wait_for_a_semaphore_ends_in_time() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let semaphore = Semaphore::new(1, false);
    let wait = move || {
        let bad = libc::timespec {
            tv_sec: 0,
            tv_nsec: -1,
        };
        // Here it is looked at first.
        assert_eq!(semaphore.wait_until(bad), Err(libc::EINVAL));
        let other = libc::CLOCK_PROCESS_CPUTIME_ID;
        assert_eq!(semaphore.wait_by(other, bad), Err(libc::EINVAL));
        assert_eq!(semaphore.wait(), Ok(()));
        for clock in [CLOCK_REALTIME, CLOCK_MONOTONIC] {
            let start = Instant::now();
            let answer = semaphore.wait_by(clock, after(clock, 10 * MS));
            assert_eq!(answer, Err(libc::ETIMEDOUT));
            assert!(start.elapsed() >= 10 * MS);
        }
        let past = libc::timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        assert_eq!(semaphore.wait_until(past), Err(libc::ETIMEDOUT));
        semaphore.post();
    };
    ticker.ticks_during(|| spawn_isolated(wait).join().unwrap());
    ticker.ticks_during(|| spawn(wait).join().unwrap());
    os_thread(wait).join().unwrap();
}

/// The handler interrupts greenlets, the loop while it sleeps, and what it wakes with.
#[test]
fn a_signal_handler_posts_for_a_greenlet_of_its_own_thread() {
    const SIGNALS: usize = 3000;
    alone(
        "a_signal_handler_posts_for_a_greenlet_of_its_own_thread",
        || {
            static SEMAPHORE: std::sync::OnceLock<Semaphore> = std::sync::OnceLock::new();
            extern "C" fn handler(_: c_int) {
                SEMAPHORE.get().unwrap().post();
            }
            common::patch();
            let semaphore = *SEMAPHORE.get_or_init(|| Semaphore::new(0, false));
            let handler = handler as extern "C" fn(c_int) as libc::sighandler_t;
            // SAFETY: what the handler does may be done in one.
            let (me, process) = unsafe {
                libc::signal(libc::SIGUSR1, handler);
                (libc::gettid(), libc::getpid())
            };
            let taken = Count::default();
            let waiters: Vec<_> = (0..3)
                .map(|_| {
                    let taken = taken.clone();
                    spawn_isolated(move || {
                        for _ in 0..SIGNALS / 3 {
                            assert_eq!(semaphore.wait(), Ok(()));
                            taken.add();
                        }
                    })
                })
                .collect();
            let sent = taken.clone();
            let sender = os_thread(move || {
                for number in 0..SIGNALS {
                    // SAFETY: a signal that has a handler, to a thread of this process.
                    unsafe { libc::syscall(libc::SYS_tgkill, process, me, libc::SIGUSR1) };
                    // Each arrives before the next, at idle threads and at busy ones.
                    while sent.get() <= number {
                        std::thread::sleep(MS / 20);
                    }
                }
            });
            // The first half interrupts a busy thread, the second an idle one.
            let seen = taken.clone();
            let busy = [(); 2].map(|()| {
                let seen = seen.clone();
                spawn(move || {
                    while seen.get() < SIGNALS / 2 {
                        yield_now();
                    }
                })
            });
            join_all(waiters);
            assert_eq!(taken.get(), SIGNALS);
            sender.join().unwrap();
            greenlet::joinall(busy);
        },
    );
}

// Barriers.

/// Who is first destroys it, while the others are on their way out.
#[test]
fn a_barrier_of_five_has_rounds_and_is_destroyed_at_once() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    for again in 0..50 {
        let barrier = Barrier::new(5, false);
        let serial = Count::default();
        let work = {
            let serial = serial.clone();
            move || {
                for round in 0..3 {
                    if barrier.wait() {
                        serial.add();
                        if round == 2 {
                            barrier.destroy();
                        }
                    }
                }
            }
        };
        let threads: Vec<_> = (0..again % 4).map(|_| os_thread(work.clone())).collect();
        let greenlets: Vec<_> = (again % 4..5)
            .map(|_| spawn_isolated(work.clone()))
            .collect();
        join_all(greenlets);
        threads.into_iter().for_each(|it| it.join().unwrap());
        assert_eq!(serial.get(), 3);
    }
}

#[test]
fn a_barrier_parks() {
    let _watchdog = watchdog();
    let barrier = Barrier::new(2, false);
    let come = move || _ = barrier.wait();
    parks(come, || (), come);
    parks_for_a_thread(come, || (), come);
}

// Once.

#[test]
fn others_wait_for_an_initialiser_that_parks() {
    let _watchdog = watchdog();
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static GO: AtomicBool = AtomicBool::new(false);
    extern "C-unwind" fn initialise() {
        until(|| GO.load(Ordering::SeqCst));
        CALLS.fetch_add(1, Ordering::SeqCst);
    }
    let ticker = ticker();
    for _ in 0..4 {
        CALLS.store(0, Ordering::SeqCst);
        GO.store(false, Ordering::SeqCst);
        let once = Once::new();
        let call = move || {
            once.call(initialise);
            assert_eq!(CALLS.load(Ordering::SeqCst), 1);
        };
        let isolated = [(); 2].map(|()| spawn_isolated(call));
        let thread = os_thread(call);
        let light = spawn(call);
        // If this thread stood still, nobody would ever do that.
        ticker.after(|| GO.store(true, Ordering::SeqCst));
        join_all(isolated);
        light.join().unwrap();
        thread.join().unwrap();
    }
}

#[test]
fn an_initialiser_that_unwinds_is_started_anew() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    extern "C-unwind" fn initialise() {
        sleep(2 * MS);
        if CALLS.fetch_add(1, Ordering::SeqCst) == 0 {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    let once = Once::new();
    let first = spawn_isolated(move || once.call(initialise));
    let second = spawn_isolated(move || once.call(initialise));
    assert!(first.join().is_err());
    second.join().unwrap();
    assert_eq!(CALLS.load(Ordering::SeqCst), 2);
}

/// The parent's greenlet, which has begun, is not in the child.
#[test]
fn an_initialiser_that_a_fork_has_interrupted_is_started_anew_in_the_child() {
    alone(
        "an_initialiser_that_a_fork_has_interrupted_is_started_anew_in_the_child",
        || {
            static CALLS: AtomicUsize = AtomicUsize::new(0);
            extern "C-unwind" fn initialise() {
                CALLS.fetch_add(1, Ordering::SeqCst);
                sleep(5 * MS);
            }
            let _ticker = ticker();
            let once = Once::new();
            let first = spawn(move || once.call(initialise));
            yield_now();
            let code = common::fork(|| {
                once.call(initialise);
                once.call(initialise);
                CALLS.load(Ordering::SeqCst) as i32
            });
            assert_eq!(code, 2);
            first.join().unwrap();
            once.call(initialise);
            assert_eq!(CALLS.load(Ordering::SeqCst), 1);
        },
    );
}

// Before, in the middle, between.

/// Who has been waiting since before the locks were patched goes on, in its turn.
#[test]
fn who_waits_since_before_is_woken() {
    alone("who_waits_since_before_is_woken", || {
        let _watchdog = watchdog();
        let mutex = Mutex::new();
        let (other, cond) = (Mutex::new(), Cond::new());
        let (lock, semaphore) = (Rwlock::new(false), Semaphore::new(0, false));
        let (barrier, once) = (Barrier::new(3, false), Once::new());
        static RUNS: AtomicBool = AtomicBool::new(true);
        static WAITS: AtomicBool = AtomicBool::new(false);
        extern "C-unwind" fn initialise() {
            while RUNS.load(Ordering::SeqCst) {
                std::thread::sleep(MS);
            }
        }
        assert_eq!((mutex.lock(), lock.write()), (0, 0));
        let running = os_thread(move || once.call(initialise));
        std::thread::sleep(5 * MS);
        let threads = [
            os_thread(move || assert_eq!(mutex.lock() + mutex.unlock(), 0)),
            os_thread(move || {
                assert_eq!(other.lock(), 0);
                WAITS.store(true, Ordering::SeqCst);
                assert_eq!(cond.wait(other), 0);
                assert_eq!(other.unlock(), 0);
            }),
            os_thread(move || {
                assert_eq!(lock.read(), 0);
                lock.unlock();
            }),
            os_thread(move || assert_eq!(semaphore.wait(), Ok(()))),
            os_thread(move || _ = barrier.wait()),
            os_thread(move || once.call(initialise)),
        ];
        std::thread::sleep(30 * MS);
        // Who has said so with the mutex lets go of it in its wait.
        let waits = || {
            assert_eq!(other.lock(), 0);
            let waits = WAITS.load(Ordering::SeqCst);
            assert_eq!(other.unlock(), 0);
            waits
        };
        while !waits() {
            std::thread::yield_now();
        }
        let _ticker = ticker();
        let late = [
            spawn_isolated(move || _ = barrier.wait()),
            spawn_isolated(move || once.call(initialise)),
        ];
        yield_now();
        assert_eq!(mutex.unlock(), 0);
        assert_eq!(other.lock(), 0);
        cond.signal();
        assert_eq!(other.unlock(), 0);
        lock.unlock();
        semaphore.post();
        barrier.wait();
        RUNS.store(false, Ordering::SeqCst);
        join_all(late);
        for thread in threads.into_iter().chain([running]) {
            thread.join().unwrap();
        }
    });
}

/// In a child, which has a copy of the table that nobody of the parent's waits in.
#[test]
fn what_processes_share_is_asked_for_again_and_again() {
    alone("what_processes_share_is_asked_for_again_and_again", || {
        let ticker = ticker();
        let mutex = Mutex::of(libc::PTHREAD_MUTEX_NORMAL, true);
        let (lock, semaphore) = (Rwlock::new(true), Semaphore::new(0, true));
        let (cond, barrier) = (Cond::of(CLOCK_MONOTONIC, true), Barrier::new(2, true));
        let (ready, told) = (Semaphore::new(0, true), Semaphore::new(0, true));
        let tried = Semaphore::new(0, true);
        // SAFETY: the child calls functions of libc's alone, as it was before.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let nap = || std::thread::sleep(20 * MS);
            mutex.lock();
            lock.write();
            ready.post();
            tried.wait().unwrap();
            nap();
            mutex.unlock();
            lock.unlock();
            nap();
            semaphore.post();
            nap();
            barrier.wait();
            nap();
            mutex.lock();
            told.post();
            cond.signal();
            mutex.unlock();
            // SAFETY: no preconditions.
            unsafe { libc::_exit(7) };
        }
        let waiter = spawn_isolated(move || {
            ready.wait().unwrap();
            assert_eq!(mutex.lock_until(after(CLOCK_REALTIME, MS)), libc::ETIMEDOUT);
            assert_eq!(lock.read_until(after(CLOCK_REALTIME, MS)), libc::ETIMEDOUT);
            assert_eq!(
                semaphore.wait_until(after(CLOCK_REALTIME, MS)),
                Err(libc::ETIMEDOUT)
            );
            tried.post();
            assert_eq!((mutex.lock(), lock.read()), (0, 0));
            assert_eq!(mutex.unlock(), 0);
            semaphore.wait().unwrap();
            barrier.wait();
            assert_eq!(mutex.lock(), 0);
            while told.value() == 0 {
                assert_eq!(cond.wait(mutex), 0);
            }
            let answer = cond.wait_until(mutex, after(CLOCK_MONOTONIC, MS));
            assert_eq!(answer, libc::ETIMEDOUT);
            assert_eq!(mutex.unlock(), 0);
        });
        ticker.ticks_during(|| waiter.join().unwrap());
        assert_eq!(common::reap(child), 7);
    });
}
