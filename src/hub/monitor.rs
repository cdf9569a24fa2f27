//! `Monitor`: a state, a lock, and queues of those who wait for the state to
//! change, on any thread. All of `sync/` and `queue/` stands on it.
//!
//! ```text
//!    Monitor { word │ state S │ queues[0..N] }     greenlets of any hub
//!               ▲                   │
//!   lock() ─────┘ one swap          └──▶ Node ◀──▶ Node ◀──▶ Node
//!                                        (each in the frame of who waits)
//!
//!   wait:  link the node ─▶ unlock ─▶ park ─▶ answered: go, without the lock
//!                                         └─▶ timed out, interrupted: lock,
//!                                             unlink, go
//!   wake:  claim the first waiter under the lock; if it is another hub's,
//!          its message is sent when the lock has been let go
//! ```
//!
//! # Rules
//! * The lock is held for nanoseconds. A greenlet that holds it never switches:
//!   waiting consumes the guard, and debug builds check it at every switch.
//! * No user code runs under the lock: no `Drop`, `Clone`, `Ord` or `Hash` of a
//!   user's type. What is to be dropped is moved out first. So nothing panics
//!   there, and there is no poisoning.
//! * An answer is a hand-over. Who is answered has what it waited for, whatever
//!   kill or timeout comes in that instant, which then stays pending; who is
//!   not answered has nothing.
//! * Whoever's hub has ended, or stayed behind in a fork, is passed over.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
#[cfg(not(feature = "loom"))]
use std::sync::atomic::{AtomicU32, Ordering};

// tests/loom compiles this file a second time.
#[cfg(feature = "loom")]
use crate::shim::lazy::AtomicU32;
#[cfg(feature = "loom")]
use loom::sync::atomic::Ordering;

use super::wait::{Answer, Delivery, Waiter};
use super::wait_queue::{Node, Place, WaitQueue};
use super::{Hub, Kind, Reason, Woken, address, interrupt, report};
use crate::sys::{fork, pass, spin};

/// What a monitor guards.
pub(crate) trait Guarded {
    /// This process is a fork's child, and the thread that was changing the
    /// state at that moment is not in it: the state may be half changed. What
    /// cannot bear that is replaced and *forgotten* here, never dropped.
    fn abandoned(&mut self) {}
}

/// A state that several threads change and wait for, with `N` queues.
pub(crate) struct Monitor<S, const N: usize> {
    /// 0, or an odd number that holds the fork count: a lock that somebody held
    /// at the moment of a fork is free in the child.
    word: AtomicU32,
    state: UnsafeCell<S>,
    queues: [WaitQueue; N],
}

// SAFETY: state and queues are reached under the lock only. What the nodes in
// the queues point to is made for several threads: see `Waiter`.
unsafe impl<S: Send, const N: usize> Send for Monitor<S, N> {}
// SAFETY: as above.
unsafe impl<S: Send, const N: usize> Sync for Monitor<S, N> {}

// Nothing unwinds while the state is being changed.
impl<S, const N: usize> std::panic::UnwindSafe for Monitor<S, N> {}
impl<S, const N: usize> std::panic::RefUnwindSafe for Monitor<S, N> {}

impl<S, const N: usize> Monitor<S, N> {
    pub(crate) const fn new(state: S) -> Monitor<S, N> {
        Monitor {
            word: AtomicU32::new(0),
            state: UnsafeCell::new(state),
            queues: [const { WaitQueue::new() }; N],
        }
    }
}

