//! Waiting for a signal that is blocked: `sigwait` and its kin.
//!
//! The kernel gives a signal to the OS thread that asks for it, and wakes one that waits in
//! the call. A greenlet does not wait there, and so it asks now and then.

use std::ffi::c_int;
use std::ptr;
use std::time::Duration;

use libc::{siginfo_t, sigset_t, timespec};

use super::again;
use super::entry::{self, Answer, Part, hub, interposed, raw};
use super::kernel::{self, NO_TIME};
use crate::sys::clock;
use crate::sys::os::Errno;

/// What the kernel takes for the size of a set.
const SET: usize = 8;
/// How far two questions are apart at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

interposed! {
    Process;

    /// Waits for a signal that is blocked; asks every 1 to 10 ms, and others run meanwhile.
    fn sigwait(set: *const sigset_t, signal: *mut c_int) -> c_int {
        loop {
            // SAFETY: the caller's promise.
            match unsafe { wait(set, ptr::null_mut(), ptr::null()) } {
                Ok(number) => {
                    // SAFETY: as above.
                    unsafe { signal.write(number as c_int) };
                    return 0;
                }
                // It is not among those that POSIX has for it.
                Err(libc::EINTR) => {}
                Err(error) => return error,
            }
        }
    }

    /// As `sigwait`.
    fn sigwaitinfo(set: *const sigset_t, info: *mut siginfo_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { wait(set, info, ptr::null()) }.answer() as c_int
    }

    /// As `sigwait`.
    fn sigtimedwait(
        set: *const sigset_t,
        info: *mut siginfo_t,
        time: *const timespec,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { wait(set, info, time) }.answer() as c_int
    }
}

/// # Safety
/// The pointers may be no good, and then the kernel says so.
unsafe fn wait(
    set: *const sigset_t,
    info: *mut siginfo_t,
    time: *const timespec,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let ask =
        |time: *const timespec| unsafe { raw!(libc::SYS_rt_sigtimedwait, set, info, time, SET) };
    let Some(hub) = hub(Part::Process) else {
        return ask(time);
    };
    // SAFETY: as above.
    let time = unsafe { kernel::time_or_never(time) }?;
    entry::operation_within(hub, time)?;
    let deadline = time.map(|time| clock::now_ns().saturating_add(time));
    let no_time = NO_TIME;
    again::until_answered(hub, deadline, LONGEST_PAUSE, || ask(&raw const no_time))
}
