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

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;
use std::ptr;

use libc::{iovec, size_t, ssize_t};

use super::entry::{Answer, Part, hub, interposed, is_on, operation_on, raw};
use super::kernel;
use super::slices::{Slices, total};
use super::{receive, send};
use crate::hub::{Direction, Hub};
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
    // SAFETY: the caller's promise; no address is asked for.
    let received =
        unsafe { receive::receive_parking(hub, fd, buffer, len, 0, null, ptr::null_mut()) };
    match received {
        Err(libc::ENOTSOCK) => {}
        // Addresses of the kernel's are found out before it is looked whose they are.
        Err(libc::EFAULT) if !kernel::is_socket(fd) => {
            // SAFETY: as above.
            return unsafe { raw!(libc::SYS_read, fd, buffer, len) };
        }
        received => return received,
    }
    let one = iovec {
        iov_base: buffer,
        iov_len: len,
    };
    // SAFETY: as above.
    unsafe { unsocketed_read(hub, fd, &raw const one, 1) }
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
    // A message without room would be taken nevertheless, and too many buffers are
    // another error there.
    if Slices::of_array(slices, count).is_ok_and(|slices| slices.len() > 0) {
        // SAFETY: no field but the buffers is set.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = slices.cast_mut();
        message.msg_iovlen = count as _;
        // SAFETY: the caller's promise.
        let received = unsafe { receive::message_parking(hub, fd, &raw mut message, 0) };
        if received != Err(libc::ENOTSOCK) {
            return received;
        }
        // SAFETY: as above.
        return unsafe { unsocketed_read(hub, fd, slices, count) };
    }
    // SAFETY: as above. The kernel says what is wrong, or reads nothing.
    unsafe { raw!(libc::SYS_readv, fd, slices, count) }
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
    let plain = || unsafe { raw!(libc::SYS_readv, fd, slices, count) };
    if !may_wait(fd)? {
        return plain();
    }
    let attempt = || {
        // SAFETY: as above.
        match unsafe {
            raw!(
                libc::SYS_preadv2,
                fd,
                slices,
                count,
                -1i64,
                -1i64,
                libc::RWF_NOWAIT
            )
        } {
            Err(libc::EOPNOTSUPP) => match kernel::ready_for(fd, libc::POLLIN) {
                0 => Err(libc::EAGAIN),
                _ => plain(),
            },
            answer => answer,
        }
    };
    match hub.until_ready(fd, Direction::Read, || kernel::patience(fd, None), attempt) {
        // It cannot be waited for: it is always ready.
        Err(libc::EPERM) => plain(),
        answer => answer,
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
    // SAFETY: the caller's promise.
    let sent = unsafe { send::transmit_parking(hub, fd, buffer, len, 0, ptr::null(), 0) };
    match sent {
        Err(libc::ENOTSOCK) => {}
        Err(libc::EFAULT) if !kernel::is_socket(fd) => {
            // SAFETY: as above.
            return unsafe { raw!(libc::SYS_write, fd, buffer, len) };
        }
        sent => return sent,
    }
    if len == 0 {
        // SAFETY: as above.
        return unsafe { raw!(libc::SYS_write, fd, buffer, len) };
    }
    let one = iovec {
        iov_base: buffer.cast_mut(),
        iov_len: len,
    };
    // SAFETY: as above; and the array is our own.
    unsafe { unsocketed_write(hub, fd, &raw const one, 1) }
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
    // As for `readv`: an empty message would be sent.
    if Slices::of_array(slices, count).is_ok_and(|slices| slices.len() > 0) {
        // SAFETY: no field but the buffers is set.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = slices.cast_mut();
        message.msg_iovlen = count as _;
        // SAFETY: the caller's promise.
        let sent = unsafe { send::message_parking(hub, fd, &raw const message, 0) };
        if sent != Err(libc::ENOTSOCK) {
            return sent;
        }
        // SAFETY: as above; and the kernel would read the array.
        return unsafe { unsocketed_write(hub, fd, slices, count) };
    }
    // SAFETY: as above.
    unsafe { raw!(libc::SYS_writev, fd, slices, count) }
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
    // SAFETY: the caller's promise.
    let plain = || unsafe { raw!(libc::SYS_writev, fd, slices, count) };
    if !may_wait(fd)? {
        return plain();
    }
    let patience = || kernel::patience(fd, None);
    // What takes bytes takes them in parts; others are given all at once.
    let room = match kernel::is_pipe(fd) {
        true => ROOM_IN_PIPE,
        false if kernel::is_terminal(fd) => ROOM,
        false => {
            let answer = hub.until_ready(fd, Direction::Write, patience, || {
                // SAFETY: as above.
                match unsafe { write_now(fd, slices, count as usize) } {
                    Err(libc::EOPNOTSUPP) if kernel::ready_for(fd, libc::POLLOUT) == 0 => {
                        Err(libc::EAGAIN)
                    }
                    Err(libc::EOPNOTSUPP) => plain(),
                    answer => answer,
                }
            });
            return match answer {
                // It cannot be waited for: it is always ready.
                Err(libc::EPERM) => plain(),
                answer => answer,
            };
        }
    };
    // SAFETY: the caller's promise.
    let len = unsafe { total(slices, count as usize) };
    // SAFETY: as above.
    let known = || unsafe { Slices::known(slices, count as usize) };
    let mut rest = None;
    let mut written = 0;
    let answer = hub.until_ready(fd, Direction::Write, patience, || {
        while written < len {
            let (at, left) = match written {
                0 => (slices, count as usize),
                _ => {
                    let rest = rest.get_or_insert_with(known).after(written);
                    (rest.as_ptr(), rest.len())
                }
            };
            // SAFETY: as above, of a part of it.
            let n = match unsafe { write_now(fd, at, left) } {
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
    });
    match answer {
        Err(error) if written == 0 => Err(error),
        _ => Ok(written),
    }
}

/// Writes what there is room for, if the kernel knows how to do that.
///
/// # Safety
/// As for `writev`.
unsafe fn write_now(fd: RawFd, slices: *const iovec, count: usize) -> Result<usize, Errno> {
    let flags = libc::RWF_NOWAIT;
    // SAFETY: the caller's promise.
    unsafe { raw!(libc::SYS_pwritev2, fd, slices, count, -1i64, -1i64, flags) }
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
