//! One queue for greenlets of several hubs and for plain threads.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use common::stress::Random;
use common::watchdog;
use greenlet::queue::error::{GetError, TryPutError};
use greenlet::queue::{Channel, LifoQueue, PriorityQueue, Queue};
use greenlet::{sleep, spawn, timeout, yield_now};

#[test]
fn a_plain_thread_waits_for_what_a_greenlet_puts_and_the_other_way_round() {
    let _watchdog = watchdog();
    let (there, back) = (Arc::new(Queue::bounded(1)), Arc::new(Channel::new()));
    let echo = thread::spawn({
        let (there, back) = (Arc::clone(&there), Arc::clone(&back));
        move || {
            for item in &*there {
                back.put(item + 1).unwrap();
            }
        }
    });
    let greenlet = spawn({
        let there = Arc::clone(&there);
        move || {
            for n in 0..1000 {
                there.put(n).unwrap();
                assert_eq!(back.get(), Ok(n + 1));
            }
        }
    });
    greenlet.join().unwrap();
    there.shutdown();
    echo.join().unwrap();
}

#[test]
fn items_of_one_putter_come_in_their_order_from_another_thread() {
    let _watchdog = watchdog();
    let queue = Arc::new(Queue::bounded(7));
    let putter = thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            (0..20_000).for_each(|n| queue.put(n).unwrap());
            queue.shutdown();
        }
    });
    assert!(queue.iter().eq(0..20_000));
    putter.join().unwrap();
}

#[test]
fn a_shutdown_wakes_those_who_wait_on_other_threads() {
    let _watchdog = watchdog();
    let queue: Arc<Queue<u8>> = Arc::new(Queue::unbounded());
    let waiting = Arc::new(AtomicUsize::new(0));
    let threads = [(); 3].map(|()| {
        let (queue, waiting) = (Arc::clone(&queue), Arc::clone(&waiting));
        thread::spawn(move || {
            let greenlets = [(); 3].map(|()| {
                let queue = Arc::clone(&queue);
                spawn(move || queue.get())
            });
            yield_now();
            waiting.fetch_add(1, Ordering::Relaxed);
            greenlets.map(|greenlet| greenlet.join().unwrap())
        })
    });
    while waiting.load(Ordering::Relaxed) < 3 {
        sleep(Duration::from_millis(1));
    }
    queue.shutdown();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), [Err(GetError::ShutDown); 3]);
    }
}

/// What a stress test needs of a queue.
trait Shared: Send + Sync + 'static {
    fn put_for(&self, item: u64, time: Duration) -> bool;
    fn put(&self, item: u64);
    fn try_put(&self, item: u64) -> bool;
    fn get_for(&self, time: Duration) -> Option<u64>;
    fn get(&self) -> Option<u64>;
    fn peek(&self) {}
    fn shutdown(&self);
}

