//! `greenlet_local!`: a value of its own for every greenlet.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::watchdog;
use greenlet::error::AccessError;
use greenlet::{greenlet_local, joinall, sleep, spawn, yield_now};

#[test]
fn every_greenlet_has_its_own_value() {
    // G203.
    let _watchdog = watchdog();
    greenlet_local! {
        static NUMBER: Cell<u32> = Cell::new(7);
    }
    NUMBER.set(1);
    let handles: Vec<_> = (0..50)
        .map(|n| {
            spawn(move || {
                assert_eq!(NUMBER.get(), 7);
                NUMBER.set(n);
                yield_now();
                assert_eq!(NUMBER.replace(n + 1), n);
                yield_now();
                NUMBER.take()
            })
        })
        .collect();
    for (n, result) in joinall(handles).into_iter().enumerate() {
        assert_eq!(result.unwrap(), n as u32 + 1);
    }
    assert_eq!(NUMBER.get(), 1);
}

greenlet_local! {
    /// Attributes, visibility and several declarations are as in std.
    pub static FIRST: RefCell<Vec<u32>> = RefCell::new(vec![1]);
    static SECOND: String = const { String::new() };
    static THIRD: Cell<Option<Box<u32>>> = const { Cell::new(None) }
}
greenlet_local!(static WITHOUT_SEMICOLON: u8 = 3);
greenlet_local!();

#[test]
fn the_macro_takes_what_stds_takes() {
    let _watchdog = watchdog();
    FIRST.with_borrow_mut(|list| list.push(2));
    assert_eq!(FIRST.with_borrow(|list| list.len()), 2);
    assert_eq!(FIRST.take(), [1, 2]);
    FIRST.set(vec![5]);
    assert_eq!(FIRST.replace(vec![]), [5]);
    assert!(SECOND.with(String::is_empty));
    THIRD.set(Some(Box::new(4)));
    assert_eq!(THIRD.take().as_deref(), Some(&4));
    assert_eq!(WITHOUT_SEMICOLON.try_with(|n| *n), Ok(3));
}

#[test]
fn set_does_not_run_the_initialiser() {
    let _watchdog = watchdog();
    greenlet_local! {
        static NEVER: Cell<u32> = panic!("not to be run");
        static NEITHER: RefCell<u32> = panic!("not to be run");
    }
    NEVER.set(3);
    NEITHER.set(4);
    assert_eq!((NEVER.get(), NEITHER.take()), (3, 4));
}

/// Tells of its drop.
struct Tells(Rc<RefCell<Vec<&'static str>>>, &'static str);

impl Drop for Tells {
    fn drop(&mut self) {
        self.0.borrow_mut().push(self.1);
    }
}

#[test]
fn values_are_dropped_at_the_greenlets_end_the_last_initialised_first() {
    let _watchdog = watchdog();
    greenlet_local! {
        static A: RefCell<Option<Tells>> = RefCell::new(None);
        static B: RefCell<Option<Tells>> = RefCell::new(None);
    }
    let log = Rc::new(RefCell::new(Vec::new()));
    let body = |end: fn()| {
        let log = Rc::clone(&log);
        move || {
            A.set(Some(Tells(Rc::clone(&log), "a")));
            B.set(Some(Tells(Rc::clone(&log), "b")));
            end();
            log.borrow_mut().push("body");
        }
    };
    let returns = spawn(body(|| ()));
    let panics = spawn(body(|| panic!("expected in this test")));
    let killed = spawn(body(|| sleep(Duration::MAX)));
    // Dropped when the body has ended, though handles are still there.
    returns.wait();
    assert_eq!(log.take(), ["body", "b", "a", "b", "a"]);
    assert!(panics.is_finished());
    killed.kill_wait();
    assert_eq!(log.take(), ["b", "a"]);
}

#[test]
fn values_are_dropped_on_the_greenlets_own_stack_where_they_may_block() {
    let _watchdog = watchdog();
    struct Blocks(Rc<Cell<Option<greenlet::GreenletId>>>);
    impl Drop for Blocks {
        fn drop(&mut self) {
            sleep(Duration::from_millis(1));
            self.0.set(Some(greenlet::current().id()));
        }
    }
    greenlet_local!(static SLOT: RefCell<Option<Blocks>> = RefCell::new(None));
    let seen = Rc::new(Cell::new(None));
    let handle = spawn({
        let seen = Rc::clone(&seen);
        move || SLOT.set(Some(Blocks(seen)))
    });
    handle.wait();
    assert_eq!(seen.get(), Some(handle.id()));
}

