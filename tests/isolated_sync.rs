//! What belongs to the thread waits in isolated greenlets as with threads, once
//! patched: std's `park`, and the channels and locks that stand on it.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, RwLock};
use std::time::Duration;

use common::{MS, alone, watchdog};
use greenlet::{IsolatedHandle, spawn, spawn_isolated};

fn patch() -> common::Watchdog {
    common::patch();
    watchdog()
}

fn join_all<T>(handles: Vec<IsolatedHandle<T>>) -> Vec<T> {
    handles.into_iter().map(|h| h.join().unwrap()).collect()
}

#[test]
fn mpsc_hands_over_between_isolated_greenlets() {
    let _watchdog = patch();
    let (to, from) = mpsc::channel();
    let (back_to, back) = mpsc::sync_channel(0);
    let consumer = spawn_isolated(move || {
        let mut sum = 0u64;
        for n in from {
            sum += n;
            if n % 100 == 0 {
                back_to.send(sum).unwrap();
            }
        }
        sum
    });
    let producers: Vec<_> = (0..4u64)
        .map(|p| {
            let to = to.clone();
            spawn_isolated(move || {
                for n in 0..250 {
                    to.send(p * 250 + n).unwrap();
                    if n % 7 == 0 {
                        greenlet::yield_now();
                    }
                }
            })
        })
        .collect();
    drop(to);
    let reader = spawn_isolated(move || back.iter().count());
    join_all(producers);
    assert_eq!(consumer.join().unwrap(), 999 * 1000 / 2);
    assert_eq!(reader.join().unwrap(), 10);
}

