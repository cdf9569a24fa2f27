//! Descriptors that nobody keeps an account of: those of std, of other crates and
//! of C libraries, which are known by their numbers only.
//!
//! Nothing is remembered about them. What the kernel knows (whether the user
//! made them non-blocking, their timeouts) it is asked when an operation would
//! block; and each operation that has to wait tells the reactor anew what it waits
//! for, for a number may be another descriptor's by now:
//!
//! ```text
//!   recv ─▶ EAGAIN ─▶ F_GETFL, SO_RCVTIMEO ─▶ arm (epoll_ctl) ─▶ park ─▶ recv
//!                      only now                 ENOENT:            ▲       │
//!                                               it is another one  └───────┘
//!                                                                EAGAIN again
//! ```
//!
//! The second time round it only parks: what is reported are edges, so nothing
//! that happens after the last attempt is lost, and a descriptor that is always
//! "ready" without giving anything (an error queue that nobody reads) does not keep
//! the hub busy.
//!
//! One thing is remembered: which numbers some hub has armed. Whoever closes a
//! number looks there, and has those who wait for it answered with EBADF *before*
//! the number can be given out again:
//!
//! ```text
//!   closing:  out of ARMED ─▶ out of every epoll set ─▶ close ─▶ in ARMED? verify
//!   arming:   into ARMED ─▶ into the epoll set ─▶ still in ARMED? else once more
//! ```
//!
//! So whoever arms it at the same moment on another thread either finds it closed,
//! or is told.

use std::os::fd::RawFd;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use super::Hub;
use super::io::Io;
use super::quiet::Quiet;
use super::reactor::{Direction, Source};
use super::wait::{Kind, Place, Reason};
use crate::sys::clock;
use crate::sys::fork::PerProcess;
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;

