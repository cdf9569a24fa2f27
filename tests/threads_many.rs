//! Threads that are isolated greenlets: how many there can be at once, and that they
//! leave nothing behind when they come and go.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::{alone, alone_unwatched, proc_status, resident_kib, watchdog};
use greenlet::monkey::{Patch, patch_all};

/// The system's, with a count of the bytes that are in use.
struct Counting(AtomicUsize);

// SAFETY: it is the system's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        self.0.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting(AtomicUsize::new(0));

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(7) };
    static KEPT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Rust's bytes, malloc's bytes, resident KiB, mapped KiB.
fn in_use() -> [usize; 4] {
    // SAFETY: no preconditions.
    let malloc = unsafe { libc::mallinfo() }.uordblks as u32 as usize;
    let rust = ALLOCATOR.0.load(Ordering::Relaxed);
    [rust, malloc, resident_kib(), proc_status("VmSize:")]
}

#[test]
fn a_million_one_after_the_other_leave_nothing_behind() {
    alone("a_million_one_after_the_other_leave_nothing_behind", || {
        // What it keeps when it has something to say is not of interest here.
        greenlet::diagnostics::watchdog(None);
        let many = if cfg!(debug_assertions) {
            50_000
        } else {
            1_000_000
        };
        patch_all().unwrap();
        let run = |n: usize| {
            let thread = thread::spawn(move || {
                COUNT.set(n);
                // It has a destructor.
                KEPT.with_borrow_mut(|kept| kept.push(n));
                let _ = thread::current();
                COUNT.get() + 1
            });
            assert_eq!(thread.join().unwrap(), n + 1);
        };
        (0..10_000).for_each(run);
        let _ = in_use();
        let before = in_use();
        let start = std::time::Instant::now();
        (0..many).for_each(run);
        let each = start.elapsed() / many as u32;
        let after = in_use();
        eprintln!("{each:?} each; bytes and KiB before {before:?}, after {after:?} {many}");
        assert_eq!(after[0], before[0], "of Rust's");
        // What malloc keeps at hand for the next time counts as in use.
        let grown = after[1].saturating_sub(before[1]);
        assert!(grown < 1 << 10, "{grown} bytes more after {many}");
        assert!(after[2] <= before[2] + 64, "{before:?} {after:?}");
        assert_eq!(after[3], before[3], "mapped");
    });
}

#[test]
fn a_hundred_thousand_live_at_once() {
    alone("a_hundred_thousand_live_at_once", || {
        let _watchdog = watchdog();
        let many = if cfg!(debug_assertions) {
            10_000
        } else {
            100_000
        };
        patch_all().unwrap();
        let before = (in_use(), proc_status("VmPTE:"));
        let spawn = |n| {
            thread::Builder::new().spawn(move || {
                COUNT.set(n);
                thread::sleep(Duration::from_millis(10));
                COUNT.get()
            })
        };
        // With std's stacks of 2 MiB. Older kernels, and a way of guarding stacks that is
        // asked for in tests, have fewer of them.
        let threads: Vec<_> = (0..many).map_while(|n| spawn(n).ok()).collect();
        let count = threads.len();
        // All of them are parked after this.
        thread::yield_now();
        let after = (in_use(), proc_status("VmPTE:"));
        let each = |before: usize, after: usize| (after - before) * 1024 / count;
        let resident = each(before.0[2], after.0[2]);
        let tables = each(before.1, after.1);
        eprintln!("{count} threads: {resident} bytes resident each, {tables} of page tables");
        assert!(count >= many.min(10_000), "{count}");
        // Without optimisation the frames need a second page.
        let most = if cfg!(debug_assertions) {
            20 << 10
        } else {
            12 << 10
        };
        assert!(resident < most, "{resident} bytes resident each");
        for (n, thread) in threads.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap(), n);
        }
    });
}

/// Limits what is mapped to so many bytes more.
fn limit_address_space(more: u64) {
    let bytes = ((proc_status("VmSize:") as u64) << 10) + more;
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: a live variable.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

#[test]
fn on_further_hubs_they_begin_with_whatever_stack_there_is() {
    alone(
        "on_further_hubs_they_begin_with_whatever_stack_there_is",
        || {
            let _watchdog = watchdog();
            Patch::new().hubs(1).apply().unwrap();
            let spawn = |size: usize, n| {
                let builder = thread::Builder::new().stack_size(size);
                builder.spawn(move || {
                    thread::sleep(Duration::from_millis(1));
                    n
                })
            };
            spawn(2 << 20, 0).unwrap().join().unwrap();
            limit_address_space(20 << 20);
            // No stacks of this size can be mapped any more.
            let threads: Vec<_> = (0..30).map(|n| spawn(1 << 20, n).unwrap()).collect();
            for (n, thread) in threads.into_iter().enumerate() {
                assert_eq!(thread.join().unwrap(), n);
            }
        },
    );
}

#[test]
fn those_whom_there_is_no_memory_for_leave_nothing_behind() {
    alone_unwatched(
        "those_whom_there_is_no_memory_for_leave_nothing_behind",
        || {
            patch_all().unwrap();
            limit_address_space(500 << 20);
            let fail = || {
                let large = thread::Builder::new().stack_size(1 << 30);
                assert!(large.spawn(|| ()).is_err());
                let large = greenlet::Builder::new().stack_size(1 << 30);
                assert!(large.spawn_isolated(|| ()).is_err());
            };
            (0..100).for_each(|_| fail());
            let _ = in_use();
            let before = in_use();
            (0..2000).for_each(|_| fail());
            let after = in_use();
            assert_eq!(after[0], before[0], "of Rust's");
            let grown = after[1].saturating_sub(before[1]);
            assert!(grown < 1 << 10, "{grown} bytes more");
            assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
        },
    );
}
