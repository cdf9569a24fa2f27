//! parking_lot's locks between threads that are greenlets: its waits are plain futexes
//! on a word in a thread-local.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use greenlet_real::{GREENLETS, WHILE, overlap_threads, run};
use parking_lot::{Condvar, Mutex, ReentrantMutex, RwLock};

fn main() {
    run(&[
        ("a_mutex_is_held_by_one_at_a_time", mutex),
        ("a_reentrant_mutex_knows_its_thread", reentrant),
        ("readers_see_no_half_written_pair", pairs),
        ("what_is_produced_is_consumed_once", consumed),
        ("a_wait_for_a_lock_ends_in_time", in_time),
    ]);
}

/// Longer than a turn: the others come to the lock meanwhile.
const MOMENT: Duration = Duration::from_micros(20);

fn mutex() {
    let count = Mutex::new(0);
    overlap_threads(GREENLETS, |number, flight| {
        flight.during(|| {
            flight.meet();
            for round in 0..50 {
                let mut held = count.lock();
                let before = *held;
                if (number + round) % 10 == 0 {
                    thread::sleep(MOMENT);
                } else {
                    thread::yield_now();
                }
                *held = before + 1;
                if round % 7 == 0 {
                    parking_lot::MutexGuard::unlock_fair(held);
                }
            }
        });
    });
    assert_eq!(count.into_inner(), 50 * GREENLETS);
}

fn reentrant() {
    let inside = ReentrantMutex::new(std::cell::Cell::new(None));
    overlap_threads(GREENLETS, |number, flight| {
        flight.during(|| {
            flight.meet();
            for _ in 0..20 {
                let outer = inside.lock();
                assert_eq!(outer.replace(Some(number)), None);
                thread::yield_now();
                let inner = inside.lock();
                assert_eq!(inner.take(), Some(number));
            }
        });
    });
}

fn pairs() {
    let pair = RwLock::new((0, 0));
    overlap_threads(GREENLETS, |number, flight| {
        flight.during(|| {
            flight.meet();
            for round in 0..50 {
                if (number + round) % 10 == 0 {
                    let mut pair = pair.write();
                    pair.0 += 1;
                    thread::sleep(MOMENT);
                    pair.1 += 1;
                } else {
                    let pair = pair.read();
                    let before = *pair;
                    thread::yield_now();
                    assert_eq!(before, *pair);
                    assert_eq!(pair.0, pair.1);
                }
            }
        });
    });
    assert_eq!(pair.into_inner(), (1000, 1000));
}

/// Half of them put numbers into a queue with room for three, the others take them out.
fn consumed() {
    let (queue, space, news) = (Mutex::new(VecDeque::new()), Condvar::new(), Condvar::new());
    let sum = Mutex::new(0);
    overlap_threads(GREENLETS, |number, flight| {
        flight.during(|| {
            flight.meet();
            for round in 0..50 {
                let mut queue = queue.lock();
                if number % 2 == 0 {
                    space.wait_while(&mut queue, |queue| queue.len() == 3);
                    queue.push_back(number * 50 + round);
                    news.notify_one();
                } else {
                    news.wait_while(&mut queue, |queue| queue.is_empty());
                    *sum.lock() += queue.pop_front().unwrap();
                    space.notify_one();
                }
            }
        });
    });
    let sent = |number| (0..50).map(move |round| number * 50 + round);
    let expected: usize = (0..GREENLETS).step_by(2).flat_map(sent).sum();
    assert_eq!(sum.into_inner(), expected);
    assert!(queue.into_inner().is_empty());
}

/// One has it for longer than all the others want to wait.
fn in_time() {
    let lock = Mutex::new(());
    overlap_threads(GREENLETS, |number, flight| {
        let held = (number == 0).then(|| lock.lock());
        flight.during(|| {
            flight.meet();
            match held {
                Some(held) => {
                    thread::sleep(2 * WHILE);
                    flight.meet();
                    drop(held);
                }
                None => {
                    assert!(lock.try_lock_for(WHILE).is_none());
                    flight.meet();
                }
            }
        });
        drop(lock.lock());
    });
}
