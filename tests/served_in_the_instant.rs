//! A waiter that is killed, or whose time is up, in the instant it is served:
//! after it was answered and before it has run. What it was given it has, the
//! kill waits for its next wait, and nobody who waits behind it is skipped.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::{MS, watchdog};
use greenlet::executor::GreenletPoolExecutor;
use greenlet::queue::{Channel, LifoQueue, PriorityQueue, Queue};
use greenlet::sync::{
    AsyncResult, Barrier, BoundedSemaphore, Condvar, Event, Mutex, OnceLock, RLock, Semaphore,
};
use greenlet::{Pool, joinall, spawn, timeout, yield_now};

/// What ends the first waiter's wait too late.
#[derive(Clone, Copy, Debug)]
enum TooLate {
    Kill,
    /// A `timeout` around the wait.
    Timeout,
    /// The time of the wait itself, where `wait` has one.
    Nothing,
}

/// Two greenlets wait, `serve` serves the first, and before that one has run
/// something ends its wait. It has been served all the same: `wait` returns, and
/// what is `left` over, once `serve` has been called again, is what it should be.
fn served<P: 'static>(
    name: &str,
    primitive: impl Fn() -> P,
    wait: impl Fn(&P) + Copy + 'static,
    serve: impl Fn(&P),
    check: impl Fn(&P) -> bool,
) {
    for too_late in [TooLate::Kill, TooLate::Timeout, TooLate::Nothing] {
        let primitive = Rc::new(primitive());
        let log = common::Log::new();
        let limit = match too_late {
            TooLate::Timeout => 20 * MS,
            _ => Duration::MAX,
        };
        let waiters: Vec<_> = [limit, Duration::MAX]
            .into_iter()
            .enumerate()
            .map(|(n, limit)| {
                let (primitive, log) = (Rc::clone(&primitive), log.clone());
                spawn(move || {
                    let in_time = timeout(limit, || {
                        wait(&primitive);
                        log.add(n);
                    });
                    assert!(in_time.is_ok(), "it was served first");
                    yield_now();
                })
            })
            .collect();
        yield_now();
        assert!(log.is_empty(), "{name}: they wait");
        serve(&primitive);
        match too_late {
            TooLate::Kill => waiters[0].kill(),
            // The thread does not get to the timers before the time is up.
            TooLate::Timeout => std::thread::sleep(25 * MS),
            TooLate::Nothing => {}
        }
        common::until(|| !log.is_empty());
        serve(&primitive);
        let killed: Vec<bool> = joinall(waiters)
            .into_iter()
            .map(|result| result.is_err_and(|error| error.is_killed()))
            .collect();
        let first_dies = matches!(too_late, TooLate::Kill);
        assert_eq!(killed, [first_dies, false], "{name}, {too_late:?}");
        assert_eq!(log.joined(), "0 1", "{name}, {too_late:?}");
        assert!(check(&primitive), "{name}, {too_late:?}: what is left");
    }
}

#[test]
fn who_waits_for_an_event_or_a_result() {
    let _watchdog = watchdog();
    served(
        "Event",
        Event::new,
        |event| event.wait(),
        |event| event.set(),
        |event| event.is_set(),
    );
    served(
        "AsyncResult",
        AsyncResult::new,
        |result| assert_eq!(result.get(), 5),
        |result| {
            let _ = result.set(5);
        },
        |result| result.try_get() == Some(&5),
    );
}

#[test]
fn who_waits_for_a_permit() {
    let _watchdog = watchdog();
    served(
        "Semaphore",
        || Semaphore::new(0),
        |semaphore| semaphore.acquire().forget(),
        |semaphore| semaphore.release(),
        |semaphore| semaphore.available() == 0,
    );
    served(
        "BoundedSemaphore",
        || {
            let semaphore = BoundedSemaphore::new(2);
            (0..2).for_each(|_| semaphore.acquire().forget());
            semaphore
        },
        |semaphore| semaphore.acquire().forget(),
        |semaphore| semaphore.release().unwrap(),
        |semaphore| semaphore.available() == 0,
    );
}

