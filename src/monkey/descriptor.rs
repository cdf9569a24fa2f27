//! What changes whose a descriptor number is, or how it behaves.
//!
//! None of these waits, but for record locks. They are here for others: who waits for
//! a number that is closed gets EBADF; and who asks for a descriptor's flags does not
//! see those of the moment in which a greenlet's accept does not block.
//!
//! Nor does anybody close the hub's own descriptors here, who closes all that there
//! may be: for the calls that close, nothing is open under those numbers.

use std::ffi::{c_int, c_long, c_uint, c_ulong, c_void};

use libc::socklen_t;

use super::disk;
use super::entry::{Answer, interposed, is_any_on, raw};
use super::kernel;
use crate::hub;
use crate::sys::os::{self, Errno};

interposed! {
    Sockets;

    /// Closes; greenlets that wait for the descriptor get EBADF.
    fn close(fd: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let call = || unsafe { raw!(libc::SYS_close, fd) };
        let answer = match is_told() {
            true if hub::is_own(fd) => Err(libc::EBADF),
            true => hub::closing(fd, call),
            false => call(),
        };
        answer.answer() as c_int
    }

    /// As `close`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __close(fd: c_int) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { close(fd) }
    }

    /// Closes what had the new number, as `close` does.
    fn dup2(old: c_int, new: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let call = || unsafe { raw!(libc::SYS_dup3, old, new, 0) };
        let answer = match old == new {
            // SAFETY: as above. dup3 would refuse this.
            true => unsafe { raw!(libc::SYS_fcntl, old, libc::F_GETFD, 0) }.map(|_| new as usize),
            false if is_told() && is_open(old) => hub::replacing(new, call),
            false => call(),
        };
        answer.answer() as c_int
    }

    /// Closes what had the new number, as `close` does.
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let call = || unsafe { raw!(libc::SYS_dup3, old, new, flags) };
        let is_good = old != new && flags & !libc::O_CLOEXEC == 0;
        let answer = match is_good && is_told() && is_open(old) {
            true => hub::replacing(new, call),
            false => call(),
        };
        answer.answer() as c_int
    }

    /// Closes a range of descriptors, as `close` does.
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        // SAFETY: the caller's promise.
        let plain = |first: c_uint, last: c_uint| unsafe {
            raw!(libc::SYS_close_range, first, last, flags)
        };
        // With other flags it closes nothing, or does not know them.
        let closes = flags & !(libc::CLOSE_RANGE_UNSHARE as c_int) == 0 && first <= last;
        let answer = match closes && is_told() {
            true => {
                let call = || around_our_own(first, last, plain);
                let answer = hub::closing_range(first, last, call);
                hub::all_look_again();
                answer
            }
            false => plain(first, last),
        };
        answer.answer() as c_int
    }

    /// Closes all descriptors from a number on, as `close` does.
    fn closefrom(first: c_int) {
        let first = c_uint::try_from(first).unwrap_or(0);
        let saved = os::errno();
        // SAFETY: the caller's promise.
        if unsafe { close_range(first, c_uint::MAX, 0) } != 0 {
            // As libc does where there is no such call: one by one. It could tell how
            // many there are by /proc; so can we, by the size of the table.
            let room = os::proc_field(c"/proc/self/status", b"FDSize:").unwrap_or(0);
            for fd in first as usize..room {
                // SAFETY: as above.
                unsafe { close(fd as c_int) };
            }
        }
        os::set_errno(saved);
    }

    /// Passes through, in turn with those that change the descriptor's flags.
    ///
    /// In C it takes any number of arguments; the third is all there ever is.
    fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { control(fd, command, argument) }.answer() as c_int
    }

    /// Passes through, in turn with those that change the descriptor's flags.
    fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { control(fd, command, argument) }.answer() as c_int
    }

    /// Passes through, in turn with those that change the descriptor's flags.
    fn ioctl(fd: c_int, request: c_ulong, argument: usize) -> c_int {
        // SAFETY: the caller's promise.
        let call = || unsafe { raw!(libc::SYS_ioctl, fd, request as usize, argument) };
        let answer = match request {
            NON_BLOCKING if is_told() => kernel::between_flags(call),
            _ => call(),
        };
        look_at(libc::SYS_ioctl, request as usize, 0);
        answer.answer() as c_int
    }

    /// Passes through; new timeouts count for every operation that begins from then on.
    fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_void,
        len: socklen_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let answer = unsafe { raw!(libc::SYS_setsockopt, fd, level, name, value, len) };
        look_at(libc::SYS_setsockopt, level as usize, name as usize);
        answer.answer() as c_int
    }
}

