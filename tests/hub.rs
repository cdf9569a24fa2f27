//! The hub from outside: other threads, deadlocks, reports, the ends of threads
//! and processes, forks.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{
    MS, OnDrop, alone, defer, flag, fork, in_subprocess_with, quiet_panics, run_alone, watchdog,
};
use greenlet::error::{Deadlock, JoinError};
use greenlet::hub::{self, Parker};
use greenlet::{
    Builder, JoinHandle, current, joinall, sleep, spawn, spawn_later, timeout, yield_now,
};

const HOUR: Duration = Duration::from_secs(3600);

// Parker and Unparker.

/// G161
#[test]
fn an_unpark_that_comes_first_is_kept() {
    let _watchdog = watchdog();
    let parker = Parker::new();
    let unparker = parker.unparker();
    unparker.unpark();
    unparker.unpark();
    parker.park();
    // Several of them are one.
    assert!(!parker.park_timeout(MS));
}

#[test]
fn park_ends_in_time() {
    let _watchdog = watchdog();
    let parker = Parker::new();
    let start = Instant::now();
    assert!(!parker.park_timeout(5 * MS));
    assert!(start.elapsed() >= 5 * MS);
    assert!(!parker.park_timeout(Duration::ZERO));
    // A permit that comes too late for one wait is there for the next.
    parker.unparker().unpark();
    assert!(parker.park_timeout(HOUR));
}

/// G112: threads without a hub, with one, and greenlets on both sides.
#[test]
fn greenlets_of_two_threads_wake_each_other() {
    let _watchdog = watchdog();
    const ROUNDS: usize = 2000;
    let (to_here, from_there) = std::sync::mpsc::channel();
    let (to_there, from_here) = std::sync::mpsc::channel();
    let turn = Arc::new(AtomicUsize::new(0));
    let play = |mine: usize, turn: Arc<AtomicUsize>, parker: Parker, other: hub::Unparker| {
        for round in (mine..2 * ROUNDS).step_by(2) {
            while turn.load(Ordering::Acquire) != round {
                parker.park();
            }
            turn.store(round + 1, Ordering::Release);
            other.unpark();
        }
    };
    let theirs = {
        let turn = Arc::clone(&turn);
        std::thread::spawn(move || {
            spawn(move || {
                let parker = Parker::new();
                to_here.send(parker.unparker()).unwrap();
                let other = from_here.recv().unwrap();
                play(1, turn, parker, other);
            })
            .join()
            .unwrap();
        })
    };
    let ours = spawn(move || {
        let parker = Parker::new();
        to_there.send(parker.unparker()).unwrap();
        let other = from_there.recv().unwrap();
        play(0, turn, parker, other);
    });
    ours.join().unwrap();
    theirs.join().unwrap();
}

