//! Explicit switches: values, the tree of parents, states (GEVENT.md, test_greenlet).

mod common;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::{Log, OnDrop, defer, flag, fork, quiet_panics, run_alone, watchdog};
use greenlet::error::{JoinError, ParentError, SwitchError};
use greenlet::{Greenlet, GreenletState, sleep, spawn, yield_now};

fn parent<T>() -> Greenlet<T> {
    Greenlet::<T>::current().parent().unwrap()
}

// G001
#[test]
fn a_body_and_its_driver_take_turns() {
    let _watchdog = watchdog();
    let log = Log::new();
    let body = Greenlet::new({
        let log = log.clone();
        move |()| {
            log.add(1);
            parent().switch(());
            log.add(3);
        }
    });
    log.add(0);
    body.switch(());
    log.add(2);
    body.switch(());
    log.add(4);
    assert_eq!(log.joined(), "0 1 2 3 4");
}

// G002
#[test]
fn two_of_one_function_are_independent() {
    let _watchdog = watchdog();
    let log = Log::new();
    let make = |name: &'static str| {
        let log = log.clone();
        Greenlet::new(move |()| {
            log.add(name);
            parent().switch(());
            log.add(name);
        })
    };
    let (one, two) = (make("one"), make("two"));
    one.switch(());
    two.switch(());
    assert!(!one.is_dead() && !two.is_dead());
    two.switch(());
    assert!(!one.is_dead() && two.is_dead());
    one.switch(());
    assert!(one.is_dead());
    assert_eq!(log.joined(), "one two two one");
}

// G003
#[test]
fn a_switch_to_the_parent_lands_in_the_creator() {
    let _watchdog = watchdog();
    let log = Log::new();
    let outer = Greenlet::new({
        let log = log.clone();
        move |()| {
            let inner = Greenlet::new({
                let log = log.clone();
                move |()| {
                    log.add("a");
                    parent().switch(());
                    log.add("never: its handle is gone by then");
                }
            });
            inner.switch(());
            log.add("b");
        }
    });
    outer.switch(());
    log.add("c");
    assert_eq!(log.joined(), "a b c");
}

// G004
#[test]
fn the_first_value_is_the_argument_and_the_result_comes_back() {
    let _watchdog = watchdog();
    let body = Greenlet::new(|(a, b): (i32, i32)| {
        assert_eq!((a, b), (4, 2));
        (42, 0)
    });
    assert_eq!(body.switch((4, 2)), (42, 0));
    assert!(body.is_dead());
}

// G005
#[test]
fn values_travel_both_ways_over_several_switches() {
    let _watchdog = watchdog();
    let body = Greenlet::new(|first: String| {
        let second = parent().switch(first + "!");
        let third = parent().switch(second + "?");
        third + "."
    });
    assert_eq!(body.switch("one".into()), "one!");
    assert_eq!(body.switch("two".into()), "two?");
    assert_eq!(body.switch("three".into()), "three.");
}

// G006
#[test]
fn a_switch_to_a_dead_child_gives_the_value_back_and_runs_nothing() {
    let _watchdog = watchdog();
    let runs = Rc::new(Cell::new(0));
    let body = Greenlet::new({
        let runs = Rc::clone(&runs);
        move |n: i32| {
            runs.set(runs.get() + 1);
            n
        }
    });
    body.switch(1);
    assert_eq!(body.switch(25), 25);
    assert_eq!(body.switch(0), 0);
    assert_eq!(runs.get(), 1);
}

#[test]
fn a_switch_to_oneself_gives_the_value_back() {
    let _watchdog = watchdog();
    assert_eq!(Greenlet::current().switch(7), 7);
    let body = Greenlet::new(|n: i32| Greenlet::<i32>::current().switch(n + 1));
    assert_eq!(body.switch(7), 8);
}

