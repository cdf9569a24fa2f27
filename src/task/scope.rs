//! `scope`: greenlets that borrow from the frame that spawns them.
//!
//! The hub takes `'static` closures only. Here the lifetime of a closure is
//! erased, which is sound because `scope` does not return, and is not unwound
//! out of, before everything of that lifetime is gone:
//!
//! ```text
//!   owner's stack                          child's stack
//!   scope(|s| …)                           Body { f, packet, child }
//!     catch f(s)                             catch f      captures are gone
//!     wait until running == 0  ◀──┐          packet       result handed over,
//!     resume what was caught      │                       or dropped here
//!                                 └── wake   child        running -= 1
//! ```
//!
//! Three things hold this up:
//! * `Body` lets go of its parts in that order, also when it is dropped without
//!   having run. Whatever refers to the task after that (a `Current`, a handle)
//!   finds a block in which nothing borrowed is left.
//! * The owner waits by catch, wait, resume, and not in a destructor: others
//!   can run meanwhile. A kill or a timeout does not end the wait; it is passed
//!   on to the children, and thrown when they have ended.
//! * Handles may be leaked. The count goes down when the child's body is gone,
//!   whoever holds what.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use super::builder::Builder;
use super::handle::{GreenletId, JoinHandle};
use super::waiting::{Source, Waitable};
use crate::error::{Deadlock, JoinError, SpawnError};
use crate::hub::{
    self, Ended, Hub, Kind, Payload, Reason, SpawnOptions, TaskRef, WaitQueue, Woken,
};
use crate::sys::pass::PassThrough;
use crate::sys::{fork, os};

/// Runs `f`, which may spawn greenlets that borrow from the caller's frame, and
/// waits for all of them. Its shape is that of [`std::thread::scope`].
///
/// * If `f` panics, the children run on to their end, as in std, and the panic
///   goes on after that.
/// * If the caller is killed or runs out of time, in `f` or in the wait, the
///   children are killed, and the scope waits for their end: no kill can make
///   it return before. A child that is spawned after that is killed unstarted.
/// * If all wait for each other, which the hub tells the main greenlet, a scope
///   there kills its children, waits for them, and panics with [`Deadlock`].
///   Children that wait again after this leave nobody who could go on: the
///   process says so and aborts.
/// * In the child of a fork the greenlets of the parent are not there. A scope
///   whose owner forked waits in the child for what was spawned there. A
///   scoped greenlet that forked ends the child process with its own end, for
///   the owner of its scope is not there either.
///
/// Greenlets in the scope take turns with the others of the thread as usual;
/// none is started before the caller blocks. As with std's threads, the values
/// of a child's [`greenlet_local!`](crate::greenlet_local) variables may be
/// dropped after the scope has returned.
///
/// # Panics
/// If a child panicked whose handle was not joined; with [`Deadlock`] as told.
///
/// # Examples
/// ```
/// let words = vec!["eat", "play"];
/// let mut lengths = [0; 2];
/// greenlet::scope(|s| {
///     for (word, length) in words.iter().zip(&mut lengths) {
///         s.spawn(move || {
///             greenlet::yield_now();
///             *length = word.len();
///         });
///     }
/// });
/// assert_eq!(lengths, [3, 4]);
/// assert_eq!(words.len(), 2);
/// ```
///
/// Nothing borrowed escapes:
/// ```compile_fail,E0597
/// greenlet::scope(|s| {
///     let inner = String::from("gone when the closure returns");
///     let borrowed = &inner;
///     s.spawn(move || println!("{borrowed}"));
/// });
/// ```
/// ```compile_fail,E0521
/// let mut kept = None;
/// greenlet::scope(|s| {
///     kept = Some(s.spawn(|| 1));
/// });
/// ```
/// ```compile_fail,E0277
/// greenlet::scope(|s| {
///     std::thread::spawn(move || s.spawn(|| ()));
/// });
/// ```
#[track_caller]
pub fn scope<'env, F, T>(f: F) -> T
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    let scope = Scope {
        family: Family::new(),
        scope: PhantomData,
        env: PhantomData,
    };
    let result = hub::catch(|| f(&scope));
    // From here to its end, an unwinding would leave children behind.
    let guard = AbortOnUnwind;
    if let Err(payload) = &result {
        if hub::is_interrupt(payload) || payload.is::<Deadlock>() {
            scope.family.kill_all();
        }
    }
    let cut_short = scope.family.join_all();
    std::mem::forget(guard);

    match (result, cut_short) {
        (Ok(value), None) if scope.family.unjoined_panics.get() == 0 => value,
        (Ok(_), None) => panic!("a scoped greenlet panicked"),
        (Err(payload), None) => hub::rethrow(payload),
        // What `f` returned or threw gives way to what came later, or a kill
        // could be lost.
        (result, Some(payload)) => {
            hub::contain(move || drop(result));
            if payload.is::<Deadlock>() {
                hub::panic_deadlock();
            }
            hub::rethrow(payload)
        }
    }
}

