//! Joining: one, many, oneself, in time, and deadlocks.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Log, MS, defer, flag, quiet_panics, run_alone, until, watchdog};
use greenlet::error::{Deadlock, JoinError};
use greenlet::hub::Parker;
use greenlet::{JoinHandle, joinall, joinall_timeout, sleep, spawn, spawn_later, yield_now};

/// Waits for one of two greenlets that wait for each other.
fn waits_for_a_cycle() -> JoinHandle<()> {
    let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let first = Rc::new(spawn({
        let slot = Rc::clone(&slot);
        move || {
            let second = slot.take().unwrap();
            second.wait();
        }
    }));
    let second = spawn({
        let first = Rc::clone(&first);
        move || first.wait()
    });
    slot.replace(Some(second));
    spawn(move || first.wait())
}

/// G066, and std's order: that of the handles, not that of the ends.
#[test]
fn joinall_gives_the_results_in_the_order_of_the_handles() {
    let _watchdog = watchdog();
    let handles = [30, 10, 20].map(|ms| {
        spawn(move || {
            sleep(ms * MS);
            ms
        })
    });
    let results: Vec<u32> = joinall(handles).into_iter().map(Result::unwrap).collect();
    assert_eq!(results, [30, 10, 20]);
}

/// G211
#[test]
fn joinall_of_nothing_is_nothing() {
    let _watchdog = watchdog();
    assert!(joinall(Vec::<JoinHandle<()>>::new()).is_empty());
    assert!(joinall_timeout::<()>(&[], Duration::MAX).is_empty());
}

/// G064, G212: every failure is in the list, and keeps nobody else from ending.
#[test]
fn joinall_tells_failures_beside_successes() {
    let _watchdog = watchdog();
    quiet_panics();
    let handles = vec![
        spawn(|| 1),
        spawn(|| panic!("on purpose")),
        spawn(|| {
            sleep(2 * MS);
            3
        }),
    ];
    let results = joinall(handles);
    assert_eq!(results[0].as_ref().unwrap(), &1);
    assert!(results[1].as_ref().unwrap_err().is_panic());
    assert_eq!(results[2].as_ref().unwrap(), &3);
}

/// G210, G211
#[test]
fn joinall_with_a_timeout_says_who_is_done() {
    let _watchdog = watchdog();
    let finished = spawn(|| ());
    finished.wait();
    let handles = [
        finished,
        spawn(|| ()),
        spawn(|| sleep(Duration::from_secs(60))),
    ];
    // Zero lets those who are runnable have their turn.
    assert_eq!(
        joinall_timeout(&handles, Duration::ZERO),
        [true, true, false]
    );
    let start = Instant::now();
    assert_eq!(joinall_timeout(&handles, 5 * MS), [true, true, false]);
    assert!(start.elapsed() >= 5 * MS);
    // The handles stay usable.
    handles[2].kill();
    let results = joinall(handles);
    assert!(results[0].is_ok() && results[1].is_ok());
    assert!(results[2].as_ref().unwrap_err().is_killed());
}

/// G067, G069
#[test]
fn a_timed_wait_ends_in_time_and_leaves_the_greenlet_alone() {
    let _watchdog = watchdog();
    let sleeper = spawn(|| {
        sleep(30 * MS);
        "slept"
    });
    let start = Instant::now();
    assert!(!sleeper.wait_timeout(5 * MS));
    assert!(start.elapsed() >= 5 * MS);
    assert!(!sleeper.is_finished());
    assert_eq!(sleeper.join().unwrap(), "slept");
    // One that has not started is waited for just so long.
    let unstarted = spawn_later(Duration::from_secs(3600), || ());
    assert!(!unstarted.wait_timeout(MS));
    assert_eq!(joinall_timeout(&[unstarted], MS), [false]);
}

/// G210
#[test]
fn a_wait_of_zero_lets_a_fresh_greenlet_run() {
    let _watchdog = watchdog();
    let handle = spawn(|| 1);
    assert!(handle.wait_timeout(Duration::ZERO));
    assert_eq!(handle.value(), Some(&1));
}

