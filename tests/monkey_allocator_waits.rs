//! An allocator that waits each time it is called, as if another thread held its lock:
//! whatever asks for memory, or gives it back, is a place where others run. Nothing of
//! the crate is half done there.
//!
//! What runs in between is the rest of each test, which therefore has many greenlets do
//! the same.
#![cfg(feature = "monkey")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;

use common::{MS, watchdog};
use greenlet::executor::GreenletPoolExecutor;
use greenlet::net::UnixStream;
use greenlet::queue::Queue;
use greenlet::{
    Builder, Greenlet, GreenletState, Group, JoinHandle, Pool, Waitable, hub, iwait, joinall,
    sleep, spawn, spawn_isolated, timeout, yield_now,
};

struct Waiting;

static WAITS: AtomicBool = AtomicBool::new(false);

/// Who waits for this word is woken by the allocator of a thread that so wishes.
static WORD: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static WAKES: Cell<bool> = const { Cell::new(false) };
}

impl Waiting {
    /// What a lock does that another thread holds for some microseconds. (A lock would be
    /// asked again after that.)
    fn wait() {
        /// Nobody wakes it.
        static NEVER: AtomicU32 = AtomicU32::new(0);
        const TIME: i64 = 5_000;
        const SECOND: i64 = 1_000_000_000;
        if !WAITS.load(Ordering::Relaxed) {
            return;
        }
        let mut until = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let op = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: all these are live variables, and errno is this thread's. As std's lock,
        // it leaves errno as it was for who frees memory.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut until);
            until.tv_nsec += TIME;
            until.tv_sec += until.tv_nsec / SECOND;
            until.tv_nsec %= SECOND;
            libc::syscall(
                libc::SYS_futex,
                NEVER.as_ptr(),
                op,
                0,
                &raw const until,
                0,
                u32::MAX,
            );
            *errno = before;
        }
    }
}

// SAFETY: it is the system's.
unsafe impl GlobalAlloc for Waiting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Waiting::wait();
        if WAKES.take() {
            WORD.store(1, Ordering::SeqCst);
            let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: waking touches no memory.
            unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), op, 1) };
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        Waiting::wait();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Waiting = Waiting;

/// From here on the allocator waits.
fn waiting() -> common::Watchdog {
    let watchdog = watchdog();
    common::patch();
    WAITS.store(true, Ordering::Relaxed);
    watchdog
}

/// Has so many greenlets run this, with numbers from 0 on.
fn all<T: 'static>(many: usize, body: impl Fn(usize) -> T + Clone + 'static) -> Vec<T> {
    let greenlets: Vec<_> = (0..many)
        .map(|number| {
            let body = body.clone();
            spawn(move || body(number))
        })
        .collect();
    let ended = joinall(greenlets).into_iter();
    ended.map(Result::unwrap).collect()
}

#[test]
fn others_run_where_memory_is_asked_for() {
    let _watchdog = waiting();
    let turns = Rc::new(Cell::new(0));
    let other = spawn({
        let turns = Rc::clone(&turns);
        move || turns.set(turns.get() + 1)
    });
    while turns.get() == 0 {
        drop(std::hint::black_box(Box::new(1)));
    }
    other.join().unwrap();
}

/// It is to leave its `timeout`, and its timer is cancelled.
#[test]
fn who_is_interrupted_does_not_park_among_the_timers() {
    let _watchdog = waiting();
    // They are interrupted together. So many timers have all their memory freed when the
    // last is gone, and the next round asks for it anew.
    for _ in 0..10 {
        all(40, |_| assert!(timeout(MS, || sleep(1000 * MS)).is_err()));
    }
}

