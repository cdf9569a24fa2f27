//! `epoll_wait` and its kin, where somebody asks for them, and in isolated greenlets.
//!
//! An epoll set is a descriptor like others: it is ready to be read when something
//! in it is. So it is asked without waiting first, and waited for as `poll` does.

use std::ffi::c_int;
use std::ptr;

use libc::{epoll_event, sigset_t, timespec};

use super::entry::{Answer, Part, hub_of_thread, interposed, operation_within, raw};
use super::kernel;
use crate::hub::{Hub, Interest, WatchEnded, bits};
use crate::sys::clock;
use crate::sys::os::Errno;

interposed! {
    Epoll;

    /// Waits for events; parks until there is one.
    fn epoll_wait(set: c_int, events: *mut epoll_event, most: c_int, timeout: c_int) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { epoll_pwait(set, events, most, timeout, ptr::null()) }
    }

    /// Waits for events; parks until there is one, unless the signal mask is another.
    fn epoll_pwait(
        set: c_int,
        events: *mut epoll_event,
        most: c_int,
        timeout: c_int,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let plain = || unsafe { ask(set, events, most, timeout, mask) };
        let answer = match hub_of_thread(Part::Epoll) {
            None => plain(),
            Some((hub, _waits)) => {
                let time = kernel::time_of_millis(timeout);
                // SAFETY: as above.
                unsafe { wait_parking(hub, set, events, most, time, mask, plain) }
            }
        };
        answer.answer() as c_int
    }

    /// Waits for events; parks until there is one, unless the signal mask is another.
    fn epoll_pwait2(
        set: c_int,
        events: *mut epoll_event,
        most: c_int,
        time: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        let size = kernel::MASK_SIZE;
        // SAFETY: the caller's promise.
        let plain = || unsafe {
            raw!(libc::SYS_epoll_pwait2, set, events, most, time, mask, size)
        };
        let answer = match hub_of_thread(Part::Epoll) {
            None => plain(),
            // SAFETY: as above.
            Some((hub, _waits)) => match unsafe { kernel::time_or_never(time) } {
                // SAFETY: as above.
                Ok(time) => unsafe { wait_parking(hub, set, events, most, time, mask, plain) },
                Err(error) => Err(error),
            },
        };
        answer.answer() as c_int
    }
}

/// # Safety
/// As for `epoll_pwait`.
unsafe fn ask(
    set: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> Result<usize, Errno> {
    let size = kernel::MASK_SIZE;
    // SAFETY: the caller's promise.
    unsafe {
        raw!(
            libc::SYS_epoll_pwait,
            set,
            events,
            most,
            timeout,
            mask,
            size
        )
    }
}

/// # Safety
/// As for `epoll_pwait`.
unsafe fn wait_parking(
    hub: &Hub,
    set: c_int,
    events: *mut epoll_event,
    most: c_int,
    time: Option<u64>,
    mask: *const sigset_t,
    plain: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    operation_within(hub, time)?;
    // SAFETY: the caller's promise.
    let ready = unsafe { ask(set, events, most, 0, mask) }?;
    if ready > 0 || time == Some(0) {
        return Ok(ready);
    }
    // SAFETY: the kernel has read it.
    if !mask.is_null() && !unsafe { kernel::is_present_mask(mask) } {
        return plain();
    }
    let deadline = time.map(|time| clock::now_ns().saturating_add(time));
    let mut watch = hub.watch([Interest {
        fd: set,
        wanted: bits::IN,
    }]);
    loop {
        let ended = watch.park(deadline)?;
        if ended == WatchEnded::Closed {
            return Err(libc::EBADF);
        }
        // SAFETY: the caller's promise.
        let ready = unsafe { ask(set, events, most, 0, ptr::null()) }?;
        if ready > 0 || ended == WatchEnded::TimedOut {
            return Ok(ready);
        }
    }
}
