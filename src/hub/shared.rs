//! The part of a hub that other threads may touch.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::Arrivals;
use super::inbox::{Inbox, Message};
use super::own::Bell;
use super::reactor::Outlet;
use crate::sys::pass::PassThrough;
use crate::sys::{fork, spin};

/// Lives as long as the last waiter or `Unparker` that may refer to it, which
/// can be longer than the hub itself.
pub(crate) struct HubShared {
    pub(crate) number: u64,
    /// The process it belongs to: a fork's child must not touch the parent's
    /// epoll set, which it shares.
    fork: u32,
    closed: AtomicBool,
    /// How many threads are about to tell it something, and have no count of it: see
    /// `Visit`.
    visitors: AtomicU32,
    /// So often the thread, or one of its domains, waits by address, greenlets and all.
    pub(super) blocked: AtomicUsize,
    /// How often greenlets have been woken by address, and how often one of them has
    /// gone on since.
    pub(super) woken: AtomicUsize,
    pub(super) went_on: AtomicUsize,
    /// What `woken` was when others were last woken in their stead.
    pub(super) relieved: AtomicUsize,
    pub(crate) inbox: Inbox<Bell>,
    /// Greenlets that have been woken by address.
    pub(super) arrivals: Arrivals,
    /// For taking descriptors out of the reactor from another thread.
    outlet: Mutex<Option<Outlet>>,
    /// Descriptors that other threads have closed, with their owners.
    retired: Mutex<Vec<(RawFd, u64)>>,
    /// There are some, which the hub may have to hear of before it comes to them.
    has_retired: AtomicBool,
    /// Greenlets that other threads want killed, by their keys.
    kills: Mutex<Vec<u64>>,
}

/// The key of no greenlet: a message to it says that `retired` has grown.
const NOBODY: u64 = u64::MAX;

impl HubShared {
    pub(crate) fn new(number: u64) -> Arc<HubShared> {
        Arc::new(HubShared {
            number,
            fork: fork::generation(),
            closed: AtomicBool::new(false),
            visitors: AtomicU32::new(0),
            blocked: AtomicUsize::new(0),
            woken: AtomicUsize::new(0),
            went_on: AtomicUsize::new(0),
            relieved: AtomicUsize::new(0),
            inbox: Inbox::new(),
            arrivals: Arrivals::new(),
            outlet: Mutex::new(None),
            retired: Mutex::new(Vec::new()),
            has_retired: AtomicBool::new(false),
            kills: Mutex::new(Vec::new()),
        })
    }

    /// Whether nobody will ever read this inbox: its thread has ended, or it
    /// belongs to the process that we were forked from.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.fork != fork::generation()
    }

    /// From here on nobody tells it anything. To be called before the hub gives its count
    /// back: waits for those who are about to, which takes some nanoseconds.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let mut tries = 0;
        while self.visitors.load(Ordering::Acquire) != 0 && self.fork == fork::generation() {
            tries += 1;
            spin::a_moment(tries);
        }
    }

    /// Hands a wake-up to the hub. Without effect once it is closed.
    pub(crate) fn push(&self, (key, token): (u64, u32)) {
        if !self.is_closed() {
            let _pass = PassThrough::enter();
            self.inbox.push(Message { key, token });
        }
    }

    /// Leaves a note that a descriptor was closed. The hub finds it when it
    /// meets a message for a greenlet that does not exist.
    pub(crate) fn push_retired(&self, fd: RawFd, owner: u64) {
        let _pass = PassThrough::enter();
        self.retired().push((fd, owner));
        self.has_retired.store(true, Ordering::Release);
        self.push((NOBODY, 0));
    }

    /// Whether there is a note of anything that was closed before now, by whoever has
    /// told this thread so.
    #[inline]
    pub(super) fn has_retired(&self) -> bool {
        self.has_retired.load(Ordering::Acquire)
    }

    pub(crate) fn take_retired(&self) -> Vec<(RawFd, u64)> {
        self.has_retired.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.retired())
    }

    pub(super) fn outlet(&self) -> MutexGuard<'_, Option<Outlet>> {
        self.outlet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the descriptor is one of those that the hub itself has.
    pub(super) fn stands_on(&self, fd: RawFd) -> bool {
        self.inbox.waker().is_some_and(|bell| bell.fd() == fd)
            || matches!(&*self.outlet(), Some(outlet) if outlet.is_one_of(fd))
    }

    /// Has a greenlet killed, when the hub comes to it.
    pub(super) fn push_kill(&self, key: u64) {
        if self.is_closed() {
            return;
        }
        let _pass = PassThrough::enter();
        self.kills().push(key);
        self.push((NOBODY, 0));
    }

    pub(super) fn take_kills(&self) -> Vec<u64> {
        std::mem::take(&mut *self.kills())
    }

    fn kills(&self) -> MutexGuard<'_, Vec<u64>> {
        self.kills.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retired(&self) -> MutexGuard<'_, Vec<(RawFd, u64)>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a hub's shared part from being freed, without a count of it: the last one to give
/// such a count back frees memory, and who wakes others by address may be an allocator that
/// has just let go of its lock, or a signal handler.
pub(super) struct Visit(*const HubShared);

impl Visit {
    /// # Safety
    /// The hub is there: a greenlet of it waits, and is kept from going on.
    pub(super) unsafe fn begin(hub: *const HubShared) -> Visit {
        // SAFETY: the caller's promise. `close` comes before it is freed, and either finds
        // us counted, or we find it closed.
        unsafe { &*hub }.visitors.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Visit(hub)
    }
}

impl std::ops::Deref for Visit {
    type Target = HubShared;

    fn deref(&self) -> &HubShared {
        // SAFETY: it is not freed before we have gone.
        unsafe { &*self.0 }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.visitors.fetch_sub(1, Ordering::Release);
    }
}

impl std::fmt::Debug for HubShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubShared")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
