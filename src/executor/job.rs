//! `Job`: what an executor was given to do, and what became of it.
//!
//! ```text
//!              begin                    end
//!   Pending ───────────▶ Running ─────────────▶ Done ──result──▶ Taken
//!      └──────cancel──▶ Cancelled
//! ```
//!
//! Each step is taken by one thread, under the job's lock. Nothing of the user's
//! runs while it is held: closures, results and callbacks are moved out first.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::{greenlets, threads};
use crate::error::{Deadlock, Elapsed, JoinError};
use crate::hub::{self, Kind, Parker, Payload, Reason, Woken};
use crate::sys::{clock, fork};

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits for a worker.
    Pending,
    /// A worker does it.
    Running,
    /// It has returned or panicked, or its greenlet was killed.
    Finished,
    /// It was cancelled before it ran, and never will.
    Cancelled,
}

/// What the jobs of an executor are done by: [`Threads`], [`Greenlets`] or
/// `Processes` (with the feature `process`). It is implemented by these only.
pub trait Workers: Sized + sealed::Sealed {
    #[doc(hidden)]
    type Body<T>;
    #[doc(hidden)]
    type Callback<T>;
    #[doc(hidden)]
    type Home;
    #[doc(hidden)]
    fn call<T>(body: Self::Body<T>) -> Result<T, JoinError>;
    #[doc(hidden)]
    fn call_back<T>(callback: Self::Callback<T>, job: &Job<T, Self>);
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
    type Body<T> = Box<dyn FnOnce() -> T + Send>;
    type Callback<T> = Box<dyn FnOnce(&Job<T, Threads>) + Send>;
    type Home = threads::Home;
    const LOCAL: bool = false;

    fn call<T>(body: Self::Body<T>) -> Result<T, JoinError> {
        Ok(body())
    }

    fn call_back<T>(callback: Self::Callback<T>, job: &Job<T, Threads>) {
        callback(job);
    }

    fn is_worker_of(home: &threads::Home) -> bool {
        home.is_mine()
    }
}

impl Workers for Greenlets {
    type Body<T> = Box<dyn FnOnce() -> T>;
    type Callback<T> = Box<dyn FnOnce(&Job<T, Greenlets>)>;
    type Home = greenlets::Home;
    const LOCAL: bool = true;

    fn call<T>(body: Self::Body<T>) -> Result<T, JoinError> {
        Ok(body())
    }

    fn call_back<T>(callback: Self::Callback<T>, job: &Job<T, Greenlets>) {
        callback(job);
    }

    fn is_worker_of(home: &greenlets::Home) -> bool {
        home.is_mine()
    }
}

#[cfg(feature = "process")]
impl Workers for Processes {
    /// What a thread of ours does: it has a process do the job.
    type Body<T> = Box<dyn FnOnce() -> Result<T, JoinError> + Send>;
    type Callback<T> = Box<dyn FnOnce(&Job<T, Processes>) + Send>;
    type Home = threads::Home;
    const LOCAL: bool = false;

    fn call<T>(body: Self::Body<T>) -> Result<T, JoinError> {
        body()
    }

    fn call_back<T>(callback: Self::Callback<T>, job: &Job<T, Processes>) {
        callback(job);
    }

    fn is_worker_of(home: &threads::Home) -> bool {
        home.is_mine()
    }
}

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

/// What the handle, the queue and the worker share.
pub(super) struct Core<T, W: Workers> {
    inner: Mutex<Inner<T, W>>,
    home: W::Home,
    generation: u32,
}

struct Inner<T, W: Workers> {
    progress: Progress<T, W>,
    /// Who waits, by the number of the wait.
    wakers: Vec<(u64, Waker)>,
    waits: u64,
    callbacks: Vec<W::Callback<T>>,
}

enum Progress<T, W: Workers> {
    Pending(W::Body<T>),
    Running,
    Done(Result<T, JoinError>),
    Taken,
    Cancelled,
}

