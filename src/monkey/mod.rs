//! `patch_all`: code that never heard of this crate parks its greenlet, where it
//! would block the thread.
//!
//! After one call, what std, other people's crates and C libraries do when they
//! sleep, read, write, connect, accept or wait for a lock is done by parking the
//! greenlet that does it, in a greenlet. And new threads are greenlets, with thread-locals
//! of their own: see [`Patch::threads`] and [`os_thread`]. It is gevent's `monkey.patch_all()`, one
//! level lower: what is replaced are libc's functions, so nothing has to be
//! imported first, and nothing has to be written in the same language.
//!
//! ```no_run
//! use std::io::{Read, Write};
//!
//! greenlet::monkey::patch_all()?;
//! let listener = std::net::TcpListener::bind("127.0.0.1:7777")?;
//! for stream in listener.incoming() {
//!     let mut stream = stream?;
//!     // A greenlet of this OS thread.
//!     std::thread::spawn(move || {
//!         let mut buffer = [0; 1024];
//!         while let Ok(n @ 1..) = stream.read(&mut buffer) {
//!             if stream.write_all(&buffer[..n]).is_err() {
//!                 break;
//!             }
//!         }
//!     });
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it reaches
//! The whole process, for good: it cannot be undone. But only greenlets park, the
//! main one of a thread included. On a thread without greenlets, and before the
//! call, every function behaves as libc's does, to the errno.
//!
//! [`coverage`] has a table of the functions, and `docs/monkey.md` tells what each
//! does, what cannot yield, and what to use instead. [`unpatched`] lets a greenlet
//! block its thread for a while, and [`Patch`] leaves out what is not wanted.
//!
//! # How
//! The functions are in the program itself, under libc's names, and so they are
//! found before libc's by everything that is linked with it, and by what it loads.
//! Until `patch_all` they do nothing but the system call. A program that does not
//! own its symbols (a plug-in in somebody else's process) gets an error.

mod again;
mod as_thread;
mod await_signal;
mod checked;
mod connect;
mod descriptor;
mod disk;
#[cfg(not(target_feature = "crt-static"))]
mod dns;
mod entry;
mod epoll;
mod futex;
#[cfg(not(target_feature = "crt-static"))]
mod hosts;
#[cfg(not(target_feature = "crt-static"))]
mod identity;
mod join;
mod kernel;
#[cfg(not(target_feature = "crt-static"))]
mod locks;
mod moment;
#[cfg(not(target_feature = "crt-static"))]
pub mod os_thread;
mod patch;
mod poll;
mod process;
#[cfg(not(target_feature = "crt-static"))]
mod real;
mod receive;
mod select;
mod send;
#[cfg(not(target_feature = "crt-static"))]
mod shell;
mod signal;
mod sleep;
mod slices;
mod stream;
#[cfg(not(target_feature = "crt-static"))]
mod threads;
mod transfer;

pub use entry::Part;
pub(crate) use patch::not_in_place;
pub use patch::{Covered, Patch, coverage, is_patched, patch_all, unpatched};
#[cfg(not(target_feature = "crt-static"))]
pub(crate) use threads::Thread;
