//! How a wait for a lock of C waits: a greenlet parks, or looks again now and then, and a
//! plain thread blocks.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libc::{clockid_t, timespec};

use crate::hub::address::{self, Sleep, Slept};
use crate::hub::{Hub, Kind, Reason};
use crate::monkey::entry::{self, Part, raw};
use crate::monkey::moment::Moment;
use crate::sys::clock;
use crate::sys::os::Errno;

/// This thread's hub, if the greenlet that waits may park.
pub(super) fn hub() -> Option<&'static Hub> {
    entry::hub(Part::Locks)
}

/// What is waited for, and how long.
#[derive(Clone, Copy)]
pub(in crate::monkey) struct Wait {
    /// Where who wakes looks for us.
    pub(super) address: usize,
    pub(super) bits: u32,
    pub(super) reason: Reason,
    pub(super) kind: Kind,
    pub(super) moment: Moment,
}

impl Wait {
    /// For ever, for what another greenlet or thread of this process gives back.
    pub(in crate::monkey) fn new<T>(object: *const T, what: &'static str) -> Wait {
        Wait {
            address: object as usize,
            bits: address::ANY,
            reason: Reason::new(what),
            kind: Kind::Shared,
            moment: Moment::Never,
        }
    }

    pub(in crate::monkey) fn until(self, moment: Moment) -> Wait {
        Wait { moment, ..self }
    }

    /// Parks until the attempt has an answer. It is made under the lock of the table, so
    /// that whoever gives back what it wants comes before it, or finds us waiting.
    ///
    /// None: the time is over.
    pub(super) fn park<R: Copy>(self, hub: &Hub, attempt: impl Fn() -> Option<R>) -> Option<R> {
        self.park_behind(hub, attempt, || true)
    }

    /// As `park`. Who gives back what it wants is made to let others run, where that is
    /// necessary and `may_go_first` says so.
    pub(super) fn park_behind<R: Copy>(
        self,
        hub: &Hub,
        attempt: impl Fn() -> Option<R>,
        may_go_first: impl Fn() -> bool,
    ) -> Option<R> {
        let answer = Cell::new(None);
        let still = || {
            answer.set(attempt());
            answer.get().is_none()
        };
        loop {
            let mut sleep = self.sleep();
            if address::has_been_patient(hub, self.address) {
                sleep.may_go_first = may_go_first();
            }
            let slept = address::wait(hub, self.address, self.bits, still, sleep);
            if answer.get().is_some() {
                return answer.get();
            }
            if slept == Slept::TimedOut && self.moment.has_come() {
                return None;
            }
        }
    }

    /// As `park`, for what another process may give back.
    pub(super) fn poll<R>(self, hub: &Hub, attempt: impl Fn() -> Option<R>) -> Option<R> {
        let mut pause = SHORTEST;
        loop {
            let answer = attempt();
            if answer.is_some() {
                return answer;
            }
            if self.moment.has_come() {
                return None;
            }
            self.nap(hub, pause);
            pause = (2 * pause).min(LONGEST);
        }
    }

    /// Lets others run for so long, but not until after its time is over.
    pub(super) fn nap(self, hub: &Hub, time: Duration) {
        let next = clock::deadline_after(time);
        let next = self.moment.deadline().map_or(next, |end| end.min(next));
        hub.sleep_regardless(next, self.reason);
    }

    /// Waits, as whoever it is, for as long as `still` says, under the lock of the table.
    /// May end early.
    pub(in crate::monkey) fn sleep_while(
        self,
        hub: Option<&Hub>,
        still: impl Fn() -> bool,
    ) -> Slept {
        match hub {
            Some(hub) => loop {
                let slept = address::wait(hub, self.address, self.bits, &still, self.sleep());
                if slept != Slept::TimedOut || self.moment.has_come() {
                    return slept;
                }
            },
            None => {
                let sleep = |word: &AtomicU32| block(word, self.moment);
                match address::block(self.address, self.bits, still, sleep) {
                    Ok(slept) => slept,
                    Err(libc::ETIMEDOUT) => Slept::TimedOut,
                    Err(_) => Slept::Woken,
                }
            }
        }
    }

    fn sleep(self) -> Sleep {
        Sleep {
            reason: self.reason,
            kind: self.kind,
            deadline: self.moment.deadline(),
            may_go_first: true,
        }
    }
}

/// How long to wait until the next look at what processes share.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(10);

/// Blocks the thread while the word is 0. Signals do not end that.
fn block(word: &AtomicU32, moment: Moment) -> Result<(), Errno> {
    let (flag, time) = moment.of_futex();
    let time: *const timespec = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let op = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG | flag;
    let at: *const AtomicU32 = word;
    loop {
        // SAFETY: both are live variables.
        match unsafe { raw!(libc::SYS_futex, at, op, 0u32, time, 0usize, address::ANY) } {
            Err(libc::EINTR) if word.load(Ordering::Acquire) == 0 => {}
            ended => return ended.map(|_| ()),
        }
    }
}

/// A limit that a caller has given.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    pub(super) clock: clockid_t,
    pub(super) time: *const timespec,
}

impl Limit {
    /// The moment, if there is one, by a clock that locks know.
    ///
    /// # Safety
    /// The pointer is good.
    pub(super) unsafe fn moment(self) -> Option<Moment> {
        // SAFETY: the caller's promise.
        Moment::by(self.clock, unsafe { self.time.read() })
    }

    /// The moment, if it is to come: otherwise libc says what is wrong with it, or that it
    /// is over, and does not wait.
    ///
    /// # Safety
    /// As for `moment`.
    pub(super) unsafe fn to_come(limit: Option<Limit>) -> Option<Moment> {
        match limit {
            None => Some(Moment::Never),
            // SAFETY: the caller's promise.
            Some(limit) => unsafe { limit.moment() }.filter(|moment| !moment.has_come()),
        }
    }
}

/// Wakes all who wait in the kernel for a word of an object, which may be gone.
pub(super) fn wake_in_kernel(address: usize, is_shared: bool) {
    let op = match is_shared {
        true => libc::FUTEX_WAKE,
        false => libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
    };
    // SAFETY: waking touches no memory.
    let _ = unsafe { raw!(libc::SYS_futex, address, op, i32::MAX) };
}

/// Waits in the kernel while a word of an object that processes share is as it was seen.
pub(super) fn block_on_shared(word: &AtomicU32, seen: u32) {
    let at: *const AtomicU32 = word;
    address::blocking(|| {
        // SAFETY: a live word, and no time.
        let _ = unsafe { raw!(libc::SYS_futex, at, libc::FUTEX_WAIT, seen, 0usize) };
    });
}