impl<S: Guarded, const N: usize> Monitor<S, N> {
    /// Takes the lock. The thread must not hold it already.
    #[inline(always)]
    pub(crate) fn lock(&self) -> Guard<'_, S, N> {
        let mine = fork::generation() << 1 | 1;
        let taken = self
            .word
            .compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            self.lock_contended(mine);
        }
        held::enter();
        Guard {
            monitor: self,
            to_send: None,
            not_send: PhantomData,
        }
    }

    #[cold]
    #[inline(never)]
    fn lock_contended(&self, mine: u32) {
        if (0..spin::SPINS).any(|tries| self.try_lock(mine, tries + 1)) {
            return;
        }
        // Who holds it may be waiting, under it, for the lock of an allocator, of which
        // a greenlet of this thread has been told that it is free: see `blocking`.
        address::blocking(|| {
            let mut tries = spin::SPINS;
            while !self.try_lock(mine, tries) {
                tries = tries.saturating_add(1);
            }
        });
    }

    /// One try of so many. If that is in vain, a moment has passed.
    fn try_lock(&self, mine: u32, tries: u32) -> bool {
        let seen = self.word.load(Ordering::Relaxed);
        if seen == mine {
            spin::a_moment(tries);
            return false;
        }
        let taken = self
            .word
            .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_ok() && seen != 0 {
            // SAFETY: the lock is ours, and who held it is in the parent.
            unsafe { (*self.state.get()).abandoned() };
        }
        taken.is_ok()
    }

    /// Parks the current greenlet in the queue that `pick` gives, where the
    /// lock is held by `guard`. None: it was interrupted.
    ///
    /// # Safety
    /// The queue is one of this monitor, under its lock; and as long as the
    /// node is linked, `pick` finds the queue that the node is in.
    #[inline(always)]
    pub(super) unsafe fn park_in(
        guard: Guard<'_, S, N>,
        wait: Wait,
        stamp: u32,
        pick: impl Fn(&Monitor<S, N>) -> Option<&WaitQueue>,
        between: impl FnOnce(),
    ) -> Option<Woken> {
        let monitor = guard.monitor;
        let hub = Hub::get();
        let waiter = Waiter::new(hub, wait.reason, wait.kind, wait.interruptible);
        waiter.set_queued();
        let node = Node::new(&waiter, 0);
        node.stamp.set(stamp);
        match pick(monitor) {
            Some(queue) => queue.push(&node),
            None => unreachable!("a greenlet waits in a queue that there is"),
        }
        drop(guard);
        between();
        let woken = waiter.park(hub, wait.deadline);
        // Who answers takes the node out first, and touches neither it nor the
        // waiter after the claim: then there is nothing to be waited for.
        if !matches!(woken, Some(Woken::Answered(_))) {
            let _guard = monitor.lock();
            if let Some(queue) = pick(monitor) {
                queue.remove(&node);
            }
        }
        woken
    }

    /// The state, for those of this room who hold the lock.
    ///
    /// # Safety
    /// The lock is held by the caller's thread, and nothing changes the state
    /// as long as the reference is in use.
    pub(super) unsafe fn state_ref(&self) -> &S {
        // SAFETY: the caller's promise.
        unsafe { &*self.state.get() }
    }
}

/// How to wait.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) reason: Reason,
    pub(crate) kind: Kind,
    pub(crate) deadline: Option<u64>,
    /// Whether a kill or a timeout may end it.
    pub(crate) interruptible: bool,
}

impl Wait {
    /// For something that other threads may share.
    pub(crate) fn shared(reason: Reason, deadline: Option<u64>) -> Wait {
        Wait {
            reason,
            kind: Kind::Shared,
            deadline,
            interruptible: true,
        }
    }

    /// As `shared`, where a kill or a timeout has to wait for the next wait.
    pub(crate) fn uninterrupted(reason: Reason) -> Wait {
        Wait {
            interruptible: false,
            ..Wait::shared(reason, None)
        }
    }
}

/// The lock of a [`Monitor`], held. See there for what may be done with it.
pub(crate) struct Guard<'a, S, const N: usize> {
    monitor: &'a Monitor<S, N>,
    /// Whom to tell, of another hub, when the lock has been let go.
    to_send: Option<Delivery>,
    not_send: PhantomData<*const ()>,
}

impl<'a, S: Guarded, const N: usize> Guard<'a, S, N> {
    /// Lets go of the lock and parks the current greenlet in this queue. A kill
    /// or a timeout unwinds out of it; who has something to put right before
    /// that calls [`park`](Guard::park).
    ///
    /// # Panics
    /// With `Deadlock`, if nothing could end a wait without a deadline.
    #[inline]
    pub(crate) fn wait(self, queue: usize, wait: Wait) -> Woken {
        match self.park(queue, wait) {
            Some(Woken::Deadlock) => report::panic_deadlock(),
            Some(woken) => woken,
            None => interrupt::throw(Hub::get()),
        }
    }

