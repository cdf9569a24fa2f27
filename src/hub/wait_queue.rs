//! The one queue that greenlets wait in, and waits in several of them at once.
//!
//! ```text
//!    WaitQueue { head ─────▶ Node ◀──▶ Node ◀──▶ Node ◀───── tail }
//!                             │ waiter  │         │
//!                             ▼         ▼         ▼     (each in the frame
//!                           Waiter    Waiter    Waiter   of its greenlet)
//! ```
//!
//! Whoever answers takes a node out, and claims its waiter: see `wait`.

use std::cell::Cell;

use super::Hub;
use super::list::{Linked, Links, List};
use super::wait::{Answer, Kind, Reason, Waiter, Woken, or_throw};
use crate::sys::pass::PassThrough;

/// A waiter's place in one queue.
pub(crate) struct Node {
    links: Links<Node>,
    waiter: *const Waiter,
    /// What the waiter is told: which of its queues answered.
    index: u32,
    /// When it was queued, in whatever the owner of the queue counts by.
    pub(super) stamp: Cell<u32>,
}

impl Linked for Node {
    #[inline(always)]
    fn links(&self) -> &Links<Node> {
        &self.links
    }
}

/// Who waits for one thing, first come first served.
///
/// The nodes live in the frames of those who wait. That is sound because a
/// frame is left only through code of this room, which unlinks the node first;
/// a frame that is never left (a greenlet leaked at the end of its thread)
/// stays mapped for ever.
pub(crate) struct WaitQueue(List<Node>);

impl WaitQueue {
    pub(crate) const fn new() -> WaitQueue {
        WaitQueue(List::new())
    }

    /// Parks the current greenlet here. A kill or a timeout unwinds out of
    /// this call; what was answered is never lost by it.
    pub(crate) fn wait(&self, reason: Reason, kind: Kind, deadline: Option<u64>) -> Woken {
        or_throw(self.park(reason, kind, deadline, true))
    }

    /// As `wait`, but a kill or a timeout stays pending until the next wait.
    pub(crate) fn wait_uninterrupted(&self, reason: Reason, kind: Kind) -> Woken {
        match self.park(reason, kind, None, false) {
            Some(woken) => woken,
            None => unreachable!("this wait cannot be interrupted"),
        }
    }

    /// As `wait`, and None where that would unwind: the caller has something
    /// to put right before it throws.
    pub(crate) fn park(
        &self,
        reason: Reason,
        kind: Kind,
        deadline: Option<u64>,
        interruptible: bool,
    ) -> Option<Woken> {
        let hub = Hub::get();
        let waiter = Waiter::new(hub, reason, kind, interruptible);
        let node = Node::new(&waiter, 0);
        self.push(&node);
        let woken = waiter.park(hub, deadline);
        self.remove(&node);
        woken
    }

    /// Answers the first who still waits. False if there is nobody.
    pub(crate) fn wake_one(&self) -> bool {
        match self.claim_one() {
            Answer::Refused => false,
            Answer::Done => true,
            Answer::ToSend(delivery) => {
                delivery.send();
                true
            }
        }
    }

    /// As `wake_one`, leaving a message to another hub to the caller.
    #[inline]
    pub(super) fn claim_one(&self) -> Answer {
        self.claim_one_if(|_| true, |_| 0).0
    }

    /// As `claim_one`, as long as `wanted` says so before each attempt. What
    /// `flags` gives is added to what the waiter is told; it is called when the
    /// one that is tried has left the queue.
    #[inline]
    pub(super) fn claim_one_if(
        &self,
        wanted: impl Fn(&WaitQueue) -> bool,
        flags: impl Fn(&WaitQueue) -> u32,
    ) -> (Answer, u32) {
        while wanted(self) {
            let Some(node) = self.pop() else { break };
            // SAFETY: a linked node's frame is alive, and the waiter beside it.
            let (waiter, index) = unsafe { ((*node).waiter, (*node).index) };
            let flags = flags(self);
            // SAFETY: as above.
            match unsafe { (*waiter).claim_answer(index | flags) } {
                Answer::Refused => {}
                answer => return (answer, flags),
            }
        }
        (Answer::Refused, 0)
    }

