//! `UdpSocket`: datagrams.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::face::{common_methods, conversions, timeout_methods};
use super::lookup::{ToSocketAddrs, first_success};
use super::socket::Socket;
use crate::hub::Direction;

/// A UDP socket, as [`std::net::UdpSocket`]; its calls park the greenlet.
///
/// # Examples
/// ```
/// use greenlet::net::UdpSocket;
///
/// let a = UdpSocket::bind("127.0.0.1:0")?;
/// let b = UdpSocket::bind("127.0.0.1:0")?;
/// a.send_to(b"hello", b.local_addr()?)?;
/// let mut buffer = [0; 16];
/// let (len, from) = b.recv_from(&mut buffer)?;
/// assert_eq!((&buffer[..len], from), (&b"hello"[..], a.local_addr()?));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UdpSocket {
    pub(super) socket: Socket<std::net::UdpSocket>,
}

conversions!(UdpSocket, std::net::UdpSocket);

impl UdpSocket {
    /// A socket on the first of the addresses that can be had; on port 0 the
    /// kernel chooses one.
    ///
    /// # Errors
    /// That of the last address that was tried, for instance
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), or that of the look-up.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// assert!(UdpSocket::bind("127.0.0.1:0").is_ok());
    /// ```
    pub fn bind<A: ToSocketAddrs>(addr: A) -> io::Result<UdpSocket> {
        first_success(addr, |address| {
            let inner = std::net::UdpSocket::bind(address)?;
            inner.set_nonblocking(true)?;
            Ok(UdpSocket {
                socket: Socket::new(inner),
            })
        })
    }

    /// Waits for a datagram; returns its length and where it comes from. What
    /// the buffer has no room for is lost.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when the read timeout is over.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.send_to(b"to myself", socket.local_addr()?)?;
    /// assert_eq!(socket.recv_from(&mut [0; 16])?.0, 9);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket
            .run(Direction::Read, |inner| inner.recv_from(buf))
    }

    /// As [`recv_from`](UdpSocket::recv_from), and leaves the datagram there.
    ///
    /// # Errors
    /// As for `recv_from`.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.send_to(b"abc", socket.local_addr()?)?;
    /// assert_eq!(socket.peek_from(&mut [0; 8])?.0, 3);
    /// assert_eq!(socket.recv_from(&mut [0; 8])?.0, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek_from(&self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.socket
            .run(Direction::Read, |inner| inner.peek_from(buf))
    }

    /// Sends a datagram to the first of the addresses.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if there is no address;
    /// that it is too long; that of the look-up.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// assert_eq!(socket.send_to(b"abc", socket.local_addr()?)?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send_to<A: ToSocketAddrs>(&self, buf: &[u8], addr: A) -> io::Result<usize> {
        match addr.to_socket_addrs()?.next() {
            Some(address) => self
                .socket
                .run(Direction::Write, |inner| inner.send_to(buf, address)),
            None => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no addresses to send data to",
            )),
        }
    }

    /// Sets where [`send`](UdpSocket::send) sends to, and from whom alone
    /// [`recv`](UdpSocket::recv) receives.
    ///
    /// # Errors
    /// That of the last address that was tried, or that of the look-up.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let a = UdpSocket::bind("127.0.0.1:0")?;
    /// let b = UdpSocket::bind("127.0.0.1:0")?;
    /// a.connect(b.local_addr()?)?;
    /// assert_eq!(a.peer_addr()?, b.local_addr()?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn connect<A: ToSocketAddrs>(&self, addr: A) -> io::Result<()> {
        // The kernel only notes the address: nobody is asked, nothing waits.
        first_success(addr, |address| self.socket.get().connect(address))
    }

    /// Sends a datagram to where the socket is connected to.
    ///
    /// # Errors
    /// The socket is not connected; or
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused), if an earlier
    /// datagram met nobody.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.connect(socket.local_addr()?)?;
    /// assert_eq!(socket.send(b"abc")?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn send(&self, buf: &[u8]) -> io::Result<usize> {
        self.socket.run(Direction::Write, |inner| inner.send(buf))
    }

    /// Waits for a datagram from where the socket is connected to.
    ///
    /// # Errors
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when the read timeout is over;
    /// or as for [`send`](UdpSocket::send).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.connect(socket.local_addr()?)?;
    /// socket.send(b"abc")?;
    /// assert_eq!(socket.recv(&mut [0; 8])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.run(Direction::Read, |inner| inner.recv(buf))
    }

    /// As [`recv`](UdpSocket::recv), and leaves the datagram there.
    ///
    /// # Errors
    /// As for `recv`.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// socket.connect(socket.local_addr()?)?;
    /// socket.send(b"abc")?;
    /// assert_eq!(socket.peek(&mut [0; 8])?, 3);
    /// assert_eq!(socket.recv(&mut [0; 8])?, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.socket.run(Direction::Read, |inner| inner.peek(buf))
    }

    /// Where the socket is connected to.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// assert!(UdpSocket::bind("127.0.0.1:0")?.peer_addr().is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().peer_addr()
    }

    /// The address of this socket.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UdpSocket;
    ///
    /// assert_ne!(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().local_addr()
    }

    common_methods!(UdpSocket, "", "UdpSocket::bind(\"127.0.0.1:0\")?");
    timeout_methods!(UdpSocket, "", "UdpSocket::bind(\"127.0.0.1:0\")?");
}

