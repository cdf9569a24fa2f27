//! What the benches and the measuring programs share.

pub mod coroutines;
pub mod epoll;
pub mod load;
pub mod proc;
pub mod stats;

use std::time::{Duration, Instant};

/// Runs `batch`, which handles `size` items, as often as `iters` items take,
/// and says how long `iters` of them took: so that criterion's "iteration" is
/// one item, however many are handled at once.
pub fn per_item(iters: u64, size: u64, mut batch: impl FnMut()) -> Duration {
    let batches = iters.div_ceil(size);
    let start = Instant::now();
    for _ in 0..batches {
        batch();
    }
    scale(start.elapsed(), batches * size, iters)
}

/// What `wanted` items take, if `done` took `time`.
pub fn scale(time: Duration, done: u64, wanted: u64) -> Duration {
    time.mul_f64(wanted as f64 / done as f64)
}
