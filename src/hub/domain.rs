//! Domains of thread-local storage: the OS thread's, and one for each isolated
//! greenlet.
//!
//! A stack keeps one thread pointer for life. A light greenlet belongs to the domain
//! of the greenlet that has spawned it:
//!
//! ```text
//!   OS thread's block       ◀── main greenlet, the hub's loop, light greenlets
//!   block of isolated A     ◀── A, and light greenlets that it has spawned
//!   block of isolated B     ◀── B
//! ```
//!
//! So for the code in it an isolated greenlet is a thread, with a main greenlet (its
//! *owner*) and others, and it ends as a thread does that calls `hub::shutdown`:
//!
//! ```text
//!   the owner's function has ended
//!     ▼
//!   the other members are killed, and awaited    ── one refuses to end ──▶ the block
//!     ▼                                             stays, its destructors do not run
//!   destructors of thread-locals and keys        (may block; who is spawned
//!     ▼                                           here never runs, see below)
//!   those who join are told; the block is freed by the loop, with the last member
//! ```
//!
//! While the destructors run, nobody else may run in the domain: it could have a
//! reference into a thread-local that is destroyed next. So a greenlet that is spawned
//! there is killed before its first turn, by the very call that spawns it.

use std::any::Any;
use std::cell::{Cell, OnceCell};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use super::seat::Seat;
use super::task::{self, AtEnd, Task, TaskPtr, TaskRef};
use super::wait_queue::WaitQueue;
use super::{Hub, cell, end, unwind};
use crate::coroutine::tls::{self, Base};
use crate::error::{IsolationError, SpawnError};
use crate::sys::pass::{self, PassThrough};

/// One isolated greenlet's thread-local storage, and who belongs to it.
pub(crate) struct Domain {
    /// Given back with the domain, when the last member has retired.
    seat: Seat,
    /// Counted, so that no later greenlet is taken for it.
    owner: OnceCell<TaskRef>,
    /// Tasks that run on the block, or will.
    members: Cell<usize>,
    /// The owner waits here until it is the only one.
    alone: WaitQueue,
    /// Its destructors run, or have run.
    ending: Cell<bool>,
    /// Its owner is a thread, for all but the hub.
    thread: Cell<bool>,
    /// A member waits as its thread would: see `Hub::wait_as_thread`.
    waits: Cell<bool>,
    attachment: OnceCell<Box<dyn Attachment>>,
    /// Who is told of the owner's end.
    told: OnceCell<Arc<dyn AtEnd>>,
}

/// What another room keeps of each domain.
pub(crate) trait Attachment: Any {
    fn as_any(&self) -> &dyn Any;

    /// Lets go of all that is the user's: the domain ends. Where it
    /// [has ended](Hub::is_running_down) nothing is to be kept any more.
    fn clear(&self);
}

/// The address of a domain; good for as long as it has members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DomainPtr {
    domain: NonNull<Domain>,
    /// Here too, beside what else each switch touches: the way through the domain would
    /// cost two cache lines.
    base: Base,
}

impl DomainPtr {
    /// The thread pointer of its members.
    #[inline(always)]
    pub(super) fn base(self) -> Base {
        self.base
    }
}

impl std::ops::Deref for DomainPtr {
    type Target = Domain;

    #[inline(always)]
    fn deref(&self) -> &Domain {
        // SAFETY: only tasks have such an address, and those of them that have not
        // retired keep the domain; nobody asks the others.
        unsafe { self.domain.as_ref() }
    }
}

impl Domain {
    pub(super) fn is_owner(&self, task: TaskPtr) -> bool {
        self.owner.get().is_some_and(|owner| owner.ptr() == task)
    }

    /// Of its members one is in this process, which has been forked.
    pub(super) fn only_one_is_left(&self) {
        self.members.set(1);
        self.waits.set(false);
    }

    pub(super) fn set_thread(&self) {
        self.thread.set(true);
    }

    pub(super) fn is_thread(&self) -> bool {
        self.thread.get()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.get()
    }

    pub(super) fn attachment(&self) -> &OnceCell<Box<dyn Attachment>> {
        &self.attachment
    }
}

/// Whether glibc's locks know an isolated greenlet by this number, of whatever thread.
#[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
pub(crate) fn is_isolated_number(number: u32) -> bool {
    tls::TIDS.contains(&number)
}

/// Whether this process can have isolated greenlets.
pub(crate) fn isolation() -> Result<(), IsolationError> {
    tls::support()
}

