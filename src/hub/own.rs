//! The hub's own descriptors, in a process where others close what they did not open.
//!
//! ```text
//!   close_range(3, …)    a daemon's loop over all numbers    dup2(log, 7)
//! ```
//!
//! Whoever does that means what is left over from before, and does not know that
//! there is an epoll set, and the eventfd by which other threads wake this one. So
//! the numbers are known, and the interposed calls pass them by, as if nothing were
//! open there. What cannot be kept from it (a system call of their own, a `dup2` to
//! that very number) is found out, and the reactor is made anew.
//!
//! What is lost like that is never closed: the number may be somebody else's by now.

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use super::inbox::Wake;
use super::numbers::Numbers;
use crate::sys::os;

static OWN: Numbers = Numbers::new();

/// Whether a descriptor is one of ours.
#[inline]
pub(crate) fn is_own(fd: RawFd) -> bool {
    OWN.contains(fd)
}

/// Ours between two numbers, both included.
pub(crate) fn own_within(first: u32, last: u32) -> impl Iterator<Item = RawFd> {
    OWN.within(first, last)
}

/// In the child of a fork none of the parent's is of use.
pub(super) fn forget_own() {
    OWN.clear();
}

/// Says that a number is ours until this is dropped, which comes before the
/// descriptor is closed.
pub(super) struct Own(RawFd);

impl Own {
    pub(super) fn mark(fd: RawFd) -> Own {
        OWN.insert(fd);
        Own(fd)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        OWN.remove(self.0);
    }
}

/// Gets a hub out of its sleep, from any thread: an eventfd, which can be replaced
/// by another when it is lost.
pub(crate) struct Bell {
    fd: AtomicI32,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        let bell = Bell {
            fd: AtomicI32::new(-1),
        };
        bell.renew()?;
        Ok(bell)
    }

    /// Makes a new one, and lets the old one be.
    pub(super) fn renew(&self) -> io::Result<()> {
        // SAFETY: eventfd has no preconditions.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OWN.insert(fd);
        OWN.remove(self.fd.swap(fd, Ordering::AcqRel));
        Ok(())
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.load(Ordering::Acquire)
    }

    fn add(&self, number: u64) -> Result<usize, os::Errno> {
        let args = [self.fd() as usize, &raw const number as usize, 8, 0];
        // SAFETY: the kernel reads eight bytes of a live variable.
        unsafe { os::syscall(libc::SYS_write, args) }
    }
}

impl Wake for Bell {
    fn wake(&self) {
        // Nobody reads it, for each write is an edge. After 2^64 of them it is full.
        if self.add(1) == Err(libc::EAGAIN) {
            let mut count = 0u64;
            let args = [self.fd() as usize, &raw mut count as usize, 8, 0];
            // SAFETY: the kernel writes eight bytes into a live variable.
            let _ = unsafe { os::syscall(libc::SYS_read, args) };
            // It fails only where the eventfd is gone, and the hub with it.
            let _ = self.add(1);
        }
    }
}

impl Drop for Bell {
    fn drop(&mut self) {
        let fd = self.fd();
        OWN.remove(fd);
        // SAFETY: the descriptor is ours, and nobody uses it after this.
        let _ = unsafe { os::syscall(libc::SYS_close, [fd as usize, 0, 0, 0]) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_that_is_renewed_has_another_number_and_rings() {
        let bell = Bell::new().unwrap();
        let old = bell.fd();
        bell.renew().unwrap();
        let new = bell.fd();
        assert!(old != new && is_own(new) && !is_own(old));
        bell.wake();
        let mut count = 0u64;
        // SAFETY: the buffer is a live variable of that length.
        let read = unsafe { libc::read(new, (&raw mut count).cast(), 8) };
        assert_eq!((read, count), (8, 1));
        // SAFETY: nobody else knows it.
        unsafe { libc::close(old) };
        drop(bell);
        assert!(!is_own(new));
    }

    #[test]
    fn a_full_bell_rings() {
        let bell = Bell::new().unwrap();
        assert_eq!(bell.add(u64::MAX - 1), Ok(8));
        bell.wake();
        let mut count = 0u64;
        // SAFETY: the buffer is a live variable of that length.
        unsafe { libc::read(bell.fd(), (&raw mut count).cast(), 8) };
        assert_eq!(count, 1);
    }
}
