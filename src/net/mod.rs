//! Sockets in std's shape, whose calls park the greenlet and not its thread.
//!
//! `use std::net` becomes `use greenlet::net`, and the program stays as it is:
//! the same types with the same methods, the same errors, and the addresses of
//! std besides. The Unix sockets of `std::os::unix::net` are here too, and
//! under [`unix`] with std's names.
//!
//! What is different from std's, because greenlets are:
//!
//! - A reader and a writer, or two acceptors, may wait on one socket, and
//!   several threads may share one: put it behind an `Rc` or an `Arc`.
//! - `close` closes a socket under those who wait for it.
//! - A greenlet that is killed, or whose `timeout` is over, while it waits
//!   leaves the socket usable. Of a `write_all` or `read_exact` that is cut
//!   short nobody knows how far it came.
//! - Host names are looked up on a helper thread; see [`ToSocketAddrs`].
//!
//! # Examples
//! ```
//! use greenlet::net::{TcpListener, TcpStream};
//! use std::io::{Read, Write};
//!
//! let listener = TcpListener::bind("127.0.0.1:0")?;
//! let address = listener.local_addr()?;
//! let server = greenlet::spawn(move || {
//!     let (mut stream, _) = listener.accept()?;
//!     let mut text = String::new();
//!     stream.read_to_string(&mut text)?;
//!     Ok::<_, std::io::Error>(text)
//! });
//! TcpStream::connect(address)?.write_all(b"hello")?;
//! assert_eq!(server.join().unwrap()?, "hello");
//! # Ok::<(), std::io::Error>(())
//! ```

mod face;
mod lookup;
mod socket;
mod tcp_listener;
mod tcp_stream;
#[cfg(feature = "process")]
mod travel;
mod udp_socket;
mod unix_datagram;
mod unix_listener;
mod unix_stream;

pub use std::net::{
    AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6,
};

pub use self::lookup::ToSocketAddrs;
#[cfg(feature = "process")]
pub(crate) use self::tcp_listener::ReservedPort;
pub use self::tcp_listener::{Incoming, IntoIncoming, TcpListener};
pub use self::tcp_stream::TcpStream;
pub use self::udp_socket::UdpSocket;
pub use self::unix_datagram::UnixDatagram;
pub use self::unix_listener::{UnixIncoming, UnixListener};
pub use self::unix_stream::UnixStream;

/// The Unix sockets under the names of `std::os::unix::net`, which becomes
/// `greenlet::net::unix`.
///
/// # Examples
/// ```
/// use greenlet::net::unix::{SocketAddr, UnixListener, UnixStream};
/// use std::os::linux::net::SocketAddrExt;
///
/// let name = format!("greenlet example {}", std::process::id());
/// let address = SocketAddr::from_abstract_name(name)?;
/// let listener = UnixListener::bind_addr(&address)?;
/// let client = UnixStream::connect_addr(&address)?;
/// let (_server, _) = listener.accept()?;
/// assert!(client.peer_addr()?.as_abstract_name().is_some());
/// # Ok::<(), std::io::Error>(())
/// ```
pub mod unix {
    pub use super::unix_listener::UnixIncoming as Incoming;
    pub use super::{UnixDatagram, UnixListener, UnixStream};
    pub use std::os::unix::net::SocketAddr;
}
