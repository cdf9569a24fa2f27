//! The inbox: how other threads wake a greenlet of this hub.
//!
//! A message names a wait; it carries no closure and no result, for those may
//! not leave their thread. The waker costs a system call, so it is used only
//! when the hub sleeps, and once per sleep:
//!
//! ```text
//!   hub                                    another thread
//!   sleeping = true      (1)               messages.push(m)          (3)
//!   messages empty?      (2)               if sleeping.swap(false)   (4)
//!     no:  sleeping = false, don't sleep       waker.wake()
//!     yes: sleep in the reactor
//!   sleeping = false
//!   take all messages
//! ```
//!
//! The messages are under a lock, so either (2) sees what (3) has pushed, or
//! (3) comes after (2), and then (4) sees what (1) has written. The flag is
//! cleared before the messages are taken: a push after that finds the hub
//! awake, and the hub looks again before it sleeps.
//!
//! The model of this file is checked with loom, in `tests/loom`.

#[cfg(feature = "loom")]
use crate::shim::{AtomicBool, OnceLock};
#[cfg(feature = "loom")]
use loom::sync::{Mutex, MutexGuard, atomic::Ordering};
use std::sync::PoisonError;
#[cfg(not(feature = "loom"))]
use std::sync::{
    Mutex, MutexGuard, OnceLock,
    atomic::{AtomicBool, Ordering},
};

/// One wake-up: the key of the task and the token of the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) key: u64,
    pub(crate) token: u32,
}

/// What gets a hub out of its sleep.
pub(crate) trait Wake {
    fn wake(&self);
}

pub(crate) struct Inbox<W> {
    messages: Mutex<Vec<Message>>,
    /// There may be messages: for the loop, which looks often.
    nonempty: AtomicBool,
    sleeping: AtomicBool,
    waker: OnceLock<W>,
}

impl<W: Wake> Inbox<W> {
    pub(crate) fn new() -> Inbox<W> {
        Inbox {
            messages: Mutex::new(Vec::new()),
            nonempty: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker: OnceLock::new(),
        }
    }

    /// Sets the waker, once; only a hub that has one goes to sleep.
    pub(crate) fn set_waker(&self, waker: W) {
        let _ = self.waker.set(waker);
    }

    #[cfg(not(feature = "loom"))]
    pub(crate) fn waker(&self) -> Option<&W> {
        self.waker.get()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Message>> {
        // Nothing panics while it is held, except for lack of memory.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a message, from any thread.
    pub(crate) fn push(&self, message: Message) {
        {
            let mut messages = self.lock();
            messages.push(message);
            self.nonempty.store(true, Ordering::Relaxed);
        }
        self.nudge();
    }

    /// Gets the hub out of its sleep, if it sleeps: there is something for it, which
    /// it looks for after `prepare_sleep` as well.
    pub(crate) fn nudge(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            if let Some(waker) = self.waker.get() {
                waker.wake();
            }
        }
    }

    /// True: there is nothing to take. False: there may be something.
    #[inline]
    pub(crate) fn is_empty_hint(&self) -> bool {
        !self.nonempty.load(Ordering::Relaxed)
    }

    /// Takes all messages, in the order in which they came.
    pub(crate) fn take(&self) -> Vec<Message> {
        let mut messages = self.lock();
        self.nonempty.store(false, Ordering::Relaxed);
        std::mem::take(&mut *messages)
    }

    /// The hub is about to sleep. False: it must not, there is a message.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let nothing_there = self.lock().is_empty();
        if !nothing_there {
            self.woke_up();
        }
        nothing_there
    }

    /// The hub is awake again.
    pub(crate) fn woke_up(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }
}
