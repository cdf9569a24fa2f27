//! The moment when a thread's thread-locals begin to be destroyed.
//!
//! glibc keeps, for each thread, a list of what is to be called when the
//! thread ends or calls `exit`; std adds the destructor of each thread-local
//! when that is used for the first time. The last added is called first:
//!
//! ```text
//!    newest ──▶ ours ──▶ X's destructor ──▶ ours, older ──▶ Y's ──▶ …
//! ```
//!
//! So a callback of ours that is the newest is called before anything that is
//! there now is destroyed. To keep it so, it must be added again when others
//! were added, which is seen by the word that points to the newest. That word
//! has no name, but it is the only one of the thread's static thread-locals
//! that changes each time a callback is added, so that is how it is found.

use std::ffi::c_void;

/// A thread's pointer to the newest of its callbacks; only to be compared.
pub(crate) type Newest = *const usize;

/// Has `callback` run with `argument` on this thread before the first of the
/// thread-locals that have been used by now is destroyed. Without effect where
/// the system has no way to arrange it.
#[cfg(target_env = "gnu")]
pub(crate) fn before_thread_locals(callback: extern "C" fn(*mut c_void), argument: *mut c_void) {
    unsafe extern "C" {
        fn __cxa_thread_atexit_impl(
            callback: extern "C" fn(*mut c_void),
            argument: *mut c_void,
            object: *const c_void,
        ) -> libc::c_int;
        static __dso_handle: u8;
    }
    // SAFETY: the callback is a function of the object that the handle names,
    // which stays loaded until it has run, and it takes any argument. Without
    // memory for it, it is not called.
    unsafe { __cxa_thread_atexit_impl(callback, argument, (&raw const __dso_handle).cast()) };
}

/// As above, elsewhere.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn before_thread_locals(_: extern "C" fn(*mut c_void), _: *mut c_void) {}

/// The calling thread's word. Where it was not found it is one that never
/// changes.
pub(crate) fn newest_callback() -> Newest {
    static NOTHING: usize = 0;
    match offset() {
        Some(offset) => super::panics::thread_pointer().wrapping_add_signed(offset) as Newest,
        None => &raw const NOTHING,
    }
}

/// Where the word is, relative to the thread pointer.
fn offset() -> Option<isize> {
    static FOUND: std::sync::OnceLock<Option<isize>> = std::sync::OnceLock::new();
    *FOUND.get_or_init(find)
}

fn find() -> Option<isize> {
    const ROUNDS: usize = 4;
    extern "C" fn nothing(_: *mut c_void) {}

    if cfg!(not(target_env = "gnu")) || super::panics::thread_pointer() == 0 {
        return None;
    }
    let blocks = super::panics::static_blocks();
    let mut candidates: Vec<usize> = blocks.into_iter().flat_map(|b| b.step_by(8)).collect();
    for _ in 0..ROUNDS {
        let before: Vec<usize> = candidates.iter().map(|&word| read(word)).collect();
        before_thread_locals(nothing, std::ptr::null_mut());
        let mut before = before.into_iter();
        candidates.retain(|&word| before.next() != Some(read(word)));
    }
    match candidates.as_slice() {
        [word] => Some(*word as isize - super::panics::thread_pointer() as isize),
        _ => None,
    }
}

fn read(word: usize) -> usize {
    // SAFETY: the address lies in one of this thread's blocks of thread-local
    // storage, which are readable, and is aligned to a word.
    unsafe { (word as *const usize).read_volatile() }
}

#[cfg(all(test, target_env = "gnu", target_arch = "x86_64"))]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_word_changes_when_a_thread_local_is_used_for_the_first_time() {
        struct Noisy(Cell<u32>);
        impl Drop for Noisy {
            fn drop(&mut self) {
                self.0.set(0);
            }
        }
        thread_local! {
            static LOCAL: Noisy = const { Noisy(Cell::new(0)) };
        }
        for _ in 0..3 {
            std::thread::spawn(|| {
                let word = newest_callback() as usize;
                let before = read(word);
                LOCAL.with(|local| local.0.set(1));
                let after = read(word);
                assert_ne!(before, after);
                LOCAL.with(|local| local.0.set(2));
                assert_eq!(read(word), after);
            })
            .join()
            .unwrap();
        }
    }
}