    /// As `claim_one`, with the stamp of the one who was answered.
    #[inline(always)]
    pub(super) fn claim_stamped(&self) -> (Answer, u32) {
        while let Some(node) = self.pop() {
            // SAFETY: a linked node's frame is alive, and the waiter beside it.
            let (waiter, index, stamp) =
                unsafe { ((*node).waiter, (*node).index, (*node).stamp.get()) };
            // SAFETY: as above.
            match unsafe { (*waiter).claim_answer(index) } {
                Answer::Refused => {}
                answer => return (answer, stamp),
            }
        }
        (Answer::Refused, 0)
    }

    /// The stamp of the first in the queue.
    pub(super) fn first_stamp(&self) -> Option<u32> {
        // SAFETY: linked nodes are alive.
        let node = unsafe { self.0.first().as_ref()? };
        Some(node.stamp.get())
    }

    /// Whether nobody is in the queue. Those who are may have ended their wait.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Answers all who wait, in their order, and says how many there were.
    #[inline]
    pub(crate) fn wake_all(&self) -> usize {
        let mut woken = 0;
        if self.is_empty() {
            return woken;
        }
        while self.wake_one() {
            woken += 1;
        }
        woken
    }

    #[inline]
    pub(super) fn push(&self, node: &Node) {
        // SAFETY: it is left by code of this room only, see above.
        unsafe { self.0.push(node) };
    }

    #[inline]
    fn pop(&self) -> Option<*const Node> {
        let first = self.0.first();
        // SAFETY: linked nodes are alive.
        self.remove(unsafe { first.as_ref()? });
        Some(first)
    }

    #[inline(always)]
    pub(super) fn remove(&self, node: &Node) {
        self.0.remove(node);
    }
}

impl Node {
    pub(super) fn new(waiter: &Waiter, index: u32) -> Node {
        Node {
            links: Links::new(),
            waiter,
            index,
            stamp: Cell::new(0),
        }
    }

    /// Answers a wait that has not begun yet.
    pub(super) fn answer_now(&self) {
        // SAFETY: a node is made beside its waiter, and does not outlive it.
        unsafe { (*self.waiter).answer_now(self.index) };
    }
}

/// Added to what a waiter is told: it has to call [`Place::carry_on`].
pub(super) const CARRY_ON: u32 = 1 << 30;

/// Where a greenlet that waits for several things can queue.
pub(crate) trait Place {
    /// Queues the node, or answers its wait at once. The caller takes it out
    /// again before it leaves its frame.
    fn link(&self, node: &Node);

    /// Takes it out, if it is still in.
    fn unlink(&self, node: &Node);

    /// The one who was answered wakes others.
    fn carry_on(&self) {}
}

impl Place for WaitQueue {
    fn link(&self, node: &Node) {
        self.push(node);
    }

    fn unlink(&self, node: &Node) {
        self.remove(node);
    }
}

/// Parks the current greenlet in several places at once, until one of them
/// answers. Nothing of it stays behind in the others.
pub(crate) fn wait_any(
    places: &[&dyn Place],
    reason: Reason,
    kind: Kind,
    deadline: Option<u64>,
) -> Woken {
    or_throw(park_any(places, reason, kind, deadline))
}

/// As `wait_any`, and None where that would unwind.
pub(crate) fn park_any(
    places: &[&dyn Place],
    reason: Reason,
    kind: Kind,
    deadline: Option<u64>,
) -> Option<Woken> {
    let hub = Hub::get();
    let waiter = Waiter::new(hub, reason, kind, true);
    // The caller has seen that nothing is there yet.
    let pass = PassThrough::enter();
    let nodes: Vec<Node> = (0..places.len() as u32)
        .map(|index| Node::new(&waiter, index))
        .collect();
    drop(pass);
    for (place, node) in places.iter().zip(&nodes) {
        place.link(node);
    }
    let woken = waiter.park(hub, deadline);
    for (place, node) in places.iter().zip(&nodes) {
        place.unlink(node);
    }
    match woken {
        Some(Woken::Answered(told)) => {
            let index = told & !CARRY_ON;
            if told != index {
                places[index as usize].carry_on();
            }
            Some(Woken::Answered(index))
        }
        other => other,
    }
}
