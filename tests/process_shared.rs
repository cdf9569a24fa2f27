//! `process::Event` and `process::Queue`: what several processes share.

mod common;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{MS, alone, fork, until, watchdog};
use greenlet::net::UnixStream;
use greenlet::process::error::{GetError, PutError};
use greenlet::process::{self, Child, Event, Queue};
use greenlet::{joinall, sleep, spawn, timeout};

/// Says that it waits, waits, and says whether it was set.
fn wait_for((event, mut waits): (Event, UnixStream)) -> bool {
    let waiters = [(); 3].map(|()| {
        let event = event.clone();
        spawn(move || event.wait().unwrap())
    });
    greenlet::yield_now();
    waits.write_all(b"!").unwrap();
    let thread = std::thread::spawn({
        let event = event.clone();
        move || event.wait().unwrap()
    });
    event.wait().unwrap();
    joinall(waiters);
    thread.join().unwrap();
    event.is_set()
}

#[test]
fn set_wakes_everybody_who_waits_in_every_process() {
    let _watchdog = watchdog();
    let event = Event::new().unwrap();
    let children = [(); 3].map(|()| {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let child = process::spawn(wait_for, (event.clone(), theirs)).unwrap();
        ours.read_exact(&mut [0]).unwrap();
        child
    });
    let here = [spawn_waiter(&event), spawn_waiter(&event)];
    let thread = std::thread::spawn({
        let event = event.clone();
        move || event.wait().unwrap()
    });
    sleep(5 * MS);
    assert!(!event.is_set() && children.iter().all(|c| c.try_wait().unwrap().is_none()));
    event.set();
    for child in children {
        assert!(child.join().unwrap());
    }
    joinall(here);
    thread.join().unwrap();
}

fn spawn_waiter(event: &Event) -> greenlet::JoinHandle<()> {
    let event = event.clone();
    spawn(move || event.wait().unwrap())
}

#[test]
fn an_event_is_set_until_somebody_clears_it_and_can_be_set_again() {
    let _watchdog = watchdog();
    let event = Event::new().unwrap();
    let change = |(event, set): (Event, bool)| match set {
        true => event.set(),
        false => event.clear(),
    };
    for _ in 0..3 {
        assert!(!event.is_set() && !event.wait_timeout(MS).unwrap());
        process::spawn(change, (event.clone(), true))
            .unwrap()
            .join()
            .unwrap();
        assert!(event.is_set());
        event.set();
        event.wait().unwrap();
        assert!(event.wait_timeout(Duration::ZERO).unwrap());
        process::spawn(change, (event.clone(), false))
            .unwrap()
            .join()
            .unwrap();
    }
    // A second wait on a hub that knows the event already.
    let waiter = spawn_waiter(&event);
    sleep(MS);
    assert!(!waiter.is_finished());
    let setter = process::spawn(change, (event.clone(), true)).unwrap();
    waiter.join().unwrap();
    setter.join().unwrap();
}

#[test]
fn a_wait_for_an_event_ends_by_its_time_a_timeout_or_a_kill() {
    let _watchdog = watchdog();
    let event = Event::new().unwrap();
    let begin = Instant::now();
    assert!(!event.wait_timeout(20 * MS).unwrap());
    assert!(begin.elapsed() >= 20 * MS);
    assert!(timeout(MS, || event.wait()).is_err());
    let waiter = spawn_waiter(&event);
    sleep(MS);
    waiter.kill_wait();
    assert!(waiter.join().unwrap_err().is_killed());
}

#[test]
fn an_event_and_a_queue_come_back_in_results_and_are_the_same() {
    let _watchdog = watchdog();
    let (event, queue) = (Event::new().unwrap(), Queue::bounded(2).unwrap());
    let pass = |(event, queue): (Event, Queue<String>)| (queue, event);
    let child = process::spawn(pass, (event.clone(), queue.clone())).unwrap();
    let (queue_again, event_again) = child.join().unwrap();
    event_again.set();
    assert!(event.is_set());
    queue.put("an item".to_owned()).unwrap();
    assert_eq!(queue_again.get().unwrap(), "an item");
    // The other process made them.
    let make = |()| {
        let made = (Event::new().unwrap(), Queue::<u8>::bounded(3).unwrap());
        made.0.set();
        made.1.put(7).unwrap();
        made
    };
    let (event, queue) = process::spawn(make, ()).unwrap().join().unwrap();
    assert!(event.is_set() && queue.try_get().unwrap() == 7);
}

