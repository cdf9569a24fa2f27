//! `OnceLock` and `LazyLock`: made once, by a function that may block.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{MS, quiet_panics, watchdog};
use greenlet::sync::{LazyLock, OnceLock};
use greenlet::{joinall, sleep, spawn, yield_now};

#[test]
fn a_value_whose_making_blocks_is_made_once_for_all_threads_and_greenlets() {
    let _watchdog = watchdog();
    static MADE: AtomicUsize = AtomicUsize::new(0);
    static VALUE: LazyLock<usize> = LazyLock::new(|| {
        sleep(3 * MS);
        MADE.fetch_add(1, Ordering::SeqCst) + 41
    });
    let body = || {
        let greenlets = (0..10).map(|_| spawn(|| *VALUE));
        joinall(greenlets)
            .into_iter()
            .all(|value| value.unwrap() == 41)
    };
    let other = std::thread::spawn(body);
    let plain = std::thread::spawn(|| *VALUE == 41);
    assert!(body() && other.join().unwrap() && plain.join().unwrap());
    assert_eq!(MADE.load(Ordering::SeqCst), 1);
}

#[test]
fn where_the_first_is_killed_or_panics_the_next_makes_it() {
    let _watchdog = watchdog();
    quiet_panics();
    let tries = Rc::new(Cell::new(0));
    let lazy = {
        let tries = tries.clone();
        Rc::new(LazyLock::new(move || {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => sleep(Duration::from_secs(3600)),
                2 => panic!("on purpose"),
                _ => yield_now(),
            }
            "made"
        }))
    };
    let handles: Vec<_> = (0..4)
        .map(|_| {
            let lazy = lazy.clone();
            spawn(move || **lazy)
        })
        .collect();
    yield_now();
    handles[0].kill();
    let results = joinall(handles);
    assert!(results[0].as_ref().unwrap_err().is_killed());
    assert!(results[1].as_ref().unwrap_err().is_panic());
    assert_eq!(results[2].as_ref().unwrap(), &"made");
    assert_eq!(results[3].as_ref().unwrap(), &"made");
    assert_eq!(tries.get(), 3);
}

#[test]
fn a_value_that_needs_itself_is_a_panic() {
    quiet_panics();
    let _watchdog = watchdog();
    let handle = spawn(|| {
        let cell = OnceLock::new();
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            *cell.get_or_init(|| *cell.get_or_init(|| 1) + 1)
        }));
        (made.is_err(), cell.set(5), cell.into_inner())
    });
    assert_eq!(handle.join().unwrap(), (true, Ok(()), Some(5)));
}

#[test]
fn a_set_waits_for_the_one_who_makes_the_value() {
    let _watchdog = watchdog();
    let cell = Rc::new(OnceLock::new());
    let making = spawn({
        let cell = cell.clone();
        move || {
            *cell.get_or_init(|| {
                yield_now();
                1
            })
        }
    });
    yield_now();
    assert_eq!(cell.get(), None);
    assert_eq!(cell.set(2), Err(2));
    assert_eq!(making.join().unwrap(), 1);
    let mut cell = Rc::into_inner(cell).unwrap();
    assert_eq!(cell.take(), Some(1));
    assert_eq!(cell.set(3), Ok(()));
    assert_eq!(cell.get_mut(), Some(&mut 3));
}
