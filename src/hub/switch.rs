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
use crate::sys::pass::PassThrough;

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

/// How a pending switch ended, where it is not just a value, or where somebody
/// wants to know where it came from.
pub(crate) enum Arrival<V> {
    Value(V, u64),
    Special(Special, u64),
}

/// Tells a type. One function for each, so that equal addresses mean equal
/// types; where the addresses differ, the answers are compared. Inlined, it
/// would have several addresses in one crate.
type Tell = fn() -> (TypeId, &'static str);

#[inline(never)]
fn type_of<V: 'static>() -> (TypeId, &'static str) {
    (TypeId::of::<V>(), std::any::type_name::<V>())
}

/// Takes the place of the awaited type when a value has landed. These three
/// are known by their addresses alone.
#[inline(never)]
fn value_landed() -> (TypeId, &'static str) {
    type_of::<Value>()
}
struct Value;

/// The same, for a value whose arrival is watched.
#[inline(never)]
fn watched_landed() -> (TypeId, &'static str) {
    type_of::<Watched>()
}
struct Watched;

/// The same, for something special.
#[inline(never)]
fn special_landed() -> (TypeId, &'static str) {
    type_of::<Special>()
}

/// The part of a landing that does not depend on its type.
pub(crate) struct Head {
    /// The type of the value; `Anything` if all values are dropped. Once
    /// something has landed, what it is.
    tell: Cell<Tell>,
    /// There if `tell` says so.
    special: UnsafeCell<MaybeUninit<Special>>,
}

impl Head {
    fn is(&self, tell: Tell) -> bool {
        ptr::fn_addr_eq(self.tell.get(), tell)
    }
}

/// Where a suspended switch waits for its value.
#[repr(C)]
struct Landing<V> {
    head: Head,
    /// There if `tell` says so.
    value: UnsafeCell<MaybeUninit<V>>,
}

