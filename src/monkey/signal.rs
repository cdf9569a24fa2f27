//! Signal handlers, in which nothing parks.
//!
//! From `patch_all` on the kernel is not given the program's handlers, but
//! functions of ours that mark what they run as a handler, see `sys::handler`.
//! There is one for each handler that the program has, for as long as it lives:
//!
//! ```text
//!   sigaction(SIGINT, on_int) ──▶ HANDLERS  0: on_int   1: on_fault   2: 0 …
//!                                           │
//!   the kernel has: SIGINT: enter::<0> ─────┘ runs what is in its place
//! ```
//!
//! So which handler a signal has, with which flags and which mask, is known to the
//! kernel alone, which changes all of it at once; there is nothing beside it that
//! another thread, or a handler, could find out of step. Whoever asks what was
//! installed is told the program's own function.
//!
//! Handlers that are installed behind libc's back, by a system call of their own,
//! are not seen, until the next `patch_all`.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{sigaction as Action, sighandler_t, sigset_t};

use super::entry::interposed;
use crate::hub;
use crate::sys::os;

unsafe extern "C" {
    /// glibc's own names of the two, which are nobody's but its own. A system call
    /// would do for neither: on x86-64 the kernel wants a way out of the handler
    /// that debuggers and unwinders know, newer versions keep `abort` in step, and
    /// the latter asks what `siginterrupt` has said.
    fn __sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int;
    fn ssignal(signal: c_int, handler: sighandler_t) -> sighandler_t;
}

/// The highest signal number of Linux.
const HIGHEST: c_int = 64;
/// The disposition that `sigset` has beside those of all others.
const SIG_HOLD: sighandler_t = 2;
/// The flags of System V's `signal`; the last is known by its number only.
const UNRELIABLE: c_int = libc::SA_RESETHAND | libc::SA_NODEFER | 0x2000_0000;

/// Whether handlers are wrapped.
static WRAPPING: AtomicBool = AtomicBool::new(false);

interposed! {
    Process;

    /// Installs a handler, in which nothing parks.
    fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { exchange(signal, new, old) }
    }

    /// Installs a handler, in which nothing parks.
    fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        // SAFETY: the caller's promise, and `outer` keeps it.
        inner(unsafe { ssignal(signal, outer(handler)) })
    }

    /// As `signal`.
    fn bsd_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        // SAFETY: as there.
        inner(unsafe { ssignal(signal, outer(handler)) })
    }

    /// Installs a handler for one signal to come, in which nothing parks.
    fn sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        // SAFETY: the caller's promise.
        unsafe { unreliable(signal, handler) }
    }

    /// As `sysv_signal`.
    fn __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
        // SAFETY: the caller's promise.
        unsafe { unreliable(signal, handler) }
    }

    /// Installs a handler, in which nothing parks, or holds the signal back.
    fn sigset(signal: c_int, handler: sighandler_t) -> sighandler_t {
        // SAFETY: the caller's promise.
        unsafe { install_or_hold(signal, handler) }
    }
}

/// # Safety
/// As for `sigaction`.
unsafe fn exchange(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    let wrapping = WRAPPING.load(Ordering::Acquire);
    let is_signal = (1..=HIGHEST).contains(&signal);
    if !wrapping || !is_signal {
        // SAFETY: the caller's promise.
        return unsafe { __sigaction(signal, new, old) };
    }
    // SAFETY: null, or the caller's promise.
    let mut wrapped = unsafe { new.as_ref() }.copied();
    if let Some(new) = &mut wrapped {
        new.sa_sigaction = outer(new.sa_sigaction);
    }
    let new = wrapped.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: as above.
    let answer = unsafe { __sigaction(signal, new, old) };
    if answer == 0 {
        // SAFETY: null, or written just now.
        if let Some(old) = unsafe { old.as_mut() } {
            old.sa_sigaction = inner(old.sa_sigaction);
        }
    }
    answer
}

/// `sysv_signal`, as glibc has it.
///
/// # Safety
/// As for `signal`.
unsafe fn unreliable(signal: c_int, handler: sighandler_t) -> sighandler_t {
    if handler == libc::SIG_ERR || !(1..=HIGHEST).contains(&signal) {
        os::set_errno(libc::EINVAL);
        return libc::SIG_ERR;
    }
    // SAFETY: the caller's promise.
    unsafe { install(signal, handler, UNRELIABLE) }
}

/// Installs a handler that holds nothing back, and returns the one before.
///
/// # Safety
/// As for `signal`.
unsafe fn install(signal: c_int, handler: sighandler_t, flags: c_int) -> sighandler_t {
    // SAFETY: all zeros is an action; it holds no signal back.
    let mut new: Action = unsafe { MaybeUninit::zeroed().assume_init() };
    new.sa_sigaction = handler;
    new.sa_flags = flags;
    let mut old = new;
    // SAFETY: both are live variables, and the handler is the caller's promise.
    match unsafe { exchange(signal, &new, &mut old) } {
        0 => old.sa_sigaction,
        _ => libc::SIG_ERR,
    }
}

