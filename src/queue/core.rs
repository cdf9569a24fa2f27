//! What all queues have in common: who waits, and what is handed to whom.
//!
//! ```text
//!   put ──▶ somebody waits for an item? ──▶ handed: [(ticket, item)] ──▶ that one
//!       ──▶ there is room?              ──▶ store ──▶ whoever gets next
//!       ──▶ else wait                   ──▶ offers: [(ticket, item)]
//!                                              │ a get makes room
//!                                              └──▶ store, or the getter's hands
//! ```
//!
//! A *ticket* is the number of one wait. An item changes hands only when the
//! wait that it belongs to has been claimed, so of a wait that a timeout or a
//! kill has ended in that instant nothing is taken, and nothing is given to it.
//! What has been handed over is in nobody else's reach: a running greenlet
//! cannot overtake the one that was woken.
//!
//! Between two calls these hold:
//!
//! * who waits for an item waits because `available` is 0;
//! * who waits for room waits because `available` is not below `capacity`.
//!
//! A capacity of 0 is a rendezvous: nothing is ever stored, and every item goes
//! from hand to hand.

use std::collections::VecDeque;
use std::time::Duration;

use super::error::TaskDoneError;
use super::store::Store;
use crate::error::Deadlock;
use crate::hub::{self, Guarded, Hub, Monitor, Ready, Reason, Wait, Woken};
use crate::sys::{clock, fork};
use crate::task::Source;

/// The queues of those who wait.
const GETTERS: usize = 0;
const PUTTERS: usize = 1;
const PEEKERS: usize = 2;
const JOINERS: usize = 3;
/// For what is lent out.
const BORROWERS: usize = 4;

/// What somebody who waits is told.
const SERVED: u32 = 0;
const SHUT_DOWN: u32 = 1;
/// To look again: a comparison has panicked, and its item is free.
const RETRY: u32 = 2;

type Guard<'a, S> = hub::Guard<'a, State<S>, 5>;

/// How long somebody is ready to wait.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    No,
    For(Duration),
    /// A moment of `sys::clock`; None is never.
    Until(Option<u64>),
    Forever,
}

impl Patience {
    /// The moment when it ends. None: before it began.
    #[inline(always)]
    fn deadline(self) -> Option<Option<u64>> {
        match self {
            Patience::No => None,
            Patience::For(time) => Some(Some(clock::deadline_after(time))),
            Patience::Until(moment) => Some(moment),
            Patience::Forever => Some(None),
        }
    }
}

/// Why an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not now: full, or empty.
    NotNow,
    ShutDown,
    Deadlock,
}

struct State<S: Store> {
    store: S,
    capacity: usize,
    /// How many items anybody may take. Those of the store, less those that
    /// were promised to somebody who is about to take them.
    available: usize,
    /// The items of those who wait for room.
    offers: Tickets<S::Item>,
    /// The items for those who were woken and have not run since.
    handed: Tickets<S::Item>,
    next_ticket: u32,
    /// Items put, less calls of `task_done`.
    unfinished: usize,
    shut_down: bool,
    /// The greenlet that has borrowed from the store.
    lent_to: Option<u64>,
    fork: u32,
}

impl<S: Store> Guarded for State<S> {
    fn abandoned(&mut self) {
        // Whatever was half changed is leaked.
        std::mem::forget(std::mem::replace(&mut self.store, S::new()));
        std::mem::forget(std::mem::replace(&mut self.offers, Tickets::new()));
        std::mem::forget(std::mem::replace(&mut self.handed, Tickets::new()));
        self.available = 0;
        self.unfinished = 0;
    }
}

impl<S: Store> State<S> {
    fn has_room(&self) -> bool {
        self.available < self.capacity
    }

    #[inline(always)]
    fn store(&mut self, item: S::Item) {
        self.store.push(item);
        self.available += 1;
        self.unfinished += 1;
    }

    /// In a fork's child, nobody else is left of those who waited: what was on
    /// its way to them is for all again.
    #[cold]
    fn begin_after_fork(&mut self) {
        self.fork = fork::generation();
        self.lent_to = None;
        while let Some((_, item)) = self.handed.0.pop_back() {
            self.store.put_back(item);
        }
        self.available = self.store.len();
    }
}

/// Items that belong to somebody's wait, in the order of their tickets.
struct Tickets<T>(VecDeque<(u32, T)>);

