//! `poll` and `ppoll`.
//!
//! The kernel is asked first, without waiting: so what is wrong with the arguments,
//! what is ready by now, and what of it is reported is all the kernel's word. Only
//! when nothing is ready the descriptors are waited for, and then it is asked again.
//!
//! ```text
//!   ppoll, no time ── something, or an error ─────────────▶ that
//!     ▲   │ nothing
//!     │   └─▶ time is over? ─▶ 0
//!     │         another signal mask? ─▶ the system call, which blocks
//!     └──────── park until one may be ready
//! ```
//!
//! Signals do not end a wait, except where the mask makes it a matter of the kernel's.

use std::ffi::c_int;
use std::ptr;

use libc::{nfds_t, pollfd, sigset_t, size_t, timespec};

use super::entry::{Answer, Part, hub, interposed, operation_within, raw};
use super::kernel;
use crate::hub::{Hub, Interest, WatchEnded, bits};
use crate::sys::clock;
use crate::sys::os::Errno;

interposed! {
    Poll;

    /// Waits for descriptors; parks until one is ready.
    fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        let answer = match hub(Part::Poll) {
            // SAFETY: the caller's promise.
            None => unsafe { kernel::poll(fds, count as usize, timeout) },
            Some(hub) => {
                let time = kernel::time_of_millis(timeout);
                // SAFETY: as above.
                unsafe { poll_parking(hub, fds, count, time, ptr::null()) }
            }
        };
        answer.answer() as c_int
    }

    /// Waits for descriptors; parks until one is ready, unless the signal mask is another.
    fn ppoll(
        fds: *mut pollfd,
        count: nfds_t,
        time: *const timespec,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let answer = unsafe {
            match hub(Part::Poll) {
                None => plain(fds, count, time.as_ref().copied(), mask),
                Some(hub) => kernel::time_or_never(time)
                    .and_then(|time| poll_parking(hub, fds, count, time, mask)),
            }
        };
        answer.answer() as c_int
    }

    /// As `poll`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { poll(fds, count, timeout) }
    }

    /// As `poll`; aborts if the array is too small.
    #[cfg(not(target_feature = "crt-static"))]
    fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: size_t) -> c_int {
        super::checked::room_for(count as usize, room / size_of::<pollfd>());
        // SAFETY: the caller's promise.
        unsafe { poll(fds, count, timeout) }
    }

    /// As `ppoll`; aborts if the array is too small.
    #[cfg(not(target_feature = "crt-static"))]
    fn __ppoll_chk(
        fds: *mut pollfd,
        count: nfds_t,
        time: *const timespec,
        mask: *const sigset_t,
        room: size_t,
    ) -> c_int {
        super::checked::room_for(count as usize, room / size_of::<pollfd>());
        // SAFETY: the caller's promise.
        unsafe { ppoll(fds, count, time, mask) }
    }
}

/// The system call. `None` is for ever.
///
/// # Safety
/// As for `ppoll`.
unsafe fn plain(
    fds: *mut pollfd,
    count: nfds_t,
    mut time: Option<timespec>,
    mask: *const sigset_t,
) -> Result<usize, Errno> {
    // The kernel writes into it what is left; libc's functions keep that to themselves.
    let time = time.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: the caller's promise.
    unsafe {
        raw!(
            libc::SYS_ppoll,
            fds,
            count as usize,
            time,
            mask,
            kernel::MASK_SIZE
        )
    }
}

/// # Safety
/// As for `ppoll`.
unsafe fn poll_parking(
    hub: &Hub,
    fds: *mut pollfd,
    count: nfds_t,
    time: Option<u64>,
    mask: *const sigset_t,
) -> Result<usize, Errno> {
    operation_within(hub, time)?;
    // SAFETY: the caller's promise.
    let ready = unsafe {
        match mask.is_null() {
            true => kernel::poll_now(fds, count as usize),
            false => plain(fds, count, Some(kernel::NO_TIME), mask),
        }
    }?;
    if ready > 0 || time == Some(0) {
        return Ok(ready);
    }
    // SAFETY: the kernel has read it.
    if !mask.is_null() && !unsafe { kernel::is_present_mask(mask) } {
        // SAFETY: the caller's promise.
        return unsafe { plain(fds, count, time.map(kernel::timespec_of), mask) };
    }
    let deadline = time.map(|time| clock::now_ns().saturating_add(time));
    let all = Entries { fds, count };
    let mut watch = hub.watch(all.iter().filter_map(|entry| {
        // SAFETY: the kernel has just read and written the array.
        let entry = unsafe { entry.read_unaligned() };
        let wanted = wanted(entry.events);
        (entry.fd >= 0).then_some(Interest {
            fd: entry.fd,
            wanted,
        })
    }));
    loop {
        let ended = watch.park(deadline)?;
        // SAFETY: the caller's promise.
        let ready = unsafe { kernel::poll_now(fds, count as usize) }?;
        if ended == WatchEnded::Closed {
            // SAFETY: as above.
            return Ok(unsafe { all.mark(ready, watch.closed()) });
        }
        if ready > 0 || ended == WatchEnded::TimedOut {
            return Ok(ready);
        }
    }
}

/// What is waited for. The bands mean nothing to any kind of descriptor that can
/// be waited for.
fn wanted(events: i16) -> u32 {
    let asks = |those: i16, bit: u32| if events & those != 0 { bit } else { 0 };
    asks(libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND, bits::IN)
        | asks(
            libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND,
            bits::OUT,
        )
        | asks(libc::POLLPRI, bits::PRI)
        | asks(libc::POLLRDHUP, bits::RDHUP)
}

/// The caller's array, which may change at any time.
struct Entries {
    fds: *mut pollfd,
    count: nfds_t,
}

impl Entries {
    fn iter(&self) -> impl Iterator<Item = *mut pollfd> {
        // The kernel takes the lower half of the number.
        (0..self.count as u32 as usize).map(|at| self.fds.wrapping_add(at))
    }

    /// Marks the descriptors that were closed meanwhile, whatever has their numbers
    /// now, and counts those that are ready anew.
    ///
    /// # Safety
    /// The array is good to be read and written.
    unsafe fn mark(
        &self,
        mut ready: usize,
        closed: impl Iterator<Item = (libc::c_int, bool)>,
    ) -> usize {
        // SAFETY: the caller's promise.
        let named = self
            .iter()
            .filter(|entry| unsafe { entry.read_unaligned() }.fd >= 0);
        for (entry, (fd, is_closed)) in named.zip(closed) {
            // SAFETY: as above.
            let mut now = unsafe { entry.read_unaligned() };
            if is_closed && now.fd == fd && now.revents & libc::POLLNVAL == 0 {
                ready += usize::from(now.revents == 0);
                now.revents = libc::POLLNVAL;
                // SAFETY: as above.
                unsafe { entry.write_unaligned(now) };
            }
        }
        ready
    }
}
