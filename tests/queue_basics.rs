//! Queues of one hub: what comes out, in which order, and what is refused.

mod common;

use std::cell::Cell;
use std::cmp::Reverse;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{Log, MS, alone, watchdog, with};
use greenlet::queue::error::{
    GetError, GetTimeoutError, PutError, PutTimeoutError, TaskDoneError, TryGetError, TryPutError,
};
use greenlet::queue::{Channel, LifoQueue, PriorityQueue, Queue};
use greenlet::{spawn, yield_now};

/// N12
#[test]
fn a_queue_gives_first_in_first_out_and_then_says_empty() {
    let queue = Queue::unbounded();
    ["first", "second", "third"]
        .into_iter()
        .for_each(|item| queue.put(item).unwrap());
    for expected in ["first", "second", "third"] {
        assert_eq!(queue.get(), Ok(expected));
    }
    assert_eq!(queue.try_get(), Err(TryGetError::Empty));
}

/// N13
#[test]
fn a_lifo_queue_gives_the_last_first() {
    let queue = LifoQueue::unbounded();
    ["first", "second", "third"]
        .into_iter()
        .for_each(|item| queue.put(item).unwrap());
    for expected in ["third", "second", "first"] {
        assert_eq!(queue.get(), Ok(expected));
    }
    assert_eq!(queue.try_get(), Err(TryGetError::Empty));
}

/// N14
#[test]
fn a_priority_queue_orders_by_the_whole_item() {
    let queue = PriorityQueue::unbounded();
    for item in [
        (-10, 'a'),
        (-5, 'a'),
        (20, 'b'),
        (20, 'a'),
        (0, 'b'),
        (30, 'c'),
    ] {
        queue.put(item).unwrap();
    }
    queue.shutdown();
    let out: Vec<(i32, char)> = queue.iter().collect();
    let expected = [
        (-10, 'a'),
        (-5, 'a'),
        (0, 'b'),
        (20, 'a'),
        (20, 'b'),
        (30, 'c'),
    ];
    assert_eq!(out, expected);
}

