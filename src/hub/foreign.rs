//! Descriptors that nobody keeps an account of: those of std, of other crates and
//! of C libraries, which are known by their numbers only.
//!
//! Nothing is remembered about them. What the kernel knows (whether the user
//! made them non-blocking, their timeouts) it is asked when an operation would
//! block; and each wait tells the reactor anew what it waits for, for a number
//! may be another descriptor's by now:
//!
//! ```text
//!   recv ─▶ EAGAIN ─▶ F_GETFL, SO_RCVTIMEO ─▶ arm (epoll_ctl) ─▶ park ─▶ recv
//!                      only now                 ENOENT: it is another one
//! ```
//!
//! One thing is remembered: which numbers some hub has armed. Whoever closes a
//! number looks there, and has those who wait for it answered with EBADF *before*
//! the number can be given out again.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::Hub;
use super::io::Io;
use super::quiet::Quiet;
use super::reactor::Direction;
use super::wait::{Kind, Place, Reason};
use crate::sys::fork::PerProcess;
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;

/// One of several descriptors to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest {
    pub(crate) fd: RawFd,
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Hub {
    /// Runs `attempt`, which must not block the thread, until its answer is
    /// something else than EAGAIN, and parks the greenlet in between.
    ///
    /// `patience` is asked when the first attempt would block: until when to
    /// wait, or with what error not to. When the time is over, or the greenlet
    /// is to end, that is the error too.
    pub(crate) fn until_ready<R>(
        &self,
        fd: RawFd,
        direction: Direction,
        patience: impl FnOnce() -> Result<Option<u64>, Errno>,
        mut attempt: impl FnMut() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        match attempt() {
            Err(libc::EAGAIN) => {}
            answer => return answer,
        }
        let deadline = patience()?;
        loop {
            self.await_descriptor(fd, direction, deadline)?;
            match attempt() {
                Err(libc::EAGAIN) => {}
                answer => return answer,
            }
        }
    }

    /// Parks until the descriptor may be ready.
    ///
    /// # Errors
    /// EAGAIN when the time is over; EBADF if it is closed, or was meanwhile;
    /// EPERM if it is of a kind that is always ready; the refusal.
    pub(crate) fn await_descriptor(
        &self,
        fd: RawFd,
        direction: Direction,
        deadline: Option<u64>,
    ) -> Result<(), Errno> {
        let saved = os::errno();
        let armed = self.arm_foreign(fd, direction == Direction::Read, direction == Direction::Write);
        os::set_errno(saved);
        let source = armed?;
        let waiters = &source.side(direction).waiters;
        match self.park_quietly(waiters, direction.reason(fd), Kind::External, deadline) {
            Quiet::Answered if source.is_gone() => Err(libc::EBADF),
            Quiet::Answered => Ok(()),
            Quiet::TimedOut => Err(libc::EAGAIN),
            Quiet::Refused(error) => Err(error),
        }
    }

    /// Parks until one of several descriptors may be ready, or is closed.
    ///
    /// # Errors
    /// As for [`await_descriptor`](Hub::await_descriptor); without descriptors
    /// it is a sleep.
    pub(crate) fn await_descriptors(
        &self,
        interests: &[Interest],
        deadline: Option<u64>,
    ) -> Result<(), Errno> {
        let saved = os::errno();
        let armed: Result<Vec<_>, Errno> = interests
            .iter()
            .map(|interest| {
                let source = self.arm_foreign(interest.fd, interest.read, interest.write)?;
                Ok((source, interest))
            })
            .collect();
        os::set_errno(saved);
        let armed = armed?;
        let mut places: Vec<&dyn Place> = Vec::with_capacity(armed.len());
        for (source, interest) in &armed {
            // Whoever asks for neither waits for errors, which wake both sides.
            if interest.read || !interest.write {
                places.push(&source.side(Direction::Read).waiters);
            }
            if interest.write {
                places.push(&source.side(Direction::Write).waiters);
            }
        }
        let reason = Reason::with("waiting for descriptors, so many:", armed.len() as u64);
        match self.park_quietly_in(&places, reason, Kind::External, deadline) {
            Quiet::Answered => Ok(()),
            Quiet::TimedOut => Err(libc::EAGAIN),
            Quiet::Refused(error) => Err(error),
        }
    }

    fn arm_foreign(
        &self,
        fd: RawFd,
        read: bool,
        write: bool,
    ) -> Result<std::rc::Rc<super::reactor::Source>, Errno> {
        let _pass = PassThrough::enter();
        let source = self
            .arm_source(fd, read, write)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EBADF))?;
        if ARMED.insert(fd) || !self.arms_foreign.replace(true) {
            everywhere().add(self);
        }
        Ok(source)
    }
}

