//! Helper threads for what can only block its thread.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crate::hub::Parker;

/// Runs `f` on a helper thread and parks the greenlet until it has returned.
///
/// A panic in `f` goes on in the caller.
pub(crate) fn offload<F, T>(f: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    let parker = Parker::new();
    let unparker = parker.unparker();
    let slot = Arc::new(Mutex::new(None));
    let theirs = Arc::clone(&slot);
    std::thread::spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(f));
        *theirs.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        unparker.unpark();
    });
    loop {
        match slot.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(Ok(value)) => return value,
            Some(Err(payload)) => resume_unwind(payload),
            None => {}
        }
        parker.park();
    }
}
