//! Throwing into greenlets and killing them explicitly (GEVENT.md, test_throw).

mod common;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use common::{Log, OnDrop, defer, flag, quiet_panics, watchdog};
use greenlet::error::{JoinError, SwitchError};
use greenlet::{Greenlet, sleep, spawn};

fn parent<T>() -> Greenlet<T> {
    Greenlet::<T>::current().parent().unwrap()
}

fn caught<R>(f: impl FnOnce() -> R) -> Result<R, Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(f))
}

// G033, G034
#[test]
fn a_greenlet_catches_what_is_thrown_and_its_next_switch_comes_back() {
    let _watchdog = watchdog();
    let greenlet = Greenlet::new(|text: String| {
        let payload = caught(|| parent().switch(text)).unwrap_err();
        let said = *payload.downcast::<&str>().unwrap();
        parent().switch(format!("caught {said}"))
    });
    greenlet.switch("ready".into());
    assert_eq!(greenlet.throw(Box::new("ciao")).unwrap(), "caught ciao");
    assert!(!greenlet.is_dead());
}

// G035
#[test]
fn a_kill_ends_the_greenlet_and_again_changes_nothing() {
    let _watchdog = watchdog();
    let unwound = flag();
    let greenlet = Greenlet::new({
        let unwound = Rc::clone(&unwound);
        move |n: i32| {
            let _on_drop = OnDrop(unwound);
            parent().switch(n)
        }
    });
    greenlet.switch(1);
    assert!(matches!(greenlet.kill(), Err(SwitchError::Killed)));
    assert!(greenlet.is_dead() && unwound.get());
    assert!(matches!(greenlet.kill(), Err(SwitchError::Killed)));
}

#[test]
fn killing_an_unstarted_greenlet_never_runs_it() {
    let _watchdog = watchdog();
    let (ran, dropped) = (flag(), flag());
    let greenlet = Greenlet::new({
        let (ran, capture) = (Rc::clone(&ran), OnDrop(Rc::clone(&dropped)));
        move |n: i32| {
            let _capture = capture;
            ran.set(true);
            n
        }
    });
    assert!(matches!(greenlet.kill(), Err(SwitchError::Killed)));
    assert!(greenlet.is_dead() && !ran.get() && dropped.get());
    assert_eq!(greenlet.switch(5), 5);
}

// G038
#[test]
fn a_panic_goes_to_the_parent_and_not_to_the_thrower() {
    let _watchdog = watchdog();
    let log = Log::new();
    let main = Greenlet::<()>::current();
    let child = Greenlet::new(|()| parent().switch(()));
    let owner = Greenlet::new({
        let (child, main, log) = (child.clone(), main.clone(), log.clone());
        move |()| {
            child.set_parent(&Greenlet::<()>::current()).unwrap();
            child.switch(());
            let payload = caught(|| main.switch(())).unwrap_err();
            log.add(format!("owner: {}", payload.downcast::<i32>().unwrap()));
        }
    });
    owner.switch(());
    // The thrower is main; what the child does not catch goes to its parent,
    // which ends then, and so it comes to main that way.
    child.throw(Box::new(7)).unwrap();
    assert_eq!(log.joined(), "owner: 7");
    assert!(owner.is_dead() && child.is_dead());
}

#[test]
fn the_result_of_a_kill_goes_to_the_parent_of_the_victim() {
    let _watchdog = watchdog();
    let log = Log::new();
    let main = Greenlet::<()>::current();
    let victim = Greenlet::new(|()| parent().switch(()));
    let owner = Greenlet::new({
        let (victim, main, log) = (victim.clone(), main.clone(), log.clone());
        move |()| {
            victim.set_parent(&Greenlet::<()>::current()).unwrap();
            victim.switch(());
            log.add(matches!(main.try_switch(()), Err(SwitchError::Killed)));
        }
    });
    owner.switch(());
    victim.kill().unwrap();
    assert_eq!(log.joined(), "true");
}

#[test]
fn a_panic_in_a_body_unwinds_the_switch_of_its_parent() {
    let _watchdog = watchdog();
    quiet_panics();
    let greenlet = Greenlet::new(|_: i32| -> i32 { panic!("failed on purpose") });
    let payload = caught(|| greenlet.switch(1)).unwrap_err();
    assert_eq!(*payload.downcast::<&str>().unwrap(), "failed on purpose");
    assert!(greenlet.is_dead());
}

