//! A task: the record that the hub keeps of one greenlet.
//!
//! ```text
//!            ┌──────────── one block of memory, recycled by the hub ───────────┐
//!            │ Task: link, state, waiter, fiber, …   │ result: T │ closure: F  │
//!            └───────▲───────────────▲───────────────────────────▲─────────────┘
//!   run queue ───────┘  slab of live └─ TaskRef, Handle<T>       └ see cell.rs
//!   (if Runnable)       tasks (key)     (counted references)
//! ```
//!
//! The life of a task, and who moves it from state to state:
//!
//! ```text
//!    New ──start, or a switch to it──▶ Runnable ──park──▶ Parked
//!                                      │  ▲  └──switch──▶ Switched
//!                                      │  └─claim, switch,   │
//!                                      │    or kill ─────────┘
//!                                      └──body ends──▶ Finished
//! ```

use std::cell::{Cell, RefCell, UnsafeCell};
use std::fmt;
use std::panic::Location;
use std::ptr::NonNull;
use std::rc::Rc;

use super::address::InVain;
use super::domain::{self, DomainPtr};
use super::slab::Key;
use super::switch::Head;
use super::timers::TimerKey;
use super::unwind;
use super::wait::Waiter;
use super::wait_queue::WaitQueue;
use super::{Hub, SpawnOptions};
use crate::coroutine::{Fiber, StackSize, Suspender};
use crate::sys::pass::PassThrough;

/// The references to a main greenlet that its hub counts.
pub(crate) const MAIN_REFS: u32 = 2;

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Made, and neither queued nor started: an explicit greenlet before its
    /// first switch, or one whose start is delayed.
    New,
    /// In the run queue; its first is the one that runs.
    Runnable,
    /// Waiting for somebody to claim its waiter.
    Parked,
    /// Suspended in an explicit switch: only another switch (or a kill, or a
    /// timeout) brings it back.
    Switched,
    /// Its body has ended.
    Finished,
    /// Its hub has ended before it, or it stayed behind in a fork: it is never
    /// resumed, nor freed.
    Lost,
}

/// A kill waits for the next blocking point.
pub(crate) const KILL: u8 = 1;
/// At least one `timeout` frame has run out of time.
pub(crate) const TIMEOUT: u8 = 2;
/// Nothing can wake this task any more.
pub(crate) const DEADLOCK: u8 = 4;
/// A kill has been thrown: later ones change nothing.
pub(crate) const KILLED: u8 = 8;
/// What makes a wait end early.
pub(crate) const PENDING: u8 = KILL | TIMEOUT | DEADLOCK;

/// The operations on a task that depend on the types of its body.
pub(crate) struct VTable {
    /// Runs the body, stores its result and tells the hub.
    pub(crate) run: unsafe fn(TaskPtr),
    /// Destroys and frees the block. No reference to it may be left.
    pub(crate) destroy: unsafe fn(TaskPtr),
    /// Stores that it was killed, as the result of a body that is given up in
    /// the middle and never resumed.
    pub(crate) give_up: unsafe fn(TaskPtr),
}

/// What few tasks have, kept apart so that the rest stay small.
#[derive(Default)]
pub(crate) struct Extra {
    /// The name given to the `Builder`.
    pub(crate) name: Option<Box<str>>,
    /// The groups it is in, which are told first of its end.
    pub(crate) groups: Vec<Rc<dyn AtEnd>>,
    /// Called when the task has ended, in this order.
    pub(crate) links: Vec<Link>,
    /// The values of `greenlet_local!` variables.
    pub(crate) locals: Vec<Local>,
    /// `timeout` frames whose time is over and which have not been told.
    pub(crate) elapsed: Vec<u64>,
    /// Wakers of futures that await the end of this task.
    pub(crate) wakers: Vec<std::task::Waker>,
    /// The timer that will start a delayed task.
    pub(crate) start_timer: Option<TimerKey>,
    /// It asked that nobody mind how long its turns are, so many times over.
    pub(crate) unwatched: u32,
    /// Set by the room that made the task, for its own use.
    pub(crate) tag: Option<Box<dyn std::any::Any>>,
}

/// Who keeps account of tasks, and is told when one has ended: on its stack,
/// before anybody else runs. It must neither block nor run the user's code.
pub(crate) trait AtEnd {
    fn ended(&self, task: &Task);
}

/// One callback to be run when a task has ended.
pub(crate) struct Link {
    pub(crate) id: u64,
    pub(crate) call: Box<dyn FnOnce()>,
}

/// One value of a `greenlet_local!` variable.
pub(crate) struct Local {
    /// The address of the variable and the type of its value.
    pub(crate) key: (usize, std::any::TypeId),
    pub(crate) value: LocalValue,
}

/// What has become of it.
#[derive(Clone)]
pub(crate) enum LocalValue {
    /// Its initialiser runs.
    Initialising,
    Alive(Rc<dyn std::any::Any>),
    /// Its destructor runs, or has run: it does not come back.
    Destroyed,
}