/// An option that is a value to be set and asked for.
macro_rules! option {
    ($set:ident, $get:ident, $type:ty, $bind:literal, $value:literal, $what:literal) => {
        #[doc = concat!("Sets ", $what, ".")]
        ///
        /// # Errors
        /// The kernel refuses the value, or the socket is of the other family.
        ///
        /// # Examples
        /// ```
        /// use greenlet::net::UdpSocket;
        ///
        #[doc = concat!("let Ok(socket) = UdpSocket::bind(\"", $bind, "\") else { return Ok(()) };")]
        #[doc = concat!("socket.", stringify!($set), "(", $value, ")?;")]
        #[doc = concat!("assert_eq!(socket.", stringify!($get), "()?, ", $value, ");")]
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn $set(&self, value: $type) -> io::Result<()> {
            self.socket.get().$set(value)
        }

        #[doc = concat!("Asks for ", $what, "; see [`", stringify!($set), "`](Self::", stringify!($set), ").")]
        ///
        /// # Errors
        /// The socket was closed, or is of the other family.
        ///
        /// # Examples
        /// ```
        /// use greenlet::net::UdpSocket;
        ///
        #[doc = concat!("let Ok(socket) = UdpSocket::bind(\"", $bind, "\") else { return Ok(()) };")]
        #[doc = concat!("println!(\"{:?}\", socket.", stringify!($get), "()?);")]
        /// # Ok::<(), std::io::Error>(())
        /// ```
        pub fn $get(&self) -> io::Result<$type> {
            self.socket.get().$get()
        }
    };
}

/// The options of UDP sockets.
impl UdpSocket {
    option!(
        set_broadcast,
        broadcast,
        bool,
        "127.0.0.1:0",
        "true",
        "whether it may send to broadcast addresses (`SO_BROADCAST`)"
    );
    option!(
        set_ttl,
        ttl,
        u32,
        "127.0.0.1:0",
        "42",
        "the time to live of the packets sent, in hops (`IP_TTL`)"
    );
    option!(
        set_multicast_loop_v4,
        multicast_loop_v4,
        bool,
        "127.0.0.1:0",
        "false",
        "whether multicast packets come back to this machine (`IP_MULTICAST_LOOP`)"
    );
    option!(
        set_multicast_ttl_v4,
        multicast_ttl_v4,
        u32,
        "127.0.0.1:0",
        "3",
        "the time to live of multicast packets, in hops (`IP_MULTICAST_TTL`)"
    );
    option!(
        set_multicast_loop_v6,
        multicast_loop_v6,
        bool,
        "[::1]:0",
        "false",
        "whether IPv6 multicast packets come back to this machine (`IPV6_MULTICAST_LOOP`)"
    );

    /// Joins a multicast group (`IP_ADD_MEMBERSHIP`) on the interface with that
    /// address, or on any.
    ///
    /// # Errors
    /// It is no multicast address, or there is no such interface.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Ipv4Addr, UdpSocket};
    ///
    /// let socket = UdpSocket::bind("0.0.0.0:0")?;
    /// let group = Ipv4Addr::new(224, 0, 0, 123);
    /// socket.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST)?;
    /// socket.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn join_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.get().join_multicast_v4(multiaddr, interface)
    }

    /// Joins an IPv6 multicast group (`IPV6_ADD_MEMBERSHIP`) on the interface
    /// with that index, or on any (0).
    ///
    /// # Errors
    /// It is no multicast address, or there is no such interface.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Ipv6Addr, UdpSocket};
    ///
    /// let Ok(socket) = UdpSocket::bind("[::1]:0") else { return };
    /// assert!(socket.join_multicast_v6(&Ipv6Addr::LOCALHOST, 0).is_err());
    /// ```
    pub fn join_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.get().join_multicast_v6(multiaddr, interface)
    }

    /// Leaves a multicast group (`IP_DROP_MEMBERSHIP`).
    ///
    /// # Errors
    /// The socket is not in the group.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Ipv4Addr, UdpSocket};
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// let group = Ipv4Addr::new(224, 0, 0, 123);
    /// assert!(socket.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn leave_multicast_v4(&self, multiaddr: &Ipv4Addr, interface: &Ipv4Addr) -> io::Result<()> {
        self.socket.get().leave_multicast_v4(multiaddr, interface)
    }

    /// Leaves an IPv6 multicast group (`IPV6_DROP_MEMBERSHIP`).
    ///
    /// # Errors
    /// The socket is not in the group.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{Ipv6Addr, UdpSocket};
    ///
    /// let Ok(socket) = UdpSocket::bind("[::1]:0") else { return };
    /// let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x123);
    /// assert!(socket.leave_multicast_v6(&group, 0).is_err());
    /// ```
    pub fn leave_multicast_v6(&self, multiaddr: &Ipv6Addr, interface: u32) -> io::Result<()> {
        self.socket.get().leave_multicast_v6(multiaddr, interface)
    }
}
