//! What the kernel keeps for several processes at once: memory that has a descriptor, and a lock on it that the
//! death of its owner releases. (The third is an [`eventfd`](super::eventfd).)

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::unforked::Unforked;
use super::{fork, os};

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

/// A file that processes lock while they change it.
///
/// A lock belongs to an open file, and is gone when the last descriptor of that is closed: at the latest by the end
/// of the process, in whatever way that comes. So each process opens the file for itself, and does not let the
/// children that it forks have that descriptor. Its threads keep each other out by a lock of their own. In the
/// child of a fork that one may never come free; there the file is opened anew each time.
pub(crate) struct Lockable {
    file: File,
    own: Mutex<Unforked>,
    generation: u32,
}

impl Lockable {
    pub(crate) fn new(file: File) -> io::Result<Lockable> {
        let own = Mutex::new(Unforked::new(open_again(&file)?.into()));
        Ok(Lockable {
            file,
            own,
            generation: fork::generation(),
        })
    }

    /// Waits for the lock, and blocks the thread: it is held for no longer than a few system calls take.
    pub(crate) fn lock(&self) -> io::Result<Locked<'_>> {
        let opened = match self.generation == fork::generation() {
            true => {
                let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
                let fd = own.get().ok_or(io::ErrorKind::NotFound)?;
                flock(fd, libc::LOCK_EX).map_err(io::Error::from_raw_os_error)?;
                Opened::Before(own)
            }
            false => {
                let opened = open_again(&self.file)?;
                flock(opened.as_fd(), libc::LOCK_EX).map_err(io::Error::from_raw_os_error)?;
                Opened::Now(opened)
            }
        };
        Ok(Locked {
            file: &self.file,
            opened,
        })
    }

    /// The file, for those who only read.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// A [`Lockable`], locked until this is dropped.
pub(crate) struct Locked<'a> {
    file: &'a File,
    opened: Opened<'a>,
}

enum Opened<'a> {
    Before(MutexGuard<'a, Unforked>),
    Now(#[allow(dead_code, reason = "closing it unlocks it")] File),
}

impl Deref for Locked<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        self.file
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Opened::Before(own) = &self.opened {
            if let Some(fd) = own.get() {
                // Unlocking what is locked does not fail.
                let _ = flock(fd, libc::LOCK_UN);
            }
        }
    }
}

fn open_again(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().read(true).write(true).open(path)
}

fn flock(file: BorrowedFd<'_>, what: libc::c_int) -> Result<(), os::Errno> {
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
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_locked_file_is_locked_for_all_others_until_it_is_dropped() {
        let file = Lockable::new(memory().unwrap()).unwrap();
        let other = Lockable::new(file.file().try_clone().unwrap()).unwrap();
        let locked = file.lock().unwrap();
        locked.write_all_at(b"x", 0).unwrap();
        let mut byte = [0];
        other.file().read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(&byte, b"x");
        let busy = || {
            let own = other.own.lock().unwrap();
            flock(own.get().unwrap(), libc::LOCK_EX | libc::LOCK_NB)
        };
        assert_eq!(busy(), Err(libc::EWOULDBLOCK));
        drop(locked);
        assert_eq!(busy(), Ok(()));
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
