//! Who runs when: spawns, wake-ups and timers are first come, first served.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Log, MS, watchdog};
use greenlet::hub::Parker;
use greenlet::{JoinHandle, joinall, sleep, spawn, spawn_later, yield_now};

/// G207
#[test]
fn spawned_greenlets_run_in_their_order_once_the_spawner_blocks() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handles: Vec<_> = (0..5)
        .map(|n| {
            let log = log.clone();
            spawn(move || log.add(n))
        })
        .collect();
    assert!(log.is_empty(), "nobody runs before the spawner blocks");
    joinall(handles);
    assert_eq!(log.joined(), "0 1 2 3 4");
}

/// G207
#[test]
fn a_yield_lets_the_spawned_go_first() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handle = spawn({
        let log = log.clone();
        move || log.add("spawned")
    });
    yield_now();
    log.add("main");
    handle.join().unwrap();
    assert_eq!(log.joined(), "spawned main");
}

/// G090
#[test]
fn two_that_sleep_for_zero_take_turns() {
    let _watchdog = watchdog();
    let log = Log::new();
    let both = [1, 2].map(|n| {
        let log = log.clone();
        spawn(move || {
            log.add(format!("{n}A"));
            sleep(Duration::ZERO);
            log.add(format!("{n}B"));
        })
    });
    joinall(both);
    assert_eq!(log.joined(), "1A 2A 1B 2B");
}

/// G208
#[test]
fn greenlets_spawned_in_a_row_run_before_a_timer_that_is_due() {
    let _watchdog = watchdog();
    fn again(log: Log, left: u32) {
        log.add(format!("run{left}"));
        if left > 0 {
            spawn(move || again(log, left - 1));
        }
    }
    let log = Log::new();
    let delayed = spawn_later(Duration::ZERO, {
        let log = log.clone();
        move || log.add("timer")
    });
    let first = log.clone();
    spawn(move || again(first, 5));
    delayed.join().unwrap();
    assert_eq!(log.joined(), "run5 run4 run3 run2 run1 run0 timer");
}

/// G234: FIFO here, heap order in gevent.
#[test]
fn sleeps_that_end_at_the_same_moment_wake_in_their_order() {
    let _watchdog = watchdog();
    // Deadlines are taken from the clock, so they are hardly ever equal; but all
    // are due when the hub looks. (Equal ones: see the tests of the timers.)
    let log = Log::new();
    let handles: Vec<_> = (0..50)
        .map(|n| {
            let log = log.clone();
            spawn_later(MS, move || log.add(n))
        })
        .collect();
    std::thread::sleep(5 * MS);
    joinall(handles);
    let expected: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(log.entries(), expected);
}

#[test]
fn sleeps_wake_in_the_order_of_their_deadlines() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handles: Vec<_> = [30, 10, 20]
        .map(|ms| {
            let log = log.clone();
            spawn(move || {
                sleep(ms * MS);
                log.add(ms);
            })
        })
        .into_iter()
        .collect();
    joinall(handles);
    assert_eq!(log.joined(), "10 20 30");
}

#[test]
fn joiners_of_one_greenlet_wake_in_the_order_in_which_they_came() {
    let _watchdog = watchdog();
    let log = Log::new();
    let target = Rc::new(spawn(|| sleep(5 * MS)));
    let joiners: Vec<_> = (0..10)
        .map(|n| {
            let (log, target) = (log.clone(), Rc::clone(&target));
            spawn(move || {
                target.wait();
                log.add(n);
            })
        })
        .collect();
    joinall(joiners);
    assert_eq!(log.joined(), "0 1 2 3 4 5 6 7 8 9");
}

/// "A wake-up is always deferred, never run on the waker's stack."
#[test]
fn a_wake_up_does_not_run_the_woken_at_once() {
    let _watchdog = watchdog();
    let log = Log::new();
    let unparker = Rc::new(Cell::new(None));
    let parked = spawn({
        let (log, unparker) = (log.clone(), Rc::clone(&unparker));
        move || {
            let parker = Parker::new();
            unparker.set(Some(parker.unparker()));
            parker.park();
            log.add("woken");
        }
    });
    yield_now();
    let other = spawn({
        let log = log.clone();
        move || log.add("queued before")
    });
    unparker.take().unwrap().unpark();
    log.add("waker goes on");
    joinall([parked, other]);
    assert_eq!(log.joined(), "waker goes on queued before woken");
}

#[test]
fn a_sleep_is_never_shorter_than_asked_for() {
    let _watchdog = watchdog();
    for micros in [1, 50, 999, 1000, 1001, 2500, 7001] {
        let time = Duration::from_micros(micros);
        let start = Instant::now();
        sleep(time);
        assert!(start.elapsed() >= time, "{time:?}");
        let start = Instant::now();
        let in_greenlet = spawn(move || sleep(time));
        in_greenlet.join().unwrap();
        assert!(start.elapsed() >= time, "{time:?}");
    }
}

/// G084
#[test]
fn a_delayed_greenlet_starts_while_its_spawner_sleeps() {
    let _watchdog = watchdog();
    let log = Log::new();
    let outer = spawn({
        let log = log.clone();
        move || {
            let inner = log.clone();
            spawn_later(5 * MS, move || inner.add("delayed"));
            sleep(30 * MS);
            log.add("spawner");
        }
    });
    outer.join().unwrap();
    assert_eq!(log.joined(), "delayed spawner");
}

/// G084
#[test]
fn a_greenlet_spawned_by_one_that_ends_at_once_runs() {
    let _watchdog = watchdog();
    let ran = common::flag();
    let outer = spawn({
        let ran = Rc::clone(&ran);
        move || {
            spawn(move || ran.set(true));
        }
    });
    outer.join().unwrap();
    yield_now();
    assert!(ran.get());
}

/// The result of a join is there at the joiner's next turn: whoever was queued
/// before it goes first, and nobody twice.
#[test]
fn a_joiner_waits_for_its_turn_behind_those_who_were_runnable() {
    let _watchdog = watchdog();
    let log = Log::new();
    let target = spawn(|| ());
    let others: Vec<JoinHandle<()>> = (0..3)
        .map(|n| {
            let log = log.clone();
            spawn(move || {
                log.add(format!("a{n}"));
                yield_now();
                log.add(format!("b{n}"));
            })
        })
        .collect();
    target.join().unwrap();
    log.add("joined");
    joinall(others);
    assert_eq!(log.joined(), "a0 a1 a2 joined b0 b1 b2");
}

/// G100: no cached clock makes a sleep early after a long computation.
#[test]
fn a_sleep_after_a_long_computation_is_not_early() {
    let _watchdog = watchdog();
    let handle = spawn(|| {
        yield_now();
        std::thread::sleep(10 * MS);
        let start = Instant::now();
        sleep(5 * MS);
        start.elapsed()
    });
    assert!(handle.join().unwrap() >= 5 * MS);
}

/// G160: what fails when its time has come disturbs no other timer.
#[test]
fn a_delayed_greenlet_that_panics_disturbs_no_sleeper() {
    let _watchdog = watchdog();
    common::quiet_panics();
    let start = Instant::now();
    let sleeper = spawn(move || {
        sleep(10 * MS);
        start.elapsed()
    });
    let failing = spawn_later(2 * MS, || -> () { panic!("on purpose") });
    assert!(sleeper.join().unwrap() >= 10 * MS);
    assert!(failing.join().unwrap_err().is_panic());
}
