//! What blocks on files: locks and syncs.
//!
//! A sync is the disk's to do, so a helper thread waits for it, to its end: what is
//! written is written, whether or not the greenlet is to end.
//!
//! Who waits for a lock asks again, at growing intervals. No helper could wait for it,
//! as a lock belongs to what is open, or to the process, and not to who asked for it:
//!
//! ```text
//!   greenlet   flock ── is killed, leaves      flock again ── gets it
//!   helper       └───────── waits ───────────────── gets it ── gives it back ✗
//! ```
//!
//! One whom nobody waits for any more would take the lock from under a later one. For
//! the same reason there is no EDEADLK: the kernel sees nobody wait.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::time::Duration;

use super::again;
use super::entry::{Answer, Part, hub, interposed, raw};
use super::kernel;
use crate::hub::Hub;
use crate::offload;
use crate::sys::os::Errno;

/// How far two questions for a lock are apart at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(32);

interposed! {
    Files;

    /// Locks a file; parks until it is free.
    fn flock(fd: c_int, operation: c_int) -> c_int {
        // SAFETY: the call takes no memory.
        let call = |operation: c_int| unsafe { raw!(libc::SYS_flock, fd, operation) };
        let answer = match hub(Part::Files) {
            Some(hub) if operation & (libc::LOCK_NB | libc::LOCK_UN) == 0 => {
                until_free(hub, || call(operation | libc::LOCK_NB))
            }
            _ => call(operation),
        };
        answer.answer() as c_int
    }

    /// Writes a file to its disk, on a helper thread.
    fn fsync(fd: c_int) -> c_int {
        sync(fd, libc::SYS_fsync).answer() as c_int
    }

    /// Writes a file's contents to its disk, on a helper thread.
    fn fdatasync(fd: c_int) -> c_int {
        sync(fd, libc::SYS_fdatasync).answer() as c_int
    }
}

fn sync(fd: RawFd, number: libc::c_long) -> Result<usize, Errno> {
    // SAFETY: the call takes no memory.
    let call = move || unsafe { raw!(number, fd) };
    match hub(Part::Files) {
        // The descriptor itself, no duplicate: to close one of those would give up the
        // process's record locks of the file.
        Some(hub) if kernel::is_on_disk(fd)? => offload::to_its_end(hub, call)?,
        _ => call(),
    }
}

/// `fcntl` with one of the two commands that wait for a record lock.
///
/// # Safety
/// As for `fcntl`.
pub(super) unsafe fn lock_record(
    fd: RawFd,
    command: c_int,
    argument: usize,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let call = |command: c_int| unsafe { raw!(libc::SYS_fcntl, fd, command, argument) };
    let attempt = match command {
        libc::F_OFD_SETLKW => libc::F_OFD_SETLK,
        _ => libc::F_SETLK,
    };
    match hub(Part::Files) {
        Some(hub) => until_free(hub, || match call(attempt) {
            Err(libc::EACCES) => Err(libc::EAGAIN),
            answer => answer,
        }),
        None => call(command),
    }
}

/// Tries until the lock is free.
fn until_free(hub: &Hub, attempt: impl FnMut() -> Result<usize, Errno>) -> Result<usize, Errno> {
    match hub.refusal() {
        Some(error) => Err(error),
        None => again::until_answered(hub, None, LONGEST_PAUSE, attempt),
    }
}
