//! Descriptors that the child of a fork does not get.
//!
//! Some things last as long as anybody has the descriptor: a connection is not at its end, a file is not unlocked.
//! A child that was forked at a bad moment would keep them so, long after the death of its parent. So these
//! descriptors are noted in a list, and closed in the child before anything else happens there:
//!
//! ```text
//!   NOTED ──▶ fd 3 ──▶ fd 17 ──▶ free ──▶ …
//! ```
//!
//! A fork may come at any moment, and finds a list without a lock.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use super::list::List;
use super::{fork, os};

/// The descriptors; [`FREE`] where nobody uses the place.
static NOTED: List<AtomicI32> = List::new();

const FREE: RawFd = -1;

/// A descriptor that is closed in the child of a fork.
pub(crate) struct Unforked {
    /// Open in the process of this generation alone.
    fd: ManuallyDrop<OwnedFd>,
    generation: u32,
    noted: &'static AtomicI32,
}

/// Has a descriptor closed in the child of every fork. Its owner keeps it for good, and leaves it alone in a child.
pub(crate) fn close_in_children(fd: BorrowedFd<'_>) {
    note(fd.as_raw_fd());
}

fn note(fd: RawFd) -> &'static AtomicI32 {
    fork::watch();
    let take = |noted: &&AtomicI32| {
        let taken = noted.compare_exchange(FREE, fd, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    };
    let free = NOTED.iter().find(take);
    free.unwrap_or_else(|| NOTED.add(AtomicI32::new(fd)))
}

impl Unforked {
    pub(crate) fn new(fd: OwnedFd) -> Unforked {
        Unforked {
            noted: note(fd.as_raw_fd()),
            fd: ManuallyDrop::new(fd),
            generation: fork::generation(),
        }
    }

    /// The descriptor; none in the child of a fork.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        (self.generation == fork::generation()).then(|| self.fd.as_fd())
    }
}

impl Drop for Unforked {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            self.noted.store(FREE, Ordering::Release);
            // SAFETY: it is open, and not used after this.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

/// In the child of a fork, which has one thread.
pub(super) fn after_fork() {
    for noted in NOTED.iter() {
        let fd = noted.swap(FREE, Ordering::AcqRel);
        if let Ok(fd) = usize::try_from(fd) {
            // SAFETY: its owner knows by the generation that it is not open here.
            let _ = unsafe { os::syscall(libc::SYS_close, [fd, 0, 0, 0]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{eventfd, shared};

    #[test]
    fn a_descriptor_is_closed_in_the_child_of_a_fork_and_nowhere_else() {
        let kept = Unforked::new(eventfd::new().unwrap());
        let dropped = Unforked::new(eventfd::new().unwrap());
        let number = kept.get().unwrap().as_raw_fd();
        drop(dropped);
        // SAFETY: the child makes system calls only, and leaves.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: the calls take no memory.
            unsafe {
                let closed = libc::fcntl(number, libc::F_GETFD) == -1;
                let gone = kept.get().is_none();
                libc::_exit(i32::from(!(closed && gone)));
            }
        }
        let mut status = 1;
        // SAFETY: the status is a live variable.
        unsafe { libc::waitpid(child, &mut status, 0) };
        assert_eq!(status, 0);
        assert_eq!(kept.get().unwrap().as_raw_fd(), number);
        eventfd::set(kept.get().unwrap());
        assert!(shared::is_readable(kept.get().unwrap()));
    }
}
