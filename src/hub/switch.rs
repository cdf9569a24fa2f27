//! Explicit switches: a greenlet names the one that shall run, and sends it a value.
//!
//! A switch waits for a value in its own frame, in a [`Landing`]. Whoever
//! switches to that greenlet later writes there, and the two change places at
//! the head of the run queue, so nobody else runs in between:
//!
//! ```text
//!     A: switch(B, 5)                              B: switch(C, "x")  (earlier)
//!     ┌──────────────────────┐                     ┌──────────────────────┐
//!     │ Landing<i32>         │                     │ Landing<&str>        │
//!     │   awaits: i32        │   type known to the │   awaits: &str       │
//!     │   value:  None       │   sender? else it   │   value:  None ◀─────┼── A's value,
//!     └──────────────────────┘   keeps its value   └──────────────────────┘   if it is a &str
//! ```
//!
//! Each side knows its own type only, so the landing says at run time which
//! type it awaits, and is written to only where that is the sender's.

use std::any::TypeId;
use std::cell::Cell;
use std::ptr;

use super::task::{DEADLOCK, State, TaskPtr};
use super::unwind::Payload;
use super::{Hub, interrupt};

/// What arrives at a pending switch instead of a value.
pub(crate) enum Special {
    /// To be thrown there.
    Throw(Payload),
    /// The kill, to be thrown there.
    Kill,
    /// A child was killed, and this is its result.
    ChildKilled,
    /// A child's result has another type than is awaited here.
    Mismatch(&'static str),
    /// Nothing could wake this greenlet any more.
    Deadlock,
}

/// How a pending switch ended.
pub(crate) enum Arrival<V> {
    Value(V),
    Special(Special),
}

/// The part of a landing that does not depend on its type.
pub(crate) struct Head {
    /// The type of the value; `Anything` if all values are dropped.
    awaits: TypeId,
    /// Its name, for messages.
    awaits_name: &'static str,
    special: Cell<Option<Special>>,
}

/// Where a suspended switch waits for its value.
#[repr(C)]
struct Landing<V> {
    head: Head,
    value: Cell<Option<V>>,
}

/// What a switch awaits that drops whatever arrives.
pub(crate) struct Anything(Option<Box<dyn std::any::Any>>);

impl Hub {
    /// Switches to `target` and hands it `value`. The value comes back if that
    /// greenlet is not suspended in a switch, or awaits another type.
    #[inline]
    pub(crate) fn switch<V: 'static>(&self, target: TaskPtr, value: V) -> Result<Arrival<V>, V> {
        deliver(target, value)?;
        Ok(self.switch_to(target))
    }

    /// Suspends the current greenlet in a switch and runs `target` at once,
    /// which was delivered to or has not started.
    #[inline]
    pub(crate) fn switch_to<V: 'static>(&self, target: TaskPtr) -> Arrival<V> {
        let task = self.current();
        let landing = Landing::<V> {
            head: Head {
                awaits: TypeId::of::<V>(),
                awaits_name: std::any::type_name::<V>(),
                special: Cell::new(None),
            },
            value: Cell::new(None),
        };
        task.landing.set(ptr::from_ref(&landing).cast());
        task.state.set(State::Switched);
        target.state.set(State::Runnable);
        self.queue.replace_first(task, target);
        self.leave(task);
        task.landing.set(ptr::null());
        match landing.value.take() {
            Some(value) => Arrival::Value(value),
            None => self.special_arrival(task, landing.head.special.take()),
        }
    }

    #[cold]
    fn special_arrival<V>(&self, task: TaskPtr, special: Option<Special>) -> Arrival<V> {
        match special {
            Some(special) => Arrival::Special(special),
            None if task.interrupts.get() & DEADLOCK != 0 => {
                task.clear_interrupt(DEADLOCK);
                Arrival::Special(Special::Deadlock)
            }
            // Nobody has switched here: this is a kill, or a timeout.
            None => interrupt::throw(self),
        }
    }

    /// The current greenlet ends, and `target` runs next; it was delivered to,
    /// or has not started.
    pub(crate) fn end_into(&self, target: TaskPtr) {
        target.state.set(State::Runnable);
        self.queue.push_second(target);
    }
}

/// Writes a value into the landing of a greenlet that is suspended in a
/// switch. Who delivers makes that greenlet run, with nothing in between.
#[inline]
pub(crate) fn deliver<V: 'static>(target: TaskPtr, value: V) -> Result<(), V> {
    let Some(head) = landing_of(target) else {
        return Err(value);
    };
    if head.awaits != TypeId::of::<V>() {
        return deliver_other(target, head, value);
    }
    let landing: *const Landing<V> = target.landing.get().cast();
    // SAFETY: the landing is alive, as in `landing_of`, and its head says that
    // it is one for this type.
    unsafe { (*landing).value.set(Some(value)) };
    Ok(())
}

#[cold]
fn deliver_other<V: 'static>(target: TaskPtr, head: &Head, value: V) -> Result<(), V> {
    if head.awaits != TypeId::of::<Anything>() {
        return Err(value);
    }
    // Dropped by its receiver: a destructor may switch, and must not do so here.
    match deliver(target, Anything(Some(Box::new(value)))) {
        Ok(()) => Ok(()),
        Err(_) => unreachable!("the type was compared just now"),
    }
}

/// Puts something special into the landing of a greenlet that is suspended in
/// a switch; gives it back where the greenlet is not.
pub(crate) fn deliver_special(target: TaskPtr, special: Special) -> Result<(), Special> {
    match landing_of(target) {
        Some(head) => {
            head.special.set(Some(special));
            Ok(())
        }
        None => Err(special),
    }
}

/// The name of the type that a greenlet awaits which is suspended in a switch.
pub(crate) fn awaited_by(target: TaskPtr) -> Option<&'static str> {
    landing_of(target).map(|head| head.awaits_name)
}

#[inline(always)]
fn landing_of<'a>(target: TaskPtr) -> Option<&'a Head> {
    if target.state.get() != State::Switched {
        return None;
    }
    // SAFETY: a switched task has a landing, in the frame of its switch, which
    // it leaves only after it was made runnable. Nobody keeps this reference
    // across a switch.
    Some(unsafe { &*target.landing.get() })
}
