//! What the operations of queues answer when they cannot do what they were asked for.

use std::fmt;

use thiserror::Error;

use crate::error::Deadlock;

/// Why [`put`](super::Queue::put) did not put, with the item.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
#[doc(alias = "SendError")]
pub enum PutError<T> {
    /// The queue was shut down.
    #[error("the queue is shut down")]
    ShutDown(T),
    /// The queue is full, and nothing could make room in it any more.
    #[error("{Deadlock}")]
    Deadlock(T),
}

/// Why [`try_put`](super::Queue::try_put) did not put, with the item.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
#[doc(alias = "TrySendError")]
pub enum TryPutError<T> {
    /// There is no room.
    #[error("the queue is full")]
    Full(T),
    /// The queue was shut down.
    #[error("the queue is shut down")]
    ShutDown(T),
}

/// Why [`put_timeout`](super::Queue::put_timeout) did not put, with the item.
#[derive(Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
#[doc(alias = "SendTimeoutError")]
pub enum PutTimeoutError<T> {
    /// There was no room all that time.
    #[error("the queue is full, and the time is up")]
    Full(T),
    /// The queue was shut down.
    #[error("the queue is shut down")]
    ShutDown(T),
}

/// Why [`get`](super::Queue::get) or [`peek`](super::Queue::peek) has no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[doc(alias = "RecvError")]
pub enum GetError {
    /// The queue was shut down, and has no items left.
    #[error("the queue is shut down")]
    ShutDown,
    /// The queue is empty, and nothing could put into it any more.
    #[error(transparent)]
    Deadlock(#[from] Deadlock),
}

/// Why [`try_get`](super::Queue::try_get) or [`try_peek`](super::Queue::try_peek) has no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[doc(alias = "TryRecvError")]
pub enum TryGetError {
    /// There is none.
    #[error("the queue is empty")]
    Empty,
    /// The queue was shut down, and has no items left.
    #[error("the queue is shut down")]
    ShutDown,
}

/// Why [`get_timeout`](super::Queue::get_timeout) or
/// [`peek_timeout`](super::Queue::peek_timeout) has no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
#[doc(alias = "RecvTimeoutError")]
pub enum GetTimeoutError {
    /// There was none all that time.
    #[error("the queue is empty, and the time is up")]
    Empty,
    /// The queue was shut down, and has no items left.
    #[error("the queue is shut down")]
    ShutDown,
}

/// [`task_done`](super::Queue::task_done) was called more often than items were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("task_done was called more often than items were put")]
pub struct TaskDoneError;

macro_rules! gives_the_item_back {
    ($name:ident { $($variant:ident),+ }) => {
        impl<T> $name<T> {
            /// The item that was to be put.
            pub fn into_inner(self) -> T {
                match self {
                    $($name::$variant(item))|+ => item,
                }
            }
        }

        // As in std, the item need not be Debug: errors are to be unwrapped.
        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $($name::$variant(_) => concat!(stringify!($variant), "(..)"),)+
                })
            }
        }
    };
}

gives_the_item_back!(PutError { ShutDown, Deadlock });
gives_the_item_back!(TryPutError { Full, ShutDown });
gives_the_item_back!(PutTimeoutError { Full, ShutDown });
