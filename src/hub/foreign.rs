//! Descriptors that nobody keeps an account of: those of std, of other crates and
//! of C libraries, which are known by their numbers only.
//!
//! Little is remembered about them, and it is trusted for a while: a number may be another
//! descriptor's by now. What the kernel knows (whether the user made them non-blocking,
//! their timeouts) it is asked when an operation would block, see `ask.rs`; and then the
//! reactor is told what is waited for:
//!
//! ```text
//!   recv ─▶ EAGAIN ─▶ F_GETFL, SO_RCVTIMEO ─▶ arm (epoll_ctl) ─▶ park ─▶ recv
//!                      only now                 ENOENT: it is another one
//!                      └──── not if both are known from before ────┘
//! ```
//!
//! Whoever closes one that is waited for says so: see `closing.rs`.

use std::os::fd::RawFd;
use std::rc::Rc;

use super::Hub;
use super::ask::{Ask, Habit};
use super::closing::ARMED;
use super::doubts::TICK;
use super::own::is_own;
use super::quiet::Quiet;
use super::source::{Direction, NOBODY, Source};
use super::wait::{Kind, Reason};
use super::wait_queue::Place;
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;
use crate::sys::{clock, socket};

/// How often a descriptor is asked that cannot be waited for.
const LOOK_AGAIN: u64 = 1_000_000;

/// With more descriptors than this the kernel is told of those only that it does not
/// know yet, if something becomes ready within the time that they are trusted for: one
/// tick.
const MANY: usize = 64;

/// One of several descriptors to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interest {
    pub(crate) fd: RawFd,
    /// In epoll's bits, see `source`. None of them: errors and hang-ups only.
    pub(crate) wanted: u32,
}

impl Hub {
    /// Runs `attempt`, which must not block the thread, until its answer is
    /// something else than EAGAIN, and parks the greenlet in between.
    ///
    /// `patience` is asked when the first attempt would block: until when to
    /// wait, or with what error not to. When the time is over, or the greenlet
    /// is to end, that is the error too.
    pub(crate) fn until_ready<R>(
        &self,
        fd: RawFd,
        direction: Direction,
        patience: Ask<impl FnOnce() -> Result<Option<u64>, Errno>>,
        attempt: impl FnMut() -> Result<R, Errno>,
    ) -> Result<R, Errno> {
        self.until_ready_stream(fd, direction, patience, attempt, |_| false)
    }

    /// As `until_ready`, for an operation whose answer may show that it has used up
    /// what there was, as a short read of a TCP stream does: see `Io::run_stream`.
    /// The next one then waits without trying first.
    pub(crate) fn until_ready_stream<R>(
        &self,
        fd: RawFd,
        direction: Direction,
        patience: Ask<impl FnOnce() -> Result<Option<u64>, Errno>>,
        mut attempt: impl FnMut() -> Result<R, Errno>,
        used_up: impl Fn(&R) -> bool,
    ) -> Result<R, Errno> {
        let wanted = direction.wanted();
        let known = self.trusted_source(fd, wanted);
        let mut attempt = || {
            // It may look whether there is room, and then ask for memory: nobody else
            // takes the room meanwhile.
            let _pass = PassThrough::enter();
            let answer = attempt();
            if let (Ok(value), Some(source)) = (&answer, &known) {
                if source.is_tcp() && used_up(value) {
                    source.side(direction).came_up_short();
                }
            }
            answer
        };
        let is_used_up = |source: &Rc<Source>| !source.side(direction).maybe_ready();
        let mut is_tried = !known.as_ref().is_some_and(is_used_up);
        if is_tried {
            match attempt() {
                Err(libc::EAGAIN) => {}
                answer => return answer,
            }
        }
        let learn = |source: Option<&Rc<Source>>, habit: Option<Habit>| {
            if let (Some(source), Some(habit)) = (source, habit) {
                source.learn(direction, habit);
            }
        };
        let mut armed = Armed::before(known.clone());
        let mut patience = Some(patience);
        let (mut deadline, mut habit) = (None, None);
        let as_known = known
            .as_ref()
            .map(|source| source.side(direction).habit.get());
        let as_known = as_known.unwrap_or_default();
        loop {
            if let Some(ask) = patience.take_if(|ask| !armed.has_habit(ask, direction)) {
                match ask.now() {
                    (Ok(answer), new) => (deadline, habit) = (answer, new),
                    (Err(error), new) => {
                        learn(known.as_ref(), new);
                        // It does not wait, and so the reactor is not asked.
                        return match error == libc::EAGAIN && !is_tried {
                            true => attempt(),
                            false => Err(error),
                        };
                    }
                }
            }
            let ended = self.await_source(&mut armed, fd, direction, deadline)?;
            learn(armed.source(), habit.take());
            match attempt() {
                // A hub that was busy for long finds the time over, and the
                // descriptor ready.
                Err(libc::EAGAIN) if ended != Ended::TimedOut => is_tried = true,
                answer => {
                    if let Armed::Doubted(_) = armed {
                        self.make_sure_of(fd);
                    }
                    return answer;
                }
            }
            if let (Some(ask), Some(source)) = (&patience, &known) {
                match ask.is_needless(as_known) {
                    // One wait goes by what is known.
                    true => drop(source.side(direction).habit.take()),
                    // It was right when this operation began, and that is what counts.
                    false => patience = None,
                }
            }
        }
    }

