//! Joining and detaching threads that are isolated greenlets.

use std::ffi::{c_int, c_void};
use std::sync::atomic::Ordering;

use libc::{clockid_t, pthread_t, timespec};

use super::record::Thread;
use crate::hub::Hub;
use crate::hub::address::Slept;
use crate::monkey::entry::interposed;
use crate::monkey::locks::park::Wait;
use crate::monkey::moment::Moment;
use crate::monkey::real::real;

interposed! {
    Threads;

    /// Of a thread that is a greenlet, its value if it has ended.
    fn pthread_tryjoin_np(thread: pthread_t, result: *mut *mut c_void) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) if !known.has_ended() => libc::EBUSY,
                Some(known) => join(&known, result, Moment::Never),
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
                Some(known) => join_until(&known, result, libc::CLOCK_REALTIME, until),
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
                Some(known) => join_until(&known, result, clock, until),
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
    // SAFETY: the caller's promise.
    match unsafe { until.as_ref() }.map(|until| Moment::by(clock, *until)) {
        // SAFETY: as above.
        None => unsafe { join(thread, result, Moment::Never) },
        // SAFETY: as above.
        Some(Some(moment)) => unsafe { join(thread, result, moment) },
        Some(None) => libc::EINVAL,
    }
}

/// Waits for a thread to end, takes its value, and gives it back.
///
/// # Safety
/// The place for the value is null or good.
pub(in crate::monkey) unsafe fn join(
    thread: &Thread,
    result: *mut *mut c_void,
    until: Moment,
) -> c_int {
    // SAFETY: it has no preconditions.
    let me = unsafe { libc::pthread_self() };
    let joined_by = |thread: &Thread| thread.joiner.load(Ordering::Relaxed) as pthread_t;
    let joins_me = Thread::current().is_some_and(|me| joined_by(&me) == thread.handle());
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
    if !has_ended_by(thread, until) {
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
fn has_ended_by(thread: &Thread, moment: Moment) -> bool {
    let wait = Wait::new(&thread.flags, "joining a thread").until(moment);
    while !thread.has_ended() {
        let slept = wait.sleep_while(Hub::parking(), || !thread.has_ended());
        if slept == Slept::TimedOut {
            return thread.has_ended();
        }
    }
    true
}
