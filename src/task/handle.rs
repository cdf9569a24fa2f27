//! `JoinHandle`: the owner of a greenlet's result.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::waiting::{Source, Waitable};
use crate::error::{Deadlock, JoinError};
use crate::hub::{self, Ended, Handle, Hub, Kind, Link, Reason, TaskRef, WaitQueue, Woken};
use crate::sys::clock;

/// The number of a greenlet: no two greenlets of a process have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GreenletId(pub(crate) u64);

impl fmt::Display for GreenletId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A registered link, for [`JoinHandle::unlink`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId(u64);

/// Owns the result of a greenlet. Dropping it detaches the greenlet, which
/// runs on.
///
/// It is the counterpart of [`std::thread::JoinHandle`], and of gevent's
/// `Greenlet` object. It stays on its thread, for the result need not be
/// `Send`. As a [`Future`] it completes with the result.
///
/// # Examples
/// ```
/// let handle = greenlet::spawn(|| 6 * 7);
/// assert!(!handle.is_finished());
/// handle.wait();
/// assert_eq!(handle.value(), Some(&42));
/// assert_eq!(handle.join().unwrap(), 42);
/// ```
#[doc(alias = "Greenlet")]
pub struct JoinHandle<T> {
    handle: Handle<T>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn new(handle: Handle<T>) -> JoinHandle<T> {
        JoinHandle { handle }
    }

    /// Waits for the greenlet to end and returns its result.
    ///
    /// # Errors
    /// [`JoinError::Panicked`] with the panic's payload, [`JoinError::Killed`],
    /// or [`JoinError::Deadlock`] if it can never end: when a greenlet joins
    /// itself, or all wait for each other.
    #[doc(alias = "get")]
    pub fn join(self) -> Result<T, JoinError> {
        self.wait_or_deadlock()?;
        self.into_result()
    }

    /// The result of a greenlet that has ended.
    #[inline]
    pub(crate) fn into_result(self) -> Result<T, JoinError> {
        match self.handle.into_outcome() {
            Some(Ok(value)) => Ok(value),
            Some(Err(ended)) => Err(ended.into()),
            None => unreachable!("the result is taken once, after the end"),
        }
    }

    /// Waits for the greenlet to end; its result stays.
    ///
    /// # Panics
    /// With [`Deadlock`] if it can never end.
    pub fn wait(&self) {
        if self.wait_or_deadlock().is_err() {
            hub::panic_deadlock();
        }
    }

    #[inline]
    pub(super) fn wait_or_deadlock(&self) -> Result<(), Deadlock> {
        while !self.is_finished() {
            if self.task().is_current() {
                // Killed before, it ends here as at any other blocking call.
                hub::check_interrupts();
                return Err(Deadlock);
            }
            let woken = self.queue().wait(self.reason(), Kind::Local, None);
            if woken == Woken::Deadlock {
                return Err(Deadlock);
            }
        }
        Ok(())
    }

    /// Waits for the greenlet to end, for at most `timeout`; whether it has.
    ///
    /// A timeout of zero lets whoever is runnable have one turn first.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(Some(clock::deadline_after(timeout)))
    }

    pub(crate) fn wait_until(&self, deadline: Option<u64>) -> bool {
        if !self.is_finished() {
            self.queue().wait(self.reason(), Kind::Local, deadline);
        }
        self.is_finished()
    }

    /// The value the greenlet returned; none while it runs, and none if it
    /// panicked or was killed.
    #[must_use]
    pub fn value(&self) -> Option<&T> {
        self.handle.peek()?.as_ref().ok()
    }

    /// Whether the greenlet has ended.
    #[must_use]
    #[doc(alias = "ready")]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Whether the greenlet has ended by returning.
    #[must_use]
    #[doc(alias = "successful")]
    pub fn is_successful(&self) -> bool {
        matches!(self.handle.peek(), Some(Ok(_)))
    }

    /// Asks the greenlet to end, and returns at once.
    ///
    /// A greenlet that waits is woken, and unwinds from there, so its
    /// destructors run; one that runs does so at its next blocking call; one
    /// that was never started never runs. What it has been handed already is
    /// not lost: then the kill comes at the next blocking call. Only the first
    /// kill counts, and one after the end does nothing.
    ///
    /// A `catch_unwind` around everything must rethrow what it does not know,
    /// or the greenlet survives. A held `std::sync::Mutex` is poisoned. A program
    /// that calls this does not compile with `panic = "abort"`.
    ///
    /// # Examples
    /// ```
    /// let handle = greenlet::spawn(|| greenlet::sleep(std::time::Duration::MAX));
    /// handle.kill();
    /// assert!(handle.join().unwrap_err().is_killed());
    /// ```
    pub fn kill(&self) {
        refuse_with_panic_abort::<T>();
        hub::kill(Hub::get(), self.handle.task().ptr());
    }

    /// Kills the greenlet and waits until it has ended. One that kills itself
    /// so unwinds from this call.
    ///
    /// # Panics
    /// With [`Deadlock`] if it can never end.
    pub fn kill_wait(&self) {
        self.kill();
        self.wait();
    }

    /// Has `callback` run, once, when the greenlet has ended, however it ended:
    /// in a greenlet of its own, where it may block. Callbacks run in the order
    /// of their registration, after those who join have been woken. One that
    /// panics does not keep the others from running.
    ///
    /// # Examples
    /// ```
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// let ended = Rc::new(Cell::new(false));
    /// let handle = greenlet::spawn(|| ());
    /// handle.link({
    ///     let ended = Rc::clone(&ended);
    ///     move || ended.set(true)
    /// });
    /// handle.join().unwrap();
    /// greenlet::yield_now();
    /// assert!(ended.get());
    /// ```
    #[doc(alias = "rawlink")]
    pub fn link(&self, callback: impl FnOnce() + 'static) -> LinkId {
        let id = Hub::get().next_id();
        let link = Link {
            id,
            call: Box::new(callback),
        };
        if self.is_finished() {
            link.run();
        } else {
            self.task().with_extra(|extra| extra.links.push(link));
        }
        LinkId(id)
    }

    /// Takes a link back. False if it has run, or is about to.
    pub fn unlink(&self, link: LinkId) -> bool {
        let removed = self.task().with_extra(|extra| {
            let at = extra.links.iter().position(|other| other.id == link.0)?;
            Some(extra.links.remove(at))
        });
        removed.is_some()
    }

    /// How many links are registered.
    #[must_use]
    #[doc(alias = "has_links")]
    pub fn link_count(&self) -> usize {
        self.task().with_extra(|extra| extra.links.len())
    }

    /// The greenlet's number.
    #[must_use]
    #[doc(alias = "minimal_ident")]
    pub fn id(&self) -> GreenletId {
        GreenletId(self.task().id)
    }

    /// The greenlet's name: what the [`Builder`](crate::Builder) was given, or
    /// `greenlet-` and its number.
    #[must_use]
    pub fn name(&self) -> String {
        self.task().name()
    }

    pub(crate) fn task(&self) -> &TaskRef {
        self.handle.task()
    }

    fn queue(&self) -> &WaitQueue {
        &self.task().joiners
    }

    fn reason(&self) -> Reason {
        Reason::with("joining greenlet", self.task().id)
    }
}

