//! `Group`: a set of greenlets that forgets those that have ended.
//!
//! ```text
//!   Group ──▶ Members { by number: Task, Task, … }
//!                 ▲
//!                 │ AtEnd: the task tells, on its own stack, as it ends
//!   Task ─────────┘ (however it ends: by return, panic, kill, unstarted too)
//! ```
//!
//! A [`Pool`](super::Pool) is the same set with a limit. Slots are handed on
//! directly: whoever gives one back gives it to the first who waits, and counts
//! it as `promised` until that one has put a member in. So nobody overtakes,
//! and a free slot means that nobody waits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::builder;
use super::handle::{JoinHandle, refuse_with_panic_abort};
use crate::error::{Deadlock, PoolFull};
use crate::hub::{self, AtEnd, Hub, Kind, Reason, State, Task, TaskRef, WaitQueue, Woken};
use crate::sys::pass::PassThrough;
use crate::sys::{clock, fork};

/// A set of greenlets, each of which leaves it by itself when it ends.
///
/// It is for those who have started many and care for all of them at once:
/// [`join`](Group::join) waits until none is left, [`kill`](Group::kill) ends
/// them. What a greenlet returns is still taken from its [`JoinHandle`];
/// dropping the handle does not take the greenlet out of the group, and
/// dropping the group leaves its greenlets running. A greenlet may be in several
/// groups.
///
/// A group stays on its thread, as handles do. After a fork it holds in the
/// child the greenlet that forked, if that was a member, and no other. For a
/// bounded number there is [`Pool`](crate::Pool).
///
/// # Examples
/// ```
/// use std::{cell::Cell, rc::Rc};
/// use greenlet::Group;
///
/// let group = Group::new();
/// let sum = Rc::new(Cell::new(0));
/// for n in 1..=4 {
///     let sum = Rc::clone(&sum);
///     group.spawn(move || sum.set(sum.get() + n));
/// }
/// assert_eq!(group.len(), 4);
/// group.join();
/// assert_eq!((sum.get(), group.len()), (10, 0));
/// ```
#[derive(Default)]
pub struct Group {
    members: Rc<Members>,
}

impl Group {
    /// A group without members.
    #[must_use]
    pub fn new() -> Group {
        Group::default()
    }

    /// Spawns a greenlet into the group; otherwise as [`spawn`](crate::spawn).
    ///
    /// # Panics
    /// If the machine has no stack left for it.
    #[track_caller]
    pub fn spawn<F, T>(&self, f: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let handle = builder::spawn(f);
        self.add(&handle);
        handle
    }

    /// Takes a greenlet in that exists already. One that has ended, or is in,
    /// is left as it is.
    pub fn add<T>(&self, handle: &JoinHandle<T>) {
        Members::add(&self.members, handle.task());
    }

    /// Takes a greenlet out, which runs on; whether it was in.
    #[doc(alias = "discard")]
    pub fn remove<T>(&self, handle: &JoinHandle<T>) -> bool {
        self.members.remove(handle.task().id)
    }

    /// Waits until the group has no members. Those that are spawned into it
    /// meanwhile are waited for too; those that come after it was empty for a
    /// moment are not.
    ///
    /// # Panics
    /// With [`Deadlock`] if that can never be; at once if the caller is a member
    /// itself.
    pub fn join(&self) {
        self.members.join();
    }

    /// As [`join`](Group::join), for at most `timeout`; whether the group has
    /// become empty. Zero lets whoever is runnable have one turn first.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.members.join_timeout(timeout)
    }

    /// Asks all members to end, as [`JoinHandle::kill`] does, and returns at
    /// once. They leave the group when they have ended. What is spawned into the
    /// group later is not killed.
    // Inlined, so that only programs that call it are asked how they unwind.
    #[inline]
    pub fn kill(&self) {
        refuse_with_panic_abort::<()>();
        self.members.kill();
    }

    /// Kills all members and waits until the group is empty. A member that
    /// calls it kills the others and unwinds itself.
    ///
    /// # Panics
    /// With [`Deadlock`] if they can never end.
    #[inline]
    pub fn kill_wait(&self) {
        self.kill();
        self.join();
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the greenlet that runs is a member.
    pub(crate) fn has_current(&self) -> bool {
        self.members.has_current()
    }

    /// Whether this greenlet is a member.
    #[must_use]
    pub fn contains<T>(&self, handle: &JoinHandle<T>) -> bool {
        self.members.contains(handle.task().id)
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("len", &self.len()).finish()
    }
}

/// The greenlets of a group or of a pool.
pub(super) struct Members {
    limit: usize,
    /// By their numbers, which is the order in which they were spawned.
    tasks: RefCell<BTreeMap<u64, TaskRef>>,
    /// Slots that have been taken, and have no member in them yet.
    promised: Cell<usize>,
    /// Who waits for a slot.
    wanted: WaitQueue,
    /// Who waits for the last member to leave.
    emptied: WaitQueue,
    /// The process whose greenlets these are.
    generation: Cell<u32>,
}

impl Default for Members {
    fn default() -> Members {
        Members::new(usize::MAX)
    }
}

impl Members {
    pub(super) fn new(limit: usize) -> Members {
        Members {
            limit,
            tasks: RefCell::new(BTreeMap::new()),
            promised: Cell::new(0),
            wanted: WaitQueue::new(),
            emptied: WaitQueue::new(),
            generation: Cell::new(fork::generation()),
        }
    }

