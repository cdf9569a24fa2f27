//! Whether this code is part of a signal handler.
//!
//! A handler stands in the middle of anything: of the hub, of malloc, of a lock. If
//! its greenlet parked there, others would find all of that half done. So each
//! handler that runs is marked, and while it is, [`pass`] is set.
//!
//! A handler does not have to return. C code leaves one by `siglongjmp`, which
//! nobody tells us of, and a mark that stayed would have the thread's greenlets
//! block it for ever. So a mark tells where the handler's frame is, and is void
//! when that frame is not there any more:
//!
//! ```text
//!   higher   │ frame with the sigsetjmp │ ◀── whoever asks from up here has
//!            │ what was interrupted     │     left the handler
//!            ├── signal ────────────────┤
//!            │ run: token 0x3b2f…       │ ◀── the mark points here. A jump leaves
//!            │ the handler              │     the token, until something else is
//!   lower    │ write(…): am I in one?   │     written over it
//!            └──────────────────────────┘
//! ```
//!
//! What is still taken for a handler after such a jump is a call that is made from
//! deeper than the handler was, before anything else was. It passes through, which
//! is what the thread did before it was patched.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use super::{os, pass};

/// Of more handlers than these that interrupt each other the first are marked, and the
/// last, which puts back the mark that it has found there.
const MOST: usize = 4;

/// A handler's frame.
#[derive(Clone, Copy)]
struct Mark {
    /// Where the token is.
    place: usize,
    /// What is written there for as long as the handler runs. 0: nothing.
    token: u32,
    /// Which greenlet was interrupted. If another one asks, there was a switch,
    /// and there is none in a handler.
    greenlet: usize,
}

thread_local! {
    // `const` and without destructors, as `pass` has it.
    static MARKS: [Cell<Mark>; MOST] = const {
        [const { Cell::new(Mark { place: 0, token: 0, greenlet: 0 }) }; MOST]
    };
    static TOKENS: Cell<u32> = const { Cell::new(0) };
}

/// Runs a signal handler; calls pass through meanwhile. `greenlet` is a number of
/// the greenlet that was interrupted.
///
/// There is no destructor in here: a handler may be left by a jump, or unwound by
/// `pthread_exit`, and neither is allowed to skip or to run one.
#[inline(always)]
pub(crate) fn run(greenlet: usize, handler: impl FnOnce()) {
    // One that comes in between may take the same token; it has another frame.
    TOKENS.set(TOKENS.get().wrapping_add(1));
    // An odd factor, so that all tokens differ, and do not look like counters.
    let token = TOKENS.get().wrapping_mul(0x9e37_79b1) | 1;
    let word = AtomicU32::new(token);
    let before = pass::handlers();
    // First counted, then marked: a handler that comes in between has a mark of
    // its own, and takes it back before it returns.
    pass::set_handlers(before + 1);
    compiler_fence(Ordering::SeqCst);
    let place = word.as_ptr() as usize;
    let mark = Mark {
        place,
        token,
        greenlet,
    };
    let found = MARKS.with(|marks| marks[before.min(MOST - 1)].replace(mark));
    compiler_fence(Ordering::SeqCst);
    handler();
    compiler_fence(Ordering::SeqCst);
    // SAFETY: a live variable. It is the last that is done with it, which is no
    // reason to leave it out.
    unsafe { word.as_ptr().write_volatile(0) };
    MARKS.with(|marks| marks[before.min(MOST - 1)].set(found));
    compiler_fence(Ordering::SeqCst);
    pass::set_handlers(before);
}

/// Whether a handler is running, of those that are marked. Forgets the marks of
/// those that were left.
#[cold]
#[inline(never)]
pub(super) fn is_running(greenlet: usize) -> bool {
    let here = 0u8;
    let here = (&raw const here) as usize;
    loop {
        let Some(last) = pass::handlers().checked_sub(1) else {
            return false;
        };
        if MARKS.with(|marks| marks[last.min(MOST - 1)].get().is_live(greenlet, here)) {
            return true;
        }
        pass::set_handlers(last);
    }
}

