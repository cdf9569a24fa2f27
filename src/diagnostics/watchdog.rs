//! The watchdog: who holds a thread for too long.
//!
//! ```text
//!   hub A   ──turn 7──┬───────────────── turn 8 ──────────────────────────▶
//!   sample            7     8     8     8     8     8  ──▶ four times the same:
//!                     ◀step▶                        │      ask the thread itself
//!                                                   ▼
//!                            signal ─▶ "yes, still turn 8, and I am at …" ─▶ report
//! ```
//!
//! Two ways are combined. The *sampling* reads a few numbers that every hub's loop
//! counts anyway: nothing is written for it, nobody is interrupted, and a hub that
//! goes on never notices. Only when one does not seem to go on, its thread is asked
//! by a *signal*, for only there can a stack be walked. What the samples say may be
//! a little out of date; what the thread itself says is exact, and only that is
//! reported. A signal at each step instead of samples would interrupt system calls
//! for nothing.
//!
//! It counts steps, and not time: a process that was stopped for an hour has made
//! one step. And time in which the thread would have run, but found no processor, is
//! not counted either: that the machine is busy is nobody's fault here.
//!
//! A thread is started for it when the first hub gets its second greenlet, and only
//! while it is on. It holds no lock that a hub needs for long, it never wakes a
//! greenlet, and the deadlock detector knows it for a helper. In the child of a fork
//! it is missing, until a hub there gets its second greenlet.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::blocked::{self, Blocked};
use crate::hub::watch::{self, Beat};
use crate::sys::fork::PerProcess;
use crate::sys::helpers::IdleGuard;
use crate::sys::os_thread;
use crate::sys::pass::PassThrough;
use crate::sys::probe::{Answer, Asker};
use crate::sys::signal::SignalMask;
use crate::sys::threads::{self, Times};
use crate::sys::{futex, os};

/// The threshold where nobody has asked for another.
const USUAL: Duration = Duration::from_millis(100);
/// Nothing finer is measured.
const LEAST: Duration = Duration::from_millis(1);
/// So many samples in which nothing has moved are a threshold.
const STEPS: u32 = 4;
/// A thread that does not answer is asked so often.
const MOST_TRIES: u32 = 3;
/// After so many steps in which all hubs were idle it sleeps until one wakes.
const STEPS_UNTIL_REST: u32 = 40;
const VARIABLE: &str = "GREENLET_WATCHDOG";

/// Sets how long a greenlet may hold its thread before it is reported; `None`
/// switches the watchdog off. It holds for all threads of the process. Returns what
/// was set before.
///
/// A threshold is at least a millisecond; less counts as one. A report comes up to
/// a quarter later than that. Time in which the thread could have run, but the
/// machine was busy with others, does not count. The main greenlet is watched like any other, while
/// its thread has others. A hub that sleeps because all its greenlets wait holds
/// nothing.
///
/// In the child of a fork the setting holds too.
///
/// # What it does to a blocked thread
/// It is sent one SIGURG, unless it is blocked in a turn that was reported already.
/// The handler (installed when this happens for the first time) walks the stack and
/// returns. Signals of that number that are somebody else's go on to the handler
/// that was installed before it; while one is installed that came later, reports
/// have no list of calls. System calls that are interrupted go on, those of the
/// family of `poll` and `nanosleep` too; but a relative timeout of such a call
/// begins anew, so it can be late by the threshold.
///
/// # Examples
/// ```
/// use greenlet::diagnostics::watchdog;
/// use std::time::Duration;
///
/// let before = watchdog(Some(Duration::from_millis(20)));
/// assert_eq!(watchdog(None), Some(Duration::from_millis(20)));
/// watchdog(before);
/// ```
#[doc(alias = "max_blocking_time")]
#[doc(alias = "start_periodic_monitoring_thread")]
pub fn watchdog(threshold: Option<Duration>) -> Option<Duration> {
    let new = threshold.map_or(OFF, nanoseconds);
    let _ = watchdog_threshold();
    let old = THRESHOLD.swap(new, Ordering::SeqCst);
    if old != new {
        let _pass = PassThrough::enter();
        watch::ring();
        start_if_wanted();
    }
    (old != OFF).then(|| Duration::from_nanos(old))
}