    /// As `wait`; None where that would unwind, which the caller must see to
    /// with [`interrupted`], and Deadlock where it would panic.
    #[inline]
    pub(crate) fn park(self, queue: usize, wait: Wait) -> Option<Woken> {
        self.park_after(queue, wait, || {})
    }

    /// As `park`; what is done between queueing and parking is seen by those
    /// who wake, and must neither block nor unwind.
    #[inline]
    pub(super) fn park_after(
        self,
        queue: usize,
        wait: Wait,
        between: impl FnOnce(),
    ) -> Option<Woken> {
        // SAFETY: the queues are this monitor's, and stay where they are.
        unsafe { Monitor::park_in(self, wait, 0, |monitor| monitor.queues.get(queue), between) }
    }

    /// Answers the first who still waits in this queue. False: nobody does.
    #[inline]
    pub(crate) fn wake_one(&mut self, queue: usize) -> bool {
        let queue = &self.monitor.queues[queue];
        if queue.is_empty() {
            return false;
        }
        let answer = queue.claim_one();
        self.take_care_of(answer)
    }

    /// Answers up to `limit` of those who wait in this queue, in their order;
    /// how many there were.
    pub(crate) fn wake_up_to(&mut self, queue: usize, limit: usize) -> usize {
        (0..limit).take_while(|_| self.wake_one(queue)).count()
    }

    /// Answers all who wait in this queue, in their order. Where they may be
    /// many, a [`Gate`](super::Gate) is the better choice.
    pub(crate) fn wake_all(&mut self, queue: usize) -> usize {
        self.wake_up_to(queue, usize::MAX)
    }

    /// As `park`, with a number that tells who answers which wait it was.
    #[inline(always)]
    pub(crate) fn park_stamped(self, queue: usize, wait: Wait, stamp: u32) -> Option<Woken> {
        // SAFETY: the queues are this monitor's, and stay where they are.
        unsafe {
            Monitor::park_in(
                self,
                wait,
                stamp,
                |monitor| monitor.queues.get(queue),
                || {},
            )
        }
    }

    /// Answers the first who still waits in this queue; the number that it had
    /// parked with.
    #[inline(always)]
    pub(crate) fn wake_stamped(&mut self, queue: usize) -> Option<u32> {
        let queue = &self.monitor.queues[queue];
        if queue.is_empty() {
            return None;
        }
        let (answer, stamp) = queue.claim_stamped();
        self.take_care_of(answer).then_some(stamp)
    }

    /// Answers all who wait in this queue, and tells them this number.
    pub(crate) fn wake_all_telling(&mut self, queue: usize, told: u32) {
        loop {
            let (answer, _) = self.monitor.queues[queue].claim_one_if(|_| true, |_| told);
            if !self.take_care_of(answer) {
                return;
            }
        }
    }

    /// Whether nobody is in this queue. Where somebody is, its wait may have
    /// ended already, so that nobody is woken.
    #[inline]
    pub(crate) fn is_empty(&self, queue: usize) -> bool {
        self.monitor.queues[queue].is_empty()
    }

    /// Sees to the message of an answer. Whether it was one.
    #[inline]
    pub(super) fn take_care_of(&mut self, answer: Answer) -> bool {
        match answer {
            Answer::Refused => false,
            Answer::Done => true,
            Answer::ToSend(delivery) => {
                // One waits for the lock's release; those of a crowd go now.
                if let Some(earlier) = self.to_send.replace(delivery) {
                    earlier.send();
                }
                true
            }
        }
    }
}

/// A queue of a monitor, for a wait for several things: those who wait in it
/// want to know that the state is `ready`, and take nothing by it.
pub(crate) struct Ready<'a, S, const N: usize> {
    pub(crate) monitor: &'a Monitor<S, N>,
    pub(crate) queue: usize,
    pub(crate) ready: fn(&S) -> bool,
}

