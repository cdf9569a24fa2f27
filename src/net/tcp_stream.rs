//! `TcpStream`: one connection.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use super::face::{common_methods, conversions, read_and_write, timeout_methods};
use super::lookup::{ToSocketAddrs, first_success};
use super::socket::Socket;
use crate::hub::Direction;
use crate::sys::clock::{self, NEVER};
use crate::sys::socket::{self as sys, RawAddress};

/// A TCP connection, as [`std::net::TcpStream`]; its calls park the greenlet.
///
/// It is closed when it is dropped. Reading and writing work through `&` too,
/// so one greenlet may read while another writes.
///
/// # Examples
/// ```
/// use greenlet::net::{TcpListener, TcpStream};
/// use std::io::{Read, Write};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (mut server, _) = listener.accept()?;
/// client.write_all(b"ping")?;
/// let mut buffer = [0; 4];
/// server.read_exact(&mut buffer)?;
/// assert_eq!(&buffer, b"ping");
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct TcpStream {
    pub(super) socket: Socket<std::net::TcpStream>,
}

conversions!(TcpStream, std::net::TcpStream);
read_and_write!(TcpStream);

impl TcpStream {
    /// Connects to the first of the addresses that answers.
    ///
    /// # Errors
    /// That of the last address that was tried, for instance
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), or that of the
    /// look-up.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(("localhost", listener.local_addr()?.port()));
    /// assert!(stream.is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect<A: ToSocketAddrs>(addr: A) -> io::Result<TcpStream> {
        first_success(addr, |address| TcpStream::connect_until(address, NEVER))
    }

    /// Connects to an address, and gives up after `timeout`.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut) when the time is over;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is zero; else as
    /// [`connect`](TcpStream::connect).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    /// use std::time::Duration;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// assert!(TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        if timeout.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "cannot set a 0 duration timeout",
            ));
        }
        TcpStream::connect_until(addr, clock::deadline_after(timeout))
    }

    fn connect_until(address: &SocketAddr, deadline: u64) -> io::Result<TcpStream> {
        let address = RawAddress::from(address);
        let socket = Socket::new(std::net::TcpStream::from(sys::stream(address.family())?));
        let connected = socket.run_until(Direction::Write, deadline, |inner| {
            match sys::connect(inner.as_fd(), &address) {
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINPROGRESS | libc::EALREADY) => {
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    // This is a failure, here alone, and not a reason to wait.
                    Some(libc::EAGAIN) => Ok(Err(error)),
                    _ => Err(error),
                },
                Ok(()) => Ok(Ok(())),
            }
        });
        match connected {
            Ok(answer) => answer.map(|()| TcpStream { socket }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "connection timed out",
            )),
            Err(error) => Err(error),
        }
    }

    pub(super) fn from_accepted(inner: std::net::TcpStream) -> TcpStream {
        TcpStream {
            socket: Socket::new(inner),
        }
    }

    fn receive(&self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len();
        self.socket
            .run_stream(Direction::Read, len, |mut inner| inner.read(buf))
    }

    fn receive_vectored(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        // One call fills so many at most.
        let filled = bufs.iter().take(libc::UIO_MAXIOV as usize);
        let len = filled.map(|buf| buf.len()).sum();
        if len == 0 {
            return self.socket.get().read_vectored(bufs);
        }
        self.socket
            .run_stream(Direction::Read, len, |mut inner| inner.read_vectored(bufs))
    }

    fn transmit(&self, buf: &[u8]) -> io::Result<usize> {
        self.socket
            .run_stream(Direction::Write, buf.len(), |mut inner| inner.write(buf))
    }

    fn transmit_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return self.socket.get().write_vectored(bufs);
        }
        // So many slices may be more than one call takes: a short write says
        // nothing about the room that is left.
        self.socket
            .run(Direction::Write, |mut inner| inner.write_vectored(bufs))
    }

    /// Reads without taking: the next read gets the same bytes again.
    ///
    /// # Errors
    /// As for a read.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    /// use std::io::{Read, Write};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut client = TcpStream::connect(listener.local_addr()?)?;
    /// client.write_all(b"x")?;
    /// let (mut server, _) = listener.accept()?;
    /// let mut byte = [0];
    /// assert_eq!(server.peek(&mut byte)?, 1);
    /// assert_eq!(server.read(&mut byte)?, 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.run(Direction::Read, |inner| inner.peek(buf))
    }

    /// Ends one direction of the connection, or both. Whoever waits to read or
    /// to write there is woken.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected) if it is over already.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Shutdown, TcpListener, TcpStream};
    /// use std::io::Read;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let (mut server, _) = listener.accept()?;
    /// client.shutdown(Shutdown::Write)?;
    /// assert_eq!(server.read(&mut [0])?, 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.get().shutdown(how)
    }

    /// The address of the other side.
    ///
    /// # Errors
    /// The connection is over.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert_eq!(stream.peer_addr()?, listener.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().peer_addr()
    }

    /// The address of this side.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.local_addr()?.ip().is_loopback());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().local_addr()
    }

    /// With true, small writes are sent at once and not collected
    /// (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_nodelay(true)?;
    /// assert!(stream.nodelay()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket.get().set_nodelay(nodelay)
    }

    /// Whether small writes are sent at once.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(!stream.nodelay()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn nodelay(&self) -> io::Result<bool> {
        self.socket.get().nodelay()
    }

    /// Sets the time to live of the packets sent (`IP_TTL`), in hops.
    ///
    /// # Errors
    /// The kernel refuses the value.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// stream.set_ttl(42)?;
    /// assert_eq!(stream.ttl()?, 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.get().set_ttl(ttl)
    }

    /// The time to live of the packets sent, in hops.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let stream = TcpStream::connect(listener.local_addr()?)?;
    /// assert!(stream.ttl()? > 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn ttl(&self) -> io::Result<u32> {
        self.socket.get().ttl()
    }

    common_methods!(
        TcpStream,
        "let listener = greenlet::net::TcpListener::bind(\"127.0.0.1:0\")?;",
        "TcpStream::connect(listener.local_addr()?)?"
    );
    timeout_methods!(
        TcpStream,
        "let listener = greenlet::net::TcpListener::bind(\"127.0.0.1:0\")?;",
        "TcpStream::connect(listener.local_addr()?)?"
    );
}
