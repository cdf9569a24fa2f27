//! Receiving from sockets.
//!
//! Each is tried with MSG_DONTWAIT, which is a matter of this one call, and what
//! has come is returned: no further system call is made then.

use std::ffi::{c_int, c_uint, c_void};
use std::os::fd::RawFd;
use std::ptr;

use libc::{MSG_DONTWAIT, mmsghdr, msghdr, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::entry::{Answer, Part, hub, interposed, operation_on, raw};
use super::kernel;
use super::slices::{MOST, Slices};
use crate::hub::{Ask, Direction, Hub};
use crate::sys::clock;
use crate::sys::os::Errno;

const FIONREAD: usize = libc::FIONREAD as usize;
const SIOCATMARK: usize = 0x8905;

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
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_recvmsg, fd, message, flags) },
            Some(hub) => operation_on(hub, fd, flags).and_then(|()| {
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
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            Some(hub) if count > 0 => unsafe {
                messages_parking(hub, fd, messages, count, flags, timeout)
            },
            // SAFETY: as above.
            _ => unsafe { raw!(libc::SYS_recvmmsg, fd, messages, count, flags, timeout) },
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
    match hub(Part::Sockets) {
        // SAFETY: the caller's promise.
        None => unsafe { raw!(libc::SYS_recvfrom, fd, buffer, len, flags, from, from_len) },
        Some(hub) => operation_on(hub, fd, flags).and_then(|()| {
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
    let attempt = |got: usize| {
        let (at, left) = (buffer.wrapping_byte_add(got), len - got);
        let flags = flags | MSG_DONTWAIT;
        // SAFETY: the caller's promise, of a part of the buffer.
        unsafe { raw!(libc::SYS_recvfrom, fd, at, left, flags, from, from_len) }
    };
    if flags & libc::MSG_WAITALL == 0 || is_of_its_own(fd, flags) {
        // What is peeked at stays, and what is urgent is of its own.
        let takes = flags & (libc::MSG_PEEK | libc::MSG_OOB | libc::MSG_ERRQUEUE) == 0;
        let used_up = |got: &usize| takes && *got < len && *got > 0;
        return hub.until_ready_stream(fd, Direction::Read, ask(fd, flags), || attempt(0), used_up);
    }
    all_of(hub, fd, len.min(MOST), flags, attempt)
}

/// Whether what is asked for does not come in the stream: the kernel does not wait for
/// it. Protocols that know of no such thing take no notice of the flags.
fn is_of_its_own(fd: RawFd, flags: c_int) -> bool {
    if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE) == 0 {
        return false;
    }
    let option = |option| kernel::socket_option(fd, option).unwrap_or(-1);
    let domain = option(libc::SO_DOMAIN);
    let is_inet = domain == libc::AF_INET || domain == libc::AF_INET6;
    if flags & libc::MSG_ERRQUEUE != 0
        && (is_inet || domain == libc::AF_PACKET || domain == libc::AF_CAN)
    {
        return true;
    }
    let is_stream = option(libc::SO_TYPE) == libc::SOCK_STREAM;
    flags & libc::MSG_OOB != 0 && is_stream && (is_inet || domain == libc::AF_UNIX)
}

/// Until when a receive may wait. EAGAIN: not at all.
fn ask(fd: RawFd, flags: c_int) -> Ask<impl FnOnce() -> Result<Option<u64>, Errno>> {
    kernel::ask_with(flags, move || match is_of_its_own(fd, flags) {
        true => Err(libc::EAGAIN),
        false => kernel::patience_of_socket(fd, flags, libc::SO_RCVTIMEO),
    })
}

/// For MSG_WAITALL: calls until so much of a stream has come, or it ends, or
/// something is wrong, which counts only if nothing has come before. `once` gets how
/// much has come.
#[cold]
fn all_of(
    hub: &Hub,
    fd: RawFd,
    len: usize,
    flags: c_int,
    mut once: impl FnMut(usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    // Where it means nothing, the first part is all.
    let is_stream = || kernel::socket_option(fd, libc::SO_TYPE) == Ok(libc::SOCK_STREAM);
    let peeks = flags & libc::MSG_PEEK != 0;
    let mut got = 0;
    let answer = hub.until_ready(fd, Direction::Read, ask(fd, flags), || {
        if peeks {
            // What is peeked at stays, and is seen again with what has come since.
            got = once(0)?;
            let is_all = got == 0 || got >= len || !waits_to_peek(fd) || is_at_its_end(fd);
            return if is_all { Ok(()) } else { Err(libc::EAGAIN) };
        }
        if got > 0 && is_over(fd) {
            return Ok(());
        }
        loop {
            let n = once(got)?;
            got += n;
            if n == 0 || got >= len || flags & MSG_DONTWAIT != 0 || !is_stream() || is_over(fd) {
                return Ok(());
            }
        }
    });
    match answer {
        Err(error) if got == 0 => Err(error),
        _ => Ok(got),
    }
}

/// Whether the kernel would not go on after a part: there is urgent data next, or an
/// error, which is left to the next call, and nothing before it.
fn is_over(fd: RawFd) -> bool {
    kernel::told_by(fd, SIOCATMARK).is_ok_and(|at_mark| at_mark != 0)
        || kernel::has_failed(fd) && kernel::told_by(fd, FIONREAD) == Ok(0)
}

/// TCP waits until there is enough to be peeked at; Unix sockets do not.
fn waits_to_peek(fd: RawFd) -> bool {
    kernel::socket_option(fd, libc::SO_PROTOCOL) == Ok(libc::IPPROTO_TCP)
}

/// Whether nothing more will come.
fn is_at_its_end(fd: RawFd) -> bool {
    const ENDED: i16 = libc::POLLRDHUP | libc::POLLHUP;
    kernel::ready_for(fd, libc::POLLRDHUP) & ENDED != 0
}

/// # Safety
/// As for `recvmsg`.
pub(super) unsafe fn message_parking(
    hub: &Hub,
    fd: RawFd,
    message: *mut msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let attempt = || unsafe { raw!(libc::SYS_recvmsg, fd, message, flags | MSG_DONTWAIT) };
    if flags & libc::MSG_WAITALL == 0 || is_of_its_own(fd, flags) {
        return hub.until_ready(fd, Direction::Read, ask(fd, flags), attempt);
    }
    if kernel::readable(message as usize, size_of::<msghdr>()).is_err() {
        return attempt();
    }
    // SAFETY: the kernel would read it from there.
    let given = unsafe { message.read_unaligned() };
    let Ok(mut slices) = Slices::of_array(given.msg_iov, given.msg_iovlen as c_int) else {
        return attempt();
    };
    all_of(hub, fd, slices.len(), flags, |got| {
        if got == 0 {
            return attempt();
        }
        // SAFETY: the kernel has written its answers there.
        let mut answered = unsafe { message.read_unaligned() };
        if answered.msg_controllen > 0 {
            // What came beside the data has used up the room for it.
            return Ok(0);
        }
        let mut part = Slices::header(slices.after(got));
        part.msg_control = given.msg_control;
        part.msg_controllen = given.msg_controllen;
        // SAFETY: buffers and room are the caller's, of a message that was good.
        let n = unsafe { raw!(libc::SYS_recvmsg, fd, &raw mut part, flags | MSG_DONTWAIT) }?;
        answered.msg_controllen = part.msg_controllen;
        answered.msg_flags |= part.msg_flags;
        // SAFETY: as above.
        unsafe { message.write_unaligned(answered) };
        Ok(n)
    })
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
    let deadline = if timeout.is_null() {
        None
    } else {
        // SAFETY: the caller's promise.
        let time = unsafe { kernel::time_at(timeout) }?;
        Some(clock::now_ns().saturating_add(time))
    };
    operation_on(hub, fd, flags)?;
    // The kernel takes no more at once.
    let count = count.min(libc::UIO_MAXIOV as c_uint);
    let mut got: c_uint = 0;
    while got < count && !(got > 0 && kernel::has_failed(fd)) {
        let at = messages.wrapping_add(got as usize);
        let null = ptr::null_mut::<timespec>();
        let answer = hub.until_ready(
            fd,
            Direction::Read,
            ask(fd, flags),
            // SAFETY: the caller's promise, of a part of the array.
            || unsafe {
                raw!(
                    libc::SYS_recvmmsg,
                    fd,
                    at,
                    count - got,
                    flags | MSG_DONTWAIT,
                    null
                )
            },
        );
        match answer {
            Ok(n) => got += n as c_uint,
            Err(error) if got == 0 => return Err(error),
            Err(_) => break,
        }
        // As in the kernel, the time is looked at when something has come.
        let left = deadline.map(|deadline| deadline.saturating_sub(clock::now_ns()));
        if let Some(left) = left {
            // SAFETY: the caller's, to be written to; the kernel would.
            unsafe { timeout.write_unaligned(kernel::timespec_of(left)) };
        }
        if flags & libc::MSG_WAITFORONE != 0 || left == Some(0) {
            break;
        }
    }
    Ok(got as usize)
}
