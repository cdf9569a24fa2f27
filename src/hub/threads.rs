//! Threads that are isolated greenlets, as far as it concerns the hub they run on: which
//! hubs make such threads, and that an OS thread ends after those that run on it.
//!
//! ```text
//!   an OS thread ends   by returning, or by pthread_exit  ─▶ its threads run to their end
//!                       by exit, and main by returning    ─▶ the process ends, and they
//!                                                            with it
//! ```

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::domain::DomainPtr;
use super::seat::Seat;
use super::task::{AtEnd, Task, TaskPtr};
use super::wait::{Kind, Reason};
use super::wait_queue::WaitQueue;
use super::{Hub, SpawnOptions};
use crate::coroutine::StackSize;
use crate::error::SpawnError;
use crate::sys::{os, pass};

/// A hub's account of them.
pub(super) struct Threads {
    /// New threads are to be greenlets of this hub.
    made: Cell<bool>,
    alive: Cell<usize>,
    /// The OS thread waits here for the last one.
    gone: WaitQueue,
}

impl Threads {
    pub(super) const fn new() -> Threads {
        Threads {
            made: Cell::new(false),
            alive: Cell::new(0),
            gone: WaitQueue::new(),
        }
    }

    pub(super) fn one_has_ended(&self) {
        self.alive.set(self.alive.get() - 1);
        if self.alive.get() == 0 {
            self.gone.wake_all();
        }
    }

    /// In the child of a fork there is the forker alone.
    pub(super) fn only_is_left(&self, domain: Option<DomainPtr>) {
        let left = domain.is_some_and(|domain| domain.is_thread());
        self.alive.set(usize::from(left));
    }
}

impl Hub {
    /// From now on new threads are greenlets, where this thread makes them.
    pub(crate) fn make_threads(&self) {
        self.threads.made.set(true);
    }

    /// Whether a thread that the current greenlet makes is to be one.
    pub(crate) fn makes_threads(&self) -> bool {
        let task = self.current();
        let asked_not_to = task.os_threads.get() || task.passing.get() != 0;
        self.threads.made.get() && !self.closing && !asked_not_to && !pass::is_locked()
    }

    /// As `spawn_isolated`, for a thread: it begins, even if it is killed before, and
    /// whoever is `told` hears of its end.
    pub(crate) fn spawn_thread(
        &self,
        seat: Seat,
        options: SpawnOptions,
        told: Arc<impl AtEnd + 'static>,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), SpawnError> {
        let as_thread = |task: &Task| {
            if let Some(domain) = &task.domain {
                domain.set_thread();
            }
            self.threads.alive.set(self.threads.alive.get() + 1);
            told
        };
        self.spawn_isolated(seat, options, body, as_thread)
            .map(drop)
    }

    /// The size of a stack that a greenlet could be made with now, this one or larger.
    pub(crate) fn stack_for(&self, size: StackSize) -> Option<StackSize> {
        self.fibers.size_with_room(size)
    }

    /// Names the current greenlet.
    pub(crate) fn name_current(&self, name: &str) {
        let name = Some(name.into());
        self.current().with_extra(|extra| extra.name = name);
    }

    /// Whether the current greenlet is the one that its thread-locals were made for.
    pub(crate) fn is_owner_here(&self) -> bool {
        let task = self.current();
        task.domain.is_some_and(|domain| domain.is_owner(task))
    }
}

/// Has threads that the current greenlet makes be OS threads while `f` runs.
pub(crate) fn with_os_threads<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(TaskPtr, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.os_threads.set(self.1);
        }
    }
    let task = Hub::get().current();
    let _restore = Restore(task, task.os_threads.replace(true));
    f()
}

/// The process is about to end, whoever runs.
static EXITING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The main thread ends, and the process does not.
    static LEAVES: Cell<bool> = const { Cell::new(false) };
}

/// The caller has called `exit`.
pub(crate) fn process_exits() {
    EXITING.store(true, Ordering::Relaxed);
}

/// The calling OS thread has called `pthread_exit`.
pub(crate) fn thread_leaves() {
    LEAVES.set(true);
}

/// The OS thread is about to end: has those that run on it end before.
pub(super) fn run_to_their_end(hub: &Hub) {
    let is_main = hub.os_thread() == os::process_id() as i32;
    let only_the_thread_ends = LEAVES.get() || !(is_main || EXITING.load(Ordering::Relaxed));
    let of_this_stack = hub.current() == hub.main();
    while only_the_thread_ends && of_this_stack && hub.threads.alive.get() > 0 {
        let reason = Reason::new("waiting for its threads to end");
        hub.threads.gone.park(reason, Kind::External, None, false);
    }
}
