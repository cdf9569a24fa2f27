//! Threads that are isolated greenlets and the process: what ends it, signals, libraries
//! that are loaded late, destructors that misbehave. What std's threads do, they do too:
//! most of this is done by both, in processes of their own.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, Builder};
use std::time::Duration;

use common::{Finished, MS, alone, in_subprocess_with, load_library, run_alone, watchdog};
use greenlet::monkey::{Patch, patch_all};

/// Set where threads are to be the system's.
const REAL: &str = "GREENLET_TEST_REAL_THREADS";

fn patch_or_not() {
    match std::env::var_os(REAL) {
        Some(_) => Patch::new().threads(false).apply().unwrap(),
        None => patch_all().unwrap(),
    }
}

/// Runs it with threads of the system's, and with those that are greenlets; none inside.
fn both(name: &str, body: fn()) -> Option<[Finished; 2]> {
    let run = || {
        let _watchdog = watchdog();
        patch_or_not();
        body();
    };
    let real = in_subprocess_with(name, &[(REAL, "1")], run)?;
    let ours = in_subprocess_with(name, &[], run)?;
    // Not whether the system has found the room to dump its memory.
    let end = |finished: &Finished| (finished.status.code(), finished.status.signal());
    assert_eq!(end(&real), end(&ours), "{real:?}\n{ours:?}");
    Some([real, ours])
}

/// What it has said itself, line by line.
fn lines(finished: &Finished) -> Vec<&str> {
    let said = finished.stderr.lines();
    said.filter_map(|line| line.strip_prefix("said: "))
        .collect()
}

fn say(text: &str) {
    eprintln!("said: {text}");
}

/// Says something when it is dropped.
struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        say(self.0);
    }
}

/// Does something when it is dropped.
struct Does(fn());

impl Drop for Does {
    fn drop(&mut self) {
        (self.0)();
    }
}

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(7) };
    static FIRST: RefCell<Option<Says>> = const { RefCell::new(None) };
    static LAST: RefCell<Option<Does>> = const { RefCell::new(None) };
}

/// Has this done at the end of the thread, before something is said.
fn at_the_end(done: fn()) {
    FIRST.set(Some(Says("the first thread-local is destroyed")));
    LAST.set(Some(Does(done)));
}

// Destructors of thread-locals.

#[test]
fn a_destructor_may_spawn_and_join() {
    let finished = both("a_destructor_may_spawn_and_join", || {
        let thread = thread::spawn(|| {
            at_the_end(|| {
                let inner = thread::spawn(|| {
                    at_the_end(|| say("inner"));
                    COUNT.replace(9)
                });
                say(&format!("{}", inner.join().unwrap()));
                let sum = AtomicUsize::new(0);
                thread::scope(|scope| {
                    for n in 1..4 {
                        scope.spawn({
                            let sum = &sum;
                            move || sum.fetch_add(n, Ordering::Relaxed)
                        });
                    }
                });
                say(&format!("{sum:?}"));
            });
        });
        thread.join().unwrap();
        say("joined");
    });
    if let Some([real, ours]) = finished {
        ours.succeeded();
        assert_eq!(lines(&real), lines(&ours));
        let destroyed = "the first thread-local is destroyed";
        assert_eq!(
            lines(&ours),
            ["inner", destroyed, "7", "6", destroyed, "joined"]
        );
    }
}

#[test]
fn a_destructor_may_block_in_all_ways() {
    let finished = both("a_destructor_may_block_in_all_ways", || {
        static SAYS: std::sync::Mutex<Option<mpsc::Sender<u32>>> = std::sync::Mutex::new(None);
        let (says, hears) = mpsc::channel();
        *SAYS.lock().unwrap() = Some(says);
        let held = SAYS.lock().unwrap();
        let thread = thread::spawn(|| {
            at_the_end(|| {
                say("begins");
                thread::sleep(MS);
                // Held until it has slept, and then some.
                let says = SAYS.lock().unwrap().take().unwrap();
                thread::park_timeout(MS);
                says.send(COUNT.get()).unwrap();
                say("ends");
            });
            COUNT.set(8);
        });
        thread::sleep(5 * MS);
        drop(held);
        assert_eq!(hears.recv(), Ok(8));
        assert!(hears.recv().is_err());
        thread.join().unwrap();
        say("joined");
    });
    if let Some([real, ours]) = finished {
        ours.succeeded();
        assert_eq!(lines(&real), lines(&ours));
    }
}