impl Local {
    /// Takes the value out, for its destructor to run.
    fn destroy(&mut self) -> Option<LocalValue> {
        match self.value {
            LocalValue::Alive(_) => Some(std::mem::replace(&mut self.value, LocalValue::Destroyed)),
            LocalValue::Initialising | LocalValue::Destroyed => None,
        }
    }
}

/// The record of one greenlet. It never moves.
#[repr(C)]
pub(crate) struct Task {
    // What every switch touches comes first, so that it shares cache lines.
    /// The next task in the run queue.
    pub(crate) next: Cell<Option<TaskPtr>>,
    /// How the running body gives the CPU back to the loop.
    pub(crate) suspender: Cell<Option<Suspender>>,
    /// The stack it runs on, from its start to its end, if it runs on the OS thread's
    /// thread-locals.
    pub(crate) fiber: UnsafeCell<Option<Fiber>>,
    /// Whose thread-locals it runs on: the OS thread's, if none.
    pub(super) domain: Option<DomainPtr>,
    /// The stack it runs on, if these are others. Apart, so that the loop need not ask
    /// of each greenlet which they are.
    pub(super) isolated: UnsafeCell<Option<Fiber>>,
    pub(crate) state: Cell<State>,
    pub(crate) interrupts: Cell<u8>,
    /// The body has ended and its result is there. The greenlet itself goes on
    /// a little longer, to tell those who want to know.
    pub(crate) done: Cell<bool>,
    /// It unwinds, or its body has ended: what it waits for now, it waits for
    /// in a destructor.
    pub(crate) unwinding: Cell<bool>,
    /// The handle that owned the result is gone.
    pub(crate) detached: Cell<bool>,
    /// `extra` is there.
    pub(crate) has_extra: Cell<bool>,
    /// A scope waits for its end, and for nothing less: see `Hub::abandon`.
    pub(crate) scoped: Cell<bool>,
    /// So many calls in a row have been answered with an error only because it
    /// is to end, or to leave a `timeout`: see `quiet`.
    pub(crate) refusals: Cell<u8>,
    /// It asked that threads that it makes be OS threads.
    pub(crate) os_threads: Cell<bool>,
    /// It asked that its blocking calls block the thread, so many times over.
    pub(crate) passing: Cell<u32>,
    /// Counts this task's waits, so that a late wake-up is recognised.
    pub(crate) token: Cell<u32>,
    /// The wait in progress; null while it does not wait.
    pub(crate) waiter: Cell<*const Waiter>,
    /// What the explicit switch in progress waits with; good while `Switched`.
    pub(crate) landing: Cell<*const Head>,
    // Then what only its beginning, its end and the curious touch.
    pub(crate) vtable: &'static VTable,
    /// Counted references; the hub's own, until the end, is one of them.
    pub(crate) refs: Cell<u32>,
    pub(crate) key: Cell<Key>,
    pub(crate) id: u64,
    /// How many greenlets of its hub had ended when it did, itself included.
    pub(crate) ended: Cell<u64>,
    pub(crate) stack_size: StackSize,
    pub(crate) spawned_at: &'static Location<'static>,
    /// It has been left where code that waits for a lock, or yields, gave the thread
    /// away.
    pub(super) midway: Cell<bool>,
    /// How often it has come too late for what it waits for by address.
    pub(super) in_vain: Cell<InVain>,
    /// Who waits for the end of this task.
    pub(crate) joiners: WaitQueue,
    pub(crate) extra: RefCell<Option<Box<Extra>>>,
}

impl Task {
    /// Gives `f` the rarely used part, making it first where it is missing.
    pub(crate) fn with_extra<R>(&self, f: impl FnOnce(&mut Extra) -> R) -> R {
        // The loop looks there too, whoever has been left in the middle of this.
        let _pass = PassThrough::enter();
        self.has_extra.set(true);
        f(self.extra.borrow_mut().get_or_insert_default())
    }

    /// Sets bits of `interrupts`.
    pub(crate) fn interrupt(&self, bits: u8) {
        self.interrupts.set(self.interrupts.get() | bits);
    }

    /// Clears bits of `interrupts`.
    pub(crate) fn clear_interrupt(&self, bits: u8) {
        self.interrupts.set(self.interrupts.get() & !bits);
        self.refusals.set(0);
    }

    /// What others know it by.
    pub(crate) fn key(&self) -> u64 {
        self.key.get().to_u64()
    }

    /// Whether this is its thread's main greenlet.
    pub(crate) fn is_main(&self) -> bool {
        std::ptr::eq(self, &*Hub::get().main())
    }

    /// Whether this is the greenlet that runs.
    pub(crate) fn is_current(&self) -> bool {
        std::ptr::eq(self, &*Hub::get().current())
    }

    /// As `write_name`, into a string.
    pub(crate) fn name(&self) -> String {
        let mut name = String::new();
        // Writing to a String does not fail.
        let _ = self.write_name(&mut name);
        name
    }

