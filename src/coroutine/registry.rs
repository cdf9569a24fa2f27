//! Where the signal handler finds the arenas of all threads: a list that only grows, read without a lock.
//!
//! An entry is leaked when it is made and taken over by a later arena when its own is unmapped, so a handler that
//! walks the list never meets freed memory. Nothing here allocates or blocks on the reading side.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use super::arena::Geometry;

/// The newest entry of the list.
static NEWEST: AtomicPtr<Entry> = AtomicPtr::new(ptr::null_mut());

/// An entry whose `start` is this belongs to nobody.
const FREE: usize = 0;
/// An entry whose `start` is this is being filled in.
const TAKEN: usize = 1;

/// What the handler must know of one arena.
#[derive(Debug)]
pub(crate) struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    guard: AtomicUsize,
    stack: AtomicUsize,
    /// Never changes once the entry is in the list.
    older: *const Entry,
}

/// Makes an arena known; from here on its guards are recognised.
pub(crate) fn add(start: usize, end: usize, geometry: Geometry) -> &'static Entry {
    let entry = take_over_free().unwrap_or_else(append);
    entry.end.store(end, Ordering::Relaxed);
    entry.guard.store(geometry.guard, Ordering::Relaxed);
    entry.stack.store(geometry.stack, Ordering::Relaxed);
    entry.start.store(start, Ordering::Release);
    entry
}

/// Forgets an arena that is about to be unmapped.
pub(crate) fn remove(entry: &'static Entry) {
    entry.start.store(FREE, Ordering::Release);
}

/// The stack that holds `address`, without its guard; or the one above, if it is in the guard. Async-signal-safe.
pub(crate) fn stack_around(address: usize) -> Option<Range<usize>> {
    entries().find_map(|entry| {
        let start = entry.start.load(Ordering::Acquire);
        let end = entry.end.load(Ordering::Acquire);
        let guard = entry.guard.load(Ordering::Acquire);
        let stack = entry.stack.load(Ordering::Acquire);
        // Another thread may hand the entry to a new arena while it is read; the arena of the running greenlet
        // stays, so an entry that changes is never the one that is looked for.
        let steady = entry.start.load(Ordering::Acquire) == start;
        if !steady || start <= TAKEN || !(start..end).contains(&address) {
            return None;
        }
        let slot = address - (address - start) % (guard + stack);
        Some(slot + guard..slot + guard + stack)
    })
}

/// The size of the stack whose guard holds `address`, if it is a guard of ours. Async-signal-safe.
pub(crate) fn stack_guarded_at(address: usize) -> Option<usize> {
    let stack = stack_around(address)?;
    (address < stack.start).then_some(stack.len())
}

fn entries() -> impl Iterator<Item = &'static Entry> {
    let mut next: *const Entry = NEWEST.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: a pointer in the list is null or a leaked entry, which lives for ever; it was published with
        // Release after it had been filled in.
        let entry: &'static Entry = unsafe { next.as_ref() }?;
        next = entry.older;
        Some(entry)
    })
}

fn take_over_free() -> Option<&'static Entry> {
    entries().find(|entry| {
        entry
            .start
            .compare_exchange(FREE, TAKEN, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    })
}

fn append() -> &'static Entry {
    let entry = Box::into_raw(Box::new(Entry {
        start: AtomicUsize::new(TAKEN),
        end: AtomicUsize::new(0),
        guard: AtomicUsize::new(0),
        stack: AtomicUsize::new(0),
        older: ptr::null(),
    }));
    let mut older = NEWEST.load(Ordering::Acquire);
    loop {
        // SAFETY: until the exchange below succeeds nobody else can see the entry, so writing to it is ours.
        unsafe { (*entry).older = older };
        match NEWEST.compare_exchange_weak(older, entry, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: the box was leaked and is never freed.
            Ok(_) => return unsafe { &*entry },
            Err(newer) => older = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_guards_of_known_arenas_are_recognised() {
        // An address range that no mapping of a user process can have.
        let start = usize::MAX - (1 << 30);
        let geometry = Geometry {
            guard: 0x1_0000,
            stack: 0x4_0000,
        };
        let entry = add(start, start + 4 * 0x5_0000, geometry);
        assert_eq!(stack_guarded_at(start), Some(0x4_0000));
        assert_eq!(stack_guarded_at(start + 0xffff), Some(0x4_0000));
        assert_eq!(stack_guarded_at(start + 0x1_0000), None);
        assert_eq!(stack_guarded_at(start + 3 * 0x5_0000 + 8), Some(0x4_0000));
        assert_eq!(stack_guarded_at(start + 4 * 0x5_0000), None);
        assert_eq!(stack_guarded_at(start - 1), None);
        let second = start + 0x6_0000..start + 0xa_0000;
        assert_eq!(stack_around(second.start), Some(second.clone()));
        assert_eq!(stack_around(second.end - 1), Some(second));
        assert_eq!(stack_around(start - 1), None);
        remove(entry);
        assert_eq!(stack_guarded_at(start), None);
    }
}
