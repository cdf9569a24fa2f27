//! The methods that all kinds of queue have, written once.

use super::core::Refusal;
use super::error::{
    GetError, GetTimeoutError, PutError, PutTimeoutError, TryGetError, TryPutError,
};
use crate::error::Deadlock;
use crate::hub;

/// A refusal in the words of the operation that was refused. Who does not wait,
/// and who waits for a time, is in no deadlock.
impl<T> From<(T, Refusal)> for PutError<T> {
    fn from((item, refusal): (T, Refusal)) -> PutError<T> {
        match refusal {
            Refusal::ShutDown => PutError::ShutDown(item),
            Refusal::NotNow | Refusal::Deadlock => PutError::Deadlock(item),
        }
    }
}

impl<T> From<(T, Refusal)> for TryPutError<T> {
    fn from((item, refusal): (T, Refusal)) -> TryPutError<T> {
        match refusal {
            Refusal::ShutDown => TryPutError::ShutDown(item),
            Refusal::NotNow | Refusal::Deadlock => TryPutError::Full(item),
        }
    }
}

impl<T> From<(T, Refusal)> for PutTimeoutError<T> {
    fn from((item, refusal): (T, Refusal)) -> PutTimeoutError<T> {
        match refusal {
            Refusal::ShutDown => PutTimeoutError::ShutDown(item),
            Refusal::NotNow | Refusal::Deadlock => PutTimeoutError::Full(item),
        }
    }
}

impl From<Refusal> for GetError {
    fn from(refusal: Refusal) -> GetError {
        match refusal {
            Refusal::ShutDown => GetError::ShutDown,
            Refusal::NotNow | Refusal::Deadlock => GetError::Deadlock(Deadlock),
        }
    }
}

impl From<Refusal> for TryGetError {
    fn from(refusal: Refusal) -> TryGetError {
        match refusal {
            Refusal::ShutDown => TryGetError::ShutDown,
            Refusal::NotNow | Refusal::Deadlock => TryGetError::Empty,
        }
    }
}

impl From<Refusal> for GetTimeoutError {
    fn from(refusal: Refusal) -> GetTimeoutError {
        match refusal {
            Refusal::ShutDown => GetTimeoutError::ShutDown,
            Refusal::NotNow | Refusal::Deadlock => GetTimeoutError::Empty,
        }
    }
}

/// What an iterator gives next.
pub(super) fn next<T>(got: Result<T, GetError>) -> Option<T> {
    match got {
        Ok(item) => Some(item),
        Err(GetError::ShutDown) => None,
        Err(GetError::Deadlock(_)) => hub::panic_deadlock(),
    }
}

