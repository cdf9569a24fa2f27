//! "Try; else park until it is ready, until the deadline, or until told to give
//! up": the one way in which every descriptor is read from and written to.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::reactor::{self, Direction, Source};
use super::shared::HubShared;
use super::wait::{Kind, Reason, Woken};
use super::{Hub, interrupt};

/// Operations that succeed at once before a greenlet makes room for others.
pub(super) const BUDGET: u32 = 128;

/// Tells one owner of a descriptor number from the next.
static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

/// A descriptor's account with the reactors. Its owner keeps it beside the
/// descriptor, and calls [`Io::retire`] before it closes that.
#[derive(Debug)]
pub(crate) struct Io {
    owner: u64,
    /// The hub that waited for it first, and the others that did.
    home: OnceLock<Arc<HubShared>>,
    elsewhere: Mutex<Vec<Arc<HubShared>>>,
    /// The user asked for errors instead of waiting.
    nonblocking: AtomicBool,
    /// Closed by another greenlet: every operation fails.
    closed: AtomicBool,
}

impl Io {
    pub(crate) fn new() -> Io {
        Io {
            owner: NEXT_OWNER.fetch_add(1, Ordering::Relaxed),
            home: OnceLock::new(),
            elsewhere: Mutex::new(Vec::new()),
            nonblocking: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn set_nonblocking(&self, nonblocking: bool) {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
    }

    pub(crate) fn is_nonblocking(&self) -> bool {
        self.nonblocking.load(Ordering::Relaxed)
    }

    /// Runs `operation`, which must not block the thread, until its answer is
    /// something else than `WouldBlock`; parks the greenlet in between.
    ///
    /// # Errors
    /// What `operation` answers; `WouldBlock` (as std's on Unix) when the
    /// deadline comes first; EBADF when the descriptor was closed meanwhile.
    pub(crate) fn run<R>(
        &self,
        fd: BorrowedFd<'_>,
        direction: Direction,
        deadline: Option<u64>,
        mut operation: impl FnMut() -> io::Result<R>,
    ) -> io::Result<R> {
        let hub = Hub::get();
        let fd = fd.as_raw_fd();
        let mut source = hub.find_source(fd, self.owner);
        hub.spend_io_budget();
        loop {
            if self.closed.load(Ordering::Relaxed) {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            let blocking = !self.is_nonblocking();
            let worth_trying = match &source {
                Some(source) if blocking => source.side(direction).maybe_ready(),
                _ => true,
            };
            if worth_trying {
                match operation() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && blocking => {}
                    answer => return answer,
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
            match self.wait(hub, &registered, fd, direction, deadline) {
                Woken::Answered(_) => source = hub.find_source(fd, self.owner),
                Woken::TimedOut | Woken::Deadlock => {
                    return Err(io::Error::from_raw_os_error(libc::EAGAIN));
                }
            }
        }
    }

    /// Waits until the descriptor may be ready, without an operation.
    pub(crate) fn wait_ready(
        &self,
        fd: BorrowedFd<'_>,
        direction: Direction,
        deadline: Option<u64>,
    ) -> io::Result<()> {
        let mut waited = false;
        self.run(fd, direction, deadline, || {
            if std::mem::replace(&mut waited, true) {
                Ok(())
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        })
    }

    /// The last operation used up what there was (a short read or write of a
    /// stream): the next one need not be tried before the reactor says so.
    pub(crate) fn exhausted(&self, fd: BorrowedFd<'_>, direction: Direction) {
        if let Some(source) = Hub::get().find_source(fd.as_raw_fd(), self.owner) {
            source.side(direction).exhausted();
        }
    }

    fn register(&self, hub: &Hub, fd: RawFd) -> io::Result<Rc<Source>> {
        let source = hub.register_source(fd, self.owner)?;
        let shared = hub.shared();
        let home = self.home.get_or_init(|| Arc::clone(&shared));
        if !Arc::ptr_eq(home, &shared) {
            let mut elsewhere = self.lock_elsewhere();
            if !elsewhere.iter().any(|known| Arc::ptr_eq(known, &shared)) {
                elsewhere.push(shared);
            }
        }
        Ok(source)
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
        let verb = match direction {
            Direction::Read => "reading from descriptor",
            Direction::Write => "writing to descriptor",
        };
        let reason = Reason::with(verb, fd as u64);
        source
            .side(direction)
            .waiters
            .wait(reason, Kind::External, deadline)
    }

    /// Makes every operation on the descriptor fail with EBADF from now on,
    /// those that wait on this thread included.
    pub(crate) fn close(&self, fd: BorrowedFd<'_>) {
        self.closed.store(true, Ordering::Relaxed);
        self.retire(fd);
    }

    /// Takes the descriptor out of every reactor that knows it. To be called
    /// before its number can be used again.
    pub(crate) fn retire(&self, fd: BorrowedFd<'_>) {
        let Some(home) = self.home.get() else { return };
        let fd = fd.as_raw_fd();
        for shared in std::iter::once(home).chain(self.lock_elsewhere().iter()) {
            match Hub::try_current() {
                Some(hub) if std::ptr::eq(hub.shared_ptr(), &**shared) => {
                    hub.deregister_source(fd, self.owner);
                }
                _ if shared.is_closed() => {}
                _ => reactor::deregister_elsewhere(shared, fd),
            }
        }
    }

    fn lock_elsewhere(&self) -> std::sync::MutexGuard<'_, Vec<Arc<HubShared>>> {
        self.elsewhere
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hub {
    /// A greenlet whose descriptors are always ready lets others run too.
    #[inline]
    fn spend_io_budget(&self) {
        let left = self.io_budget.get() - 1;
        self.io_budget.set(left);
        if left == 0 {
            self.io_budget.set(BUDGET);
            self.yield_now();
        } else {
            interrupt::check(self);
        }
    }
}
