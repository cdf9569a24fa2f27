//! `Semaphore` and `BoundedSemaphore`: so many at a time.

use std::fmt;
use std::time::Duration;

use crate::error::OverReleased;
use crate::hub::{Guarded, Monitor, Ready, Reason, Wait};
use crate::sys::clock;
use crate::task::{Source, Waitable};

/// Those who want a permit.
const TAKERS: usize = 0;
/// Those who want to know that there is one.
const WATCHERS: usize = 1;

/// While somebody waits in `TAKERS`, it is 0: a permit that comes back goes to
/// them.
struct Permits(usize);

impl Guarded for Permits {}

/// What both semaphores are.
struct Counter {
    monitor: Monitor<Permits, 2>,
    /// There are never more.
    bound: usize,
}

impl Counter {
    const fn new(permits: usize, bound: usize) -> Counter {
        Counter {
            monitor: Monitor::new(Permits(permits)),
            bound,
        }
    }

    #[inline]
    fn acquire(&self) -> Permit<'_> {
        self.take(None);
        Permit { counter: self }
    }

    #[inline]
    fn try_acquire(&self) -> Option<Permit<'_>> {
        let mut permits = self.monitor.lock();
        let there = permits.0 > 0;
        permits.0 -= usize::from(there);
        there.then(|| Permit { counter: self })
    }

    fn acquire_timeout(&self, timeout: Duration) -> Option<Permit<'_>> {
        let deadline = clock::deadline_after(timeout);
        self.take(Some(deadline)).then(|| Permit { counter: self })
    }

    /// False: the time is up.
    #[inline]
    fn take(&self, deadline: Option<u64>) -> bool {
        let mut permits = self.monitor.lock();
        if permits.0 > 0 {
            permits.0 -= 1;
            return true;
        }
        let reason = Reason::new("waiting for a semaphore");
        permits
            .wait(TAKERS, Wait::shared(reason, deadline))
            .is_answered()
    }

    /// Gives a permit to the first who waits, or keeps it. False: they are all
    /// there.
    #[inline]
    fn release(&self) -> bool {
        let mut permits = self.monitor.lock();
        if permits.0 >= self.bound {
            return false;
        }
        if !permits.wake_one(TAKERS) {
            permits.0 += 1;
            // Each of them may leave it for the next.
            permits.wake_all(WATCHERS);
        }
        true
    }

    fn available(&self) -> usize {
        self.monitor.lock().0
    }

    fn source(&self) -> Source<'_> {
        Source::made(Ready {
            monitor: &self.monitor,
            queue: WATCHERS,
            ready: |permits| permits.0 > 0,
        })
    }
}

/// A number of permits: who takes one while there is none waits for it.
///
/// It is gevent's `Semaphore`. A permit that is released is handed to the first
/// who waits; nobody can overtake it. Nobody owns a permit: whoever likes may
/// [`release`](Semaphore::release) one, also one that was never taken, and a
/// [`BoundedSemaphore`] is for those who take that for a mistake.
///
/// # Examples
/// At most two downloads at a time:
/// ```
/// use greenlet::{joinall, sleep, spawn, sync::Semaphore};
/// use std::time::Duration;
///
/// static SLOTS: Semaphore = Semaphore::new(2);
///
/// joinall((0..6).map(|_| {
///     spawn(|| {
///         let _permit = SLOTS.acquire();
///         sleep(Duration::from_millis(1)); // the download
///     })
/// }));
/// assert_eq!(SLOTS.available(), 2);
/// ```
#[doc(alias = "DummySemaphore")]
pub struct Semaphore {
    counter: Counter,
}

/// A permit, taken; dropping it gives it back.
///
/// [`forget`](Permit::forget) keeps it taken, for somebody to
/// [`release`](Semaphore::release) it later.
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit<'a> {
    counter: &'a Counter,
}

