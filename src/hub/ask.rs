//! Until when an operation on a descriptor without an owner may wait: asked of the
//! kernel, and what of its answer is remembered.
//!
//! The kernel knows whether the user has made a descriptor non-blocking (F_GETFL), and
//! how long its operations may take (SO_RCVTIMEO, SO_SNDTIMEO). It nearly always says
//! the same, that they wait, and for ever; and asking for that would be half of the
//! system calls that an echo needs. So this one answer is remembered beside the
//! registration, until somebody changes any descriptor's flags or timeouts by libc:
//!
//! ```text
//!   would block ─▶ known to wait for ever, as of the last CHANGES? ─ no ─▶ ask, remember
//!                       │ yes                                                │
//!                       ▼                                                    ▼
//!                     wait, for a while ── nothing has come ──▶ ask ─▶ wait
//! ```
//!
//! Not all changes are made by this process's libc. There are processes with which it
//! shares a descriptor, and code that makes its system calls itself. Therefore one wait
//! goes by what is remembered, and that for the time that a registration is trusted
//! too: see `doubts.rs`. What others have changed is heeded so much later, once.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::os::Errno;

/// How often flags or timeouts have been changed. It begins at 1: 0 is never.
static CHANGES: AtomicU64 = AtomicU64::new(1);

/// Somebody has just changed a descriptor's flags, or its timeouts.
pub(crate) fn descriptor_changed() {
    CHANGES.fetch_add(1, Ordering::Release);
}

/// How one asks until when an operation may wait.
pub(crate) struct Ask<F> {
    ask: F,
    is_known: bool,
}

impl<F: FnOnce() -> Result<Option<u64>, Errno>> Ask<F> {
    /// The answer is for this operation: it is asked each time.
    pub(crate) fn always(ask: F) -> Ask<F> {
        Ask {
            ask,
            is_known: false,
        }
    }

    /// The answer is for all operations of this direction on the descriptor.
    pub(crate) fn unless_known(ask: F) -> Ask<F> {
        Ask {
            ask,
            is_known: true,
        }
    }

    /// Whether to wait without asking.
    pub(super) fn is_needless(&self, known: Habit) -> bool {
        self.is_known && known.0 == CHANGES.load(Ordering::Acquire)
    }

    /// Asks; the second answer is what to remember, if anything.
    pub(super) fn now(self) -> (Result<Option<u64>, Errno>, Option<Habit>) {
        // What is changed while it is asked counts as changed afterwards.
        let changes = CHANGES.load(Ordering::Acquire);
        let answer = (self.ask)();
        let habit = match answer {
            Ok(None) => Habit(changes),
            _ => Habit::default(),
        };
        (answer, self.is_known.then_some(habit))
    }
}

/// That operations wait for ever, as of so many changes; or that nothing is known.
#[derive(Clone, Copy, Default)]
pub(super) struct Habit(u64);

impl Habit {
    /// Whether nothing is known.
    pub(super) fn is_none(self) -> bool {
        self.0 == 0
    }
}
