//! std's locks under `monkey::patch_all`: what waits for one parks its greenlet.
//! And `JoinHandle::join` and `thread::scope`, which wait for threads.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use common::{MS, alone, fork, run_alone, until, watchdog};
use greenlet::error::JoinError;
use greenlet::monkey::is_patched;
use greenlet::{joinall, sleep, spawn, timeout, yield_now};
use patched::Ticker;

const HOUR: Duration = Duration::from_secs(3600);

/// Patches everything too.
fn ticker() -> Ticker {
    common::patch();
    Ticker::new()
}

#[test]
fn the_locks_are_patched() {
    common::patch();
    assert!(is_patched("syscall") && is_patched("pthread_join") && is_patched("locks"));
}

// Greenlets of one thread.

#[test]
fn a_mutex_parks_who_waits_for_it() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Rc::new(Mutex::new(Vec::new()));
    let waiting = Rc::new(Cell::new(0));
    let guard = mutex.lock().unwrap();
    let others: Vec<_> = (0..3)
        .map(|number| {
            let (mutex, waiting) = (Rc::clone(&mutex), Rc::clone(&waiting));
            spawn(move || {
                waiting.set(waiting.get() + 1);
                mutex.lock().unwrap().push(number);
            })
        })
        .collect();
    until(|| waiting.get() == 3);
    ticker.tick();
    assert!(guard.is_empty() && others.iter().all(|other| !other.is_finished()));
    drop(guard);
    joinall(others);
    // First come, first served.
    assert_eq!(*mutex.lock().unwrap(), [0, 1, 2]);
}

#[test]
fn a_rwlock_parks_readers_and_writers() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let lock = Rc::new(RwLock::new(0));
    let writer = lock.write().unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let lock = Rc::clone(&lock);
            spawn(move || {
                let guard = lock.read().unwrap();
                sleep(5 * MS);
                *guard
            })
        })
        .collect();
    yield_now();
    let second_writer = spawn({
        let lock = Rc::clone(&lock);
        move || *lock.write().unwrap() += 1
    });
    ticker.tick();
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    drop(writer);
    second_writer.join().unwrap();
    assert!(joinall(readers).into_iter().all(|seen| seen.unwrap() <= 1));
    assert_eq!(*lock.read().unwrap(), 1);
}

#[test]
fn a_condvar_wakes_those_who_wait_in_their_order() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let shared = Rc::new((Mutex::new((0, Vec::new())), Condvar::new()));
    let waiters: Vec<_> = (0..4)
        .map(|number| {
            let shared = Rc::clone(&shared);
            spawn(move || {
                let mut state = shared.0.lock().unwrap();
                while state.0 == 0 {
                    state = shared.1.wait(state).unwrap();
                }
                state.0 -= 1;
                state.1.push(number);
            })
        })
        .collect();
    ticker.tick();
    shared.0.lock().unwrap().0 = 1;
    shared.1.notify_one();
    ticker.tick();
    assert_eq!(shared.0.lock().unwrap().1, [0]);
    shared.0.lock().unwrap().0 = 3;
    shared.1.notify_all();
    joinall(waiters);
    assert_eq!(shared.0.lock().unwrap().1, [0, 1, 2, 3]);
}

#[test]
fn a_condvar_waits_no_longer_than_it_was_told() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let shared = Rc::new((Mutex::new(()), Condvar::new()));
    let start = Instant::now();
    let (guard, waited) = shared
        .1
        .wait_timeout(shared.0.lock().unwrap(), 10 * MS)
        .unwrap();
    assert!(waited.timed_out() && start.elapsed() >= 10 * MS);
    assert!(ticker.ticks() > 1);
    let notifier = spawn({
        let shared = Rc::clone(&shared);
        move || {
            // It is held until the other waits.
            drop(shared.0.lock().unwrap());
            shared.1.notify_one();
        }
    });
    let (_guard, waited) = shared.1.wait_timeout(guard, HOUR).unwrap();
    assert!(!waited.timed_out());
    notifier.join().unwrap();
}

#[test]
fn whoever_needs_a_value_waits_for_its_initialiser() {
    static ONCE: Once = Once::new();
    static CELL: OnceLock<u32> = OnceLock::new();
    static LAZY: LazyLock<u32> = LazyLock::new(|| {
        sleep(10 * MS);
        7
    });
    let _watchdog = watchdog();
    let ticker = ticker();
    let calls = Rc::new(Cell::new(0));
    let all: Vec<_> = (0..3)
        .map(|_| {
            let calls = Rc::clone(&calls);
            spawn(move || {
                ONCE.call_once(|| {
                    thread::sleep(10 * MS);
                    calls.set(calls.get() + 1);
                });
                assert_eq!(calls.get(), 1);
                let init = || {
                    thread::sleep(10 * MS);
                    calls.set(calls.get() + 1);
                    5
                };
                assert_eq!(*CELL.get_or_init(init), 5);
                assert_eq!((*LAZY, calls.get()), (7, 2));
            })
        })
        .collect();
    assert!(joinall(all).into_iter().all(|ended| ended.is_ok()));
    assert!(ticker.ticks() > 5);
}