/// The locks are passed on by those who get them, so `serve` is called for the
/// first only.
#[test]
fn who_waits_for_a_lock() {
    let _watchdog = watchdog();
    served(
        "Mutex",
        || {
            let mutex: &'static Mutex<u32> = Box::leak(Box::new(Mutex::new(0)));
            (mutex, Cell::new(Some(mutex.lock())))
        },
        |(mutex, _)| *mutex.lock() += 1,
        |(_, guard)| drop(guard.take()),
        |(mutex, _)| mutex.try_lock().is_some_and(|count| *count == 2),
    );
    served(
        "RLock",
        || {
            let lock = RLock::new();
            lock.acquire();
            lock
        },
        |lock| drop(lock.lock()),
        |lock| {
            let _ = lock.release();
        },
        |lock| !lock.is_locked(),
    );
    served(
        "Condvar",
        || (Mutex::new(0), Condvar::new()),
        |(mutex, condvar)| *condvar.wait(mutex.lock()) += 1,
        |(_, condvar)| condvar.notify_one(),
        |(mutex, _)| mutex.try_lock().is_some_and(|count| *count == 2),
    );
}

#[test]
fn who_waits_at_a_barrier() {
    let _watchdog = watchdog();
    served(
        "Barrier",
        || Barrier::new(3),
        |barrier| assert!(!barrier.wait().is_leader()),
        // The third of a round; with the second `serve`, nobody waits any more.
        |barrier| {
            let _ = barrier.wait_timeout(Duration::ZERO);
        },
        |barrier| format!("{barrier:?}").ends_with("waiting: 0 }"),
    );
}

#[test]
fn who_waits_for_an_item() {
    let _watchdog = watchdog();
    macro_rules! getters {
        ($($queue:expr),*) => {$(
            served(
                stringify!($queue),
                || $queue,
                |queue| assert_eq!(queue.get(), Ok(7)),
                |queue| queue.try_put(7).unwrap(),
                |queue| queue.try_get().is_err(),
            );
        )*};
    }
    getters!(
        Queue::bounded(1),
        LifoQueue::unbounded(),
        PriorityQueue::bounded(3),
        Channel::new()
    );
}

#[test]
fn who_waits_for_room() {
    let _watchdog = watchdog();
    let queues = [0, 1].map(|size| {
        move || {
            let queue = Queue::bounded(size);
            (0..size).for_each(|_| queue.put(7).unwrap());
            queue
        }
    });
    for (size, queue) in queues.into_iter().enumerate() {
        served(
            "Queue::put",
            queue,
            |queue| queue.put(7).unwrap(),
            |queue| assert_eq!(queue.try_get(), Ok(7)),
            // Two went in and two came out.
            move |queue| queue.len() == size,
        );
    }
}

#[test]
fn who_waits_for_a_slot_of_a_pool() {
    let _watchdog = watchdog();
    served(
        "Pool",
        || {
            let pool = Pool::new(1);
            drop(pool.spawn(|| greenlet::sleep(Duration::MAX)).unwrap());
            pool
        },
        |pool| drop(pool.spawn(|| greenlet::sleep(Duration::MAX)).unwrap()),
        |pool| {
            // The member leaves, and its slot goes to the first who waits.
            pool.kill();
            yield_now();
        },
        |pool| {
            pool.kill_wait();
            pool.free_count() == 1
        },
    );
}

#[test]
fn who_waits_for_a_value_to_be_made() {
    let _watchdog = watchdog();
    served(
        "OnceLock",
        || {
            let cell: &'static OnceLock<u32> = Box::leak(Box::new(OnceLock::new()));
            let gate: &'static Event = Box::leak(Box::new(Event::new()));
            spawn(|| {
                cell.get_or_init(|| {
                    gate.wait();
                    1
                });
            });
            yield_now();
            (cell, gate)
        },
        |(cell, _)| assert_eq!(*cell.get_or_init(|| unreachable!("it is being made")), 1),
        |(_, gate)| {
            gate.set();
            yield_now();
        },
        |(cell, _)| cell.get() == Some(&1),
    );
}

/// The one who is killed has not taken the result: the next one does.
#[test]
fn who_waits_for_a_job() {
    let _watchdog = watchdog();
    let pool = GreenletPoolExecutor::with_workers(1).unwrap();
    let gate = Rc::new(Event::new());
    let body = {
        let gate = Rc::clone(&gate);
        move || {
            gate.wait();
            5
        }
    };
    let job = Rc::new(pool.submit(body).unwrap());
    let waiters = [(); 2].map(|()| {
        let job = Rc::clone(&job);
        spawn(move || job.wait().map(|()| yield_now()))
    });
    yield_now();
    gate.set();
    yield_now();
    assert!(job.is_finished() && !waiters[0].is_finished());
    waiters[0].kill();
    let results = joinall(waiters);
    assert!(results[0].as_ref().is_err_and(|error| error.is_killed()));
    assert!(results[1].as_ref().is_ok_and(Result::is_ok));
    assert_eq!(job.result().unwrap(), 5);
}