/// Equal by their order, and yet not the same.
#[derive(Debug)]
struct Job(i32, &'static str);

impl PartialEq for Job {
    fn eq(&self, other: &Job) -> bool {
        self.0 == other.0
    }
}
impl Eq for Job {}
impl PartialOrd for Job {
    fn partial_cmp(&self, other: &Job) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Job {
    fn cmp(&self, other: &Job) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

#[test]
fn equal_items_of_a_priority_queue_keep_their_order() {
    let queue = PriorityQueue::unbounded();
    queue.put(Job(1, "first")).unwrap();
    queue.put(Job(0, "lowest")).unwrap();
    queue.put(Job(1, "second")).unwrap();
    assert_eq!(queue.get().unwrap().1, "lowest");
    queue.put(Job(1, "third")).unwrap();
    for name in ["first", "second", "third"] {
        assert_eq!(queue.get().unwrap().1, name);
    }
}

/// G126
#[test]
fn the_kinds_order_111_333_222_444_each_in_its_way() {
    fn out<T>(put: impl Fn(u32), get: impl Fn() -> T) -> Vec<T> {
        [111, 333, 222, 444].into_iter().for_each(put);
        (0..4).map(|_| get()).collect()
    }
    let fifo = Queue::bounded(4);
    let got = out(|n| fifo.try_put(n).unwrap(), || fifo.try_get().unwrap());
    assert_eq!(got, [111, 333, 222, 444]);
    let lifo = LifoQueue::bounded(4);
    let got = out(|n| lifo.try_put(n).unwrap(), || lifo.try_get().unwrap());
    assert_eq!(got, [444, 222, 333, 111]);
    let lowest = PriorityQueue::bounded(4);
    let got = out(|n| lowest.try_put(n).unwrap(), || lowest.try_get().unwrap());
    assert_eq!(got, [111, 222, 333, 444]);
    let highest = PriorityQueue::bounded(4);
    let got = out(
        |n| highest.try_put(Reverse(n)).unwrap(),
        || highest.try_get().unwrap().0,
    );
    assert_eq!(got, [444, 333, 222, 111]);
}

/// N15
#[test]
fn a_queue_of_three_fills_empties_and_says_empty_in_time() {
    let _watchdog = watchdog();
    let queue = Queue::bounded(3);
    assert!(queue.is_empty() && !queue.is_full());
    assert_eq!(queue.capacity(), Some(3));
    for n in 1..=3 {
        queue.put(n).unwrap();
        assert_eq!(queue.len(), n);
    }
    assert!(queue.is_full());
    assert_eq!(queue.try_put(4), Err(TryPutError::Full(4)));
    assert_eq!(queue.put_timeout(4, MS), Err(PutTimeoutError::Full(4)));
    assert_eq!(
        queue.put_timeout(4, Duration::ZERO),
        Err(PutTimeoutError::Full(4))
    );
    assert_eq!((queue.get(), queue.get()), (Ok(1), Ok(2)));
    assert_eq!(queue.try_get(), Ok(3));
    let start = Instant::now();
    assert_eq!(queue.get_timeout(20 * MS), Err(GetTimeoutError::Empty));
    assert!(start.elapsed() >= 20 * MS);
    assert_eq!(Queue::<u8>::unbounded().capacity(), None);
    assert_eq!(Queue::<u8>::default().capacity(), None);
}

/// G114
#[test]
fn try_put_stores_what_there_is_room_for() {
    let queue = Queue::bounded(1);
    assert_eq!(queue.try_put(2), Ok(()));
    assert_eq!(queue.try_put(3), Err(TryPutError::Full(3)));
    let channel = Channel::new();
    assert_eq!(channel.try_put(2), Err(TryPutError::Full(2)));
    assert_eq!(channel.try_put(3), Err(TryPutError::Full(3)));
}

/// G115
#[test]
fn try_put_wakes_a_blocked_getter() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::bounded(1));
    let getter = with(&queue, |queue| queue.get());
    yield_now();
    queue.try_put(5).unwrap();
    assert_eq!(queue.len(), 0, "it is the getter's already");
    assert_eq!(getter.join().unwrap(), Ok(5));
}

/// G116
#[test]
fn try_get_takes_from_a_full_queue_and_lets_a_blocked_putter_finish() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::bounded(1));
    queue.put(5).unwrap();
    let putter = with(&queue, |queue| queue.put(6));
    yield_now();
    assert!(!putter.is_finished());
    assert_eq!(queue.try_get(), Ok(5));
    assert_eq!(queue.len(), 1, "the putter's item has come in");
    assert_eq!(putter.join().unwrap(), Ok(()));
    assert_eq!(queue.try_get(), Ok(6));
}

/// G117
#[test]
fn a_peek_leaves_the_item() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::unbounded());
    assert_eq!(queue.try_peek(), Err(TryGetError::Empty));
    assert_eq!(queue.peek_timeout(MS), Err(GetTimeoutError::Empty));
    let peeker = with(&queue, |queue| queue.peek());
    let other = with(&queue, |queue| queue.peek_timeout(Duration::from_secs(30)));
    yield_now();
    queue.put("hello").unwrap();
    queue.put("world").unwrap();
    assert_eq!(peeker.join().unwrap(), Ok("hello"));
    assert_eq!(other.join().unwrap(), Ok("hello"));
    assert_eq!(queue.len(), 2);
    assert_eq!(
        (queue.get(), queue.peek(), queue.len()),
        (Ok("hello"), Ok("world"), 1)
    );
    queue.shutdown();
    assert_eq!(
        (queue.get(), queue.peek()),
        (Ok("world"), Err(GetError::ShutDown))
    );

    let lifo = LifoQueue::unbounded();
    [1, 2].into_iter().for_each(|n| lifo.put(n).unwrap());
    assert_eq!((lifo.peek(), lifo.get(), lifo.get()), (Ok(2), Ok(2), Ok(1)));
    let lowest = PriorityQueue::unbounded();
    [2, 1, 3].into_iter().for_each(|n| lowest.put(n).unwrap());
    assert_eq!(
        (lowest.peek(), lowest.len(), lowest.get()),
        (Ok(1), 3, Ok(1))
    );
}

