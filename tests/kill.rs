//! Killing: when it arrives, what it leaves, and what it never does.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use common::{Log, MS, OnDrop, defer, flag, quiet_panics, run_alone, watchdog};
use greenlet::error::JoinError;
use greenlet::hub::{self, Parker};
use greenlet::{JoinHandle, joinall, killall, sleep, spawn, spawn_later, yield_now};

/// Some call that waits.
type Wait = Box<dyn FnOnce()>;

/// G085
#[test]
fn killing_an_unstarted_greenlet_never_runs_it() {
    let _watchdog = watchdog();
    let (ran, dropped, linked) = (flag(), flag(), flag());
    let handle = spawn({
        let (ran, captured) = (Rc::clone(&ran), OnDrop(Rc::clone(&dropped)));
        move || {
            let _captured = captured;
            ran.set(true);
        }
    });
    handle.link({
        let linked = Rc::clone(&linked);
        move || linked.set(true)
    });
    handle.kill();
    assert!(!handle.is_finished(), "a kill returns at once");
    handle.wait();
    yield_now();
    assert!(!ran.get());
    assert!(dropped.get(), "what it captured is dropped");
    assert!(linked.get(), "its links fire");
    assert!(matches!(handle.join(), Err(JoinError::Killed)));
}

/// G085, for one whose start is delayed: it ends now and not then.
#[test]
fn killing_a_delayed_greenlet_ends_it_at_once() {
    let _watchdog = watchdog();
    let ran = flag();
    let handle = spawn_later(Duration::from_secs(3600), {
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    handle.kill_wait();
    assert!(handle.is_finished() && !handle.is_successful());
    assert!(!ran.get());
    let due = spawn_later(MS, {
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    due.kill();
    sleep(3 * MS);
    assert!(due.is_finished() && !ran.get());
}

#[test]
fn a_kill_unwinds_from_the_blocking_call_and_runs_destructors() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handle = spawn({
        let log = log.clone();
        move || {
            let (outer, inner) = (log.clone(), log.clone());
            let _outer = defer(move || outer.add("outer"));
            let _inner = defer(move || inner.add("inner"));
            log.add("waits");
            sleep(Duration::MAX);
            log.add("never");
        }
    });
    yield_now();
    handle.kill_wait();
    assert_eq!(log.joined(), "waits inner outer");
    assert!(handle.join().unwrap_err().is_killed());
}

/// No panic message, no hook.
#[test]
fn a_kill_prints_nothing() {
    let _watchdog = watchdog();
    let finished = run_alone("a_kill_prints_nothing", || {
        let handle = spawn(|| sleep(Duration::MAX));
        yield_now();
        handle.kill_wait();
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    assert_eq!(finished.stderr.trim(), "");
}

/// Every kind of wait is a place where a kill arrives.
#[test]
fn a_kill_arrives_in_every_kind_of_wait() {
    let _watchdog = watchdog();
    let target = Rc::new(spawn(|| sleep(Duration::MAX)));
    let waits: Vec<(&str, Wait)> = vec![
        ("sleep", Box::new(|| sleep(Duration::MAX))),
        (
            "short sleeps",
            Box::new(|| {
                loop {
                    sleep(MS / 100)
                }
            }),
        ),
        (
            "yield_now",
            Box::new(|| {
                loop {
                    yield_now()
                }
            }),
        ),
        (
            "sleep of zero",
            Box::new(|| {
                loop {
                    sleep(Duration::ZERO)
                }
            }),
        ),
        ("park", Box::new(|| Parker::new().park())),
        (
            "park_timeout",
            Box::new(|| _ = Parker::new().park_timeout(Duration::MAX)),
        ),
        ("wait", {
            let target = Rc::clone(&target);
            Box::new(move || target.wait())
        }),
        ("wait_timeout", {
            let target = Rc::clone(&target);
            Box::new(move || _ = target.wait_timeout(Duration::from_secs(3600)))
        }),
        ("wait_timeout of zero", {
            let target = Rc::clone(&target);
            Box::new(move || {
                loop {
                    target.wait_timeout(Duration::ZERO);
                }
            })
        }),
        (
            "join",
            Box::new(|| drop(spawn(|| sleep(Duration::MAX)).join())),
        ),
        (
            "joinall",
            Box::new(|| drop(joinall([spawn(|| sleep(Duration::MAX))]))),
        ),
        ("iwait", {
            let target = Rc::clone(&target);
            Box::new(move || {
                greenlet::iwait(&[&*target], None).next();
            })
        }),
        (
            "timeout",
            Box::new(|| {
                let _ = greenlet::timeout(Duration::from_secs(3600), || sleep(Duration::MAX));
            }),
        ),
        (
            "kill_wait",
            Box::new(|| {
                let stubborn = spawn(|| while catch_unwind(|| sleep(Duration::MAX)).is_err() {});
                yield_now();
                stubborn.kill_wait();
            }),
        ),
    ];
    for (name, wait) in waits {
        let (entered, left) = (flag(), flag());
        let handle = spawn({
            let (entered, left) = (Rc::clone(&entered), Rc::clone(&left));
            move || {
                entered.set(true);
                wait();
                left.set(true);
            }
        });
        sleep(MS);
        assert!(entered.get() && !handle.is_finished(), "{name}");
        handle.kill();
        assert!(handle.wait_timeout(Duration::from_secs(20)), "{name}");
        assert!(!left.get(), "{name}");
        assert!(handle.join().unwrap_err().is_killed(), "{name}");
    }
    target.kill_wait();
}

/// G215: one that kills itself goes on to its next blocking call.
#[test]
fn killing_oneself_takes_effect_at_the_next_blocking_call() {
    let _watchdog = watchdog();
    let log = Log::new();
    let slot: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    *slot.borrow_mut() = Some(spawn({
        let (slot, log) = (Rc::clone(&slot), log.clone());
        move || {
            slot.borrow().as_ref().unwrap().kill();
            log.add("goes on");
            yield_now();
            log.add("never");
        }
    }));
    yield_now();
    yield_now();
    let handle = slot.take().unwrap();
    assert!(handle.join().unwrap_err().is_killed());
    assert_eq!(log.joined(), "goes on");
}

/// G215: with a blocking kill the call itself unwinds.
#[test]
fn killing_oneself_and_waiting_unwinds_from_the_call() {
    let _watchdog = watchdog();
    for all in [false, true] {
        let slot: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();
        let went_on = flag();
        let first = spawn({
            let (slot, went_on) = (Rc::clone(&slot), Rc::clone(&went_on));
            move || {
                // Out of the cell, or the borrow would outlast the greenlet.
                let handles = slot.take();
                if all {
                    killall(&handles);
                } else {
                    handles[0].kill_wait();
                }
                went_on.set(true);
            }
        });
        let linked = flag();
        first.link({
            let linked = Rc::clone(&linked);
            move || linked.set(true)
        });
        slot.borrow_mut().push(first);
        sleep(MS);
        assert!(linked.get() && !went_on.get(), "{all}");
    }
}

#[test]
fn a_greenlet_that_never_blocks_is_not_killed() {
    let _watchdog = watchdog();
    let handle = spawn(|| "returned");
    let killer = Rc::new(Cell::new(None));
    let busy = spawn({
        let killer = Rc::clone(&killer);
        move || {
            let me: &'static str = "busy";
            // It is killed by somebody it runs itself: nobody else has a turn.
            if let Some(kill) = killer.take() {
                let kill: Box<dyn FnOnce()> = kill;
                kill();
            }
            me
        }
    });
    let busy = Rc::new(busy);
    killer.set(Some({
        let busy = Rc::clone(&busy);
        Box::new(move || busy.kill()) as Box<dyn FnOnce()>
    }));
    busy.wait();
    assert_eq!(busy.value(), Some(&"busy"));
    assert_eq!(handle.join().unwrap(), "returned");
}

/// G217, G078: the finished do not mind.
#[test]
fn killing_the_finished_changes_nothing() {
    let _watchdog = watchdog();
    let handle = spawn(|| 5);
    handle.wait();
    handle.kill();
    handle.kill_wait();
    killall(std::slice::from_ref(&handle));
    assert_eq!(handle.join().unwrap(), 5);
    quiet_panics();
    let panicked = spawn(|| -> () { panic!("on purpose") });
    panicked.wait();
    panicked.kill();
    assert!(panicked.join().unwrap_err().is_panic());
}

/// "First kill wins."
#[test]
fn killing_twice_kills_once() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    let unwound = Rc::new(Cell::new(0));
    let handle = spawn({
        let unwound = Rc::clone(&unwound);
        move || {
            let _count = defer(move || {
                unwound.set(unwound.get() + 1);
                // A second kill while it unwinds must not be thrown here.
                sleep(3 * MS);
                unwound.set(unwound.get() + 1);
            });
            sleep(Duration::MAX);
        }
    });
    yield_now();
    handle.kill();
    handle.kill();
    sleep(MS);
    assert_eq!(unwound.get(), 1, "it waits in its destructor");
    handle.kill();
    handle.kill_wait();
    assert_eq!(unwound.get(), 2);
    assert!(handle.join().unwrap_err().is_killed());
}

/// Two panics would abort: a kill waits until the unwinding is over.
#[test]
fn a_kill_is_never_thrown_into_an_unwinding_greenlet() {
    let _watchdog = watchdog();
    quiet_panics();
    let log = Log::new();
    let handle = spawn({
        let log = log.clone();
        move || {
            let _ = catch_unwind(AssertUnwindSafe(|| {
                let _slow = defer(|| {
                    for _ in 0..5 {
                        sleep(MS);
                        yield_now();
                    }
                    log.add("destructor is through");
                });
                panic!("on purpose");
            }));
            log.add("caught");
            sleep(Duration::MAX);
            log.add("never");
        }
    });
    sleep(2 * MS);
    handle.kill();
    handle.wait();
    assert_eq!(log.joined(), "destructor is through caught");
    assert!(handle.join().unwrap_err().is_killed());
}

/// G086, G217: one that catches its kill and goes on survives; later kills do
/// nothing, for only the first one counts.
#[test]
fn a_greenlet_that_catches_its_kill_survives() {
    let _watchdog = watchdog();
    let caught = flag();
    let handle = spawn({
        let caught = Rc::clone(&caught);
        move || {
            if catch_unwind(|| sleep(Duration::MAX)).is_err() {
                caught.set(true);
            }
            sleep(20 * MS);
            "survived"
        }
    });
    yield_now();
    handle.kill();
    assert!(!handle.wait_timeout(5 * MS));
    assert!(caught.get());
    handle.kill();
    handle.kill_wait();
    assert_eq!(handle.join().unwrap(), "survived");
}

/// G088: it cannot be mistaken for a panic with a message.
#[test]
fn the_payload_of_a_kill_is_none_of_the_usual_ones() {
    let _watchdog = watchdog();
    let looked = flag();
    let handle = spawn({
        let looked = Rc::clone(&looked);
        move || {
            let payload = catch_unwind(|| sleep(Duration::MAX)).unwrap_err();
            assert!(!payload.is::<&str>() && !payload.is::<String>());
            assert!(!payload.is::<greenlet::error::Deadlock>());
            looked.set(true);
            std::panic::resume_unwind(payload)
        }
    });
    yield_now();
    handle.kill_wait();
    assert!(looked.get());
    let handle: JoinHandle<()> = handle;
    assert!(handle.join().unwrap_err().is_killed());
}

/// What must be done by a `catch_unwind` around everything.
#[test]
fn a_kill_that_is_caught_and_thrown_again_ends_the_greenlet() {
    let _watchdog = watchdog();
    let handle = spawn(|| {
        if let Err(payload) = catch_unwind(|| sleep(Duration::MAX)) {
            std::panic::resume_unwind(payload);
        }
    });
    yield_now();
    handle.kill_wait();
    assert!(handle.join().unwrap_err().is_killed());
}

/// G215, in gevent's order: who is runnable has its turn before the kill is
/// thrown, and what it was handed is not lost.
#[test]
fn a_kill_that_comes_after_the_answer_comes_too_late_for_that_wait() {
    let _watchdog = watchdog();
    let log = Log::new();
    let unparker = Rc::new(Cell::new(None));
    let handle = spawn({
        let (log, unparker) = (log.clone(), Rc::clone(&unparker));
        move || {
            let parker = Parker::new();
            unparker.set(Some(parker.unparker()));
            parker.park();
            log.add("got it");
            yield_now();
            log.add("never");
        }
    });
    yield_now();
    unparker.take().unwrap().unpark();
    handle.kill();
    handle.wait();
    assert_eq!(log.joined(), "got it");
    assert!(handle.join().unwrap_err().is_killed());
}

/// The same for a join: its value is not lost.
#[test]
fn a_joined_value_is_not_lost_to_a_kill() {
    let _watchdog = watchdog();
    let got = Rc::new(Cell::new(0));
    let inner = spawn(|| 7);
    let joiner = spawn({
        let got = Rc::clone(&got);
        move || {
            got.set(inner.join().unwrap());
            yield_now();
            got.set(0);
        }
    });
    let killer = spawn({
        let joiner = Rc::new(joiner);
        move || {
            // `inner` has ended by now, and the joiner was answered.
            joiner.kill();
            joiner.wait();
        }
    });
    // The order of turns: inner, joiner (parks or goes through), killer.
    killer.join().unwrap();
    assert_eq!(got.get(), 7);
}

/// G076: killall tells all before the first unwinds.
#[test]
fn killall_ends_all_and_waits() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handles: Vec<_> = (0..10)
        .map(|n| {
            let log = log.clone();
            spawn(move || {
                let _end = defer(move || {
                    sleep(MS);
                    log.add(n);
                });
                sleep(Duration::MAX);
            })
        })
        .collect();
    sleep(MS);
    killall(&handles);
    assert!(handles.iter().all(JoinHandle::is_finished));
    assert_eq!(log.entries().len(), 10);
    killall(&handles);
    killall::<()>(&[]);
    for end in joinall(handles) {
        assert!(end.unwrap_err().is_killed());
    }
}

#[test]
fn a_held_std_mutex_is_poisoned_by_a_kill() {
    let _watchdog = watchdog();
    let mutex = Rc::new(Mutex::new(5));
    let handle = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            let _guard = mutex.lock().unwrap();
            sleep(Duration::MAX);
        }
    });
    yield_now();
    assert!(mutex.try_lock().is_err());
    handle.kill_wait();
    assert!(mutex.is_poisoned());
    assert_eq!(*mutex.lock().unwrap_err().into_inner(), 5);
}

