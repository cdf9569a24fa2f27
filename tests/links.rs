//! Links: callbacks that run when a greenlet has ended.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::{Log, MS, defer, flag, quiet_panics, until, watchdog};
use greenlet::{JoinHandle, LinkId, current, sleep, spawn, yield_now};

/// G054, G218: once, however it ended; and not at once when it has ended.
#[test]
fn a_link_fires_once_however_the_greenlet_ended() {
    let _watchdog = watchdog();
    quiet_panics();
    let returns = spawn(|| ());
    let panics = spawn(|| -> () { panic!("on purpose") });
    let killed = spawn(|| sleep(Duration::MAX));
    let log = Log::new();
    for (name, handle) in [
        ("returns", &returns),
        ("panics", &panics),
        ("killed", &killed),
    ] {
        let log = log.clone();
        handle.link(move || log.add(name));
    }
    killed.kill();
    for handle in [&returns, &panics, &killed] {
        handle.wait();
    }
    yield_now();
    assert_eq!(log.joined(), "returns panics killed");
}

/// G218, G056: a late link fires too, at the next turn.
#[test]
fn a_link_to_the_ended_fires_at_the_next_turn() {
    let _watchdog = watchdog();
    let handle = spawn(|| ());
    handle.wait();
    for _ in 0..3 {
        let fired = flag();
        handle.link({
            let fired = Rc::clone(&fired);
            move || fired.set(true)
        });
        assert!(!fired.get());
        yield_now();
        assert!(fired.get());
    }
}

/// G089
#[test]
fn links_fire_in_the_order_of_their_registration() {
    let _watchdog = watchdog();
    for count in [2, 3, 4, 1000] {
        let log = Log::new();
        let handle = spawn(|| ());
        for n in 0..count {
            let log = log.clone();
            handle.link(move || log.add(n));
        }
        assert_eq!(handle.link_count(), count);
        handle.wait();
        yield_now();
        let expected: Vec<String> = (0..count).map(|n| n.to_string()).collect();
        assert_eq!(log.entries(), expected);
        assert_eq!(handle.link_count(), 0);
    }
}

/// G061, G218: one that panics does not keep the others from running.
#[test]
fn a_panic_in_a_link_stops_nobody() {
    let _watchdog = watchdog();
    quiet_panics();
    let log = Log::new();
    let handle = spawn(|| 5);
    for n in 0..4 {
        let log = log.clone();
        handle.link(move || {
            log.add(n);
            if n % 2 == 0 {
                panic!("on purpose: link {n}");
            }
        });
    }
    assert_eq!(handle.join().unwrap(), 5);
    yield_now();
    assert_eq!(log.joined(), "0 1 2 3");
}

/// G060
#[test]
fn an_unlinked_callback_never_fires() {
    let _watchdog = watchdog();
    let handle = spawn(|| ());
    let (kept, taken) = (flag(), flag());
    handle.link({
        let kept = Rc::clone(&kept);
        move || kept.set(true)
    });
    let id = handle.link({
        let taken = Rc::clone(&taken);
        move || taken.set(true)
    });
    assert_eq!(handle.link_count(), 2);
    assert!(handle.unlink(id));
    assert_eq!(handle.link_count(), 1);
    assert!(!handle.unlink(id), "once is enough");
    handle.wait();
    yield_now();
    assert!(kept.get() && !taken.get());
    assert!(!handle.unlink(id));
}

/// G113: an id of somebody else, or one that has fired, is nobody's.
#[test]
fn unlinking_the_unknown_does_nothing() {
    let _watchdog = watchdog();
    let (a, b) = (spawn(|| ()), spawn(|| ()));
    let fired = flag();
    let of_a = a.link({
        let fired = Rc::clone(&fired);
        move || fired.set(true)
    });
    assert!(!b.unlink(of_a));
    a.wait();
    yield_now();
    assert!(fired.get());
    assert!(!a.unlink(of_a));
}

