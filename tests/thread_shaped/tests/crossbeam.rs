//! crossbeam-channel waits with `thread::park`, and passes over those of its waiters
//! that are of the sender's own thread: of a thread, one greenlet waits at a time, and
//! the thread with it.

use std::thread;

use crossbeam_channel::{bounded, select, unbounded};
use greenlet::{sleep, spawn, yield_now};
use greenlet_thread_shaped::{End, MS, join_all, run, stuck};

const WAIT: &str = "std::thread::park";

fn main() {
    run(&[
        ("what_is_there_needs_no_wait", End::Well, there),
        ("another_thread_sends", End::Well, sends),
        ("another_thread_receives", End::Well, receives),
        ("another_thread_is_selected", End::Well, selected),
        ("a_wait_with_a_timeout_ends", End::Well, timed),
        (
            "a_greenlet_that_would_send_aborts",
            End::Aborted(WAIT),
            unsent,
        ),
        (
            "a_greenlet_that_would_receive_aborts",
            End::Aborted(WAIT),
            unreceived,
        ),
    ]);
}

fn there() {
    let (sender, receiver) = unbounded();
    let sends = spawn(move || (0..100).for_each(|number| sender.send(number).unwrap()));
    yield_now();
    let receives = spawn(move || (0..100).for_each(|n| assert_eq!(receiver.recv(), Ok(n))));
    join_all([sends, receives]);
}

fn sends() {
    join_all((0..3).map(|_| {
        spawn(|| {
            let (sender, receiver) = unbounded();
            let thread = thread::spawn(move || {
                for number in 0..100 {
                    if number % 10 == 0 {
                        thread::sleep(MS / 2);
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
    }));
}

fn receives() {
    for room in [0, 1, 5] {
        for _ in 0..10 {
            let (sender, receiver) = bounded(room);
            let thread = thread::spawn(move || receiver.iter().sum::<u32>());
            join_all((0..3).map(|_| {
                let sender = sender.clone();
                spawn(move || {
                    for number in 0..50 {
                        sender.send(number).unwrap();
                        yield_now();
                    }
                })
            }));
            drop(sender);
            assert_eq!(thread.join().unwrap(), 3 * (49 * 50 / 2));
        }
    }
}

fn selected() {
    let (left, from_left) = bounded(0);
    let (right, from_right) = bounded(0);
    let threads = [left, right].map(|sender| {
        thread::spawn(move || {
            for _ in 0..50 {
                sender.send(()).unwrap();
            }
        })
    });
    join_all((0..2).map(|_| {
        let (from_left, from_right) = (from_left.clone(), from_right.clone());
        spawn(move || {
            for _ in 0..50 {
                select! {
                    recv(from_left) -> got => got.unwrap_or(()),
                    recv(from_right) -> got => got.unwrap_or(()),
                }
                yield_now();
            }
        })
    }));
    drop((from_left, from_right));
    for thread in threads {
        let _ = thread.join();
    }
}

fn timed() {
    join_all((0..2).map(|_| {
        spawn(|| {
            let (_sender, receiver) = unbounded::<()>();
            assert!(receiver.recv_timeout(5 * MS).is_err());
        })
    }));
}

fn unsent() {
    let (sender, receiver) = unbounded();
    let receiver = stuck(move || receiver.recv().unwrap());
    let sender = spawn(move || {
        sleep(MS);
        sender.send(()).unwrap();
    });
    join_all([receiver, sender]);
}

fn unreceived() {
    let (sender, receiver) = bounded(1);
    let sender = stuck(move || (0..2).for_each(|number| sender.send(number).unwrap()));
    let receiver = spawn(move || {
        sleep(MS);
        receiver.iter().for_each(drop);
    });
    join_all([sender, receiver]);
}
