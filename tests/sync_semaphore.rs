//! `Semaphore` and `BoundedSemaphore`: hand-off, fairness, and nothing lost.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use common::{Log, MS, alone, fork, until, watchdog};
use greenlet::error::{Deadlock, OverReleased};
use greenlet::sync::{BoundedSemaphore, Event, Semaphore};
use greenlet::{iwait, joinall, sleep, spawn, timeout, wait, yield_now};

const HOUR: Duration = Duration::from_secs(3600);

/// G128
#[test]
fn a_permit_that_never_comes_is_none_after_the_time() {
    let _watchdog = watchdog();
    let semaphore = Semaphore::new(0);
    assert!(semaphore.acquire_timeout(2 * MS).is_none());
    assert!(semaphore.acquire_timeout(Duration::ZERO).is_none());
    assert!(semaphore.try_acquire().is_none());
    assert_eq!(semaphore.available(), 0);
}

/// G128
#[test]
fn two_watchers_learn_of_two_releases() {
    let _watchdog = watchdog();
    let semaphore = Rc::new(Semaphore::new(0));
    let watchers = [0, 1].map(|_| {
        let semaphore = semaphore.clone();
        spawn(move || wait(&[&*semaphore], Some(HOUR), None))
    });
    yield_now();
    semaphore.release();
    semaphore.release();
    for ready in joinall(watchers) {
        assert_eq!(ready.unwrap(), [0]);
    }
    assert_eq!(semaphore.available(), 2, "who watches takes nothing");
}

/// G129, G154
#[test]
fn a_semaphore_with_a_permit_is_ready_for_wait() {
    let _watchdog = watchdog();
    let full = BoundedSemaphore::new(1);
    assert_eq!(wait(&[&full], None, None), [0]);
    let empty = Semaphore::new(0);
    let order: Vec<usize> = iwait(&[&empty, &full], Some(2 * MS)).collect();
    assert_eq!(order, [1]);
    empty.release();
    assert_eq!(iwait(&[&empty], None).next(), Some(0));
}

/// G154: the one that is released comes first, and nobody stays in the others' queues.
#[test]
fn iwait_tells_of_the_semaphore_that_was_released_and_leaves_the_others() {
    let _watchdog = watchdog();
    let semaphores = Rc::new([Semaphore::new(0), Semaphore::new(0)]);
    let releaser = spawn({
        let semaphores = semaphores.clone();
        move || semaphores[1].release()
    });
    let objects: [&dyn greenlet::Waitable; 2] = [&semaphores[0], &semaphores[1]];
    let mut ready = iwait(&objects, Some(HOUR));
    assert_eq!(ready.next(), Some(1));
    drop(ready);
    releaser.join().unwrap();
    semaphores[0].release();
    assert!(semaphores[0].try_acquire().is_some());
}

/// G130, G214: one is left who can never get it, and the main greenlet is told.
#[test]
fn a_permit_that_nobody_can_release_is_a_deadlock() {
    alone("a_permit_that_nobody_can_release_is_a_deadlock", || {
        // The child has no other thread that could release it.
        let code = fork(|| {
            let semaphore = Rc::new(Semaphore::new(1));
            semaphore.acquire().forget();
            let stuck = spawn({
                let semaphore = semaphore.clone();
                move || semaphore.acquire().forget()
            });
            // What has nothing to do with it only puts that off.
            let sleeper = spawn(|| sleep(5 * MS));
            let acquire = std::panic::AssertUnwindSafe(|| semaphore.acquire().forget());
            let payload = std::panic::catch_unwind(acquire).unwrap_err();
            assert!(payload.is::<Deadlock>());
            assert!(sleeper.is_finished() && !stuck.is_finished());
            // It is still in the queue, and the first there.
            semaphore.release();
            stuck.join().unwrap();
            0
        });
        assert_eq!(code, 0);
    });
}