impl Semaphore {
    /// A semaphore of so many permits. There may be none at first; one of
    /// [`usize::MAX`] never lets anybody wait.
    #[must_use]
    pub const fn new(permits: usize) -> Semaphore {
        Semaphore {
            counter: Counter::new(permits, usize::MAX),
        }
    }

    /// Takes a permit, and waits for it if there is none.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody could ever release one.
    #[inline]
    pub fn acquire(&self) -> Permit<'_> {
        self.counter.acquire()
    }

    /// Takes a permit if there is one.
    #[inline]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.counter.try_acquire()
    }

    /// Takes a permit, and waits for at most `timeout`.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let semaphore = greenlet::sync::Semaphore::new(0);
    /// assert!(semaphore.acquire_timeout(Duration::from_millis(1)).is_none());
    /// ```
    pub fn acquire_timeout(&self, timeout: Duration) -> Option<Permit<'_>> {
        self.counter.acquire_timeout(timeout)
    }

    /// Adds a permit, which goes to the first who waits.
    ///
    /// # Examples
    /// ```
    /// let semaphore = greenlet::sync::Semaphore::new(0);
    /// semaphore.release();
    /// semaphore.acquire().forget();
    /// assert_eq!(semaphore.available(), 0);
    /// ```
    #[inline]
    pub fn release(&self) {
        // With usize::MAX permits it makes no difference.
        self.counter.release();
    }

    /// How many permits there are now.
    #[doc(alias = "counter")]
    #[doc(alias = "locked")]
    pub fn available(&self) -> usize {
        self.counter.available()
    }
}

/// A [`Semaphore`] that never has more permits than at first.
///
/// # Examples
/// ```
/// use greenlet::sync::BoundedSemaphore;
///
/// let semaphore = BoundedSemaphore::new(1);
/// semaphore.acquire().forget();
/// assert!(semaphore.release().is_ok());
/// assert!(semaphore.release().is_err());
/// ```
pub struct BoundedSemaphore {
    counter: Counter,
}

impl BoundedSemaphore {
    /// A semaphore of so many permits, and never more.
    #[must_use]
    pub const fn new(permits: usize) -> BoundedSemaphore {
        BoundedSemaphore {
            counter: Counter::new(permits, permits),
        }
    }

    /// Takes a permit, and waits for it if there is none.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody could ever release one.
    #[inline]
    pub fn acquire(&self) -> Permit<'_> {
        self.counter.acquire()
    }

    /// Takes a permit if there is one.
    #[inline]
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.counter.try_acquire()
    }

    /// Takes a permit, and waits for at most `timeout`.
    pub fn acquire_timeout(&self, timeout: Duration) -> Option<Permit<'_>> {
        self.counter.acquire_timeout(timeout)
    }

    /// Gives back a permit that was taken and [forgotten](Permit::forget).
    ///
    /// # Errors
    /// [`OverReleased`] if all permits are there; nothing has changed then.
    #[inline]
    pub fn release(&self) -> Result<(), OverReleased> {
        match self.counter.release() {
            true => Ok(()),
            false => Err(OverReleased {
                bound: self.counter.bound,
            }),
        }
    }

    /// How many permits there are now.
    pub fn available(&self) -> usize {
        self.counter.available()
    }
}

impl Permit<'_> {
    /// Does not give the permit back.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        // Refused where somebody has released more than was forgotten.
        self.counter.release();
    }
}

impl Waitable for Semaphore {
    fn is_ready(&self) -> bool {
        self.available() > 0
    }

    fn source(&self) -> Source<'_> {
        self.counter.source()
    }
}

impl Waitable for BoundedSemaphore {
    fn is_ready(&self) -> bool {
        self.available() > 0
    }

    fn source(&self) -> Source<'_> {
        self.counter.source()
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("available", &self.available())
            .finish()
    }
}

impl fmt::Debug for BoundedSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedSemaphore")
            .field("available", &self.available())
            .field("bound", &self.counter.bound)
            .finish()
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}