impl Mark {
    fn is_live(self, greenlet: usize, here: usize) -> bool {
        self.greenlet == greenlet
            && here < self.place
            && holds(self.place, self.token)
            && !is_on_the_other_stack(self.place, here)
    }
}

/// Whether this word is there, at a place whose memory may be gone.
fn holds(place: usize, token: u32) -> bool {
    let none = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let args = [
        place,
        wait as usize,
        token as usize,
        (&raw const none) as usize,
        0,
        0,
    ];
    // SAFETY: the kernel reads the word if it can, and compares it.
    let answer = unsafe { os::syscall6(libc::SYS_futex, args) };
    // As expected, and then the time was up.
    !matches!(answer, Err(libc::EAGAIN | libc::EFAULT))
}

/// Whether the handler ran on the thread's signal stack, and this code does not.
fn is_on_the_other_stack(place: usize, here: usize) -> bool {
    let mut stack = MaybeUninit::<libc::stack_t>::uninit();
    // SAFETY: the kernel writes a stack_t.
    let asked = unsafe {
        os::syscall(
            libc::SYS_sigaltstack,
            [0, stack.as_mut_ptr() as usize, 0, 0],
        )
    };
    if asked.is_err() {
        return false;
    }
    // SAFETY: the kernel has written it.
    let stack = unsafe { stack.assume_init() };
    let start = stack.ss_sp as usize;
    let within = |place: usize| place.wrapping_sub(start) < stack.ss_size;
    within(place) && !within(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_set() -> bool {
        pass::is_set(|| 7)
    }

    #[test]
    fn calls_pass_through_while_a_handler_runs() {
        assert!(!is_set());
        run(7, || {
            assert!(is_set());
            run(7, || assert!(is_set()));
            assert!(is_set());
        });
        assert!(!is_set());
    }

    #[test]
    fn another_greenlet_is_not_in_the_handler() {
        run(7, || assert!(!pass::is_set(|| 8)));
        assert!(!is_set());
    }

    #[test]
    fn more_handlers_than_there_are_marks_are_told_by_the_last_mark() {
        fn nest(depth: usize) {
            if depth > 0 {
                run(7, || nest(depth - 1));
            }
            assert!(depth > MOST || is_set() || pass::handlers() == 0);
        }
        nest(MOST + 5);
        assert!(!is_set());
    }

    /// It may run on another stack than those before it.
    #[test]
    fn the_last_of_many_handlers_is_marked_while_it_runs() {
        let place = || MARKS.with(|marks| marks[MOST - 1].get().place);
        fn nest(depth: usize, f: &mut dyn FnMut()) {
            match depth {
                0 => f(),
                _ => run(7, || nest(depth - 1, f)),
            }
        }
        nest(MOST, &mut || {
            let before = place();
            run(7, || {
                assert!(place() < before, "a frame further down");
                assert!(is_set());
            });
            assert_eq!(place(), before);
            assert!(is_set());
        });
        assert!(!is_set());
    }

    /// A mark as a jump leaves it: counted, of a frame that is gone.
    #[test]
    fn a_mark_of_a_frame_that_was_left_is_void() {
        #[inline(never)]
        fn leave() {
            let mut mark = None;
            run(7, || mark = Some(MARKS.with(|marks| marks[0].get())));
            // Of a frame that was here, and is not any more.
            MARKS.with(|marks| marks[0].set(mark.unwrap()));
            pass::set_handlers(1);
        }
        leave();
        assert!(!is_set());
        assert_eq!(pass::handlers(), 0);
        // As before, of memory that is not there.
        MARKS.with(|marks| {
            let place = usize::MAX & !0xfff;
            marks[0].set(Mark {
                place,
                ..marks[0].get()
            });
        });
        pass::set_handlers(1);
        assert!(!is_set());
    }
}
