//! gevent for Rust: stackful coroutines on one OS thread, written as plain blocking code.

pub mod error;

mod coroutine;
mod hub;
mod sys;
