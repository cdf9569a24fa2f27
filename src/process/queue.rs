//! `Queue`: items go from process to process.

use std::any::type_name;
use std::fmt;
use std::fs::File;
use std::io;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::{GetError, PutError};
use super::watched::Watched;
use super::{job, luggage};
use crate::hub::{Direction, Patience};
use crate::sys::shared::{self, Locked};
use crate::sys::{clock, program};

/// A queue that processes share: first in, first out.
///
/// It is Python's `multiprocessing.Queue`, and [`queue::Queue`](crate::queue::Queue)
/// between processes. A process gets it in an argument or in a result. Clones
/// are the same queue, and so are all those that were sent. Greenlets that wait
/// park; a plain thread blocks. Items are serialised: what is got is a copy.
///
/// # How it is made
/// The items lie one after the other in memory that has a descriptor, behind a
/// head that says where they begin and end, and how many there are. Who puts or
/// gets has the lock of that memory for the time of a few system calls:
///
/// ```text
///   head: [begin │ end │ count │ …]
///            │      └───────────────────────┐       two eventfds, for those
///            ▼                              ▼       who wait:
///   ······· [len│item][len│item][len│item] ········   "an item"  "room"
///   given back                              free
///
///   put:  lock ─▶ write the item at the end ─▶ ring "an item" ─▶ write the head ─▶ unlock
///   get:  lock ─▶ read the item at the begin ─▶ ring "room"   ─▶ write the head ─▶ unlock
/// ```
///
/// Only the writing of the head, a single system call, changes anything. The
/// kernel takes the lock away from a process that is killed. So whoever is
/// killed in the middle has put or got its item, or has not; no other item is
/// lost, and nobody waits for the dead. Those who are woken by the ringing wait
/// for the lock, and so see the new head.
///
/// An item whose getter is killed after it has got it is gone with it.
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
    parts: Arc<Parts>,
    item: PhantomData<fn(T) -> T>,
}

struct Parts {
    memory: File,
    /// Rung at every put.
    item: Watched,
    /// Rung at every get.
    room: Watched,
}

/// The head, in the order in which its numbers lie at the beginning of the
/// memory. The last two never change.
#[derive(Clone, Copy)]
struct Head {
    begin: u64,
    end: u64,
    count: u64,
    shut_down: u64,
    capacity: u64,
    /// Tells the types of items apart.
    mark: u64,
}

const HEAD: usize = 48;
/// Where the first item lies.
const FIRST: u64 = 4096;
/// Memory is given back in pieces of this size.
const PIECE: u64 = 64 << 10;

impl Head {
    fn read(memory: &File) -> io::Result<Head> {
        let mut bytes = [0; HEAD];
        memory.read_exact_at(&mut bytes, 0)?;
        let mut numbers = [0; HEAD / 8];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        }
        let [begin, end, count, shut_down, capacity, mark] = numbers;
        Ok(Head {
            begin,
            end,
            count,
            shut_down,
            capacity,
            mark,
        })
    }

    /// A single write, within a page: it is done, or it is not.
    fn write(self, memory: &File) -> io::Result<()> {
        let numbers = [
            self.begin,
            self.end,
            self.count,
            self.shut_down,
            self.capacity,
            self.mark,
        ];
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        memory.write_all_at(&bytes, 0)
    }
}

/// The queue was shut down.
struct ShutDown;

impl Parts {
    fn new(capacity: u64, mark: u64) -> io::Result<Parts> {
        let memory = shared::memory()?;
        let head = Head {
            begin: FIRST,
            end: FIRST,
            count: 0,
            shut_down: 0,
            capacity,
            mark,
        };
        head.write(&memory)?;
        Ok(Parts {
            memory,
            item: Watched::new(shared::flag()?),
            room: Watched::new(shared::flag()?),
        })
    }

    fn lock(&self) -> io::Result<Locked> {
        Locked::open(self.memory.as_fd())
    }

