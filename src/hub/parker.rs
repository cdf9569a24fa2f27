//! `Parker` and `Unparker`: waiting and waking for those who build their own.

use std::fmt;
use std::marker::PhantomData;
#[cfg(not(feature = "loom"))]
use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, Ordering},
};
#[cfg(not(feature = "loom"))]
use std::task::{Wake, Waker};
use std::time::Duration;

// tests/loom compiles this file a second time.
#[cfg(feature = "loom")]
use loom::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

use super::shared::HubShared;
use super::wait::{self, Kind, Reason, Woken};
use super::{Hub, report};
use crate::sys::clock;

/// Nobody waits, and no permit is there.
const EMPTY: u8 = 0;
/// The greenlet waits, or is about to.
const PARKED: u8 = 1;
/// A permit is there for the next `park`.
const NOTIFIED: u8 = 2;

/// Lets the greenlet that made it wait until an [`Unparker`] wakes it.
///
/// It works as [`std::thread::park`] does, with a permit of its own: an
/// `unpark` that comes first makes the next `park` return at once, and several
/// of them are one. What parks is the greenlet; the OS thread goes on with the
/// others. Every blocking call of this crate is built on this.
///
/// A `Parker` stays on its thread, and only the greenlet that made it may wait
/// with it.
///
/// # Examples
/// ```
/// let parker = greenlet::hub::Parker::new();
/// let unparker = parker.unparker();
/// std::thread::spawn(move || unparker.unpark());
/// parker.park();
/// ```
pub struct Parker {
    inner: Arc<Inner>,
    reason: Reason,
    kind: Kind,
    not_send: PhantomData<*const ()>,
}

/// Wakes the greenlet behind a [`Parker`], from any thread.
///
/// On the greenlet's own thread a wake-up is a push on the run queue; from
/// another thread it is a message to the hub. It is never run on the caller's
/// stack. After a fork, an `Unparker` of the parent does nothing in the child.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let parker = greenlet::hub::Parker::new();
/// let unparker = parker.unparker();
/// greenlet::spawn(move || unparker.unpark());
/// assert!(parker.park_timeout(Duration::from_secs(5)));
/// ```
#[derive(Clone)]
pub struct Unparker {
    inner: Arc<Inner>,
}

struct Inner {
    state: AtomicU8,
    hub: Arc<HubShared>,
    task: u64,
    /// The token of the wait in progress.
    token: AtomicU32,
}

impl Parker {
    /// A parker for the current greenlet.
    #[must_use]
    pub fn new() -> Parker {
        Parker::for_reason(Reason::new("parked"), Kind::Shared)
    }

    /// A parker that the outside wakes: as long as it waits, nobody takes its
    /// hub for deadlocked.
    pub(crate) fn for_outside(reason: Reason) -> Parker {
        Parker::for_reason(reason, Kind::External)
    }

    /// A parker for a wait that ends as `kind` says.
    pub(crate) fn for_reason(reason: Reason, kind: Kind) -> Parker {
        let hub = Hub::get();
        Parker {
            inner: Arc::new(Inner {
                state: AtomicU8::new(EMPTY),
                hub: hub.shared(),
                task: hub.current().key.get().to_u64(),
                token: AtomicU32::new(0),
            }),
            reason,
            kind,
            not_send: PhantomData,
        }
    }

    /// A handle that wakes this parker's greenlet.
    #[must_use]
    pub fn unparker(&self) -> Unparker {
        Unparker {
            inner: Arc::clone(&self.inner),
        }
    }

    /// Parks the current greenlet until somebody calls [`Unparker::unpark`].
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nothing could ever wake
    /// it; and if it is called by another greenlet than the one that made it.
    pub fn park(&self) {
        if self.wait(None) == Woken::Deadlock {
            report::panic_deadlock();
        }
    }

    /// As [`park`](Parker::park), for at most `timeout`; false if nobody came.
    ///
    /// # Panics
    /// If it is called by another greenlet than the one that made it.
    pub fn park_timeout(&self, timeout: Duration) -> bool {
        self.wait(Some(clock::deadline_after(timeout)))
            .is_answered()
    }

    /// Takes the permit, if an `unpark` has left one.
    pub(crate) fn take_permit(&self) -> bool {
        let inner = &*self.inner;
        let taken =
            inner
                .state
                .compare_exchange(NOTIFIED, EMPTY, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok()
    }

    /// As `park`, until the deadline, and says how it ended.
    pub(crate) fn wait(&self, deadline: Option<u64>) -> Woken {
        wait::or_throw(self.try_wait(deadline, true))
    }

    /// As `wait`, and None where that would unwind.
    pub(super) fn try_wait(&self, deadline: Option<u64>, interruptible: bool) -> Option<Woken> {
        let inner = &*self.inner;
        let task = Hub::get().current();
        assert_eq!(
            task.key.get().to_u64(),
            inner.task,
            "a Parker parks only the greenlet that made it"
        );
        // Whichever way this wait is left, the next one starts afresh; a
        // permit that came too late for this one is kept for it.
        let _guard = Leave(inner);
        loop {
            if inner.state.swap(EMPTY, Ordering::Acquire) == NOTIFIED {
                return Some(Woken::Answered(0));
            }
            let woken =
                wait::try_pause(self.reason, self.kind, deadline, interruptible, |waiter| {
                    inner.token.store(waiter.token(), Ordering::Relaxed);
                    let parked = inner.state.compare_exchange(
                        EMPTY,
                        PARKED,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                    if parked.is_err() {
                        waiter.answer_now(0);
                    }
                })?;
            if inner.state.swap(EMPTY, Ordering::Acquire) == NOTIFIED {
                return Some(Woken::Answered(0));
            }
            if !woken.is_answered() {
                return Some(woken);
            }
            // A thread that was slow to wake an earlier wait, whose permit was
            // taken long ago, has found this one instead.
        }
    }
}

/// Marks the parker as not waiting, when its wait is left by an unwinding too.
struct Leave<'a>(&'a Inner);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let _ = self
            .0
            .state
            .compare_exchange(PARKED, EMPTY, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Default for Parker {
    fn default() -> Parker {
        Parker::new()
    }
}

impl fmt::Debug for Parker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parker").finish_non_exhaustive()
    }
}

impl Unparker {
    /// Wakes the greenlet, or leaves it a permit. May be called any number of
    /// times, from any thread, also when the greenlet has long ended.
    pub fn unpark(&self) {
        self.inner.unpark();
    }
}

impl Inner {
    fn unpark(&self) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) != PARKED {
            return;
        }
        let address = (self.task, self.token.load(Ordering::Relaxed));
        match Hub::try_current() {
            Some(hub) if std::ptr::eq(hub.shared_ptr(), &*self.hub) => {
                hub.notified(address.0, address.1);
            }
            _ => self.hub.push(address),
        }
    }
}

#[cfg(not(feature = "loom"))]
impl Wake for Inner {
    fn wake(self: Arc<Inner>) {
        self.unpark();
    }

    fn wake_by_ref(self: &Arc<Inner>) {
        self.unpark();
    }
}

/// The waker of a future that a greenlet polls between two parks.
#[cfg(not(feature = "loom"))]
impl From<Unparker> for Waker {
    fn from(unparker: Unparker) -> Waker {
        Waker::from(unparker.inner)
    }
}

impl fmt::Debug for Unparker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unparker").finish_non_exhaustive()
    }
}
