//! gevent for Rust: thousands of greenlets on one OS thread, written as plain
//! blocking code.
//!
//! A *greenlet* is a function that runs on a stack of its own. Where it would
//! block (in a sleep, a join, a read from a socket) it is *parked*, and another
//! greenlet of the same thread goes on. There is no `async`, no runtime to
//! start, and no thread behind it. It is for programs that wait, and not for
//! CPU-bound work: greenlets of one thread take turns on one processor.
//!
//! ```
//! use greenlet::{sleep, spawn};
//! use std::time::Duration;
//!
//! let eat = spawn(|| sleep(Duration::from_millis(20)));
//! let play = spawn(|| {
//!     sleep(Duration::from_millis(10));
//!     "played"
//! });
//! assert_eq!(play.join().unwrap(), "played");
//! eat.join().unwrap(); // 20 ms in all, not 30
//! ```
//!
//! A spawned greenlet runs when the one that spawned it blocks. **A program whose
//! `main` ends without having blocked prints nothing**: join what you spawn.
//!
//! # What there is
//!
//! | to | there is |
//! |---|---|
//! | run functions side by side | [`spawn`], [`spawn_later`], [`Builder`] (name, stack size), [`scope`] (borrows) |
//! | run what needs thread-locals of its own | `spawn_isolated` |
//! | get their results | [`JoinHandle`], [`joinall`], [`joinall_timeout`], [`wait()`], [`iwait`] |
//! | keep many together, so many at a time | [`Group`], [`Pool`] |
//! | let time pass | [`sleep`], [`yield_now`] |
//! | end what takes too long | [`timeout`], [`JoinHandle::kill`], [`killall`] |
//! | switch explicitly, as Python's greenlet | [`Greenlet`], [`set_tracer`] |
//! | talk to others | [`net`]: the sockets of `std::net` and `std::os::unix::net` |
//! | hand items from one to another | [`queue`]: first in first out, last in first out, by priority, hand to hand |
//! | serve connections, a greenlet for each | [`server::StreamServer`]; by several processes, `server::workers` |
//! | do what can only block, or compute | [`offload`]: a helper thread |
//! | hand jobs to so many threads, or greenlets | [`executor`] |
//! | wait for each other, on any thread | [`sync`]: events, results, semaphores, locks, barriers |
//! | wait for Ctrl-C and the like | [`signal`] |
//! | call functions in other processes | `process`, with the feature of that name |
//! | run a future | [`block_on`]; a [`JoinHandle`] is one |
//! | have variables of a greenlet's own | [`greenlet_local!`] |
//! | have std, other crates and C libraries park too | `monkey::patch_all` |
//! | know who runs, and who waits for what | [`current`], [`hub::report`] |
//! | know who keeps the others waiting | [`diagnostics`]: the watchdog |
//! | build waiting of your own | [`hub::Parker`], [`hub::Unparker`] |
//! | end all greenlets of a thread | [`hub::shutdown`] |
//!
//! Errors are in [`error`]; I/O gives [`std::io::Error`] with the kinds of std.
//! Names follow std where std has one, and gevent's find theirs in the search
//! box above.
//!
//! # How waiting works
//!
//! Every OS thread gets a *hub*, its scheduler, on first use. The thread's own
//! stack is its *main greenlet*. What blocks there runs the hub's loop, on that
//! very stack, until it is answered:
//!
//! ```text
//!   main greenlet's stack                    greenlets' stacks
//!   ┌─────────────────────────┐
//!   │ fn main                 │
//!   │   handle.join()         │            ┌───────────────────────┐
//!   │     park()              │   resume   │ body of greenlet 7    │
//!   │       Hub::run (loop) ──┼──────────▶ │   sleep()             │
//!   │                       ◀─┼─────────── │     park()            │
//!   └─────────────────────────┘   suspend  └───────────────────────┘
//! ```
//!
//! 1. Who blocks leaves a note of what it waits for, and suspends.
//! 2. The loop resumes the first of the *run queue*, then the next: first come,
//!    first served. Nothing else ends a turn: a greenlet runs until it blocks.
//! 3. A wake-up puts a greenlet at the end of the run queue. It never runs on the
//!    stack of the one that woke it. One from another thread arrives by the hub's
//!    inbox.
//! 4. When nobody is runnable, the hub looks at its timers and then sleeps in
//!    `epoll` until a socket is ready, a deadline has come, or another thread
//!    calls. When nothing of this could ever happen, it tells of a deadlock.
//! 5. Every 61 turns it looks at the clock, so that a busy run queue keeps neither
//!    timers nor sockets waiting.
//!
//! # What to know
//!
//! * Blocking calls of std, and of C libraries, block the whole thread, unless they
//!   are patched: `monkey::patch_all`. Otherwise use those of this crate, or [`offload`].
//! * Greenlets of a thread share its thread-locals; see [`spawn`] for the code that
//!   this breaks.
//! * A kill and a timeout unwind the greenlet from where it blocks. They need
//!   `panic = "unwind"`: with `panic = "abort"`, what uses them does not compile.
//! * A stack has a fixed size, of which only the pages are used that have been
//!   touched: see [`hub::StackSize`]. An overflow aborts the process with a message
//!   that names the greenlet.
//! * When a thread ends, or the process, what is suspended is not unwound.
//! * After a fork the child has only the greenlet that called it.
//!
//! # Where it runs
//!
//! Linux with glibc: tested on x86-64, untested on AArch64. Anything else is a
//! compile error. Before Linux 6.13 a process can have at most
//! `vm.max_map_count` / 2 stacks. It needs Rust 1.85.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `monkey` (default) | the module `monkey`, and `spawn_isolated`. Until `patch_all` is called its functions do nothing but what libc's do |
//! | `process` | worker processes: the module `process`, an executor and a server. It brings serde and postcard |
//!
//! # Guides
//!
//! In the crate's `docs` folder: `from_gevent.md` (name by name), `differences.md`
//! (where it differs from gevent, and why), `monkey.md` (what `patch_all` does and
//! cannot), `crates.md` (which were tried), `isolated.md` (greenlets that every library
//! takes for a thread), `notes.md` (for students, in Chinese and English) and
//! `architecture.md` (how it works inside). `examples` has whole programs.

