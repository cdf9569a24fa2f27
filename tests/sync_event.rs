//! `Event`: who is woken, in which order, and who is not held up by it.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Log, MS, alone, fork, until, watchdog};
use greenlet::sync::Event;
use greenlet::{Builder, iwait, joinall, killall, sleep, spawn, timeout, wait, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// G103
#[test]
fn a_wait_that_nobody_answers_is_false_after_its_time() {
    let _watchdog = watchdog();
    let event = Event::new();
    let start = Instant::now();
    assert!(!event.wait_timeout(5 * MS));
    assert!(start.elapsed() >= 5 * MS);
    assert!(!event.wait_timeout(Duration::ZERO));
    event.set();
    assert!(event.wait_timeout(Duration::ZERO));
    event.wait();
}

/// G135
#[test]
fn five_waiters_are_all_woken_in_their_order_and_the_event_can_be_used_again() {
    let _watchdog = watchdog();
    let event = Rc::new(Event::new());
    let log = Log::new();
    for round in 0..3 {
        let waiters: Vec<_> = (0..5)
            .map(|n| {
                let (event, log) = (event.clone(), log.clone());
                spawn(move || {
                    assert!(event.wait_timeout(HOUR));
                    log.add(n);
                })
            })
            .collect();
        yield_now();
        assert!(log.entries().len() == 5 * round);
        event.set();
        assert!(log.entries().len() == 5 * round, "set does not switch");
        joinall(waiters);
        event.clear();
        assert!(!event.is_set());
    }
    assert_eq!(log.joined(), "0 1 2 3 4 0 1 2 3 4 0 1 2 3 4");
}

#[test]
fn set_and_clear_at_once_wakes_all_who_waited_and_nobody_who_comes_later() {
    let _watchdog = watchdog();
    let event = Rc::new(Event::new());
    let count = Rc::new(Cell::new(0));
    let waiters: Vec<_> = (0..2500)
        .map(|_| {
            let (event, count) = (event.clone(), count.clone());
            spawn(move || {
                event.wait();
                count.set(count.get() + 1);
            })
        })
        .collect();
    yield_now();
    event.set();
    event.clear();
    // It comes while the earlier ones are still being woken.
    let late = spawn({
        let event = event.clone();
        move || event.wait_timeout(HOUR)
    });
    joinall(waiters);
    assert_eq!(count.get(), 2500);
    assert!(!late.is_finished());
    event.set();
    assert!(late.join().unwrap());
}

/// G112
#[test]
fn a_set_on_another_thread_wakes_main_and_other_greenlets_with_a_limit_or_without() {
    let _watchdog = watchdog();
    for in_greenlet in [false, true] {
        for timed in [false, true] {
            let event = Arc::new(Event::new());
            let waits = Arc::new(Event::new());
            let setter = std::thread::spawn({
                let (event, waits) = (event.clone(), waits.clone());
                move || {
                    waits.wait();
                    event.set();
                }
            });
            let body = move || {
                waits.set();
                match timed {
                    true => assert!(event.wait_timeout(HOUR)),
                    false => event.wait(),
                }
            };
            match in_greenlet {
                true => spawn(body).join().unwrap(),
                false => body(),
            }
            setter.join().unwrap();
        }
    }
}

/// G111, G158
#[test]
fn an_event_that_is_set_is_ready_for_wait_any_number_of_times() {
    let _watchdog = watchdog();
    let event = Event::new();
    event.set();
    let sleeper = spawn(|| sleep(HOUR));
    for _ in 0..2 {
        assert_eq!(wait(&[&event], None, None), [0]);
    }
    assert!(!sleeper.is_finished());
}

/// G109
#[test]
fn wait_over_events_returns_as_many_as_were_asked_for() {
    let _watchdog = watchdog();
    for (count, limit) in [(None, None), (Some(1), None), (Some(2), Some(HOUR))] {
        let events: Vec<Rc<Event>> = (0..5).map(|_| Rc::new(Event::new())).collect();
        let sender = spawn({
            let events = events.clone();
            move || {
                for event in events.iter().rev() {
                    sleep(MS);
                    event.set();
                }
            }
        });
        let objects: Vec<&dyn greenlet::Waitable> =
            events.iter().map(|event| &**event as _).collect();
        let ready = wait(&objects, limit, count);
        assert_eq!(ready, [4, 3, 2, 1, 0][..count.unwrap_or(5)]);
        assert_eq!(sender.is_finished(), count.is_none());
        sender.join().unwrap();
    }
    let never = Event::new();
    assert!(wait(&[&never], Some(MS), None).is_empty());
}

#[test]
fn a_wait_for_several_is_answered_by_another_thread_too() {
    let _watchdog = watchdog();
    let events = Arc::new([Event::new(), Event::new()]);
    let setter = std::thread::spawn({
        let events = events.clone();
        move || {
            sleep(2 * MS);
            events[1].set();
            sleep(2 * MS);
            events[0].set();
        }
    });
    let order: Vec<usize> = iwait(&[&events[0], &events[1]], None).collect();
    assert_eq!(order, [1, 0]);
    setter.join().unwrap();
}

/// The one who carries on may be waiting for several things.
#[test]
fn many_who_wait_for_several_things_are_all_woken() {
    let _watchdog = watchdog();
    let events = Rc::new([Event::new(), Event::new()]);
    let waiters: Vec<_> = (0..2500)
        .map(|_| {
            let events = events.clone();
            spawn(move || wait(&[&events[0], &events[1]], None, Some(1)))
        })
        .collect();
    yield_now();
    events[1].set();
    for ready in joinall(waiters) {
        assert_eq!(ready.unwrap(), [1]);
    }
}

/// G068
#[test]
fn an_outer_timeout_ends_a_wait_and_leaves_nothing_behind() {
    let _watchdog = watchdog();
    let event = Event::new();
    assert!(timeout(2 * MS, || event.wait_timeout(HOUR)).is_err());
    event.set();
    assert!(event.is_set());
}

#[test]
fn waiters_that_were_killed_or_gave_up_are_passed_over() {
    let _watchdog = watchdog();
    let event = Rc::new(Event::new());
    let waiters: Vec<_> = (0..3000)
        .map(|n| {
            let event = event.clone();
            spawn(move || match n % 3 {
                0 => event.wait_timeout(MS),
                _ => {
                    event.wait();
                    true
                }
            })
        })
        .collect();
    yield_now();
    // Those at the places where a batch would end are among them.
    let (dead, alive): (Vec<_>, Vec<_>) = waiters
        .into_iter()
        .enumerate()
        .partition(|(n, _)| n % 3 == 2);
    let dead: Vec<_> = dead.into_iter().map(|(_, handle)| handle).collect();
    sleep(3 * MS);
    killall(&dead);
    event.set();
    event.clear();
    for (n, handle) in alive {
        assert_eq!(handle.join().unwrap(), n % 3 != 0);
    }
}

#[test]
fn a_kill_that_comes_after_the_set_does_not_stop_the_rest_from_being_woken() {
    let _watchdog = watchdog();
    let event = Rc::new(Event::new());
    let woken = Rc::new(Cell::new(0));
    let waiters: Vec<_> = (0..5000)
        .map(|_| {
            let (event, woken) = (event.clone(), woken.clone());
            spawn(move || {
                event.wait();
                woken.set(woken.get() + 1);
                yield_now();
            })
        })
        .collect();
    yield_now();
    event.set();
    event.clear();
    // The first thousand have been served; the kill waits for their next wait.
    waiters[..1000].iter().for_each(|handle| handle.kill());
    for (n, result) in joinall(waiters).into_iter().enumerate() {
        assert_eq!(result.is_ok(), n >= 1000);
    }
    assert_eq!(woken.get(), 5000);
}

/// A hundred thousand, and a sleeper among them who is not held up: never more
/// than about a batch of them runs between two of its turns.
#[test]
fn a_hundred_thousand_are_woken_in_order_and_in_batches() {
    let _watchdog = watchdog();
    // Alone, for with guards of another kind so many take all of a process's
    // mappings.
    common::alone(
        "a_hundred_thousand_are_woken_in_order_and_in_batches",
        wake_a_hundred_thousand,
    );
}

fn wake_a_hundred_thousand() {
    let mprotect = std::env::var_os("GREENLET_GUARD").is_some_and(|guard| guard == "mprotect");
    let many = if mprotect { 20_000 } else { 100_000 };
    let event = Rc::new(Event::new());
    let next = Rc::new(Cell::new(0));
    let in_order = Rc::new(Cell::new(true));
    let waiters: Vec<_> = (0..many)
        .map(|n| {
            let (event, next, in_order) = (event.clone(), next.clone(), in_order.clone());
            let body = move || {
                event.wait();
                in_order.set(in_order.get() && next.replace(next.get() + 1) == n);
            };
            Builder::new().stack_size(16 << 10).spawn(body).unwrap()
        })
        .collect();
    yield_now();
    let watcher = spawn({
        let next = next.clone();
        let all = waiters.len();
        move || {
            let mut most = 0;
            while next.get() < all {
                let before = next.get();
                yield_now();
                most = most.max(next.get() - before);
            }
            most
        }
    });
    event.set();
    event.clear();
    assert_eq!(next.get(), 0);
    let most = watcher.join().unwrap();
    assert!(most <= 1000, "{most} ran in one go");
    assert_eq!(next.get(), waiters.len());
    assert!(in_order.get());
    joinall(waiters);
}

#[test]
fn many_on_several_threads_are_woken_in_the_order_of_their_thread() {
    let _watchdog = watchdog();
    let event = Arc::new(Event::new());
    let waiting = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (event, waiting) = (event.clone(), waiting.clone());
            std::thread::spawn(move || {
                let log = Log::new();
                let waiters: Vec<_> = (0..2100)
                    .map(|n| {
                        let (event, waiting, log) = (event.clone(), waiting.clone(), log.clone());
                        spawn(move || {
                            waiting.fetch_add(1, Ordering::SeqCst);
                            event.wait();
                            log.add(n);
                        })
                    })
                    .collect();
                joinall(waiters);
                let expected: Vec<String> = (0..2100).map(|n| n.to_string()).collect();
                assert_eq!(log.entries(), expected);
            })
        })
        .collect();
    until(|| waiting.load(Ordering::SeqCst) == 3 * 2100);
    sleep(5 * MS);
    event.set();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_thread_that_ends_while_its_greenlets_wait_stops_nobody() {
    let _watchdog = watchdog();
    let event = Arc::new(Event::new());
    std::thread::spawn({
        let event = event.clone();
        move || {
            for _ in 0..10 {
                let event = event.clone();
                spawn(move || event.wait());
            }
            yield_now();
        }
    })
    .join()
    .unwrap();
    let waiter = spawn({
        let event = event.clone();
        move || event.wait_timeout(HOUR)
    });
    yield_now();
    event.set();
    assert!(waiter.join().unwrap());
}

