//! `pthread_rwlock_t`.
//!
//! Who unlocks one wakes all who want to read, and one who wants to write: whichever of
//! them is first decides who else comes in, and the others wait again. glibc counts the
//! threads that wait in it, and lets no new readers in before its writers if an attribute
//! says so; greenlets that wait are not counted.
//!
//! Whoever wants again what it has for writing is told so (EDEADLK), unless it shares its
//! thread-locals with other greenlets: then it waits, for it may be one of these that has
//! the lock.

use std::ffi::c_int;

use libc::{clockid_t, pthread_rwlock_t, timespec};

use super::glibc;
use super::park::{self, Limit, Wait};
use super::shape::{self, on};
use crate::hub::address;
use crate::monkey::entry::interposed;
use crate::monkey::real::real;

interposed! {
    Locks;

    /// Parks until it may read.
    fn pthread_rwlock_rdlock(lock: *mut pthread_rwlock_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { take(lock, &READ, None, || real!(glibc::RWLOCK_RDLOCK(lock))) }
    }

    /// Parks until it may write.
    fn pthread_rwlock_wrlock(lock: *mut pthread_rwlock_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { take(lock, &WRITE, None, || real!(glibc::RWLOCK_WRLOCK(lock))) }
    }

    /// As `pthread_rwlock_rdlock`, until a moment by the clock of the day.
    fn pthread_rwlock_timedrdlock(lock: *mut pthread_rwlock_t, time: *const timespec) -> c_int {
        let limit = Limit { clock: libc::CLOCK_REALTIME, time };
        // SAFETY: the caller's promise.
        unsafe { take(lock, &READ, Some(limit), || real!(glibc::RWLOCK_TIMEDRDLOCK(lock, time))) }
    }

    /// As `pthread_rwlock_wrlock`, until a moment by the clock of the day.
    fn pthread_rwlock_timedwrlock(lock: *mut pthread_rwlock_t, time: *const timespec) -> c_int {
        let limit = Limit { clock: libc::CLOCK_REALTIME, time };
        // SAFETY: the caller's promise.
        unsafe { take(lock, &WRITE, Some(limit), || real!(glibc::RWLOCK_TIMEDWRLOCK(lock, time))) }
    }

    /// As `pthread_rwlock_timedrdlock`, by this clock.
    fn pthread_rwlock_clockrdlock(
        lock: *mut pthread_rwlock_t,
        clock: clockid_t,
        time: *const timespec,
    ) -> c_int {
        let limit = Limit { clock, time };
        // SAFETY: the caller's promise.
        unsafe {
            take(lock, &READ, Some(limit), || {
                real!(glibc::RWLOCK_CLOCKRDLOCK(lock, clock, time))
            })
        }
    }

    /// As `pthread_rwlock_timedwrlock`, by this clock.
    fn pthread_rwlock_clockwrlock(
        lock: *mut pthread_rwlock_t,
        clock: clockid_t,
        time: *const timespec,
    ) -> c_int {
        let limit = Limit { clock, time };
        // SAFETY: the caller's promise.
        unsafe {
            take(lock, &WRITE, Some(limit), || {
                real!(glibc::RWLOCK_CLOCKWRLOCK(lock, clock, time))
            })
        }
    }

    /// Wakes who waits for the lock, greenlets and threads.
    fn pthread_rwlock_unlock(lock: *mut pthread_rwlock_t) -> c_int {
        // SAFETY: the caller's promise.
        let answer = unsafe { real!(glibc::RWLOCK_UNLOCK(lock)) };
        // It may not be there any more; its address is a number.
        if answer == 0 && on() {
            let address = lock as usize;
            address::wake_after_fence(address, READ.bits, usize::MAX);
            address::wake_after_fence(address, WRITE.bits, 1);
        }
        answer
    }
}

/// What somebody wants with it.
struct Way {
    bits: u32,
    what: &'static str,
    attempt: unsafe extern "C" fn(*mut pthread_rwlock_t) -> c_int,
}

static READ: Way = Way {
    bits: 1,
    what: "waiting to read, for an rwlock of C's",
    attempt: libc::pthread_rwlock_tryrdlock,
};
static WRITE: Way = Way {
    bits: 2,
    what: "waiting to write, for an rwlock of C's",
    attempt: libc::pthread_rwlock_trywrlock,
};

/// # Safety
/// As for libc's functions.
#[inline]
unsafe fn take(
    lock: *mut pthread_rwlock_t,
    way: &'static Way,
    limit: Option<Limit>,
    in_libc: impl FnOnce() -> c_int,
) -> c_int {
    if !on() {
        return in_libc();
    }
    // What is no time is an error, also where there is no need to wait.
    // SAFETY: the caller's promise, here and below.
    if limit.is_some_and(|limit| unsafe { limit.moment() }.is_none()) {
        return in_libc();
    }
    // SAFETY: as above.
    unsafe {
        match (way.attempt)(lock) {
            libc::EBUSY => busy(lock, way, limit, in_libc),
            answer => answer,
        }
    }
}

/// # Safety
/// As for libc's functions.
#[cold]
#[inline(never)]
unsafe fn busy(
    lock: *mut pthread_rwlock_t,
    way: &'static Way,
    limit: Option<Limit>,
    in_libc: impl FnOnce() -> c_int,
) -> c_int {
    let Some(hub) = park::hub() else {
        return address::blocking(in_libc);
    };
    // By that number glibc knows all that share the thread-locals: it may be another one.
    // SAFETY: the caller's promise, here and below.
    if unsafe { shape::writer(lock) } == shape::me() && hub.is_alone_here() {
        return libc::EDEADLK;
    }
    // SAFETY: as above.
    let Some(moment) = (unsafe { Limit::to_come(limit) }) else {
        return in_libc();
    };
    let attempt = || {
        // SAFETY: as above.
        match unsafe { (way.attempt)(lock) } {
            libc::EBUSY => None,
            answer => Some(answer),
        }
    };
    let wait = Wait {
        bits: way.bits,
        ..Wait::new(lock, way.what).until(moment)
    };
    // SAFETY: as above.
    let answer = match unsafe { shape::rwlock_is_shared(lock) } {
        true => wait.poll(hub, attempt),
        false => wait.park(hub, attempt),
    };
    answer.unwrap_or(libc::ETIMEDOUT)
}
