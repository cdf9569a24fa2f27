//! Worker processes: a function is called in another process, and its result comes back.

mod child;
mod diagnose;
mod entry;
pub mod error;
mod event;
mod job;
pub(crate) mod luggage;
mod queue;
mod reaper;
mod watched;
mod wire;
mod worker;

pub use self::child::{Child, spawn};
pub use self::event::Event;
pub use self::queue::{Iter, Queue};
