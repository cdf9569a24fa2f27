//! How far a job is: what its handle, the queue and the worker share.
//!
//! ```text
//!              begin                    end
//!   Pending ───────────▶ Running ─────────────▶ Done ──result──▶ Taken
//!      └──────cancel──▶ Cancelled
//! ```
//!
//! Each step is taken by one thread, under the job's lock. Nothing of the user's
//! runs while it is held: closures, results and callbacks are moved out first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};

use super::job::Job;
use super::kinds::Workers;
use crate::error::{Deadlock, JoinError};
use crate::hub::{self, Kind, Parker, Payload, Reason, Woken};
use crate::sys::fork;

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

impl JobState {
    /// Whether there is nothing to wait for.
    fn is_over(self) -> bool {
        matches!(self, JobState::Finished | JobState::Cancelled)
    }
}

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
    pub(super) fn new(body: W::Body<T>, home: W::Home) -> Arc<Core<T, W>> {
        fork::watch();
        // Of greenlets' jobs it is not Send: then neither is the handle.
        Arc::new(Core {
            inner: Mutex::new(Inner {
                progress: Progress::Pending(body),
                wakers: Vec::new(),
                waits: 0,
                callbacks: Vec::new(),
            }),
            home,
            generation: fork::generation(),
        })
    }

    pub(super) fn state(&self) -> JobState {
        match self.lock_here() {
            Some(inner) => inner.progress.state(),
            None => JobState::Running,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.state().is_over()
    }

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
        let job = Job::of(Arc::clone(self));
        let mut interrupt = None;
        for callback in callbacks {
            match hub::catch(|| callback(&job)) {
                Err(payload) if hub::is_interrupt(&payload) => interrupt = Some(payload),
                Err(payload) => hub::contain(move || drop(payload)),
                Ok(()) => {}
            }
        }
        interrupt
    }

    /// See [`Job::cancel`].
    pub(super) fn cancel(self: &Arc<Self>) -> bool {
        let Some(mut inner) = self.lock_here() else {
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
        let interrupt = self.call_back(callbacks);
        drop(body);
        if let Some(payload) = interrupt {
            hub::rethrow(payload);
        }
        true
    }

    /// The result, if nobody has taken it.
    pub(super) fn take(&self) -> Result<T, JoinError> {
        let Some(mut inner) = self.lock_here() else {
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
    pub(super) fn wait_until(self: &Arc<Self>, deadline: Option<u64>) -> Result<bool, JoinError> {
        if self.is_over() {
            return Ok(true);
        }
        if self.generation != fork::generation() {
            return Err(JoinError::Killed);
        }
        if deadline.is_none() && W::is_worker_of(&self.home) {
            let (wakers, interrupt) = Arc::clone(self).run();
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
            let mut inner = self.lock();
            if inner.progress.state().is_over() {
                return Ok(true);
            }
            inner.waits += 1;
            let number = inner.waits;
            inner.wakers.push((number, Waker::from(parker.unparker())));
            number
        };
        let _guard = Forget { core: self, number };
        loop {
            match parker.wait(deadline) {
                Woken::Deadlock => return Err(JoinError::Deadlock(Deadlock)),
                Woken::TimedOut => return Ok(self.is_over()),
                Woken::Answered(_) if self.is_over() => return Ok(true),
                Woken::Answered(_) => {}
            }
        }
    }

    /// Has it called at the end; now, if it is over already.
    pub(super) fn add_callback(self: &Arc<Self>, callback: W::Callback<T>) {
        match self.lock_here() {
            Some(mut inner) if !inner.progress.state().is_over() => {
                inner.callbacks.push(callback);
                return;
            }
            Some(_) => {}
            // It belongs to the parent of this process, and never ends here.
            None => return,
        }
        if let Some(payload) = self.call_back(vec![callback]) {
            hub::rethrow(payload);
        }
    }

    /// See [`Future::poll`](std::future::Future::poll) of the handle.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Result<T, JoinError>> {
        // A waker is somebody's code: neither cloned nor dropped under the lock.
        let waker = context.waker().clone();
        if self.generation != fork::generation() && !self.is_over() {
            return Poll::Ready(Err(JoinError::Killed));
        }
        let replaced = {
            let mut inner = self.lock();
            if inner.progress.state().is_over() {
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
        let (result, interrupt) = match hub::catch(body) {
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
