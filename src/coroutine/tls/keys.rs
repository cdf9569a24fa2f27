//! The values of `pthread_key_create`'s keys, and their destructors.
//!
//! glibc keeps them in each thread in two levels, and runs the destructors at a
//! thread's end, which it cannot be asked to do for a block of ours:
//!
//! ```text
//!   struct pthread                       __pthread_keys (of the process)
//!     specific[0] ─▶ 32 × { seq, data }    1024 × { seq, destructor }
//!     specific[1] ─▶ 32 × { seq, data }    (as far as they are used)
//!       …
//! ```
//!
//! A value counts only if its `seq` is that of its key: else it was left behind by a
//! key that has been deleted since.

use std::ffi::c_void;

use super::current;
use super::glibc::Glibc;

/// Both levels of values have as many places.
pub(super) const PLACES: usize = 32;
/// `PTHREAD_DESTRUCTOR_ITERATIONS`: destructors may set values again.
const ROUNDS: usize = 4;

/// A value, in glibc's shape; its sizes and offsets are verified by `glibc.rs`.
#[repr(C)]
pub(super) struct Value {
    seq: usize,
    data: *mut c_void,
}

/// A key, in glibc's shape. It is in use if `seq` is odd.
#[repr(C)]
pub(super) struct Key {
    seq: usize,
    destructor: Option<unsafe extern "C" fn(*mut c_void)>,
}

/// Whether the keys of the process are there: one that is made is found among them.
///
/// # Safety
/// As many keys lie there as there are places.
pub(super) unsafe fn are_at(keys: *const Key) -> bool {
    unsafe extern "C" fn destructor(_: *mut c_void) {}
    let mut made = 0;
    // SAFETY: the variable is live, and the destructor takes whatever is set.
    if unsafe { libc::pthread_key_create(&mut made, Some(destructor)) } != 0 {
        return false;
    }
    let is_there = (made as usize) < PLACES * PLACES && {
        // SAFETY: the caller's promise.
        let found = unsafe { keys.add(made as usize).read_volatile() };
        let ours: unsafe extern "C" fn(*mut c_void) = destructor;
        found.seq % 2 == 1
            && found
                .destructor
                .is_some_and(|it| it as usize == ours as usize)
    };
    // SAFETY: it was made, and no thread has set a value.
    unsafe { libc::pthread_key_delete(made) };
    is_there
}

/// Runs the destructors of the values on the caller's block, in the order of the keys,
/// up to four times over, and frees what holds them.
///
/// # Safety
/// The caller runs on a block of ours, at its end.
pub(super) unsafe fn run_down(glibc: &Glibc) {
    let specific = current().as_ptr().wrapping_add(glibc.specific);
    let specific = specific.cast::<*mut Value>();
    for _ in 0..ROUNDS {
        // SAFETY: the array is part of the caller's block.
        if !unsafe { run_once(glibc, specific) } {
            break;
        }
    }
    // The first level's first part lies in the block itself.
    for place in 1..PLACES {
        // SAFETY: it is null, or was allocated by glibc for this block alone; its
        // values have been dealt with, as at a thread's end.
        unsafe {
            libc::free(specific.add(place).read().cast());
            specific.add(place).write(std::ptr::null_mut());
        }
    }
}

/// Whether there was anything to run.
///
/// # Safety
/// As for `run_down`.
unsafe fn run_once(glibc: &Glibc, specific: *mut *mut Value) -> bool {
    let mut any = false;
    for place in 0..PLACES {
        // SAFETY: see the drawing. A part that is there stays, whatever a destructor
        // sets.
        let part = unsafe { specific.add(place).read() };
        if part.is_null() {
            continue;
        }
        for within in 0..PLACES {
            // SAFETY: as above; nothing is borrowed while a destructor runs.
            unsafe {
                let value = part.add(within);
                let data = std::mem::replace(&mut (*value).data, std::ptr::null_mut());
                let key = glibc.keys.add(place * PLACES + within);
                if !data.is_null() && (*key).seq == (*value).seq {
                    if let Some(destructor) = (*key).destructor {
                        any = true;
                        destructor(data);
                    }
                }
            }
        }
    }
    any
}
