//! After `patch_all`, new threads are isolated greenlets. What std and C see of them is in
//! `threads_std` and `threads_c`; here is where they run, and how they end.
#![cfg(all(feature = "monkey", target_arch = "x86_64"))]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::os::unix::thread::JoinHandleExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use common::{MS, alone, os_thread, quiet_panics, run_alone, until, watchdog};
use greenlet::monkey::{self, Patch, patch_all};

/// The kernel's number of the OS thread.
fn tid() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::gettid() }
}

#[test]
fn a_new_thread_runs_on_the_os_thread_that_makes_it() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let me = tid();
    let threads: Vec<_> = (0..100)
        .map(|_| {
            thread::spawn(|| {
                thread::sleep(MS);
                // And those that it makes, too.
                (tid(), thread::spawn(tid).join().unwrap())
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), (me, me));
    }
}

#[test]
fn it_does_not_run_before_its_maker_waits() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let (says, hears) = mpsc::channel();
    let thread = thread::spawn(move || says.send("ran").unwrap());
    assert!(hears.try_recv().is_err());
    assert_eq!(hears.recv(), Ok("ran"));
    thread.join().unwrap();
}

#[test]
fn os_threads_are_had_by_asking() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let me = tid();
    assert_ne!(monkey::os_thread::spawn(tid).join().unwrap(), me);
    // What code makes that knows nothing of it; and then no more.
    let (inside, nested) = monkey::os_thread::within(|| {
        let inside = thread::spawn(|| (tid(), thread::spawn(tid).join().unwrap()));
        inside.join().unwrap()
    });
    assert!(inside != me && nested != me && nested != inside);
    assert_eq!(thread::spawn(tid).join().unwrap(), me);
    quiet_panics();
    let left = catch_unwind(|| monkey::os_thread::within(|| panic!("out")));
    assert!(left.is_err());
    assert_eq!(thread::spawn(tid).join().unwrap(), me);
    // Where nothing is to be patched, threads are none either.
    assert_ne!(monkey::unpatched(|| thread::spawn(tid).join().unwrap()), me);
    // It is the greenlet that asks, and no other.
    let other = greenlet::spawn(|| thread::spawn(tid).join().unwrap());
    let mine = monkey::os_thread::within(|| {
        assert_eq!(other.join().unwrap(), me);
        thread::spawn(tid).join().unwrap()
    });
    assert_ne!(mine, me);
}

#[test]
fn a_thread_that_has_not_called_makes_os_threads() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let (own, made) = os_thread(|| (tid(), thread::spawn(tid).join().unwrap()))
        .join()
        .unwrap();
    assert_ne!(own, made);
    let (own, made) = os_thread(|| {
        patch_all().unwrap();
        (tid(), thread::spawn(tid).join().unwrap())
    })
    .join()
    .unwrap();
    assert_eq!(own, made);
}

#[test]
fn executors_and_helpers_are_os_threads() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let me = tid();
    let executor = greenlet::executor::ThreadPoolExecutor::with_workers(2).unwrap();
    assert_ne!(executor.submit(tid).unwrap().join().unwrap(), me);
    executor.shutdown(true);
    assert_ne!(greenlet::offload(tid), me);
}

/// Set where a thread-local is destroyed.
struct Noted(Arc<AtomicUsize>);

impl Drop for Noted {
    fn drop(&mut self) {
        thread::sleep(MS);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local!(static KEPT: RefCell<Option<Noted>> = const { RefCell::new(None) });

#[test]
fn an_os_thread_ends_after_those_that_run_on_it() {
    let _watchdog = watchdog();
    let ended = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&ended);
    os_thread(move || {
        patch_all().unwrap();
        for n in 0..10 {
            let shared = Arc::clone(&shared);
            // Detached.
            thread::spawn(move || {
                KEPT.set(Some(Noted(shared)));
                thread::sleep(n * MS);
                thread::spawn(|| thread::sleep(MS));
            });
        }
    })
    .join()
    .unwrap();
    assert_eq!(ended.load(Ordering::Relaxed), 10);
}

#[test]
fn a_process_ends_with_its_main_thread() {
    let finished = run_alone("a_process_ends_with_its_main_thread", || {
        let _watchdog = watchdog();
        patch_all().unwrap();
        thread::spawn(|| thread::sleep(Duration::MAX));
        thread::spawn(|| {
            thread::sleep(10 * MS);
            println!("exits");
            std::process::exit(7);
        });
        thread::sleep(Duration::from_secs(1000));
    });
    if let Some(finished) = finished {
        assert_eq!(finished.status.code(), Some(7), "{finished:?}");
        assert!(finished.stdout.contains("exits"));
    }
}

#[test]
fn a_panic_is_the_result_and_kills_nobody_else() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let other = thread::spawn(|| {
        thread::sleep(10 * MS);
        7
    });
    quiet_panics();
    let payload = thread::spawn(|| panic!("oh")).join().unwrap_err();
    assert_eq!(payload.downcast_ref::<&str>().unwrap(), &"oh");
    assert_eq!(other.join().unwrap(), 7);
}

