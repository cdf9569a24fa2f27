//! `ProcessPoolExecutor`: jobs for so many worker processes.
//!
//! Each worker has a thread of this process that looks after it: it takes jobs from
//! the queue, as a [`ThreadPoolExecutor`](super::ThreadPoolExecutor)'s does, and
//! has each done by its process.
//!
//! ```text
//!   submit(f, a) ──▶ queue ──▶ thread "process-0" ──── f, a ────▶ worker process
//!      │                          │                                  f(a)
//!      ▼                          │      ◀──── result, or a panic ──┘
//!     Job ◀── result, callbacks ──┘
//!                                 └─ the process has died: this job gets an error that
//!                                    says how, and the next one a new process
//! ```
//!
//! So a worker that dies takes its own job along and nobody else's, and callbacks
//! run in this process, for another could not call into it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::crew::Crew;
use super::job::{Job, ProcessJob};
use super::kinds::{Processes, Workers};
use super::results::Results;
use crate::error::{JoinError, NoWorkers, SubmitError};
use crate::hub::Patience;
use crate::process::{Request, Worker};

/// Runs jobs in processes of its own: what computes and may crash, what must not
/// share memory, and what cannot be trusted with the descriptors of this process.
///
/// A job is a function and an argument, both of this program: the argument and the
/// result are serialised (`serde`), and sockets and other descriptors of this crate
/// may be among them. Closures that capture cannot be sent.
///
/// Processes are started as jobs come, up to the number of workers. They are this
/// program started anew, caught before its `main`: see [`process`](crate::process).
/// They stay until the executor is shut down or dropped, and end with this process.
/// What a job prints appears on the same terminal. Jobs are begun in the order in
/// which they were submitted.
///
/// A worker that ends in the middle of a job, by a signal or `exit`, gives that job
/// [`JoinError::Process`], which says how; a new one takes its place.
///
/// It may be shared between threads, and used from greenlets and plain threads
/// alike. Dropping it, and what holds after a fork, is as for
/// [`ThreadPoolExecutor`](super::ThreadPoolExecutor).
///
/// # Examples
/// ```
/// use greenlet::executor::ProcessPoolExecutor;
///
/// fn square(n: u32) -> u32 {
///     n * n
/// }
///
/// let pool = ProcessPoolExecutor::with_workers(2)?;
/// let jobs: Vec<_> = (1..=3).map(|n| pool.submit(square, n).unwrap()).collect();
/// let squares: Vec<u32> = jobs.iter().map(|job| job.result().unwrap()).collect();
/// assert_eq!(squares, [1, 4, 9]);
/// # Ok::<(), greenlet::error::NoWorkers>(())
/// ```
pub struct ProcessPoolExecutor {
    crew: Arc<Crew>,
}

thread_local! {
    /// The process that this thread looks after.
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

impl ProcessPoolExecutor {
    /// An executor with a worker for each of the machine's processors.
    #[must_use]
    pub fn new() -> ProcessPoolExecutor {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        ProcessPoolExecutor::of(cores)
    }

    /// An executor with at most so many workers.
    ///
    /// # Errors
    /// [`NoWorkers`] for zero.
    #[doc(alias = "max_workers")]
    pub fn with_workers(workers: usize) -> Result<ProcessPoolExecutor, NoWorkers> {
        match workers {
            0 => Err(NoWorkers),
            _ => Ok(ProcessPoolExecutor::of(workers)),
        }
    }

    fn of(most: usize) -> ProcessPoolExecutor {
        ProcessPoolExecutor {
            crew: Crew::new("process", most, dismiss),
        }
    }

    /// Hands a job in, `f(argument)`, and returns its handle at once. The argument
    /// is serialised before this returns.
    ///
    /// # Errors
    /// With the argument in it: [`SubmitError::Shutdown`] after a shutdown, and in
    /// the child of a fork; [`SubmitError::Unsendable`] if the argument cannot be
    /// serialised, or the function is not part of the executable;
    /// [`SubmitError::NoWorker`] if there is no thread, and none can be started.
    ///
    /// The job's own errors are those of [`Job::result`]: a worker process that could
    /// not be started, or that died, is [`JoinError::Process`].
    pub fn submit<A, R>(&self, f: fn(A) -> R, argument: A) -> Result<ProcessJob<R>, SubmitError<A>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
    {
        // What the user has written to serialise it may do anything, so it is done
        // before the queue is looked at.
        let request = match Request::new(f, &argument) {
            Ok(request) => request,
            Err(error) => {
                return Err(SubmitError::Unsendable {
                    job: argument,
                    error,
                });
            }
        };
        let place = match self.crew.reserve() {
            Ok(place) => place,
            Err(refusal) => return Err(refusal.of(argument)),
        };
        let body: <Processes as Workers>::Body<R> = Box::new(move || call(&request));
        let job: ProcessJob<R> = Job::new(body, place.home());
        place.take(job.core());
        Ok(job)
    }

    /// Submits `f` for every item, all of them at once, and returns an iterator
    /// over the results, in the order of the items.
    ///
    /// # Errors
    /// As for [`submit`](ProcessPoolExecutor::submit). What was submitted before is
    /// done all the same.
    ///
    /// # Examples
    /// ```
    /// let pool = greenlet::executor::ProcessPoolExecutor::new();
    /// let words = ["one", "three"].map(String::from);
    /// let lengths = pool.map(|word: String| word.len(), words).unwrap();
    /// assert_eq!(lengths.map(Result::unwrap).collect::<Vec<_>>(), [3, 5]);
    /// ```
    pub fn map<A, R, I>(
        &self,
        f: fn(A) -> R,
        items: I,
    ) -> Result<Results<R, Processes>, SubmitError<A>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + Send + 'static,
        I: IntoIterator<Item = A>,
    {
        let jobs: Result<VecDeque<ProcessJob<R>>, _> =
            items.into_iter().map(|item| self.submit(f, item)).collect();
        jobs.map(Results::new)
    }

    /// Takes no further jobs. What was submitted is done, and then the processes
    /// end. With `wait` it returns when they have: it waits for all jobs.
    ///
    /// It may be called again, from any thread. A callback that calls it on its own
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

/// Has this thread's process do a job; starts it first if there is none.
fn call<R: DeserializeOwned>(request: &Request) -> Result<R, JoinError> {
    // Not borrowed meanwhile: the thread may be parked here, and what else runs on
    // it may have a job done too.
    let mut worker = match WORKER.take() {
        Some(worker) => worker,
        None => Worker::start().map_err(|error| JoinError::Process(error.into()))?,
    };
    match worker.call(request) {
        Ok(reply) => {
            WORKER.replace(Some(worker));
            reply.into_result()
        }
        // It has ended, or is of no more use: the next job gets another.
        Err(error) => Err(JoinError::Process(error)),
    }
}

/// The last that a thread does: waits for its process to end, which has no more to do.
fn dismiss() {
    if let Some(worker) = WORKER.take() {
        worker.finish();
        // Somebody else may have waited for it, and then it has ended too.
        let _ = worker.process().wait(Patience::Forever);
    }
}

face!(ProcessPoolExecutor);
