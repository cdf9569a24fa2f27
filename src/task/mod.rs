//! Greenlets as tasks: spawned, joined, killed, timed out.

mod block_on;
mod builder;
mod current;
mod handle;
mod local;
mod scope;
mod timeout;
mod waiting;

pub use block_on::block_on;
pub use builder::{Builder, spawn, spawn_later};
pub use current::{Current, current, yield_now};
pub(crate) use handle::refuse_with_panic_abort;
pub use handle::{GreenletId, JoinHandle, LinkId};
pub use local::GreenletLocal;
pub use scope::{Scope, ScopedJoinHandle, scope};
pub use timeout::timeout;
pub(crate) use waiting::Source;
pub use waiting::{IWait, Waitable, iwait, joinall, joinall_timeout, killall, wait};
