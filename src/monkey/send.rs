//! Sending by sockets.
//!
//! A send that blocks takes all of a stream's bytes, so one that was taken in part
//! goes on when there is room. What was sent before something went wrong is the
//! answer then, as the kernel has it.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::RawFd;
use std::ptr;

use libc::{MSG_DONTWAIT, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::entry::{Answer, Part, hub, interposed, operation_on, raw};
use super::kernel;
use super::slices::{MOST, Slices, total_of};
use crate::hub::{Ask, Direction, Hub};
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
            Some(hub) => operation_on(hub, fd, flags).and_then(|()| {
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
            Some(hub) if count > 0 => unsafe {
                messages_parking(hub, fd, messages, count, flags)
            },
            // SAFETY: as above.
            _ => unsafe { raw!(libc::SYS_sendmmsg, fd, messages, count, flags) },
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
        Some(hub) => operation_on(hub, fd, flags).and_then(|()| {
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
    let len = len.min(MOST);
    all_of(
        hub,
        fd,
        0,
        || len,
        flags,
        |sent, flags| {
            let (at, left) = (buffer.wrapping_byte_add(sent), len - sent);
            // SAFETY: the caller's promise, of a part of the buffer.
            unsafe { raw!(libc::SYS_sendto, fd, at, left, flags, to, to_len) }
        },
    )
}

/// Until when a send may wait. EAGAIN: not at all.
fn ask(fd: RawFd, flags: c_int) -> Ask<impl FnOnce() -> Result<Option<u64>, Errno>> {
    kernel::ask_with(flags, move || {
        kernel::patience_of_socket(fd, flags, libc::SO_SNDTIMEO)
    })
}

/// Calls until all is sent, of which `sent` has been. `once` gets how much has been,
/// and the flags; `len` is asked when a part is sent.
///
/// One deadline, if the socket has a timeout, counts for all of it.
fn all_of(
    hub: &Hub,
    fd: RawFd,
    mut sent: usize,
    len: impl Fn() -> usize,
    flags: c_int,
    mut once: impl FnMut(usize, c_int) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let answer = hub.until_ready(fd, Direction::Write, ask(fd, flags), || {
        if sent > 0 && kernel::has_failed(fd) {
            return Ok(());
        }
        loop {
            // Who has sent a part hears of it, and of a broken pipe by the next call.
            let quiet = if sent > 0 { libc::MSG_NOSIGNAL } else { 0 };
            let n = once(sent, flags | MSG_DONTWAIT | quiet)?;
            sent += n;
            if n == 0 || sent >= len() || flags & MSG_DONTWAIT != 0 {
                return Ok(());
            }
        }
    });
    match answer {
        Err(error) if sent == 0 => Err(error),
        _ => Ok(sent),
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
    // SAFETY: the caller's promise.
    unsafe { rest_of_message(hub, fd, 0, message, flags) }
}

/// # Safety
/// As for `sendmsg`; and if something has been sent, the kernel has read the message
/// from there.
unsafe fn rest_of_message(
    hub: &Hub,
    fd: RawFd,
    sent: usize,
    message: *const msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    // SAFETY: asked when the kernel has read it, as below.
    let len = || unsafe { total_of(message) };
    let mut rest = None;
    all_of(hub, fd, sent, len, flags, |sent, flags| {
        if sent == 0 {
            // SAFETY: the caller's promise.
            return unsafe { raw!(libc::SYS_sendmsg, fd, message, flags) };
        }
        // SAFETY: the kernel has read it, or nothing would have been sent.
        let rest = rest.get_or_insert_with(|| unsafe { Slices::of_message(message) });
        // What comes beside the data went with its first part.
        let part = Slices::header(rest.after(sent));
        // SAFETY: the slices are the caller's, as above.
        unsafe { raw!(libc::SYS_sendmsg, fd, &raw const part, flags) }
    })
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
    operation_on(hub, fd, flags)?;
    // The kernel takes no more at once.
    let count = count.min(libc::UIO_MAXIOV as c_uint);
    let mut done: c_uint = 0;
    while done < count {
        let answer = hub.until_ready(fd, Direction::Write, ask(fd, flags), || {
            let at = messages.wrapping_add(done as usize);
            // SAFETY: the caller's promise, of a part of the array.
            unsafe {
                raw!(
                    libc::SYS_sendmmsg,
                    fd,
                    at,
                    count - done,
                    flags | MSG_DONTWAIT
                )
            }
        });
        match answer {
            Ok(0) => break,
            Ok(n) => done += n as c_uint,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
        // A stream takes the last one in part, and the kernel stops there.
        let at = messages.wrapping_add(done as usize - 1);
        // SAFETY: the kernel has just read this entry, and written to it.
        let mut last = unsafe { at.read_unaligned() };
        // SAFETY: as above.
        let len = unsafe { total_of(&raw const last.msg_hdr) };
        if (last.msg_len as usize) < len {
            let sent = last.msg_len as usize;
            // SAFETY: as above.
            let sent = unsafe { rest_of_message(hub, fd, sent, &raw const last.msg_hdr, flags) };
            last.msg_len = sent.unwrap_or(0) as c_uint;
            // SAFETY: as above.
            unsafe { at.write_unaligned(last) };
            if (last.msg_len as usize) < len {
                break;
            }
        }
    }
    Ok(done as usize)
}