#[test]
fn a_panic_in_a_destructor_aborts() {
    let finished = both("a_panic_in_a_destructor_aborts", || {
        let thread = thread::spawn(|| at_the_end(|| panic!("in a destructor")));
        let _ = thread.join();
        say("not reached");
    });
    for finished in finished.into_iter().flatten() {
        finished.was_killed_by(libc::SIGABRT);
        finished.said("in a destructor");
        finished.said("thread local panicked on drop");
        assert!(lines(&finished).is_empty());
    }
}

#[test]
fn a_panic_in_the_drop_of_a_result_that_nobody_takes_aborts() {
    struct Panics;
    impl Drop for Panics {
        fn drop(&mut self) {
            panic!("in a result");
        }
    }
    const NAME: &str = "a_panic_in_the_drop_of_a_result_that_nobody_takes_aborts";
    let finished = both(NAME, || {
        drop(thread::spawn(|| Panics));
        thread::sleep(Duration::from_secs(30));
    });
    for finished in finished.into_iter().flatten() {
        finished.was_killed_by(libc::SIGABRT);
        finished.said("in a result");
        finished.said("thread result panicked on drop");
    }
}

#[test]
fn a_panic_while_another_one_unwinds_aborts_and_one_beside_it_does_not() {
    const NAME: &str = "a_panic_while_another_one_unwinds_aborts_and_one_beside_it_does_not";
    static JOINED: AtomicBool = AtomicBool::new(false);
    let finished = both(NAME, || {
        let unwinds = thread::spawn(|| {
            let _slow = Does(|| {
                thread::sleep(10 * MS);
                say("slept");
                while !JOINED.load(Ordering::SeqCst) {
                    thread::sleep(MS);
                }
                panic!("second");
            });
            panic!("first");
        });
        thread::sleep(MS);
        let beside = thread::spawn(|| {
            assert!(!thread::panicking());
            panic!("beside");
        });
        assert!(beside.join().is_err());
        say("joined");
        JOINED.store(true, Ordering::SeqCst);
        let _ = unwinds.join();
    });
    for finished in finished.into_iter().flatten() {
        finished.was_killed_by(libc::SIGABRT);
        finished.said("second");
        let mut lines = lines(&finished);
        lines.sort_unstable();
        assert_eq!(lines, ["joined", "slept"]);
    }
}

// The end of the process.

#[test]
fn exit_does_not_wait_for_the_detached_and_runs_the_callers_destructors() {
    const NAME: &str = "exit_does_not_wait_for_the_detached_and_runs_the_callers_destructors";
    let finished = both(NAME, || {
        thread::spawn(|| {
            at_the_end(|| say("of the detached one"));
            loop {
                thread::sleep(MS);
            }
        });
        let exits = thread::spawn(|| {
            at_the_end(|| say("of who exits"));
            thread::sleep(5 * MS);
            std::process::exit(5);
        });
        let _ = exits.join();
    });
    if let Some([real, ours]) = finished {
        ours.exited_with(5);
        assert_eq!(lines(&real), lines(&ours));
    }
}

#[test]
fn abort_in_one_aborts() {
    let finished = both("abort_in_one_aborts", || {
        let aborts = thread::spawn(|| {
            at_the_end(|| say("not destroyed"));
            std::process::abort()
        });
        aborts.join().unwrap()
    });
    for finished in finished.into_iter().flatten() {
        finished.was_killed_by(libc::SIGABRT);
        assert!(lines(&finished).is_empty());
    }
}

