//! `Group`: a set of greenlets that forgets those that have ended.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::{Log, MS, alone, flag, fork, quiet_panics, watchdog};
use greenlet::error::Deadlock;
use greenlet::sync::Event;
use greenlet::{Group, sleep, spawn, spawn_later, yield_now};
use std::time::Duration;

/// However it ends: by return, panic, kill, or killed before it ran.
#[test]
fn a_member_leaves_when_it_ends_however_it_ends() {
    let _watchdog = watchdog();
    quiet_panics();
    let group = Group::new();
    let returns = group.spawn(|| 1);
    let panics = group.spawn(|| panic!("on purpose"));
    let killed = group.spawn(|| sleep(Duration::MAX));
    yield_now();
    assert_eq!(group.len(), 1);
    assert!(!group.contains(&returns) && !group.contains(&panics) && group.contains(&killed));
    killed.kill_wait();
    assert!(group.is_empty());
    let ran = flag();
    let unstarted = group.spawn({
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    unstarted.kill();
    group.join();
    assert!(group.is_empty() && !ran.get());
    assert_eq!(returns.join().unwrap(), 1);
}

#[test]
fn a_member_has_left_when_its_joiner_goes_on() {
    let group = Group::new();
    let handle = group.spawn(|| ());
    handle.join().unwrap();
    assert_eq!(group.len(), 0);
}

/// G148: an empty group is joined without letting anybody run.
#[test]
fn joining_an_empty_group_does_not_switch() {
    let group = Group::new();
    let ran = flag();
    let other = spawn({
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    group.join();
    assert!(group.join_timeout(Duration::MAX) && !ran.get());
    other.join().unwrap();
}

/// G148
#[test]
fn join_timeout_is_false_while_members_run_and_true_afterwards() {
    let _watchdog = watchdog();
    let group = Group::new();
    let gate = Rc::new(Event::new());
    let member = Rc::clone(&gate);
    let waits = group.spawn(move || member.wait());
    assert!(!group.join_timeout(MS));
    assert!(!group.join_timeout(Duration::ZERO));
    gate.set();
    assert!(group.join_timeout(Duration::MAX));
    waits.join().unwrap();
}

#[test]
fn join_waits_for_members_that_members_spawn() {
    let _watchdog = watchdog();
    let group = Rc::new(Group::new());
    let log = Log::new();
    group.spawn({
        let (group, log) = (Rc::clone(&group), log.clone());
        move || {
            log.add("outer");
            group.spawn(move || {
                sleep(MS);
                log.add("inner");
            });
        }
    });
    group.join();
    assert_eq!(log.joined(), "outer inner");
}

/// G152: `kill` does not wait; what has not started never runs.
#[test]
fn kill_ends_all_members_and_later_ones_live() {
    let _watchdog = watchdog();
    let group = Group::new();
    let started = group.spawn(|| sleep(Duration::MAX));
    yield_now();
    let unstarted = group.spawn(|| ());
    let delayed = spawn_later(Duration::MAX, || ());
    group.add(&delayed);
    group.kill();
    assert_eq!(group.len(), 3);
    let later = group.spawn(|| "lives");
    group.join();
    assert!(started.join().unwrap_err().is_killed());
    assert!(unstarted.join().unwrap_err().is_killed());
    assert!(delayed.join().unwrap_err().is_killed());
    assert_eq!(later.join().unwrap(), "lives");
    group.kill_wait();
}

/// G152: one that will not end.
#[test]
fn a_member_that_survives_its_kill_stays_in() {
    let _watchdog = watchdog();
    let group = Group::new();
    let stubborn = group.spawn(|| {
        let caught = std::panic::catch_unwind(|| sleep(Duration::MAX));
        sleep(MS * 20);
        drop(caught);
    });
    yield_now();
    group.kill();
    assert!(!group.join_timeout(MS));
    assert!(group.contains(&stubborn));
    group.join();
}

#[test]
fn a_member_that_kills_its_group_and_waits_unwinds_itself() {
    let _watchdog = watchdog();
    let group = Rc::new(Group::new());
    let other = group.spawn(|| sleep(Duration::MAX));
    let killer = group.spawn({
        let group = Rc::clone(&group);
        move || group.kill_wait()
    });
    group.join();
    assert!(killer.join().unwrap_err().is_killed());
    assert!(other.join().unwrap_err().is_killed());
}

#[test]
fn a_member_that_joins_its_group_is_told_at_once() {
    let _watchdog = watchdog();
    quiet_panics();
    let group = Rc::new(Group::new());
    let joins = group.spawn({
        let group = Rc::clone(&group);
        move || group.join()
    });
    let payload = joins.join().unwrap_err().into_panic().unwrap();
    assert!(payload.is::<Deadlock>());
    assert!(group.is_empty());
}

#[test]
fn a_greenlet_may_be_in_several_groups_and_be_taken_out() {
    let (one, two) = (Group::new(), Group::new());
    let handle = one.spawn(|| sleep(MS));
    two.add(&handle);
    two.add(&handle);
    assert_eq!((one.len(), two.len()), (1, 1));
    assert!(one.remove(&handle));
    assert!(!one.remove(&handle));
    one.join();
    assert!(!handle.is_finished());
    two.join();
    assert!(handle.is_finished());
    two.add(&handle);
    assert!(two.is_empty());
    assert!(!two.remove(&handle));
}

#[test]
fn dropping_the_group_leaves_its_greenlets_running() {
    let ran = Rc::new(Cell::new(0));
    let group = Group::new();
    let handle = group.spawn({
        let ran = Rc::clone(&ran);
        move || {
            yield_now();
            ran.set(1);
        }
    });
    drop(group);
    handle.join().unwrap();
    assert_eq!(ran.get(), 1);
}

#[test]
fn after_a_fork_the_group_has_only_the_one_that_forked() {
    alone(
        "after_a_fork_the_group_has_only_the_one_that_forked",
        || {
            let group = Rc::new(Group::new());
            group.spawn(|| sleep(MS * 100));
            group.spawn({
                let group = Rc::clone(&group);
                move || {
                    yield_now();
                    let members = fork(|| group.len() as i32);
                    assert_eq!((members, group.len()), (1, 2));
                }
            });
            yield_now();
            let outside = fork(|| {
                group.join();
                group.len() as i32
            });
            assert_eq!((outside, group.len()), (0, 2));
            group.join();
        },
    );
}
