//! What all six socket types are made of: std's own type in non-blocking mode,
//! its account with the reactors, and the settings that std keeps in the kernel.
//!
//! ```text
//!   TcpStream ─▶ Socket { account ─▶ Io (hub)      who waits for it, and where
//!                         settings ─▶ Arc ◀─ the sockets that `try_clone` made
//!                         inner ─▶ std::net::TcpStream, O_NONBLOCK }
//! ```
//!
//! O_NONBLOCK belongs to the kernel's open file, which clones share, and so do
//! the settings. A socket that leaves this crate becomes as its user set it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::hub::{self, Direction, Io, Kind, Patience, Reason};
use crate::sys::clock::{self, NEVER};
use crate::sys::socket as sys;

/// How long a wait pauses at first where the kernel has no event for its end.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
/// How long it pauses at most.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// One socket. Dropping it closes the descriptor, after its last account.
pub(super) struct Socket<T: AsFd> {
    // The order matters: what comes first is dropped first.
    account: Account,
    settings: Arc<Settings>,
    inner: T,
}

/// Takes the descriptor out of the reactors when it is dropped.
struct Account {
    io: Io,
    fd: RawFd,
}

impl Account {
    fn of(inner: &impl AsFd) -> Account {
        Account {
            io: Io::new(),
            fd: inner.as_fd().as_raw_fd(),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.io.retire(self.fd);
    }
}

/// What the user has set, for a socket and its clones.
struct Settings {
    nonblocking: AtomicBool,
    /// In nanoseconds; [`NEVER`] is no timeout.
    read_timeout: AtomicU64,
    write_timeout: AtomicU64,
}

impl<T: AsFd> Socket<T> {
    /// A new socket, on which O_NONBLOCK is set already.
    pub(super) fn new(inner: T) -> Socket<T> {
        Socket {
            account: Account::of(&inner),
            settings: Arc::new(Settings {
                nonblocking: AtomicBool::new(false),
                read_timeout: AtomicU64::new(NEVER),
                write_timeout: AtomicU64::new(NEVER),
            }),
            inner,
        }
    }

    /// A socket that was in other hands, with what was set there.
    pub(super) fn adopt(inner: T) -> Socket<T> {
        let fd = inner.as_fd();
        let nonblocking = sys::is_nonblocking(fd);
        let timeout = |name| sys::timeout(fd.as_raw_fd(), name).unwrap_or(NEVER);
        let socket = Settings {
            nonblocking: AtomicBool::new(nonblocking),
            read_timeout: AtomicU64::new(timeout(libc::SO_RCVTIMEO)),
            write_timeout: AtomicU64::new(timeout(libc::SO_SNDTIMEO)),
        };
        if !nonblocking {
            // Where this fails, it is not a socket, and every operation says so.
            let _ = sys::set_nonblocking(fd, true);
        }
        Socket {
            account: Account::of(&inner),
            settings: Arc::new(socket),
            inner,
        }
    }

    /// A socket that has come from another process, where it was one of ours: O_NONBLOCK is set already.
    #[cfg(feature = "process")]
    pub(super) fn arrived(inner: T, nonblocking: bool) -> Socket<T> {
        let socket = Socket::adopt(inner);
        socket
            .settings
            .nonblocking
            .store(nonblocking, Ordering::Relaxed);
        socket
    }

    #[cfg(feature = "process")]
    pub(super) fn is_nonblocking(&self) -> bool {
        self.settings.nonblocking.load(Ordering::Relaxed)
    }

    #[cfg(feature = "process")]
    pub(super) fn is_closed(&self) -> bool {
        self.account.io.is_closed()
    }

    /// Gives the socket away, blocking unless its user wanted it otherwise.
    pub(super) fn release(self) -> T {
        let Socket {
            account,
            settings,
            inner,
        } = self;
        drop(account);
        if !settings.nonblocking.load(Ordering::Relaxed) {
            let _ = sys::set_nonblocking(inner.as_fd(), false);
        }
        inner
    }

