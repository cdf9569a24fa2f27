//! The part of a hub that other threads may touch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::inbox::{Inbox, Message};
use crate::sys::fork;

/// Lives as long as the last waiter or `Unparker` that may refer to it, which
/// can be longer than the hub itself.
pub(crate) struct HubShared {
    pub(crate) number: u64,
    /// The process it belongs to: a fork's child must not touch the parent's
    /// epoll set, which it shares.
    fork: u32,
    closed: AtomicBool,
    pub(crate) inbox: Inbox<mio::Waker>,
    /// For taking descriptors out of the reactor from another thread.
    pub(crate) registry: OnceLock<mio::Registry>,
}

impl HubShared {
    pub(crate) fn new(number: u64) -> Arc<HubShared> {
        Arc::new(HubShared {
            number,
            fork: fork::generation(),
            closed: AtomicBool::new(false),
            inbox: Inbox::new(),
            registry: OnceLock::new(),
        })
    }

    /// Whether nobody will ever read this inbox: its thread has ended, or it
    /// belongs to the process that we were forked from.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) || self.fork != fork::generation()
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Hands a wake-up to the hub. Without effect once it is closed.
    pub(crate) fn push(&self, (key, token): (u64, u32)) {
        if !self.is_closed() {
            self.inbox.push(Message { key, token });
        }
    }
}

impl std::fmt::Debug for HubShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubShared")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