/// G117: nobody is left who could put.
#[test]
fn who_waits_for_ever_is_told_of_the_deadlock() {
    let name = "who_waits_for_ever_is_told_of_the_deadlock";
    alone(name, || {
        // A process of one thread: the test's own.
        let code = common::fork(|| {
            let queue = Queue::bounded(1);
            assert!(matches!(queue.get(), Err(GetError::Deadlock(_))));
            assert!(matches!(queue.peek(), Err(GetError::Deadlock(_))));
            queue.put(1).unwrap();
            assert!(matches!(queue.put(2), Err(PutError::Deadlock(2))));
            assert!(queue.join().is_err());
            assert_eq!(queue.len(), 1);
            0
        });
        assert_eq!(code, 0);
    });
}

/// G118
#[test]
fn a_putter_stops_at_the_size_and_goes_on_after_one_get() {
    let _watchdog = watchdog();
    let (queue, log) = (Rc::new(Queue::bounded(2)), Log::new());
    let putter = with(&queue, {
        let log = log.clone();
        move |queue| {
            for item in ["a", "b", "c"] {
                queue.put(item).unwrap();
                log.add(item);
            }
        }
    });
    yield_now();
    assert_eq!(log.joined(), "a b");
    assert_eq!(queue.get(), Ok("a"));
    yield_now();
    assert_eq!(log.joined(), "a b c");
    assert_eq!((queue.get(), queue.get()), (Ok("b"), Ok("c")));
    putter.join().unwrap();
}

/// G121
#[test]
fn an_item_outlives_the_greenlet_that_put_it() {
    let queue = Rc::new(Queue::unbounded());
    with(&queue, |queue| queue.put(7)).join().unwrap().unwrap();
    yield_now();
    assert_eq!(queue.get(), Ok(7));
}

/// G122, G220; that the second put returns at once differs, see docs/differences.md.
#[test]
fn a_channel_hands_items_over() {
    let _watchdog = watchdog();
    let (channel, log) = (Rc::new(Channel::new()), Log::new());
    let getter = with(&channel, {
        let log = log.clone();
        move |channel| (0..2).for_each(|_| log.add(channel.get().unwrap()))
    });
    log.add("sending");
    channel.put("hello").unwrap();
    log.add("sent hello");
    channel.put("world").unwrap();
    log.add("sent world");
    getter.join().unwrap();
    let expected = ["sending", "hello", "sent hello", "sent world", "world"];
    assert_eq!(log.entries(), expected);
}

/// G122, G220: the order of the one who gets. An item whose getter waits is handed
/// over at once; the next one's putter waits.
#[test]
fn a_putter_into_a_channel_waits_for_the_getter_of_its_item() {
    let _watchdog = watchdog();
    let (channel, log) = (Rc::new(Channel::new()), Log::new());
    let putter = with(&channel, {
        let log = log.clone();
        move |channel| {
            for word in ["hello", "world"] {
                log.add(format!("sending {word}"));
                channel.put(word).unwrap();
                log.add(format!("sent {word}"));
            }
        }
    });
    log.add("waiting");
    log.add(channel.get().unwrap());
    log.add(channel.get().unwrap());
    let expected = [
        "waiting",
        "sending hello",
        "sent hello",
        "sending world",
        "hello",
        "world",
    ];
    assert_eq!(log.entries(), expected);
    putter.join().unwrap();
    assert_eq!(log.entries()[6..], ["sent world"]);
}

