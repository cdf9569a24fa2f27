//! `pthread_spin_lock`. Who spins waits for another one that is about to let go, and that
//! may be a greenlet of the same thread: so now and then the others have a turn.

use std::ffi::c_int;
use std::hint::spin_loop;
use std::time::Duration;

use libc::pthread_spinlock_t;

use super::glibc;
use super::park;
use super::shape::on;
use crate::hub::Reason;
use crate::monkey::entry::interposed;
use crate::monkey::real::real;
use crate::sys::clock;

interposed! {
    Locks;

    /// Goes round until it has the lock; others run now and then.
    fn pthread_spin_lock(lock: *mut pthread_spinlock_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            if !on() {
                return real!(glibc::SPIN_LOCK(lock));
            }
            match libc::pthread_spin_trylock(lock) {
                libc::EBUSY => go_round(lock),
                answer => answer,
            }
        }
    }
}

/// So often the lock is looked at before others have a turn.
const SPINS: u32 = 100;
/// And so many turns they have before the greenlet sleeps a little in between: its owner
/// waits for something itself.
const TURNS: u32 = 100;
const NAP: Duration = Duration::from_micros(100);

/// # Safety
/// As for `pthread_spin_lock`.
#[cold]
#[inline(never)]
unsafe fn go_round(lock: *mut pthread_spinlock_t) -> c_int {
    let mut turns = 0;
    loop {
        for _ in 0..SPINS {
            // SAFETY: the caller's promise.
            match unsafe { libc::pthread_spin_trylock(lock) } {
                libc::EBUSY => spin_loop(),
                answer => return answer,
            }
        }
        let Some(hub) = park::hub() else {
            // SAFETY: as above.
            return unsafe { real!(glibc::SPIN_LOCK(lock)) };
        };
        turns += 1;
        if turns < TURNS {
            hub.yield_midway();
        } else {
            let reason = Reason::new("waiting for a spin lock of C's");
            hub.sleep_regardless(clock::deadline_after(NAP), reason);
        }
    }
}