impl<T, W: Workers> Progress<T, W> {
    fn state(&self) -> JobState {
        match self {
            Progress::Pending(_) => JobState::Pending,
            Progress::Running => JobState::Running,
            Progress::Done(_) | Progress::Taken => JobState::Finished,
            Progress::Cancelled => JobState::Cancelled,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), JobState::Finished | JobState::Cancelled)
    }
}

/// Those to be woken, once the worker has nothing more to do.
pub(super) type Wakers = Vec<(u64, Waker)>;

pub(super) fn wake(wakers: Wakers) {
    for (_, waker) in wakers {
        hub::contain(move || waker.wake());
    }
}

/// A job without its type, as it lies in a queue.
pub(super) trait Runnable {
    /// Does the job, unless it was cancelled. Returns those who are to be told,
    /// and the kill or timeout that has ended it, which is not the job's own.
    fn run(self: Arc<Self>) -> (Wakers, Option<Payload>);
    /// There is nobody left to do it.
    fn abandon(self: Arc<Self>);
}

impl<T, W: Workers> Core<T, W> {
    fn lock(&self) -> MutexGuard<'_, Inner<T, W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the child of a fork the lock may have been held by one who is not
    /// here: none then.
    fn lock_here(&self) -> Option<MutexGuard<'_, Inner<T, W>>> {
        if self.generation == fork::generation() {
            return Some(self.lock());
        }
        match self.inner.try_lock() {
            Ok(inner) => Some(inner),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn finish(self: &Arc<Self>, result: Result<T, JoinError>) -> (Wakers, Option<Payload>) {
        let (wakers, callbacks) = {
            let mut inner = self.lock();
            inner.progress = Progress::Done(result);
            (
                std::mem::take(&mut inner.wakers),
                std::mem::take(&mut inner.callbacks),
            )
        };
        if callbacks.is_empty() {
            return (wakers, None);
        }
        // Nobody who waits for the result is to wait for callbacks too.
        wake(wakers);
        (Vec::new(), self.call_back(callbacks))
    }

    /// Runs the callbacks. One that panics has been reported by the panic hook,
    /// and does not keep the others from running. A kill is returned.
    fn call_back(self: &Arc<Self>, callbacks: Vec<W::Callback<T>>) -> Option<Payload> {
        let job = Job {
            core: Arc::clone(self),
        };
        let mut interrupt = None;
        for callback in callbacks {
            match hub::catch(|| W::call_back(callback, &job)) {
                Err(payload) if hub::is_interrupt(&payload) => interrupt = Some(payload),
                Err(payload) => hub::contain(move || drop(payload)),
                Ok(()) => {}
            }
        }
        interrupt
    }
}

impl<T, W: Workers> Runnable for Core<T, W> {
    fn run(self: Arc<Self>) -> (Wakers, Option<Payload>) {
        let body = {
            let mut inner = self.lock();
            if !matches!(inner.progress, Progress::Pending(_)) {
                return (Vec::new(), None);
            }
            match std::mem::replace(&mut inner.progress, Progress::Running) {
                Progress::Pending(body) => body,
                _ => unreachable!("it was pending, under the same lock"),
            }
        };
        let (result, interrupt) = match hub::catch(|| W::call(body)) {
            Ok(result) => (result, None),
            Err(payload) if hub::is_interrupt(&payload) => (Err(JoinError::Killed), Some(payload)),
            Err(payload) => (Err(JoinError::Panicked(payload)), None),
        };
        if self.generation != fork::generation() {
            // The job has forked, and this is the child: who waits is not here.
            hub::contain(move || drop(result));
            return (Vec::new(), interrupt);
        }
        let (wakers, later) = self.finish(result);
        // This may be the last reference, and the result is the user's.
        hub::contain(move || drop(self));
        (wakers, interrupt.or(later))
    }

