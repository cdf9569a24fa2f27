//! `Greenlet<T>`: coroutines that switch explicitly, as Python's greenlet does.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the handle, and switching |
//! | `node` | one greenlet in the tree of parents; what happens when its last handle is dropped |
//! | `ending` | where a result goes, or a panic, when a greenlet ends |
//! | `trace` | the tracer, and what else is done when a switch has arrived |

mod ending;
mod node;
mod trace;

use std::fmt;
use std::marker::PhantomData;

use self::node::{Body, NodeRef};
pub use self::trace::{TraceEvent, TraceKind, Tracer, set_tracer};
use crate::error::{BindError, Deadlock, ParentError, SpawnError, SwitchError};
use crate::hub::{self, Arrival, Hub, Payload, SpawnOptions, Special, TaskPtr};
use crate::task::{Builder, GreenletId, refuse_with_panic_abort};

/// A coroutine that runs when somebody [`switch`](Greenlet::switch)es to it, and stops when it switches on.
///
/// Values of `T` travel with the switches. The value that is sent by the first switch is the argument of the
/// function; later ones are what the pending `switch` call in it returns. Note that a `switch` returns what the
/// *next* greenlet to switch back sends, which need not be the one that was switched to.
///
/// Every greenlet has a parent, the one that made it unless [`set_parent`](Greenlet::set_parent) says otherwise.
/// When the function returns, its result is sent to the parent: to its nearest ancestor that lives. A panic goes
/// on there. So does a switch to a greenlet that is dead.
///
/// The hub knows nothing of explicit greenlets until one of them waits: a blocking call in one parks it, others
/// run meanwhile, and the hub resumes it. Until then a switch to it is refused with [`SwitchError::Parked`].
///
/// The handle is a counted reference, cheap to clone; equal handles are of the same greenlet. When the last one
/// of a suspended greenlet is dropped, the greenlet is killed: its destructors run at once. (Handles that it owns
/// itself, on its own stack or in a cycle, keep it alive.) A handle is neither `Send` nor `Sync`: greenlets of
/// different threads can be neither switched to nor made parent of each other.
///
/// This follows [Python's greenlet](https://greenlet.readthedocs.io), in types.
///
/// # Examples
/// ```
/// use greenlet::Greenlet;
///
/// let eat = Greenlet::<String>::unbound();
/// let play = Greenlet::<String>::unbound();
/// eat.bind({
///     let play = play.clone();
///     move |name| {
///         println!("{name} eat 1");
///         play.switch(name.clone());
///         println!("{name} eat 2");
///         play.switch(name)
///     }
/// });
/// play.bind({
///     let eat = eat.clone();
///     move |name| {
///         println!("{name} play 1");
///         eat.switch(name.clone());
///         println!("{name} play 2");
///         name
///     }
/// });
/// assert_eq!(eat.switch("taibai".into()), "taibai");
/// assert!(play.is_dead());
/// ```
/// A greenlet stays on its thread:
/// ```compile_fail
/// let greenlet = greenlet::Greenlet::new(|n: u32| n);
/// std::thread::spawn(move || greenlet.switch(1));
/// ```
pub struct Greenlet<T: 'static> {
    node: NodeRef,
    values: PhantomData<fn(T) -> T>,
}

/// Where a greenlet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GreenletState {
    /// It has no function yet.
    Unbound,
    /// It has not been switched to.
    Unstarted,
    /// It has switched to another one, and can be switched to.
    Suspended,
    /// It is the one that runs.
    Running,
    /// It waits in a blocking call, and the hub will resume it.
    Parked,
    /// The hub has it in its run queue.
    Runnable,
    /// Its function has ended.
    Dead,
}