impl<T> Tickets<T> {
    const fn new() -> Tickets<T> {
        Tickets(VecDeque::new())
    }

    #[inline]
    fn push(&mut self, ticket: u32, item: T) {
        self.0.push_back((ticket, item));
    }

    /// The item of a ticket; the first is the usual one.
    #[inline(always)]
    fn remove(&mut self, ticket: u32) -> Option<T> {
        let first = self.0.front()?.0;
        if first == ticket {
            return self.0.pop_front().map(|(_, item)| item);
        }
        self.remove_later(first, ticket)
    }

    #[cold]
    fn remove_later(&mut self, first: u32, ticket: u32) -> Option<T> {
        // They count on from the first one's, and may wrap.
        let place = |of: u32| of.wrapping_sub(first);
        let at = self.0.binary_search_by_key(&place(ticket), |e| place(e.0));
        self.0.remove(at.ok()?).map(|(_, item)| item)
    }
}

pub(super) struct Core<S: Store> {
    monitor: Monitor<State<S>, 5>,
}

impl<S: Store> Core<S> {
    pub(super) fn new(capacity: usize) -> Core<S> {
        fork::watch();
        Core {
            monitor: Monitor::new(State {
                store: S::new(),
                capacity,
                available: 0,
                offers: Tickets::new(),
                handed: Tickets::new(),
                next_ticket: 0,
                unfinished: 0,
                shut_down: false,
                lent_to: None,
                fork: fork::generation(),
            }),
        }
    }