/// A greenlet that unwinds somewhere else poisons nobody's lock.
#[test]
fn a_lock_that_is_released_while_another_greenlet_unwinds_is_not_poisoned() {
    let _watchdog = watchdog();
    let mutex = Rc::new(Mutex::new(()));
    let unwinding = spawn(|| {
        let _slow = defer(|| sleep(5 * MS));
        sleep(Duration::MAX);
    });
    yield_now();
    unwinding.kill();
    let locker = spawn({
        let mutex = Rc::clone(&mutex);
        move || {
            for _ in 0..20 {
                let _guard = mutex.lock().unwrap();
                yield_now();
            }
        }
    });
    locker.join().unwrap();
    assert!(!mutex.is_poisoned());
    unwinding.wait();
}

#[test]
fn a_panic_in_a_destructor_during_a_kill_aborts_as_in_any_unwinding() {
    let _watchdog = watchdog();
    let name = "a_panic_in_a_destructor_during_a_kill_aborts_as_in_any_unwinding";
    let finished = run_alone(name, || {
        let handle = spawn(|| {
            let _bomb = defer(|| panic!("from a destructor"));
            sleep(Duration::MAX);
        });
        yield_now();
        handle.kill_wait();
    });
    let Some(finished) = finished else { return };
    finished.was_killed_by(libc::SIGABRT);
    finished.said("from a destructor");
}

