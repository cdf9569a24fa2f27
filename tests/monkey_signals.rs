//! Signal handlers under `patch_all`: nothing parks in one, and what was
//! installed is what the program is told (G185).
#![cfg(feature = "monkey")]

mod common;
#[path = "common/interposed.rs"]
mod interposed;
#[path = "common/patched.rs"]
mod patched;

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering::SeqCst};

use common::{MS, alone, alone_unwatched};
use interposed::{CLibrary, close, fill, outcome, pipe};
use libc::{sigaction as Action, sighandler_t};
use patched::{Ticker, errno, patched, set_errno};

unsafe extern "C" {
    fn bsd_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    fn sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t;
    fn sigset(signal: c_int, handler: sighandler_t) -> sighandler_t;
    fn siginterrupt(signal: c_int, flag: c_int) -> c_int;
}

fn address(handler: extern "C" fn(c_int)) -> sighandler_t {
    handler as *const () as sighandler_t
}

fn action(handler: sighandler_t, flags: c_int) -> Action {
    // SAFETY: all zeros is an action.
    let mut action: Action = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    action
}

/// Installs, and returns what was there before.
fn install(signal: c_int, handler: sighandler_t, flags: c_int) -> Action {
    let mut old = action(0, 0);
    // SAFETY: the handlers of these tests are safe to call at any time.
    let answer = unsafe { libc::sigaction(signal, &action(handler, flags), &mut old) };
    assert_eq!(answer, 0);
    old
}

fn installed(signal: c_int) -> Action {
    let mut now = action(0, 0);
    // SAFETY: it only asks.
    assert_eq!(unsafe { libc::sigaction(signal, ptr::null(), &mut now) }, 0);
    now
}

/// The kernel's own view: handler and flags.
fn kernels(signal: c_int) -> (usize, u64) {
    let mut now = [0u64; 4];
    // SAFETY: the kernel's structure has four words.
    let answer = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, 0, now.as_mut_ptr(), 8) };
    assert_eq!(answer, 0);
    (now[0] as usize, now[1])
}

fn raise(signal: c_int) {
    // SAFETY: raise has no preconditions.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// A handler that stands still must let nobody else run; this is what it notes.
struct Noted {
    fd: AtomicI32,
    ticks: AtomicU32,
    during: AtomicU32,
    wrote: AtomicI32,
    error: AtomicI32,
}

impl Noted {
    const fn new() -> Noted {
        Noted {
            fd: AtomicI32::new(-1),
            ticks: AtomicU32::new(0),
            during: AtomicU32::new(u32::MAX),
            wrote: AtomicI32::new(0),
            error: AtomicI32::new(0),
        }
    }

    /// What a handler does: writes a byte, and notes how it went.
    fn write(&self) {
        let before = self.ticks.load(SeqCst);
        // SAFETY: one byte of a live variable.
        let wrote = unsafe { libc::write(self.fd.load(SeqCst), (&raw const before).cast(), 1) };
        if wrote < 0 {
            self.error.store(errno(), SeqCst);
        }
        self.during.store(self.ticks.load(SeqCst) - before, SeqCst);
        self.wrote.store(wrote as i32, SeqCst);
    }

    fn counting(&'static self) -> greenlet::JoinHandle<()> {
        greenlet::spawn(move || {
            loop {
                self.ticks.fetch_add(1, SeqCst);
                greenlet::sleep(MS);
            }
        })
    }
}

/// Empties a pipe after a while, from another thread.
fn empty_later(fd: c_int) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(30 * MS);
        empty(fd);
    })
}

/// Makes room in a pipe.
fn empty(fd: c_int) {
    let mut buffer = [0u8; 4096];
    // SAFETY: a live buffer.
    assert!(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } > 0);
}