/// Spawns greenlets in a [`scope`]; see [`std::thread::Scope`].
///
/// `'scope` is the time in which scoped greenlets run: from the beginning of
/// the scope to the moment at which all of them have ended. `'env` is that of
/// what they borrow, and outlives it.
///
/// # Examples
/// A child gets the scope by reference and spawns siblings:
/// ```
/// let total = std::cell::Cell::new(0);
/// greenlet::scope(|s| {
///     s.spawn(|| {
///         s.spawn(|| total.set(total.get() + 1));
///         total.set(total.get() + 1);
///     });
/// });
/// assert_eq!(total.get(), 2);
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    family: Family,
    // Invariant, as in std: a scope that could pass for one with another
    // lifetime would take closures that borrow for less.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl<'scope> Scope<'scope, '_> {
    /// Spawns a greenlet that may borrow for `'scope`; otherwise as
    /// [`spawn`](crate::spawn).
    ///
    /// # Panics
    /// If the machine has no stack left for it; [`Builder::spawn_scoped`]
    /// returns that as an error.
    #[track_caller]
    pub fn spawn<F, T>(&'scope self, f: F) -> ScopedJoinHandle<'scope, T>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        match self.spawn_with(SpawnOptions::new(), f) {
            Ok(handle) => handle,
            Err(error) => panic!("failed to spawn a greenlet: {error}"),
        }
    }

    fn spawn_with<F, T>(
        &'scope self,
        options: SpawnOptions,
        f: F,
    ) -> Result<ScopedJoinHandle<'scope, T>, SpawnError>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        let family = &self.family;
        let packet = Rc::new(Packet(Cell::new(None)));
        let child = Child::enter(family);
        let number = child.number;
        let body = Body {
            f,
            packet: Rc::clone(&packet),
            child,
        };
        let body: Box<dyn FnOnce() + 'scope> = Box::new(move || body.run());
        // SAFETY: only the lifetime changes. The hub either calls the closure
        // or drops it, both on the greenlet's stack or, if there is no stack,
        // in this call. Either way its `Child` is dropped after everything else
        // in it, and `scope` returns only when all of them are. Where the hub
        // does neither (the thread has ended, or this is another process after
        // a fork), the owner of the scope is not resumed any more, or what is
        // left of the closure is never looked at again.
        let body: Box<dyn FnOnce() + 'static> = unsafe { std::mem::transmute(body) };
        let handle = Hub::get().spawn(options, body)?;
        // It is never given up, whatever patched calls it makes: its end is awaited.
        handle.task().scoped.set(true);
        family.add(number, handle.task().clone());
        Ok(ScopedJoinHandle {
            greenlet: JoinHandle::new(handle),
            packet,
            family,
        })
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope")
            .field("running", &self.family.running.get())
            .field("unjoined_panics", &self.family.unjoined_panics.get())
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Spawns a greenlet in a scope, as [`Scope::spawn`] does. It is
    /// [`std::thread::Builder::spawn_scoped`].
    ///
    /// # Errors
    /// As for [`spawn`](Builder::spawn).
    ///
    /// # Examples
    /// ```
    /// use greenlet::{Builder, scope};
    ///
    /// let text = String::from("borrowed");
    /// scope(|s| {
    ///     let counter = Builder::new().name("counter");
    ///     let handle = counter.spawn_scoped(s, || text.len())?;
    ///     assert_eq!(handle.name(), "counter");
    ///     assert_eq!(handle.join().unwrap(), 8);
    ///     Ok::<(), greenlet::error::SpawnError>(())
    /// })?;
    /// # Ok::<(), greenlet::error::SpawnError>(())
    /// ```
    #[track_caller]
    pub fn spawn_scoped<'scope, F, T>(
        self,
        scope: &'scope Scope<'scope, '_>,
        f: F,
    ) -> Result<ScopedJoinHandle<'scope, T>, SpawnError>
    where
        F: FnOnce() -> T + 'scope,
        T: 'scope,
    {
        scope.spawn_with(self.options()?, f)
    }
}

