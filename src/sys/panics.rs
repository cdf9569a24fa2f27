//! std's count of panics in progress, found by observation.
//!
//! std counts by thread how many panics are unwinding, in one word of
//! thread-local storage. When a destructor of an unwinding greenlet waits, that
//! word must be put aside, or every other greenlet of the thread would seem to
//! unwind too, and its own panic would abort the process.
//!
//! The word has no name. But it is the only one among the thread's static
//! thread-locals that reads 0, 1, 2, 1, 0 through two nested unwindings, so
//! that is how it is found, once in a process; its distance from the thread
//! pointer is the same on all threads. Where there is not exactly one such
//! word, nothing is found, and the caller has to do without.

use std::mem::offset_of;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use super::pass::PassThrough;

/// Where the word is, relative to the thread pointer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanicCount {
    offset: isize,
}

/// A count that was put aside.
#[derive(Debug)]
pub(crate) struct Saved(usize);

/// Where it is, once that has been asked.
static FOUND: OnceLock<Option<PanicCount>> = OnceLock::new();

/// What std keeps there: the count, and a mark that says whether the panic hook runs.
type Std = (usize, bool);
/// From the count to the mark. The same compiler lays out both.
const TO_MARK: isize = offset_of!(Std, 1) as isize - offset_of!(Std, 0) as isize;

impl PanicCount {
    /// The word, if it can be told from all others. The environment variable
    /// `GREENLET_PANIC_COUNT=off` says that it cannot, to test what follows.
    pub(crate) fn get() -> Option<PanicCount> {
        if let Some(found) = FOUND.get() {
            return *found;
        }
        // Whoever asks may be unwinding, and is not to be parked here; nor where it
        // waits for another thread that looks for it.
        let _pass = PassThrough::enter();
        *FOUND.get_or_init(|| {
            let off = std::env::var_os("GREENLET_PANIC_COUNT").is_some_and(|value| value == "off");
            if off || cfg!(panic = "abort") {
                return None;
            }
            // On a thread of its own, which is not unwinding.
            std::thread::spawn(find).join().ok().flatten()
        })
    }

    /// Puts the calling thread's count aside and makes it zero. None, and
    /// nothing changed, if the word is not what it should be.
    pub(crate) fn take(self) -> Option<Saved> {
        const PLAUSIBLE: std::ops::RangeInclusive<usize> = 1..=64;
        if !std::thread::panicking() {
            return None;
        }
        let word = self.address();
        // SAFETY: the address is that of std's `Cell<usize>` of this thread,
        // as found by `find`, and no reference into it is alive here.
        let count = unsafe { word.read_volatile() };
        if !PLAUSIBLE.contains(&count) {
            return None;
        }
        // SAFETY: as above.
        unsafe { word.write_volatile(0) };
        if std::thread::panicking() {
            // SAFETY: as above.
            unsafe { word.write_volatile(count) };
            return None;
        }
        Some(Saved(count))
    }

    /// Puts a count back, on the thread that it was taken from.
    pub(crate) fn restore(self, saved: Saved) {
        // SAFETY: as in `take`.
        unsafe { self.address().write_volatile(saved.0) };
    }

    /// Whether the calling thread, which panics, may be in its panic hook.
    ///
    /// std marks this in a `bool` beside the count, and aborts a process in which
    /// a thread panics that bears the mark: nobody else of the thread may run
    /// meanwhile. Where the count was not found, or not asked for yet, the answer is
    /// yes. It is a look at one byte, and may be had in a signal handler.
    pub(crate) fn in_hook() -> bool {
        match FOUND.get() {
            // SAFETY: std keeps a `Cell<(usize, bool)>` there. Should that change,
            // the byte is another one of the thread's static thread-locals, or of the
            // thread's control block, which lies right behind them.
            Some(Some(count)) => unsafe { count.mark().read_volatile() != 0 },
            _ => true,
        }
    }

    fn mark(self) -> *const u8 {
        self.address().cast::<u8>().wrapping_offset(TO_MARK)
    }

    fn address(self) -> *mut usize {
        (thread_pointer() as isize + self.offset) as *mut usize
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: on x86-64 Linux the first word of the thread's control block is
    // its own address.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, readonly, preserves_flags));
    }
    pointer
}

#[cfg(target_arch = "aarch64")]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reading the thread pointer has no effect on anything.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, nomem, preserves_flags));
    }
    pointer
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) fn thread_pointer() -> usize {
    0
}