    /// In the child of a fork only the greenlet that forked is left. A slot that
    /// was promised was promised to one that is not here.
    fn forget_before_fork(&self) {
        if self.generation.replace(fork::generation()) == fork::generation() {
            return;
        }
        let _pass = PassThrough::enter();
        self.promised.set(0);
        let mut tasks = self.tasks.borrow_mut();
        for (number, task) in std::mem::take(&mut *tasks) {
            if task.state.get() == State::Lost {
                // The block behind it is the parent's business.
                std::mem::forget(task);
            } else {
                tasks.insert(number, task);
            }
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn len(&self) -> usize {
        self.forget_before_fork();
        self.tasks.borrow().len()
    }

    pub(super) fn free(&self) -> usize {
        let taken = self.len() + self.promised.get();
        self.limit.saturating_sub(taken)
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.forget_before_fork();
        self.tasks.borrow().contains_key(&number)
    }

    pub(super) fn has_current(&self) -> bool {
        self.contains(Hub::get().current().id)
    }

    /// Takes a task in, whatever the limit.
    pub(super) fn add(this: &Rc<Members>, task: &TaskRef) {
        // It must not end before it is in both.
        let _pass = PassThrough::enter();
        if task.done.get() || task.state.get() == State::Lost || this.contains(task.id) {
            return;
        }
        let group: Rc<dyn AtEnd> = Rc::<Members>::clone(this);
        task.with_extra(|extra| extra.groups.push(group));
        this.tasks.borrow_mut().insert(task.id, task.clone());
    }

    /// Takes a task out, which does not tell of its end any more then.
    pub(super) fn remove(&self, number: u64) -> bool {
        self.forget_before_fork();
        let _pass = PassThrough::enter();
        let Some(task) = self.tasks.borrow_mut().remove(&number) else {
            return false;
        };
        let me: *const Members = self;
        let told = task.with_extra(|extra| {
            let groups = &mut extra.groups;
            let at = groups
                .iter()
                .position(|group| Rc::as_ptr(group).cast::<Members>() == me)?;
            Some(groups.remove(at))
        });
        self.one_has_left();
        drop(told);
        true
    }

    fn one_has_left(&self) {
        self.give_slot_back();
        if self.tasks.borrow().is_empty() {
            self.emptied.wake_all();
        }
    }

    /// A slot is free: it belongs to the first who waits for one.
    fn give_slot_back(&self) {
        // Members that were added past the limit have no slot to give.
        if self.tasks.borrow().len() + self.promised.get() < self.limit && self.wanted.wake_one() {
            self.promised.set(self.promised.get() + 1);
        }
    }

    /// Waits until it is empty. Panics with `Deadlock` if that can never be.
    pub(super) fn join(&self) {
        if self.join_until(None).is_err() {
            hub::panic_deadlock();
        }
    }

    pub(super) fn join_timeout(&self, timeout: Duration) -> bool {
        let deadline = Some(clock::deadline_after(timeout));
        self.join_until(deadline).unwrap_or(false)
    }

    /// True: empty, or it was while this waited. False: time is up.
    fn join_until(&self, deadline: Option<u64>) -> Result<bool, Deadlock> {
        if self.len() == 0 {
            return Ok(true);
        }
        if deadline.is_none() && self.has_current() {
            // Killed before, it ends here as at any other blocking call.
            hub::check_interrupts();
            return Err(Deadlock);
        }
        let reason = Reason::with("joining the greenlets of a group:", self.len() as u64);
        match self.emptied.wait(reason, Kind::Local, deadline) {
            Woken::Answered(_) => Ok(true),
            Woken::TimedOut => Ok(self.len() == 0),
            Woken::Deadlock => Err(Deadlock),
        }
    }

    pub(super) fn kill(&self) {
        self.forget_before_fork();
        let hub = Hub::get();
        for task in self.tasks.borrow().values() {
            // It is queued, and does not run before the caller blocks.
            hub::kill(hub, task.ptr());
        }
    }

    /// Takes a slot if one is free.
    pub(super) fn try_slot(self: &Rc<Members>) -> Result<Slot, PoolFull<()>> {
        if self.free() == 0 {
            return Err(PoolFull::Full(()));
        }
        self.promised.set(self.promised.get() + 1);
        Ok(Slot(Rc::clone(self), fork::generation()))
    }

    /// Takes a slot, and waits for it; after those who came before.
    pub(super) fn slot(self: &Rc<Members>, deadline: Option<u64>) -> Result<Slot, PoolFull<()>> {
        match self.try_slot() {
            Ok(slot) => return Ok(slot),
            Err(full) if self.limit == 0 => return Err(full),
            Err(_) => {}
        }
        if deadline.is_none() && self.has_current() {
            hub::check_interrupts();
            return Err(PoolFull::Member(()));
        }
        let reason = Reason::with("waiting for a free slot of a pool of", self.limit as u64);
        match self.wanted.wait(reason, Kind::Local, deadline) {
            // Counted as promised by the one who gave it.
            Woken::Answered(_) => Ok(Slot(Rc::clone(self), fork::generation())),
            Woken::TimedOut => Err(PoolFull::Full(())),
            Woken::Deadlock => Err(PoolFull::Deadlock(())),
        }
    }
}

impl AtEnd for Members {
    fn ended(&self, task: &Task) {
        self.forget_before_fork();
        let _pass = PassThrough::enter();
        let left = self.tasks.borrow_mut().remove(&task.id);
        if left.is_some() {
            self.one_has_left();
        }
    }
}

/// A slot of a pool that somebody may put a member into; goes back when dropped.
pub(super) struct Slot(Rc<Members>, u32);

impl Slot {
    pub(super) fn fill(self, task: &TaskRef) {
        // Nobody runs between this and the drop, which counts the slot free
        // unless the member has it.
        Members::add(&self.0, task);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let members = &*self.0;
        members.forget_before_fork();
        // A fork in between has forgotten all that was promised.
        if self.1 == fork::generation() {
            members.promised.set(members.promised.get() - 1);
        }
        members.give_slot_back();
    }
}
