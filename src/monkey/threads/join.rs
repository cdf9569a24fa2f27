//! Joining and detaching threads that are isolated greenlets.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use libc::{clockid_t, pthread_t, timespec};

use super::record::{ENDED, Thread};
use crate::hub::address::{self, Sleep, Slept};
use crate::hub::{Hub, Kind, Reason};
use crate::monkey::entry::{interposed, raw};
use crate::monkey::kernel;
use crate::monkey::real::real;
use crate::sys::clock;
use crate::sys::os::Errno;

interposed! {
    Threads;

    /// Of a thread that is a greenlet, its value if it has ended.
    fn pthread_tryjoin_np(thread: pthread_t, result: *mut *mut c_void) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) if !known.has_ended() => libc::EBUSY,
                Some(known) => join(known, result, None),
                None => real!(
                    c"pthread_tryjoin_np", fn(pthread_t, *mut *mut c_void), (thread, result)
                ),
            }
        }
    }

    /// Waits for a thread that is a greenlet; others run.
    fn pthread_timedjoin_np(
        thread: pthread_t,
        result: *mut *mut c_void,
        until: *const timespec,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => join_until(known, result, libc::CLOCK_REALTIME, until),
                None => real!(
                    c"pthread_timedjoin_np",
                    fn(pthread_t, *mut *mut c_void, *const timespec),
                    (thread, result, until)
                ),
            }
        }
    }

    /// As `pthread_timedjoin_np`.
    fn pthread_clockjoin_np(
        thread: pthread_t,
        result: *mut *mut c_void,
        clock: clockid_t,
        until: *const timespec,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(_) if clock != libc::CLOCK_REALTIME && clock != libc::CLOCK_MONOTONIC => {
                    libc::EINVAL
                }
                Some(known) => join_until(known, result, clock, until),
                None => real!(
                    c"pthread_clockjoin_np",
                    fn(pthread_t, *mut *mut c_void, clockid_t, *const timespec),
                    (thread, result, clock, until)
                ),
            }
        }
    }

    /// Has a thread that is a greenlet leave nothing behind when it ends.
    fn pthread_detach(thread: pthread_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) if known.part() => 0,
                Some(_) => libc::EINVAL,
                None => real!(c"pthread_detach", fn(pthread_t), (thread)),
            }
        }
    }
}

/// # Safety
/// The pointers are null or good.
unsafe fn join_until(
    thread: &Thread,
    result: *mut *mut c_void,
    clock: clockid_t,
    until: *const timespec,
) -> c_int {
    if until.is_null() {
        // SAFETY: the caller's promise.
        return unsafe { join(thread, result, None) };
    }
    // SAFETY: as above.
    match unsafe { kernel::time_at(until) } {
        // SAFETY: as above.
        Ok(moment) => unsafe { join(thread, result, Some((clock, moment))) },
        Err(error) => error,
    }
}

/// Waits for a thread to end, takes its value, and gives it back.
///
/// # Safety
/// The place for the value is null or good.
pub(in crate::monkey) unsafe fn join(
    thread: &Thread,
    result: *mut *mut c_void,
    until: Option<(clockid_t, u64)>,
) -> c_int {
    // SAFETY: it has no preconditions.
    let me = unsafe { libc::pthread_self() };
    let joined_by = |thread: &Thread| thread.joiner.load(Ordering::Relaxed) as pthread_t;
    let joins_me = Thread::current().is_some_and(|me| joined_by(me) == thread.handle());
    if thread.handle() == me || joins_me {
        return libc::EDEADLK;
    }
    if thread.is_detached() {
        return libc::EINVAL;
    }
    let order = (Ordering::AcqRel, Ordering::Relaxed);
    if thread
        .joiner
        .compare_exchange(0, me as usize, order.0, order.1)
        .is_err()
    {
        return libc::EINVAL;
    }
    if !wait(thread, until) {
        thread.joiner.store(0, Ordering::Release);
        return libc::ETIMEDOUT;
    }
    if !result.is_null() {
        // SAFETY: the caller's promise.
        unsafe { result.write(thread.value()) };
    }
    thread.part();
    0
}

/// Whether it has ended in time.
fn wait(thread: &Thread, until: Option<(clockid_t, u64)>) -> bool {
    let address = ptr::from_ref(&thread.flags) as usize;
    let still = || !thread.has_ended();
    let left = || until.map(|(clock, moment)| moment.saturating_sub(kernel::now(clock)));
    while still() {
        let left = left();
        let deadline = left.map(|left| clock::now_ns().saturating_add(left));
        match Hub::parking() {
            Some(hub) => {
                let sleep = Sleep {
                    reason: Reason::new("joining a thread"),
                    kind: Kind::Shared,
                    deadline,
                    may_go_first: true,
                };
                address::wait(hub, address, address::ANY, still, sleep);
            }
            None => {
                let _: Result<Slept, Errno> =
                    address::block(address, address::ANY, still, |word| block(word, left));
            }
        }
        if left == Some(0) {
            return !still();
        }
    }
    debug_assert!(thread.flags.load(Ordering::Relaxed) & ENDED != 0);
    true
}

/// Blocks the thread while the word is 0, for so many nanoseconds at most.
fn block(word: &AtomicU32, left: Option<u64>) -> Result<(), Errno> {
    let time = left.map(kernel::timespec_of);
    let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let word = ptr::from_ref(word);
    // SAFETY: both are live variables, or null.
    unsafe { raw!(libc::SYS_futex, word, op, 0u32, time) }.map(|_| ())
}
