//! Receiving from sockets.
//!
//! Each is tried with MSG_DONTWAIT, which is a matter of this one call, and what
//! has come is returned: no further system call is made then.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::RawFd;
use std::ptr;

use libc::{MSG_DONTWAIT, iovec, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::entry::{Answer, Part, hub, interposed, operation, raw};
use super::kernel;
use super::slices::Slices;
use crate::hub::{Direction, Hub};
use crate::sys::clock;
use crate::sys::os::Errno;

/// Of these the kernel never waits.
const NEVER_WAITS: c_int = libc::MSG_ERRQUEUE | libc::MSG_OOB;
/// How often a look is taken whether enough has come to be peeked at.
const PEEK_INTERVAL: u64 = 1_000_000;

interposed! {
    Sockets;

    /// Receives; parks while nothing has come.
    fn recv(fd: c_int, buffer: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { receive(fd, buffer, len, flags, ptr::null_mut(), ptr::null_mut()) }.answer()
    }

    /// Receives, with the sender's address; parks while nothing has come.
    fn recvfrom(
        fd: c_int,
        buffer: *mut c_void,
        len: size_t,
        flags: c_int,
        from: *mut sockaddr,
        from_len: *mut socklen_t,
    ) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { receive(fd, buffer, len, flags, from, from_len) }.answer()
    }

    /// Receives a message; parks while none has come.
    fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
        let parking = match flags & NEVER_WAITS {
            0 => hub(Part::Sockets),
            _ => None,
        };
        let answer = match parking {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_recvmsg, fd, message, flags) },
            Some(hub) => operation(hub).and_then(|()| {
                // SAFETY: as above.
                unsafe { message_parking(hub, fd, message, flags) }
            }),
        };
        answer.answer()
    }

    /// Receives several messages; parks until all have come, or the time is over.
    fn recvmmsg(
        fd: c_int,
        messages: *mut mmsghdr,
        count: c_uint,
        flags: c_int,
        timeout: *mut timespec,
    ) -> c_int {
        let parking = match flags & NEVER_WAITS {
            0 => hub(Part::Sockets),
            _ => None,
        };
        let answer = match parking {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_recvmmsg, fd, messages, count, flags, timeout) },
            // SAFETY: as above.
            Some(hub) => unsafe { messages_parking(hub, fd, messages, count, flags, timeout) },
        };
        answer.answer() as c_int
    }

    /// As `recv`; aborts if the buffer is too small.
    #[cfg(not(target_feature = "crt-static"))]
    fn __recv_chk(
        fd: c_int,
        buffer: *mut c_void,
        len: size_t,
        room: size_t,
        flags: c_int,
    ) -> ssize_t {
        super::checked::room_for(len, room);
        // SAFETY: the caller's promise.
        unsafe { recv(fd, buffer, len, flags) }
    }

    /// As `recvfrom`; aborts if the buffer is too small.
    #[cfg(not(target_feature = "crt-static"))]
    fn __recvfrom_chk(
        fd: c_int,
        buffer: *mut c_void,
        len: size_t,
        room: size_t,
        flags: c_int,
        from: *mut sockaddr,
        from_len: *mut socklen_t,
    ) -> ssize_t {
        super::checked::room_for(len, room);
        // SAFETY: the caller's promise.
        unsafe { recvfrom(fd, buffer, len, flags, from, from_len) }
    }
}