#[test]
fn what_a_switch_returns_comes_from_whoever_switches_back() {
    let _watchdog = watchdog();
    let main = Greenlet::<&'static str>::current();
    let second = Greenlet::new({
        let main = main.clone();
        move |_| main.switch("from the second")
    });
    let first = Greenlet::new({
        let second = second.clone();
        move |_| second.switch("to the second")
    });
    assert_eq!(first.switch("to the first"), "from the second");
}

// G009
#[test]
fn the_parent_is_the_creator_and_the_main_greenlet_has_none() {
    let _watchdog = watchdog();
    let main = Greenlet::<()>::current();
    let child = Greenlet::<()>::unbound();
    assert_eq!(child.parent(), Some(main.clone()));
    assert_eq!(main.parent(), None);
    let error = main.set_parent(&child).unwrap_err();
    assert_eq!(error, ParentError::Main);
    assert_eq!(
        error.to_string(),
        "cannot set the parent of a main greenlet"
    );
}

// G010
#[test]
fn cycles_of_parents_are_refused_and_earlier_links_stay() {
    let _watchdog = watchdog();
    let (a, b, c) = (
        Greenlet::<()>::unbound(),
        Greenlet::<()>::unbound(),
        Greenlet::<()>::unbound(),
    );
    assert_eq!(a.set_parent(&a), Err(ParentError::Cycle));
    b.set_parent(&a).unwrap();
    c.set_parent(&b).unwrap();
    assert_eq!(a.set_parent(&c), Err(ParentError::Cycle));
    assert_eq!(a.parent(), Some(Greenlet::current()));
    assert_eq!(b.parent(), Some(a));
    assert_eq!(c.parent(), Some(b));
}

#[test]
fn a_spawned_greenlet_counts_as_a_child_of_main_and_keeps_it() {
    let _watchdog = watchdog();
    let main = Greenlet::<()>::current();
    spawn(move || {
        let me = Greenlet::<()>::current();
        assert_eq!(me.parent(), Some(main));
        let other = Greenlet::<()>::unbound();
        assert_eq!(me.set_parent(&other), Err(ParentError::Scheduled));
        assert!(me.try_bind(|()| ()).is_err());
    })
    .join()
    .unwrap();
}

// G015
#[test]
fn ten_threads_switch_at_the_same_time() {
    let _watchdog = watchdog();
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(a_body_and_its_driver_take_turns);
        }
    });
}

// G016
#[test]
fn dropping_the_last_handle_unwinds_a_suspended_greenlet_at_once() {
    let _watchdog = watchdog();
    let log = Log::new();
    let make = |name: &'static str| {
        let log = log.clone();
        let greenlet = Greenlet::new(move |()| {
            let _defer = defer({
                let log = log.clone();
                move || log.add(name)
            });
            parent().switch(());
            log.add("never");
        });
        greenlet.switch(());
        greenlet
    };
    let (one, two) = (make("one"), make("two"));
    let clone = one.clone();
    drop(one);
    assert!(log.is_empty(), "a handle is left");
    drop(two);
    drop(clone);
    assert_eq!(log.joined(), "two one");
}

// G017
#[test]
fn a_panic_in_that_unwinding_stays_there() {
    let _watchdog = watchdog();
    quiet_panics();
    let greenlet = Greenlet::new(|()| {
        let outcome = std::panic::catch_unwind(|| parent().switch(()));
        assert!(outcome.is_err());
        panic!("another panic, on purpose");
    });
    greenlet.switch(());
    drop(greenlet);
    let alive = Greenlet::new(|n: i32| n);
    assert_eq!(alive.switch(3), 3);
}

