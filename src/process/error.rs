//! Why a job could not be sent to another process, and why it has no result; why a queue between processes did not
//! do what it was asked for.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use thiserror::Error;

/// Why a job could not be handed to a worker process.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The function is not part of the program's executable file. A worker runs the same executable and finds
    /// functions in it by their place there; it knows nothing of libraries that were loaded since.
    #[error(
        "a worker process can only call functions of the executable, and this one lives in {}",
        place(.library)
    )]
    ForeignFunction {
        /// The library it lives in; none if it lives in no file, as what a compiler made at run time.
        library: Option<PathBuf>,
    },
    /// The argument could not be serialised.
    #[error("the argument, of type {of}, cannot be serialised: {reason}")]
    Argument {
        /// The name of the argument's type.
        of: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The system did not give a process, or a descriptor.
    #[error("no worker process: {0}")]
    System(#[from] io::Error),
}

fn place(library: &Option<PathBuf>) -> String {
    match library {
        Some(library) => library.display().to_string(),
        None => "no file at all".to_owned(),
    }
}

impl From<SpawnError> for io::Error {
    fn from(error: SpawnError) -> io::Error {
        match error {
            SpawnError::System(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidInput, other),
        }
    }
}

/// Why a job that was handed to a worker process has no result, if it did not panic.
///
/// It comes as [`JoinError::Process`](crate::error::JoinError::Process).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// The worker ended before it had sent a result: it was killed by a signal, or left by
    /// [`std::process::exit`].
    #[error("the worker process {pid} ended before the job had a result: {status}")]
    Ended {
        /// Which process.
        pid: u32,
        /// The exit status, or the signal that killed it.
        status: ExitStatus,
    },
    /// The worker ended before it had sent a result, and nobody knows how: another part of this program has
    /// waited for all its children, or ignores SIGCHLD.
    #[error(
        "the worker process {pid} ended before the job had a result; \
         how it ended is unknown, for somebody else has waited for it, or SIGCHLD is ignored"
    )]
    Lost {
        /// Which process.
        pid: u32,
    },
    /// The worker could not make an argument out of what arrived.
    #[error("the worker process could not decode the argument, of type {of}: {reason}")]
    Argument {
        /// The name of the argument's type.
        of: String,
        /// What was wrong.
        reason: String,
    },
    /// The job has returned, and its result could not be serialised.
    #[error("the job's result, of type {of}, cannot be serialised: {reason}")]
    Result {
        /// The name of the result's type.
        of: String,
        /// What was wrong.
        reason: String,
    },
    /// The job has returned, and this process could not make a result out of what arrived.
    #[error("the job's result, of type {of}, could not be decoded: {reason}")]
    Decode {
        /// The name of the result's type.
        of: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// The worker runs another program than this one, or another version of it.
    #[error("the worker process runs another program than its parent")]
    OtherProgram,
    /// This process is the child of a fork, and the worker belongs to its parent.
    #[error("the worker process belongs to the process that this one was forked from")]
    Forked,
    /// The connection to the worker failed.
    #[error("the connection to the worker process failed: {0}")]
    System(#[from] io::Error),
}

/// Why a [`Queue`](super::Queue) has not taken an item, with the item.
#[derive(Error)]
#[non_exhaustive]
pub enum PutError<T> {
    /// There was no room, at once or in time.
    #[error("the queue is full")]
    Full(T),
    /// The queue was shut down.
    #[error("the queue is shut down")]
    ShutDown(T),
    /// The item cannot be serialised.
    #[error("the item cannot be serialised: {reason}")]
    Item {
        /// What was to be put.
        item: T,
        /// What was wrong.
        reason: String,
    },
    /// There is no memory for the item, or no descriptor to lock the queue with.
    #[error("the item could not be put: {error}")]
    System {
        /// What was to be put.
        item: T,
        /// What the system said.
        error: io::Error,
    },
}

impl<T> PutError<T> {
    /// What was to be put.
    pub fn into_inner(self) -> T {
        match self {
            PutError::Full(item) | PutError::ShutDown(item) => item,
            PutError::Item { item, .. } | PutError::System { item, .. } => item,
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PutError::Full(_) => f.write_str("Full(..)"),
            PutError::ShutDown(_) => f.write_str("ShutDown(..)"),
            PutError::Item { reason, .. } => {
                let mut shown = f.debug_struct("Item");
                shown.field("reason", reason).finish_non_exhaustive()
            }
            PutError::System { error, .. } => {
                let mut shown = f.debug_struct("System");
                shown.field("error", error).finish_non_exhaustive()
            }
        }
    }
}

/// Why a [`Queue`](super::Queue) has not given an item.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GetError {
    /// There was none, at once or in time.
    #[error("the queue is empty")]
    Empty,
    /// The queue was shut down, and holds no more items.
    #[error("the queue is shut down")]
    ShutDown,
    /// No item could be made out of what was got, which is gone.
    #[error("the item, of type {of}, could not be decoded: {reason}")]
    Decode {
        /// The name of the item's type.
        of: &'static str,
        /// What was wrong.
        reason: String,
    },
    /// No descriptor is left to lock the queue with, or no memory for the item.
    #[error("no item could be got: {0}")]
    System(#[from] io::Error),
}
