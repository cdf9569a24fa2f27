//! Arenas: large reserved mappings that stacks of one size are cut from.
//!
//! ```text
//!  start                                                                              end
//!    | guard |      stack 0 | guard |      stack 1 | guard |      stack 2 | …  not cut yet  |
//!    |<----- slot 0 ------->|<----- slot 1 ------->|                      |
//!                                                                  guarded (grows upwards)
//! ```
//!
//! A stack grows downwards, towards the guard at the low end of its own slot. The whole mapping is readable and
//! writable and has no memory behind it until it is touched, so it costs one entry in the kernel's list of
//! mappings however many stacks it holds; a thousand mappings of one stack each would cost two thousand. Guards
//! are installed a batch at a time, when somebody first asks for the stacks above them.

use std::ops::Range;
use std::ptr;

use super::guard::GuardKind;
use super::limits;
use super::registry;
use crate::error::StackError;
use crate::sys::os;

/// The least that a guard spans. Rust touches every page of a large frame in order, but C code is often compiled
/// without such probes and may jump over a single page.
const GUARD: usize = 64 << 10;

/// The bytes of the first arena of a size, of the largest one, and how many slots the first has at most.
const FIRST_BYTES: usize = 256 << 20;
const MOST_BYTES: usize = 16 << 30;
const FIRST_SLOTS: usize = 64;

/// What stays free for everybody else when we meet a limit of address space: malloc and thread starts need some.
const HEADROOM: usize = 16 << 20;

/// How a slot is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of the guard at the low end.
    pub(crate) guard: usize,
    /// Bytes of the stack above it.
    pub(crate) stack: usize,
}

impl Geometry {
    /// The slot of a stack of `stack` bytes, which must be whole pages.
    ///
    /// The guard takes one page more where that makes the slot an odd number of pages: the tops of stacks would
    /// otherwise share a few sets of the processor's address translation cache, for example 8 of 128.
    pub(crate) fn of(stack: usize) -> Geometry {
        let page = os::page_size();
        let guard = GUARD.next_multiple_of(page);
        let even = ((guard + stack) / page) % 2 == 0;
        Geometry {
            guard: if even { guard + page } else { guard },
            stack,
        }
    }

    /// Bytes from one slot to the next.
    pub(crate) fn stride(self) -> usize {
        self.guard + self.stack
    }
}

/// One mapping, cut into slots.
#[derive(Debug)]
pub(crate) struct Arena {
    start: usize,
    slots: usize,
    /// Slots below this have their guard.
    guarded: usize,
    geometry: Geometry,
    kind: GuardKind,
    entry: &'static registry::Entry,
}

impl Arena {
    /// How many slots the arena after one of `last` slots should have (`0`: the first).
    fn next_slots(last: usize, geometry: Geometry) -> usize {
        let first = (FIRST_BYTES / geometry.stride()).clamp(1, FIRST_SLOTS);
        let most = (MOST_BYTES / geometry.stride()).max(1);
        if last == 0 {
            first
        } else {
            (last * 2).min(most)
        }
    }

    /// Maps an arena that follows one of `last` slots, larger than it if there is room.
    pub(crate) fn map(last: usize, geometry: Geometry) -> Result<Arena, StackError> {
        let slots = Self::next_slots(last, geometry);
        let first = Self::next_slots(0, geometry);
        // Near a limit a small arena may still fit where a large one does not.
        let (slots, start) = match map_with_headroom(slots * geometry.stride()) {
            Ok(start) => (slots, start),
            Err(_) if slots > first => (first, map_or_explain(first * geometry.stride())?),
            Err(errno) => return Err(limits::explain("mmap", errno, slots * geometry.stride())),
        };
        let end = start + slots * geometry.stride();
        Ok(Arena {
            start,
            slots,
            guarded: 0,
            geometry,
            kind: GuardKind::preferred(),
            entry: registry::add(start, end, geometry),
        })
    }

    /// Installs the guards of the next few slots and tells which slots these are. None if all have theirs.
    pub(crate) fn guard_batch(&mut self) -> Option<Result<Range<usize>, StackError>> {
        if self.guarded == self.slots {
            return None;
        }
        let batch = self.guarded..self.slots.min(self.guarded + self.batch_len());
        for slot in batch.clone() {
            if let Err(errno) = self.guard_slot(slot) {
                // Without the batch that met the limit, everybody else has a few mappings left to go on with.
                for done in batch.start..slot {
                    // SAFETY: the guards of this batch were installed just now, and no stack above them is in use.
                    unsafe { self.kind.undo(self.slot_start(done), self.geometry.guard) };
                }
                return Some(Err(limits::explain(
                    self.kind.name(),
                    errno,
                    self.geometry.guard,
                )));
            }
        }
        self.guarded = batch.end;
        Some(Ok(batch))
    }

