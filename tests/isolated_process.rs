//! Isolated greenlets and the process: fork, exit, signals, libraries that are loaded
//! late, the ends of threads; and how many of them there can be.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{MS, alone, load_library, run_alone, watchdog};
use greenlet::{Builder, sleep, spawn, spawn_isolated, yield_now};

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(7) };
    static SAYS: RefCell<Option<Says>> = const { RefCell::new(None) };
}

/// Says something on the standard error stream when it is dropped.
struct Says(&'static str);

impl Drop for Says {
    fn drop(&mut self) {
        eprintln!("{}", self.0);
    }
}

// Fork.

#[test]
fn a_fork_works_in_the_parent_and_in_the_child() {
    let _watchdog = watchdog();
    let bystander = spawn_isolated(|| {
        COUNT.set(1);
        sleep(20 * MS);
        COUNT.get()
    });
    let handle = spawn_isolated(|| {
        COUNT.set(50);
        SAYS.replace(Some(Says("destroyed in the parent only")));
        let code = common::fork(|| {
            // The child goes on with the same thread-locals, and with all that a
            // greenlet can do.
            assert_eq!(COUNT.get(), 50);
            COUNT.set(60);
            let id = std::thread::current().id();
            sleep(2 * MS);
            assert_eq!(std::thread::current().id(), id);
            let light = spawn(|| COUNT.get());
            let isolated = spawn_isolated(|| {
                yield_now();
                COUNT.get()
            });
            assert_eq!(light.join().unwrap(), 60);
            assert_eq!(isolated.join().unwrap(), 7);
            let thread = std::thread::spawn(|| COUNT.get());
            assert_eq!(thread.join().unwrap(), 7);
            // A fork in the child of one.
            assert_eq!(common::fork(|| COUNT.get() as i32), 60);
            42
        });
        assert_eq!(code, 42);
        assert_eq!(COUNT.get(), 50);
        sleep(MS);
        COUNT.get()
    });
    assert_eq!(handle.join().unwrap(), 50);
    assert_eq!(bystander.join().unwrap(), 1);
}

#[test]
fn the_child_of_a_fork_ends_with_its_greenlet() {
    let finished = run_alone("the_child_of_a_fork_ends_with_its_greenlet", || {
        let _watchdog = watchdog();
        let handle = spawn_isolated(|| {
            // SAFETY: the child runs on with this greenlet alone.
            match unsafe { libc::fork() } {
                0 => {
                    SAYS.replace(Some(Says("the child's destructor")));
                    spawn(|| eprintln!("the child's light one"));
                    yield_now();
                    None
                }
                child => Some(child),
            }
        });
        let Some(child) = handle.join().unwrap() else {
            unreachable!("the main greenlet is not in the child");
        };
        assert_eq!(common::reap(child), 0);
    });
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said("the child's light one");
        finished.said("the child's destructor");
    }
}

#[test]
fn a_command_may_be_started_inside() {
    let _watchdog = watchdog();
    let handle = spawn_isolated(|| {
        use std::os::unix::process::CommandExt;
        let plain = std::process::Command::new("true").status().unwrap();
        let mut forked = std::process::Command::new("sh");
        forked.args(["-c", "exit 3"]);
        // With a function of its own it is started by fork and exec.
        // SAFETY: it does nothing.
        unsafe { forked.pre_exec(|| Ok(())) };
        (plain.success(), forked.status().unwrap().code())
    });
    assert_eq!(handle.join().unwrap(), (true, Some(3)));
}

// What is done by the OS thread, and what is refused.