/// A hub that has just been called takes its caller to be there, for a while.
#[test]
fn a_deadlock_is_told_though_another_thread_has_just_called() {
    let name = "a_deadlock_is_told_though_another_thread_has_just_called";
    alone(name, || {
        let code = fork(|| {
            let semaphore = Arc::new(Semaphore::new(0));
            let waits = Arc::new(Event::new());
            let caller = std::thread::spawn({
                let (semaphore, waits) = (semaphore.clone(), waits.clone());
                move || {
                    waits.wait();
                    sleep(MS);
                    semaphore.release();
                }
            });
            waits.set();
            // The hub sleeps here, and is called.
            semaphore.acquire().forget();
            caller.join().unwrap();
            let acquire = std::panic::AssertUnwindSafe(|| semaphore.acquire().forget());
            let payload = std::panic::catch_unwind(acquire).unwrap_err();
            i32::from(!payload.is::<Deadlock>())
        });
        assert_eq!(code, 0);
    });
}

/// G133: nobody owns a permit.
#[test]
fn a_bounded_semaphore_is_released_by_whoever_likes() {
    let _watchdog = watchdog();
    let lock = Rc::new(BoundedSemaphore::new(1));
    lock.acquire().forget();
    let tried = common::flag();
    let holder = spawn({
        let (lock, tried) = (lock.clone(), tried.clone());
        move || {
            // Whoever has it waits for it, as anybody else.
            assert!(lock.acquire_timeout(MS).is_none());
            tried.set(true);
            lock.acquire().forget();
        }
    });
    until(|| tried.get());
    lock.release().unwrap();
    holder.join().unwrap();
    assert_eq!(lock.available(), 0);
}

/// G130: and nobody who runs overtakes the one it was handed to.
#[test]
fn permits_are_handed_over_in_the_order_of_asking() {
    let _watchdog = watchdog();
    let semaphore = Rc::new(Semaphore::new(1));
    let log = Log::new();
    let first = semaphore.acquire();
    let takers: Vec<_> = (0..5)
        .map(|n| {
            let (semaphore, log) = (semaphore.clone(), log.clone());
            spawn(move || {
                let _permit = semaphore.acquire();
                log.add(n);
                yield_now();
            })
        })
        .collect();
    yield_now();
    drop(first);
    assert!(semaphore.try_acquire().is_none(), "it is taken already");
    let last = semaphore.acquire();
    log.add("main");
    drop(last);
    joinall(takers);
    assert_eq!(log.joined(), "0 1 2 3 4 main");
    assert_eq!(semaphore.available(), 1);
}

/// G131
#[test]
fn another_thread_gets_the_permit_and_gives_up_without_a_trace() {
    let _watchdog = watchdog();
    let semaphore = Arc::new(Semaphore::new(0));
    let there = Arc::new(Event::new());
    let thread = std::thread::spawn({
        let (semaphore, there) = (semaphore.clone(), there.clone());
        move || {
            assert!(semaphore.acquire_timeout(MS).is_none());
            there.set();
            semaphore.acquire().forget();
        }
    });
    there.wait();
    semaphore.release();
    thread.join().unwrap();
    assert_eq!(semaphore.available(), 0);
    semaphore.release();
    assert_eq!(semaphore.available(), 1, "nobody is left in the queue");
}

/// G132
#[test]
fn threads_take_and_give_ten_thousand_times() {
    let _watchdog = watchdog();
    for (timed, in_greenlet) in [(false, false), (true, false), (false, true), (true, true)] {
        let semaphore = Arc::new(Semaphore::new(1));
        let threads = [0, 1].map(|_| {
            let semaphore = semaphore.clone();
            let body = move || {
                for _ in 0..10_000 {
                    match timed {
                        true => drop(semaphore.acquire_timeout(HOUR).unwrap()),
                        false => drop(semaphore.acquire()),
                    }
                }
            };
            std::thread::spawn(move || match in_greenlet {
                true => spawn(body).join().unwrap(),
                false => body(),
            })
        });
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(semaphore.available(), 1);
    }
}

