//! gevent for Rust: stackful coroutines on one OS thread, written as plain blocking code.

pub mod error;
pub mod hub;
pub mod net;
pub mod signal;

mod coroutine;
mod greenlet;
mod offload;
mod sys;
mod task;
mod time;

pub use greenlet::{Greenlet, GreenletState, TraceEvent, TraceKind, Tracer, set_tracer};
pub use offload::offload;
pub use task::{
    Builder, Current, GreenletId, GreenletLocal, IWait, JoinHandle, LinkId, Scope,
    ScopedJoinHandle, Waitable, block_on, current, iwait, joinall, joinall_timeout, killall, scope,
    spawn, spawn_later, timeout, wait, yield_now,
};
pub use time::sleep;
