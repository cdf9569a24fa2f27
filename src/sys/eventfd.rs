//! A flag that can be waited for: an eventfd. It counts; more than zero is "set", and makes it readable.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::os;

/// One that is not set. It does not block, and is closed by exec.
pub(crate) fn new() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets it: whoever waits for it is told, also where it was set already. Async-signal-safe.
pub(crate) fn set(flag: BorrowedFd<'_>) {
    let one = 1u64;
    let arguments = [flag.as_raw_fd() as usize, (&raw const one) as usize, 8, 0];
    // SAFETY: write(2) reads eight bytes of a live variable. It fails only where the count is at its end: set.
    let _ = unsafe { os::syscall(libc::SYS_write, arguments) };
}

/// Clears it.
pub(crate) fn clear(flag: BorrowedFd<'_>) {
    let mut count = 0u64;
    let arguments = [flag.as_raw_fd() as usize, (&raw mut count) as usize, 8, 0];
    // SAFETY: read(2) writes eight bytes to a live variable. It fails only where the flag is not set.
    let _ = unsafe { os::syscall(libc::SYS_read, arguments) };
}

#[cfg(all(test, feature = "process"))]
mod tests {
    use super::*;
    use crate::sys::shared::is_readable;
    use std::os::fd::AsFd;

    #[test]
    fn a_flag_is_set_until_it_is_cleared() {
        let flag = new().unwrap();
        let flag = flag.as_fd();
        assert!(!is_readable(flag));
        clear(flag);
        set(flag);
        set(flag);
        assert!(is_readable(flag));
        clear(flag);
        assert!(!is_readable(flag));
    }
}
