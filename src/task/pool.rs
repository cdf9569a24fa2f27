//! `Pool`: a group of at most so many greenlets.

use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use super::builder;
use super::group::{Members, Slot};
use super::handle::{JoinHandle, refuse_with_panic_abort};
use super::waiting::{self, Waitable};
use crate::error::{Deadlock, JoinError, PoolFull};
use crate::hub;
use crate::sys::clock;

/// A set of at most `size` greenlets: who wants to spawn one more waits until
/// one of them has ended.
///
/// It is a [`Group`](crate::Group) with a limit, and gevent's `Pool`. A slot
/// becomes free when its greenlet has ended, however it ended: it may have
/// returned, panicked, or been killed, even before it ran. Those who wait for a
/// slot get one in the order in which they came, and nobody overtakes them. One
/// that is killed or times out while it waits leaves the slot to the next.
///
/// A pool stays on its thread, and so its closures need not be `Send`. To use it
/// inside of its own members, put it into an [`Rc`]. Dropping it leaves its
/// greenlets running.
///
/// # A member that uses its own pool
/// A member of a full pool that waits for a slot would wait for itself. So
/// [`spawn`](Pool::spawn) refuses it with [`PoolFull::Member`], and what waits
/// for results ([`apply`](Pool::apply), [`map`](Pool::map), [`imap`](Pool::imap))
/// runs the function in the member itself.
///
/// # Examples
/// ```
/// use std::time::Duration;
/// use greenlet::{Pool, sleep};
///
/// let pool = Pool::new(2);
/// for _ in 0..6 {
///     pool.spawn(|| sleep(Duration::from_millis(5))).unwrap();
///     assert!(pool.len() <= 2);
/// }
/// pool.join();
/// assert_eq!(pool.free_count(), 2);
/// ```
pub struct Pool {
    members: Rc<Members>,
}

impl Pool {
    /// A pool of at most `size` greenlets.
    ///
    /// A pool of size zero is always full. As no slot of it will ever become
    /// free, nobody waits for one: every spawn is refused at once. For a pool
    /// without a limit take `usize::MAX`, or a [`Group`](crate::Group).
    #[must_use]
    pub fn new(size: usize) -> Pool {
        Pool {
            members: Rc::new(Members::new(size)),
        }
    }

