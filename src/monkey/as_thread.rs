//! Waits that belong to the *thread*, and not to the greenlet that waits.
//!
//! std's `thread::park` has one word for each *thread*, and parking_lot a queue node
//! in a thread-local. A second greenlet that waits while the first one does would
//! break both: the one goes round for ever, the other corrupts its queues. std's
//! channels (`mpsc`), `thread::scope` and crossbeam-channel stand on `thread::park`.
//! So those who share its thread-locals stand still in such a wait, while another thread
//! or an isolated greenlet can end it; and if there is none, the process ends with a report
//! that tells what to use instead. (That other one may itself wait for one who stands
//! still, and hardly anybody can know that; see `Wait::as_thread` for what can be known.)
//!
//! rayon has a lock and a condition of std's in a thread-local, for each who asks its pool
//! for something: such a wait is one of the thread's, too.
//!
//! parking_lot is known by the plain `FUTEX_WAIT`, where std has `WAIT_BITSET`;
//! std's word by its address, which is found with an `unpark`: see `is_parker`.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::entry::raw;
use super::futex::Wait;
use super::kernel;
use super::moment::Moment;
use crate::hub::address::{self, Slept};
use crate::hub::{self, Hub};
use crate::sys::os::{self, Errno};
use crate::sys::{clock, fork, locals};

/// Where the thread itself waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Plain,
    Park,
    Local,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Plain => "a plain FUTEX_WAIT (a lock of parking_lot's, or the like)",
            What::Park => "std::thread::park (with which std's and crossbeam's channels wait too)",
            What::Local => "a lock or condition that is a thread-local",
        }
    }
}

/// What of the thread's a wait for this word is, if others share it: who is alone on its
/// thread-locals is the thread, and just parks.
pub(super) fn what(hub: &Hub, is_plain: bool, address: usize, value: u32) -> Option<What> {
    if hub.is_alone_here() {
        None
    } else if is_plain {
        Some(What::Plain)
    } else if is_parker(address, value) {
        Some(What::Park)
    } else {
        locals::hold(address).then_some(What::Local)
    }
}

/// After so long a blocked thread looks around for the first time, and later on every
/// now and then.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(256);
/// A wait has ended because others are to have a turn.
const OTHERS: Errno = libc::ECANCELED;

impl<S: Fn() -> bool> Wait<S> {
    /// Waits as the thread. Others who share its thread-locals do not run meanwhile, and if
    /// only they could end the wait, the process ends.
    ///
    /// There is one case in which others run after all. The thread that is to end this
    /// wait may itself wait for a greenlet of this hub which is in the middle of
    /// something: it wants to be next at a lock, or has yielded, inside of the very channel.
    /// `park` may end early; so this one ends early, after a turn of everybody else:
    ///
    /// ```text
    ///   the word   PARKED ── meanwhile EMPTY, so that others may park ── NOTIFIED ─▶ ends
    /// ```
    ///
    /// An `unpark` for another greenlet that comes just before the end is lost with it. That
    /// other one has been left in the middle of something then, and has its turn too.
    ///
    /// # Errors
    /// What the system call answers that blocks the thread.
    ///
    /// # Safety
    /// If it is `What::Park`, the address is that of the word.
    pub(super) unsafe fn as_thread(&self, hub: &Hub, what: What) -> Result<Slept, Errno> {
        let ended = match hub.has_other_domains() {
            true => self.stand_still(hub, what),
            false => self.block(hub, what),
        };
        match ended {
            Err(OTHERS) => {}
            Err(libc::ETIMEDOUT) => return Ok(Slept::TimedOut),
            ended => return ended,
        }
        const EMPTY: u32 = 0;
        const NOTIFIED: u32 = 1;
        let parked = PARKED.load(Ordering::Relaxed);
        // SAFETY: the caller's promise; only in `park` there is such an end.
        let word = unsafe { AtomicU32::from_ptr(self.address as *mut u32) };
        let order = (Ordering::AcqRel, Ordering::Relaxed);
        if word
            .compare_exchange(parked, EMPTY, order.0, order.1)
            .is_ok()
        {
            hub.yield_midway();
            word.store(NOTIFIED, Ordering::Release);
        }
        Ok(Slept::Woken)
    }

    /// Parks, and has all stand still who share the current greenlet's thread-locals.
    fn stand_still(&self, hub: &Hub, what: What) -> Result<Slept, Errno> {
        let _stands = hub.stand_still();
        let mut time = FIRST_LOOK;
        address::blocking(|| {
            loop {
                let look = clock::deadline_after(time);
                let deadline = self.moment.deadline();
                let deadline = deadline.map_or(look, |deadline| deadline.min(look));
                match self.park_until(hub, "waiting as its thread", Some(deadline)) {
                    Slept::TimedOut => {}
                    slept => return Ok(slept),
                }
                let alone = hub.all_stand_still();
                look_around(hub, what, self.moment, alone, &self.still)?;
                time = (2 * time).min(LAST_LOOK);
            }
        })
    }