#[test]
fn a_receive_has_a_limit_of_time() {
    let _watchdog = patch();
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticker = spawn({
        let ticks = ticks.clone();
        move || {
            loop {
                greenlet::sleep(MS);
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let handle = spawn_isolated(|| {
        let (_to, from) = mpsc::channel::<u8>();
        from.recv_timeout(10 * MS)
    });
    assert_eq!(handle.join().unwrap(), Err(RecvTimeoutError::Timeout));
    assert!(ticks.load(Ordering::Relaxed) > 0);
    ticker.kill_wait();
}

#[test]
fn park_and_unpark_know_greenlets_as_threads() {
    let _watchdog = patch();
    let (to, from) = mpsc::channel();
    let turns = Arc::new(AtomicUsize::new(0));
    let parked: Vec<_> = (0..10)
        .map(|_| {
            let (to, turns) = (to.clone(), turns.clone());
            spawn_isolated(move || {
                to.send(std::thread::current()).unwrap();
                for _ in 0..5 {
                    std::thread::park();
                    turns.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let waker = spawn_isolated(move || {
        let threads: Vec<_> = from.iter().take(10).collect();
        for round in 1..=5 {
            threads.iter().for_each(std::thread::Thread::unpark);
            while turns.load(Ordering::Relaxed) < round * 10 {
                std::thread::sleep(MS / 10);
            }
        }
    });
    join_all(parked);
    waker.join().unwrap();
}

#[test]
fn an_unpark_from_another_thread_and_from_a_light_one_arrives() {
    let _watchdog = patch();
    let (to, from) = mpsc::channel();
    let handle = spawn_isolated(move || {
        to.send(std::thread::current()).unwrap();
        std::thread::park();
        to.send(std::thread::current()).unwrap();
        std::thread::park();
    });
    // A main greenlet may not park as a thread, so it asks now and then.
    let receive = || loop {
        match from.try_recv() {
            Ok(thread) => break thread,
            Err(_) => greenlet::sleep(MS),
        }
    };
    let thread = receive();
    let other = std::thread::spawn(move || thread.unpark());
    let thread = receive();
    spawn(move || thread.unpark());
    handle.join().unwrap();
    other.join().unwrap();
}

#[test]
fn locks_conditions_and_barriers_work_among_them() {
    let _watchdog = patch();
    let lock = Arc::new((Mutex::new(0usize), Condvar::new()));
    let barrier = Arc::new(Barrier::new(8));
    let table = Arc::new(RwLock::new(Vec::new()));
    let handles: Vec<_> = (0..8)
        .map(|me| {
            let (lock, barrier, table) = (lock.clone(), barrier.clone(), table.clone());
            spawn_isolated(move || {
                for round in 0..20 {
                    let mut turn = lock.0.lock().unwrap();
                    while *turn != round * 8 + me {
                        turn = lock.1.wait(turn).unwrap();
                    }
                    greenlet::yield_now();
                    *turn += 1;
                    lock.1.notify_all();
                    drop(turn);
                    if me == round % 8 {
                        table.write().unwrap().push(round);
                    }
                    barrier.wait();
                    assert_eq!(table.read().unwrap().len(), round + 1);
                    barrier.wait();
                }
            })
        })
        .collect();
    join_all(handles);
    assert_eq!(*table.read().unwrap(), (0..20).collect::<Vec<_>>());
}

#[test]
fn once_is_done_by_one_and_awaited_by_the_others() {
    let _watchdog = patch();
    static ONCE: Once = Once::new();
    static DONE: AtomicUsize = AtomicUsize::new(0);
    static LAZY: LazyLock<usize> = LazyLock::new(|| {
        std::thread::sleep(MS);
        DONE.fetch_add(100, Ordering::Relaxed)
    });
    let handles = (0..5).map(|_| {
        spawn_isolated(|| {
            ONCE.call_once(|| {
                std::thread::sleep(2 * MS);
                DONE.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(DONE.load(Ordering::Relaxed) % 100, 1);
            *LAZY
        })
    });
    let handles = handles.collect();
    assert_eq!(join_all(handles), [1; 5]);
}

#[test]
fn a_scope_of_real_threads_inside_parks_only_the_greenlet() {
    let _watchdog = patch();
    let handles = (0..3).map(|_| {
        spawn_isolated(|| {
            let mut numbers = [1, 2, 3];
            std::thread::scope(|scope| {
                for n in &mut numbers {
                    scope.spawn(move || {
                        std::thread::sleep(2 * MS);
                        *n *= 2;
                    });
                }
            });
            numbers.iter().sum::<i32>()
        })
    });
    let handles = handles.collect();
    assert_eq!(join_all(handles), [12; 3]);
}

#[test]
fn two_hubs_hand_over_to_each_other() {
    let _watchdog = patch();
    let (to, from) = mpsc::channel();
    let (back_to, back) = mpsc::channel();
    let other = std::thread::spawn(move || {
        spawn_isolated(move || {
            for n in from {
                back_to.send(n + 1).unwrap();
            }
        })
        .join()
        .unwrap();
    });
    let handle = spawn_isolated(move || {
        let mut n = 0;
        for _ in 0..200 {
            to.send(n).unwrap();
            n = back.recv().unwrap();
        }
        n
    });
    assert_eq!(handle.join().unwrap(), 200);
    other.join().unwrap();
}

#[test]
fn a_recursive_c_mutex_tells_them_apart() {
    let _watchdog = patch();
    struct Raw(std::cell::UnsafeCell<libc::pthread_mutex_t>);
    // SAFETY: it is a mutex.
    unsafe impl Sync for Raw {}
    // SAFETY: as above.
    unsafe impl Send for Raw {}
    // SAFETY: zero is an initialiser of both, and they are live variables.
    let mutex = Arc::new(Raw(unsafe { std::mem::zeroed() }));
    // SAFETY: as above.
    unsafe {
        let mut attributes = std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_settype(&mut attributes, libc::PTHREAD_MUTEX_RECURSIVE);
        assert_eq!(libc::pthread_mutex_init(mutex.0.get(), &attributes), 0);
    }
    let holder = spawn_isolated({
        let mutex = mutex.clone();
        // SAFETY: the mutex was initialised, and lives.
        move || unsafe {
            assert_eq!(libc::pthread_mutex_lock(mutex.0.get()), 0);
            assert_eq!(libc::pthread_mutex_trylock(mutex.0.get()), 0);
            greenlet::sleep(5 * MS);
            libc::pthread_mutex_unlock(mutex.0.get());
            libc::pthread_mutex_unlock(mutex.0.get());
        }
    });
    greenlet::yield_now();
    // SAFETY: as above.
    let other = spawn_isolated(move || unsafe { libc::pthread_mutex_trylock(mutex.0.get()) });
    assert_eq!(other.join().unwrap(), libc::EBUSY);
    holder.join().unwrap();
}

#[test]
fn epoll_wait_parks_although_nobody_has_asked_for_it() {
    let _watchdog = patch();
    assert!(!greenlet::monkey::is_patched("epoll_wait"));
    // SAFETY: no preconditions; live variables.
    let (set, event) = unsafe { (libc::epoll_create1(0), libc::eventfd(0, libc::EFD_NONBLOCK)) };
    let handle = spawn_isolated(move || {
        let mut interest = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 7,
        };
        // SAFETY: as above.
        unsafe {
            assert_eq!(
                libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, event, &mut interest),
                0
            );
            let mut found = [interest; 4];
            (libc::epoll_wait(set, found.as_mut_ptr(), 4, -1), {
                found[0].u64
            })
        }
    });
    // If it blocked the thread, nobody would write.
    spawn(move || {
        greenlet::sleep(MS);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::eventfd_write(event, 1) }, 0);
    });
    assert_eq!(handle.join().unwrap(), (1, 7));
    // SAFETY: they are ours.
    unsafe { assert_eq!([set, event].map(|fd| libc::close(fd)), [0, 0]) };
}

/// So many of them at a time spawn, wait, panic, are killed and detached, in an order
/// that a printed seed decides.
#[test]
fn whatever_they_do_in_whatever_order_everything_is_dropped_once() {
    let _watchdog = patch();
    common::quiet_panics();
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    struct Counted;
    impl Counted {
        fn new() -> Counted {
            ALIVE.fetch_add(1, Ordering::Relaxed);
            Counted
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, Ordering::Relaxed);
        }
    }
    thread_local!(static LOCAL: Cell<Option<Counted>> = const { Cell::new(None) });
    let seed = std::env::var("GREENLET_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()) << 20 | 7);
    println!("GREENLET_SEED={seed}");
    let mut state = seed;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) % below
    };
    let shared = Arc::new(Mutex::new(0u64));
    let mut handles = Vec::new();
    let rounds = if cfg!(debug_assertions) {
        5_000
    } else {
        50_000
    };
    for _ in 0..rounds {
        let (what, captured, shared) = (random(9), Counted::new(), shared.clone());
        let handle = spawn_isolated(move || {
            LOCAL.set(Some(Counted::new()));
            let _captured = captured;
            match what {
                0 => panic!("on purpose"),
                1 => greenlet::sleep(Duration::MAX),
                2 => std::thread::sleep(MS),
                3 => *shared.lock().unwrap_or_else(|e| e.into_inner()) += 1,
                4 => {
                    let inside = spawn(|| drop(LOCAL.take()));
                    spawn(|| greenlet::sleep(Duration::MAX));
                    inside.join().unwrap();
                }
                5 => {
                    let (to, from) = mpsc::channel();
                    let inner = spawn_isolated(move || to.send(Counted::new()).unwrap());
                    drop(from.recv().unwrap());
                    inner.join().unwrap();
                }
                6 => {
                    let me = std::thread::current();
                    spawn_isolated(move || me.unpark());
                    std::thread::park_timeout(5 * MS);
                }
                7 => drop(greenlet::timeout(MS / 10, || {
                    greenlet::sleep(Duration::MAX)
                })),
                _ => greenlet::yield_now(),
            }
        });
        match random(4) {
            0 if what != 1 => drop(handle),
            1 => {
                handle.kill();
                handles.push(handle);
            }
            _ if what == 1 => {
                greenlet::yield_now();
                handle.kill_wait();
            }
            2 => drop(handle.join()),
            _ => handles.push(handle),
        }
        if handles.len() > 200 {
            handles.drain(..).for_each(|handle| drop(handle.join()));
        }
    }
    handles.drain(..).for_each(|handle| drop(handle.join()));
    common::until(|| ALIVE.load(Ordering::Relaxed) == 0);
}

#[test]
fn sleeping_in_std_lets_ten_thousand_sleep_side_by_side() {
    alone(
        "sleeping_in_std_lets_ten_thousand_sleep_side_by_side",
        || {
            let _watchdog = patch();
            thread_local!(static ME: Cell<usize> = const { Cell::new(0) });
            let handles: Vec<_> = (0..10_000)
                .map(|n| {
                    spawn_isolated(move || {
                        ME.set(n);
                        std::thread::sleep(Duration::from_millis(100));
                        assert_eq!(ME.get(), n);
                    })
                })
                .collect();
            join_all(handles);
        },
    );
}