    /// A batch of `mprotect` guards is larger, for its length is the number of stacks that we leave free when we
    /// meet the limit of mappings.
    fn batch_len(&self) -> usize {
        match self.kind {
            GuardKind::Madvise => 16,
            GuardKind::Mprotect => 64,
        }
    }

    fn guard_slot(&mut self, slot: usize) -> Result<(), os::Errno> {
        let (start, len) = (self.slot_start(slot), self.geometry.guard);
        // SAFETY: the guard lies in our mapping at the low end of a slot that is not handed out yet.
        match unsafe { self.kind.install(start, len) } {
            Err(_) if self.kind == GuardKind::Madvise => {
                // The process-wide test passed, but this mapping is special (locked memory): from here on this
                // arena does it the old way.
                self.kind = GuardKind::Mprotect;
                // SAFETY: as above.
                unsafe { self.kind.install(start, len) }
            }
            answer => answer,
        }
    }

    fn slot_start(&self, slot: usize) -> usize {
        self.start + slot * self.geometry.stride()
    }

    /// The address just above the stack of a slot.
    pub(crate) fn slot_top(&self, slot: usize) -> usize {
        self.slot_start(slot) + self.geometry.stride()
    }

    /// All addresses of the arena.
    pub(crate) fn range(&self) -> Range<usize> {
        self.start..self.start + self.slots * self.geometry.stride()
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// How many slots have been given out by `guard_batch`.
    pub(crate) fn guarded(&self) -> usize {
        self.guarded
    }

    /// Gives the arena back to the kernel. Without this call it stays mapped for ever.
    ///
    /// # Safety
    ///
    /// Nothing may live on any stack of this arena, and nothing may refer to one.
    pub(crate) unsafe fn unmap(self) {
        registry::remove(self.entry);
        // SAFETY: the range is the one that was mapped, and the caller promises that nobody needs it.
        unsafe { libc::munmap(self.start as *mut _, self.range().len()) };
    }
}

fn map_or_explain(len: usize) -> Result<usize, StackError> {
    map_with_headroom(len).map_err(|errno| limits::explain("mmap", errno, len))
}

/// Reserves `len` bytes, if there are some left for others beside them.
fn map_with_headroom(len: usize) -> Result<usize, os::Errno> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(ptr::null_mut(), len + HEADROOM, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(os::last_errno());
    }
    let start = start as usize;
    // SAFETY: the headroom is the end of the mapping just made, which nothing refers to.
    unsafe { libc::munmap((start + len) as *mut _, HEADROOM) };
    // A first touch must not bring in 2 MiB for one page of stack. A kernel without huge pages refuses; fine.
    // SAFETY: advice on a mapping of our own.
    unsafe { libc::madvise(start as *mut _, len, libc::MADV_NOHUGEPAGE) };
    Ok(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arenas_grow_geometrically_so_that_a_million_stacks_need_few() {
        let geometry = Geometry::of(256 << 10);
        let (mut last, mut total, mut arenas) = (0, 0, 0);
        while total < 1_000_000 {
            last = Arena::next_slots(last, geometry);
            total += last;
            arenas += 1;
        }
        assert!(arenas < 40, "{arenas} arenas");
        assert_eq!(Arena::next_slots(0, geometry), 64);
        assert_eq!(Arena::next_slots(0, Geometry::of(1 << 30)), 1);
    }

    #[test]
    fn slots_are_an_odd_number_of_pages_with_a_guard_of_at_least_64_kib() {
        for kib in [16, 20, 64, 256, 2048] {
            let geometry = Geometry::of(kib << 10);
            assert!(geometry.guard >= 64 << 10 && geometry.stack == kib << 10);
            assert_eq!((geometry.stride() / os::page_size()) % 2, 1);
        }
    }

    #[test]
    fn guards_come_in_batches_until_the_arena_is_full() {
        let mut arena = Arena::map(0, Geometry::of(16 << 10)).unwrap();
        let mut slots = 0;
        while let Some(batch) = arena.guard_batch() {
            let batch = batch.unwrap();
            assert_eq!(batch.start, slots);
            slots = batch.end;
        }
        assert_eq!((slots, arena.guarded()), (64, arena.slots()));
        assert_eq!(
            registry::stack_guarded_at(arena.range().start),
            Some(16 << 10)
        );
        assert_eq!(arena.slot_top(63), arena.range().end);
        let start = arena.range().start;
        // SAFETY: no slot was ever used.
        unsafe { arena.unmap() };
        // Another test's may be mapped there a moment later.
        let is_unmapped = |_| {
            let arena = Arena::map(0, Geometry::of(16 << 10)).unwrap();
            let start = arena.range().start;
            // SAFETY: as above.
            unsafe { arena.unmap() };
            registry::stack_guarded_at(start).is_none()
        };
        assert!(registry::stack_guarded_at(start).is_none() || (0..100).any(is_unmapped));
    }
}