/// Putting, getting and the end, for a type with a field `core`.
macro_rules! exchange {
    ($name:ident, $new:expr, $iter:ident, [$($bound:tt)*]) => {
        impl<T $($bound)*> $name<T> {
            /// Puts an item, and waits as long as there is no room for it.
            ///
            /// # Errors
            /// With the item, if the queue was or is shut down; or when it is full
            /// and nobody could make room in it any more.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = std::rc::Rc::new(", $new, ");")]
            /// let other = greenlet::spawn({
            ///     let queue = std::rc::Rc::clone(&queue);
            ///     move || queue.get()
            /// });
            /// queue.put("an item").unwrap();
            /// assert_eq!(other.join().unwrap(), Ok("an item"));
            /// ```
            #[inline]
            #[doc(alias = "send")]
            pub fn put(&self, item: T) -> Result<(), PutError<T>> {
                Ok(self.core.put(item, Patience::Forever)?)
            }

            /// Puts an item if that can be done at once.
            ///
            /// # Errors
            /// With the item, if there is no room and nobody waits for one, or if
            /// the queue is shut down.
            ///
            /// # Examples
            /// ```
            /// use greenlet::queue::error::TryPutError;
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", $new, ";")]
            /// while queue.try_put("an item").is_ok() {}
            /// assert_eq!(queue.try_put("another"), Err(TryPutError::Full("another")));
            /// ```
            #[inline]
            #[doc(alias = "put_nowait")]
            #[doc(alias = "try_send")]
            pub fn try_put(&self, item: T) -> Result<(), TryPutError<T>> {
                Ok(self.core.put(item, Patience::No)?)
            }

            /// Puts an item, and waits for at most `timeout` for room. A timeout
            /// of zero lets whoever is runnable have one turn first.
            ///
            /// # Errors
            /// With the item, if the time is up, or the queue was or is shut down.
            ///
            /// # Examples
            /// ```
            /// use std::time::Duration;
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", $new, ";")]
            /// while queue.try_put("an item").is_ok() {}
            /// let late = queue.put_timeout("another", Duration::from_millis(5)).unwrap_err();
            /// assert_eq!(late.into_inner(), "another");
            /// ```
            #[doc(alias = "send_timeout")]
            pub fn put_timeout(
                &self,
                item: T,
                timeout: Duration,
            ) -> Result<(), PutTimeoutError<T>> {
                Ok(self.core.put(item, Patience::For(timeout))?)
            }

            /// Gets the next item, and waits as long as there is none.
            ///
            /// # Errors
            /// The queue is shut down and has no items left; or it is empty and
            /// nobody could put into it any more.
            ///
            /// # Examples
            /// ```
            /// use greenlet::queue::error::GetError;
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = std::rc::Rc::new(", $new, ");")]
            /// greenlet::spawn({
            ///     let queue = std::rc::Rc::clone(&queue);
            ///     move || {
            ///         queue.put("an item").unwrap();
            ///         queue.shutdown();
            ///     }
            /// });
            /// assert_eq!(queue.get(), Ok("an item"));
            /// assert_eq!(queue.get(), Err(GetError::ShutDown));
            /// ```
            #[inline]
            #[doc(alias = "recv")]
            pub fn get(&self) -> Result<T, GetError> {
                Ok(self.core.get(Patience::Forever)?)
            }

            /// Gets the next item if there is one.
            ///
            /// # Errors
            /// There is none; and if there will be none any more, because the queue
            /// is shut down, `ShutDown`.
            ///
            /// # Examples
            /// ```
            /// use greenlet::queue::error::TryGetError;
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue: ", stringify!($name), "<u8> = ", $new, ";")]
            /// assert_eq!(queue.try_get(), Err(TryGetError::Empty));
            /// ```
            #[inline]
            #[doc(alias = "get_nowait")]
            #[doc(alias = "try_recv")]
            pub fn try_get(&self) -> Result<T, TryGetError> {
                Ok(self.core.get(Patience::No)?)
            }

            /// Gets the next item, and waits for at most `timeout` for one. A
            /// timeout of zero lets whoever is runnable have one turn first.
            ///
            /// # Errors
            /// The time is up, or the queue is shut down and has no items left.
            ///
            /// # Examples
            /// ```
            /// use std::time::Duration;
            /// use greenlet::queue::error::GetTimeoutError;
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue: ", stringify!($name), "<u8> = ", $new, ";")]
            /// let late = queue.get_timeout(Duration::from_millis(5));
            /// assert_eq!(late, Err(GetTimeoutError::Empty));
            /// ```
            #[doc(alias = "recv_timeout")]
            pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetTimeoutError> {
                Ok(self.core.get(Patience::For(timeout))?)
            }

            /// Refuses all further items, for good. Those who wait are woken with
            /// the error `ShutDown`. The items that are in the queue can be got.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", $new, ";")]
            /// queue.shutdown();
            /// assert!(queue.put("late").is_err());
            /// ```
            #[doc(alias = "close")]
            pub fn shutdown(&self) {
                self.core.shut_down();
            }

            /// Whether [`shutdown`](Self::shutdown) was called.
            #[must_use]
            pub fn is_shut_down(&self) -> bool {
                self.core.is_shut_down()
            }

            /// Gets item after item, and waits for each, until the queue is shut
            /// down and empty. Several may iterate at once: they share the items.
            ///
            /// # Panics
            /// In `next`, with [`Deadlock`](crate::error::Deadlock), if nobody
            /// could put into the queue any more.
            pub fn iter(&self) -> $iter<'_, T> {
                self.into_iter()
            }
        }

        #[doc = concat!("The iterator of [`", stringify!($name), "::iter`].")]
        pub struct $iter<'a, T $($bound)*> {
            queue: &'a $name<T>,
        }

        impl<T $($bound)*> Iterator for $iter<'_, T> {
            type Item = T;

            fn next(&mut self) -> Option<T> {
                face::next(self.queue.get())
            }
        }

        impl<'a, T $($bound)*> IntoIterator for &'a $name<T> {
            type Item = T;
            type IntoIter = $iter<'a, T>;

            fn into_iter(self) -> $iter<'a, T> {
                $iter { queue: self }
            }
        }

        impl<T $($bound)*> fmt::Debug for $iter<'_, T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($iter)).field("queue", &self.queue).finish()
            }
        }
    };
}

