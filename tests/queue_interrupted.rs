//! Waits in queues that a kill, a timeout, a panic or a fork ends.

mod common;

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::time::Duration;

use common::{MS, alone, quiet_panics, watchdog, with};
use greenlet::error::{Deadlock, JoinError};
use greenlet::queue::error::{GetTimeoutError, TryGetError};
use greenlet::queue::{Channel, LifoQueue, PriorityQueue, Queue};
use greenlet::{JoinHandle, sleep, timeout, yield_now};

#[test]
fn a_getter_killed_before_it_is_served_is_passed_over() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::unbounded());
    let first = with(&queue, |queue| queue.get());
    let second = with(&queue, |queue| queue.get());
    yield_now();
    first.kill();
    queue.put(1).unwrap();
    assert_eq!(second.join().unwrap(), Ok(1));
    assert!(first.join().unwrap_err().is_killed());
    assert!(queue.is_empty());
}

#[test]
fn a_getter_killed_after_it_was_served_has_its_item() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::unbounded());
    let got = Rc::new(Cell::new(0));
    let getter = with(&queue, {
        let got = Rc::clone(&got);
        move |queue| {
            got.set(queue.get().unwrap());
            yield_now();
            got.set(0);
        }
    });
    yield_now();
    queue.put(1).unwrap();
    getter.kill();
    assert!(getter.join().unwrap_err().is_killed());
    assert_eq!(got.get(), 1, "the kill came at the next blocking call");
}

#[test]
fn a_putter_killed_before_there_is_room_puts_nothing_and_drops_its_item() {
    let _watchdog = watchdog();
    let item = Rc::new(());
    let queue = Rc::new(Queue::bounded(1));
    queue.put(Rc::clone(&item)).unwrap();
    let [first, second] = [(); 2].map(|()| {
        let item = Rc::clone(&item);
        with(&queue, move |queue| queue.put(item))
    });
    yield_now();
    first.kill();
    drop(queue.get());
    assert_eq!(second.join().unwrap(), Ok(()), "the room is the next one's");
    assert!(first.join().unwrap_err().is_killed());
    assert_eq!(Rc::strong_count(&item), 2, "ours, and the one in the queue");
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_putter_killed_after_there_was_room_has_put() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::bounded(1));
    queue.put(1).unwrap();
    let putter = with(&queue, |queue| {
        queue.put(2).unwrap();
        yield_now();
    });
    yield_now();
    assert_eq!(queue.get(), Ok(1));
    putter.kill();
    assert!(putter.join().unwrap_err().is_killed());
    assert_eq!(queue.get(), Ok(2));
}

#[test]
fn putters_in_the_middle_give_up_and_the_others_keep_their_order() {
    let _watchdog = watchdog();
    let channel = Rc::new(Channel::new());
    let putters: Vec<_> = (0..6)
        .map(|n| with(&channel, move |channel| channel.put(n)))
        .collect();
    yield_now();
    [1, 4, 3].into_iter().for_each(|n: usize| putters[n].kill());
    let got: Vec<i32> = (0..3).map(|_| channel.get().unwrap()).collect();
    assert_eq!(got, [0, 2, 5]);
    assert_eq!(channel.try_get(), Err(TryGetError::Empty));
}

#[test]
fn a_timeout_around_a_get_takes_nothing_with_it() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::unbounded());
    assert!(timeout(MS, || queue.get()).is_err());
    assert_eq!(
        queue.get_timeout(Duration::ZERO),
        Err(GetTimeoutError::Empty)
    );
    queue.put(1).unwrap();
    assert_eq!(queue.len(), 1, "nobody is handed anything who has gone");
    assert_eq!(timeout(MS, || queue.get()), Ok(Ok(1)));
}

#[test]
fn a_get_with_no_time_lets_others_have_a_turn() {
    let _watchdog = watchdog();
    let queue = Rc::new(LifoQueue::unbounded());
    let _putter = with(&queue, |queue| queue.put(1));
    assert_eq!(queue.get_timeout(Duration::ZERO), Ok(1));
}

thread_local! {
    static ON_CMP: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
}

fn on_cmp(f: impl FnMut() + 'static) {
    ON_CMP.set(Some(Box::new(f)));
}

/// Does something when it is compared.
#[derive(Debug, PartialEq, Eq)]
struct Picky(u32);

impl PartialOrd for Picky {
    fn partial_cmp(&self, other: &Picky) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Picky {
    fn cmp(&self, other: &Picky) -> Ordering {
        if let Some(mut f) = ON_CMP.take() {
            f();
        }
        self.0.cmp(&other.0)
    }
}

/// G126: what fails in the middle leaves the queue as it was.
#[test]
fn a_comparison_that_panics_leaves_all_items_in_the_queue() {
    let _watchdog = watchdog();
    quiet_panics();
    let queue = Rc::new(PriorityQueue::bounded(3));
    [3, 1, 2]
        .into_iter()
        .for_each(|n| queue.put(Picky(n)).unwrap());
    on_cmp(|| panic!("cannot compare"));
    let failing = with(&queue, |queue| queue.get());
    assert!(failing.join().unwrap_err().is_panic());
    assert_eq!(queue.len(), 3);
    assert!(queue.is_full());
    on_cmp(|| panic!("cannot compare"));
    let failing = with(&queue, |queue| queue.try_get());
    assert!(failing.join().unwrap_err().is_panic());
    let out = [(); 3].map(|()| queue.get().unwrap().0);
    assert_eq!(out, [1, 2, 3]);
    assert_eq!(queue.try_get(), Err(TryGetError::Empty));
}

#[test]
fn others_wait_while_items_are_compared_and_are_served_after_a_panic_too() {
    let _watchdog = watchdog();
    quiet_panics();
    for fails in [false, true] {
        let queue = Rc::new(PriorityQueue::unbounded());
        [3, 1]
            .into_iter()
            .for_each(|n| queue.put(Picky(n)).unwrap());
        on_cmp(move || {
            sleep(5 * MS);
            assert!(!fails, "cannot compare");
        });
        let comparing = with(&queue, |queue| queue.get());
        yield_now();
        // It is in the middle of it. One item is left, then none.
        let [second, third] = [(); 2].map(|()| with(&queue, |queue| queue.get()));
        yield_now();
        queue.put(Picky(2)).unwrap();
        assert!(!second.is_finished());
        let results = [comparing, second, third].map(JoinHandle::join);
        let mut got: Vec<u32> = results
            .into_iter()
            .filter_map(|result| Some(result.ok()?.unwrap().0))
            .collect();
        got.extend(std::iter::from_fn(|| Some(queue.try_get().ok()?.0)));
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3], "fails: {fails}");
    }
}

