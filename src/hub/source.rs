//! What the reactor knows of one descriptor: who waits for what of it.
//!
//! ```text
//!   Source ── read     reading, and polls for POLLIN        EPOLLIN
//!          ├─ write    writing, and polls for POLLOUT       EPOLLOUT
//!          ├─ urgent   polls for POLLPRI                    EPOLLPRI
//!          ├─ ended    polls for POLLRDHUP                  EPOLLRDHUP
//!          └─ failed   polls for nothing: errors, hang-ups  (always reported)
//! ```
//!
//! Of a descriptor without an owner the kernel reports what somebody waits for and
//! no more. If it did, a poll for POLLPRI of a socket with ordinary data would be
//! woken again each time it is asked for, and never sleep.

use std::cell::Cell;
use std::os::fd::RawFd;

use super::ask::Habit;
use super::doubts::Trust;
use super::wait::Reason;
use super::wait_queue::WaitQueue;

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

    /// As what the kernel is asked for. Who reads wants to know of the end too: it may
    /// come together with the last data, and makes no sign of its own then.
    pub(super) fn wanted(self) -> u32 {
        match self {
            Direction::Read => IN | RDHUP,
            Direction::Write => OUT,
        }
    }
}

/// What can be waited for, in epoll's bits. Errors and hang-ups are reported
/// whatever is asked for.
pub(crate) mod bits {
    pub(crate) const IN: u32 = libc::EPOLLIN as u32;
    pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
    pub(crate) const PRI: u32 = libc::EPOLLPRI as u32;
    pub(crate) const RDHUP: u32 = libc::EPOLLRDHUP as u32;
}
use bits::{IN, OUT, PRI, RDHUP};

/// All of it: what is asked for of a descriptor that has an owner.
pub(super) const ALL: u32 = IN | OUT | PRI | RDHUP;

/// The owner of the registrations of descriptors that nobody keeps an account of.
pub(super) const NOBODY: u64 = 0;

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
    /// Whether operations are known to wait for ever.
    pub(super) habit: Cell<Habit>,
}

impl Side {
    fn new() -> Side {
        Side {
            waiters: WaitQueue::new(),
            maybe_ready: Cell::new(true),
            finished: Cell::new(false),
            urgent: Cell::new(false),
            habit: Cell::default(),
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

/// How a source stands with its reactor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Registered,
    /// Another has taken its place for the same descriptor, or the reactor was
    /// made anew: who still waits registers again.
    Replaced,
    /// The descriptor is closed, or about to be.
    Gone,
}

/// A registered descriptor.
pub(super) struct Source {
    /// Whose registration this is: see `Io`.
    pub(super) owner: u64,
    /// Tells its events from those of the number's former use.
    pub(super) generation: u32,
    /// What the kernel was asked to report, and in which round: see `arm`.
    asked: Cell<(u32, u64)>,
    standing: Cell<Standing>,
    /// How long what is known of it is trusted in a wait in which nothing happens.
    pub(super) trust: Trust,
    /// Whether it is a TCP stream, once somebody has asked.
    is_tcp: Cell<Option<bool>>,
    read: Side,
    write: Side,
    urgent: WaitQueue,
    ended: WaitQueue,
    failed: WaitQueue,
}

/// What an event says of a descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) urgent: bool,
    pub(super) read_closed: bool,
    pub(super) write_closed: bool,
    pub(super) failed: bool,
}

impl Source {
    pub(super) fn new(owner: u64, generation: u32, asked: u32, round: u64) -> Source {
        Source {
            owner,
            generation,
            asked: Cell::new((asked, round)),
            standing: Cell::new(Standing::Registered),
            trust: Trust::new(),
            is_tcp: Cell::new(None),
            read: Side::new(),
            write: Side::new(),
            urgent: WaitQueue::new(),
            ended: WaitQueue::new(),
            failed: WaitQueue::new(),
        }
    }

    /// The descriptor was closed.
    pub(super) fn is_gone(&self) -> bool {
        self.standing.get() == Standing::Gone
    }

