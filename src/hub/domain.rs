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
use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::task::{self, AtEnd, TaskPtr};
use super::wait_queue::WaitQueue;
use super::{HUB, Hub, cell, end, unwind};
use crate::coroutine::tls::{self, Base, TlsBlock};
use crate::error::{IsolationError, SpawnError};
use crate::sys::mark::{self, Mark};
use crate::sys::pass::{self, PassThrough};

/// One isolated greenlet's thread-local storage, and who belongs to it.
pub(crate) struct Domain {
    /// Freed with the domain, when the last member has retired.
    block: TlsBlock,
    tid: u32,
    owner: Cell<Option<TaskPtr>>,
    /// Tasks that run on the block, or will.
    members: Cell<usize>,
    /// The owner waits here until it is the only one.
    alone: WaitQueue,
    /// Its destructors run, or have run.
    ending: Cell<bool>,
    /// A member waits as its thread would: see `Hub::wait_as_thread`.
    waits: Cell<bool>,
    attachment: OnceCell<Box<dyn Attachment>>,
    /// Who is told of the owner's end.
    told: OnceCell<Arc<dyn AtEnd>>,
}

/// What another room keeps of each domain.
pub(crate) trait Attachment: Any {
    fn as_any(&self) -> &dyn Any;

    /// Lets go of all that is the user's: the domain ends.
    fn clear(&self);
}

/// The address of a domain; good for as long as it has members.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct DomainPtr(NonNull<Domain>);

impl std::ops::Deref for DomainPtr {
    type Target = Domain;

    #[inline(always)]
    fn deref(&self) -> &Domain {
        // SAFETY: only tasks have such an address, and those of them that have not
        // retired keep the domain; nobody asks the others.
        unsafe { self.0.as_ref() }
    }
}

impl Domain {
    #[inline(always)]
    pub(super) fn base(&self) -> Base {
        self.block.base()
    }

    pub(super) fn set_told(&self, told: Arc<dyn AtEnd>) {
        // It is set once, by who has made it.
        let _ = self.told.set(told);
    }

    pub(super) fn is_owner(&self, task: TaskPtr) -> bool {
        self.owner.get() == Some(task)
    }

    /// Of its members one is in this process, which has been forked.
    pub(super) fn only_one_is_left(&self) {
        self.members.set(1);
        self.waits.set(false);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.get()
    }

    pub(super) fn enter(&self) {
        self.members.set(self.members.get() + 1);
    }

    pub(super) fn attachment(&self) -> &OnceCell<Box<dyn Attachment>> {
        &self.attachment
    }
}

/// Whether this process can have isolated greenlets.
pub(crate) fn isolation() -> Result<(), IsolationError> {
    tls::support()
}

// Numbers beyond those of the kernel's threads, of which there are never more than
// 2^22, and within those that a lock's word has room for.
const FIRST_TID: u32 = (1 << 22) + 1;
const LAST_TID: u32 = (1 << 30) - 2;

/// The thread ids that this hub's isolated greenlets have had, to be used again.
pub(super) struct Tids(RefCell<Vec<u32>>);

impl Tids {
    pub(super) const fn new() -> Tids {
        Tids(RefCell::new(Vec::new()))
    }

    /// One that nobody has who is alive.
    fn take(&self) -> Result<u32, IsolationError> {
        static NEXT: AtomicU32 = AtomicU32::new(FIRST_TID);
        if let Some(tid) = self.0.borrow_mut().pop() {
            return Ok(tid);
        }
        let next = |tid: u32| (tid < LAST_TID).then_some(tid + 1);
        NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map_err(|_| IsolationError::TooMany)
    }

    fn give(&self, tid: u32) {
        self.0.borrow_mut().push(tid);
    }
}