#[test]
fn without_a_getter_nothing_is_put_into_a_rendezvous() {
    let _watchdog = watchdog();
    let channel = Rc::new(Channel::new());
    assert_eq!(channel.put_timeout(1, MS), Err(PutTimeoutError::Full(1)));
    assert_eq!(channel.try_get(), Err(TryGetError::Empty));
    let putter = with(&channel, |channel| channel.put(2));
    yield_now();
    assert!(!putter.is_finished());
    assert_eq!(channel.try_get(), Ok(2));
    assert_eq!(putter.join().unwrap(), Ok(()));
    let getter = with(&channel, |channel| {
        channel.get_timeout(Duration::from_secs(30))
    });
    yield_now();
    assert_eq!(channel.try_put(3), Ok(()));
    assert_eq!(channel.try_put(4), Err(TryPutError::Full(4)));
    assert_eq!(getter.join().unwrap(), Ok(3));
}

#[test]
fn a_queue_of_size_zero_is_a_rendezvous() {
    let _watchdog = watchdog();
    let queue = Rc::new(PriorityQueue::bounded(0));
    assert!(queue.is_empty() && queue.is_full());
    assert_eq!(queue.try_put(1), Err(TryPutError::Full(1)));
    let putters = [3, 1, 2].map(|n| with(&queue, move |queue| queue.put(n)));
    yield_now();
    assert!(putters.iter().all(|putter| !putter.is_finished()));
    assert_eq!(queue.try_peek(), Err(TryGetError::Empty));
    // Nothing is stored that could be compared.
    assert_eq!([(); 3].map(|()| queue.get().unwrap()), [3, 1, 2]);
    putters
        .into_iter()
        .for_each(|putter| putter.join().unwrap().unwrap());
    assert_eq!(queue.unfinished(), 3);
}

/// G123
#[test]
fn iteration_ends_with_the_shutdown() {
    let _watchdog = watchdog();
    let queue: Rc<Queue<u8>> = Rc::new(Queue::unbounded());
    let reader = with(&queue, |queue| queue.iter().collect::<Vec<u8>>());
    let other = with(&queue, |queue| queue.into_iter().count());
    yield_now();
    queue.shutdown();
    assert_eq!((reader.join().unwrap(), other.join().unwrap()), (vec![], 0));
}

/// G124
#[test]
fn join_waits_until_all_items_are_done() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::unbounded());
    queue.join().unwrap();
    assert_eq!(queue.task_done(), Err(TaskDoneError));
    queue.put(0).unwrap();
    queue.get().unwrap();
    assert_eq!(queue.unfinished(), 1);
    assert!(!queue.join_timeout(MS));
    queue.task_done().unwrap();
    assert_eq!(queue.unfinished(), 0);
    assert_eq!(queue.task_done(), Err(TaskDoneError));

    let sum = Rc::new(Cell::new(0));
    let workers = [(); 2].map(|()| {
        let sum = Rc::clone(&sum);
        with(&queue, move |queue| {
            for item in queue {
                sum.set(sum.get() + item);
                yield_now();
                queue.task_done().unwrap();
            }
        })
    });
    for round in 1..=2 {
        (0..100).for_each(|n| queue.put(n).unwrap());
        queue.join().unwrap();
        assert_eq!(sum.get(), 4950 * round);
    }
    queue.shutdown();
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
}

#[test]
fn what_is_handed_over_or_waits_for_room_counts_as_unfinished_once() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::bounded(1));
    let getter = with(&queue, |queue| queue.get());
    yield_now();
    queue.put(1).unwrap();
    assert_eq!(queue.unfinished(), 1);
    getter.join().unwrap().unwrap();
    queue.put(2).unwrap();
    let late = with(&queue, |queue| queue.put_timeout(3, MS));
    assert!(late.join().unwrap().is_err());
    assert_eq!(queue.unfinished(), 2, "what was not put does not count");
}

