//! Executors: jobs are handed in, and so many workers do them.
//!
//! It is Python's `concurrent.futures` in Rust. An executor takes closures with
//! `submit`, each of which gives a [`Job`] back at once: the handle that knows
//! how far the job is, waits for its result, cancels it, and calls back when it
//! is done.
//!
//! | executor | its workers | closures and results |
//! |---|---|---|
//! | [`ThreadPoolExecutor`] | OS threads: what blocks, or computes | `Send` |
//! | [`GreenletPoolExecutor`] | greenlets of this thread: what waits | anything |
//! | `ProcessPoolExecutor` (feature `process`) | processes: what may crash | a function, and an argument that is serialised |
//!
//! All have the same methods. Who waits for a job, with `result`, parks if it
//! is a greenlet, and blocks if it is a plain thread; asking for the result right
//! after `submit` makes a call synchronous again.
//!
//! ```text
//!   submit(f) ──▶ queue ──▶ worker: f() ──▶ result in the Job
//!      │        (first come,                     │ 1. those who wait are woken
//!      ▼         first served)                   │ 2. callbacks run, in their order
//!     Job ◀──────────────────────────────────────┘
//! ```
//!
//! # Examples
//! ```
//! use greenlet::executor::ThreadPoolExecutor;
//!
//! let pool = ThreadPoolExecutor::with_workers(4)?;
//! let jobs: Vec<_> = (1..=20).map(|n| pool.submit(move || n * n).unwrap()).collect();
//! pool.shutdown(true);
//! let sum: i32 = jobs.into_iter().map(|job| job.join().unwrap()).sum();
//! assert_eq!(sum, 2870);
//! assert!(pool.submit(|| 0).is_err()); // it has been shut down
//! # Ok::<(), greenlet::error::NoWorkers>(())
//! ```

/// What every executor is in the same way, besides its methods.
macro_rules! face {
    ($executor:ident) => {
        impl Default for $executor {
            fn default() -> $executor {
                $executor::new()
            }
        }

        impl Drop for $executor {
            fn drop(&mut self) {
                // Who unwinds is on the way to telling somebody.
                self.shutdown(!std::thread::panicking());
            }
        }

        impl std::fmt::Debug for $executor {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($executor))
                    .field("workers", &self.workers())
                    .finish_non_exhaustive()
            }
        }
    };
}

mod crew;
mod greenlets;
mod job;
mod kinds;
#[cfg(feature = "process")]
mod processes;
mod progress;
mod results;
mod threads;

pub use greenlets::GreenletPoolExecutor;
#[cfg(feature = "process")]
pub use job::ProcessJob;
pub use job::{Job, LocalJob};
#[cfg(feature = "process")]
pub use kinds::Processes;
pub use kinds::{Greenlets, Threads, Workers};
#[cfg(feature = "process")]
pub use processes::ProcessPoolExecutor;
pub use progress::JobState;
pub use results::Results;
pub use threads::ThreadPoolExecutor;