#[test]
fn the_user_is_set_for_all_threads() {
    let _watchdog = watchdog();
    let thread = std::thread::spawn(|| std::thread::sleep(20 * MS));
    let handle = spawn_isolated(|| {
        // SAFETY: no preconditions, and it changes nothing.
        unsafe {
            let (user, group) = (libc::getuid(), libc::getgid());
            assert_eq!(libc::setuid(user), 0);
            assert_eq!(libc::setgid(group), 0);
            assert_eq!(libc::setresuid(user, user, user), 0);
            assert_eq!(libc::setregid(group, group), 0);
            // errno is the caller's: not one that a user has, and not by one who is
            // not root; by root it is allowed.
            if user != 0 {
                assert_eq!(libc::setuid(0), -1);
                assert_eq!(
                    std::io::Error::last_os_error().raw_os_error(),
                    Some(libc::EPERM)
                );
            }
        }
    });
    handle.join().unwrap();
    thread.join().unwrap();
}

#[test]
fn robust_and_priority_inheriting_mutexes_are_refused() {
    let _watchdog = watchdog();
    unsafe extern "C" {
        fn pthread_mutexattr_setrobust(a: *mut libc::pthread_mutexattr_t, robust: c_int) -> c_int;
        fn pthread_mutexattr_setprotocol(a: *mut libc::pthread_mutexattr_t, p: c_int) -> c_int;
    }
    let set = || {
        // SAFETY: the attributes are a live variable, and initialised.
        unsafe {
            let mut a = std::mem::zeroed();
            libc::pthread_mutexattr_init(&mut a);
            [
                pthread_mutexattr_setrobust(&mut a, 0),
                pthread_mutexattr_setrobust(&mut a, 1),
                pthread_mutexattr_setprotocol(&mut a, libc::PTHREAD_PRIO_NONE),
                pthread_mutexattr_setprotocol(&mut a, libc::PTHREAD_PRIO_INHERIT),
            ]
        }
    };
    assert_eq!(set(), [0; 4]);
    let refused = [0, libc::ENOTSUP, 0, libc::ENOTSUP];
    assert_eq!(spawn_isolated(set).join().unwrap(), refused);
}

#[test]
fn a_robust_mutex_of_the_threads_can_be_locked() {
    let _watchdog = watchdog();
    unsafe extern "C" {
        fn pthread_mutexattr_setrobust(a: *mut libc::pthread_mutexattr_t, robust: c_int) -> c_int;
    }
    // SAFETY: live variables, initialised before they are used. The mutex is leaked.
    let mutex = unsafe {
        let mut a = std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut a);
        assert_eq!(pthread_mutexattr_setrobust(&mut a, 1), 0);
        let mutex: *mut libc::pthread_mutex_t = Box::leak(Box::new(std::mem::zeroed()));
        assert_eq!(libc::pthread_mutex_init(mutex, &a), 0);
        mutex as usize
    };
    let handle = spawn_isolated(move || {
        let mutex = mutex as *mut libc::pthread_mutex_t;
        // SAFETY: as above.
        unsafe {
            assert_eq!(libc::pthread_mutex_lock(mutex), 0);
            assert_eq!(libc::pthread_mutex_unlock(mutex), 0);
        }
    });
    handle.join().unwrap();
}

#[test]
fn pthread_exit_says_what_to_do_instead_and_threads_still_have_it() {
    const NAME: &str = "pthread_exit_says_what_to_do_instead_and_threads_still_have_it";
    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut c_void) -> !;
    }
    extern "C-unwind" fn thread(_: *mut c_void) -> *mut c_void {
        // SAFETY: nothing is to be dropped on this stack.
        unsafe { pthread_exit(9 as *mut c_void) }
    }
    let _watchdog = watchdog();
    // SAFETY: a function of this type, and live variables.
    unsafe {
        let thread: extern "C" fn(*mut c_void) -> *mut c_void =
            std::mem::transmute(thread as extern "C-unwind" fn(*mut c_void) -> *mut c_void);
        let (mut handle, mut value) = (0, std::ptr::null_mut());
        libc::pthread_create(&mut handle, std::ptr::null(), thread, std::ptr::null_mut());
        libc::pthread_join(handle, &mut value);
        assert_eq!(value as usize, 9);
    }
    let finished = run_alone(NAME, || {
        spawn_isolated(|| {
            // SAFETY: it does not come to that.
            unsafe { pthread_exit(std::ptr::null_mut()) }
        })
        .wait();
    });
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGABRT);
        finished.said("pthread_exit in a greenlet that is no thread");
    }
}

