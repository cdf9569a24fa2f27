//! A clock that stands still and a process that never forks.

pub(crate) mod clock {
    use std::time::Duration;

    pub(crate) const NEVER: u64 = u64::MAX;
    const NOW: u64 = 1;

    pub(crate) fn now_ns() -> u64 {
        NOW
    }

    pub(crate) fn deadline_after(timeout: Duration) -> u64 {
        NOW + u64::try_from(timeout.as_nanos()).unwrap_or(NEVER - NOW)
    }
}

pub(crate) mod fork {
    pub(crate) fn generation() -> u32 {
        0
    }
}

pub(crate) mod spin {
    pub(crate) const SPINS: u32 = 0;

    pub(crate) fn a_moment(_: u32) {
        crate::shim::spin_loop();
    }
}

/// Nothing is interposed here.
pub(crate) mod pass {
    pub(crate) fn set_locked(_: bool) {}

    pub(crate) struct PassThrough;

    impl PassThrough {
        pub(crate) fn enter() -> PassThrough {
            PassThrough
        }
    }

    impl Drop for PassThrough {
        fn drop(&mut self) {}
    }
}
