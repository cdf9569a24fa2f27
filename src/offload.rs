//! `offload`: what can only block, or only compute, runs on a helper thread.
//!
//! ```text
//!   greenlet                    pool                       helper thread
//!   offload(f) ── job ────────▶ queue ───────────────────▶ f()
//!     parks                     (first come first served)    │
//!     │  others run                                          ▼
//!     ◀──────────── unpark ──────────────────────────── result in the slot
//! ```
//!
//! The pool belongs to the process, not to a hub. Its threads are started on
//! demand, up to [`MOST_THREADS`], and end after ten seconds without work.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use crate::hub::{self, Parker, Payload, Reason, Unparker};
#[cfg(feature = "monkey")]
use crate::hub::{Hub, Quiet};
use crate::sys::fork::{self, PerProcess};
use crate::sys::helpers::Jobs;
use crate::sys::mark::{self, Mark};
#[cfg(feature = "monkey")]
use crate::sys::os::{self, Errno};
use crate::sys::os_thread;
use crate::sys::pass::PassThrough;
use crate::sys::signal::SignalMask;

/// At most so many jobs run at a time. They are expected to block, so this has
/// nothing to do with the number of CPUs; it bounds what a burst of look-ups
/// costs in stacks. Beyond it, jobs wait their turn.
const MOST_THREADS: usize = 64;
/// A thread without work for this long ends.
const KEPT_IDLE: Duration = Duration::from_secs(10);

/// Runs `f` on a helper thread, and parks the greenlet until it is done.
///
/// This is for what would otherwise stop all greenlets of the thread: calls
/// that can only block (reading a slow disk, a C library's own I/O), and
/// computing for long. It is tokio's `spawn_blocking` and the `apply` of
/// gevent's `hub.threadpool`.
///
/// The helper threads are the process's: up to 64 of them, started on demand
/// and kept for ten seconds without work. More jobs than that wait their turn,
/// first come first served. A job has a stack of std's default size, and the
/// signal mask of its caller. Greenlets that it spawns on the helper thread and
/// does not join are killed when it ends. If no helper thread can be started
/// and there is none, `f` runs where it is called, and blocks the thread; so it
/// does in a job that asks for a further job while all 64 are busy, for
/// otherwise 64 of these would wait for each other.
///
/// If the waiting greenlet is killed or times out, the job is abandoned: it is
/// not begun if it has not begun, and otherwise runs to its end, where its
/// result is dropped on the helper thread. Waiting for a job is waiting for the
/// outside: it is never taken for a deadlock. In the child of a fork the pool
/// starts anew, and the parent's jobs are the parent's.
///
/// # Panics
/// If `f` panics, that panic goes on in the caller. The message has been
/// printed by then, on the helper thread, and is not printed again.
///
/// # Examples
/// ```
/// let text = greenlet::offload(|| std::fs::read_to_string("Cargo.toml"))?;
/// assert!(text.contains("greenlet"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "spawn_blocking")]
#[doc(alias = "threadpool")]
#[doc(alias = "apply")]
pub fn offload<F, T>(f: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    // A greenlet that was killed while it ran does not start anything more.
    hub::check_interrupts();
    let parker = Parker::for_outside(Reason::new("waiting for a helper thread"));
    let slot = Slot::new();
    let abandon = Abandon(&slot);
    submit(f, &slot, &parker);
    loop {
        if let Some(result) = abandon.0.take() {
            match result {
                Ok(value) => return value,
                Err(payload) => hub::rethrow(payload),
            }
        }
        parker.park();
    }
}

/// As `offload`, in the middle of code that nothing may be thrown through, such as
/// a C function's: a kill or a timeout makes it answer an error, and the job is
/// abandoned. What the job needs is its own, for it may outlive the call.
///
/// errno is left as it was. `f` does not unwind.
#[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
pub(crate) fn quietly<F, T>(hub: &Hub, f: F) -> Result<T, Errno>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    run_quietly(hub, f, true)
}

/// As `quietly`, and a kill or a timeout does not end it either.
#[cfg(feature = "monkey")]
pub(crate) fn to_its_end<F, T>(hub: &Hub, f: F) -> Result<T, Errno>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    run_quietly(hub, f, false)
}

#[cfg(feature = "monkey")]
fn run_quietly<F, T>(hub: &Hub, f: F, interruptible: bool) -> Result<T, Errno>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let saved = os::errno();
    let parker = Parker::for_outside(Reason::new("waiting for a helper thread"));
    let slot = Slot::new();
    let abandon = Abandon(&slot);
    submit(f, &slot, &parker);
    let answer = loop {
        match abandon.0.take() {
            Some(Ok(value)) => break Ok(value),
            // It has said so on standard error, where it was.
            Some(Err(_)) => break Err(libc::EIO),
            None => {}
        }
        if let Quiet::Refused(error) = hub.wait_quietly(&parker, interruptible) {
            break Err(error);
        }
    };
    drop(abandon);
    os::set_errno(saved);
    answer
}