/// What the greenlets of one scope have in common. It stands in the frame of
/// the owner, and children touch it for the last time when they leave it.
struct Family {
    /// Children whose body is not gone yet, those of this process.
    running: Cell<usize>,
    /// The same, by number, for a kill.
    children: RefCell<BTreeMap<u64, TaskRef>>,
    next_number: Cell<u64>,
    unjoined_panics: Cell<usize>,
    /// The children have been killed, and those to come are.
    killed: Cell<bool>,
    /// Where the owner waits.
    owner: WaitQueue,
    /// The process whose children `running` counts.
    generation: Cell<u32>,
}

impl Family {
    fn new() -> Family {
        Family {
            running: Cell::new(0),
            children: RefCell::new(BTreeMap::new()),
            next_number: Cell::new(0),
            unjoined_panics: Cell::new(0),
            killed: Cell::new(false),
            owner: WaitQueue::new(),
            generation: Cell::new(fork::generation()),
        }
    }

    /// The child of a fork has none of the greenlets that ran before it, but
    /// for the one that forked; and that one, if it is of this family, has no
    /// owner that could wait for it.
    fn forget_before_fork(&self) {
        if self.generation.replace(fork::generation()) != fork::generation() {
            self.running.set(0);
            // Not dropped: the blocks behind them are the parent's business.
            std::mem::forget(self.children.take());
        }
    }

    fn add(&self, number: u64, task: TaskRef) {
        if self.killed.get() {
            hub::kill(Hub::get(), task.ptr());
        }
        let _pass = PassThrough::enter();
        self.children.borrow_mut().insert(number, task);
    }

    fn kill_all(&self) {
        self.forget_before_fork();
        self.killed.set(true);
        for task in self.children.borrow().values() {
            // It is queued, and does not run before the owner waits.
            hub::kill(Hub::get(), task.ptr());
        }
    }

    /// Waits for the children. Returns what would have ended this wait before
    /// that, for the owner to throw now.
    fn join_all(&self) -> Option<Payload> {
        const REASON: Reason = Reason::new("waiting for the greenlets of its scope");
        let mut cut_short: Option<Payload> = None;
        loop {
            self.forget_before_fork();
            if self.running.get() == 0 {
                return cut_short;
            }
            if self.killed.get() {
                let woken = self.owner.wait_uninterrupted(REASON, Kind::Local);
                if woken == Woken::Deadlock {
                    abort("the greenlets of a scope were killed, and wait for ever nevertheless");
                }
                continue;
            }
            match hub::catch(|| self.owner.wait(REASON, Kind::Local, None)) {
                Ok(Woken::Deadlock) => cut_short = Some(Box::new(Deadlock)),
                Ok(_) => continue,
                Err(payload) => cut_short = Some(payload),
            }
            self.kill_all();
        }
    }
}

/// A child's place in its family; leaves it when dropped.
struct Child<'scope> {
    family: &'scope Family,
    number: u64,
    generation: u32,
}

impl<'scope> Child<'scope> {
    fn enter(family: &'scope Family) -> Child<'scope> {
        family.forget_before_fork();
        let number = family.next_number.get();
        family.next_number.set(number + 1);
        family.running.set(family.running.get() + 1);
        Child {
            family,
            number,
            generation: fork::generation(),
        }
    }
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        if self.generation != fork::generation() {
            // It has forked, and this is the child: nobody counts it here.
            return;
        }
        let family = self.family;
        let running = family.running.get() - 1;
        family.running.set(running);
        let pass = PassThrough::enter();
        let task = family.children.borrow_mut().remove(&self.number);
        drop(pass);
        drop(task);
        if running == 0 {
            family.owner.wake_all();
        }
    }
}

