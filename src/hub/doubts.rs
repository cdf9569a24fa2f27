//! When what is known of a descriptor without an owner is to be doubted: one timer for
//! all waits that go by it.
//!
//! A server comes to each of its connections again long before that, and to start a timer
//! for each wait and to stop it was more than half of what a wait needed beside one on a
//! descriptor with an owner. Time is counted in ticks here, and only while somebody waits
//! so. A wait notes at its source the tick that it is trusted until; and a source is
//! looked at when its tick has come:
//!
//! ```text
//!   a wait begins ─▶ the source's tick is put off ─▶ is it in the ring? ─ no ─▶ put in
//!
//!   ring   │ 7: a, c │ 8: – │ 9: b │ …      a tick takes one of these out, and looks
//!            ▲                             at each source:
//!            now
//!                 nobody waits any more ─▶ it is let go
//!                 its tick was put off  ─▶ put in there
//!                 otherwise             ─▶ who waits doubts
//! ```
//!
//! So a source is looked at once in the time that it is trusted for, however many waits
//! begin and end meanwhile.

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::Rc;

use super::source::Source;
use super::{Hub, TimerTarget};
use crate::sys::clock;
use crate::sys::pass::PassThrough;

/// How long a tick is: 10 ms, in nanoseconds.
pub(super) const TICK: u64 = 10_000_000;

/// For how many ticks what is known of a descriptor is trusted in a wait in which nothing
/// happens. But a server with ten thousand connections comes to each ten times a second,
/// and would doubt in every wait.
const AT_FIRST: u64 = 1;
const AT_MOST: u64 = 16;

/// Long enough for who is trusted the longest, and waits since the middle of a tick.
const RING: usize = AT_MOST as usize + 2;

/// The descriptors of a hub of which something is trusted.
pub(super) struct Doubts {
    /// How many ticks there have been.
    now: Cell<u64>,
    /// Whether a timer runs for the next one.
    is_ticking: Cell<bool>,
    ring: [RefCell<Vec<Rc<Source>>>; RING],
}

impl Doubts {
    pub(super) const fn new() -> Doubts {
        Doubts {
            now: Cell::new(0),
            is_ticking: Cell::new(false),
            ring: [const { RefCell::new(Vec::new()) }; RING],
        }
    }

    /// In the child of a fork, whose only greenlet does not wait.
    pub(super) fn forget(&self) {
        self.is_ticking.set(false);
        for place in &self.ring {
            place.take();
        }
    }

    fn put(&self, tick: u64, source: Rc<Source>) {
        self.ring[tick as usize % RING].borrow_mut().push(source);
    }
}

/// How far what is known of a descriptor is trusted.
pub(super) struct Trust {
    /// For how many ticks.
    lasts: Cell<u64>,
    /// How many waits go by it, and until which tick the last of them does.
    waits: Cell<u32>,
    until: Cell<u64>,
    is_in_ring: Cell<bool>,
    /// How often it was doubted.
    doubts: Cell<u32>,
}

impl Trust {
    pub(super) fn new() -> Trust {
        Trust {
            lasts: Cell::new(AT_FIRST),
            waits: Cell::new(0),
            until: Cell::new(0),
            is_in_ring: Cell::new(false),
            doubts: Cell::new(0),
        }
    }

    /// It was doubted, and all was as it had been.
    pub(super) fn lengthen(&self) {
        self.lasts.set((self.lasts.get() * 2).min(AT_MOST));
    }

    /// Something was not as it had been.
    pub(super) fn begin_anew(&self) {
        self.lasts.set(AT_FIRST);
    }
}

/// A wait that goes by what is known.
pub(super) struct Trusting<'s> {
    trust: &'s Trust,
    doubts_before: u32,
}

impl Trusting<'_> {
    /// Whether it is to be made sure of now.
    pub(super) fn is_doubted(&self) -> bool {
        self.trust.doubts.get() != self.doubts_before
    }
}

impl Drop for Trusting<'_> {
    fn drop(&mut self) {
        self.trust.waits.set(self.trust.waits.get() - 1);
    }
}

