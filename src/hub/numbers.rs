//! Sets of descriptor numbers that are asked at every `close`: without a lock, and
//! in a time that does not depend on how many there are.
//!
//! ```text
//!   fd 4100 ─▶ chunks[1] ─▶ word 0, bit 4        a chunk has 4096 numbers, is
//!                                                made when first used, and stays
//! ```

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// A set of descriptor numbers that anybody can ask without a lock.
pub(super) struct Numbers {
    chunks: [AtomicPtr<Chunk>; CHUNKS],
}

type Chunk = [AtomicU64; WORDS];

const WORDS: usize = 64;
const PER_CHUNK: usize = WORDS * 64;
/// For the kernel's largest `fs.nr_open`, 2^20 by default, many times over.
/// A number beyond is never found, and who waits for it is not told of its end.
const CHUNKS: usize = 4096;

impl Numbers {
    pub(super) const fn new() -> Numbers {
        Numbers {
            chunks: [const { AtomicPtr::new(ptr::null_mut()) }; CHUNKS],
        }
    }

    #[inline]
    fn chunk(&self, at: usize) -> Option<&Chunk> {
        let chunk = self.chunks.get(at / PER_CHUNK)?.load(Ordering::Acquire);
        // SAFETY: it is null, or a leaked box.
        unsafe { chunk.as_ref() }
    }

    #[inline]
    pub(super) fn contains(&self, fd: RawFd) -> bool {
        let Ok(at) = usize::try_from(fd) else {
            return false;
        };
        self.chunk(at)
            .is_some_and(|chunk| chunk[at % PER_CHUNK / 64].load(Ordering::SeqCst) & bit(at) != 0)
    }

    /// False if there is no place for it.
    pub(super) fn insert(&self, fd: RawFd) -> bool {
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

    pub(super) fn remove(&self, fd: RawFd) {
        if let Some(chunk) = self.chunk(fd as usize) {
            chunk[fd as usize % PER_CHUNK / 64].fetch_and(!bit(fd as usize), Ordering::SeqCst);
        }
    }

    pub(super) fn clear(&self) {
        for place in &self.chunks {
            // SAFETY: it is null, or a leaked box.
            if let Some(chunk) = unsafe { place.load(Ordering::Acquire).as_ref() } {
                chunk
                    .iter()
                    .for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
    }

    /// Those between two numbers, both included.
    pub(super) fn within(&self, first: u32, last: u32) -> impl Iterator<Item = RawFd> + '_ {
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
        let numbers = Numbers::new();
        let all = [0, 63, 64, 4095, 4096, 1_000_000];
        for fd in all {
            assert!(!numbers.contains(fd));
            assert!(numbers.insert(fd));
            assert!(numbers.insert(fd) && numbers.contains(fd));
        }
        assert_eq!(numbers.within(0, u32::MAX).collect::<Vec<_>>(), all);
        assert_eq!(numbers.within(64, 4095).collect::<Vec<_>>(), [64, 4095]);
        numbers.remove(64);
        assert!(!numbers.contains(64) && numbers.contains(63));
        assert!(!numbers.contains(-1) && !numbers.insert(-1));
        assert!(!numbers.insert(RawFd::MAX));
        numbers.clear();
        assert_eq!(numbers.within(0, u32::MAX).count(), 0);
    }
}
