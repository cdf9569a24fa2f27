//! `sem_t`. Whoever posts may be a signal handler, of this thread too, and another
//! process.

use std::ffi::c_int;

use libc::{clockid_t, sem_t, timespec};

use super::glibc;
use super::park::{self, Limit, Wait};
use super::shape::{self, on};
use crate::hub::{Kind, address};
use crate::monkey::entry::{Answer, interposed, interposed_unwinding};
use crate::monkey::real::{missing, real};
use crate::sys::os;

mod waits {
    use super::*;

    interposed_unwinding! {
        Locks;

        /// Parks until the semaphore is posted.
        fn sem_wait(semaphore: *mut sem_t) -> c_int {
            // SAFETY: the caller's promise.
            unsafe { wait(semaphore, None, || real!(glibc::SEM_WAIT(semaphore) else missing())) }
        }

        /// As `sem_wait`, until a moment by the clock of the day.
        fn sem_timedwait(semaphore: *mut sem_t, time: *const timespec) -> c_int {
            let limit = Limit { clock: libc::CLOCK_REALTIME, time };
            // SAFETY: the caller's promise.
            unsafe {
                wait(semaphore, Some(limit), || {
                    real!(glibc::SEM_TIMEDWAIT(semaphore, time) else missing())
                })
            }
        }

        /// As `sem_timedwait`, by this clock.
        fn sem_clockwait(
            semaphore: *mut sem_t,
            clock: clockid_t,
            time: *const timespec,
        ) -> c_int {
            let limit = Limit { clock, time };
            // SAFETY: the caller's promise.
            unsafe {
                wait(semaphore, Some(limit), || {
                    real!(glibc::SEM_CLOCKWAIT(semaphore, clock, time) else missing())
                })
            }
        }
    }
}
pub(in crate::monkey) use waits::ROWS as WAITS;

interposed! {
    Locks;

    /// Wakes who waits for the semaphore, greenlets and threads.
    fn sem_post(semaphore: *mut sem_t) -> c_int {
        // SAFETY: the caller's promise.
        let answer = unsafe { real!(glibc::SEM_POST(semaphore) else missing()) };
        // It may not be there any more; its address is a number.
        if answer == 0 && on() {
            address::wake_after_fence(semaphore as usize, address::ANY, 1);
        }
        answer
    }
}

/// # Safety
/// As for `sem_clockwait`.
unsafe fn wait(
    semaphore: *mut sem_t,
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
    let attempt = || {
        let saved = os::errno();
        // SAFETY: as above.
        match unsafe { libc::sem_trywait(semaphore) } {
            -1 if os::errno() == libc::EAGAIN => {
                os::set_errno(saved);
                None
            }
            answer => Some(answer),
        }
    };
    if let Some(answer) = attempt() {
        return answer;
    }
    let Some(hub) = park::hub() else {
        return address::blocking(in_libc);
    };
    // SAFETY: as above.
    let Some(moment) = (unsafe { Limit::to_come(limit) }) else {
        return in_libc();
    };
    let wait = Wait {
        // A signal handler may post it.
        kind: Kind::External,
        ..Wait::new(semaphore, "waiting for a semaphore of C's").until(moment)
    };
    // SAFETY: as above.
    let answer = match unsafe { shape::semaphore_is_shared(semaphore) } {
        true => wait.poll(hub, attempt),
        false => wait.park(hub, attempt),
    };
    answer.unwrap_or_else(|| Err(libc::ETIMEDOUT).answer() as c_int)
}
