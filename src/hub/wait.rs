//! Waiting: the one way a greenlet stops, and who may end that.
//!
//! A wait is a [`Waiter`] in the frame of the greenlet that waits, so waiting
//! allocates nothing. Whoever wants to end the wait must *claim* the waiter
//! first, and a waiter is claimed once:
//!
//! ```text
//!   who                         claims with    and then
//!   an answer (hand-off, unpark)  ANSWERED      queues the task, or, from another
//!                                               thread, puts it into the hub's inbox
//!   the deadline's timer          TIMED_OUT     queues the task
//!   a kill, a `timeout` frame     INTERRUPTED   queues the task, which then unwinds
//!   the deadlock detector         DEADLOCKED    queues the task
//! ```
//!
//! So an answered wait stays answered: a kill or a timeout that comes later
//! finds the claim taken and stays pending, and what was handed over is not
//! lost. An answer that comes too late finds the claim taken as well, and
//! [`WaitQueue::wake_one`](super::WaitQueue::wake_one) goes on to the next waiter.

use std::cell::Cell;
use std::ptr;
#[cfg(not(feature = "loom"))]
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

// tests/loom compiles this file a second time.
#[cfg(feature = "loom")]
use loom::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use super::interrupt;
use super::shared::HubShared;
#[cfg(not(feature = "loom"))]
use super::shared::Visit;
use super::task::{PENDING, State, TaskPtr};
use super::{Hub, TimerTarget};
use crate::sys::clock;

/// What a greenlet waits for, in the words of a report.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason {
    /// For instance "joining greenlet" or "reading from fd".
    pub(crate) verb: &'static str,
    /// The number that goes with it, if there is one.
    pub(crate) detail: Option<u64>,
}

impl Reason {
    pub(crate) const fn new(verb: &'static str) -> Reason {
        Reason { verb, detail: None }
    }

    pub(crate) const fn with(verb: &'static str, detail: u64) -> Reason {
        Reason {
            verb,
            detail: Some(detail),
        }
    }
}

/// Who is able to end a wait; the deadlock detector's question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Only a greenlet of the same hub.
    Local,
    /// Any thread of this process that holds the same object.
    Shared,
    /// The outside: a descriptor, a signal, a helper thread's job.
    External,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody answered; the number tells which of several queues it was.
    Answered(u32),
    TimedOut,
    /// Nothing could have ended this wait any more.
    Deadlock,
}

impl Woken {
    pub(crate) fn is_answered(self) -> bool {
        matches!(self, Woken::Answered(_))
    }
}

const UNCLAIMED: u32 = 0;
const TIMED_OUT: u32 = 1;
const INTERRUPTED: u32 = 2;
const DEADLOCKED: u32 = 3;
/// Answers count from here, one value per queue of a wait on several.
const ANSWERED: u32 = 4;

/// One wait of one greenlet.
pub(crate) struct Waiter {
    claim: AtomicU32,
    token: u32,
    pub(crate) kind: Kind,
    /// Whether a kill or a timeout may end it.
    interruptible: bool,
    /// Whether it has a deadline.
    timed: Cell<bool>,
    /// Only who takes it out of its queue answers it: see `notified`.
    queued: Cell<bool>,
    pub(crate) reason: Reason,
    /// When it began, by the hub's coarse clock (nanoseconds).
    pub(crate) since: u64,
    task: TaskPtr,
    key: u64,
    /// The hub of the waiting greenlet, which holds a count of this `Arc` for
    /// as long as it lives.
    hub: *const HubShared,
}

impl Waiter {
    /// A wait of the current greenlet. It must not move once it is queued.
    #[inline(always)]
    pub(super) fn new(hub: &Hub, reason: Reason, kind: Kind, interruptible: bool) -> Waiter {
        let task = hub.current();
        let token = task.token.get().wrapping_add(1);
        task.token.set(token);
        Waiter {
            claim: AtomicU32::new(UNCLAIMED),
            token,
            kind,
            // Never thrown into an unwinding greenlet: two would abort.
            interruptible: interruptible && !std::thread::panicking(),
            timed: Cell::new(false),
            queued: Cell::new(false),
            reason,
            since: hub.coarse_now(),
            task,
            key: task.key.get().to_u64(),
            hub: hub.shared_ptr(),
        }
    }

