//! "Try; else park until it is ready, until the deadline, or until told to give
//! up": the one way in which every descriptor is read from and written to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::reactor;
use super::shared::HubShared;
use super::source::{Direction, NOBODY, Source};
use super::wait::{Kind, Woken};
use super::{Hub, interrupt};
use crate::sys::clock;
use crate::sys::pass::PassThrough;

/// Operations that succeed at once before a greenlet makes room for others.
pub(super) const BUDGET: u32 = 128;

/// Tells one owner of a descriptor number from the next.
static NEXT_OWNER: AtomicU64 = AtomicU64::new(NOBODY + 1);

/// How long an operation may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all: the answer is `WouldBlock`.
    None,
    /// So many nanoseconds, counted from when the waiting begins. An operation
    /// that need not wait does not read the clock.
    For(u64),
    /// Until a moment of `sys::clock`.
    Until(u64),
    Forever,
}

impl From<Option<u64>> for Patience {
    fn from(deadline: Option<u64>) -> Patience {
        deadline.map_or(Patience::Forever, Patience::Until)
    }
}

/// A descriptor's account with the reactors. Its owner keeps it beside the
/// descriptor, and calls [`Io::retire`] before it closes that.
///
/// It may be used by several greenlets and by several threads at once. Each
/// hub that has to wait for the descriptor registers it with its own reactor:
///
/// ```text
///   Io { owner 7, hubs ─▶ [hub 0, hub 1] }        descriptor 5
///          │                 │      │                  │
///          │   sources[5] ◀──┘      └──▶ sources[5]    │
///          │   owner 7                   owner 7       │
///          └── retire: takes both out ◀────────────────┘ before it is closed
/// ```
#[derive(Debug)]
pub(crate) struct Io {
    owner: u64,
    hubs: Mutex<Hubs>,
    /// Closed by somebody while others may hold it: every operation fails.
    closed: AtomicBool,
}

/// The hubs whose reactors know the descriptor; nearly always one.
#[derive(Debug, Default)]
struct Hubs {
    first: Option<Arc<HubShared>>,
    others: Vec<Arc<HubShared>>,
}

impl Io {
    pub(crate) fn new() -> Io {
        Io::of_owner(NEXT_OWNER.fetch_add(1, Ordering::Relaxed))
    }

    /// The account of all descriptors that have none of their own.
    pub(super) fn of_nobody() -> Io {
        Io::of_owner(NOBODY)
    }

    fn of_owner(owner: u64) -> Io {
        Io {
            owner,
            hubs: Mutex::new(Hubs::default()),
            closed: AtomicBool::new(false),
        }
    }

    /// Runs `operation`, which must not block the thread, until its answer is
    /// something else than `WouldBlock`; parks the greenlet in between.
    ///
    /// # Errors
    /// What `operation` answers; `WouldBlock` (as std's on Unix) when the
    /// patience ends first; EBADF when the descriptor was closed meanwhile.
    #[inline]
    pub(crate) fn run<R>(
        &self,
        fd: BorrowedFd<'_>,
        direction: Direction,
        patience: impl Into<Patience>,
        operation: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        self.run_stream(fd, direction, patience.into(), operation, |_| false)
    }