    /// Something has come that was not reported: by chance, or because the number is
    /// another descriptor's, which the next wait must not be late for again.
    #[cold]
    fn make_sure_of(&self, fd: RawFd) {
        let _pass = PassThrough::enter();
        let saved = os::errno();
        self.verify_source(fd);
        os::set_errno(saved);
    }

    /// The registration of a foreign descriptor that an earlier wait has left, if it
    /// goes for this one too. It may be that of another one by now, closed where
    /// nobody told us: whoever trusts it makes sure if nothing happens for a while.
    fn trusted_source(&self, fd: RawFd, wanted: u32) -> Option<Rc<Source>> {
        // Closed, and not armed since: what is known is of no use.
        if !ARMED.contains(fd) {
            return None;
        }
        let source = self.known_source(fd)?;
        (source.owner == NOBODY && source.covers(wanted)).then_some(source)
    }

    /// Parks until the descriptor may be ready, or the time is over. Of several waits
    /// the kernel is told once.
    ///
    /// # Errors
    /// EAGAIN when the time is over; EBADF if it is closed, or was meanwhile;
    /// EPERM if it is of a kind that is always ready; the refusal.
    pub(crate) fn await_descriptor(
        &self,
        fd: RawFd,
        direction: Direction,
        deadline: Option<u64>,
    ) -> Result<(), Errno> {
        match self.await_source(&mut Armed::Not, fd, direction, deadline)? {
            Ended::TimedOut => Err(libc::EAGAIN),
            _ => Ok(()),
        }
    }

    /// As `await_descriptor`, one of several waits: the kernel is told once, and not
    /// at first if it was told for an earlier operation.
    fn await_source(
        &self,
        armed: &mut Armed,
        fd: RawFd,
        direction: Direction,
        deadline: Option<u64>,
    ) -> Result<Ended, Errno> {
        let wanted = direction.wanted();
        if !armed.covers(wanted) {
            match self.arm_foreign(fd, wanted, self.next_id()) {
                Ok(source) => {
                    // Nobody runs between that and the wait, though memory is freed: the
                    // loop would take the very event that is waited for.
                    let _pass = PassThrough::enter();
                    if matches!(armed, Armed::Doubted(before) if Rc::ptr_eq(before, &source)) {
                        source.trust.lengthen();
                    }
                    *armed = Armed::Now(source);
                }
                Err(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC) => {
                    return self.await_unwatched(deadline);
                }
                Err(error) => return Err(error),
            }
        }
        let (source, trusting) = match armed {
            Armed::Now(source) => (&*source, None),
            Armed::Before(source) => (&*source, Some(self.trust(source))),
            Armed::Not | Armed::Doubted(_) => unreachable!("it was just armed"),
        };
        self.renew_budget();
        let waiters = &source.side(direction).waiters;
        let ended = match self.park_quietly(waiters, direction.reason(fd), Kind::External, deadline)
        {
            Quiet::Answered if source.is_gone() => Err(libc::EBADF),
            Quiet::Answered => Ok(Ended::Perhaps),
            Quiet::TimedOut => Ok(Ended::TimedOut),
            Quiet::Refused(error) => Err(error),
        };
        if trusting.is_some_and(|trusting| trusting.is_doubted()) {
            armed.doubt();
        }
        ended
    }

