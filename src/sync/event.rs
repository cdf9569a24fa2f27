//! `Event`: a flag that greenlets and threads wait for.

use std::fmt;
use std::time::Duration;

use crate::hub::{Gate, Reason, Wait};
use crate::sys::clock;
use crate::task::{Source, Waitable};

/// A flag to wait for: [`set`](Event::set) wakes all who wait.
///
/// It is gevent's `Event`, and Python's `threading.Event`. Whoever waits when
/// it is set is woken, even if it is cleared at once; they wake in the order in
/// which they came, and in batches, so that a hundred thousand of them do not
/// keep others of their thread waiting.
///
/// # Examples
/// ```
/// use greenlet::{spawn, sync::Event};
/// use std::sync::Arc;
///
/// let ready = Arc::new(Event::new());
/// let waiter = spawn({
///     let ready = ready.clone();
///     move || ready.wait()
/// });
/// std::thread::spawn(move || ready.set());
/// waiter.join().unwrap();
/// ```
pub struct Event {
    gate: Gate,
}

impl Event {
    /// An event that is not set.
    #[must_use]
    pub const fn new() -> Event {
        Event { gate: Gate::new() }
    }

    /// Whether it is set.
    #[doc(alias = "isSet")]
    #[doc(alias = "ready")]
    pub fn is_set(&self) -> bool {
        self.gate.is_open()
    }

    /// Sets it, and wakes all who wait. Does not switch.
    pub fn set(&self) {
        self.gate.open();
    }

    /// Clears it: whoever waits from now on waits for the next
    /// [`set`](Event::set).
    pub fn clear(&self) {
        self.gate.close();
    }

    /// Waits until it is set; returns at once if it is.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nothing could ever set it.
    ///
    /// # Examples
    /// ```
    /// let event = greenlet::sync::Event::new();
    /// event.set();
    /// event.wait();
    /// ```
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Waits for at most `timeout`; whether it was set.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let event = greenlet::sync::Event::new();
    /// assert!(!event.wait_timeout(Duration::from_millis(1)));
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set() || self.wait_until(Some(clock::deadline_after(timeout)))
    }

    fn wait_until(&self, deadline: Option<u64>) -> bool {
        let reason = Reason::new("waiting for an event");
        self.gate.wait(Wait::shared(reason, deadline)).is_answered()
    }
}

impl Default for Event {
    fn default() -> Event {
        Event::new()
    }
}

impl Waitable for Event {
    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn source(&self) -> Source<'_> {
        Source::shared(&self.gate)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("is_set", &self.is_set())
            .finish()
    }
}
