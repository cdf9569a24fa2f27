//! How an interposed call begins and ends, and what all of them stand on.
//!
//! ```text
//!   recv(…)  ── Part patched? ── hub here? ── may it park? ──▶ try, else park
//!                  │ no            │ no          │ no
//!                  └───────────────┴─────────────┴──────────▶ the system call
//! ```
//!
//! These symbols are libc's for the whole process, from before `main` until after
//! the last thread-local is gone, in signal handlers and in the child of a fork.
//! So the way to the system call takes no lock, allocates nothing, and touches
//! nothing that has to be initialised. The call is made directly and not by way
//! of libc's own function, which would have to be looked up first, and which a
//! statically linked program has not.

use std::ffi::{c_int, c_long};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::kernel;
use crate::hub::{Hub, WaitsAsThread};
use crate::sys::os::{self, Errno};

/// A group of calls that is patched, or left alone, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// `sleep`, `nanosleep`, `sched_yield` and their kin.
    Sleep,
    /// Sockets: connecting, accepting, sending, receiving, and `read` and `write`.
    Sockets,
    /// `poll`, `select` and their kin.
    Poll,
    /// `epoll_wait` and its kin.
    Epoll,
    /// Pipes, terminals and eventfds, and what blocks on files: locks and syncs.
    Files,
    /// Waiting for other processes, and for threads to end.
    Process,
    /// Looking up names.
    Dns,
    /// Locks: std's, which wait by futex, and those of C: `pthread_mutex_lock`, `sem_wait`
    /// and their kin.
    Locks,
    /// New threads: they are isolated greenlets.
    Threads,
}

impl Part {
    pub(super) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The parts that are patched.
static PATCHED: AtomicU32 = AtomicU32::new(0);

/// Whether the part is patched, on whatever thread.
#[inline(always)]
pub(super) fn is_on(part: Part) -> bool {
    PATCHED.load(Ordering::Relaxed) & part.bit() != 0
}

/// Whether anything is patched.
#[inline(always)]
pub(super) fn is_any_on() -> bool {
    PATCHED.load(Ordering::Relaxed) != 0
}

pub(super) fn switch_on(parts: u32) {
    PATCHED.fetch_or(parts, Ordering::SeqCst);
}

/// This thread's hub, if a call of this part may park the greenlet that makes it.
#[inline(always)]
pub(super) fn hub(part: Part) -> Option<&'static Hub> {
    if !is_on(part) {
        return None;
    }
    Hub::parking()
}

/// As `hub`, for what callers wrap in marks of their thread's: where it is not patched
/// for all, it is for isolated greenlets, whose thread-locals are their own.
pub(super) fn hub_of_thread(part: Part) -> Option<(&'static Hub, Option<WaitsAsThread>)> {
    if let Some(hub) = hub(part) {
        return Some((hub, None));
    }
    if !is_any_on() {
        return None;
    }
    let hub = Hub::parking()?;
    Some((hub, Some(hub.wait_as_thread()?)))
}

/// As `hub`, for an operation on a descriptor that may have to wait: it is counted
/// among those after which it is somebody else's turn.
///
/// # Errors
/// The refusal, if the greenlet is to end or to leave a `timeout`.
#[inline]
pub(super) fn operation(hub: &Hub) -> Result<(), Errno> {
    if let Some(error) = hub.refusal() {
        return Err(error);
    }
    hub.spend_operation();
    Ok(())
}

/// As `operation`, for a wait of so many nanoseconds. With no time at all it does not
/// block, see `operation_on`.
///
/// # Errors
/// As for `operation`.
pub(super) fn operation_within(hub: &Hub, time: Option<u64>) -> Result<(), Errno> {
    match time {
        Some(0) => Ok(()),
        _ => operation(hub),
    }
}

/// As `operation`, on this descriptor. What does not block, for its user has made the
/// descriptor non-blocking or because it is a file, is neither refused nor made to
/// wait for its turn: such calls are made in the midst of things, by event loops.
///
/// # Errors
/// As for `operation`.
#[inline(always)]
pub(super) fn operation_on(hub: &Hub, fd: RawFd, flags: c_int) -> Result<(), Errno> {
    if hub.count_plain_operation() {
        return Ok(());
    }
    operation_of_note(hub, fd, flags)
}

