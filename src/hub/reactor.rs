//! The reactor: sleeps until a descriptor is ready, a deadline has come, or
//! another thread calls. The only file that knows mio.
//!
//! A descriptor is registered once, for both directions, at its first EAGAIN.
//! mio's registrations are edge-triggered, and every operation is tried before
//! it waits, so an edge can be early, late or superfluous, but never lost:
//!
//! ```text
//!   greenlet            kernel               reactor
//!   recv ─▶ EAGAIN
//!   register ──────────▶ reports what is ready now
//!   wait in `readers`
//!                        data arrives ─────▶ poll: edge for token
//!                                            wake all in `readers`
//!   recv ─▶ data  ◀──────────────────────────┘
//! ```
//!
//! A token is the descriptor's number and a generation: an event for a number
//! that has since been closed and used again finds another generation there.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::Hub;
use super::inbox::Wake;
use super::shared::HubShared;
use super::wait::{Reason, WaitQueue};
use crate::sys::clock;
use crate::sys::timerfd::TimerFd;

const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
/// Events taken from the kernel at once; more come with the next poll.
const EVENTS: usize = 1024;
/// How long a hub without a reactor (no descriptor was left for one) sleeps
/// before it tries again.
const RETRY: Duration = Duration::from_millis(10);

/// One of the two directions of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    /// What a greenlet waits for, for the report.
    pub(super) fn reason(self, fd: RawFd) -> Reason {
        let verb = match self {
            Direction::Read => "reading from descriptor",
            Direction::Write => "writing to descriptor",
        };
        Reason::with(verb, fd as u64)
    }
}

/// The owner of the registrations of descriptors that nobody keeps an account of.
pub(super) const NOBODY: u64 = 0;

fn token(generation: u32, index: usize) -> Token {
    Token((generation as usize) << 32 | index)
}

fn interest(read: bool, write: bool) -> Interest {
    let reading = Interest::READABLE | Interest::PRIORITY;
    match (read, write) {
        (true, true) => reading | Interest::WRITABLE,
        (false, true) => Interest::WRITABLE,
        // Errors and hang-ups are reported whatever is asked for.
        (_, false) => reading,
    }
}

/// What the reactor knows of one direction.
pub(super) struct Side {
    pub(super) waiters: WaitQueue,
    /// False only while it is known that an operation would not succeed: none
    /// has been reported ready since one found nothing left.
    maybe_ready: Cell<bool>,
    /// The peer has closed it, or it failed: it is ready from now on.
    finished: Cell<bool>,
    /// Urgent data has come: a read that stops at its mark is short, though
    /// there is more behind.
    urgent: Cell<bool>,
}

impl Side {
    fn new() -> Side {
        Side {
            waiters: WaitQueue::new(),
            maybe_ready: Cell::new(true),
            finished: Cell::new(false),
            urgent: Cell::new(false),
        }
    }

    fn ready(&self, finished: bool) {
        self.maybe_ready.set(true);
        if finished {
            self.finished.set(true);
        }
        // One waiter may leave something for the next: they all try.
        self.waiters.wake_all();
    }

    /// An operation has answered `WouldBlock`.
    pub(super) fn exhausted(&self) {
        if !self.finished.get() {
            self.maybe_ready.set(false);
        }
    }

    /// An operation has got less than it asked for.
    pub(super) fn came_up_short(&self) {
        if !self.urgent.get() {
            self.exhausted();
        }
    }

    pub(super) fn maybe_ready(&self) -> bool {
        self.maybe_ready.get()
    }
}

/// A registered descriptor.
pub(super) struct Source {
    /// Whose registration this is: see `Io`.
    owner: u64,
    generation: u32,
    /// It was taken out: the descriptor is closed, or about to be.
    gone: Cell<bool>,
    read: Side,
    write: Side,
}

impl Source {
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    pub(super) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    fn wake_everybody(&self) {
        self.gone.set(true);
        self.read.ready(true);
        self.write.ready(true);
    }
}

pub(super) struct Reactor {
    poll: Poll,
    events: Events,
    /// By descriptor number.
    sources: Vec<Option<Rc<Source>>>,
    registered: usize,
    generation: u32,
    /// mio counts milliseconds; this is for what is finer.
    timer: Option<TimerFd>,
    /// When the timer will go off, if it is set.
    timer_at: Option<u64>,
}

