//! `process::spawn`, and the handle of what it starts.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::SpawnError;
use super::job::{Reply, Request};
use super::worker::Worker;
use crate::error::JoinError;
use crate::hub::Patience;
use crate::sys::clock;

/// Calls `f(argument)` in a new process, and returns the handle of that.
///
/// The process is this program started anew; see the [module](super) for what it
/// is like in there, and what can be sent. That takes about a millisecond, for
/// some of which the thread is blocked. What serialises the argument runs on the
/// caller.
///
/// Dropping the handle detaches the process, as that of a thread: it goes on, and
/// its result is nobody's. It does not stay as a zombie after its end, for a
/// helper thread waits for it then. (A [`std::process::Child`] would stay.)
///
/// # Errors
/// [`SpawnError::ForeignFunction`] if the function is not in the executable;
/// [`SpawnError::Argument`] if the argument cannot be serialised;
/// [`SpawnError::System`] if there is no process or no descriptor left, if too
/// many descriptors are on their way, or if this program cannot have workers.
/// A worker that ends early is not an error here, but of [`Child::join`].
///
/// # Examples
/// ```
/// use greenlet::net::{TcpListener, TcpStream};
/// use greenlet::process;
/// use std::io::{Read, Write};
///
/// fn serve(mut stream: TcpStream) -> u32 {
///     stream.write_all(b"121212").unwrap();
///     std::process::id()
/// }
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (stream, _) = listener.accept()?;
/// let child = process::spawn(serve, stream)?;
/// let mut answer = String::new();
/// client.read_to_string(&mut answer)?;
/// assert_eq!(answer, "121212");
/// let pid = child.pid();
/// assert_eq!(child.join().unwrap(), pid);
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// A panic comes back with its message:
///
/// ```
/// let child = greenlet::process::spawn(|n: u32| -> u32 { panic!("no {n}") }, 7)?;
/// let error = child.join().unwrap_err();
/// assert!(error.is_panic() && error.to_string().ends_with("no 7"));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// What captures something is not a function:
///
/// ```compile_fail,E0308
/// let captured = 1;
/// greenlet::process::spawn(move |n: u32| n + captured, 2);
/// ```
///
/// Nor can what borrows be sent, or what serde does not know:
///
/// ```compile_fail,E0277
/// greenlet::process::spawn(|thread: std::thread::ThreadId| (), std::thread::current().id());
/// ```
#[doc(alias = "Process")]
pub fn spawn<A, R>(f: fn(A) -> R, argument: A) -> Result<Child<R>, SpawnError>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let request = Request::new(f, &argument)?;
    // Of a socket the worker is to be the only owner, from its first moment on.
    drop(argument);
    let worker = Worker::start()?;
    worker.send(&request)?;
    worker.finish();
    Ok(Child {
        worker,
        reply: Mutex::new(None),
        result: PhantomData,
    })
}

/// A process that calls one function: what [`spawn`] returns.
///
/// Waiting for it parks the greenlet, and blocks a plain thread. It may be used on
/// any thread, and several may [`wait`](Child::wait) at the same time. A wait for
/// it is a wait for the outside, and never taken for a deadlock. Dropping it
/// detaches the process: see [`spawn`].
///
/// In the child of a fork it is of no use, and says so: the process is not that
/// one's child.
///
/// # Examples
/// ```
/// use std::os::unix::process::ExitStatusExt;
///
/// let child = greenlet::process::spawn(|()| greenlet::sleep(std::time::Duration::MAX), ())?;
/// child.kill()?;
/// assert_eq!(child.wait()?.signal(), Some(9));
/// let error = child.join().unwrap_err();
/// assert!(error.to_string().contains("signal: 9 (SIGKILL)"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use = "dropping it detaches the process"]
pub struct Child<R> {
    worker: Worker,
    /// What has arrived, until it is joined.
    reply: Mutex<Option<Reply>>,
    result: PhantomData<fn() -> R>,
}

impl<R> Child<R> {
    /// The number of the process.
    #[doc(alias = "id")]
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.worker.process().pid()
    }

    /// Waits for the process to end; how it has. The result, or what it panicked
    /// with, stays for [`join`](Child::join).
    ///
    /// The exit status is 0 if the function has returned, and 101 if it has
    /// panicked.
    ///
    /// # Errors
    /// ECHILD, if it has ended and somebody else has taken its status: a
    /// `waitpid(-1)` somewhere in this program, or the kernel, where SIGCHLD is
    /// ignored. `NotFound` in the child of a fork. No descriptor or memory is left
    /// for the wait.
    #[doc(alias = "exitcode")]
    pub fn wait(&self) -> io::Result<ExitStatus> {
        match self.wait_until(Patience::Forever)? {
            Some(status) => Ok(status),
            None => unreachable!("a wait without an end ended by it"),
        }
    }

    /// As [`wait`](Child::wait), for at most `timeout`; none if it has not ended by
    /// then.
    ///
    /// # Errors
    /// As for [`wait`](Child::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.wait_until(Patience::Until(clock::deadline_after(timeout)))
    }

    /// How the process has ended; none if it has not. Does not wait.
    ///
    /// # Errors
    /// As for [`wait`](Child::wait).
    #[doc(alias = "is_alive")]
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        self.wait_until(Patience::None)
    }

    fn wait_until(&self, patience: Patience) -> io::Result<Option<ExitStatus>> {
        match self.receive(patience) {
            Ok(()) => self.worker.process().wait(patience),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes the reply in: the process cannot end before, if that is long.
    fn receive(&self, patience: Patience) -> io::Result<()> {
        let lock = || self.reply.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().is_none() {
            if let Some(reply) = self.worker.receive(patience)? {
                *lock() = Some(reply);
            }
        }
        Ok(())
    }

    /// Kills the process (SIGKILL), at whatever it is. Returns at once; does nothing
    /// if it has ended.
    ///
    /// # Errors
    /// `NotFound` in the child of a fork.
    pub fn kill(&self) -> io::Result<()> {
        self.worker.process().signal(libc::SIGKILL)
    }

    /// Asks the process to end (SIGTERM). If it does not wait for that signal, it
    /// ends by it. Returns at once; does nothing if it has ended.
    ///
    /// # Errors
    /// `NotFound` in the child of a fork.
    pub fn terminate(&self) -> io::Result<()> {
        self.worker.process().signal(libc::SIGTERM)
    }
}

impl<R: DeserializeOwned> Child<R> {
    /// Waits for the process to end, and returns what its function has returned.
    ///
    /// If the function has returned, its result counts, whatever becomes of the
    /// process afterwards.
    ///
    /// # Errors
    /// [`JoinError::Panicked`], with the panic's message as a `String`; otherwise
    /// [`JoinError::Process`], which says how the process ended without a result
    /// ([`ProcessError::Ended`](super::error::ProcessError::Ended)), or what could
    /// not be serialised or deserialised.
    pub fn join(self) -> Result<R, JoinError> {
        let waited = self.wait();
        let reply = self
            .reply
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (reply, waited) {
            (Some(reply), _) => reply.into_result(),
            (None, _) => Err(self.worker.process().cause().into()),
        }
    }
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}
