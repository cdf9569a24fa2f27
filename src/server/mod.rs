//! Servers: a listener, and a greenlet for every connection.
//!
//! ```text
//!   StreamServer ──▶ Inner { listener, pool, open: greenlets by number }
//!                      ▲                             ▲
//!   acceptor ──────────┘   loop: free slot?          │ leaves when it ends,
//!   (a greenlet)           accept; spawn ──▶ handler ┘ however it ends
//! ```

mod acceptor;
mod listener;
mod open;
#[cfg(feature = "process")]
mod workers;

use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use self::acceptor::{Inner, is_fatal};
pub use self::listener::Listener;
#[cfg(feature = "process")]
pub use self::workers::{Workers, WorkersBuilder, workers};
use crate::hub::{self, Kind, Reason, Woken};
use crate::net::{TcpListener, TcpStream, ToSocketAddrs, UnixListener, UnixStream};
use crate::sys::{clock, socket as sys};
use crate::task::refuse_with_panic_abort;
use crate::{Builder, Pool};

/// Accepts connections and runs a handler for each, in a greenlet of its own;
/// gevent's `StreamServer`.
///
/// The handler gets the connection and where it comes from. The connection is
/// closed when the handler drops it, so at the latest when it returns, panics or
/// is killed. What it returns is dropped, which lets it use `?`. A panic is
/// reported by the panic hook, and ends that connection alone.
///
/// The server listens from the moment it is made, and accepts from
/// [`start`](StreamServer::start) or [`serve_forever`](StreamServer::serve_forever)
/// on. It stays on its thread. Dropping it closes the listener, and leaves the
/// open connections to their handlers.
///
/// # Errors while it accepts
/// Most are survived: when no descriptor is left (`EMFILE`, `ENFILE`), a client
/// has gone before it was accepted (`ECONNABORTED`), or no stack can be had,
/// accepting pauses for 10 ms, then twice as long after each further error, up
/// to 1 s. [`take_error`](StreamServer::take_error) tells of the last one. Only
/// what cannot be accepted from at all (`EBADF`, `EINVAL`, `ENOTSOCK`,
/// `EOPNOTSUPP`) ends the server, and `serve_forever` returns it.
///
/// # Examples
/// ```
/// use greenlet::net::{TcpStream, SocketAddr};
/// use greenlet::server::StreamServer;
/// use std::io::{Read, Write};
/// use std::time::Duration;
///
/// let server = StreamServer::bind("127.0.0.1:0", |mut stream: TcpStream, _: SocketAddr| {
///     stream.write_all(b"welcome")
/// })?
/// .max_connections(100);
/// server.start()?;
///
/// let mut text = String::new();
/// TcpStream::connect(server.local_addr()?)?.read_to_string(&mut text)?;
/// assert_eq!(text, "welcome");
/// assert_eq!(server.stop(Duration::from_secs(1)), 0);
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "BaseServer")]
pub struct StreamServer<L: Listener = TcpListener> {
    inner: Rc<Inner<L>>,
}

impl StreamServer<TcpListener> {
    /// Listens on a TCP address, as [`TcpListener::bind`]; on port 0 the kernel
    /// chooses one, which [`local_addr`](StreamServer::local_addr) tells.
    ///
    /// # Errors
    /// As for [`TcpListener::bind`].
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::{SocketAddr, TcpStream};
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_: TcpStream, from: SocketAddr| {
    ///     println!("{from} was here");
    /// })?;
    /// assert_ne!(server.local_addr()?.port(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn bind<A, F, R>(addr: A, handler: F) -> io::Result<Self>
    where
        A: ToSocketAddrs,
        F: Fn(TcpStream, std::net::SocketAddr) -> R + 'static,
    {
        StreamServer::new(TcpListener::bind(addr)?, handler)
    }
}

impl StreamServer<UnixListener> {
    /// Listens on a path, as [`UnixListener::bind`]. The socket's file stays
    /// when the server ends.
    ///
    /// # Errors
    /// As for [`UnixListener::bind`].
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::UnixStream;
    /// use greenlet::server::StreamServer;
    /// use std::io::{Read, Write};
    ///
    /// let path = std::env::temp_dir().join(format!("greenlet-server-{}", std::process::id()));
    /// let server = StreamServer::bind_unix(&path, |mut stream: UnixStream, _| {
    ///     stream.write_all(b"welcome")
    /// })?;
    /// server.start()?;
    /// let mut text = String::new();
    /// UnixStream::connect(&path)?.read_to_string(&mut text)?;
    /// assert_eq!(text, "welcome");
    /// std::fs::remove_file(path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn bind_unix<P, F, R>(path: P, handler: F) -> io::Result<Self>
    where
        P: AsRef<Path>,
        F: Fn(UnixStream, std::os::unix::net::SocketAddr) -> R + 'static,
    {
        StreamServer::new(UnixListener::bind(path)?, handler)
    }
}

impl<L: Listener> StreamServer<L> {
    /// A server for a listener that exists already.
    ///
    /// # Errors
    /// The listener was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpListener;
    /// use greenlet::server::StreamServer;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let address = listener.local_addr()?;
    /// let server = StreamServer::new(listener, |_, _| ())?;
    /// assert_eq!(server.local_addr()?, address);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new<F, R>(listener: L, handler: F) -> io::Result<Self>
    where
        F: Fn(L::Stream, L::Addr) -> R + 'static,
    {
        // Accepting waits, whatever the listener was used for before.
        listener.set_nonblocking(false)?;
        let handler = Rc::new(move |stream, from| drop(handler(stream, from)));
        Ok(StreamServer {
            inner: Rc::new(Inner::new(listener, handler)),
        })
    }