#[test]
fn an_enormous_timeout_is_for_ever() {
    let _watchdog = watchdog();
    for timeout in [
        Duration::MAX,
        Duration::from_secs(u64::MAX),
        Duration::from_secs(1 << 34),
    ] {
        let handle = spawn(|| sleep(MS));
        assert!(handle.wait_timeout(timeout));
        assert_eq!(greenlet::timeout(timeout, || 5), Ok(5));
    }
}

#[test]
fn waiting_twice_and_by_many_is_fine() {
    let _watchdog = watchdog();
    let handle = Rc::new(spawn(|| {
        sleep(MS);
        9
    }));
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let handle = Rc::clone(&handle);
            spawn(move || {
                handle.wait();
                handle.wait();
                *handle.value().unwrap()
            })
        })
        .collect();
    for value in joinall(waiters) {
        assert_eq!(value.unwrap(), 9);
    }
    assert_eq!(Rc::try_unwrap(handle).unwrap().join().unwrap(), 9);
}

/// A join of oneself is a deadlock that is told at once, although others go on.
#[test]
fn joining_oneself_is_an_error() {
    let _watchdog = watchdog();
    let busy = spawn(|| sleep(Duration::MAX));
    let slot: Rc<Cell<Option<JoinHandle<bool>>>> = Rc::default();
    let log = Log::new();
    slot.set(Some(spawn({
        let (slot, log) = (Rc::clone(&slot), log.clone());
        move || {
            let me = slot.take().unwrap();
            assert!(!me.wait_timeout(MS));
            let error = me.join().unwrap_err();
            log.add(matches!(error, JoinError::Deadlock(Deadlock)));
            true
        }
    })));
    until(|| !log.is_empty());
    assert_eq!(log.joined(), "true");
    busy.kill_wait();
}

#[test]
fn waiting_for_oneself_panics_with_deadlock() {
    let _watchdog = watchdog();
    let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let outcome = Rc::new(Cell::new(false));
    *slot.borrow_mut() = Some(spawn({
        let (slot, outcome) = (Rc::clone(&slot), Rc::clone(&outcome));
        move || {
            let wait = std::panic::AssertUnwindSafe(|| slot.borrow().as_ref().unwrap().wait());
            let payload = std::panic::catch_unwind(wait).unwrap_err();
            outcome.set(payload.is::<Deadlock>());
        }
    }));
    yield_now();
    assert!(outcome.get());
}