#[test]
fn a_destroyed_variable_stays_destroyed_and_an_unused_one_can_still_be_made() {
    let _watchdog = watchdog();
    static SEEN: AtomicU32 = AtomicU32::new(0);
    static LATE_DROPPED: AtomicBool = AtomicBool::new(false);
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            assert_eq!(FIRST_MADE.try_with(|_| ()), Err(AccessError));
            assert_eq!(LATE.try_with(|_| ()), Err(AccessError));
            LATE_DROPPED.store(true, Ordering::SeqCst);
        }
    }
    struct Looks;
    impl Drop for Looks {
        fn drop(&mut self) {
            // Its own, which is being destroyed.
            assert_eq!(FIRST_MADE.try_with(|_| ()), Err(AccessError));
            assert!(catch_unwind(|| FIRST_MADE.with(|_| ())).is_err());
            // One that was destroyed before.
            assert_eq!(SECOND_MADE.try_with(Cell::get), Err(AccessError));
            assert!(catch_unwind(|| SECOND_MADE.set(1)).is_err());
            // One that was never used.
            assert_eq!(LATE.try_with(|_| 5), Ok(5));
            SEEN.fetch_add(1, Ordering::SeqCst);
        }
    }
    greenlet_local! {
        static FIRST_MADE: Looks = Looks;
        static SECOND_MADE: Cell<u32> = Cell::new(0);
        static LATE: Late = Late;
    }
    let handle = spawn(|| {
        FIRST_MADE.with(|_| ());
        SECOND_MADE.set(9);
    });
    handle.join().unwrap();
    assert_eq!(SEEN.load(Ordering::SeqCst), 1);
    assert!(LATE_DROPPED.load(Ordering::SeqCst));
}

#[test]
fn a_destructor_of_a_result_that_nobody_wants_may_use_variables() {
    let _watchdog = watchdog();
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Counts;
    impl Drop for Counts {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::SeqCst);
            // On the greenlet's own stack, so this is fine.
            yield_now();
        }
    }
    greenlet_local!(static SLOT: Counts = Counts);
    struct Uses;
    impl Drop for Uses {
        fn drop(&mut self) {
            SLOT.with(|_| ());
        }
    }
    drop(spawn(|| Uses));
    for _ in 0..4 {
        yield_now();
    }
    assert_eq!(DROPPED.load(Ordering::SeqCst), 1);
}

#[test]
fn a_waker_that_is_called_at_the_end_finds_no_variables() {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Wake, Waker};
    let _watchdog = watchdog();
    static TOLD: AtomicBool = AtomicBool::new(false);
    greenlet_local! {
        static SLOT: Cell<u32> = Cell::new(1);
        static UNUSED: Cell<u32> = Cell::new(1);
    }
    struct Looks;
    impl Wake for Looks {
        fn wake(self: Arc<Looks>) {
            // It runs on the stack of the greenlet that has just ended.
            assert_eq!(SLOT.try_with(Cell::get), Err(AccessError));
            // Nobody would drop it any more.
            assert_eq!(UNUSED.try_with(Cell::get), Err(AccessError));
            TOLD.store(true, Ordering::SeqCst);
        }
    }
    let mut handle = spawn(|| SLOT.get());
    let waker = Waker::from(Arc::new(Looks));
    assert!(
        Pin::new(&mut handle)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    assert_eq!(handle.join().unwrap(), 1);
    yield_now();
    assert!(TOLD.load(Ordering::SeqCst));
}

#[test]
fn an_initialiser_may_block_and_use_other_variables() {
    let _watchdog = watchdog();
    greenlet_local! {
        static BASE: Cell<u32> = { yield_now(); Cell::new(2) };
        static DOUBLE: u32 = { sleep(Duration::from_millis(1)); BASE.get() * 2 };
    }
    let handles = [3, 4].map(|n| {
        spawn(move || {
            BASE.set(n);
            DOUBLE.with(|double| *double)
        })
    });
    let doubles: Vec<u32> = joinall(handles).into_iter().map(Result::unwrap).collect();
    assert_eq!(doubles, [6, 8]);
    assert_eq!(DOUBLE.with(|double| *double), 4);
}

#[test]
fn an_initialiser_that_uses_itself_panics_with_a_message_and_may_be_tried_again() {
    let _watchdog = watchdog();
    greenlet_local! {
        static DEEP: Cell<bool> = Cell::new(true);
        static SELF: u32 = if DEEP.get() { SELF.with(|n| *n) } else { 8 };
    }
    let caught = catch_unwind(|| SELF.with(|n| *n)).unwrap_err();
    let text = caught.downcast_ref::<String>().unwrap();
    assert!(text.contains("uses the variable itself"), "{text}");
    DEEP.set(false);
    assert_eq!(SELF.with(|n| *n), 8);
}

