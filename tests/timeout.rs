//! `timeout`: what it interrupts, what it leaves alone, and how they nest.

mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Log, MS, defer, flag, quiet_panics, until, watchdog};
use greenlet::error::Elapsed;
use greenlet::hub::Parker;
use greenlet::{joinall, joinall_timeout, killall, sleep, spawn, timeout, wait, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// G102, G093
#[test]
fn a_timeout_returns_elapsed_and_may_be_used_again() {
    let _watchdog = watchdog();
    for _ in 0..3 {
        let start = Instant::now();
        assert_eq!(timeout(3 * MS, || sleep(HOUR)), Err(Elapsed));
        assert!(start.elapsed() >= 3 * MS);
    }
    assert_eq!(Elapsed.to_string(), "the time is up");
}

/// G102, G095: after an early end it is cancelled, and a longer sleep is safe.
#[test]
fn a_timeout_that_was_not_needed_is_cancelled() {
    let _watchdog = watchdog();
    assert_eq!(timeout(2 * MS, || "early"), Ok("early"));
    assert_eq!(timeout(10 * MS, || sleep(MS)), Ok(()));
    sleep(20 * MS);
    for _ in 0..100 {
        yield_now();
    }
}

/// G097: for ever is for ever.
#[test]
fn an_enormous_timeout_never_fires() {
    let _watchdog = watchdog();
    for time in [
        Duration::MAX,
        Duration::from_secs(u64::MAX),
        Duration::from_secs(1 << 34),
    ] {
        assert_eq!(timeout(time, || sleep(MS)), Ok(()));
    }
}

/// G224
#[test]
fn code_that_does_not_block_is_not_interrupted() {
    let _watchdog = watchdog();
    let busy = |time| {
        let start = Instant::now();
        while start.elapsed() < time {}
    };
    assert_eq!(timeout(MS, || busy(10 * MS)), Ok(()));
    // Late, but over before anything blocks.
    assert_eq!(timeout(MS, || std::thread::sleep(5 * MS)), Ok(()));
    sleep(5 * MS);
    yield_now();
}

/// A value that comes late is still a value.
#[test]
fn a_late_value_is_returned() {
    let _watchdog = watchdog();
    let value = timeout(MS, || {
        let start = Instant::now();
        while start.elapsed() < 5 * MS {}
        7
    });
    assert_eq!(value, Ok(7));
}

/// G224, G091
#[test]
fn a_timeout_of_zero_fires_at_the_first_wait() {
    let _watchdog = watchdog();
    assert_eq!(timeout(Duration::ZERO, || 1), Ok(1));
    assert_eq!(timeout(Duration::ZERO, || sleep(HOUR)), Err(Elapsed));
    assert_eq!(
        timeout(Duration::ZERO, || Parker::new().park()),
        Err(Elapsed)
    );
    // Whoever is runnable has one turn first.
    let handle = spawn(|| 5);
    assert_eq!(timeout(Duration::ZERO, || handle.join().unwrap()), Ok(5));
    let endless = timeout(Duration::ZERO, || {
        loop {
            yield_now();
        }
    });
    assert_eq!(endless, Err::<(), _>(Elapsed));
}

/// G224: the inner one is first.
#[test]
fn an_inner_timeout_leaves_the_outer_one_pending() {
    let _watchdog = watchdog();
    let start = Instant::now();
    let outer = timeout(30 * MS, || {
        assert_eq!(timeout(5 * MS, || sleep(HOUR)), Err(Elapsed));
        sleep(HOUR);
    });
    assert_eq!(outer, Err(Elapsed));
    assert!(start.elapsed() >= 30 * MS);
}

/// G082
#[test]
fn an_outer_timeout_goes_through_the_inner_ones() {
    let _watchdog = watchdog();
    let reached = flag();
    let outer = timeout(5 * MS, || {
        let inner = timeout(HOUR, || timeout(HOUR, || sleep(HOUR)));
        reached.set(true);
        inner
    });
    assert_eq!(outer, Err(Elapsed));
    assert!(!reached.get());
}

/// Both are due when the hub looks: the outermost wins, once.
#[test]
fn of_two_timeouts_that_are_due_together_the_outer_one_wins() {
    let _watchdog = watchdog();
    let reached = flag();
    let outer = timeout(MS, || {
        let inner = timeout(MS, || {
            // Both expire before anybody blocks.
            std::thread::sleep(5 * MS);
            sleep(HOUR);
        });
        reached.set(true);
        inner
    });
    assert_eq!(outer, Err(Elapsed));
    assert!(!reached.get());
    // Nothing is left of the inner one.
    sleep(5 * MS);
    // In the other order of deadlines too.
    let outer = timeout(3 * MS, || {
        let inner = timeout(MS, || {
            std::thread::sleep(10 * MS);
            sleep(HOUR);
        });
        reached.set(true);
        inner
    });
    assert_eq!(outer, Err(Elapsed));
    assert!(!reached.get());
    sleep(5 * MS);
}

/// G068: no timed wait swallows the timeout of somebody further out.
#[test]
fn an_outer_timeout_is_not_swallowed_by_a_timed_wait() {
    let _watchdog = watchdog();
    let sleeper = Rc::new(spawn(|| sleep(HOUR)));
    type Wait = Box<dyn FnOnce()>;
    let waits: Vec<(&str, Wait)> = vec![
        ("sleep", Box::new(|| sleep(HOUR))),
        ("wait_timeout", {
            let sleeper = Rc::clone(&sleeper);
            Box::new(move || _ = sleeper.wait_timeout(HOUR))
        }),
        ("wait", {
            let sleeper = Rc::clone(&sleeper);
            Box::new(move || sleeper.wait())
        }),
        ("join", Box::new(|| drop(spawn(|| sleep(HOUR)).join()))),
        (
            "joinall",
            Box::new(|| drop(joinall([spawn(|| sleep(HOUR))]))),
        ),
        (
            "joinall_timeout",
            Box::new(|| drop(joinall_timeout(&[spawn(|| sleep(HOUR))], HOUR))),
        ),
        ("wait of many", {
            let sleeper = Rc::clone(&sleeper);
            Box::new(move || drop(wait(&[&*sleeper], Some(HOUR), None)))
        }),
        (
            "park_timeout",
            Box::new(|| _ = Parker::new().park_timeout(HOUR)),
        ),
        ("timeout", Box::new(|| _ = timeout(HOUR, || sleep(HOUR)))),
        (
            "killall",
            Box::new(|| {
                let stubborn = spawn(|| {
                    let _ = catch_unwind(|| sleep(HOUR));
                    sleep(HOUR);
                });
                yield_now();
                killall(&[stubborn]);
            }),
        ),
    ];
    for (name, wait) in waits {
        let left = flag();
        let outer = timeout(3 * MS, || {
            wait();
            left.set(true);
        });
        assert_eq!(outer, Err(Elapsed), "{name}");
        assert!(!left.get(), "{name}");
    }
    sleeper.kill_wait();
}

/// A deadline of a wait's own that comes first is that wait's answer.
#[test]
fn a_timed_wait_that_ends_first_returns_inside_the_timeout() {
    let _watchdog = watchdog();
    let sleeper = spawn(|| sleep(HOUR));
    assert_eq!(timeout(HOUR, || sleeper.wait_timeout(MS)), Ok(false));
    assert_eq!(timeout(HOUR, || Parker::new().park_timeout(MS)), Ok(false));
}

#[test]
fn destructors_run_on_the_way_and_may_block() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    let log = Log::new();
    let outcome = timeout(2 * MS, || {
        let (first, second) = (log.clone(), log.clone());
        let _first = defer(move || first.add("first"));
        let _second = defer(move || {
            sleep(5 * MS);
            spawn(yield_now).join().unwrap();
            second.add("second");
        });
        sleep(HOUR);
    });
    assert_eq!(outcome, Err(Elapsed));
    assert_eq!(log.joined(), "second first");
}

