//! `Condvar`: waiting for what somebody else changes under a mutex.

use std::fmt;
use std::time::Duration;

use super::MutexGuard;
use crate::hub::{self, Guarded, Monitor, Reason, Wait, Woken};
use crate::sys::clock;

/// How many `notify_all` wakes before it lets go of the queue for a moment.
const ROUND: usize = 1000;

/// Wakes greenlets that wait for a change of what a [`Mutex`](super::Mutex)
/// guards.
///
/// It is [`std::sync::Condvar`]: a wait gives the mutex back, and has it again
/// when it returns. They wake in the order in which they came. A kill or a
/// timeout that ends a wait unwinds *without* the mutex, for the guard is gone.
///
/// # Examples
/// ```
/// use greenlet::{spawn, sync::{Condvar, Mutex}};
/// use std::sync::Arc;
///
/// let pair = Arc::new((Mutex::new(false), Condvar::new()));
/// let waiter = spawn({
///     let pair = pair.clone();
///     move || {
///         let ready = pair.1.wait_while(pair.0.lock(), |ready| !*ready);
///         assert!(*ready);
///     }
/// });
/// std::thread::spawn(move || {
///     *pair.0.lock() = true;
///     pair.1.notify_one();
/// });
/// waiter.join().unwrap();
/// ```
#[doc(alias = "Condition")]
pub struct Condvar {
    monitor: Monitor<Waiting, 1>,
}

/// How many are in the queue.
struct Waiting(usize);

impl Guarded for Waiting {}

/// Whether a wait of a [`Condvar`] ended because its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was up before anybody notified.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// A condition variable that nobody waits for.
    #[must_use]
    pub const fn new() -> Condvar {
        Condvar {
            monitor: Monitor::new(Waiting(0)),
        }
    }

    /// Gives the lock back, waits until it is notified, and locks again.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody could ever notify.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait_until(guard, None).0
    }

    /// Waits as long as `condition` is true.
    ///
    /// # Panics
    /// As [`wait`](Condvar::wait).
    pub fn wait_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while condition(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }

    /// Waits for at most `timeout`. Locking again may take longer.
    ///
    /// # Examples
    /// ```
    /// use greenlet::sync::{Condvar, Mutex};
    /// use std::time::Duration;
    ///
    /// let mutex = Mutex::new(1);
    /// let condvar = Condvar::new();
    /// let (guard, result) = condvar.wait_timeout(mutex.lock(), Duration::from_millis(1));
    /// assert!(result.timed_out());
    /// assert_eq!(*guard, 1);
    /// ```
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        self.wait_until(guard, Some(clock::deadline_after(timeout)))
    }

    /// Waits as long as `condition` is true, for at most `timeout` in all. The
    /// result tells whether it still was true in the end.
    pub fn wait_timeout_while<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        let deadline = Some(clock::deadline_after(timeout));
        let mut result = WaitTimeoutResult(false);
        while condition(&mut guard) {
            if result.timed_out() {
                return (guard, result);
            }
            (guard, result) = self.wait_until(guard, deadline);
        }
        (guard, WaitTimeoutResult(false))
    }

    fn wait_until<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Option<u64>,
    ) -> (MutexGuard<'a, T>, WaitTimeoutResult) {
        let mutex = guard.owned.exclusive();
        let wait = Wait::shared(Reason::new("waiting for a condition"), deadline);
        let mut waiting = self.monitor.lock();
        waiting.0 += 1;
        let woken = hub::park_releasing(waiting, 0, wait, guard.owned);
        if !matches!(woken, Some(Woken::Answered(_))) {
            self.monitor.lock().0 -= 1;
        }
        match woken {
            None => hub::interrupted(),
            Some(Woken::Deadlock) => hub::panic_deadlock(),
            // A kill that comes after the notification does not take it away
            // from everybody: it has to wait.
            Some(woken) => (
                MutexGuard::lock_again(mutex),
                WaitTimeoutResult(!woken.is_answered()),
            ),
        }
    }

    /// Wakes the first who waits. Without effect if nobody does.
    #[doc(alias = "notify")]
    pub fn notify_one(&self) {
        self.wake(1);
    }

    /// Wakes all who wait now.
    pub fn notify_all(&self) {
        let mut left = self.monitor.lock().0;
        while left > 0 {
            let round = left.min(ROUND);
            if self.wake(round) < round {
                return;
            }
            left -= round;
        }
    }

    fn wake(&self, limit: usize) -> usize {
        let mut waiting = self.monitor.lock();
        let woken = waiting.wake_up_to(0, limit);
        waiting.0 -= woken;
        woken
    }
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Condvar")
    }
}
