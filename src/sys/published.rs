//! A value that is set seldom and read by anybody at any moment, without a lock
//! that a fork's child could find held.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What was set last. Values are never freed, for somebody may be using them.
pub(crate) struct Published<T: 'static> {
    current: AtomicPtr<T>,
}

impl<T: Send + Sync> Published<T> {
    pub(crate) const fn nothing() -> Published<T> {
        Published {
            current: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Those who ask from now on get this one.
    pub(crate) fn set(&self, value: T) {
        self.current
            .store(Box::into_raw(Box::new(value)), Ordering::Release);
    }

    /// What was set last, if anything.
    pub(crate) fn get(&self) -> Option<&'static T> {
        // SAFETY: it is null or a box that is never freed.
        unsafe { self.current.load(Ordering::Acquire).as_ref() }
    }
}