    fn abandon(self: Arc<Self>) {
        let body = {
            let mut inner = self.lock();
            if !matches!(inner.progress, Progress::Pending(_)) {
                return;
            }
            std::mem::replace(&mut inner.progress, Progress::Running)
        };
        hub::contain(move || drop(body));
        wake(self.finish(Err(JoinError::Killed)).0);
    }
}

impl<T, W: Workers> Job<T, W> {
    pub(super) fn new(body: W::Body<T>, home: W::Home) -> Job<T, W> {
        fork::watch();
        Job {
            // Of greenlets' jobs it is not Send: then neither is the handle.
            core: Arc::new(Core {
                inner: Mutex::new(Inner {
                    progress: Progress::Pending(body),
                    wakers: Vec::new(),
                    waits: 0,
                    callbacks: Vec::new(),
                }),
                home,
                generation: fork::generation(),
            }),
        }
    }

    pub(super) fn core(&self) -> Arc<Core<T, W>> {
        Arc::clone(&self.core)
    }

    /// How far the job is. Its `Debug` shows the same.
    #[must_use]
    #[doc(alias = "running")]
    #[doc(alias = "cancelled")]
    pub fn state(&self) -> JobState {
        match self.core.lock_here() {
            Some(inner) => inner.progress.state(),
            None => JobState::Running,
        }
    }

    /// Whether there is nothing to wait for: it has finished, or was cancelled.
    #[must_use]
    #[doc(alias = "done")]
    pub fn is_finished(&self) -> bool {
        matches!(self.state(), JobState::Finished | JobState::Cancelled)
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
        self.wait_until(None)?;
        self.take()
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
        match self.wait_until(Some(clock::deadline_after(timeout))) {
            Ok(true) => Ok(self.take()),
            Ok(false) => Err(Elapsed),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Waits until the job is over; the result stays.
    ///
    /// # Errors
    /// As for [`result`](Job::result), of those that are no result.
    pub fn wait(&self) -> Result<(), JoinError> {
        self.wait_until(None).map(|_| ())
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
        let Some(mut inner) = self.core.lock_here() else {
            return false;
        };
        match inner.progress {
            Progress::Pending(_) => {}
            Progress::Cancelled => return true,
            _ => return false,
        }
        let body = std::mem::replace(&mut inner.progress, Progress::Cancelled);
        let wakers = std::mem::take(&mut inner.wakers);
        let callbacks = std::mem::take(&mut inner.callbacks);
        drop(inner);
        wake(wakers);
        let interrupt = self.core.call_back(callbacks);
        drop(body);
        if let Some(payload) = interrupt {
            hub::rethrow(payload);
        }
        true
    }

    fn take(&self) -> Result<T, JoinError> {
        let Some(mut inner) = self.core.lock_here() else {
            return Err(JoinError::Killed);
        };
        match inner.progress {
            Progress::Cancelled => Err(JoinError::Cancelled),
            Progress::Done(_) => match std::mem::replace(&mut inner.progress, Progress::Taken) {
                Progress::Done(result) => result,
                _ => unreachable!("it was done, under the same lock"),
            },
            _ => Err(JoinError::Taken),
        }
    }

    /// True: the job is over. False: time is up.
    fn wait_until(&self, deadline: Option<u64>) -> Result<bool, JoinError> {
        let core = &self.core;
        if self.is_finished() {
            return Ok(true);
        }
        if core.generation != fork::generation() {
            return Err(JoinError::Killed);
        }
        if deadline.is_none() && W::is_worker_of(&core.home) {
            let (wakers, interrupt) = Arc::clone(core).run();
            wake(wakers);
            if let Some(payload) = interrupt {
                hub::rethrow(payload);
            }
        }
        let (reason, kind) = if W::LOCAL {
            (Reason::new("waiting for a job"), Kind::Local)
        } else {
            (Reason::new("waiting for a thread's job"), Kind::External)
        };
        let parker = Parker::for_reason(reason, kind);
        let number = {
            let mut inner = core.lock();
            if inner.progress.is_over() {
                return Ok(true);
            }
            inner.waits += 1;
            let number = inner.waits;
            inner.wakers.push((number, Waker::from(parker.unparker())));
            number
        };
        let _guard = Forget { core, number };
        loop {
            match parker.wait(deadline) {
                Woken::Deadlock => return Err(JoinError::Deadlock(Deadlock)),
                Woken::TimedOut => return Ok(self.is_finished()),
                Woken::Answered(_) if self.is_finished() => return Ok(true),
                Woken::Answered(_) => {}
            }
        }
    }

    fn add_callback(&self, callback: W::Callback<T>) {
        match self.core.lock_here() {
            Some(mut inner) if !inner.progress.is_over() => {
                inner.callbacks.push(callback);
                return;
            }
            Some(_) => {}
            // It belongs to the parent of this process, and never ends here.
            None => return,
        }
        if let Some(payload) = self.core.call_back(vec![callback]) {
            hub::rethrow(payload);
        }
    }
}

/// Takes a wait's waker back, however the wait is left.
struct Forget<'a, T, W: Workers> {
    core: &'a Core<T, W>,
    number: u64,
}

impl<T, W: Workers> Drop for Forget<'_, T, W> {
    fn drop(&mut self) {
        let Some(mut inner) = self.core.lock_here() else {
            return;
        };
        let at = inner
            .wakers
            .iter()
            .position(|(number, _)| *number == self.number);
        let waker = at.map(|at| inner.wakers.remove(at));
        drop(inner);
        drop(waker);
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
        self.add_callback(Box::new(callback));
    }
}

impl<T: 'static> Job<T, Greenlets> {
    /// Has `callback` called with the finished job: once, in the greenlet that
    /// finished it, after those who wait were woken; on the caller, before this
    /// returns, if the job is over already. Otherwise as for jobs of threads.
    pub fn add_done_callback(&self, callback: impl FnOnce(&LocalJob<T>) + 'static) {
        self.add_callback(Box::new(callback));
    }
}