// G019
#[test]
fn a_greenlet_that_survives_the_drop_gets_its_own_parent_back() {
    let _watchdog = watchdog();
    let log = Log::new();
    let found = Rc::new(RefCell::new(None));
    let owner = Greenlet::new({
        let (log, found) = (log.clone(), Rc::clone(&found));
        move |()| {
            let stubborn = Greenlet::new({
                let (log, found) = (log.clone(), Rc::clone(&found));
                move |()| {
                    let first = parent::<()>();
                    let _ = std::panic::catch_unwind(|| parent().switch(()));
                    // The one who dropped the last handle is the parent now.
                    log.add(first == parent::<()>());
                    *found.borrow_mut() = Some(Greenlet::<()>::current());
                    parent().switch(());
                    log.add(first == parent::<()>());
                }
            });
            stubborn.switch(());
            let dropper = Greenlet::new(move |()| drop(stubborn));
            dropper.switch(());
        }
    });
    owner.switch(());
    assert_eq!(log.joined(), "false");
    let survivor = found.borrow_mut().take().unwrap();
    assert_eq!(survivor.parent(), Some(owner.cast()));
    // Its parent is dead, so its result comes here.
    survivor.switch(());
    assert_eq!(log.joined(), "false true");
    assert!(survivor.is_dead());
}

// G020
#[test]
fn a_value_arrives_though_the_last_handle_of_its_sender_goes_meanwhile() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    let unwound = flag();
    let slot: Rc<RefCell<Option<Greenlet<i32>>>> = Rc::default();
    let greenlet = Greenlet::new({
        let (slot, unwound) = (Rc::clone(&slot), Rc::clone(&unwound));
        move |_| {
            let _on_drop = OnDrop(unwound);
            // Drops the last handle of the greenlet that runs.
            slot.borrow_mut().take();
            parent().switch(42)
        }
    });
    *slot.borrow_mut() = Some(greenlet);
    let borrowed = slot.borrow().clone().unwrap();
    let weak = {
        let answer = Greenlet::new(move |n: i32| borrowed.switch(n)).switch(0);
        assert_eq!(answer, 42);
        slot.borrow().is_none()
    };
    assert!(weak);
    // Nobody can switch to it any more, so it was unwound when it had left.
    assert!(unwound.get());
}

#[test]
fn a_greenlet_that_drops_its_own_last_handle_ends_in_its_own_time() {
    let _watchdog = watchdog();
    let slot: Rc<RefCell<Option<Greenlet<i32>>>> = Rc::default();
    let log = Log::new();
    let greenlet = Greenlet::new({
        let (slot, log) = (Rc::clone(&slot), log.clone());
        move |n| {
            slot.borrow_mut().take();
            sleep(Duration::from_millis(1));
            log.add("slept");
            n
        }
    });
    *slot.borrow_mut() = Some(greenlet.clone());
    let weak = greenlet;
    let starter = Greenlet::new(move |n| weak.switch(n));
    starter.switch(1);
    assert_eq!(log.joined(), "slept");
}

#[test]
fn an_unstarted_greenlet_drops_its_captures_with_its_last_handle() {
    let _watchdog = watchdog();
    let dropped = flag();
    let capture = OnDrop(Rc::clone(&dropped));
    let greenlet = Greenlet::new(move |()| drop(capture));
    assert!(!dropped.get());
    drop(greenlet);
    assert!(dropped.get());
}

// G022
#[test]
fn a_switch_to_a_dead_child_starts_its_unstarted_parent() {
    let _watchdog = watchdog();
    let child = Greenlet::new(|n: i32| n);
    child.switch(1);
    let parent = Greenlet::new(|n: i32| n * 10);
    child.set_parent(&parent).unwrap();
    assert_eq!(child.switch(5), 50);
    assert!(parent.is_dead());
}

#[test]
fn a_result_starts_an_unstarted_parent_and_so_on_up_the_chain() {
    let _watchdog = watchdog();
    let a = Greenlet::new(|n: i32| n + 1);
    let b = Greenlet::new(|n: i32| n * 10);
    let c = Greenlet::new(|n: i32| n + 2);
    a.set_parent(&b).unwrap();
    b.set_parent(&c).unwrap();
    assert_eq!(a.switch(1), 22);
    assert!(a.is_dead() && b.is_dead() && c.is_dead());
}

