//! `GreenletPoolExecutor`: jobs for so many greenlets of this thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::job::{Job, LocalJob};
use super::kinds::{Greenlets, Workers};
use super::progress::{self, Runnable};
use super::results::Results;
use crate::error::{NoWorkers, SubmitError};
use crate::hub;
use crate::sys::fork;
use crate::sys::pass::PassThrough;
use crate::task::{Builder, Group};

/// How many greenlets an executor has that was not told.
const DEFAULT_WORKERS: usize = 100;

/// Runs jobs in greenlets of this thread: what waits, and does not block.
///
/// It has the face of [`ThreadPoolExecutor`](super::ThreadPoolExecutor), and
/// takes closures that are not `Send`. A greenlet is spawned when a job is
/// submitted and fewer than the number of workers are busy; it does one job after
/// the other, and ends when none is left. Jobs run when the caller blocks.
///
/// # Dropping it
/// It waits for all jobs, as [`shutdown(true)`](GreenletPoolExecutor::shutdown)
/// does. While the greenlet unwinds, and in one of its own jobs, it does not wait.
///
/// # After a fork
/// The child has none of the workers. Every submit is refused there, and a job
/// of the parent is [`Killed`](crate::error::JoinError::Killed).
///
/// # Examples
/// ```
/// use std::rc::Rc;
/// use greenlet::executor::GreenletPoolExecutor;
///
/// let pool = GreenletPoolExecutor::with_workers(2)?;
/// let shared = Rc::new(20);
/// let job = pool.submit({
///     let shared = Rc::clone(&shared);
///     move || *shared + 1
/// });
/// assert_eq!(job.unwrap().result().unwrap(), 21);
/// # Ok::<(), greenlet::error::NoWorkers>(())
/// ```
pub struct GreenletPoolExecutor {
    crew: Rc<Crew>,
}

/// Which executor a job belongs to.
pub struct Home(Rc<Crew>);

impl Home {
    pub(super) fn is_mine(&self) -> bool {
        self.0.workers.has_current()
    }
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Home")
    }
}

struct Crew {
    most: usize,
    generation: u32,
    queue: RefCell<VecDeque<Arc<dyn Runnable>>>,
    workers: Group,
    /// Workers that take jobs, or will.
    active: Cell<usize>,
    shut_down: Cell<bool>,
}

impl GreenletPoolExecutor {
    /// An executor with at most 100 workers.
    #[must_use]
    pub fn new() -> GreenletPoolExecutor {
        GreenletPoolExecutor::of(DEFAULT_WORKERS)
    }

    /// An executor with at most so many workers.
    ///
    /// # Errors
    /// [`NoWorkers`] for zero.
    #[doc(alias = "max_workers")]
    pub fn with_workers(workers: usize) -> Result<GreenletPoolExecutor, NoWorkers> {
        match workers {
            0 => Err(NoWorkers),
            _ => Ok(GreenletPoolExecutor::of(workers)),
        }
    }

    fn of(most: usize) -> GreenletPoolExecutor {
        fork::watch();
        GreenletPoolExecutor {
            crew: Rc::new(Crew {
                most,
                generation: fork::generation(),
                queue: RefCell::new(VecDeque::new()),
                workers: Group::new(),
                active: Cell::new(0),
                shut_down: Cell::new(false),
            }),
        }
    }

    /// Hands a job in, and returns its handle at once.
    ///
    /// # Errors
    /// With the closure in it: [`SubmitError::Shutdown`] after a shutdown, and in
    /// the child of a fork; [`SubmitError::NoWorker`] if there is no greenlet, and
    /// no stack for one.
    pub fn submit<F, T>(&self, f: F) -> Result<LocalJob<T>, SubmitError<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let crew = &self.crew;
        if crew.shut_down.get() || crew.generation != fork::generation() {
            return Err(SubmitError::Shutdown(f));
        }
        // A new worker must find the job, though memory is asked for in between.
        let _pass = PassThrough::enter();
        if crew.active.get() < crew.most {
            if let Err(error) = Crew::start_worker(crew) {
                if crew.active.get() == 0 {
                    return Err(SubmitError::NoWorker { job: f, error });
                }
            }
        }
        let body: <Greenlets as Workers>::Body<T> = Box::new(move || Ok(f()));
        let job: LocalJob<T> = Job::new(body, Home(Rc::clone(crew)));
        crew.queue.borrow_mut().push_back(job.core());
        Ok(job)
    }

    /// Submits `f` for every item, all of them at once, and returns an iterator
    /// over the results, in the order of the items.
    ///
    /// # Errors
    /// As for [`submit`](GreenletPoolExecutor::submit). What was submitted before
    /// is done all the same.
    pub fn map<A, T, F, I>(&self, f: F, items: I) -> Result<Results<T, Greenlets>, SubmitError<()>>
    where
        F: Fn(A) -> T + 'static,
        I: IntoIterator<Item = A>,
        A: 'static,
        T: 'static,
    {
        let f = Rc::new(f);
        let submit = |item| {
            let f = Rc::clone(&f);
            self.submit(move || f(item))
                .map_err(|error| error.map(drop))
        };
        let jobs: Result<VecDeque<LocalJob<T>>, _> = items.into_iter().map(submit).collect();
        jobs.map(Results::new)
    }

    /// Takes no further jobs. What was submitted is done. With `wait` it returns
    /// when that is so.
    ///
    /// It may be called again. A job that calls it on its own executor does not
    /// wait, for it would wait for itself.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if a job can never end.
    pub fn shutdown(&self, wait: bool) {
        let crew = &self.crew;
        crew.shut_down.set(true);
        if wait && crew.generation == fork::generation() && !crew.workers.has_current() {
            crew.workers.join();
        }
    }

    /// At most so many jobs run at a time.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.crew.most
    }
}

face!(GreenletPoolExecutor);

impl Crew {
    fn start_worker(this: &Rc<Crew>) -> std::io::Result<()> {
        this.active.set(this.active.get() + 1);
        let worker = Worker(Rc::clone(this));
        let handle = Builder::new()
            .name("executor's worker")
            .spawn(move || worker.work())?;
        this.workers.add(&handle);
        Ok(())
    }
}

/// What a worker runs; however it ends, no job is left without one.
struct Worker(Rc<Crew>);

impl Worker {
    fn work(self) {
        loop {
            let job = self.0.queue.borrow_mut().pop_front();
            let Some(job) = job else { return };
            let (wakers, interrupt) = job.run();
            progress::wake(wakers);
            if let Some(payload) = interrupt {
                hub::rethrow(payload);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let crew = &self.0;
        crew.active.set(crew.active.get() - 1);
        // The only worker was killed: what is queued would wait for ever.
        while crew.active.get() == 0 && crew.generation == fork::generation() {
            let job = crew.queue.borrow_mut().pop_front();
            let Some(job) = job else { return };
            job.abandon();
        }
    }
}