#[test]
fn after_a_fork_events_and_queues_are_still_shared() {
    alone("after_a_fork_events_and_queues_are_still_shared", || {
        let (event, queue) = (Event::new().unwrap(), Queue::bounded(1).unwrap());
        assert!(!event.wait_timeout(MS).unwrap());
        assert!(matches!(queue.get_timeout(MS), Err(GetError::Empty)));
        let code = fork(|| {
            event.set();
            event.wait().unwrap();
            queue.put(7).unwrap();
            0
        });
        assert_eq!(code, 0);
        event.wait().unwrap();
        assert_eq!(queue.get().unwrap(), 7);
    });
}

#[test]
fn items_come_in_their_order_from_another_process() {
    let _watchdog = watchdog();
    let queue = Queue::bounded(3).unwrap();
    let count = |queue: Queue<(u32, String)>| {
        for n in 0..500 {
            queue.put((n, "x".repeat(n as usize % 50))).unwrap();
        }
        queue.shutdown().unwrap();
    };
    let child = process::spawn(count, queue.clone()).unwrap();
    for (n, item) in (&queue).into_iter().enumerate() {
        let (number, text) = item.unwrap();
        assert_eq!((number as usize, text.len()), (n, n % 50));
        assert!(queue.len() <= 3);
    }
    child.join().unwrap();
    assert!(queue.is_shut_down() && queue.is_empty());
}

#[test]
fn a_full_queue_makes_wait_and_an_empty_one_too() {
    let _watchdog = watchdog();
    let queue = Queue::bounded(2).unwrap();
    assert_eq!((queue.capacity(), queue.len()), (Some(2), 0));
    assert!(matches!(queue.try_get(), Err(GetError::Empty)));
    queue.put('a').unwrap();
    queue.put_timeout('b', MS).unwrap();
    assert!(queue.is_full() && queue.len() == 2);
    let full = queue.try_put('c').unwrap_err();
    assert!(matches!(full, PutError::Full('c')));
    assert_eq!(queue.put_timeout('d', MS).unwrap_err().into_inner(), 'd');
    let putter = spawn({
        let queue = queue.clone();
        move || queue.put('e').unwrap()
    });
    sleep(MS);
    assert!(!putter.is_finished());
    let get = |queue: Queue<char>| queue.get().unwrap();
    assert_eq!(
        process::spawn(get, queue.clone()).unwrap().join().unwrap(),
        'a'
    );
    putter.join().unwrap();
    assert_eq!([queue.get().unwrap(), queue.get().unwrap()], ['b', 'e']);
    let getter = spawn({
        let queue = queue.clone();
        move || queue.get().unwrap()
    });
    sleep(MS);
    let put = |queue: Queue<char>| queue.put('f').unwrap();
    process::spawn(put, queue.clone()).unwrap().join().unwrap();
    assert_eq!(getter.join().unwrap(), 'f');
}

#[test]
fn shutdown_refuses_items_and_wakes_who_waits_in_every_process() {
    let _watchdog = watchdog();
    let (full, empty) = (Queue::bounded(1).unwrap(), Queue::<u8>::bounded(1).unwrap());
    full.put(1).unwrap();
    let waits = |(full, empty, mut stream): (Queue<u8>, Queue<u8>, UnixStream)| {
        let putter = spawn({
            let full = full.clone();
            move || matches!(full.put(2), Err(PutError::ShutDown(2)))
        });
        greenlet::yield_now();
        stream.write_all(b"!").unwrap();
        matches!(empty.get(), Err(GetError::ShutDown)) && putter.join().unwrap()
    };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let child = process::spawn(waits, (full.clone(), empty.clone(), theirs)).unwrap();
    ours.read_exact(&mut [0]).unwrap();
    full.shutdown().unwrap();
    empty.shutdown().unwrap();
    assert!(child.join().unwrap());
    assert!(matches!(full.try_put(3), Err(PutError::ShutDown(3))));
    assert_eq!(full.get().unwrap(), 1, "what is in it can be got");
    assert!(matches!(full.get(), Err(GetError::ShutDown)));
}

/// KiB that the one queue of this process has in use.
fn memory_in_use() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = files.map(|file| file.unwrap().path()).filter(|path| {
        let link = std::fs::read_link(path).unwrap_or_default();
        link.to_string_lossy().contains("memfd:greenlet")
    });
    let mut queues: Vec<_> = links
        .map(|link| std::fs::metadata(link).unwrap())
        .map(|file| (file.ino(), file.blocks()))
        .collect();
    queues.dedup();
    assert_eq!(queues.len(), 1);
    let blocks = queues[0].1;
    blocks / 2
}