    /// Puts an item, or answers `WouldBlock`.
    fn try_put(&self, item: &[u8]) -> io::Result<Result<(), ShutDown>> {
        let memory = self.lock()?;
        let mut head = Head::read(&memory)?;
        if head.shut_down != 0 {
            return Ok(Err(ShutDown));
        }
        if head.count >= head.capacity {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = item.len() as u64;
        memory.write_all_at(&len.to_ne_bytes(), head.end)?;
        memory.write_all_at(item, head.end + 8)?;
        shared::set(self.item.as_fd());
        head.end += 8 + len;
        head.count += 1;
        head.write(&memory).map(Ok)
    }

    /// Gets an item, or answers `WouldBlock`.
    fn try_get(&self) -> io::Result<Result<Vec<u8>, ShutDown>> {
        let memory = self.lock()?;
        let mut head = Head::read(&memory)?;
        if head.count == 0 {
            return match head.shut_down {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(Err(ShutDown)),
            };
        }
        let mut len = [0; 8];
        memory.read_exact_at(&mut len, head.begin)?;
        let len = u64::from_ne_bytes(len);
        let mut item = Vec::new();
        item.try_reserve_exact(len as usize)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        item.resize(len as usize, 0);
        memory.read_exact_at(&mut item, head.begin + 8)?;
        shared::set(self.room.as_fd());
        let begin = head.begin;
        head.begin += 8 + len;
        head.count -= 1;
        let end = head.end;
        if head.count == 0 {
            // An empty queue begins anew, where memory is in use already.
            (head.begin, head.end) = (FIRST, FIRST);
        }
        head.write(&memory)?;
        // Whoever is killed here leaves memory in use that the next one gives back.
        if head.count == 0 && end > PIECE {
            memory.set_len(PIECE)?;
        } else if head.begin / PIECE > begin / PIECE {
            shared::give_back(&memory, PIECE, head.begin / PIECE * PIECE - PIECE);
        }
        Ok(Ok(item))
    }

    fn shut_down(&self) -> io::Result<()> {
        let memory = self.lock()?;
        let mut head = Head::read(&memory)?;
        head.shut_down = 1;
        shared::set(self.item.as_fd());
        shared::set(self.room.as_fd());
        head.write(&memory)
    }

    /// What the head says at this moment. Reading what is in memory does not fail.
    fn look(&self) -> Option<Head> {
        Head::read(&self.memory).ok()
    }

    fn wait<R>(
        &self,
        bell: &Watched,
        patience: Patience,
        operation: impl Fn() -> io::Result<R>,
    ) -> io::Result<R> {
        match bell.run(Direction::Read, patience, |_| operation()) {
            // It may have become possible in the turn that the others had.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && patience != Patience::None =>
            {
                operation()
            }
            other => other,
        }
    }
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
            parts: Arc::new(Parts::new(capacity, mark::<T>())?),
            item: PhantomData,
        })
    }

    /// How many items it holds at this moment.
    #[doc(alias = "qsize")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.look().map_or(0, |head| head.count as usize)
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
        self.parts
            .look()
            .is_some_and(|head| head.count >= head.capacity)
    }

    /// How many items it holds at most; none if there is no bound.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        let head = self.parts.look()?;
        (head.capacity != u64::MAX).then_some(head.capacity as usize)
    }

    /// Refuses all further items, for good and in all processes. Those who wait
    /// are woken with the error `ShutDown`. The items that it holds can be got.
    ///
    /// # Errors
    /// No descriptor is left to lock the queue with.
    #[doc(alias = "close")]
    pub fn shutdown(&self) -> io::Result<()> {
        self.parts.shut_down()
    }

    /// Whether [`shutdown`](Queue::shutdown) was called.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        self.parts.look().is_some_and(|head| head.shut_down != 0)
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
        let (bytes, descriptors) = match job::encode(&item) {
            Ok(encoded) => encoded,
            Err(reason) => return Err(PutError::Item { item, reason }),
        };
        if !descriptors.is_empty() {
            let reason = String::from(
                "descriptors travel in arguments and results, and not in items of queues",
            );
            return Err(PutError::Item { item, reason });
        }
        let parts = &self.parts;
        match parts.wait(&parts.room, patience, || parts.try_put(&bytes)) {
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
        let parts = &self.parts;
        match parts.wait(&parts.item, patience, || parts.try_get()) {
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
            parts: Arc::clone(&self.parts),
            item: PhantomData,
        }
    }
}

fn mark<T>() -> u64 {
    program::hash(type_name::<T>().as_bytes())
}

/// The places of the three descriptors.
type Places = (u32, u32, u32);

impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let put = luggage::put::<S::Error>;
        let parts = &self.parts;
        let places: Places = (
            put(parts.memory.as_fd())?,
            put(parts.item.as_fd())?,
            put(parts.room.as_fd())?,
        );
        places.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queue<T>, D::Error> {
        let (memory, item, room) = Places::deserialize(deserializer)?;
        let take = luggage::take::<D::Error>;
        let parts = Parts {
            memory: File::from(take(memory)?),
            item: Watched::new(take(item)?),
            room: Watched::new(take(room)?),
        };
        match Head::read(&parts.memory) {
            Ok(head) if head.mark == mark::<T>() => Ok(Queue {
                parts: Arc::new(parts),
                item: PhantomData,
            }),
            _ => Err(luggage::complain("it is no queue of items of this type")),
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