/// An outer timeout that expires while the inner one unwinds waits for the end
/// of that unwinding.
#[test]
fn a_timeout_is_not_thrown_into_an_unwinding_greenlet() {
    let _watchdog = watchdog();
    let log = Log::new();
    let start = Instant::now();
    let outer = timeout(100 * MS, || {
        let inner = timeout(Duration::ZERO, || {
            let _slow = defer(|| {
                while start.elapsed() < 130 * MS {
                    sleep(10 * MS);
                }
                log.add("through");
            });
            sleep(HOUR);
        });
        assert_eq!(inner, Err(Elapsed));
        log.add("inner");
        sleep(HOUR);
        log.add("never");
    });
    assert_eq!(outer, Err(Elapsed));
    assert_eq!(log.joined(), "through inner");
}

/// Each greenlet has its own.
#[test]
fn a_timeout_concerns_its_greenlet_only() {
    let _watchdog = watchdog();
    let slow = spawn(|| {
        sleep(20 * MS);
        "undisturbed"
    });
    let limited: Vec<_> = (1..=10u32)
        .map(|n| spawn(move || timeout(n * MS, || sleep(HOUR))))
        .collect();
    for end in joinall(limited) {
        assert_eq!(end.unwrap(), Err(Elapsed));
    }
    assert_eq!(slow.join().unwrap(), "undisturbed");
}

/// What is spawned inside is not unwound with it.
#[test]
fn greenlets_spawned_inside_a_timeout_go_on() {
    let _watchdog = watchdog();
    let ran = flag();
    let outcome = timeout(MS, || {
        spawn({
            let ran = Rc::clone(&ran);
            move || {
                sleep(10 * MS);
                ran.set(true);
            }
        })
        .join()
        .unwrap();
    });
    assert_eq!(outcome, Err(Elapsed));
    assert!(!ran.get());
    until(|| ran.get());
}

