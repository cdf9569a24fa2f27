//! How often this process has been forked from its ancestors, and who is to be
//! told in the child.

use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

static GENERATION: AtomicU32 = AtomicU32::new(0);
/// The callback, as a pointer that a signal-safe handler can load.
static CALLBACK: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Grows by one in the child at every fork. What was made under another
/// generation belongs to the parent.
#[inline(always)]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Has `callback` run in the child after every fork, on the thread that forked.
pub(crate) fn on_child(callback: fn()) {
    CALLBACK.store(callback as *mut (), Ordering::Release);
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the handler is a function that lives for ever. Without
        // memory for it, forks go unnoticed, as they would without us.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let callback = CALLBACK.load(Ordering::Acquire);
    if !callback.is_null() {
        // SAFETY: only `on_child` stores here, and only a `fn()`.
        let callback = unsafe { std::mem::transmute::<*mut (), fn()>(callback) };
        callback();
    }
}
