//! A domain that stands still: one of its members waits in what belongs to their
//! *thread*, which for them is the domain.
//!
//! ```text
//!   A, of the OS thread's domain, waits in parking_lot, whose queue has one node a thread
//!     run queue   A  B  x  C  y       x, y: isolated greenlets, threads of their own
//!                 │  ▼     ▼
//!     held back   │  B     C          until A is answered. Whoever of them is woken
//!                 ▼                   meanwhile is held back, too
//!     parked      A                   x and y run on, and may answer A
//! ```
//!
//! So it is as if A had blocked the thread, for all who share it with A; and for nobody
//! else.

use std::cell::{Cell, RefCell};

use super::Hub;
use super::domain::DomainPtr;
use super::run_queue::RunQueue;
use super::task::TaskPtr;
use crate::sys::pass::PassThrough;

/// Who is held back, of all domains that stand still.
pub(super) struct HeldBack {
    /// Any domain stands still.
    any: Cell<bool>,
    /// The domains, and who of each may run.
    blockers: RefCell<Vec<(Option<DomainPtr>, TaskPtr)>>,
    /// In their order. An allocator's lock may be what they are woken for, so that they are
    /// queued as those are whose turn comes.
    tasks: RunQueue,
}

impl HeldBack {
    pub(super) const fn new() -> HeldBack {
        HeldBack {
            any: Cell::new(false),
            blockers: RefCell::new(Vec::new()),
            tasks: RunQueue::new(),
        }
    }

    /// Takes in a task that has become runnable, if it is to be held back.
    #[inline(always)]
    pub(super) fn take(&self, task: TaskPtr) -> bool {
        self.any.get() && self.take_one(task)
    }

    #[cold]
    fn take_one(&self, task: TaskPtr) -> bool {
        let held = self.holds(task);
        if held {
            self.tasks.push(task);
        }
        held
    }

    fn holds(&self, task: TaskPtr) -> bool {
        let blockers = self.blockers.borrow();
        let of_it = blockers.iter().find(|(domain, _)| *domain == task.domain);
        of_it.is_some_and(|(_, blocker)| *blocker != task)
    }

    pub(super) fn is_any(&self) -> bool {
        self.any.get()
    }

    /// In the child of a fork there is nobody but the forker, who runs.
    pub(super) fn forget(&self) {
        self.any.set(false);
        self.blockers.borrow_mut().clear();
        self.tasks.clear();
    }
}

impl Hub {
    /// Whether there are greenlets that do not share the current one's thread-locals.
    pub(crate) fn has_other_domains(&self) -> bool {
        match self.current().domain {
            None => self.isolated.get() > 0,
            // The main greenlet, which is the first, is of another one.
            mine => self.tasks.borrow().iter().any(|task| task.domain != mine),
        }
    }

    /// Whether all greenlets that could run are of domains that stand still.
    pub(crate) fn all_stand_still(&self) -> bool {
        let blockers = self.held_back.blockers.borrow();
        // One by one: a domain counts those among its members who have been given up.
        let stands_still = |task: &TaskPtr| blockers.iter().any(|(still, _)| *still == task.domain);
        self.tasks.borrow().iter().all(stands_still)
    }

    /// Queues them all, those who are held back elsewhere.
    fn queue_again(&self, tasks: &RunQueue) {
        while let Some(task) = tasks.first() {
            tasks.remove_first(task);
            if !self.held_back.take(task) {
                self.queue.push(task);
            }
        }
    }

    /// Has the current greenlet's domain stand still, but for itself, until what is
    /// returned is dropped.
    pub(crate) fn stand_still(&self) -> StandsStill {
        let me = self.current();
        // Memory is asked for.
        let _pass = PassThrough::enter();
        self.held_back.blockers.borrow_mut().push((me.domain, me));
        self.held_back.any.set(true);
        // All of them go through the queue once, and those who stay keep their order.
        self.queue_again(&self.queue.take());
        StandsStill(me)
    }
}

/// See `Hub::stand_still`.
pub(crate) struct StandsStill(TaskPtr);

impl Drop for StandsStill {
    fn drop(&mut self) {
        let hub = Hub::get();
        let held = &hub.held_back;
        let mut blockers = held.blockers.borrow_mut();
        blockers.retain(|(_, blocker)| *blocker != self.0);
        held.any.set(!blockers.is_empty());
        drop(blockers);
        hub.queue_again(&held.tasks.take());
    }
}

#[cfg(all(test, feature = "monkey"))]
mod tests {
    use super::*;

    #[test]
    fn who_was_given_up_is_taken_for_nobody_of_another_domain() {
        let isolated = crate::spawn_isolated(|| {
            let given_up = crate::spawn(|| {
                loop {
                    let hub = Hub::get();
                    hub.refusal();
                    hub.yield_quietly();
                }
            });
            crate::yield_now();
            given_up.kill_wait();
            let hub = Hub::get();
            let _still = hub.stand_still();
            (hub.has_other_domains(), hub.all_stand_still())
        });
        // The main greenlet waits, and could be woken.
        assert_eq!(isolated.join().unwrap(), (true, false));
    }

    #[test]
    fn all_stand_still_when_each_domain_does() {
        let isolated = crate::spawn_isolated(|| {
            let _still = Hub::get().stand_still();
            crate::yield_now();
        });
        let light = crate::spawn(|| ());
        let hub = Hub::get();
        let still = hub.stand_still();
        assert!(!hub.all_stand_still());
        crate::yield_now();
        assert!(hub.all_stand_still());
        assert!(!light.is_finished());
        drop(still);
        isolated.join().unwrap();
        light.join().unwrap();
        assert!(!hub.has_other_domains());
    }
}
