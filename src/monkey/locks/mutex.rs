//! `pthread_mutex_t`: normal, recursive, error-checking, adaptive.
//!
//! # Who has it
//! glibc knows threads by a number. Isolated greenlets have numbers of their own, light
//! ones that of their thread: to a recursive or an error-checking mutex those of one
//! thread-local storage are one thread.
//!
//! # Allocators
//! Memory is asked for everywhere, and allocators like jemalloc change thread-locals
//! around such a lock. If a light greenlet parked there, another one would find these half
//! changed. So a greenlet that shares its thread-locals with others does not park for a
//! mutex that *another OS thread* holds, as nobody on this one can be in that allocator: it
//! blocks, as the threads of that allocator do.
//!
//! ```text
//!   held by                      isolated, alone in its domain    light
//!   a greenlet of this thread    parks                            parks
//!   another OS thread            parks                            blocks
//! ```
//!
//! Nor does it let others run when it gives such a mutex back, for the sake of one that
//! has come too late many times: that is for mutexes that somebody parks with, as nobody
//! does with an allocator's.

use std::ffi::c_int;
use std::hint::spin_loop;

use libc::{clockid_t, pthread_mutex_t, timespec};

use super::glibc;
use super::park::{self, Limit, Wait};
use super::shape::{self, MutexShape, on};
use crate::hub::{self, address};
use crate::monkey::entry::interposed;
use crate::monkey::real::real;
use crate::sys::os;

interposed! {
    Locks;

    /// Parks until it has the mutex.
    fn pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            if !on() {
                return lock_in_libc(mutex);
            }
            match libc::pthread_mutex_trylock(mutex) {
                libc::EBUSY => busy(mutex, None, Why::ToTakeIt, || lock_in_libc(mutex)),
                answer => answer,
            }
        }
    }

    /// As `pthread_mutex_lock`, until a moment by the clock of the day.
    fn pthread_mutex_timedlock(mutex: *mut pthread_mutex_t, time: *const timespec) -> c_int {
        let limit = Limit { clock: libc::CLOCK_REALTIME, time };
        // SAFETY: the caller's promise.
        unsafe { lock_until(mutex, limit, || real!(glibc::MUTEX_TIMEDLOCK(mutex, time))) }
    }

    /// As `pthread_mutex_timedlock`, by this clock.
    fn pthread_mutex_clocklock(
        mutex: *mut pthread_mutex_t,
        clock: clockid_t,
        time: *const timespec,
    ) -> c_int {
        let limit = Limit { clock, time };
        // SAFETY: the caller's promise.
        unsafe { lock_until(mutex, limit, || real!(glibc::MUTEX_CLOCKLOCK(mutex, clock, time))) }
    }

    /// Wakes who waits for the mutex, greenlets and threads.
    fn pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int {
        // SAFETY: the caller's promise.
        let answer = unsafe { real!(glibc::MUTEX_UNLOCK(mutex) else unlock_is_missing()) };
        // It may not be there any more; its address is a number.
        if answer == 0 && on() {
            address::wake_after_fence(mutex as usize, address::ANY, 1);
        }
        answer
    }
}

const WHAT: &str = "waiting for a mutex of C's";

/// So often a mutex is tried that another thread has, before a greenlet parks.
const SPINS: u32 = 100;

/// What a mutex is wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    ToTakeIt,
    /// After a wait for a condition, in which others had their turn anyway.
    ToHaveItBack,
}

/// Takes the mutex again, after a wait for a condition.
///
/// # Safety
/// As for `pthread_mutex_lock`.
pub(super) unsafe fn lock_again(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match libc::pthread_mutex_trylock(mutex) {
            libc::EBUSY => busy(mutex, None, Why::ToHaveItBack, || lock_in_libc(mutex)),
            answer => answer,
        }
    }
}

/// # Safety
/// As for `pthread_mutex_clocklock`.
unsafe fn lock_until(
    mutex: *mut pthread_mutex_t,
    limit: Limit,
    in_libc: impl FnOnce() -> c_int,
) -> c_int {
    // A clock that libc does not know is an error, also where there is no need to wait.
    let is_known = matches!(limit.clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC);
    if !on() || !is_known {
        return in_libc();
    }
    // SAFETY: the caller's promise.
    unsafe {
        match libc::pthread_mutex_trylock(mutex) {
            libc::EBUSY => busy(mutex, Some(limit), Why::ToTakeIt, in_libc),
            answer => answer,
        }
    }
}

/// Somebody has the mutex.
///
/// # Safety
/// The mutex is alive, and the limit's pointer is good.
#[cold]
#[inline(never)]
unsafe fn busy(
    mutex: *mut pthread_mutex_t,
    limit: Option<Limit>,
    why: Why,
    in_libc: impl FnOnce() -> c_int,
) -> c_int {
    let Some(hub) = park::hub() else {
        return address::blocking(in_libc);
    };
    // SAFETY: the caller's promise, here and below.
    let (shape, owner) = unsafe { (MutexShape::of(mutex), shape::owner(mutex)) };
    if shape.checks_errors() && owner == shape::me() {
        return libc::EDEADLK;
    }
    // SAFETY: as above.
    let Some(moment) = (unsafe { Limit::to_come(limit) }) else {
        return in_libc();
    };
    let attempt = || {
        // SAFETY: as above.
        match unsafe { libc::pthread_mutex_trylock(mutex) } {
            libc::EBUSY => None,
            answer => Some(answer),
        }
    };
    let wait = Wait::new(mutex, WHAT).until(moment);
    let answer = if shape.is_shared() {
        wait.poll(hub, attempt)
    } else {
        let must_block = why == Why::ToTakeIt && hub.shares_thread_locals();
        if match must_block {
            true => !hub.is_known_as(owner),
            // It is not so important as to look for it among all greenlets.
            false => !hub::is_isolated_number(owner) && owner != hub.os_thread() as u32,
        } {
            for _ in 0..SPINS {
                if let Some(answer) = attempt() {
                    return answer;
                }
                spin_loop();
            }
            if must_block {
                return address::blocking(in_libc);
            }
        }
        // SAFETY: as above.
        let is_parked_with_it = || hub.is_known_as(unsafe { shape::owner(mutex) });
        wait.park_behind(hub, attempt, is_parked_with_it)
    };
    answer.unwrap_or(libc::ETIMEDOUT)
}

/// libc's own function. While this thread is looking for it, an allocator may want one of
/// its locks, which are held for a moment.
///
/// # Safety
/// As for `pthread_mutex_lock`.
unsafe fn lock_in_libc(mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        real!(glibc::MUTEX_LOCK(mutex) else loop {
            match libc::pthread_mutex_trylock(mutex) {
                libc::EBUSY => os::yield_thread(),
                answer => break answer,
            }
        })
    }
}

/// It is the first that is looked for, so whoever looks for others has it.
#[cold]
fn unlock_is_missing() -> ! {
    os::write_stderr(b"greenlet: fatal: libc's pthread_mutex_unlock is not to be found\n");
    os::abort()
}
