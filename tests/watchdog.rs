//! The watchdog of `greenlet::diagnostics`: who holds a thread for too long is
//! reported, once, and nobody else is (G205, G206).
//!
//! Each test has a process of its own, for there is one watchdog in a process, and
//! it writes to the standard error stream.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use common::{Finished, MS, fork, in_subprocess_with, threads};
use greenlet::diagnostics::{Blocked, on_blocked, unwatched, watchdog, watchdog_threshold};
use greenlet::error::Deadlock;
use greenlet::hub::Parker;
use greenlet::{Builder, sleep, spawn, yield_now};

mod common;

const VARIABLE: &str = "GREENLET_WATCHDOG";

/// Runs `body` alone, with the watchdog set so by the environment.
fn with(setting: &str, name: &str, body: impl FnOnce()) -> Option<Finished> {
    let _watchdog = common::watchdog();
    let finished = in_subprocess_with(name, &[(VARIABLE, setting)], body)?;
    finished.succeeded();
    Some(finished)
}

fn reports_of(finished: &Finished, name: &str) -> usize {
    let start = format!("greenlet: watchdog: {name}");
    finished.stderr.matches(&start).count()
}

/// Holds the thread until it is so.
#[inline(never)]
fn spin_until(so: impl Fn() -> bool) {
    while !so() {
        std::hint::black_box(());
    }
}

#[inline(never)]
fn spin_for(time: Duration) {
    let start = Instant::now();
    spin_until(|| start.elapsed() >= time);
}

/// A greenlet that only waits, so that somebody is kept waiting.
fn bystander() -> greenlet::JoinHandle<()> {
    spawn(|| sleep(Duration::from_secs(3600)))
}

/// Runs `body` in a greenlet with this name, beside others.
fn in_greenlet<T: 'static>(name: &str, body: impl FnOnce() -> T + 'static) -> T {
    let _other = bystander();
    let handle = Builder::new().name(name).spawn(body).unwrap();
    handle.join().unwrap()
}

/// Keeps the reports, and prints them too; those who hold a thread wait for them.
struct Reports {
    all: Mutex<Vec<Blocked>>,
    count: AtomicUsize,
}

static REPORTS: Reports = Reports {
    all: Mutex::new(Vec::new()),
    count: AtomicUsize::new(0),
};

impl Reports {
    fn keep() {
        on_blocked(|blocked| {
            blocked.print();
            REPORTS.all.lock().unwrap().push(blocked.clone());
            REPORTS.count.fetch_add(1, Ordering::SeqCst);
        });
    }

    fn count() -> usize {
        REPORTS.count.load(Ordering::SeqCst)
    }

    fn named(name: &str) -> Option<Blocked> {
        let all = REPORTS.all.lock().unwrap();
        all.iter().find(|one| one.name() == Some(name)).cloned()
    }
}

fn functions_of(blocked: &Blocked) -> Vec<String> {
    let names = blocked.frames().iter().filter_map(|frame| frame.function());
    names.map(str::to_owned).collect()
}