    #[inline(always)]
    fn lock(&self) -> Guard<'_, S> {
        let mut state = self.monitor.lock();
        if state.fork != fork::generation() {
            state.begin_after_fork();
        }
        state
    }

    /// As `lock`, when nobody has borrowed from the store. It cannot be
    /// interrupted, for the caller may have been promised something; what is
    /// waited for are a few comparisons, or the cloning of one item.
    fn lock_whole(&self) -> Guard<'_, S> {
        let mut state = self.lock();
        while state.lent_to.is_some() {
            state = self.wait_for_borrower(state);
        }
        state
    }

    #[cold]
    fn wait_for_borrower<'a>(&'a self, state: Guard<'a, S>) -> Guard<'a, S> {
        if state.lent_to == Some(current_id()) {
            // An item's `cmp` or `clone` wants something of its own queue.
            drop(state);
            hub::panic_deadlock();
        }
        let reason = Reason::new("waiting for items of a queue to be compared or cloned");
        state.wait(BORROWERS, Wait::uninterrupted(reason));
        self.lock()
    }

    #[inline(always)]
    pub(super) fn put(&self, item: S::Item, patience: Patience) -> Result<(), (S::Item, Refusal)> {
        let mut state = self.lock();
        let nobody_waits = state.is_empty(GETTERS) && state.is_empty(PEEKERS);
        if nobody_waits && state.has_room() && !state.shut_down {
            state.store(item);
            return Ok(());
        }
        self.put_slowly(state, item, patience)
    }

    #[inline(never)]
    fn put_slowly(
        &self,
        mut state: Guard<'_, S>,
        item: S::Item,
        patience: Patience,
    ) -> Result<(), (S::Item, Refusal)> {
        if state.shut_down {
            return Err((item, Refusal::ShutDown));
        }
        if let Some(ticket) = state.wake_stamped(GETTERS) {
            state.unfinished += 1;
            state.handed.push(ticket, item);
            return Ok(());
        }
        if state.has_room() {
            state.store(item);
            state.wake_all(PEEKERS);
            return Ok(());
        }
        let Some(deadline) = patience.deadline() else {
            return Err((item, Refusal::NotNow));
        };
        let ticket = take_ticket(&mut state);
        state.offers.push(ticket, item);
        let wait = Wait::shared(Reason::new("putting into a queue"), deadline);
        let woken = state.park_stamped(PUTTERS, wait, ticket);
        if woken == Some(Woken::Answered(SERVED)) {
            return Ok(());
        }
        let mut state = self.lock();
        let item = state.offers.remove(ticket);
        drop(state);
        let Some(item) = item else {
            unreachable!("only a wait that was answered loses its item")
        };
        match woken {
            Some(woken) => Err((item, refusal(woken))),
            // The item is dropped by the unwinding.
            None => hub::interrupted(),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, patience: Patience) -> Result<S::Item, Refusal> {
        let mut state = self.lock();
        if state.available == 0 {
            return self.get_slowly(state, patience);
        }
        if S::COMPARES || state.lent_to.is_some() {
            drop(state);
            return self.get_whole(patience);
        }
        state.available -= 1;
        let item = match state.store.take() {
            Some(item) => item,
            None => unreachable!("what is available is there"),
        };
        if !state.is_empty(PUTTERS) {
            take_offers(&mut state);
        }
        Ok(item)
    }

    /// Where items have to be compared, or are lent out to somebody.
    fn get_whole(&self, patience: Patience) -> Result<S::Item, Refusal> {
        let mut state = self.lock_whole();
        if state.available == 0 {
            return self.get_slowly(state, patience);
        }
        state.available -= 1;
        if !S::COMPARES {
            let item = state.store.take();
            take_offers(&mut state);
            return item.ok_or(Refusal::NotNow);
        }
        let mut loan = Loan::new(self, &mut state, true);
        take_offers(&mut state);
        drop(state);
        match loan.take() {
            Some(item) => Ok(item),
            None => unreachable!("what is available is there"),
        }
    }

    #[inline(never)]
    fn get_slowly(&self, mut state: Guard<'_, S>, patience: Patience) -> Result<S::Item, Refusal> {
        // Nothing is stored, and yet somebody waits for room: a rendezvous.
        if let Some(ticket) = state.wake_stamped(PUTTERS) {
            state.unfinished += 1;
            return match state.offers.remove(ticket) {
                Some(item) => Ok(item),
                None => unreachable!("who waits for room has offered an item"),
            };
        }
        if state.shut_down {
            return Err(Refusal::ShutDown);
        }
        let Some(deadline) = patience.deadline() else {
            return Err(Refusal::NotNow);
        };
        let ticket = take_ticket(&mut state);
        let wait = Wait::shared(Reason::new("getting from a queue"), deadline);
        match state.park_stamped(GETTERS, wait, ticket) {
            Some(Woken::Answered(SERVED)) => match self.lock().handed.remove(ticket) {
                Some(item) => Ok(item),
                None => unreachable!("who was answered has been handed an item"),
            },
            Some(Woken::Answered(RETRY)) => self.get(Patience::Until(deadline)),
            Some(woken) => Err(refusal(woken)),
            None => hub::interrupted(),
        }
    }

    pub(super) fn peek(&self, patience: Patience) -> Result<S::Item, Refusal>
    where
        S::Item: Clone,
    {
        let mut deadline = None;
        loop {
            let mut state = self.lock_whole();
            if state.available > 0 {
                let mut loan = Loan::new(self, &mut state, false);
                drop(state);
                return match loan.peek() {
                    Some(item) => Ok(item.clone()),
                    None => unreachable!("what is available is there"),
                };
            }
            if state.shut_down {
                return Err(Refusal::ShutDown);
            }
            let deadline = match deadline {
                Some(deadline) => deadline,
                None => *deadline.insert(patience.deadline().ok_or(Refusal::NotNow)?),
            };
            let wait = Wait::shared(Reason::new("peeking into a queue"), deadline);
            match state.park(PEEKERS, wait) {
                // Somebody may have been quicker: then it waits again.
                Some(Woken::Answered(SERVED)) => {}
                Some(woken) => return Err(refusal(woken)),
                None => hub::interrupted(),
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().available
    }

    pub(super) fn is_full(&self) -> bool {
        !self.lock().has_room()
    }

    pub(super) fn capacity(&self) -> Option<usize> {
        let capacity = self.lock().capacity;
        (capacity != usize::MAX).then_some(capacity)
    }

    /// Whether getting would not wait. What is on offer only is not counted:
    /// its owner's wait may be over.
    fn would_answer(state: &State<S>) -> bool {
        state.available > 0 || state.shut_down
    }

    pub(super) fn is_ready(&self) -> bool {
        Self::would_answer(&self.lock())
    }

    /// Where those wait who want to know when there is something.
    pub(super) fn source(&self) -> Source<'_> {
        Source::made(Ready {
            monitor: &self.monitor,
            queue: PEEKERS,
            ready: Self::would_answer,
        })
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.lock().shut_down
    }

    pub(super) fn task_done(&self) -> Result<(), TaskDoneError> {
        let mut state = self.lock();
        state.unfinished = state.unfinished.checked_sub(1).ok_or(TaskDoneError)?;
        if state.unfinished == 0 {
            state.wake_all(JOINERS);
        }
        Ok(())
    }

    pub(super) fn unfinished(&self) -> usize {
        self.lock().unfinished
    }

    /// Whether all items are done before the patience ends.
    pub(super) fn join(&self, patience: Patience) -> Result<bool, Deadlock> {
        let state = self.lock();
        if state.unfinished == 0 {
            return Ok(true);
        }
        let Some(deadline) = patience.deadline() else {
            return Ok(false);
        };
        let wait = Wait::shared(Reason::new("joining a queue"), deadline);
        match state.park(JOINERS, wait) {
            Some(Woken::Answered(_)) => Ok(true),
            Some(Woken::TimedOut) => Ok(false),
            Some(Woken::Deadlock) => Err(Deadlock),
            None => hub::interrupted(),
        }
    }

    pub(super) fn shut_down(&self) {
        let mut state = self.lock();
        if std::mem::replace(&mut state.shut_down, true) {
            return;
        }
        state.wake_all_telling(GETTERS, SHUT_DOWN);
        state.wake_all_telling(PUTTERS, SHUT_DOWN);
        // These look again; some of them wait in other places as well, and are
        // told in which one they were answered.
        state.wake_all(PEEKERS);
    }

    pub(super) fn shut_down_now(&self) -> Vec<S::Item> {
        self.shut_down();
        let mut left = Vec::new();
        while let Ok(item) = self.get(Patience::No) {
            left.push(item);
            // Nobody will do it any more.
            let _ = self.task_done();
        }
        left
    }
}

fn current_id() -> u64 {
    Hub::get().current().id
}

fn take_ticket<S: Store>(state: &mut Guard<'_, S>) -> u32 {
    let ticket = state.next_ticket;
    state.next_ticket = ticket.wrapping_add(1);
    ticket
}

fn refusal(woken: Woken) -> Refusal {
    match woken {
        Woken::TimedOut => Refusal::NotNow,
        Woken::Answered(_) => Refusal::ShutDown,
        Woken::Deadlock => Refusal::Deadlock,
    }
}

/// Takes in the items of those who wait for room, as far as there is some.
fn take_offers<S: Store>(state: &mut Guard<'_, S>) {
    while state.has_room() {
        let Some(ticket) = state.wake_stamped(PUTTERS) else {
            return;
        };
        match state.offers.remove(ticket) {
            Some(item) => state.store(item),
            None => unreachable!("who waits for room has offered an item"),
        }
    }
}

/// What is out of the store while code of the user looks at it. Comes back
/// however that ends.
struct Loan<'a, S: Store> {
    core: &'a Core<S>,
    lent: Option<S::Lent>,
    /// The item that the borrower was promised, and has not taken yet.
    promised: bool,
    fork: u32,
}