macro_rules! shared {
    ($name:ident $(, $peek:ident)?) => {
        impl Shared for $name<u64> {
            fn put_for(&self, item: u64, time: Duration) -> bool {
                self.put_timeout(item, time).is_ok()
            }
            fn put(&self, item: u64) {
                self.put(item).unwrap();
            }
            fn try_put(&self, item: u64) -> bool {
                match self.try_put(item) {
                    Ok(()) => true,
                    Err(TryPutError::Full(back)) => {
                        assert_eq!(back, item);
                        false
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            fn get_for(&self, time: Duration) -> Option<u64> {
                self.get_timeout(time).ok()
            }
            fn get(&self) -> Option<u64> {
                self.get().ok()
            }
            $(fn peek(&self) {
                let _ = self.$peek();
            })?
            fn shutdown(&self) {
                self.shutdown();
            }
        }
    };
}

shared!(Queue, try_peek);
shared!(LifoQueue, try_peek);
shared!(PriorityQueue, try_peek);
shared!(Channel);

const ROUNDS: u64 = 400;

/// Puts numbers of its own in all ways there are; those that went in.
fn put_some(queue: &dyn Shared, first: u64, mut random: Random) -> Vec<u64> {
    let mut done = Vec::new();
    for item in first..first + ROUNDS {
        let went_in = match random.below(4) {
            0 => queue.put_for(item, random.micros(300)),
            1 => queue.try_put(item),
            2 => timeout(random.micros(300), || {
                queue.put(item);
            })
            .is_ok(),
            _ => {
                queue.put(item);
                true
            }
        };
        if went_in {
            done.push(item);
        }
        if random.below(8) == 0 {
            yield_now();
        }
    }
    done
}

/// Gets in all ways there are, until the end.
fn get_all(queue: &dyn Shared, mut random: Random) -> Vec<u64> {
    let mut got = Vec::new();
    loop {
        let time = random.micros(300);
        match random.below(4) {
            0 => got.extend(queue.get_for(time)),
            1 => got.extend(timeout(time, || queue.get()).ok().flatten()),
            2 => queue.peek(),
            _ => match queue.get() {
                Some(item) => got.push(item),
                None => return got,
            },
        }
    }
}

/// Greenlets that get one item each, of which some are killed meanwhile.
fn get_and_be_killed(queue: Arc<dyn Shared>, mut random: Random) -> Vec<u64> {
    let got = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    for _ in 0..ROUNDS {
        let victims = [(); 3].map(|()| {
            let (queue, got) = (Arc::clone(&queue), std::rc::Rc::clone(&got));
            spawn(move || {
                let item = queue.get();
                got.borrow_mut().extend(item);
            })
        });
        sleep(random.micros(200));
        for victim in &victims {
            if random.below(2) == 0 {
                victim.kill();
            }
        }
        sleep(random.micros(50));
        greenlet::killall(&victims);
    }
    got.take()
}

/// Two hubs with three greenlets each, and two plain threads.
fn stress(name: &str, queue: Arc<dyn Shared>) {
    let mut seeds = Random::seeded(name);
    let mut putting = Vec::new();
    let mut getting = Vec::new();
    for hub in 0..2 {
        let queue = Arc::clone(&queue);
        let (first, mut random) = (hub * 3 * ROUNDS, seeds.split());
        putting.push(thread::spawn(move || {
            let greenlets = [0, 1, 2].map(|n| {
                let (queue, random) = (Arc::clone(&queue), random.split());
                spawn(move || put_some(&*queue, first + n * ROUNDS, random))
            });
            greenlets.map(|g| g.join().unwrap()).concat()
        }));
    }
    // Of each plain thread there is only the main greenlet.
    let (plain, random) = (Arc::clone(&queue), seeds.split());
    putting.push(thread::spawn(move || put_some(&*plain, 6 * ROUNDS, random)));
    for _ in 0..2 {
        let (queue, mut random) = (Arc::clone(&queue), seeds.split());
        getting.push(thread::spawn(move || {
            let other = spawn({
                let (queue, random) = (Arc::clone(&queue), random.split());
                move || get_all(&*queue, random)
            });
            let mut got = get_and_be_killed(Arc::clone(&queue), random.split());
            got.extend(get_all(&*queue, random));
            got.extend(other.join().unwrap());
            got
        }));
    }
    let (plain, random) = (Arc::clone(&queue), seeds.split());
    getting.push(thread::spawn(move || get_all(&*plain, random)));

    let mut went_in: Vec<u64> = putting
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .collect();
    queue.shutdown();
    let mut came_out: Vec<u64> = getting
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .collect();
    went_in.sort_unstable();
    came_out.sort_unstable();
    assert!(went_in.len() as u64 > ROUNDS, "hardly anything was put");
    assert_eq!(went_in, came_out);
}

#[test]
fn what_goes_into_a_queue_under_stress_comes_out_once() {
    let _watchdog = watchdog();
    stress("Queue::bounded(3)", Arc::new(Queue::bounded(3)));
    stress("Queue::unbounded()", Arc::new(Queue::unbounded()));
}

#[test]
fn what_goes_into_a_lifo_queue_under_stress_comes_out_once() {
    let _watchdog = watchdog();
    stress("LifoQueue::bounded(3)", Arc::new(LifoQueue::bounded(3)));
}

#[test]
fn what_goes_into_a_priority_queue_under_stress_comes_out_once() {
    let _watchdog = watchdog();
    stress(
        "PriorityQueue::bounded(3)",
        Arc::new(PriorityQueue::bounded(3)),
    );
    stress(
        "PriorityQueue::unbounded()",
        Arc::new(PriorityQueue::unbounded()),
    );
}

#[test]
fn what_goes_into_a_channel_under_stress_comes_out_once() {
    let _watchdog = watchdog();
    stress("Channel::new()", Arc::new(Channel::new()));
}