#[test]
fn a_shutdown_ends_threads_as_it_ends_greenlets() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let dropped = Arc::new(AtomicUsize::new(0));
    let begun = thread::spawn({
        let noted = Noted(Arc::clone(&dropped));
        move || {
            let _noted = noted;
            greenlet::sleep(Duration::MAX);
        }
    });
    thread::sleep(MS);
    // Whoever makes a thread relies on it that it begins.
    let unstarted = thread::spawn({
        let noted = Noted(Arc::clone(&dropped));
        move || {
            let _noted = noted;
            greenlet::sleep(Duration::MAX);
        }
    });
    assert_eq!(greenlet::hub::shutdown(), 0);
    assert!(begun.join().is_err() && unstarted.join().is_err());
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
}

#[test]
fn a_fork_in_a_thread_goes_on_in_both() {
    alone("a_fork_in_a_thread_goes_on_in_both", || {
        let _watchdog = watchdog();
        patch_all().unwrap();
        let waits = thread::spawn(|| thread::sleep(20 * MS));
        let forks = thread::spawn(|| {
            // SAFETY: the child has the forking thread alone, and does little.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let made = thread::spawn(|| {
                    thread::sleep(MS);
                    tid()
                });
                let code = i32::from(made.join().unwrap() != tid());
                // SAFETY: no preconditions.
                unsafe { libc::_exit(code) };
            }
            let mut status = -1;
            // SAFETY: a live variable.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            status
        });
        assert_eq!(forks.join().unwrap(), 0);
        waits.join().unwrap();
    });
}

#[test]
fn threads_are_placed_on_further_hubs_in_turn_and_stay_there() {
    let finished = run_alone(
        "threads_are_placed_on_further_hubs_in_turn_and_stay_there",
        || {
            let _watchdog = watchdog();
            Patch::new().hubs(3).apply().unwrap();
            // Fewer than there are: these stay.
            Patch::new().hubs(1).apply().unwrap();
            let me = tid();
            let places: Vec<_> = (0..30)
                .map(|_| {
                    thread::spawn(|| {
                        let before = tid();
                        for _ in 0..5 {
                            thread::sleep(MS);
                            assert_eq!(tid(), before);
                        }
                        // Those that it makes are placed, too.
                        thread::spawn(|| ()).join().unwrap();
                        before
                    })
                })
                .collect();
            let places: BTreeSet<_> = places.into_iter().map(|t| t.join().unwrap()).collect();
            assert_eq!(places.len(), 3);
            assert!(!places.contains(&me));
        },
    );
    if let Some(finished) = finished {
        finished.succeeded();
    }
}

#[test]
fn threads_of_several_hubs_wait_for_each_other() {
    alone("threads_of_several_hubs_wait_for_each_other", || {
        const ROUNDS: usize = 200;
        let _watchdog = watchdog();
        Patch::new().hubs(2).apply().unwrap();
        let barrier = Arc::new(Barrier::new(8));
        let total = Arc::new(Mutex::new(0));
        let (says, hears) = mpsc::sync_channel(3);
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let (barrier, total) = (Arc::clone(&barrier), Arc::clone(&total));
                let says = says.clone();
                thread::spawn(move || {
                    for round in 0..ROUNDS {
                        barrier.wait();
                        *total.lock().unwrap() += 1;
                        says.send(round).unwrap();
                    }
                })
            })
            .collect();
        drop(says);
        assert_eq!(hears.iter().count(), 8 * ROUNDS);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*total.lock().unwrap(), 8 * ROUNDS);
    });
}