/// G214: LoopExit. Told to the main greenlet, with a report, and the hub goes on.
#[test]
fn a_cycle_of_joins_is_told_to_main_with_a_report() {
    let _watchdog = watchdog();
    let finished = run_alone("a_cycle_of_joins_is_told_to_main_with_a_report", || {
        let handle = waits_for_a_cycle();
        let error = handle.join().unwrap_err();
        assert!(matches!(error, JoinError::Deadlock(_)), "{error:?}");
        assert!(error.to_string().starts_with("deadlock"));
        // The hub is as usable as before.
        assert_eq!(spawn(|| 5).join().unwrap(), 5);
        sleep(MS);
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.said("greenlet: deadlock");
    finished.said("greenlet-1: joining greenlet");
    finished.said("main: joining greenlet");
    finished.said("tests/join.rs:");
}

/// G214: the deadlock is declared once the unrelated timer is over.
#[test]
fn a_deadlock_is_told_when_the_last_timer_is_over() {
    let _watchdog = watchdog();
    let finished = run_alone("a_deadlock_is_told_when_the_last_timer_is_over", || {
        let _unrelated = spawn(|| sleep(20 * MS));
        let start = Instant::now();
        let error = waits_for_a_cycle().join().unwrap_err();
        assert!(matches!(error, JoinError::Deadlock(_)));
        assert!(start.elapsed() >= 20 * MS);
    });
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said("greenlet: deadlock");
    }
}

/// Never a false alarm: a join is as good as what is joined.
#[test]
fn no_deadlock_is_told_while_somebody_sleeps() {
    let _watchdog = watchdog();
    let finished = run_alone("no_deadlock_is_told_while_somebody_sleeps", || {
        let a = spawn(|| sleep(20 * MS));
        let b = spawn(move || a.join().unwrap());
        let c = spawn(move || b.join().unwrap());
        c.join().unwrap();
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.did_not_say("deadlock");
}

/// One that is dropped while it is joined wakes nobody wrongly.
#[test]
fn a_joiner_that_is_killed_leaves_the_others_in_the_queue() {
    let _watchdog = watchdog();
    let log = Log::new();
    let target = Rc::new(spawn(|| sleep(10 * MS)));
    let joiners: Vec<_> = (0..5)
        .map(|n| {
            let (log, target) = (log.clone(), Rc::clone(&target));
            spawn(move || {
                target.wait();
                log.add(n);
            })
        })
        .collect();
    yield_now();
    for killed in [0, 2, 4] {
        joiners[killed].kill_wait();
    }
    target.wait();
    joinall(joiners);
    assert_eq!(log.joined(), "1 3");
}

/// The value is where it was while others come and go.
#[test]
fn a_borrowed_value_stays_while_others_wait() {
    let _watchdog = watchdog();
    let handle = Rc::new(spawn(|| String::from("the value")));
    handle.wait();
    let value = handle.value().unwrap();
    let others: Vec<_> = (0..50)
        .map(|_| {
            let handle = Rc::clone(&handle);
            spawn(move || handle.value().unwrap().len())
        })
        .collect();
    for other in joinall(others) {
        assert_eq!(other.unwrap(), 9);
    }
    assert_eq!(value, "the value");
}

/// A result's destructor is the user's code: it may block, spawn and join.
#[test]
fn a_results_destructor_may_block() {
    let _watchdog = watchdog();
    let log = Log::new();
    let result = |log: &Log| {
        let log = log.clone();
        defer(move || {
            sleep(MS);
            spawn(yield_now).join().unwrap();
            log.add("dropped");
        })
    };
    // Dropped with its handle, by the main greenlet and by another one.
    let handle = spawn({
        let result = result(&log);
        move || result
    });
    handle.wait();
    drop(handle);
    assert_eq!(log.joined(), "dropped");
    let handle = spawn({
        let result = result(&log);
        move || result
    });
    handle.wait();
    spawn(move || drop(handle)).join().unwrap();
    assert_eq!(log.joined(), "dropped dropped");
    // And at the end of a detached greenlet.
    drop(spawn({
        let result = result(&log);
        move || result
    }));
    until(|| log.entries().len() == 3);
}

#[test]
fn a_panic_in_a_results_destructor_goes_to_who_drops_it() {
    let _watchdog = watchdog();
    quiet_panics();
    let bomb = || spawn(|| defer(|| panic!("on purpose: the result")));
    let handle = bomb();
    handle.wait();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(handle)));
    assert!(dropped.is_err());
    // Nobody drops it but the greenlet itself: it is reported and goes no further.
    drop(bomb());
    yield_now();
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

#[test]
fn a_panic_in_a_locals_or_a_captures_destructor_is_the_greenlets() {
    let _watchdog = watchdog();
    quiet_panics();
    let local = spawn(|| {
        let _bomb = defer(|| panic!("on purpose: a local"));
    });
    assert!(local.join().unwrap_err().is_panic());
    let bomb = defer(|| panic!("on purpose: a capture"));
    let capture = spawn(move || {
        let _moved = &bomb;
    });
    assert!(capture.join().unwrap_err().is_panic());
}

/// As in std: a panic while unwinding aborts.
#[test]
fn a_panic_in_a_destructor_during_a_panic_aborts() {
    let _watchdog = watchdog();
    let finished = run_alone("a_panic_in_a_destructor_during_a_panic_aborts", || {
        let end = spawn(|| {
            let _bomb = defer(|| panic!("the second"));
            panic!("the first");
        });
        let _ = end.join();
    });
    let Some(finished) = finished else { return };
    finished.was_killed_by(libc::SIGABRT);
    finished.said("the first");
    finished.said("the second");
}

/// A payload with a destructor that panics: the greenlet's end is not disturbed.
#[test]
fn a_panic_in_a_payloads_destructor_goes_no_further() {
    let _watchdog = watchdog();
    quiet_panics();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("on purpose: the payload");
        }
    }
    drop(spawn(|| std::panic::resume_unwind(Box::new(Bomb))));
    yield_now();
    yield_now();
    let error = spawn(|| std::panic::resume_unwind(Box::new(Bomb)))
        .join()
        .unwrap_err();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(error))).is_err());
    assert_eq!(spawn(|| 1).join().unwrap(), 1);
}