#[test]
fn a_handler_that_writes_to_a_full_pipe_lets_nobody_else_run() {
    static NOTED: Noted = Noted::new();
    extern "C" fn handler(_: c_int) {
        NOTED.write();
    }
    let _watchdog = patched();
    let (reader, writer) = pipe();
    fill(writer);
    NOTED.fd.store(writer, SeqCst);
    install(libc::SIGUSR1, address(handler), 0);
    let counter = NOTED.counting();
    greenlet::spawn(move || {
        let emptier = empty_later(reader);
        raise(libc::SIGUSR1);
        emptier.join().unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(NOTED.wrote.load(SeqCst), 1);
    assert_eq!(
        NOTED.during.load(SeqCst),
        0,
        "others ran inside the handler"
    );
    // Outside of it they do.
    fill(writer);
    let ticker = Ticker::new();
    let emptier = ticker.after(move || empty(reader));
    // SAFETY: one byte of a live variable.
    let wrote = ticker.ticks_during(|| unsafe { libc::write(writer, [1u8].as_ptr().cast(), 1) });
    assert_eq!(wrote, 1);
    emptier.join().unwrap();
    counter.kill_wait();
    close(reader);
    close(writer);
}

#[test]
fn a_handler_that_comes_while_its_greenlet_is_parked_lets_nobody_run() {
    static NOTED: Noted = Noted::new();
    extern "C" fn handler(_: c_int) {
        NOTED.write();
    }
    let _watchdog = patched();
    let (reader, writer) = pipe();
    fill(writer);
    NOTED.fd.store(writer, SeqCst);
    install(libc::SIGUSR2, address(handler), 0);
    let counter = NOTED.counting();
    // SAFETY: it asks for a number.
    let this = unsafe { libc::pthread_self() } as usize;
    let other = std::thread::spawn(move || {
        std::thread::sleep(10 * MS);
        // SAFETY: that thread waits for this one to end.
        let sent = unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR2) };
        assert_eq!(sent, 0);
        empty_later(reader).join().unwrap();
    });
    // The main greenlet and the counter are parked, and the hub waits.
    while NOTED.wrote.load(SeqCst) == 0 {
        std::thread::sleep(5 * MS);
    }
    other.join().unwrap();
    assert_eq!(NOTED.wrote.load(SeqCst), 1);
    assert_eq!(
        NOTED.during.load(SeqCst),
        0,
        "others ran inside the handler"
    );
    counter.kill_wait();
    close(reader);
    close(writer);
}

#[test]
fn a_self_pipe_that_is_full_and_non_blocking_answers_eagain_in_a_handler() {
    static NOTED: Noted = Noted::new();
    extern "C" fn handler(_: c_int) {
        NOTED.write();
    }
    let _watchdog = patched();
    let (reader, writer) = pipe();
    fill(writer);
    // SAFETY: the call takes no memory.
    let set = unsafe { libc::fcntl(writer, libc::F_SETFL, libc::O_NONBLOCK) };
    assert_eq!(set, 0);
    NOTED.fd.store(writer, SeqCst);
    let signal = libc::SIGRTMIN() + 1;
    install(signal, address(handler), 0);
    let counter = NOTED.counting();
    greenlet::sleep(3 * MS);
    raise(signal);
    assert_eq!(NOTED.wrote.load(SeqCst), -1);
    assert_eq!(NOTED.error.load(SeqCst), libc::EAGAIN);
    assert_eq!(NOTED.during.load(SeqCst), 0);
    counter.kill_wait();
    close(reader);
    close(writer);
}

#[test]
fn a_handler_that_sleeps_and_closes_lets_nobody_run() {
    static NOTED: Noted = Noted::new();
    static SLEPT: AtomicU32 = AtomicU32::new(u32::MAX);
    extern "C" fn handler(_: c_int) {
        let before = NOTED.ticks.load(SeqCst);
        std::thread::sleep(20 * MS);
        // SAFETY: as libc has them; the descriptor is the test's own.
        unsafe {
            libc::usleep(5000);
            libc::sched_yield();
            libc::close(NOTED.fd.load(SeqCst));
        }
        SLEPT.store(NOTED.ticks.load(SeqCst) - before, SeqCst);
    }
    // Alone: nobody else gets the number that is closed.
    alone_unwatched("a_handler_that_sleeps_and_closes_lets_nobody_run", || {
        let _watchdog = patched();
        let (reader, writer) = pipe();
        NOTED.fd.store(reader, SeqCst);
        let signal = libc::SIGRTMIN() + 2;
        install(signal, address(handler), 0);
        let counter = NOTED.counting();
        greenlet::sleep(3 * MS);
        raise(signal);
        assert_eq!(SLEPT.load(SeqCst), 0, "others ran inside the handler");
        // SAFETY: the call takes no memory.
        let closed = outcome(unsafe { libc::fcntl(reader, libc::F_GETFD) });
        assert_eq!(closed, Err(libc::EBADF));
        counter.kill_wait();
        close(writer);
    });
}

