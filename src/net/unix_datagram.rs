//! `UnixDatagram`: datagrams within this machine.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::face::{common_methods, conversions, timeout_methods};
use super::socket::Socket;
use crate::hub::Direction;

/// A Unix datagram socket, as [`std::os::unix::net::UnixDatagram`]; its calls
/// park the greenlet.
///
/// # Examples
/// ```
/// use greenlet::net::UnixDatagram;
///
/// let (a, b) = UnixDatagram::pair()?;
/// let sender = greenlet::spawn(move || a.send(b"hello"));
/// let mut buffer = [0; 16];
/// assert_eq!(b.recv(&mut buffer)?, 5);
/// sender.join().unwrap()?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixDatagram {
    pub(super) socket: Socket<std::os::unix::net::UnixDatagram>,
}

conversions!(UnixDatagram, std::os::unix::net::UnixDatagram);

impl UnixDatagram {
    /// A socket that is bound to a path, where no file may be.
    ///
    /// # Errors
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), if there is one;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), if the path is too long
    /// for a socket.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let error = UnixDatagram::bind("/").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    /// ```
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixDatagram> {
        UnixDatagram::from_new(std::os::unix::net::UnixDatagram::bind(path)?)
    }

    /// A socket that is bound to an address, which may be abstract.
    ///
    /// # Errors
    /// As for [`bind`](UnixDatagram::bind).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixDatagram, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet datagram bind_addr {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(name)?;
    /// let receiver = UnixDatagram::bind_addr(&address)?;
    /// UnixDatagram::unbound()?.send_to_addr(b"abc", &address)?;
    /// assert_eq!(receiver.recv(&mut [0; 8])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn bind_addr(socket_addr: &SocketAddr) -> io::Result<UnixDatagram> {
        UnixDatagram::from_new(std::os::unix::net::UnixDatagram::bind_addr(socket_addr)?)
    }

    /// A socket without an address: others cannot send to it.
    ///
    /// # Errors
    /// The process has no descriptor left.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// assert!(UnixDatagram::unbound()?.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn unbound() -> io::Result<UnixDatagram> {
        UnixDatagram::from_new(std::os::unix::net::UnixDatagram::unbound()?)
    }

    /// Two sockets that are connected to each other.
    ///
    /// # Errors
    /// The process has no descriptor left.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let (a, b) = UnixDatagram::pair()?;
    /// a.send(b"abc")?;
    /// assert_eq!(b.recv(&mut [0; 8])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "socketpair")]
    pub fn pair() -> io::Result<(UnixDatagram, UnixDatagram)> {
        let (a, b) = std::os::unix::net::UnixDatagram::pair()?;
        Ok((UnixDatagram::from_new(a)?, UnixDatagram::from_new(b)?))
    }

    fn from_new(inner: std::os::unix::net::UnixDatagram) -> io::Result<UnixDatagram> {
        inner.set_nonblocking(true)?;
        Ok(UnixDatagram {
            socket: Socket::new(inner),
        })
    }

    /// Sets where [`send`](UnixDatagram::send) sends to, and from whom alone
    /// the socket receives.
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound);
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), if nobody has
    /// that address any more.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let socket = UnixDatagram::unbound()?;
    /// assert!(socket.connect("/no/such/socket").is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        // The kernel only notes the address: nothing waits.
        self.socket.get().connect(path)
    }

    /// As [`connect`](UnixDatagram::connect), with an address, which may be
    /// abstract.
    ///
    /// # Errors
    /// As for `connect`.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixDatagram, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet connect_addr {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(name)?;
    /// let receiver = UnixDatagram::bind_addr(&address)?;
    /// let sender = UnixDatagram::unbound()?;
    /// sender.connect_addr(&address)?;
    /// assert_eq!(sender.send(b"abc")?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect_addr(&self, socket_addr: &SocketAddr) -> io::Result<()> {
        self.socket.get().connect_addr(socket_addr)
    }

    /// The address of this socket.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// assert!(UnixDatagram::pair()?.0.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().local_addr()
    }

    /// Where the socket is connected to.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// assert!(UnixDatagram::unbound()?.peer_addr().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().peer_addr()
    }

    /// Waits for a datagram; returns its length and where it comes from. What
    /// the buffer has no room for is lost.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when the read timeout is over.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let (a, b) = UnixDatagram::pair()?;
    /// a.send(b"abc")?;
    /// let (len, from) = b.recv_from(&mut [0; 8])?;
    /// assert!(len == 3 && from.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket
            .run(Direction::Read, |inner| inner.recv_from(buf))
    }

    /// Waits for a datagram and returns its length.
    ///
    /// # Errors
    /// As for [`recv_from`](UnixDatagram::recv_from).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let (a, b) = UnixDatagram::pair()?;
    /// a.send(b"abc")?;
    /// assert_eq!(b.recv(&mut [0; 8])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.run(Direction::Read, |inner| inner.recv(buf))
    }

    /// Sends a datagram to the socket at a path, and waits while that one's
    /// queue is full.
    ///
    /// # Errors
    /// As for [`connect`](UnixDatagram::connect).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let path = std::env::temp_dir().join(format!("greenlet-send_to-{}", std::process::id()));
    /// let receiver = UnixDatagram::bind(&path)?;
    /// UnixDatagram::unbound()?.send_to(b"abc", &path)?;
    /// assert_eq!(receiver.recv(&mut [0; 8])?, 3);
    /// std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send_to<P: AsRef<Path>>(&self, buf: &[u8], path: P) -> io::Result<usize> {
        let path = path.as_ref();
        self.send_to_anybody(|inner| inner.send_to(buf, path))
    }

    /// As [`send_to`](UnixDatagram::send_to), with an address, which may be
    /// abstract.
    ///
    /// # Errors
    /// As for `connect`.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixDatagram, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet send_to_addr {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(name)?;
    /// let receiver = UnixDatagram::bind_addr(&address)?;
    /// assert_eq!(UnixDatagram::unbound()?.send_to_addr(b"abc", &address)?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send_to_addr(&self, buf: &[u8], socket_addr: &SocketAddr) -> io::Result<usize> {
        self.send_to_anybody(|inner| inner.send_to_addr(buf, socket_addr))
    }

    fn send_to_anybody(
        &self,
        operation: impl FnMut(&std::os::unix::net::UnixDatagram) -> io::Result<usize>,
    ) -> io::Result<usize> {
        // The kernel tells a socket when its own peer has room again, and
        // nothing about others.
        self.socket.run_with_pauses("sending a datagram", operation)
    }

    /// Sends a datagram to where the socket is connected to, and waits while
    /// the queue there is full.
    ///
    /// # Errors
    /// The socket is not connected, or nobody is there any more.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixDatagram;
    ///
    /// let (a, _b) = UnixDatagram::pair()?;
    /// assert_eq!(a.send(b"abc")?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.socket.run(Direction::Write, |inner| inner.send(buf))
    }

    /// Ends one direction, or both. Whoever waits to receive or to send there
    /// is woken.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Shutdown, UnixDatagram};
    ///
    /// let (a, b) = UnixDatagram::pair()?;
    /// b.shutdown(Shutdown::Read)?;
    /// assert!(a.send(b"abc").is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.get().shutdown(how)
    }

    common_methods!(UnixDatagram, "", "UnixDatagram::pair()?.0");
    timeout_methods!(UnixDatagram, "", "UnixDatagram::pair()?.0");
}