#[test]
fn a_barrier_parks_until_all_are_there() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let barrier = Rc::new(Barrier::new(3));
    let all: Vec<_> = (0..2)
        .map(|_| {
            let barrier = Rc::clone(&barrier);
            spawn(move || barrier.wait().is_leader())
        })
        .collect();
    ticker.tick();
    assert!(barrier.wait().is_leader());
    assert!(joinall(all).into_iter().all(|leader| !leader.unwrap()));
}

/// std's mutex is not handed over: who takes it again at once would always be first.
#[test]
fn a_greenlet_that_takes_a_mutex_again_at_once_does_not_keep_it_for_ever() {
    let _watchdog = watchdog();
    common::patch();
    let mutex = Rc::new(Mutex::new(()));
    let stop = Rc::new(Cell::new(false));
    let greedy = spawn({
        let (mutex, stop) = (Rc::clone(&mutex), Rc::clone(&stop));
        move || {
            while !stop.get() {
                let _guard = mutex.lock().unwrap();
                sleep(MS / 4);
            }
        }
    });
    yield_now();
    for _ in 0..10 {
        let _guard = mutex.lock().unwrap();
    }
    stop.set(true);
    greedy.join().unwrap();
}

// Kill and timeout.

#[test]
fn a_kill_comes_after_the_lock() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Rc::new(Mutex::new(0));
    let guard = mutex.lock().unwrap();
    let victim = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            *mutex.lock().unwrap() += 1;
            sleep(HOUR);
        }
    });
    ticker.tick();
    victim.kill();
    ticker.tick();
    assert!(!victim.is_finished());
    drop(guard);
    assert!(matches!(victim.join(), Err(JoinError::Killed)));
    assert_eq!(*mutex.lock().unwrap(), 1);
}

#[test]
fn a_timeout_comes_after_the_lock() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let mutex = Rc::new(Mutex::new(0));
    let guard = mutex.lock().unwrap();
    let victim = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            timeout(MS, || {
                *mutex.lock().unwrap() += 1;
                sleep(HOUR);
            })
        }
    });
    ticker.tick();
    ticker.tick();
    assert!(!victim.is_finished());
    drop(guard);
    assert!(victim.join().unwrap().is_err());
    assert_eq!(*mutex.lock().unwrap(), 1);
}

#[test]
fn a_kill_comes_after_the_thread_that_is_joined() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let go = Arc::new(AtomicBool::new(false));
    let joined = Rc::new(Cell::new(false));
    let victim = spawn({
        let (go, joined) = (Arc::clone(&go), Rc::clone(&joined));
        move || {
            let thread = thread::spawn(move || {
                while !go.load(Ordering::Relaxed) {
                    thread::sleep(MS);
                }
                3
            });
            assert_eq!(thread.join().unwrap(), 3);
            joined.set(true);
            sleep(HOUR);
        }
    });
    ticker.tick();
    victim.kill();
    ticker.tick();
    assert!(!victim.is_finished() && !joined.get());
    go.store(true, Ordering::Relaxed);
    assert!(matches!(victim.join(), Err(JoinError::Killed)));
    assert!(joined.get());
}

// Threads.

#[test]
fn joining_a_thread_parks() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let may_end = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..3)
        .map(|number| {
            let may_end = Arc::clone(&may_end);
            thread::spawn(move || {
                while !may_end.load(Ordering::Relaxed) {
                    thread::sleep(MS);
                }
                number
            })
        })
        .collect();
    let end = ticker.after(move || may_end.store(true, Ordering::Relaxed));
    for (number, thread) in threads.into_iter().enumerate() {
        assert_eq!(thread.join().unwrap(), number);
    }
    end.join().unwrap();
    // One that has ended, and one that panics.
    let thread = thread::spawn(|| 1);
    while !thread.is_finished() {
        sleep(MS);
    }
    assert_eq!(thread.join().unwrap(), 1);
    let thread = thread::spawn(|| {
        thread::sleep(MS);
        std::panic::resume_unwind(Box::new("on purpose"))
    });
    let payload: Result<(), _> = thread.join();
    assert_eq!(payload.unwrap_err().downcast_ref(), Some(&"on purpose"));
}

