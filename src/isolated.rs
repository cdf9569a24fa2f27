//! Isolated greenlets: each has thread-local storage of its own.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::{Deadlock, IsolationError, JoinError, SpawnError};
use crate::hub::{self, AtEnd, Gate, Hub, HubShared, Reason, Seat, Task, Wait};
use crate::monkey;
#[cfg(not(target_feature = "crt-static"))]
use crate::monkey::Thread;
use crate::sys::clock;
use crate::task::{self, Builder, GreenletId, Source, Waitable};

/// Spawns a greenlet that has thread-local storage of its own: for all code that runs
/// in it, it is a thread.
///
/// It waits and is scheduled as those of [`spawn`](crate::spawn) are, on the same OS
/// thread. But its thread-locals, its errno, its [`std::thread::current`] and its
/// count of panics are its own, so that code may keep what it likes in thread-locals
/// across a blocking call. Once [patched](crate::monkey::patch_all), what belongs to
/// the thread parks it too: [`std::thread::park`], and with it the channels of std
/// and crossbeam, and the locks of parking_lot.
///
/// In return `body` and its result must be [`Send`]. Destructors of thread-locals run
/// when `body` has returned, before those who join are told. Light greenlets that are
/// spawned inside share its thread-locals, and are killed and waited for before that.
///
/// It costs about 6 KiB more than a light one, and some ns more to switch to. What
/// such a greenlet cannot do that a thread can is in `docs/isolated.md`.
///
/// # Panics
/// Where [`Builder::spawn_isolated`] returns an error.
///
/// # Examples
/// ```
/// use std::cell::Cell;
///
/// thread_local!(static COUNT: Cell<u32> = const { Cell::new(0) });
///
/// COUNT.set(1);
/// let handle = greenlet::spawn_isolated(|| COUNT.replace(7));
/// assert_eq!(handle.join().unwrap(), 0);
/// assert_eq!(COUNT.get(), 1);
/// ```
#[track_caller]
pub fn spawn_isolated<F, T>(body: F) -> IsolatedHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match Builder::new().spawn_isolated(body) {
        Ok(handle) => handle,
        Err(error) => panic!("failed to spawn an isolated greenlet: {error}"),
    }
}

/// Whether this process can have isolated greenlets; if not, what is missing.
///
/// # Errors
/// [`IsolationError`], which says what it is.
///
/// # Examples
/// ```
/// match greenlet::isolation() {
///     Ok(()) => assert_eq!(greenlet::spawn_isolated(|| 1).join().unwrap(), 1),
///     Err(error) => println!("there are light greenlets only: {error}"),
/// }
/// ```
pub fn isolation() -> Result<(), IsolationError> {
    static FOUND: AtomicBool = AtomicBool::new(false);
    if FOUND.load(Ordering::Acquire) {
        return Ok(());
    }
    if let Some(symbol) = monkey::not_in_place() {
        return Err(IsolationError::NotInterposed { symbol });
    }
    hub::isolation()?;
    FOUND.store(true, Ordering::Release);
    Ok(())
}

impl Builder {
    /// Spawns the greenlet with thread-local storage of its own, as
    /// [`spawn_isolated`] does.
    ///
    /// # Errors
    /// As for [`spawn`](Builder::spawn); and [`SpawnError::Isolation`] where isolated
    /// greenlets are not possible, or there is no memory for another one.
    ///
    /// # Examples
    /// ```
    /// let handle = greenlet::Builder::new()
    ///     .name("worker")
    ///     .spawn_isolated(|| greenlet::current().name())?;
    /// assert_eq!(handle.join().unwrap(), "worker");
    /// # Ok::<(), greenlet::error::SpawnError>(())
    /// ```
    #[track_caller]
    pub fn spawn_isolated<F, T>(self, body: F) -> Result<IsolatedHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        isolation()?;
        let options = self.options()?;
        let name = options.name.clone();
        let hub = Hub::get();
        let result = Arc::new(Mutex::new(None));
        let to = Arc::clone(&result);
        let seat = Seat::new()?;
        #[cfg(not(target_feature = "crt-static"))]
        let thread = Thread::of_greenlet(hub, &seat);
        #[cfg(not(target_feature = "crt-static"))]
        let me = Arc::clone(&thread);
        let body = move || {
            #[cfg(not(target_feature = "crt-static"))]
            me.begin();
            let (result, interrupt) = match hub::catch(body) {
                Ok(value) => (Ok(value), None),
                Err(payload) if hub::is_kill(&payload) => (Err(JoinError::Killed), Some(payload)),
                Err(payload) => (Err(JoinError::Panicked(payload)), None),
            };
            *to.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            // If nobody else has it any more, the result is dropped here, while there
            // are thread-locals.
            drop(to);
            if let Some(payload) = interrupt {
                hub::rethrow(payload);
            }
        };
        #[cfg(not(target_feature = "crt-static"))]
        let record = Arc::clone(&thread);
        let spawned = hub.spawn_isolated(seat, options, body, |task| {
            Arc::new(End {
                gate: Gate::new(),
                hub: hub.shared(),
                key: task.key(),
                id: GreenletId(task.id),
                name,
                #[cfg(not(target_feature = "crt-static"))]
                thread,
            })
        });
        #[cfg(not(target_feature = "crt-static"))]
        if spawned.is_err() {
            record.never_begins();
        }
        let end = spawned?;
        Ok(IsolatedHandle { end, result })
    }
}

