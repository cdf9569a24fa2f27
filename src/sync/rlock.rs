//! `RLock`: a lock that its owner may take again.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::error::NotOwner;
use crate::hub::{Guarded, Hub, Monitor, Reason, Wait};
use crate::sys::clock;

/// The owner while nobody has it. No greenlet has this number.
const NOBODY: u64 = u64::MAX;
/// It has been handed to somebody who has not run yet.
const HANDED_ON: u64 = u64::MAX - 1;

struct Owner {
    greenlet: u64,
    /// How often it has taken it.
    times: usize,
}

impl Guarded for Owner {}

/// A lock whose owner, a greenlet, may take it several times, and has to
/// release it as often.
///
/// It is gevent's and Python's `RLock`. It guards no value. It is handed to the
/// first who waits.
///
/// # Examples
/// ```
/// use greenlet::sync::RLock;
///
/// let lock = RLock::new();
/// let outer = lock.lock();
/// let inner = lock.lock();
/// drop(outer);
/// assert!(lock.is_owned());
/// drop(inner);
/// assert!(!lock.is_locked());
/// ```
#[doc(alias = "ReentrantLock")]
pub struct RLock {
    monitor: Monitor<Owner, 1>,
}

/// One level of an [`RLock`]; dropping it releases that level.
#[must_use = "a guard that is dropped releases at once"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    owner: u64,
    not_send: PhantomData<*const ()>,
}

impl RLock {
    /// A lock that nobody has.
    #[must_use]
    pub const fn new() -> RLock {
        RLock {
            monitor: Monitor::new(Owner {
                greenlet: NOBODY,
                times: 0,
            }),
        }
    }

    /// Takes the lock, or takes it once more, until the guard is dropped.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if nobody could ever release it.
    pub fn lock(&self) -> RLockGuard<'_> {
        self.acquire();
        self.guard()
    }

    /// Takes the lock if nobody else has it.
    pub fn try_lock(&self) -> Option<RLockGuard<'_>> {
        self.take(me()).then(|| self.guard())
    }

    /// Takes the lock, and waits for at most `timeout`.
    pub fn lock_timeout(&self, timeout: Duration) -> Option<RLockGuard<'_>> {
        let deadline = Some(clock::deadline_after(timeout));
        self.acquire_until(deadline).then(|| self.guard())
    }

    /// Takes the lock without a guard, for a [`release`](RLock::release) later.
    ///
    /// # Panics
    /// As [`lock`](RLock::lock).
    pub fn acquire(&self) {
        self.acquire_until(None);
    }

    /// Releases one level of what this greenlet has taken.
    ///
    /// # Errors
    /// [`NotOwner`] if this greenlet does not have the lock; nothing has changed
    /// then.
    ///
    /// # Examples
    /// ```
    /// let lock = greenlet::sync::RLock::new();
    /// assert!(lock.release().is_err());
    /// lock.acquire();
    /// assert!(lock.release().is_ok());
    /// ```
    pub fn release(&self) -> Result<(), NotOwner> {
        self.release_of(me())
    }

    /// Whether the current greenlet has the lock.
    #[doc(alias = "_is_owned")]
    pub fn is_owned(&self) -> bool {
        self.monitor.lock().greenlet == me()
    }

    /// Whether anybody has it.
    #[doc(alias = "locked")]
    pub fn is_locked(&self) -> bool {
        self.monitor.lock().greenlet != NOBODY
    }

    fn take(&self, me: u64) -> bool {
        let mut owner = self.monitor.lock();
        owner.take(me)
    }

    fn acquire_until(&self, deadline: Option<u64>) -> bool {
        let me = me();
        let mut owner = self.monitor.lock();
        if owner.take(me) {
            return true;
        }
        let wait = Wait::shared(Reason::new("waiting for an RLock"), deadline);
        if !owner.wait(0, wait).is_answered() {
            return false;
        }
        let mut owner = self.monitor.lock();
        owner.greenlet = me;
        owner.times = 1;
        true
    }

    fn release_of(&self, me: u64) -> Result<(), NotOwner> {
        let mut owner = self.monitor.lock();
        if owner.greenlet != me {
            return Err(NotOwner);
        }
        owner.times -= 1;
        if owner.times == 0 {
            owner.greenlet = match owner.wake_one(0) {
                true => HANDED_ON,
                false => NOBODY,
            };
        }
        Ok(())
    }

    fn guard(&self) -> RLockGuard<'_> {
        RLockGuard {
            lock: self,
            owner: me(),
            not_send: PhantomData,
        }
    }
}

impl Owner {
    fn take(&mut self, me: u64) -> bool {
        if self.greenlet == NOBODY {
            self.greenlet = me;
        }
        let mine = self.greenlet == me;
        self.times += usize::from(mine);
        mine
    }
}

fn me() -> u64 {
    Hub::get().current().id
}

impl Drop for RLockGuard<'_> {
    /// Where another greenlet of the thread drops it, it is the level of the
    /// one that took it. Without effect where that was released already.
    fn drop(&mut self) {
        let _ = self.lock.release_of(self.owner);
    }
}

impl Default for RLock {
    fn default() -> RLock {
        RLock::new()
    }
}

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (greenlet, times) = {
            let owner = self.monitor.lock();
            (owner.greenlet, owner.times)
        };
        let owner = (greenlet < HANDED_ON).then_some(greenlet);
        f.debug_struct("RLock")
            .field("owner", &owner)
            .field("times", &times)
            .finish()
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RLockGuard")
    }
}