    /// The name given by the user, or `greenlet-ID`; the main greenlet is `main`.
    pub(crate) fn write_name(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        // As in `with_extra`: `out` may allocate.
        let _pass = PassThrough::enter();
        if let Ok(extra) = self.extra.try_borrow() {
            if let Some(name) = extra.as_ref().and_then(|extra| extra.name.as_deref()) {
                return out.write_str(name);
            }
        }
        if self.is_main() {
            return out.write_str("main");
        }
        write!(out, "greenlet-{}", self.id)
    }
}

/// The address of a task that is known to be alive.
///
/// Tasks are reached by address from the run queue, the timers and the waiters
/// of their own hub. Each of those drops the address before the task can end,
/// so following it is sound there; everybody else holds a [`TaskRef`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskPtr(pub(crate) NonNull<Task>);

impl std::ops::Deref for TaskPtr {
    type Target = Task;

    #[inline(always)]
    fn deref(&self) -> &Task {
        // SAFETY: the holder of a `TaskPtr` is one of the places named above,
        // which let go of it before the task's last reference does.
        unsafe { self.0.as_ref() }
    }
}

/// A counted reference to a task of this thread's hub.
pub(crate) struct TaskRef(TaskPtr);

impl TaskRef {
    /// Another reference to a living task.
    pub(crate) fn new(task: TaskPtr) -> TaskRef {
        // As for `Rc`: a count that went round would free what is in use.
        let Some(refs) = task.refs.get().checked_add(1) else {
            std::process::abort();
        };
        task.refs.set(refs);
        TaskRef(task)
    }

    /// Takes over a reference that has been counted already.
    pub(crate) fn adopt(task: TaskPtr) -> TaskRef {
        TaskRef(task)
    }

    pub(crate) fn ptr(&self) -> TaskPtr {
        self.0
    }
}

impl std::ops::Deref for TaskRef {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.0
    }
}

impl Clone for TaskRef {
    fn clone(&self) -> TaskRef {
        TaskRef::new(self.0)
    }
}

impl Drop for TaskRef {
    fn drop(&mut self) {
        release(self.0);
    }
}

impl PartialEq for TaskRef {
    fn eq(&self, other: &TaskRef) -> bool {
        self.0 == other.0
    }
}

impl Eq for TaskRef {}

/// Gives one counted reference back; the last one frees the block.
#[inline]
pub(crate) fn release(task: TaskPtr) {
    let refs = task.refs.get() - 1;
    task.refs.set(refs);
    if refs == 0 {
        // SAFETY: that was the last reference, and a task that is queued,
        // parked or running is referenced by its hub.
        unsafe { (task.vtable.destroy)(task) }
    }
}

/// Drops the values of a task's `greenlet_local!` variables, on its own stack,
/// the last one first. A destructor may use further variables for the first
/// time; those are dropped too. Whether there were any.
#[inline]
pub(crate) fn drop_locals(task: TaskPtr) -> bool {
    task.has_extra.get() && drop_locals_of(task)
}

#[cold]
fn drop_locals_of(task: TaskPtr) -> bool {
    let mut any = false;
    loop {
        let local = match task.extra.borrow_mut().as_mut() {
            Some(extra) => extra.locals.iter_mut().rev().find_map(Local::destroy),
            None => None,
        };
        match local {
            Some(local) => unwind::contain(move || drop(local)),
            None => return any,
        }
        any = true;
    }
}

/// The last thing that runs on a greenlet's stack: tells whoever asked to know
/// of its end, in this order: those who join, the groups, the links, the wakers.
#[inline]
pub(crate) fn finish(task: TaskPtr) {
    task.done.set(true);
    task.ended.set(Hub::get().count_end());
    task.joiners.wake_all();
    if task.has_extra.get() {
        tell(task);
    }
    domain::tell(task);
    task.state.set(State::Finished);
}

#[cold]
fn tell(task: TaskPtr) {
    let told = match task.extra.borrow_mut().as_mut() {
        Some(extra) => (
            std::mem::take(&mut extra.groups),
            std::mem::take(&mut extra.links),
            std::mem::take(&mut extra.wakers),
        ),
        None => Default::default(),
    };
    let (groups, links, wakers) = told;
    for group in groups {
        group.ended(&task);
    }
    for link in links {
        link.run();
    }
    for waker in wakers {
        unwind::contain(move || waker.wake());
    }
    // A waker is the user's code, and may have set some.
    drop_locals_of(task);
}

impl Link {
    /// Runs the callback in a greenlet of its own, where it may block. If the
    /// machine has no stack left for one, it runs on the caller's.
    pub(crate) fn run(self) {
        let call = self.call;
        let cell = Rc::new(Cell::new(Some(call)));
        let in_greenlet = Rc::clone(&cell);
        let run = move || {
            if let Some(call) = in_greenlet.take() {
                call();
            }
        };
        if Hub::get().spawn(SpawnOptions::new(), run).is_err() {
            if let Some(call) = cell.take() {
                unwind::contain(call);
            }
        }
    }
}