/// G131, G132 for the one primitive: many threads, many greenlets, no wake-up lost.
#[test]
fn no_wake_up_from_many_threads_is_lost() {
    let _watchdog = watchdog();
    let greenlets: Vec<(JoinHandle<()>, Arc<AtomicUsize>)> = (0..8)
        .map(|_| {
            let left = Arc::new(AtomicUsize::new(500));
            let mine = Arc::clone(&left);
            let slot = Rc::new(Cell::new(None));
            let theirs = Rc::clone(&slot);
            let handle = spawn(move || {
                let parker = Parker::new();
                theirs.set(Some(parker.unparker()));
                while mine.load(Ordering::Acquire) > 0 {
                    parker.park();
                }
            });
            yield_now();
            let unparker = slot.take().unwrap();
            for _ in 0..2 {
                let (unparker, left) = (unparker.clone(), Arc::clone(&left));
                std::thread::spawn(move || {
                    for _ in 0..250 {
                        left.fetch_sub(1, Ordering::AcqRel);
                        unparker.unpark();
                    }
                });
            }
            (handle, left)
        })
        .collect();
    for (handle, left) in greenlets {
        handle.join().unwrap();
        assert_eq!(left.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_parker_refuses_another_greenlet() {
    let _watchdog = watchdog();
    quiet_panics();
    let parker = Rc::new(Parker::new());
    let foreign = spawn({
        let parker = Rc::clone(&parker);
        move || {
            let park = std::panic::AssertUnwindSafe(|| parker.park());
            std::panic::catch_unwind(park).is_err()
        }
    });
    assert!(foreign.join().unwrap());
    parker.unparker().unpark();
    parker.park();
}

/// An Unparker may outlive greenlet, parker and hub.
#[test]
fn unparking_the_gone_does_nothing() {
    let _watchdog = watchdog();
    let of_the_ended = spawn(|| Parker::new().unparker()).join().unwrap();
    of_the_ended.unpark();
    let of_a_dead_hub = std::thread::spawn(|| spawn(|| Parker::new().unparker()).join().unwrap());
    let of_a_dead_hub = of_a_dead_hub.join().unwrap();
    for _ in 0..100 {
        of_a_dead_hub.unpark();
        of_the_ended.unpark();
    }
    // Parked for ever on a thread that has ended.
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        spawn(move || {
            let parker = Parker::new();
            send.send(parker.unparker()).unwrap();
            parker.park();
            unreachable!();
        });
        yield_now();
    })
    .join()
    .unwrap();
    let unparker = receive.recv().unwrap();
    unparker.unpark();
    unparker.unpark();
}

/// A wake-up for one wait never ends the next one.
#[test]
fn a_stale_wake_up_ends_nobody_elses_wait() {
    let _watchdog = watchdog();
    let handle = spawn(|| {
        let parker = Parker::new();
        let unparker = parker.unparker();
        assert!(!parker.park_timeout(MS));
        // Too late for the park; and the sleep is none of its business.
        let thread = std::thread::spawn(move || unparker.unpark());
        let start = Instant::now();
        sleep(10 * MS);
        assert!(start.elapsed() >= 10 * MS);
        thread.join().unwrap();
        assert!(parker.park_timeout(HOUR));
    });
    handle.join().unwrap();
}

// Deadlocks.

/// G214: main alone, with nobody who could wake it. The child of a fork has no
/// other thread.
#[test]
fn a_park_that_nobody_can_end_is_a_deadlock() {
    let _watchdog = watchdog();
    alone("a_park_that_nobody_can_end_is_a_deadlock", || {
        let code = fork(|| {
            let parker = Parker::new();
            let park = std::panic::AssertUnwindSafe(|| parker.park());
            std::panic::set_hook(Box::new(|_| ()));
            let payload = std::panic::catch_unwind(park).unwrap_err();
            // A timed one is no deadlock, and the hub goes on.
            let timed = !parker.park_timeout(MS);
            i32::from(!(payload.is::<Deadlock>() && timed && spawn(|| 5).join().unwrap() == 5))
        });
        assert_eq!(code, 0);
    });
}

/// Never a false alarm: while another thread lives, it may hold the Unparker.
#[test]
fn no_deadlock_is_told_while_another_thread_could_unpark() {
    let _watchdog = watchdog();
    let name = "no_deadlock_is_told_while_another_thread_could_unpark";
    let finished = run_alone(name, || {
        for _ in 0..200 {
            let parker = Parker::new();
            let unparker = parker.unparker();
            let thread = std::thread::spawn(move || {
                std::thread::yield_now();
                unparker.unpark();
                // The thread ends at once: its wake-up must not be overlooked.
            });
            let joined = spawn(move || parker_free(5));
            parker.park();
            joined.join().unwrap();
            thread.join().unwrap();
        }
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.did_not_say("deadlock");
}

fn parker_free(turns: u32) {
    for _ in 0..turns {
        yield_now();
    }
}

/// The same where that thread is the only other one, and ends with its wake-up.
#[test]
fn the_last_words_of_the_only_other_thread_are_heard() {
    let _watchdog = watchdog();
    alone("the_last_words_of_the_only_other_thread_are_heard", || {
        let code = fork(|| {
            for _ in 0..300 {
                let parker = Parker::new();
                let unparker = parker.unparker();
                std::thread::spawn(move || unparker.unpark());
                parker.park();
            }
            0
        });
        assert_eq!(code, 0);
    });
}

/// A sleeper, a delayed greenlet: each may still end what others wait for.
#[test]
fn no_deadlock_is_told_while_a_timer_runs() {
    let _watchdog = watchdog();
    let finished = run_alone("no_deadlock_is_told_while_a_timer_runs", || {
        let code = fork(|| {
            let parker = Parker::new();
            let unparker = parker.unparker();
            spawn_later(5 * MS, move || unparker.unpark());
            parker.park();
            let parker = Parker::new();
            let unparker = parker.unparker();
            spawn(move || {
                let _ = timeout(5 * MS, || Parker::new().park());
                unparker.unpark();
            });
            parker.park();
            0
        });
        assert_eq!(code, 0);
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.did_not_say("deadlock");
}

/// Greenlets other than main that can never go on stay parked, silently, while
/// main has something to do.
#[test]
fn a_stuck_greenlet_disturbs_nobody() {
    let _watchdog = watchdog();
    let finished = run_alone("a_stuck_greenlet_disturbs_nobody", || {
        let stuck = spawn(|| Parker::new().park());
        for _ in 0..10 {
            sleep(MS);
            assert_eq!(spawn(|| 3).join().unwrap(), 3);
        }
        assert!(!stuck.is_finished());
        stuck.kill_wait();
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.did_not_say("deadlock");
}

/// A deadlock on one thread is that thread's affair.
#[test]
fn a_deadlock_on_another_thread_is_told_there() {
    let _watchdog = watchdog();
    let other = std::thread::spawn(|| {
        let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
        *slot.borrow_mut() = Some(spawn({
            let slot = Rc::clone(&slot);
            move || {
                let me = slot.borrow();
                greenlet::wait(&[me.as_ref().unwrap()], None, None);
            }
        }));
        yield_now();
        let parked = spawn(move || {
            greenlet::wait(&[slot.borrow().as_ref().unwrap()], None, None);
        });
        matches!(parked.join(), Err(JoinError::Deadlock(Deadlock)))
    });
    assert!(other.join().unwrap());
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

// Reports.

#[test]
fn a_report_tells_who_waits_on_what_and_where_it_was_spawned() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        let sleeper = Builder::new()
            .name("sleeper")
            .spawn(|| sleep(HOUR))
            .unwrap();
        let id = sleeper.id();
        let sleeper = Rc::new(sleeper);
        let waits = Rc::clone(&sleeper);
        let joiner = Builder::new()
            .name("joiner")
            .spawn(move || waits.wait())
            .unwrap();
        let parked = Builder::new()
            .name("parked")
            .spawn(|| Parker::new().park())
            .unwrap();
        let delayed = Builder::new()
            .name("delayed")
            .spawn_later(HOUR, || ())
            .unwrap();
        yield_now();
        let report = hub::report();
        let line = |name: &str| {
            let found = report
                .lines()
                .find(|line| line.trim_start().starts_with(name));
            found
                .unwrap_or_else(|| panic!("no {name} in {report}"))
                .to_owned()
        };
        assert!(report.starts_with("5 greenlets"), "{report}");
        assert!(line("main").contains("running"), "{report}");
        assert!(line("sleeper").contains("sleeping since 0."), "{report}");
        assert!(
            line("joiner").contains(&format!("joining greenlet {id}")),
            "{report}"
        );
        assert!(line("parked").contains("parked"), "{report}");
        assert!(line("delayed").contains("not started"), "{report}");
        assert!(
            line("sleeper").contains("spawned at tests/hub.rs:"),
            "{report}"
        );
        hub::shutdown();
        for handle in [joiner, parked, delayed] {
            assert!(handle.is_finished());
        }
        assert!(hub::report().starts_with("1 greenlet"), "{}", hub::report());
    })
    .join()
    .unwrap();
}

// Threads that end.

/// Leaked, never unwound from a TLS destructor.
#[test]
fn a_thread_that_ends_leaks_its_parked_greenlets() {
    let _watchdog = watchdog();
    static UNWOUND: AtomicBool = AtomicBool::new(false);
    for _ in 0..20 {
        std::thread::spawn(|| {
            for n in 0..10u32 {
                spawn(move || {
                    let _never = defer(|| UNWOUND.store(true, Ordering::Relaxed));
                    match n % 3 {
                        0 => sleep(HOUR),
                        1 => Parker::new().park(),
                        _ => drop(spawn(|| sleep(HOUR)).join()),
                    }
                });
            }
            yield_now();
            // One that never started, and one that would start later.
            spawn(|| unreachable!());
            spawn_later(MS, || unreachable!());
        })
        .join()
        .unwrap();
    }
    assert!(!UNWOUND.load(Ordering::Relaxed));
}

/// G156: threads that leave nothing behind give everything back.
#[test]
fn a_thousand_threads_with_hubs_leave_no_growth() {
    let _watchdog = watchdog();
    alone("a_thousand_threads_with_hubs_leave_no_growth", || {
        let round = || {
            for _ in 0..100 {
                let thread = std::thread::spawn(|| {
                    let handles = (0..10).map(|n| spawn(move || sleep(n * MS / 100)));
                    joinall(handles.collect::<Vec<_>>());
                });
                thread.join().unwrap();
            }
        };
        round();
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let (before, open) = (common::resident_kib(), descriptors());
        for _ in 0..10 {
            round();
        }
        let after = common::resident_kib();
        assert!(after < before + 4096, "{before} KiB, then {after} KiB");
        assert_eq!(descriptors(), open);
    });
}

/// A handle that outlives its thread's hub, in a thread-local.
#[test]
fn handles_in_thread_locals_outlive_the_hub() {
    let _watchdog = watchdog();
    static DROPPED: AtomicUsize = AtomicUsize::new(0);
    struct Counts;
    impl Drop for Counts {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local! {
        static HANDLES: RefCell<Vec<JoinHandle<Counts>>> = const { RefCell::new(Vec::new()) };
        static ME: RefCell<Option<greenlet::Current>> = const { RefCell::new(None) };
    }
    // The order of destruction is that of registration or its reverse: both.
    for hub_first in [true, false] {
        DROPPED.store(0, Ordering::Relaxed);
        std::thread::spawn(move || {
            if hub_first {
                yield_now();
            }
            HANDLES.with_borrow_mut(Vec::clear);
            ME.with_borrow_mut(|me| *me = Some(current()));
            let finished = spawn(|| Counts);
            finished.wait();
            let parked = spawn(|| {
                sleep(HOUR);
                Counts
            });
            yield_now();
            let unstarted = spawn(|| Counts);
            HANDLES.with_borrow_mut(|handles| handles.extend([finished, parked, unstarted]));
        })
        .join()
        .unwrap();
        assert_eq!(
            DROPPED.load(Ordering::Relaxed),
            1,
            "the finished one's result"
        );
    }
}

/// What destructors of thread-locals may do, before or after the hub is gone.
#[test]
fn destructors_of_thread_locals_may_use_everything() {
    let _watchdog = watchdog();
    alone("destructors_of_thread_locals_may_use_everything", || {
        static RUN: AtomicUsize = AtomicUsize::new(0);
        static STOPPED: AtomicUsize = AtomicUsize::new(0);
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                assert!(current().is_main());
                // Whether greenlets still run depends on the order in which the
                // thread's variables and its hub were first used. If they do
                // not, that is told.
                let handle = spawn(|| 5);
                let runs = handle.wait_timeout(MS);
                match handle.join() {
                    Ok(value) => assert!(runs && value == 5),
                    Err(error) => assert!(!runs && matches!(error, JoinError::Deadlock(_))),
                }
                if !runs {
                    STOPPED.fetch_add(1, Ordering::Relaxed);
                    spawn(|| unreachable!()).kill();
                    assert_eq!(hub::shutdown(), 2);
                }
                yield_now();
                sleep(MS);
                assert!(timeout(MS, || sleep(HOUR)).is_err());
                let parker = Parker::new();
                let unparker = parker.unparker();
                std::thread::spawn(move || unparker.unpark())
                    .join()
                    .unwrap();
                parker.park();
                // And leaves one behind.
                spawn(|| sleep(HOUR));
                yield_now();
                RUN.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread_local! {
            static FIRST: Late = const { Late };
            static SECOND: Late = const { Late };
        }
        for before in [true, false] {
            RUN.store(0, Ordering::Relaxed);
            std::thread::spawn(move || {
                if before {
                    FIRST.with(|_| ());
                }
                spawn(|| sleep(HOUR));
                yield_now();
                SECOND.with(|_| ());
                FIRST.with(|_| ());
            })
            .join()
            .unwrap();
            assert_eq!(RUN.load(Ordering::Relaxed), 2);
        }
        assert!(STOPPED.load(Ordering::Relaxed) >= 1);
    });
}

/// What was parked on the hub that is gone stays parked, and is no deadlock of
/// the thread's new one that is not told.
#[test]
fn a_handle_of_the_lost_never_ends() {
    let _watchdog = watchdog();
    alone("a_handle_of_the_lost_never_ends", || {
        static TOLD: AtomicUsize = AtomicUsize::new(0);
        struct Joins(RefCell<Option<JoinHandle<()>>>);
        impl Drop for Joins {
            fn drop(&mut self) {
                let Some(handle) = self.0.take() else { return };
                handle.kill();
                if handle.wait_timeout(MS) {
                    // The hub was still there.
                    return;
                }
                assert!(!handle.is_finished());
                assert!(matches!(handle.join(), Err(JoinError::Deadlock(_))));
                TOLD.fetch_add(1, Ordering::Relaxed);
            }
        }
        thread_local! {
            static JOINS: Joins = const { Joins(RefCell::new(None)) };
        }
        for joins_first in [true, false] {
            std::thread::spawn(move || {
                if joins_first {
                    JOINS.with(|_| ());
                }
                let parked = spawn(|| sleep(HOUR));
                yield_now();
                JOINS.with(|joins| joins.0.replace(Some(parked)));
            })
            .join()
            .unwrap();
        }
        assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn atexit_handlers_may_use_everything() {
    let _watchdog = watchdog();
    extern "C" fn at_exit() {
        sleep(MS);
        assert!(timeout(MS, || sleep(HOUR)).is_err());
        // No greenlet runs when thread-locals are gone.
        assert!(matches!(spawn(|| 5).join(), Err(JoinError::Deadlock(_))));
        eprintln!("the handler is through");
    }
    for place in ["main", "greenlet"] {
        let env = [("EXIT_IN", place)];
        let finished = in_subprocess_with("atexit_handlers_may_use_everything", &env, || {
            // SAFETY: the handler is a function that lives for ever.
            assert_eq!(unsafe { libc::atexit(at_exit) }, 0);
            spawn(|| sleep(HOUR));
            yield_now();
            if std::env::var_os("EXIT_IN").is_some_and(|place| place == "greenlet") {
                spawn(|| std::process::exit(3));
                sleep(HOUR);
            }
            std::process::exit(3)
        });
        let Some(finished) = finished else { return };
        finished.exited_with(3);
        finished.said("the handler is through");
    }
}

// Forks.

/// G229: the child has the greenlet that forked, and nobody else.
#[test]
fn a_forks_child_has_the_forker_only() {
    let _watchdog = watchdog();
    alone("a_forks_child_has_the_forker_only", || {
        let runs = Arc::new(AtomicUsize::new(0));
        let queued = spawn({
            let runs = Arc::clone(&runs);
            move || runs.fetch_add(1, Ordering::Relaxed)
        });
        let sleeping: Vec<_> = (0..10)
            .map(|n| {
                let runs = Arc::clone(&runs);
                spawn_later(n * MS, move || runs.fetch_add(1, Ordering::Relaxed))
            })
            .collect();
        let code = fork(|| {
            sleep(30 * MS);
            if runs.load(Ordering::Relaxed) != 0 || queued.is_finished() {
                return 1;
            }
            // A hub of its own: everything works.
            let handles: Vec<_> = (0..10)
                .map(|n| {
                    spawn(move || {
                        sleep(MS);
                        n
                    })
                })
                .collect();
            let sum: u32 = joinall(handles).into_iter().map(Result::unwrap).sum();
            if sum != 45 {
                return 2;
            }
            // One of the parent's never ends here.
            if queued.wait_timeout(MS) || !matches!(queued.join(), Err(JoinError::Deadlock(_))) {
                return 3;
            }
            0
        });
        assert_eq!(code, 0);
        // The parent goes on.
        joinall(sleeping);
        yield_now();
        assert_eq!(runs.load(Ordering::Relaxed), 11);
    });
}

/// Fork in a greenlet, in the middle of it all; the child ends with the forker.
#[test]
fn a_fork_in_a_greenlet_ends_with_that_greenlet() {
    let _watchdog = watchdog();
    alone("a_fork_in_a_greenlet_ends_with_that_greenlet", || {
        let stop = Arc::new(AtomicBool::new(false));
        // Somebody who fills the inbox from outside.
        let parked = Rc::new(Cell::new(None));
        let noise = spawn({
            let parked = Rc::clone(&parked);
            let stop = Arc::clone(&stop);
            move || {
                let parker = Parker::new();
                parked.set(Some(parker.unparker()));
                while !stop.load(Ordering::Relaxed) {
                    parker.park();
                }
            }
        });
        yield_now();
        let unparker = parked.take().unwrap();
        let outside = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    unparker.unpark();
                }
                unparker.unpark();
            }
        });
        let joined_in_parent = Rc::new(spawn(|| sleep(20 * MS)));
        let waits = Rc::clone(&joined_in_parent);
        let joiner = spawn(move || waits.wait());
        let forker = spawn(|| {
            let before = Rc::new(5);
            sleep(MS);
            // SAFETY: the child goes on with this thread alone.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: ends a child that hangs.
                unsafe { libc::alarm(30) };
                let handle = spawn(|| {
                    sleep(2 * MS);
                    6
                });
                let parker = Parker::new();
                let unparker = parker.unparker();
                spawn_later(MS, move || unparker.unpark());
                parker.park();
                assert_eq!(handle.join().unwrap() - *before, 1);
                // A detached one keeps the child alive until it ends.
                spawn(|| {
                    sleep(5 * MS);
                    // SAFETY: write has no preconditions on valid memory.
                    unsafe { libc::write(2, b"the child's last\n".as_ptr().cast(), 17) };
                });
            }
            child
        });
        // In the child nobody comes back from here.
        let child = forker.join().unwrap();
        assert_eq!(common::reap(child), 0);
        joined_in_parent.wait();
        joiner.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        noise.join().unwrap();
        outside.join().unwrap();
    });
}

/// A panic of the forker ends the child as well.
#[test]
fn a_forker_that_panics_in_the_child_ends_the_child() {
    let _watchdog = watchdog();
    alone("a_forker_that_panics_in_the_child_ends_the_child", || {
        quiet_panics();
        let forker = spawn(|| {
            // SAFETY: the child goes on with this thread alone.
            let child = unsafe { libc::fork() };
            if child == 0 {
                panic!("on purpose: in the child");
            }
            child
        });
        let child = forker.join().unwrap();
        assert_eq!(common::reap(child), 0);
    });
}

/// Waits that nobody in the child could end: it says so and exits.
#[test]
fn a_deadlock_in_a_forks_child_ends_it_with_a_report() {
    let _watchdog = watchdog();
    let finished = run_alone("a_deadlock_in_a_forks_child_ends_it_with_a_report", || {
        let left_behind = spawn(|| sleep(HOUR));
        let forker = spawn(move || {
            // SAFETY: the child goes on with this thread alone.
            let child = unsafe { libc::fork() };
            if child == 0 {
                left_behind.wait();
                unreachable!();
            }
            child
        });
        let child = forker.join().unwrap();
        assert_eq!(common::reap(child), 1);
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.said("greenlet: deadlock");
}

/// The forker's own time limits count in the child too.
#[test]
fn a_timeout_around_a_fork_fires_in_both_processes() {
    let _watchdog = watchdog();
    alone("a_timeout_around_a_fork_fires_in_both_processes", || {
        let child = Cell::new(0);
        let start = Instant::now();
        let outcome = timeout(20 * MS, || {
            // SAFETY: the child goes on with this thread alone.
            child.set(unsafe { libc::fork() });
            if child.get() == 0 {
                // SAFETY: ends a child that hangs.
                unsafe { libc::alarm(30) };
            }
            // An inner one that is cancelled, and timers that come and go: none
            // may stop a timer that is not its own.
            for _ in 0..20 {
                let _ = timeout(HOUR, || sleep(MS / 10));
            }
            sleep(HOUR);
        });
        let good = outcome.is_err() && start.elapsed() >= 20 * MS;
        if child.get() == 0 {
            // SAFETY: _exit has no preconditions.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        assert!(good);
        assert_eq!(common::reap(child.get()), 0);
    });
}

/// The inner frame's timer is gone in the child: leaving the frame there must
/// not cancel somebody else's.
#[test]
fn timers_of_the_child_are_its_own() {
    let _watchdog = watchdog();
    alone("timers_of_the_child_are_its_own", || {
        // Fill low numbers and slots, so that keys of both could be confused.
        let others: Vec<_> = (0..5).map(|_| spawn(|| sleep(HOUR))).collect();
        yield_now();
        let code = fork(|| {
            let handles: Vec<_> = (1..=20).map(|n| spawn(move || sleep(n * MS / 4))).collect();
            let all = joinall(handles).into_iter().all(|end| end.is_ok());
            i32::from(!all)
        });
        assert_eq!(code, 0);
        let code = {
            let mut code = -1;
            let _ = timeout(HOUR, || {
                code = fork(|| {
                    let handles: Vec<_> =
                        (1..=20).map(|n| spawn(move || sleep(n * MS / 4))).collect();
                    yield_now();
                    i32::from(!joinall(handles).into_iter().all(|end| end.is_ok()))
                });
            });
            code
        };
        assert_eq!(code, 0);
        greenlet::killall(&others);
    });
}

/// A grandchild, and forks by a greenlet of a child.
#[test]
fn forks_may_nest() {
    let _watchdog = watchdog();
    alone("forks_may_nest", || {
        let code = fork(|| {
            let inner = spawn(|| {
                sleep(MS);
                fork(|| {
                    sleep(MS);
                    spawn(|| 7).join().unwrap()
                })
            });
            inner.join().unwrap()
        });
        assert_eq!(code, 7);
    });
}

/// What a dropped value sees when its greenlet is dropped by `shutdown`, as a
/// thread that is about to end would.
#[test]
fn shutdown_before_the_end_of_a_thread_runs_destructors() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        let dropped = flag();
        let value = OnDrop(Rc::clone(&dropped));
        spawn(move || {
            let _value = value;
            sleep(HOUR)
        });
        yield_now();
        assert_eq!(hub::shutdown(), 0);
        assert!(dropped.get());
    })
    .join()
    .unwrap();
    assert_eq!(hub::shutdown(), 0);
}
