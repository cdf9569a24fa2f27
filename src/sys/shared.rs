//! What the kernel keeps for several processes at once: memory that has a descriptor, a lock on it that the death
//! of its owner releases, and a counter that can be waited for.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// A file without a name, in memory. It is as long as what is written to it.
pub(crate) fn memory() -> io::Result<File> {
    // SAFETY: the name ends with a zero byte.
    let fd = unsafe { libc::memfd_create(c"greenlet".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and ours.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}
