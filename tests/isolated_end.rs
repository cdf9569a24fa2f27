//! The end of an isolated greenlet: all that is the user's is dropped on its thread-locals, and in time.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use common::watchdog;
use greenlet::{TraceEvent, Tracer, greenlet_local, set_tracer, spawn_isolated, yield_now};

thread_local! {
    static WHERE: Cell<&str> = const { Cell::new("nowhere") };
    static CLEANUP: RefCell<Option<OnDrop>> = const { RefCell::new(None) };
}

/// What happened, on whatever thread-locals.
type Shared = Arc<Mutex<Vec<&'static str>>>;

/// Does something when it is dropped.
struct OnDrop(Option<Box<dyn FnOnce()>>);

impl OnDrop {
    fn new(f: impl FnOnce() + 'static) -> OnDrop {
        OnDrop(Some(Box::new(f)))
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(f) = self.0.take() {
            f();
        }
    }
}

/// A tracer that is followed by so many others, each of which is installed when the one before is dropped.
fn tracers(shared: Shared, followed_by: u32) -> Tracer {
    let on_drop = OnDrop::new(move || {
        shared.lock().unwrap().push(WHERE.get());
        if followed_by > 0 {
            let last = set_tracer(Some(tracers(shared.clone(), followed_by - 1)));
            assert!(last.is_none());
        }
    });
    Rc::new(move |_: &TraceEvent| {
        let _ = &on_drop;
    })
}

#[test]
fn tracers_that_install_others_when_they_are_dropped_are_dropped_on_its_thread_locals() {
    let _watchdog = watchdog();
    WHERE.set("outside");
    // The one that was installed by the function, and by a destructor.
    for by_destructor in [false, true] {
        let shared = Shared::default();
        let handle = spawn_isolated({
            let shared = shared.clone();
            move || {
                WHERE.set("inside");
                let install = move || drop(set_tracer(Some(tracers(shared, 5))));
                match by_destructor {
                    false => install(),
                    true => drop(CLEANUP.replace(Some(OnDrop::new(install)))),
                }
            }
        });
        handle.join().unwrap();
        yield_now();
        assert_eq!(*shared.lock().unwrap(), ["inside"; 6]);
    }
}

#[test]
fn what_a_greenlet_local_uses_that_a_destructor_has_set_is_destroyed_too() {
    let _watchdog = watchdog();
    greenlet_local!(static LOCAL: RefCell<Option<OnDrop>> = RefCell::new(None));
    thread_local!(static LATE: RefCell<Option<OnDrop>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let log = {
        let shared = shared.clone();
        move |entry| shared.lock().unwrap().push(entry)
    };
    let handle = spawn_isolated(move || {
        CLEANUP.set(Some(OnDrop::new(move || {
            log("thread-local");
            LOCAL.set(Some(OnDrop::new(move || {
                log("greenlet-local");
                LATE.set(Some(OnDrop::new(move || log("late thread-local"))));
            })));
        })));
    });
    handle.join().unwrap();
    let expected = ["thread-local", "greenlet-local", "late thread-local"];
    assert_eq!(*shared.lock().unwrap(), expected);
}