#[test]
fn a_handler_from_before_the_patch_does_not_park_either() {
    static NOTED: Noted = Noted::new();
    extern "C" fn handler(_: c_int) {
        let before = NOTED.ticks.load(SeqCst);
        std::thread::sleep(20 * MS);
        NOTED
            .during
            .store(NOTED.ticks.load(SeqCst) - before, SeqCst);
    }
    alone(
        "a_handler_from_before_the_patch_does_not_park_either",
        || {
            install(libc::SIGUSR1, address(handler), libc::SA_RESTART);
            assert_eq!(kernels(libc::SIGUSR1).0, address(handler));
            let _watchdog = patched();
            assert_ne!(kernels(libc::SIGUSR1).0, address(handler));
            assert_eq!(installed(libc::SIGUSR1).sa_sigaction, address(handler));
            // SAFETY: the flags and the mask are what was installed.
            assert_eq!(
                installed(libc::SIGUSR1).sa_flags & libc::SA_RESTART,
                libc::SA_RESTART
            );
            let counter = NOTED.counting();
            greenlet::sleep(3 * MS);
            raise(libc::SIGUSR1);
            assert_eq!(NOTED.during.load(SeqCst), 0);
            counter.kill_wait();
            // Patching again changes nothing.
            let before = kernels(libc::SIGUSR1);
            common::patch();
            assert_eq!(kernels(libc::SIGUSR1), before);
            // Nor does another function of libc that changes one flag.
            // SAFETY: it takes no memory.
            assert_eq!(unsafe { siginterrupt(libc::SIGUSR1, 1) }, 0);
            assert_eq!(installed(libc::SIGUSR1).sa_sigaction, address(handler));
            assert_eq!(installed(libc::SIGUSR1).sa_flags & libc::SA_RESTART, 0);
        },
    );
}

#[test]
fn before_the_patch_handlers_are_installed_as_they_are() {
    extern "C" fn handler(_: c_int) {}
    alone(
        "before_the_patch_handlers_are_installed_as_they_are",
        || {
            // SAFETY: the handler is safe to call.
            unsafe {
                for install in [libc::signal, bsd_signal, sysv_signal, __sysv_signal, sigset] {
                    libc::signal(libc::SIGUSR1, libc::SIG_DFL);
                    assert_eq!(install(libc::SIGUSR1, address(handler)), libc::SIG_DFL);
                    assert_eq!(kernels(libc::SIGUSR1).0, address(handler));
                }
            }
            every_refusal_is_libcs();
        },
    );
}

fn every_refusal_is_libcs() {
    extern "C" fn handler(_: c_int) {}
    let new = action(address(handler), 0);
    let mut old = action(77, 0);
    // SAFETY: live variables, or null; the handler is safe to call.
    unsafe {
        for signal in [0, -1, 65, c_int::MAX, 32, 33] {
            assert_eq!(
                outcome(libc::sigaction(signal, &new, &mut old)),
                Err(libc::EINVAL)
            );
            assert_eq!(
                outcome(libc::sigaction(signal, ptr::null(), &mut old)),
                Err(libc::EINVAL)
            );
            for install in [libc::signal, bsd_signal, sysv_signal, __sysv_signal, sigset] {
                set_errno(0);
                assert_eq!(install(signal, address(handler)), libc::SIG_ERR, "{signal}");
                assert_eq!(errno(), libc::EINVAL);
            }
        }
        for signal in [libc::SIGKILL, libc::SIGSTOP] {
            assert_eq!(
                outcome(libc::sigaction(signal, &new, &mut old)),
                Err(libc::EINVAL)
            );
            assert_eq!(libc::sigaction(signal, ptr::null(), &mut action(0, 0)), 0);
        }
        assert_eq!(old.sa_sigaction, 77);
        for install in [libc::signal, bsd_signal, sysv_signal, __sysv_signal] {
            set_errno(0);
            assert_eq!(install(libc::SIGUSR1, libc::SIG_ERR), libc::SIG_ERR);
            assert_eq!(errno(), libc::EINVAL);
        }
        set_errno(1234);
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, ptr::null(), ptr::null_mut()),
            0
        );
        assert_eq!(errno(), 1234);
    }
}