// G023: what fails here is the type, and it fails each time.
#[test]
fn a_parent_that_cannot_be_started_dies_and_its_own_parent_is_told() {
    let _watchdog = watchdog();
    let runs = Rc::new(Cell::new(0));
    let child = Greenlet::new({
        let runs = Rc::clone(&runs);
        move |n: i32| {
            runs.set(runs.get() + 1);
            n
        }
    });
    let parent = Greenlet::new(|text: String| text);
    child.set_parent(&parent).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| child.switch(1)));
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("String"), "{message}");
    assert!(parent.is_dead());
    assert_eq!(runs.get(), 1);
}

// G024, G029
#[test]
fn states_are_told_through_a_life() {
    let _watchdog = watchdog();
    let greenlet = Greenlet::<()>::unbound();
    assert_eq!(greenlet.state(), GreenletState::Unbound);
    greenlet.bind(|()| {
        let me = Greenlet::<()>::current();
        assert_eq!(me.state(), GreenletState::Running);
        parent().switch(());
        sleep(Duration::from_millis(1));
    });
    assert_eq!(greenlet.state(), GreenletState::Unstarted);
    assert!(!greenlet.is_active() && !greenlet.is_dead());
    greenlet.switch(());
    assert_eq!(greenlet.state(), GreenletState::Suspended);
    assert!(greenlet.is_active() && !greenlet.is_dead());
    spawn({
        let greenlet = greenlet.clone();
        move || {
            assert_eq!(greenlet.state(), GreenletState::Parked);
            assert_eq!(Greenlet::<()>::current().state(), GreenletState::Running);
        }
    });
    greenlet.switch(());
    assert_eq!(greenlet.state(), GreenletState::Dead);
    assert!(!greenlet.is_active() && greenlet.is_dead());
    assert_eq!(Greenlet::<()>::current().state(), GreenletState::Running);
    let shown = format!("{greenlet:?}");
    assert!(
        shown.contains("Dead") && shown.contains(&greenlet.name()),
        "{shown}"
    );
}

// G026
#[test]
fn frames_keep_their_values_while_others_use_their_stacks() {
    let _watchdog = watchdog();
    fn nested(depth: u64) -> u64 {
        if depth == 0 {
            return parent().switch(1);
        }
        let local = std::hint::black_box(depth);
        local * nested(depth - 1)
    }
    let greenlet = Greenlet::new(|_| nested(5));
    greenlet.switch(0);
    for _ in 0..100 {
        let other = Greenlet::new(|n: u64| {
            let noise = std::hint::black_box([n; 512]);
            parent().switch(noise[7])
        });
        other.switch(9);
    }
    assert_eq!(greenlet.switch(10), 1200);
}

// G027
#[test]
fn a_greenlet_made_while_its_maker_unwinds_does_not_see_that() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    quiet_panics();
    let seen = Rc::new(Cell::new(None));
    let inner = Rc::clone(&seen);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _defer = defer(move || {
            let greenlet = Greenlet::new(|_| std::thread::panicking());
            inner.set(Some((greenlet.switch(true), std::thread::panicking())));
        });
        panic!("unwinding on purpose");
    }));
    assert!(outcome.is_err());
    assert_eq!(seen.get(), Some((false, true)));
}

// G032
#[test]
fn a_switch_with_a_borrow_alive_keeps_the_borrow() {
    let _watchdog = watchdog();
    let shared = Rc::new(RefCell::new(1));
    let holder = Greenlet::new({
        let shared = Rc::clone(&shared);
        move |()| {
            let mut guard = shared.borrow_mut();
            parent().switch(());
            *guard += 1;
        }
    });
    holder.switch(());
    assert!(shared.try_borrow().is_err());
    holder.switch(());
    assert_eq!(*shared.borrow(), 2);
}

// G049
#[test]
fn a_greenlet_that_refers_to_itself_is_freed_once_it_is_dead() {
    let _watchdog = watchdog();
    let dropped = flag();
    let greenlet = Greenlet::<()>::unbound();
    let me = greenlet.clone();
    let capture = OnDrop(Rc::clone(&dropped));
    greenlet.bind(move |()| {
        let _all = (me, capture);
    });
    greenlet.switch(());
    assert!(dropped.get());
}

