//! rayon computes on OS threads, where it is started by `os_thread`: whoever waits for it
//! parks. Its threads can be greenlets too, which take turns.
//!
//! rayon has one latch per thread for those outside of the pool that wait for it: light
//! greenlets of one thread wait one after the other.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use greenlet::monkey::os_thread;
use greenlet_real::{main_thread, on_one_os_thread, run, threads, threads_together};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

fn main() {
    run(&[
        ("it_computes_beside_us", beside_us),
        ("a_hundred_wait_for_one_pool", a_hundred),
        ("light_greenlets_wait_one_after_the_other", light_ones),
        ("its_threads_can_be_greenlets", greenlets),
    ]);
}

const WORKERS: usize = 2;

fn pool() -> ThreadPool {
    let builder = ThreadPoolBuilder::new().num_threads(WORKERS);
    builder
        .thread_name(|n| format!("rayon-{n}"))
        .build()
        .unwrap()
}

fn pool_of_os_threads() -> ThreadPool {
    os_thread::within(pool)
}

/// How many primes there are below.
fn primes(end: u32) -> usize {
    let is_prime = |n: &u32| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0);
    (2..end).into_par_iter().filter(is_prime).count()
}

fn beside_us() {
    let pool = pool_of_os_threads();
    // They name themselves when they begin.
    pool.broadcast(|_| ());
    let mut expected = [&main_thread(), "rayon-0", "rayon-1"];
    expected.sort_unstable();
    assert_eq!(threads(), expected);
    let (over, ticks) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                ticks.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let computes = scope.spawn(|| {
            let before = ticks.load(Ordering::SeqCst);
            let count = pool.install(|| {
                // It is not through before the other one has gone on.
                while ticks.load(Ordering::SeqCst) < before + 5 {
                    thread::yield_now();
                }
                primes(100_000)
            });
            assert_eq!(count, 9592);
        });
        let ended = computes.join();
        over.store(true, Ordering::SeqCst);
        ended.unwrap();
    });
}

fn a_hundred() {
    let pool = pool_of_os_threads();
    let most = threads_together(100, |number, flight| {
        flight.during(|| {
            flight.meet();
            let numbers: Vec<usize> = (0..1000).map(|n| (n * 7919 + number) % 1000).collect();
            let sorted = pool.install(|| {
                let mut numbers = numbers;
                numbers.par_sort();
                numbers
            });
            assert!(sorted.into_iter().eq(0..1000));
        });
    });
    assert_eq!(most, 100);
}

fn light_ones() {
    let pool = pool_of_os_threads();
    let pool = &pool;
    greenlet::scope(|scope| {
        for n in 0..20 {
            scope.spawn(move || {
                for round in 0..100 {
                    let answer = pool.install(|| {
                        thread::sleep(Duration::from_micros(50 * (n % 3)));
                        n * 100 + round
                    });
                    assert_eq!(answer, n * 100 + round);
                }
            });
        }
    });
}

fn greenlets() {
    // Whoever drops a pool does not wait for its threads.
    while threads().len() > 1 {
        thread::sleep(Duration::from_millis(1));
    }
    on_one_os_thread(|| {
        let pool = pool();
        for _ in 0..3 {
            assert_eq!(pool.install(|| primes(10_000)), 1229);
        }
        let (left, right) = pool.join(|| primes(1000), || primes(100));
        assert_eq!((left, right), (168, 25));
    });
}