#[test]
fn what_was_installed_is_given_back_with_all_its_flags() {
    extern "C" fn one(_: c_int) {}
    extern "C" fn two(_: c_int) {
        // Not folded into the one above.
        NUMBER.store(2, SeqCst);
    }
    static NUMBER: AtomicI32 = AtomicI32::new(0);
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 3;
    let all = libc::SA_RESTART | libc::SA_NODEFER | libc::SA_ONSTACK | libc::SA_NOCLDSTOP;
    let mut new = action(address(one), all);
    // SAFETY: live variables.
    unsafe {
        libc::sigaddset(&mut new.sa_mask, libc::SIGWINCH);
        assert_eq!(libc::sigaction(signal, &new, ptr::null_mut()), 0);
        let now = installed(signal);
        assert_eq!(now.sa_sigaction, address(one));
        assert_eq!(now.sa_flags & all, all);
        assert_eq!(libc::sigismember(&now.sa_mask, libc::SIGWINCH), 1);
        assert_eq!(libc::sigismember(&now.sa_mask, libc::SIGUSR1), 0);
        // One variable for both is as good as two.
        let mut both = action(address(two), 0);
        let place = &raw mut both;
        assert_eq!(libc::sigaction(signal, place, place), 0);
        assert_eq!(both.sa_sigaction, address(one));
        assert_eq!(libc::signal(signal, libc::SIG_IGN), address(two));
        assert_eq!(libc::signal(signal, address(one)), libc::SIG_IGN);
        assert_eq!(
            installed(signal).sa_flags & libc::SA_RESTART,
            libc::SA_RESTART
        );
        assert_eq!(sysv_signal(signal, address(two)), address(one));
        let once = libc::SA_RESETHAND | libc::SA_NODEFER;
        assert_eq!(installed(signal).sa_flags & (once | libc::SA_RESTART), once);
        assert_eq!(bsd_signal(signal, libc::SIG_DFL), address(two));
        assert_eq!(kernels(signal).0, libc::SIG_DFL);
    }
}

#[test]
fn refusals_are_libcs_after_the_patch_too() {
    let _watchdog = patched();
    alone("refusals_are_libcs_after_the_patch_too", || {
        let _watchdog = patched();
        every_refusal_is_libcs();
    });
}

#[test]
fn sigset_holds_a_signal_back_and_lets_it_through() {
    static CAME: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_: c_int) {
        CAME.fetch_add(1, SeqCst);
    }
    const HOLD: sighandler_t = 2;
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 4;
    // SAFETY: the handler is safe to call.
    unsafe {
        assert_eq!(sigset(signal, address(handler)), libc::SIG_DFL);
        raise(signal);
        assert_eq!(CAME.load(SeqCst), 1);
        assert_eq!(sigset(signal, HOLD), address(handler));
        assert_eq!(sigset(signal, HOLD), HOLD);
        raise(signal);
        assert_eq!(CAME.load(SeqCst), 1);
        assert_eq!(sigset(signal, address(handler)), HOLD);
        assert_eq!(CAME.load(SeqCst), 2);
        assert_eq!(sigset(signal, libc::SIG_DFL), address(handler));
    }
}