// G050
#[test]
fn greenlets_left_behind_by_short_threads_are_leaked_and_never_unwound() {
    let _watchdog = watchdog();
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    for _ in 0..20 {
        let drops = Arc::clone(&drops);
        std::thread::spawn(move || {
            for _ in 0..10 {
                let count = Count(Arc::clone(&drops));
                let greenlet = Greenlet::new(move |()| {
                    let _count = count;
                    parent().switch(());
                });
                greenlet.switch(());
                std::mem::forget(greenlet);
            }
        })
        .join()
        .unwrap();
    }
    assert_eq!(drops.load(Ordering::Relaxed), 0);
}

// G051
#[test]
fn unwindings_on_two_stacks_do_not_cross() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    quiet_panics();
    let make = |own: &'static str| {
        Greenlet::new(move |()| {
            for _ in 0..10 {
                let outcome = std::panic::catch_unwind(|| {
                    let _defer = defer(|| parent().switch(()));
                    std::panic::resume_unwind(Box::new(own));
                });
                assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), own);
                parent().switch(());
            }
        })
    };
    let (one, two) = (make("one"), make("two"));
    for _ in 0..20 {
        one.switch(());
        two.switch(());
    }
    one.switch(());
    two.switch(());
    assert!(one.is_dead() && two.is_dead());
}

// G052
#[test]
fn the_process_ends_well_with_nested_greenlets_suspended() {
    fn nest(depth: u32) {
        if depth == 0 {
            std::process::exit(0);
        }
        let inner = Greenlet::new(move |depth: u32| {
            nest(depth - 1);
            depth
        });
        inner.switch(depth);
    }
    let _watchdog = watchdog();
    let finished = run_alone(
        "the_process_ends_well_with_nested_greenlets_suspended",
        || {
            std::thread::spawn(|| {
                let other = Greenlet::new(|()| parent().switch(()));
                other.switch(());
                std::mem::forget(other);
            })
            .join()
            .unwrap();
            nest(10);
        },
    );
    if let Some(finished) = finished {
        finished.exited_with(0);
    }
}

#[test]
fn bad_switches_are_refused_and_give_the_value_back() {
    let _watchdog = watchdog();
    let unbound = Greenlet::<String>::unbound();
    let error = unbound.try_switch("value".into()).unwrap_err();
    assert!(matches!(error, SwitchError::Unbound(_)));
    assert_eq!(error.into_value().unwrap(), "value");

    // Parked: it sleeps.
    let sleeper = Greenlet::new(|text: String| {
        sleep(Duration::from_millis(5));
        text
    });
    let other = spawn({
        let sleeper = sleeper.clone();
        move || {
            let error = sleeper.try_switch("now".into()).unwrap_err();
            assert!(matches!(error, SwitchError::Parked(_)), "{error:?}");
            error.into_value().unwrap()
        }
    });
    assert_eq!(sleeper.switch("slept".into()), "slept");
    assert_eq!(other.join().unwrap(), "now");

    // Runnable: it yields.
    let yielder = Greenlet::new(|text: String| {
        yield_now();
        text
    });
    let other = spawn({
        let yielder = yielder.clone();
        move || {
            let error = yielder.try_switch("now".into()).unwrap_err();
            assert!(matches!(error, SwitchError::Runnable(_)), "{error:?}");
        }
    });
    assert_eq!(yielder.switch("yielded".into()), "yielded");
    other.join().unwrap();
}

#[test]
fn a_value_of_another_type_is_refused_and_given_back() {
    let _watchdog = watchdog();
    // Not started: the type of the argument.
    let numbers = Greenlet::new(|n: i32| parent().switch(n));
    let texts = numbers.cast::<String>();
    assert_eq!(texts, numbers);
    let error = texts.try_switch("one".into()).unwrap_err();
    assert!(matches!(error, SwitchError::WrongType { .. }));
    assert_eq!(error.into_value().unwrap(), "one");
    // Suspended: the type that its own switch returns.
    numbers.switch(1);
    let error = texts.try_switch("two".into()).unwrap_err();
    assert_eq!(error.into_value().unwrap(), "two");
    assert_eq!(numbers.switch(2), 2);
}

