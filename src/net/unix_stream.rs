//! `UnixStream`: a connection within this machine.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::face::{common_methods, conversions, read_and_write, timeout_methods};
use super::socket::Socket;
use crate::hub::Direction;
use crate::sys::socket::{self as sys, RawAddress};

/// A Unix stream socket, as [`std::os::unix::net::UnixStream`]; its calls park
/// the greenlet.
///
/// # Examples
/// ```
/// use greenlet::net::UnixStream;
/// use std::io::{Read, Write};
///
/// let (mut a, mut b) = UnixStream::pair()?;
/// let reader = greenlet::spawn(move || {
///     let mut text = String::new();
///     b.read_to_string(&mut text).map(|_| text)
/// });
/// a.write_all(b"hello")?;
/// drop(a);
/// assert_eq!(reader.join().unwrap()?, "hello");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixStream {
    pub(super) socket: Socket<std::os::unix::net::UnixStream>,
}

conversions!(UnixStream, std::os::unix::net::UnixStream);
read_and_write!(UnixStream);

impl UnixStream {
    /// Connects to the listener that is bound to a path.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound);
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), if nobody
    /// listens; [`InvalidInput`](io::ErrorKind::InvalidInput), if the path is
    /// too long for a socket.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixStream;
    ///
    /// let error = UnixStream::connect("/no/such/socket").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn connect<P: AsRef<Path>>(path: P) -> io::Result<UnixStream> {
        UnixStream::connect_addr(&SocketAddr::from_pathname(path)?)
    }

    /// Connects to a listener by its address, which may be abstract.
    ///
    /// # Errors
    /// As for [`connect`](UnixStream::connect).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixStream, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let nobody = SocketAddr::from_abstract_name("greenlet: nobody listens here")?;
    /// assert!(UnixStream::connect_addr(&nobody).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect_addr(socket_addr: &SocketAddr) -> io::Result<UnixStream> {
        let address = RawAddress::from(socket_addr);
        let fd = sys::stream(libc::AF_UNIX)?;
        let socket = Socket::new(std::os::unix::net::UnixStream::from(fd));
        // The answer comes at once, except that the listener's queue may be
        // full; and no event tells when it is not any more.
        socket.run_with_pauses("connecting to a Unix socket", |inner| {
            sys::connect(inner.as_fd(), &address)
        })?;
        Ok(UnixStream { socket })
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    /// The process has no descriptor left.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixStream;
    ///
    /// let (a, b) = UnixStream::pair()?;
    /// assert!(a.peer_addr()?.is_unnamed() && b.peer_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "socketpair")]
    pub fn pair() -> io::Result<(UnixStream, UnixStream)> {
        let (a, b) = std::os::unix::net::UnixStream::pair()?;
        a.set_nonblocking(true)?;
        b.set_nonblocking(true)?;
        Ok((UnixStream::from_new(a), UnixStream::from_new(b)))
    }

    pub(super) fn from_new(inner: std::os::unix::net::UnixStream) -> UnixStream {
        UnixStream {
            socket: Socket::new(inner),
        }
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket
            .run(Direction::Read, |mut inner| inner.read(buf))
    }

    fn receive_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return self.socket.get().read_vectored(bufs);
        }
        self.socket
            .run(Direction::Read, |mut inner| inner.read_vectored(bufs))
    }

    fn transmit(&self, buf: &[u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return self.socket.get().write(buf);
        }
        self.socket
            .run(Direction::Write, |mut inner| inner.write(buf))
    }

    fn transmit_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return self.socket.get().write_vectored(bufs);
        }
        self.socket
            .run(Direction::Write, |mut inner| inner.write_vectored(bufs))
    }

    /// Ends one direction of the connection, or both. Whoever waits to read or
    /// to write there is woken.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected) if it is over already.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Shutdown, UnixStream};
    /// use std::io::Read;
    ///
    /// let (a, mut b) = UnixStream::pair()?;
    /// a.shutdown(Shutdown::Write)?;
    /// assert_eq!(b.read(&mut [0])?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.get().shutdown(how)
    }

    /// The address of this side.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixStream;
    ///
    /// assert!(UnixStream::pair()?.0.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().local_addr()
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixStream;
    ///
    /// assert!(UnixStream::pair()?.0.peer_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().peer_addr()
    }

    common_methods!(UnixStream, "", "UnixStream::pair()?.0");
    timeout_methods!(UnixStream, "", "UnixStream::pair()?.0");
}
