//! `Gate`: open or closed, and everybody who waits goes through when it opens.
//!
//! There may be a hundred thousand of them, and nobody else on their thread is
//! to be held up: not by the one who opens it, nor by a run queue that is a
//! hundred thousand long. So they are woken in batches:
//!
//! ```text
//!   epoch 7: closed          open(): epoch 8. Whoever came before is due.
//!
//!   crowd of hub 0   7 7 7 7 7 7 7 7 7 7 7   (each number: one who waits)
//!                    └─ batch ──┘ ▲
//!                               last: it is told to carry on, and when its
//!                               turn comes it wakes the next batch
//!   crowd of hub 1   7 7 7 7
//!                    ▲ another hub gets one message; the first carries on
//! ```
//!
//! Each hub's crowd has its own queue, and those who carry on are of that hub:
//! a thread that ends in the middle leaves nobody else waiting. Within a hub
//! the order is first come, first served. Who comes while the gate is open
//! does not wait, and who comes after it has closed is of the new epoch, and
//! stays: opening and closing it at once lets all those through who waited.

#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicBool, Ordering};

// tests/loom compiles this file a second time.
#[cfg(feature = "loom")]
use crate::shim::lazy::AtomicBool;
#[cfg(feature = "loom")]
use loom::sync::atomic::Ordering;

use super::monitor::{Guard, Guarded, Monitor, Wait, interrupted};
use super::wait::Answer;
use super::wait_queue::{CARRY_ON, Node, Place, WaitQueue};
use super::{Hub, Woken, report};
use crate::sys::fork;

/// How many are woken in one go.
const BATCH: usize = 1000;

/// Something that greenlets of any hub wait for together.
pub(crate) struct Gate {
    /// Written under the lock, read without it.
    open: AtomicBool,
    monitor: Monitor<Crowds, 0>,
}

struct Crowds {
    /// Grows whenever the gate opens.
    epoch: u32,
    fork: u32,
    crowds: Vec<Crowd>,
}

/// Those of one hub.
struct Crowd {
    hub: u64,
    queue: WaitQueue,
    /// Somebody was told to carry on, and has not done so yet.
    carried: bool,
}

// SAFETY: a crowd is reached under the monitor's lock only, whoever holds it;
// what its nodes point to is made for several threads: see `Waiter`.
unsafe impl Send for Crowd {}

impl Guarded for Crowds {
    fn abandoned(&mut self) {
        std::mem::forget(std::mem::take(&mut self.crowds));
    }
}

impl Crowds {
    fn forget_before_fork(&mut self) {
        let now = fork::generation();
        if self.fork != now {
            self.fork = now;
            self.crowds.clear();
        }
    }

    fn find(&self, hub: u64) -> Option<&Crowd> {
        self.crowds.iter().find(|crowd| crowd.hub == hub)
    }

    /// There is a crowd for this hub from now on.
    fn make(&mut self, hub: u64) {
        self.forget_before_fork();
        if self.find(hub).is_none() {
            // Threads come and go, and their crowds with them.
            self.crowds
                .retain(|crowd| crowd.carried || !crowd.queue.is_empty());
            self.crowds.push(Crowd {
                hub,
                queue: WaitQueue::new(),
                carried: false,
            });
        }
    }
}

impl Crowd {
    fn is_due(queue: &WaitQueue, epoch: u32) -> bool {
        let first = queue.first_stamp();
        first.is_some_and(|stamp| epoch.wrapping_sub(stamp) as i32 > 0)
    }

    /// Wakes up to `limit` of those who are due; the last of them carries on,
    /// if there are more.
    fn wake(&mut self, guard: &mut Guard<'_, Crowds, 0>, epoch: u32, limit: usize) {
        self.carried = false;
        for left in (0..limit).rev() {
            if !Crowd::is_due(&self.queue, epoch) {
                return;
            }
            let flags = |queue: &WaitQueue| match left == 0 && Crowd::is_due(queue, epoch) {
                true => CARRY_ON,
                false => 0,
            };
            // Those who have ended their wait are passed over, and so one who
            // is not due yet may be the first.
            let (answer, flags) = self
                .queue
                .claim_one_if(|queue| Crowd::is_due(queue, epoch), flags);
            if matches!(answer, Answer::Refused) {
                return;
            }
            self.carried = flags == CARRY_ON;
            guard.take_care_of(answer);
        }
    }
}

