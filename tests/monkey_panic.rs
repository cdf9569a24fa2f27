//! `monkey`: patched calls while a greenlet unwinds, and in a panic hook.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::{MS, defer, flag, in_subprocess_with, quiet_panics};
use greenlet::spawn;
use patched::*;

#[test]
fn a_sleep_in_a_destructor_lets_others_run_while_its_greenlet_unwinds() {
    let _watchdog = patched();
    if common::panic_count_is_off() {
        return;
    }
    quiet_panics();
    let dying = spawn(|| {
        let _sleep = defer(|| {
            lets_others_run(|| std::thread::sleep(MS * 10));
            assert!(std::thread::panicking());
        });
        panic!("on purpose");
    });
    greenlet::yield_now();
    // Others are not unwinding, and may panic themselves.
    assert!(!std::thread::panicking());
    let other = spawn(|| panic!("on purpose, too"));
    assert!(other.join().is_err_and(|error| error.is_panic()));
    assert!(!dying.is_finished());
    assert!(dying.join().is_err_and(|error| error.is_panic()));
}

#[test]
fn reads_and_writes_in_a_destructor_park_while_its_greenlet_unwinds() {
    let _watchdog = patched();
    if common::panic_count_is_off() {
        return;
    }
    quiet_panics();
    let (a, b) = pair(libc::SOCK_STREAM);
    let got = Rc::new(Cell::new(Ok(0)));
    let result = got.clone();
    let unwinding = move || {
        let _read = defer(move || result.set(recv(&a, &mut [0; 4], libc::MSG_WAITALL)));
        panic!("on purpose")
    };
    let ended = parks(
        move || {
            catch_unwind(AssertUnwindSafe(unwinding))
                .map(|()| unreachable!())
                .is_err()
        },
        || {
            assert_eq!(send(&b, b"ab", 0), Ok(2));
            greenlet::sleep(MS);
            assert_eq!(send(&b, b"cd", 0), Ok(2));
        },
    );
    assert!(ended);
    assert_eq!(got.get(), Ok(4));
}

#[test]
fn without_the_panic_count_a_sleep_in_a_destructor_blocks() {
    let off = [("GREENLET_PANIC_COUNT", "off")];
    let name = "without_the_panic_count_a_sleep_in_a_destructor_blocks";
    let ended = in_subprocess_with(name, &off, || {
        let _watchdog = patched();
        quiet_panics();
        let other = flag();
        let (set, seen) = (other.clone(), Rc::new(Cell::new(true)));
        let saw = seen.clone();
        let dying = spawn(move || {
            let _sleep = defer(move || {
                std::thread::sleep(MS * 3);
                let (a, b) = pair(libc::SOCK_STREAM);
                let writer = std::thread::spawn(move || send(&b, b"x", 0));
                assert_eq!(recv(&a, &mut [0; 1], 0), Ok(1));
                assert_eq!(writer.join().unwrap(), Ok(1));
                saw.set(other.get());
            });
            panic!("on purpose");
        });
        spawn(move || set.set(true));
        assert!(dying.join().is_err_and(|error| error.is_panic()));
        assert!(!seen.get(), "another greenlet ran");
        // What does not unwind parks as ever.
        lets_others_run(|| std::thread::sleep(MS * 10));
    });
    if let Some(ended) = ended {
        ended.succeeded();
    }
}

/// std marks the thread while its hook runs, and aborts if it panics once more.
#[test]
fn a_panic_hook_never_lets_others_run() {
    common::alone("a_panic_hook_never_lets_others_run", || {
        let _watchdog = patched();
        static TICKS: AtomicU32 = AtomicU32::new(0);
        static HOOKS: AtomicU32 = AtomicU32::new(0);
        let (reader, writer) = pipe();
        let (a, b) = pair(libc::SOCK_STREAM);
        std::panic::set_hook(Box::new(move |_| {
            let before = TICKS.load(Ordering::SeqCst);
            std::thread::sleep(MS * 5);
            std::thread::yield_now();
            // SAFETY: they have no preconditions.
            unsafe {
                libc::usleep(1000);
                libc::sched_yield();
            }
            assert_eq!(write(&writer, b"hooked"), Ok(6));
            assert_eq!(read(&reader, &mut [0; 6]), Ok(6));
            // It has to wait for this, of a thread.
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(MS * 2);
                    assert_eq!(send(&b, b"x", 0), Ok(1));
                });
                assert_eq!(recv(&a, &mut [0; 1], 0), Ok(1));
            });
            (0..150).for_each(|_| assert_eq!(send(&a, b"x", 0), Ok(1)));
            assert_eq!(recv(&b, &mut [0; 150], libc::MSG_WAITALL), Ok(150));
            eprintln!("the hook has written this");
            if before == TICKS.load(Ordering::SeqCst) {
                HOOKS.fetch_add(1, Ordering::SeqCst);
            }
        }));
        let ticker = spawn(|| {
            loop {
                TICKS.fetch_add(1, Ordering::SeqCst);
                greenlet::yield_now();
            }
        });
        let panicking: Vec<_> = (0..3).map(|_| spawn(|| panic!("on purpose"))).collect();
        for ended in greenlet::joinall(panicking) {
            assert!(ended.is_err_and(|error| error.is_panic()));
        }
        assert_eq!(
            HOOKS.load(Ordering::SeqCst),
            3,
            "others ran in the middle of a hook"
        );
        assert!(TICKS.load(Ordering::SeqCst) > 0);
        if !common::panic_count_is_off() {
            // A panic in a greenlet that is made and joined while another unwinds.
            let nested = spawn(|| {
                let _other = defer(|| {
                    assert!(spawn(|| panic!("on purpose")).join().is_err());
                });
                panic!("on purpose");
            });
            assert!(nested.join().is_err());
            assert_eq!(HOOKS.load(Ordering::SeqCst), 5);
        }
        ticker.kill();
        let _ = std::panic::take_hook();
    });
}

/// The default hook writes to standard error, which never parks, and takes a
/// backtrace, which reads files.
#[test]
fn the_default_hook_works_in_greenlets() {
    let name = "the_default_hook_works_in_greenlets";
    let ended = in_subprocess_with(name, &[("RUST_BACKTRACE", "1")], || {
        let _watchdog = patched();
        let all: Vec<_> = (0..3)
            .map(|_| spawn(|| panic!("seen by its words")))
            .collect();
        assert!(greenlet::joinall(all).iter().all(Result::is_err));
    });
    if let Some(ended) = ended {
        ended.succeeded();
        assert_eq!(
            ended.stderr.matches("seen by its words").count(),
            3,
            "{ended:?}"
        );
    }
}