#[test]
fn a_switch_awaits_the_type_of_the_one_it_went_to() {
    let _watchdog = watchdog();
    let texts = Greenlet::<String>::unbound();
    let numbers = Greenlet::<i32>::unbound();
    texts.bind({
        let numbers = numbers.clone();
        move |text| {
            // Awaits an i32 now, though it is a greenlet of Strings.
            let length = numbers.switch(text.len() as i32);
            length.to_string()
        }
    });
    numbers.bind({
        let texts = texts.clone();
        move |n| {
            assert!(texts.try_switch("text".into()).is_err());
            texts.cast::<i32>().switch(n * 2)
        }
    });
    assert_eq!(texts.switch("four".into()), "8");
}

#[test]
fn a_result_of_another_type_panics_in_the_parent() {
    let _watchdog = watchdog();
    quiet_panics();
    let main = Greenlet::<i32>::current();
    let texts = Greenlet::new(|text: String| text);
    let numbers = Greenlet::new({
        let texts = texts.clone();
        move |n: i32| {
            texts.switch("on purpose".into());
            n
        }
    });
    // The result of `texts` is a String, and goes to main, which awaits an i32.
    texts.set_parent(&main).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| numbers.switch(1)));
    let message = *outcome.unwrap_err().downcast::<String>().unwrap();
    assert!(
        message.contains("String") && message.contains("i32"),
        "{message}"
    );
}

#[test]
fn a_result_that_nobody_takes_may_switch_when_it_is_dropped() {
    let _watchdog = watchdog();
    struct Meddles(Greenlet<i32>, Log);
    impl Drop for Meddles {
        fn drop(&mut self) {
            // The parent has been told already, and is about to run.
            let refused = self.0.throw(Box::new("meddled")).is_err();
            self.1.add(format!("dropped {refused}"));
        }
    }
    let main = Greenlet::<i32>::current();
    let log = Log::new();
    let meddler = Greenlet::new(|value: Option<Meddles>| value);
    let numbers = Greenlet::new({
        let (meddler, main, log) = (meddler.clone(), main.clone(), log.clone());
        move |n: i32| {
            meddler.switch(Some(Meddles(main, log)));
            n
        }
    });
    meddler.set_parent(&main).unwrap();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| numbers.switch(1)));
    assert!(outcome.is_err());
    yield_now();
    assert_eq!(log.joined(), "dropped true");
    assert_eq!(Greenlet::new(|n: i32| n).switch(3), 3);
}

#[test]
fn a_timeout_does_not_end_a_switch_in_a_destructor_of_an_unwinding() {
    let _watchdog = watchdog();
    if common::panic_count_is_off() {
        return;
    }
    let log = Log::new();
    let slow = Greenlet::new(|n: i32| {
        sleep(Duration::from_millis(10));
        n
    });
    let inner = log.clone();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        greenlet::timeout(Duration::from_millis(1), || {
            let _defer = defer(move || inner.add(slow.switch(7)));
            std::panic::resume_unwind(Box::new("thrown"));
        })
    }));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "thrown");
    assert_eq!(log.joined(), "7");
}

#[test]
fn a_blocking_call_parks_and_others_run_meanwhile() {
    let _watchdog = watchdog();
    let log = Log::new();
    spawn({
        let log = log.clone();
        move || log.add("other")
    });
    let greenlet = Greenlet::new({
        let log = log.clone();
        move |n: i32| {
            sleep(Duration::from_millis(1));
            log.add("slept");
            n + spawn(|| 40).join().unwrap()
        }
    });
    assert_eq!(greenlet.switch(2), 42);
    assert_eq!(log.joined(), "other slept");
}

