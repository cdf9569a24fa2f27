//! The public error types, one enum per concern.

use thiserror::Error;

/// Why there is no stack for another greenlet.
///
/// Every variant names the limit that was met and its value, so that it can be raised. An error leaves all
/// greenlets that exist as they are, and later attempts may succeed: stacks of ended greenlets are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StackError {
    /// A size below the smallest stack that is of any use.
    #[error("a stack of {asked} bytes is too small: the minimum is {minimum} bytes")]
    TooSmall {
        /// The size that was asked for, in bytes.
        asked: usize,
        /// The smallest size, in bytes.
        minimum: usize,
    },

    /// A size above the largest that is given out.
    #[error("a stack of {asked} bytes is too large: the maximum is {maximum} bytes")]
    TooLarge {
        /// The size that was asked for, in bytes.
        asked: usize,
        /// The largest size, in bytes.
        maximum: usize,
    },

    /// The process has as many memory mappings as the kernel lets it have.
    ///
    /// From Linux 6.13 on, stacks share a few large mappings and this limit is hardly ever met. Older kernels
    /// need two mappings for each guarded stack.
    #[error(
        "no memory mapping left for a stack: {in_use} are in use and vm.max_map_count is {limit} \
         (raise it with `sysctl -w vm.max_map_count=N`; before Linux 6.13 each stack takes two)"
    )]
    MapCount {
        /// How many mappings the process had.
        in_use: usize,
        /// The value of `vm.max_map_count`.
        limit: usize,
    },

    /// The address space of the process is limited (`ulimit -v`), and used up.
    #[error(
        "no address space left for a stack: {in_use} bytes are in use and RLIMIT_AS is {limit} bytes \
         (raise it with `ulimit -v`, or ask for smaller stacks)"
    )]
    AddressSpace {
        /// How many bytes of address space the process had in use.
        in_use: usize,
        /// The value of `RLIMIT_AS` in bytes.
        limit: usize,
    },

    /// The machine does not overcommit memory (`vm.overcommit_memory = 2`), and its commit limit is met.
    #[error(
        "no memory left to commit for a stack: {committed} bytes are committed and the limit is {limit} bytes \
         (vm.overcommit_memory is 2; raise vm.overcommit_ratio, or ask for smaller stacks)"
    )]
    CommitLimit {
        /// How many bytes the whole machine has committed.
        committed: usize,
        /// The machine's commit limit in bytes.
        limit: usize,
    },

    /// The kernel refused for another reason.
    #[error("no stack: {call} failed: {}", std::io::Error::from_raw_os_error(*.errno))]
    System {
        /// The system call that failed.
        call: &'static str,
        /// The error number it answered with.
        errno: i32,
    },
}

/// Why this process cannot have isolated greenlets: those of [`spawn_isolated`](crate::spawn_isolated).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IsolationError {
    /// It is known for x86-64 only how a thread's storage is laid out.
    #[error("isolated greenlets need x86-64: on other architectures there are light ones only")]
    Architecture,
    /// glibc has no such function or table. It is there from glibc 2.31 on, in programs that are linked dynamically; before
    /// 2.34 in the file of libpthread, unless that was stripped of it.
    #[error("isolated greenlets need {symbol} of glibc, which this process does not have")]
    MissingSymbol {
        /// The name of the symbol.
        symbol: &'static str,
    },
    /// glibc is not as it is known to be. Nothing has been touched.
    #[error(
        "isolated greenlets are not possible: in this glibc, {what} is not as it is expected to be"
    )]
    Unverified {
        /// What was looked at.
        what: &'static str,
    },
    /// There is no memory for another block of thread-local storage, or no thread to look at.
    #[error("no memory for the thread-local storage of an isolated greenlet")]
    OutOfMemory,
    /// The program's calls of this function do not reach this crate, as
    /// [`PatchError::NotInterposed`] tells.
    #[error(
        "isolated greenlets need calls of `{symbol}` to reach greenlet, for a program that has it linked into itself"
    )]
    NotInterposed {
        /// The first function that is not ours.
        symbol: &'static str,
    },
    /// As many of them are alive as glibc's locks can tell apart: a thousand million.
    #[error("no thread id left for an isolated greenlet")]
    TooMany,
}

