//! One fiber: a stack with a coroutine on it that runs one job after another.
//!
//! ```text
//!   slot top  +---------------------------------------+  page boundary
//!             | colour: 0 to 7 times 128 bytes        |  keeps equal stacks out of each other's cache lines
//!             +---------------------------------------+
//!             | Record: corosensei's Coroutine, size  |  48 bytes   \
//!   base  --> +---------------------------------------+              } one cache line
//!             | parent link, entry function           |  16 bytes   /
//!             +---------------------------------------+
//!             | the body's loop: `loop { entry; suspend }`
//!             | frames of the job, growing downwards  |
//!             |                 …                     |
//!             +---------------------------------------+
//!             | guard, at least 64 KiB                |
//!   limit --> +---------------------------------------+  low end of the slot
//! ```
//!
//! The coroutine is created once for a stack and never finishes: when a job is over the body suspends, and the
//! next job goes on from there. Creating a coroutine costs about 20 ns, resuming an idle one 3 ns. All that a
//! parked greenlet needs is in one page, and all that a switch touches first is in one cache line.

use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::NonNull;

use corosensei::stack::{Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};

use super::arena::Geometry;
use super::size::StackSize;
use super::tls;
use crate::sys::os;

/// How many different distances from the top of its slot a stack may begin at, and the step between them: two
/// cache lines, for processors fetch them in pairs.
const COLOURS: usize = 8;
const COLOUR_STEP: usize = 128;
const CACHE_LINE: usize = 64;

/// What lies at the very top of a stack. It is never dropped: an idle coroutine owns nothing, and one with a
/// live job must be leaked.
#[repr(C, align(16))]
struct Record {
    coroutine: ManuallyDrop<Coroutine<(), Word, (), Slot>>,
    /// Usable bytes of the stack; also the key of the pool it goes back to.
    size: StackSize,
}

/// The addresses that corosensei wants to know.
struct Slot {
    base: NonZeroUsize,
    limit: NonZeroUsize,
}

// SAFETY: `base` and `limit` bound one slot of an arena, 16-byte aligned, with a guard at the low end and more
// than MIN_STACK_SIZE bytes above it; the arena outlives the fiber.
unsafe impl Stack for Slot {
    #[inline]
    fn base(&self) -> StackPointer {
        self.base
    }

    #[inline]
    fn limit(&self) -> StackPointer {
        self.limit
    }
}

/// A stack and the coroutine on it. Dropping a `Fiber` leaks both, which is always sound.
#[must_use = "a fiber that is not given back is leaked"]
pub(crate) struct Fiber {
    record: NonNull<Record>,
}

impl Fiber {
    /// Puts a coroutine on the stack below `top`.
    ///
    /// # Safety
    ///
    /// `top` is the top of a guarded slot of that geometry, which nothing else uses and which stays mapped as
    /// long as this fiber, or anything on its stack, is used. `colour` may be any number.
    pub(super) unsafe fn build(
        top: usize,
        colour: usize,
        geometry: Geometry,
        entry: fn(Suspender),
    ) -> Fiber {
        const {
            assert!(
                mem::size_of::<Record>() + 16 <= CACHE_LINE,
                "record and parent link share a cache line"
            );
        }
        // 16 bytes for the parent link and the entry function, which corosensei puts just below its base.
        let base = top - (colour % COLOURS) * COLOUR_STEP - (CACHE_LINE - 16);
        let limit = top - geometry.stride();
        let (Some(base_address), Some(limit)) = (NonZeroUsize::new(base), NonZeroUsize::new(limit))
        else {
            unreachable!("no arena lies at address zero")
        };
        let coroutine = Coroutine::with_stack(
            Slot {
                base: base_address,
                limit,
            },
            move |yielder, ()| body(entry, Suspender(yielder.into())),
        );
        let record = base as *mut Record;
        let size = StackSize::from_class(geometry.stack);
        // SAFETY: the 48 bytes above the base lie inside the slot, aligned to 16, and belong to nobody else.
        unsafe {
            record.write(Record {
                coroutine: ManuallyDrop::new(coroutine),
                size,
            });
            Fiber {
                record: NonNull::new_unchecked(record),
            }
        }
    }

