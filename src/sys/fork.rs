//! How often this process has been forked from its ancestors, and who is to be
//! told in the child.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::{helpers, signal};

static GENERATION: AtomicU32 = AtomicU32::new(0);
/// The callback, as a pointer that a signal-safe handler can load.
static CALLBACK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Grows by one in the child at every fork. What was made under another
/// generation belongs to the parent.
#[inline(always)]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has `callback` run in the child after every fork, on the thread that forked.
pub(crate) fn on_child(callback: fn()) {
    CALLBACK.store(callback as *mut (), Ordering::Release);
    watch();
}

/// Has forks counted from now on.
pub(crate) fn watch() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a function that lives for ever. Without
        // memory for it, forks go unnoticed, as they would without us.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    #[cfg(feature = "process")]
    super::unforked::after_fork();
    helpers::after_fork();
    signal::after_fork();
    let callback = CALLBACK.load(Ordering::Acquire);
    if !callback.is_null() {
        // SAFETY: only `on_child` stores here, and only a `fn()`.
        let callback = unsafe { std::mem::transmute::<*mut (), fn()>(callback) };
        callback();
    }
}

/// A value that each process makes for itself: a fork's child does not see the
/// one of its parent, whose lock somebody may have held at that moment.
///
/// The values are never dropped: other threads may be using them.
pub(crate) struct PerProcess<T: 'static> {
    current: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    generation: u32,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new() -> PerProcess<T> {
        PerProcess {
            current: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// This process's value. Two threads that come first at the same time may
    /// both call `make`; they get the same value.
    pub(crate) fn get(&'static self, make: impl Fn() -> T) -> &'static T {
        watch();
        let mut known = self.current.load(Ordering::Acquire);
        loop {
            // SAFETY: it is null or a leaked box.
            match unsafe { known.as_ref() } {
                Some(owned) if owned.generation == generation() => return &owned.value,
                _ => {}
            }
            let fresh = Box::into_raw(Box::new(Owned {
                generation: generation(),
                value: make(),
            }));
            match self
                .current
                .compare_exchange(known, fresh, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => known = fresh,
                Err(other) => {
                    // SAFETY: made above, and nobody else has seen it.
                    drop(unsafe { Box::from_raw(fresh) });
                    known = other;
                }
            }
        }
    }
}