/// Where foreign descriptors are known: the hubs that have armed one.
fn everywhere() -> &'static Io {
    static EVERYWHERE: PerProcess<Io> = PerProcess::new();
    EVERYWHERE.get(Io::of_nobody)
}

/// A descriptor number is about to be closed, or to become another's: who waits
/// for it, on whatever hub, gets EBADF.
#[inline]
pub(crate) fn closing(fd: RawFd) {
    if ARMED.contains(fd) {
        forget(fd);
    }
}

/// As `closing`, for all numbers from the first to the last.
pub(crate) fn closing_range(first: u32, last: u32) {
    for fd in ARMED.within(first, last) {
        forget(fd);
    }
}

#[cold]
fn forget(fd: RawFd) {
    let saved = os::errno();
    ARMED.remove(fd);
    everywhere().retire(fd);
    os::set_errno(saved);
}

/// A set of descriptor numbers that anybody can ask without a lock.
struct Numbers {
    chunks: [AtomicPtr<Chunk>; CHUNKS],
}

type Chunk = [AtomicU64; WORDS];

const WORDS: usize = 64;
const PER_CHUNK: usize = WORDS * 64;
/// For the kernel's largest `fs.nr_open`, 2^20 by default, many times over.
/// A number beyond is never found, and who waits for it is not told of its end.
const CHUNKS: usize = 4096;

static ARMED: Numbers = Numbers {
    chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
};

impl Numbers {
    #[inline]
    fn chunk(&self, at: usize) -> Option<&Chunk> {
        let chunk = self.chunks.get(at / PER_CHUNK)?.load(Ordering::Acquire);
        // SAFETY: it is null, or a leaked box.
        unsafe { chunk.as_ref() }
    }

    #[inline]
    fn contains(&self, fd: RawFd) -> bool {
        let Ok(at) = usize::try_from(fd) else {
            return false;
        };
        self.chunk(at)
            .is_some_and(|chunk| chunk[at % PER_CHUNK / 64].load(Ordering::Relaxed) & bit(at) != 0)
    }

    /// Whether it is new.
    fn insert(&self, fd: RawFd) -> bool {
        let Ok(at) = usize::try_from(fd) else {
            return false;
        };
        let Some(place) = self.chunks.get(at / PER_CHUNK) else {
            return false;
        };
        if place.load(Ordering::Acquire).is_null() {
            let fresh = Box::into_raw(Box::new([const { AtomicU64::new(0) }; WORDS]));
            let other = ptr::null_mut();
            if place
                .compare_exchange(other, fresh, Ordering::AcqRel, Ordering::Acquire)
                .is_err()
            {
                // SAFETY: made above, and nobody else has seen it.
                drop(unsafe { Box::from_raw(fresh) });
            }
        }
        self.chunk(at).is_some_and(|chunk| {
            let word = &chunk[at % PER_CHUNK / 64];
            word.load(Ordering::Relaxed) & bit(at) == 0
                && word.fetch_or(bit(at), Ordering::Relaxed) & bit(at) == 0
        })
    }

    fn remove(&self, fd: RawFd) {
        if let Some(chunk) = self.chunk(fd as usize) {
            chunk[fd as usize % PER_CHUNK / 64].fetch_and(!bit(fd as usize), Ordering::Relaxed);
        }
    }

    /// Those between two numbers, both included.
    fn within(&self, first: u32, last: u32) -> impl Iterator<Item = RawFd> + '_ {
        let end = (last as usize + 1).min(CHUNKS * PER_CHUNK);
        let mut at = first as usize;
        std::iter::from_fn(move || {
            while at < end {
                if self.chunk(at).is_none() {
                    at = (at / PER_CHUNK + 1) * PER_CHUNK;
                    continue;
                }
                at += 1;
                if self.contains(at as RawFd - 1) {
                    return Some(at as RawFd - 1);
                }
            }
            None
        })
    }
}

fn bit(at: usize) -> u64 {
    1 << (at % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_until_they_are_taken_out() {
        let numbers = Numbers {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
        };
        let all = [0, 63, 64, 4095, 4096, 1_000_000];
        for fd in all {
            assert!(!numbers.contains(fd));
            assert!(numbers.insert(fd));
            assert!(!numbers.insert(fd));
        }
        assert_eq!(numbers.within(0, u32::MAX).collect::<Vec<_>>(), all);
        assert_eq!(numbers.within(64, 4095).collect::<Vec<_>>(), [64, 4095]);
        numbers.remove(64);
        assert!(!numbers.contains(64) && numbers.contains(63));
        assert!(!numbers.contains(-1) && !numbers.insert(-1));
        assert!(!numbers.insert(RawFd::MAX));
    }
}