#[test]
fn a_fork_in_one_goes_on_with_its_thread_locals_until_it_exits() {
    const NAME: &str = "a_fork_in_one_goes_on_with_its_thread_locals_until_it_exits";
    let finished = both(NAME, || {
        let waits = thread::spawn(|| thread::sleep(5 * MS));
        let forks = thread::spawn(|| {
            COUNT.set(70);
            // SAFETY: the child has this thread alone, and what it calls is prepared.
            match unsafe { libc::fork() } {
                0 => {
                    at_the_end(|| say("of the child"));
                    // SAFETY: an alarm has no preconditions.
                    unsafe { libc::alarm(50) };
                    let inner = thread::spawn(|| {
                        thread::sleep(MS);
                        COUNT.get()
                    });
                    let sum = COUNT.get() + inner.join().unwrap();
                    std::process::exit(sum as i32)
                }
                child => common::reap(child),
            }
        });
        assert_eq!(forks.join().unwrap(), 77);
        waits.join().unwrap();
        say("joined");
    });
    if let Some([real, ours]) = finished {
        ours.succeeded();
        assert_eq!(lines(&real), lines(&ours));
        assert_eq!(
            lines(&ours),
            [
                "of the child",
                "the first thread-local is destroyed",
                "joined"
            ]
        );
    }
}

// Signals.