#[cfg(feature = "process")]
impl<T: 'static> Job<T, Processes> {
    /// Has `callback` called with the finished job: once, on the thread of this
    /// process that looks after the worker, after those who wait were woken; on the
    /// caller, before this returns, if the job is over already. Otherwise as for
    /// jobs of threads.
    pub fn add_done_callback(&self, callback: impl FnOnce(&ProcessJob<T>) + Send + 'static) {
        self.add_callback(Box::new(callback));
    }
}

impl<T, W: Workers> Future for Job<T, W> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A waker is somebody's code: neither cloned nor dropped under the lock.
        let waker = context.waker().clone();
        if self.core.generation != fork::generation() && !self.is_finished() {
            return Poll::Ready(Err(JoinError::Killed));
        }
        let replaced = {
            let mut inner = self.core.lock();
            if inner.progress.is_over() {
                drop(inner);
                return Poll::Ready(self.take());
            }
            // A future has one owner at a time; number 0 is its own.
            let at = inner.wakers.iter().position(|(number, _)| *number == 0);
            let replaced = at.map(|at| inner.wakers.remove(at));
            inner.wakers.push((0, waker));
            replaced
        };
        drop(replaced);
        Poll::Pending
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

/// The iterator of an executor's `map`: waits for one result after the other,
/// in the order of the items. Dropping it leaves the jobs as they are.
#[must_use = "it waits for the results that are asked for"]
pub struct Results<T, W: Workers = Threads> {
    jobs: VecDeque<Job<T, W>>,
}

impl<T, W: Workers> Results<T, W> {
    pub(super) fn new(jobs: VecDeque<Job<T, W>>) -> Results<T, W> {
        Results { jobs }
    }
}

impl<T, W: Workers> Iterator for Results<T, W> {
    type Item = Result<T, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.jobs.pop_front().map(Job::join)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.jobs.len(), Some(self.jobs.len()))
    }
}

impl<T, W: Workers> ExactSizeIterator for Results<T, W> {}

impl<T, W: Workers> fmt::Debug for Results<T, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("left", &self.jobs.len())
            .finish()
    }
}