/// Looks at all thread-locals at five moments of two nested unwindings.
fn find() -> Option<PanicCount> {
    if thread_pointer() == 0 {
        return None;
    }
    struct Nested<'a> {
        look: &'a mut dyn FnMut(usize),
        depth: usize,
    }
    impl Drop for Nested<'_> {
        fn drop(&mut self) {
            (self.look)(self.depth);
            if self.depth == 1 {
                unwind_through(Nested {
                    look: &mut *self.look,
                    depth: 2,
                });
                (self.look)(1);
            }
        }
    }
    fn unwind_through(nested: Nested<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(move || {
            let _nested = nested;
            resume_unwind(Box::new(()));
        }));
    }

    let blocks = static_blocks();
    // The words that have read as expected so far.
    let mut candidates: Option<Vec<usize>> = None;
    let mut look = |expected: usize| match &mut candidates {
        None => {
            let words = blocks.iter().flat_map(|block| block.clone().step_by(8));
            candidates = Some(words.filter(|&word| read(word) == expected).collect());
        }
        Some(candidates) => candidates.retain(|&word| read(word) == expected),
    };
    look(0);
    unwind_through(Nested {
        look: &mut look,
        depth: 1,
    });
    look(0);
    let [word] = candidates?[..] else {
        return None;
    };
    let count = PanicCount {
        offset: word as isize - thread_pointer() as isize,
    };
    // No hook runs for these unwindings: what bears a mark now is not std's.
    let mut is_unmarked = true;
    unwind_through(Nested {
        // SAFETY: the byte is one of this thread's, see `in_hook`.
        look: &mut |_| is_unmarked &= unsafe { count.mark().read_volatile() == 0 },
        depth: 1,
    });
    is_unmarked.then_some(count)
}

fn read(word: usize) -> usize {
    // SAFETY: the address lies in one of this thread's blocks of thread-local
    // storage, which are readable, and is aligned to a word.
    unsafe { (word as *const usize).read_volatile() }
}

/// This thread's blocks of static thread-local storage: those whose distance
/// from the thread pointer is the same on every thread.
pub(super) fn static_blocks() -> Vec<std::ops::Range<usize>> {
    /// Static blocks are allocated beside the thread's control block.
    const NEAR: usize = 1 << 20;

    extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        blocks: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes valid records, and our vector back.
        unsafe {
            let info = &*info;
            let blocks = &mut *blocks.cast::<Vec<std::ops::Range<usize>>>();
            for index in 0..usize::from(info.dlpi_phnum) {
                let segment = &*info.dlpi_phdr.add(index);
                let start = (info.dlpi_tls_data as usize).next_multiple_of(8);
                if segment.p_type != libc::PT_TLS || info.dlpi_tls_data.is_null() {
                    continue;
                }
                let end = info.dlpi_tls_data as usize + segment.p_memsz as usize;
                if start.abs_diff(thread_pointer()) < NEAR {
                    blocks.push(start..end & !7);
                }
            }
        }
        0
    }

    let mut blocks: Vec<std::ops::Range<usize>> = Vec::new();
    // SAFETY: the callback has the type that is asked for, and the vector
    // outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut blocks).cast()) };
    blocks
}

#[cfg(all(test, panic = "unwind", target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Runs `f` while the calling thread unwinds.
    fn while_unwinding(f: impl FnOnce()) {
        struct Run<F: FnOnce()>(Option<F>);
        impl<F: FnOnce()> Drop for Run<F> {
            fn drop(&mut self) {
                if let Some(f) = self.0.take() {
                    f();
                }
            }
        }
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let _run = Run(Some(f));
            resume_unwind(Box::new(()));
        }));
    }

    #[test]
    fn a_count_put_aside_hides_the_unwinding_until_it_is_put_back() {
        let count = PanicCount::get().expect("the word is found");
        while_unwinding(|| {
            assert!(std::thread::panicking());
            let saved = count.take().expect("the thread is unwinding");
            assert!(!std::thread::panicking());
            // Somebody else panics and is caught, in between.
            assert!(catch_unwind(|| resume_unwind(Box::new(()))).is_err());
            assert!(!std::thread::panicking());
            count.restore(saved);
            assert!(std::thread::panicking());
        });
        assert!(!std::thread::panicking());
    }

    #[test]
    fn the_word_is_at_the_same_place_on_every_thread() {
        let count = PanicCount::get().expect("the word is found");
        for _ in 0..4 {
            std::thread::spawn(move || {
                while_unwinding(|| {
                    let saved = count.take().expect("the thread is unwinding");
                    assert!(!std::thread::panicking());
                    count.restore(saved);
                });
                assert!(!std::thread::panicking());
            })
            .join()
            .unwrap();
        }
    }

    #[test]
    fn nothing_is_taken_from_a_thread_that_does_not_unwind() {
        assert!(
            PanicCount::get()
                .expect("the word is found")
                .take()
                .is_none()
        );
    }
}