/// Joined from a destructor while the joiner unwinds: the others run meanwhile
/// and do not seem to unwind too.
#[test]
fn a_destructor_may_join_while_its_greenlet_unwinds() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    quiet_panics();
    let log = Log::new();
    let unwinding = spawn({
        let log = log.clone();
        move || {
            let worker = spawn({
                let log = log.clone();
                move || {
                    sleep(MS);
                    assert!(!std::thread::panicking());
                    // Somebody else's panic in between counts apart.
                    let inner = spawn(|| -> () { panic!("on purpose: inner") });
                    assert!(inner.join().unwrap_err().is_panic());
                    log.add("worker");
                }
            });
            let _joins = defer(move || {
                assert!(std::thread::panicking());
                worker.join().unwrap();
                assert!(std::thread::panicking());
                log.add("joined");
            });
            panic!("on purpose: outer");
        }
    });
    assert!(unwinding.join().unwrap_err().is_panic());
    assert_eq!(log.joined(), "worker joined");
    assert!(!std::thread::panicking());
}

/// Many unwind at once, each waiting in a destructor, and end in another order.
#[test]
fn many_greenlets_may_wait_while_they_unwind() {
    let _watchdog = watchdog();
    quiet_panics();
    let handles: Vec<_> = (0..20u32)
        .map(|n| {
            spawn(move || {
                let _slow = defer(move || {
                    for _ in 0..(20 - n) {
                        sleep(MS / 10);
                        assert!(std::thread::panicking());
                    }
                });
                if n % 2 == 0 {
                    panic!("on purpose {n}");
                }
                yield_now();
                assert!(!std::thread::panicking());
            })
        })
        .collect();
    for (n, end) in joinall(handles).into_iter().enumerate() {
        // The assertion above fails in the destructor of those that do not
        // unwind: a panic too, but their own.
        assert!(end.is_err(), "{n}");
    }
}

/// Main may block in a destructor while it unwinds as well.
#[test]
fn the_main_greenlet_may_wait_while_it_unwinds() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    quiet_panics();
    let ran = flag();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let ran = Rc::clone(&ran);
        let _waits = defer(move || {
            let helper = spawn(move || {
                assert!(!std::thread::panicking());
                sleep(MS);
                ran.set(true);
            });
            helper.join().unwrap();
        });
        panic!("on purpose: main");
    }));
    assert!(caught.is_err());
    assert!(ran.get());
}

/// Where std's panic count is not found, such a wait blocks the thread…
#[test]
fn without_the_panic_count_a_sleep_in_an_unwinding_blocks_the_thread() {
    let _watchdog = watchdog();
    let finished = common::in_subprocess_with(
        "without_the_panic_count_a_sleep_in_an_unwinding_blocks_the_thread",
        &[("GREENLET_PANIC_COUNT", "off")],
        || {
            quiet_panics();
            let log = Log::new();
            let other = spawn({
                let log = log.clone();
                move || {
                    yield_now();
                    log.add("other");
                }
            });
            let unwinding = spawn({
                let log = log.clone();
                move || {
                    let _sleeps = defer(move || {
                        sleep(5 * MS);
                        yield_now();
                        log.add("destructor");
                    });
                    panic!("on purpose");
                }
            });
            assert!(unwinding.join().unwrap_err().is_panic());
            other.join().unwrap();
            assert_eq!(log.joined(), "destructor other");
            // Woken from outside, it works too.
            let unwinding = spawn(|| {
                let _parks = defer(|| {
                    let parker = Parker::new();
                    let unparker = parker.unparker();
                    let thread = std::thread::spawn(move || unparker.unpark());
                    parker.park();
                    thread.join().unwrap();
                });
                panic!("on purpose");
            });
            assert!(unwinding.join().unwrap_err().is_panic());
        },
    );
    if let Some(finished) = finished {
        finished.succeeded();
    }
}

