//! An allocator with a mutex of C's and something in thread-locals around it, as jemalloc
//! has, under `patch_all`: nobody else may come to it on the same thread-locals while one
//! waits for the mutex.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, UnsafeCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{MS, os_thread, watchdog};
use greenlet::{joinall, sleep, spawn, spawn_isolated, yield_now};

struct Locked {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    contended: AtomicUsize,
}

// SAFETY: a mutex is for several threads.
unsafe impl Sync for Locked {}

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Locked {
    fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        if INSIDE.replace(true) {
            let message = b"somebody is in the allocator already\n";
            // SAFETY: a live string.
            unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
            std::process::abort();
        }
        // SAFETY: the mutex is initialised, and never moves.
        unsafe {
            if libc::pthread_mutex_trylock(self.mutex.get()) != 0 {
                self.contended.fetch_add(1, Ordering::Relaxed);
                assert_eq!(libc::pthread_mutex_lock(self.mutex.get()), 0);
            }
        }
        let result = f();
        // SAFETY: as above.
        unsafe { libc::pthread_mutex_unlock(self.mutex.get()) };
        INSIDE.set(false);
        result
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
    mutex: UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER),
    contended: AtomicUsize::new(0),
};

#[test]
fn nobody_comes_to_an_allocator_in_the_middle_of_it() {
    const OFTEN: usize = 100;
    let _watchdog = watchdog();
    common::patch();
    let stop = Arc::new(AtomicBool::new(false));
    // They hold the mutex for much of the time.
    let greedy = [(); 2].map(|()| {
        let stop = Arc::clone(&stop);
        os_thread(move || {
            while !stop.load(Ordering::Relaxed) {
                ALLOCATOR.with(|| (0..20_000).for_each(|_| std::hint::spin_loop()));
            }
        })
    });
    let work = |number: usize| {
        for round in 0..5 {
            let _memory = vec![number; 10 * round + 1];
            match number % 4 {
                0 => yield_now(),
                1 => sleep(MS / 20),
                _ => {}
            }
        }
    };
    let hub = move || {
        while ALLOCATOR.contended.load(Ordering::Relaxed) < OFTEN {
            let light: Vec<_> = (0..10).map(|number| spawn(move || work(number))).collect();
            let isolated: Vec<_> = (0..10)
                .map(|number| spawn_isolated(move || work(number)))
                .collect();
            work(0);
            assert!(joinall(light).into_iter().all(|ended| ended.is_ok()));
            isolated.into_iter().for_each(|it| it.join().unwrap());
        }
    };
    let other = os_thread(hub);
    hub();
    other.join().unwrap();
    stop.store(true, Ordering::Relaxed);
    greedy.into_iter().for_each(|thread| thread.join().unwrap());
}
