//! `timeout`: a limit of time for any code that blocks.

use std::time::Duration;

use super::handle::refuse_with_panic_abort;
use crate::error::Elapsed;
use crate::hub::{self, TimeoutFrame};
use crate::sys::clock;

/// Runs `f`, and gives up on it after `time`: it is unwound from the call that
/// it blocks in, its destructors run, and `timeout` returns [`Elapsed`].
///
/// Only this frame catches it. An outer `timeout` that is due goes through the
/// inner ones, and is never swallowed by a timed wait inside. Code that does
/// not block is not interrupted, and a value that `f` returns late is still
/// returned. A time of zero lets whoever is runnable have one turn first.
///
/// As after a kill, a `std::sync::Mutex` that was held is poisoned, and code that
/// catches every unwinding must rethrow this one. A program that calls this does
/// not compile with `panic = "abort"`.
///
/// # Errors
/// [`Elapsed`], if the time was up while `f` waited.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use greenlet::{sleep, timeout};
///
/// let slow = timeout(Duration::from_millis(5), || sleep(Duration::from_secs(60)));
/// assert!(slow.is_err());
/// let quick = timeout(Duration::from_secs(60), || 42);
/// assert_eq!(quick.unwrap(), 42);
/// ```
#[doc(alias = "with_timeout")]
#[doc(alias = "Timeout")]
pub fn timeout<R>(time: Duration, f: impl FnOnce() -> R) -> Result<R, Elapsed> {
    refuse_with_panic_abort::<R>();
    let frame = TimeoutFrame::enter(clock::deadline_after(time));
    let result = hub::catch(f);
    let id = frame.id();
    drop(frame);
    match result {
        Ok(value) => Ok(value),
        Err(payload) if hub::is_timeout(&payload, id) => Err(Elapsed),
        Err(payload) => hub::rethrow(payload),
    }
}
