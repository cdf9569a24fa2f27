//! Descriptors that the child of a fork does not get.
//!
//! Some things last as long as anybody has the descriptor: a connection is not at its end, a file is not unlocked.
//! A child that was forked at a bad moment would keep them so, long after the death of its parent. So these
//! descriptors are noted in a list, and closed in the child before anything else happens there:
//!
//! ```text
//!   FIRST ──▶ Node { fd 3 } ──▶ Node { fd 17 } ──▶ Node { free } ──▶ …
//! ```
//!
//! A fork may come at any moment, so the list has no lock: nodes are never freed, but used again.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use super::{fork, os};

struct Node {
    /// Written once, before the node is in the list.
    next: AtomicPtr<Node>,
    fd: AtomicI32,
}

/// The number in a node that nobody uses.
const FREE: RawFd = -1;

static FIRST: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

fn nodes() -> impl Iterator<Item = &'static Node> {
    let mut at = FIRST.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: nodes are leaked boxes; null ends the list.
        let node = unsafe { at.as_ref()? };
        at = node.next.load(Ordering::Relaxed);
        Some(node)
    })
}

/// A descriptor that is closed in the child of a fork.
pub(crate) struct Unforked {
    /// Open in the process of this generation alone.
    fd: ManuallyDrop<OwnedFd>,
    generation: u32,
    node: &'static Node,
}

/// Has a descriptor closed in the child of every fork. Its owner keeps it for good, and leaves it alone in a child.
pub(crate) fn close_in_children(fd: BorrowedFd<'_>) {
    note(fd.as_raw_fd());
}

fn note(fd: RawFd) -> &'static Node {
    fork::watch();
    let take = |node: &&Node| {
        let taken = node
            .fd
            .compare_exchange(FREE, fd, Ordering::AcqRel, Ordering::Relaxed);
        taken.is_ok()
    };
    nodes().find(take).unwrap_or_else(|| add(fd))
}

impl Unforked {
    pub(crate) fn new(fd: OwnedFd) -> Unforked {
        Unforked {
            node: note(fd.as_raw_fd()),
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
            self.node.fd.store(FREE, Ordering::Release);
            // SAFETY: it is open, and not used after this.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

fn add(fd: RawFd) -> &'static Node {
    let node: &'static Node = Box::leak(Box::new(Node {
        next: AtomicPtr::new(FIRST.load(Ordering::Acquire)),
        fd: AtomicI32::new(fd),
    }));
    let new = ptr::from_ref(node).cast_mut();
    loop {
        let next = node.next.load(Ordering::Relaxed);
        match FIRST.compare_exchange(next, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return node,
            Err(first) => node.next.store(first, Ordering::Relaxed),
        }
    }
}

/// In the child of a fork, which has one thread.
pub(super) fn after_fork() {
    for node in nodes() {
        let fd = node.fd.swap(FREE, Ordering::AcqRel);
        if let Ok(fd) = usize::try_from(fd) {
            // SAFETY: its owner knows by the generation that it is not open here.
            let _ = unsafe { os::syscall(libc::SYS_close, [fd, 0, 0, 0]) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::shared;

    #[test]
    fn a_descriptor_is_closed_in_the_child_of_a_fork_and_nowhere_else() {
        let kept = Unforked::new(shared::flag().unwrap());
        let dropped = Unforked::new(shared::flag().unwrap());
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
        shared::set(kept.get().unwrap());
        assert!(shared::is_readable(kept.get().unwrap()));
    }
}
