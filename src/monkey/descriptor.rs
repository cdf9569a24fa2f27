//! What changes whose a descriptor number is, or how it behaves.
//!
//! None of these waits. They are here for others: who waits for a number that is
//! closed gets EBADF; and who asks for a descriptor's flags does not see those of
//! the moment in which a greenlet's accept does not block.

use std::ffi::{c_int, c_uint, c_ulong};

use super::entry::{Answer, interposed, is_any_on, raw};
use super::kernel;
use crate::hub;
use crate::sys::os::Errno;
use crate::sys::pass;

interposed! {
    Sockets;

    /// Closes; greenlets that wait for the descriptor get EBADF.
    fn close(fd: c_int) -> c_int {
        if is_told() {
            hub::closing(fd);
        }
        // SAFETY: the caller's promise.
        unsafe { raw!(libc::SYS_close, fd) }.answer() as c_int
    }

    /// Closes what had the new number, as `close` does.
    fn dup2(old: c_int, new: c_int) -> c_int {
        if old != new && is_told() && is_open(old) {
            hub::closing(new);
        }
        let answer = match old == new {
            // SAFETY: the caller's promise. dup3 would refuse this.
            true => unsafe { raw!(libc::SYS_fcntl, old, libc::F_GETFD, 0) }.map(|_| new as usize),
            // SAFETY: as above.
            false => unsafe { raw!(libc::SYS_dup3, old, new, 0) },
        };
        answer.answer() as c_int
    }

    /// Closes what had the new number, as `close` does.
    fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
        if old != new && flags & !libc::O_CLOEXEC == 0 && is_told() && is_open(old) {
            hub::closing(new);
        }
        // SAFETY: the caller's promise.
        unsafe { raw!(libc::SYS_dup3, old, new, flags) }.answer() as c_int
    }

    /// Closes a range of descriptors, as `close` does.
    fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
        if flags & libc::CLOSE_RANGE_CLOEXEC as c_int == 0 && first <= last && is_told() {
            hub::closing_range(first, last);
        }
        // SAFETY: the caller's promise.
        unsafe { raw!(libc::SYS_close_range, first, last, flags) }.answer() as c_int
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
        let answer = match request == libc::FIONBIO as c_ulong && is_told() {
            true => kernel::between_flags(call),
            false => call(),
        };
        answer.answer() as c_int
    }
}

/// Whether anybody may have to hear of it. Not from a signal handler, which may
/// stand in the middle of what would tell them.
#[inline(always)]
fn is_told() -> bool {
    is_any_on() && !pass::is_set()
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
    match command {
        libc::F_GETFL | libc::F_SETFL if is_told() => kernel::between_flags(call),
        _ => call(),
    }
}

