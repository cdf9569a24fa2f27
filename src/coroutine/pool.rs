//! The fibers of one hub: promised, taken, given back, recycled.
//!
//! A greenlet that is spawned is promised a stack, and takes one when it runs
//! for the first time. So a thousand short greenlets that run one after the
//! other use one stack, the warm one, and yet the limit of a machine is met by
//! the call that spawns and not in the middle of the loop.
//!
//! ```text
//!   reserve ──▶ spare -= 1, of free + fresh      (none spare: guard more slots)
//!   take    ──▶ the last of `free`, else one of `fresh`
//!   give    ──▶ on top of `free`                   ┐
//!                                                  │ free: [ clean … | used … ]
//!   trim    ──▶ looks at the used ones, gives deep ┘
//!               memory back, moves the mark up
//! ```

use std::cell::{Cell, RefCell};

use super::arena::{Arena, Geometry};
use super::fiber::{Fiber, Suspender};
use super::size::StackSize;
use crate::error::StackError;
use crate::sys::os;
use crate::sys::pass::PassThrough;

/// So much at the top of an idle stack keeps its memory for the next job.
const KEPT_BYTES: usize = 16 << 10;
/// How many stacks one call of `trim` looks at, at most.
const TRIM_BATCH: usize = 1024;
/// Idle stacks beyond this many give all their memory back, if they were not
/// needed for a while (nanoseconds).
const KEPT_FIBERS: usize = 4096;
const UNUSED_FOR: u64 = 1_000_000_000;
/// A hub that is never at leisure looks at its stacks this often (nanoseconds):
/// each look is a system call.
const LOOKS_APART: u64 = 100_000_000;
/// Stacks are touched page by page, so one that went deep has memory here, just
/// below what is kept.
const LOOKED_AT: usize = 16 << 10;

/// All fibers of one hub.
pub(crate) struct Fibers {
    entry: fn(Suspender),
    default: Pool,
    /// Stacks of other sizes: few, so a search is quick.
    others: RefCell<Vec<Pool>>,
}

impl Fibers {
    /// `entry` is what a fiber runs at every first resume after `take`.
    pub(crate) fn new(entry: fn(Suspender)) -> Fibers {
        Fibers {
            entry,
            default: Pool::new(StackSize::DEFAULT),
            others: RefCell::new(Vec::new()),
        }
    }

    /// Promises one stack: a later `take` of this size will not fail.
    #[inline]
    pub(crate) fn reserve(&self, size: StackSize) -> Result<(), StackError> {
        self.with_pool(size, Pool::reserve)
    }

    /// Whether a stack of this size could be promised.
    fn has_room(&self, size: StackSize) -> bool {
        self.with_pool(size, |pool| {
            let promised = pool.reserve().is_ok();
            if promised {
                pool.spare.set(pool.spare.get() + 1);
            }
            promised
        })
    }

    /// A size that a stack could be promised of: this one, or a larger one that has been
    /// given back.
    pub(crate) fn size_with_room(&self, size: StackSize) -> Option<StackSize> {
        if self.has_room(size) {
            return Some(size);
        }
        let others = self.others.borrow();
        let all = std::iter::once(&self.default).chain(&*others);
        let large = all.filter(|pool| pool.size >= size && pool.spare.get() > 0);
        large.map(|pool| pool.size).min()
    }

    /// Redeems a promise.
    #[inline]
    pub(crate) fn take(&self, size: StackSize) -> Fiber {
        self.with_pool(size, |pool| pool.take(self.entry))
    }

    /// Takes back a fiber whose job is over.
    #[inline]
    pub(crate) fn give(&self, fiber: Fiber) {
        self.with_pool(fiber.stack_size(), |pool| pool.give(fiber));
    }

    /// Gives back the memory of stacks that went deep, and of many idle ones.
    /// Takes the time, and whether there is time for a closer look; says when
    /// there is more to give back, if there is.
    pub(crate) fn trim(&self, now: u64, at_leisure: bool) -> Option<u64> {
        let mut again = self.default.trim(now, at_leisure);
        for pool in &*self.others.borrow() {
            let other = pool.trim(now, at_leisure);
            again = [again, other].into_iter().flatten().min();
        }
        again
    }

    #[inline]
    fn with_pool<R>(&self, size: StackSize, f: impl FnOnce(&Pool) -> R) -> R {
        if size == StackSize::DEFAULT {
            return f(&self.default);
        }
        // An allocator that parks would let others find them borrowed.
        let _pass = PassThrough::enter();
        let class = size.class();
        // It is known by its size to whom a fiber is given back.
        if class == StackSize::DEFAULT {
            return f(&self.default);
        }
        let mut others = self.others.borrow_mut();
        let at = match others.iter().position(|pool| pool.size == class) {
            Some(at) => at,
            None => {
                others.push(Pool::new(class));
                others.len() - 1
            }
        };
        f(&others[at])
    }
}