#[test]
fn a_panic_goes_through_a_timeout() {
    let _watchdog = watchdog();
    quiet_panics();
    let handle = spawn(|| timeout(HOUR, || -> () { panic!("on purpose") }));
    assert!(handle.join().unwrap_err().is_panic());
}

/// The kill comes first where both are due, and goes through.
#[test]
fn a_kill_goes_through_a_timeout() {
    let _watchdog = watchdog();
    let went_on = flag();
    let handle = spawn({
        let went_on = Rc::clone(&went_on);
        move || {
            let _ = timeout(HOUR, || sleep(HOUR));
            went_on.set(true);
        }
    });
    yield_now();
    handle.kill_wait();
    assert!(handle.join().unwrap_err().is_killed());
    assert!(!went_on.get());

    let killed_late = spawn({
        let went_on = Rc::clone(&went_on);
        move || {
            let _ = timeout(MS, || sleep(HOUR));
            went_on.set(true);
        }
    });
    yield_now();
    std::thread::sleep(5 * MS);
    // The timer is due, but the hub has not looked yet.
    killed_late.kill();
    assert!(killed_late.join().unwrap_err().is_killed());
    assert!(!went_on.get());
}

/// One that catches everything and goes on has used its timeout up.
#[test]
fn a_timeout_that_is_caught_on_the_way_is_over() {
    let _watchdog = watchdog();
    let value = timeout(MS, || {
        assert!(catch_unwind(|| sleep(HOUR)).is_err());
        sleep(3 * MS);
        "went on"
    });
    assert_eq!(value, Ok("went on"));
}

/// G106 and the rest: the time is that of `timeout`, whoever hands over late.
#[test]
fn an_answer_that_came_first_is_not_lost_to_the_timeout() {
    let _watchdog = watchdog();
    let got = Rc::new(Cell::new(false));
    let parker = Parker::new();
    let unparker = parker.unparker();
    let outcome = timeout(2 * MS, || {
        let waker = spawn(move || unparker.unpark());
        yield_now();
        // Answered now; the time runs out before this greenlet has its turn.
        std::thread::sleep(5 * MS);
        parker.park();
        got.set(true);
        waker.join().unwrap();
        sleep(HOUR);
    });
    assert_eq!(outcome, Err(Elapsed));
    assert!(got.get());
}

#[test]
fn hundreds_of_nested_timeouts_unwind_to_the_right_one() {
    let _watchdog = watchdog();
    fn nest(depth: u32, due: u32, through: &Cell<u32>) {
        if depth == 200 {
            sleep(HOUR);
            return;
        }
        let time = if depth == due { 2 * MS } else { HOUR };
        let result = timeout(time, || nest(depth + 1, due, through));
        through.set(depth);
        if depth == due {
            assert_eq!(result, Err(Elapsed));
        } else {
            assert_eq!(result, Ok(()));
        }
    }
    for due in [0, 1, 100, 199] {
        let through = Cell::new(u32::MAX);
        nest(0, due, &through);
        assert_eq!(through.get(), 0);
    }
}

/// G101: nothing of a timeout is left behind, in time nor memory.
#[test]
fn a_million_timeouts_leave_no_growth() {
    let _watchdog = watchdog();
    common::alone("a_million_timeouts_leave_no_growth", || {
        let round = || {
            for _ in 0..10_000 {
                assert_eq!(timeout(HOUR, || ()), Ok(()));
            }
            yield_now();
        };
        round();
        let before = common::resident_kib();
        for _ in 0..100 {
            round();
        }
        let after = common::resident_kib();
        assert!(after < before + 1024, "{before} KiB, then {after} KiB");
    });
}

/// The destructor of `f` itself, which is not called, and of its result.
#[test]
fn captures_are_dropped_once() {
    let _watchdog = watchdog();
    let drops = Rc::new(Cell::new(0));
    for late in [false, true] {
        drops.set(0);
        let captured = {
            let drops = Rc::clone(&drops);
            defer(move || drops.set(drops.get() + 1))
        };
        let result = timeout(MS, move || {
            if late {
                sleep(HOUR);
            }
            captured
        });
        assert_eq!(drops.get(), u32::from(late));
        assert_eq!(result.is_err(), late);
        drop(result);
        assert_eq!(drops.get(), 1);
    }
}

#[test]
fn timeouts_in_main_and_in_greenlets_mix() {
    let _watchdog = watchdog();
    let outcome = timeout(10 * MS, || {
        let handle = spawn(|| timeout(2 * MS, || sleep(HOUR)));
        assert_eq!(handle.join().unwrap(), Err(Elapsed));
        let _ = catch_unwind(AssertUnwindSafe(|| ()));
        sleep(HOUR);
    });
    assert_eq!(outcome, Err(Elapsed));
}