#[test]
fn a_greenlet_that_computes_is_reported_once_with_its_name_and_where_it_is() {
    let name = "a_greenlet_that_computes_is_reported_once_with_its_name_and_where_it_is";
    let finished = with("50", name, || {
        in_greenlet("spinner", || spin_for(600 * MS));
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'spinner'"), 1, "{finished:?}");
    finished.said("spawned at tests/watchdog.rs:");
    finished.said("watchdog::spin_for");
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
    let finished = with("300", name, || {
        let _waiting: Vec<_> = (0..100).map(|_| bystander()).collect();
        let busy = spawn(|| {
            let start = Instant::now();
            while start.elapsed() < 900 * MS {
                yield_now();
            }
        });
        busy.join().unwrap();
        sleep(900 * MS);
        // It alternates with the main one, without anybody between.
        let start = Instant::now();
        let other = spawn(move || {
            while start.elapsed() < 900 * MS {
                spin_for(MS);
                yield_now();
            }
        });
        while !other.is_finished() {
            spin_for(MS);
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

/// A system call that is cut short by a signal must be none by ours.
#[test]
fn a_greenlet_that_blocks_its_thread_is_reported_and_its_calls_go_on() {
    let name = "a_greenlet_that_blocks_its_thread_is_reported_and_its_calls_go_on";
    let finished = with("40", name, || {
        const LONG: i64 = 300;
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: LONG * 1_000_000,
        };
        let call = |what: &str, call: &dyn Fn() -> i64| {
            let start = Instant::now();
            let answer = call();
            let error = std::io::Error::last_os_error();
            assert!(answer >= 0, "{what}: {error}");
            assert!(start.elapsed() >= MS * LONG as u32, "{what} is early");
            yield_now();
        };
        in_greenlet("sleeper", move || {
            // SAFETY: what is pointed to lives through the calls.
            unsafe {
                let zero = std::ptr::null_mut::<libc::timespec>();
                call("nanosleep", &|| {
                    libc::syscall(libc::SYS_nanosleep, &raw const time, zero)
                });
                call("poll", &|| {
                    libc::syscall(libc::SYS_ppoll, zero, 0, &raw const time, zero, 8)
                });
            }
        });
        // Somebody writes when the report has come.
        Reports::keep();
        let write_after_report = |fd: i32| {
            let before = Reports::count();
            std::thread::spawn(move || {
                while Reports::count() == before {
                    std::thread::sleep(MS);
                }
                // SAFETY: one byte of a live array.
                unsafe { libc::syscall(libc::SYS_write, fd, b"x".as_ptr(), 1) };
            })
        };
        in_greenlet("reader", move || {
            let mut byte = [0u8];
            let (mut pipe, mut sockets) = ([0; 2], [0; 2]);
            // SAFETY: what is pointed to lives through the calls.
            unsafe {
                assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
                let writer = write_after_report(pipe[1]);
                let n = libc::syscall(libc::SYS_read, pipe[0], byte.as_mut_ptr(), 1);
                assert_eq!(n, 1, "{}", std::io::Error::last_os_error());
                yield_now();
                writer.join().unwrap();
                // With a timeout, which the kernel does not restart.
                let (kind, pair) = (libc::SOCK_STREAM, sockets.as_mut_ptr());
                assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, pair), 0);
                let minute = libc::timeval {
                    tv_sec: 60,
                    tv_usec: 0,
                };
                let (level, option) = (libc::SOL_SOCKET, libc::SO_RCVTIMEO);
                let value = (&raw const minute).cast();
                let size = size_of::<libc::timeval>() as u32;
                assert_eq!(libc::setsockopt(sockets[0], level, option, value, size), 0);
                let writer = write_after_report(sockets[1]);
                let n = libc::syscall(libc::SYS_read, sockets[0], byte.as_mut_ptr(), 1);
                assert_eq!(n, 1, "{}", std::io::Error::last_os_error());
                writer.join().unwrap();
            }
        });
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'sleeper'"), 2, "{finished:?}");
    assert_eq!(reports_of(&finished, "'reader'"), 2, "{finished:?}");
}

/// G205: a native sleep.
#[cfg(feature = "monkey")]
#[test]
fn an_unpatched_sleep_is_reported_and_a_patched_one_is_not() {
    let name = "an_unpatched_sleep_is_reported_and_a_patched_one_is_not";
    let finished = with("100", name, || {
        use greenlet::monkey::{patch_all, unpatched};
        patch_all().unwrap();
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
        std::thread::scope(|scope| {
            for name in ["first", "second", "third"] {
                let barrier = &barrier;
                std::thread::Builder::new()
                    .name(format!("thread-{name}"))
                    .spawn_scoped(scope, move || {
                        // Nothing of the body outlives the join.
                        greenlet::scope(|scope| {
                            let _other = bystander();
                            let blocked = Builder::new().name(name).spawn_scoped(scope, || {
                                barrier.wait();
                                spin_until(|| Reports::count() == 3);
                            });
                            blocked.unwrap().join().unwrap();
                        });
                    })
                    .unwrap();
            }
        });
        for name in ["first", "second", "third"] {
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

static URGENT: AtomicUsize = AtomicUsize::new(0);

fn handle_urgent_signals() {
    extern "C" fn count(_: libc::c_int) {
        URGENT.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: the handler adds to an atomic number.
    unsafe {
        let handler = count as *const () as libc::sighandler_t;
        assert_ne!(libc::signal(libc::SIGURG, handler), libc::SIG_ERR);
    }
}

fn raise_urgent() {
    // SAFETY: the signal is ignored, or has a handler.
    assert_eq!(unsafe { libc::raise(libc::SIGURG) }, 0);
}

#[test]
fn the_programs_own_signals_go_to_its_handler() {
    let finished = with("50", "the_programs_own_signals_go_to_its_handler", || {
        Reports::keep();
        handle_urgent_signals();
        in_greenlet("spinner", || {
            spin_until(|| Reports::count() == 1);
            raise_urgent();
            assert_eq!(URGENT.load(Ordering::SeqCst), 1, "ours are not told");
        });
        // One that comes later is left alone, though reports are poorer then.
        handle_urgent_signals();
        in_greenlet("spinner", || {
            spin_until(|| Reports::count() == 2);
            raise_urgent();
            assert_eq!(URGENT.load(Ordering::SeqCst), 2);
        });
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'spinner'"), 1, "{finished:?}");
    finished.said("and cannot be interrupted to say where it is");
}

#[test]
fn a_thread_that_holds_signals_back_is_reported_without_a_list_of_calls() {
    let name = "a_thread_that_holds_signals_back_is_reported_without_a_list_of_calls";
    let finished = with("50", name, || {
        Reports::keep();
        in_greenlet("deaf", || {
            // SAFETY: the set is made by the first call, and lives through both.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
                spin_until(|| Reports::count() == 1);
                libc::pthread_sigmask(libc::SIG_UNBLOCK, &all, std::ptr::null_mut());
            }
            yield_now();
            spin_until(|| Reports::count() == 2);
        });
    });
    let Some(finished) = finished else { return };
    finished.said("a greenlet has held thread");
    finished.said("and cannot be interrupted to say where it is");
    assert_eq!(reports_of(&finished, "'deaf'"), 1, "{finished:?}");
}

/// It calls back into the program, which holds the thread there.
#[test]
fn a_greenlet_inside_of_a_c_library_is_found_there() {
    let name = "a_greenlet_inside_of_a_c_library_is_found_there";
    let finished = with("50", name, || {
        extern "C" fn compare(_: *const libc::c_void, _: *const libc::c_void) -> libc::c_int {
            spin_until(|| Reports::count() > 0);
            0
        }
        Reports::keep();
        in_greenlet("sorter", || {
            let mut numbers = [2u32, 1];
            // SAFETY: two numbers of four bytes.
            unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 2, 4, Some(compare)) };
        });
        let functions = functions_of(&Reports::named("sorter").unwrap());
        let place = |name: &str| functions.iter().position(|one| one.contains(name));
        let (inner, outer) = (place("compare"), place("qsort"));
        assert!(inner.is_some() && inner < outer, "{functions:?}");
    });
    let Some(finished) = finished else { return };
    assert_eq!(reports_of(&finished, "'sorter'"), 1, "{finished:?}");
}

/// This very program, without its section headers, which nothing needs to run.
#[test]
fn a_stripped_program_is_reported_with_addresses() {
    let name = "a_stripped_program_is_reported_with_addresses";
    let finished = with("50", name, || {
        in_greenlet("spinner", || spin_for(400 * MS));
        if std::env::var_os("STRIPPED").is_some() {
            return;
        }
        let mut program = std::fs::read("/proc/self/exe").unwrap();
        program[60..62].fill(0);
        let path = std::env::temp_dir().join(format!("greenlet-stripped-{}", std::process::id()));
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let output = Command::new(&path)
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env("STRIPPED", "1")
            .output();
        std::fs::remove_file(&path).unwrap();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("watchdog: 'spinner'"), "{said}");
        assert!(said.contains("(no name) ("), "{said}");
        assert!(said.contains(&format!("{}+0x", path.display())), "{said}");
        assert!(!said.contains("spin_for"), "{said}");
    });
    let Some(finished) = finished else { return };
    finished.said("spin_for");
}

/// A thousand thresholds: signals at all moments, and nothing breaks.
#[test]
fn being_asked_at_any_moment_breaks_nothing() {
    let finished = with("1", "being_asked_at_any_moment_breaks_nothing", || {
        on_blocked(|_| {
            REPORTS.count.fetch_add(1, Ordering::SeqCst);
        });
        let start = Instant::now();
        let spinners: Vec<_> = (0..10)
            .map(|which| {
                spawn(move || {
                    let mut turns = 0u32;
                    while start.elapsed() < Duration::from_secs(2) {
                        // Turns about as long as it takes to be noticed.
                        spin_for(MS + MS * (which + turns % 7) / 16);
                        turns += 1;
                        match turns % 3 {
                            0 => sleep(MS / 10),
                            1 => spawn(|| ()).join().unwrap(),
                            _ => yield_now(),
                        }
                    }
                    turns
                })
            })
            .collect();
        let turns: u32 = spinners.into_iter().map(|one| one.join().unwrap()).sum();
        assert!(turns > 100 && Reports::count() > 10);
    });
    if let Some(finished) = finished {
        finished.succeeded();
    }
}
