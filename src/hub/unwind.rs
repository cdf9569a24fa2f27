//! Every catch and every throw of an unwinding in this crate.
//!
//! A kill and a timeout travel as unwindings with private payloads. They are
//! thrown with `resume_unwind`, so no panic hook runs and nothing is printed,
//! and each is caught in one place: a kill at the root of its greenlet, a
//! timeout in the frame of the `timeout` call that owns it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// What an unwinding carries.
pub(crate) type Payload = Box<dyn Any + Send>;

/// The payload of a kill.
struct Kill;

/// The payload of a timeout, which names the `timeout` frame that catches it.
struct TimedOut(u64);

/// Runs `f`; an unwinding out of it ends here and is returned.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Result<R, Payload> {
    // A greenlet is an execution context of its own, as a thread is: whoever
    // receives the payload decides what of the shared state can be trusted.
    catch_unwind(AssertUnwindSafe(f))
}

/// Goes on with an unwinding that was caught only to be looked at.
pub(crate) fn rethrow(payload: Payload) -> ! {
    resume_unwind(payload)
}

/// Unwinds the current greenlet to its root.
pub(crate) fn throw_kill() -> ! {
    resume_unwind(Box::new(Kill))
}

/// Unwinds the current greenlet to the `timeout` frame numbered `id`.
pub(crate) fn throw_timeout(id: u64) -> ! {
    resume_unwind(Box::new(TimedOut(id)))
}

/// Whether this payload is a kill.
pub(crate) fn is_kill(payload: &Payload) -> bool {
    payload.is::<Kill>()
}

/// Whether this payload is a kill, or a timeout of whatever frame.
pub(crate) fn is_interrupt(payload: &Payload) -> bool {
    is_kill(payload) || payload.is::<TimedOut>()
}

/// Whether this payload belongs to the `timeout` frame numbered `id`.
pub(crate) fn is_timeout(payload: &Payload, id: u64) -> bool {
    matches!(payload.downcast_ref(), Some(TimedOut(owner)) if *owner == id)
}

/// Runs a destructor or a callback whose unwinding has nowhere to go: the
/// panic hook has reported a panic already, and a kill ends here.
pub(crate) fn contain(f: impl FnOnce()) {
    if let Err(payload) = catch(f) {
        // The payload's own destructor is the user's code too. What it throws
        // is given up on: std does the same for a thread's result.
        if let Err(second) = catch(move || drop(payload)) {
            std::mem::forget(second);
        }
    }
}
