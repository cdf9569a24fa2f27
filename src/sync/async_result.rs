//! `AsyncResult`: a value that is given once, and that anybody may wait for.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use crate::hub::{Gate, Reason, Wait};
use crate::sys::clock;
use crate::task::{Source, Waitable};

/// A value that somebody gives once, and any number of greenlets wait for.
///
/// It is gevent's `AsyncResult`, with the shape of [`std::sync::OnceLock`]: the
/// first [`set`](AsyncResult::set) wins, and the value stays. Where the work may
/// fail, `T` is a `Result`. Whoever waits is woken in batches, in the order of
/// coming, as by an [`Event`](crate::sync::Event).
///
/// # Examples
/// ```
/// use greenlet::{spawn, sync::AsyncResult};
/// use std::sync::Arc;
///
/// let answer = Arc::new(AsyncResult::new());
/// let asking = [0, 1].map(|_| {
///     let answer = answer.clone();
///     spawn(move || answer.get())
/// });
/// std::thread::spawn(move || answer.set(42));
/// assert!(asking.map(|handle| handle.join().unwrap()) == [42, 42]);
/// ```
pub struct AsyncResult<T> {
    gate: Gate,
    /// Set before the gate opens.
    value: OnceLock<T>,
}

impl<T> AsyncResult<T> {
    /// One without a value.
    #[must_use]
    pub const fn new() -> AsyncResult<T> {
        AsyncResult {
            gate: Gate::new(),
            value: OnceLock::new(),
        }
    }

    /// Gives the value, and wakes all who wait. Does not switch.
    ///
    /// # Errors
    /// The value, if there is one already.
    ///
    /// # Examples
    /// ```
    /// let result = greenlet::sync::AsyncResult::new();
    /// assert_eq!(result.set("first"), Ok(()));
    /// assert_eq!(result.set("second"), Err("second"));
    /// assert_eq!(result.try_get(), Some(&"first"));
    /// ```
    #[doc(alias = "set_result")]
    #[doc(alias = "set_exception")]
    pub fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.gate.open();
        Ok(())
    }

    /// Waits for the value.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody could ever give it.
    pub fn wait(&self) -> &T {
        match self.wait_until(None) {
            Some(value) => value,
            None => unreachable!("a wait without a limit of time"),
        }
    }

    /// Waits for the value, for at most `timeout`.
    ///
    /// # Examples
    /// ```
    /// use greenlet::sync::AsyncResult;
    /// use std::time::Duration;
    ///
    /// let result: AsyncResult<u8> = AsyncResult::new();
    /// assert!(result.wait_timeout(Duration::from_millis(1)).is_none());
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Option<&T> {
        self.wait_until(Some(clock::deadline_after(timeout)))
    }

    /// Waits for the value, and clones it.
    ///
    /// # Panics
    /// As [`wait`](AsyncResult::wait).
    #[doc(alias = "result")]
    pub fn get(&self) -> T
    where
        T: Clone,
    {
        self.wait().clone()
    }

    /// The value, if it is there.
    #[doc(alias = "get_nowait")]
    #[doc(alias = "value")]
    pub fn try_get(&self) -> Option<&T> {
        match self.is_ready() {
            true => self.value.get(),
            false => None,
        }
    }

    /// Whether the value is there.
    #[doc(alias = "ready")]
    #[doc(alias = "done")]
    pub fn is_ready(&self) -> bool {
        self.gate.is_open()
    }

    /// The value, if it is there.
    pub fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }

    fn wait_until(&self, deadline: Option<u64>) -> Option<&T> {
        let reason = Reason::new("waiting for a result");
        let woken = self.gate.wait(Wait::shared(reason, deadline));
        match woken.is_answered() {
            true => self.value.get(),
            false => None,
        }
    }
}

impl<T> Default for AsyncResult<T> {
    fn default() -> AsyncResult<T> {
        AsyncResult::new()
    }
}

impl<T> Waitable for AsyncResult<T> {
    fn is_ready(&self) -> bool {
        AsyncResult::is_ready(self)
    }

    fn source(&self) -> Source<'_> {
        Source::shared(&self.gate)
    }
}

impl<T: fmt::Debug> fmt::Debug for AsyncResult<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncResult")
            .field("value", &self.try_get())
            .finish()
    }
}
