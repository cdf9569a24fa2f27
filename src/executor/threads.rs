//! `ThreadPoolExecutor`: jobs for so many OS threads.

use std::collections::VecDeque;
use std::sync::Arc;

use super::crew::Crew;
use super::job::Job;
use super::kinds::{Threads, Workers};
use super::results::Results;
use crate::error::{NoWorkers, SubmitError};

/// Runs jobs on OS threads of its own: what blocks, and what computes.
///
/// Threads are started as jobs come, up to the number of workers, and named
/// `worker-N`. They stay until the executor is shut down or dropped. Jobs are
/// begun in the order in which they were submitted. Greenlets that a job spawns
/// and does not join are killed when it ends.
///
/// It may be shared between threads, and used from greenlets and plain threads
/// alike. For a single call that blocks there is [`offload`](crate::offload()).
///
/// # Dropping it
/// It waits for all jobs, as [`shutdown(true)`](ThreadPoolExecutor::shutdown)
/// does and as Python's `with` block. While the thread unwinds, by a panic or a
/// kill, it does not wait: the workers do what is left, and end.
///
/// # After a fork
/// The threads are the parent's. In the child every submit is refused, a shutdown
/// has nothing to wait for, and a job of the parent that had not ended is
/// [`Killed`](crate::error::JoinError::Killed).
///
/// # Examples
/// ```
/// use greenlet::executor::ThreadPoolExecutor;
///
/// let pool = ThreadPoolExecutor::new();
/// let job = pool.submit(|| std::thread::current().name().map(String::from)).unwrap();
/// assert_eq!(job.result().unwrap().as_deref(), Some("worker-0"));
/// ```
pub struct ThreadPoolExecutor {
    crew: Arc<Crew>,
}

impl ThreadPoolExecutor {
    /// An executor with as many workers as Python's: the machine's processors
    /// and 4 more, and at most 32.
    #[must_use]
    pub fn new() -> ThreadPoolExecutor {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        ThreadPoolExecutor::of((cores + 4).min(32))
    }

    /// An executor with at most so many workers.
    ///
    /// # Errors
    /// [`NoWorkers`] for zero.
    #[doc(alias = "max_workers")]
    pub fn with_workers(workers: usize) -> Result<ThreadPoolExecutor, NoWorkers> {
        match workers {
            0 => Err(NoWorkers),
            _ => Ok(ThreadPoolExecutor::of(workers)),
        }
    }

    fn of(most: usize) -> ThreadPoolExecutor {
        ThreadPoolExecutor {
            crew: Crew::new("worker", most, || {}),
        }
    }

    /// Hands a job in, and returns its handle at once.
    ///
    /// # Errors
    /// With the closure in it: [`SubmitError::Shutdown`] after a shutdown, and in
    /// the child of a fork; [`SubmitError::NoWorker`] if there is no thread, and
    /// none can be started.
    pub fn submit<F, T>(&self, f: F) -> Result<Job<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let place = match self.crew.reserve() {
            Ok(place) => place,
            Err(refusal) => return Err(refusal.of(f)),
        };
        let body: <Threads as Workers>::Body<T> = Box::new(move || Ok(f()));
        let job: Job<T> = Job::new(body, place.home());
        place.take(job.core());
        Ok(job)
    }

    /// Submits `f` for every item, all of them at once, and returns an iterator
    /// over the results, in the order of the items.
    ///
    /// # Errors
    /// As for [`submit`](ThreadPoolExecutor::submit). What was submitted before
    /// is done all the same.
    ///
    /// # Examples
    /// ```
    /// let pool = greenlet::executor::ThreadPoolExecutor::new();
    /// let lengths = pool.map(|word: &str| word.len(), ["one", "three"]).unwrap();
    /// assert_eq!(lengths.map(Result::unwrap).collect::<Vec<_>>(), [3, 5]);
    /// ```
    pub fn map<A, T, F, I>(&self, f: F, items: I) -> Result<Results<T>, SubmitError<()>>
    where
        F: Fn(A) -> T + Send + Sync + 'static,
        I: IntoIterator<Item = A>,
        A: Send + 'static,
        T: Send + 'static,
    {
        let f = Arc::new(f);
        let submit = |item| {
            let f = Arc::clone(&f);
            self.submit(move || f(item))
                .map_err(|error| error.map(drop))
        };
        let jobs: Result<VecDeque<Job<T>>, _> = items.into_iter().map(submit).collect();
        jobs.map(Results::new)
    }

    /// Takes no further jobs. What was submitted is done, and then the threads
    /// end. With `wait` it returns when they have: it waits for all jobs.
    ///
    /// It may be called again, from any thread. A job that calls it on its own
    /// executor does not wait, for it would wait for itself.
    pub fn shutdown(&self, wait: bool) {
        self.crew.shutdown(wait);
    }

    /// At most so many jobs run at a time.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.crew.most()
    }
}

face!(ThreadPoolExecutor);
