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

mod event;
mod semaphore;

pub use self::event::Event;
pub use self::semaphore::{BoundedSemaphore, Permit, Semaphore};
