//! Stacks and context switches: the only room that knows corosensei.
//!
//! ```text
//!   Fibers (pool.rs)      all stacks of one hub, recycled last in first out
//!     └─ Pool             those of one size
//!          ├─ Arena       a large reserved mapping, cut into guarded slots
//!          └─ Fiber       one slot with a coroutine on it: resume and suspend
//!   TlsBlock (tls/)       thread-locals that a fiber may be resumed on
//! ```
//!
//! What the room promises: a stack is used by one fiber at a time; below every
//! stack is a guard; a stack that something lives on is neither reused nor
//! unmapped. What it asks of its caller: a fiber is resumed while it is not
//! running, and a suspender is used on its own stack.

mod arena;
mod fiber;
mod guard;
mod limits;
pub(crate) mod overflow;
mod pool;
mod registry;
mod size;
pub(crate) mod tls;

pub(crate) use fiber::{Fiber, Suspender, Word};
pub(crate) use pool::Fibers;
pub(crate) use registry::stack_around;
pub use size::StackSize;