    /// The kernel has no room to watch a descriptor: it is tried now and then.
    #[cold]
    fn await_unwatched(&self, deadline: Option<u64>) -> Result<Ended, Errno> {
        let until = sooner(deadline, LOOK_AGAIN);
        match self.sleep_quietly(until.unwrap_or_default()) {
            Quiet::Refused(error) => Err(error),
            _ if until == deadline => Ok(Ended::TimedOut),
            _ => Ok(Ended::Perhaps),
        }
    }

    /// Prepares to wait for several descriptors at once. One may be among them
    /// several times.
    pub(crate) fn watch(&self, interests: impl IntoIterator<Item = Interest>) -> Watch<'_> {
        let watched = |interest| Watched {
            interest,
            armed: Armed::Not,
            is_constant: false,
        };
        let mut watched: Vec<_> = interests.into_iter().map(watched).collect();
        if watched.len() > MANY {
            for Watched {
                interest, armed, ..
            } in &mut watched
            {
                *armed = Armed::before(self.trusted_source(interest.fd, interest.wanted));
            }
        }
        Watch { hub: self, watched }
    }

    /// Parks until the descriptor may be read from, or fails, and lets a kill or a
    /// timeout wait meanwhile.
    ///
    /// # Errors
    /// As for [`await_descriptor`](Hub::await_descriptor), without a refusal.
    pub(crate) fn await_regardless(&self, fd: RawFd, reason: Reason) -> Result<(), Errno> {
        let source = self.arm_foreign(fd, Direction::Read.wanted(), self.next_id())?;
        let waiters = &source.side(Direction::Read).waiters;
        self.quietly(Kind::External, |kind| {
            waiters.park(reason, kind, None, false)
        });
        Ok(())
    }

    fn arm_foreign(&self, fd: RawFd, wanted: u32, round: u64) -> Result<Rc<Source>, Errno> {
        let _pass = PassThrough::enter();
        let saved = os::errno();
        let is_noted = ARMED.insert(fd);
        let armed = self.arm_source(fd, wanted, round);
        while armed.is_ok() && is_noted && !ARMED.contains(fd) {
            // Somebody is closing it. Whether that is done the kernel knows; if not,
            // they find the number here when it is.
            ARMED.insert(fd);
            self.verify_source(fd);
        }
        if let Ok(source) = &armed {
            source.learn_protocol(|| socket::option(fd, libc::SO_PROTOCOL).ok());
        }
        os::set_errno(saved);
        match armed {
            Ok(source) if source.is_gone() => Err(libc::EBADF),
            // The number of what was closed is one of our own by now.
            Err(libc::EINVAL) if is_own(fd) => Err(libc::EBADF),
            armed => armed,
        }
    }
}

/// Whether the kernel has been told what is waited for.
enum Armed {
    Not,
    /// For an earlier wait; that it is the same descriptor still is likely, for
    /// `close` says when not. If nothing happens for a while, it is made sure.
    Before(Rc<Source>),
    /// For an earlier wait, and nothing has happened for a while.
    Doubted(Rc<Source>),
    /// For this operation.
    Now(Rc<Source>),
}

impl Armed {
    fn before(trusted: Option<Rc<Source>>) -> Armed {
        trusted.map_or(Armed::Not, Armed::Before)
    }

    fn source(&self) -> Option<&Rc<Source>> {
        match self {
            Armed::Not | Armed::Doubted(_) => None,
            Armed::Before(source) | Armed::Now(source) => Some(source),
        }
    }

    fn covers(&self, wanted: u32) -> bool {
        self.source().is_some_and(|source| source.covers(wanted))
    }

    fn is_trusted(&self) -> bool {
        matches!(self, Armed::Before(_))
    }

    /// Whether it is known until when to wait; only of what is trusted for a while.
    fn has_habit<F>(&self, ask: &Ask<F>, direction: Direction) -> bool
    where
        F: FnOnce() -> Result<Option<u64>, Errno>,
    {
        match self {
            Armed::Before(source) => {
                let is_covered = source.covers(direction.wanted());
                is_covered && ask.is_needless(source.side(direction).habit.get())
            }
            Armed::Not | Armed::Doubted(_) | Armed::Now(_) => false,
        }
    }

    /// Nothing has happened for a while: it is made sure.
    fn doubt(&mut self) {
        if let Armed::Before(source) = self {
            *self = Armed::Doubted(Rc::clone(source));
        }
    }
}

/// The deadline, or in so many nanoseconds if that is sooner.
fn sooner(deadline: Option<u64>, time: u64) -> Option<u64> {
    let soon = clock::now_ns().saturating_add(time);
    Some(deadline.map_or(soon, |deadline| deadline.min(soon)))
}