    /// Spawns a greenlet into the pool, and waits for a free slot before.
    ///
    /// # Errors
    /// With the closure in it: [`PoolFull::Member`] if the caller is a member of
    /// this pool, which is full; [`PoolFull::Deadlock`] if no member can ever
    /// end; [`PoolFull::Full`] if the pool's size is zero.
    ///
    /// # Panics
    /// If the machine has no stack left for it.
    #[track_caller]
    #[doc(alias = "start")]
    #[doc(alias = "apply_async")]
    pub fn spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, PoolFull<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        spawn_in(self.members.slot(None), f)
    }

    /// Spawns a greenlet into the pool if a slot is free.
    ///
    /// # Errors
    /// [`PoolFull::Full`] with the closure in it.
    ///
    /// # Panics
    /// If the machine has no stack left for it.
    ///
    /// # Examples
    /// ```
    /// let pool = greenlet::Pool::new(1);
    /// pool.spawn(|| greenlet::yield_now()).unwrap();
    /// let refused = pool.try_spawn(|| 7).unwrap_err();
    /// let closure = refused.into_inner();
    /// assert_eq!(closure(), 7);
    /// pool.join();
    /// ```
    #[track_caller]
    pub fn try_spawn<F, T>(&self, f: F) -> Result<JoinHandle<T>, PoolFull<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        spawn_in(self.members.try_slot(), f)
    }

    /// As [`spawn`](Pool::spawn), and waits for at most `timeout`. A member may
    /// wait for a slot of its own pool here: it stops waiting by itself.
    ///
    /// # Errors
    /// [`PoolFull::Full`] with the closure in it, if no slot became free.
    ///
    /// # Panics
    /// If the machine has no stack left for it.
    #[track_caller]
    pub fn spawn_timeout<F, T>(&self, timeout: Duration, f: F) -> Result<JoinHandle<T>, PoolFull<F>>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        let deadline = clock::deadline_after(timeout);
        spawn_in(self.members.slot(Some(deadline)), f)
    }

    /// Takes in a greenlet that exists already, and waits for a free slot
    /// before. One that has ended, or is in, is left as it is.
    ///
    /// # Errors
    /// As for [`spawn`](Pool::spawn).
    pub fn add<T>(&self, handle: &JoinHandle<T>) -> Result<(), PoolFull<()>> {
        self.add_in(handle, || self.members.slot(None))
    }

    /// Takes in a greenlet that exists already, if a slot is free.
    ///
    /// # Errors
    /// [`PoolFull::Full`].
    pub fn try_add<T>(&self, handle: &JoinHandle<T>) -> Result<(), PoolFull<()>> {
        self.add_in(handle, || self.members.try_slot())
    }

    /// As [`add`](Pool::add), and waits for at most `timeout`.
    ///
    /// # Errors
    /// [`PoolFull::Full`], if no slot became free.
    pub fn add_timeout<T>(
        &self,
        timeout: Duration,
        handle: &JoinHandle<T>,
    ) -> Result<(), PoolFull<()>> {
        let deadline = clock::deadline_after(timeout);
        self.add_in(handle, || self.members.slot(Some(deadline)))
    }

    fn add_in<T>(
        &self,
        handle: &JoinHandle<T>,
        slot: impl FnOnce() -> Result<Slot, PoolFull<()>>,
    ) -> Result<(), PoolFull<()>> {
        if !handle.is_finished() && !self.contains(handle) {
            slot()?.fill(handle.task());
        }
        Ok(())
    }

    /// Takes a greenlet out, which runs on, and frees its slot; whether it was
    /// in.
    #[doc(alias = "discard")]
    pub fn remove<T>(&self, handle: &JoinHandle<T>) -> bool {
        self.members.remove(handle.task().id)
    }

    /// Runs `f` in a greenlet of the pool and waits for its result. In a member
    /// of this pool it runs where it is called.
    ///
    /// # Errors
    /// As for [`JoinHandle::join`]; [`JoinError::Deadlock`] also if there can
    /// never be a free slot.
    ///
    /// # Examples
    /// ```
    /// use std::rc::Rc;
    ///
    /// let pool = Rc::new(greenlet::Pool::new(1));
    /// let inner = Rc::clone(&pool);
    /// let answer = pool.apply(move || inner.apply(|| 42).unwrap());
    /// assert_eq!(answer.unwrap(), 42);
    /// ```
    pub fn apply<F, T>(&self, f: F) -> Result<T, JoinError>
    where
        F: FnOnce() -> T + 'static,
        T: 'static,
    {
        if self.members.has_current() {
            return run_here(f);
        }
        match self.spawn(f) {
            Ok(handle) => handle.join(),
            Err(PoolFull::Member(f)) => run_here(f),
            Err(_) => Err(JoinError::Deadlock(Deadlock)),
        }
    }

    /// Calls `f` for every item, each in a greenlet of the pool, waits for all
    /// of them, and returns the results in the order of the items. One that
    /// fails does not keep the others from running.
    ///
    /// Where the first failure is to end it all, collect into a
    /// `Result<Vec<_>, _>`: it is the first in the order of the items.
    ///
    /// # Examples
    /// ```
    /// let pool = greenlet::Pool::new(3);
    /// let squares: Result<Vec<i32>, _> = pool.map(|n| n * n, 1..=5).into_iter().collect();
    /// assert_eq!(squares.unwrap(), [1, 4, 9, 16, 25]);
    /// ```
    pub fn map<A, R, F, I>(&self, f: F, items: I) -> Vec<Result<R, JoinError>>
    where
        F: Fn(A) -> R + 'static,
        I: IntoIterator<Item = A>,
        A: 'static,
        R: 'static,
    {
        let f = Rc::new(f);
        let started: Vec<Started<R>> = items
            .into_iter()
            .map(|item| self.start(call(&f, item)))
            .collect();
        started.into_iter().map(Started::join).collect()
    }

    /// Calls `f` for every item, each in a greenlet of the pool, and gives the
    /// results one by one, in the order of the items.
    ///
    /// It is lazy: items are taken, and greenlets spawned, when the next result
    /// is asked for, and never more than the pool's size ahead of it. It is the
    /// caller who takes the items. Input that blocks holds the results up, too:
    /// then feed the pool in a greenlet of its own. Dropping the iterator leaves
    /// running what has been spawned.
    ///
    /// # Examples
    /// ```
    /// let pool = greenlet::Pool::new(2);
    /// let mut doubled = pool.imap(|n| n * 2, 1..);
    /// assert_eq!(doubled.next().unwrap().unwrap(), 2);
    /// assert_eq!(doubled.next().unwrap().unwrap(), 4);
    /// ```
    pub fn imap<A, R, F, I>(&self, f: F, items: I) -> Imap<'_, F, I::IntoIter, R>
    where
        F: Fn(A) -> R + 'static,
        I: IntoIterator<Item = A>,
        A: 'static,
        R: 'static,
    {
        Imap(Ahead::new(self, f, items.into_iter()))
    }

    /// As [`imap`](Pool::imap), in the order in which the results come.
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = greenlet::Pool::new(2);
    /// let pause = |ms| {
    ///     greenlet::sleep(Duration::from_millis(ms));
    ///     ms
    /// };
    /// let order: Vec<u64> = pool
    ///     .imap_unordered(pause, [60, 1])
    ///     .map(Result::unwrap)
    ///     .collect();
    /// assert_eq!(order, [1, 60]);
    /// ```
    pub fn imap_unordered<A, R, F, I>(&self, f: F, items: I) -> ImapUnordered<'_, F, I::IntoIter, R>
    where
        F: Fn(A) -> R + 'static,
        I: IntoIterator<Item = A>,
        A: 'static,
        R: 'static,
    {
        ImapUnordered(Ahead::new(self, f, items.into_iter()))
    }

    /// Waits until the pool has no members; see [`Group::join`](crate::Group::join).
    ///
    /// # Panics
    /// With [`Deadlock`] if that can never be; at once if the caller is a member
    /// itself.
    pub fn join(&self) {
        self.members.join();
    }

    /// As [`join`](Pool::join), for at most `timeout`; whether the pool has
    /// become empty.
    pub fn join_timeout(&self, timeout: Duration) -> bool {
        self.members.join_timeout(timeout)
    }

    /// Asks all members to end, and returns at once. The pool stays usable: who
    /// waits for a slot gets one as they end.
    // Inlined, so that only programs that call it are asked how they unwind.
    #[inline]
    pub fn kill(&self) {
        refuse_with_panic_abort::<()>();
        self.members.kill();
    }

    /// Kills all members and waits until the pool is empty. A member that calls
    /// it kills the others and unwinds itself.
    ///
    /// # Panics
    /// With [`Deadlock`] if they can never end.
    #[inline]
    pub fn kill_wait(&self) {
        self.kill();
        self.join();
    }

    /// Waits until a slot is free, without taking it, and returns how many are.
    /// Another greenlet may be faster: [`spawn`](Pool::spawn) is the call that
    /// waits for a slot of its own. Zero if there can never be a free one.
    pub fn wait_available(&self) -> usize {
        self.wait_slot(None)
    }

    /// As [`wait_available`](Pool::wait_available), for at most `timeout`. Zero
    /// if none became free.
    pub fn wait_available_timeout(&self, timeout: Duration) -> usize {
        self.wait_slot(Some(clock::deadline_after(timeout)))
    }

    fn wait_slot(&self, deadline: Option<u64>) -> usize {
        match self.members.slot(deadline) {
            Ok(slot) => {
                // The next in the queue gets it; whoever asked was told.
                let free = self.free_count() + 1;
                drop(slot);
                free
            }
            Err(_) => 0,
        }
    }

    /// How many slots are free.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.members.free()
    }

    /// Whether no slot is free.
    #[must_use]
    #[doc(alias = "full")]
    pub fn is_full(&self) -> bool {
        self.free_count() == 0
    }

    /// How many greenlets the pool takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.limit()
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this greenlet is a member.
    #[must_use]
    pub fn contains<T>(&self, handle: &JoinHandle<T>) -> bool {
        self.members.contains(handle.task().id)
    }

    /// Starts `f` in the pool; in a member of a pool that is full, it runs here.
    fn start<R: 'static>(&self, f: impl FnOnce() -> R + 'static) -> Started<R> {
        match self.spawn(f) {
            Ok(handle) => Started::Greenlet(handle),
            Err(PoolFull::Member(f)) => Started::Done(run_here(f)),
            Err(_) => Started::Done(Err(JoinError::Deadlock(Deadlock))),
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("size", &self.size())
            .field("len", &self.len())
            .finish()
    }
}