/// What a scoped greenlet runs. The order of the fields is the order in which
/// they are dropped, and `child` has to be the last.
struct Body<'scope, F, T> {
    f: F,
    packet: Rc<Packet<T>>,
    child: Child<'scope>,
}

/// Where the result is left for the handle.
struct Packet<T>(Cell<Option<Result<T, Ended>>>);

impl<F: FnOnce() -> T, T> Body<'_, F, T> {
    fn run(self) {
        let Body { f, packet, child } = self;
        let panicked = || {
            let panics = &child.family.unjoined_panics;
            panics.set(panics.get() + 1);
        };
        let outcome = match hub::catch(f) {
            Ok(value) => Ok(value),
            Err(payload) if hub::is_kill(&payload) => Err(Ended::Killed),
            Err(payload) => {
                panicked();
                Err(Ended::Panicked(payload))
            }
        };
        packet.0.set(Some(outcome));
        // Without a handle the result is dropped here, still inside the scope.
        if let Err(payload) = hub::catch(move || drop(packet)) {
            if !hub::is_kill(&payload) {
                panicked();
            }
            hub::contain(move || drop(payload));
        }
        drop(child);
    }
}

/// Owns the result of a scoped greenlet; see [`std::thread::ScopedJoinHandle`].
///
/// Dropping it, or leaking it, changes nothing: the scope waits all the same.
///
/// # Examples
/// ```
/// let numbers = [1, 2, 3];
/// let sum: i32 = greenlet::scope(|s| {
///     let handle = s.spawn(|| numbers.iter().sum());
///     handle.join().unwrap()
/// });
/// assert_eq!(sum, 6);
/// ```
pub struct ScopedJoinHandle<'scope, T> {
    greenlet: JoinHandle<()>,
    packet: Rc<Packet<T>>,
    family: &'scope Family,
}

impl<T> ScopedJoinHandle<'_, T> {
    /// Waits for the greenlet to end and returns its result. A panic that is
    /// returned here does not make the scope panic.
    ///
    /// # Errors
    /// As for [`JoinHandle::join`].
    pub fn join(self) -> Result<T, JoinError> {
        self.greenlet.wait_or_deadlock()?;
        match self.packet.0.take() {
            Some(Ok(value)) => Ok(value),
            Some(Err(ended)) => {
                if matches!(ended, Ended::Panicked(_)) {
                    let panics = &self.family.unjoined_panics;
                    panics.set(panics.get() - 1);
                }
                Err(ended.into())
            }
            // It was killed before its first turn.
            None => Err(JoinError::Killed),
        }
    }

    /// Waits for the greenlet to end; its result stays.
    ///
    /// # Panics
    /// With [`Deadlock`] if it can never end.
    pub fn wait(&self) {
        self.greenlet.wait();
    }

    /// Waits for the greenlet to end, for at most `timeout`; whether it has.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.greenlet.wait_timeout(timeout)
    }

    /// Whether the greenlet has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.greenlet.is_finished()
    }

    /// Asks the greenlet to end, and returns at once; see [`JoinHandle::kill`].
    /// A killed child does not make its scope panic.
    pub fn kill(&self) {
        self.greenlet.kill();
    }

    /// Kills the greenlet and waits until it has ended.
    ///
    /// # Panics
    /// With [`Deadlock`] if it can never end.
    pub fn kill_wait(&self) {
        self.greenlet.kill_wait();
    }

    /// The greenlet's number.
    #[must_use]
    pub fn id(&self) -> GreenletId {
        self.greenlet.id()
    }

    /// The greenlet's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.greenlet.name()
    }
}

impl<T> Waitable for ScopedJoinHandle<'_, T> {
    fn is_ready(&self) -> bool {
        self.greenlet.is_ready()
    }

    fn source(&self) -> Source<'_> {
        self.greenlet.source()
    }
}

impl<T> fmt::Debug for ScopedJoinHandle<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScopedJoinHandle")
            .field("greenlet", &self.greenlet)
            .finish_non_exhaustive()
    }
}

/// The last resort against leaving a scope too early.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        abort("the wait for the greenlets of a scope was unwound");
    }
}

fn abort(what: &str) -> ! {
    os::write_stderr(format!("greenlet: fatal: {what}\n").as_bytes());
    os::abort()
}