#[test]
fn many_greenlets_join_many_threads() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for _ in 0..3 {
        let all: Vec<_> = (0..30)
            .map(|number| {
                spawn(move || {
                    let thread = thread::spawn(move || {
                        thread::sleep(number % 5 * MS);
                        number
                    });
                    assert_eq!(thread.join().unwrap(), number);
                })
            })
            .collect();
        assert!(joinall(all).into_iter().all(|ended| ended.is_ok()));
    }
    ticker.tick();
    // Other tests of this process open some too.
    assert!(open() < before + 60, "{before} descriptors, now {}", open());
}

#[test]
fn joining_answers_as_glibc_does() {
    let _watchdog = watchdog();
    let _ticker = ticker();
    let errors = || {
        let null = std::ptr::null_mut();
        // SAFETY: the thread that runs this, which is not joined by that.
        let oneself = unsafe { libc::pthread_join(libc::pthread_self(), null) };
        let (tell, told) = std::sync::mpsc::channel();
        let (go, went) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            // SAFETY: it has no preconditions.
            tell.send(unsafe { libc::pthread_self() }).unwrap();
            let _ = went.recv();
        });
        let id = told.recv().unwrap();
        // Dropping the handle detaches the thread.
        drop(thread);
        // SAFETY: the thread goes on until it is told to end.
        let detached = unsafe { libc::pthread_join(id, null) };
        drop(go);
        (oneself, detached)
    };
    let expected = (libc::EDEADLK, libc::EINVAL);
    assert_eq!(errors(), expected);
    assert_eq!(spawn(errors).join().unwrap(), expected);
    assert_eq!(greenlet::monkey::unpatched(errors), expected);
}

/// The scope's own wait is `thread::park`: it blocks the thread, as it may.
#[test]
fn a_scope_of_threads_works_in_greenlets() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let run = || {
        let mut numbers = vec![1, 2, 3];
        thread::scope(|scope| {
            for number in &mut numbers {
                scope.spawn(|| {
                    thread::sleep(5 * MS);
                    *number *= 2;
                });
            }
        });
        numbers
    };
    assert_eq!(run(), [2, 4, 6]);
    let two = [spawn(run), spawn(run)];
    assert!(
        joinall(two)
            .into_iter()
            .all(|numbers| numbers.unwrap() == [2, 4, 6])
    );
    // With handles, the greenlet parks.
    let may_end = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&may_end);
    let end = ticker.after(move || flag.store(true, Ordering::Relaxed));
    thread::scope(|scope| {
        let waits = || {
            while !may_end.load(Ordering::Relaxed) {
                thread::sleep(MS);
            }
        };
        scope.spawn(waits).join().unwrap();
    });
    end.join().unwrap();
}

#[test]
fn a_thread_lets_go_of_what_a_greenlet_waits_for() {
    let _watchdog = watchdog();
    let ticker = ticker();
    let shared = Arc::new((Mutex::new(0), Condvar::new()));
    let held = Arc::new(AtomicBool::new(false));
    let (go, went) = (Arc::new(AtomicBool::new(false)), Arc::clone(&held));
    let thread = thread::spawn({
        let (shared, go) = (Arc::clone(&shared), Arc::clone(&go));
        move || {
            let mut guard = shared.0.lock().unwrap();
            went.store(true, Ordering::Relaxed);
            while !go.load(Ordering::Relaxed) {
                thread::sleep(MS);
            }
            *guard = 1;
            drop(guard);
            // And the other way round.
            let mut guard = shared.0.lock().unwrap();
            while *guard != 2 {
                guard = shared.1.wait(guard).unwrap();
            }
        }
    });
    until(|| held.load(Ordering::Relaxed));
    let waiter = spawn({
        let shared = Arc::clone(&shared);
        move || {
            let mut guard = shared.0.lock().unwrap();
            assert_eq!(*guard, 1);
            *guard = 2;
            drop(guard);
            shared.1.notify_all();
        }
    });
    ticker.tick();
    assert!(!waiter.is_finished());
    go.store(true, Ordering::Relaxed);
    waiter.join().unwrap();
    thread.join().unwrap();
}