impl<T: 'static> Greenlet<T> {
    /// A greenlet without a function, for others to refer to; give it one with [`bind`](Greenlet::bind).
    #[must_use]
    #[track_caller]
    pub fn unbound() -> Greenlet<T> {
        Greenlet::view(NodeRef::explicit(SpawnOptions::new()))
    }

    /// A greenlet that will run `body` when it is first switched to.
    ///
    /// # Examples
    /// ```
    /// use greenlet::Greenlet;
    ///
    /// let double = Greenlet::new(|n: i32| 2 * n);
    /// assert_eq!(double.switch(21), 42);
    /// ```
    #[must_use]
    #[track_caller]
    pub fn new(body: impl FnOnce(T) -> T + 'static) -> Greenlet<T> {
        let greenlet = Greenlet::unbound();
        greenlet.bind(body);
        greenlet
    }

    /// Gives an unbound greenlet its function.
    ///
    /// # Panics
    /// If it has one already, or had; [`try_bind`](Greenlet::try_bind) returns that as an error.
    #[doc(alias = "run")]
    pub fn bind(&self, body: impl FnOnce(T) -> T + 'static) {
        if let Err(error) = self.try_bind(body) {
            panic!("{error}");
        }
    }

    /// Gives an unbound greenlet its function.
    ///
    /// # Errors
    /// It has one already, or had, or is not an explicit greenlet; the function is dropped.
    pub fn try_bind(&self, body: impl FnOnce(T) -> T + 'static) -> Result<(), BindError> {
        self.node.bind(Body::new(body))
    }

    /// The greenlet that runs, as one that exchanges values of `T`.
    ///
    /// On a thread that made none, and outside of all greenlets, it is the thread's main greenlet. In a greenlet
    /// that the hub schedules (see [`spawn`](crate::spawn)) it is that one, whose parent is the main greenlet. An
    /// isolated greenlet is the main one of those that are spawned in it.
    ///
    /// # Examples
    /// ```
    /// use greenlet::Greenlet;
    ///
    /// let main = Greenlet::<u8>::current();
    /// let child = Greenlet::new({
    ///     let main = main.clone();
    ///     move |n: u8| main.switch(n + 1)
    /// });
    /// assert_eq!(child.switch(1), 2);
    /// assert_eq!(child.parent(), Some(main));
    /// ```
    #[must_use]
    #[doc(alias = "getcurrent")]
    pub fn current() -> Greenlet<T> {
        Greenlet::view(NodeRef::current(Hub::get()))
    }

    /// Switches to this greenlet, and returns what is sent to the current one when somebody switches back.
    ///
    /// Switching to a dead greenlet switches to its nearest living ancestor; if that is the current one, as well
    /// as for a switch to oneself, `value` comes back at once.
    ///
    /// # Panics
    /// Where [`try_switch`](Greenlet::try_switch) returns an error; and with the panic of a child of the current
    /// greenlet that panicked instead of switching back.
    #[inline(always)]
    pub fn switch(&self, value: T) -> T {
        let hub = Hub::get();
        let came_back = match self.node.task() {
            Some(task) => hub.switch(
                task,
                value,
                |value| value,
                |arrival| or_panic(land::<T, T>(hub, arrival)),
            ),
            None => Err(value),
        };
        match came_back {
            Ok(value) => value,
            Err(value) => or_panic(self.switch_slowly(hub, value)),
        }
    }

    /// As [`switch`](Greenlet::switch), with an error where the switch cannot be made, or ends without a value.
    ///
    /// # Errors
    /// Before the switch, with `value` in the error: this greenlet is unbound, parked or runnable, awaits a value
    /// of another type, or there is no stack to start it with. After the switch: [`SwitchError::Killed`], if a
    /// child was killed, and [`SwitchError::Deadlock`].
    ///
    /// # Panics
    /// With the panic of a child that panicked instead of switching back, or if a child ended with a value of
    /// another type than `T`.
    #[inline(always)]
    pub fn try_switch(&self, value: T) -> Result<T, SwitchError<T>> {
        let hub = Hub::get();
        let came_back = match self.node.task() {
            Some(task) => hub.switch(task, value, Ok, |arrival| land(hub, arrival)),
            None => Err(value),
        };
        match came_back {
            Ok(outcome) => outcome,
            Err(value) => self.switch_slowly(hub, value),
        }
    }

    /// A switch to one that is not simply suspended, or that is watched.
    #[cold]
    fn switch_slowly(&self, hub: &Hub, value: T) -> Result<T, SwitchError<T>> {
        if self.node.is_unbound() {
            return Err(SwitchError::Unbound(value));
        }
        let target = self.node.nearest_living();
        if target.is_current(hub) {
            return Ok(value);
        }
        match target.task() {
            Some(task) => match hub.deliver(task, value) {
                Ok(()) => land(hub, hub.switch_to(task)),
                Err(value) => Err(why_not(task, value)),
            },
            None => {
                let task = node::start(hub, &target, value)?;
                land(hub, hub.switch_to(task))
            }
        }
    }

    /// Throws `payload` in this greenlet, as the panic of its pending switch, and switches to it.
    ///
    /// It may catch it and go on. One that has not started dies without running, and the payload is thrown in its
    /// nearest living ancestor; a dead one's likewise. The panic hook is not run: nothing is printed.
    ///
    /// # Errors
    /// As for [`try_switch`](Greenlet::try_switch), with the payload in the error.
    ///
    /// # Panics
    /// With the payload, if it is the current greenlet that it comes to.
    ///
    /// # Examples
    /// ```
    /// use greenlet::Greenlet;
    /// use std::panic::{AssertUnwindSafe, catch_unwind};
    ///
    /// let careful = Greenlet::new(|n: i32| {
    ///     let parent = Greenlet::<i32>::current().parent().unwrap();
    ///     match catch_unwind(AssertUnwindSafe(|| parent.switch(n))) {
    ///         Ok(n) => n,
    ///         Err(payload) => *payload.downcast::<i32>().unwrap(),
    ///     }
    /// });
    /// careful.switch(1);
    /// assert_eq!(careful.throw(Box::new(7)).unwrap(), 7);
    /// ```
    pub fn throw(&self, payload: Payload) -> Result<T, SwitchError<Payload>> {
        refuse_with_panic_abort::<T>();
        self.throw_special(Special::Throw(payload))
            .map_err(|error| {
                error.map(|special| match special {
                    Special::Throw(payload) => payload,
                    _ => unreachable!("what comes back is what was sent"),
                })
            })
    }

    /// Kills this greenlet: unwinds it from its pending switch, so that its destructors run, and switches to it.
    ///
    /// Its result, that it was killed, goes to *its* parent, which need not be the one that calls this. One that
    /// has not started never runs. Killing a dead one changes nothing. Killing the current greenlet unwinds it.
    ///
    /// # Errors
    /// [`SwitchError::Killed`] is what the parent of the killed one gets. Otherwise as for
    /// [`try_switch`](Greenlet::try_switch); and [`SwitchError::Main`] for a thread's main greenlet, which would
    /// end the program.
    ///
    /// # Examples
    /// ```
    /// use greenlet::Greenlet;
    /// use greenlet::error::SwitchError;
    ///
    /// let child = Greenlet::new(|n: i32| Greenlet::<i32>::current().parent().unwrap().switch(n));
    /// child.switch(1);
    /// assert!(matches!(child.kill(), Err(SwitchError::Killed)));
    /// assert!(child.is_dead());
    /// ```
    #[doc(alias = "throw")]
    #[doc(alias = "GreenletExit")]
    pub fn kill(&self) -> Result<T, SwitchError<()>> {
        refuse_with_panic_abort::<T>();
        self.throw_special(Special::Kill)
            .map_err(|error| error.map(|_| ()))
    }

    fn throw_special(&self, special: Special) -> Result<T, SwitchError<Special>> {
        let hub = Hub::get();
        let kill = matches!(special, Special::Kill);
        if kill && self.node.is_main(hub) {
            return Err(SwitchError::Main(special));
        }
        let (target, special) = ending::throw_into(&self.node, special);
        if target.is_current(hub) {
            return land_special(hub, special);
        }
        let Some(task) = target.task() else {
            unreachable!("the nearest that has started has a task");
        };
        if task.unwinding.get() {
            return Err(SwitchError::Unwinding(special));
        }
        match hub.deliver_special(task, special) {
            Ok(()) => land(hub, hub.switch_to(task)),
            // It has ended, and nobody awaits to be told.
            Err(Special::ChildKilled) => Err(SwitchError::Killed),
            Err(special) => Err(why_not(task, special)),
        }
    }

    /// The parent: whom a result goes to. None for a thread's main greenlet, and for an isolated one.
    ///
    /// It is given as one that exchanges values of `T`; see [`cast`](Greenlet::cast).
    #[must_use]
    pub fn parent(&self) -> Option<Greenlet<T>> {
        self.node.parent(Hub::get()).map(Greenlet::view)
    }

    /// Makes `parent` the one whom a result goes to.
    ///
    /// # Errors
    /// It would be its own ancestor then, or this greenlet is a thread's main one, or one that the hub schedules.
    ///
    /// # Examples
    /// ```
    /// use greenlet::Greenlet;
    ///
    /// let one = Greenlet::new(|n: u8| n);
    /// let two = Greenlet::new(|n: u8| n);
    /// one.set_parent(&two)?;
    /// assert_eq!(one.parent(), Some(two.clone()));
    /// assert!(two.set_parent(&one).is_err());
    /// # Ok::<(), greenlet::error::ParentError>(())
    /// ```
    pub fn set_parent<U>(&self, parent: &Greenlet<U>) -> Result<(), ParentError> {
        self.node.set_parent(Hub::get(), &parent.node)
    }

    /// The same greenlet, as one that exchanges values of `U`.
    ///
    /// What a greenlet really awaits is known when it is switched to: the argument of its function if it has not
    /// started, else what its pending `switch` call returns. A value of another type is refused.
    ///
    /// # Examples
    /// ```
    /// use greenlet::Greenlet;
    /// use greenlet::error::SwitchError;
    ///
    /// let numbers = Greenlet::new(|n: i32| n);
    /// let error = numbers.cast::<String>().try_switch("five".into()).unwrap_err();
    /// assert_eq!(error.to_string(), "the greenlet awaits a value of type i32, and not of type alloc::string::String");
    /// assert_eq!(error.into_value().unwrap(), "five");
    /// ```
    #[must_use]
    pub fn cast<U: 'static>(&self) -> Greenlet<U> {
        Greenlet::view(self.node.clone())
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> GreenletState {
        self.node.state()
    }

    /// Whether its function has ended. A thread's main greenlet is never dead.
    #[must_use]
    #[doc(alias = "dead")]
    pub fn is_dead(&self) -> bool {
        self.node.is_dead()
    }

    /// Whether it has started and has not ended.
    #[must_use]
    #[doc(alias = "bool")]
    pub fn is_active(&self) -> bool {
        self.node.task().is_some() && !self.node.is_dead()
    }

    /// The greenlet's number.
    #[must_use]
    pub fn id(&self) -> GreenletId {
        GreenletId(self.node.id())
    }

    /// The greenlet's name: what the [`Builder`] was given, or `greenlet-` and its number.
    #[must_use]
    pub fn name(&self) -> String {
        self.node.name()
    }

    fn view(node: NodeRef) -> Greenlet<T> {
        Greenlet {
            node,
            values: PhantomData,
        }
    }
}