/// Why a greenlet could not be spawned.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// There is no stack for it.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// It was to be isolated, and cannot be.
    #[error(transparent)]
    Isolation(#[from] IsolationError),
}

impl From<SpawnError> for std::io::Error {
    fn from(error: SpawnError) -> std::io::Error {
        let kind = match &error {
            SpawnError::Stack(StackError::TooSmall { .. } | StackError::TooLarge { .. }) => {
                std::io::ErrorKind::InvalidInput
            }
            SpawnError::Stack(_)
            | SpawnError::Isolation(IsolationError::OutOfMemory | IsolationError::TooMany) => {
                std::io::ErrorKind::OutOfMemory
            }
            SpawnError::Isolation(_) => std::io::ErrorKind::Unsupported,
        };
        std::io::Error::new(kind, error)
    }
}

/// An explicit greenlet was to be given a function, and has one, or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "only an unbound greenlet can be bound: this one has a function, or had, or is scheduled by the hub"
)]
pub struct BindError;

/// Why a greenlet cannot have that parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParentError {
    /// The new parent is the greenlet itself, or a descendant of it.
    #[error("cyclic parent chain: a greenlet cannot be its own ancestor")]
    Cycle,
    /// A thread's main greenlet has no parent.
    #[error("cannot set the parent of a main greenlet")]
    Main,
    /// The result of a spawned greenlet goes to its `JoinHandle`.
    #[error("cannot set the parent of a greenlet that the hub schedules")]
    Scheduled,
}

/// Why an explicit switch was not made, with what was to be sent, or why it ended without a value.
#[derive(Error)]
#[non_exhaustive]
pub enum SwitchError<V> {
    /// The greenlet has no function yet.
    #[error("the greenlet has no function yet: it must be bound first")]
    Unbound(V),
    /// The greenlet awaits a value of another type.
    #[error("the greenlet awaits a value of type {awaited}, and not of type {sent}")]
    WrongType {
        /// What was to be sent.
        value: V,
        /// The type that it awaits.
        awaited: &'static str,
        /// The type of `value`.
        sent: &'static str,
    },
    /// The greenlet waits in a blocking call: the hub will resume it, and nobody else may.
    #[error("the greenlet waits in a blocking call, and only the hub may resume it")]
    Parked(V),
    /// The greenlet is in the run queue: the hub will resume it, and nobody else may.
    #[error("the greenlet is in the hub's run queue, and only the hub may resume it")]
    Runnable(V),
    /// The current greenlet unwinds, and std's panic count cannot be put aside meanwhile; or the target unwinds,
    /// and a second panic cannot be thrown there.
    #[error("a greenlet that unwinds cannot take part in this switch")]
    Unwinding(V),
    /// The greenlet belongs to a hub whose thread has ended, or to the process that this one was forked from.
    #[error("the greenlet's hub has ended, or it stayed behind in a fork")]
    Lost(V),
    /// A thread's main greenlet cannot be killed.
    #[error("a main greenlet cannot be killed")]
    Main(V),
    /// There is no stack to start the greenlet on.
    #[error("{error}")]
    NoStack {
        /// What was to be sent.
        value: V,
        /// The limit that was met.
        error: SpawnError,
    },
    /// A child of the current greenlet was killed: this is its result.
    #[error("a child greenlet was killed")]
    Killed,
    /// Nothing could wake the current greenlet any more.
    #[error(transparent)]
    Deadlock(#[from] Deadlock),
}

impl<V> SwitchError<V> {
    /// What was to be sent, if the switch was not made.
    pub fn into_value(self) -> Option<V> {
        match self {
            SwitchError::Unbound(value)
            | SwitchError::WrongType { value, .. }
            | SwitchError::Parked(value)
            | SwitchError::Runnable(value)
            | SwitchError::Unwinding(value)
            | SwitchError::Lost(value)
            | SwitchError::Main(value)
            | SwitchError::NoStack { value, .. } => Some(value),
            SwitchError::Killed | SwitchError::Deadlock(_) => None,
        }
    }

