//! `Barrier`: all of them, or nobody.

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{MS, watchdog};
use greenlet::sync::Barrier;
use greenlet::{joinall, spawn, yield_now};

#[test]
fn nobody_passes_before_all_have_come() {
    let _watchdog = watchdog();
    let barrier = Arc::new(Barrier::new(4));
    let come = Arc::new(AtomicUsize::new(0));
    let body = move || {
        let mut led = 0;
        for round in 1..=50 {
            come.fetch_add(1, Ordering::SeqCst);
            led += usize::from(barrier.wait().is_leader());
            assert!(come.load(Ordering::SeqCst) >= 4 * round);
            // The next round starts when all have looked.
            barrier.wait();
        }
        led
    };
    // Two greenlets of this thread, a greenlet of another one, a plain thread.
    let other = std::thread::spawn({
        let body = body.clone();
        move || spawn(body).join().unwrap()
    });
    let plain = std::thread::spawn(body.clone());
    let here: usize = joinall([spawn(body.clone()), spawn(body)])
        .into_iter()
        .map(Result::unwrap)
        .sum();
    let led = here + other.join().unwrap() + plain.join().unwrap();
    assert_eq!(led, 50, "one leader a round");
}

#[test]
fn a_barrier_for_none_or_one_lets_everybody_pass() {
    for parties in [0, 1] {
        let barrier = Barrier::new(parties);
        assert!(barrier.wait().is_leader());
        assert!(barrier.wait_timeout(MS).unwrap().is_leader());
    }
}

#[test]
fn who_is_killed_or_gives_up_has_not_come() {
    let _watchdog = watchdog();
    let barrier = Rc::new(Barrier::new(2));
    let killed = spawn({
        let barrier = barrier.clone();
        move || barrier.wait()
    });
    yield_now();
    killed.kill();
    assert!(killed.join().unwrap_err().is_killed());
    assert!(barrier.wait_timeout(MS).is_none());
    let first = spawn({
        let barrier = barrier.clone();
        move || barrier.wait().is_leader()
    });
    yield_now();
    assert!(!first.is_finished());
    assert!(barrier.wait().is_leader());
    assert!(!first.join().unwrap());
}

#[test]
fn who_is_killed_when_all_have_come_has_passed() {
    let _watchdog = watchdog();
    let barrier = Rc::new(Barrier::new(2));
    let waiter = spawn({
        let barrier = barrier.clone();
        move || barrier.wait()
    });
    yield_now();
    assert!(barrier.wait().is_leader());
    waiter.kill();
    assert!(!waiter.join().unwrap().is_leader());
    assert!(barrier.wait_timeout(MS).is_none(), "a new round");
}