impl Hub {
    /// Makes a greenlet with thread-local storage of its own, and queues it.
    ///
    /// The body and what it returns must be `Send`, although nobody here can ask that
    /// of them: they meet two domains. Who is told of its end is made by `told`.
    pub(crate) fn spawn_isolated<A: AtEnd + 'static>(
        &self,
        seat: Seat,
        options: super::SpawnOptions,
        body: impl FnOnce() + Send + 'static,
        told: impl FnOnce(&Task) -> Arc<A>,
    ) -> Result<Arc<A>, SpawnError> {
        let domain = self.make_domain(seat);
        let handle = match self.create_task_in(options, Some(domain), body) {
            Ok(handle) => handle,
            Err(error) => {
                self.enter_domain(domain);
                self.leave_domain(domain);
                return Err(error);
            }
        };
        // The hub knows it, and others could kill it now, or run it soon: an allocator
        // that would park has to block.
        let _pass = PassThrough::enter();
        let task = handle.task();
        // It has none yet.
        let _ = domain.owner.set(task.clone());
        let told = told(task);
        let _ = domain.told.set(Arc::<A>::clone(&told));
        self.make_ready(task.ptr());
        Ok(told)
    }

    fn make_domain(&self, seat: Seat) -> DomainPtr {
        seat.bring_to(self);
        let domain = Box::new(Domain {
            seat,
            owner: OnceCell::new(),
            members: Cell::new(0),
            alone: WaitQueue::new(),
            ending: Cell::new(false),
            thread: Cell::new(false),
            waits: Cell::new(false),
            attachment: OnceCell::new(),
            told: OnceCell::new(),
        });
        let base = domain.seat.base();
        DomainPtr {
            domain: NonNull::from(Box::leak(domain)),
            base,
        }
    }

    /// A task is to run in the domain.
    pub(super) fn enter_domain(&self, domain: DomainPtr) {
        domain.members.set(domain.members.get() + 1);
        self.isolated.set(self.isolated.get() + 1);
    }

    /// A member has retired; the last one takes the domain with it. On the loop's own
    /// stack.
    #[cold]
    pub(super) fn leave_domain(&self, domain: DomainPtr) {
        // Whatever frees memory must not park here, on the loop's own frame.
        let _pass = PassThrough::enter();
        let left = domain.members.get() - 1;
        domain.members.set(left);
        self.isolated.set(self.isolated.get() - 1);
        match left {
            // It was not alone when it ended: see `end_domain`.
            0 if domain.owner.get().is_some() && !domain.is_ending() => {}
            0 => {
                // SAFETY: it was leaked by `make_domain`, and had this last member.
                drop(unsafe { Box::from_raw(domain.domain.as_ptr()) });
            }
            1 => {
                domain.alone.wake_all();
            }
            _ => {}
        }
    }

    /// The main greenlet of those on the caller's thread-locals: the thread's, or the
    /// owner of the domain, which may have ended.
    pub(crate) fn main_here(&self) -> TaskPtr {
        let owner = |domain: DomainPtr| domain.owner.get().map(TaskRef::ptr);
        let domain = self.current().domain;
        domain.and_then(owner).unwrap_or(self.main())
    }

    /// Whether the caller's thread-locals are being destroyed, in a greenlet's own
    /// domain: nobody else will run there.
    pub(crate) fn is_running_down(&self) -> bool {
        let domain = self.current().domain;
        domain.is_some_and(|domain| domain.is_ending())
    }

    /// Whether this greenlet is the only one on its thread-locals, so that what others
    /// do meanwhile does not touch them.
    pub(super) fn is_alone(&self, task: TaskPtr) -> bool {
        let members = match task.domain {
            Some(domain) => domain.members.get(),
            None => self.tasks.borrow().len() - self.isolated.get(),
        };
        members == 1
    }

    /// As `is_alone`, of the current greenlet. Who is alone stays so as long as it waits:
    /// it is the members of a domain who spawn others in it.
    #[cfg(feature = "monkey")]
    pub(crate) fn is_alone_here(&self) -> bool {
        self.is_alone(self.current())
    }

    /// Whether other greenlets run on the current one's thread-locals, or the loop does,
    /// as on the thread's own.
    #[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
    pub(crate) fn shares_thread_locals(&self) -> bool {
        self.current().domain.is_none() || !self.is_alone_here()
    }

    /// Whether glibc's locks know a greenlet of this thread by this number.
    #[cfg(all(feature = "monkey", not(target_feature = "crt-static")))]
    pub(crate) fn is_known_as(&self, number: u32) -> bool {
        if !is_isolated_number(number) {
            return number == self.os_thread() as u32;
        }
        let is_its = |task: &TaskPtr| {
            task.domain
                .is_some_and(|domain| domain.seat.tid() == number)
        };
        self.tasks.borrow().iter().any(is_its)
    }

    /// Lets the current greenlet wait in what belongs to its *thread*, of which there
    /// may be one such wait at a time, until what is returned is dropped: only in a
    /// domain in which no other member waits so. On the thread's own thread-locals only
    /// who is alone there, and stays so: it is the members who spawn others.
    pub(crate) fn wait_as_thread(&self) -> Option<WaitsAsThread> {
        let task = self.current();
        match task.domain {
            Some(domain) => (!domain.waits.replace(true)).then_some(WaitsAsThread(Some(domain))),
            None => self.is_alone(task).then_some(WaitsAsThread(None)),
        }
    }

    /// Whether the caller runs on other thread-locals than its OS thread's own.
    pub(crate) fn is_isolated() -> bool {
        Hub::try_current().is_some_and(|hub| hub.home != tls::current())
    }

    /// Calls a function on the OS thread's own thread-locals, if the caller is on
    /// others. False, and nothing was called, if it is not.
    ///
    /// # Safety
    /// The function takes this argument, and neither unwinds nor blocks by parking.
    pub(crate) unsafe fn on_thread(
        function: unsafe extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) -> bool {
        let Some(hub) = Hub::try_current() else {
            return false;
        };
        if hub.home == tls::current() {
            return false;
        }
        // SAFETY: the thread's own block lives as long as it does; the rest is the
        // caller's promise.
        unsafe { tls::on_base(hub.home, function, argument) };
        true
    }
}