/// The fibers of one size.
struct Pool {
    size: StackSize,
    geometry: Geometry,
    /// Free fibers and fresh slots that nobody has been promised.
    spare: Cell<usize>,
    /// Idle fibers; the last was used last.
    free: RefCell<Vec<Fiber>>,
    /// How many of `free` have been looked at since they were used.
    clean: Cell<usize>,
    /// The least number of idle fibers since a moment: so many at the bottom
    /// of `free` were not needed.
    unused: Cell<usize>,
    since: Cell<u64>,
    /// When stacks were last looked at for how deep they went.
    looked: Cell<u64>,
    /// The tops of guarded slots that have no fiber.
    fresh: RefCell<Vec<usize>>,
    arenas: RefCell<Vec<Arena>>,
    /// Counts fibers as they are built, for the colour of their stacks.
    built: Cell<usize>,
}

impl Pool {
    fn new(size: StackSize) -> Pool {
        Pool {
            size,
            geometry: Geometry::of(size.bytes()),
            spare: Cell::new(0),
            free: RefCell::new(Vec::new()),
            clean: Cell::new(0),
            unused: Cell::new(0),
            since: Cell::new(0),
            looked: Cell::new(0),
            fresh: RefCell::new(Vec::new()),
            arenas: RefCell::new(Vec::new()),
            built: Cell::new(0),
        }
    }

    #[inline]
    fn reserve(&self) -> Result<(), StackError> {
        if self.spare.get() == 0 {
            self.guard_more()?;
        }
        self.spare.set(self.spare.get() - 1);
        Ok(())
    }

    /// Guards the next slots of the newest arena, or maps another one.
    #[cold]
    #[inline(never)]
    fn guard_more(&self) -> Result<(), StackError> {
        // As in `with_pool`.
        let _pass = PassThrough::enter();
        let mut arenas = self.arenas.borrow_mut();
        let mut last = 0;
        if let Some(arena) = arenas.last_mut() {
            if self.guard_in(arena)? {
                return Ok(());
            }
            last = arena.slots();
        }
        arenas.push(Arena::map(last, self.geometry)?);
        if let Some(arena) = arenas.last_mut() {
            self.guard_in(arena)?;
        }
        Ok(())
    }

    /// False if the arena has no more slots.
    fn guard_in(&self, arena: &mut Arena) -> Result<bool, StackError> {
        let Some(batch) = arena.guard_batch() else {
            return Ok(false);
        };
        // The last one is taken first: that shall be the lowest.
        let batch = batch?;
        self.spare.set(self.spare.get() + batch.len());
        let tops = batch.rev().map(|slot| arena.slot_top(slot));
        self.fresh.borrow_mut().extend(tops);
        Ok(true)
    }

    #[inline]
    fn take(&self, entry: fn(Suspender)) -> Fiber {
        let mut free = self.free.borrow_mut();
        match free.pop() {
            Some(fiber) => {
                self.clean.set(self.clean.get().min(free.len()));
                self.unused.set(self.unused.get().min(free.len()));
                fiber
            }
            None => self.build(entry),
        }
    }

    #[cold]
    #[inline(never)]
    fn build(&self, entry: fn(Suspender)) -> Fiber {
        let top = self.fresh.borrow_mut().pop();
        let Some(top) = top else {
            unreachable!("a promise is backed by a free fiber or a guarded slot");
        };
        let colour = self.built.get();
        self.built.set(colour + 1);
        // SAFETY: the slot is guarded, it was in `fresh`, so nobody uses it,
        // and its arena is unmapped only when all its slots are idle.
        unsafe { Fiber::build(top, colour, self.geometry, entry) }
    }

    #[inline]
    fn give(&self, fiber: Fiber) {
        self.free.borrow_mut().push(fiber);
        self.spare.set(self.spare.get() + 1);
    }

    fn trim(&self, now: u64, at_leisure: bool) -> Option<u64> {
        let again = self.trim_unused(now);
        if at_leisure || now >= self.looked.get() + LOOKS_APART {
            self.looked.set(now);
            if self.trim_deep() && at_leisure {
                return Some(now);
            }
        }
        again
    }

