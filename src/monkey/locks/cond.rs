//! `pthread_cond_t`.
//!
//! A wait in libc would give the mutex back by itself, and nobody would tell those who
//! wait for it in our table. So from the moment on at which the locks are patched
//! everybody waits in the table, plain threads too:
//!
//! ```text
//!   wait                                    signal
//!     n = number of the condition             libc's own: for who has been waiting
//!     unlock the mutex, as ours does          since before
//!     wait, while it is n ◀─────────────────  one more
//!     lock the mutex, as ours does            wake one (broadcast: all)
//! ```
//!
//! The numbers are not in the object, which has no room for one, but in a table by its
//! address. Where two share one, a wait may end early, as it may anyway.
//!
//! One that other processes share, with a mutex that they share, is waited for in libc
//! by plain threads; a greenlet gives the mutex back for a while, and has then woken up.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libc::{clockid_t, pthread_cond_t, pthread_mutex_t, timespec};

use super::glibc;
use super::mutex;
use super::park::{self, Limit, Wait};
use super::shape::{self, MutexShape, on};
use crate::hub::Hub;
use crate::hub::address::{self, Slept};
use crate::monkey::entry::{interposed, interposed_unwinding};
use crate::monkey::moment::Moment;
use crate::monkey::real::real;

mod waits {
    use super::*;

    interposed_unwinding! {
        Locks;

        /// Parks until the condition is signalled.
        fn pthread_cond_wait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int {
            // SAFETY: the caller's promise.
            unsafe {
                match on() {
                    false => real!(glibc::COND_WAIT(cond, mutex)),
                    true => wait(cond, mutex, Moment::Never),
                }
            }
        }

        /// As `pthread_cond_wait`, until a moment by the condition's clock.
        fn pthread_cond_timedwait(
            cond: *mut pthread_cond_t,
            mutex: *mut pthread_mutex_t,
            time: *const timespec,
        ) -> c_int {
            // SAFETY: the caller's promise.
            unsafe {
                match on() {
                    false => real!(glibc::COND_TIMEDWAIT(cond, mutex, time)),
                    true => wait_until(cond, mutex, None, time),
                }
            }
        }

        /// As `pthread_cond_timedwait`, by this clock.
        fn pthread_cond_clockwait(
            cond: *mut pthread_cond_t,
            mutex: *mut pthread_mutex_t,
            clock: clockid_t,
            time: *const timespec,
        ) -> c_int {
            // SAFETY: the caller's promise.
            unsafe {
                match on() {
                    false => real!(glibc::COND_CLOCKWAIT(cond, mutex, clock, time)),
                    true => wait_until(cond, mutex, Some(clock), time),
                }
            }
        }
    }
}
pub(in crate::monkey) use waits::ROWS as WAITS;
pub(super) use waits::{pthread_cond_timedwait, pthread_cond_wait};

interposed! {
    Locks;

    /// Wakes one who waits, a greenlet or a thread.
    fn pthread_cond_signal(cond: *mut pthread_cond_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { tell(cond, 1, real!(glibc::COND_SIGNAL(cond))) }
    }

    /// Wakes all who wait, greenlets and threads.
    fn pthread_cond_broadcast(cond: *mut pthread_cond_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { tell(cond, usize::MAX, real!(glibc::COND_BROADCAST(cond))) }
    }
}

const NUMBERS: usize = 256;
/// How often those conditions have been signalled that share a number.
static SIGNALLED: [AtomicU32; NUMBERS] = [const { AtomicU32::new(0) }; NUMBERS];

fn signalled(cond: *const pthread_cond_t) -> &'static AtomicU32 {
    // They are 48 bytes each, and aligned to 8.
    let hash = (cond as u64 >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    &SIGNALLED[(hash >> 56) as usize % NUMBERS]
}

/// libc has told its own, and has answered this. From here on the object may be gone:
/// those who have been woken may have destroyed it.
#[inline]
fn tell(cond: *const pthread_cond_t, count: usize, in_libc: c_int) -> c_int {
    if on() {
        signalled(cond).fetch_add(1, Ordering::SeqCst);
        address::wake_after_fence(cond as usize, address::ANY, count);
    }
    in_libc
}

/// # Safety
/// As for `pthread_cond_clockwait`; without a clock it is the condition's.
unsafe fn wait_until(
    cond: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    clock: Option<clockid_t>,
    time: *const timespec,
) -> c_int {
    // SAFETY: the caller's promise, here and below.
    let clock = clock.unwrap_or_else(|| unsafe { shape::cond(cond) }.1);
    // SAFETY: as above.
    match unsafe { Limit { clock, time }.moment() } {
        None => libc::EINVAL,
        // SAFETY: as above.
        Some(moment) => unsafe { wait(cond, mutex, moment) },
    }
}

/// # Safety
/// As for `pthread_cond_wait`.
unsafe fn wait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, moment: Moment) -> c_int {
    let hub = park::hub();
    // SAFETY: the caller's promise, here and below.
    let is_shared = unsafe { shape::cond(cond).0 && MutexShape::of(mutex).is_shared() };
    if is_shared && hub.is_none() {
        // SAFETY: as above.
        return address::blocking(|| unsafe { wait_in_libc(cond, mutex, moment) });
    }
    let number = signalled(cond);
    let seen = number.load(Ordering::SeqCst);
    // SAFETY: as above.
    let unlocked = unsafe { mutex::pthread_mutex_unlock(mutex) };
    if unlocked != 0 {
        return unlocked;
    }
    let wait = Wait::new(cond, "waiting for a condition variable of C's").until(moment);
    let slept = match hub {
        Some(hub) if is_shared => pause(hub, wait),
        _ => wait.sleep_while(hub, || number.load(Ordering::SeqCst) == seen),
    };
    // SAFETY: as above.
    match (unsafe { mutex::lock_again(mutex) }, slept) {
        (0, Slept::TimedOut) => libc::ETIMEDOUT,
        (answer, _) => answer,
    }
}

/// # Safety
/// As for `pthread_cond_wait`.
unsafe fn wait_in_libc(
    cond: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    moment: Moment,
) -> c_int {
    let clock = match moment {
        Moment::InRealTime(_) => libc::CLOCK_REALTIME,
        Moment::Here(_) | Moment::Never => libc::CLOCK_MONOTONIC,
    };
    // SAFETY: the caller's promise, and a live variable.
    unsafe {
        match moment.of_futex().1 {
            None => real!(glibc::COND_WAIT(cond, mutex)),
            Some(time) => real!(glibc::COND_CLOCKWAIT(cond, mutex, clock, &raw const time)),
        }
    }
}

/// How long a greenlet gives others to change what it waits for, where it would not hear
/// of it.
const PAUSE: Duration = Duration::from_millis(2);

fn pause(hub: &Hub, wait: Wait) -> Slept {
    wait.nap(hub, PAUSE);
    match wait.moment.has_come() {
        true => Slept::TimedOut,
        false => Slept::Woken,
    }
}
