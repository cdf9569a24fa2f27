//! A descriptor that greenlets wait for, with its account with the reactors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::hub::{Direction, Io, Patience};

/// Dropping it takes the descriptor out of the reactors, and closes it.
pub(super) struct Watched {
    io: Io,
    fd: OwnedFd,
}

impl Watched {
    pub(super) fn new(fd: OwnedFd) -> Watched {
        Watched { io: Io::new(), fd }
    }

    /// Runs `operation`, which must not block the thread, until its answer is something else than `WouldBlock`.
    pub(super) fn run<R>(
        &self,
        direction: Direction,
        patience: Patience,
        mut operation: impl FnMut(BorrowedFd<'_>) -> io::Result<R>,
    ) -> io::Result<R> {
        let fd = self.fd.as_fd();
        self.io.run(fd, direction, patience, || operation(fd))
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.io.retire(self.fd.as_fd());
    }
}
