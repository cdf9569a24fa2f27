//! `Listener`: what a server can accept from, TCP or Unix.

use std::io;
use std::os::fd::AsFd;

use crate::net::{SocketAddr, TcpListener, TcpStream, UnixListener, UnixStream, unix};

/// What a [`StreamServer`](super::StreamServer) can accept from: a
/// [`TcpListener`] or a [`UnixListener`]. No other type can implement it.
///
/// # Examples
/// ```
/// use greenlet::net::TcpListener;
/// use greenlet::server::{Listener, StreamServer};
///
/// fn count<L: Listener>(server: &StreamServer<L>) -> usize {
///     server.connection_count()
/// }
/// let server = StreamServer::<TcpListener>::bind("127.0.0.1:0", |_, _| ())?;
/// assert_eq!(count(&server), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
pub trait Listener: Accept {}

impl Listener for TcpListener {}
impl Listener for UnixListener {}

/// What a server needs of a listener; it cannot be named outside of the crate.
pub trait Accept: AsFd + 'static {
    /// A connection.
    type Stream: 'static;
    /// Where it comes from.
    type Addr: 'static;

    fn accept(&self) -> io::Result<(Self::Stream, Self::Addr)>;
    fn local_addr(&self) -> io::Result<Self::Addr>;
    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()>;
    fn close(&self) -> io::Result<()>;
}

macro_rules! accept {
    ($listener:ty, $stream:ty, $addr:ty) => {
        impl Accept for $listener {
            type Stream = $stream;
            type Addr = $addr;

            fn accept(&self) -> io::Result<($stream, $addr)> {
                self.accept()
            }

            fn local_addr(&self) -> io::Result<$addr> {
                self.local_addr()
            }

            fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
                self.set_nonblocking(nonblocking)
            }

            fn close(&self) -> io::Result<()> {
                self.close()
            }
        }
    };
}

accept!(TcpListener, TcpStream, SocketAddr);
accept!(UnixListener, UnixStream, unix::SocketAddr);
