//! `ThreadPoolExecutor`: jobs for so many OS threads.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::job::{self, Job, Results, Runnable, Wakers};
use crate::error::{NoWorkers, SubmitError};
use crate::hub::{self, Kind, Parker, Reason};
use crate::sys::fork;
use crate::sys::helpers::IdleGuard;

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
        WORKER_OF.get() == self.0
    }
}

thread_local! {
    /// The number of the executor whose worker this thread is; 0 if of none.
    static WORKER_OF: Cell<u64> = const { Cell::new(0) };
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
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    queue: VecDeque<Queued>,
    /// Threads that have not ended.
    threads: usize,
    /// Threads that wait for `work`.
    sleeping: usize,
    /// As many as there are sleeping threads without a job in sight: see
    /// `offload`, whose threads are counted in the same way.
    idle: Vec<IdleGuard>,
    shut_down: bool,
    handles: Vec<std::thread::JoinHandle<()>>,
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
        let body: Box<dyn FnOnce() -> T + Send> = Box::new(f);
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

impl Default for ThreadPoolExecutor {
    fn default() -> ThreadPoolExecutor {
        ThreadPoolExecutor::new()
    }
}

impl Drop for ThreadPoolExecutor {
    fn drop(&mut self) {
        // Who unwinds is on the way to telling somebody.
        self.shutdown(!std::thread::panicking());
    }
}

impl fmt::Debug for ThreadPoolExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPoolExecutor")
            .field("workers", &self.crew.most)
            .finish_non_exhaustive()
    }
}

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
    state: MutexGuard<'a, State>,
    somebody_sleeps: bool,
}

impl Place<'_> {
    pub(super) fn home(&self) -> Home {
        Home(self.crew.number)
    }

    pub(super) fn take(mut self, job: Queued) {
        self.state.queue.push_back(job);
        self.state.balance();
        drop(self.state);
        if self.somebody_sleeps {
            self.crew.work.notify_one();
        }
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
            state: Mutex::new(State {
                queue: VecDeque::new(),
                threads: 0,
                sleeping: 0,
                idle: Vec::new(),
                shut_down: false,
                handles: Vec::new(),
                waiting: Vec::new(),
                waits: 0,
            }),
            work: Condvar::new(),
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
        let mut state = self.lock();
        if state.shut_down {
            return Err(Refusal::Shutdown);
        }
        let somebody_sleeps = state.sleeping > state.queue.len();
        if !somebody_sleeps && state.threads < self.most {
            if let Err(error) = self.start_thread(&mut state) {
                if state.threads == 0 {
                    return Err(Refusal::NoWorker(error));
                }
            }
        }
        Ok(Place {
            crew: self,
            state,
            somebody_sleeps,
        })
    }

    /// See [`ThreadPoolExecutor::shutdown`].
    pub(super) fn shutdown(&self, wait: bool) {
        if self.is_the_parents() {
            return;
        }
        self.lock().shut_down = true;
        self.work.notify_all();
        if !wait || WORKER_OF.get() == self.number {
            return;
        }
        self.wait_for_the_end();
        let handles = std::mem::take(&mut self.lock().handles);
        for handle in handles {
            // It has left its last function, and catches what jobs throw.
            let _ = handle.join();
        }
    }

    /// Its lock may have been held by a thread that is not here.
    fn is_the_parents(&self) -> bool {
        self.generation != fork::generation()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Crew>, state: &mut State) -> std::io::Result<()> {
        let crew = Arc::clone(self);
        let handle = std::thread::Builder::new()
            .name(format!("{}-{}", self.name, state.threads))
            .spawn(move || crew.work())?;
        state.threads += 1;
        state.handles.push(handle);
        Ok(())
    }

    /// The life of a worker.
    fn work(&self) {
        /// However the thread is left.
        struct AtEnd(fn());
        impl Drop for AtEnd {
            fn drop(&mut self) {
                (self.0)();
            }
        }
        WORKER_OF.set(self.number);
        let _at_end = AtEnd(self.at_end);
        let mut to_tell = Vec::new();
        while let Some(job) = self.next_job(to_tell) {
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

    /// Tells of the end of the last job and waits for the next; none if it is
    /// time to end. The thread counts as idle before it tells, as in `offload`.
    fn next_job(&self, mut to_tell: Wakers) -> Option<Queued> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                state.balance();
                drop(state);
                job::wake(to_tell);
                return Some(job);
            }
            if state.shut_down {
                state.threads -= 1;
                state.balance();
                let waiting = match state.threads {
                    0 => std::mem::take(&mut state.waiting),
                    _ => Vec::new(),
                };
                drop(state);
                job::wake(to_tell);
                job::wake(waiting);
                return None;
            }
            state.sleeping += 1;
            state.balance();
            if to_tell.is_empty() {
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            } else {
                drop(state);
                job::wake(std::mem::take(&mut to_tell));
                state = self.lock();
            }
            // No `balance` here: if there is nothing to do, it stays idle.
            state.sleeping -= 1;
        }
    }

    fn wait_for_the_end(&self) {
        let reason = Reason::new("waiting for an executor's threads");
        let parker = Parker::for_reason(reason, Kind::External);
        let number = {
            let mut state = self.lock();
            state.waits += 1;
            let number = state.waits;
            state.waiting.push((number, Waker::from(parker.unparker())));
            number
        };
        let _guard = Forget { crew: self, number };
        while self.lock().threads > 0 {
            parker.park();
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
            let mut state = self.crew.lock();
            state.waiting.retain(|(number, _)| *number != self.number);
        }
    }
}

impl State {
    fn balance(&mut self) {
        let idle = self.sleeping.saturating_sub(self.queue.len());
        self.idle.truncate(idle);
        while self.idle.len() < idle {
            self.idle.push(IdleGuard::new());
        }
    }
}
