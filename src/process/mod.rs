//! Worker processes: a function is called in another process, and its result
//! comes back.
//!
//! Greenlets of one thread take turns on one processor. What computes goes to
//! threads, or to processes: those share no memory, so one that crashes, leaks or
//! is killed harms no other. The feature `process` of this crate turns them on:
//!
//! ```toml
//! greenlet = { version = "0.1", features = ["process"] }
//! ```
//!
//! ```
//! use greenlet::process;
//!
//! fn count_primes(below: u64) -> usize {
//!     (2..below).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
//! }
//!
//! let children = [100, 1000].map(|below| process::spawn(count_primes, below).unwrap());
//! assert_eq!(children.map(|child| child.join().unwrap()), [25, 168]);
//! ```
//!
//! | | |
//! |---|---|
//! | [`spawn`] | calls a function in a new process |
//! | [`Child`] | its handle: the number, the result, the exit status, kill |
//! | [`Event`] | a flag that processes share and wait for |
//! | [`Queue`] | hands items from process to process |
//!
//! # What is a worker
//! A worker is this program started anew, and not a fork: a fork has the locks
//! that other threads hold at that moment, with nobody to let go of them. It is
//! caught before its `main` is called, so `main` needs no line for it, and a
//! program that never starts a worker notices nothing. (The other constructors
//! that come before `main` run in workers too. In a fully static executable only
//! those that come before ours do.)
//!
//! It has the arguments, the environment, the working directory and the standard
//! input, output and error of its parent, one more descriptor, and no others. It
//! has none of its parent's memory: a `static` has its first value there. No
//! signal is held back; SIGPIPE is ignored, as in any Rust program; what its
//! parent ignores is ignored, except for SIGCHLD.
//!
//! A job runs on a thread named `worker`, with a stack as large as that of a
//! program's `main`. There it may do whatever a program may: spawn greenlets,
//! threads and further processes, print, exit. Greenlets that it has spawned and
//! not joined are killed when it ends; threads just end with the process.
//!
//! **A worker ends when its parent ends**, at once and whatever it is doing. A
//! Ctrl-C at the terminal reaches the workers as well as their parent, and ends
//! them if they do nothing against it.
//!
//! # What can be sent
//! The function is a `fn(A) -> R`: the name of a function, or a closure that
//! captures nothing. What it works on comes in its argument. It must be part of
//! the executable: not of a library that was loaded, nor made at run time.
//!
//! Arguments and results are values that [serde](https://docs.rs/serde) can
//! serialise and deserialise. They travel in the format of
//! [postcard](https://docs.rs/postcard), which does not describe itself: types
//! that want to be asked what comes next (`serde_json::Value`, and what is
//! `untagged` or `flatten`ed) cannot be read back, and say so.
//!
//! The sockets of [`net`](crate::net), [`Event`]s and [`Queue`]s travel as
//! descriptors, alone or inside of other values. The sender keeps its own; if it
//! is dropped there, as an argument is by [`spawn`], the receiver has it alone.
//! Anywhere else, serialising one of them is an error.
//!
//! # What it needs
//! Linux 5.4, `/proc`, and a program that contains this crate: workers are not to
//! be had in a shared library, nor where the program was started by way of the
//! dynamic loader or an emulator. Errors say so.

mod child;
mod diagnose;
mod entry;
pub mod error;
mod event;
mod function;
mod job;
pub(crate) mod luggage;
mod queue;
mod reaper;
mod storage;
mod watched;
mod wire;
mod worker;

pub use self::child::{Child, spawn};
pub use self::event::Event;
pub(crate) use self::function::Function;
pub(crate) use self::job::Request;
pub use self::queue::{Iter, Queue};
pub(crate) use self::worker::{Process, Worker};