#[test]
fn a_bounded_semaphore_refuses_a_permit_too_many() {
    let semaphore = BoundedSemaphore::new(1);
    let refused = semaphore.release().unwrap_err();
    assert_eq!(refused.bound, 1);
    assert_eq!(
        OverReleased::to_string(&refused),
        "released too often: all 1 permits of the semaphore are there"
    );
    semaphore.acquire().forget();
    assert_eq!(semaphore.release(), Ok(()));
    assert!(semaphore.release().is_err());
    assert_eq!(semaphore.available(), 1);
    assert!(BoundedSemaphore::new(0).release().is_err(), "none at all");
}

#[test]
fn a_semaphore_of_endless_permits_never_lets_anybody_wait() {
    let semaphore = Semaphore::new(usize::MAX);
    semaphore.release();
    assert_eq!(semaphore.available(), usize::MAX);
    let _permit = semaphore.acquire();
    assert!(semaphore.try_acquire().is_some());
}

#[test]
fn a_waiter_that_is_killed_in_the_instant_it_is_served_has_the_permit() {
    let _watchdog = watchdog();
    let semaphore = Rc::new(Semaphore::new(0));
    let served = Rc::new(Cell::new(false));
    let victim = spawn({
        let (semaphore, served) = (semaphore.clone(), served.clone());
        move || {
            let _permit = semaphore.acquire();
            served.set(true);
            yield_now();
            unreachable!("the kill waits for the next blocking call only");
        }
    });
    let next = spawn({
        let semaphore = semaphore.clone();
        move || semaphore.acquire().forget()
    });
    yield_now();
    semaphore.release();
    victim.kill();
    assert!(victim.join().unwrap_err().is_killed());
    assert!(served.get());
    // What the victim gave back while it unwound went to the next.
    next.join().unwrap();
    assert_eq!(semaphore.available(), 0);
}

#[test]
fn a_waiter_that_is_killed_before_it_is_served_has_left_the_queue() {
    let _watchdog = watchdog();
    let semaphore = Rc::new(Semaphore::new(0));
    let takers = [0, 1].map(|_| {
        let semaphore = semaphore.clone();
        spawn(move || semaphore.acquire().forget())
    });
    yield_now();
    let [victim, next] = takers;
    victim.kill();
    semaphore.release();
    next.join().unwrap();
    assert!(victim.join().unwrap_err().is_killed());
    assert_eq!(semaphore.available(), 0);
}

#[test]
fn a_permit_that_comes_in_the_last_instant_is_not_lost() {
    let _watchdog = watchdog();
    let semaphore = Rc::new(Semaphore::new(0));
    let taker = spawn({
        let semaphore = semaphore.clone();
        // The time is up at once, and the one turn it gives is enough.
        move || {
            semaphore
                .acquire_timeout(Duration::ZERO)
                .map(|permit| permit.forget())
        }
    });
    let giver = spawn({
        let semaphore = semaphore.clone();
        move || semaphore.release()
    });
    let taken = taker.join().unwrap().is_some();
    giver.join().unwrap();
    assert!(taken);
    assert_eq!(semaphore.available(), 0);
    // And a timeout around it takes nothing away.
    assert!(timeout(2 * MS, || semaphore.acquire().forget()).is_err());
    semaphore.release();
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_waiter_whose_thread_has_ended_is_passed_over() {
    let _watchdog = watchdog();
    let semaphore = Arc::new(Semaphore::new(0));
    std::thread::spawn({
        let semaphore = semaphore.clone();
        move || {
            spawn(move || semaphore.acquire().forget());
            yield_now();
        }
    })
    .join()
    .unwrap();
    semaphore.release();
    assert_eq!(semaphore.available(), 1);
}

#[test]
fn a_panic_gives_the_permit_back() {
    let _watchdog = watchdog();
    common::quiet_panics();
    let semaphore = Rc::new(Semaphore::new(1));
    let failing = spawn({
        let semaphore = semaphore.clone();
        move || {
            let _permit = semaphore.acquire();
            sleep(MS);
            panic!("on purpose");
        }
    });
    yield_now();
    assert_eq!(semaphore.available(), 0);
    assert!(failing.join().unwrap_err().is_panic());
    assert_eq!(semaphore.available(), 1);
}