    pub(crate) fn map<W>(self, f: impl FnOnce(V) -> W) -> SwitchError<W> {
        match self {
            SwitchError::Unbound(value) => SwitchError::Unbound(f(value)),
            SwitchError::WrongType {
                value,
                awaited,
                sent,
            } => SwitchError::WrongType {
                value: f(value),
                awaited,
                sent,
            },
            SwitchError::Parked(value) => SwitchError::Parked(f(value)),
            SwitchError::Runnable(value) => SwitchError::Runnable(f(value)),
            SwitchError::Unwinding(value) => SwitchError::Unwinding(f(value)),
            SwitchError::Lost(value) => SwitchError::Lost(f(value)),
            SwitchError::Main(value) => SwitchError::Main(f(value)),
            SwitchError::NoStack { value, error } => SwitchError::NoStack {
                value: f(value),
                error,
            },
            SwitchError::Killed => SwitchError::Killed,
            SwitchError::Deadlock(deadlock) => SwitchError::Deadlock(deadlock),
        }
    }
}

impl<V> std::fmt::Debug for SwitchError<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SwitchError({self})")
    }
}

/// Nothing can wake the greenlet that waits: every greenlet of its thread waits
/// for another one, and nobody outside could end any of these waits.
///
/// Calls that have no error to return panic with this as their payload, after
/// the report of who waits on what was written to the standard error stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("deadlock: every greenlet of this thread waits for another one")]
pub struct Deadlock;

/// The greenlet is ending, and the variable's value has been destroyed, or
/// could not be destroyed any more if it were made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the greenlet-local variable has been destroyed")]
pub struct AccessError;

/// Time was up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the time is up")]
pub struct Elapsed;

/// Why a pool has not taken a greenlet in; it holds what was to be spawned.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PoolFull<F> {
    /// There was no free slot, or none became free in time; or the pool has
    /// size zero, so that there will never be one.
    #[error("the pool is full")]
    Full(F),
    /// The caller is a member of this pool, which is full: it would wait for
    /// itself to end.
    #[error("the pool is full, and the greenlet that would wait for a free slot is a member of it")]
    Member(F),
    /// Nothing could free a slot any more: all greenlets of the thread wait for
    /// each other.
    #[error("the pool is full, and nothing can free a slot any more")]
    Deadlock(F),
}

impl<F> PoolFull<F> {
    /// What was to be spawned.
    pub fn into_inner(self) -> F {
        match self {
            PoolFull::Full(value) | PoolFull::Member(value) | PoolFull::Deadlock(value) => value,
        }
    }

    pub(crate) fn map<G>(self, f: impl FnOnce(F) -> G) -> PoolFull<G> {
        match self {
            PoolFull::Full(value) => PoolFull::Full(f(value)),
            PoolFull::Member(value) => PoolFull::Member(f(value)),
            PoolFull::Deadlock(value) => PoolFull::Deadlock(f(value)),
        }
    }
}

impl<F> std::fmt::Debug for PoolFull<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            PoolFull::Full(_) => "Full",
            PoolFull::Member(_) => "Member",
            PoolFull::Deadlock(_) => "Deadlock",
        })
    }
}

/// An executor was to have no workers at all: it could never run a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an executor needs at least one worker")]
pub struct NoWorkers;

/// Why an executor has refused a job; it holds the job.
#[derive(Error)]
#[non_exhaustive]
pub enum SubmitError<F> {
    /// The executor has been shut down, or stayed behind in a fork.
    #[error("the executor has been shut down")]
    Shutdown(F),
    /// The executor has no worker, and the system has none to give.
    #[error("no worker could be started: {error}")]
    NoWorker {
        /// What was to be run.
        job: F,
        /// Why there is none.
        error: std::io::Error,
    },
    /// The job cannot be sent to another process.
    #[cfg(feature = "process")]
    #[error("{error}")]
    Unsendable {
        /// What was to be sent: the argument.
        job: F,
        /// What is in the way.
        error: crate::process::error::SpawnError,
    },
}

impl<F> SubmitError<F> {
    /// What was to be run.
    pub fn into_inner(self) -> F {
        match self {
            SubmitError::Shutdown(job) | SubmitError::NoWorker { job, .. } => job,
            #[cfg(feature = "process")]
            SubmitError::Unsendable { job, .. } => job,
        }
    }