/// How often a descriptor is tried that the kernel has no room to watch.
const UNWATCHED_INTERVAL: u64 = 1_000_000;

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
        let mut armed = None;
        loop {
            let time_is_up = self.await_armed(fd, direction, deadline, &mut armed)?;
            match attempt() {
                // A hub that was busy for long finds the time over, and the
                // descriptor ready.
                Err(libc::EAGAIN) if !time_is_up => {}
                answer => return answer,
            }
        }
    }

    /// Parks until the descriptor may be ready, or the time is over. What is
    /// armed for it is kept by the caller from one call to the next.
    fn await_armed(
        &self,
        fd: RawFd,
        direction: Direction,
        deadline: Option<u64>,
        armed: &mut Option<Rc<Source>>,
    ) -> Result<bool, Errno> {
        let source = match armed.take() {
            Some(source) if source.is_armed_for(direction) => source,
            _ => {
                let (read, write) = (direction == Direction::Read, direction == Direction::Write);
                match self.arm_foreign(fd, read, write) {
                    Ok(source) => source,
                    Err(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC) => {
                        return self.await_unwatched(deadline);
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.renew_budget();
        let waiters = &source.side(direction).waiters;
        match self.park_quietly(waiters, direction.reason(fd), Kind::External, deadline) {
            Quiet::Answered if source.is_gone() => Err(libc::EBADF),
            Quiet::Answered => {
                *armed = Some(source);
                Ok(false)
            }
            Quiet::TimedOut => Ok(true),
            Quiet::Refused(error) => Err(error),
        }
    }

    /// The reactor could not be told of a descriptor: it is tried now and then.
    #[cold]
    fn await_unwatched(&self, deadline: Option<u64>) -> Result<bool, Errno> {
        let next = clock::now_ns().saturating_add(UNWATCHED_INTERVAL);
        let until = deadline.map_or(next, |deadline| deadline.min(next));
        match self.sleep_quietly(until) {
            Quiet::Refused(error) => Err(error),
            _ => Ok(Some(until) == deadline),
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
        match self.await_armed(fd, direction, deadline, &mut None)? {
            false => Ok(()),
            true => Err(libc::EAGAIN),
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
        let armed: Result<Vec<_>, Errno> = interests
            .iter()
            .map(|interest| {
                let source = self.arm_foreign(interest.fd, interest.read, interest.write)?;
                Ok((source, interest))
            })
            .collect();
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

    /// Leaves errno as it is.
    fn arm_foreign(&self, fd: RawFd, read: bool, write: bool) -> Result<Rc<Source>, Errno> {
        let saved = os::errno();
        let _pass = PassThrough::enter();
        if !self.arms_foreign.replace(true) {
            everywhere().add(self);
            // Learns whose process this is, before anybody can ask in a `vfork`.
            let _ = is_borrowed_memory();
        }
        let armed = loop {
            let is_noted = ARMED.insert(fd);
            let armed = self.arm_source(fd, read, write);
            if armed.is_err() || !is_noted || ARMED.contains(fd) {
                break armed;
            }
        };
        os::set_errno(saved);
        armed.map_err(|error| error.raw_os_error().unwrap_or(libc::EBADF))
    }
}

/// Where foreign descriptors are known: the hubs that have armed one.
fn everywhere() -> &'static Io {
    static EVERYWHERE: PerProcess<Io> = PerProcess::new();
    EVERYWHERE.get(Io::of_nobody)
}

/// Runs `close`, which closes a descriptor number, or makes it another's. Who
/// waits for it, on whatever hub, gets EBADF.
#[inline]
pub(crate) fn closing<R>(fd: RawFd, close: impl FnOnce() -> R) -> R {
    if ARMED.contains(fd) {
        forget(fd);
    }
    let answer = close();
    if ARMED.contains(fd) {
        verify(fd);
    }
    answer
}

/// As `closing`, for all numbers from the first to the last.
pub(crate) fn closing_range<R>(first: u32, last: u32, close: impl FnOnce() -> R) -> R {
    ARMED.within(first, last).for_each(forget);
    let answer = close();
    ARMED.within(first, last).for_each(verify);
    answer
}

#[cold]
fn forget(fd: RawFd) {
    if is_borrowed_memory() {
        return;
    }
    let saved = os::errno();
    ARMED.remove(fd);
    everywhere().retire(fd);
    os::set_errno(saved);
}

/// Somebody has armed it while it was being closed; or this is the next to have
/// that number, and all is well with it.
#[cold]
fn verify(fd: RawFd) {
    if is_borrowed_memory() {
        return;
    }
    let saved = os::errno();
    everywhere().verify(fd);
    os::set_errno(saved);
}

/// Whether this is the child of a `vfork`: what it closes is its own, and stays
/// open in the parent, whose memory it runs in.
fn is_borrowed_memory() -> bool {
    static PROCESS: PerProcess<u32> = PerProcess::new();
    *PROCESS.get(os::process_id) != os::process_id()
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
            .is_some_and(|chunk| chunk[at % PER_CHUNK / 64].load(Ordering::SeqCst) & bit(at) != 0)
    }

    /// False if there is no place for it.
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
            chunk[at % PER_CHUNK / 64].fetch_or(bit(at), Ordering::SeqCst);
            true
        })
    }

    fn remove(&self, fd: RawFd) {
        if let Some(chunk) = self.chunk(fd as usize) {
            chunk[fd as usize % PER_CHUNK / 64].fetch_and(!bit(fd as usize), Ordering::SeqCst);
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
            assert!(numbers.insert(fd) && numbers.contains(fd));
            assert!(numbers.insert(fd) && numbers.contains(fd));
        }
        assert_eq!(numbers.within(0, u32::MAX).collect::<Vec<_>>(), all);
        assert_eq!(numbers.within(64, 4095).collect::<Vec<_>>(), [64, 4095]);
        numbers.remove(64);
        assert!(!numbers.contains(64) && numbers.contains(63));
        assert!(!numbers.contains(-1) && !numbers.insert(-1));
        assert!(!numbers.insert(RawFd::MAX));
    }
}