/// A wait asks for memory when its timer is started. Its thread blocks there, so that
/// those who have been woken by a greenlet of it are relieved: everybody is woken, and
/// this wait, which has begun, is one of them.
#[test]
fn a_wait_that_is_answered_while_its_timer_is_started_does_not_begin() {
    let _watchdog = waiting();
    let lock = Rc::new(Mutex::new(()));
    let (other, never) = (Mutex::new(()), Condvar::new());
    let mut sleepers: Vec<JoinHandle<()>> = Vec::new();
    // Now and then there is no room for one timer more. The waits of the allocator have
    // timers too, so none of them may come between the sleeper's and the one in question.
    for _ in 0..40 {
        let held = lock.lock().unwrap();
        let waits = spawn({
            let lock = Rc::clone(&lock);
            move || drop(lock.lock().unwrap())
        });
        sleepers.push(spawn(|| sleep(1000 * 1000 * MS)));
        (0..3).for_each(|_| yield_now());
        drop(held);
        let guard = other.lock().unwrap();
        drop(never.wait_timeout(guard, MS / 10).unwrap());
        waits.join().unwrap();
    }
    greenlet::killall(&sleepers);
}

/// The loop asks for memory before it sleeps for the first time, and the allocator lets go
/// of a lock that a greenlet of this thread waits for.
#[test]
fn who_is_woken_by_the_loop_itself_is_not_slept_upon() {
    common::alone("who_is_woken_by_the_loop_itself_is_not_slept_upon", || {
        let _watchdog = watchdog();
        common::patch();
        let other = spawn(|| sleep(1000 * 1000 * MS));
        yield_now();
        WAKES.set(true);
        let op = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
        let never = std::ptr::null::<libc::timespec>();
        while WORD.load(Ordering::SeqCst) == 0 {
            // SAFETY: the word lives for ever.
            unsafe { libc::syscall(libc::SYS_futex, WORD.as_ptr(), op, 0, never, 0, u32::MAX) };
        }
        assert!(!WAKES.get());
        other.kill_wait();
    });
}

#[test]
fn stacks_are_promised_to_many_at_once() {
    let _watchdog = waiting();
    let spawns = |size: usize| {
        move |_| {
            let spawned = (0..40).map(|n| {
                let builder = Builder::new().stack_size(size);
                builder.spawn(move || n).unwrap()
            });
            joinall(spawned)
                .into_iter()
                .map(Result::unwrap)
                .sum::<i32>()
        }
    };
    // Those of the usual size, and two others.
    for size in [256 << 10, 64 << 10, 128 << 10] {
        assert_eq!(all(4, spawns(size)), [780; 4]);
    }
}

#[test]
fn names_and_reports_are_written_while_their_greenlets_end() {
    let _watchdog = waiting();
    all(8, |number| {
        let named = Builder::new()
            .name(format!("named {number}"))
            .spawn(|| timeout(MS / 10, || sleep(1000 * MS)).is_err())
            .unwrap();
        while !named.is_finished() {
            assert_eq!(named.name(), format!("named {number}"));
            assert!(hub::report().contains("main"));
        }
        assert!(named.join().unwrap());
    });
}

#[test]
fn links_are_called_once_each() {
    let _watchdog = waiting();
    let called = Rc::new(Cell::new(0));
    let count = {
        let called = Rc::clone(&called);
        move || called.set(called.get() + 1)
    };
    all(10, {
        let count = count.clone();
        move |_| {
            let linked = spawn(yield_now);
            let unlinked = linked.link(|| unreachable!());
            let unlinked = linked.unlink(unlinked);
            (0..5).for_each(|_| _ = linked.link(count.clone()));
            linked.join().unwrap();
            assert!(unlinked);
        }
    });
    common::until(|| called.get() == 50);
}

#[test]
fn groups_and_pools_are_left_by_whoever_has_ended() {
    let _watchdog = waiting();
    let (group, pool) = (Rc::new(Group::new()), Rc::new(Pool::new(3)));
    all(10, {
        let (group, pool) = (Rc::clone(&group), Rc::clone(&pool));
        move |number| {
            // So many that the memory of what they are kept in comes and goes.
            let members = [0, 1, 2, 3, 4, 5].map(|n| group.spawn(move || sleep(MS / 5 * n)));
            let (some, _) = members.split_at(number % 6);
            some.iter().for_each(|member| _ = group.remove(member));
            let added = spawn(|| sleep(MS / 10));
            group.add(&added);
            let sum = pool.map(move |n: usize| n + number, 0..4);
            let sum: usize = sum.into_iter().map(Result::unwrap).sum();
            assert_eq!(sum, 6 + 4 * number);
        }
    });
    group.join();
    pool.join();
    assert!(group.is_empty() && pool.is_empty());
    assert_eq!(pool.free_count(), 3);
}