#[test]
fn an_unbounded_queue_takes_much_and_gives_the_memory_back() {
    alone(
        "an_unbounded_queue_takes_much_and_gives_the_memory_back",
        || {
            let queue = Queue::unbounded().unwrap();
            assert_eq!(queue.capacity(), None);
            let item = "x".repeat(10_000);
            for _ in 0..1000 {
                queue.put(item.clone()).unwrap();
            }
            assert!(memory_in_use() > 9_000);
            for _ in 0..999 {
                assert!(queue.get().unwrap() == item);
            }
            // As long as there is an item, all but what lies around it.
            assert!(memory_in_use() <= 3 * 64, "{}", memory_in_use());
            for _ in 0..5000 {
                queue.put(item.clone()).unwrap();
                assert!(queue.get().unwrap() == item);
            }
            assert!(memory_in_use() <= 3 * 64, "{}", memory_in_use());
            queue.get().unwrap();
            let long = "x".repeat(20_000_000);
            queue.put(long.clone()).unwrap();
            assert!(queue.get().unwrap() == long);
            assert!(queue.is_empty() && memory_in_use() <= 64);
        },
    );
}

#[test]
fn what_cannot_be_an_item_is_given_back() {
    let _watchdog = watchdog();
    let zero = Queue::<u8>::bounded(0).unwrap_err();
    assert_eq!(zero.kind(), std::io::ErrorKind::InvalidInput);
    let queue = Queue::bounded(1).unwrap();
    let refused = queue.put(Event::new().unwrap()).unwrap_err();
    assert!(
        refused.to_string().contains("descriptors travel in"),
        "{refused}"
    );
    assert!(!refused.into_inner().is_set() && queue.is_empty());
}

#[test]
fn a_queue_that_is_read_as_one_of_other_items_is_an_error() {
    let _watchdog = watchdog();
    struct Liar(Queue<u8>);
    impl serde::Serialize for Liar {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
    impl<'de> serde::Deserialize<'de> for Liar {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Liar, D::Error> {
            Queue::<u64>::deserialize(deserializer)?;
            Queue::bounded(1)
                .map(Liar)
                .map_err(serde::de::Error::custom)
        }
    }
    let child = process::spawn(|_: Liar| (), Liar(Queue::bounded(1).unwrap())).unwrap();
    let error = child.join().unwrap_err();
    assert!(error.to_string().contains("items of this type"), "{error}");
}

/// The name of who made it, and a number.
type Item = (u32, u32);

/// Puts numbers that nobody else puts, one higher than the other.
fn produce((queue, name): (Queue<Item>, u32)) {
    for n in 0.. {
        queue.put((name, n)).unwrap();
    }
}

fn consume((from, to): (Queue<Item>, Queue<Item>)) {
    for item in &from {
        to.put(item.unwrap()).unwrap();
    }
}

#[test]
fn processes_that_are_killed_at_any_moment_lose_nobody_elses_items_and_stop_nobody() {
    let _watchdog = watchdog();
    let seed = std::env::var("SEED").map_or(0x5eed, |seed| seed.parse().unwrap());
    println!("seed {seed}");
    let mut random = seed;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let (jobs, results) = (Queue::bounded(5).unwrap(), Queue::bounded(5).unwrap());
    let producer = |name| process::spawn(produce, (jobs.clone(), name)).unwrap();
    let consumer = || process::spawn(consume, (jobs.clone(), results.clone())).unwrap();
    let mut producers: Vec<Child<()>> = (0..3).map(producer).collect();
    let mut consumers: Vec<Child<()>> = (0..3).map(|_| consumer()).collect();
    let (mut names, mut killed) = (3, 0);
    let seen = std::rc::Rc::new(std::cell::RefCell::new(HashSet::new()));
    let collector = spawn({
        let (results, seen) = (results.clone(), seen.clone());
        move || {
            for item in &results {
                assert!(
                    seen.borrow_mut().insert(item.unwrap()),
                    "an item came twice"
                );
            }
        }
    });
    for _ in 0..40 {
        let before = seen.borrow().len();
        sleep(Duration::from_micros(500 + next(5000)));
        let which = next(3) as usize;
        if next(2) == 0 {
            producers[which].kill().unwrap();
            producers[which] = producer(names);
            names += 1;
        } else {
            consumers[which].kill().unwrap();
            consumers[which] = consumer();
            killed += 1;
        }
        // It goes on.
        until(|| seen.borrow().len() > before + 20);
    }
    for producer in producers {
        producer.kill().unwrap();
        producer.wait().unwrap();
    }
    jobs.shutdown().unwrap();
    for consumer in consumers {
        consumer.join().unwrap();
    }
    results.shutdown().unwrap();
    collector.join().unwrap();
    let seen = seen.borrow();
    let mut missing = 0;
    for name in 0..names {
        let numbers: HashSet<u32> = seen.iter().filter(|i| i.0 == name).map(|i| i.1).collect();
        let highest = numbers.iter().max().copied().unwrap_or(0);
        missing += (0..highest).filter(|n| !numbers.contains(n)).count();
    }
    assert!(
        missing <= killed,
        "{missing} are missing, {killed} getters were killed"
    );
    assert!(jobs.is_empty() && results.is_empty());
}
