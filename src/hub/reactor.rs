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

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};

use super::Hub;
use super::own::{Bell, Own, is_own};
use super::shared::HubShared;
use super::source::{ALL, NOBODY, Report, Source};
use crate::sys::clock;
use crate::sys::os::{self, Errno};
use crate::sys::pass::{self, PassThrough};
use crate::sys::timerfd::TimerFd;

/// Among the notes of what others have closed: it was one of the reactor's own.
pub(super) const LOST: u64 = u64::MAX;
/// And: who knows how many have been closed.
pub(super) const ALL_CLOSED: u64 = u64::MAX - 1;

const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);
/// Events taken from the kernel at once; more come with the next poll.
const EVENTS: usize = 1024;
/// How long a hub without a reactor (no descriptor was left for one) sleeps
/// before it tries again.
const RETRY: Duration = Duration::from_millis(10);

fn token(generation: u32, fd: RawFd) -> u64 {
    u64::from(generation) << 32 | u64::from(fd as u32)
}

/// Changes what an epoll set reports of a descriptor. mio's words for it have none
/// for "the peer has closed" alone, nor for "nothing but errors".
fn control(
    set: &impl AsRawFd,
    operation: libc::c_int,
    fd: RawFd,
    token: u64,
    wanted: u32,
) -> Result<(), Errno> {
    let mut event = libc::epoll_event {
        events: wanted | libc::EPOLLET as u32,
        u64: token,
    };
    let event = &raw mut event as usize;
    let args = [
        set.as_raw_fd() as usize,
        operation as usize,
        fd as usize,
        event,
    ];
    // SAFETY: the kernel reads one event, which is a live variable.
    unsafe { os::syscall(libc::SYS_epoll_ctl, args) }.map(|_| ())
}

pub(super) struct Reactor {
    /// The epoll set and the timer. First, for it is dropped before they are closed.
    own: [Own; 2],
    poll: Poll,
    events: Events,
    /// By descriptor number.
    sources: Vec<Option<Rc<Source>>>,
    registered: usize,
    generation: u32,
    /// mio counts milliseconds; this is for what is finer.
    timer: TimerFd,
    /// When the timer will go off, if it is set.
    timer_at: Option<u64>,
}

/// The reactor's set, for other threads: to take out what they close.
pub(super) struct Outlet {
    /// First, as in the reactor.
    own: Own,
    registry: Registry,
    /// The epoll set's and the timer's numbers in the reactor.
    others: [RawFd; 2],
}

impl Outlet {
    /// Whether the descriptor is this one, or one of the reactor's.
    pub(super) fn is_one_of(&self, fd: RawFd) -> bool {
        self.registry.as_raw_fd() == fd || self.others.contains(&fd)
    }

    /// False: it was not there.
    fn take_out(&self, fd: RawFd) -> bool {
        control(&self.registry, libc::EPOLL_CTL_DEL, fd, 0, 0).is_ok()
    }
}

/// The descriptors of the set are not what they were.
struct Lost;

