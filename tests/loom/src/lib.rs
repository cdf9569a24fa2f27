//! What several threads touch in `greenlet`, run through every interleaving.
//!
//! Seven files of the hub are compiled here a second time, word for word, on
//! loom's atomics and locks: `inbox.rs`, `list.rs`, `wait.rs`, `wait_queue.rs`,
//! `parker.rs`, `monitor.rs` and `gate.rs`. What they stand on is replaced by the least
//! that will do, in [`hub`]: a hub with one greenlet, whose loop does what `run.rs` does
//! around its sleep.
//!
//! loom runs each model over and over, each time with another interleaving of
//! its threads and with other values for the loads that may see several. A
//! wake-up that is lost shows as a deadlock, and fails the model.
//!
//! `cargo test -p greenlet-loom --release` runs them all.

#[cfg(feature = "loom")]
pub mod hub;
#[cfg(feature = "loom")]
mod shim;
#[cfg(feature = "loom")]
mod sys;