#[test]
fn the_processors_number_is_asked_for() {
    let _watchdog = watchdog();
    // SAFETY: no preconditions.
    let cpu = || unsafe { libc::sched_getcpu() };
    let handle = spawn_isolated(move || {
        // It may be moved between the calls.
        (0..1000).any(|_| {
            let mut real = 0u32;
            // SAFETY: a live variable.
            unsafe { libc::syscall(libc::SYS_getcpu, &mut real, 0usize, 0usize) };
            cpu() == real as c_int && (real != 0 || std::thread::available_parallelism().is_ok())
        })
    });
    assert!(handle.join().unwrap());
}

// The end of the process.

#[test]
fn exit_runs_the_destructors_of_who_calls_it() {
    let finished = run_alone("exit_runs_the_destructors_of_who_calls_it", || {
        spawn_isolated(|| {
            SAYS.replace(Some(Says("of another one")));
            sleep(Duration::MAX);
        });
        spawn_isolated(|| {
            SAYS.replace(Some(Says("of who calls")));
            std::process::exit(3);
        })
        .wait();
    });
    if let Some(finished) = finished {
        finished.exited_with(3);
        finished.said("of who calls");
        finished.did_not_say("of another one");
    }
}

#[test]
fn nobody_else_runs_while_exit_destroys_thread_locals() {
    const NAME: &str = "nobody_else_runs_while_exit_destroys_thread_locals";
    let finished = run_alone(NAME, || {
        struct Slow;
        impl Drop for Slow {
            fn drop(&mut self) {
                eprintln!("destroyed");
                sleep(20 * MS);
                eprintln!("slept");
            }
        }
        thread_local!(static SLOW: RefCell<Option<Slow>> = const { RefCell::new(None) });
        spawn_isolated(|| {
            SLOW.replace(Some(Slow));
            spawn(|| {
                SAYS.with_borrow(|_| {
                    sleep(5 * MS);
                    eprintln!("somebody else runs");
                });
            });
            yield_now();
            std::process::exit(4);
        })
        .wait();
    });
    if let Some(finished) = finished {
        finished.exited_with(4);
        finished.said("slept");
        finished.did_not_say("somebody else runs");
    }
}

#[test]
fn abort_aborts() {
    let finished = run_alone("abort_aborts", || {
        spawn_isolated(|| std::process::abort()).wait();
    });
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGABRT);
    }
}

#[test]
fn a_panic_in_a_thread_locals_destructor_aborts_as_in_a_thread() {
    let finished = run_alone(
        "a_panic_in_a_thread_locals_destructor_aborts_as_in_a_thread",
        || {
            struct Panics;
            impl Drop for Panics {
                fn drop(&mut self) {
                    panic!("in a destructor");
                }
            }
            thread_local!(static PANICS: Cell<Option<Panics>> = const { Cell::new(None) });
            spawn_isolated(|| drop(PANICS.replace(Some(Panics)))).wait();
        },
    );
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGABRT);
        finished.said("in a destructor");
        finished.said("thread local panicked on drop");
    }
}

#[test]
fn an_overflow_names_the_greenlet() {
    let finished = run_alone("an_overflow_names_the_greenlet", || {
        #[allow(unconditional_recursion, reason = "it is to overflow")]
        fn dive(depth: u64) -> u64 {
            let frame = std::hint::black_box([depth; 64]);
            dive(depth + 1) + frame[7]
        }
        Builder::new()
            .name("diver")
            .spawn_isolated(|| dive(0))
            .unwrap()
            .wait();
    });
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGABRT);
        finished.said("greenlet 'diver' has overflowed its stack of 256 KiB");
    }
}