impl Builder {
    /// Makes a greenlet that is switched to explicitly, with this builder's name and stack size.
    ///
    /// # Errors
    /// The stack size is out of range.
    ///
    /// # Examples
    /// ```
    /// let deep = greenlet::Builder::new()
    ///     .name("deep")
    ///     .stack_size(4 << 20)
    ///     .greenlet(|n: u64| n + 1)?;
    /// assert_eq!(deep.switch(1), 2);
    /// # Ok::<(), greenlet::error::SpawnError>(())
    /// ```
    #[track_caller]
    pub fn greenlet<T: 'static>(
        self,
        body: impl FnOnce(T) -> T + 'static,
    ) -> Result<Greenlet<T>, SpawnError> {
        let greenlet = Greenlet::view(NodeRef::explicit(self.options()?));
        greenlet.bind(body);
        Ok(greenlet)
    }
}

/// A switch has come back: what the caller makes of it.
#[cold]
fn land<T: 'static, S>(hub: &Hub, arrival: Arrival<T>) -> Result<T, SwitchError<S>> {
    match arrival {
        Arrival::Value(value, origin) => {
            trace::arrive(hub, TraceKind::Switch, origin);
            Ok(value)
        }
        Arrival::Special(special, origin) => {
            match special {
                Special::ChildKilled => trace::arrive(hub, TraceKind::Switch, origin),
                Special::Deadlock => {}
                _ => trace::arrive(hub, TraceKind::Throw, origin),
            }
            land_special(hub, special)
        }
    }
}

