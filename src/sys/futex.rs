//! Sleeping on a word of memory until somebody changes it: no lock, no
//! allocation, and a wake-up may be given from a signal handler.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::os;

/// Sleeps while the word has this value, until a wake-up or until the time is
/// over, and sometimes for no reason at all.
pub(crate) fn wait(word: &AtomicU32, value: u32, timeout: Option<Duration>) {
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the word and the time live through the call, which only reads them.
    let _ = unsafe {
        os::syscall(
            libc::SYS_futex,
            [
                word.as_ptr() as usize,
                (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize,
                value as usize,
                time as usize,
            ],
        )
    };
}

/// Wakes all who sleep on the word. Async-signal-safe.
pub(crate) fn wake(word: &AtomicU32) {
    // SAFETY: the address is only looked up among those of sleepers.
    let _ = unsafe {
        os::syscall(
            libc::SYS_futex,
            [
                word.as_ptr() as usize,
                (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize,
                i32::MAX as usize,
                0,
            ],
        )
    };
}
