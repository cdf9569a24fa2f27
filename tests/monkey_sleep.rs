//! `monkey`: sleeping, with std's and libc's own functions.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::time::{Duration, Instant};

use common::{MS, alone};
use patched::{checked, in_greenlet, lets_others_run, nowhere, patched};

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as _,
        tv_nsec: time.subsec_nanos().into(),
    }
}

fn now(clock: libc::clockid_t) -> Duration {
    let mut time = timespec(Duration::ZERO);
    // SAFETY: the kernel writes a timespec.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Sleeps for a time.
type Sleeper = fn(Duration);

/// What sleeps, by its name.
fn sleepers() -> Vec<(&'static str, Sleeper)> {
    vec![
        ("thread::sleep", std::thread::sleep),
        ("usleep", |time| {
            // SAFETY: it has no preconditions.
            let slept = checked(|| unsafe { libc::usleep(time.as_micros() as u32) });
            assert_eq!(slept, Ok(0));
        }),
        ("nanosleep", |time| {
            let mut rest = timespec(Duration::MAX / 4);
            let before = rest.tv_sec;
            // SAFETY: both are live.
            let slept = checked(|| unsafe { libc::nanosleep(&timespec(time), &mut rest) });
            assert_eq!(slept, Ok(0));
            assert_eq!(rest.tv_sec, before, "the rest is for interrupted sleeps");
        }),
        ("clock_nanosleep", |time| {
            let request = timespec(time);
            let none = std::ptr::null_mut();
            // SAFETY: the request is live.
            let slept = unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &request, none) };
            assert_eq!(slept, 0);
        }),
        ("clock_nanosleep until", |time| {
            for clock in [
                libc::CLOCK_MONOTONIC,
                libc::CLOCK_REALTIME,
                libc::CLOCK_BOOTTIME,
            ] {
                let request = timespec(now(clock) + time);
                let (absolute, none) = (libc::TIMER_ABSTIME, std::ptr::null_mut());
                // SAFETY: the request is live.
                let slept = unsafe { libc::clock_nanosleep(clock, absolute, &request, none) };
                assert_eq!(slept, 0);
                assert!(now(clock) >= Duration::new(request.tv_sec as u64, request.tv_nsec as u32));
            }
        }),
    ]
}

#[test]
fn every_sleep_lets_others_run_and_is_long_enough() {
    let _watchdog = patched();
    for (name, sleep) in sleepers() {
        let slept = lets_others_run(move || {
            let start = Instant::now();
            sleep(MS * 20);
            start.elapsed()
        });
        assert!(slept >= MS * 20, "{name}: {slept:?}");
    }
}

#[test]
fn a_sleep_of_whole_seconds_lets_others_run() {
    let _watchdog = patched();
    let slept = lets_others_run(|| {
        let start = Instant::now();
        // SAFETY: it has no preconditions.
        assert_eq!(unsafe { libc::sleep(1) }, 0);
        start.elapsed()
    });
    assert!(slept >= Duration::from_secs(1));
}

#[test]
fn many_sleep_at_once() {
    let _watchdog = patched();
    let start = Instant::now();
    let sleeping: Vec<_> = (0..1000)
        .map(|_| greenlet::spawn(|| std::thread::sleep(MS * 50)))
        .collect();
    greenlet::joinall(sleeping);
    let elapsed = start.elapsed();
    assert!(elapsed >= MS * 50 && elapsed < MS * 25_000, "{elapsed:?}");
}

#[test]
fn the_main_greenlet_sleeps_and_others_run() {
    let _watchdog = patched();
    let other = greenlet::spawn(|| ());
    std::thread::sleep(MS);
    assert!(other.is_finished());
}

#[test]
fn a_sleep_of_nothing_is_one_turn_for_others() {
    let _watchdog = patched();
    // std makes no call for nothing.
    for (name, sleep) in sleepers().drain(1..) {
        let turn = common::flag();
        let seen = turn.clone();
        greenlet::spawn(move || seen.set(true));
        sleep(Duration::ZERO);
        assert!(turn.get(), "{name}");
    }
}