impl Reactor {
    fn new(shared: &HubShared) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let registry = poll.registry().try_clone()?;
        let timer = TimerFd::new()?;
        let timer_fd = timer.as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&timer_fd), TIMER, Interest::READABLE)?;
        shared.inbox.set_waker(waker);
        // A hub makes one reactor for each of its `HubShared`s.
        let _ = shared.registry.set(registry);
        Ok(Reactor {
            poll,
            events: Events::with_capacity(EVENTS),
            sources: Vec::new(),
            registered: 0,
            generation: 0,
            timer: Some(timer),
            timer_at: None,
        })
    }

    fn find(&self, fd: RawFd, owner: u64) -> Option<&Rc<Source>> {
        let source = self.sources.get(usize::try_from(fd).ok()?)?.as_ref()?;
        (source.owner == owner).then_some(source)
    }

    fn register(&mut self, fd: RawFd, owner: u64, interest: Interest) -> io::Result<Rc<Source>> {
        let index = usize::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        self.generation = self.generation.wrapping_add(1);
        let token = token(self.generation, index);
        match self
            .poll
            .registry()
            .register(&mut SourceFd(&fd), token, interest)
        {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left over from somebody who closed the number behind our back.
                self.poll
                    .registry()
                    .reregister(&mut SourceFd(&fd), token, interest)?;
            }
            other => other?,
        }
        let source = Rc::new(Source {
            owner,
            generation: self.generation,
            gone: Cell::new(false),
            read: Side::new(),
            write: Side::new(),
        });
        if self.sources.len() <= index {
            self.sources.resize(index + 1, None);
        }
        match self.sources[index].replace(Rc::clone(&source)) {
            Some(stale) => stale.wake_everybody(),
            None => self.registered += 1,
        }
        Ok(source)
    }

    /// Sees to it that the descriptor which has this number *now* is registered,
    /// and that what it is ready for is reported anew.
    ///
    /// Of a descriptor without an owner nobody tells when it is closed, so the
    /// record may be that of another one. The kernel knows: it finds what was
    /// registered by the number and by what is open behind it.
    ///
    /// It asks for no more than is waited for: most descriptors can be written
    /// to at any time, and would make an event of it at each call.
    fn arm(&mut self, fd: RawFd, read: bool, write: bool) -> io::Result<Rc<Source>> {
        let known = usize::try_from(fd)
            .ok()
            .and_then(|index| self.sources.get(index)?.clone());
        let Some(source) = known else {
            return self.register(fd, NOBODY, interest(read, write));
        };
        let all = source.owner != NOBODY;
        let interest = interest(
            all || read || !source.read.waiters.is_empty(),
            all || write || !source.write.waiters.is_empty(),
        );
        let token = token(source.generation, fd as usize);
        let registry = self.poll.registry();
        match registry.reregister(&mut SourceFd(&fd), token, interest) {
            Ok(()) => Ok(source),
            Err(error) => {
                self.sources[fd as usize] = None;
                self.registered -= 1;
                source.wake_everybody();
                if error.kind() != io::ErrorKind::NotFound {
                    return Err(error);
                }
                self.register(fd, NOBODY, interest)
            }
        }
    }

    fn deregister(&mut self, fd: RawFd, owner: u64) {
        let Some(source) = self.find(fd, owner).map(Rc::clone) else {
            return;
        };
        self.sources[fd as usize] = None;
        self.registered -= 1;
        // The number may have been closed already; then the kernel has
        // forgotten it by itself.
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
        source.wake_everybody();
    }

    /// Waits for at most `timeout` and wakes whom the events concern.
    fn poll(&mut self, timeout: Option<Duration>) {
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            // A signal ends the wait early, which is always allowed.
            debug_assert_eq!(error.kind(), io::ErrorKind::Interrupted);
            return;
        }
        for event in &self.events {
            let Token(token) = event.token();
            if event.token() == TIMER {
                self.timer_at = None;
            }
            let (index, generation) = (token & 0xffff_ffff, (token >> 32) as u32);
            let Some(Some(source)) = self.sources.get(index) else {
                continue;
            };
            if source.generation != generation {
                continue;
            }
            let failed = event.is_error();
            if event.is_priority() {
                source.read.urgent.set(true);
            }
            if event.is_readable() || event.is_read_closed() || failed {
                source.read.ready(event.is_read_closed() || failed);
            }
            if event.is_writable() || event.is_write_closed() || failed {
                source.write.ready(event.is_write_closed() || failed);
            }
        }
    }

    /// Sets the timer for `deadline`. An earlier setting stays: it wakes the
    /// hub too early once, which costs less than setting it anew each time.
    fn set_timer(&mut self, deadline: u64) -> Option<Duration> {
        match self.timer_at {
            Some(at) if at <= deadline => return None,
            _ => {}
        }
        match self.timer.as_ref().map(|timer| timer.set(deadline)) {
            Some(Ok(())) => {
                self.timer_at = Some(deadline);
                None
            }
            _ => Some(Duration::from_nanos(
                deadline.saturating_sub(clock::now_ns()),
            )),
        }
    }
}

