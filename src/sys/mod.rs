//! What everybody may stand on: raw system calls, clocks, signals, the fork count, and
//! what we know of std's insides. Knows no other room.

#[cfg(feature = "process")]
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod fork;
pub(crate) mod helpers;
pub(crate) mod mark;
pub(crate) mod os;
pub(crate) mod panics;
pub(crate) mod pass;
#[cfg(feature = "process")]
pub(crate) mod passing;
#[cfg(feature = "process")]
pub(crate) mod program;
#[cfg(feature = "process")]
pub(crate) mod shared;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod text;
pub(crate) mod thread_end;
pub(crate) mod timerfd;