/// `sigset`, as glibc has it.
///
/// # Safety
/// As for `signal`.
unsafe fn install_or_hold(signal: c_int, handler: sighandler_t) -> sighandler_t {
    let mut one = MaybeUninit::<sigset_t>::uninit();
    let mut before = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: the sets are live variables, and written before they are read.
    unsafe {
        libc::sigemptyset(one.as_mut_ptr());
        if libc::sigaddset(one.as_mut_ptr(), signal) < 0 {
            return libc::SIG_ERR;
        }
        let mut change = |how| libc::sigprocmask(how, one.as_ptr(), before.as_mut_ptr());
        let old = if handler == SIG_HOLD {
            if change(libc::SIG_BLOCK) < 0 {
                return libc::SIG_ERR;
            }
            let mut old: Action = MaybeUninit::zeroed().assume_init();
            match exchange(signal, ptr::null(), &mut old) {
                0 => old.sa_sigaction,
                _ => return libc::SIG_ERR,
            }
        } else {
            let old = install(signal, handler, 0);
            if old == libc::SIG_ERR || change(libc::SIG_UNBLOCK) < 0 {
                return libc::SIG_ERR;
            }
            old
        };
        match libc::sigismember(before.as_ptr(), signal) {
            1 => SIG_HOLD,
            _ => old,
        }
    }
}

/// Wraps the handlers that are installed, and from now on those that come.
pub(super) fn wrap_all() {
    WRAPPING.store(true, Ordering::SeqCst);
    for signal in 1..=HIGHEST {
        wrap_installed(signal);
    }
}

fn wrap_installed(signal: c_int) {
    // Not those that glibc keeps for itself, of which it says nothing.
    let Some(mut wanted) = swap(signal, None) else {
        return;
    };
    if outer(wanted.sa_sigaction) == wanted.sa_sigaction {
        return;
    }
    let mut expected = wanted.sa_sigaction;
    loop {
        let mut wrapped = wanted;
        wrapped.sa_sigaction = outer(wanted.sa_sigaction);
        match swap(signal, Some(&wrapped)) {
            // Another thread has installed something in between: that stands.
            Some(found) if found.sa_sigaction != expected => wanted = found,
            _ => return,
        }
        expected = wrapped.sa_sigaction;
    }
}

fn swap(signal: c_int, new: Option<&Action>) -> Option<Action> {
    let new = new.map_or(ptr::null(), ptr::from_ref);
    let mut old = MaybeUninit::<Action>::zeroed();
    // SAFETY: the new one is one that was installed, and wrapped.
    let answer = unsafe { __sigaction(signal, new, old.as_mut_ptr()) };
    // SAFETY: zeroed, which is an action, or written.
    (answer == 0).then(|| unsafe { old.assume_init() })
}

/// A handler, with or without the second and third argument: the kernel passes
/// all three, in registers.
type Handler = unsafe extern "C-unwind" fn(c_int, usize, usize);

const ROW: usize = 16;
const PLACES: usize = 8 * ROW;

/// The program's handlers. 0 is a free place; a place that is taken stays so.
static HANDLERS: [AtomicUsize; PLACES] = [const { AtomicUsize::new(0) }; PLACES];

/// What the kernel is given for the handler in a place.
///
/// # Safety
/// To be called by the kernel, or by a handler that goes on to this one, and only
/// when there is something in its place.
unsafe extern "C-unwind" fn enter<const PLACE: usize>(signal: c_int, info: usize, context: usize) {
    let handler = HANDLERS[PLACE].load(Ordering::Acquire);
    // SAFETY: somebody has installed it as a handler. One that takes only the
    // first argument does not look for the others.
    let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
    // SAFETY: these are the kernel's arguments for it.
    hub::run_handler(|| unsafe { handler(signal, info, context) });
}

macro_rules! row {
    ($row:literal: $($column:literal)*) => {
        [$(enter::<{ $row * ROW + $column }> as Handler),*]
    };
}

macro_rules! rows {
    ($($row:literal)*) => {
        [$(row!($row: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)),*]
    };
}

static ENTRIES: [[Handler; ROW]; PLACES / ROW] = rows!(0 1 2 3 4 5 6 7);

fn entry_of(place: usize) -> usize {
    ENTRIES[place / ROW][place % ROW] as usize
}

/// In whose place something of ours stands.
fn place_of(entry: sighandler_t) -> Option<usize> {
    (0..PLACES).find(|place| entry_of(*place) == entry)
}

/// What the kernel is given for a handler: an entry, once handlers are wrapped.
/// Async-signal-safe.
fn outer(handler: sighandler_t) -> sighandler_t {
    let is_none = [libc::SIG_DFL, libc::SIG_IGN, libc::SIG_ERR, SIG_HOLD].contains(&handler);
    if is_none || !WRAPPING.load(Ordering::Acquire) || place_of(handler).is_some() {
        return handler;
    }
    let is_or_becomes_its = |place: &AtomicUsize| {
        let taken = place.compare_exchange(0, handler, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(handler)
    };
    match HANDLERS.iter().position(is_or_becomes_its) {
        Some(place) => entry_of(place),
        // A program with so many handlers does without, rather than without one.
        None => handler,
    }
}

/// What the program has given for it.
fn inner(handler: sighandler_t) -> sighandler_t {
    match place_of(handler) {
        Some(place) => HANDLERS[place].load(Ordering::Acquire),
        None => handler,
    }
}
