//! `block_on`: a future in the middle of blocking code.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::hub::{Hub, Parker};

/// Runs a future to its end, and parks the greenlet while it is pending.
///
/// The thread goes on with the other greenlets meanwhile. The future is polled
/// on the greenlet's own stack, so it may use blocking calls of this crate and
/// even another `block_on`; and its waker may be called from any thread, any
/// number of times, also after the greenlet's end. A future that wakes itself
/// at once lets every greenlet that is runnable have a turn in between.
///
/// A kill or a timeout drops the future where it stands. There is no reactor
/// of another runtime in here: futures that need tokio's must be given one.
///
/// # Panics
/// With [`Deadlock`](crate::error::Deadlock) if nothing could ever wake the
/// future any more; and if the future panics.
///
/// # Examples
/// ```
/// use greenlet::{block_on, spawn};
///
/// let handle = spawn(|| 6);
/// let answer = block_on(async { handle.await.unwrap() * 7 });
/// assert_eq!(answer, 42);
/// ```
pub fn block_on<F: Future>(future: F) -> F::Output {
    let parker = Parker::new();
    let waker = Waker::from(parker.unparker());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        if parker.take_permit() {
            // It was woken while it was polled: others first, then again.
            Hub::get().yield_now();
        } else {
            parker.park();
        }
    }
}
