//! How many of our helper threads have nothing to do: the deadlock detector
//! must not mistake them for somebody who could wake a greenlet.

use std::sync::atomic::{AtomicUsize, Ordering};

static IDLE: AtomicUsize = AtomicUsize::new(0);

/// Helper threads that wait for a job.
pub(crate) fn idle() -> usize {
    IDLE.load(Ordering::SeqCst)
}

/// Marks the calling helper thread as idle until it is dropped.
pub(crate) struct IdleGuard(());

impl IdleGuard {
    pub(crate) fn new() -> IdleGuard {
        IDLE.fetch_add(1, Ordering::SeqCst);
        IdleGuard(())
    }
}

impl Drop for IdleGuard {
    fn drop(&mut self) {
        IDLE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Threads do not come along into the child of a fork.
pub(super) fn after_fork() {
    IDLE.store(0, Ordering::SeqCst);
}