    /// Unbuilds fibers that were not needed for a while. A program with bursts
    /// that are closer together keeps its stacks.
    fn trim_unused(&self, now: u64) -> Option<u64> {
        let mut free = self.free.borrow_mut();
        if free.len() <= KEPT_FIBERS {
            self.since.set(now);
            self.unused.set(free.len());
            return None;
        }
        let due = self.since.get() + UNUSED_FOR;
        if now < due {
            return Some(due);
        }
        // The coldest are at the bottom. What they leave is as good as new.
        let surplus = self.unused.get().saturating_sub(KEPT_FIBERS);
        let batch = surplus.min(TRIM_BATCH);
        let mut fresh = self.fresh.borrow_mut();
        for fiber in free.drain(..batch) {
            let stack = fiber.whole_stack();
            fresh.push(stack.end);
            give_memory_back(stack);
        }
        self.clean.set(self.clean.get().saturating_sub(batch));
        if batch < surplus {
            self.unused.set(self.unused.get() - batch);
            return Some(now);
        }
        self.since.set(now);
        self.unused.set(free.len());
        (free.len() > KEPT_FIBERS).then_some(now + UNUSED_FOR)
    }

    /// Looks at some of the stacks that were used; tells whether there are more.
    fn trim_deep(&self) -> bool {
        let free = self.free.borrow_mut();
        let from = self.clean.get();
        let to = free.len().min(from + TRIM_BATCH);
        for fiber in &free[from..to] {
            let mut deep = fiber.whole_stack();
            deep.end -= KEPT_BYTES;
            let near = deep.start.max(deep.end.saturating_sub(LOOKED_AT))..deep.end;
            if has_memory(&near) {
                give_memory_back(deep);
            }
        }
        self.clean.set(to);
        to < free.len()
    }
}

impl Drop for Pool {
    /// Unmaps every arena whose stacks are all idle. Where a greenlet lives on
    /// one of them still, the arena stays for ever: somebody may refer to it.
    fn drop(&mut self) {
        let free = self.free.take();
        let fresh = self.fresh.take();
        let idle: Vec<usize> = free
            .iter()
            .map(|fiber| fiber.whole_stack().end)
            .chain(fresh)
            .collect();
        for arena in self.arenas.take() {
            let range = arena.range();
            let idle = idle
                .iter()
                .filter(|&&top| range.start < top && top <= range.end);
            if idle.count() == arena.guarded() {
                // SAFETY: of every guarded slot the stack is idle: an idle
                // fiber's frames own nothing, and it is never resumed again.
                unsafe { arena.unmap() };
            }
        }
    }
}

/// Whether the kernel has memory for any page of the range.
fn has_memory(range: &std::ops::Range<usize>) -> bool {
    const PAGES: usize = 256;
    let page = os::page_size();
    let mut start = range.start;
    let mut resident = [0u8; PAGES];
    while start < range.end {
        let len = (range.end - start).min(PAGES * page);
        // SAFETY: the range is whole pages of our own mapping, and the kernel
        // writes one byte for each of at most `PAGES` pages.
        let answer = unsafe { libc::mincore(start as *mut _, len, resident.as_mut_ptr().cast()) };
        if answer != 0 || resident[..len / page].iter().any(|&page| page & 1 != 0) {
            return true;
        }
        start += len;
    }
    false
}

