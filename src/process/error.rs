//! Why a job could not be sent to another process, and why it has no result.

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