/// A destructor of the captures of one that never ran may block and panic.
#[test]
fn the_captures_of_a_killed_unstarted_greenlet_may_block_and_panic() {
    let _watchdog = watchdog();
    quiet_panics();
    let through = flag();
    let captured = defer({
        let through = Rc::clone(&through);
        move || {
            sleep(MS);
            spawn(yield_now).join().unwrap();
            through.set(true);
            panic!("on purpose");
        }
    });
    let handle = spawn(move || drop(captured));
    handle.kill_wait();
    assert!(through.get());
    assert!(handle.join().unwrap_err().is_killed());
}

/// G085, the one that kills may be any greenlet, and in any order.
#[test]
fn greenlets_may_kill_each_other() {
    let _watchdog = watchdog();
    let handles: Rc<RefCell<Vec<Rc<JoinHandle<()>>>>> = Rc::default();
    for n in 0..10usize {
        let all = Rc::clone(&handles);
        let handle = spawn(move || {
            let next = Rc::clone(&all.borrow()[(n + 1) % 10]);
            drop(all);
            next.kill_wait();
            sleep(Duration::MAX);
        });
        handles.borrow_mut().push(Rc::new(handle));
    }
    let all = handles.borrow().clone();
    sleep(5 * MS);
    for handle in &all {
        handle.kill();
    }
    for handle in &all {
        handle.wait();
        assert!(!handle.is_successful());
    }
}