/// What a switch awaits that drops whatever arrives: it is only kept until then.
pub(crate) struct Anything(#[allow(dead_code)] Box<dyn std::any::Any>);

impl Hub {
    /// Switches to `target` and hands it `value`. The value comes back if that
    /// greenlet is not suspended in a switch, or awaits another type, or if
    /// switches are watched: then the long way is to be taken.
    ///
    /// What comes back is given to `usual`, or, in the rare cases, to
    /// `unusual`: two ways, so that the value of the short one stays in
    /// registers.
    #[inline(always)]
    pub(crate) fn switch<V: 'static, R>(
        &self,
        target: TaskPtr,
        value: V,
        usual: impl FnOnce(V) -> R,
        unusual: impl FnOnce(Arrival<V>) -> R,
    ) -> Result<R, V> {
        if self.is_watched() || std::thread::panicking() {
            return Err(value);
        }
        self.deliver(target, value)?;
        Ok(self.change_places(target, Hub::switch_away, usual, unusual))
    }

    /// Suspends the current greenlet in a switch and runs `target` at once,
    /// which was delivered to or has not started.
    pub(crate) fn switch_to<V: 'static>(&self, target: TaskPtr) -> Arrival<V> {
        self.origin.set(self.current().id);
        let usual = |value| Arrival::Value(value, 0);
        self.change_places(target, Hub::leave, usual, |arrival| arrival)
    }

    #[inline(always)]
    fn change_places<V: 'static, R>(
        &self,
        target: TaskPtr,
        leave: impl FnOnce(&Hub, TaskPtr, Option<TaskPtr>),
        usual: impl FnOnce(V) -> R,
        unusual: impl FnOnce(Arrival<V>) -> R,
    ) -> R {
        let task = self.current();
        let landing = Landing::<V> {
            head: Head {
                tell: Cell::new(type_of::<V>),
                special: UnsafeCell::new(MaybeUninit::uninit()),
            },
            value: UnsafeCell::new(MaybeUninit::uninit()),
        };
        task.landing.set(ptr::from_ref(&landing).cast());
        task.state.set(State::Switched);
        target.state.set(State::Runnable);
        self.queue.replace_first(task, target);
        leave(self, task, Some(target));
        if landing.head.is(value_landed) {
            // SAFETY: who says so has written the value, and it is read once.
            return usual(unsafe { (*landing.value.get()).assume_init_read() });
        }
        unusual(self.unusual_arrival(task, &landing))
    }

    #[cold]
    fn unusual_arrival<V>(&self, task: TaskPtr, landing: &Landing<V>) -> Arrival<V> {
        if landing.head.is(watched_landed) {
            // SAFETY: who says so has written the value, and it is read once.
            let value = unsafe { (*landing.value.get()).assume_init_read() };
            return Arrival::Value(value, self.origin.get());
        }
        if landing.head.is(special_landed) {
            // SAFETY: as for the value.
            let special = unsafe { (*landing.head.special.get()).assume_init_read() };
            return Arrival::Special(special, self.origin.get());
        }
        if task.interrupts.get() & DEADLOCK != 0 {
            task.clear_interrupt(DEADLOCK);
            return Arrival::Special(Special::Deadlock, task.id);
        }
        // Nobody has switched here: this is a kill, or a timeout.
        interrupt::throw(self)
    }

    /// The current greenlet ends, and `target` runs next; it was delivered to,
    /// or has not started.
    pub(crate) fn end_into(&self, target: TaskPtr) {
        self.origin.set(self.current().id);
        target.state.set(State::Runnable);
        self.queue.push_second(target);
    }

    /// Writes a value into the landing of a greenlet that is suspended in a
    /// switch. Who delivers makes that greenlet run, with nothing in between:
    /// so nothing arrives twice, and nothing is overwritten.
    #[inline(always)]
    pub(crate) fn deliver<V: 'static>(&self, target: TaskPtr, value: V) -> Result<(), V> {
        let Some(head) = landing_of(target) else {
            return Err(value);
        };
        if !head.is(type_of::<V>) {
            return self.deliver_other(target, head, value);
        }
        // SAFETY: the landing awaits a `V`.
        unsafe { self.write_value(target, head, value) };
        Ok(())
    }

    #[cold]
    fn deliver_other<V: 'static>(&self, target: TaskPtr, head: &Head, value: V) -> Result<(), V> {
        let (awaited, _) = (head.tell.get())();
        if awaited == TypeId::of::<V>() {
            // SAFETY: the landing awaits a `V`.
            unsafe { self.write_value(target, head, value) };
            return Ok(());
        }
        if awaited != TypeId::of::<Anything>() {
            return Err(value);
        }
        // Dropped by its receiver: a destructor may switch, and must not do so
        // here; nor may an allocator that waits, for the landing is another's.
        let _pass = PassThrough::enter();
        let anything = Anything(Box::new(value));
        // SAFETY: the landing awaits an `Anything`.
        unsafe { self.write_value(target, head, anything) };
        Ok(())
    }

    /// # Safety
    /// `head` is that of the target's landing, which awaits a `V`.
    #[inline(always)]
    unsafe fn write_value<V: 'static>(&self, target: TaskPtr, head: &Head, value: V) {
        let landing: *const Landing<V> = target.landing.get().cast();
        // SAFETY: the landing is alive, as in `landing_of`; by the caller's
        // promise it has this type; and its greenlet, the only reader, does
        // not run.
        unsafe { (*(*landing).value.get()).write(value) };
        head.tell.set(if self.is_watched() {
            watched_landed
        } else {
            value_landed
        });
    }

    /// Puts something special into the landing of a greenlet that is suspended
    /// in a switch; gives it back where the greenlet is not.
    pub(crate) fn deliver_special(&self, target: TaskPtr, special: Special) -> Result<(), Special> {
        let Some(head) = landing_of(target) else {
            return Err(special);
        };
        // SAFETY: the landing is alive, and its greenlet does not run.
        unsafe { (*head.special.get()).write(special) };
        head.tell.set(special_landed);
        Ok(())
    }

    /// Whether somebody wants to know of every switch.
    #[inline(always)]
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.get() != 0
    }

    /// One domain more, or less, whose switches are watched.
    pub(crate) fn watch_switches(&self, watched: bool) {
        let others = self.watched.get();
        self.watched
            .set(if watched { others + 1 } else { others - 1 });
    }
}

/// The name of the type that a greenlet awaits which is suspended in a switch.
pub(crate) fn awaited_by(target: TaskPtr) -> Option<&'static str> {
    landing_of(target).map(|head| (head.tell.get())().1)
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