    /// As `run`, for an operation whose answer may show that it has used up
    /// what there was, as a short read of a TCP stream does. The next operation
    /// then waits for the reactor without trying first.
    ///
    /// That is right because the registration is edge-triggered: whatever
    /// arrives after the short read makes a new edge. The end of the stream and
    /// urgent data, which make a read short for another reason, are edges too,
    /// and the reactor remembers them.
    pub(crate) fn run_stream<R>(
        &self,
        fd: BorrowedFd<'_>,
        direction: Direction,
        patience: Patience,
        mut operation: impl FnMut() -> io::Result<R>,
        used_up: impl Fn(&R) -> bool,
    ) -> io::Result<R> {
        let hub = Hub::get();
        let fd = fd.as_raw_fd();
        let mut patience = patience;
        hub.spend_io_budget();
        let mut source = hub.find_source(fd, self.owner);
        loop {
            if self.closed.load(Ordering::Relaxed) {
                return Err(closed());
            }
            let worth_trying = match &source {
                // Without a wait the reactor may never be asked: always try.
                Some(source) if patience != Patience::None => source.side(direction).maybe_ready(),
                _ => true,
            };
            if worth_trying {
                // Here is all the waiting there is to be.
                let answer = {
                    let _pass = PassThrough::enter();
                    operation()
                };
                match answer {
                    Ok(answer) => {
                        if used_up(&answer) {
                            if let Some(source) = &source {
                                source.side(direction).came_up_short();
                            }
                        }
                        return Ok(answer);
                    }
                    Err(error)
                        if error.kind() == io::ErrorKind::WouldBlock
                            && patience != Patience::None => {}
                    Err(error) => return Err(error),
                }
            }
            let registered = match source.take() {
                Some(source) => {
                    source.side(direction).exhausted();
                    source
                }
                // Registration reports what is ready by then.
                None => self.register(hub, fd)?,
            };
            if let Patience::For(time) = patience {
                patience = Patience::Until(clock::now_ns().saturating_add(time));
            }
            let deadline = match patience {
                Patience::Until(deadline) => Some(deadline),
                _ => None,
            };
            match self.wait(hub, &registered, fd, direction, deadline) {
                Woken::Answered(_) => source = hub.find_source(fd, self.owner),
                Woken::TimedOut | Woken::Deadlock => {
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
            }
        }
    }

    fn register(&self, hub: &Hub, fd: RawFd) -> io::Result<Rc<Source>> {
        let _pass = PassThrough::enter();
        let source = hub.register_source(fd, self.owner)?;
        self.add(hub);
        // Whoever closes it makes the mark first and then goes through the
        // list, under the same lock: either they have seen this hub there, or
        // the mark is seen here.
        if self.closed.load(Ordering::Relaxed) {
            hub.deregister_source(fd, self.owner);
            return Err(closed());
        }
        Ok(source)
    }

    /// From now on [`retire`](Io::retire) goes to this hub too.
    pub(super) fn add(&self, hub: &Hub) {
        self.hubs().add(hub.shared());
    }

    fn wait(
        &self,
        hub: &Hub,
        source: &Source,
        fd: RawFd,
        direction: Direction,
        deadline: Option<u64>,
    ) -> Woken {
        hub.io_budget.set(BUDGET);
        let reason = direction.reason(fd);
        source
            .side(direction)
            .waiters
            .wait(reason, Kind::External, deadline)
    }

    /// Makes every operation on the descriptor fail with EBADF from now on,
    /// those that wait included, on every hub. False if that was done before.
    pub(crate) fn close(&self, fd: RawFd) -> bool {
        let first = !self.closed.swap(true, Ordering::Relaxed);
        if first {
            self.retire(fd);
        }
        first
    }

    /// This hub needs to be told no more: its thread ends.
    pub(super) fn leave(&self, hub: &HubShared) {
        let mut hubs = self.hubs();
        if hubs
            .first
            .as_deref()
            .is_some_and(|first| std::ptr::eq(first, hub))
        {
            hubs.first = hubs.others.pop();
        } else {
            hubs.others.retain(|other| !std::ptr::eq(&**other, hub));
        }
    }

    pub(super) fn for_each_hub(&self, f: impl FnMut(&Arc<HubShared>)) {
        let hubs = self.hubs();
        hubs.first.iter().chain(&hubs.others).for_each(f);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Takes the descriptor out of every reactor that knows it, and wakes who
    /// waits there. To be called before its number can be used again.
    pub(crate) fn retire(&self, fd: impl AsRawFd) {
        let _pass = PassThrough::enter();
        let fd = fd.as_raw_fd();
        let hubs = self.hubs();
        for shared in hubs.first.iter().chain(&hubs.others) {
            match Hub::try_current() {
                Some(hub) if std::ptr::eq(hub.shared_ptr(), &**shared) => {
                    hub.deregister_source(fd, self.owner);
                }
                _ if shared.is_closed() => {}
                _ => reactor::deregister_elsewhere(shared, fd, self.owner),
            }
        }
    }

    fn hubs(&self) -> MutexGuard<'_, Hubs> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hubs {
    fn add(&mut self, hub: Arc<HubShared>) {
        let mut known = self.first.iter().chain(&self.others);
        if known.any(|known| Arc::ptr_eq(known, &hub)) {
            return;
        }
        // Hubs whose thread has ended, or that a fork left behind, are of no
        // more use.
        self.others.retain(|known| !known.is_closed());
        match &self.first {
            Some(first) if !first.is_closed() => self.others.push(hub),
            _ => self.first = Some(hub),
        }
    }
}

fn closed() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

impl Hub {
    /// A greenlet whose descriptors are always ready lets others run too.
    #[inline]
    fn spend_io_budget(&self) {
        self.count_operation();
        interrupt::check(self);
    }

    /// One operation more; the last of the budget ends the greenlet's turn.
    #[inline]
    pub(super) fn count_operation(&self) {
        let left = self.io_budget.get() - 1;
        self.io_budget.set(left);
        if left == 0 {
            self.io_budget.set(BUDGET);
            // So many system calls take longer than 61 ordinary turns.
            self.look_from_within();
            self.suspend_runnable(self.current());
        }
    }
}
