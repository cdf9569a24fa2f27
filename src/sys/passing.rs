//! Packets that carry descriptors between processes.
//!
//! A pair of `SOCK_SEQPACKET` sockets keeps the bounds of what is sent: a packet arrives whole or not at all, so
//! somebody who is killed in the middle leaves no half of one behind.

use std::io;
use std::mem::{self, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_uint};

use super::os;
use super::socket::option;

/// How many descriptors a packet may carry; the kernel's own limit is 253.
pub(crate) const MOST_DESCRIPTORS: usize = 250;

/// The room for them, with the head that describes them.
// SAFETY: the macro only computes.
const CONTROL: usize =
    unsafe { libc::CMSG_SPACE((MOST_DESCRIPTORS * size_of::<RawFd>()) as c_uint) } as usize;

/// A buffer for descriptors, aligned for the head that it begins with.
#[repr(C)]
union Control {
    head: libc::cmsghdr,
    bytes: [u8; CONTROL],
}

/// Two sockets that are connected to each other, do not block, and are closed by exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let mut fds = [-1; 2];
    // SAFETY: the kernel writes two descriptors.
    if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are new, and ours.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends a packet, which is not empty, without waiting.
///
/// # Errors
/// `WouldBlock` if there is no room; `BrokenPipe` if nobody will receive it.
pub(crate) fn send(
    to: BorrowedFd<'_>,
    bytes: &[&[u8]],
    descriptors: &[&OwnedFd],
) -> io::Result<()> {
    assert!(descriptors.len() <= MOST_DESCRIPTORS);
    let parts: Vec<libc::iovec> = bytes
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    let mut control = Control {
        bytes: [0; CONTROL],
    };
    // SAFETY: all zeros is a valid message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = parts.as_ptr().cast_mut();
    message.msg_iovlen = parts.len() as _;
    if !descriptors.is_empty() {
        let len = (descriptors.len() * size_of::<RawFd>()) as c_uint;
        message.msg_control = (&raw mut control).cast();
        // SAFETY: the macros only compute; the buffer is aligned and large enough for a head and so many
        // descriptors.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(len) as _;
            let head = libc::CMSG_FIRSTHDR(&message);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(len) as _;
            let data = libc::CMSG_DATA(head).cast::<RawFd>();
            for (at, descriptor) in descriptors.iter().enumerate() {
                data.add(at).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    // SAFETY: the message describes live buffers, which the kernel only reads.
    unsafe { pass(libc::SYS_sendmsg, to, &raw mut message, libc::MSG_NOSIGNAL) }.map(drop)
}

/// What a packet has brought.
pub(crate) struct Arrived {
    /// How many bytes; zero is the end of the connection.
    pub(crate) len: usize,
    /// Whether descriptors were lost: this process has no room for more.
    pub(crate) lost_descriptors: bool,
}

/// Receives a packet without waiting. Its descriptors are appended to `descriptors`, and are closed by exec.
///
/// # Errors
/// `WouldBlock` if there is none.
pub(crate) fn receive(
    from: BorrowedFd<'_>,
    into: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<Arrived> {
    let mut control = Control {
        bytes: [0; CONTROL],
    };
    let mut part = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    // SAFETY: all zeros is a valid message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = CONTROL as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message describes live buffers and their lengths.
    let len = unsafe { pass(libc::SYS_recvmsg, from, &raw mut message, flags) }?;
    // SAFETY: the kernel has written heads and descriptors, as far as the message says now.
    unsafe {
        let mut head = libc::CMSG_FIRSTHDR(&message);
        while let Some(here) = head.as_ref() {
            if here.cmsg_level == libc::SOL_SOCKET && here.cmsg_type == libc::SCM_RIGHTS {
                let len = here.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(head).cast::<RawFd>();
                for at in 0..len / size_of::<RawFd>() {
                    // They are new, and ours.
                    descriptors.push(OwnedFd::from_raw_fd(data.add(at).read_unaligned()));
                }
            }
            head = libc::CMSG_NXTHDR(&message, head);
        }
    }
    Ok(Arrived {
        len,
        lost_descriptors: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// sendmsg(2) or recvmsg(2), without waiting; how many bytes.
///
/// # Safety
/// The message describes buffers that are good for what the call does with them.
unsafe fn pass(
    call: c_long,
    socket: BorrowedFd<'_>,
    message: *mut libc::msghdr,
    flags: c_int,
) -> io::Result<usize> {
    let flags = flags | libc::MSG_DONTWAIT;
    let arguments = [
        socket.as_raw_fd() as usize,
        message as usize,
        flags as usize,
        0,
    ];
    loop {
        // SAFETY: the caller's promise.
        match unsafe { os::syscall(call, arguments) } {
            Err(libc::EINTR) => {}
            answer => return answer.map_err(io::Error::from_raw_os_error),
        }
    }
}

/// Says that nothing more will be sent. Whoever else has the descriptor cannot send either.
pub(crate) fn finish(socket: BorrowedFd<'_>) {
    // SAFETY: the call takes no memory. Where it fails, the connection is over already.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

/// The process that made this pair of sockets; none if it is no such socket.
pub(crate) fn maker(socket: RawFd) -> Option<libc::pid_t> {
    let is = |name, value| option(socket, name) == Ok::<c_int, _>(value);
    if !is(libc::SO_TYPE, libc::SOCK_SEQPACKET) || !is(libc::SO_DOMAIN, libc::AF_UNIX) {
        return None;
    }
    let maker: libc::ucred = option(socket, libc::SO_PEERCRED).ok()?;
    Some(maker.pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    #[test]
    fn packets_keep_their_bounds_and_bring_descriptors() {
        let (a, b) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(a.as_fd(), &[b"one", b"two"], &[&writer.into()]).unwrap();
        send(a.as_fd(), &[b"three"], &[]).unwrap();
        let (mut buffer, mut descriptors) = ([0; 16], Vec::new());
        let arrived = receive(b.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!(&buffer[..arrived.len], b"onetwo");
        let mut writer = std::fs::File::from(descriptors.pop().unwrap());
        writer.write_all(b"x").unwrap();
        drop(writer);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 1);
        let arrived = receive(b.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!((arrived.len, descriptors.len()), (5, 0));
        let empty = receive(b.as_fd(), &mut buffer, &mut descriptors).map(|_| ());
        assert_eq!(empty.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        finish(a.as_fd());
        let end = receive(b.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!(end.len, 0);
    }

    #[test]
    fn a_packet_carries_as_many_descriptors_as_promised() {
        let (a, b) = pair().unwrap();
        let many: Vec<OwnedFd> = (0..MOST_DESCRIPTORS)
            .map(|_| a.try_clone().unwrap())
            .collect();
        let all: Vec<&OwnedFd> = many.iter().collect();
        send(a.as_fd(), &[b"x"], &all).unwrap();
        let mut descriptors = Vec::new();
        let arrived = receive(b.as_fd(), &mut [0; 1], &mut descriptors).unwrap();
        assert!(!arrived.lost_descriptors);
        assert_eq!(descriptors.len(), MOST_DESCRIPTORS);
    }

    #[test]
    fn a_pair_knows_who_made_it() {
        let (a, _b) = pair().unwrap();
        assert_eq!(maker(a.as_raw_fd()), Some(std::process::id() as i32));
        assert_eq!(maker(2), None);
    }
}
