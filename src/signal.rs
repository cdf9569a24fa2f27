//! Waiting for signals: a greenlet waits for Ctrl-C as it waits for anything.
//!
//! The usual pattern is a greenlet that waits for [`SIGINT`] and then tells the
//! others to end:
//!
//! ```no_run
//! use greenlet::signal;
//!
//! let server = greenlet::spawn(|| { /* accepts connections, for ever */ });
//! let got = signal::wait(&[signal::SIGINT, signal::SIGTERM])?;
//! println!("signal {got}: closing");
//! server.kill_wait();
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! [`wait`] listens only while it waits. Where no signal may be missed between
//! two waits, make a [`Signals`] first: it collects them from its creation on.
//!
//! # What happens to the process
//! While somebody listens for a signal, its usual effect (for `SIGINT`: the end
//! of the process) is off, and so is a handler that the program has installed.
//! When the last one has stopped listening, the previous disposition is back;
//! tokio, unlike this, never gives it back. A handler that was installed *over*
//! ours meanwhile stays.
//!
//! No code of yours runs inside a signal handler. Ours sets a bit and wakes the
//! greenlet; the greenlet then runs as always, when its turn has come.
//!
//! # Fork
//! The child has the previous dispositions again. A `Signals` that was made
//! before the fork listens again from its first wait there.

use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::hub::{Direction, Io};
use crate::sys::clock;
use crate::sys::pass::PassThrough;
use crate::sys::signal::{self, Mailbox};

/// Ctrl-C at the terminal (2).
pub const SIGINT: i32 = libc::SIGINT;
/// The polite request to end, as `kill` and service managers send it (15).
pub const SIGTERM: i32 = libc::SIGTERM;
/// The terminal is gone; by custom, for daemons: read the configuration again (1).
pub const SIGHUP: i32 = libc::SIGHUP;
/// Ctrl-\ at the terminal (3).
pub const SIGQUIT: i32 = libc::SIGQUIT;
/// For the program's own use.
pub const SIGUSR1: i32 = libc::SIGUSR1;
/// For the program's own use.
pub const SIGUSR2: i32 = libc::SIGUSR2;
/// A child process has ended or stopped.
pub const SIGCHLD: i32 = libc::SIGCHLD;
/// The size of the terminal's window has changed.
pub const SIGWINCH: i32 = libc::SIGWINCH;
/// The timer of `alarm(2)` or `setitimer(2)` has expired (14).
pub const SIGALRM: i32 = libc::SIGALRM;
/// A write to a pipe or socket that nobody reads. A Rust program ignores it
/// from its start on, and sees the error of the write instead (13).
pub const SIGPIPE: i32 = libc::SIGPIPE;

/// Waits until one of `signals` arrives, and returns which.
///
/// It listens from the call to its return: what arrives before or after has
/// its usual effect. All who listen for a signal get it, on whichever thread
/// they are. It is a wait for the outside, so it is never taken for a deadlock.
/// This is [`Signals::new`] and one [`Signals::wait`].
///
/// # Errors
/// As for [`Signals::new`].
///
/// # Examples
/// ```
/// use greenlet::signal;
///
/// greenlet::spawn(|| {
///     // SAFETY: raise has no preconditions.
///     unsafe { libc::raise(signal::SIGUSR1) }
/// });
/// assert_eq!(signal::wait(&[signal::SIGUSR1])?, signal::SIGUSR1);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn wait(signals: &[i32]) -> io::Result<i32> {
    Signals::new(signals)?.wait()
}

/// As [`wait`], for at most `timeout`; none if no signal has arrived by then.
///
/// # Errors
/// As for [`Signals::new`].
///
/// # Examples
/// ```
/// use greenlet::signal;
/// use std::time::Duration;
///
/// let none = signal::wait_timeout(&[signal::SIGHUP], Duration::from_millis(5))?;
/// assert_eq!(none, None);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn wait_timeout(signals: &[i32], timeout: Duration) -> io::Result<Option<i32>> {
    Signals::new(signals)?.wait_timeout(timeout)
}