#[test]
fn a_thread_of_another_hub_is_told_apart_named_and_signalled() {
    alone(
        "a_thread_of_another_hub_is_told_apart_named_and_signalled",
        || {
            static CAUGHT: AtomicUsize = AtomicUsize::new(0);
            extern "C" fn caught(_: libc::c_int) {
                CAUGHT.store(tid() as usize, Ordering::Relaxed);
            }
            let _watchdog = watchdog();
            Patch::new().hubs(1).apply().unwrap();
            // SAFETY: the handler is async-signal-safe.
            unsafe { libc::signal(libc::SIGUSR1, caught as *const () as libc::sighandler_t) };
            let (go, wait) = mpsc::channel::<()>();
            let (says, where_) = mpsc::channel();
            let thread = thread::spawn(move || {
                says.send(tid()).unwrap();
                wait.recv().unwrap();
                thread::current().id()
            });
            let place = where_.recv().unwrap();
            let handle = thread.as_pthread_t();
            let mut name = [0u8; 16];
            // SAFETY: the thread has not been joined; strings with their ends.
            unsafe {
                assert_eq!(libc::pthread_setname_np(handle, c"named".as_ptr()), 0);
                let at = name.as_mut_ptr().cast();
                assert_eq!(libc::pthread_getname_np(handle, at, name.len()), 0);
                assert_eq!(&name[..6], b"named\0");
                assert_eq!(libc::pthread_kill(handle, 0), 0);
                assert_eq!(libc::pthread_kill(handle, 99), libc::EINVAL);
                assert_eq!(libc::pthread_kill(handle, libc::SIGUSR1), 0);
            }
            until(|| CAUGHT.load(Ordering::Relaxed) == place as usize);
            go.send(()).unwrap();
            assert_ne!(thread.join().unwrap(), thread::current().id());
        },
    );
}

#[test]
fn many_threads_come_and_go_on_several_hubs() {
    alone("many_threads_come_and_go_on_several_hubs", || {
        let _watchdog = watchdog();
        Patch::new().hubs(2).apply().unwrap();
        let ran = Arc::new(AtomicUsize::new(0));
        for round in 0..50 {
            let threads: Vec<_> = (0..40)
                .map(|n| {
                    let ran = Arc::clone(&ran);
                    thread::spawn(move || {
                        if n % 3 == 0 {
                            thread::yield_now();
                        }
                        let _unjoined = thread::spawn(move || ran.fetch_add(1, Ordering::Relaxed));
                        n
                    })
                })
                .collect();
            for (n, thread) in threads.into_iter().enumerate() {
                if (n + round) % 4 != 0 {
                    assert_eq!(thread.join().unwrap(), n);
                }
            }
        }
        until(|| ran.load(Ordering::Relaxed) == 2000);
    });
}

#[test]
fn where_threads_cannot_be_greenlets_it_is_said_so_and_the_rest_can_be_patched() {
    // glibc's symbols are all there where this runs: so the text alone. `.ci/run` has a static
    // program, where they are not.
    let error = greenlet::error::PatchError::from(greenlet::error::IsolationError::Architecture);
    let text = error.to_string();
    assert!(
        text.contains("x86-64") && text.contains("Patch::new().threads(false)"),
        "{text}"
    );
}

#[test]
fn scoped_threads_borrow() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let mut numbers = vec![1, 2, 3];
    let sum = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in &mut numbers {
            let sum = &sum;
            scope.spawn(move || {
                thread::sleep(MS);
                *number *= 10;
                sum.fetch_add(*number, Ordering::Relaxed);
            });
        }
    });
    assert_eq!((numbers, sum.into_inner()), (vec![10, 20, 30], 60));
    quiet_panics();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        thread::scope(|scope| scope.spawn(|| panic!("in it")).join().is_err())
    }));
    assert!(panicked.unwrap());
}

#[test]
fn a_wait_that_belongs_to_a_thread_holds_up_those_who_share_it_and_nobody_else() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let turns = Rc::new(Cell::new(0));
    let counts = Rc::clone(&turns);
    // It shares the thread-locals of those who wait.
    let neighbour = greenlet::spawn(move || {
        loop {
            counts.set(counts.get() + 1);
            greenlet::yield_now();
        }
    });
    let asks: Vec<_> = (0..10)
        .map(|n| {
            let turns = Rc::clone(&turns);
            greenlet::spawn(move || {
                let (says, hears) = mpsc::channel();
                let thread = thread::spawn(move || {
                    for part in 0..3 {
                        thread::sleep(MS);
                        says.send(n + part).unwrap();
                    }
                });
                let before = turns.get();
                let heard: Vec<i32> = hears.iter().collect();
                assert_eq!(turns.get(), before);
                thread.join().unwrap();
                heard
            })
        })
        .collect();
    // The main greenlet shares them, too.
    thread::scope(|scope| {
        scope.spawn(|| thread::sleep(MS));
    });
    for (n, greenlet) in (0..).zip(asks) {
        assert_eq!(greenlet.join().unwrap(), [n, n + 1, n + 2]);
    }
    let before = turns.get();
    until(|| turns.get() > before + 3);
    neighbour.kill_wait();
}

