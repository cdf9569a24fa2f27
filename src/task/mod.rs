//! Greenlets as tasks: spawned, joined, killed, timed out.

mod builder;
mod current;
mod handle;
mod timeout;
mod waiting;

pub use builder::{Builder, spawn, spawn_later};
pub use current::{Current, current, yield_now};
pub(crate) use handle::refuse_with_panic_abort;
pub use handle::{GreenletId, JoinHandle, LinkId};
pub use timeout::timeout;
pub use waiting::{IWait, Waitable, iwait, joinall, joinall_timeout, killall, wait};