#[test]
fn a_kill_in_an_initialiser_leaves_nothing_behind() {
    let _watchdog = watchdog();
    greenlet_local!(static SLOW: u32 = { sleep(Duration::MAX); 1 });
    let handle = spawn(|| SLOW.with(|n| *n));
    yield_now();
    handle.kill_wait();
    assert!(handle.join().unwrap_err().is_killed());
}

#[test]
fn a_borrowed_value_stays_where_it_is_while_others_come() {
    let _watchdog = watchdog();
    macro_rules! many {
        ($($name:ident)*) => {
            greenlet_local! { $(static $name: Cell<u64> = Cell::new(0);)* }
            fn touch_all() { $($name.set(1);)* }
        };
    }
    many!(A B C D E F G H I J K L M N O P Q R S T U V W X Y Z);
    greenlet_local!(static HELD: String = String::from("held"));
    let handles = [1, 2].map(|_| {
        spawn(|| {
            HELD.with(|held| {
                let address = held.as_ptr();
                touch_all();
                yield_now();
                HELD.with(|again| assert!(std::ptr::eq(held, again)));
                assert_eq!((held.as_ptr(), held.as_str()), (address, "held"));
            });
        })
    });
    joinall(handles).into_iter().for_each(|r| r.unwrap());
}

#[test]
fn a_panicking_destructor_does_not_keep_the_others_from_running() {
    let _watchdog = watchdog();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a destructor's panic (expected in this test)");
        }
    }
    greenlet_local! {
        static FIRST_MADE: RefCell<Option<Tells>> = RefCell::new(None);
        static BOMB: Bomb = Bomb;
    }
    let log = Rc::new(RefCell::new(Vec::new()));
    let handle = spawn({
        let log = Rc::clone(&log);
        move || {
            FIRST_MADE.set(Some(Tells(log, "first")));
            BOMB.with(|_| ());
            5
        }
    });
    assert_eq!(handle.join().unwrap(), 5);
    assert_eq!(*log.borrow(), ["first"]);
}

#[test]
fn the_main_greenlets_values_are_leaked_at_the_threads_end() {
    let _watchdog = watchdog();
    static DROPPED: AtomicBool = AtomicBool::new(false);
    struct Main;
    impl Drop for Main {
        fn drop(&mut self) {
            DROPPED.store(true, Ordering::SeqCst);
        }
    }
    greenlet_local!(static SLOT: Main = Main);
    std::thread::spawn(|| SLOT.with(|_| ())).join().unwrap();
    std::thread::spawn(|| {
        SLOT.with(|_| ());
        spawn(|| ()).join().unwrap();
        assert_eq!(greenlet::hub::shutdown(), 0);
    })
    .join()
    .unwrap();
    assert!(!DROPPED.load(Ordering::SeqCst));
}

#[test]
fn variables_with_equal_initialisers_are_two() {
    let _watchdog = watchdog();
    greenlet_local! {
        static ONE: Cell<u32> = Cell::new(0);
        static OTHER: Cell<u32> = Cell::new(0);
    }
    ONE.set(1);
    OTHER.set(2);
    assert_eq!((ONE.get(), OTHER.get()), (1, 2));
}

#[test]
fn a_scoped_greenlets_values_end_with_it() {
    let _watchdog = watchdog();
    greenlet_local!(static SLOT: RefCell<Option<Tells>> = RefCell::new(None));
    let log = Rc::new(RefCell::new(Vec::new()));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        greenlet::scope(|s| {
            s.spawn(|| SLOT.set(Some(Tells(Rc::clone(&log), "scoped"))));
        });
    }));
    assert!(caught.is_ok());
    yield_now();
    assert_eq!(*log.borrow(), ["scoped"]);
}

#[test]
fn an_explicitly_switched_greenlet_has_its_own_values() {
    let _watchdog = watchdog();
    greenlet_local! {
        static NUMBER: Cell<u32> = Cell::new(1);
        static SLOT: RefCell<Option<Tells>> = RefCell::new(None);
    }
    let log = Rc::new(RefCell::new(Vec::new()));
    let explicit = greenlet::Greenlet::<u32>::new({
        let log = Rc::clone(&log);
        move |value| {
            SLOT.set(Some(Tells(log, "explicit")));
            NUMBER.set(NUMBER.get() + value);
            let parent = greenlet::Greenlet::<u32>::current().parent().unwrap();
            let value = parent.switch(NUMBER.get());
            NUMBER.get() + value
        }
    });
    NUMBER.set(100);
    assert_eq!(explicit.switch(10), 11);
    assert_eq!((NUMBER.get(), log.borrow().len()), (100, 0));
    assert_eq!(explicit.switch(1000), 1011);
    assert_eq!((NUMBER.get(), log.borrow().len()), (100, 1));
}
