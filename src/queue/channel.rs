//! `Channel`: from hand to hand.

use std::fmt;
use std::time::Duration;

use super::core::{Core, Patience};
use super::error::{
    GetError, GetTimeoutError, PutError, PutTimeoutError, TryGetError, TryPutError,
};
use super::face::{self, exchange};
use super::store::Fifo;

/// A rendezvous: it stores nothing, and who puts waits until somebody gets.
///
/// If somebody waits in [`get`](Channel::get) already, that one has the item
/// from then on, and `put` returns at once. It is the counterpart of gevent's
/// `Channel`, and of [`sync_channel(0)`](std::sync::mpsc::sync_channel).
///
/// # Examples
/// ```
/// use std::rc::Rc;
/// use greenlet::queue::Channel;
///
/// let channel = Rc::new(Channel::new());
/// let greeter = greenlet::spawn({
///     let channel = Rc::clone(&channel);
///     move || ["hello", "world"].map(|word| channel.put(word).unwrap())
/// });
/// assert_eq!(channel.get(), Ok("hello"));
/// assert_eq!(channel.get(), Ok("world"));
/// greeter.join().unwrap();
/// ```
pub struct Channel<T> {
    core: Core<Fifo<T>>,
}

impl<T> Channel<T> {
    /// A new channel.
    #[must_use]
    pub fn new() -> Channel<T> {
        Channel { core: Core::new(0) }
    }
}

exchange!(Channel, "Channel::new()", ChannelIter, []);

impl<T> Default for Channel<T> {
    fn default() -> Channel<T> {
        Channel::new()
    }
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("shut_down", &self.core.is_shut_down())
            .finish_non_exhaustive()
    }
}
