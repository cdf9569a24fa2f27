//! The socket calls that std has no non-blocking form of: creating, connecting
//! and accepting without a moment in which the socket would block.
//!
//! Addresses are put together and taken apart byte by byte, at the offsets that
//! libc's structures give, so that no uninitialised padding is ever looked at.

use std::io;
use std::mem::{MaybeUninit, offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;

use libc::{c_int, sockaddr_in, sockaddr_in6, sockaddr_storage, sockaddr_un, socklen_t};

use super::os::{self, Errno};

/// The family and where the path begins; the same in every `sockaddr`.
const FAMILY: usize = size_of::<libc::sa_family_t>();

/// An address as the kernel reads and writes it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct RawAddress {
    bytes: [u8; size_of::<sockaddr_storage>()],
    len: socklen_t,
}

impl RawAddress {
    fn empty() -> RawAddress {
        RawAddress {
            bytes: [0; size_of::<sockaddr_storage>()],
            len: 0,
        }
    }

    fn of_family(family: c_int, len: usize) -> RawAddress {
        let mut raw = RawAddress::empty();
        raw.put(0, &(family as libc::sa_family_t).to_ne_bytes());
        raw.len = len as socklen_t;
        raw
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[at..at + N]);
        bytes
    }

    pub(crate) fn family(&self) -> c_int {
        c_int::from(libc::sa_family_t::from_ne_bytes(self.get(0)))
    }

    /// The address that std knows, of a socket of an IP family.
    pub(crate) fn to_inet(self) -> io::Result<SocketAddr> {
        match self.family() {
            libc::AF_INET => {
                let ip: [u8; 4] = self.get(offset_of!(sockaddr_in, sin_addr));
                let port = u16::from_be_bytes(self.get(offset_of!(sockaddr_in, sin_port)));
                Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = self.get(offset_of!(sockaddr_in6, sin6_addr));
                Ok(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(ip),
                    u16::from_be_bytes(self.get(offset_of!(sockaddr_in6, sin6_port))),
                    u32::from_ne_bytes(self.get(offset_of!(sockaddr_in6, sin6_flowinfo))),
                    u32::from_ne_bytes(self.get(offset_of!(sockaddr_in6, sin6_scope_id))),
                )))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "invalid argument: not an address of the Internet",
            )),
        }
    }

    /// The address that std knows, of a Unix socket.
    pub(crate) fn to_unix(self) -> io::Result<UnixAddr> {
        let end = (self.len as usize).min(size_of::<sockaddr_un>());
        let name = self.bytes.get(FAMILY..end).unwrap_or_default();
        match name {
            // std takes an empty path for the address without a name.
            [] => UnixAddr::from_pathname(""),
            [0, name @ ..] => UnixAddr::from_abstract_name(name),
            path => {
                let end = path.iter().position(|byte| *byte == 0);
                let path = &path[..end.unwrap_or(path.len())];
                UnixAddr::from_pathname(Path::new(std::ffi::OsStr::from_bytes(path)))
            }
        }
    }
}

impl From<&SocketAddr> for RawAddress {
    fn from(address: &SocketAddr) -> RawAddress {
        match address {
            SocketAddr::V4(v4) => RawAddress::from(v4),
            SocketAddr::V6(v6) => RawAddress::from(v6),
        }
    }
}

impl From<&SocketAddrV4> for RawAddress {
    fn from(address: &SocketAddrV4) -> RawAddress {
        let mut raw = RawAddress::of_family(libc::AF_INET, size_of::<sockaddr_in>());
        let port = address.port().to_be_bytes();
        raw.put(offset_of!(sockaddr_in, sin_port), &port);
        raw.put(offset_of!(sockaddr_in, sin_addr), &address.ip().octets());
        raw
    }
}

