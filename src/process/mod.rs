//! Worker processes: a function is called in another process, and its result comes back.

mod child;
mod entry;
pub mod error;
mod event;
mod job;
mod luggage;
mod queue;
mod reaper;
mod watched;
mod wire;
mod worker;

pub use self::child::{Child, spawn};
pub use self::event::Event;
pub(crate) use self::luggage::{put as put_into_luggage, take as take_from_luggage};
pub use self::queue::{Iter, Queue};
