//! `Barrier`: nobody goes on until all have come.

use std::fmt;
use std::time::Duration;

use crate::hub::{self, Guarded, Monitor, Reason, Wait, Woken};
use crate::sys::clock;

/// Where so many greenlets wait for each other.
///
/// It is [`std::sync::Barrier`], and it may be used again and again. One that is
/// killed or gives up while it waits has not come: the others wait for another
/// one.
///
/// # Examples
/// ```
/// use greenlet::{joinall, spawn, sync::Barrier};
/// use std::sync::Arc;
///
/// let barrier = Arc::new(Barrier::new(3));
/// let handles = [1, 2, 3].map(|_| {
///     let barrier = barrier.clone();
///     spawn(move || barrier.wait().is_leader())
/// });
/// let leaders = joinall(handles).into_iter().filter(|result| matches!(result, Ok(true)));
/// assert_eq!(leaders.count(), 1);
/// ```
pub struct Barrier {
    monitor: Monitor<Arrivals, 1>,
    parties: usize,
}

struct Arrivals {
    count: usize,
    /// How often it has been passed.
    generation: usize,
}

impl Guarded for Arrivals {}

/// What a [`Barrier`] tells those who pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarrierWaitResult(bool);

impl BarrierWaitResult {
    /// True for one of those who pass together: the last to come.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0
    }
}

impl Barrier {
    /// A barrier for so many. As in std, one for none is one for one.
    #[must_use]
    pub const fn new(parties: usize) -> Barrier {
        Barrier {
            monitor: Monitor::new(Arrivals {
                count: 0,
                generation: 0,
            }),
            parties,
        }
    }

    /// Waits until all have come.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody else could ever come.
    pub fn wait(&self) -> BarrierWaitResult {
        match self.wait_until(None) {
            Some(result) => result,
            None => unreachable!("a wait without a limit of time"),
        }
    }

    /// Waits for at most `timeout`. None: not all have come, and this greenlet
    /// has left again.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let barrier = greenlet::sync::Barrier::new(2);
    /// assert!(barrier.wait_timeout(Duration::from_millis(1)).is_none());
    /// ```
    pub fn wait_timeout(&self, timeout: Duration) -> Option<BarrierWaitResult> {
        self.wait_until(Some(clock::deadline_after(timeout)))
    }

    fn wait_until(&self, deadline: Option<u64>) -> Option<BarrierWaitResult> {
        let mut arrivals = self.monitor.lock();
        arrivals.count += 1;
        if arrivals.count >= self.parties {
            arrivals.count = 0;
            arrivals.generation = arrivals.generation.wrapping_add(1);
            arrivals.wake_all(0);
            return Some(BarrierWaitResult(true));
        }
        let generation = arrivals.generation;
        let wait = Wait::shared(Reason::new("waiting at a barrier"), deadline);
        let woken = arrivals.park(0, wait);
        if let Some(Woken::Answered(_)) = woken {
            return Some(BarrierWaitResult(false));
        }
        // Between the end of the wait and this lock all may have come, and have
        // counted this one too.
        let mut arrivals = self.monitor.lock();
        let passed = arrivals.generation != generation;
        if !passed {
            arrivals.count -= 1;
        }
        drop(arrivals);
        match woken {
            None => hub::interrupted(),
            Some(Woken::Deadlock) if !passed => hub::panic_deadlock(),
            Some(_) => passed.then_some(BarrierWaitResult(false)),
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.monitor.lock().count;
        f.debug_struct("Barrier")
            .field("parties", &self.parties)
            .field("waiting", &waiting)
            .finish()
    }
}
