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

/// Calls `f(argument)` in a new process.
pub fn spawn<A, R>(f: fn(A) -> R, argument: A) -> Result<Child<R>, SpawnError>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    let request = Request::new(f, &argument)?;
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

/// A process that calls one function.
pub struct Child<R> {
    worker: Worker,
    reply: Mutex<Option<Reply>>,
    result: PhantomData<fn() -> R>,
}

impl<R> Child<R> {
    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.worker.process().pid()
    }

    /// Waits for the process to end.
    pub fn wait(&self) -> io::Result<ExitStatus> {
        match self.wait_until(Patience::Forever)? {
            Some(status) => Ok(status),
            None => unreachable!("a wait without an end ended by it"),
        }
    }

    /// As `wait`, for at most `timeout`.
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        self.wait_until(Patience::Until(clock::deadline_after(timeout)))
    }

    /// The exit status.
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

    /// Kills the process.
    pub fn kill(&self) -> io::Result<()> {
        self.worker.process().signal(libc::SIGKILL)
    }

    /// Asks the process to end.
    pub fn terminate(&self) -> io::Result<()> {
        self.worker.process().signal(libc::SIGTERM)
    }
}

impl<R: DeserializeOwned> Child<R> {
    /// Waits for the process to end, and returns what its function has returned.
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
