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
//! The short way is inlined into the caller: a processor predicts returns from
//! the calls that it has seen on one stack, so every call between a switch and
//! the code around it costs a misprediction when the switch comes back.
//!
//! Each side knows its own type only, so the landing says at run time which
//! type it awaits, and is written to only where that is the sender's.

use std::any::TypeId;
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
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

/// Tells a type. One function for each, so that equal addresses mean equal
/// types; where the addresses differ, the answers are compared.
type Awaits = fn() -> (TypeId, &'static str);

fn type_of<V: 'static>() -> (TypeId, &'static str) {
    (TypeId::of::<V>(), std::any::type_name::<V>())
}

/// What has arrived at a landing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Landed {
    Nothing,
    Value,
    Special,
}

/// The part of a landing that does not depend on its type.
pub(crate) struct Head {
    /// The type of the value; `Anything` if all values are dropped.
    awaits: Awaits,
    landed: Cell<Landed>,
    /// There if `landed` says so.
    special: UnsafeCell<MaybeUninit<Special>>,
}

/// Where a suspended switch waits for its value.
#[repr(C)]
struct Landing<V> {
    head: Head,
    /// There if `landed` says so.
    value: UnsafeCell<MaybeUninit<V>>,
}

/// What a switch awaits that drops whatever arrives.
pub(crate) struct Anything(Option<Box<dyn std::any::Any>>);

impl Hub {
    /// Switches to `target` and hands it `value`. The value comes back if that
    /// greenlet is not suspended in a switch, or awaits another type. The
    /// current greenlet must not be unwinding.
    #[inline(always)]
    pub(crate) fn switch<V: 'static>(&self, target: TaskPtr, value: V) -> Result<Arrival<V>, V> {
        deliver(target, value)?;
        Ok(self.change_places(target, Hub::switch_away))
    }

    /// Suspends the current greenlet in a switch and runs `target` at once,
    /// which was delivered to or has not started.
    pub(crate) fn switch_to<V: 'static>(&self, target: TaskPtr) -> Arrival<V> {
        self.change_places(target, Hub::leave)
    }

    #[inline(always)]
    fn change_places<V: 'static>(
        &self,
        target: TaskPtr,
        leave: impl FnOnce(&Hub, TaskPtr, Option<TaskPtr>),
    ) -> Arrival<V> {
        let task = self.current();
        let landing = Landing::<V> {
            head: Head {
                awaits: type_of::<V>,
                landed: Cell::new(Landed::Nothing),
                special: UnsafeCell::new(MaybeUninit::uninit()),
            },
            value: UnsafeCell::new(MaybeUninit::uninit()),
        };
        task.landing.set(ptr::from_ref(&landing).cast());
        task.state.set(State::Switched);
        target.state.set(State::Runnable);
        self.queue.replace_first(task, target);
        leave(self, task, Some(target));
        if landing.head.landed.get() == Landed::Value {
            // SAFETY: who wrote `landed` has written the value, and it is read
            // once.
            return Arrival::Value(unsafe { (*landing.value.get()).assume_init_read() });
        }
        Arrival::Special(self.special_arrival(task, &landing.head))
    }

    #[cold]
    fn special_arrival(&self, task: TaskPtr, head: &Head) -> Special {
        if head.landed.get() == Landed::Special {
            // SAFETY: as for the value.
            return unsafe { (*head.special.get()).assume_init_read() };
        }
        if task.interrupts.get() & DEADLOCK != 0 {
            task.clear_interrupt(DEADLOCK);
            return Special::Deadlock;
        }
        // Nobody has switched here: this is a kill, or a timeout.
        interrupt::throw(self)
    }

    /// The current greenlet ends, and `target` runs next; it was delivered to,
    /// or has not started.
    pub(crate) fn end_into(&self, target: TaskPtr) {
        target.state.set(State::Runnable);
        self.queue.push_second(target);
    }
}

/// Writes a value into the landing of a greenlet that is suspended in a
/// switch. Who delivers makes that greenlet run, with nothing in between: so
/// nothing arrives twice, and nothing is overwritten.
#[inline(always)]
pub(crate) fn deliver<V: 'static>(target: TaskPtr, value: V) -> Result<(), V> {
    let Some(head) = landing_of(target) else {
        return Err(value);
    };
    if !ptr::fn_addr_eq(head.awaits, type_of::<V> as Awaits) {
        return deliver_other(target, head, value);
    }
    // SAFETY: the landing awaits a `V`.
    unsafe { write_value(target, head, value) };
    Ok(())
}

#[cold]
fn deliver_other<V: 'static>(target: TaskPtr, head: &Head, value: V) -> Result<(), V> {
    let (awaited, _) = (head.awaits)();
    if awaited == TypeId::of::<V>() {
        // SAFETY: the landing awaits a `V`.
        unsafe { write_value(target, head, value) };
        return Ok(());
    }
    if awaited != TypeId::of::<Anything>() {
        return Err(value);
    }
    // Dropped by its receiver: a destructor may switch, and must not do so here.
    let anything = Anything(Some(Box::new(value)));
    // SAFETY: the landing awaits an `Anything`.
    unsafe { write_value(target, head, anything) };
    Ok(())
}

/// # Safety
/// `head` is that of the target's landing, which awaits a `V`.
#[inline(always)]
unsafe fn write_value<V: 'static>(target: TaskPtr, head: &Head, value: V) {
    let landing: *const Landing<V> = target.landing.get().cast();
    // SAFETY: the landing is alive, as in `landing_of`; by the caller's promise
    // it has this type; and its greenlet, the only reader, does not run.
    unsafe { (*(*landing).value.get()).write(value) };
    head.landed.set(Landed::Value);
}

/// Puts something special into the landing of a greenlet that is suspended in
/// a switch; gives it back where the greenlet is not.
pub(crate) fn deliver_special(target: TaskPtr, special: Special) -> Result<(), Special> {
    let Some(head) = landing_of(target) else {
        return Err(special);
    };
    // SAFETY: the landing is alive, and its greenlet does not run.
    unsafe { (*head.special.get()).write(special) };
    head.landed.set(Landed::Special);
    Ok(())
}

/// The name of the type that a greenlet awaits which is suspended in a switch.
pub(crate) fn awaited_by(target: TaskPtr) -> Option<&'static str> {
    landing_of(target).map(|head| (head.awaits)().1)
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