/// How long a greenlet may hold its thread before it is reported; `None` if the
/// watchdog is off.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// if std::env::var_os("GREENLET_WATCHDOG").is_none() {
///     let usual = cfg!(debug_assertions).then_some(Duration::from_millis(100));
///     assert_eq!(greenlet::diagnostics::watchdog_threshold(), usual);
/// }
/// ```
#[must_use]
pub fn watchdog_threshold() -> Option<Duration> {
    let mut threshold = THRESHOLD.load(Ordering::SeqCst);
    if threshold == UNKNOWN {
        let first = from_environment();
        // Somebody may have set one meanwhile.
        threshold =
            match THRESHOLD.compare_exchange(UNKNOWN, first, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => first,
                Err(set) => set,
            };
    }
    (threshold != OFF).then(|| Duration::from_nanos(threshold))
}

/// Runs `f`, in which this greenlet may hold its thread as long as it likes. Others
/// are watched as ever.
///
/// # Examples
/// ```
/// let sum = greenlet::diagnostics::unwatched(|| (1..=1000u64).sum::<u64>());
/// assert_eq!(sum, 500_500);
/// ```
#[doc(alias = "ignore_current_greenlet_blocking")]
pub fn unwatched<R>(f: impl FnOnce() -> R) -> R {
    watch::unwatched(f)
}

/// In nanoseconds.
static THRESHOLD: AtomicU64 = AtomicU64::new(UNKNOWN);
const OFF: u64 = 0;
/// The environment has not been asked yet.
const UNKNOWN: u64 = u64::MAX;

fn nanoseconds(threshold: Duration) -> u64 {
    let nanoseconds = u64::try_from(threshold.max(LEAST).as_nanos());
    nanoseconds.unwrap_or(UNKNOWN).min(UNKNOWN - 1)
}

fn from_environment() -> u64 {
    let usual = if cfg!(debug_assertions) {
        nanoseconds(USUAL)
    } else {
        OFF
    };
    let Some(value) = std::env::var_os(VARIABLE) else {
        return usual;
    };
    parse(&value.to_string_lossy()).unwrap_or_else(|| {
        let complaint = format!(
            "greenlet: {VARIABLE} is {value:?}, but must be 'off', 'on' or a number of \
             milliseconds; it is ignored\n"
        );
        os::write_stderr(complaint.as_bytes());
        usual
    })
}

fn parse(value: &str) -> Option<u64> {
    match value.trim() {
        "off" | "0" => Some(OFF),
        "on" => Some(nanoseconds(USUAL)),
        number => Some(nanoseconds(Duration::from_millis(number.parse().ok()?))),
    }
}

/// Before `main`: nothing below this room knows it, so it makes itself known.
extern "C" fn introduce() {
    watch::on_list(start_if_wanted);
}

// SAFETY: the section is one of pointers to functions, which the loader calls one
// after the other, with arguments that this one does not look at. What it calls
// needs nothing that is not there before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static INTRODUCE: extern "C" fn() = introduce;

/// Whether this process has a watchdog.
static RUNNING: PerProcess<Mutex<bool>> = PerProcess::new();

fn running() -> MutexGuard<'static, bool> {
    RUNNING
        .get(|| Mutex::new(false))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// Starts the watchdog if it is on, and there is somebody to be watched.
fn start_if_wanted() {
    if watchdog_threshold().is_none() || !watch::any_listed() {
        return;
    }
    let mut running = running();
    if *running {
        return;
    }
    // The deadlock detector counts threads, and must find this one among the
    // helpers as soon as it is there: so we wait for it to say so.
    let ready = Arc::new(AtomicU32::new(0));
    let there = Arc::clone(&ready);
    // The new thread inherits the mask, so no signal finds it unprepared.
    let mask = SignalMask::all_but_faults().swap();
    let named = Builder::new().name("greenlet-watch".to_owned());
    let started = os_thread::spawn(named, move || {
        let _helper = IdleGuard::new();
        there.store(1, Ordering::SeqCst);
        futex::wake(&there);
        drop(there);
        Watchdog::new().run();
    });
    mask.swap();
    // Without a thread for it, nobody is watched.
    if started.is_ok() {
        *running = true;
        watch::set_watched(true);
        while ready.load(Ordering::SeqCst) == 0 {
            futex::wait(&ready, 0, None);
        }
    }
}

