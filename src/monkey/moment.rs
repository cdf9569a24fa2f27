//! Until when a wait for a lock lasts, by which clock.

use libc::{c_int, clockid_t, timespec};

use super::kernel;
use crate::sys::clock;

/// Until when somebody waits.
#[derive(Clone, Copy)]
pub(super) enum Moment {
    Never,
    /// By our own clock, which is CLOCK_MONOTONIC.
    Here(u64),
    /// By the clock that can be set.
    InRealTime(u64),
}

impl Moment {
    /// This time by one of the two clocks that locks know. None for another clock, and
    /// for what is no time: libc has its own answer to these, and does not wait.
    pub(super) fn by(clock: clockid_t, time: timespec) -> Option<Moment> {
        if !(0..1_000_000_000).contains(&time.tv_nsec) {
            return None;
        }
        let time = match time.tv_sec {
            // Before either clock began.
            ..0 => 0,
            _ => kernel::nanos_of(time),
        };
        match clock {
            libc::CLOCK_MONOTONIC => Some(Moment::Here(time)),
            libc::CLOCK_REALTIME => Some(Moment::InRealTime(time)),
            _ => None,
        }
    }

    /// When to look at the clock, by our own.
    pub(super) fn deadline(self) -> Option<u64> {
        match self {
            Moment::Never => None,
            Moment::Here(deadline) => Some(deadline),
            Moment::InRealTime(moment) => {
                let left = moment.saturating_sub(kernel::now(libc::CLOCK_REALTIME));
                Some(clock::now_ns().saturating_add(left))
            }
        }
    }

    pub(super) fn has_come(self) -> bool {
        match self {
            Moment::Never => false,
            Moment::Here(deadline) => clock::now_ns() >= deadline,
            // That clock may have been set back since.
            Moment::InRealTime(moment) => kernel::now(libc::CLOCK_REALTIME) >= moment,
        }
    }

    /// As FUTEX_WAIT_BITSET has it: a flag, and the time, if there is one.
    pub(super) fn of_futex(self) -> (c_int, Option<timespec>) {
        match self {
            Moment::Never => (0, None),
            Moment::Here(time) => (0, Some(kernel::timespec_of(time))),
            Moment::InRealTime(time) => {
                let flag = libc::FUTEX_CLOCK_REALTIME;
                (flag, Some(kernel::timespec_of(time)))
            }
        }
    }
}
