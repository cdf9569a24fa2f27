//! The watchdog of `greenlet::diagnostics`: who holds a thread for too long is
//! reported, once, and nobody else is (G205, G206). How a thread is asked where it is:
//! `watchdog_asks.rs`.
//!
//! Each test has a process of its own, for there is one watchdog in a process, and
//! it writes to the standard error stream.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use blocked::{
    Reports, VARIABLE, bystander, functions_of, in_greenlet, reports_of, spin_for, spin_until, with,
};
use common::{MS, fork, threads};
use greenlet::diagnostics::{unwatched, watchdog, watchdog_threshold};
use greenlet::error::Deadlock;
use greenlet::hub::Parker;
use greenlet::{Builder, sleep, spawn, yield_now};

#[path = "common/blocked.rs"]
mod blocked;
mod common;

#[test]
fn a_greenlet_that_computes_is_reported_once_with_its_name_and_where_it_is() {
    let name = "a_greenlet_that_computes_is_reported_once_with_its_name_and_where_it_is";
    let finished = with("50", name, || {
        in_greenlet("spinner", || spin_for(600 * MS));
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'spinner'"), 1, "{finished:?}");
    finished.said("spawned at tests/watchdog.rs:");
    finished.said("::spin_for");
    finished.said("while 2 other greenlets wait");
    // What lies below the greenlet's body is of no interest.
    finished.did_not_say("greenlet::hub");
    finished.did_not_say("'main'");
}

#[test]
fn each_turn_that_takes_too_long_is_reported() {
    let finished = with("50", "each_turn_that_takes_too_long_is_reported", || {
        Reports::keep();
        in_greenlet("again", || {
            for turn in 0..3 {
                spin_until(|| Reports::count() > turn);
                yield_now();
            }
        });
        assert_eq!(Reports::count(), 3);
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'again'"), 3, "{finished:?}");
}

/// G206: an idle hub is not blocked, nor is one whose greenlets take turns.
#[test]
fn greenlets_that_wait_or_take_turns_are_never_reported() {
    let name = "greenlets_that_wait_or_take_turns_are_never_reported";
    let finished = with("400", name, || {
        let _waiting: Vec<_> = (0..100).map(|_| bystander()).collect();
        let busy = spawn(|| {
            let start = Instant::now();
            while start.elapsed() < 900 * MS {
                yield_now();
            }
        });
        busy.join().unwrap();
        sleep(900 * MS);
        // It alternates with the main one, without anybody between: each turn is
        // short enough, all of them would not be.
        let other = spawn(|| {
            for _ in 0..10 {
                spin_for(60 * MS);
                yield_now();
            }
        });
        while !other.is_finished() {
            spin_for(60 * MS);
            yield_now();
        }
    });
    let Some(finished) = finished else { return };
    finished.did_not_say("watchdog");
}

#[test]
fn a_main_greenlet_is_reported_if_its_thread_has_others() {
    let name = "a_main_greenlet_is_reported_if_its_thread_has_others";
    let finished = with("50", name, || {
        Reports::keep();
        let other = bystander();
        yield_now();
        spin_until(|| Reports::count() == 1);
        let report = Reports::named("main").unwrap();
        assert_eq!((report.others(), report.spawned_at()), (1, None));
        other.kill_wait();
        // Alone it keeps nobody waiting.
        spin_for(300 * MS);
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'main'"), 1, "{finished:?}");
}

/// G205: a native sleep.
#[cfg(feature = "monkey")]
#[test]
fn an_unpatched_sleep_is_reported_and_a_patched_one_is_not() {
    let name = "an_unpatched_sleep_is_reported_and_a_patched_one_is_not";
    let finished = with("100", name, || {
        use greenlet::monkey::unpatched;
        common::patch();
        in_greenlet("patched", || std::thread::sleep(500 * MS));
        in_greenlet("unpatched", || {
            unpatched(|| std::thread::sleep(500 * MS));
        });
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'patched'"), 0, "{finished:?}");
    assert_eq!(reports_of(&finished, "'unpatched'"), 1, "{finished:?}");
    finished.said("std::thread::");
}

#[test]
fn it_is_on_in_debug_builds_and_otherwise_on_request() {
    let _watchdog = common::watchdog();
    if std::env::var_os(VARIABLE).is_none() {
        let usual = cfg!(debug_assertions).then_some(100 * MS);
        assert_eq!(watchdog_threshold(), usual);
    }
    let name = "it_is_on_in_debug_builds_and_otherwise_on_request";
    let Some(finished) = with("off", name, || {
        if std::env::var(VARIABLE).as_deref() != Ok("off") {
            return;
        }
        let before = threads();
        assert_eq!(watchdog_threshold(), None);
        in_greenlet("spinner", || spin_for(300 * MS));
        assert_eq!(threads(), before, "it has no thread while it is off");
    }) else {
        return;
    };
    finished.did_not_say("watchdog");
}

#[test]
fn a_setting_that_makes_no_sense_is_complained_of() {
    let name = "a_setting_that_makes_no_sense_is_complained_of";
    let finished = with("often", name, || {
        let usual = cfg!(debug_assertions).then_some(100 * MS);
        assert_eq!(watchdog_threshold(), usual);
        assert_eq!(watchdog(Some(Duration::ZERO)), usual);
        assert_eq!(watchdog_threshold(), Some(MS));
        watchdog(Some(Duration::MAX));
        assert!(watchdog(None) > Some(Duration::from_secs(1 << 30)));
    });
    let Some(finished) = finished else { return };
    finished.said("GREENLET_WATCHDOG is \"often\", but must be 'off', 'on' or a number of");
}

#[test]
fn it_can_be_switched_at_run_time_and_knows_the_hubs_that_there_are() {
    let name = "it_can_be_switched_at_run_time_and_knows_the_hubs_that_there_are";
    let finished = with("off", name, || {
        Reports::keep();
        let before = threads();
        for round in 1..=3 {
            in_greenlet("spinner", move || {
                assert_eq!(watchdog(Some(20 * MS)), None);
                spin_until(|| Reports::count() == round);
                assert_eq!(watchdog(None), Some(20 * MS));
            });
            // Its thread ends.
            common::until(|| threads() == before);
        }
        let report = Reports::named("spinner").unwrap();
        assert!(report.held() >= 20 * MS && report.computed().is_some());
        assert_eq!(report.spawned_at().unwrap().file(), "tests/watchdog.rs");
        assert!(report.thread().0 > 0 && report.thread().1.is_some());
        let functions = functions_of(&report);
        assert!(functions.iter().any(|name| name.contains("spin_until")));
        let (object, offset) = report.frames()[0].object().unwrap();
        assert!(object.is_absolute() || object.to_string_lossy().contains("vdso"));
        assert!(offset > 0 && report.frames()[0].address() > offset);
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'spinner'"), 3, "{finished:?}");
}

/// gevent's `ignore_current_greenlet_blocking` (G206).
#[test]
fn who_asked_for_it_is_not_reported_and_others_are() {
    let name = "who_asked_for_it_is_not_reported_and_others_are";
    let finished = with("40", name, || {
        Reports::keep();
        in_greenlet("meant", || {
            let nested = unwatched(|| {
                unwatched(|| ());
                spin_for(300 * MS);
                // It is the greenlet's own matter: another one is watched.
                in_greenlet("another", || spin_until(|| Reports::count() == 1));
                spin_for(300 * MS);
                7
            });
            assert_eq!(nested, 7);
            let _ =
                std::panic::catch_unwind(|| unwatched(|| std::panic::resume_unwind(Box::new(1))));
            yield_now();
            assert_eq!(Reports::count(), 1);
            spin_until(|| Reports::count() == 2);
        });
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'another'"), 1, "{finished:?}");
    assert_eq!(reports_of(&finished, "'meant'"), 1, "{finished:?}");
}

#[test]
fn hubs_that_are_blocked_at_once_are_all_reported_and_those_that_ended_are_forgotten() {
    let name = "hubs_that_are_blocked_at_once_are_all_reported_and_those_that_ended_are_forgotten";
    let finished = with("50", name, || {
        Reports::keep();
        let barrier = Barrier::new(3);
        const NAMES: [&str; 3] = ["first", "second", "third"];
        let all_are_named = || NAMES.iter().all(|name| Reports::named(name).is_some());
        std::thread::scope(|scope| {
            for name in NAMES {
                let barrier = &barrier;
                std::thread::Builder::new()
                    .name(format!("thread-{name}"))
                    .spawn_scoped(scope, move || {
                        // Nothing of the body outlives the join.
                        greenlet::scope(|scope| {
                            let _other = bystander();
                            let blocked = Builder::new().name(name).spawn_scoped(scope, || {
                                barrier.wait();
                                // Who had no time to answer is reported without a name,
                                // and again in its next turn.
                                let thread = format!("thread-{name}");
                                for n in 1.. {
                                    spin_until(|| Reports::of_thread(&thread) >= n);
                                    if Reports::named(name).is_some() {
                                        break;
                                    }
                                    yield_now();
                                }
                                spin_until(all_are_named);
                            });
                            blocked.unwrap().join().unwrap();
                        });
                    })
                    .unwrap();
            }
        });
        for name in NAMES {
            let thread = format!("thread-{name}");
            let report = Reports::named(name).unwrap();
            assert_eq!(report.thread().1, Some(thread.as_str()));
        }
        // Many hubs that come and go while it looks.
        watchdog(Some(MS));
        for _ in 0..200 {
            let thread = std::thread::spawn(|| {
                let _left_behind = bystander();
                yield_now();
            });
            thread.join().unwrap();
        }
    });
    let Some(finished) = finished else { return };
    for name in ["'first'", "'second'", "'third'"] {
        assert_eq!(reports_of(&finished, name), 1, "{finished:?}");
    }
}

#[test]
fn in_the_child_of_a_fork_it_starts_anew() {
    let finished = with("50", "in_the_child_of_a_fork_it_starts_anew", || {
        Reports::keep();
        in_greenlet("parent", || spin_until(|| Reports::count() == 1));
        // Who waits for the child holds the thread.
        let code = unwatched(|| {
            fork(|| {
                assert_eq!(threads(), 1);
                in_greenlet("child", || spin_until(|| Reports::count() == 2));
                assert_eq!(threads(), 2);
                0
            })
        });
        assert_eq!(code, 0);
        // In the parent it goes on.
        in_greenlet("parent", || spin_until(|| Reports::count() == 2));
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'child'"), 1, "{finished:?}");
    assert_eq!(reports_of(&finished, "'parent'"), 2, "{finished:?}");
}

#[test]
fn its_thread_does_not_keep_a_deadlock_from_being_found() {
    let name = "its_thread_does_not_keep_a_deadlock_from_being_found";
    let finished = with("50", name, || {
        let code = fork(|| {
            // At once, and when it has been there for a while.
            for pause in [Duration::ZERO, 200 * MS] {
                spawn(move || sleep(pause)).join().unwrap();
                assert_eq!(threads(), 2);
                let parker = Parker::new();
                std::panic::set_hook(Box::new(|_| ()));
                let park = std::panic::AssertUnwindSafe(|| parker.park());
                let payload = std::panic::catch_unwind(park).unwrap_err();
                assert!(payload.is::<Deadlock>());
            }
            0
        });
        assert_eq!(code, 0);
    });
    let Some(finished) = finished else { return };
    finished.said("deadlock: nothing can wake any of 1 greenlets");
}

/// A hub wakes from a long sleep, and the watchdog with it.
#[test]
fn a_watchdog_that_rests_because_all_are_idle_wakes_with_them() {
    let name = "a_watchdog_that_rests_because_all_are_idle_wakes_with_them";
    let finished = with("8", name, || {
        Reports::keep();
        let other = bystander();
        yield_now();
        for _ in 0..3 {
            let reports = Reports::count();
            // Seen from a thread that has no hub.
            let parker = Parker::new();
            let unparker = parker.unparker();
            let seen = std::thread::spawn(move || {
                let mut before = 0;
                while before != switches_of_watchdog() {
                    before = switches_of_watchdog();
                    std::thread::sleep(100 * MS);
                }
                unparker.unpark();
            });
            parker.park();
            seen.join().unwrap();
            spin_until(|| Reports::count() > reports);
        }
        other.kill();
    });
    let Some(finished) = finished else { return };
    finished.said("'main'");
}

/// How often the watchdog's thread has gone to sleep.
fn switches_of_watchdog() -> u64 {
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        if status.contains("greenlet-watch") {
            let count = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return count.unwrap().trim().parse().unwrap();
        }
    }
    panic!("it has no thread");
}
