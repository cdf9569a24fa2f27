//! The lock of one bucket of the table of waits: a spin lock that knows who holds it.
//!
//! ```text
//!     63        48 47                       3     0
//!     ┌───────────┬───────────────────────┬───┬───┐
//!     │ fork count│ address of a variable │   │ N │   N: a note was left
//!     └───────────┴───────────────────────┴───┴───┘
//!                   of the thread
//! ```
//!
//! * Held under another fork count, its holder stayed behind in the parent, and it is
//!   free.
//! * Held by the thread that wants it, a signal handler has interrupted the holder.
//!   Waiting would be for ever; so the handler leaves a note.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::{fork, spin};

/// The lock's word; 0 while it is free.
pub(super) struct Lock(AtomicU64);

/// This thread holds the lock, and has been told by a note.
pub(super) struct Interrupted;

const NOTE: u64 = 1;

thread_local! {
    /// Its address is that of no other thread. `const` and without a destructor.
    static ME: UnsafeCell<u64> = const { UnsafeCell::new(0) };
}

/// What stands in a lock that this thread holds.
fn owner() -> u64 {
    let me = ME.with(|me| me.get() as u64);
    (u64::from(fork::generation()) << 48) | (me & ((1 << 48) - 1))
}

impl Lock {
    pub(super) const fn new() -> Lock {
        Lock(AtomicU64::new(0))
    }

    #[inline]
    pub(super) fn take(&self) -> Result<(), Interrupted> {
        let mine = owner();
        match self
            .0
            .compare_exchange(0, mine, Ordering::Acquire, Ordering::Relaxed)
        {
            Ok(_) => Ok(()),
            Err(seen) => self.take_contended(mine, seen),
        }
    }

    #[cold]
    #[inline(never)]
    fn take_contended(&self, mine: u64, mut seen: u64) -> Result<(), Interrupted> {
        let mut tries = 0;
        loop {
            if seen & !NOTE == mine {
                // It cannot be let go of while we are here.
                self.0.fetch_or(NOTE, Ordering::Relaxed);
                return Err(Interrupted);
            }
            if seen == 0 || seen >> 48 != mine >> 48 {
                match self
                    .0
                    .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
                {
                    Ok(_) => return Ok(()),
                    Err(now) => seen = now,
                }
                continue;
            }
            tries += 1;
            spin::a_moment(tries);
            seen = self.0.load(Ordering::Relaxed);
        }
    }

    /// Lets go of it, and says whether somebody has left a note.
    #[inline]
    pub(super) fn free(&self) -> bool {
        self.0.swap(0, Ordering::Release) & NOTE != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_it_and_wants_it_leaves_a_note() {
        let lock = Lock::new();
        assert!(lock.take().is_ok());
        assert!(lock.take().is_err());
        assert!(lock.take().is_err());
        assert!(lock.free());
        assert!(lock.take().is_ok());
        assert!(!lock.free());
    }

    #[test]
    fn a_lock_that_stayed_behind_in_a_fork_is_free() {
        // That of another thread, and of this one.
        for holder in [0x1000, owner() & ((1 << 48) - 1)] {
            let stale = u64::from(fork::generation()).wrapping_sub(1) << 48 | holder;
            let lock = Lock(AtomicU64::new(stale));
            assert!(lock.take().is_ok());
            assert!(!lock.free());
        }
    }

    #[test]
    fn threads_exclude_each_other() {
        struct Shared(Lock, UnsafeCell<u64>);
        // SAFETY: the number is reached under the lock only.
        unsafe impl Sync for Shared {}
        let shared = Shared(Lock::new(), UnsafeCell::new(0));
        let shared = &shared;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(move || {
                    for _ in 0..50_000 {
                        assert!(shared.0.take().is_ok());
                        // SAFETY: the lock is held.
                        unsafe { *shared.1.get() += 1 };
                        shared.0.free();
                    }
                });
            }
        });
        // SAFETY: the threads have ended.
        assert_eq!(unsafe { *shared.1.get() }, 200_000);
    }
}