    pub(crate) fn map<G>(self, f: impl FnOnce(F) -> G) -> SubmitError<G> {
        match self {
            SubmitError::Shutdown(job) => SubmitError::Shutdown(f(job)),
            SubmitError::NoWorker { job, error } => SubmitError::NoWorker { job: f(job), error },
            #[cfg(feature = "process")]
            SubmitError::Unsendable { job, error } => {
                SubmitError::Unsendable { job: f(job), error }
            }
        }
    }
}

impl<F> std::fmt::Debug for SubmitError<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SubmitError::Shutdown(_) => f.write_str("Shutdown"),
            SubmitError::NoWorker { error, .. } => f.debug_tuple("NoWorker").field(error).finish(),
            #[cfg(feature = "process")]
            SubmitError::Unsendable { error, .. } => {
                f.debug_tuple("Unsendable").field(error).finish()
            }
        }
    }
}

/// How a greenlet ended that has no result.
#[derive(Error)]
#[non_exhaustive]
pub enum JoinError {
    /// It panicked; this is the panic's payload.
    #[error("the greenlet panicked: {}", panic_message(.0.as_ref()))]
    Panicked(Box<dyn std::any::Any + Send + 'static>),
    /// It was killed.
    #[error("the greenlet was killed")]
    Killed,
    /// It was a job of an executor that was cancelled before it ran.
    #[error("the job was cancelled")]
    Cancelled,
    /// Its result has been taken already.
    #[error("the result has been taken already")]
    Taken,
    /// It was a job of a worker process, which gave no result.
    #[cfg(feature = "process")]
    #[error(transparent)]
    Process(#[from] crate::process::error::ProcessError),
    /// It has not ended, and nothing could wake the one who waits for it.
    #[error(transparent)]
    Deadlock(#[from] Deadlock),
}

impl JoinError {
    /// Whether the greenlet panicked.
    #[must_use]
    pub fn is_panic(&self) -> bool {
        matches!(self, JoinError::Panicked(_))
    }

    /// Whether the greenlet was killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        matches!(self, JoinError::Killed)
    }

    /// The payload of the panic, for [`std::panic::resume_unwind`].
    ///
    /// # Errors
    /// The error itself, if the greenlet did not panic.
    pub fn into_panic(self) -> Result<Box<dyn std::any::Any + Send + 'static>, JoinError> {
        match self {
            JoinError::Panicked(payload) => Ok(payload),
            other => Err(other),
        }
    }
}

impl std::fmt::Debug for JoinError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JoinError::Panicked(payload) => f
                .debug_tuple("Panicked")
                .field(&panic_message(payload.as_ref()))
                .finish(),
            JoinError::Killed => f.write_str("Killed"),
            JoinError::Cancelled => f.write_str("Cancelled"),
            JoinError::Taken => f.write_str("Taken"),
            #[cfg(feature = "process")]
            JoinError::Process(error) => f.debug_tuple("Process").field(error).finish(),
            JoinError::Deadlock(_) => f.write_str("Deadlock"),
        }
    }
}

/// The text of a panic, where it has one.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(a payload that is not text)"
    }
}

/// A permit was given back to a bounded semaphore that has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("released too often: all {bound} permits of the semaphore are there")]
#[non_exhaustive]
pub struct OverReleased {
    /// How many permits the semaphore has.
    pub bound: usize,
}

/// A lock was released by a greenlet that does not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("only the greenlet that has the lock can release it")]
pub struct NotOwner;

/// Why [`patch_all`](crate::monkey::patch_all) has patched nothing.
#[cfg(feature = "monkey")]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatchError {
    /// The program's calls of this function do not reach this crate: it is not in
    /// the program itself, but in a library that was loaded into somebody else's.
    #[error(
        "calls of `{symbol}` do not reach greenlet, for the symbols of the program come first: only a \
         program that has the crate linked into itself can be patched, no plug-in of another"
    )]
    NotInterposed {
        /// The first function that is not ours.
        symbol: &'static str,
    },
    /// Threads cannot be greenlets here.
    #[error("{0}; `Patch::new().threads(false)` patches everything else")]
    Isolation(#[from] IsolationError),
    /// Not as many OS threads could be started as [`Patch::hubs`](crate::monkey::Patch::hubs) asks for. Everything
    /// is patched, and those that could be started are there.
    #[error("an OS thread for `Patch::hubs` cannot be started: {0}")]
    Hubs(std::io::ErrorKind),
}