impl Reactor {
    fn new(shared: &HubShared) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let timer = TimerFd::new()?;
        let listen = |fd: RawFd, token: Token| {
            let mut fd = SourceFd(&fd);
            poll.registry().register(&mut fd, token, Interest::READABLE)
        };
        listen(timer.as_raw_fd(), TIMER)?;
        match shared.inbox.waker() {
            // It is not the first reactor here: the bell may be lost as well.
            Some(bell) => {
                bell.renew()?;
                listen(bell.fd(), WAKER)?;
            }
            None => {
                let bell = Bell::new()?;
                listen(bell.fd(), WAKER)?;
                shared.inbox.set_waker(bell);
            }
        }
        *shared.outlet() = Some(Outlet {
            own: Own::mark(registry.as_raw_fd()),
            registry,
            others: [poll.as_raw_fd(), timer.as_raw_fd()],
        });
        Ok(Reactor {
            own: [poll.as_raw_fd(), timer.as_raw_fd()].map(Own::mark),
            poll,
            events: Events::with_capacity(EVENTS),
            sources: Vec::new(),
            registered: 0,
            generation: 0,
            timer,
            timer_at: None,
        })
    }

    /// Its descriptors are not what they were: lets them be, and has whoever waits
    /// register anew.
    fn abandon(self, shared: &HubShared) {
        let Reactor {
            own,
            poll,
            timer,
            sources,
            ..
        } = self;
        drop(own);
        std::mem::forget((poll, timer));
        if let Some(Outlet { own, registry, .. }) = shared.outlet().take() {
            drop(own);
            std::mem::forget(registry);
        }
        for source in sources.into_iter().flatten() {
            source.step_aside();
        }
    }

    fn at(&self, fd: RawFd) -> Option<&Rc<Source>> {
        self.sources.get(usize::try_from(fd).ok()?)?.as_ref()
    }

    fn find(&self, fd: RawFd, owner: u64) -> Option<&Rc<Source>> {
        self.at(fd).filter(|source| source.owner == owner)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: RawFd,
        generation: u32,
        wanted: u32,
    ) -> Result<(), Errno> {
        control(&self.poll, operation, fd, token(generation, fd), wanted)
    }

    fn register(
        &mut self,
        fd: RawFd,
        owner: u64,
        wanted: u32,
        round: u64,
    ) -> Result<Rc<Source>, Errno> {
        let index = usize::try_from(fd).map_err(|_| libc::EBADF)?;
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let is_known = match self.control(libc::EPOLL_CTL_ADD, fd, generation, wanted) {
            // What is open there was registered before: under no owner, or by
            // somebody who closed the number behind our back, and has it again.
            Err(libc::EEXIST) => {
                self.control(libc::EPOLL_CTL_MOD, fd, generation, wanted)?;
                true
            }
            other => other.map(|()| false)?,
        };
        let source = Rc::new(Source::new(owner, generation, wanted, round));
        if self.sources.len() <= index {
            self.sources.resize(index + 1, None);
        }
        match self.sources[index].replace(Rc::clone(&source)) {
            Some(stale) if is_known => stale.step_aside(),
            Some(stale) => stale.leave(),
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
    /// to at any time, and would make an event of it at each call. A greenlet
    /// that waits for one descriptor in several ways asks in one round.
    ///
    /// # Errors
    /// Those of `epoll_ctl`; EINVAL for the reactor's own descriptors.
    fn arm(&mut self, fd: RawFd, wanted: u32, round: u64) -> Result<Rc<Source>, Errno> {
        let Some(source) = self.at(fd).map(Rc::clone) else {
            if is_own(fd) {
                return Err(libc::EINVAL);
            }
            return self.register(fd, NOBODY, wanted, round);
        };
        // An owner has everything reported, and tells when it is closed.
        if source.owner != NOBODY || source.covers_in(round, wanted) {
            return Ok(source);
        }
        let wanted = wanted | source.wanted_by_others(round);
        match self.rearm(fd, &source, wanted, round) {
            Ok(()) => Ok(source),
            Err(libc::ENOENT) => self.register(fd, NOBODY, wanted, round),
            Err(error) => Err(error),
        }
    }

    /// Has what is known by this number reported anew. If the kernel says that it
    /// is another one by now, who waits for it is told that it is gone.
    fn rearm(
        &mut self,
        fd: RawFd,
        source: &Rc<Source>,
        wanted: u32,
        round: u64,
    ) -> Result<(), Errno> {
        let armed = self.control(libc::EPOLL_CTL_MOD, fd, source.generation, wanted);
        match armed {
            Ok(()) => source.set_asked(wanted, round),
            Err(_) => {
                self.sources[fd as usize] = None;
                self.registered -= 1;
                source.leave();
            }
        }
        armed
    }

    /// Somebody has closed this number, or was about to: is what was known by it
    /// still what has it?
    fn verify(&mut self, fd: RawFd) {
        if let Some(source) = self.find(fd, NOBODY).map(Rc::clone) {
            let (wanted, round) = source.asked();
            // If it is another one, who waits for it has been told by now.
            let _ = self.rearm(fd, &source, wanted, round);
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
        let _ = self.control(libc::EPOLL_CTL_DEL, fd, 0, 0);
        source.leave();
    }

    /// Waits for at most `timeout` and wakes whom the events concern.
    fn poll(&mut self, timeout: Option<Duration>) -> Result<(), Lost> {
        // mio calls `epoll_wait`, which may be our own by now.
        debug_assert!(pass::is_set(|| 0));
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            return match error.raw_os_error() {
                Some(libc::EBADF | libc::EINVAL) => Err(Lost),
                // A signal ends the wait early, which is always allowed.
                _ => Ok(()),
            };
        }
        for event in &self.events {
            if event.token() == TIMER {
                self.timer_at = None;
            }
            let Token(token) = event.token();
            let (index, generation) = (token & 0xffff_ffff, (token >> 32) as u32);
            let Some(Some(source)) = self.sources.get(index) else {
                continue;
            };
            if source.generation == generation {
                source.report(Report {
                    readable: event.is_readable(),
                    writable: event.is_writable(),
                    urgent: event.is_priority(),
                    read_closed: event.is_read_closed(),
                    write_closed: event.is_write_closed(),
                    failed: event.is_error(),
                });
            }
        }
        Ok(())
    }

    /// Sets the timer for `deadline`. An earlier setting stays: it wakes the
    /// hub too early once, which costs less than setting it anew each time.
    fn set_timer(&mut self, deadline: u64) -> Option<Duration> {
        match self.timer_at {
            Some(at) if at <= deadline => return None,
            _ => {}
        }
        match self.timer.set(deadline) {
            Ok(()) => {
                self.timer_at = Some(deadline);
                None
            }
            Err(_) => Some(Duration::from_nanos(
                deadline.saturating_sub(clock::now_ns()),
            )),
        }
    }
}

/// Takes a descriptor out of another thread's reactor: out of the kernel's set
/// at once, for the number may soon be somebody else's. The record of it, and
/// who waits there, only that hub may touch, so it is left a note.
pub(super) fn deregister_elsewhere(shared: &HubShared, fd: RawFd, owner: u64) {
    let was_there = match &*shared.outlet() {
        Some(outlet) => outlet.take_out(fd),
        None => return,
    };
    // A descriptor without an owner is asked about wherever there is a reactor.
    if was_there || owner != NOBODY {
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

    /// Whatever registration this hub has under the number, which has not been closed by
    /// whoever could tell.
    #[inline]
    pub(super) fn known_source(&self, fd: RawFd) -> Option<Rc<Source>> {
        self.hear_of_closed();
        self.reactor.borrow().as_ref()?.at(fd).map(Rc::clone)
    }

    pub(super) fn register_source(&self, fd: RawFd, owner: u64) -> io::Result<Rc<Source>> {
        self.with_reactor(|reactor| {
            reactor
                .register(fd, owner, ALL, 0)
                .map_err(io::Error::from_raw_os_error)
        })?
    }

    /// Has the reactor report when a descriptor without an owner is ready, and
    /// go on to report what others wait for who have asked in the same round.
    ///
    /// # Errors
    /// As for `Reactor::arm`; also if there is no reactor, and none can be made.
    pub(super) fn arm_source(
        &self,
        fd: RawFd,
        wanted: u32,
        round: u64,
    ) -> Result<Rc<Source>, Errno> {
        self.hear_of_closed();
        match self.with_reactor(|reactor| reactor.arm(fd, wanted, round)) {
            Ok(armed) => armed,
            // EBADF would say that the descriptor is closed.
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EMFILE)),
        }
    }

    /// Takes `owner`'s descriptor out and wakes who waits for it.
    pub(super) fn deregister_source(&self, fd: RawFd, owner: u64) {
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            reactor.deregister(fd, owner);
        }
    }

    /// Sees whether a descriptor without an owner is still the one that was armed.
    pub(super) fn verify_source(&self, fd: RawFd) {
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            reactor.verify(fd);
        }
    }

    /// To be called before anything is concluded from what is registered. Another thread
    /// may have closed a number a moment ago, and the note of that lie there unread, while
    /// the number is somebody else's by now: they would be told of the former's end.
    #[inline]
    fn hear_of_closed(&self) {
        if self.shared.borrow().has_retired() {
            self.hear_of_closed_now();
        }
    }

    #[cold]
    fn hear_of_closed_now(&self) {
        let _pass = PassThrough::enter();
        let saved = os::errno();
        self.deregister_retired();
        os::set_errno(saved);
    }

    /// Takes out what other threads have closed. A number without an owner may
    /// have been used again since the note was written, and armed: the kernel,
    /// out of whose set the old one was taken first, tells them apart.
    #[cold]
    pub(super) fn deregister_retired(&self) {
        let retired = self.shared.borrow().take_retired();
        for (fd, owner) in retired {
            match owner {
                LOST => self.abandon_reactor(),
                ALL_CLOSED => self.look_again(),
                NOBODY => self.verify_source(fd),
                owner => self.deregister_source(fd, owner),
            }
        }
    }

    fn with_reactor<R>(&self, f: impl FnOnce(&mut Reactor) -> R) -> io::Result<R> {
        let mut reactor = self.reactor.borrow_mut();
        let reactor = match &mut *reactor {
            Some(reactor) => reactor,
            none => {
                let made = Reactor::new(&self.shared.borrow())?;
                super::closing::everywhere().add(self);
                // Learns whose process this is, before anybody asks in a `vfork`.
                let _ = super::closing::is_borrowed_memory();
                none.insert(made)
            }
        };
        Ok(f(reactor))
    }

    /// Somebody has closed the reactor's descriptors. The next wait makes it anew.
    #[cold]
    fn abandon_reactor(&self) {
        let reactor = self.reactor.borrow_mut().take();
        if let Some(reactor) = reactor {
            reactor.abandon(&self.shared.borrow());
        }
    }

    /// Has everybody who waits for a descriptor try again, and register anew.
    #[cold]
    pub(super) fn look_again(&self) {
        if let Some(reactor) = self.reactor.borrow_mut().as_mut() {
            reactor.registered = 0;
            for source in reactor.sources.drain(..).flatten() {
                source.step_aside();
            }
        }
    }

    /// As `abandon_reactor`, if the descriptor is one of the reactor's.
    pub(super) fn lose(&self, fd: RawFd) {
        if self.shared.borrow().stands_on(fd) {
            self.abandon_reactor();
        }
    }

    /// Asks for events without waiting.
    pub(super) fn poll_reactor(&self) {
        let polled = match self.reactor.borrow_mut().as_mut() {
            Some(reactor) if reactor.registered > 0 => reactor.poll(Some(Duration::ZERO)),
            _ => return,
        };
        if let Err(Lost) = polled {
            self.abandon_reactor();
        }
    }

    /// Sleeps until the next deadline, an event, or a call from outside.
    /// Not for longer than until `housekeeping`, if there is something to be
    /// done then; nor at all, if what it sleeps for `is_there` by now.
    pub(super) fn sleep_in_reactor(&self, housekeeping: Option<u64>, is_there: impl Fn() -> bool) {
        let next = self.timers.borrow().next_deadline();
        let deadline = [next, housekeeping].into_iter().flatten().min();
        if self.with_reactor(|_| ()).is_err() {
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
        // Some of the above asks for memory, and an allocator that lets go of its lock wakes
        // who waits for it, of this very thread.
        if is_there() || !shared.arrivals.is_empty() {
            return shared.inbox.woke_up();
        }
        let polled = match self.reactor.borrow_mut().as_mut() {
            Some(reactor) => {
                let timeout = deadline.and_then(|deadline| reactor.set_timer(deadline));
                reactor.poll(timeout)
            }
            None => Ok(()),
        };
        shared.inbox.woke_up();
        if let Err(Lost) = polled {
            self.abandon_reactor();
        }
        self.polled_at.set(clock::now_ns());
    }
}
