//! The clock that deadlines are counted by: CLOCK_MONOTONIC, in nanoseconds.

use std::mem::MaybeUninit;
use std::time::Duration;

use super::os;

/// The deadline of whoever waits for ever.
pub(crate) const NEVER: u64 = u64::MAX;

/// Nanoseconds since some moment in the past.
#[inline]
pub(crate) fn now_ns() -> u64 {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the kernel writes one timespec, and this clock always exists.
    let now = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr());
        now.assume_init()
    };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The deadline `timeout` from now; [`NEVER`] if that is beyond 500 years.
pub(crate) fn deadline_after(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_nanos()).map_or(NEVER, |timeout| now_ns().saturating_add(timeout))
}

/// Blocks the OS thread, greenlets and all: for a hub that cannot sleep any
/// other way.
pub(crate) fn block_thread_for(time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: the request is a valid timespec, and no remainder is asked for.
    // A signal ends the sleep early, which callers allow for.
    let _ = unsafe { os::syscall(libc::SYS_nanosleep, [(&raw const time) as usize, 0, 0, 0]) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_forward() {
        let before = now_ns();
        assert!(now_ns() >= before);
    }

    #[test]
    fn an_enormous_timeout_never_ends() {
        assert_eq!(deadline_after(Duration::MAX), NEVER);
        assert!(deadline_after(Duration::from_secs(1)) < NEVER);
    }
}