/// The end of an isolated greenlet, and how to find it until then.
struct End {
    gate: Gate,
    hub: Arc<HubShared>,
    key: u64,
    id: GreenletId,
    name: Option<Box<str>>,
    /// What functions of libc know of it.
    #[cfg(not(target_feature = "crt-static"))]
    thread: Arc<Thread>,
}

impl AtEnd for End {
    /// The destructors of thread-locals have run.
    fn ended(&self, task: &Task) {
        #[cfg(not(target_feature = "crt-static"))]
        self.thread.ended(task);
        #[cfg(target_feature = "crt-static")]
        let _ = task;
        self.gate.open();
    }
}

/// Owns the result of an isolated greenlet. Dropping it detaches the greenlet, which
/// runs on.
///
/// It is a [`JoinHandle`](crate::JoinHandle) that goes from thread to thread, and from
/// greenlet to greenlet, as [`std::thread::JoinHandle`] does.
///
/// # Examples
/// ```
/// let handle = greenlet::spawn_isolated(|| 6 * 7);
/// let joined = std::thread::spawn(move || handle.join().unwrap());
/// while !joined.is_finished() {
///     greenlet::sleep(std::time::Duration::from_millis(1));
/// }
/// assert_eq!(joined.join().unwrap(), 42);
/// ```
pub struct IsolatedHandle<T> {
    end: Arc<End>,
    result: Arc<Mutex<Option<Result<T, JoinError>>>>,
}

impl<T> IsolatedHandle<T> {
    /// Waits for the greenlet to end and returns its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] with the panic's payload, [`JoinError::Killed`], or
    /// [`JoinError::Deadlock`] if it can never end.
    ///
    /// # Examples
    /// ```
    /// let handle = greenlet::spawn_isolated(|| panic!("no"));
    /// assert!(handle.join().unwrap_err().is_panic());
    /// ```
    pub fn join(self) -> Result<T, JoinError> {
        if !self.wait_until(None) {
            return Err(Deadlock.into());
        }
        let result = self
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Killed before its first turn.
        result.unwrap_or(Err(JoinError::Killed))
    }

    /// Waits for the greenlet to end; its result stays.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if it can never end.
    pub fn wait(&self) {
        if !self.wait_until(None) {
            hub::panic_deadlock();
        }
    }

    /// As [`wait`](IsolatedHandle::wait), for at most `timeout`; whether it has ended.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(Some(clock::deadline_after(timeout)))
    }

    fn wait_until(&self, deadline: Option<u64>) -> bool {
        let reason = Reason::with("joining greenlet", self.end.id.0);
        self.end
            .gate
            .wait(Wait::shared(reason, deadline))
            .is_answered()
    }

    /// Whether it has ended, the destructors of its thread-locals included.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.end.gate.is_open()
    }

    /// Kills the greenlet, as [`JoinHandle::kill`](crate::JoinHandle::kill) does, from
    /// any thread.
    ///
    /// # Examples
    /// ```
    /// let handle = greenlet::spawn_isolated(|| greenlet::sleep(std::time::Duration::MAX));
    /// handle.kill();
    /// assert!(handle.join().unwrap_err().is_killed());
    /// ```
    pub fn kill(&self) {
        task::refuse_with_panic_abort::<T>();
        hub::kill_on(&self.end.hub, self.end.key);
    }

    /// Kills the greenlet and waits until it has ended.
    ///
    /// # Panics
    /// With [`Deadlock`](crate::error::Deadlock) if it can never end.
    pub fn kill_wait(&self) {
        self.kill();
        self.wait();
    }

    /// The greenlet's number.
    #[must_use]
    pub fn id(&self) -> GreenletId {
        self.end.id
    }

    /// The greenlet's name: what the [`Builder`] was given, or `greenlet-` and its
    /// number.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.end.name {
            Some(name) => String::from(&**name),
            None => format!("greenlet-{}", self.end.id),
        }
    }
}

impl<T> Waitable for IsolatedHandle<T> {
    fn is_ready(&self) -> bool {
        self.is_finished()
    }

    fn source(&self) -> Source<'_> {
        Source::shared(&self.end.gate)
    }
}

impl<T> fmt::Debug for IsolatedHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IsolatedHandle")
            .field("name", &self.name())
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}
