//! The greenlet that runs.

use std::fmt;

use super::handle::GreenletId;
use crate::hub::{Hub, TaskRef};

/// Lets every greenlet that is runnable have a turn before this one goes on.
///
/// Timers and I/O are looked at in between, so a loop of `yield_now` does not
/// starve them. It is a blocking point: a kill or a timeout arrives here too.
///
/// # Examples
/// ```
/// let handle = greenlet::spawn(|| "first");
/// greenlet::yield_now();
/// assert!(handle.is_finished());
/// ```
#[inline(always)]
#[doc(alias = "sleep(0)")]
pub fn yield_now() {
    Hub::get().yield_now();
}

/// The greenlet that runs. On a thread that never spawned one, and outside of
/// all greenlets, that is the thread's main greenlet.
///
/// # Examples
/// ```
/// assert_eq!(greenlet::current().name(), "main");
/// let id = greenlet::spawn(|| greenlet::current().id()).join().unwrap();
/// assert_ne!(id, greenlet::current().id());
/// ```
#[must_use]
#[doc(alias = "getcurrent")]
pub fn current() -> Current {
    Current {
        task: TaskRef::new(Hub::get().current()),
    }
}

/// A greenlet's number and name, as [`current`] tells them.
#[derive(Clone)]
pub struct Current {
    task: TaskRef,
}

impl Current {
    /// The greenlet's number.
    #[must_use]
    pub fn id(&self) -> GreenletId {
        GreenletId(self.task.id)
    }

    /// The greenlet's name; that of a thread's main greenlet is `main`.
    #[must_use]
    pub fn name(&self) -> String {
        self.task.name()
    }

    /// Whether this is its thread's main greenlet, whose stack is the thread's.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.task.is_main()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("id", &self.task.id)
            .field("name", &self.name())
            .finish()
    }
}