#[test]
fn sched_yield_is_one_turn_for_others() {
    let _watchdog = patched();
    let log = common::Log::new();
    let yielders: Vec<_> = (0..2)
        .map(|number| {
            let log = log.clone();
            greenlet::spawn(move || {
                for _ in 0..3 {
                    log.add(number);
                    std::thread::yield_now();
                    // SAFETY: it takes nothing.
                    assert_eq!(checked(|| unsafe { libc::sched_yield() }), Ok(0));
                }
            })
        })
        .collect();
    greenlet::joinall(yielders);
    assert_eq!(log.joined(), "0 1 0 1 0 1");
}

#[test]
fn a_spinning_greenlet_that_yields_lets_timers_fire() {
    let _watchdog = patched();
    let done = common::flag();
    let set = done.clone();
    greenlet::spawn(move || {
        greenlet::sleep(MS);
        set.set(true);
    });
    while !done.get() {
        std::thread::yield_now();
    }
}

#[test]
fn bad_requests_are_answered_as_by_the_kernel() {
    let _watchdog = patched();
    let bad = [
        (
            libc::timespec {
                tv_sec: -1,
                tv_nsec: 0,
            },
            libc::EINVAL,
        ),
        (
            libc::timespec {
                tv_sec: 0,
                tv_nsec: -1,
            },
            libc::EINVAL,
        ),
        (
            libc::timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000_000,
            },
            libc::EINVAL,
        ),
    ];
    in_greenlet(move || {
        let none = std::ptr::null_mut();
        for (request, error) in &bad {
            // SAFETY: the request is live.
            let slept = checked(|| unsafe { libc::nanosleep(request, none) });
            assert_eq!(slept, Err(*error));
            for flags in [0, libc::TIMER_ABSTIME] {
                let clock = libc::CLOCK_MONOTONIC;
                // SAFETY: as above.
                let slept = unsafe { libc::clock_nanosleep(clock, flags, request, none) };
                assert_eq!(slept, *error);
            }
        }
        for request in [std::ptr::null(), nowhere::<libc::timespec>().cast_const()] {
            // SAFETY: the kernel finds out that there is nothing.
            unsafe {
                assert_eq!(
                    checked(|| libc::nanosleep(request, none)),
                    Err(libc::EFAULT)
                );
                for flags in [0, libc::TIMER_ABSTIME] {
                    let slept = libc::clock_nanosleep(libc::CLOCK_MONOTONIC, flags, request, none);
                    assert_eq!(slept, libc::EFAULT);
                }
            }
        }
        let nothing = timespec(Duration::ZERO);
        for clock in [
            77,
            -1,
            libc::CLOCK_MONOTONIC_RAW,
            libc::CLOCK_THREAD_CPUTIME_ID,
        ] {
            // SAFETY: the request is live.
            unsafe {
                let raw = libc::syscall(
                    libc::SYS_clock_nanosleep,
                    clock,
                    0,
                    &raw const nothing,
                    none,
                );
                let raw = if raw == 0 { 0 } else { patched::errno() };
                assert_eq!(
                    libc::clock_nanosleep(clock, 0, &nothing, none),
                    raw,
                    "clock {clock}"
                );
            }
        }
    });
}

#[test]
fn a_sleep_for_ever_is_one() {
    let _watchdog = patched();
    let sleeping = greenlet::spawn(|| std::thread::sleep(Duration::MAX));
    greenlet::sleep(MS * 5);
    assert!(!sleeping.is_finished());
    sleeping.kill();
    assert!(
        sleeping.join().is_ok(),
        "a sleep ends early, and is not unwound"
    );
}

#[test]
fn without_other_greenlets_a_sleep_is_the_kernels() {
    alone("without_other_greenlets_a_sleep_is_the_kernels", || {
        common::patch();
        let start = Instant::now();
        std::thread::sleep(MS * 5);
        assert!(start.elapsed() >= MS * 5);
        // A hub, and still nobody else.
        greenlet::spawn(|| ()).join().unwrap();
        std::thread::sleep(MS * 5);
        assert!(start.elapsed() >= MS * 10);
    });
}

#[test]
fn unpatched_blocks_the_thread() {
    let _watchdog = patched();
    let other = greenlet::spawn(|| ());
    greenlet::monkey::unpatched(|| std::thread::sleep(MS));
    assert!(!other.is_finished());
    // It is the greenlet's matter, not the thread's.
    let seen = greenlet::monkey::unpatched(|| {
        greenlet::spawn(|| lets_others_run(|| std::thread::sleep(MS * 20))).join()
    });
    seen.unwrap();
    assert!(other.is_finished());
}