impl Hub {
    /// While this is there, whoever waits for the source is woken when that has been
    /// trusted for long enough.
    #[inline]
    pub(super) fn trust<'s>(&self, source: &'s Rc<Source>) -> Trusting<'s> {
        let trust = &source.trust;
        trust.waits.set(trust.waits.get() + 1);
        // The next tick may be about to come.
        let until = self.doubts.now.get() + trust.lasts.get() + 1;
        trust.until.set(until);
        if !trust.is_in_ring.replace(true) {
            self.put_into_ring(until, source);
        }
        Trusting {
            trust,
            doubts_before: trust.doubts.get(),
        }
    }

    #[cold]
    fn put_into_ring(&self, until: u64, source: &Rc<Source>) {
        let _pass = PassThrough::enter();
        self.doubts.put(until, Rc::clone(source));
        self.have_ticks();
    }

    fn have_ticks(&self) {
        if !self.doubts.is_ticking.replace(true) {
            self.start_timer(clock::now_ns() + TICK, TimerTarget::Doubts);
        }
    }

    /// The timer has fired.
    #[cold]
    pub(super) fn doubt(&self) {
        let _pass = PassThrough::enter();
        let doubts = &self.doubts;
        let now = doubts.now.get() + 1;
        doubts.now.set(now);
        doubts.is_ticking.set(false);
        let due = mem::take(&mut *doubts.ring[now as usize % RING].borrow_mut());
        for source in due {
            let trust = &source.trust;
            let (until, is_trusted) = (trust.until.get(), trust.waits.get() > 0);
            if is_trusted && until > now {
                doubts.put(until, source);
                continue;
            }
            trust.is_in_ring.set(false);
            if is_trusted {
                trust.doubts.set(trust.doubts.get().wrapping_add(1));
                source.doubt();
            }
        }
        if doubts.ring.iter().any(|place| !place.borrow().is_empty()) {
            self.have_ticks();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::NOBODY;
    use super::*;

    fn source() -> Rc<Source> {
        Rc::new(Source::new(NOBODY, 1, 0, 0))
    }

    /// In its own thread: the hub is the thread's.
    fn with_hub(test: fn(&Hub)) {
        std::thread::spawn(move || test(Hub::get())).join().unwrap();
    }

    fn in_ring(hub: &Hub) -> usize {
        let places = hub.doubts.ring.iter();
        places.map(|place| place.borrow().len()).sum()
    }

    #[test]
    fn waits_that_follow_each_other_need_one_place_and_one_timer() {
        with_hub(|hub| {
            let sources = [source(), source()];
            for _ in 0..1000 {
                for source in &sources {
                    assert!(!hub.trust(source).is_doubted());
                }
            }
            assert_eq!(in_ring(hub), 2);
            assert_eq!(hub.timers.borrow().len(), 1);
        });
    }

    #[test]
    fn who_waits_for_long_doubts_and_who_has_just_begun_does_not() {
        with_hub(|hub| {
            let (long, short) = (source(), source());
            let waits = hub.trust(&long);
            drop(hub.trust(&short));
            hub.doubt();
            assert!(
                !waits.is_doubted(),
                "it may have begun just before the tick"
            );
            let began_later = hub.trust(&short);
            hub.doubt();
            assert!(waits.is_doubted());
            assert!(!began_later.is_doubted());
            hub.doubt();
            assert!(began_later.is_doubted());
            assert_eq!(in_ring(hub), 0);
        });
    }

    #[test]
    fn what_was_as_before_is_trusted_for_longer_and_longer() {
        with_hub(|hub| {
            let source = source();
            for ticks in [1, 2, 4, 8, 16, 16] {
                let waits = hub.trust(&source);
                for _ in 0..ticks {
                    hub.doubt();
                    assert!(!waits.is_doubted());
                }
                hub.doubt();
                assert!(waits.is_doubted());
                source.trust.lengthen();
            }
            source.trust.begin_anew();
            let waits = hub.trust(&source);
            (0..2).for_each(|_| hub.doubt());
            assert!(waits.is_doubted());
        });
    }

    #[test]
    fn when_nobody_waits_there_are_no_ticks() {
        with_hub(|hub| {
            let source = source();
            drop(hub.trust(&source));
            assert_eq!(hub.timers.borrow().len(), 1);
            // A thread that stands still for some time has fewer ticks in it.
            for _ in (0..1000).take_while(|_| in_ring(hub) > 0) {
                crate::sleep(std::time::Duration::from_nanos(TICK));
            }
            assert_eq!((in_ring(hub), hub.timers.borrow().len()), (0, 0));
            assert!(!hub.doubts.is_ticking.get());
            assert_eq!(Rc::strong_count(&source), 1);
        });
    }
}