impl From<&SocketAddrV6> for RawAddress {
    fn from(address: &SocketAddrV6) -> RawAddress {
        let mut raw = RawAddress::of_family(libc::AF_INET6, size_of::<sockaddr_in6>());
        let port = address.port().to_be_bytes();
        let flowinfo = address.flowinfo().to_ne_bytes();
        let scope_id = address.scope_id().to_ne_bytes();
        raw.put(offset_of!(sockaddr_in6, sin6_port), &port);
        raw.put(offset_of!(sockaddr_in6, sin6_flowinfo), &flowinfo);
        raw.put(offset_of!(sockaddr_in6, sin6_addr), &address.ip().octets());
        raw.put(offset_of!(sockaddr_in6, sin6_scope_id), &scope_id);
        raw
    }
}

impl From<&UnixAddr> for RawAddress {
    fn from(address: &UnixAddr) -> RawAddress {
        let mut raw = RawAddress::of_family(libc::AF_UNIX, FAMILY);
        // std has checked that both kinds fit, a path with its final zero.
        if let Some(path) = address.as_pathname() {
            let path = path.as_os_str().as_bytes();
            raw.put(FAMILY, path);
            raw.len += path.len() as socklen_t + 1;
        } else if let Some(name) = address.as_abstract_name() {
            raw.put(FAMILY + 1, name);
            raw.len += name.len() as socklen_t + 1;
        }
        raw
    }
}

/// What a call of libc has answered; -1 means that errno tells why.
fn check(answer: c_int) -> io::Result<c_int> {
    if answer == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

/// A new stream socket that never blocks and is closed by exec.
pub(crate) fn stream(family: c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket has no preconditions.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: the descriptor is new, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A stream socket as `stream` gives it, bound to an address whose port others may
/// be bound to in the same way.
pub(crate) fn bound_to_shared(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let socket = stream(family)?;
    for option in [libc::SO_REUSEADDR, libc::SO_REUSEPORT] {
        let on: c_int = 1;
        // SAFETY: the kernel reads one int.
        check(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const on).cast(),
                size_of::<c_int>() as socklen_t,
            )
        })?;
    }
    let raw = RawAddress::from(address);
    // SAFETY: the kernel reads `len` bytes, which are all initialised.
    check(unsafe { libc::bind(socket.as_raw_fd(), raw.bytes.as_ptr().cast(), raw.len) })?;
    Ok(socket)
}