#[cold]
fn land_special<T: 'static, S>(hub: &Hub, special: Special) -> Result<T, SwitchError<S>> {
    match special {
        Special::ChildKilled => Err(SwitchError::Killed),
        Special::Deadlock => Err(Deadlock.into()),
        // Two unwindings at once would abort the process.
        _ if std::thread::panicking() => Err(SwitchError::Killed),
        Special::Throw(payload) => hub::rethrow(payload),
        Special::Kill => hub::throw_kill(hub),
        Special::Mismatch(sent) => panic!(
            "a child greenlet ended with a value of type {sent}, and its parent awaits one of type {}",
            std::any::type_name::<T>()
        ),
    }
}

/// Why a living greenlet does not take this value now.
#[cold]
fn why_not<V: 'static>(task: TaskPtr, value: V) -> SwitchError<V> {
    match hub::awaited_by(task) {
        Some(awaited) => SwitchError::WrongType {
            value,
            awaited,
            sent: std::any::type_name::<V>(),
        },
        None if node::is_lost(task) => SwitchError::Lost(value),
        None if node::is_runnable(task) => SwitchError::Runnable(value),
        None => SwitchError::Parked(value),
    }
}

/// What the panicking form of a switch makes of the other.
#[cold]
fn or_panic<T, V>(outcome: Result<T, SwitchError<V>>) -> T {
    match outcome {
        Ok(value) => value,
        Err(SwitchError::Deadlock(_)) => hub::panic_deadlock(),
        Err(error) => panic!("{error}"),
    }
}

impl<T> Clone for Greenlet<T> {
    fn clone(&self) -> Greenlet<T> {
        Greenlet::view(self.node.clone())
    }
}

impl<T, U> PartialEq<Greenlet<U>> for Greenlet<T> {
    fn eq(&self, other: &Greenlet<U>) -> bool {
        self.node.id() == other.node.id()
    }
}

impl<T> Eq for Greenlet<T> {}

impl<T> std::hash::Hash for Greenlet<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.node.id().hash(state);
    }
}

impl<T> fmt::Debug for Greenlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greenlet")
            .field("name", &self.name())
            .field("state", &self.state())
            .finish()
    }
}
