//! `read` and `write` and their kin: on sockets, pipes, terminals and the rest.
//!
//! ```text
//!   read ─▶ recv, without waiting ── ENOTSOCK ─▶ what is it?
//!             │                                   disk: read
//!             ▼                                   other: preadv2(RWF_NOWAIT)
//!           answer, or park                         │         │ EOPNOTSUPP
//!                                                   ▼         ▼
//!                                            answer, or park  poll, then read
//! ```
//!
//! A terminal knows no way to be read without waiting, nor does a named pipe. They
//! are asked whether there is something, and then read: with two readers the second
//! may block the thread.
//!
//! Standard output and standard error never park. Their lock in std is one of the
//! thread's, and a second greenlet would be let in.

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::RawFd;
use std::ptr;

use libc::{iovec, msghdr, size_t, ssize_t};

use super::entry::{Answer, Part, hub, interposed, is_on, operation_on, raw};
use super::kernel;
use super::slices::{Slices, message_of, room_of, total};
use super::{receive, send};
use crate::hub::{Ask, Direction, Hub};
use crate::sys::os::Errno;

/// After it says that there is room, so much can be written without waiting: to a
/// pipe, which takes that as a whole, and to a terminal in practice.
const ROOM_IN_PIPE: usize = libc::PIPE_BUF;
const ROOM: usize = 256;

interposed! {
    Sockets;

    /// Reads; parks while there is nothing, except of files.
    fn read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t {
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            Some(hub) if len > 0 => unsafe { read_parking(hub, fd, buffer, len) },
            // SAFETY: as above.
            _ => unsafe { raw!(libc::SYS_read, fd, buffer, len) },
        };
        answer.answer()
    }

    /// Reads into several buffers; parks while there is nothing, except of files.
    fn readv(fd: c_int, slices: *const iovec, count: c_int) -> ssize_t {
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            Some(hub) => unsafe { readv_parking(hub, fd, slices, count) },
            // SAFETY: as above.
            None => unsafe { raw!(libc::SYS_readv, fd, slices, count) },
        };
        answer.answer()
    }

    /// Writes all; parks while there is no room, except to files, 1 and 2.
    fn write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t {
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            Some(hub) if !is_standard(fd) => unsafe { write_parking(hub, fd, buffer, len) },
            // SAFETY: as above.
            _ => unsafe { raw!(libc::SYS_write, fd, buffer, len) },
        };
        answer.answer()
    }

    /// Writes several buffers; parks while there is no room, except to files, 1 and 2.
    fn writev(fd: c_int, slices: *const iovec, count: c_int) -> ssize_t {
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            Some(hub) if !is_standard(fd) => unsafe { writev_parking(hub, fd, slices, count) },
            // SAFETY: as above.
            _ => unsafe { raw!(libc::SYS_writev, fd, slices, count) },
        };
        answer.answer()
    }

    /// As `read`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __read(fd: c_int, buffer: *mut c_void, len: size_t) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { read(fd, buffer, len) }
    }

    /// As `write`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __write(fd: c_int, buffer: *const c_void, len: size_t) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { write(fd, buffer, len) }
    }

    /// As `read`; aborts if the buffer is too small.
    #[cfg(not(target_feature = "crt-static"))]
    fn __read_chk(fd: c_int, buffer: *mut c_void, len: size_t, room: size_t) -> ssize_t {
        super::checked::room_for(len, room);
        // SAFETY: the caller's promise.
        unsafe { read(fd, buffer, len) }
    }
}

/// Standard output or standard error.
fn is_standard(fd: RawFd) -> bool {
    fd == libc::STDOUT_FILENO || fd == libc::STDERR_FILENO
}

/// Whether what is behind the descriptor can be waited for.
fn may_wait(fd: RawFd) -> Result<bool, Errno> {
    Ok(is_on(Part::Files) && !kernel::is_on_disk(fd)?)
}

/// # Safety
/// As for `read`.
unsafe fn read_parking(
    hub: &Hub,
    fd: RawFd,
    buffer: *mut c_void,
    len: size_t,
) -> Result<usize, Errno> {
    operation_on(hub, fd, 0)?;
    let null = ptr::null_mut();
    // SAFETY: the caller's promise, of all of these; no address is asked for.
    unsafe {
        let received = receive::receive_parking(hub, fd, buffer, len, 0, null, ptr::null_mut());
        unless_socket(received, fd, buffer, len, libc::SYS_read, |one| {
            unsocketed_read(hub, fd, one, 1)
        })
    }
}

