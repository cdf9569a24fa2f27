//! What everybody may stand on: raw system calls, clocks, signals, the fork count, and
//! what we know of std's insides. Knows no other room.

#[cfg(feature = "process")]
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod elf;
pub(crate) mod eventfd;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod handler;
pub(crate) mod helpers;
pub(crate) mod list;
#[cfg(feature = "monkey")]
pub(crate) mod locals;
pub(crate) mod mark;
pub(crate) mod objects;
pub(crate) mod os;
pub(crate) mod os_thread;
pub(crate) mod panics;
pub(crate) mod pass;
#[cfg(feature = "process")]
pub(crate) mod passing;
pub(crate) mod probe;
#[cfg(feature = "process")]
pub(crate) mod program;
pub(crate) mod published;
mod resume;
#[cfg(feature = "process")]
pub(crate) mod shared;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod spin;
pub(crate) mod text;
pub(crate) mod thread_end;
pub(crate) mod threads;
pub(crate) mod timerfd;
#[cfg(feature = "process")]
pub(crate) mod unforked;