#[test]
fn flags_and_masks_have_their_effects() {
    static INFO: AtomicUsize = AtomicUsize::new(0);
    static BLOCKED: AtomicBool = AtomicBool::new(false);
    static ITSELF: AtomicBool = AtomicBool::new(true);
    static FRAME: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn handler(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        let mut mask = MaybeUninit::uninit();
        // SAFETY: the kernel gives good pointers.
        unsafe {
            INFO.store((*info).si_value().sival_ptr as usize, SeqCst);
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
            let mask = mask.assume_init();
            BLOCKED.store(libc::sigismember(&mask, libc::SIGWINCH) == 1, SeqCst);
            ITSELF.store(libc::sigismember(&mask, signal) == 1, SeqCst);
            assert!(
                !(*context.cast::<libc::ucontext_t>())
                    .uc_stack
                    .ss_sp
                    .is_null()
            );
        }
        FRAME.store((&raw const mask) as usize, SeqCst);
    }
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 5;
    let all = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK | libc::SA_RESETHAND;
    let mut new = action(handler as *const () as usize, all);
    // SAFETY: live variables, and a handler that is safe to call.
    unsafe {
        libc::sigaddset(&mut new.sa_mask, libc::SIGWINCH);
        assert_eq!(libc::sigaction(signal, &new, ptr::null_mut()), 0);
        let value = libc::sigval {
            sival_ptr: 0x1234 as *mut c_void,
        };
        let mut stack = MaybeUninit::<libc::stack_t>::uninit();
        libc::sigaltstack(ptr::null(), stack.as_mut_ptr());
        let stack = stack.assume_init();
        assert_eq!(
            libc::pthread_sigqueue(libc::pthread_self(), signal, value),
            0
        );
        assert_eq!(INFO.load(SeqCst), 0x1234);
        assert!(BLOCKED.load(SeqCst) && !ITSELF.load(SeqCst));
        assert!(FRAME.load(SeqCst) - (stack.ss_sp as usize) < stack.ss_size);
    }
    // It has been there for once.
    assert_eq!(installed(signal).sa_sigaction, libc::SIG_DFL);
}

#[test]
fn errno_is_what_the_handler_leaves_and_nothing_of_ours() {
    static SEEN: AtomicI32 = AtomicI32::new(0);
    extern "C" fn quiet(_: c_int) {
        SEEN.store(errno(), SeqCst);
    }
    extern "C" fn loud(_: c_int) {
        set_errno(77);
    }
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 6;
    install(signal, address(quiet), 0);
    set_errno(1234);
    raise(signal);
    assert_eq!((SEEN.load(SeqCst), errno()), (1234, 1234));
    install(signal, address(loud), 0);
    raise(signal);
    assert_eq!(errno(), 77);
}

#[test]
fn a_chained_handler_is_called_and_signals_gives_it_back() {
    static CAME: AtomicU32 = AtomicU32::new(0);
    static OLD: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn first(_: c_int) {
        CAME.fetch_add(1, SeqCst);
    }
    extern "C" fn second(signal: c_int) {
        CAME.fetch_add(10, SeqCst);
        // SAFETY: it is the handler that was there before.
        let old: extern "C" fn(c_int) = unsafe { std::mem::transmute(OLD.load(SeqCst)) };
        old(signal);
    }
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 7;
    install(signal, address(first), 0);
    OLD.store(install(signal, address(second), 0).sa_sigaction, SeqCst);
    raise(signal);
    assert_eq!(CAME.swap(0, SeqCst), 11);
    // One that has got hold of what the kernel has, as code that asks it directly.
    OLD.store(kernels(signal).0, SeqCst);
    install(signal, address(first), 0);
    let wrapped = OLD.load(SeqCst);
    install(signal, wrapped, 0);
    assert_eq!(installed(signal).sa_sigaction, address(second));
    install(signal, address(first), 0);
    // This crate's own.
    let signals = greenlet::signal::Signals::new(&[signal]).unwrap();
    let ticker = Ticker::new();
    let sender = ticker.after(move || raise(signal));
    assert_eq!(ticker.ticks_during(|| signals.wait().unwrap()), signal);
    sender.join().unwrap();
    assert_eq!(CAME.load(SeqCst), 0);
    drop(signals);
    assert_eq!(installed(signal).sa_sigaction, address(first));
    raise(signal);
    assert_eq!(CAME.load(SeqCst), 1);
}