/// # Safety
/// As for `write`.
unsafe fn write_parking(
    hub: &Hub,
    fd: RawFd,
    buffer: *const c_void,
    len: size_t,
) -> Result<usize, Errno> {
    operation_on(hub, fd, 0)?;
    // SAFETY: the caller's promise, of all of these.
    unsafe {
        let sent = send::transmit_parking(hub, fd, buffer, len, 0, ptr::null(), 0);
        unless_socket(sent, fd, buffer.cast_mut(), len, libc::SYS_write, |one| {
            unsocketed_write(hub, fd, one, 1)
        })
    }
}

/// What a socket has answered; or what `unsocketed` does with the buffer, if it is none.
///
/// # Safety
/// As for `read` or `write`, whose `number` it is.
#[inline]
unsafe fn unless_socket(
    tried: Result<usize, Errno>,
    fd: RawFd,
    buffer: *mut c_void,
    len: size_t,
    number: c_long,
    unsocketed: impl FnOnce(*const iovec) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    match tried {
        Err(libc::ENOTSOCK) if len > 0 => {
            return unsocketed(&iovec {
                iov_base: buffer,
                iov_len: len,
            });
        }
        Err(libc::ENOTSOCK) => {}
        // Addresses of the kernel's are found out before it is looked whose they are.
        Err(libc::EFAULT) if !kernel::is_socket(fd) => {}
        tried => return tried,
    }
    // SAFETY: the caller's promise.
    unsafe { raw!(number, fd, buffer, len) }
}

/// # Safety
/// As for `readv`.
unsafe fn readv_parking(
    hub: &Hub,
    fd: RawFd,
    slices: *const iovec,
    count: c_int,
) -> Result<usize, Errno> {
    operation_on(hub, fd, 0)?;
    // SAFETY: the caller's promise, of all of these.
    unsafe {
        as_message(
            fd,
            slices,
            count,
            libc::SYS_readv,
            |message| receive::message_parking(hub, fd, message, 0),
            || unsocketed_read(hub, fd, slices, count),
        )
    }
}

/// # Safety
/// As for `writev`.
unsafe fn writev_parking(
    hub: &Hub,
    fd: RawFd,
    slices: *const iovec,
    count: c_int,
) -> Result<usize, Errno> {
    operation_on(hub, fd, 0)?;
    // SAFETY: the caller's promise, of all of these; and the kernel would read the array.
    unsafe {
        as_message(
            fd,
            slices,
            count,
            libc::SYS_writev,
            |message| send::message_parking(hub, fd, message, 0),
            || unsocketed_write(hub, fd, slices, count),
        )
    }
}

/// What `socketed` answers to a message of nothing but these buffers; or what `unsocketed`
/// does, if it is no socket.
///
/// # Safety
/// As for `readv` or `writev`, whose `number` it is.
#[inline]
unsafe fn as_message(
    fd: RawFd,
    slices: *const iovec,
    count: c_int,
    number: c_long,
    socketed: impl FnOnce(*mut msghdr) -> Result<usize, Errno>,
    unsocketed: impl FnOnce() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    match room_of(slices, count) {
        Ok(room) if room > 0 => {
            let mut message = message_of(slices.cast_mut(), count as usize);
            match socketed(&raw mut message) {
                Err(libc::ENOTSOCK) => unsocketed(),
                answer => answer,
            }
        }
        // A message would be sent or taken even without any room in it, and that there are
        // too many buffers is another error there. The kernel says what is wrong, or moves
        // nothing.
        // SAFETY: the caller's promise.
        _ => unsafe { raw!(number, fd, slices, count) },
    }
}

/// Reads what is no socket.
///
/// # Safety
/// As for `readv`.
unsafe fn unsocketed_read(
    hub: &Hub,
    fd: RawFd,
    slices: *const iovec,
    count: c_int,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    unsafe {
        match may_wait(fd)? {
            true => at_once(hub, fd, Direction::Read, slices, count),
            false => raw!(libc::SYS_readv, fd, slices, count),
        }
    }
}

