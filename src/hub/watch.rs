//! How other threads see whether a hub goes on, and how its own thread says where
//! it is if it does not: what the watchdog in `diagnostics` stands on.
//!
//! ```text
//!   the hub's thread                       the watchdog's thread
//!   ───────────────                        ─────────────────────
//!   every turn:   left -= 1   ──┐
//!   every 61:     rounds += 1 ──┼─ Pulse ──▶ sample(): the same turn as before?
//!   idle:         asleep      ──┘               │ often enough
//!   handler: look() at its own hub  ◀──signal── ask()
//! ```
//!
//! The pulse is what the loop counts anyway, in atomics that only one thread
//! writes, with plain loads and stores: it costs nothing. It can be read a little
//! too early or too late. Whether a hub is blocked is decided by its own thread, in
//! the signal handler, which sees everything as it is.
//!
//! Hubs are listed when they get their second greenlet: before that they can keep
//! nobody waiting.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Hub;
use super::run::TURNS_PER_LOOK;
use crate::sys::fork::PerProcess;
use crate::sys::futex;
use crate::sys::pass::PassThrough;
use crate::sys::probe::{Answer, Asker, Note, Question};
use crate::sys::published::Published;
use crate::sys::text::SliceText;

/// The part of a hub that tells its turns from each other. Its own thread writes,
/// others read.
pub(super) struct Pulse {
    /// The hub's number, here so that a signal handler can read it.
    hub: u64,
    /// Turns that are left of this round.
    left: AtomicU32,
    rounds: AtomicU64,
    /// The loop is idle: nobody has a turn.
    asleep: AtomicBool,
    /// It is in the list.
    listed: AtomicBool,
}

impl Pulse {
    pub(super) fn new(hub: u64) -> Pulse {
        Pulse {
            hub,
            left: AtomicU32::new(TURNS_PER_LOOK),
            rounds: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        }
    }

    /// A turn is over. So many are left of the round.
    #[inline(always)]
    pub(super) fn count_turn(&self) -> u32 {
        let left = self.left.load(Ordering::Relaxed) - 1;
        self.left.store(left, Ordering::Relaxed);
        left
    }

    /// A turn is over, unless it is the last of the round: that is left to `count_turn`,
    /// and the answer is false.
    #[inline(always)]
    pub(super) fn count_turn_within(&self) -> bool {
        let left = self.left.load(Ordering::Relaxed) - 1;
        if left > 0 {
            self.left.store(left, Ordering::Relaxed);
        }
        left > 0
    }

    /// A round is over, after 61 turns or before.
    pub(super) fn begin_round(&self) {
        let rounds = self.rounds.load(Ordering::Relaxed) + 1;
        self.rounds.store(rounds, Ordering::Relaxed);
        self.left.store(TURNS_PER_LOOK, Ordering::Relaxed);
    }

    /// So many turns are left of the round.
    pub(super) fn left(&self) -> u32 {
        self.left.load(Ordering::Relaxed)
    }

    /// The number of the turn: none comes twice.
    fn turn(&self) -> u64 {
        let taken = TURNS_PER_LOOK.saturating_sub(self.left());
        let before = self.rounds.load(Ordering::Relaxed);
        before
            .wrapping_mul(TURNS_PER_LOOK.into())
            .wrapping_add(taken.into())
    }

    /// Nobody has a turn until this is dropped.
    pub(super) fn idle(&self) -> Idle<'_> {
        self.asleep.store(true, Ordering::Relaxed);
        Idle(self)
    }

    #[inline(always)]
    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed)
    }

    /// After a fork, in the child: the list was the parent's.
    pub(super) fn forget_list(&self) {
        self.listed.store(false, Ordering::Relaxed);
    }
}

/// The loop has nothing to run.
pub(super) struct Idle<'a>(&'a Pulse);

impl Drop for Idle<'_> {
    fn drop(&mut self) {
        self.0.asleep.store(false, Ordering::Relaxed);
        if IS_WATCHED.load(Ordering::Relaxed) {
            // Either `rest` sees this hub awake, or it is seen here.
            fence(Ordering::SeqCst);
            if BELL.load(Ordering::Relaxed) == RESTS {
                ring();
            }
        }
    }
}

/// One of the list.
struct Listed {
    hub: u64,
    thread: i32,
    pulse: *const Pulse,
}

// SAFETY: the pulse is made of atomics, and is taken off the list before it is freed.
unsafe impl Send for Listed {}

static LIST: PerProcess<Mutex<Vec<Listed>>> = PerProcess::new();

fn list_of_hubs() -> MutexGuard<'static, Vec<Listed>> {
    LIST.get(|| Mutex::new(Vec::new()))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Told of each hub that is listed.
static LISTENER: Published<fn()> = Published::nothing();

/// Has `listener` called whenever a hub gets its second greenlet, on its thread. It
/// must not block for long, nor use the hub.
pub(crate) fn on_list(listener: fn()) {
    LISTENER.set(listener);
}

/// Whether there are hubs with more than one greenlet.
pub(crate) fn any_listed() -> bool {
    !list_of_hubs().is_empty()
}

