//! The queues that store their items: three orders of one thing.

use std::fmt;
use std::time::Duration;

use super::core::{Core, Patience};
use super::error::{
    GetError, GetTimeoutError, PutError, PutTimeoutError, TaskDoneError, TryGetError, TryPutError,
};
use super::face::{self, exchange, storage};
use super::store::{Fifo, Lifo, Lowest};
use crate::error::Deadlock;
use crate::task::{Source, Waitable};

/// First in, first out.
///
/// It is the counterpart of gevent's and Python's `Queue`; see the
/// [module](super) for what all queues have in common.
///
/// # Examples
/// ```
/// use greenlet::queue::Queue;
///
/// let queue = Queue::unbounded();
/// ["first", "second", "third"].map(|item| queue.put(item).unwrap());
/// queue.shutdown();
/// assert_eq!(queue.iter().collect::<Vec<_>>(), ["first", "second", "third"]);
/// ```
#[doc(alias = "JoinableQueue")]
#[doc(alias = "SimpleQueue")]
#[doc(alias = "UnboundQueue")]
pub struct Queue<T> {
    core: Core<Fifo<T>>,
}

exchange!(Queue, "Queue::bounded(1)", Iter, []);
storage!(Queue, []);

/// Last in, first out.
///
/// An item that is put while somebody waits for one goes to that one; the
/// others lie on each other. See the [module](super) for what all queues have
/// in common.
///
/// # Examples
/// ```
/// use greenlet::queue::LifoQueue;
///
/// let queue = LifoQueue::unbounded();
/// ["first", "second", "third"].map(|item| queue.put(item).unwrap());
/// queue.shutdown();
/// assert_eq!(queue.iter().collect::<Vec<_>>(), ["third", "second", "first"]);
/// ```
pub struct LifoQueue<T> {
    core: Core<Lifo<T>>,
}

exchange!(LifoQueue, "LifoQueue::bounded(1)", LifoIter, []);
storage!(LifoQueue, []);

/// The lowest first, by the whole item's [`Ord`]; among equals, first in, first
/// out. For the highest first, put [`Reverse`](std::cmp::Reverse)s.
///
/// An item that is put while somebody waits for one goes to that one. See the
/// [module](super) for what all queues have in common.
///
/// # Comparing
/// Items are compared by who gets, and not by who puts. Meanwhile others may
/// put, and others who want to get wait until it is done; no kill and no
/// timeout ends that wait. If `cmp` panics, the panic goes to who wanted to
/// get, and all items are still in the queue. If `cmp` itself gets from the same
/// queue, that panics with [`Deadlock`].
///
/// # Examples
/// ```
/// use greenlet::queue::PriorityQueue;
///
/// let queue = PriorityQueue::unbounded();
/// for item in [(20, 'b'), (20, 'a'), (-10, 'z')] {
///     queue.put(item).unwrap();
/// }
/// assert_eq!(queue.get(), Ok((-10, 'z')));
/// assert_eq!(queue.get(), Ok((20, 'a')));
/// assert_eq!(queue.get(), Ok((20, 'b')));
/// ```
///
/// What has no order does not compile:
///
/// ```compile_fail,E0277
/// greenlet::queue::PriorityQueue::unbounded().put((1, std::collections::HashMap::<u8, u8>::new()));
/// ```
pub struct PriorityQueue<T: Ord> {
    core: Core<Lowest<T>>,
}

exchange!(PriorityQueue, "PriorityQueue::bounded(1)", PriorityIter, [: Ord]);
storage!(PriorityQueue, [: Ord]);
