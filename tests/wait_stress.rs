//! Waits for several things, and jobs of a thread pool, under two hubs and two
//! plain threads at once, with random kills and timeouts: what went in came out
//! once.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use common::stress::{Random, stress};
use common::watchdog;
use greenlet::executor::ThreadPoolExecutor;
use greenlet::queue::{LifoQueue, Queue};
use greenlet::sync::{Event, Semaphore};
use greenlet::{Waitable, timeout, wait};

/// What is waited for together.
struct Things {
    queue: Queue<usize>,
    lifo: LifoQueue<usize>,
    permits: Semaphore,
    over: Event,
    /// How often each item went in, and how often it came out.
    put: Vec<AtomicUsize>,
    got: Vec<AtomicUsize>,
    next: AtomicUsize,
    released: AtomicUsize,
    acquired: AtomicUsize,
}

/// Each op puts at most one item.
const MOST: usize = 10_000;

impl Things {
    fn new() -> Arc<Things> {
        let counts = || (0..MOST).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Things {
            queue: Queue::bounded(2),
            lifo: LifoQueue::bounded(2),
            permits: Semaphore::new(0),
            over: Event::new(),
            put: counts(),
            got: counts(),
            next: AtomicUsize::new(0),
            released: AtomicUsize::new(0),
            acquired: AtomicUsize::new(0),
        })
    }

    fn all(&self) -> [&dyn Waitable; 4] {
        [&self.queue, &self.lifo, &self.permits, &self.over]
    }

    /// Takes what `wait` has found, unless another one was quicker.
    fn take(&self, ready: usize) {
        let item = match ready {
            0 => self.queue.try_get().ok(),
            1 => self.lifo.try_get().ok(),
            2 => {
                if let Some(permit) = self.permits.try_acquire() {
                    permit.forget();
                    self.acquired.fetch_add(1, SeqCst);
                }
                None
            }
            _ => None,
        };
        if let Some(item) = item {
            self.got[item].fetch_add(1, SeqCst);
        }
    }

    fn give(&self, random: &mut Random) {
        let item = self.next.fetch_add(1, SeqCst);
        let limit = random.short();
        let went_in = match random.below(4) {
            0 => self.queue.put_timeout(item, limit).is_ok(),
            1 => self.lifo.try_put(item).is_ok(),
            2 => timeout(limit, || self.lifo.put(item)).is_ok_and(|put| put.is_ok()),
            _ => {
                self.released.fetch_add(1, SeqCst);
                self.permits.release();
                false
            }
        };
        if went_in {
            self.put[item].fetch_add(1, SeqCst);
        }
    }
}

/// Waits without a limit for whatever comes, until it is over.
fn take_all(things: &Things) {
    loop {
        for ready in wait(&things.all(), None, Some(1)) {
            // An event that is set is always ready, and so it comes last.
            if ready == 3 {
                (0..3).for_each(|each| things.take(each));
                if things.queue.is_empty() && things.lifo.is_empty() {
                    return;
                }
            }
            things.take(ready);
        }
    }
}

#[test]
fn a_wait_for_several() {
    let _watchdog = watchdog();
    let things = Things::new();
    let takers = [(); 2].map(|()| {
        let things = Arc::clone(&things);
        std::thread::spawn(move || take_all(&things))
    });
    stress("a wait for several", {
        let things = Arc::clone(&things);
        move |random| match random.below(4) {
            0 | 1 => things.give(random),
            2 => {
                let limit = random.short();
                let ready = wait(&things.all(), Some(limit), Some(1 + random.below(2)));
                ready.into_iter().for_each(|ready| things.take(ready));
            }
            _ => {
                let limit = random.short();
                let ready = timeout(limit, || wait(&things.all(), None, Some(1)));
                for ready in ready.into_iter().flatten() {
                    things.take(ready);
                }
            }
        }
    });
    things.over.set();
    takers.into_iter().for_each(|taker| taker.join().unwrap());
    let counts = |of: &[AtomicUsize]| of.iter().map(|n| n.load(SeqCst)).collect::<Vec<_>>();
    let put = counts(&things.put);
    assert!(put.iter().sum::<usize>() > 100, "hardly anything was put");
    assert!(put == counts(&things.got), "what went in came out once");
    let acquired = things.acquired.load(SeqCst);
    let left = things.permits.available();
    assert_eq!(things.released.load(SeqCst), acquired + left);
}

#[test]
fn jobs_of_a_thread_pool() {
    let _watchdog = watchdog();
    let pool = Arc::new(ThreadPoolExecutor::with_workers(3).unwrap());
    let [submitted, ran, called, cancelled]: [Arc<AtomicUsize>; 4] = Default::default();
    stress("jobs of a thread pool", {
        let (pool, submitted) = (Arc::clone(&pool), Arc::clone(&submitted));
        let (ran, called) = (Arc::clone(&ran), Arc::clone(&called));
        let cancelled = Arc::clone(&cancelled);
        move |random| {
            let number = submitted.fetch_add(1, SeqCst);
            let (ran, called, nap) = (Arc::clone(&ran), Arc::clone(&called), random.below(4));
            let job = pool.submit(move || {
                if nap == 0 {
                    std::thread::yield_now();
                }
                ran.fetch_add(1, SeqCst);
                number
            });
            let job = job.unwrap();
            job.add_done_callback(move |_| {
                called.fetch_add(1, SeqCst);
            });
            let limit = random.short();
            let result = match random.below(6) {
                0 => {
                    cancelled.fetch_add(usize::from(job.cancel()), SeqCst);
                    None
                }
                1 => None,
                2 => job.result_timeout(limit).ok(),
                3 => timeout(limit, || job.result()).ok(),
                _ => Some(job.result()),
            };
            assert!(result.is_none_or(|result| result.unwrap() == number));
        }
    });
    pool.shutdown(true);
    let [submitted, ran, called, cancelled] =
        [submitted, ran, called, cancelled].map(|count| count.load(SeqCst));
    assert_eq!(ran + cancelled, submitted);
    assert_eq!(called, submitted);
}