/// Whether the watchdog's thread is to end: it has been switched off.
fn is_over() -> bool {
    let mut running = running();
    let over = watchdog_threshold().is_none();
    if over {
        *running = false;
        watch::set_watched(false);
    }
    over
}

/// What is known of one hub.
struct Seen {
    turn: u64,
    /// So many samples in a row have found it in this turn, after the first.
    steps: u32,
    /// It is asked when there were so many, or never again in this turn.
    ask_at: Option<u32>,
    tries: u32,
    since: Instant,
    times: Option<Times>,
}

impl Seen {
    fn new(turn: u64, thread: i32) -> Seen {
        Seen {
            turn,
            steps: 0,
            ask_at: Some(STEPS),
            tries: 0,
            since: Instant::now(),
            times: threads::times_of(thread),
        }
    }
}

/// What the watchdog's thread keeps.
struct Watchdog {
    asker: Asker,
    hubs: HashMap<u64, Seen>,
    beats: Vec<Beat>,
    idle_steps: u32,
}

impl Watchdog {
    fn new() -> Watchdog {
        Watchdog {
            asker: Asker::new(),
            hubs: HashMap::new(),
            beats: Vec::new(),
            idle_steps: 0,
        }
    }

    fn run(mut self) {
        loop {
            let Some(threshold) = watchdog_threshold() else {
                if is_over() {
                    return;
                }
                continue;
            };
            if self.idle_steps >= STEPS_UNTIL_REST {
                watch::rest();
                self.start_anew();
            } else if watch::wait_for_ring(threshold / STEPS) {
                // That was no whole step.
                self.start_anew();
            } else {
                self.step(threshold);
            }
        }
    }

    fn start_anew(&mut self) {
        self.hubs.clear();
        self.idle_steps = 0;
    }

    fn step(&mut self, threshold: Duration) {
        watch::sample(&mut self.beats);
        let beats = std::mem::take(&mut self.beats);
        self.hubs
            .retain(|hub, _| beats.iter().any(|beat| beat.hub == *hub));
        self.idle_steps += 1;
        for beat in &beats {
            if beat.turn.is_some() {
                self.idle_steps = 0;
            }
            self.look_at(beat, threshold);
        }
        self.beats = beats;
    }

    fn look_at(&mut self, beat: &Beat, threshold: Duration) {
        let Some(turn) = beat.turn else {
            self.hubs.remove(&beat.hub);
            return;
        };
        let Some(seen) = self
            .hubs
            .get_mut(&beat.hub)
            .filter(|seen| seen.turn == turn)
        else {
            self.hubs.insert(beat.hub, Seen::new(turn, beat.thread));
            return;
        };
        seen.steps = seen.steps.saturating_add(1);
        if seen.ask_at != Some(seen.steps) {
            return;
        }
        let held = seen.since.elapsed();
        let times = threads::times_of(beat.thread).zip(seen.times);
        let computed = times.map(|(now, then)| now.ran.saturating_sub(then.ran));
        let delayed = times.map(|(now, then)| now.delayed.saturating_sub(then.delayed));
        if held.saturating_sub(delayed.unwrap_or_default()) < threshold {
            seen.ask_at = seen.steps.checked_add(1);
            return;
        }
        match watch::ask(&mut self.asker, beat) {
            Answer::Blocked(note, calls) => {
                seen.ask_at = None;
                blocked::tell(&Blocked::new(beat.thread, held, computed, note, &calls));
            }
            // It may be one that asked not to be watched, and be so for long.
            Answer::NotBlocked => seen.ask_at = seen.steps.checked_mul(2),
            Answer::Silent => {
                seen.tries += 1;
                seen.ask_at = seen.steps.checked_add(STEPS);
                if seen.tries == MOST_TRIES {
                    seen.ask_at = None;
                    blocked::tell(&Blocked::silent(beat.thread, held, computed));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_off_or_on_or_milliseconds() {
        assert_eq!(parse("off"), Some(OFF));
        assert_eq!(parse("0"), Some(OFF));
        assert_eq!(parse("on"), Some(100_000_000));
        assert_eq!(parse(" 250 "), Some(250_000_000));
        for nonsense in ["", "never", "-1", "1.5", "100ms"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_threshold_is_at_least_a_millisecond_and_never_too_long() {
        assert_eq!(nanoseconds(Duration::ZERO), 1_000_000);
        assert!(nanoseconds(Duration::MAX) < UNKNOWN);
    }
}