/// The memory of an idle stack, or of the deep part of one, goes back to the
/// kernel; the addresses and the guard stay.
fn give_memory_back(range: std::ops::Range<usize>) {
    // SAFETY: the range is part of an idle stack of ours, below everything
    // that its idle coroutine needs, or else that coroutine is given up.
    unsafe { libc::madvise(range.start as *mut _, range.len(), libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static DEPTH: Cell<usize> = const { Cell::new(0) };
        static RUNS: Cell<usize> = const { Cell::new(0) };
    }

    fn job(suspender: Suspender) {
        fn dive(left: usize) -> u8 {
            let frame = std::hint::black_box([left as u8; 4096]);
            if left == 0 {
                frame[7]
            } else {
                dive(left - 1).wrapping_add(frame[9])
            }
        }
        RUNS.set(RUNS.get() + 1);
        std::hint::black_box(dive(DEPTH.get()));
        // SAFETY: this is the stack that the suspender was made for.
        unsafe { suspender.suspend(None) };
    }

    fn run_one(fibers: &Fibers, size: StackSize) -> usize {
        fibers.reserve(size).unwrap();
        let mut fiber = fibers.take(size);
        let top = fiber.whole_stack().end;
        // SAFETY: a taken fiber is idle; the second resume ends the job.
        unsafe {
            fiber.resume();
            fiber.resume();
        }
        fibers.give(fiber);
        top
    }

    #[test]
    fn stacks_are_recycled_last_in_first_out() {
        let fibers = Fibers::new(job);
        let first = run_one(&fibers, StackSize::DEFAULT);
        assert_eq!(run_one(&fibers, StackSize::DEFAULT), first);
        assert_eq!(RUNS.get(), 2);
        assert_eq!(fibers.default.built.get(), 1);
    }

    #[test]
    fn a_promise_can_always_be_redeemed() {
        let fibers = Fibers::new(job);
        for _ in 0..200 {
            fibers.reserve(StackSize::DEFAULT).unwrap();
        }
        let taken: Vec<Fiber> = (0..200).map(|_| fibers.take(StackSize::DEFAULT)).collect();
        let mut tops: Vec<usize> = taken.iter().map(|fiber| fiber.whole_stack().end).collect();
        tops.sort_unstable();
        tops.dedup();
        assert_eq!(tops.len(), 200);
        taken.into_iter().for_each(|fiber| fibers.give(fiber));
    }

    #[test]
    fn who_asks_for_a_little_less_than_the_default_gets_that_and_gives_it_back() {
        let fibers = Fibers::new(job);
        let first = run_one(&fibers, StackSize::new(250_000).unwrap());
        assert_eq!(run_one(&fibers, StackSize::new(260_000).unwrap()), first);
        assert_eq!(run_one(&fibers, StackSize::DEFAULT), first);
        assert_eq!(fibers.default.built.get(), 1);
    }

    #[test]
    fn sizes_have_pools_of_their_own() {
        let fibers = Fibers::new(job);
        let small = StackSize::new(16 << 10).unwrap();
        run_one(&fibers, small);
        run_one(&fibers, StackSize::DEFAULT);
        assert_eq!(fibers.others.borrow().len(), 1);
        assert_eq!(fibers.default.free.borrow().len(), 1);
    }

    #[test]
    fn a_deep_stack_gives_its_memory_back() {
        let fibers = Fibers::new(job);
        DEPTH.set(30);
        run_one(&fibers, StackSize::DEFAULT);
        let mut deep = fibers.default.free.borrow()[0].whole_stack();
        deep.end -= KEPT_BYTES;
        assert!(has_memory(&deep));
        fibers.trim(0, true);
        assert!(!has_memory(&deep));
        // And it works as before.
        run_one(&fibers, StackSize::DEFAULT);
        assert!(has_memory(&deep));
        DEPTH.set(0);
    }

    #[test]
    fn many_idle_stacks_give_their_memory_back_once_they_are_not_needed() {
        let fibers = Fibers::new(job);
        let many = KEPT_FIBERS + TRIM_BATCH + 10;
        for _ in 0..many {
            fibers.reserve(StackSize::DEFAULT).unwrap();
        }
        let taken: Vec<Fiber> = (0..many).map(|_| fibers.take(StackSize::DEFAULT)).collect();
        assert_eq!(fibers.trim(1, false), None);
        taken.into_iter().for_each(|fiber| fibers.give(fiber));
        let idle = || fibers.default.free.borrow().len();
        // A second has to pass in which they stay idle.
        let due = fibers.trim(2, false).unwrap();
        assert_eq!((due, idle()), (1 + UNUSED_FOR, many));
        let due = fibers.trim(due, false).unwrap();
        assert_eq!(
            (due, idle()),
            (1 + 2 * UNUSED_FOR, many),
            "they were in use at its start"
        );
        assert_eq!(fibers.trim(due, false), Some(due), "one batch at a time");
        assert_eq!(idle(), many - TRIM_BATCH);
        assert_eq!(fibers.trim(due, false), None);
        assert_eq!(idle(), KEPT_FIBERS);
        // What was given back is used again.
        for _ in 0..many {
            fibers.reserve(StackSize::DEFAULT).unwrap();
        }
        assert_eq!(fibers.default.spare.get() + many, {
            let fresh = fibers.default.fresh.borrow().len();
            fresh + idle()
        });
    }

    #[test]
    fn idle_arenas_are_unmapped_and_others_stay() {
        // Another test's may be mapped there a moment later.
        let is_unmapped = |_| {
            let fibers = Fibers::new(job);
            let kept = run_one(&fibers, StackSize::DEFAULT);
            drop(fibers);
            super::super::registry::stack_guarded_at(kept - (300 << 10)).is_none()
        };
        assert!((0..100).any(is_unmapped));

        let fibers = Fibers::new(job);
        fibers.reserve(StackSize::DEFAULT).unwrap();
        let leaked = fibers.take(StackSize::DEFAULT);
        let guard = leaked.whole_stack().start - 1;
        drop(fibers);
        assert!(super::super::registry::stack_guarded_at(guard).is_some());
    }
}
