//! `ThreadPoolExecutor`: jobs for so many OS threads.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::job::Job;
use super::kinds::{Threads, Workers};
use super::progress::{self, Runnable};
use super::results::Results;
use crate::error::{NoWorkers, SubmitError};
use crate::hub::{self, Kind, Parker, Reason};
use crate::sys::fork;
use crate::sys::helpers::{Jobs, State};
use crate::sys::mark::{self, Mark};

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

/// Which executor a job belongs to.
#[derive(Debug)]
pub struct Home(u64);

impl Home {
    pub(super) fn is_mine(&self) -> bool {
        mark::get().worker_of == self.0
    }
}

/// A job in the queue.
type Queued = Arc<dyn Runnable + Send + Sync>;

/// The threads of an executor, and what they have to do.
pub(super) struct Crew {
    number: u64,
    /// What its threads are called, with a number.
    name: &'static str,
    most: usize,
    /// What each thread does last.
    at_end: fn(),
    generation: u32,
    jobs: Jobs<Queued>,
    end: Mutex<End>,
}

/// What is needed to wait for the end of all threads. Its lock may be taken while
/// that of the jobs is held, and not the other way round.
#[derive(Default)]
struct End {
    handles: Vec<std::thread::JoinHandle<()>>,
    /// Threads that have not done what they do last.
    working: usize,
    /// Who waits for the last thread to end, by the number of the wait.
    waiting: Vec<(u64, Waker)>,
    waits: u64,
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

/// Why there is no place for a job.
pub(super) enum Refusal {
    Shutdown,
    NoWorker(std::io::Error),
}

impl Refusal {
    pub(super) fn of<F>(self, job: F) -> SubmitError<F> {
        match self {
            Refusal::Shutdown => SubmitError::Shutdown(job),
            Refusal::NoWorker(error) => SubmitError::NoWorker { job, error },
        }
    }
}

/// A place at the end of a crew's queue.
pub(super) struct Place<'a> {
    crew: &'a Crew,
    state: MutexGuard<'a, State<Queued>>,
}

impl Place<'_> {
    pub(super) fn home(&self) -> Home {
        Home(self.crew.number)
    }

    pub(super) fn take(self, job: Queued) {
        self.crew.jobs.put(self.state, job);
    }
}

impl Crew {
    pub(super) fn new(name: &'static str, most: usize, at_end: fn()) -> Arc<Crew> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        fork::watch();
        Arc::new(Crew {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            name,
            most,
            at_end,
            generation: fork::generation(),
            jobs: Jobs::new(),
            end: Mutex::default(),
        })
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Keeps a place for a job, and sees to it that there is somebody to do it.
    pub(super) fn reserve(self: &Arc<Crew>) -> Result<Place<'_>, Refusal> {
        if self.is_the_parents() {
            return Err(Refusal::Shutdown);
        }
        let mut state = self.jobs.lock();
        if state.is_closed() {
            return Err(Refusal::Shutdown);
        }
        if !state.has_sleepers() && state.threads() < self.most {
            if let Err(error) = self.start_thread(&mut state) {
                if state.threads() == 0 {
                    return Err(Refusal::NoWorker(error));
                }
            }
        }
        Ok(Place { crew: self, state })
    }

    /// See [`ThreadPoolExecutor::shutdown`].
    pub(super) fn shutdown(&self, wait: bool) {
        if self.is_the_parents() {
            return;
        }
        self.jobs.close();
        if !wait || mark::get().worker_of == self.number {
            return;
        }
        self.wait_for_the_end();
        let handles = std::mem::take(&mut self.lock_end().handles);
        for handle in handles {
            // It has left its last function, and catches what jobs throw.
            let _ = handle.join();
        }
    }

    /// Its lock may have been held by a thread that is not here.
    fn is_the_parents(&self) -> bool {
        self.generation != fork::generation()
    }

    fn lock_end(&self) -> MutexGuard<'_, End> {
        // No user code runs while it is held.
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Crew>, state: &mut State<Queued>) -> std::io::Result<()> {
        let crew = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name(format!("{}-{}", self.name, state.threads()))
            .spawn(move || crew.work())?;
        state.thread_starts();
        let mut end = self.lock_end();
        end.handles.push(handle);
        end.working += 1;
        Ok(())
    }

    /// The life of a worker.
    fn work(&self) {
        mark::set(Mark {
            worker_of: self.number,
            ..Mark::default()
        });
        let _leave = Leave(self);
        let mut to_tell = Vec::new();
        loop {
            let tell = (!to_tell.is_empty()).then_some(move || progress::wake(to_tell));
            let Some(job) = self.jobs.next(tell, None) else {
                break;
            };
            let (wakers, interrupt) = job.run();
            drop(interrupt);
            // What the job spawned here and did not join has no turn after it.
            hub::contain(|| {
                hub::shutdown();
            });
            if self.is_the_parents() {
                // The job forked, and this is the child, which ends with this
                // thread, its last.
                return;
            }
            to_tell = wakers;
        }
    }

    fn wait_for_the_end(&self) {
        let reason = Reason::new("waiting for an executor's threads");
        let parker = Parker::for_reason(reason, Kind::External);
        let number = {
            let mut end = self.lock_end();
            end.waits += 1;
            let number = end.waits;
            end.waiting.push((number, Waker::from(parker.unparker())));
            number
        };
        let _guard = Forget { crew: self, number };
        while self.lock_end().working > 0 {
            parker.park();
        }
    }
}

/// The last of a thread, however it is left: what it does at its end, which may take
/// long, and then the news for those who wait.
struct Leave<'a>(&'a Crew);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let crew = self.0;
        (crew.at_end)();
        if crew.is_the_parents() {
            return;
        }
        let mut end = crew.lock_end();
        end.working -= 1;
        if end.working == 0 {
            let waiting = std::mem::take(&mut end.waiting);
            drop(end);
            progress::wake(waiting);
        }
    }
}

/// Takes a wait's waker back, however the wait is left.
struct Forget<'a> {
    crew: &'a Crew,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if !self.crew.is_the_parents() {
            let mut end = self.crew.lock_end();
            end.waiting.retain(|(number, _)| *number != self.number);
        }
    }
}