/// gevent's `rawlink` may not block; a link here may, for it is a greenlet (G218).
#[test]
fn a_link_may_block_spawn_and_join() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handle = spawn(|| ());
    for n in 0..3 {
        let log = log.clone();
        handle.link(move || {
            assert!(!current().is_main());
            log.add(format!("{n} begins"));
            sleep(MS);
            spawn(yield_now).join().unwrap();
            log.add(format!("{n} ends"));
        });
    }
    handle.wait();
    until(|| log.entries().len() == 6);
    let entries = log.entries();
    assert_eq!(entries[..3], ["0 begins", "1 begins", "2 begins"]);
}

/// Callbacks run after those who join have been woken.
#[test]
fn joiners_go_before_links() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handle = Rc::new(spawn(|| sleep(MS)));
    handle.link({
        let log = log.clone();
        move || log.add("link")
    });
    let joiner = spawn({
        let (log, handle) = (log.clone(), Rc::clone(&handle));
        move || {
            handle.wait();
            log.add("joiner");
        }
    });
    joiner.join().unwrap();
    yield_now();
    assert_eq!(log.joined(), "joiner link");
}

/// A link may link and unlink; what is about to run is not taken back.
#[test]
fn a_link_may_link_and_unlink() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handle = Rc::new(spawn(|| ()));
    let second: Rc<Cell<Option<LinkId>>> = Rc::default();
    handle.link({
        let (log, handle, second) = (log.clone(), Rc::clone(&handle), Rc::clone(&second));
        move || {
            log.add("first");
            assert!(!handle.unlink(second.get().unwrap()), "it is about to run");
            let log = log.clone();
            handle.link(move || log.add("late"));
        }
    });
    second.set(Some(handle.link({
        let log = log.clone();
        move || log.add("second")
    })));
    handle.wait();
    yield_now();
    yield_now();
    assert_eq!(log.joined(), "first second late");
}

/// The destructor of a link's captures is the user's code, wherever it runs.
#[test]
fn dropping_a_link_may_link_unlink_and_block() {
    let _watchdog = watchdog();
    let log = Log::new();
    let handle = Rc::new(spawn(|| sleep(Duration::MAX)));
    let weak = Rc::downgrade(&handle);
    let captured = defer({
        let log = log.clone();
        move || {
            let handle = weak.upgrade().unwrap();
            let inner = handle.link(|| ());
            assert!(handle.unlink(inner));
            assert_eq!(handle.link_count(), 0);
            sleep(MS);
            log.add("dropped");
        }
    });
    let id = handle.link(move || drop(captured));
    assert!(handle.unlink(id));
    assert_eq!(log.joined(), "dropped");
    handle.kill_wait();
}

/// G056, G057: a result by way of a link, in the words of this crate: the link
/// holds a weak handle to what it tells of.
#[test]
fn a_link_may_look_at_the_result() {
    let _watchdog = watchdog();
    quiet_panics();
    let log = Log::new();
    let handles: Rc<RefCell<Vec<Rc<JoinHandle<u32>>>>> = Rc::default();
    for n in [101, 102, 103] {
        let handle = Rc::new(spawn(move || {
            if n == 102 {
                panic!("on purpose");
            }
            n
        }));
        let (weak, log) = (Rc::downgrade(&handle), log.clone());
        handle.link(move || match weak.upgrade().unwrap().value() {
            Some(value) => log.add(value),
            None => log.add("failed"),
        });
        handles.borrow_mut().push(handle);
    }
    yield_now();
    yield_now();
    assert_eq!(log.joined(), "101 failed 103");
}

/// The handle may go before the links fire.
#[test]
fn links_outlive_the_handle() {
    let _watchdog = watchdog();
    let fired = flag();
    let handle = spawn(|| sleep(MS));
    handle.link({
        let fired = Rc::clone(&fired);
        move || fired.set(true)
    });
    drop(handle);
    until(|| fired.get());
}