/// Collects signals from its creation on, and hands them out one by one.
///
/// A signal that arrives several times before it is asked for counts once, as
/// it does in the kernel. Of several signals that have arrived, each has its
/// turn before one of them comes a second time. Every `Signals` gets every
/// signal that it listens for; greenlets that wait on *one* `Signals` share
/// what it gets. It may be used and dropped on any thread. A signal that all
/// threads of the process hold back (`pthread_sigmask`) does not arrive.
///
/// # Examples
/// ```
/// use greenlet::signal::{self, Signals};
///
/// let signals = Signals::new(&[signal::SIGUSR1, signal::SIGUSR2])?;
/// // SAFETY: raise has no preconditions.
/// unsafe { libc::raise(signal::SIGUSR2) };
/// assert_eq!(signals.wait()?, signal::SIGUSR2);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Signals {
    listened_for: u64,
    inner: Mutex<Inner>,
    /// The eventfd's account with the reactors.
    io: Io,
}

struct Inner {
    /// Kept for the whole life of the `Signals`, except across a fork.
    mailbox: Mailbox,
    /// What has been taken from the mailbox and not yet handed out.
    arrived: u64,
}

impl Signals {
    /// Listens for `signals` from now on, until it is dropped.
    ///
    /// # Errors
    /// `InvalidInput` if the list is empty, or has a number that is no signal
    /// or one that cannot be waited for: `SIGKILL` and `SIGSTOP`, for which
    /// there are no handlers, and what the CPU raises for a faulty instruction
    /// (`SIGSEGV`, `SIGBUS`, `SIGILL`, `SIGFPE`, `SIGTRAP`). Otherwise the
    /// kernel's error, where no descriptor is left.
    pub fn new(signals: &[i32]) -> io::Result<Signals> {
        let refused = signals.iter().find(|s| !signal::may_be_waited_for(**s));
        if let Some(refused) = refused {
            let text = format!("a greenlet cannot wait for signal {refused}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if signals.is_empty() {
            let text = "no signal to wait for";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listened_for = signals.iter().fold(0, |set, s| set | signal::bit(*s));
        let mailbox = Mailbox::new(listened_for)?;
        Ok(Signals {
            listened_for,
            inner: Mutex::new(Inner {
                mailbox,
                arrived: 0,
            }),
            io: Io::new(),
        })
    }

    /// Waits for the next signal.
    ///
    /// # Errors
    /// The kernel's, where no descriptor is left for the wait.
    pub fn wait(&self) -> io::Result<i32> {
        match self.wait_until(None)? {
            Some(signal) => Ok(signal),
            None => unreachable!("a wait without a deadline ended by it"),
        }
    }

    /// Waits for the next signal for at most `timeout`; none if there was none.
    ///
    /// A timeout of zero lets whoever is runnable have one turn first.
    ///
    /// # Errors
    /// As for [`wait`](Signals::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<i32>> {
        self.wait_until(Some(clock::deadline_after(timeout)))
    }

    /// The next signal that has arrived already, without waiting.
    ///
    /// # Errors
    /// As for [`wait`](Signals::wait), and only in the child of a fork.
    pub fn try_wait(&self) -> io::Result<Option<i32>> {
        Ok(self.lock()?.next())
    }

    fn wait_until(&self, deadline: Option<u64>) -> io::Result<Option<i32>> {
        let node = self.lock()?.mailbox.node();
        let next = || {
            self.lock()?
                .next()
                .ok_or_else(|| io::ErrorKind::WouldBlock.into())
        };
        match self.io.run(node.fd(), Direction::Read, deadline, next) {
            Ok(signal) => Ok(Some(signal)),
            // It may have arrived in the turn that the others had.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.try_wait(),
            Err(error) => Err(error),
        }
    }

    /// The mailbox, entered anew if this is the child of a fork.
    fn lock(&self) -> io::Result<MutexGuard<'_, Inner>> {
        // Never held across a wait, nor while user code runs.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.mailbox.is_ours() {
            let _pass = PassThrough::enter();
            inner.mailbox = Mailbox::new(self.listened_for)?;
            inner.arrived = 0;
        }
        Ok(inner)
    }
}

impl Inner {
    fn next(&mut self) -> Option<i32> {
        if self.arrived == 0 {
            self.arrived = self.mailbox.take();
        }
        let signal = signal::lowest(self.arrived)?;
        self.arrived &= !signal::bit(signal);
        if self.arrived != 0 {
            // The eventfd was read on behalf of all of them: somebody on
            // another hub may be just about to wait for the next one.
            self.mailbox.node().ring();
        }
        Some(signal)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if inner.mailbox.is_ours() {
            // The descriptor will serve somebody else.
            self.io.retire(inner.mailbox.node().fd());
        }
    }
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signals: Vec<i32> = signal::signals_of(self.listened_for).collect();
        f.debug_struct("Signals")
            .field("signals", &signals)
            .finish_non_exhaustive()
    }
}