/// Greenlets of two hubs and two plain threads share a bounded queue that is made of
/// a mutex and two condition variables.
#[test]
fn nobody_starves_and_nothing_is_lost() {
    const ROUNDS: usize = 2000;
    const ROOM: usize = 2;
    let _watchdog = watchdog();
    common::patch();
    struct Buffer {
        items: Mutex<Vec<usize>>,
        not_full: Condvar,
        not_empty: Condvar,
        sum: AtomicUsize,
    }
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let buffer = Arc::new(Buffer {
        items: Mutex::new(Vec::new()),
        not_full: Condvar::new(),
        not_empty: Condvar::new(),
        sum: AtomicUsize::new(0),
    });
    let put = |buffer: &Buffer, item| {
        let mut items = buffer.items.lock().unwrap();
        while items.len() == ROOM {
            items = buffer.not_full.wait(items).unwrap();
        }
        items.push(item);
        drop(items);
        buffer.not_empty.notify_one();
    };
    let take = |buffer: &Buffer| {
        let mut items = buffer.items.lock().unwrap();
        while items.is_empty() {
            items = buffer.not_empty.wait(items).unwrap();
        }
        let item = items.pop().unwrap();
        drop(items);
        buffer.not_full.notify_one();
        buffer.sum.fetch_add(item, Ordering::Relaxed);
    };
    // Some rounds are followed by a pause of some kind.
    let play = move |buffer: &Buffer, puts: bool, pause: fn(u64), mut random: u64| {
        for round in 0..ROUNDS {
            match puts {
                true => put(buffer, round),
                false => take(buffer),
            }
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            pause(random % 16);
        }
    };
    let hub = move |buffer: &Arc<Buffer>, seed: u64| {
        let pause = |random| match random {
            0 => sleep(MS / 10),
            1..4 => yield_now(),
            _ => {}
        };
        let all: Vec<_> = (0..4)
            .map(|number| {
                let buffer = Arc::clone(buffer);
                spawn(move || play(&buffer, number % 2 == 0, pause, seed + 2 * number + 1))
            })
            .collect();
        assert!(joinall(all).into_iter().all(|ended| ended.is_ok()));
    };
    let thread_pause = |random| match random {
        0 => thread::sleep(MS / 10),
        1..4 => thread::yield_now(),
        _ => {}
    };
    let mut threads: Vec<_> = [true, false]
        .map(|puts| {
            let buffer = Arc::clone(&buffer);
            let seed = seed * 31 + 100 + u64::from(puts);
            thread::spawn(move || play(&buffer, puts, thread_pause, seed))
        })
        .into();
    threads.push(thread::spawn({
        let buffer = Arc::clone(&buffer);
        move || hub(&buffer, seed * 17)
    }));
    hub(&buffer, seed * 13);
    for thread in threads {
        thread.join().unwrap();
    }
    assert!(buffer.items.lock().unwrap().is_empty());
    let expected = 5 * (ROUNDS * (ROUNDS - 1) / 2);
    assert_eq!(buffer.sum.load(Ordering::Relaxed), expected);
}

// Forks.

#[test]
fn a_lock_that_is_held_across_a_fork_works_in_the_child() {
    alone(
        "a_lock_that_is_held_across_a_fork_works_in_the_child",
        || {
            let _ticker = ticker();
            let mutex = Rc::new(Mutex::new(0));
            let guard = mutex.lock().unwrap();
            let waiters: Vec<_> = (0..3)
                .map(|_| {
                    let mutex = Rc::clone(&mutex);
                    spawn(move || *mutex.lock().unwrap() += 1)
                })
                .collect();
            sleep(2 * MS);
            // Somebody waits for it, but not in the child.
            let code = fork(|| {
                drop(guard);
                let waiter = spawn({
                    let mutex = Rc::clone(&mutex);
                    move || {
                        let guard = mutex.lock().unwrap();
                        sleep(5 * MS);
                        drop(guard);
                    }
                });
                yield_now();
                *mutex.lock().unwrap() += 1;
                waiter.join().unwrap();
                *mutex.lock().unwrap()
            });
            assert_eq!(code, 1);
            // `guard` has moved into the closure, and is dropped here as well.
            assert!(joinall(waiters).into_iter().all(|ended| ended.is_ok()));
            assert_eq!(*mutex.lock().unwrap(), 3);
        },
    );
}

/// Nobody can wake them, and there is no way to say so but to report it.
#[test]
fn a_deadlock_of_locks_is_reported_once_and_the_wait_goes_on() {
    let name = "a_deadlock_of_locks_is_reported_once_and_the_wait_goes_on";
    let finished = run_alone(name, || {
        // In the child of a fork there is one thread.
        let code = fork(|| {
            common::patch();
            let mutex = Rc::new(Mutex::new(()));
            let guard = mutex.lock().unwrap();
            let stuck = greenlet::Builder::new().name("stuck").spawn({
                let mutex = Rc::clone(&mutex);
                move || drop(mutex.lock().unwrap())
            });
            // They have nothing to wait for but each other.
            let joined = stuck.unwrap().join();
            assert!(matches!(joined, Err(JoinError::Deadlock(_))));
            sleep(10 * MS);
            drop(guard);
            sleep(MS);
            assert!(mutex.try_lock().is_ok());
            eprintln!("went on");
            0
        });
        assert_eq!(code, 0);
    });
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said("stuck: waiting for a lock");
        finished.said("went on");
        assert_eq!(
            finished.stderr.matches("deadlock").count(),
            1,
            "{finished:?}"
        );
    }
}
