//! `UnixListener`: where connections from within this machine come in.

use std::io;
use std::iter::FusedIterator;
use std::os::fd::AsFd;
use std::os::unix::net::SocketAddr;
use std::path::Path;

use super::face::{common_methods, conversions};
use super::socket::Socket;
use super::unix_stream::UnixStream;
use crate::hub::Direction;
use crate::sys::socket as sys;

/// A Unix socket that takes connections, as
/// [`std::os::unix::net::UnixListener`]; its calls park the greenlet.
///
/// As with std's, the socket's file stays when the listener is dropped.
///
/// # Examples
/// ```
/// use greenlet::net::{UnixListener, UnixStream};
/// use std::io::{Read, Write};
///
/// let path = std::env::temp_dir().join(format!("greenlet-doc-{}", std::process::id()));
/// let listener = UnixListener::bind(&path)?;
/// let client = greenlet::spawn({
///     let path = path.clone();
///     move || UnixStream::connect(path)?.write_all(b"hello")
/// });
/// let mut text = String::new();
/// listener.accept()?.0.read_to_string(&mut text)?;
/// assert_eq!(text, "hello");
/// client.join().unwrap()?;
/// std::fs::remove_file(path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct UnixListener {
    pub(super) socket: Socket<std::os::unix::net::UnixListener>,
}

conversions!(UnixListener, std::os::unix::net::UnixListener);

impl UnixListener {
    /// Listens on a path, where no file may be.
    ///
    /// # Errors
    /// [`AddrInUse`](io::ErrorKind::AddrInUse), if there is one;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), if the path is too long
    /// for a socket.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixListener;
    ///
    /// let error = UnixListener::bind("/").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    /// ```
    pub fn bind<P: AsRef<Path>>(path: P) -> io::Result<UnixListener> {
        UnixListener::from_new(std::os::unix::net::UnixListener::bind(path)?)
    }

    /// Listens on an address, which may be abstract.
    ///
    /// # Errors
    /// As for [`bind`](UnixListener::bind).
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixListener, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet bind_addr {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(&name)?;
    /// let listener = UnixListener::bind_addr(&address)?;
    /// assert_eq!(listener.local_addr()?.as_abstract_name(), Some(name.as_bytes()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn bind_addr(socket_addr: &SocketAddr) -> io::Result<UnixListener> {
        UnixListener::from_new(std::os::unix::net::UnixListener::bind_addr(socket_addr)?)
    }

    fn from_new(inner: std::os::unix::net::UnixListener) -> io::Result<UnixListener> {
        inner.set_nonblocking(true)?;
        Ok(UnixListener {
            socket: Socket::new(inner),
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
    /// use greenlet::net::{UnixListener, UnixStream, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet accept {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(name)?;
    /// let listener = UnixListener::bind_addr(&address)?;
    /// let _client = UnixStream::connect_addr(&address)?;
    /// assert!(listener.accept()?.1.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn accept(&self) -> io::Result<(UnixStream, SocketAddr)> {
        let (fd, peer) = self
            .socket
            .run(Direction::Read, |inner| sys::accept(inner.as_fd()))?;
        let inner = std::os::unix::net::UnixStream::from(fd);
        // A path that fills the kernel's structure to the last byte is one that
        // std alone can make an address of.
        let peer = peer.to_unix().or_else(|_| inner.peer_addr())?;
        Ok((UnixStream::from_new(inner), peer))
    }

    /// The connections as they come, without end: `accept` in a loop.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixListener, UnixStream, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet incoming {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(name)?;
    /// let listener = UnixListener::bind_addr(&address)?;
    /// let _client = UnixStream::connect_addr(&address)?;
    /// assert!(listener.incoming().next().unwrap().is_ok());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn incoming(&self) -> UnixIncoming<'_> {
        UnixIncoming { listener: self }
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// The socket was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{UnixListener, unix::SocketAddr};
    /// use std::os::linux::net::SocketAddrExt;
    ///
    /// let name = format!("greenlet local_addr {}", std::process::id());
    /// let address = SocketAddr::from_abstract_name(name)?;
    /// assert!(!UnixListener::bind_addr(&address)?.local_addr()?.is_unnamed());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.get().local_addr()
    }

    common_methods!(
        UnixListener,
        "use greenlet::net::unix::SocketAddr;
use std::os::linux::net::SocketAddrExt;

let name = format!(\"greenlet {} {}\", std::process::id(), line!());
let address = SocketAddr::from_abstract_name(name)?;",
        "UnixListener::bind_addr(&address)?"
    );
}

impl<'a> IntoIterator for &'a UnixListener {
    type Item = io::Result<UnixStream>;
    type IntoIter = UnixIncoming<'a>;

    fn into_iter(self) -> UnixIncoming<'a> {
        self.incoming()
    }
}

/// The connections of a [`UnixListener`]; under [`unix`](super::unix) it has
/// std's name, `Incoming`.
#[derive(Debug)]
#[must_use = "connections are accepted when the iterator is asked for them"]
pub struct UnixIncoming<'a> {
    listener: &'a UnixListener,
}

impl Iterator for UnixIncoming<'_> {
    type Item = io::Result<UnixStream>;

    fn next(&mut self) -> Option<io::Result<UnixStream>> {
        Some(self.listener.accept().map(|(stream, _)| stream))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

impl FusedIterator for UnixIncoming<'_> {}