impl Wake for Waker {
    fn wake(&self) {
        // It fails only where the eventfd is gone, and the hub with it.
        let _ = Waker::wake(self);
    }
}

/// Takes a descriptor out of another thread's reactor: out of the kernel's set
/// at once, for the number may soon be somebody else's. The record of it, and
/// who waits there, only that hub may touch, so it is left a note.
pub(super) fn deregister_elsewhere(shared: &HubShared, fd: RawFd, owner: u64) {
    if let Some(registry) = shared.registry.get() {
        let _ = registry.deregister(&mut SourceFd(&fd));
        shared.push_retired(fd, owner);
    }
}

impl Hub {
    /// The registration of `owner`'s descriptor, if this hub has one.
    pub(super) fn find_source(&self, fd: RawFd, owner: u64) -> Option<Rc<Source>> {
        self.reactor
            .borrow()
            .as_ref()?
            .find(fd, owner)
            .map(Rc::clone)
    }

    pub(super) fn register_source(&self, fd: RawFd, owner: u64) -> io::Result<Rc<Source>> {
        self.ensure_reactor()?;
        match self.reactor.borrow_mut().as_mut() {
            Some(reactor) => reactor.register(fd, owner, interest(true, true)),
            None => unreachable!("a reactor was just made"),
        }
    }

    /// Has the reactor report when a descriptor without an owner is ready.
    pub(super) fn arm_source(&self, fd: RawFd, read: bool, write: bool) -> io::Result<Rc<Source>> {
        self.ensure_reactor()?;
        match self.reactor.borrow_mut().as_mut() {
            Some(reactor) => reactor.arm(fd, read, write),
            None => unreachable!("a reactor was just made"),
        }
    }

    /// Takes `owner`'s descriptor out and wakes who waits for it.
    pub(super) fn deregister_source(&self, fd: RawFd, owner: u64) {
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            reactor.deregister(fd, owner);
        }
    }

    /// Takes out what other threads have closed.
    #[cold]
    pub(super) fn deregister_retired(&self) {
        let retired = self.shared.borrow().take_retired();
        for (fd, owner) in retired {
            self.deregister_source(fd, owner);
        }
    }

    fn ensure_reactor(&self) -> io::Result<()> {
        let mut reactor = self.reactor.borrow_mut();
        if reactor.is_none() {
            *reactor = Some(Reactor::new(&self.shared.borrow())?);
        }
        Ok(())
    }

    /// Asks for events without waiting.
    pub(super) fn poll_reactor(&self) {
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            if reactor.registered > 0 {
                reactor.poll(Some(Duration::ZERO));
            }
        }
    }

    /// Sleeps until the next deadline, an event, or a call from outside.
    /// Not for longer than until `housekeeping`, if there is something to be
    /// done then.
    pub(super) fn sleep_in_reactor(&self, housekeeping: Option<u64>) {
        let next = self.timers.borrow().next_deadline();
        let deadline = [next, housekeeping].into_iter().flatten().min();
        if self.ensure_reactor().is_err() {
            let wait = deadline.map_or(RETRY, |deadline| {
                Duration::from_nanos(deadline.saturating_sub(clock::now_ns())).min(RETRY)
            });
            clock::block_thread_for(wait);
            return;
        }
        let shared = self.shared();
        if !shared.inbox.prepare_sleep() {
            return;
        }
        if !shared.arrivals.is_empty() {
            return shared.inbox.woke_up();
        }
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            let timeout = deadline.and_then(|deadline| reactor.set_timer(deadline));
            reactor.poll(timeout);
        }
        shared.inbox.woke_up();
        self.polled_at.set(clock::now_ns());
    }
}