/// G138
#[test]
fn in_the_child_of_a_fork_nobody_of_the_parent_waits() {
    alone("in_the_child_of_a_fork_nobody_of_the_parent_waits", || {
        let _watchdog = watchdog();
        let event = Rc::new(Event::new());
        let waiters: Vec<_> = (0..2500)
            .map(|_| {
                let event = event.clone();
                spawn(move || event.wait())
            })
            .collect();
        yield_now();
        // A batch is under way at the moment of the fork.
        event.set();
        event.clear();
        let code = fork(|| {
            let mine = spawn({
                let event = event.clone();
                move || event.wait_timeout(HOUR)
            });
            yield_now();
            event.set();
            i32::from(!mine.join().unwrap())
        });
        assert_eq!(code, 0);
        joinall(waiters);
    });
}

/// G214
#[test]
fn a_wait_that_nobody_can_answer_is_a_deadlock() {
    alone("a_wait_that_nobody_can_answer_is_a_deadlock", || {
        // The child has no other thread that could set it.
        let code = fork(|| {
            let event = Event::new();
            let wait = std::panic::AssertUnwindSafe(|| event.wait());
            let payload = std::panic::catch_unwind(wait).unwrap_err();
            i32::from(!payload.is::<greenlet::error::Deadlock>())
        });
        assert_eq!(code, 0);
    });
}
