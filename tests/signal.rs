//! Waiting for signals. Dispositions belong to the process, so what looks at
//! them runs in a process of its own; the others use signals of their own.

mod common;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{alone, fork, reap, watchdog};
use greenlet::signal::{self, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH, Signals};
use greenlet::{joinall, offload, sleep, spawn, timeout, yield_now};

/// Sends a signal to this process.
fn send(signal: i32) {
    // SAFETY: the process has a handler for what is sent here.
    assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
}

/// Sends a signal to this thread, which has handled it when this returns.
fn raise(signal: i32) {
    // SAFETY: as above.
    assert_eq!(unsafe { libc::raise(signal) }, 0);
}

/// A disposition: `SIG_DFL`, `SIG_IGN`, or the address of a handler.
fn disposition(signal: i32) -> usize {
    // SAFETY: without a new action the call only writes the old one.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, std::ptr::null(), &mut now), 0);
        now.sa_sigaction
    }
}

#[test]
fn a_greenlet_waits_for_a_signal_and_others_run_meanwhile() {
    let _watchdog = watchdog();
    let waits = spawn(|| signal::wait(&[34, SIGUSR1]).unwrap());
    let other = spawn(|| 1);
    other.join().unwrap();
    assert!(!waits.is_finished());
    send(SIGUSR1);
    assert_eq!(waits.join().unwrap(), SIGUSR1);
}

#[test]
fn the_main_greenlet_waits_too_and_signals_may_come_from_any_thread() {
    let _watchdog = watchdog();
    let signals = Signals::new(&[35]).unwrap();
    std::thread::spawn(|| send(35));
    assert_eq!(signals.wait().unwrap(), 35);
}

#[test]
fn all_who_listen_get_it_on_every_hub() {
    let _watchdog = watchdog();
    let (ready, is_ready) = channel();
    let threads = [1, 2].map(|_| {
        let ready = ready.clone();
        std::thread::spawn(move || {
            let signals = Arc::new([Signals::new(&[36]).unwrap(), Signals::new(&[36]).unwrap()]);
            ready.send(()).unwrap();
            let waits = [0, 1].map(|n| {
                let signals = Arc::clone(&signals);
                spawn(move || signals[n].wait().unwrap())
            });
            joinall(waits).into_iter().all(|got| got.unwrap() == 36)
        })
    });
    is_ready.recv().unwrap();
    is_ready.recv().unwrap();
    send(36);
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}

#[test]
fn greenlets_that_wait_on_one_object_share_its_signals() {
    let _watchdog = watchdog();
    // Many times: one hub may take both signals while the other one is about
    // to wait.
    for _ in 0..200 {
        let signals = Arc::new(Signals::new(&[37, 38]).unwrap());
        let (ready, is_ready) = channel();
        let elsewhere = std::thread::spawn({
            let signals = Arc::clone(&signals);
            move || {
                ready.send(()).unwrap();
                signals.wait().unwrap()
            }
        });
        is_ready.recv().unwrap();
        let here = spawn({
            let signals = Arc::clone(&signals);
            move || signals.wait().unwrap()
        });
        yield_now();
        raise(37);
        raise(38);
        let mut got = [here.join().unwrap(), elsewhere.join().unwrap()];
        got.sort();
        assert_eq!(got, [37, 38]);
    }
}

#[test]
fn what_comes_between_two_waits_is_kept_and_counts_once() {
    let _watchdog = watchdog();
    let signals = Signals::new(&[39, 40]).unwrap();
    assert_eq!(signals.try_wait().unwrap(), None);
    for signal in [40, 39, 39, 40, 39] {
        raise(signal);
    }
    assert_eq!(signals.wait().unwrap(), 39);
    assert_eq!(signals.wait().unwrap(), 40);
    assert_eq!(signals.try_wait().unwrap(), None);
}

#[test]
fn a_frequent_signal_does_not_keep_another_one_from_its_turn() {
    let _watchdog = watchdog();
    let signals = Signals::new(&[41, 42]).unwrap();
    raise(41);
    raise(42);
    assert_eq!(signals.wait().unwrap(), 41);
    raise(41);
    assert_eq!(signals.wait().unwrap(), 42);
    assert_eq!(signals.wait().unwrap(), 41);
}