/// See `Hub::wait_as_thread`.
pub(crate) struct WaitsAsThread(Option<DomainPtr>);

impl Drop for WaitsAsThread {
    fn drop(&mut self) {
        if let Some(domain) = self.0 {
            domain.waits.set(false);
        }
    }
}

/// The last thing that a greenlet does in its domain, if that is its own.
#[inline]
pub(super) fn leave(task: TaskPtr) {
    if let Some(domain) = task.domain {
        if domain.is_owner(task) {
            end_domain(Hub::get(), domain, task);
        }
    }
}

/// Whoever makes a thread relies on it that it begins.
pub(super) fn begins_in_any_case(task: TaskPtr) -> bool {
    task.domain
        .is_some_and(|domain| domain.is_thread() && domain.is_owner(task))
}

/// The greenlet has ended: tells who wants to know, if it is isolated.
#[inline]
pub(super) fn tell(task: TaskPtr) {
    if let Some(domain) = task.domain {
        if domain.is_owner(task) {
            if let Some(told) = domain.told.get() {
                told.ended(&task);
            }
            if domain.is_thread() {
                Hub::get().threads.one_has_ended();
            }
        }
    }
}

#[cold]
fn end_domain(hub: &Hub, domain: DomainPtr, owner: TaskPtr) {
    // It ends by itself. A kill that was thrown into the destructor of a thread-local
    // would end the process.
    owner.clear_interrupt(task::PENDING);
    owner.interrupt(task::KILLED);
    // They are looked for among all of the hub's.
    if domain.members.get() > 1 {
        let is_member = |task: TaskPtr| task.domain == Some(domain) && task != owner;
        end::end_all(hub, is_member, |reason, deadline| {
            domain
                .alone
                .park(reason, super::Kind::External, Some(deadline), false);
        });
    }
    // Somebody may go on, or was given up in the middle, and may have references into
    // thread-locals: then these stay for ever.
    let alone = domain.members.get() == 1;
    domain.ending.set(alone);
    // User code may be in it, or in what it drops.
    if let Some(attachment) = domain.attachment.get() {
        unwind::contain(|| attachment.clear());
    }
    if !alone {
        return;
    }
    loop {
        // SAFETY: the greenlet runs on this block, and nobody else does; those who are
        // spawned from now on never will. What its frames further up still do is ours.
        unsafe { tls::run_down() };
        // A destructor may have used further variables of the greenlet's own, and their
        // values may use thread-locals.
        if !task::drop_locals(owner) {
            return;
        }
    }
}

/// The first turn of a greenlet that is spawned while thread-locals are destroyed: it
/// has none. What it has captured is dropped here and now.
pub(super) fn refuse<F, T>(hub: &Hub, spec: cell::Spec, body: F) -> super::Handle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let handle = cell::create(hub, spec, body);
    let task = handle.task().ptr();
    task.interrupt(task::KILL);
    // Who spawns may hold guards, and the destructors are the user's.
    // SAFETY: it runs once, and does not get as far as to need a stack.
    pass::without_guards(|| unsafe { (task.vtable.run)(task) });
    // The hub's reference; the handle has another.
    task::release(task);
    handle
}
