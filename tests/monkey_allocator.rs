//! An allocator with a lock of std's, as profilers have one, under `patch_all`: memory
//! is asked for on the loop's own frame, under borrows and locks of a hub, and nowhere
//! there may the wait for that lock park.
#![cfg(feature = "monkey")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use common::{MS, alone, watchdog};
use greenlet::queue::Queue;
use greenlet::{joinall, sleep, spawn, timeout, yield_now};

thread_local! {
    /// The allocator lets others go first, on this thread.
    static YIELDS: Cell<bool> = const { Cell::new(false) };
    /// Somebody wants to know when this thread is about to wait for the lock.
    static TELLS: Cell<bool> = const { Cell::new(false) };
}

/// How often such threads were.
static TOLD: AtomicUsize = AtomicUsize::new(0);

struct Locked {
    lock: Mutex<()>,
    contended: AtomicUsize,
}

impl Locked {
    fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        if YIELDS.get() {
            (0..3).for_each(|_| thread::yield_now());
        }
        let _guard = match self.lock.try_lock() {
            Ok(guard) => guard,
            Err(_) => {
                self.contended.fetch_add(1, Ordering::Relaxed);
                if TELLS.get() {
                    TOLD.fetch_add(1, Ordering::SeqCst);
                }
                self.lock.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        f()
    }
}

// SAFETY: it is the system's.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.with(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        self.with(|| unsafe { System.dealloc(at, layout) });
    }
}

#[global_allocator]
static ALLOCATOR: Locked = Locked {
    lock: Mutex::new(()),
    contended: AtomicUsize::new(0),
};

#[test]
fn an_allocator_may_wait_for_a_lock_wherever_it_is_called() {
    const ROUNDS: usize = 200;
    let _watchdog = watchdog();
    common::patch();
    let stop = Arc::new(AtomicBool::new(false));
    // They hold the lock for much of the time. If they never let go of it, nobody else
    // would have it but by chance: std's lock is taken by who comes first, and who is
    // woken comes late.
    let pass_time = |spins: usize| (0..spins).for_each(|_| std::hint::spin_loop());
    let greedy = [(); 2].map(|()| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                ALLOCATOR.with(|| pass_time(2000));
                pass_time(1000);
            }
        })
    });
    let shared = Arc::new(Queue::unbounded());
    let work = |shared: &Arc<Queue<Vec<usize>>>| {
        for round in 0..ROUNDS {
            let greenlets: Vec<_> = (0..10)
                .map(|number| {
                    let shared = Arc::clone(shared);
                    spawn(move || {
                        shared.put(vec![number; round % 50]).unwrap();
                        match number % 4 {
                            0 => yield_now(),
                            1 => sleep(MS / 20),
                            2 => {
                                let waited = timeout(MS / 20, || sleep(1000 * MS));
                                assert!(waited.is_err());
                            }
                            _ => {}
                        }
                        shared.get().unwrap().len()
                    })
                })
                .collect();
            assert!(joinall(greenlets).into_iter().all(|ended| ended.is_ok()));
        }
    };
    let other = thread::spawn({
        let shared = Arc::clone(&shared);
        move || work(&shared)
    });
    work(&shared);
    other.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    for thread in greedy {
        thread.join().unwrap();
    }
    assert!(ALLOCATOR.contended.load(Ordering::Relaxed) > 10);
}

/// Whoever holds the lock of a queue may wait, under it, for that of the allocator. A
/// greenlet is told that the latter is free, but its thread waits for the former.
#[test]
fn who_waits_for_the_lock_of_a_queue_keeps_nobody_from_the_allocator() {
    alone(
        "who_waits_for_the_lock_of_a_queue_keeps_nobody_from_the_allocator",
        || {
            let _watchdog = watchdog();
            common::patch();
            static STEP: AtomicUsize = AtomicUsize::new(0);
            let reached = |step: usize| while STEP.load(Ordering::SeqCst) < step {};
            let told = |so_often: usize| while TOLD.load(Ordering::SeqCst) < so_often {};
            let next = |step: usize| STEP.store(step, Ordering::SeqCst);
            let queue = Arc::new(Queue::unbounded());
            // There is no room for one more.
            (0..4).for_each(|item| queue.put(item).unwrap());
            let puts = thread::spawn({
                let queue = Arc::clone(&queue);
                move || {
                    next(1);
                    reached(4);
                    TELLS.set(true);
                    queue.put(4).unwrap();
                }
            });
            let holds = thread::spawn(move || {
                reached(2);
                ALLOCATOR.with(|| {
                    next(3);
                    reached(5);
                });
                next(6);
            });
            let waits = spawn(|| {
                TELLS.set(true);
                drop(std::hint::black_box(Box::new(1)));
            });
            // From here on until the end this greenlet asks for no memory. Those two wait
            // for it, one after the other: the greenlet, and the thread that has the lock of
            // the queue.
            reached(1);
            next(2);
            reached(3);
            yield_now();
            told(1);
            next(4);
            told(2);
            // It has said so, and is about to.
            let then = Instant::now();
            while then.elapsed() < 10 * MS {}
            next(5);
            reached(6);
            assert_eq!(queue.len(), 5);
            waits.join().unwrap();
            puts.join().unwrap();
            holds.join().unwrap();
        },
    );
}

/// The hub knows it before all that belongs to it is there.
#[cfg(all(target_arch = "x86_64", panic = "unwind"))]
#[test]
fn an_isolated_greenlet_does_not_run_before_all_of_it_is_made() {
    let _watchdog = watchdog();
    common::patch();
    let spawn_yielding = || {
        YIELDS.set(true);
        let handle = greenlet::Builder::new()
            .name("isolated")
            .spawn_isolated(|| 7);
        YIELDS.set(false);
        handle.unwrap()
    };
    for _ in 0..10 {
        assert_eq!(spawn_yielding().join().unwrap(), 7);
    }
    // Wherever it waits, it may be killed.
    for turns in 0..100 {
        let killer = spawn(move || {
            (0..turns).for_each(|_| yield_now());
            YIELDS.set(false);
            greenlet::hub::shutdown()
        });
        let outcome = spawn_yielding().join();
        assert!(outcome.is_ok() || outcome.is_err_and(|error| error.is_killed()));
        assert_eq!(killer.join().unwrap(), 0);
    }
}

/// To be interrupted is a reason to park where there is nobody else, and none to park
/// under a borrow of the hub's.
#[test]
fn who_runs_out_of_time_does_not_park_under_a_borrow() {
    let _watchdog = watchdog();
    common::patch();
    YIELDS.set(true);
    // When they have run out of time the memory for their timers is given back.
    let late = || timeout(MS, || sleep(1000 * MS)).is_err();
    let greenlets: Vec<_> = (0..300).map(|_| spawn(late)).collect();
    let outcomes = joinall(greenlets);
    YIELDS.set(false);
    assert!(
        outcomes
            .into_iter()
            .all(|outcome| outcome.is_ok_and(|late| late))
    );
}
