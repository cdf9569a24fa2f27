//! What the kernel is asked about a descriptor, by system calls that nobody
//! interposes, and the moment in which a blocking descriptor does not block.

use std::ffi::c_int;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;

use libc::{pollfd, socklen_t, timespec, timeval};

use super::entry::raw;
use crate::hub::{Guarded, Monitor};
use crate::sys::clock;
use crate::sys::os::{self, Errno};

/// Whether a descriptor is that of a regular file, a directory or a block device:
/// those are always ready, as `poll` has it, and what they wait for is the disk.
pub(super) fn is_on_disk(fd: RawFd) -> Result<bool, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel writes a `stat`.
    unsafe { raw!(libc::SYS_fstat, fd, stat.as_mut_ptr()) }?;
    // SAFETY: zeroed, and then written.
    let kind = unsafe { stat.assume_init() }.st_mode & libc::S_IFMT;
    Ok(matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK))
}

/// The file status flags.
pub(super) fn status_flags(fd: RawFd) -> Result<c_int, Errno> {
    // SAFETY: the call takes no memory.
    unsafe { raw!(libc::SYS_fcntl, fd, libc::F_GETFL, 0) }.map(|flags| flags as c_int)
}

fn set_status_flags(fd: RawFd, flags: c_int) -> Result<(), Errno> {
    // SAFETY: the call takes no memory.
    unsafe { raw!(libc::SYS_fcntl, fd, libc::F_SETFL, flags) }.map(|_| ())
}

/// A number among a socket's options.
pub(super) fn socket_option(fd: RawFd, option: c_int) -> Result<c_int, Errno> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into an int.
    unsafe {
        raw!(
            libc::SYS_getsockopt,
            fd,
            libc::SOL_SOCKET,
            option,
            &raw mut value,
            &raw mut len
        )
    }?;
    Ok(value)
}

/// One of a socket's two timeouts, as the moment when a wait that begins now ends.
fn socket_deadline(fd: RawFd, option: c_int) -> Option<u64> {
    let mut time = timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let mut len = size_of::<timeval>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into a timeval.
    let answer = unsafe {
        raw!(
            libc::SYS_getsockopt,
            fd,
            libc::SOL_SOCKET,
            option,
            &raw mut time,
            &raw mut len
        )
    };
    let nanos = (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_usec as u64 * 1000);
    (answer.is_ok() && nanos != 0).then(|| clock::now_ns().saturating_add(nanos))
}

/// Until when an operation may wait that would block.
///
/// # Errors
/// EAGAIN, if its user has chosen that it does not.
pub(super) fn patience(fd: RawFd, timeout_option: Option<c_int>) -> Result<Option<u64>, Errno> {
    if status_flags(fd)? & libc::O_NONBLOCK != 0 {
        return Err(libc::EAGAIN);
    }
    Ok(timeout_option.and_then(|option| socket_deadline(fd, option)))
}

/// Until when a socket's operation may wait.
pub(super) fn patience_of_socket(
    fd: RawFd,
    flags: c_int,
    timeout_option: c_int,
) -> Result<Option<u64>, Errno> {
    if flags & libc::MSG_DONTWAIT != 0 {
        return Err(libc::EAGAIN);
    }
    patience(fd, Some(timeout_option))
}

/// What a descriptor is ready for right now.
pub(super) fn ready_for(fd: RawFd, events: i16) -> i16 {
    let mut one = pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one entry, which is a live variable.
    match unsafe { poll_now(&raw mut one, 1) } {
        Ok(_) => one.revents,
        Err(_) => 0,
    }
}

/// What a number of descriptors are ready for right now.
///
/// # Safety
/// As for `poll`; a pointer that is no good is answered with EFAULT.
pub(super) unsafe fn poll_now(fds: *mut pollfd, count: usize) -> Result<usize, Errno> {
    let none = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the caller's promise; without a mask the rest is not looked at.
    unsafe { raw!(libc::SYS_ppoll, fds, count, &raw const none, 0usize, 0usize) }
}

/// A length of time that the caller has given by a pointer, in nanoseconds.
///
/// # Errors
/// EFAULT and EINVAL, as the kernel would say: it is asked.
pub(super) unsafe fn time_at(time: *const timespec) -> Result<u64, Errno> {
    // FUTEX_WAIT reads its timeout first and then finds that the word is not what
    // it is said to be, so it never waits.
    let word = 0u32;
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel checks the pointer.
    let answer = unsafe { raw!(libc::SYS_futex, &raw const word, wait, 1u32, time) };
    match answer {
        Err(libc::EAGAIN) => {
            // SAFETY: the kernel has just read it from there.
            let time = unsafe { time.read_unaligned() };
            Ok((time.tv_sec as u64)
                .saturating_mul(1_000_000_000)
                .saturating_add(time.tv_nsec as u64))
        }
        Err(error) => Err(error),
        Ok(_) => Err(libc::EINVAL),
    }
}

/// Held by whoever changes the flags of a descriptor, or looks at them.
struct Flags;

impl Guarded for Flags {}

static FLAGS: Monitor<Flags, 0> = Monitor::new(Flags);

/// Runs `f` while nobody of this process is in `without_blocking`.
pub(super) fn between_flags<R>(f: impl FnOnce() -> R) -> R {
    let _guard = FLAGS.lock();
    f()
}

/// Runs a system call on a descriptor that blocks as if it did not.
///
/// accept, connect, sendfile and splice have no flag that says so. O_NONBLOCK
/// does, but it belongs to what is open behind the descriptor, which other
/// processes may share. So it is set for the length of this one call, and only
/// if `worthwhile` says that the call is likely to find something.
///
/// Nobody in this process sees that: the lock is taken by `fcntl` and `ioctl` too,
/// where they have to do with these flags. Another process could: see `users_own`.
///
/// # Errors
/// What the call answers; EAGAIN also if it was not worthwhile.
pub(super) fn without_blocking(
    fd: RawFd,
    worthwhile: impl FnOnce() -> bool,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<Attempt, Errno> {
    let _guard = FLAGS.lock();
    let flags = status_flags(fd)?;
    if flags & libc::O_NONBLOCK != 0 {
        return Ok(Attempt::Nonblocking(call()));
    }
    if !worthwhile() {
        return Ok(Attempt::Blocking(Err(libc::EAGAIN)));
    }
    set_status_flags(fd, flags | libc::O_NONBLOCK)?;
    let answer = call();
    // The descriptor may have been closed by the call's side effects only if
    // somebody else did so; then there is nothing to put back.
    let _ = set_status_flags(fd, flags);
    Ok(Attempt::Blocking(answer))
}

/// A call that did not block, and whether its user would have had it block.
pub(super) enum Attempt {
    Blocking(Result<usize, Errno>),
    Nonblocking(Result<usize, Errno>),
}

/// Whether a descriptor is non-blocking by its user's choice. It may also be
/// another process of this crate's that is in `without_blocking` with it, which
/// takes some microseconds.
pub(super) fn users_own(fd: RawFd) -> bool {
    const LOOKS: u32 = 50;
    for _ in 0..LOOKS {
        match status_flags(fd) {
            Ok(flags) if flags & libc::O_NONBLOCK != 0 => os::yield_thread(),
            _ => return false,
        }
    }
    true
}
