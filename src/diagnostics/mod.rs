//! What goes on inside, for those who look for a fault.
//!
//! # The watchdog
//! A greenlet runs until it blocks. One that computes for long, or calls something
//! that blocks the whole thread, keeps all others of its thread waiting, and what
//! one sees is that everything has become slow. The *watchdog* says who it was: a
//! greenlet that holds its thread for longer than a threshold is reported on the
//! standard error stream, once for each such turn, with its name, where it was
//! spawned, and where it is.
//!
//! ```text
//! greenlet: watchdog: 'parser', spawned at src/main.rs:14:10, has held thread 4242 ('main') for 104 ms
//! (103 ms of it computing) while 12 other greenlets wait:
//!    0: myprogram::parse::all_of (/home/me/myprogram+0x1f3a2)
//!    1: myprogram::serve (/home/me/myprogram+0x1e118)
//! greenlet: watchdog: see `offload`, `yield_now` and `diagnostics::unwatched`; GREENLET_WATCHDOG=off ends these reports
//! ```
//!
//! The number behind an object is what `addr2line -e OBJECT NUMBER` turns into a
//! line of a file. Stripped programs have no names of functions, but these numbers.
//!
//! | build | at first |
//! |---|---|
//! | with debug assertions | 100 ms |
//! | without (release) | off |
//!
//! The environment variable `GREENLET_WATCHDOG` changes this for a run: `off`, `on`
//! (100 ms), or a number of milliseconds. [`watchdog`] changes it at run time, and
//! has the last word. [`unwatched`] is for code that is meant to take long, and
//! [`on_blocked`] for a report of one's own.
//!
//! While it is on and some thread has more than one greenlet, there is one OS thread
//! more in the process, called `greenlet-watch`. It wakes four times in a threshold
//! while a hub runs, and sleeps when all are idle. A thread that is reported has been
//! interrupted by one signal, SIGURG: see [`watchdog`].

mod blocked;
mod demangle;
mod symbols;
mod watchdog;

pub use blocked::{Blocked, Frame, on_blocked};
pub use watchdog::{unwatched, watchdog, watchdog_threshold};