/// What only a queue that stores its items has.
macro_rules! storage {
    ($name:ident, [$($bound:tt)*]) => {
        impl<T $($bound)*> $name<T> {
            /// A queue that always has room.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", stringify!($name), "::unbounded();")]
            /// (0..1000).for_each(|n| queue.try_put(n).unwrap());
            /// assert_eq!(queue.len(), 1000);
            /// ```
            #[must_use]
            pub fn unbounded() -> $name<T> {
                $name { core: Core::new(usize::MAX) }
            }

            /// A queue with room for `maxsize` items. With 0 it stores none: who
            /// puts waits until somebody gets. The memory is allocated as it is
            /// needed.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", stringify!($name), "::bounded(1);")]
            /// queue.put('a').unwrap();
            /// assert!(queue.try_put('b').is_err());
            /// ```
            #[must_use]
            #[doc(alias = "maxsize")]
            pub fn bounded(maxsize: usize) -> $name<T> {
                $name { core: Core::new(maxsize) }
            }

            /// The next item, which stays in the queue; waits as long as there is
            /// none. An item that is put while somebody waits in
            /// [`get`](Self::get) is that one's, and not seen here. It is cloned
            /// while others may put, and those who want to get wait.
            ///
            /// # Errors
            /// As for [`get`](Self::get).
            ///
            /// # Panics
            /// With [`Deadlock`](crate::error::Deadlock), if the item's `clone`
            /// gets from the same queue.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", stringify!($name), "::unbounded();")]
            /// queue.put(7).unwrap();
            /// assert_eq!(queue.peek(), Ok(7));
            /// assert_eq!(queue.len(), 1);
            /// ```
            pub fn peek(&self) -> Result<T, GetError>
            where
                T: Clone,
            {
                Ok(self.core.peek(Patience::Forever)?)
            }

            /// As [`peek`](Self::peek), if there is an item.
            ///
            /// # Errors
            /// As for [`try_get`](Self::try_get).
            #[doc(alias = "peek_nowait")]
            pub fn try_peek(&self) -> Result<T, TryGetError>
            where
                T: Clone,
            {
                Ok(self.core.peek(Patience::No)?)
            }

            /// As [`peek`](Self::peek), for at most `timeout`.
            ///
            /// # Errors
            /// As for [`get_timeout`](Self::get_timeout).
            pub fn peek_timeout(&self, timeout: Duration) -> Result<T, GetTimeoutError>
            where
                T: Clone,
            {
                Ok(self.core.peek(Patience::For(timeout))?)
            }

            /// How many items there are. One that was handed to somebody who
            /// waited is not counted, nor one whose putter waits for room.
            #[must_use]
            #[doc(alias = "qsize")]
            pub fn len(&self) -> usize {
                self.core.len()
            }

            /// Whether there are none.
            #[must_use]
            #[doc(alias = "empty")]
            pub fn is_empty(&self) -> bool {
                self.core.len() == 0
            }

            /// Whether there is no room. A queue of size 0 is always full, and
            /// always empty.
            #[must_use]
            #[doc(alias = "full")]
            pub fn is_full(&self) -> bool {
                self.core.is_full()
            }

            /// For how many items there is room in all; none if unbounded.
            #[must_use]
            pub fn capacity(&self) -> Option<usize> {
                self.core.capacity()
            }

            /// Says that an item that was got has been dealt with. When that is
            /// so for all items ever put, those who [`join`](Self::join) go on.
            ///
            /// # Errors
            /// If it was said of more items than were put.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", stringify!($name), "::unbounded();")]
            /// queue.put(1).unwrap();
            /// queue.get().unwrap();
            /// assert_eq!(queue.unfinished(), 1);
            /// queue.task_done().unwrap();
            /// queue.join().unwrap();
            /// assert!(queue.task_done().is_err());
            /// ```
            pub fn task_done(&self) -> Result<(), TaskDoneError> {
                self.core.task_done()
            }

            /// How many items were put and are not yet done.
            #[must_use]
            #[doc(alias = "unfinished_tasks")]
            pub fn unfinished(&self) -> usize {
                self.core.unfinished()
            }

            /// Waits until [`task_done`](Self::task_done) was called for every
            /// item that was put.
            ///
            /// # Errors
            /// If nobody could call it any more.
            pub fn join(&self) -> Result<(), Deadlock> {
                self.core.join(Patience::Forever).map(drop)
            }

            /// As [`join`](Self::join), for at most `timeout`; whether all are done.
            pub fn join_timeout(&self, timeout: Duration) -> bool {
                self.core.join(Patience::For(timeout)) == Ok(true)
            }

            /// As [`shutdown`](Self::shutdown), and takes all items out. They
            /// count as done.
            ///
            /// # Examples
            /// ```
            #[doc = concat!("use greenlet::queue::", stringify!($name), ";")]
            ///
            #[doc = concat!("let queue = ", stringify!($name), "::unbounded();")]
            /// queue.put(1).unwrap();
            /// assert_eq!(queue.shutdown_now(), [1]);
            /// queue.join().unwrap();
            /// ```
            #[doc(alias = "immediate")]
            pub fn shutdown_now(&self) -> Vec<T> {
                self.core.shut_down_now()
            }
        }

        /// It is ready when there is an item, or when it is shut down. Another
        /// greenlet may be quicker to get the item, so use `try_get` then. A
        /// queue of size 0 is ready when it is shut down, and not before.
        impl<T $($bound)*> Waitable for $name<T> {
            fn is_ready(&self) -> bool {
                self.core.is_ready()
            }

            fn source(&self) -> Source<'_> {
                self.core.source()
            }
        }

        impl<T $($bound)*> Default for $name<T> {
            /// An unbounded one.
            fn default() -> $name<T> {
                $name::unbounded()
            }
        }

        impl<T $($bound)*> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("len", &self.core.len())
                    .field("capacity", &self.core.capacity())
                    .field("shut_down", &self.core.is_shut_down())
                    .finish()
            }
        }
    };
}

pub(super) use {exchange, storage};