impl Gate {
    pub(crate) const fn new() -> Gate {
        Gate {
            open: AtomicBool::new(false),
            monitor: Monitor::new(Crowds {
                epoch: 0,
                fork: 0,
                crowds: Vec::new(),
            }),
        }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Opens it: all who wait go through, and whoever comes until it is closed.
    pub(crate) fn open(&self) {
        let mut guard = self.monitor.lock();
        self.open.store(true, Ordering::Release);
        guard.forget_before_fork();
        if guard.crowds.is_empty() {
            return;
        }
        guard.epoch = guard.epoch.wrapping_add(1);
        let epoch = guard.epoch;
        let here = Hub::try_current().map(Hub::number);
        let mut crowds = std::mem::take(&mut guard.crowds);
        for crowd in crowds.iter_mut().filter(|crowd| !crowd.carried) {
            let limit = if Some(crowd.hub) == here { BATCH } else { 1 };
            crowd.wake(&mut guard, epoch, limit);
        }
        guard.crowds = crowds;
    }

    pub(crate) fn close(&self) {
        let _guard = self.monitor.lock();
        self.open.store(false, Ordering::Release);
    }

    /// Who was told to carry on does this, whatever else has happened to it.
    #[cold]
    fn wake_next_batch(&self) {
        let here = Hub::get().number();
        let mut guard = self.monitor.lock();
        let epoch = guard.epoch;
        let mut crowds = std::mem::take(&mut guard.crowds);
        if let Some(crowd) = crowds.iter_mut().find(|crowd| crowd.hub == here) {
            crowd.wake(&mut guard, epoch, BATCH);
        }
        guard.crowds = crowds;
    }

    /// Waits until it is open. A kill or a timeout unwinds out of it.
    ///
    /// # Panics
    /// With `Deadlock`, if nothing could end a wait without a deadline.
    pub(crate) fn wait(&self, wait: Wait) -> Woken {
        if self.is_open() {
            return Woken::Answered(0);
        }
        let mut guard = self.monitor.lock();
        if self.is_open() {
            return Woken::Answered(0);
        }

        let here = Hub::get().number();
        guard.make(here);
        let stamp = guard.epoch;
        // SAFETY: the queue is found by the number of the hub, which does not
        // change; a crowd that somebody is queued in is not taken away, except
        // after a fork, where nobody of that crowd lives. `pick` is called
        // under the lock.
        let woken = unsafe {
            Monitor::park_in(
                guard,
                wait,
                stamp,
                |monitor| monitor.state_ref().find(here).map(|crowd| &crowd.queue),
                || {},
            )
        };
        match woken {
            Some(Woken::Answered(told)) => {
                if told & CARRY_ON != 0 {
                    self.wake_next_batch();
                }
                Woken::Answered(0)
            }
            Some(Woken::TimedOut) => Woken::TimedOut,
            Some(Woken::Deadlock) => report::panic_deadlock(),
            None => interrupted(),
        }
    }
}

impl Place for Gate {
    fn link(&self, node: &Node) {
        let mut guard = self.monitor.lock();
        if self.is_open() {
            return node.answer_now();
        }
        let here = Hub::get().number();
        guard.make(here);
        node.stamp.set(guard.epoch);
        if let Some(crowd) = guard.find(here) {
            crowd.queue.push(node);
        }
    }

    fn unlink(&self, node: &Node) {
        let here = Hub::get().number();
        let guard = self.monitor.lock();
        if let Some(crowd) = guard.find(here) {
            crowd.queue.remove(node);
        }
    }

    fn carry_on(&self) {
        self.wake_next_batch();
    }
}