    /// Bounds how many connections are open at a time. While there are so many,
    /// nothing is accepted, and clients wait in the kernel's queue. Without this
    /// there is no bound. It replaces an earlier bound or pool.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| ())?.max_connections(1000);
    /// server.start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    #[doc(alias = "spawn")]
    pub fn max_connections(self, most: usize) -> Self {
        self.pool(Rc::new(Pool::new(most)))
    }

    /// Runs the handlers as members of this pool, which several servers and
    /// others may share. While it is full, nothing is accepted.
    ///
    /// # Examples
    /// ```
    /// use std::rc::Rc;
    /// use greenlet::{Pool, server::StreamServer};
    ///
    /// let pool = Rc::new(Pool::new(100));
    /// let one = StreamServer::bind("127.0.0.1:0", |_, _| ())?.pool(Rc::clone(&pool));
    /// let other = StreamServer::bind("127.0.0.1:0", |_, _| ())?.pool(pool);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn pool(self, pool: Rc<Pool>) -> Self {
        self.inner.pool.replace(Some(pool));
        self
    }

    /// Sets how many clients the kernel keeps that are connected and not
    /// accepted. The kernel may round it, and bounds it by
    /// `/proc/sys/net/core/somaxconn`. Without this it is what std's listeners
    /// have.
    ///
    /// # Errors
    /// The listener was closed.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| ())?.backlog(5)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn backlog(self, clients: u32) -> io::Result<Self> {
        let listener = self.inner.listener()?;
        sys::listen((*listener).as_fd(), clients)?;
        Ok(self)
    }

    /// Begins to accept, or goes on after
    /// [`stop_accepting`](StreamServer::stop_accepting). It returns at once:
    /// connections are taken while others run, so block afterwards. Does nothing
    /// if the server accepts already.
    ///
    /// # Errors
    /// `EBADF` if the server has been stopped;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is bound to zero
    /// connections; [`OutOfMemory`](io::ErrorKind::OutOfMemory) if there is no
    /// stack for the greenlet that accepts.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| ())?;
    /// assert!(!server.is_accepting());
    /// server.start()?;
    /// assert!(server.is_accepting());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "start_accepting")]
    pub fn start(&self) -> io::Result<()> {
        self.inner.forget_before_fork();
        let listener = self.inner.listener()?;
        if self.is_accepting() {
            return Ok(());
        }
        let pool = self.inner.pool.borrow().clone();
        if pool.as_ref().is_some_and(|pool| pool.size() == 0) {
            let error = "a server that is bound to zero connections could never accept one";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        let inner = Rc::clone(&self.inner);
        let acceptor = Builder::new()
            .name("acceptor")
            .spawn(move || inner.accept_all(&listener, pool.as_deref()))
            .map_err(|error| io::Error::new(io::ErrorKind::OutOfMemory, error))?;
        self.inner.acceptor.replace(Some(acceptor));
        Ok(())
    }

    /// Whether it accepts connections, or would but for its bound or an error.
    #[must_use]
    #[doc(alias = "started")]
    pub fn is_accepting(&self) -> bool {
        self.inner.forget_before_fork();
        let acceptor = self.inner.acceptor.borrow();
        acceptor
            .as_ref()
            .is_some_and(|acceptor| !acceptor.is_finished())
    }

    /// Accepts no more. The listener stays open: clients may still connect, and
    /// wait in the kernel's queue until the next [`start`](StreamServer::start).
    /// Open connections go on.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| ())?;
    /// server.start()?;
    /// server.stop_accepting();
    /// assert!(!server.is_accepting());
    /// server.start()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn stop_accepting(&self) {
        self.inner.forget_before_fork();
        let acceptor = self.inner.acceptor.take();
        if let Some(acceptor) = acceptor {
            acceptor.kill_wait();
        }
    }

    /// Closes the listener, gives the open connections `timeout` to end by
    /// themselves, then kills their handlers and waits until they have unwound.
    /// Returns how many it has killed. Those who are in
    /// [`serve_forever`](StreamServer::serve_forever) return.
    ///
    /// A handler may call it for its own server: it is neither waited for nor
    /// killed itself. Stopping twice is waiting twice.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if a handler that was killed
    /// can never end.
    ///
    /// # Examples
    /// ```
    /// use greenlet::net::TcpStream;
    /// use greenlet::server::StreamServer;
    /// use std::time::Duration;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_stream, _| {
    ///     greenlet::sleep(Duration::MAX)
    /// })?;
    /// server.start()?;
    /// let _client = TcpStream::connect(server.local_addr()?)?;
    /// while server.connection_count() == 0 {
    ///     greenlet::yield_now();
    /// }
    /// assert_eq!(server.stop(Duration::from_millis(5)), 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "close")]
    pub fn stop(&self, timeout: Duration) -> usize {
        refuse_with_panic_abort::<L>();
        let deadline = clock::deadline_after(timeout);
        self.stop_accepting();
        // Whoever was accepted last has no greenlet, and gets none.
        let rest = (self.inner.listener.take(), self.inner.pending.take());
        drop(rest);
        self.inner.stopped.wake_all();
        let open = &self.inner.open;
        if open.wait_for_others(Some(deadline)) {
            return 0;
        }
        let killed = open.kill_others();
        open.wait_for_others(None);
        killed
    }

    /// Starts, unless it has been, and waits until the server is
    /// [stopped](StreamServer::stop) by another greenlet. It returns as soon as
    /// nothing is accepted any more; `stop` itself cares for the open connections.
    ///
    /// # Errors
    /// As for [`start`](StreamServer::start), and what made accepting
    /// impossible.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if the server does not accept
    /// and nobody could stop or start it any more.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    /// use std::{rc::Rc, time::Duration};
    ///
    /// let server = Rc::new(StreamServer::bind("127.0.0.1:0", |_, _| ())?);
    /// greenlet::spawn({
    ///     let server = Rc::clone(&server);
    ///     move || server.stop(Duration::ZERO)
    /// });
    /// server.serve_forever()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn serve_forever(&self) -> io::Result<()> {
        self.start()?;
        let reason = Reason::new("serving until the server is stopped");
        if let Woken::Deadlock = self.inner.stopped.wait(reason, Kind::Local, None) {
            hub::panic_deadlock();
        }
        match self
            .inner
            .error
            .borrow_mut()
            .take_if(|error| is_fatal(error))
        {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// `EBADF` if the server has been stopped.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| ())?;
    /// assert!(server.local_addr()?.ip().is_loopback());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn local_addr(&self) -> io::Result<L::Addr> {
        self.inner.listener()?.local_addr()
    }

    /// How many connections have a handler that has not ended.
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.inner.forget_before_fork();
        self.inner.open.len()
    }

    /// Takes the last error of accepting since it was asked; most are survived.
    ///
    /// # Examples
    /// ```
    /// use greenlet::server::StreamServer;
    ///
    /// let server = StreamServer::bind("127.0.0.1:0", |_, _| ())?;
    /// assert!(server.take_error().is_none());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn take_error(&self) -> Option<io::Error> {
        self.inner.error.take()
    }
}

impl<L: Listener> Drop for StreamServer<L> {
    fn drop(&mut self) {
        let listener = self.inner.listener.take();
        if let Some(listener) = listener {
            // It wakes the acceptor, who gives the listener up. An error means
            // that the descriptor stays open until then.
            let _ = listener.close();
        }
    }
}

impl<L: Listener> fmt::Debug for StreamServer<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamServer")
            .field("accepting", &self.is_accepting())
            .field("connections", &self.connection_count())
            .finish_non_exhaustive()
    }
}
