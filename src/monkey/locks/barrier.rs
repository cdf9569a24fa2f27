//! `pthread_barrier_t`: glibc's algorithm, with the table where it asks the kernel. So
//! those who wait in libc, since before the locks were patched, and those who wait here
//! are in the same rounds.
//!
//! ```text
//!   in      who has come, in all rounds      ─┐ both begin anew when the most have
//!   out     who has left, in all rounds      ─┘ come and left again
//!   round   so many were in the rounds that are over: who is the n-th to come waits
//!           until that is n or more
//! ```
//!
//! Whoever destroys it adds to `out` as if the most had come, and waits until the last of
//! those who are still inside begins it anew: so it may be destroyed by the first that is
//! let through, while others are still on their way out.

use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use libc::pthread_barrier_t;

use super::glibc;
use super::park::{self, Wait};
use super::shape::{on, word};
use crate::hub::address;
use crate::monkey::entry::interposed;
use crate::monkey::real::real;

interposed! {
    Locks;

    /// Parks until as many have come as there are to be.
    fn pthread_barrier_wait(barrier: *mut pthread_barrier_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match on() {
                false => in_libc(barrier),
                true => Barrier::of(barrier).wait(),
            }
        }
    }

    /// Parks until all are gone who have been let through.
    fn pthread_barrier_destroy(barrier: *mut pthread_barrier_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match on() {
                false => address::in_kernel(barrier as usize, || {
                    real!(glibc::BARRIER_DESTROY(barrier))
                }),
                true => Barrier::of(barrier).destroy(),
            }
        }
    }
}

/// # Safety
/// As for `pthread_barrier_wait`.
unsafe fn in_libc(barrier: *mut pthread_barrier_t) -> c_int {
    let address = barrier as usize;
    // SAFETY: the caller's promise.
    let answer = address::in_kernel(address, || unsafe { real!(glibc::BARRIER_WAIT(barrier)) });
    // The locks may have been patched meanwhile. Those who wait for the first two words:
    if on() {
        for address in [address, address + size_of::<u32>()] {
            address::wake(address, address::ANY, usize::MAX);
        }
    }
    answer
}

/// The words of a barrier.
#[derive(Clone, Copy)]
struct Barrier<'a> {
    entered: &'a AtomicU32,
    round: &'a AtomicU32,
    count: u32,
    is_shared: bool,
    left: &'a AtomicU32,
    /// By which those who wait in libc are counted.
    address: usize,
}

/// How many may come to a barrier for so many before it begins anew: whole rounds, and no
/// more than half of what a word can hold.
pub(super) const fn most(count: c_uint) -> u32 {
    const THRESHOLD: u32 = u32::MAX / 2;
    THRESHOLD - THRESHOLD % count
}

impl<'a> Barrier<'a> {
    /// # Safety
    /// The barrier has been initialised, and lives until the caller has left it.
    unsafe fn of(barrier: *mut pthread_barrier_t) -> Barrier<'a> {
        // SAFETY: the caller's promise; the words are these, and the third and fourth do
        // not change.
        unsafe {
            Barrier {
                entered: word(barrier, 0),
                round: word(barrier, 1),
                count: word(barrier, 2).load(Ordering::Relaxed),
                is_shared: word(barrier, 3).load(Ordering::Relaxed) != 0,
                left: word(barrier, 4),
                address: barrier as usize,
            }
        }
    }

    fn wait(self) -> c_int {
        let most = most(self.count);
        let number = loop {
            let number = self.entered.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
            if number <= most {
                break number;
            }
            let mut seen = number;
            while seen > most {
                seen = self.wait_for_change(self.entered, seen);
            }
        };
        let mut round = self.round.load(Ordering::Relaxed);
        // Whoever finds that rounds are complete says so, its own or those before.
        while round + self.count <= number {
            let complete = number - number % self.count;
            let order = (Ordering::SeqCst, Ordering::Relaxed);
            match self
                .round
                .compare_exchange_weak(round, complete, order.0, order.1)
            {
                Ok(_) => {
                    round = complete;
                    self.wake(self.round);
                    break;
                }
                Err(now) => round = now,
            }
        }
        while number > round {
            round = self.wait_for_change(self.round, round);
        }
        fence(Ordering::Acquire);
        let left = self.left.fetch_add(1, Ordering::Release).wrapping_add(1);
        if left == most {
            // The last one out. Others that have come meanwhile wait for `entered`.
            fence(Ordering::Acquire);
            self.round.store(0, Ordering::Relaxed);
            self.left.store(0, Ordering::Relaxed);
            self.entered.store(0, Ordering::SeqCst);
            // It may be gone from here on: whoever destroys it has waited for that.
            self.wake(self.entered);
        }
        match number % self.count {
            0 => libc::PTHREAD_BARRIER_SERIAL_THREAD,
            _ => 0,
        }
    }

    fn destroy(self) -> c_int {
        let mut entered = self.entered.load(Ordering::Relaxed);
        let missing = most(self.count) - entered;
        if self.left.fetch_add(missing, Ordering::Relaxed) < entered {
            while entered != 0 {
                entered = self.wait_for_change(self.entered, entered);
            }
        }
        fence(Ordering::Acquire);
        0
    }

    /// Waits until a word is not as it was seen any more, or for a while; what it is then.
    fn wait_for_change(self, word: &AtomicU32, seen: u32) -> u32 {
        let wait = Wait::new(word, "waiting at a barrier of C's");
        let as_seen = || word.load(Ordering::SeqCst) == seen;
        match park::hub() {
            Some(hub) if self.is_shared => {
                wait.poll(hub, || (!as_seen()).then_some(()));
            }
            None if self.is_shared => park::block_on_shared(word, seen),
            hub => {
                wait.sleep_while(hub, as_seen);
            }
        }
        word.load(Ordering::Relaxed)
    }

    /// Wakes who waits for a word; it may be gone, its address is a number.
    fn wake(self, word: &AtomicU32) {
        let address = word.as_ptr() as usize;
        address::wake(address, address::ANY, usize::MAX);
        if self.is_shared || address::may_be_in_kernel(self.address) {
            park::wake_in_kernel(address, self.is_shared);
        }
    }
}