#[test]
fn another_threads_install_is_seen_as_a_whole() {
    static WRONG: AtomicU32 = AtomicU32::new(0);
    static CAME: AtomicU32 = AtomicU32::new(0);
    extern "C" fn informed(signal: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
        // SAFETY: the kernel gives a good pointer to a handler with this flag.
        if unsafe { (*info).si_signo } != signal {
            WRONG.fetch_add(1, SeqCst);
        }
        CAME.fetch_add(1, SeqCst);
    }
    extern "C" fn plain(_: c_int) {
        CAME.fetch_add(1, SeqCst);
    }
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 8;
    let over = std::sync::Arc::new(AtomicBool::new(false));
    install(signal, address(plain), 0);
    let installers: Vec<_> = (0..2)
        .map(|_| {
            let over = std::sync::Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(SeqCst) {
                    let with_info = informed as *const () as usize;
                    let old = [
                        install(signal, with_info, libc::SA_SIGINFO),
                        install(signal, address(plain), 0),
                    ];
                    for old in old {
                        let informed = old.sa_flags & libc::SA_SIGINFO != 0;
                        assert_eq!(informed, old.sa_sigaction == with_info);
                        assert!(informed || old.sa_sigaction == address(plain));
                    }
                }
            })
        })
        .collect();
    for _ in 0..20_000 {
        raise(signal);
    }
    over.store(true, SeqCst);
    installers
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    assert_eq!((CAME.load(SeqCst), WRONG.load(SeqCst)), (20_000, 0));
}

const JUMPS: &str = r#"
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

static sigjmp_buf out;
static void handler(int s) { (void)s; siglongjmp(out, 1); }

/* Runs `wait` after a handler has been left by a jump. */
int jump(int signal, int on_stack, int (*wait)(void)) {
    struct sigaction action = { .sa_handler = handler, .sa_flags = on_stack ? SA_ONSTACK : 0 };
    if (sigaction(signal, &action, NULL)) return -1;
    if (sigsetjmp(out, 1) == 0) {
        raise(signal);
        return -2;
    }
    return wait();
}
"#;

#[test]
fn a_handler_that_is_left_by_a_jump_leaves_nothing_behind() {
    thread_local! {
        static TICKER: std::cell::RefCell<Option<Ticker>> = const { std::cell::RefCell::new(None) };
    }
    extern "C" fn wait() -> c_int {
        let ticker = TICKER.take().unwrap();
        let before = ticker.ticks();
        // For ever, if others have no turn.
        while ticker.ticks() < before + 3 {
            std::thread::sleep(MS);
        }
        1
    }
    type Jump = extern "C" fn(c_int, c_int, extern "C" fn() -> c_int) -> c_int;
    let _watchdog = patched();
    let library = CLibrary::compile("jumps", JUMPS, &[]);
    // SAFETY: that is its type.
    let jump: Jump = unsafe { std::mem::transmute(library.symbol("jump")) };
    for on_stack in [0, 1] {
        TICKER.set(Some(Ticker::new()));
        assert_eq!(jump(libc::SIGRTMIN() + 9, on_stack, wait), 1);
        let in_greenlet = greenlet::spawn(move || {
            TICKER.set(Some(Ticker::new()));
            jump(libc::SIGRTMIN() + 9, on_stack, wait)
        });
        assert_eq!(in_greenlet.join().unwrap(), 1);
    }
}