#[cold]
fn operation_of_note(hub: &Hub, fd: RawFd, flags: c_int) -> Result<(), Errno> {
    if flags & libc::MSG_DONTWAIT != 0 || kernel::never_blocks(fd) {
        hub.renew_budget();
        return Ok(());
    }
    operation(hub)
}

/// A number, pointer or size as it goes into a system call's register.
pub(super) trait Word {
    fn word(self) -> usize;
}

impl Word for usize {
    fn word(self) -> usize {
        self
    }
}

impl Word for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Word for c_int {
    fn word(self) -> usize {
        // The kernel takes the lower half; negative numbers stay so.
        self as isize as usize
    }
}

impl Word for i64 {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *const T {
    fn word(self) -> usize {
        self as usize
    }
}

impl<T> Word for *mut T {
    fn word(self) -> usize {
        self as usize
    }
}

/// A system call: its number, and up to six arguments of any kind.
///
/// # Safety
/// As for [`os::syscall6`]: the arguments are what the kernel documents. What comes
/// from the caller of an interposed function is the caller's promise.
macro_rules! raw {
    ($nr:expr $(, $arg:expr)* $(,)?) => {
        $crate::monkey::entry::call($nr, &[$($crate::monkey::entry::Word::word($arg)),*])
    };
}
pub(super) use raw;

/// See `raw!`.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn call(nr: c_long, args: &[usize]) -> Result<usize, Errno> {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    // SAFETY: the caller's promise.
    unsafe { os::syscall6(nr, all) }
}

/// What a libc function returns: the answer, or -1 and errno.
pub(super) trait Answer {
    fn answer(self) -> isize;
}

impl Answer for Result<usize, Errno> {
    #[inline(always)]
    fn answer(self) -> isize {
        match self {
            Ok(value) => value as isize,
            Err(error) => {
                os::set_errno(error);
                -1
            }
        }
    }
}

/// One line of [`coverage`](super::coverage).
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) part: Part,
    pub(super) what: &'static str,
    /// Where our function is, as a pointer; to see whether the program uses it.
    pub(super) address: fn() -> usize,
}

/// Functions that take the place of libc's, with the rows that tell of them.
///
/// The first line of a function's comment is its row in the table. All of them
/// are called by code that keeps libc's contract for the function of this name,
/// which is what their `unsafe` asks for.
macro_rules! interposed {
    ($part:ident; $($functions:tt)*) => {
        $crate::monkey::entry::interposed! { @ "C", $part; $($functions)* }
    };
    (
        @ $abi:literal, $part:ident;
        $(
            #[doc = $what:literal]
            $(#[doc = $more:literal])*
            $(#[cfg($cfg:meta)])?
            fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block
        )*
    ) => {
        $(
            #[doc = $what]
            $(#[doc = $more])*
            ///
            /// # Safety
            /// As for libc's function of this name.
            $(#[cfg($cfg)])?
            #[unsafe(no_mangle)]
            pub(crate) unsafe extern $abi fn $name($($arg: $type),*) $(-> $ret)? $body
        )*

        pub(in crate::monkey) static ROWS: &[$crate::monkey::entry::Row] = &[
            $(
                $(#[cfg($cfg)])?
                $crate::monkey::entry::Row {
                    name: stringify!($name),
                    part: $crate::monkey::entry::Part::$part,
                    what: $what,
                    address: || $name as *const () as usize,
                },
            )*
        ];
    };
}
pub(super) use interposed;

/// As `interposed!`, where libc's own function calls code that may unwind, or is a
/// cancellation point: until it is patched, what ends a thread goes through ours. In a
/// program that cannot unwind there is nothing of ours in the way either, for no call is
/// watched.
#[cfg(all(panic = "unwind", not(target_feature = "crt-static")))]
macro_rules! interposed_unwinding {
    ($part:ident; $($functions:tt)*) => {
        $crate::monkey::entry::interposed! { @ "C-unwind", $part; $($functions)* }
    };
}
#[cfg(all(not(panic = "unwind"), not(target_feature = "crt-static")))]
macro_rules! interposed_unwinding {
    ($($functions:tt)*) => {
        $crate::monkey::entry::interposed! { $($functions)* }
    };
}
#[cfg(not(target_feature = "crt-static"))]
pub(super) use interposed_unwinding;