/// Kill and timeout unwind. A program that is built with `panic = "abort"`
/// cannot, and is told so when it is compiled.
// The type makes it a check of its caller's callers: of those programs only
// that use a call which unwinds.
#[allow(clippy::extra_unused_type_parameters)]
pub(crate) fn refuse_with_panic_abort<T>() {
    const {
        assert!(
            cfg!(panic = "unwind"),
            "kill and timeout unwind the greenlet: they need panic = \"unwind\""
        );
    }
}

impl From<Ended> for JoinError {
    fn from(ended: Ended) -> JoinError {
        match ended {
            Ended::Panicked(payload) => JoinError::Panicked(payload),
            Ended::Killed => JoinError::Killed,
        }
    }
}

impl<T> Waitable for JoinHandle<T> {
    fn is_ready(&self) -> bool {
        self.is_finished()
    }

    fn ready_since(&self) -> u64 {
        self.task().ended.get()
    }

    fn source(&self) -> Source<'_> {
        Source::new(self.queue())
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    /// # Panics
    /// If it is polled again after it has completed.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.is_finished() {
            self.wake_at_end(context.waker());
        }
        // A waker is somebody's code, and may have let the greenlet run.
        if !self.is_finished() {
            return Poll::Pending;
        }
        match self.handle.take() {
            Some(Ok(value)) => Poll::Ready(Ok(value)),
            Some(Err(ended)) => Poll::Ready(Err(ended.into())),
            None => panic!("a JoinHandle was polled after it had completed"),
        }
    }
}

impl<T> JoinHandle<T> {
    /// Has `waker` called at the end. Of several, the last one is: a future has
    /// one owner at a time.
    fn wake_at_end(&self, waker: &Waker) {
        let task = self.task();
        if task.with_extra(|extra| extra.wakers.iter().any(|known| known.will_wake(waker))) {
            return;
        }
        // Neither cloned nor dropped while the task is borrowed.
        let wakers = vec![waker.clone()];
        let replaced = task.with_extra(|extra| std::mem::replace(&mut extra.wakers, wakers));
        drop(replaced);
    }
}

// The result is never pinned: it is moved out.
impl<T> Unpin for JoinHandle<T> {}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handle.fmt(f)
    }
}
