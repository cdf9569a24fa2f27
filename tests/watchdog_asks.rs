//! A thread that the watchdog asks where it is, by a signal: it answers from wherever
//! it is, and goes on as if nothing had been (G205, G206).

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use blocked::{
    REPORTS, Reports, functions_of, in_greenlet, reports_of, spin_for, spin_until, with,
};
use common::MS;
use greenlet::diagnostics::on_blocked;
use greenlet::{sleep, spawn, yield_now};

#[path = "common/blocked.rs"]
mod blocked;
mod common;

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
            // Who had no time to answer is reported without a name.
            while Reports::named("spinner").is_none() {
                let before = Reports::count();
                spin_until(|| Reports::count() > before);
                yield_now();
            }
            raise_urgent();
            assert_eq!(URGENT.load(Ordering::SeqCst), 1, "ours are not told");
        });
        // One that comes later is left alone, though reports are poorer then.
        handle_urgent_signals();
        in_greenlet("spinner", || {
            let before = Reports::count();
            spin_until(|| Reports::count() > before);
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

/// Signals at all moments of turns that are about to end, and nothing breaks.
#[test]
fn being_asked_at_any_moment_breaks_nothing() {
    let finished = with("1", "being_asked_at_any_moment_breaks_nothing", || {
        on_blocked(|_| {
            REPORTS.count.fetch_add(1, Ordering::SeqCst);
        });
        let spinners: Vec<_> = (0..10)
            .map(|which| {
                spawn(move || {
                    let mut turns = 0u32;
                    while Reports::count() < 50 {
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
        assert!(turns >= 50, "once in a turn");
    });
    if let Some(finished) = finished {
        finished.succeeded();
    }
}
