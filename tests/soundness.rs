//! What an adversary would try in safe code. Each of these once was, or easily
//! could be, undefined behaviour.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{MS, alone, run_alone, watchdog};
use greenlet::hub::{self, Parker};
use greenlet::{sleep, spawn, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// A greenlet may hold a reference into a thread-local while it is parked. Once
/// the thread's end destroys thread-locals, it must not run any more, although
/// the destructor of another one blocks.
#[test]
fn no_greenlet_runs_once_thread_locals_are_being_destroyed() {
    let _watchdog = watchdog();
    alone(
        "no_greenlet_runs_once_thread_locals_are_being_destroyed",
        || {
            static DESTROYED: AtomicUsize = AtomicUsize::new(0);
            static RAN_AFTERWARDS: AtomicUsize = AtomicUsize::new(0);
            struct Value(Cell<u32>);
            impl Drop for Value {
                fn drop(&mut self) {
                    self.0.set(0);
                    DESTROYED.fetch_add(1, Ordering::Relaxed);
                    // Others have time to run, if they can.
                    for _ in 0..10 {
                        sleep(MS);
                        yield_now();
                    }
                    // So have those that are spawned now, and look at the next.
                    spawn(look);
                    sleep(2 * MS);
                }
            }
            thread_local! {
                static A: Value = const { Value(Cell::new(1)) };
                static B: Value = const { Value(Cell::new(1)) };
                static C: Value = const { Value(Cell::new(1)) };
            }
            fn look() {
                let looks = |value: &Value| {
                    for _ in 0..5 {
                        sleep(MS);
                        if DESTROYED.load(Ordering::Relaxed) > 0 {
                            RAN_AFTERWARDS.fetch_add(1, Ordering::Relaxed);
                        }
                        assert_eq!(value.0.get(), 1, "it was destroyed");
                    }
                };
                let _ = A.try_with(looks);
                let _ = B.try_with(looks);
                let _ = C.try_with(looks);
            }
            for hub_first in [true, false] {
                DESTROYED.store(0, Ordering::Relaxed);
                std::thread::spawn(move || {
                    if !hub_first {
                        C.with(|_| ());
                    }
                    spawn(|| A.with(|_| look()));
                    spawn(|| B.with(|_| look()));
                    spawn(|| {
                        loop {
                            C.with(|value| {
                                yield_now();
                                assert_eq!(value.0.get(), 1, "it was destroyed");
                            });
                        }
                    });
                    yield_now();
                })
                .join()
                .unwrap();
                assert_eq!(DESTROYED.load(Ordering::Relaxed), 3);
                assert_eq!(RAN_AFTERWARDS.load(Ordering::Relaxed), 0);
            }
        },
    );
}

/// The same where the process ends, in main and inside a greenlet.
#[test]
fn no_greenlet_runs_once_exit_destroys_thread_locals() {
    let _watchdog = watchdog();
    for place in ["main", "greenlet"] {
        let name = "no_greenlet_runs_once_exit_destroys_thread_locals";
        let finished = common::in_subprocess_with(name, &[("EXIT_IN", place)], || {
            struct Value;
            impl Drop for Value {
                fn drop(&mut self) {
                    eprintln!("destroyed");
                    sleep(5 * MS);
                    yield_now();
                    eprintln!("through");
                }
            }
            thread_local! {
                static VALUE: Value = const { Value };
            }
            spawn(|| {
                VALUE.with(|_| {
                    loop {
                        sleep(MS);
                        eprintln!("ran");
                    }
                })
            });
            sleep(3 * MS);
            if std::env::var_os("EXIT_IN").is_some_and(|place| place == "greenlet") {
                spawn(|| std::process::exit(3));
                sleep(HOUR);
            }
            std::process::exit(3)
        });
        let Some(finished) = finished else { return };
        finished.exited_with(3);
        finished.said("through");
        let (_, after) = finished.stderr.split_once("destroyed").unwrap();
        assert!(!after.contains("ran"), "{finished:?}");
    }
}