#[test]
fn a_signal_arrives_in_the_thread_that_raises_it() {
    static CAUGHT: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn caught(_: c_int) {
        CAUGHT.fetch_add(COUNT.get() as usize, Ordering::Relaxed);
    }
    let finished = both("a_signal_arrives_in_the_thread_that_raises_it", || {
        // SAFETY: the handler is async-signal-safe.
        unsafe { libc::signal(libc::SIGUSR1, caught as *const () as libc::sighandler_t) };
        let threads = [1, 10, 100].map(|n| {
            thread::spawn(move || {
                COUNT.set(n);
                thread::sleep(MS);
                // SAFETY: no preconditions.
                unsafe {
                    libc::raise(libc::SIGUSR1);
                    libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1);
                }
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        say(&format!("{CAUGHT:?}"));
    });
    if let Some([real, ours]) = finished {
        ours.succeeded();
        assert_eq!((lines(&real), lines(&ours)), (vec!["222"], vec!["222"]));
    }
}

#[test]
fn signals_of_a_timer_disturb_nobody() {
    alone("signals_of_a_timer_disturb_nobody", || {
        static HITS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn hit(_: c_int) {
            COUNT.set(COUNT.get() + 1000);
            COUNT.set(COUNT.get() - 1000);
            HITS.fetch_add(1, Ordering::Relaxed);
        }
        let _watchdog = watchdog();
        patch_all().unwrap();
        let time = libc::timeval {
            tv_sec: 0,
            tv_usec: 200,
        };
        let timer = libc::itimerval {
            it_interval: time,
            it_value: time,
        };
        // SAFETY: the handler is async-signal-safe; live variables.
        unsafe {
            libc::signal(libc::SIGALRM, hit as *const () as libc::sighandler_t);
            libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
        }
        let mut n = 0;
        while HITS.load(Ordering::Relaxed) < 300 {
            let threads = [n, n + 1, n + 2].map(|n| {
                thread::spawn(move || {
                    COUNT.set(n);
                    for _ in 0..10 {
                        thread::yield_now();
                        assert_eq!(COUNT.get(), n);
                    }
                    thread::sleep(MS / 10);
                    assert_eq!(COUNT.get(), n);
                })
            });
            threads
                .into_iter()
                .for_each(|thread| thread.join().unwrap());
            n = (n + 1) % 100;
        }
    });
}

#[test]
fn a_fault_is_a_fault_and_no_overflow() {
    let finished = both("a_fault_is_a_fault_and_no_overflow", || {
        // SAFETY: it is not: that is the point.
        let faults = thread::spawn(|| unsafe {
            std::hint::black_box(8 as *mut u32).write_volatile(1);
        });
        let _ = faults.join();
    });
    for finished in finished.into_iter().flatten() {
        finished.was_killed_by(libc::SIGSEGV);
        finished.did_not_say("overflow");
    }
}

// Stacks.

#[allow(unconditional_recursion, reason = "it is to overflow")]
fn dive(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    dive(depth + 1) + frame[7]
}

#[test]
fn an_overflow_names_the_thread() {
    let finished = both("an_overflow_names_the_thread", || {
        let diver = Builder::new().name(String::from("diver"));
        let diver = diver.stack_size(512 << 10).spawn(|| dive(0)).unwrap();
        let _ = diver.join();
    });
    if let Some([real, ours]) = finished {
        for finished in [&real, &ours] {
            finished.was_killed_by(libc::SIGABRT);
        }
        real.said("thread 'diver'");
        ours.said("greenlet 'diver' has overflowed its stack of 512 KiB");
    }
}

#[test]
fn a_stack_may_be_tiny_and_an_enormous_one_is_an_error() {
    const NAME: &str = "a_stack_may_be_tiny_and_an_enormous_one_is_an_error";
    let finished = both(NAME, || {
        for size in [0, 1, 4096, 16 << 10, 100_000, 64 << 20, 512 << 20] {
            let builder = Builder::new().stack_size(size);
            let thread = builder.spawn(move || format!("{size} is fine"));
            say(&thread.unwrap().join().unwrap());
        }
        for size in [1 << 46, 1 << 47, 1 << 60, isize::MAX as usize - 4095] {
            let dropped = Says("what it has captured is dropped");
            let builder = Builder::new().stack_size(size);
            let error = builder.spawn(move || drop(dropped)).unwrap_err();
            say(&format!("{size}: {error}"));
        }
        assert_eq!(thread::spawn(|| 1).join().unwrap(), 1);
    });
    if let Some([real, ours]) = finished {
        ours.succeeded();
        assert_eq!(lines(&real), lines(&ours));
    }
}

// Libraries that are loaded late.

const VARIABLE: &str = "static __thread int v = 42; int add(int n) { return v += n; }";

/// Loads a library while a thread lives; what that one, and a later one, find in its
/// variable. None without a compiler.
fn values(name: &str, flags: &[&str]) -> Option<(c_int, c_int)> {
    type Add = extern "C" fn(c_int) -> c_int;
    let (says, hears) = mpsc::channel::<Add>();
    common::spoil_heap();
    let early = thread::spawn(move || {
        COUNT.set(1);
        // Without a compiler nothing comes.
        let add = hears.recv().ok()?;
        let first = add(0);
        add(1);
        thread::sleep(MS);
        assert_eq!(add(0), first + 1);
        Some(first)
    });
    thread::sleep(MS);
    let library = load_library(name, VARIABLE, flags)?;
    // SAFETY: a library, a string with its end, and a function of this type.
    let add =
        unsafe { std::mem::transmute::<*mut c_void, Add>(libc::dlsym(library, c"add".as_ptr())) };
    assert_eq!(add(5), 47);
    says.send(add).unwrap();
    let late = thread::spawn(move || add(0));
    let found = (early.join().unwrap()?, late.join().unwrap());
    assert_eq!(add(0), 47);
    Some(found)
}

#[test]
fn thread_locals_of_a_late_library_are_private() {
    let finished = both("thread_locals_of_a_late_library_are_private", || {
        if let Some(found) = values("dynamic", &[]) {
            assert_eq!(found, (42, 42));
        }
    });
    for finished in finished.into_iter().flatten() {
        finished.succeeded();
    }
}

#[test]
fn initial_exec_ones_are_zero_in_who_lives_already() {
    let finished = run_alone("initial_exec_ones_are_zero_in_who_lives_already", || {
        let _watchdog = watchdog();
        patch_all().unwrap();
        // See docs/isolated.md: glibc does not know of these blocks.
        if let Some(found) = values("initial", &["-ftls-model=initial-exec"]) {
            assert_eq!(found, (0, 42));
        }
    });
    if let Some(finished) = finished {
        finished.succeeded();
    }
}
