//! Waiting for each other: events, results, semaphores, locks, barriers, and
//! values that are made on first use.
//!
//! There is one family of types. Each of them serves greenlets of one thread,
//! greenlets of several threads, and plain threads, all at the same time: a
//! thread that blocks here runs its own hub meanwhile.
//!
//! | std | here | gevent |
//! |---|---|---|
//! | | [`Event`] | `event.Event` |
//! | | [`AsyncResult`] | `event.AsyncResult` |
//! | | [`Semaphore`], [`BoundedSemaphore`] | `lock.Semaphore`, `lock.BoundedSemaphore` |
//! | `Mutex` | [`Mutex`] | `threading.Lock` |
//! | `Condvar` | [`Condvar`] | `threading.Condition` |
//! | | [`RLock`] | `lock.RLock` |
//! | `Barrier` | [`Barrier`] | `threading.Barrier` |
//! | `OnceLock`, `LazyLock` | [`OnceLock`], [`LazyLock`] | |
//!
//! What holds for all of them:
//! * **First come, first served.** What is released is handed to the first who
//!   waits; a greenlet that runs cannot overtake it.
//! * **A kill or a timeout loses nothing.** Whoever is served in the very
//!   instant in which it is killed, or its time is up, has been served: the
//!   kill waits for the next blocking call. Otherwise it has left the queue,
//!   and the one behind it is next. What can be had at once is had at once,
//!   and is no blocking call.
//! * **No poisoning.** A panic while a guard is held releases it, as any other
//!   way to drop it does. Whoever keeps an invariant across a call that may
//!   unwind restores it in a destructor.
//! * **Threads that end** while they wait are passed over. What their
//!   greenlets hold when they end, they hold for ever.
//! * **After a fork** nobody waits in the child: all others stayed in the parent.
//! * Waiting that nothing could ever end panics with
//!   [`Deadlock`](crate::error::Deadlock) in the thread's main greenlet.

mod async_result;
mod barrier;
mod condvar;
mod event;
mod mutex;
mod once;
mod rlock;
mod semaphore;

pub use self::async_result::AsyncResult;
pub use self::barrier::{Barrier, BarrierWaitResult};
pub use self::condvar::{Condvar, WaitTimeoutResult};
pub use self::event::Event;
pub use self::mutex::{Mutex, MutexGuard};
pub use self::once::{LazyLock, OnceLock};
pub use self::rlock::{RLock, RLockGuard};
pub use self::semaphore::{BoundedSemaphore, Permit, Semaphore};