#[test]
fn whom_such_a_wait_holds_up_holds_up_no_lock() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let lock = Arc::new(Mutex::new(0));
    for _ in 0..50 {
        let guard = lock.lock().unwrap();
        // A light greenlet is the first to wait for the lock, and a thread the second.
        let neighbour = greenlet::spawn({
            let lock = Arc::clone(&lock);
            move || *lock.lock().unwrap() += 1
        });
        greenlet::yield_now();
        let (says, hears) = mpsc::channel();
        let second = thread::spawn({
            let lock = Arc::clone(&lock);
            move || {
                *lock.lock().unwrap() += 1;
                says.send(()).unwrap();
            }
        });
        thread::yield_now();
        let third = thread::spawn(move || {
            thread::sleep(MS / 10);
            drop(second);
        });
        drop(guard);
        // The neighbour has been woken, and does not run.
        hears.recv().unwrap();
        third.join().unwrap();
        neighbour.join().unwrap();
    }
    assert_eq!(*lock.lock().unwrap(), 100);
}

#[test]
fn reports_know_threads_by_their_names() {
    let _watchdog = watchdog();
    patch_all().unwrap();
    let named = thread::Builder::new().name("reader of news".to_owned());
    let (go, wait) = mpsc::channel::<()>();
    let thread = named.spawn(move || wait.recv().unwrap()).unwrap();
    greenlet::yield_now();
    let report = greenlet::hub::report();
    let line = report.lines().find(|line| line.contains("reader of news"));
    assert!(line.unwrap().contains("waiting for a lock"), "{report}");
    go.send(()).unwrap();
    thread.join().unwrap();
    let inside = thread::Builder::new().name("asks itself".to_owned());
    let inside = inside.spawn(|| greenlet::current().name()).unwrap();
    assert_eq!(inside.join().unwrap(), "asks itself");
}

#[test]
fn who_holds_up_the_os_thread_is_named() {
    let finished = common::in_subprocess_with(
        "who_holds_up_the_os_thread_is_named",
        &[("GREENLET_WATCHDOG", "20")],
        || {
            patch_all().unwrap();
            let named = thread::Builder::new().name("computes".to_owned());
            let thread = named
                .spawn(|| {
                    let start = std::time::Instant::now();
                    while start.elapsed() < 500 * MS {
                        std::hint::spin_loop();
                    }
                })
                .unwrap();
            thread.join().unwrap();
        },
    );
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said("'computes'");
    }
}

#[test]
fn a_condition_that_is_a_thread_local_is_waited_for_by_one_at_a_time() {
    type Latch = (Mutex<bool>, Condvar);
    thread_local!(static LATCH: Latch = const { (Mutex::new(false), Condvar::new()) });
    let _watchdog = watchdog();
    patch_all().unwrap();
    // As rayon does for who asks its pool.
    fn ask(n: u32) -> bool {
        let done = Arc::new(AtomicUsize::new(0));
        LATCH.with(|latch| {
            let address = ptr::from_ref(latch) as usize;
            let helper = os_thread({
                let done = Arc::clone(&done);
                move || {
                    thread::sleep(n * MS / 10);
                    // SAFETY: the thread whose it is waits for this.
                    let (lock, condition) = unsafe { &*(address as *const Latch) };
                    let mut told = lock.lock().unwrap();
                    done.store(1, Ordering::Relaxed);
                    *told = true;
                    condition.notify_all();
                }
            });
            let (lock, condition) = latch;
            let guard = lock.lock().unwrap();
            *condition.wait_while(guard, |told| !*told).unwrap() = false;
            let in_time = done.load(Ordering::Relaxed) == 1;
            helper.join().unwrap();
            in_time
        })
    }
    let asks: Vec<_> = (0..10)
        .map(|n| greenlet::spawn(move || (0..10).all(|round| ask((n * 7 + round) % 5))))
        .collect();
    for greenlet in asks {
        assert!(greenlet.join().unwrap());
    }
}