impl Hub {
    /// Makes a greenlet with thread-local storage of its own, and queues it.
    ///
    /// The body and what it returns must be `Send`, although nobody here can ask that
    /// of them: they meet two domains.
    pub(crate) fn spawn_isolated(
        &self,
        options: super::SpawnOptions,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<super::Handle<()>, SpawnError> {
        let domain = self.make_domain()?;
        let handle = match self.create_task_in(options, Some(domain), body) {
            Ok(handle) => handle,
            Err(error) => {
                domain.enter();
                self.leave_domain(domain);
                return Err(error);
            }
        };
        domain.owner.set(Some(handle.task().ptr()));
        self.make_ready(handle.task().ptr());
        Ok(handle)
    }

    fn make_domain(&self) -> Result<DomainPtr, SpawnError> {
        // The loader has locks of its own meanwhile.
        let _pass = PassThrough::enter();
        let tid = self.tids.take()?;
        let block = TlsBlock::new(tid).inspect_err(|_| self.tids.give(tid))?;
        let inherited = Inherited {
            hub: self,
            mark: mark::get(),
        };
        // SAFETY: the block is alive and this thread's; what is called takes this
        // argument, sets variables, and does nothing else.
        unsafe {
            tls::on_base(
                block.base(),
                inherit,
                (&raw const inherited).cast_mut().cast(),
            )
        };
        let domain = Box::new(Domain {
            block,
            tid,
            owner: Cell::new(None),
            members: Cell::new(0),
            alone: WaitQueue::new(),
            ending: Cell::new(false),
            waits: Cell::new(false),
            attachment: OnceCell::new(),
            told: OnceCell::new(),
        });
        Ok(DomainPtr(NonNull::from(Box::leak(domain))))
    }

    /// A member has retired; the last one takes the domain with it. On the loop's own
    /// stack.
    #[cold]
    pub(super) fn leave_domain(&self, domain: DomainPtr) {
        // Whatever frees memory must not park here, on the loop's own frame.
        let _pass = PassThrough::enter();
        let left = domain.members.get() - 1;
        domain.members.set(left);
        match left {
            // It was not alone when it ended: see `end_domain`.
            0 if domain.owner.get().is_some() && !domain.is_ending() => {}
            0 => {
                self.tids.give(domain.tid);
                // SAFETY: it was leaked by `make_domain`, and had this last member.
                drop(unsafe { Box::from_raw(domain.0.as_ptr()) });
            }
            1 => {
                domain.alone.wake_all();
            }
            _ => {}
        }
    }

    /// Whether this greenlet is the only one on its thread-locals, so that what others
    /// do meanwhile does not touch them.
    pub(super) fn is_alone(task: TaskPtr) -> bool {
        task.domain.is_some_and(|domain| domain.members.get() == 1)
    }

    /// Lets the current greenlet wait in what belongs to its *thread*, of which there
    /// may be one such wait at a time: only in a domain, and if no other member waits
    /// so. Until what is returned is dropped.
    pub(crate) fn wait_as_thread(&self) -> Option<WaitsAsThread> {
        let domain = self.current().domain?;
        (!domain.waits.replace(true)).then_some(WaitsAsThread(domain))
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
pub(crate) struct WaitsAsThread(DomainPtr);

impl Drop for WaitsAsThread {
    fn drop(&mut self) {
        self.0.waits.set(false);
    }
}

/// What a new domain's variables of this crate are to be.
struct Inherited {
    hub: *const Hub,
    mark: Mark,
}

/// On the new block. All other variables of this crate begin as on a new thread.
extern "C" fn inherit(inherited: *mut c_void) {
    // SAFETY: the caller's variable.
    let inherited = unsafe { &*inherited.cast::<Inherited>() };
    HUB.set(inherited.hub);
    mark::set(inherited.mark);
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

/// The greenlet has ended: tells who wants to know, if it is isolated.
#[inline]
pub(super) fn tell(task: TaskPtr) {
    if let Some(domain) = task.domain {
        if domain.is_owner(task) {
            if let Some(told) = domain.told.get() {
                told.ended(&task);
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
    // User code may be in it, or in what it drops.
    let clear = || {
        if let Some(attachment) = domain.attachment.get() {
            unwind::contain(|| attachment.clear());
        }
    };
    clear();
    if domain.members.get() > 1 {
        // Somebody goes on, or was given up in the middle, and may have references
        // into thread-locals: these stay for ever.
        return;
    }
    domain.ending.set(true);
    // SAFETY: the greenlet runs on this block, and nobody else does; those who are
    // spawned from now on never will. What its frames further up still do is ours.
    unsafe { tls::run_down() };
    clear();
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
