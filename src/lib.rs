//! gevent for Rust: stackful coroutines on one OS thread, written as plain blocking code.

#[cfg(not(all(
    target_os = "linux",
    target_env = "gnu",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "greenlet supports Linux with glibc only: tested on x86-64, untested on AArch64. \
     musl, macOS, Windows and other systems are not supported."
);

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