#[test]
fn a_comparison_that_gets_from_its_own_queue_is_told_of_the_deadlock() {
    let _watchdog = watchdog();
    quiet_panics();
    let queue = Rc::new(PriorityQueue::unbounded());
    [2, 1]
        .into_iter()
        .for_each(|n| queue.put(Picky(n)).unwrap());
    let again = Rc::downgrade(&queue);
    on_cmp(move || drop(again.upgrade().unwrap().get()));
    let failing = with(&queue, |queue| queue.get());
    match failing.join() {
        Err(JoinError::Panicked(payload)) => assert!(payload.is::<Deadlock>()),
        other => panic!("{other:?}"),
    }
    // Putting and counting are allowed there.
    let again = Rc::downgrade(&queue);
    on_cmp(move || again.upgrade().unwrap().put(Picky(0)).unwrap());
    assert_eq!(queue.get(), Ok(Picky(1)));
    assert_eq!(queue.get(), Ok(Picky(0)));
    assert_eq!(queue.len(), 1);
}

/// Says so when it is cloned.
struct Cloned(u32, Rc<dyn Fn()>);

impl Clone for Cloned {
    fn clone(&self) -> Cloned {
        (self.1)();
        Cloned(self.0, Rc::clone(&self.1))
    }
}

#[test]
fn a_clone_that_blocks_or_panics_while_it_is_peeked_at_keeps_its_place() {
    let _watchdog = watchdog();
    quiet_panics();
    for fails in [false, true] {
        let on_clone: Rc<dyn Fn()> = Rc::new(move || {
            sleep(2 * MS);
            assert!(!fails, "cannot clone");
        });
        let (fifo, lifo) = (Rc::new(Queue::unbounded()), Rc::new(LifoQueue::unbounded()));
        for n in 1..=2 {
            fifo.put(Cloned(n, Rc::clone(&on_clone))).unwrap();
            lifo.put(Cloned(n, Rc::clone(&on_clone))).unwrap();
        }
        let peekers = [
            with(&fifo, |queue| queue.peek().map(|item| item.0)),
            with(&lifo, |queue| queue.peek().map(|item| item.0)),
        ];
        yield_now();
        fifo.put(Cloned(3, Rc::clone(&on_clone))).unwrap();
        lifo.put(Cloned(3, Rc::clone(&on_clone))).unwrap();
        // These wait for the end of the cloning.
        assert_eq!((fifo.get().unwrap().0, lifo.get().unwrap().0), (1, 3));
        assert_eq!((fifo.get().unwrap().0, lifo.get().unwrap().0), (2, 2));
        assert_eq!((fifo.get().unwrap().0, lifo.get().unwrap().0), (3, 1));
        let seen = peekers.map(|peeker| peeker.join().ok());
        let expected = [Some(Ok(1)), Some(Ok(2))];
        assert_eq!(seen, if fails { [None, None] } else { expected });
    }
}

#[test]
fn a_fork_leaves_the_items_and_none_of_those_who_wait() {
    let name = "a_fork_leaves_the_items_and_none_of_those_who_wait";
    alone(name, || {
        let queue = Rc::new(Queue::bounded(1));
        let getter = with(&queue, |queue| queue.get());
        let late = Rc::new(Queue::bounded(1));
        late.put(1).unwrap();
        let putter = with(&late, |queue| queue.put(2));
        let hungry = Rc::new(Queue::unbounded());
        let other = with(&hungry, |queue| queue.get());
        yield_now();
        // Handed to a greenlet that has not run since, and does not in the child.
        queue.put(1).unwrap();
        let lowest = Rc::new(PriorityQueue::unbounded());
        [2, 1].into_iter().for_each(|n| lowest.put(n).unwrap());
        let child = {
            let queue = Rc::clone(&queue);
            let (late, hungry) = (Rc::clone(&late), Rc::clone(&hungry));
            let lowest = Rc::clone(&lowest);
            common::fork(move || {
                assert_eq!((queue.len(), queue.try_get()), (1, Ok(1)));
                assert_eq!(late.try_get(), Ok(1));
                assert!(late.try_get().is_err(), "who waited for room is not here");
                hungry.put(3).unwrap();
                assert_eq!(hungry.try_get(), Ok(3), "who waited for it is not here");
                assert_eq!((lowest.get(), lowest.get()), (Ok(1), Ok(2)));
                0
            })
        };
        assert_eq!(child, 0);
        assert_eq!(getter.join().unwrap(), Ok(1));
        assert_eq!((late.get(), late.get()), (Ok(1), Ok(2)));
        putter.join().unwrap().unwrap();
        hungry.put(4).unwrap();
        assert_eq!(other.join().unwrap(), Ok(4));
    });
}