#[track_caller]
fn spawn_in<F, T>(slot: Result<Slot, PoolFull<()>>, f: F) -> Result<JoinHandle<T>, PoolFull<F>>
where
    F: FnOnce() -> T + 'static,
    T: 'static,
{
    match slot {
        Ok(slot) => {
            let handle = builder::spawn(f);
            slot.fill(handle.task());
            Ok(handle)
        }
        Err(full) => Err(full.map(|()| f)),
    }
}

fn call<A, R, F: Fn(A) -> R>(f: &Rc<F>, item: A) -> impl FnOnce() -> R + use<A, R, F> {
    let f = Rc::clone(f);
    move || f(item)
}

/// Runs a function of the pool in one of its members. A panic is its result; a
/// kill or a timeout of the member goes on.
fn run_here<R>(f: impl FnOnce() -> R) -> Result<R, JoinError> {
    hub::catch(f).map_err(|payload| {
        if hub::is_interrupt(&payload) {
            hub::rethrow(payload);
        }
        JoinError::Panicked(payload)
    })
}

/// One item's function: it runs, or it had to run at once.
enum Started<R> {
    Greenlet(JoinHandle<R>),
    Done(Result<R, JoinError>),
}

impl<R> Started<R> {
    fn is_finished(&self) -> bool {
        match self {
            Started::Greenlet(handle) => handle.is_finished(),
            Started::Done(_) => true,
        }
    }