    pub(super) fn side(&self, direction: Direction) -> &Side {
        match direction {
            Direction::Read => &self.read,
            Direction::Write => &self.write,
        }
    }

    /// Has who waits make sure of what is known.
    pub(super) fn doubt(&self) {
        self.read.waiters.wake_all();
        self.write.waiters.wake_all();
    }

    /// What has been answered of one direction. Who does not wait for ever is not trusted
    /// for longer.
    pub(super) fn learn(&self, direction: Direction, habit: Habit) {
        if habit.is_none() {
            self.trust.begin_anew();
        }
        self.side(direction).habit.set(habit);
    }

    /// Whether a read that got less than it asked for has used up what there was.
    pub(super) fn is_tcp(&self) -> bool {
        self.is_tcp.get() == Some(true)
    }

    /// Has `protocol` asked for the protocol of the socket, once.
    pub(super) fn learn_protocol(&self, protocol: impl FnOnce() -> Option<libc::c_int>) {
        if self.is_tcp.get().is_none() {
            self.is_tcp.set(Some(protocol() == Some(libc::IPPROTO_TCP)));
        }
    }

    /// Whether who waits for this is going to be told.
    pub(super) fn covers(&self, wanted: u32) -> bool {
        self.standing.get() == Standing::Registered && self.asked.get().0 & wanted == wanted
    }

    /// As `covers`, by what was asked in this very round.
    pub(super) fn covers_in(&self, round: u64, wanted: u32) -> bool {
        self.asked.get().1 == round && self.covers(wanted)
    }

    pub(super) fn asked(&self) -> (u32, u64) {
        self.asked.get()
    }

    pub(super) fn set_asked(&self, wanted: u32, round: u64) {
        self.asked.set((wanted, round));
    }

    /// What has to be asked for, for the sake of others.
    pub(super) fn wanted_by_others(&self, round: u64) -> u32 {
        let of = |queue: &WaitQueue, wanted: u32| if queue.is_empty() { 0 } else { wanted };
        // Who has asked in this round is on the way to its queue.
        let asked = match self.asked.get() {
            (asked, last) if last == round => asked,
            _ => 0,
        };
        asked
            | of(&self.read.waiters, IN | RDHUP)
            | of(&self.write.waiters, OUT)
            | of(&self.urgent, PRI)
            | of(&self.ended, RDHUP)
    }

    /// Where to queue, for what is wanted.
    pub(super) fn queues(&self, wanted: u32) -> impl Iterator<Item = &WaitQueue> {
        [
            (&self.read.waiters, wanted & IN != 0),
            (&self.write.waiters, wanted & OUT != 0),
            (&self.urgent, wanted & PRI != 0),
            (&self.ended, wanted & RDHUP != 0),
            (&self.failed, wanted & ALL == 0),
        ]
        .into_iter()
        .filter_map(|(queue, is_wanted)| is_wanted.then_some(queue))
    }

    /// Wakes whom an event concerns.
    pub(super) fn report(&self, report: Report) {
        let over = report.failed || report.read_closed && report.write_closed;
        if report.urgent {
            self.read.urgent.set(true);
        }
        if report.readable || report.read_closed || report.failed {
            self.read.ready(report.read_closed || report.failed);
        }
        if report.writable || report.write_closed || report.failed {
            self.write.ready(report.write_closed || report.failed);
        }
        if report.urgent || over {
            self.urgent.wake_all();
        }
        if over {
            self.failed.wake_all();
        }
        // mio does not always say that EPOLLRDHUP is among the events.
        self.ended.wake_all();
    }

    /// The descriptor is closed, or about to be.
    pub(super) fn leave(&self) {
        self.leave_as(Standing::Gone);
    }

    /// The reactor knows it no more, though it may be as open as before.
    pub(super) fn step_aside(&self) {
        self.leave_as(Standing::Replaced);
    }

    fn leave_as(&self, standing: Standing) {
        self.standing.set(standing);
        self.read.ready(true);
        self.write.ready(true);
        for queue in [&self.urgent, &self.ended, &self.failed] {
            queue.wake_all();
        }
    }
}
