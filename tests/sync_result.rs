//! `AsyncResult`.

mod common;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::{MS, watchdog};
use greenlet::sync::{AsyncResult, Event};
use greenlet::{Waitable, joinall, sleep, spawn, timeout, wait, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// G105, G223: the first value stays.
#[test]
fn a_value_or_an_error_wakes_who_waits_and_is_the_same_for_all() {
    let _watchdog = watchdog();
    for outcome in [Ok(5), Err("refused")] {
        let result = Rc::new(AsyncResult::new());
        let waiters = [0, 1].map(|_| {
            let result = result.clone();
            spawn(move || result.get())
        });
        yield_now();
        assert!(result.try_get().is_none() && !result.is_ready());
        assert_eq!(result.set(outcome), Ok(()));
        assert_eq!(result.set(Ok(7)), Err(Ok(7)));
        yield_now();
        for waiter in waiters {
            assert!(waiter.is_finished());
            assert_eq!(waiter.join().unwrap(), outcome);
        }
        assert_eq!(result.wait(), &outcome);
        assert_eq!(Rc::into_inner(result).unwrap().into_inner(), Some(outcome));
    }
}

/// G106, G107, G068
#[test]
fn a_wait_that_gave_up_stays_given_up_though_the_value_comes_later() {
    let _watchdog = watchdog();
    let result = AsyncResult::new();
    assert_eq!(result.try_get(), None);
    assert_eq!(result.wait_timeout(Duration::ZERO), None);
    assert_eq!(result.wait_timeout(MS), None);
    assert!(timeout(MS, || result.wait_timeout(HOUR)).is_err());
    result.set(3).unwrap();
    assert_eq!(result.wait_timeout(Duration::ZERO), Some(&3));
}

/// G112
#[test]
fn a_value_from_another_thread_arrives() {
    let _watchdog = watchdog();
    for timed in [false, true] {
        let result = Arc::new(AsyncResult::new());
        let waits = Arc::new(Event::new());
        let thread = std::thread::spawn({
            let (result, waits) = (result.clone(), waits.clone());
            move || {
                waits.wait();
                result.set("there".to_string()).unwrap();
            }
        });
        let in_greenlet = spawn({
            let result = result.clone();
            move || result.get()
        });
        waits.set();
        match timed {
            true => assert_eq!(result.wait_timeout(HOUR).unwrap(), "there"),
            false => assert_eq!(result.wait(), "there"),
        }
        assert_eq!(in_greenlet.join().unwrap(), "there");
        thread.join().unwrap();
    }
}

/// G056, G057: a link captures what it gives.
#[test]
fn the_end_of_a_greenlet_can_be_linked_to_a_result() {
    let _watchdog = watchdog();
    let result = Rc::new(AsyncResult::new());
    let handle = Rc::new(spawn(|| 42));
    let link = {
        let (handle, result) = (Rc::downgrade(&handle), result.clone());
        move || {
            let value = handle.upgrade().and_then(|handle| handle.value().copied());
            result.set(value).unwrap();
        }
    };
    handle.link(link);
    assert_eq!(result.get(), Some(42));
}

/// G109: five events and five results.
#[test]
fn wait_over_events_and_results_returns_as_many_as_were_asked_for() {
    let _watchdog = watchdog();
    for count in [None, Some(1), Some(2)] {
        let events: Rc<[Event; 5]> = Rc::default();
        let results: Rc<[AsyncResult<usize>; 5]> = Rc::default();
        let sender = spawn({
            let (events, results) = (events.clone(), results.clone());
            move || {
                for at in 0..5 {
                    events[at].set();
                    sleep(MS);
                    results[at].set(at).unwrap();
                    sleep(MS);
                }
            }
        });
        let events = events.iter().map(|event| event as &dyn Waitable);
        let results = results.iter().map(|result| result as &dyn Waitable);
        let objects: Vec<_> = events.chain(results).collect();
        let ready = wait(&objects, Some(HOUR), count);
        assert_eq!(ready, [0, 5, 1, 6, 2, 7, 3, 8, 4, 9][..count.unwrap_or(10)]);
        assert!(!sender.is_finished());
        joinall([sender]);
    }
}