    fn join(self) -> Result<R, JoinError> {
        match self {
            Started::Greenlet(handle) => handle.join(),
            Started::Done(result) => result,
        }
    }
}

/// What `imap` and `imap_unordered` have in common: the greenlets that were
/// spawned ahead of the next result.
struct Ahead<'pool, F, I, R> {
    pool: &'pool Pool,
    f: Rc<F>,
    items: Option<I>,
    started: VecDeque<Started<R>>,
}

impl<'pool, A, R, F, I> Ahead<'pool, F, I, R>
where
    F: Fn(A) -> R + 'static,
    I: Iterator<Item = A>,
    A: 'static,
    R: 'static,
{
    fn new(pool: &'pool Pool, f: F, items: I) -> Ahead<'pool, F, I, R> {
        Ahead {
            pool,
            f: Rc::new(f),
            items: Some(items),
            started: VecDeque::new(),
        }
    }

    /// Spawns into the slots that are free; into the first it waits for, if
    /// there is nothing else to wait for.
    fn fill(&mut self) {
        while self.started.len() < self.pool.size().max(1) {
            if self.pool.is_full() && !self.started.is_empty() {
                return;
            }
            let Some(items) = &mut self.items else { return };
            let Some(item) = items.next() else {
                self.items = None;
                return;
            };
            // Where the input let others take the last slot, this waits too.
            let started = self.pool.start(call(&self.f, item));
            self.started.push_back(started);
        }
    }
}

/// The iterator of [`Pool::imap`].
pub struct Imap<'pool, F, I, R>(Ahead<'pool, F, I, R>);

impl<A, R, F, I> Iterator for Imap<'_, F, I, R>
where
    F: Fn(A) -> R + 'static,
    I: Iterator<Item = A>,
    A: 'static,
    R: 'static,
{
    type Item = Result<R, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.fill();
        self.0.started.pop_front().map(Started::join)
    }
}

impl<F, I, R> fmt::Debug for Imap<'_, F, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap").finish_non_exhaustive()
    }
}

/// The iterator of [`Pool::imap_unordered`].
pub struct ImapUnordered<'pool, F, I, R>(Ahead<'pool, F, I, R>);

impl<A, R, F, I> Iterator for ImapUnordered<'_, F, I, R>
where
    F: Fn(A) -> R + 'static,
    I: Iterator<Item = A>,
    A: 'static,
    R: 'static,
{
    type Item = Result<R, JoinError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.fill();
        let started = &mut self.0.started;
        let done = |one: &Started<R>| matches!(one, Started::Done(_));
        let at = match started.iter().position(done) {
            Some(at) => at,
            None => {
                let handles: Vec<&dyn Waitable> = started
                    .iter()
                    .map(|one| match one {
                        Started::Greenlet(handle) => handle as &dyn Waitable,
                        Started::Done(_) => unreachable!("there was none"),
                    })
                    .collect();
                waiting::iwait(&handles, None).next()?
            }
        };
        debug_assert!(started[at].is_finished());
        started.remove(at).map(Started::join)
    }
}

impl<F, I, R> fmt::Debug for ImapUnordered<'_, F, I, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImapUnordered").finish_non_exhaustive()
    }
}