#[test]
fn the_result_for_a_parent_that_waits_elsewhere_is_dropped_and_the_hub_goes_on() {
    let _watchdog = watchdog();
    let dropped = flag();
    let child = spawn({
        let dropped = Rc::clone(&dropped);
        move || {
            let child = Greenlet::new(|value: Option<OnDrop>| {
                sleep(Duration::from_millis(2));
                value
            });
            let value = Some(OnDrop(dropped));
            // The child is started by another one than its parent.
            spawn({
                let child = child.clone();
                move || drop(child.switch(value))
            });
            sleep(Duration::from_millis(10));
            child.is_dead()
        }
    });
    assert!(child.join().unwrap());
    assert!(dropped.get());
    let _ = greenlet::hub::shutdown();
}

#[test]
fn a_switch_that_nothing_can_answer_is_a_deadlock() {
    let _watchdog = watchdog();
    // Two that wait for each other, and a third that waits for one of them.
    let (one, two) = (Rc::new(OnceCell::new()), Rc::new(OnceCell::new()));
    let wait_for = |other: &Rc<OnceCell<greenlet::JoinHandle<()>>>| {
        let other = Rc::clone(other);
        move || other.get().unwrap().wait()
    };
    one.set(spawn(wait_for(&two))).unwrap();
    two.set(spawn(wait_for(&one))).unwrap();
    let wait = wait_for(&one);
    let stuck = Greenlet::new(move |n: i32| {
        wait();
        n
    });
    assert!(matches!(stuck.try_switch(1), Err(SwitchError::Deadlock(_))));
}

#[test]
fn a_timeout_ends_a_switch_that_waits() {
    let _watchdog = watchdog();
    let slow = Greenlet::new(|n: i32| {
        sleep(Duration::from_secs(60));
        n
    });
    let outcome = greenlet::timeout(Duration::from_millis(2), || slow.switch(1));
    assert!(outcome.is_err());
    assert_eq!(slow.state(), GreenletState::Parked);
}

#[test]
fn killing_a_spawned_greenlet_ends_its_pending_switch() {
    let _watchdog = watchdog();
    let child = Greenlet::new(|n: i32| {
        sleep(Duration::from_secs(60));
        n
    });
    let spawned = spawn({
        let child = child.clone();
        move || child.switch(1)
    });
    yield_now();
    spawned.kill();
    assert!(matches!(spawned.join(), Err(JoinError::Killed)));
}

#[test]
fn a_long_line_of_parents_is_dropped_without_a_deep_stack() {
    let _watchdog = watchdog();
    let line = || {
        let mut last = Greenlet::<()>::unbound();
        for _ in 0..3000 {
            let next = Greenlet::<()>::unbound();
            next.set_parent(&last).unwrap();
            last = next;
        }
    };
    let small = greenlet::Builder::new().stack_size(32 << 10);
    small.spawn(line).unwrap().join().unwrap();
}

#[test]
fn a_greenlet_has_the_name_and_the_stack_that_its_builder_was_given() {
    let _watchdog = watchdog();
    let deep = greenlet::Builder::new()
        .name("deep")
        .stack_size(8 << 20)
        .greenlet(|n: usize| {
            let buffer = std::hint::black_box([1u8; 1 << 20]);
            buffer[n] as usize
        })
        .unwrap();
    assert_eq!(deep.name(), "deep");
    assert_eq!(deep.switch(12345), 1);
    let refused = greenlet::Builder::new().stack_size(1).greenlet(|n: u8| n);
    assert!(refused.unwrap_err().to_string().contains("too small"));
}

#[test]
fn the_child_of_a_fork_switches_on_by_itself() {
    let _watchdog = watchdog();
    let suspended = Greenlet::new(|n: i32| parent().switch(n));
    suspended.switch(1);
    let code = fork(|| {
        // Those of the parent process are forgotten here.
        let forgotten = suspended.state() == GreenletState::Dead;
        let fresh = Greenlet::new(|n: i32| parent().switch(n + 1));
        let works = fresh.switch(1) == 2;
        i32::from(!(forgotten && works))
    });
    assert_eq!(code, 0);
    assert_eq!(suspended.switch(5), 5);
}
