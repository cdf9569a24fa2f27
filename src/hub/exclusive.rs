//! `Exclusive`: a value that one greenlet at a time may change, whatever thread
//! it is on. What `sync::Mutex` is made of, kept here because of its `unsafe`.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::Woken;
use super::monitor::{Guard, Guarded, Monitor, Wait};

pub(crate) struct Exclusive<T: ?Sized> {
    monitor: Monitor<Held, 1>,
    value: UnsafeCell<T>,
}

/// Whether somebody has the value. It stays true while it is handed on.
struct Held(bool);

impl Guarded for Held {}

// SAFETY: one greenlet at a time has the value, so it moves from thread to
// thread but is never used by two at once.
unsafe impl<T: ?Sized + Send> Sync for Exclusive<T> {}

/// The value of an [`Exclusive`], until it is dropped.
pub(crate) struct Owned<'a, T: ?Sized> {
    exclusive: &'a Exclusive<T>,
    /// As std's guard: it is dropped on the thread that has locked.
    not_send: PhantomData<*const ()>,
}

// SAFETY: by reference it gives `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for Owned<'_, T> {}

impl<T> Exclusive<T> {
    pub(crate) const fn new(value: T) -> Exclusive<T> {
        Exclusive {
            monitor: Monitor::new(Held(false)),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Exclusive<T> {
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    /// None: the time is up.
    #[inline]
    pub(crate) fn lock(&self, wait: impl FnOnce() -> Wait) -> Option<Owned<'_, T>> {
        let mut held = self.monitor.lock();
        if !held.0 {
            held.0 = true;
            drop(held);
        } else if !held.wait(0, wait()).is_answered() {
            return None;
        }
        Some(self.owned())
    }

    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Owned<'_, T>> {
        let before = std::mem::replace(&mut self.monitor.lock().0, true);
        (!before).then(|| self.owned())
    }

    fn owned(&self) -> Owned<'_, T> {
        Owned {
            exclusive: self,
            not_send: PhantomData,
        }
    }
}

impl<'a, T: ?Sized> Owned<'a, T> {
    /// What it was locked in.
    pub(crate) fn exclusive(&self) -> &'a Exclusive<T> {
        self.exclusive
    }
}

impl<T: ?Sized> Deref for Owned<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: an `Owned` exists once at a time, and `self` is borrowed.
        unsafe { &*self.exclusive.value.get() }
    }
}

impl<T: ?Sized> DerefMut for Owned<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { &mut *self.exclusive.value.get() }
    }
}

impl<T: ?Sized> Drop for Owned<'_, T> {
    #[inline]
    fn drop(&mut self) {
        let mut held = self.exclusive.monitor.lock();
        if !held.wake_one(0) {
            held.0 = false;
        }
    }
}

/// Parks in a queue of a monitor, and gives `owned` back when the greenlet is in
/// the queue: whoever has the value after that finds it there.
pub(crate) fn park_releasing<S: Guarded, T: ?Sized, const N: usize>(
    guard: Guard<'_, S, N>,
    queue: usize,
    wait: Wait,
    owned: Owned<'_, T>,
) -> Option<Woken> {
    // This runs no code of a user's: the value stays where it is.
    guard.park_after(queue, wait, || drop(owned))
}