#[test]
fn a_thread_that_ends_leaks_its_isolated_greenlets() {
    let _watchdog = watchdog();
    for _ in 0..20 {
        let thread = std::thread::spawn(|| {
            for _ in 0..10 {
                spawn_isolated(|| {
                    COUNT.set(3);
                    SAYS.replace(Some(Says("never said")));
                    std::mem::forget(SAYS.take());
                    sleep(Duration::MAX);
                });
            }
            sleep(MS);
        });
        thread.join().unwrap();
    }
    assert_eq!(spawn_isolated(|| COUNT.get()).join().unwrap(), 7);
}

#[test]
fn a_thread_that_shuts_its_hub_down_unwinds_them() {
    let _watchdog = watchdog();
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Counts(Arc<AtomicUsize>);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local!(static LOCAL: RefCell<Option<Counts>> = const { RefCell::new(None) });
    let thread = std::thread::spawn({
        let dropped = dropped.clone();
        move || {
            for _ in 0..10 {
                let dropped = dropped.clone();
                spawn_isolated(move || {
                    LOCAL.replace(Some(Counts(dropped.clone())));
                    let _frame = Counts(dropped);
                    sleep(Duration::MAX);
                });
            }
            yield_now();
            assert_eq!(greenlet::hub::shutdown(), 0);
        }
    });
    thread.join().unwrap();
    assert_eq!(dropped.load(Ordering::Relaxed), 20);
}

// Signals.

#[test]
fn signals_arrive_in_the_middle() {
    alone("signals_arrive_in_the_middle", || {
        let _watchdog = watchdog();
        static HITS: AtomicUsize = AtomicUsize::new(0);
        extern "C" fn on_alarm(_: c_int) {
            // A thread-local, of whichever greenlet it interrupts.
            COUNT.set(COUNT.get() + 1_000_000);
            COUNT.set(COUNT.get() - 1_000_000);
            HITS.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the handler is async-signal-safe, and all are live variables.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_alarm as extern "C" fn(c_int) as usize;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
            let time = libc::timeval {
                tv_sec: 0,
                tv_usec: 100,
            };
            let timer = libc::itimerval {
                it_interval: time,
                it_value: time,
            };
            libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut());
        }
        let handles: Vec<_> = (0..8)
            .map(|n| {
                spawn_isolated(move || {
                    COUNT.set(n);
                    while HITS.load(Ordering::Relaxed) < 300 {
                        yield_now();
                        assert_eq!(COUNT.get(), n);
                    }
                    // One that it sends to itself.
                    let before = HITS.load(Ordering::Relaxed);
                    // SAFETY: no preconditions.
                    unsafe {
                        assert_eq!(libc::raise(libc::SIGALRM), 0);
                        assert_eq!(libc::pthread_kill(libc::pthread_self(), libc::SIGALRM), 0);
                    }
                    assert!(HITS.load(Ordering::Relaxed) >= before + 2);
                })
            })
            .collect();
        for handle in handles {
            handle.join().unwrap();
        }
    });
}

// Libraries that are loaded late.

const VARIABLE: &str = "static __thread int v = 42; int add(int n) { return v += n; }";

/// Loads such a library while a greenlet lives, and says what that one, and one that
/// is spawned later, find in its variable.
fn values(name: &str, flags: &[&str]) -> Option<(c_int, c_int)> {
    type Add = extern "C" fn(c_int) -> c_int;
    static ADD: AtomicUsize = AtomicUsize::new(0);
    // SAFETY: stored below, with this type.
    let add = || unsafe { std::mem::transmute::<usize, Add>(ADD.load(Ordering::Relaxed)) };
    ADD.store(0, Ordering::Relaxed);
    common::spoil_heap();
    let early = spawn_isolated(move || {
        while ADD.load(Ordering::Relaxed) == 0 {
            sleep(MS);
        }
        let first = add()(0);
        add()(1);
        yield_now();
        assert_eq!(add()(0), first + 1);
        first
    });
    yield_now();
    let Some(library) = load_library(name, VARIABLE, flags) else {
        early.kill();
        return None;
    };
    // SAFETY: a library, and a string with its end.
    let address = unsafe { libc::dlsym(library, c"add".as_ptr()) };
    ADD.store(address as usize, Ordering::Relaxed);
    assert_eq!(add()(5), 47);
    let late = spawn_isolated(move || add()(0));
    let found = (early.join().unwrap(), late.join().unwrap());
    assert_eq!(add()(0), 47);
    Some(found)
}

