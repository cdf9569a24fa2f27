//! Spawning.

use std::panic::Location;
use std::time::Duration;

use super::handle::JoinHandle;
use crate::error::SpawnError;
use crate::hub::{Hub, SpawnOptions, StackSize};
use crate::sys::clock;

/// Spawns a greenlet, which will run `body` when the current one blocks.
///
/// It is queued behind everybody who is runnable, and never runs before the
/// caller blocks: on the end of another greenlet, on a sleep, on I/O. **A
/// program whose `main` ends without having blocked prints nothing**; join what
/// you spawn. Dropping the handle detaches the greenlet.
///
/// The greenlet shares the thread-local storage of its thread, so `body` need
/// not be `Send`. In return, no code that runs in it may block while it relies
/// on a thread-local that the thread's other greenlets use meanwhile: one that
/// points into its stack, say, or that is set for the length of a call. A
/// `thread_local!` whose initialiser blocks, `scoped-tls`, and parking_lot's
/// queues are known to break.
///
/// # Panics
/// If the machine has no stack left for it; [`Builder::spawn`] returns that as
/// an error.
///
/// # Examples
/// ```
/// let greeting = String::from("hello");
/// let handle = greenlet::spawn(move || greeting.len());
/// assert_eq!(handle.join().unwrap(), 5);
/// ```
#[track_caller]
pub fn spawn<F, T>(body: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    or_panic(
        Hub::get()
            .spawn(SpawnOptions::new(), body)
            .map(JoinHandle::new),
    )
}

/// Spawns a greenlet that is queued after `delay`, as [`spawn`] does at once.
///
/// Until then it has no stack, and a kill ends it without its having run.
///
/// # Panics
/// If the machine has no stack left for it.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let handle = greenlet::spawn_later(Duration::from_millis(5), || "later");
/// assert_eq!(handle.join().unwrap(), "later");
/// ```
#[track_caller]
pub fn spawn_later<F, T>(delay: Duration, body: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    let deadline = clock::deadline_after(delay);
    let handle = Hub::get().spawn_at(SpawnOptions::new(), deadline, body);
    or_panic(handle.map(JoinHandle::new))
}

#[track_caller]
fn or_panic<T>(handle: Result<JoinHandle<T>, SpawnError>) -> JoinHandle<T> {
    match handle {
        Ok(handle) => handle,
        Err(error) => panic!("failed to spawn a greenlet: {error}"),
    }
}

/// Spawns a greenlet with a name, or with a stack of another size.
///
/// # Examples
/// ```
/// let handle = greenlet::Builder::new()
///     .name("parser")
///     .stack_size(1 << 20)
///     .spawn(|| greenlet::current().name())?;
/// assert_eq!(handle.join().unwrap(), "parser");
/// # Ok::<(), greenlet::error::SpawnError>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it spawns"]
pub struct Builder {
    name: Option<Box<str>>,
    stack_size: Option<usize>,
}

impl Builder {
    /// A builder for a greenlet like those of [`spawn`].
    pub fn new() -> Builder {
        Builder::default()
    }

    /// The name in reports, in overflow messages and in `Debug`. Without one
    /// it is `greenlet-` and the greenlet's id.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into().into_boxed_str());
        self
    }

    /// The size of the stack in bytes, rounded up to whole pages. The memory is
    /// only reserved: the kernel gives as much as the greenlet really uses.
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = Some(bytes);
        self
    }

    /// Spawns the greenlet, as [`spawn`] does.
    ///
    /// # Errors
    /// The stack size is out of range, or the machine has no stack left; the
    /// error names the limit and its value, and nobody else is disturbed.
    #[track_caller]
    pub fn spawn<F, T>(self, body: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let options = self.options()?;
        Hub::get().spawn(options, body).map(JoinHandle::new)
    }

    /// Spawns the greenlet after `delay`, as [`spawn_later`] does.
    ///
    /// # Errors
    /// As for [`spawn`](Builder::spawn).
    #[track_caller]
    pub fn spawn_later<F, T>(self, delay: Duration, body: F) -> Result<JoinHandle<T>, SpawnError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let options = self.options()?;
        let deadline = clock::deadline_after(delay);
        Hub::get()
            .spawn_at(options, deadline, body)
            .map(JoinHandle::new)
    }

    #[track_caller]
    pub(crate) fn options(self) -> Result<SpawnOptions, SpawnError> {
        Ok(SpawnOptions {
            id: None,
            name: self.name,
            stack_size: self.stack_size.map(StackSize::new).transpose()?,
            spawned_at: Location::caller(),
        })
    }
}
