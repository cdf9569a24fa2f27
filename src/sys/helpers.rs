//! Helper threads: jobs in a queue, and threads that wait for them. The pool of
//! `offload` and the executor of threads are made of it.
//!
//! The process's threads are counted by the deadlock detector, which must not
//! mistake one of ours that has nothing to do for somebody who could wake a
//! greenlet. So here is also counted how many those are.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

static IDLE: AtomicUsize = AtomicUsize::new(0);

/// Helper threads that wait for a job.
pub(crate) fn idle() -> usize {
    IDLE.load(Ordering::SeqCst)
}

/// Somebody who has nothing to do, until it is dropped: a thread that could wake
/// nobody.
pub(crate) struct IdleGuard(());

impl IdleGuard {
    pub(crate) fn new() -> IdleGuard {
        IDLE.fetch_add(1, Ordering::SeqCst);
        IdleGuard(())
    }
}

impl Drop for IdleGuard {
    fn drop(&mut self) {
        IDLE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Threads do not come along into the child of a fork.
pub(super) fn after_fork() {
    IDLE.store(0, Ordering::SeqCst);
}

/// Jobs, first come first served, and the threads that do them.
pub(crate) struct Jobs<J> {
    state: Mutex<State<J>>,
    work: Condvar,
}

/// The queue and the count of the threads, under their lock.
pub(crate) struct State<J> {
    queue: VecDeque<J>,
    /// Threads that have not ended.
    threads: usize,
    /// Threads that wait for `work`.
    sleeping: usize,
    /// As many as there are sleeping threads without a job in sight. A thread that
    /// a job has been queued for counts as busy before it wakes, or the job could
    /// be overlooked by the deadlock detector.
    idle: Vec<IdleGuard>,
    closed: bool,
}

impl<J> Jobs<J> {
    pub(crate) const fn new() -> Jobs<J> {
        Jobs {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                threads: 0,
                sleeping: 0,
                idle: Vec::new(),
                closed: false,
            }),
            work: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State<J>> {
        // No user code runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job, lets go of the lock, and wakes a thread that sleeps.
    pub(crate) fn put(&self, mut state: MutexGuard<'_, State<J>>, job: J) {
        let somebody_sleeps = state.has_sleepers();
        state.queue.push_back(job);
        state.balance();
        drop(state);
        if somebody_sleeps {
            self.work.notify_one();
        }
    }

    /// The threads do what is queued, and end.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_all();
    }

    /// What a thread does between two jobs: tells of the end of the last one, and
    /// waits for the next, for at most `patience`. None if it is time to end; the
    /// thread does not count any more then.
    ///
    /// The thread counts as idle before it tells: a greenlet that hears of the end
    /// of its job may be the last that could run, and nobody would ask again later
    /// whether this is a deadlock.
    pub(crate) fn next(
        &self,
        mut tell: Option<impl FnOnce()>,
        patience: Option<Duration>,
    ) -> Option<J> {
        let mut state = self.lock();
        let mut time_is_up = false;
        let next = loop {
            if let Some(job) = state.take() {
                break Some(job);
            }
            if state.closed || time_is_up {
                state.thread_ends();
                break None;
            }
            state.sleeping += 1;
            state.balance();
            if let Some(tell) = tell.take() {
                drop(state);
                tell();
                state = self.lock();
            } else {
                (state, time_is_up) = self.sleep(state, patience);
            }
            // No `balance` here: if there is nothing to do, it stays idle.
            state.sleeping -= 1;
        };
        drop(state);
        if let Some(tell) = tell {
            tell();
        }
        next
    }

    fn sleep<'a>(
        &self,
        state: MutexGuard<'a, State<J>>,
        patience: Option<Duration>,
    ) -> (MutexGuard<'a, State<J>>, bool) {
        let Some(patience) = patience else {
            let woken = self.work.wait(state);
            return (woken.unwrap_or_else(PoisonError::into_inner), false);
        };
        let woken = self.work.wait_timeout(state, patience);
        let (state, waited) = woken.unwrap_or_else(PoisonError::into_inner);
        (state, waited.timed_out())
    }
}

impl<J> State<J> {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Whether a thread sleeps that no queued job is meant for.
    pub(crate) fn has_sleepers(&self) -> bool {
        self.sleeping > self.queue.len()
    }

    pub(crate) fn thread_starts(&mut self) {
        self.threads += 1;
    }

    pub(crate) fn thread_ends(&mut self) {
        self.threads -= 1;
        self.balance();
    }

    pub(crate) fn take(&mut self) -> Option<J> {
        let job = self.queue.pop_front()?;
        self.balance();
        Some(job)
    }

    fn balance(&mut self) {
        let idle = self.sleeping.saturating_sub(self.queue.len());
        self.idle.truncate(idle);
        while self.idle.len() < idle {
            self.idle.push(IdleGuard::new());
        }
    }
}
