//! Waiting for many: `joinall`, `wait`, `iwait`, `killall`.

use std::time::Duration;

use super::handle::JoinHandle;
use crate::error::JoinError;
use crate::hub::{self, Kind, Place, Reason, WaitQueue, Woken};
use crate::sys::clock;
use crate::sys::pass::PassThrough;

/// What [`wait`] and [`iwait`] can wait for: the handles of greenlets, and
/// whatever else becomes ready and stays so until somebody acts on it: an
/// [`Event`](crate::sync::Event) that is set, an
/// [`AsyncResult`](crate::sync::AsyncResult) that has its value, a
/// [`Semaphore`](crate::sync::Semaphore) that has a permit.
///
/// It is implemented by this crate's types only.
#[doc(alias = "Linkable")]
pub trait Waitable {
    /// Whether a wait would return at once.
    fn is_ready(&self) -> bool;

    /// Which of several came first; counted by the hub, from one.
    #[doc(hidden)]
    fn ready_since(&self) -> u64 {
        0
    }

    /// Where those who wait for it queue.
    #[doc(hidden)]
    fn source(&self) -> Source<'_>;
}

/// The queue behind a [`Waitable`].
#[doc(hidden)]
pub struct Source<'a> {
    place: Where<'a>,
    kind: Kind,
}

