//! The models of `Monitor` and `Gate`. See `models.rs` for the others.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::gate::Gate;
use super::models::check;
use super::monitor::{Guarded, Monitor, Ready, Wait};
use super::wait::{Kind, Reason, Woken};
use super::wait_queue::wait_any;
use super::with_hub;

const REASON: Reason = Reason::new("a model's turn");
const FOR_EVER: Wait = wait_until(None);
/// loom finds every moment at which it can be over.
const FOR_A_TIME: Wait = wait_until(Some(1_000));

const fn wait_until(deadline: Option<u64>) -> Wait {
    Wait {
        reason: REASON,
        kind: Kind::Shared,
        deadline,
        interruptible: true,
    }
}

/// Numbers that loom watches: it fails a model in which the lock does not keep
/// two threads from them, or does not hand over what the one has written.
struct Permits(UnsafeCell<usize>);

impl Guarded for Permits {}

impl Permits {
    fn change(&mut self, change: impl FnOnce(&mut usize)) {
        // SAFETY: the lock is held.
        self.0.with_mut(|permits| change(unsafe { &mut *permits }));
    }

    fn count(&self) -> usize {
        // SAFETY: the lock is held.
        self.0.with(|permits| unsafe { *permits })
    }
}

const TAKERS: usize = 0;
const WATCHERS: usize = 1;

/// A semaphore, as `sync/` builds it.
struct Semaphore(Monitor<Permits, 2>);

impl Semaphore {
    fn new() -> Arc<Semaphore> {
        let semaphore = Semaphore(Monitor::new(Permits(UnsafeCell::new(0))));
        // The lock's word is made now, before others see it.
        drop(semaphore.0.lock());
        Arc::new(semaphore)
    }

    /// Whether there was a permit.
    fn acquire(&self, wait: Wait) -> bool {
        let mut permits = self.0.lock();
        if permits.count() > 0 {
            permits.change(|permits| *permits -= 1);
            return true;
        }
        permits.wait(TAKERS, wait).is_answered()
    }

    fn release(&self) {
        let mut permits = self.0.lock();
        if !permits.wake_one(TAKERS) {
            permits.change(|permits| *permits += 1);
            permits.wake_all(WATCHERS);
        }
    }

    fn available(&self) -> usize {
        self.0.lock().count()
    }

    fn ready(&self) -> Ready<'_, Permits, 2> {
        Ready {
            monitor: &self.0,
            queue: WATCHERS,
            ready: |permits| permits.count() > 0,
        }
    }
}

/// Runs `body` on a thread without a hub.
fn on_thread<T: 'static, R: 'static>(
    shared: &Arc<T>,
    body: impl FnOnce(&T) -> R + 'static,
) -> thread::JoinHandle<R> {
    let shared = Arc::clone(shared);
    thread::spawn(move || body(&shared))
}

#[test]
fn two_who_hold_the_lock_never_meet() {
    check(|| {
        let semaphore = Semaphore::new();
        let others = [(); 2].map(|()| on_thread(&semaphore, Semaphore::release));
        semaphore.release();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(semaphore.available(), 3);
    });
}

#[test]
fn who_is_handed_a_permit_sees_what_was_written_before_though_it_takes_no_lock() {
    check(|| {
        let semaphore = Semaphore::new();
        let value = Arc::new(UnsafeCell::new(0));
        let other = on_thread(&semaphore, {
            let value = Arc::clone(&value);
            move |semaphore| {
                // SAFETY: loom fails the model if this is a data race.
                value.with_mut(|value| unsafe { *value = 1 });
                semaphore.release();
            }
        });
        with_hub(|| assert!(semaphore.acquire(FOR_EVER)));
        // SAFETY: as above.
        assert_eq!(value.with(|value| unsafe { *value }), 1);
        other.join().unwrap();
        assert_eq!(semaphore.available(), 0);
    });
}