#[test]
fn a_shutdown_refuses_items_and_wakes_those_who_wait() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::bounded(1));
    queue.put(1).unwrap();
    let putters = [2, 3].map(|n| with(&queue, move |queue| queue.put(n)));
    let timed = with(&queue, |queue| {
        queue.put_timeout(4, Duration::from_secs(30))
    });
    yield_now();
    queue.shutdown();
    queue.shutdown();
    assert!(queue.is_shut_down());
    assert_eq!(
        putters.map(|p| p.join().unwrap()),
        [2, 3].map(|n| Err(PutError::ShutDown(n)))
    );
    assert_eq!(timed.join().unwrap(), Err(PutTimeoutError::ShutDown(4)));
    assert_eq!(queue.put(5), Err(PutError::ShutDown(5)));
    assert_eq!(queue.try_put(5), Err(TryPutError::ShutDown(5)));
    assert_eq!(queue.put_timeout(5, MS), Err(PutTimeoutError::ShutDown(5)));
    assert_eq!(queue.get(), Ok(1), "what was put before is still there");
    assert_eq!(queue.get(), Err(GetError::ShutDown));
    assert_eq!(queue.try_get(), Err(TryGetError::ShutDown));
    assert_eq!(queue.get_timeout(MS), Err(GetTimeoutError::ShutDown));

    let queue: Rc<Queue<u8>> = Rc::new(Queue::unbounded());
    let getters = [(); 2].map(|()| with(&queue, |queue| queue.get()));
    let timed = with(&queue, |queue| queue.get_timeout(Duration::from_secs(30)));
    let peeker = with(&queue, |queue| queue.peek());
    yield_now();
    queue.shutdown();
    assert_eq!(
        getters.map(|g| g.join().unwrap()),
        [Err(GetError::ShutDown); 2]
    );
    assert_eq!(timed.join().unwrap(), Err(GetTimeoutError::ShutDown));
    assert_eq!(peeker.join().unwrap(), Err(GetError::ShutDown));
}

#[test]
fn shutdown_now_gives_the_items_back_and_they_count_as_done() {
    let _watchdog = watchdog();
    let queue = Rc::new(PriorityQueue::unbounded());
    [2, 3, 1].into_iter().for_each(|n| queue.put(n).unwrap());
    let joiner = with(&queue, |queue| queue.join());
    yield_now();
    assert_eq!(queue.shutdown_now(), [1, 2, 3]);
    joiner.join().unwrap().unwrap();
    assert_eq!(queue.get(), Err(GetError::ShutDown));
}

/// G219, and G221 the other way round
#[test]
fn waiters_are_served_in_their_order_and_nobody_overtakes() {
    let _watchdog = watchdog();
    let (queue, log) = (Rc::new(Queue::unbounded()), Log::new());
    let getters = ["a", "b", "c"].map(|name| {
        let log = log.clone();
        with(&queue, move |queue| {
            log.add(format!("{name}{}", queue.get().unwrap()))
        })
    });
    yield_now();
    (1..=4).for_each(|n| queue.put(n).unwrap());
    assert!(log.is_empty(), "a put does not switch");
    assert_eq!(queue.try_get(), Ok(4), "the others are taken");
    assert_eq!(queue.try_get(), Err(TryGetError::Empty));
    getters
        .into_iter()
        .for_each(|getter| getter.join().unwrap());
    assert_eq!(log.joined(), "a1 b2 c3");

    let queue = Rc::new(Queue::bounded(1));
    queue.put(0).unwrap();
    let putters = [1, 2].map(|n| with(&queue, move |queue| queue.put(n)));
    yield_now();
    assert_eq!(queue.get(), Ok(0));
    assert_eq!(
        queue.try_put(9),
        Err(TryPutError::Full(9)),
        "the room is the first putter's"
    );
    assert_eq!([(); 2].map(|()| queue.get().unwrap()), [1, 2]);
    putters
        .into_iter()
        .for_each(|putter| putter.join().unwrap().unwrap());
}

#[test]
fn items_that_are_not_send_may_be_queued() {
    let _watchdog = watchdog();
    let queue = Rc::new(Queue::bounded(1));
    let item = Rc::new(5);
    let getter = with(&queue, |queue: &Queue<Rc<i32>>| (queue.get(), queue.get()));
    queue.put(Rc::clone(&item)).unwrap();
    queue.put(Rc::clone(&item)).unwrap();
    let (one, two) = getter.join().unwrap();
    assert!(Rc::ptr_eq(&one.unwrap(), &item) && Rc::ptr_eq(&two.unwrap(), &item));
    assert_eq!(Rc::strong_count(&item), 1);
}

