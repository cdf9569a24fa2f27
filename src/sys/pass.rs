//! The "pass through" flag: while it is set, the calls that the room `monkey`
//! interposes go straight to the kernel on this thread.
//!
//! It is for code that must not be parked in the middle: the hub's own loop, and
//! what stands under a lock or a borrow of a hub; signal handlers, which stand in
//! the middle of anything; and the crate's own operations on descriptors, which
//! have the waiting around them already.
//!
//! And it is for whatever asks for memory, or gives it back, between two steps that
//! belong together. An allocator may wait for a lock of std's, as profilers do, which
//! is interposed, so others may run at each `push`, `Box::new` or `drop`:
//!
//! ```text
//!   tasks.borrow_mut().insert(…) ─▶ alloc ─▶ Mutex::lock ─▶ futex ─▶ park?
//!                                                        the next to run spawns:
//!                                                        already borrowed
//! ```

use std::cell::Cell;
use std::marker::PhantomData;

use super::handler;

thread_local! {
    /// How many guards there are, and in the upper half how many signal handlers.
    /// `const` and without a destructor, so that it can be asked at any moment of
    /// a thread's life, in signal handlers too.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// One signal handler, in the upper half.
const HANDLER: u32 = 1 << 16;

/// Whether calls pass through. `greenlet` tells which greenlet asks, as it was
/// told to [`handler::run`]; it is called only where that matters.
#[inline(always)]
pub(crate) fn is_set(greenlet: impl FnOnce() -> usize) -> bool {
    let depth = DEPTH.get();
    depth != 0 && (depth % HANDLER != 0 || handler::is_running(greenlet()))
}

/// Has calls pass through until it is dropped. A greenlet that holds one must
/// not switch: the flag is the thread's.
#[must_use]
pub(crate) struct PassThrough(PhantomData<*const ()>);

impl PassThrough {
    #[inline(always)]
    pub(crate) fn enter() -> PassThrough {
        DEPTH.set(DEPTH.get().wrapping_add(1));
        PassThrough(PhantomData)
    }
}

impl Drop for PassThrough {
    #[inline(always)]
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().wrapping_sub(1));
    }
}

/// Takes back all guards while `f` runs: code of the user's, which may switch, and for
/// which whoever holds them has nothing half done.
pub(crate) fn without_guards<R>(f: impl FnOnce() -> R) -> R {
    /// Puts them back however `f` is left.
    struct PutBack(u32);
    impl Drop for PutBack {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get().wrapping_add(self.0));
        }
    }
    let guards = DEPTH.get() % HANDLER;
    DEPTH.set(DEPTH.get() - guards);
    let _put_back = PutBack(guards);
    f()
}

/// A greenlet is about to be left; debug builds check that it holds no guard.
#[inline(always)]
pub(crate) fn check() {
    debug_assert_eq!(DEPTH.get() % HANDLER, 0, "a switch under a PassThrough");
}

/// How many signal handlers are running on this thread, or were left by a jump.
pub(super) fn handlers() -> usize {
    (DEPTH.get() / HANDLER) as usize
}

/// Whether a signal handler is running on this thread, or was left by a jump.
pub(crate) fn may_be_in_handler() -> bool {
    handlers() != 0
}

/// Sets that number, and leaves the guards as they are.
pub(super) fn set_handlers(handlers: usize) {
    DEPTH.set(DEPTH.get() % HANDLER + handlers as u32 * HANDLER);
}

thread_local! {
    /// The thread holds a lock of ours, for some nanoseconds. This is not counted in
    /// `DEPTH`: it is set very often, and setting it costs less than counting.
    static LOCKED: Cell<bool> = const { Cell::new(false) };
}

/// Says whether this thread holds a lock under which nothing may park, an allocator that
/// waits for a lock of its own for instance.
#[inline(always)]
pub(crate) fn set_locked(locked: bool) {
    LOCKED.set(locked);
}

/// What was said last.
pub(crate) fn is_locked() -> bool {
    LOCKED.get()
}
