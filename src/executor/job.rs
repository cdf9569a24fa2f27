//! `Job`: the handle of what an executor was given to do.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(feature = "process")]
use super::kinds::Processes;
use super::kinds::{Greenlets, Threads, Workers};
use super::progress::{Core, JobState};
use crate::error::{Elapsed, JoinError};
use crate::sys::clock;

/// The handle of a job that was submitted to an executor: Python's `Future`.
///
/// Dropping it leaves the job as it is: it will be done, and its result dropped.
/// The result is handed out once, to the first who asks for it: the owner, or a
/// callback. The job of a [`ThreadPoolExecutor`](super::ThreadPoolExecutor) may be
/// asked from any thread. As a [`Future`] it completes with the result.
///
/// # Examples
/// ```
/// use greenlet::executor::{JobState, ThreadPoolExecutor};
///
/// let pool = ThreadPoolExecutor::new();
/// let job = pool.submit(|| 6 * 7).unwrap();
/// assert_eq!(job.result().unwrap(), 42);
/// assert_eq!(job.state(), JobState::Finished);
/// ```
#[doc(alias = "Future")]
#[doc(alias = "AsyncResult")]
pub struct Job<T, W: Workers = Threads> {
    core: Arc<Core<T, W>>,
}

/// The handle of a job that a greenlet of this thread does.
pub type LocalJob<T> = Job<T, Greenlets>;

/// The handle of a job that a worker process does.
#[cfg(feature = "process")]
pub type ProcessJob<T> = Job<T, Processes>;

impl<T, W: Workers> Job<T, W> {
    pub(super) fn new(body: W::Body<T>, home: W::Home) -> Job<T, W> {
        Job::of(Core::new(body, home))
    }

    pub(super) fn of(core: Arc<Core<T, W>>) -> Job<T, W> {
        Job { core }
    }

    pub(super) fn core(&self) -> Arc<Core<T, W>> {
        Arc::clone(&self.core)
    }

    /// How far the job is. Its `Debug` shows the same.
    #[must_use]
    #[doc(alias = "running")]
    #[doc(alias = "cancelled")]
    pub fn state(&self) -> JobState {
        self.core.state()
    }

    /// Whether there is nothing to wait for: it has finished, or was cancelled.
    #[must_use]
    #[doc(alias = "done")]
    pub fn is_finished(&self) -> bool {
        self.core.is_over()
    }

    /// Waits for the job and takes its result.
    ///
    /// A worker that waits for a job of its own executor which nobody has begun
    /// does that job itself: workers that only wait for each other's jobs would
    /// never end.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] with the panic's payload; [`JoinError::Cancelled`];
    /// [`JoinError::Taken`] if somebody else has taken the result;
    /// [`JoinError::Killed`] if the greenlet that did it was killed, or if this
    /// is the child of a fork and the job its parent's; [`JoinError::Deadlock`] if
    /// a job of greenlets can never end.
    #[doc(alias = "get")]
    pub fn result(&self) -> Result<T, JoinError> {
        self.core.wait_until(None)?;
        self.core.take()
    }

    /// As [`result`](Job::result), for those who need the handle no more.
    ///
    /// # Errors
    /// As for [`result`](Job::result).
    pub fn join(self) -> Result<T, JoinError> {
        self.result()
    }

    /// As [`result`](Job::result), and waits for at most `timeout`. The job
    /// itself goes on.
    ///
    /// # Errors
    /// [`Elapsed`] if the time was up first.
    pub fn result_timeout(&self, timeout: Duration) -> Result<Result<T, JoinError>, Elapsed> {
        match self.core.wait_until(Some(clock::deadline_after(timeout))) {
            Ok(true) => Ok(self.core.take()),
            Ok(false) => Err(Elapsed),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Waits until the job is over; the result stays.
    ///
    /// # Errors
    /// As for [`result`](Job::result), of those that are no result.
    pub fn wait(&self) -> Result<(), JoinError> {
        self.core.wait_until(None).map(|_| ())
    }

    /// Cancels the job if it has not begun: it will never run, and what its
    /// closure has captured is dropped now. Callbacks run, on the caller.
    /// Returns whether the job is cancelled.
    ///
    /// # Examples
    /// ```
    /// use greenlet::executor::GreenletPoolExecutor;
    ///
    /// let pool = GreenletPoolExecutor::new();
    /// let job = pool.submit(|| 1).unwrap();
    /// assert!(job.cancel());
    /// assert_eq!(job.join().unwrap_err().to_string(), "the job was cancelled");
    /// ```
    pub fn cancel(&self) -> bool {
        self.core.cancel()
    }
}

impl<T: 'static> Job<T, Threads> {
    /// Has `callback` called with the finished job: once, on the pool's thread
    /// that finished it, after those who wait were woken; on the caller, before
    /// this returns, if the job is over already. Callbacks run in the order in
    /// which they were added. One that panics is reported by the panic hook, and
    /// that is all; one that blocks keeps the worker from its next job.
    ///
    /// # Examples
    /// ```
    /// use greenlet::executor::ThreadPoolExecutor;
    /// use std::sync::mpsc::channel;
    ///
    /// let pool = ThreadPoolExecutor::new();
    /// let (parsed, lengths) = channel();
    /// let job = pool.submit(|| String::from("a page")).unwrap();
    /// job.add_done_callback(move |job| parsed.send(job.result().unwrap().len()).unwrap());
    /// assert_eq!(lengths.recv(), Ok(6));
    /// ```
    pub fn add_done_callback(&self, callback: impl FnOnce(&Job<T>) + Send + 'static) {
        self.core.add_callback(Box::new(callback));
    }
}

impl<T: 'static> Job<T, Greenlets> {
    /// Has `callback` called with the finished job: once, in the greenlet that
    /// finished it, after those who wait were woken; on the caller, before this
    /// returns, if the job is over already. Otherwise as for jobs of threads.
    pub fn add_done_callback(&self, callback: impl FnOnce(&LocalJob<T>) + 'static) {
        self.core.add_callback(Box::new(callback));
    }
}

#[cfg(feature = "process")]
impl<T: 'static> Job<T, Processes> {
    /// Has `callback` called with the finished job: once, on the thread of this
    /// process that looks after the worker, after those who wait were woken; on the
    /// caller, before this returns, if the job is over already. Otherwise as for
    /// jobs of threads.
    pub fn add_done_callback(&self, callback: impl FnOnce(&ProcessJob<T>) + Send + 'static) {
        self.core.add_callback(Box::new(callback));
    }
}

impl<T, W: Workers> Future for Job<T, W> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.core.poll(context)
    }
}

impl<T, W: Workers> fmt::Debug for Job<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Job")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