// Without `monkey`, some of what it stands on in `hub` has no user; nor has it in static
// programs, where libc's locks and threads stay libc's.
#![cfg_attr(
    any(not(feature = "monkey"), target_feature = "crt-static"),
    allow(dead_code, unused_imports)
)]

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "greenlet supports Linux with glibc only: tested on x86-64, untested on AArch64. \
     musl, macOS, Windows and other systems are not supported."
);

pub mod diagnostics;
pub mod error;
pub mod executor;
pub mod hub;
#[cfg(feature = "monkey")]
mod isolated;
#[cfg(feature = "monkey")]
pub mod monkey;
pub mod net;
#[cfg(feature = "process")]
pub mod process;
pub mod queue;
pub mod server;
pub mod signal;
pub mod sync;

mod coroutine;
mod greenlet;
mod offload;
mod sys;
mod task;
mod time;

pub use greenlet::{Greenlet, GreenletState, TraceEvent, TraceKind, Tracer, set_tracer};
#[cfg(feature = "monkey")]
pub use isolated::{IsolatedHandle, isolation, spawn_isolated};
pub use offload::offload;
pub use task::{
    Builder, Current, GreenletId, GreenletLocal, Group, IWait, Imap, ImapUnordered, JoinHandle,
    LinkId, Pool, Scope, ScopedJoinHandle, Waitable, block_on, current, iwait, joinall,
    joinall_timeout, killall, scope, spawn, spawn_later, timeout, wait, yield_now,
};
pub use time::sleep;

/// The code in the guides is compiled and run with the tests of the docs.
#[cfg(all(doctest, feature = "monkey"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// As above.
#[cfg(all(doctest, feature = "monkey", target_arch = "x86_64"))]
#[doc = include_str!("../docs/isolated.md")]
struct IsolatedGuide;

/// As above.
#[cfg(doctest)]
#[doc = include_str!("../docs/from_gevent.md")]
struct FromGevent;

/// As above.
#[cfg(all(doctest, feature = "monkey"))]
#[doc = include_str!("../docs/monkey.md")]
struct Monkey;

/// As above.
#[cfg(all(doctest, feature = "monkey"))]
#[doc = include_str!("../docs/notes.md")]
struct Notes;

/// Sizes and numbers of permits are unsigned: negative ones do not compile.
///
/// ```compile_fail,E0600
/// greenlet::sync::Semaphore::new(-1);
/// ```
/// ```compile_fail,E0600
/// greenlet::queue::Queue::<u8>::bounded(-1);
/// ```
/// ```compile_fail,E0600
/// greenlet::Pool::new(-1);
/// ```
/// ```compile_fail,E0600
/// greenlet::executor::ThreadPoolExecutor::with_workers(-1);
/// ```
#[cfg(doctest)]
struct NegativeSizes;
