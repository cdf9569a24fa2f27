//! `Queue`: items go from process to process.

use std::any::type_name;
use std::fmt;
use std::io;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{GetError, PutError};
use super::job;
use super::luggage::{self, Ticket, kind};
use super::storage::{LENGTH, ShutDown, Storage};
use crate::hub::Patience;
use crate::sys::{clock, program};

/// A queue that processes share: first in, first out.
///
/// It is Python's `multiprocessing.Queue`, and [`queue::Queue`](crate::queue::Queue)
/// between processes. A process gets it in an argument or in a result. Clones
/// are the same queue, and so are all those that were sent. Greenlets that wait
/// park; a plain thread blocks. Items are serialised: what is got is a copy.
///
/// # When a process is killed
/// The items lie in memory that the kernel keeps, and its lock with it. Whoever is
/// killed in the middle, by whatever signal, has put or got its item, or has not;
/// no other item is lost, and nobody waits for the dead. An item whose getter is
/// killed after it has got it is gone with it.
///
/// # What it does not do
/// There is no order among those who wait: all are woken, and who has the lock
/// first is served. Descriptors (sockets, events, queues) do not travel in
/// items; they travel in arguments and results.
///
/// # Examples
/// ```
/// use greenlet::process::{self, Queue};
///
/// let (jobs, results) = (Queue::<u64>::bounded(8)?, Queue::unbounded()?);
/// let child = process::spawn(
///     |(jobs, results): (Queue<u64>, Queue<u64>)| {
///         for job in &jobs {
///             let job = job.unwrap();
///             results.put(job * job).unwrap();
///         }
///     },
///     (jobs.clone(), results.clone()),
/// )?;
/// for n in 1..=20 {
///     jobs.put(n).unwrap();
/// }
/// jobs.shutdown()?;
/// child.join().unwrap();
/// assert_eq!(results.len(), 20);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Queue<T> {
    storage: Arc<Storage>,
    item: PhantomData<fn(T) -> T>,
}

impl<T> Queue<T> {
    /// A queue that holds at most `maxsize` items.
    ///
    /// # Errors
    /// `InvalidInput` for zero: where nothing is ever held, nothing gets from one
    /// process to another. Otherwise no descriptor, or no memory, is left.
    pub fn bounded(maxsize: usize) -> io::Result<Queue<T>> {
        match maxsize {
            0 => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a queue between processes holds at least one item",
            )),
            _ => Queue::with_capacity(maxsize as u64),
        }
    }

    /// A queue that holds as many items as there is memory for.
    ///
    /// # Errors
    /// No descriptor, or no memory, is left.
    pub fn unbounded() -> io::Result<Queue<T>> {
        Queue::with_capacity(u64::MAX)
    }

    fn with_capacity(capacity: u64) -> io::Result<Queue<T>> {
        Ok(Queue {
            storage: Arc::new(Storage::new(capacity, mark::<T>())?),
            item: PhantomData,
        })
    }

    /// How many items it holds at this moment.
    #[doc(alias = "qsize")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.storage.look().map_or(0, |head| head.count as usize)
    }

    /// Whether it holds none.
    #[doc(alias = "empty")]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no room for another.
    #[doc(alias = "full")]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.storage
            .look()
            .is_some_and(|head| head.count >= head.capacity)
    }

    /// How many items it holds at most; none if there is no bound.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        let head = self.storage.look()?;
        (head.capacity != u64::MAX).then_some(head.capacity as usize)
    }

    /// Refuses all further items, for good and in all processes. Those who wait
    /// are woken with the error `ShutDown`. The items that it holds can be got.
    ///
    /// # Errors
    /// No descriptor is left to lock the queue with.
    #[doc(alias = "close")]
    pub fn shutdown(&self) -> io::Result<()> {
        self.storage.shut_down()
    }

    /// Whether [`shutdown`](Queue::shutdown) was called.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.storage.look().is_some_and(|head| head.shut_down != 0)
    }
}

