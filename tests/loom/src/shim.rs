//! Primitives of std that loom has no counterpart for.

use std::cell::RefCell;

use loom::sync::atomic::Ordering;
use loom::thread::{self, Thread};

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

thread_local! {
    /// Who spins on a lock. loom runs a model's threads on one OS thread.
    static SPINNING: RefCell<Vec<Thread>> = const { RefCell::new(Vec::new()) };
}

/// Blocks until something is stored: loom would let two who spin take turns for
/// ever. Between the load that has made somebody spin and this, loom does not
/// switch, so no store falls between them.
pub(crate) fn spin_loop() {
    SPINNING.with_borrow_mut(|spinning| spinning.push(thread::current()));
    thread::park();
}

/// Atomics that a `const fn` can make, for `monitor.rs` and `gate.rs`.
///
/// loom's own are made when they are first touched. A model does that before it
/// shares them, for the making is a write that others have to come after.
pub(crate) mod lazy {
    use std::sync::OnceLock;

    use loom::sync::atomic::{self, Ordering};

    use super::SPINNING;

    /// A lock's word.
    pub(crate) struct AtomicU32 {
        first: u32,
        atomic: OnceLock<atomic::AtomicU32>,
    }

    impl AtomicU32 {
        pub(crate) const fn new(first: u32) -> AtomicU32 {
            AtomicU32 {
                first,
                atomic: OnceLock::new(),
            }
        }

        fn get(&self) -> &atomic::AtomicU32 {
            self.atomic
                .get_or_init(|| atomic::AtomicU32::new(self.first))
        }

        /// The latest value: who spins on an older one sees the latest in the end.
        pub(crate) fn load(&self, order: Ordering) -> u32 {
            self.get().fetch_add(0, order)
        }

        /// A swap, for the reason that [`super::AtomicBool`] gives.
        pub(crate) fn store(&self, value: u32, order: Ordering) {
            self.get().swap(value, order);
            for spinning in SPINNING.take() {
                spinning.unpark();
            }
        }

        pub(crate) fn compare_exchange(
            &self,
            current: u32,
            new: u32,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u32, u32> {
            self.get().compare_exchange(current, new, success, failure)
        }
    }

    /// A flag that is written under a lock.
    pub(crate) struct AtomicBool {
        first: bool,
        atomic: OnceLock<atomic::AtomicBool>,
    }

    impl AtomicBool {
        pub(crate) const fn new(first: bool) -> AtomicBool {
            AtomicBool {
                first,
                atomic: OnceLock::new(),
            }
        }

        fn get(&self) -> &atomic::AtomicBool {
            self.atomic
                .get_or_init(|| atomic::AtomicBool::new(self.first))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            self.get().load(order)
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            self.get().store(value, order);
        }
    }
}
