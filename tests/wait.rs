//! `wait` and `iwait`: the first of many, some of many, all of many.

mod common;

use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{MS, quiet_panics, watchdog};
use greenlet::{JoinHandle, Waitable, iwait, sleep, spawn, spawn_later, wait, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

fn sleepers<const N: usize>(ms: [u32; N]) -> [JoinHandle<()>; N] {
    ms.map(|ms| spawn(move || sleep(ms * MS)))
}

fn all(handles: &[JoinHandle<()>]) -> Vec<&dyn Waitable> {
    handles
        .iter()
        .map(|handle| handle as &dyn Waitable)
        .collect()
}

/// G211: in the order of their ends.
#[test]
fn wait_tells_the_order_of_the_ends() {
    let _watchdog = watchdog();
    let handles = sleepers([60, 20, 40]);
    assert_eq!(wait(&all(&handles), None, None), [1, 2, 0]);
}

/// The same where many end in one turn, before the waiter has had its own.
#[test]
fn wait_tells_the_order_of_ends_in_one_turn() {
    let _watchdog = watchdog();
    let [first, second, third] = [(); 3].map(|()| spawn(|| ()));
    let objects: [&dyn Waitable; 3] = [&third, &first, &second];
    assert_eq!(wait(&objects, None, None), [1, 2, 0]);
}

/// The same where they end while the consumer is busy with an earlier one.
#[test]
fn iwait_tells_the_order_of_ends_that_it_did_not_wait_for() {
    let _watchdog = watchdog();
    let handles = sleepers([100, 60, 4, 20]);
    let objects = all(&handles);
    let mut order = Vec::new();
    for at in iwait(&objects, None) {
        order.push(at);
        sleep(160 * MS);
    }
    assert_eq!(order, [2, 3, 1, 0]);
}

/// G109, G065
#[test]
fn wait_for_some_leaves_the_others_alone() {
    let _watchdog = watchdog();
    let handles = sleepers([2, 1, 3_600_000]);
    assert_eq!(wait(&all(&handles), None, Some(1)).len(), 1);
    assert_eq!(wait(&all(&handles), None, Some(2)).len(), 2);
    assert_eq!(wait(&all(&handles), None, Some(0)), []);
    assert!(!handles[2].is_finished());
    assert_eq!(wait(&all(&handles), Some(MS), Some(3)).len(), 2);
    handles[2].kill_wait();
    assert_eq!(wait(&all(&handles), Some(MS), Some(usize::MAX)).len(), 3);
}

/// G157, G067, G103
#[test]
fn wait_ends_in_time() {
    let _watchdog = watchdog();
    let handles = sleepers([3_600_000]);
    let start = Instant::now();
    assert_eq!(wait(&all(&handles), Some(5 * MS), None), []);
    assert!(start.elapsed() >= 5 * MS);
    let delayed = [spawn_later(MS, || ())];
    assert_eq!(wait(&all(&delayed), Some(HOUR), None), [0]);
    assert_eq!(wait(&[], None, None), []);
    assert_eq!(wait(&[], Some(HOUR), Some(5)), []);
}

/// G210, G211
#[test]
fn a_wait_of_zero_counts_those_who_end_in_one_turn() {
    let _watchdog = watchdog();
    let handles = [spawn(|| ()), spawn(|| sleep(HOUR)), spawn(|| ())];
    assert_eq!(wait(&all(&handles), Some(Duration::ZERO), None), [0, 2]);
    // And those who have ended before.
    assert_eq!(wait(&all(&handles), Some(Duration::ZERO), None), [0, 2]);
}

/// G153, G211: an object that is listed twice is told twice.
#[test]
fn the_same_object_may_be_listed_twice() {
    let _watchdog = watchdog();
    let [a, b] = sleepers([30, 1]);
    let objects: [&dyn Waitable; 3] = [&a, &b, &a];
    let order = wait(&objects, None, None);
    assert_eq!(order, [1, 0, 2]);
}

/// G065, G158: failures are ends like others.
#[test]
fn a_failed_greenlet_is_ready() {
    let _watchdog = watchdog();
    quiet_panics();
    let failed = spawn(|| -> () { panic!("on purpose") });
    let sleeper = spawn(|| sleep(HOUR));
    assert_eq!(wait(&[&sleeper, &failed], None, Some(1)), [1]);
    assert!(!sleeper.is_finished());
}

/// G154: what was not consumed is not waited for any more.
#[test]
fn an_iwait_that_is_dropped_leaves_nothing_behind() {
    let _watchdog = watchdog();
    let handles = sleepers([1, 40]);
    let objects = all(&handles);
    let mut iter = iwait(&objects, None);
    assert_eq!(iter.next(), Some(0));
    drop(iter);
    // A later end of the other wakes nobody wrongly.
    let start = Instant::now();
    sleep(80 * MS);
    assert!(start.elapsed() >= 80 * MS);
    assert!(handles[1].is_finished());
}

#[test]
fn an_iwait_that_is_killed_leaves_nothing_behind() {
    let _watchdog = watchdog();
    let handles: Rc<[JoinHandle<()>; 3]> = Rc::new(sleepers([5, 6, 7]));
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let handles = Rc::clone(&handles);
            spawn(move || wait(&all(&*handles), None, None).len())
        })
        .collect();
    yield_now();
    for waiter in waiters.iter().step_by(2) {
        waiter.kill_wait();
    }
    for (n, waiter) in waiters.into_iter().enumerate() {
        match waiter.join() {
            Ok(count) => assert!(count == 3 && n % 2 == 1),
            Err(error) => assert!(error.is_killed() && n % 2 == 0),
        }
    }
}

#[test]
fn many_may_wait_for_the_same() {
    let _watchdog = watchdog();
    let handles: Rc<[JoinHandle<()>; 2]> = Rc::new(sleepers([2, 30]));
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let handles = Rc::clone(&handles);
            spawn(move || wait(&all(&*handles), None, None))
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.join().unwrap(), [0, 1]);
    }
}

/// A cycle that can never end is told.
#[test]
fn a_wait_that_can_never_end_panics_with_deadlock() {
    let _watchdog = watchdog();
    let slot: Rc<std::cell::RefCell<Option<JoinHandle<()>>>> = Rc::default();
    *slot.borrow_mut() = Some(spawn({
        let slot = Rc::clone(&slot);
        move || {
            let me = slot.take().unwrap();
            wait(&[&me], None, None);
        }
    }));
    let other = spawn(|| ());
    yield_now();
    assert!(other.is_finished());
    // It waits for itself, unseen while main does not wait for it. Main's own
    // wait for something that never ends is told.
    let parked: Rc<std::cell::RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let waits_for_itself = spawn({
        let parked = Rc::clone(&parked);
        move || {
            let me = parked.borrow();
            if let Some(me) = me.as_ref() {
                wait(&[me], None, None);
            }
        }
    });
    *parked.borrow_mut() = Some(waits_for_itself);
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let handle = parked.borrow();
        wait(&[handle.as_ref().unwrap()], None, None)
    }));
    assert!(payload.unwrap_err().is::<greenlet::error::Deadlock>());
}
