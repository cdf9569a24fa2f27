//! How a thread waits for another one that holds a lock for nanoseconds.

use std::time::Duration;

use super::{clock, os};

/// How often the lock is looked at before the thread gives its CPU away.
pub(crate) const SPINS: u32 = 100;
/// And how often it does that before it sleeps a little: who holds the lock may be of a
/// lower priority.
const YIELDS: u32 = 1000;
const NAP: Duration = Duration::from_micros(50);

/// Waits a moment, after the lock has been looked at so many times, from 1 on.
pub(crate) fn a_moment(tries: u32) {
    match tries {
        0..SPINS => std::hint::spin_loop(),
        SPINS..YIELDS => os::yield_thread(),
        _ => clock::block_thread_for(NAP),
    }
}