    /// A socket for another descriptor of the same open file.
    pub(super) fn clone_as(&self, inner: T) -> Socket<T> {
        Socket {
            account: Account::of(&inner),
            settings: Arc::clone(&self.settings),
            inner,
        }
    }

    pub(super) fn get(&self) -> &T {
        &self.inner
    }

    fn patience(&self, direction: Direction) -> Patience {
        if self.settings.nonblocking.load(Ordering::Relaxed) {
            return Patience::None;
        }
        match self.timeout_of(direction).load(Ordering::Relaxed) {
            NEVER => Patience::Forever,
            time => Patience::For(time),
        }
    }

    fn timeout_of(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Read => &self.settings.read_timeout,
            Direction::Write => &self.settings.write_timeout,
        }
    }

    /// Runs a call of std's socket until it need not wait any more.
    pub(super) fn run<R>(
        &self,
        direction: Direction,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.account.io.run(
            self.inner.as_fd(),
            direction,
            self.patience(direction),
            || operation(&self.inner),
        )
    }

    /// As `run`, for reading or writing `len` bytes of a TCP stream, where
    /// getting less means that there is no more for now.
    ///
    /// This is not so for a Unix stream: there, passed descriptors and other
    /// ancillary data make a read short as well.
    pub(super) fn run_stream(
        &self,
        direction: Direction,
        len: usize,
        mut operation: impl FnMut(&T) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if len == 0 && direction == Direction::Write {
            // Nothing to be sent needs no room.
            return operation(&self.inner);
        }
        self.account.io.run_stream(
            self.inner.as_fd(),
            direction,
            self.patience(direction),
            || operation(&self.inner),
            |done| 0 < *done && *done < len,
        )
    }

    /// As `run`, where the time is given with the call.
    pub(super) fn run_until<R>(
        &self,
        direction: Direction,
        deadline: u64,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        self.account.io.run(
            self.inner.as_fd(),
            direction,
            Patience::Until(deadline),
            || operation(&self.inner),
        )
    }

    /// As `run`, where the kernel does not tell when to try again: room in the
    /// queue of somebody one is not connected to. Tries after ever longer
    /// pauses.
    pub(super) fn run_with_pauses<R>(
        &self,
        reason: &'static str,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut pause = FIRST_PAUSE;
        let deadline = match self.patience(Direction::Write) {
            Patience::None => Some(0),
            Patience::For(time) => Some(clock::now_ns().saturating_add(time)),
            Patience::Until(deadline) => Some(deadline),
            Patience::Forever => None,
        };
        loop {
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if deadline.is_some_and(|deadline| deadline <= clock::now_ns()) {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
            let until = clock::deadline_after(pause).min(deadline.unwrap_or(NEVER));
            hub::pause(Reason::new(reason), Kind::External, Some(until), |_| {});
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if self.account.io.is_closed() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        self.settings
            .nonblocking
            .store(nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// Remembers a timeout that the kernel has accepted for its own part.
    pub(super) fn set_timeout(&self, direction: Direction, timeout: Option<Duration>) {
        self.timeout_of(direction)
            .store(nanoseconds(timeout), Ordering::Relaxed);
    }

    pub(super) fn timeout(&self, direction: Direction) -> Option<Duration> {
        match self.timeout_of(direction).load(Ordering::Relaxed) {
            NEVER => None,
            time => Some(Duration::from_nanos(time)),
        }
    }

    pub(super) fn close(&self) -> io::Result<()> {
        if self.account.io.close(self.account.fd) {
            sys::bury(self.inner.as_fd())
        } else {
            Ok(())
        }
    }
}

impl<T: AsFd> AsFd for Socket<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

fn nanoseconds(timeout: Option<Duration>) -> u64 {
    timeout.map_or(NEVER, |time| {
        u64::try_from(time.as_nanos()).unwrap_or(NEVER)
    })
}
