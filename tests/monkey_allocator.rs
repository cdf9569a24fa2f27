//! An allocator with a lock of std's, as profilers have one, under `patch_all`: memory
//! is asked for on the loop's own frame, under borrows and locks of a hub, and nowhere
//! there may the wait for that lock park.
#![cfg(feature = "monkey")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use common::{MS, watchdog};
use greenlet::queue::Queue;
use greenlet::{joinall, sleep, spawn, timeout, yield_now};

struct Locked {
    lock: Mutex<()>,
    contended: AtomicUsize,
}

impl Locked {
    fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        let _guard = match self.lock.try_lock() {
            Ok(guard) => guard,
            Err(_) => {
                self.contended.fetch_add(1, Ordering::Relaxed);
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
    // They hold the lock for much of the time.
    let greedy = [(); 2].map(|()| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                ALLOCATOR.with(|| (0..2000).for_each(|_| std::hint::spin_loop()));
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