#[test]
fn scopes_lose_none_of_their_greenlets() {
    let _watchdog = waiting();
    let sums = all(6, |number| {
        let numbers: Vec<usize> = (number..number + 40).collect();
        let sum = AtomicUsize::new(0);
        greenlet::scope(|s| {
            for n in &numbers {
                let sum = &sum;
                s.spawn(move || {
                    sleep(MS / 50 * (n % 40) as u32);
                    sum.fetch_add(*n, Ordering::Relaxed);
                });
            }
        });
        sum.into_inner()
    });
    assert!(sums.into_iter().eq((0..6).map(|number| 780 + 40 * number)));
}

/// Each is found to have ended, or its end is waited for: nobody ends in between.
#[test]
fn who_waits_for_several_misses_none() {
    let _watchdog = waiting();
    all(6, |_| {
        let several: Vec<_> = (0..10).map(|n| spawn(move || sleep(MS / 50 * n))).collect();
        let several: Vec<&dyn Waitable> = several.iter().map(|one| one as _).collect();
        assert_eq!(iwait(&several, None).count(), 10);
    });
}

/// A worker that has just been started finds its job.
#[test]
fn an_executor_does_every_job() {
    let _watchdog = waiting();
    let executor = Rc::new(GreenletPoolExecutor::with_workers(3).unwrap());
    let results = all(10, {
        let executor = Rc::clone(&executor);
        move |number| executor.submit(move || number).unwrap().result().unwrap()
    });
    assert!(results.into_iter().eq(0..10));
}

#[test]
fn explicit_greenlets_are_started_once_and_switched_to_in_between() {
    let _watchdog = waiting();
    all(8, |number| {
        let echo = Greenlet::new(move |mut got: String| {
            for _ in 0..5 {
                let back = Greenlet::<String>::current().parent().unwrap();
                got = back.switch(format!("{got} {number}"));
            }
            got
        });
        let looks = spawn({
            let echo = echo.clone();
            move || {
                while matches!(echo.state(), GreenletState::Unstarted) {
                    yield_now();
                }
                assert_ne!(echo.state(), GreenletState::Unbound);
            }
        });
        for round in 0..5 {
            let sent = format!("{round}");
            let expected = format!("{round} {number}");
            assert_eq!(echo.switch(sent), expected);
        }
        looks.join().unwrap();
        // The last handle of one that is suspended: it is killed, and switches meanwhile.
        let meddles = Greenlet::new(move |n: i32| {
            let _meddles = common::defer(|| _ = Greenlet::new(|n: i32| n).switch(3));
            Greenlet::<i32>::current().parent().unwrap().switch(n)
        });
        assert_eq!(meddles.switch(number as i32), number as i32);
    });
}

#[test]
fn isolated_greenlets_are_joined() {
    let _watchdog = waiting();
    if greenlet::isolation().is_err() {
        return;
    }
    let squares = all(6, |n| spawn_isolated(move || n * n).join().unwrap());
    assert_eq!(squares, [0, 1, 4, 9, 16, 25]);
}

/// A plain wait belongs to the thread: who shares its thread-locals has no turn meanwhile.
#[test]
fn nobody_is_miscounted_while_an_isolated_greenlet_is_made() {
    let _watchdog = waiting();
    if greenlet::isolation().is_err() {
        return;
    }
    let (turns, over) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let shares = spawn({
        let (turns, over) = (Rc::clone(&turns), Rc::clone(&over));
        move || {
            while !over.get() {
                turns.set(turns.get() + 1);
                yield_now();
            }
        }
    });
    let makes = spawn_isolated(|| {
        let made: Vec<_> = (0..40).map(|_| spawn_isolated(|| ())).collect();
        made.into_iter().for_each(|one| one.join().unwrap());
    });
    while !makes.is_finished() {
        yield_now();
        let before = turns.get();
        static NEVER: AtomicU32 = AtomicU32::new(0);
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 20_000,
        };
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: both are live variables.
        unsafe { libc::syscall(libc::SYS_futex, NEVER.as_ptr(), op, 0, &raw const time) };
        assert_eq!(turns.get(), before);
    }
    over.set(true);
    shares.join().unwrap();
    makes.join().unwrap();
}

