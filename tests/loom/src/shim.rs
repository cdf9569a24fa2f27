//! Primitives of std that loom has no counterpart for.

use loom::sync::atomic::Ordering;

/// loom's `AtomicBool`, with a store that comes last for all threads.
///
/// loom orders a store and another thread's swap only if something else does,
/// and lets a later swap read either. In a real program the swap's read and
/// write have nothing between them, so a store that comes after the read comes
/// after the write. loom knows that of two swaps; so a store is one here, and
/// has no more effect on other memory than a store.
pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

impl AtomicBool {
    pub(crate) fn new(value: bool) -> AtomicBool {
        AtomicBool(loom::sync::atomic::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, order: Ordering) -> bool {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: bool, order: Ordering) {
        let order = match order {
            Ordering::SeqCst => Ordering::Release,
            other => other,
        };
        self.0.swap(value, order);
    }

    pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// std's `OnceLock` as far as the inbox uses it. A `get` that nothing orders
/// behind the `set` may come up empty here, as it may in a real program.
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    is_set: AtomicBool,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> OnceLock<T> {
        OnceLock {
            value: std::sync::OnceLock::new(),
            is_set: AtomicBool::new(false),
        }
    }

    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(Ordering::Acquire) {
            self.value.get()
        } else {
            None
        }
    }
}
