//! A clock that stands still and a process that never forks.

pub(crate) mod clock {
    use std::time::Duration;

    pub(crate) const NEVER: u64 = u64::MAX;
    const NOW: u64 = 1;

    pub(crate) fn now_ns() -> u64 {
        NOW
    }

    /// Others have their turn.
    pub(crate) fn block_thread_for(_: Duration) {
        loom::thread::yield_now();
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

pub(crate) mod os {
    pub(crate) fn yield_thread() {
        loom::thread::yield_now();
    }
}

/// Nothing is interposed here.
pub(crate) mod pass {
    pub(crate) fn set_locked(_: bool) {}
}
