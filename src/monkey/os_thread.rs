//! OS threads, in a program whose threads are greenlets.
//!
//! Once [patched](crate::monkey::patch_all), `std::thread::spawn` makes greenlets, which
//! take turns on one OS thread. What computes for long, or is made for several cores, as
//! rayon is, needs OS threads. The executors and helper threads of this crate always are.
//!
//! ```
//! use greenlet::monkey::os_thread;
//!
//! # if greenlet::isolation().is_err() { return Ok(()); }
//! greenlet::monkey::patch_all()?;
//! let sum = os_thread::spawn(|| (1..=1_000_000u64).sum::<u64>());
//! assert_eq!(sum.join().unwrap(), 500_000_500_000);
//! # Ok::<(), greenlet::error::PatchError>(())
//! ```

use std::thread::JoinHandle;

use crate::hub;

/// As [`std::thread::spawn`], always an OS thread.
///
/// It is as any other: it has a hub of its own if it uses this crate, and what it spawns
/// by `std::thread` are OS threads too. A greenlet that joins it parks.
///
/// # Panics
/// As [`std::thread::spawn`], if the OS has no more threads.
pub fn spawn<F, T>(f: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    within(|| std::thread::spawn(f))
}

/// Threads that this greenlet makes while `f` runs are OS threads, whoever's code makes
/// them.
///
/// Those that it makes later, and those that others make meanwhile, are what they are
/// otherwise.
///
/// # Examples
/// ```
/// use greenlet::monkey::os_thread;
///
/// let named = std::thread::Builder::new().name("computes".to_owned());
/// let thread = os_thread::within(|| named.spawn(|| 6 * 7))?;
/// assert_eq!(thread.join().unwrap(), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn within<R>(f: impl FnOnce() -> R) -> R {
    hub::with_os_threads(f)
}