/// Reads what there is, or writes all.
///
/// # Safety
/// As for `readv` or `writev`.
unsafe fn at_once(
    hub: &Hub,
    fd: RawFd,
    direction: Direction,
    slices: *const iovec,
    count: c_int,
) -> Result<usize, Errno> {
    let (number, event) = match direction {
        Direction::Read => (libc::SYS_readv, libc::POLLIN),
        Direction::Write => (libc::SYS_writev, libc::POLLOUT),
    };
    // SAFETY: the caller's promise.
    let plain = || unsafe { raw!(number, fd, slices, count) };
    // SAFETY: as above.
    let attempt = || match unsafe { without_waiting(fd, direction, slices, count as usize) } {
        Err(libc::EOPNOTSUPP) if kernel::ready_for(fd, event) == 0 => Err(libc::EAGAIN),
        Err(libc::EOPNOTSUPP) => plain(),
        answer => answer,
    };
    let patience = Ask::unless_known(|| kernel::patience(fd, None));
    match hub.until_ready(fd, direction, patience, attempt) {
        // It cannot be waited for: it is always ready.
        Err(libc::EPERM) => plain(),
        answer => answer,
    }
}

/// Reads what there is, or writes what there is room for, if the kernel knows how to do
/// that.
///
/// # Safety
/// As for `readv` or `writev`.
unsafe fn without_waiting(
    fd: RawFd,
    direction: Direction,
    slices: *const iovec,
    count: usize,
) -> Result<usize, Errno> {
    let number = match direction {
        Direction::Read => libc::SYS_preadv2,
        Direction::Write => libc::SYS_pwritev2,
    };
    let flags = libc::RWF_NOWAIT;
    // SAFETY: the caller's promise. The position is the descriptor's own.
    unsafe { raw!(number, fd, slices, count, -1i64, -1i64, flags) }
}

/// Writes to what is no socket.
///
/// # Safety
/// As for `writev`, of an array that the kernel would read.
unsafe fn unsocketed_write(
    hub: &Hub,
    fd: RawFd,
    slices: *const iovec,
    count: c_int,
) -> Result<usize, Errno> {
    if !may_wait(fd)? {
        // SAFETY: the caller's promise.
        return unsafe { raw!(libc::SYS_writev, fd, slices, count) };
    }
    // What takes bytes takes them in parts; others are given all at once.
    let room = match kernel::is_pipe(fd) {
        true => ROOM_IN_PIPE,
        false if kernel::is_terminal(fd) => ROOM,
        // SAFETY: the caller's promise.
        false => return unsafe { at_once(hub, fd, Direction::Write, slices, count) },
    };
    // SAFETY: the caller's promise.
    let len = unsafe { total(slices, count as usize) };
    // SAFETY: as above.
    let known = || unsafe { Slices::known(slices, count as usize) };
    let mut rest = None;
    let mut written = 0;
    let answer = hub.until_ready(
        fd,
        Direction::Write,
        Ask::unless_known(|| kernel::patience(fd, None)),
        || {
            while written < len {
                let (at, left) = match written {
                    0 => (slices, count as usize),
                    _ => {
                        let rest = rest.get_or_insert_with(known).after(written);
                        (rest.as_ptr(), rest.len())
                    }
                };
                // SAFETY: as above, of a part of it.
                let n = match unsafe { without_waiting(fd, Direction::Write, at, left) } {
                    Err(libc::EOPNOTSUPP) => {
                        write_some(fd, rest.get_or_insert_with(known), written, room)
                    }
                    answer => answer,
                }?;
                written += n;
                if n == 0 {
                    break;
                }
            }
            Ok(())
        },
    );
    match answer {
        Err(error) if written == 0 => Err(error),
        _ => Ok(written),
    }
}

/// Writes a part for which there is room, where the kernel knows no better way.
fn write_some(fd: RawFd, slices: &mut Slices, written: usize, room: usize) -> Result<usize, Errno> {
    if kernel::ready_for(fd, libc::POLLOUT) == 0 {
        return Err(libc::EAGAIN);
    }
    let part = slices.part(written, room);
    // SAFETY: the buffers are the caller's of the interposed function.
    unsafe { raw!(libc::SYS_writev, fd, part.as_ptr(), part.len()) }
}