#[test]
fn a_permit_and_the_end_of_the_time_never_both_win_and_none_is_lost() {
    check(|| {
        let semaphore = Semaphore::new();
        let other = on_thread(&semaphore, Semaphore::release);
        let got = with_hub(|| semaphore.acquire(FOR_A_TIME));
        other.join().unwrap();
        assert_eq!(usize::from(got) + semaphore.available(), 1);
    });
}

#[test]
fn a_permit_that_comes_too_late_for_the_first_is_the_second_ones() {
    check(|| {
        let semaphore = Semaphore::new();
        let impatient = on_thread(&semaphore, |semaphore| {
            with_hub(|| semaphore.acquire(FOR_A_TIME))
        });
        let releaser = on_thread(&semaphore, |semaphore| {
            semaphore.release();
            semaphore.release();
        });
        // Whatever becomes of the impatient one, there is a permit for this.
        assert!(with_hub(|| semaphore.acquire(FOR_EVER)));
        let got = impatient.join().unwrap();
        releaser.join().unwrap();
        assert_eq!(usize::from(got) + semaphore.available(), 1);
    });
}

#[test]
fn a_wait_for_two_ends_with_the_one_that_is_ready_and_leaves_both_queues() {
    check(|| {
        let pair = Arc::new([Semaphore::new(), Semaphore::new()]);
        let other = on_thread(&pair, |pair| pair[1].release());
        let places = [pair[0].ready(), pair[1].ready()];
        let woken = with_hub(|| wait_any(&[&places[0], &places[1]], REASON, Kind::Shared, None));
        assert_eq!(woken, Woken::Answered(1));
        other.join().unwrap();
        // It took nothing, and a release finds nobody whose frame is gone.
        pair[0].release();
        assert_eq!(pair.each_ref().map(|one| one.available()), [1, 1]);
    });
}

fn gate() -> Arc<Gate> {
    let gate = Gate::new();
    // Its atomics are made now, before others see them.
    assert!(!gate.is_open());
    gate.close();
    Arc::new(gate)
}

#[test]
fn who_waits_at_a_gate_goes_through_when_it_opens_and_sees_what_was_before() {
    check(|| {
        let gate = gate();
        let value = Arc::new(UnsafeCell::new(0));
        let other = on_thread(&gate, {
            let value = Arc::clone(&value);
            move |gate| {
                // SAFETY: loom fails the model if this is a data race.
                value.with_mut(|value| unsafe { *value = 1 });
                gate.open();
            }
        });
        with_hub(|| assert!(gate.wait(FOR_EVER).is_answered()));
        // SAFETY: as above.
        assert_eq!(value.with(|value| unsafe { *value }), 1);
        other.join().unwrap();
    });
}

#[test]
fn a_gate_that_opens_lets_those_of_two_hubs_through() {
    check(|| {
        let gate = gate();
        let other = on_thread(&gate, |gate| with_hub(|| gate.wait(FOR_EVER)));
        let opener = on_thread(&gate, Gate::open);
        with_hub(|| assert!(gate.wait(FOR_EVER).is_answered()));
        assert!(other.join().unwrap().is_answered());
        opener.join().unwrap();
    });
}

fn open_close_and_open(gate: &Gate) {
    gate.open();
    gate.close();
    gate.open();
}

#[test]
fn nobody_is_left_behind_at_a_gate_that_opens_closes_and_opens() {
    check(|| {
        let gate = gate();
        let other = on_thread(&gate, open_close_and_open);
        with_hub(|| {
            gate.wait(FOR_A_TIME);
            assert!(gate.wait(FOR_EVER).is_answered());
        });
        other.join().unwrap();
    });
}

#[test]
fn who_is_told_to_carry_on_does_so_and_the_next_opening_is_not_missed() {
    check(|| {
        let gate = gate();
        let other = on_thread(&gate, open_close_and_open);
        with_hub(|| {
            // From afar one is woken, and the other place is what it carries on with.
            let woken = wait_any(&[&*gate, &*gate], REASON, Kind::Shared, None);
            assert!(woken.is_answered());
            assert!(gate.wait(FOR_EVER).is_answered());
        });
        other.join().unwrap();
    });
}
