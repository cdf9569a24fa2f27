//! Queues: items go from those who put them to those who get them, who wait for
//! each other.
//!
//! | | gives |
//! |---|---|
//! | [`Queue`] | first in, first out |
//! | [`LifoQueue`] | last in, first out |
//! | [`PriorityQueue`] | the lowest item first, by its [`Ord`] |
//! | [`Channel`] | every item from hand to hand: who puts waits until it is got |
//!
//! All of them are shared by reference, or in an [`Arc`](std::sync::Arc) or an
//! [`Rc`](std::rc::Rc), and all methods take `&self`. If the item is `Send`, a
//! queue is `Send + Sync`: greenlets of one hub, those of hubs on other threads,
//! and plain threads may use the same one. If it is not, the queue stays on its
//! thread.
//!
//! ```
//! use std::rc::Rc;
//! use greenlet::queue::Queue;
//!
//! let queue = Rc::new(Queue::bounded(2));
//! let worker = greenlet::spawn({
//!     let queue = Rc::clone(&queue);
//!     move || queue.into_iter().map(|n: u32| n * n).collect::<Vec<u32>>()
//! });
//! for n in 1..=4 {
//!     queue.put(n).unwrap(); // waits when there are two already
//! }
//! queue.shutdown(); // ends the worker's loop
//! assert_eq!(worker.join().unwrap(), [1, 4, 9, 16]);
//! ```
//!
//! # Order
//! Who waits is served first come, first served. An item that is put goes to
//! the first who waits for one, and room that is made to the first who waits
//! for room: nobody who comes later can overtake them. A wait that a timeout or
//! a kill ends in the instant in which it would be served is either served (then
//! the kill comes at the next blocking call) or passed over; nothing is lost.
//!
//! Nobody is switched to before the current greenlet blocks. In particular a
//! loop of [`put`](Queue::put)s into a queue that has room, and one of
//! [`try_get`](Queue::try_get)s, do not give others a turn.
//!
//! # The first of several
//! [`wait`](crate::wait()) and [`iwait`](crate::iwait) wait for queues, events and
//! greenlets at once, with a limit of time. What is ready is then tried, for
//! somebody else may have been quicker.
//!
//! ```
//! use std::time::Duration;
//! use greenlet::queue::Queue;
//! use greenlet::sync::Event;
//!
//! let (jobs, stop) = (Queue::unbounded(), Event::new());
//! jobs.put("a job").unwrap();
//! let ready = greenlet::wait(&[&jobs, &stop], Some(Duration::from_secs(5)), Some(1));
//! assert_eq!(ready, [0]);
//! assert_eq!(jobs.try_get(), Ok("a job"));
//! ```
//!
//! A [`Channel`], which has nothing before somebody gets, cannot be waited for
//! in this way.
//!
//! # Sizes
//! `bounded(0)` is a rendezvous as [`Channel`] is, like
//! [`sync_channel(0)`](std::sync::mpsc::sync_channel) of std: nothing is ever stored.
//!
//! # The end
//! [`shutdown`](Queue::shutdown) refuses further items and wakes those who wait.
//! What was put before can still be got; then a getter is told
//! [`ShutDown`](error::GetError::ShutDown), and iteration ends.
//!
//! # Fork
//! A fork's child has its own copy of a queue, with the items that were in it.
//! Of those who waited in the parent, nobody waits in the child. Items that
//! another thread was just moving at the moment of the fork may be missing.

pub mod error;

mod channel;
mod core;
mod face;
mod heap;
mod kinds;
mod store;

pub use self::channel::{Channel, ChannelIter};
pub use self::kinds::{Iter, LifoIter, LifoQueue, PriorityIter, PriorityQueue, Queue};
