//! What jobs may be done by, and what the handle of a job must know of it.

use super::job::Job;
use super::{crew, greenlets};
use crate::error::JoinError;

/// What the jobs of an executor are done by: [`Threads`], [`Greenlets`] or
/// `Processes` (with the feature `process`). It is implemented by these only.
pub trait Workers: Sized + sealed::Sealed {
    #[doc(hidden)]
    type Body<T>: FnOnce() -> Result<T, JoinError>;
    #[doc(hidden)]
    type Callback<T>: FnOnce(&Job<T, Self>);
    #[doc(hidden)]
    type Home;
    /// Whether the caller is one of the workers of that executor.
    #[doc(hidden)]
    fn is_worker_of(home: &Self::Home) -> bool;
    #[doc(hidden)]
    const LOCAL: bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Threads {}
    impl Sealed for super::Greenlets {}
    #[cfg(feature = "process")]
    impl Sealed for super::Processes {}
}

/// Jobs that are done by OS threads: their handles go from thread to thread.
#[derive(Clone, Copy, Debug)]
pub enum Threads {}

/// Jobs that are done by greenlets of the thread that submitted them.
#[derive(Clone, Copy, Debug)]
pub enum Greenlets {}

/// Jobs that are done by worker processes: their handles go from thread to thread.
#[cfg(feature = "process")]
#[derive(Clone, Copy, Debug)]
pub enum Processes {}

impl Workers for Threads {
    type Body<T> = Box<dyn FnOnce() -> Result<T, JoinError> + Send>;
    type Callback<T> = Box<dyn FnOnce(&Job<T, Threads>) + Send>;
    type Home = crew::Home;
    const LOCAL: bool = false;

    fn is_worker_of(home: &crew::Home) -> bool {
        home.is_mine()
    }
}

impl Workers for Greenlets {
    type Body<T> = Box<dyn FnOnce() -> Result<T, JoinError>>;
    type Callback<T> = Box<dyn FnOnce(&Job<T, Greenlets>)>;
    type Home = greenlets::Home;
    const LOCAL: bool = true;

    fn is_worker_of(home: &greenlets::Home) -> bool {
        home.is_mine()
    }
}

/// What a thread of ours does: it has a process do the job.
#[cfg(feature = "process")]
impl Workers for Processes {
    type Body<T> = Box<dyn FnOnce() -> Result<T, JoinError> + Send>;
    type Callback<T> = Box<dyn FnOnce(&Job<T, Processes>) + Send>;
    type Home = crew::Home;
    const LOCAL: bool = false;

    fn is_worker_of(home: &crew::Home) -> bool {
        home.is_mine()
    }
}
