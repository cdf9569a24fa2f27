//! Waits that belong to the thread, under `monkey::patch_all`: std's `thread::park`
//! and what stands on it. From a greenlet they block the thread while another thread
//! can end them; where only this thread's greenlets could, the process ends with a
//! report. Never is a queue corrupted, never does anything go round for ever.
//!
//! parking_lot and crossbeam-channel are tested in `tests/thread_shaped`.
#![cfg(feature = "monkey")]

mod common;

use std::rc::Rc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use common::{MS, fork, run_alone, watchdog};
use greenlet::{Builder, joinall, sleep, spawn, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// Runs `body` in a process with one thread, which it ends with a report that names
/// the greenlet "stuck" and this kind of wait.
fn aborts(name: &str, wait: &str, body: impl FnOnce()) {
    let finished = run_alone(name, || {
        let code = fork(|| {
            common::patch();
            body();
            0
        });
        assert_eq!(code, -libc::SIGABRT);
    });
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said(&format!("the greenlet \"stuck\" waits in {wait}"));
        finished.said("spawn_isolated, or std::thread::spawn");
        finished.said("greenlet::queue");
    }
}

fn stuck(body: impl FnOnce() + 'static) -> greenlet::JoinHandle<()> {
    Builder::new().name("stuck").spawn(body).unwrap()
}

#[test]
fn park_in_two_greenlets_is_ended_by_another_thread() {
    let _watchdog = watchdog();
    common::patch();
    let both: Vec<_> = (0..2)
        .map(|_| {
            spawn(|| {
                let (tell, told) = mpsc::channel();
                let me = thread::current();
                let thread = thread::spawn(move || {
                    thread::sleep(5 * MS);
                    tell.send(()).unwrap();
                    me.unpark();
                });
                // It may end early, as std says.
                while told.try_recv().is_err() {
                    thread::park();
                }
                thread.join().unwrap();
            })
        })
        .collect();
    assert!(joinall(both).into_iter().all(|ended| ended.is_ok()));
}

#[test]
fn park_that_only_a_greenlet_could_end_aborts() {
    aborts(
        "park_that_only_a_greenlet_could_end_aborts",
        "std::thread::park",
        || {
            let me = thread::current();
            stuck(|| {
                loop {
                    thread::park();
                }
            });
            spawn(|| {
                loop {
                    thread::park();
                }
            });
            sleep(MS);
            me.unpark();
            sleep(HOUR);
        },
    );
}

#[test]
fn park_with_a_timeout_ends_by_itself() {
    let _watchdog = watchdog();
    common::patch();
    let both = [(); 2].map(|()| spawn(|| thread::park_timeout(5 * MS)));
    assert!(joinall(both).into_iter().all(|ended| ended.is_ok()));
}

#[test]
fn a_permit_of_park_is_kept_when_the_locks_are_patched() {
    let _watchdog = watchdog();
    thread::current().unpark();
    common::patch();
    thread::park();
}

#[test]
fn mpsc_in_two_greenlets_is_answered_by_another_thread() {
    let _watchdog = watchdog();
    common::patch();
    let both: Vec<_> = (0..2)
        .map(|_| {
            spawn(|| {
                let (sender, receiver) = mpsc::channel();
                let thread = thread::spawn(move || {
                    for number in 0..100 {
                        if number % 10 == 0 {
                            thread::sleep(MS);
                        }
                        sender.send(number).unwrap();
                    }
                });
                for number in 0..100 {
                    assert_eq!(receiver.recv(), Ok(number));
                    yield_now();
                }
                assert!(receiver.recv().is_err());
                thread.join().unwrap();
            })
        })
        .collect();
    assert!(joinall(both).into_iter().all(|ended| ended.is_ok()));
}

#[test]
fn mpsc_that_only_a_greenlet_could_answer_aborts() {
    aborts(
        "mpsc_that_only_a_greenlet_could_answer_aborts",
        "std::thread::park",
        || {
            let (sender, receiver) = mpsc::channel();
            let receiver = stuck(move || receiver.recv().unwrap());
            let sender = spawn(move || {
                sleep(MS);
                sender.send(()).unwrap();
            });
            joinall([receiver, sender]);
        },
    );
}

#[test]
fn mpsc_with_something_in_it_does_not_wait() {
    let _watchdog = watchdog();
    common::patch();
    let (sender, receiver) = mpsc::channel();
    let receiver = Rc::new(receiver);
    let sends = spawn(move || (0..100).for_each(|number| sender.send(number).unwrap()));
    yield_now();
    let both = [(); 2].map(|()| {
        let receiver = Rc::clone(&receiver);
        spawn(move || {
            (0..50).for_each(|_| {
                receiver.recv().unwrap();
            })
        })
    });
    assert!(joinall(both).into_iter().all(|ended| ended.is_ok()));
    sends.join().unwrap();
    let ended = receiver.recv_timeout(MS);
    assert_eq!(ended, Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_full_sync_channel_is_emptied_by_another_thread() {
    let _watchdog = watchdog();
    common::patch();
    for room in [0, 1] {
        let (sender, receiver) = mpsc::sync_channel(room);
        let both = [sender.clone(), sender].map(|sender| {
            spawn(move || {
                for number in 0..50 {
                    sender.send(number).unwrap();
                    yield_now();
                }
            })
        });
        let thread = thread::spawn(move || receiver.iter().sum::<u32>());
        assert!(joinall(both).into_iter().all(|ended| ended.is_ok()));
        assert_eq!(thread.join().unwrap(), 2 * (49 * 50 / 2));
    }
}

#[test]
fn a_full_sync_channel_that_only_a_greenlet_could_empty_aborts() {
    aborts(
        "a_full_sync_channel_that_only_a_greenlet_could_empty_aborts",
        "std::thread::park",
        || {
            let (sender, receiver) = mpsc::sync_channel(1);
            let sender = stuck(move || (0..2).for_each(|number| sender.send(number).unwrap()));
            let receiver = spawn(move || {
                sleep(MS);
                while receiver.recv().is_ok() {}
            });
            joinall([sender, receiver]);
        },
    );
}

/// The last other thread ends without an answer.
#[test]
fn a_thread_that_ends_without_an_answer_leaves_nobody() {
    aborts(
        "a_thread_that_ends_without_an_answer_leaves_nobody",
        "std::thread::park",
        || {
            let (sender, receiver) = mpsc::channel::<()>();
            let keeps = sender.clone();
            let thread = thread::spawn(move || {
                thread::sleep(50 * MS);
                drop(sender);
            });
            let receiver = stuck(move || receiver.recv().unwrap());
            let sender = spawn(move || {
                sleep(MS);
                keeps.send(()).unwrap();
            });
            joinall([receiver, sender]);
            thread.join().unwrap();
        },
    );
}