impl<'a, S: Store> Loan<'a, S> {
    fn new(core: &'a Core<S>, state: &mut Guard<'_, S>, promised: bool) -> Loan<'a, S> {
        state.lent_to = Some(current_id());
        Loan {
            core,
            lent: Some(state.store.lend()),
            promised,
            fork: state.fork,
        }
    }

    fn take(&mut self) -> Option<S::Item> {
        let item = S::take_lent(self.lent.as_mut()?);
        self.promised = false;
        item
    }

    fn peek(&mut self) -> Option<&S::Item> {
        S::peek_lent(self.lent.as_mut()?)
    }
}

impl<S: Store> Drop for Loan<'_, S> {
    fn drop(&mut self) {
        let mut state = self.core.lock();
        if let Some(lent) = self.lent.take() {
            state.store.give_back(lent);
        }
        state.lent_to = None;
        if self.fork != state.fork {
            // The child counted what it found while this was out.
            state.available = state.store.len();
        } else if self.promised {
            // The comparison has panicked, and the item is still here. It cannot
            // be handed over, for which one it is takes comparing. So those who
            // wait try again, in their order.
            state.available += 1;
            state.wake_all_telling(GETTERS, RETRY);
            state.wake_all(PEEKERS);
        }
        state.wake_all(BORROWERS);
    }
}