impl<S: Guarded, const N: usize> Place for Ready<'_, S, N> {
    fn link(&self, node: &Node) {
        let guard = self.monitor.lock();
        if (self.ready)(&guard) {
            node.answer_now();
        } else {
            self.monitor.queues[self.queue].push(node);
        }
    }

    fn unlink(&self, node: &Node) {
        let _guard = self.monitor.lock();
        self.monitor.queues[self.queue].remove(node);
    }
}

/// Throws the kill or the timeout that has ended a wait.
pub(crate) fn interrupted() -> ! {
    interrupt::throw(Hub::get())
}

impl<S, const N: usize> Deref for Guard<'_, S, N> {
    type Target = S;

    #[inline(always)]
    fn deref(&self) -> &S {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.monitor.state.get() }
    }
}

impl<S, const N: usize> DerefMut for Guard<'_, S, N> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut S {
        // SAFETY: the guard holds the lock, and is borrowed exclusively.
        unsafe { &mut *self.monitor.state.get() }
    }
}

impl<S, const N: usize> Drop for Guard<'_, S, N> {
    #[inline(always)]
    fn drop(&mut self) {
        held::leave();
        self.monitor.word.store(0, Ordering::Release);
        if let Some(delivery) = self.to_send.take() {
            delivery.send();
        }
    }
}

/// Nothing parks as long as this thread holds the lock of a monitor; debug builds know
/// whether it does.
pub(super) mod held {
    // loom's threads are all on one OS thread.
    #[cfg(all(debug_assertions, not(feature = "loom")))]
    thread_local! {
        static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    #[inline(always)]
    pub(super) fn enter() {
        super::pass::set_locked(true);
        #[cfg(all(debug_assertions, not(feature = "loom")))]
        HELD.set(HELD.get() + 1);
    }

    #[inline(always)]
    pub(super) fn leave() {
        super::pass::set_locked(false);
        #[cfg(all(debug_assertions, not(feature = "loom")))]
        HELD.set(HELD.get() - 1);
    }

    /// A greenlet is about to be left.
    #[inline(always)]
    pub(crate) fn check() {
        #[cfg(all(debug_assertions, not(feature = "loom")))]
        assert_eq!(HELD.get(), 0, "a switch with the lock of a monitor held");
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;

    struct Count(u64, bool);

    impl Guarded for Count {
        fn abandoned(&mut self) {
            self.1 = true;
        }
    }

    const WAIT: Wait = Wait {
        reason: Reason::new("waiting for a count"),
        kind: Kind::Shared,
        deadline: None,
        interruptible: true,
    };

    #[test]
    fn threads_that_change_the_state_do_not_lose_a_change() {
        let monitor: Monitor<Count, 0> = Monitor::new(Count(0, false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100_000 {
                        monitor.lock().0 += 1;
                    }
                });
            }
        });
        assert_eq!(monitor.lock().0, 400_000);
    }

    #[test]
    fn those_who_wait_on_two_threads_are_answered_once_each() {
        let monitor: Monitor<Count, 1> = Monitor::new(Count(0, false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut guard = monitor.lock();
                        if guard.0 > 0 {
                            guard.0 -= 1;
                            continue;
                        }
                        assert!(guard.wait(0, WAIT).is_answered());
                    }
                });
            }
            for _ in 0..20_000 {
                let mut guard = monitor.lock();
                if !guard.wake_one(0) {
                    guard.0 += 1;
                }
            }
        });
        assert_eq!(monitor.lock().0, 0);
    }

    #[test]
    fn a_lock_that_stayed_behind_in_a_fork_is_taken_over() {
        let monitor: Monitor<Count, 0> = Monitor::new(Count(7, false));
        // The word of a thread that held it in the parent.
        let stale = fork::generation().wrapping_sub(1) << 1 | 1;
        monitor.word.store(stale, Ordering::Relaxed);
        let guard = monitor.lock();
        assert!(guard.1, "the state is told");
        assert_eq!(guard.0, 7);
    }
}