/// …and where only this hub could answer it, aborts with a report.
#[test]
fn without_the_panic_count_a_join_in_an_unwinding_aborts_with_a_report() {
    let _watchdog = watchdog();
    let name = "without_the_panic_count_a_join_in_an_unwinding_aborts_with_a_report";
    let finished = common::in_subprocess_with(name, &[("GREENLET_PANIC_COUNT", "off")], || {
        // Somebody with a timer and somebody who waits for the outside change
        // nothing: neither could run meanwhile.
        let _sleeper = spawn(|| sleep(Duration::from_secs(3600)));
        let _outside = spawn(|| sleep(Duration::MAX));
        yield_now();
        let unwinding = spawn(|| {
            let worker = spawn(|| ());
            let _joins = defer(move || worker.wait());
            panic!("the first");
        });
        let _ = unwinding.join();
    });
    let Some(finished) = finished else { return };
    finished.was_killed_by(libc::SIGABRT);
    finished.said("a destructor waits while its greenlet unwinds");
    finished.said("joining greenlet");
}

/// A handle is a future of the greenlet's result; a waker may do anything.
#[test]
fn a_waker_may_block_and_drop_handles() {
    use std::future::Future;
    use std::task::{Context, Poll, Wake, Waker};
    let _watchdog = watchdog();
    thread_local! {
        static HELD: RefCell<Vec<greenlet::Current>> = const { RefCell::new(Vec::new()) };
        static WOKEN: Cell<u32> = const { Cell::new(0) };
    }
    struct Noisy;
    impl Wake for Noisy {
        fn wake(self: std::sync::Arc<Self>) {
            sleep(MS);
            HELD.with_borrow_mut(Vec::clear);
            WOKEN.set(WOKEN.get() + 1);
        }
    }
    let waker = Waker::from(std::sync::Arc::new(Noisy));
    let mut context = Context::from_waker(&waker);

    // It is polled, detached, and somebody holds `current()` of it to the end:
    // the result is still dropped where its destructor may block.
    let dropped = flag();
    let mut handle = Box::pin(spawn({
        let dropped = Rc::clone(&dropped);
        move || {
            HELD.with_borrow_mut(|held| held.push(greenlet::current()));
            yield_now();
            defer(move || {
                sleep(MS);
                dropped.set(true);
            })
        }
    }));
    yield_now();
    assert!(handle.as_mut().poll(&mut context).is_pending());
    drop(handle);
    until(|| dropped.get() && WOKEN.get() > 0);
    assert_eq!(WOKEN.get(), 1);

    // Polled to its end.
    let mut handle = Box::pin(spawn(|| {
        sleep(MS);
        8
    }));
    assert!(handle.as_mut().poll(&mut context).is_pending());
    assert!(handle.as_mut().poll(&mut context).is_pending());
    until(|| WOKEN.get() > 1);
    sleep(5 * MS);
    assert_eq!(WOKEN.get(), 2, "one waker is woken once");
    match handle.as_mut().poll(&mut context) {
        Poll::Ready(result) => assert_eq!(result.unwrap(), 8),
        Poll::Pending => panic!("it has ended"),
    }
}

#[test]
fn what_can_never_end_can_still_be_waited_for_in_time() {
    let _watchdog = watchdog();
    let handle = waits_for_a_cycle();
    assert!(!handle.wait_timeout(5 * MS));
    handle.kill_wait();
}