#[test]
fn an_alarm_surfaces_in_a_greenlets_sleep() {
    // G185, with std's sleep: the handler runs, and others go on before and after.
    static CAME: AtomicU32 = AtomicU32::new(0);
    extern "C" fn handler(_: c_int) {
        CAME.fetch_add(1, SeqCst);
    }
    let _watchdog = patched();
    install(libc::SIGALRM, address(handler), 0);
    for round in 1..=2 {
        // An interval timer, for that is finer than `alarm`.
        let mut timer = MaybeUninit::<libc::itimerval>::zeroed();
        // SAFETY: a zeroed timer, of which one field is set.
        unsafe {
            (*timer.as_mut_ptr()).it_value.tv_usec = 20_000;
            let null = ptr::null_mut::<c_void>();
            assert_eq!(
                libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, timer.as_ptr(), null),
                0
            );
        }
        let ticker = Ticker::new();
        let before = ticker.ticks();
        while CAME.load(SeqCst) < round || ticker.ticks() < before + 3 {
            std::thread::sleep(MS);
        }
    }
}

#[test]
fn a_program_with_very_many_handlers_gets_them_all() {
    static CAME: AtomicU32 = AtomicU32::new(0);
    extern "C" fn one<const N: u32>(_: c_int) {
        CAME.fetch_add(N, SeqCst);
    }
    macro_rules! handlers {
        ($($high:literal)*) => { [$(
            one::<{ $high + 0 }>, one::<{ $high + 1 }>, one::<{ $high + 2 }>, one::<{ $high + 3 }>,
            one::<{ $high + 4 }>, one::<{ $high + 5 }>, one::<{ $high + 6 }>, one::<{ $high + 7 }>
        ),*] };
    }
    alone("a_program_with_very_many_handlers_gets_them_all", || {
        let _watchdog = patched();
        let all: [extern "C" fn(c_int); 160] =
            handlers!(0 8 16 24 32 40 48 56 64 72 80 88 96 104 112 120 128 136 144 152);
        for (number, handler) in all.into_iter().enumerate() {
            install(libc::SIGUSR1, address(handler), 0);
            assert_eq!(installed(libc::SIGUSR1).sa_sigaction, address(handler));
            raise(libc::SIGUSR1);
            assert_eq!(CAME.swap(0, SeqCst), number as u32);
        }
    });
}

/// A set of one signal, which is blocked for this thread from now on.
fn blocked(signal: c_int) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the set is initialised by the first call.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), signal);
        assert_eq!(
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut()),
            0
        );
        set.assume_init()
    }
}

#[test]
fn who_waits_for_a_blocked_signal_lets_others_run() {
    let _watchdog = patched();
    let signal = libc::SIGRTMIN() + 5;
    let set = blocked(signal);
    let ticker = Ticker::new();
    // SAFETY: no preconditions.
    let me = unsafe { libc::pthread_self() };
    let raises = ticker.after(move || {
        // SAFETY: this thread is there.
        assert_eq!(unsafe { libc::pthread_kill(me, signal) }, 0);
    });
    let mut got = 0;
    let answer = ticker.ticks_during(|| {
        // SAFETY: live variables.
        unsafe { libc::sigwait(&set, &mut got) }
    });
    assert_eq!((answer, got), (0, signal));
    raises.join().unwrap();
}

#[test]
fn a_wait_for_a_signal_ends_in_time_or_when_its_greenlet_does() {
    let _watchdog = patched();
    let set = blocked(libc::SIGRTMIN() + 6);
    let wait = move |millis: i64| {
        let time = libc::timespec {
            tv_sec: millis / 1000,
            tv_nsec: millis % 1000 * 1_000_000,
        };
        // SAFETY: live variables; nobody wants to know more of the signal.
        let answer = unsafe { libc::sigtimedwait(&set, ptr::null_mut(), &time) };
        (answer, std::io::Error::last_os_error().raw_os_error())
    };
    assert_eq!(wait(0), (-1, Some(libc::EAGAIN)));
    let ticker = Ticker::new();
    assert_eq!(wait(20), (-1, Some(libc::EAGAIN)));
    // One turn at least, also if the machine had no time for more.
    assert!(ticker.ticks() > 0);
    let waits = greenlet::spawn(move || {
        let ended = wait(3_600_000);
        assert_eq!(ended, (-1, Some(libc::ECANCELED)));
        greenlet::yield_now();
    });
    ticker.tick();
    waits.kill();
    assert!(waits.join().unwrap_err().is_killed());
}
