//! The locks of C11, which in glibc are those of POSIX with other names for the errors.

use std::ffi::c_int;

use libc::{pthread_cond_t, pthread_mutex_t, timespec};

use super::{cond, mutex};
use crate::monkey::entry::interposed_unwinding;
use crate::sys::os::Errno;

interposed_unwinding! {
    Locks;

    /// As `pthread_mutex_lock`.
    fn mtx_lock(mutex: *mut pthread_mutex_t) -> c_int {
        // SAFETY: the caller's promise, here and below.
        in_c11(unsafe { mutex::pthread_mutex_lock(mutex) })
    }

    /// As `pthread_mutex_timedlock`.
    fn mtx_timedlock(mutex: *mut pthread_mutex_t, time: *const timespec) -> c_int {
        // SAFETY: as above.
        in_c11(unsafe { mutex::pthread_mutex_timedlock(mutex, time) })
    }

    /// As `pthread_mutex_unlock`.
    fn mtx_unlock(mutex: *mut pthread_mutex_t) -> c_int {
        // SAFETY: as above.
        in_c11(unsafe { mutex::pthread_mutex_unlock(mutex) })
    }

    /// As `pthread_cond_wait`.
    fn cnd_wait(cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int {
        // SAFETY: as above.
        in_c11(unsafe { cond::pthread_cond_wait(cond, mutex) })
    }

    /// As `pthread_cond_timedwait`.
    fn cnd_timedwait(
        cond: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        time: *const timespec,
    ) -> c_int {
        // SAFETY: as above.
        in_c11(unsafe { cond::pthread_cond_timedwait(cond, mutex, time) })
    }

    /// As `pthread_cond_signal`.
    fn cnd_signal(cond: *mut pthread_cond_t) -> c_int {
        // SAFETY: as above.
        in_c11(unsafe { cond::pthread_cond_signal(cond) })
    }

    /// As `pthread_cond_broadcast`.
    fn cnd_broadcast(cond: *mut pthread_cond_t) -> c_int {
        // SAFETY: as above.
        in_c11(unsafe { cond::pthread_cond_broadcast(cond) })
    }
}

/// What glibc makes of an error.
extern "C" fn in_c11(error: Errno) -> c_int {
    const BUSY: c_int = 1;
    const ERROR: c_int = 2;
    const NO_MEMORY: c_int = 3;
    const TIMED_OUT: c_int = 4;
    match error {
        0 => 0,
        libc::EBUSY => BUSY,
        libc::ENOMEM => NO_MEMORY,
        libc::ETIMEDOUT => TIMED_OUT,
        _ => ERROR,
    }
}