    /// Runs the fiber until it suspends, and returns the word that it suspended with; or until its job is over:
    /// which of the two, the job itself must tell.
    ///
    /// # Safety
    ///
    /// The fiber must not be running, and what its frames refer to must still be alive.
    #[inline]
    pub(crate) unsafe fn resume(&mut self) -> Word {
        // SAFETY: the record was written by `build` and lives as long as the slot; the fiber is not running, so
        // nobody else uses the coroutine.
        let coroutine = unsafe { &mut (*self.record.as_ptr()).coroutine };
        match coroutine.resume(()) {
            CoroutineResult::Yield(word) => word,
            CoroutineResult::Return(()) => os::abort(),
        }
    }

    /// As `resume`, on a block of thread-local storage; then resumes those that `next` names, on theirs. It gets
    /// the word that the one before has suspended with, and names nobody to end it. It may name the same one again.
    ///
    /// # Safety
    ///
    /// As there, for each of them; and the block is alive, and that on which the fiber has run so far, if it has.
    /// `next` uses no thread-local, and does not unwind.
    #[inline]
    pub(crate) unsafe fn resume_on(
        fiber: NonNull<Fiber>,
        base: tls::Base,
        next: impl Fn(Word) -> Option<(NonNull<Fiber>, tls::Base)>,
    ) -> Word {
        // SAFETY: the caller's promise.
        unsafe { tls::resume_on(fiber, base, next) }
    }

    /// The usable size of the stack.
    #[inline]
    pub(crate) fn stack_size(&self) -> StackSize {
        // SAFETY: the record was written by `build`, and its size never changes.
        unsafe { (*self.record.as_ptr()).size }
    }

    /// The addresses of the stack without its guard, from the low end to the
    /// top of its slot.
    pub(crate) fn whole_stack(&self) -> Range<usize> {
        let top = (self.record.as_ptr() as usize).next_multiple_of(os::page_size());
        top - self.stack_size().bytes()..top
    }
}

impl std::fmt::Debug for Fiber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fiber")
            .field("stack", &self.whole_stack())
            .finish()
    }
}

/// What a job suspends with: a pointer to the parent link of the stack it runs on, good as long as the fiber.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspender(NonNull<Yielder<(), Word>>);

/// What travels from a suspend to its resume, in a register.
pub(crate) type Word = Option<NonNull<()>>;

impl Suspender {
    /// Goes back to whoever resumed this fiber, with a word for it, and returns when it is resumed again.
    ///
    /// # Safety
    ///
    /// Must be called on the very stack that this suspender was handed to.
    #[inline]
    pub(crate) unsafe fn suspend(self, word: Word) {
        // SAFETY: the caller runs on this stack, so its parent link is alive and says who resumed it.
        unsafe { self.0.as_ref().suspend(word) }
    }
}

/// What runs on every stack, for ever: one job, then idle until the next one.
fn body(entry: fn(Suspender), suspender: Suspender) {
    loop {
        let guard = AbortOnUnwind(PhantomData);
        // This frame outlives the job, and the next one may run on other thread-locals: nothing of the
        // entry's may be inlined into it, or the address of one of them could be kept here.
        black_box(entry)(suspender);
        mem::forget(guard);
        // SAFETY: this is the stack that the suspender belongs to.
        unsafe { suspender.suspend(None) };
    }
}

/// The job's runner catches every panic. One that came through would unwind the hub, so it ends the process.
struct AbortOnUnwind(PhantomData<*mut ()>);

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        os::write_stderr(
            b"greenlet: a panic left the greenlet that it should have ended; aborting\n",
        );
        os::abort();
    }
}
