//! Nobody is starved: a busy run queue keeps neither timers nor other threads
//! waiting, and `yield_now` really gives way.

mod common;

use std::rc::Rc;
use std::time::Duration;

use common::{MS, flag, watchdog};
use greenlet::hub::Parker;
use greenlet::{joinall, sleep, spawn, timeout, yield_now};

/// G091, G224
#[test]
fn a_loop_of_yields_does_not_starve_a_timeout() {
    let _watchdog = watchdog();
    let ended = timeout(5 * MS, || {
        loop {
            sleep(Duration::ZERO);
        }
    });
    assert!(ended.is_err());
    let ended = timeout(Duration::ZERO, || {
        loop {
            yield_now();
        }
    });
    assert!(ended.is_err());
}

/// G228
#[test]
fn greenlets_that_only_yield_do_not_starve_a_sleeper() {
    let _watchdog = watchdog();
    let stop = flag();
    let spinners: Vec<_> = (0..10)
        .map(|_| {
            let stop = Rc::clone(&stop);
            spawn(move || {
                while !stop.get() {
                    yield_now();
                }
            })
        })
        .collect();
    sleep(10 * MS);
    stop.set(true);
    joinall(spinners);
}

/// G228, with another thread in the place of I/O.
#[test]
fn greenlets_that_only_yield_do_not_starve_a_wake_up_from_another_thread() {
    let _watchdog = watchdog();
    let stop = flag();
    let spinner = spawn({
        let stop = Rc::clone(&stop);
        move || {
            while !stop.get() {
                yield_now();
            }
        }
    });
    let parker = Parker::new();
    let unparker = parker.unparker();
    let thread = std::thread::spawn(move || unparker.unpark());
    parker.park();
    stop.set(true);
    spinner.join().unwrap();
    thread.join().unwrap();
}

/// One that spawns for ever must not keep those who sleep from waking.
#[test]
fn greenlets_that_spawn_the_next_for_ever_do_not_starve_a_sleeper() {
    let _watchdog = watchdog();
    fn next(stop: Rc<std::cell::Cell<bool>>) {
        if !stop.get() {
            spawn(move || next(stop));
        }
    }
    let stop = flag();
    next(Rc::clone(&stop));
    sleep(5 * MS);
    stop.set(true);
    yield_now();
}

#[test]
fn yielders_get_the_same_number_of_turns() {
    let _watchdog = watchdog();
    let turns: Vec<_> = (0..7)
        .map(|_| Rc::new(std::cell::Cell::new(0u32)))
        .collect();
    let stop = flag();
    let yielders: Vec<_> = turns
        .iter()
        .map(|turns| {
            let (turns, stop) = (Rc::clone(turns), Rc::clone(&stop));
            spawn(move || {
                while !stop.get() {
                    turns.set(turns.get() + 1);
                    yield_now();
                }
            })
        })
        .collect();
    for _ in 0..1000 {
        yield_now();
    }
    stop.set(true);
    joinall(yielders);
    let counts: Vec<u32> = turns.iter().map(|turns| turns.get()).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 1, "{counts:?}");
    assert!(*least >= 1000, "{counts:?}");
}