#[test]
fn a_wait_ends_by_its_timeout() {
    let _watchdog = watchdog();
    let short = Duration::from_millis(5);
    assert_eq!(signal::wait_timeout(&[43], short).unwrap(), None);
    assert_eq!(signal::wait_timeout(&[43], Duration::ZERO).unwrap(), None);
    let signals = Signals::new(&[43]).unwrap();
    send(43);
    let long = Duration::from_secs(50);
    assert_eq!(signals.wait_timeout(long).unwrap(), Some(43));
}

#[test]
fn what_cannot_be_waited_for_is_refused() {
    let never = [
        libc::SIGKILL,
        libc::SIGSTOP,
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        // glibc's own.
        32,
        33,
        // No signals.
        0,
        -1,
        65,
        i32::MAX,
        i32::MIN,
    ];
    for signal in never {
        let error = Signals::new(&[SIGWINCH, signal]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{signal}");
    }
    let error = Signals::new(&[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

#[test]
fn the_previous_disposition_is_back_when_the_last_one_has_left() {
    alone(
        "the_previous_disposition_is_back_when_the_last_one_has_left",
        || {
            // One is ignored, one has its default, one a handler.
            extern "C" fn theirs(_: i32) {}
            // SAFETY: the handler does nothing.
            unsafe {
                libc::signal(SIGHUP, libc::SIG_IGN);
                libc::signal(SIGTERM, theirs as *const () as usize);
            }
            let all = [SIGHUP, SIGINT, SIGTERM];
            let before = all.map(disposition);
            let first = Signals::new(&all).unwrap();
            let second = Signals::new(&all[1..]).unwrap();
            let during = all.map(disposition);
            assert!(all.iter().all(|s| disposition(*s) == during[0]));
            drop(first);
            assert_eq!(all.map(disposition), [before[0], during[1], during[2]]);
            drop(second);
            assert_eq!(all.map(disposition), before);
            // A refused set changes nothing.
            assert!(Signals::new(&[SIGHUP, SIGINT, 32]).is_err());
            assert_eq!(all.map(disposition), before);
        },
    );
}

#[test]
fn a_handler_installed_over_ours_stays() {
    alone("a_handler_installed_over_ours_stays", || {
        let signals = Signals::new(&[SIGUSR2]).unwrap();
        // SAFETY: nothing is called.
        unsafe { libc::signal(SIGUSR2, libc::SIG_IGN) };
        drop(signals);
        assert_eq!(disposition(SIGUSR2), libc::SIG_IGN);
    });
}

#[test]
fn a_kill_and_a_timeout_tidy_up() {
    alone("a_kill_and_a_timeout_tidy_up", || {
        let before = disposition(SIGINT);
        let handle = spawn(|| signal::wait(&[SIGINT]));
        yield_now();
        assert_ne!(disposition(SIGINT), before);
        handle.kill_wait();
        assert_eq!(disposition(SIGINT), before);
        let elapsed = timeout(Duration::from_millis(5), || signal::wait(&[SIGINT]));
        assert!(elapsed.is_err());
        assert_eq!(disposition(SIGINT), before);
    });
}

#[test]
fn without_a_listener_the_signal_has_its_usual_effect_again() {
    alone(
        "without_a_listener_the_signal_has_its_usual_effect_again",
        || {
            let code = fork(|| {
                let signals = Signals::new(&[SIGINT]).unwrap();
                send(SIGINT);
                assert_eq!(signals.wait().unwrap(), SIGINT);
                drop(signals);
                send(SIGINT);
                sleep(Duration::MAX);
                1
            });
            assert_eq!(code, -SIGINT);
        },
    );
}

#[test]
fn many_objects_at_a_time_and_many_after_each_other_use_few_descriptors() {
    alone(
        "many_objects_at_a_time_and_many_after_each_other_use_few_descriptors",
        || {
            let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
            let many: Vec<_> = (0..50).map(|_| Signals::new(&[SIGUSR1]).unwrap()).collect();
            send(SIGUSR1);
            for signals in &many {
                assert_eq!(signals.wait().unwrap(), SIGUSR1);
            }
            drop(many);
            let before = open();
            for _ in 0..1000 {
                let signals = Signals::new(&[SIGUSR1]).unwrap();
                raise(SIGUSR1);
                assert_eq!(signals.wait().unwrap(), SIGUSR1);
            }
            assert_eq!(open(), before);
        },
    );
}

#[test]
fn a_signal_of_a_former_owner_is_not_handed_to_the_next() {
    let _watchdog = watchdog();
    let first = Signals::new(&[44]).unwrap();
    raise(44);
    drop(first);
    let second = Signals::new(&[45]).unwrap();
    let short = Duration::from_millis(5);
    assert_eq!(second.wait_timeout(short).unwrap(), None);
}

#[test]
fn in_a_forks_child_an_object_listens_again_from_its_first_wait() {
    alone(
        "in_a_forks_child_an_object_listens_again_from_its_first_wait",
        || {
            let default = disposition(SIGUSR1);
            let signals = Signals::new(&[SIGUSR1]).unwrap();
            // What comes before the fork is the parent's.
            send(SIGUSR1);
            // SAFETY: as in `common::fork`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let mut ok = disposition(SIGUSR1) == default;
                ok &= signals.try_wait().unwrap().is_none();
                ok &= disposition(SIGUSR1) != default;
                send(SIGUSR1);
                ok &= signals.wait().unwrap() == SIGUSR1;
                // Other objects work beside it.
                let another = Signals::new(&[SIGUSR1, SIGUSR2]).unwrap();
                send(SIGUSR2);
                ok &= another.wait().unwrap() == SIGUSR2;
                drop((another, signals));
                ok &= disposition(SIGUSR1) == default;
                // SAFETY: _exit has no preconditions.
                unsafe { libc::_exit(if ok { 7 } else { 1 }) }
            }
            assert_eq!(reap(child), 7);
            assert_eq!(signals.wait().unwrap(), SIGUSR1);
            // The child's signals did not reach the parent.
            let short = Duration::from_millis(5);
            assert_eq!(signals.wait_timeout(short).unwrap(), None);
        },
    );
}

#[test]
fn a_greenlet_waits_on_in_the_parent_while_another_one_forks() {
    alone(
        "a_greenlet_waits_on_in_the_parent_while_another_one_forks",
        || {
            let waits = spawn(|| signal::wait(&[SIGTERM]).unwrap());
            yield_now();
            let code = fork(|| {
                // Nobody listens here: it has its usual effect.
                send(SIGTERM);
                sleep(Duration::MAX);
                1
            });
            assert_eq!(code, -SIGTERM);
            assert!(!waits.is_finished());
            send(SIGTERM);
            assert_eq!(waits.join().unwrap(), SIGTERM);
        },
    );
}

#[test]
fn a_wait_for_a_signal_is_never_a_deadlock() {
    alone("a_wait_for_a_signal_is_never_a_deadlock", || {
        let code = fork(|| {
            // SAFETY: getpid has no preconditions.
            let me = unsafe { libc::getpid() };
            // SAFETY: the other process does nothing but send the signal.
            if unsafe { libc::fork() } == 0 {
                std::thread::sleep(Duration::from_millis(50));
                // SAFETY: as above.
                unsafe {
                    libc::kill(me, SIGUSR1);
                    libc::_exit(0)
                }
            }
            // A process of one thread, in which everybody waits.
            let waits = spawn(|| signal::wait(&[SIGUSR1]).unwrap());
            match waits.join() {
                Ok(SIGUSR1) => 7,
                _ => 1,
            }
        });
        assert_eq!(code, 7);
    });
}

#[test]
fn signals_that_keep_coming_disturb_neither_jobs_nor_sleeps() {
    alone(
        "signals_that_keep_coming_disturb_neither_jobs_nor_sleeps",
        || {
            let signals = Arc::new(Signals::new(&[SIGUSR1]).unwrap());
            let counter = spawn({
                let signals = Arc::clone(&signals);
                move || {
                    let mut count = 0;
                    loop {
                        signals.wait().unwrap();
                        count += 1;
                        if count == 200 {
                            return;
                        }
                    }
                }
            });
            let sender = std::thread::spawn(|| {
                for _ in 0..2000 {
                    raise(SIGUSR1);
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            for n in 0..20 {
                sleep(Duration::from_millis(1));
                assert_eq!(offload(move || n), n);
            }
            counter.join().unwrap();
            sender.join().unwrap();
        },
    );
}