#[test]
fn a_queue_drops_the_items_that_are_left() {
    let item = Rc::new(());
    let queue = Queue::unbounded();
    queue.put(Rc::clone(&item)).unwrap();
    drop(queue.get());
    queue.put(Rc::clone(&item)).unwrap();
    drop(queue);
    assert_eq!(Rc::strong_count(&item), 1);
}

#[test]
fn queues_of_what_is_send_are_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Queue<Cell<u8>>>();
    check::<LifoQueue<u8>>();
    check::<PriorityQueue<u8>>();
    check::<Channel<Cell<u8>>>();
}

#[test]
fn errors_say_what_happened_and_need_no_debug_of_the_item() {
    struct Opaque;
    let queue = Queue::bounded(0);
    let full = queue.try_put(Opaque).unwrap_err();
    assert_eq!(format!("{full}; {full:?}"), "the queue is full; Full(..)");
    let Opaque = full.into_inner();
    queue.shutdown();
    assert_eq!(
        queue.put(Opaque).unwrap_err().to_string(),
        "the queue is shut down"
    );
    assert_eq!(TryGetError::Empty.to_string(), "the queue is empty");
    assert_eq!(
        format!("{:?}", Queue::<u8>::bounded(2)),
        "Queue { len: 0, capacity: Some(2), shut_down: false }"
    );
}

#[test]
fn a_wait_for_several_ends_with_the_first_queue_that_has_something() {
    let _watchdog = watchdog();
    let (one, two) = (
        Rc::new(Queue::unbounded()),
        Rc::new(PriorityQueue::bounded(1)),
    );
    let stop = Rc::new(greenlet::sync::Event::new());
    let wait_for_one = |time: Option<Duration>| {
        let (one, two, stop) = (Rc::clone(&one), Rc::clone(&two), Rc::clone(&stop));
        spawn(move || greenlet::wait(&[&*one, &*two, &*stop], time, Some(1)))
    };
    assert_eq!(wait_for_one(Some(MS)).join().unwrap(), [0; 0]);
    let waiting = wait_for_one(None);
    yield_now();
    two.put(5).unwrap();
    assert_eq!(waiting.join().unwrap(), [1]);
    assert_eq!(two.try_get(), Ok(5), "it has taken nothing");
    let waiting = wait_for_one(Some(Duration::from_secs(30)));
    yield_now();
    stop.set();
    assert_eq!(waiting.join().unwrap(), [2]);
    stop.clear();
    let waiting = [wait_for_one(None), wait_for_one(None)];
    yield_now();
    one.put(6).unwrap();
    assert_eq!(waiting.map(|w| w.join().unwrap()), [[0], [0]]);
    assert_eq!(
        wait_for_one(None).join().unwrap(),
        [0],
        "it is ready already"
    );
    one.get().unwrap();
    let waiting = wait_for_one(None);
    yield_now();
    two.shutdown();
    assert_eq!(
        waiting.join().unwrap(),
        [1],
        "there is something to be told"
    );
}

#[test]
fn a_wait_for_several_sees_what_another_thread_puts() {
    let _watchdog = watchdog();
    let queues = std::sync::Arc::new([(); 2].map(|()| Queue::bounded(1)));
    let putter = std::thread::spawn({
        let queues = std::sync::Arc::clone(&queues);
        move || (0..1000).for_each(|n: usize| queues[n * 7 % 3 % 2].put(n).unwrap())
    });
    let mut got = Vec::new();
    while got.len() < 1000 {
        for ready in greenlet::wait(&[&queues[0], &queues[1]], None, Some(1)) {
            got.extend(queues[ready].try_get());
        }
    }
    got.sort_unstable();
    assert!(got.into_iter().eq(0..1000));
    putter.join().unwrap();
}
