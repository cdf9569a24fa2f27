//! The tracer of explicit switches (GEVENT.md, test_tracing), and generators.

mod common;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use common::{Log, quiet_panics, watchdog};
use greenlet::{Greenlet, GreenletId, TraceEvent, TraceKind, Tracer, set_tracer};

type Events = Rc<RefCell<Vec<(TraceKind, GreenletId, GreenletId)>>>;

fn recorder() -> (Events, Tracer) {
    let events = Events::default();
    let tracer: Tracer = Rc::new({
        let events = Rc::clone(&events);
        move |event: &TraceEvent| {
            let entry = (event.kind, event.origin, event.target);
            events.borrow_mut().push(entry);
        }
    });
    (events, tracer)
}

fn parent<T>() -> Greenlet<T> {
    Greenlet::<T>::current().parent().unwrap()
}

// G041
#[test]
fn a_run_that_returns_is_two_switches_and_one_that_panics_a_switch_and_a_throw() {
    let _watchdog = watchdog();
    quiet_panics();
    let main = Greenlet::<()>::current().id();
    let (events, tracer) = recorder();
    set_tracer(Some(tracer));
    let good = Greenlet::new(|()| ());
    good.switch(());
    let bad = Greenlet::new(|()| panic!("on purpose"));
    let _ = catch_unwind(AssertUnwindSafe(|| bad.switch(())));
    set_tracer(None);
    Greenlet::new(|()| ()).switch(());
    assert_eq!(
        *events.borrow(),
        [
            (TraceKind::Switch, main, good.id()),
            (TraceKind::Switch, good.id(), main),
            (TraceKind::Switch, main, bad.id()),
            (TraceKind::Throw, bad.id(), main),
        ]
    );
}

#[test]
fn switches_of_the_suspended_and_throws_into_them_are_traced() {
    let _watchdog = watchdog();
    let main = Greenlet::<i32>::current().id();
    let greenlet = Greenlet::new(|n: i32| {
        let n = parent().switch(n);
        parent().switch(n)
    });
    // Suspended before there is a tracer.
    greenlet.switch(0);
    let (events, tracer) = recorder();
    set_tracer(Some(tracer));
    greenlet.switch(1);
    let _ = greenlet.kill();
    set_tracer(None);
    let it = greenlet.id();
    assert_eq!(
        *events.borrow(),
        [
            (TraceKind::Switch, main, it),
            (TraceKind::Switch, it, main),
            (TraceKind::Throw, main, it),
            (TraceKind::Switch, it, main),
        ]
    );
}

// G042
#[test]
fn a_tracer_that_panics_is_uninstalled_and_the_panic_is_the_targets() {
    let _watchdog = watchdog();
    quiet_panics();
    let log = Log::new();
    set_tracer(Some(Rc::new({
        let log = log.clone();
        move |_: &TraceEvent| {
            log.add("traced");
            panic!("the tracer fails on purpose");
        }
    })));
    let greenlet = Greenlet::new({
        let log = log.clone();
        move |n: i32| {
            log.add("never");
            n
        }
    });
    let outcome = catch_unwind(AssertUnwindSafe(|| greenlet.switch(1)));
    let message = *outcome.unwrap_err().downcast::<&str>().unwrap();
    assert_eq!(message, "the tracer fails on purpose");
    assert!(greenlet.is_dead());
    assert_eq!(log.joined(), "traced");
    assert!(set_tracer(None).is_none());
}

// G043
#[test]
fn installing_returns_the_one_before() {
    let _watchdog = watchdog();
    let (_, tracer) = recorder();
    assert!(set_tracer(Some(Rc::clone(&tracer))).is_none());
    let same = set_tracer(Some(Rc::clone(&tracer))).unwrap();
    assert!(Rc::ptr_eq(&same, &tracer));
    let (_, other) = recorder();
    set_tracer(Some(other));
    set_tracer(Some(same));
    let restored = set_tracer(None).unwrap();
    assert!(Rc::ptr_eq(&restored, &tracer));
    assert!(set_tracer(None).is_none());
}

// G031
#[test]
fn a_tracer_may_switch_by_itself() {
    let _watchdog = watchdog();
    let helper = Greenlet::new(|mut n: i32| {
        loop {
            n = parent().switch(n + 100);
        }
    });
    let log = Log::new();
    set_tracer(Some(Rc::new({
        let (helper, log) = (helper.clone(), log.clone());
        move |event: &TraceEvent| {
            let me = Greenlet::<i32>::current();
            assert_eq!(me.id(), event.target);
            helper.set_parent(&me).unwrap();
            log.add(helper.switch(1));
        }
    })));
    let greenlet = Greenlet::new(|n: i32| parent().switch(n + 1) * 2);
    assert_eq!(greenlet.switch(1), 2);
    assert_eq!(greenlet.switch(21), 42);
    set_tracer(None);
    assert_eq!(log.joined(), "101 101 101 101");
}

// G045
#[test]
fn three_generators_interleave() {
    let _watchdog = watchdog();
    let generator = || {
        Greenlet::new(|_: Option<u32>| {
            for n in 0..5u32 {
                parent().switch(Some(n));
            }
            None
        })
    };
    let (one, two) = (generator(), generator());
    let mut values = Vec::new();
    while let (Some(a), Some(b)) = (one.switch(None), two.switch(None)) {
        values.extend([a, b]);
    }
    assert_eq!(values, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
}
