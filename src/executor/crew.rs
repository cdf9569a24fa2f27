//! `Crew`: the threads of an executor, and what they have to do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::Builder;

use super::progress::{self, Runnable};
use crate::error::SubmitError;
use crate::hub::{self, Kind, Parker, Reason};
use crate::sys::fork;
use crate::sys::helpers::{Jobs, State};
use crate::sys::mark::{self, Mark};
use crate::sys::os_thread;

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

    /// See [`ThreadPoolExecutor::shutdown`](super::ThreadPoolExecutor::shutdown).
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
        let named = Builder::new().name(format!("{}-{}", self.name, state.threads()));
        let handle = os_thread::spawn(named, move || crew.work())?;
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
