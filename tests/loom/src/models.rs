//! The models. Each is one small program, and holds in all of its runs.

use std::time::Duration;

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::inbox::{Inbox, Message};
use super::parker::Parker;
use super::shared::Bell;
use super::with_hub;

/// Runs a model through all interleavings with at most three preemptions: the
/// larger models have no end without a bound, and bugs that need more than
/// three are not known in practice. `LOOM_MAX_PREEMPTIONS` sets another one.
pub(super) fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

/// A hub's side of the inbox: sleeps and takes until `wanted` messages came.
/// Also says how often it prepared to sleep.
fn receive(inbox: &Inbox<Bell>, bell: &Bell, wanted: usize) -> (Vec<Message>, usize) {
    let mut got = Vec::new();
    let mut sleeps = 0;
    while got.len() < wanted {
        if !inbox.is_empty_hint() {
            got.extend(inbox.take());
        } else {
            sleeps += 1;
            if inbox.prepare_sleep() {
                bell.wait();
                inbox.woke_up();
            }
        }
    }
    (got, sleeps)
}

fn send(inbox: &Arc<Inbox<Bell>>, sender: u64, count: u32) -> thread::JoinHandle<()> {
    let inbox = Arc::clone(inbox);
    thread::spawn(move || {
        for token in 0..count {
            inbox.push(Message { key: sender, token });
        }
    })
}

fn inbox_with_bell() -> (Arc<Inbox<Bell>>, Bell) {
    let bell = Bell::new();
    let inbox = Arc::new(Inbox::new());
    inbox.set_waker(bell.clone());
    (inbox, bell)
}

#[test]
fn no_wake_up_is_lost_between_a_push_and_the_sleep() {
    check(|| {
        let (inbox, bell) = inbox_with_bell();
        let sender = send(&inbox, 0, 2);
        let (got, _) = receive(&inbox, &bell, 2);
        sender.join().unwrap();
        assert_eq!(got.len(), 2);
        assert!(inbox.take().is_empty());
    });
}

#[test]
fn the_messages_of_a_sender_come_in_their_order() {
    check(|| {
        let (inbox, bell) = inbox_with_bell();
        let senders = [send(&inbox, 0, 2), send(&inbox, 1, 1)];
        let (got, _) = receive(&inbox, &bell, 3);
        for sender in senders {
            sender.join().unwrap();
        }
        let of_first: Vec<u32> = got.iter().filter(|m| m.key == 0).map(|m| m.token).collect();
        assert_eq!(of_first, [0, 1]);
        assert_eq!(got.iter().filter(|m| m.key == 1).count(), 1);
    });
}

#[test]
fn a_sleep_is_ended_by_one_call_however_many_push() {
    check(|| {
        let (inbox, bell) = inbox_with_bell();
        let senders = [send(&inbox, 0, 1), send(&inbox, 1, 1)];
        let (_, sleeps) = receive(&inbox, &bell, 2);
        for sender in senders {
            sender.join().unwrap();
        }
        // A call costs a system call, so there is at most one for each time
        // that the hub says that it sleeps.
        assert!(bell.count() <= sleeps, "{} of {sleeps}", bell.count());
    });
}

#[test]
fn a_busy_hub_is_never_called() {
    check(|| {
        let (inbox, bell) = inbox_with_bell();
        let senders = [send(&inbox, 0, 1), send(&inbox, 1, 1)];
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(inbox.take().len(), 2);
        assert_eq!(bell.count(), 0);
    });
}

#[test]
fn who_sees_a_sleeping_hub_sees_its_waker() {
    check(|| {
        let bell = Bell::new();
        let inbox = Arc::new(Inbox::new());
        // The message may come before there is anything to wake.
        let sender = send(&inbox, 0, 1);
        inbox.set_waker(bell.clone());
        let (got, _) = receive(&inbox, &bell, 1);
        sender.join().unwrap();
        assert_eq!(got.len(), 1);
    });
}

#[test]
fn park_returns_once_another_thread_unparks() {
    check(|| {
        with_hub(|| {
            let parker = Parker::new();
            let unparker = parker.unparker();
            let other = thread::spawn(move || unparker.unpark());
            parker.park();
            other.join().unwrap();
        });
    });
}

#[test]
fn what_was_written_before_unpark_is_seen_after_park() {
    check(|| {
        with_hub(|| {
            let parker = Parker::new();
            let unparker = parker.unparker();
            let value = Arc::new(loom::cell::UnsafeCell::new(0));
            let other = thread::spawn({
                let value = Arc::clone(&value);
                move || {
                    // SAFETY: loom fails the model if this is a data race.
                    value.with_mut(|value| unsafe { *value = 1 });
                    unparker.unpark();
                }
            });
            parker.park();
            // SAFETY: as above.
            assert_eq!(value.with(|value| unsafe { *value }), 1);
            other.join().unwrap();
        });
    });
}

#[test]
fn a_permit_that_comes_too_late_for_one_wait_is_kept_for_the_next() {
    check(|| {
        with_hub(|| {
            let parker = Parker::new();
            let unparker = parker.unparker();
            let other = thread::spawn(move || unparker.unpark());
            if !parker.park_timeout(Duration::from_secs(1)) {
                // Nobody came in time; the permit must still come.
                parker.park();
            }
            other.join().unwrap();
        });
    });
}

#[test]
fn two_parks_are_ended_by_two_unparks_that_each_wait_for_a_park() {
    check(|| {
        with_hub(|| {
            let there = Parker::new();
            let here = there.unparker();
            let slot = Arc::new(Mutex::new(None));
            let other = thread::spawn({
                let slot = Arc::clone(&slot);
                move || {
                    with_hub(|| {
                        let answered = Parker::new();
                        *slot.lock().unwrap() = Some(answered.unparker());
                        here.unpark();
                        answered.park();
                        here.unpark();
                    });
                }
            });
            there.park();
            let answer = slot.lock().unwrap().take();
            answer.expect("it was put there first").unpark();
            there.park();
            other.join().unwrap();
        });
    });
}

#[test]
fn two_who_unpark_at_once_leave_at_most_one_permit_over() {
    check(|| {
        with_hub(|| {
            let parker = Parker::new();
            let others = [parker.unparker(), parker.unparker()]
                .map(|unparker| thread::spawn(move || unparker.unpark()));
            parker.park();
            for other in others {
                other.join().unwrap();
            }
            // The second permit, if the first park did not take both; a third
            // there is never.
            parker.park_timeout(Duration::from_secs(1));
            assert!(!parker.park_timeout(Duration::from_secs(1)));
        });
    });
}