#[test]
fn what_is_sent_arrives() {
    let _watchdog = waiting();
    all(6, |number| {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let (mut c, mut d) = std::os::unix::net::UnixStream::pair().unwrap();
        let echo = spawn(move || {
            let mut byte = [0];
            while b.read(&mut byte).unwrap() > 0 {
                c.write_all(&byte).unwrap();
            }
        });
        for n in 0..20 {
            let (sent, mut got) = ([number as u8 ^ n], [0]);
            a.write_all(&sent).unwrap();
            d.read_exact(&mut got).unwrap();
            assert_eq!(got, sent);
        }
        drop(a);
        echo.join().unwrap();
    });
}

/// One looks whether there is room in a pipe, and another one takes it.
#[test]
fn writers_into_a_pipe_park() {
    let _watchdog = waiting();
    const SIZE: usize = libc::PIPE_BUF;
    const MANY: usize = 40;
    // One that has a name, for which the kernel knows no better way than to look first.
    let path = std::env::temp_dir().join(format!("greenlet-{}-waits", std::process::id()));
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the path is a string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let both = std::fs::File::options().read(true).write(true).open(&path);
    std::fs::remove_file(&path).unwrap();
    let pipe = Rc::new(both.unwrap());
    let written: Vec<_> = (0..MANY)
        .map(|number| {
            let pipe = Rc::clone(&pipe);
            spawn(move || {
                let bytes = vec![number as u8; SIZE];
                let (a, b) = bytes.split_at(100);
                let slices = [a, b].map(|slice| libc::iovec {
                    iov_base: slice.as_ptr().cast_mut().cast(),
                    iov_len: slice.len(),
                });
                // SAFETY: the buffers and their array live through the call.
                unsafe { libc::writev(pipe.as_raw_fd(), slices.as_ptr(), 2) }
            })
        })
        .collect();
    let mut bytes = vec![0; SIZE];
    for _ in 0..MANY {
        (&*pipe).read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == bytes[0]), "in one piece");
    }
    for written in joinall(written) {
        assert_eq!(written.unwrap(), SIZE as isize);
    }
}

#[test]
fn whoever_polls_is_told() {
    let _watchdog = waiting();
    all(40, |number| {
        let pairs = [(); 3].map(|()| std::os::unix::net::UnixStream::pair().unwrap());
        let (polled, mut others): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let polling = spawn(move || {
            let mut entries: Vec<_> = polled
                .iter()
                .map(|one| libc::pollfd {
                    fd: one.as_raw_fd(),
                    events: libc::POLLIN,
                    revents: 0,
                })
                .collect();
            // SAFETY: a live array of that many.
            let ready = unsafe { libc::poll(entries.as_mut_ptr(), 3, -1) };
            (ready, entries[1].revents)
        });
        (0..number % 10).for_each(|_| yield_now());
        others[1].write_all(b"x").unwrap();
        assert_eq!(polling.join().unwrap(), (1, libc::POLLIN));
    });
}

#[test]
fn threads_that_share_a_queue_lose_nothing() {
    let _watchdog = waiting();
    let queue = std::sync::Arc::new(Queue::unbounded());
    let threads = [(); 2].map(|()| {
        let queue = std::sync::Arc::clone(&queue);
        thread::spawn(move || {
            let sums = all(10, move |_| {
                (0..20).for_each(|n| queue.put(vec![n]).unwrap());
                (0..20).map(|_| queue.get().unwrap()[0]).sum::<usize>()
            });
            sums.into_iter().sum::<usize>()
        })
    });
    let sum: usize = threads.map(|thread| thread.join().unwrap()).iter().sum();
    assert_eq!(sum, 2 * 10 * 190);
}
