//! Sleeping: `sleep`, `usleep`, `nanosleep`, `clock_nanosleep`, and `sched_yield`.
//!
//! A sleep that is refused (its greenlet is to end) returns early, as if it had
//! been long enough: std knows no other answer. Signals do not end one.

use std::ffi::{c_int, c_uint};

use libc::{clockid_t, timespec, useconds_t};

use super::entry::{Answer, Part, hub, interposed, raw};
use super::kernel;
use crate::hub::Hub;
use crate::sys::clock;
use crate::sys::os::Errno;

interposed! {
    Sleep;

    /// Sleeps; others run.
    fn sleep(seconds: c_uint) -> c_uint {
        let time = timespec { tv_sec: seconds.into(), tv_nsec: 0 };
        // SAFETY: the request is a valid timespec.
        unsafe { sleep_for(&raw const time) }
    }

    /// Sleeps; others run. A second or more is allowed.
    fn usleep(micros: useconds_t) -> c_int {
        let time = timespec {
            tv_sec: (micros / 1_000_000).into(),
            tv_nsec: (micros % 1_000_000 * 1000).into(),
        };
        let null = std::ptr::null_mut::<timespec>();
        match hub(Part::Sleep) {
            // SAFETY: the request is a valid timespec.
            None => unsafe { raw!(libc::SYS_nanosleep, &raw const time, null) }.answer() as c_int,
            Some(hub) => {
                sleep_until(hub, clock::now_ns().saturating_add(u64::from(micros) * 1000));
                0
            }
        }
    }

    /// Sleeps; others run.
    fn nanosleep(time: *const timespec, rest: *mut timespec) -> c_int {
        let slept = match hub(Part::Sleep) {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_nanosleep, time, rest) },
            // SAFETY: as above.
            Some(hub) => unsafe { relative(hub, time) },
        };
        slept.answer() as c_int
    }

    /// As `nanosleep`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __nanosleep(time: *const timespec, rest: *mut timespec) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { nanosleep(time, rest) }
    }

    /// Sleeps, for a time or until a moment; others run.
    fn clock_nanosleep(
        id: clockid_t,
        flags: c_int,
        time: *const timespec,
        rest: *mut timespec,
    ) -> c_int {
        let parking = match id {
            libc::CLOCK_MONOTONIC | libc::CLOCK_REALTIME | libc::CLOCK_BOOTTIME
            | libc::CLOCK_TAI => hub(Part::Sleep),
            // Those of processor time do not go on while nobody computes.
            _ => None,
        };
        let slept = match parking {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_clock_nanosleep, id, flags, time, rest) },
            // SAFETY: as above.
            Some(hub) if flags & libc::TIMER_ABSTIME == 0 => unsafe { relative(hub, time) },
            // SAFETY: as above.
            Some(hub) => unsafe { absolute(hub, id, time) },
        };
        // This one returns its error.
        slept.err().unwrap_or(0)
    }

    /// Lets every greenlet that is runnable go first.
    fn sched_yield() -> c_int {
        match hub(Part::Sleep) {
            // SAFETY: it takes no arguments.
            None => unsafe { raw!(libc::SYS_sched_yield) }.answer() as c_int,
            Some(hub) => {
                hub.yield_midway();
                0
            }
        }
    }
}

/// `sleep`, which answers with the seconds that are left.
unsafe fn sleep_for(time: *const timespec) -> c_uint {
    match hub(Part::Sleep) {
        Some(hub) => {
            // SAFETY: the caller's promise.
            let _ = unsafe { relative(hub, time) };
            0
        }
        None => {
            let mut rest = timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: as above, and the rest is a live variable.
            match unsafe { raw!(libc::SYS_nanosleep, time, &raw mut rest) } {
                Ok(_) => 0,
                Err(_) => rest.tv_sec as c_uint + c_uint::from(rest.tv_nsec >= 500_000_000),
            }
        }
    }
}

fn sleep_until(hub: &Hub, deadline: u64) {
    if hub.refusal().is_none() {
        hub.sleep_quietly(deadline);
    }
}

/// # Safety
/// The pointer is good, or no good in a way that the kernel finds out.
unsafe fn relative(hub: &Hub, time: *const timespec) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let time = unsafe { kernel::time_at(time) }?;
    sleep_until(hub, clock::now_ns().saturating_add(time));
    Ok(0)
}

/// # Safety
/// As for `relative`.
unsafe fn absolute(hub: &Hub, id: clockid_t, time: *const timespec) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let moment = unsafe { kernel::time_at(time) }?;
    loop {
        // A clock that can be set is looked at again after the wait.
        let left = moment.saturating_sub(kernel::now(id));
        if hub.refusal().is_some() {
            return Ok(0);
        }
        hub.sleep_quietly(clock::now_ns().saturating_add(left));
        if kernel::now(id) >= moment {
            return Ok(0);
        }
    }
}
