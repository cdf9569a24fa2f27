//! What the kernel keeps for several processes at once: memory that has a descriptor, a lock on it that the death
//! of its owner releases, and a flag that can be waited for.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::os;

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

/// A file that is open for this user alone: nobody else has it locked.
///
/// It is opened anew each time, since a lock belongs to an open file: two threads, or a process and the child that
/// it has forked, that used one descriptor would not keep each other out. Dropping it closes it, and so does the
/// end of the process, in whatever way that comes: then it is unlocked.
pub(crate) struct Locked(File);

impl Locked {
    /// Waits for the lock, and blocks the thread: it is held for no longer than a few system calls take.
    pub(crate) fn open(file: BorrowedFd<'_>) -> io::Result<Locked> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened = File::options().read(true).write(true).open(path)?;
        flock(&opened, libc::LOCK_EX).map_err(io::Error::from_raw_os_error)?;
        Ok(Locked(opened))
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

fn flock(file: &File, what: libc::c_int) -> Result<(), os::Errno> {
    loop {
        let arguments = [file.as_raw_fd() as usize, what as usize, 0, 0];
        // SAFETY: the call takes no memory.
        match unsafe { os::syscall(libc::SYS_flock, arguments) } {
            Err(libc::EINTR) => {}
            answer => return answer.map(|_| ()),
        }
    }
}

/// Gives the memory of a part of a file back. What is read there is zeros from then on.
pub(crate) fn give_back(file: &File, from: u64, len: u64) {
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the call takes no memory. Where it fails, the memory stays in use.
    unsafe { libc::fallocate(file.as_raw_fd(), how, from as i64, len as i64) };
}

/// An eventfd. It counts; more than zero is "set", and makes it readable.
pub(crate) fn flag() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a flag: whoever waits for it is told, also where it was set already.
pub(crate) fn set(flag: BorrowedFd<'_>) {
    let one = 1u64;
    let arguments = [flag.as_raw_fd() as usize, (&raw const one) as usize, 8, 0];
    // SAFETY: write(2) reads eight bytes of a live variable. It fails only where the count is at its end: set.
    let _ = unsafe { os::syscall(libc::SYS_write, arguments) };
}

/// Clears a flag.
pub(crate) fn clear(flag: BorrowedFd<'_>) {
    let mut count = 0u64;
    let arguments = [flag.as_raw_fd() as usize, (&raw mut count) as usize, 8, 0];
    // SAFETY: read(2) writes eight bytes to a live variable. It fails only where the flag is not set.
    let _ = unsafe { os::syscall(libc::SYS_read, arguments) };
}

/// Whether a descriptor is readable, which is whether a flag is set, or a process has ended.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let arguments = [(&raw mut poll) as usize, 1, (&raw const now) as usize, 0];
    // SAFETY: the kernel reads and writes one pollfd, reads one time, and no mask.
    let answer = unsafe { os::syscall(libc::SYS_ppoll, arguments) };
    answer == Ok(1) && poll.revents & libc::POLLIN != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_flag_is_set_until_it_is_cleared() {
        let flag = flag().unwrap();
        let flag = flag.as_fd();
        assert!(!is_readable(flag));
        clear(flag);
        set(flag);
        set(flag);
        assert!(is_readable(flag));
        clear(flag);
        assert!(!is_readable(flag));
    }

    #[test]
    fn a_locked_file_is_locked_for_all_others_until_it_is_dropped() {
        let file = memory().unwrap();
        let locked = Locked::open(file.as_fd()).unwrap();
        locked.write_all_at(b"x", 0).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(&byte, b"x");
        let busy = flock(&file, libc::LOCK_EX | libc::LOCK_NB);
        assert_eq!(busy, Err(libc::EWOULDBLOCK));
        drop(locked);
        assert!(Locked::open(file.as_fd()).is_ok());
    }

    #[test]
    fn memory_that_was_given_back_is_zeros() {
        let file = memory().unwrap();
        file.write_all_at(&[7; 9000], 0).unwrap();
        give_back(&file, 0, 8192);
        let mut bytes = [1; 9000];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[..8192].iter().all(|byte| *byte == 0) && bytes[8192] == 7);
    }
}
