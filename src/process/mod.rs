//! Worker processes: a function is called in another process, and its result comes back.

mod child;
mod entry;
pub mod error;
mod function;
mod job;
mod luggage;
mod reaper;
mod watched;
mod wire;
mod worker;

pub use self::child::{Child, spawn};
pub(crate) use self::function::Function;
pub(crate) use self::job::Request;

pub(crate) use self::luggage::{put as put_into_luggage, take as take_from_luggage};
pub(crate) use self::worker::{Process, Worker};
