//! `pthread_once`, and C11's `call_once`, which is the same.
//!
//! ```text
//!   0 ──▶ 1 + 4 × generation ──▶ 2       the initialiser runs once, and others wait
//!   ▲            │
//!   └────────────┘                       it was left by unwinding: somebody else runs it
//! ```
//!
//! The generation is glibc's, and grows with each fork: who runs it in the parent is not
//! in the child. Those who wait in libc since before the locks were patched are told too.
//!
//! An initialiser that throws, or ends its thread, is started anew by the next one who
//! comes. In a program that cannot unwind it ends the process, once the locks are patched.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::glibc::{self, Initialiser};
use super::park::{self, Wait};
use super::shape::{self, on, word};
use crate::hub::address;
use crate::monkey::entry::interposed_unwinding;
use crate::monkey::moment::Moment;
use crate::monkey::real::real;
use crate::sys::clock;

interposed_unwinding! {
    Locks;

    /// Calls the function once; others park until it has returned.
    fn pthread_once(control: *mut c_int, initialise: Initialiser) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            if word(control, 0).load(Ordering::Acquire) & DONE != 0 {
                return 0;
            }
            match on() {
                false => in_libc(control, initialise),
                true => once(word(control, 0), initialise),
            }
        }
    }

    /// As `pthread_once`, in C11.
    fn call_once(control: *mut c_int, initialise: Initialiser) {
        // SAFETY: the caller's promise.
        unsafe { pthread_once(control, initialise) };
    }
}

/// # Safety
/// As for `pthread_once`.
unsafe fn in_libc(control: *mut c_int, initialise: Initialiser) -> c_int {
    let address = control as usize;
    // SAFETY: the caller's promise. There is nothing to drop here, for it may unwind.
    let answer = address::in_kernel(address, || unsafe {
        real!(glibc::ONCE(control, initialise))
    });
    // The locks may have been patched meanwhile.
    if on() {
        address::wake(address, address::ANY, usize::MAX);
    }
    answer
}

pub(super) const RUNS: u32 = 1;
pub(super) const DONE: u32 = 2;

/// # Safety
/// As for `pthread_once`.
unsafe fn once(control: &AtomicU32, initialise: Initialiser) -> c_int {
    let Some(running) = shape::generation() else {
        // It was found before; so this cannot be.
        return libc::EINVAL;
    };
    let mut seen = control.load(Ordering::Acquire);
    loop {
        if seen & DONE != 0 {
            return 0;
        }
        if seen == running {
            let mut wait = Wait::new(control, "waiting for an initialiser of C's");
            if address::may_be_in_kernel(control.as_ptr() as usize) {
                // It was begun in libc, which does not tell us if it unwinds.
                wait = wait.until(Moment::Here(clock::deadline_after(PAUSE)));
            }
            wait.sleep_while(park::hub(), || control.load(Ordering::SeqCst) == seen);
            seen = control.load(Ordering::Acquire);
            continue;
        }
        match control.compare_exchange(seen, running, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
    let unwound = Unwound(control);
    // SAFETY: the caller's promise.
    unsafe { initialise() };
    std::mem::forget(unwound);
    end(control, DONE);
    0
}

/// After so long to look again.
const PAUSE: Duration = Duration::from_millis(10);

/// Has the initialiser run again, if it is dropped.
struct Unwound<'a>(&'a AtomicU32);

impl Drop for Unwound<'_> {
    fn drop(&mut self) {
        end(self.0, 0);
    }
}

fn end(control: &AtomicU32, state: u32) {
    let address = control.as_ptr() as usize;
    control.store(state, Ordering::SeqCst);
    // It may be gone from here on, if it is done.
    park::wake_in_kernel(address, false);
    address::wake(address, address::ANY, usize::MAX);
}