#[test]
fn a_payload_thrown_at_the_unstarted_or_the_dead_comes_to_the_nearest_living_ancestor() {
    let _watchdog = watchdog();
    let middle = Greenlet::new(|n: i32| n);
    let unstarted = Greenlet::new(|n: i32| n);
    unstarted.set_parent(&middle).unwrap();
    let payload = caught(|| unstarted.throw(Box::new(1))).unwrap_err();
    assert_eq!(*payload.downcast::<i32>().unwrap(), 1);
    assert!(unstarted.is_dead() && middle.is_dead());
    let payload = caught(|| unstarted.throw(Box::new(2))).unwrap_err();
    assert_eq!(*payload.downcast::<i32>().unwrap(), 2);
}

#[test]
fn throwing_at_the_parked_is_refused_and_gives_the_payload_back() {
    let _watchdog = watchdog();
    let sleeper = Greenlet::new(|n: i32| {
        sleep(Duration::from_millis(5));
        n
    });
    let thrower = spawn({
        let sleeper = sleeper.clone();
        move || {
            let error = sleeper.throw(Box::new(3)).unwrap_err();
            assert!(matches!(error, SwitchError::Parked(_)));
            assert!(matches!(sleeper.kill(), Err(SwitchError::Parked(()))));
            *error.into_value().unwrap().downcast::<i32>().unwrap()
        }
    });
    assert_eq!(sleeper.switch(1), 1);
    assert_eq!(thrower.join().unwrap(), 3);
}

#[test]
fn nothing_is_thrown_into_a_greenlet_that_unwinds() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    let log = Log::new();
    let greenlet = Greenlet::new({
        let log = log.clone();
        move |()| {
            let _defer = defer(move || {
                // A destructor that switches away in the middle of a kill.
                parent().switch(());
                log.add("came back");
            });
            parent().switch(());
        }
    });
    greenlet.switch(());
    greenlet.kill().unwrap();
    assert!(!greenlet.is_dead());
    assert!(matches!(greenlet.kill(), Err(SwitchError::Unwinding(()))));
    let error = greenlet.throw(Box::new(1)).unwrap_err();
    assert!(matches!(error, SwitchError::Unwinding(_)));
    assert!(matches!(greenlet.try_switch(()), Err(SwitchError::Killed)));
    assert_eq!(log.joined(), "came back");
    assert!(greenlet.is_dead());
}

#[test]
fn killing_oneself_unwinds_at_once_and_main_refuses() {
    let _watchdog = watchdog();
    let log = Log::new();
    let greenlet = Greenlet::new({
        let log = log.clone();
        move |n: i32| {
            let inner = log.clone();
            let _defer = defer(move || inner.add("unwound"));
            let _ = Greenlet::<i32>::current().kill();
            log.add("never");
            n
        }
    });
    assert!(matches!(greenlet.try_switch(1), Err(SwitchError::Killed)));
    assert_eq!(log.joined(), "unwound");
    let main = Greenlet::<i32>::current();
    assert!(matches!(main.kill(), Err(SwitchError::Main(()))));
    let payload = caught(|| main.throw(Box::new("to myself"))).unwrap_err();
    assert_eq!(*payload.downcast::<&str>().unwrap(), "to myself");
}

#[test]
fn a_spawned_greenlet_can_be_killed_through_its_explicit_side() {
    let _watchdog = watchdog();
    let handle = spawn(|| {
        let _ = Greenlet::<()>::current().kill();
    });
    assert!(matches!(handle.join(), Err(JoinError::Killed)));
}

#[test]
fn a_kill_that_is_caught_and_answered_is_survived() {
    let _watchdog = watchdog();
    let greenlet = Greenlet::new(|n: i32| {
        let _ = caught(|| parent().switch(n));
        parent().switch(99)
    });
    greenlet.switch(1);
    assert_eq!(greenlet.kill().unwrap(), 99);
    assert!(!greenlet.is_dead());
    assert_eq!(greenlet.switch(5), 5);
}
