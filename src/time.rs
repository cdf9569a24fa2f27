//! Sleeping.

use std::time::Duration;

use crate::hub::{self, Hub, Kind, Reason};
use crate::sys::clock;

/// Lets the current greenlet sleep for at least `time`, and others run.
///
/// A sleep of zero is a [`yield_now`](crate::yield_now). The sleep is finer
/// than a millisecond; a busy thread makes it late, never early. Greenlets
/// whose sleeps end at the same moment wake in the order in which they went to
/// sleep. The main greenlet of a thread sleeps by running the others.
///
/// # Examples
/// ```
/// use std::time::{Duration, Instant};
///
/// let start = Instant::now();
/// let a = greenlet::spawn(|| greenlet::sleep(Duration::from_millis(20)));
/// let b = greenlet::spawn(|| greenlet::sleep(Duration::from_millis(20)));
/// greenlet::joinall([a, b]);
/// assert!(start.elapsed() >= Duration::from_millis(20));
/// ```
pub fn sleep(time: Duration) {
    if time.is_zero() {
        return Hub::get().yield_now();
    }
    let deadline = clock::deadline_after(time);
    // A sleep is ended by its own timer, or not at all.
    hub::pause(
        Reason::new("sleeping"),
        Kind::External,
        Some(deadline),
        |_| {},
    );
}