/// G165
#[test]
fn shutdown_unwinds_everybody() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        let unwound = Rc::new(Cell::new(0));
        for n in 0..100u32 {
            let unwound = Rc::clone(&unwound);
            let body = move || {
                let _count = defer(move || {
                    if n % 3 == 0 {
                        sleep(MS);
                    }
                    unwound.set(unwound.get() + 1);
                });
                match n % 4 {
                    0 => sleep(Duration::MAX),
                    1 => Parker::new().park(),
                    2 => loop {
                        yield_now();
                    },
                    _ => drop(spawn(|| sleep(Duration::MAX)).join()),
                }
            };
            spawn(body);
        }
        // Never started, and delayed: nothing of them runs.
        spawn_later(Duration::MAX, || unreachable!());
        sleep(MS);
        spawn(|| unreachable!());
        assert_eq!(hub::shutdown(), 0);
        assert_eq!(unwound.get(), 100);
        // And the hub is usable.
        assert_eq!(spawn(|| 5).join().unwrap(), 5);
        assert_eq!(hub::shutdown(), 0);
    })
    .join()
    .unwrap();
}

#[test]
fn shutdown_tells_how_many_refused() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        for stubborn in 0..4 {
            spawn(move || {
                while catch_unwind(|| sleep(Duration::MAX)).is_err() {}
                unreachable!("{stubborn}");
            });
        }
        // One of them never parks.
        spawn(|| {
            loop {
                let _ = catch_unwind(yield_now);
            }
        });
        spawn(|| sleep(Duration::MAX));
        yield_now();
        assert_eq!(hub::shutdown(), 5);
    })
    .join()
    .unwrap();
}

