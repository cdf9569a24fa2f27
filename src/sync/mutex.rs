//! `Mutex`: a value that one greenlet at a time may change.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::hub::{Exclusive, Owned, Reason, Wait};
use crate::sys::clock;

const REASON: Reason = Reason::new("waiting for a mutex");

/// A value that one greenlet at a time may use, on whatever thread.
///
/// It is [`std::sync::Mutex`], except that a greenlet that waits lets the others
/// of its thread go on, that the lock is handed to the first who waits, and that
/// nothing is ever poisoned. A guard may be held across calls that block.
///
/// A greenlet that locks what it has locked waits for itself, as a thread does
/// with std's; see [`RLock`](crate::sync::RLock).
///
/// # Examples
/// ```
/// use greenlet::{joinall, spawn, sync::Mutex, yield_now};
/// use std::sync::Arc;
///
/// let total = Arc::new(Mutex::new(0));
/// let adders = (0..10).map(|n| {
///     let total = total.clone();
///     spawn(move || {
///         let mut total = total.lock();
///         let before = *total;
///         yield_now(); // nobody comes between
///         *total = before + n;
///     })
/// });
/// joinall(adders);
/// assert_eq!(*total.lock(), 45);
/// ```
#[doc(alias = "Lock")]
pub struct Mutex<T: ?Sized> {
    value: Exclusive<T>,
}

/// The value of a [`Mutex`]; dropping it hands the lock on.
#[must_use = "a guard that is dropped unlocks at once"]
pub struct MutexGuard<'a, T: ?Sized> {
    pub(super) owned: Owned<'a, T>,
}

impl<T> Mutex<T> {
    /// A mutex that nobody has locked.
    #[must_use]
    pub const fn new(value: T) -> Mutex<T> {
        Mutex {
            value: Exclusive::new(value),
        }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Locks it, and waits until that is possible.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody could ever unlock it.
    #[inline]
    #[doc(alias = "acquire")]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.value.lock(|| Wait::shared(REASON, None)) {
            Some(owned) => MutexGuard { owned },
            None => unreachable!("a wait without a limit of time"),
        }
    }

    /// Locks it if nobody has.
    ///
    /// # Examples
    /// ```
    /// let mutex = greenlet::sync::Mutex::new(());
    /// let guard = mutex.lock();
    /// assert!(mutex.try_lock().is_none());
    /// drop(guard);
    /// assert!(mutex.try_lock().is_some());
    /// ```
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.value.try_lock().map(|owned| MutexGuard { owned })
    }

    /// Locks it, and waits for at most `timeout`.
    pub fn lock_timeout(&self, timeout: Duration) -> Option<MutexGuard<'_, T>> {
        let deadline = Some(clock::deadline_after(timeout));
        self.value
            .lock(|| Wait::shared(REASON, deadline))
            .map(|owned| MutexGuard { owned })
    }

    /// The value, which nobody else can have.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<'a, T: ?Sized> MutexGuard<'a, T> {
    /// Locks again after a wait, during which a kill may have come: it waits.
    pub(super) fn lock_again(value: &'a Exclusive<T>) -> MutexGuard<'a, T> {
        match value.lock(|| Wait::uninterrupted(REASON)) {
            Some(owned) => MutexGuard { owned },
            None => unreachable!("a wait without a limit of time"),
        }
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.owned
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.owned
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Mutex<T> {
        Mutex::new(T::default())
    }
}

impl<T> From<T> for Mutex<T> {
    fn from(value: T) -> Mutex<T> {
        Mutex::new(value)
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(guard) => f.debug_struct("Mutex").field("value", &&*guard).finish(),
            None => f
                .debug_struct("Mutex")
                .field("value", &format_args!("<locked>"))
                .finish(),
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
