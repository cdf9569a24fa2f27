//! `TcpListener`: where connections come in.

use std::io;
use std::iter::FusedIterator;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::face::{common_methods, conversions};
use super::lookup::{ToSocketAddrs, first_success};
use super::socket::Socket;
use super::tcp_stream::TcpStream;
use crate::hub::Direction;
use crate::sys::socket as sys;

/// A TCP socket that takes connections, as [`std::net::TcpListener`]; its
/// calls park the greenlet.
///
/// Several greenlets, also of several threads, may accept from one listener;
/// each connection goes to one of them.
///
/// # Examples
/// ```
/// use greenlet::net::{TcpListener, TcpStream};
/// use std::io::{Read, Write};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let address = listener.local_addr()?;
/// greenlet::spawn(move || {
///     for mut stream in listener.incoming().flatten() {
///         greenlet::spawn(move || stream.write_all(b"welcome"));
///     }
/// });
/// let mut text = String::new();
/// TcpStream::connect(address)?.read_to_string(&mut text)?;
/// assert_eq!(text, "welcome");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpListener {
    pub(super) socket: Socket<std::net::TcpListener>,
}

conversions!(TcpListener, std::net::TcpListener);

impl TcpListener {
    /// Listens on the first of the addresses that can be had; on port 0 the
    /// kernel chooses one. As std's, it sets `SO_REUSEADDR`.
    ///
    /// # Errors
    /// That of the last address that was tried, for instance
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), or that of the look-up.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpListener;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// assert_ne!(listener.local_addr()?.port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        first_success(addr, |address| {
            let inner = std::net::TcpListener::bind(address)?;
            inner.set_nonblocking(true)?;
            Ok(TcpListener {
                socket: Socket::new(inner),
            })
        })
    }

    /// As [`bind`](TcpListener::bind), on a port that other listeners may have too,
    /// also those of other processes of the same user: the kernel shares the
    /// connections out among all that listen there by this (`SO_REUSEPORT`). It is
    /// how several threads serve one port, each with a listener of its own.
    ///
    /// # Errors
    /// As for [`bind`](TcpListener::bind);
    /// [`AddrInUse`](io::ErrorKind::AddrInUse) if somebody listens there who does
    /// not share.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpListener;
    ///
    /// let one = TcpListener::bind_reuse_port("127.0.0.1:0")?;
    /// let other = TcpListener::bind_reuse_port(one.local_addr()?)?;
    /// assert_eq!(one.local_addr()?, other.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn bind_reuse_port<A: ToSocketAddrs>(addr: A) -> io::Result<TcpListener> {
        /// What std's listeners have.
        const BACKLOG: u32 = 128;
        first_success(addr, |address| {
            let fd = sys::bound_to_shared(address)?;
            sys::listen(fd.as_fd(), BACKLOG)?;
            let inner = std::net::TcpListener::from(fd);
            Ok(TcpListener {
                socket: Socket::new(inner),
            })
        })
    }

    /// Waits for a connection; returns it, and where it comes from.
    ///
    /// # Errors
    /// For instance that the process has no descriptor left; the connection
    /// then stays for the next call.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let (_stream, from) = listener.accept()?;
    /// assert_eq!(from, client.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (fd, peer) = self
            .socket
            .run(Direction::Read, |inner| sys::accept(inner.as_fd()))?;
        let stream = TcpStream::from_accepted(std::net::TcpStream::from(fd));
        Ok((stream, peer.to_inet()?))
    }

    /// The connections as they come, without end: `accept` in a loop.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let _client = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(listener.incoming().next().unwrap().is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming { listener: self }
    }

    /// As [`incoming`](TcpListener::incoming), and owns the listener.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let _client = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(listener.into_incoming().next().unwrap().is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_incoming(self) -> IntoIncoming {
        IntoIncoming { listener: self }
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpListener;
    ///
    /// assert!(TcpListener::bind("127.0.0.1:0")?.local_addr()?.is_ipv4());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().local_addr()
    }

    /// Sets the time to live (`IP_TTL`, in hops) that connections start with.
    ///
    /// # Errors
    /// The kernel refuses the value.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpListener;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// listener.set_ttl(42)?;
    /// assert_eq!(listener.ttl()?, 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.get().set_ttl(ttl)
    }

    /// The time to live that connections start with, in hops.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpListener;
    ///
    /// assert!(TcpListener::bind("127.0.0.1:0")?.ttl()? > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket.get().ttl()
    }

    /// Says whether an IPv6 socket takes IPv6 alone. The kernel refuses it for
    /// a socket that is bound, and these are; std has it for old programs.
    ///
    /// # Errors
    /// Always, for the reason above.
    ///
    /// # Examples
    /// ```
    /// # #![allow(deprecated)]
    /// use greenlet::net::TcpListener;
    ///
    /// assert!(TcpListener::bind("127.0.0.1:0")?.set_only_v6(true).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[deprecated = "this option can only be set before the socket is bound"]
    #[allow(deprecated)]
    pub fn set_only_v6(&self, only_v6: bool) -> io::Result<()> {
        self.socket.get().set_only_v6(only_v6)
    }

    /// Whether an IPv6 socket takes IPv6 alone.
    ///
    /// # Errors
    /// The socket is not one of IPv6.
    ///
    /// # Examples
    /// ```
    /// # #![allow(deprecated)]
    /// use greenlet::net::TcpListener;
    ///
    /// assert!(TcpListener::bind("127.0.0.1:0")?.only_v6().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[deprecated = "this option can only be set before the socket is bound"]
    #[allow(deprecated)]
    pub fn only_v6(&self) -> io::Result<bool> {
        self.socket.get().only_v6()
    }

    common_methods!(TcpListener, "", "TcpListener::bind(\"127.0.0.1:0\")?");
}

/// The connections of a [`TcpListener`], from its
/// [`incoming`](TcpListener::incoming).
#[derive(Debug)]
#[must_use = "connections are accepted when the iterator is asked for them"]
pub struct Incoming<'a> {
    listener: &'a TcpListener,
}

impl Iterator for Incoming<'_> {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<io::Result<TcpStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for Incoming<'_> {}

/// The connections of a [`TcpListener`], from its
/// [`into_incoming`](TcpListener::into_incoming).
#[derive(Debug)]
#[must_use = "connections are accepted when the iterator is asked for them"]
pub struct IntoIncoming {
    listener: TcpListener,
}

impl Iterator for IntoIncoming {
    type Item = io::Result<TcpStream>;

    fn next(&mut self) -> Option<io::Result<TcpStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }
}

impl FusedIterator for IntoIncoming {}

/// A port that is bound, and not listened on: nobody else gets it, and those who
/// [share it](TcpListener::bind_reuse_port) can come and go.
#[cfg(feature = "process")]
pub(crate) struct ReservedPort {
    /// What is bound; closing it gives the port back.
    _socket: std::net::TcpListener,
    address: SocketAddr,
}

#[cfg(feature = "process")]
impl ReservedPort {
    /// # Errors
    /// As for [`TcpListener::bind`].
    pub(crate) fn new<A: ToSocketAddrs>(addr: A) -> io::Result<ReservedPort> {
        first_success(addr, |address| {
            // For its methods; nothing is accepted.
            let socket = std::net::TcpListener::from(sys::bound_to_shared(address)?);
            let address = socket.local_addr()?;
            Ok(ReservedPort {
                _socket: socket,
                address,
            })
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
