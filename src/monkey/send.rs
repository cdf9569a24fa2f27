//! Sending by sockets.
//!
//! A send that blocks takes all of a stream's bytes, so one that was taken in part
//! goes on when there is room. What was sent before something went wrong is the
//! answer then, as the kernel has it.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::RawFd;
use std::ptr;

use libc::{MSG_DONTWAIT, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::entry::{Answer, Part, hub, interposed, operation, raw};
use super::kernel;
use super::slices::Slices;
use crate::hub::{Direction, Hub};
use crate::sys::os::Errno;

interposed! {
    Sockets;

    /// Sends all; parks while there is no room.
    fn send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { transmit(fd, buffer, len, flags, ptr::null(), 0) }.answer()
    }

    /// As `send`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __send(fd: c_int, buffer: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { send(fd, buffer, len, flags) }
    }

    /// Sends all to an address; parks while there is no room.
    fn sendto(
        fd: c_int,
        buffer: *const c_void,
        len: size_t,
        flags: c_int,
        to: *const sockaddr,
        to_len: socklen_t,
    ) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { transmit(fd, buffer, len, flags, to, to_len) }.answer()
    }

    /// Sends a message; parks while there is no room.
    fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
        let answer = match parking(flags) {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_sendmsg, fd, message, flags) },
            Some(hub) => operation(hub).and_then(|()| {
                // SAFETY: as above.
                unsafe { message_parking(hub, fd, message, flags) }
            }),
        };
        answer.answer()
    }

    /// Sends several messages; parks while there is no room.
    fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
        let answer = match parking(flags) {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_sendmmsg, fd, messages, count, flags) },
            // SAFETY: as above.
            Some(hub) => unsafe { messages_parking(hub, fd, messages, count, flags) },
        };
        answer.answer() as c_int
    }
}

/// A send that connects first waits in the kernel, for there is nothing that
/// could be tried instead.
#[inline(always)]
fn parking(flags: c_int) -> Option<&'static Hub> {
    match flags & libc::MSG_FASTOPEN {
        0 => hub(Part::Sockets),
        _ => None,
    }
}

#[inline(always)]
unsafe fn transmit(
    fd: c_int,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> Result<usize, Errno> {
    match parking(flags) {
        // SAFETY: the caller's promise.
        None => unsafe { raw!(libc::SYS_sendto, fd, buffer, len, flags, to, to_len) },
        Some(hub) => operation(hub).and_then(|()| {
            // SAFETY: as above.
            unsafe { transmit_parking(hub, fd, buffer, len, flags, to, to_len) }
        }),
    }
}

/// # Safety
/// As for `sendto`.
pub(super) unsafe fn transmit_parking(
    hub: &Hub,
    fd: RawFd,
    buffer: *const c_void,
    len: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> Result<usize, Errno> {
    all_of(hub, fd, len, flags, |sent, flags| {
        let (at, left) = (buffer.wrapping_byte_add(sent), len - sent);
        // SAFETY: the caller's promise, of a part of the buffer.
        unsafe { raw!(libc::SYS_sendto, fd, at, left, flags, to, to_len) }
    })
}

/// Calls until all is sent. `once` gets how much has been, and the flags.
///
/// One deadline, if the socket has a timeout, counts for all of it.
fn all_of(
    hub: &Hub,
    fd: RawFd,
    len: usize,
    flags: c_int,
    mut once: impl FnMut(usize, c_int) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut sent = 0;
    let mut until = None;
    loop {
        // Who has sent a part hears of it, and of the broken pipe by the next call.
        let quiet = if sent > 0 { libc::MSG_NOSIGNAL } else { 0 };
        let answer = hub.until_ready(
            fd,
            Direction::Write,
            || match until {
                Some(deadline) => Ok(deadline),
                None => {
                    let deadline = kernel::patience_of_socket(fd, flags, libc::SO_SNDTIMEO)?;
                    until = Some(deadline);
                    Ok(deadline)
                }
            },
            || once(sent, flags | MSG_DONTWAIT | quiet),
        );
        match answer {
            Ok(n) => sent += n,
            Err(error) if sent == 0 => return Err(error),
            Err(_) => return Ok(sent),
        }
        if sent >= len || flags & MSG_DONTWAIT != 0 {
            return Ok(sent);
        }
    }
}

/// # Safety
/// As for `sendmsg`.
pub(super) unsafe fn message_parking(
    hub: &Hub,
    fd: RawFd,
    message: *const msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    let first = hub.until_ready(
        fd,
        Direction::Write,
        || kernel::patience_of_socket(fd, flags, libc::SO_SNDTIMEO),
        // SAFETY: the caller's promise.
        || unsafe { raw!(libc::SYS_sendmsg, fd, message, flags | MSG_DONTWAIT) },
    )?;
    if flags & MSG_DONTWAIT != 0 {
        return Ok(first);
    }
    // SAFETY: the kernel has just read the header, and all that it refers to.
    let mut rest = unsafe { Slices::of_message(message) };
    let len = rest.len();
    if first >= len {
        return Ok(first);
    }
    let more = all_of(hub, fd, len - first, flags, |sent, flags| {
        // What comes beside the data went with its first part.
        let part = Slices::header(rest.after(first + sent));
        // SAFETY: the slices are the caller's, as above.
        unsafe {
            raw!(
                libc::SYS_sendmsg,
                fd,
                &raw const part,
                flags | libc::MSG_NOSIGNAL
            )
        }
    });
    Ok(first + more.unwrap_or(0))
}

/// # Safety
/// As for `sendmmsg`.
unsafe fn messages_parking(
    hub: &Hub,
    fd: RawFd,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> Result<usize, Errno> {
    operation(hub)?;
    // The kernel takes no more at once.
    let count = count.min(libc::UIO_MAXIOV as c_uint) as usize;
    for at in 0..count {
        let message = messages.wrapping_add(at);
        // SAFETY: the address of a field is not followed here; the kernel checks
        // the pointer before we read from it.
        let header = unsafe { &raw const (*message).msg_hdr };
        // SAFETY: the caller's promise.
        match unsafe { message_parking(hub, fd, header, flags) } {
            // SAFETY: the kernel has read the header from there, and the length
            // is the caller's to be written.
            Ok(sent) => unsafe { (&raw mut (*message).msg_len).write(sent as c_uint) },
            Err(error) if at == 0 => return Err(error),
            Err(_) => return Ok(at),
        }
    }
    Ok(count)
}