#[test]
fn thread_locals_of_a_library_that_is_loaded_late_are_private_too() {
    alone(
        "thread_locals_of_a_library_that_is_loaded_late_are_private_too",
        || {
            let _watchdog = watchdog();
            if let Some(found) = values("dynamic", &[]) {
                assert_eq!(found, (42, 42));
            }
        },
    );
}

#[test]
fn variables_that_a_late_library_has_beside_the_others_are_zero_in_who_lives_already() {
    alone(
        "variables_that_a_late_library_has_beside_the_others_are_zero_in_who_lives_already",
        || {
            let _watchdog = watchdog();
            // See docs/isolated.md: glibc does not know of these blocks.
            if let Some(found) = values("initial", &["-ftls-model=initial-exec"]) {
                assert_eq!(found, (0, 42));
            }
            if let Some(found) = values("descriptors", &["-mtls-dialect=gnu2"]) {
                assert_eq!(found, (0, 42));
            }
        },
    );
}

// How many.

#[test]
fn a_hundred_thousand_live_at_once() {
    alone("a_hundred_thousand_live_at_once", || {
        let _watchdog = watchdog();
        const MANY: usize = 100_000;
        let before = common::resident_kib();
        let spawn = |n| {
            Builder::new().spawn_isolated(move || {
                COUNT.set(n as u32);
                sleep(Duration::from_millis(10));
                COUNT.get()
            })
        };
        // Older kernels, and a way of guarding stacks that is asked for in tests, have
        // fewer stacks for us.
        let handles: Vec<_> = (0..MANY).map_while(|n| spawn(n).ok()).collect();
        let many = handles.len();
        assert!(many > 10_000);
        yield_now();
        let each = (common::resident_kib() - before) * 1024 / many;
        eprintln!("{each} bytes resident each");
        // Without optimisation the frames need a second page.
        let most = if cfg!(debug_assertions) {
            16 << 10
        } else {
            11 << 10
        };
        assert!(each < most, "{each} bytes resident each");
        for (n, handle) in handles.into_iter().enumerate() {
            assert_eq!(handle.join().unwrap(), n as u32);
        }
    });
}

#[test]
fn one_after_the_other_they_leave_nothing_behind() {
    // The watchdog of a busy machine has memory of its own.
    let name = "one_after_the_other_they_leave_nothing_behind";
    let off = [("GREENLET_WATCHDOG", "off")];
    let finished = common::in_subprocess_with(name, &off, || {
        let many = if cfg!(debug_assertions) {
            100_000
        } else {
            1_000_000
        };
        let _watchdog = watchdog();
        let run = || {
            let handle = spawn_isolated(|| {
                COUNT.set(1);
                SAYS.with_borrow_mut(|_| {});
                let _ = std::thread::current();
                std::collections::HashMap::from([(1, 2)]).len()
            });
            assert_eq!(handle.join().unwrap(), 1);
        };
        // SAFETY: no preconditions.
        let in_use = || unsafe { libc::mallinfo() }.uordblks as u32 as usize;
        (0..10_000).for_each(|_| run());
        let _ = (in_use(), common::resident_kib());
        let before = (in_use(), common::resident_kib());
        (0..many).for_each(|_| run());
        let after = (in_use(), common::resident_kib());
        // What malloc keeps at hand for the next time counts as in use.
        let grown = after.0.saturating_sub(before.0);
        assert!(grown < 1 << 12, "{grown} bytes more after {many}");
        assert!(after.1 <= before.1 + 64, "resident: {before:?} {after:?}");
    });
    if let Some(finished) = finished {
        finished.succeeded();
    }
}