    #[inline(always)]
    fn try_claim(&self, value: u32) -> bool {
        // An answer carries data that was written before it; acquire and
        // release hand that over from the thread of the one to the other.
        self.claim
            .compare_exchange(UNCLAIMED, value, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// What another thread needs to answer this wait through the hub's inbox.
    pub(crate) fn address(&self) -> (u64, u32) {
        (self.key, self.token)
    }

    /// It is answered through its queue only, and if it is, it is out of it.
    pub(super) fn set_queued(&self) {
        self.queued.set(true);
    }

    pub(crate) fn token(&self) -> u32 {
        self.token
    }

    /// Ends the wait with an answer, from any thread. Refused if it had ended
    /// already, or if its hub is gone: the answer is to be given to another. A
    /// message to another hub is left to be sent by the caller, who may have a
    /// lock to let go of first.
    ///
    /// The caller keeps the waiter from leaving its frame until this returns:
    /// on the same hub nothing else runs meanwhile, and across threads the
    /// queue it is in stands under a lock that the waiter takes before it goes,
    /// unless it goes with an answer; from then on nobody here looks at it.
    #[inline]
    pub(super) fn claim_answer(&self, index: u32) -> Answer {
        if let Some(hub) = Hub::try_current() {
            if ptr::eq(hub.shared_ptr(), self.hub) {
                if !self.try_claim(ANSWERED + index) {
                    return Answer::Refused;
                }
                hub.make_ready(self.task);
                return Answer::Done;
            }
        }
        self.claim_from_afar(index)
    }

    /// As `claim_answer`, for who tells the hub in another way, and may touch one of its own
    /// thread no more than another's if it is a signal handler, which stands in the middle
    /// of it. Memory is neither asked for nor freed.
    ///
    /// # Errors
    /// The hub that is to be told.
    #[cfg(not(feature = "loom"))]
    pub(super) fn claim_visiting(&self, in_handler: bool) -> Result<Answer, Visit> {
        let here = Hub::try_current().is_some_and(|hub| ptr::eq(hub.shared_ptr(), self.hub));
        if here && !in_handler {
            return Ok(self.claim_answer(0));
        }
        // SAFETY: as below.
        let visit = unsafe { Visit::begin(self.hub) };
        match visit.is_closed() || !self.try_claim(ANSWERED) {
            true => Ok(Answer::Refused),
            false => Err(visit),
        }
    }

    fn claim_from_afar(&self, index: u32) -> Answer {
        // SAFETY: the waiting greenlet's hub holds a count while the greenlet
        // waits; ours keeps it alive when that thread ends just after.
        let hub = unsafe {
            Arc::increment_strong_count(self.hub);
            Arc::from_raw(self.hub)
        };
        let address = self.address();
        if hub.is_closed() || !self.try_claim(ANSWERED + index) {
            return Answer::Refused;
        }
        // The waiter may be gone from here on.
        Answer::ToSend(Delivery { hub, address })
    }

    /// Whether it has a deadline.
    pub(crate) fn is_timed(&self) -> bool {
        self.timed.get()
    }

    /// The three that only the waiter's own hub does.
    pub(crate) fn time_out(&self, hub: &Hub) {
        self.end(hub, TIMED_OUT);
    }

    pub(crate) fn interrupt(&self, hub: &Hub) {
        if self.interruptible {
            self.end(hub, INTERRUPTED);
        }
    }

    pub(crate) fn deadlock(&self, hub: &Hub) {
        self.end(hub, DEADLOCKED);
    }

    /// A wake-up by token arrived: from the inbox, or from an `Unparker`.
    pub(crate) fn notified(&self, hub: &Hub) {
        // A waiter in a queue was claimed by the sender already; the waiter of
        // a `Parker` is claimed here. One that leaves without a look at its
        // queue must not go by a token that has been used before.
        if !self.queued.get() {
            self.try_claim(ANSWERED);
        }
        if self.claim.load(Ordering::Acquire) >= ANSWERED {
            hub.make_ready(self.task);
        }
    }

    /// Answers a wait of the current greenlet that has not begun yet.
    pub(super) fn answer_now(&self, index: u32) {
        self.try_claim(ANSWERED + index);
    }

    fn end(&self, hub: &Hub, value: u32) {
        if self.try_claim(value) {
            hub.make_ready(self.task);
        }
    }

    /// Suspends the current greenlet until this waiter is claimed. None: it
    /// was interrupted; the caller tidies up and calls [`interrupt::throw`].
    ///
    /// Inlined, for the sake of those who park often: see `Hub::yield_now`.
    #[inline(always)]
    pub(super) fn park(&self, hub: &Hub, deadline: Option<u64>) -> Option<Woken> {
        let task = self.task;
        if self.interruptible && task.interrupts.get() & PENDING != 0 {
            self.try_claim(INTERRUPTED);
        }
        if self.claim.load(Ordering::Acquire) == UNCLAIMED {
            hub.keep_sentinel();
            task.waiter.set(self);
            hub.count_wait(self.kind, 1);
            match deadline {
                None | Some(clock::NEVER) => hub.suspend(State::Parked),
                Some(deadline) if deadline <= clock::now_ns() => {
                    // Time is up, but whoever is runnable gets one turn first.
                    hub.suspend_runnable(task);
                    self.try_claim(TIMED_OUT);
                }
                Some(deadline) => {
                    self.timed.set(true);
                    let timer = hub.start_timer(deadline, TimerTarget::Waiter(self));
                    // That asks for memory, and where an allocator has to wait for it,
                    // others are woken: this one may be among them.
                    if self.claim.load(Ordering::Acquire) == UNCLAIMED {
                        hub.suspend(State::Parked);
                    }
                    hub.cancel_timer(timer);
                }
            }
            hub.count_wait(self.kind, -1);
            task.waiter.set(ptr::null());
        }
        match self.claim.load(Ordering::Acquire) {
            UNCLAIMED => unreachable!("a parked greenlet is resumed by a claim only"),
            TIMED_OUT => Some(Woken::TimedOut),
            INTERRUPTED => None,
            DEADLOCKED => Some(Woken::Deadlock),
            answered => Some(Woken::Answered(answered - ANSWERED)),
        }
    }
}

/// What has become of an answer.
pub(super) enum Answer {
    /// The wait had ended, or its hub is gone: it is to be given to another.
    Refused,
    /// The greenlet is queued.
    Done,
    /// The greenlet is another hub's, which is to be told.
    ToSend(Delivery),
}

/// A message to the hub of a waiter that has been answered. It must be sent.
#[must_use]
pub(super) struct Delivery {
    hub: Arc<HubShared>,
    address: (u64, u32),
}

impl Delivery {
    pub(super) fn send(self) {
        self.hub.push(self.address);
    }
}

/// A wait that no queue knows of: it ends by its deadline, by a wake-up to the
/// address that `publish` is given, or by an interrupt, which unwinds.
pub(crate) fn pause(
    reason: Reason,
    kind: Kind,
    deadline: Option<u64>,
    publish: impl FnOnce(&Waiter),
) -> Woken {
    or_throw(try_pause(reason, kind, deadline, true, publish))
}

/// As `pause`, and None where that would unwind.
pub(super) fn try_pause(
    reason: Reason,
    kind: Kind,
    deadline: Option<u64>,
    interruptible: bool,
    publish: impl FnOnce(&Waiter),
) -> Option<Woken> {
    let hub = Hub::get();
    let waiter = Waiter::new(hub, reason, kind, interruptible);
    publish(&waiter);
    waiter.park(hub, deadline)
}

/// How a wait ended; unwinds if that was by an interrupt.
pub(super) fn or_throw(ended: Option<Woken>) -> Woken {
    match ended {
        Some(woken) => woken,
        None => interrupt::throw(Hub::get()),
    }
}