/// Has what is remembered of descriptors forgotten, if a system call that has just been
/// made may have changed their flags or timeouts. It gets the second argument of the
/// call, and the third.
pub(super) fn look_at(number: c_long, second: usize, third: usize) {
    let changes = match number {
        libc::SYS_fcntl => second as c_int == libc::F_SETFL,
        libc::SYS_ioctl => second as c_ulong == NON_BLOCKING,
        libc::SYS_setsockopt => {
            second as c_int == libc::SOL_SOCKET && TIMEOUTS.contains(&(third as c_int))
        }
        _ => false,
    };
    if changes && is_any_on() {
        hub::descriptor_changed();
    }
}

const NON_BLOCKING: c_ulong = libc::FIONBIO as c_ulong;

/// SO_RCVTIMEO and SO_SNDTIMEO, and both for times of 64 bits everywhere.
const TIMEOUTS: [c_int; 4] = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO, 66, 67];

/// Whether anybody may have to hear of it. Not from a signal handler, which may
/// stand in the middle of what would tell them.
#[inline(always)]
fn is_told() -> bool {
    is_any_on() && !hub::passes_through()
}

/// Makes the call for what is between our own descriptors.
fn around_our_own(
    first: c_uint,
    last: c_uint,
    mut call: impl FnMut(c_uint, c_uint) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut from = first;
    for own in hub::own_within(first, last) {
        let own = own as c_uint;
        if from < own {
            call(from, own - 1)?;
        }
        from = own + 1;
    }
    match from <= last {
        true => call(from, last),
        false => Ok(0),
    }
}

fn is_open(fd: c_int) -> bool {
    // SAFETY: the call takes no memory.
    unsafe { raw!(libc::SYS_fcntl, fd, libc::F_GETFD, 0) }.is_ok()
}

/// # Safety
/// As for `fcntl`.
unsafe fn control(fd: c_int, command: c_int, argument: usize) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let call = || unsafe { raw!(libc::SYS_fcntl, fd, command, argument) };
    let answer = match command {
        libc::F_GETFL | libc::F_SETFL if is_told() => kernel::between_flags(call),
        // SAFETY: as above.
        libc::F_SETLKW | libc::F_OFD_SETLKW => unsafe { disk::lock_record(fd, command, argument) },
        _ => call(),
    };
    look_at(libc::SYS_fcntl, command as usize, 0);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_range_is_closed_around_what_is_our_own() {
        // The hub of this thread gets its descriptors when it sleeps first.
        while hub::own_within(0, 10_000).next().is_none() {
            crate::sleep(std::time::Duration::from_millis(1));
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!hub::is_own(file.as_raw_fd()));
        let all: Vec<_> = hub::own_within(0, 10_000).map(|fd| fd as c_uint).collect();
        let last = *all.last().unwrap();
        let mut asked = Vec::new();
        let answer = around_our_own(0, last, |first, last| {
            asked.extend(first..=last);
            Ok(0)
        });
        assert_eq!(answer, Ok(0));
        // Other tests' hubs come and go meanwhile.
        assert!(asked.is_sorted() && asked.len() < last as usize + 1);
        let failed = around_our_own(0, last + 1, |_, _| Err(libc::EINVAL));
        assert_eq!(failed, Err(libc::EINVAL));
    }
}