    /// Blocks the thread, where nobody is on it who does not share its thread-locals.
    fn block(&self, hub: &Hub, what: What) -> Result<Slept, Errno> {
        address::block(self.address, self.bits, &self.still, |word| {
            let is_asleep = || word.load(Ordering::Acquire) == 0;
            let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
            let at: *const AtomicU32 = word;
            let mut time = FIRST_LOOK.as_nanos() as u64;
            loop {
                let deadline = self.moment.deadline();
                let left = deadline.map(|deadline| deadline.saturating_sub(clock::now_ns()));
                let slice = kernel::timespec_of(left.map_or(time, |left| left.min(time)));
                // SAFETY: both are live variables.
                match unsafe { raw!(libc::SYS_futex, at, op, 0u32, &raw const slice) } {
                    Err(libc::ETIMEDOUT) => {}
                    ended => return ended.map(|_| ()),
                }
                look_around(hub, what, self.moment, true, is_asleep)?;
                time = (2 * time).min(LAST_LOOK.as_nanos() as u64);
            }
        })
    }
}

/// What is looked at now and then. `alone` says that nobody of this thread can end the wait.
///
/// # Errors
/// ETIMEDOUT, if the moment has come; and `OTHERS`.
fn look_around(
    hub: &Hub,
    what: What,
    moment: Moment,
    alone: bool,
    still: impl Fn() -> bool,
) -> Result<(), Errno> {
    if moment.has_come() {
        return Err(libc::ETIMEDOUT);
    }
    // What the others have done before they ended is seen after that.
    if alone && matches!(moment, Moment::Never) && hub::no_other_threads() && still() {
        hub::abort_blocked(hub, what.name());
    }
    match what == What::Park && hub.somebody_is_midway() {
        true => Err(OTHERS),
        false => Ok(()),
    }
}

// Where std's Parker is.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looking {
    No,
    /// The next FUTEX_WAIT of this thread is that of `thread::park`.
    ForWait,
    /// The next FUTEX_WAKE of this thread is that of `Thread::unpark`.
    ForWake,
}

thread_local! {
    static LOOKING: Cell<Looking> = const { Cell::new(Looking::No) };
    /// Where the word of this thread's Parker is, once that is known.
    static PARKER: Cell<usize> = const { Cell::new(0) };
}

/// What stands in the word of a Parker whose thread waits.
static PARKED: AtomicU32 = AtomicU32::new(u32::MAX);

/// A wait is looked at that may be the one which shows what stands in the word: then it is
/// to end at once.
pub(super) fn looks_at_wait(address: usize, value: u32) -> bool {
    let looks = LOOKING.get() == Looking::ForWait;
    if looks {
        PARKED.store(value, Ordering::Relaxed);
        PARKER.set(address);
    }
    looks
}

/// A wake-up is looked at that may be the one which shows where the word is.
pub(super) fn look_at_wake(address: usize) {
    if LOOKING.get() == Looking::ForWake {
        PARKER.set(address);
    }
}

/// Whether this is the word on which `thread::park` of this thread waits.
///
/// `unpark` wakes that word if the thread is parked, as it is if this is the word;
/// and then the wait that has begun here ends at once, which `park` is allowed to.
/// Otherwise it leaves a permit, so that the next `park` ends at once.
fn is_parker(address: usize, value: u32) -> bool {
    if value != PARKED.load(Ordering::Relaxed) {
        return false;
    }
    if PARKER.get() == 0 {
        LOOKING.set(Looking::ForWake);
        std::thread::current().unpark();
        LOOKING.set(Looking::No);
    }
    PARKER.get() == address
}

/// To be called before the locks are patched: learns what `thread::park` does.
pub(super) fn prepare() {
    // A lock of the table must be free in the child of a fork.
    fork::watch();
    locals::find();
    if PARKER.get() != 0 {
        return;
    }
    // Asked for now, so that no memory is asked for below: the lock of an allocator would
    // be taken for that word.
    let _this = std::thread::current();
    LOOKING.set(Looking::ForWait);
    std::thread::park_timeout(Duration::from_nanos(1));
    LOOKING.set(Looking::No);
    // There was a permit, or somebody may have left one in that moment.
    if PARKER.get() == 0 || os::has_more_threads_than(1) {
        std::thread::current().unpark();
    }
}