enum Where<'a> {
    There(&'a dyn Place),
    Made(Box<dyn Place + 'a>),
}

impl<'a> Source<'a> {
    /// What only greenlets of this hub can make ready.
    pub(crate) fn new(queue: &'a WaitQueue) -> Source<'a> {
        Source {
            place: Where::There(queue),
            kind: Kind::Local,
        }
    }

    /// What other threads can make ready.
    pub(crate) fn shared(place: &'a dyn Place) -> Source<'a> {
        Source {
            place: Where::There(place),
            kind: Kind::Shared,
        }
    }

    /// As `shared`, by a place made for this one wait.
    pub(crate) fn made(place: impl Place + 'a) -> Source<'a> {
        Source {
            place: Where::Made(Box::new(place)),
            kind: Kind::Shared,
        }
    }

    fn place(&self) -> &dyn Place {
        match &self.place {
            Where::There(place) => *place,
            Where::Made(place) => &**place,
        }
    }
}

impl std::fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source")
    }
}

/// Waits for all of them and returns their results, in the order given. One that
/// fails does not end the wait for the others.
///
/// # Examples
/// ```
/// let handles = (1..=3).map(|n| greenlet::spawn(move || n * n));
/// let squares: Vec<i32> = greenlet::joinall(handles)
///     .into_iter()
///     .map(|result| result.unwrap())
///     .collect();
/// assert_eq!(squares, [1, 4, 9]);
/// ```
pub fn joinall<T>(handles: impl IntoIterator<Item = JoinHandle<T>>) -> Vec<Result<T, JoinError>> {
    // All are there before the first is waited for.
    let handles: Vec<JoinHandle<T>> = handles.into_iter().collect();
    handles.into_iter().map(JoinHandle::join).collect()
}

/// Waits for all of them, for at most `timeout`, and says of each whether it
/// has ended. The handles stay usable.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let quick = greenlet::spawn(|| ());
/// let slow = greenlet::spawn(|| greenlet::sleep(Duration::from_secs(60)));
/// let handles = [quick, slow];
/// let done = greenlet::joinall_timeout(&handles, Duration::from_millis(5));
/// assert_eq!(done, [true, false]);
/// ```
pub fn joinall_timeout<T>(handles: &[JoinHandle<T>], timeout: Duration) -> Vec<bool> {
    let deadline = Some(clock::deadline_after(timeout));
    for handle in handles {
        handle.wait_until(deadline);
    }
    handles.iter().map(JoinHandle::is_finished).collect()
}

/// Kills all of them and waits until they have ended.
///
/// All are told before the first unwinds, so none of them sees another one end
/// by surprise.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// let handles = [1, 2, 3].map(|_| greenlet::spawn(|| greenlet::sleep(Duration::MAX)));
/// greenlet::killall(&handles);
/// assert!(handles.iter().all(|handle| handle.is_finished()));
/// ```
pub fn killall<T>(handles: &[JoinHandle<T>]) {
    handles.iter().for_each(JoinHandle::kill);
    handles.iter().for_each(JoinHandle::wait);
}

/// Waits until `count` of the objects are ready (all of them, if there is no
/// `count`), for at most `timeout` (for ever, if there is none), and returns
/// the places of those that are, in the order in which they became ready.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use greenlet::{sleep, spawn, wait};
///
/// let slow = spawn(|| sleep(Duration::from_secs(60)));
/// let quick = spawn(|| "done");
/// let ready = wait(&[&slow, &quick], None, Some(1));
/// assert_eq!(ready, [1]);
/// ```
pub fn wait(
    objects: &[&dyn Waitable],
    timeout: Option<Duration>,
    count: Option<usize>,
) -> Vec<usize> {
    iwait(objects, timeout)
        .take(count.unwrap_or(usize::MAX))
        .collect()
}

/// The places of the objects, one by one, as they become ready; ends when all
/// have been, or when `timeout` has passed since the call.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use greenlet::{iwait, sleep, spawn};
///
/// let slow = spawn(|| sleep(Duration::from_millis(20)));
/// let quick = spawn(|| sleep(Duration::from_millis(1)));
/// let order: Vec<usize> = iwait(&[&slow, &quick], None).collect();
/// assert_eq!(order, [1, 0]);
/// ```
pub fn iwait<'a>(objects: &'a [&'a dyn Waitable], timeout: Option<Duration>) -> IWait<'a> {
    IWait {
        objects,
        left: (0..objects.len()).collect(),
        deadline: timeout.map(clock::deadline_after),
    }
}

/// The iterator of [`iwait`]. It leaves nothing behind in the objects.
pub struct IWait<'a> {
    objects: &'a [&'a dyn Waitable],
    /// The places that have not been returned.
    left: Vec<usize>,
    deadline: Option<u64>,
}

impl Iterator for IWait<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut time_is_up = false;
        loop {
            // Between this look and the wait nobody runs, though memory is asked for.
            let pass = PassThrough::enter();
            if let Some(first) = self.first_ready() {
                return Some(self.left.remove(first));
            }
            if self.left.is_empty() || time_is_up {
                return None;
            }
            let sources: Vec<Source<'_>> = self
                .left
                .iter()
                .map(|&at| self.objects[at].source())
                .collect();
            let places: Vec<&dyn Place> = sources.iter().map(Source::place).collect();
            let kind = match sources.iter().all(|source| source.kind == Kind::Local) {
                true => Kind::Local,
                false => Kind::Shared,
            };
            let reason = Reason::with("waiting for the first of", places.len() as u64);
            drop(pass);
            match hub::wait_any(&places, reason, kind, self.deadline) {
                // The one that answered goes first, though others may have
                // become ready before this greenlet had its turn.
                Woken::Answered(first) => {
                    let first = first as usize;
                    if self.objects[self.left[first]].is_ready() {
                        return Some(self.left.remove(first));
                    }
                }
                // What became ready in the extra turn still counts.
                Woken::TimedOut => time_is_up = true,
                Woken::Deadlock => hub::panic_deadlock(),
            }
        }
    }
}

impl IWait<'_> {
    /// Where in `left` the one is that has been ready for longest.
    fn first_ready(&self) -> Option<usize> {
        let ready = |(_, at): &(usize, &usize)| self.objects[**at].is_ready();
        let left = self.left.iter().enumerate().filter(ready);
        let (first, _) = left.min_by_key(|(_, at)| self.objects[**at].ready_since())?;
        Some(first)
    }
}

impl std::fmt::Debug for IWait<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IWait")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