impl<T: Serialize> Queue<T> {
    /// Puts an item, and waits as long as there is no room for it.
    ///
    /// # Errors
    /// With the item, if the queue was or is shut down; if the item cannot be
    /// serialised; if there is no memory for it, or no descriptor to lock the
    /// queue with.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_while(item, Patience::Forever)
    }

    /// Puts an item if there is room.
    ///
    /// # Errors
    /// As for [`put`](Queue::put), and [`PutError::Full`].
    ///
    /// # Examples
    /// ```
    /// use greenlet::process::{Queue, error::PutError};
    ///
    /// let queue = Queue::bounded(1)?;
    /// queue.try_put("first").unwrap();
    /// assert!(matches!(queue.try_put("second"), Err(PutError::Full("second"))));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_while(item, Patience::None)
    }

    /// Puts an item, and waits for at most `timeout` for room.
    ///
    /// # Errors
    /// As for [`try_put`](Queue::try_put).
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_while(item, Patience::Until(clock::deadline_after(timeout)))
    }

    fn put_while(&self, item: T, patience: Patience) -> Result<(), PutError<T>> {
        let (bytes, descriptors) = match job::encode_behind(vec![0; LENGTH], &item) {
            Ok(encoded) => encoded,
            Err(reason) => return Err(PutError::Item { item, reason }),
        };
        if !descriptors.is_empty() {
            let reason = String::from(
                "descriptors travel in arguments and results, and not in items of queues",
            );
            return Err(PutError::Item { item, reason });
        }
        match self.storage.put(bytes, patience) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(ShutDown)) => Err(PutError::ShutDown(item)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(PutError::Full(item)),
            Err(error) => Err(PutError::System { item, error }),
        }
    }
}

impl<T: DeserializeOwned> Queue<T> {
    /// Gets the next item, and waits as long as there is none.
    ///
    /// # Errors
    /// The queue is shut down and holds no more items; the item could not be
    /// decoded, and is gone; no descriptor is left to lock the queue with.
    pub fn get(&self) -> Result<T, GetError> {
        self.get_while(Patience::Forever)
    }

    /// Gets the next item if there is one.
    ///
    /// # Errors
    /// As for [`get`](Queue::get), and [`GetError::Empty`].
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_while(Patience::None)
    }

    /// Gets the next item, and waits for at most `timeout` for one.
    ///
    /// # Errors
    /// As for [`try_get`](Queue::try_get).
    ///
    /// # Examples
    /// ```
    /// use greenlet::process::{Queue, error::GetError};
    /// use std::time::Duration;
    ///
    /// let queue = Queue::<u8>::bounded(1)?;
    /// let late = queue.get_timeout(Duration::from_millis(5));
    /// assert!(matches!(late, Err(GetError::Empty)));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_while(Patience::Until(clock::deadline_after(timeout)))
    }

    fn get_while(&self, patience: Patience) -> Result<T, GetError> {
        match self.storage.get(patience) {
            Ok(Ok(bytes)) => job::decode(&bytes, Vec::new()).map_err(|reason| GetError::Decode {
                of: type_name::<T>(),
                reason,
            }),
            Ok(Err(ShutDown)) => Err(GetError::ShutDown),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(GetError::Empty),
            Err(error) => Err(GetError::System(error)),
        }
    }

    /// Gets items as they come, and ends when the queue is shut down and holds no
    /// more.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self }
    }
}

/// The items of a [`Queue`], as they come, or why one could not be got.
#[derive(Debug)]
#[must_use = "it gets the items that are asked for"]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
}

impl<T: DeserializeOwned> Iterator for Iter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Result<T, GetError>> {
        match self.queue.get() {
            Err(GetError::ShutDown) => None,
            got => Some(got),
        }
    }
}

impl<T: DeserializeOwned> FusedIterator for Iter<'_, T> {}

impl<'a, T: DeserializeOwned> IntoIterator for &'a Queue<T> {
    type Item = Result<T, GetError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue {
            storage: Arc::clone(&self.storage),
            item: PhantomData,
        }
    }
}

fn mark<T>() -> u64 {
    program::hash(type_name::<T>().as_bytes())
}

/// Of the three descriptors.
type Tickets = (Ticket, Ticket, Ticket);

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let [memory, item, room] = self.storage.descriptors();
        let put = luggage::put::<S::Error>;
        let tickets: Tickets = (
            put(kind::MEMORY, memory)?,
            put(kind::FLAG, item)?,
            put(kind::FLAG, room)?,
        );
        tickets.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queue<T>, D::Error> {
        let (memory, item, room) = Tickets::deserialize(deserializer)?;
        let take = luggage::take::<D::Error>;
        let descriptors = [
            take(kind::MEMORY, memory)?,
            take(kind::FLAG, item)?,
            take(kind::FLAG, room)?,
        ];
        match Storage::open(descriptors, mark::<T>()) {
            Ok(storage) => Ok(Queue {
                storage: Arc::new(storage),
                item: PhantomData,
            }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(luggage::complain("it is no queue of items of this type"))
            }
            Err(error) => Err(luggage::complain(&error.to_string())),
        }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish()
    }
}
