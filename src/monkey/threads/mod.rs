//! `pthread_create` and its kin: on a thread that has called `patch_all`, a new thread
//! is an isolated greenlet.
//!
//! ```text
//!   std::thread::spawn ─▶ pthread_create ─▶ create: a block of thread-local storage,
//!                                           a record, and a greenlet of this hub, or of
//!                                           one of `Patch::hubs`
//!   pthread_t  =  the thread pointer of that block, as glibc has it for its own
//!      │
//!      ▼ the block's thread id is none of the kernel's
//!   RECORD, a variable of the block ─▶ Thread: ended? joined by whom? its name, its stack
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `record` | `Thread`, what is known of such a thread, and how it ends |
//! | `create` | `pthread_create` |
//! | `join` | `pthread_join` and its kin, `pthread_detach` |
//! | `exit` | `pthread_exit`, and the frame that it unwinds to |
//! | `about` | its attributes and its name; signals that are sent to it |
//! | `scheduling` | what the kernel's scheduler knows of it |
//! | `hubs` | further OS threads that run such threads |
//!
//! A function that is given the `pthread_t` of an OS thread is libc's.

mod about;
mod create;
mod exit;
mod hubs;
mod join;
mod record;
mod scheduling;

pub(super) use self::about::ROWS as ABOUT;
pub(super) use self::create::ROWS as CREATE;
pub(super) use self::hubs::start as start_hubs;
pub(super) use self::join::ROWS as JOIN;
pub(super) use self::join::join;
pub(crate) use self::record::Thread;
pub(super) use self::scheduling::ROWS as SCHEDULING;