/// One whose destructors wait, after its body has ended, has not refused.
#[test]
fn shutdown_waits_for_destructors_that_block() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        let through = Rc::new(Cell::new(0));
        let slow = |through: &Rc<Cell<u32>>| {
            let through = Rc::clone(through);
            defer(move || {
                sleep(20 * MS);
                through.set(through.get() + 1);
            })
        };
        // In an unwinding, of captures, and of a result that nobody asks for.
        let (a, b, c) = (slow(&through), slow(&through), slow(&through));
        drop(spawn(move || {
            let _a = a;
            sleep(Duration::MAX)
        }));
        drop(spawn(move || {
            let _ = catch_unwind(|| sleep(Duration::MAX));
            c
        }));
        sleep(MS);
        drop(spawn(move || drop(b)));
        assert_eq!(hub::shutdown(), 0);
        assert_eq!(through.get(), 3);
    })
    .join()
    .unwrap();
}

#[test]
fn shutdown_may_be_called_by_any_greenlet() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        let dropped = flag();
        spawn({
            let dropped = OnDrop(Rc::clone(&dropped));
            move || {
                let _dropped = dropped;
                sleep(Duration::MAX)
            }
        });
        let caller = spawn(|| {
            yield_now();
            hub::shutdown()
        });
        assert_eq!(caller.join().unwrap(), 0);
        assert!(dropped.get());
    })
    .join()
    .unwrap();
}