/// Starts to connect, or asks how far that has come: to be called again until
/// it answers something else than EINPROGRESS or EALREADY.
pub(crate) fn connect(fd: BorrowedFd<'_>, address: &RawAddress) -> io::Result<()> {
    // SAFETY: the kernel reads `len` bytes, which are all initialised.
    let answer =
        unsafe { libc::connect(fd.as_raw_fd(), address.bytes.as_ptr().cast(), address.len) };
    match check(answer) {
        Err(error) if error.raw_os_error() == Some(libc::EISCONN) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Accepts a connection, as a socket that never blocks and is closed by exec.
pub(crate) fn accept(fd: BorrowedFd<'_>) -> io::Result<(OwnedFd, RawAddress)> {
    let mut peer = RawAddress::empty();
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accepted = loop {
        peer.len = peer.bytes.len() as socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into a buffer of that
        // size, and the length.
        let answer = unsafe {
            libc::accept4(
                fd.as_raw_fd(),
                peer.bytes.as_mut_ptr().cast(),
                &mut peer.len,
                flags,
            )
        };
        match check(answer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    // SAFETY: the descriptor is new, and ours.
    Ok((unsafe { OwnedFd::from_raw_fd(accepted) }, peer))
}

/// Listens, or changes the length of the queue of what listens already.
pub(crate) fn listen(fd: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: the call takes no memory of ours.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(|_| ())
}

/// Whether O_NONBLOCK is set.
pub(crate) fn is_nonblocking(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GETFL changes nothing and takes no argument.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    flags != -1 && flags & libc::O_NONBLOCK != 0
}

/// Sets or clears O_NONBLOCK.
pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    let mut value = c_int::from(nonblocking);
    // SAFETY: FIONBIO reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &mut value) }).map(|_| ())
}

/// What is nothing but numbers, whatever its bytes are.
///
/// # Safety
/// It is that.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for c_int {}
// SAFETY: two numbers, of the same size.
unsafe impl Plain for libc::timeval {}
// SAFETY: three numbers, of the same size.
unsafe impl Plain for libc::ucred {}

/// One of a socket's options. errno is left alone.
///
/// # Errors
/// Those of `getsockopt`; EINVAL if the option is of another size.
pub(crate) fn option<T: Plain>(fd: RawFd, name: c_int) -> Result<T, Errno> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as socklen_t;
    let args = [
        fd as usize,
        libc::SOL_SOCKET as usize,
        name as usize,
        value.as_mut_ptr() as usize,
        (&raw mut len) as usize,
        0,
    ];
    // SAFETY: the kernel writes at most `len` bytes, into a value of that size.
    unsafe { os::syscall6(libc::SYS_getsockopt, args) }?;
    match len as usize == size_of::<T>() {
        // SAFETY: numbers, which are zeros or were written.
        true => Ok(unsafe { value.assume_init() }),
        false => Err(libc::EINVAL),
    }
}

/// One of a socket's two timeouts, SO_RCVTIMEO or SO_SNDTIMEO, in nanoseconds; none if
/// there is none, or no socket.
pub(crate) fn timeout(fd: RawFd, name: c_int) -> Option<u64> {
    let time: libc::timeval = option(fd, name).ok()?;
    let nanos = (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_usec as u64 * 1000);
    (nanos != 0).then_some(nanos)
}

/// Closes what is behind a descriptor and keeps the number: every call on it
/// answers EBADF from then on, as if it were closed, but it is not given out
/// again before its owner closes it.
pub(crate) fn bury(fd: BorrowedFd<'_>) -> io::Result<()> {
    // A descriptor that is opened as a mere path can neither be read nor
    // written nor polled, and it needs no permission.
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero byte.
    let dead = check(unsafe { libc::open(c"/".as_ptr(), flags) })?;
    // SAFETY: the descriptor is new, and ours.
    let dead = unsafe { OwnedFd::from_raw_fd(dead) };
    // SAFETY: the caller holds the descriptor while it is replaced, and both
    // are open and differ.
    check(unsafe { libc::dup3(dead.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_address_survives_the_way_to_the_kernel_and_back() {
        for text in ["127.0.0.1:80", "[::1]:65535", "255.254.253.252:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(RawAddress::from(&address).to_inet().unwrap(), address);
        }
        let scoped = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0x0102, 3));
        assert_eq!(RawAddress::from(&scoped).to_inet().unwrap(), scoped);
        for name in ["", "/tmp/x", "relative"] {
            let address = UnixAddr::from_pathname(name).unwrap();
            let back = RawAddress::from(&address).to_unix().unwrap();
            assert_eq!(back.is_unnamed(), name.is_empty());
            assert_eq!(back.as_pathname(), address.as_pathname());
        }
        let address = UnixAddr::from_abstract_name(b"a\0b").unwrap();
        let back = RawAddress::from(&address).to_unix().unwrap();
        assert_eq!(back.as_abstract_name(), Some(&b"a\0b"[..]));
        let longest = UnixAddr::from_pathname("x".repeat(107)).unwrap();
        let back = RawAddress::from(&longest).to_unix().unwrap();
        assert_eq!(back.as_pathname(), longest.as_pathname());
    }

    #[test]
    fn a_buried_descriptor_answers_as_a_closed_one_and_keeps_its_number() {
        let socket = stream(libc::AF_INET).unwrap();
        assert!(is_nonblocking(socket.as_fd()));
        bury(socket.as_fd()).unwrap();
        let accepted = accept(socket.as_fd()).map(|_| ());
        assert_eq!(accepted.unwrap_err().raw_os_error(), Some(libc::EBADF));
        let file = std::fs::File::from(socket.try_clone().unwrap());
        let read = std::io::Read::read(&mut &file, &mut [0]);
        assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