/// Several descriptors that are waited for at once, with what is known of them
/// between one wait and the next.
///
/// ```text
///   poll_now ─▶ none ready ─▶ watch ─▶ park ─▶ poll_now ─▶ none ─▶ park ─▶ …
///                                      epoll_ctl for each          not again
/// ```
///
/// After the first wait the kernel need not be told anew: it reports what becomes
/// ready from then on. So a report that means nothing to who waits, as that of an
/// error that only another call can take, costs one look and no more.
///
/// Nor is it told anew at once of *many* that it was told of for an earlier wait: a
/// server that polls ten thousand would make as many system calls each time.
pub(crate) struct Watch<'h> {
    hub: &'h Hub,
    watched: Vec<Watched>,
}

struct Watched {
    interest: Interest,
    armed: Armed,
    /// As a file on a disk: what it is ready for never changes.
    is_constant: bool,
}

/// How a wait for several descriptors has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// One of them may be ready.
    Perhaps,
    TimedOut,
    /// One of them was closed: see [`Watch::closed`].
    Closed,
}

impl Watch<'_> {
    /// Parks until one of the descriptors may be ready, or is closed.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn park(&mut self, deadline: Option<u64>) -> Result<Ended, Errno> {
        let until = match self.arm() {
            Ok(()) if self.watched.iter().any(|it| it.armed.is_trusted()) => sooner(deadline, TICK),
            Ok(()) => deadline,
            // It has just been closed, which the next look tells; or the kernel has no
            // room for more, or it is one of our own, or an epoll set that contains
            // the hub's: it cannot be waited for.
            Err(_) => sooner(deadline, LOOK_AGAIN),
        };
        match self.park_armed(until) {
            Quiet::Answered if self.watched.iter().any(Watched::is_closed) => Ok(Ended::Closed),
            Quiet::Answered => Ok(Ended::Perhaps),
            Quiet::TimedOut if until == deadline => Ok(Ended::TimedOut),
            Quiet::TimedOut => {
                self.watched.iter_mut().for_each(|it| it.armed.doubt());
                // Now, for there may be no next wait: one of them is ready by now, which
                // was not reported because the number is another's. What is wrong with
                // one that cannot be armed is found again.
                let _ = self.arm();
                Ok(Ended::Perhaps)
            }
            Quiet::Refused(error) => Err(error),
        }
    }

    /// All of them in their order, and whether each was closed while it was waited
    /// for, whatever has its number now.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (RawFd, bool)> {
        self.watched
            .iter()
            .map(|watched| (watched.interest.fd, watched.is_closed()))
    }

    fn arm(&mut self) -> Result<(), Errno> {
        // As in `await_source`.
        let _pass = PassThrough::enter();
        let round = self.hub.next_id();
        let mut trouble = Ok(());
        for watched in &mut self.watched {
            let Interest { fd, wanted } = watched.interest;
            if watched.is_constant || watched.armed.covers(wanted) {
                continue;
            }
            watched.armed = Armed::Not;
            match self.hub.arm_foreign(fd, wanted, round) {
                Ok(source) => watched.armed = Armed::Now(source),
                Err(libc::EPERM) => watched.is_constant = true,
                Err(error) => trouble = Err(error),
            }
        }
        trouble
    }

    fn park_armed(&self, deadline: Option<u64>) -> Quiet {
        if let [
            Watched {
                interest,
                armed: Armed::Now(source),
                ..
            },
        ] = &self.watched[..]
        {
            let mut queues = source.queues(interest.wanted);
            if let (Some(queue), None) = (queues.next(), queues.next()) {
                let reason = Reason::with("polling descriptor", interest.fd as u64);
                return self
                    .hub
                    .park_quietly(queue, reason, Kind::External, deadline);
            }
        }
        let pass = PassThrough::enter();
        let mut places: Vec<&dyn Place> = Vec::with_capacity(self.watched.len());
        for watched in &self.watched {
            if let Some(source) = watched.armed.source() {
                for queue in source.queues(watched.interest.wanted) {
                    places.push(queue);
                }
            }
        }
        drop(pass);
        let reason = Reason::with("polling descriptors, so many:", self.watched.len() as u64);
        self.hub
            .park_quietly_in(&places, reason, Kind::External, deadline)
    }
}

impl Watched {
    fn is_closed(&self) -> bool {
        self.armed.source().is_some_and(|source| source.is_gone())
    }
}