/// A hub has more than its main greenlet for the first time.
#[cold]
pub(super) fn list(hub: &Hub) {
    let _pass = PassThrough::enter();
    hub.pulse.listed.store(true, Ordering::Relaxed);
    if hub.closing {
        // No other greenlet of it will ever run.
        return;
    }
    list_of_hubs().push(Listed {
        hub: hub.pulse.hub,
        thread: hub.os_thread(),
        pulse: &raw const hub.pulse,
    });
    if let Some(listener) = LISTENER.get() {
        listener();
    }
}

/// The hub's thread ends.
pub(super) fn unlist(hub: &Hub) {
    if hub.pulse.is_listed() {
        let _pass = PassThrough::enter();
        list_of_hubs().retain(|listed| listed.hub != hub.pulse.hub);
    }
}

/// What is seen of a hub at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beat {
    pub(crate) hub: u64,
    pub(crate) thread: i32,
    /// None: it is idle.
    pub(crate) turn: Option<u64>,
}

/// Looks at all hubs.
pub(crate) fn sample(beats: &mut Vec<Beat>) {
    beats.clear();
    for listed in list_of_hubs().iter() {
        // SAFETY: what is in the list has not been freed, and cannot be while the
        // list is locked.
        let pulse = unsafe { &*listed.pulse };
        let asleep = pulse.asleep.load(Ordering::Relaxed);
        beats.push(Beat {
            hub: listed.hub,
            thread: listed.thread,
            turn: (!asleep).then(|| pulse.turn()),
        });
    }
}

/// Asks a hub's thread whether it is still in the turn that was seen, and where.
pub(crate) fn ask(asker: &mut Asker, beat: &Beat) -> Answer {
    let Some(turn) = beat.turn else {
        return Answer::NotBlocked;
    };
    asker.ask(Question {
        thread: beat.thread,
        hub: beat.hub,
        turn,
        look,
    })
}

/// Runs in a signal handler, which may have interrupted anything.
fn look(number: u64, turn: u64, note: &mut Note) -> bool {
    let Some(hub) = Hub::try_current() else {
        return false;
    };
    let task = hub.current();
    // Who is about to leave is no longer the first of the queue.
    let holds_the_turn = hub.pulse.hub == number
        && hub.pulse.turn() == turn
        && hub.queue.first() == Some(task)
        && !hub.pulse.asleep.load(Ordering::Relaxed);
    if !holds_the_turn {
        return false;
    }
    let (Ok(tasks), Ok(extra)) = (hub.tasks.try_borrow(), task.extra.try_borrow()) else {
        // In the middle of something short.
        return false;
    };
    note.others = tasks.len().saturating_sub(1);
    if note.others == 0 || extra.as_ref().is_some_and(|extra| extra.unwatched > 0) {
        return false;
    }
    let is_main = task == hub.main();
    note.spawned_at = (!is_main).then_some(task.spawned_at);
    // SAFETY: a fiber is put there before its task runs, and taken away after.
    let fiber = unsafe {
        (*task.fiber.get())
            .as_ref()
            .or((*task.isolated.get()).as_ref())
    };
    note.stack = fiber.map_or(0..0, |fiber| fiber.whole_stack());
    let mut text = SliceText::new(&mut note.name);
    let _ = task.write_name(&mut text);
    note.name_len = text.len();
    true
}

/// Nobody minds how long the current greenlet's turns are while `f` runs.
pub(crate) fn unwatched<R>(f: impl FnOnce() -> R) -> R {
    /// Counts down however `f` is left.
    struct Leave(super::TaskPtr);
    impl Drop for Leave {
        fn drop(&mut self) {
            self.0.with_extra(|extra| extra.unwatched -= 1);
        }
    }
    let task = Hub::get().current();
    task.with_extra(|extra| extra.unwatched += 1);
    let _leave = Leave(task);
    f()
}

/// There is a watchdog, which may rest.
static IS_WATCHED: AtomicBool = AtomicBool::new(false);
/// What it sleeps on.
static BELL: AtomicU32 = AtomicU32::new(QUIET);
const QUIET: u32 = 0;
const RUNG: u32 = 1;
/// It sleeps until a hub wakes.
const RESTS: u32 = 2;

/// Says whether there is a watchdog.
pub(crate) fn set_watched(watched: bool) {
    IS_WATCHED.store(watched, Ordering::SeqCst);
}

/// Ends the watchdog's sleep.
pub(crate) fn ring() {
    BELL.store(RUNG, Ordering::SeqCst);
    futex::wake(&BELL);
}

/// The watchdog sleeps. True: somebody rang.
pub(crate) fn wait_for_ring(time: Duration) -> bool {
    futex::wait(&BELL, QUIET, Some(time));
    BELL.swap(QUIET, Ordering::SeqCst) == RUNG
}

/// The watchdog sleeps until somebody rings, or a hub that was idle goes on.
pub(crate) fn rest() {
    let rests = BELL.compare_exchange(QUIET, RESTS, Ordering::SeqCst, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let mut beats = Vec::new();
    sample(&mut beats);
    let all_idle = beats.iter().all(|beat| beat.turn.is_none());
    while rests.is_ok() && all_idle && BELL.load(Ordering::SeqCst) == RESTS {
        futex::wait(&BELL, RESTS, None);
    }
    BELL.store(QUIET, Ordering::SeqCst);
}
