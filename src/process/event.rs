//! `Event`: a flag that several processes wait for.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::luggage::{self, Ticket, kind};
use super::watched::Watched;
use crate::hub::{Direction, Patience};
use crate::sys::{clock, eventfd, shared};

/// A flag to wait for that processes share: [`set`](Event::set) wakes all who
/// wait, in whichever process.
///
/// It is Python's `multiprocessing.Event`, and [`sync::Event`](crate::sync::Event)
/// between processes. A process gets it in an argument, in a result, or in the
/// item of a queue. Clones are the same event, and so are all those that were
/// sent. Greenlets that wait park; a plain thread blocks.
///
/// It is one eventfd of the kernel. That is readable as long as the event is
/// set; nobody takes it away by reading, but [`clear`](Event::clear):
///
/// ```text
///                        ┌─────────────────┐
///   process A  set ─────▶│ eventfd: 0 or 1 │◀───── clear  process B
///                        └───┬─────────┬───┘
///            readable, to all│         │who wait
///                            ▼         ▼
///                     the hub of A   the hubs of B …
/// ```
///
/// Whoever is killed in the middle leaves it set or not set, as it was. A wait
/// for it is a wait for the outside, and never taken for a deadlock. In the
/// child of a fork it is still the same event.
///
/// # Set and cleared at once
/// Who is woken looks again. If the event has been cleared by then, it goes on
/// waiting: unlike that of [`sync`](crate::sync), an event that is set and
/// cleared at once may be missed. Python's is the same.
///
/// # Examples
/// ```
/// use greenlet::process::{self, Event};
///
/// let ready = Event::new()?;
/// let child = process::spawn(|ready: Event| ready.wait().is_ok(), ready.clone())?;
/// ready.set();
/// assert!(child.join().unwrap());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Event {
    flag: Arc<Watched>,
}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Event> {
        Ok(Event {
            flag: Arc::new(Watched::new(eventfd::new()?)),
        })
    }

    /// Whether it is set.
    #[doc(alias = "ready")]
    #[must_use]
    pub fn is_set(&self) -> bool {
        shared::is_readable(self.flag.as_fd())
    }

    /// Sets it, and wakes all who wait, in all processes. Does not switch.
    pub fn set(&self) {
        eventfd::set(self.flag.as_fd());
    }

    /// Clears it: whoever waits from now on waits for the next
    /// [`set`](Event::set).
    pub fn clear(&self) {
        eventfd::clear(self.flag.as_fd());
    }

    /// Waits until it is set; returns at once if it is.
    ///
    /// # Errors
    /// No descriptor or memory is left for the wait.
    ///
    /// # Examples
    /// ```
    /// let event = greenlet::process::Event::new()?;
    /// event.set();
    /// event.wait()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait(&self) -> io::Result<()> {
        self.wait_for(Patience::Forever)
    }

    /// Waits for at most `timeout`; whether it was set.
    ///
    /// # Errors
    /// As for [`wait`](Event::wait).
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let event = greenlet::process::Event::new()?;
    /// assert!(!event.wait_timeout(Duration::from_millis(1))?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> io::Result<bool> {
        match self.wait_for(Patience::Until(clock::deadline_after(timeout))) {
            Ok(()) => Ok(true),
            // It may have been set in the turn that the others had.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(self.is_set()),
            Err(error) => Err(error),
        }
    }

    fn wait_for(&self, patience: Patience) -> io::Result<()> {
        self.flag.run(
            Direction::Read,
            patience,
            |flag| match shared::is_readable(flag) {
                true => Ok(()),
                false => Err(io::ErrorKind::WouldBlock.into()),
            },
        )
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        luggage::put::<S::Error>(kind::FLAG, self.flag.as_fd())?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Event, D::Error> {
        let flag = luggage::take(kind::FLAG, Ticket::deserialize(deserializer)?)?;
        Ok(Event {
            flag: Arc::new(Watched::new(flag)),
        })
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("is_set", &self.is_set())
            .finish()
    }
}