/// Where a job's result is left.
struct Slot<T>(Mutex<Progress<T>>);

enum Progress<T> {
    Queued,
    Running,
    Done(Result<T, Payload>),
    /// The greenlet has taken the result, or does not wait for it any more.
    Closed,
}

impl<T> Slot<T> {
    fn new() -> Arc<Slot<T>> {
        Arc::new(Slot(Mutex::new(Progress::Queued)))
    }

    /// Moves on, and returns what was there before.
    fn replace(&self, next: Progress<T>) -> Progress<T> {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*progress, Progress::Closed) {
            // It stays closed, and the caller keeps what it came with.
            return next;
        }
        std::mem::replace(&mut *progress, next)
    }

    fn take(&self) -> Option<Result<T, Payload>> {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *progress, Progress::Closed) {
            Progress::Done(result) => Some(result),
            other => {
                *progress = other;
                None
            }
        }
    }
}

/// What a helper thread does for one job. True: the greenlet is to be woken.
fn carry_out<T>(f: impl FnOnce() -> T, slot: &Slot<T>) -> bool {
    match slot.replace(Progress::Running) {
        Progress::Queued => {}
        abandoned => {
            hub::contain(move || drop((abandoned, f)));
            return false;
        }
    }
    let result = hub::catch(f);
    match slot.replace(Progress::Done(result)) {
        Progress::Running => true,
        abandoned => {
            hub::contain(move || drop(abandoned));
            false
        }
    }
}

/// Closes the slot when the greenlet leaves, with the result or without.
struct Abandon<'a, T>(&'a Slot<T>);

impl<T> Drop for Abandon<'_, T> {
    fn drop(&mut self) {
        // A result that comes at the same moment is dropped here.
        let late = self.0.replace(Progress::Closed);
        hub::contain(move || drop(late));
    }
}

/// Catches what the user's code throws, and returns whom to tell that it has
/// ended; nobody, if it was abandoned.
type Run = Box<dyn FnOnce() -> Option<Unparker> + Send>;

struct Job {
    run: Run,
    /// The caller's signal mask. A process that the job starts inherits it, and
    /// could not be interrupted if it had the mask of an idle helper.
    mask: SignalMask,
}

static POOL: PerProcess<Jobs<Job>> = PerProcess::new();

fn pool() -> &'static Jobs<Job> {
    POOL.get(Jobs::new)
}

/// Has a helper thread run `f`, leave the result in the slot and tell the parker.
fn submit<F, T>(f: F, slot: &Arc<Slot<T>>, parker: &Parker)
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let (slot, unparker) = (Arc::clone(slot), parker.unparker());
    enqueue(Box::new(move || carry_out(f, &slot).then_some(unparker)));
}

fn enqueue(run: Run) {
    // Nobody else of this thread runs while it has the pool's lock, or holds
    // signals back for a new thread.
    let pass = PassThrough::enter();
    let job = Job {
        run,
        mask: SignalMask::current(),
    };
    let pool = pool();
    let mut state = pool.lock();
    let mut starts = false;
    if !state.has_sleepers() {
        starts = state.threads() < MOST_THREADS;
        if starts {
            state.thread_starts();
        } else if mark::get().helper {
            drop(state);
            drop(pass);
            return run_here(job);
        }
    }
    pool.put(state, job);
    let is_short = starts && !start_thread();
    drop(pass);
    if is_short {
        no_thread(pool);
    }
}

/// Without a helper thread.
fn run_here(job: Job) {
    if let Some(unparker) = (job.run)() {
        unparker.unpark();
    }
}

fn start_thread() -> bool {
    // The new thread inherits the mask, so no signal finds it unprepared.
    let mask = SignalMask::all_but_faults().swap();
    let named = Builder::new().name("greenlet-offload".to_owned());
    let started = os_thread::spawn(named, help);
    mask.swap();
    started.is_ok()
}

/// A thread could not be started. While there are others, they come to the
/// queued jobs by and by; if there is none, the jobs are done here and now.
fn no_thread(pool: &Jobs<Job>) {
    let mut state = pool.lock();
    state.thread_ends();
    while state.threads() == 0 {
        let Some(job) = state.take() else {
            return;
        };
        drop(state);
        run_here(job);
        state = pool.lock();
    }
}

/// The life of a helper thread.
fn help() {
    mark::set(Mark {
        helper: true,
        ..Mark::default()
    });
    let generation = fork::generation();
    let pool = pool();
    let mut to_tell: Option<Unparker> = None;
    loop {
        let tell = to_tell.map(|unparker| move || unparker.unpark());
        let Some(job) = pool.next(tell, Some(KEPT_IDLE)) else {
            return;
        };
        let mask = job.mask.swap();
        to_tell = (job.run)();
        // What the job spawned here and did not join has no turn after it.
        hub::contain(|| {
            hub::shutdown();
        });
        if fork::generation() != generation {
            // The job forked, and this is the child: the pool is the parent's,
            // and this thread ends as the process's last one.
            return;
        }
        mask.swap();
    }
}