#[inline(always)]
unsafe fn receive(
    fd: c_int,
    buffer: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Result<usize, Errno> {
    let parking = match flags & NEVER_WAITS {
        0 => hub(Part::Sockets),
        _ => None,
    };
    match parking {
        // SAFETY: the caller's promise.
        None => unsafe { raw!(libc::SYS_recvfrom, fd, buffer, len, flags, from, from_len) },
        Some(hub) => operation(hub).and_then(|()| {
            // SAFETY: as above.
            unsafe { receive_parking(hub, fd, buffer, len, flags, from, from_len) }
        }),
    }
}

/// # Safety
/// As for `recvfrom`.
pub(super) unsafe fn receive_parking(
    hub: &Hub,
    fd: RawFd,
    buffer: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> Result<usize, Errno> {
    let once = |hub: &Hub, at: usize, flags: c_int| {
        hub.until_ready(
            fd,
            Direction::Read,
            || kernel::patience_of_socket(fd, flags, libc::SO_RCVTIMEO),
            || {
                let (at, len) = (buffer.wrapping_byte_add(at), len - at);
                // SAFETY: the caller's promise, of a part of the buffer.
                unsafe {
                    raw!(libc::SYS_recvfrom, fd, at, len, flags | MSG_DONTWAIT, from, from_len)
                }
            },
        )
    };
    if !waits_for_all(fd, flags) {
        return once(hub, 0, flags);
    }
    if flags & libc::MSG_PEEK != 0 {
        return peek_all(hub, fd, len, flags, || once(hub, 0, flags));
    }
    all_of(len, |got| once(hub, got, flags))
}

/// MSG_WAITALL means something for streams only.
fn waits_for_all(fd: RawFd, flags: c_int) -> bool {
    flags & libc::MSG_WAITALL != 0
        && flags & MSG_DONTWAIT == 0
        && kernel::socket_option(fd, libc::SO_TYPE) == Ok(libc::SOCK_STREAM)
}

/// Calls until `len` bytes have come, or the stream ends, or something is wrong,
/// which counts only if nothing has come before.
fn all_of(
    len: usize,
    mut once: impl FnMut(usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut got = 0;
    loop {
        match once(got) {
            Ok(0) => return Ok(got),
            Ok(n) => got += n,
            Err(error) if got == 0 => return Err(error),
            Err(_) => return Ok(got),
        }
        if got >= len {
            return Ok(got);
        }
    }
}

/// What is peeked at stays, so nothing tells when there is more of it: a look is
/// taken now and then.
fn peek_all(
    hub: &Hub,
    fd: RawFd,
    len: usize,
    flags: c_int,
    mut once: impl FnMut() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let deadline = kernel::patience_of_socket(fd, flags, libc::SO_RCVTIMEO).unwrap_or(None);
    let mut seen = 0;
    loop {
        let n = once()?;
        let now = clock::now_ns();
        let ended = kernel::ready_for(fd, libc::POLLRDHUP) != 0;
        if n >= len || ended || deadline.is_some_and(|deadline| deadline <= now) {
            return Ok(n);
        }
        if n == seen && n == 0 {
            return Ok(0);
        }
        seen = n;
        hub.sleep_quietly(now + PEEK_INTERVAL);
    }
}

/// # Safety
/// As for `recvmsg`.
pub(super) unsafe fn message_parking(
    hub: &Hub,
    fd: RawFd,
    message: *mut msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    let once = |message: *mut msghdr| {
        hub.until_ready(
            fd,
            Direction::Read,
            || kernel::patience_of_socket(fd, flags, libc::SO_RCVTIMEO),
            // SAFETY: the caller's promise.
            || unsafe { raw!(libc::SYS_recvmsg, fd, message, flags | MSG_DONTWAIT) },
        )
    };
    let first = once(message)?;
    if first == 0 || flags & libc::MSG_PEEK != 0 || !waits_for_all(fd, flags) {
        return Ok(first);
    }
    // SAFETY: the kernel has just read the header and written through it.
    let mut rest = unsafe { Slices::of_message(message) };
    let len = rest.len();
    if first >= len {
        return Ok(first);
    }
    let more = all_of(len - first, |got| {
        let iov: &mut [iovec] = rest.after(first + got);
        let mut part = Slices::header(iov);
        once(&raw mut part)
    });
    Ok(first + more.unwrap_or(0))
}

/// # Safety
/// As for `recvmmsg`.
unsafe fn messages_parking(
    hub: &Hub,
    fd: RawFd,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> Result<usize, Errno> {
    operation(hub)?;
    let deadline = if timeout.is_null() {
        None
    } else {
        // SAFETY: the caller's promise.
        let time = unsafe { kernel::time_at(timeout) }?;
        Some(clock::now_ns().saturating_add(time))
    };
    // The kernel takes no more at once.
    let count = count.min(libc::UIO_MAXIOV as c_uint);
    let mut got: c_uint = 0;
    while got < count {
        let at = messages.wrapping_add(got as usize);
        let null = ptr::null_mut::<timespec>();
        let answer = hub.until_ready(
            fd,
            Direction::Read,
            || kernel::patience_of_socket(fd, flags, libc::SO_RCVTIMEO),
            // SAFETY: the caller's promise, of a part of the array.
            || unsafe {
                raw!(libc::SYS_recvmmsg, fd, at, count - got, flags | MSG_DONTWAIT, null)
            },
        );
        match answer {
            Ok(n) => got += n as c_uint,
            Err(error) if got == 0 => return Err(error),
            Err(_) => break,
        }
        // As in the kernel, the time is looked at when something has come.
        if flags & libc::MSG_WAITFORONE != 0
            || deadline.is_some_and(|deadline| deadline <= clock::now_ns())
        {
            break;
        }
    }
    Ok(got as usize)
}
