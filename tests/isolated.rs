//! Isolated greenlets: what makes them threads for the code that runs in them.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{MS, quiet_panics, watchdog};
use greenlet::error::SwitchError;
use greenlet::{Greenlet, sleep, spawn, spawn_isolated, yield_now};

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(7) };
    static NAMES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What happened, on whatever thread-locals.
type Shared = Arc<Mutex<Vec<String>>>;

fn log(shared: &Shared, entry: impl ToString) {
    shared.lock().unwrap().push(entry.to_string());
}

/// Logs when it is dropped.
struct Noisy(Shared, &'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        log(&self.0, self.1);
    }
}

// Thread-locals.

#[test]
fn thread_locals_are_private_and_keep_their_values_across_switches() {
    let _watchdog = watchdog();
    COUNT.set(1);
    let handles: Vec<_> = (0..10)
        .map(|n| {
            spawn_isolated(move || {
                assert_eq!(COUNT.get(), 7);
                for round in 0..20 {
                    COUNT.set(1000 * n + round);
                    NAMES.with_borrow_mut(|names| names.push(format!("{n}.{round}")));
                    yield_now();
                    assert_eq!(COUNT.get(), 1000 * n + round);
                }
                NAMES.with_borrow(|names| names.len())
            })
        })
        .collect();
    for handle in handles {
        assert_eq!(handle.join().unwrap(), 20);
    }
    assert_eq!(COUNT.get(), 1);
    assert!(NAMES.with_borrow(Vec::is_empty));
}

/// One follows the other without a way through the loop, and everybody else has a turn
/// nevertheless.
#[test]
fn isolated_ones_that_only_yield_starve_nobody() {
    let _watchdog = watchdog();
    let is_over = Arc::new(AtomicBool::new(false));
    let turns = Arc::new(AtomicUsize::new(0));
    let handles: Vec<_> = (0..3)
        .map(|n| {
            let (is_over, turns) = (is_over.clone(), turns.clone());
            spawn_isolated(move || {
                COUNT.set(n);
                while !is_over.load(Ordering::Relaxed) {
                    turns.fetch_add(1, Ordering::Relaxed);
                    yield_now();
                    assert_eq!(COUNT.get(), n);
                }
            })
        })
        .collect();
    // A light one, a timer, another thread, and one that begins and ends among them.
    let light = spawn(yield_now);
    sleep(2 * MS);
    let (says, hears) = std::os::unix::net::UnixStream::pair().unwrap();
    let thread = common::os_thread(move || (&says).write_all(b"1").unwrap());
    let mut hears = greenlet::net::UnixStream::from(hears);
    hears.read_exact(&mut [0]).unwrap();
    thread.join().unwrap();
    assert_eq!(spawn_isolated(|| COUNT.get()).join().unwrap(), 7);
    light.join().unwrap();
    let before = turns.load(Ordering::Relaxed);
    common::until(|| turns.load(Ordering::Relaxed) > before + 1000);
    is_over.store(true, Ordering::Relaxed);
    for handle in handles {
        handle.join().unwrap();
    }
}

#[test]
fn a_thread_local_may_be_borrowed_across_a_wait() {
    let _watchdog = watchdog();
    let handles: Vec<_> = (0..3)
        .map(|n| {
            spawn_isolated(move || {
                NAMES.with_borrow_mut(|names| {
                    names.push(n.to_string());
                    sleep(MS);
                    names.len()
                })
            })
        })
        .collect();
    for handle in handles {
        assert_eq!(handle.join().unwrap(), 1);
    }
}

#[test]
fn destructors_run_in_order_also_those_that_are_registered_late() {
    let _watchdog = watchdog();
    struct Late(Shared);
    impl Drop for Late {
        fn drop(&mut self) {
            log(&self.0, "second");
            let shared = self.0.clone();
            THIRD.with(|third| third.replace(Some(Noisy(shared, "third"))));
        }
    }
    thread_local! {
        static FIRST: RefCell<Option<Noisy>> = const { RefCell::new(None) };
        static SECOND: RefCell<Option<Late>> = const { RefCell::new(None) };
        static THIRD: RefCell<Option<Noisy>> = const { RefCell::new(None) };
    }
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || {
            FIRST.with(|first| first.replace(Some(Noisy(shared.clone(), "first"))));
            SECOND.with(|second| second.replace(Some(Late(shared.clone()))));
            log(&shared, "body");
        }
    });
    handle.join().unwrap();
    assert_eq!(
        *shared.lock().unwrap(),
        ["body", "second", "third", "first"]
    );
}

#[test]
fn those_who_join_are_told_after_the_destructors_which_may_block() {
    let _watchdog = watchdog();
    struct Slow(Shared);
    impl Drop for Slow {
        fn drop(&mut self) {
            sleep(5 * MS);
            log(&self.0, "destroyed");
        }
    }
    thread_local!(static SLOW: RefCell<Option<Slow>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || drop(SLOW.replace(Some(Slow(shared))))
    });
    let ticks = Arc::new(AtomicUsize::new(0));
    let ticker = spawn({
        let ticks = ticks.clone();
        move || {
            loop {
                sleep(MS);
                ticks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    assert!(!handle.is_finished());
    handle.join().unwrap();
    assert_eq!(*shared.lock().unwrap(), ["destroyed"]);
    assert!(ticks.load(Ordering::Relaxed) > 0, "others run meanwhile");
    ticker.kill_wait();
}

#[test]
fn errno_is_private() {
    let _watchdog = watchdog();
    let errno = || std::io::Error::last_os_error().raw_os_error().unwrap();
    // SAFETY: errno may be set.
    let set = |value| unsafe { *libc::__errno_location() = value };
    let handles: Vec<_> = (1..5)
        .map(|n| {
            spawn_isolated(move || {
                assert_eq!(errno(), 0);
                set(n);
                yield_now();
                assert_eq!(errno(), n);
            })
        })
        .collect();
    set(libc::EXDEV);
    for handle in handles {
        handle.join().unwrap();
    }
}

#[test]
fn the_current_thread_is_its_own_and_has_no_name() {
    let _watchdog = watchdog();
    let mine = std::thread::current().id();
    let run = || {
        let before = std::thread::current().id();
        yield_now();
        assert_eq!(std::thread::current().id(), before);
        assert_eq!(std::thread::current().name(), None);
        before
    };
    let [a, b] = [spawn_isolated(run), spawn_isolated(run)].map(|h| h.join().unwrap());
    assert!(a != b && a != mine && b != mine);
    assert_eq!(std::thread::current().id(), mine);
}

#[test]
fn the_destructors_of_pthread_keys_run() {
    let _watchdog = watchdog();
    static SUM: AtomicUsize = AtomicUsize::new(0);
    static KEY: std::sync::OnceLock<libc::pthread_key_t> = std::sync::OnceLock::new();
    extern "C" fn add(value: *mut libc::c_void) {
        if SUM.fetch_add(value as usize, Ordering::Relaxed) < 100 {
            // It is called again for what it sets now.
            // SAFETY: the key is one.
            unsafe { libc::pthread_setspecific(KEY.get().copied().unwrap(), value) };
        }
    }
    KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: a variable, and a function of the right type.
        assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(add)) }, 0);
        key
    });
    let handle = spawn_isolated(|| {
        // SAFETY: the key is one.
        unsafe { libc::pthread_setspecific(KEY.get().copied().unwrap(), 30 as *const _) };
    });
    handle.join().unwrap();
    // Four rounds, as with threads.
    assert_eq!(SUM.load(Ordering::Relaxed), 120);
}

// Panics, kills, timeouts.

#[test]
fn the_count_of_panics_is_private() {
    let _watchdog = watchdog();
    quiet_panics();
    struct Waits;
    impl Drop for Waits {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            sleep(2 * MS);
            assert!(std::thread::panicking());
        }
    }
    let unwinding = spawn_isolated(|| {
        let _waits = Waits;
        panic!("on purpose");
    });
    let bystander = spawn_isolated(|| {
        for _ in 0..5 {
            yield_now();
            assert!(!std::thread::panicking());
        }
        // A panic beside one that unwinds is the first of its own.
        assert!(std::panic::catch_unwind(|| panic!("on purpose")).is_err());
    });
    let error = unwinding.join().unwrap_err();
    assert!(error.is_panic());
    bystander.join().unwrap();
    assert!(!std::thread::panicking());
}

#[test]
fn a_kill_unwinds_it_and_runs_its_destructors() {
    let _watchdog = watchdog();
    thread_local!(static LOCAL: RefCell<Option<Noisy>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || {
            LOCAL.replace(Some(Noisy(shared.clone(), "thread-local")));
            let _frame = Noisy(shared, "frame");
            sleep(Duration::MAX);
        }
    });
    yield_now();
    handle.kill();
    assert!(handle.join().unwrap_err().is_killed());
    assert_eq!(*shared.lock().unwrap(), ["frame", "thread-local"]);
}

#[test]
fn a_kill_that_comes_while_its_destructors_run_changes_nothing() {
    let _watchdog = watchdog();
    struct Slow(Shared);
    impl Drop for Slow {
        fn drop(&mut self) {
            log(&self.0, "begins");
            sleep(5 * MS);
            log(&self.0, "ends");
        }
    }
    thread_local!(static SLOW: RefCell<Option<Slow>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || {
            SLOW.replace(Some(Slow(shared)));
            "returned"
        }
    });
    yield_now();
    assert_eq!(*shared.lock().unwrap(), ["begins"]);
    handle.kill();
    assert_eq!(handle.join().unwrap(), "returned");
    assert_eq!(*shared.lock().unwrap(), ["begins", "ends"]);
}

#[test]
fn killed_before_its_first_turn_it_never_runs() {
    let _watchdog = watchdog();
    let shared = Shared::default();
    let captured = Noisy(shared.clone(), "dropped");
    let handle = spawn_isolated(move || {
        let _captured = &captured;
        unreachable!("it was killed");
    });
    handle.kill();
    assert!(handle.join().unwrap_err().is_killed());
    assert_eq!(*shared.lock().unwrap(), ["dropped"]);
}

#[test]
fn another_thread_may_kill_it_and_join_it() {
    let _watchdog = watchdog();
    let handle = spawn_isolated(|| sleep(Duration::MAX));
    yield_now();
    let thread = std::thread::spawn(move || {
        handle.kill();
        handle.join().unwrap_err().is_killed()
    });
    while !thread.is_finished() {
        sleep(MS);
    }
    assert!(thread.join().unwrap());
}

#[test]
fn a_timeout_works_inside() {
    let _watchdog = watchdog();
    let handle = spawn_isolated(|| {
        let ended = greenlet::timeout(MS, || sleep(Duration::MAX));
        (ended.is_err(), COUNT.get())
    });
    assert_eq!(handle.join().unwrap(), (true, 7));
}

#[test]
fn a_join_has_the_result_the_panic_or_a_limit_of_time() {
    let _watchdog = watchdog();
    quiet_panics();
    let handle = spawn_isolated(|| vec![1, 2, 3]);
    assert_eq!(handle.join().unwrap(), [1, 2, 3]);
    let handle = spawn_isolated(|| -> u8 { panic!("on purpose") });
    assert!(handle.join().unwrap_err().is_panic());
    let handle = spawn_isolated(|| sleep(20 * MS));
    assert!(!handle.wait_timeout(MS));
    assert!(handle.wait_timeout(Duration::from_secs(50)));
    assert!(handle.is_finished());
}

#[test]
fn a_detached_one_runs_on_and_its_result_is_dropped_on_its_thread_locals() {
    let _watchdog = watchdog();
    struct Sees(Shared);
    impl Drop for Sees {
        fn drop(&mut self) {
            log(&self.0, COUNT.get());
        }
    }
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || {
            COUNT.set(99);
            sleep(MS);
            Sees(shared)
        }
    });
    drop(handle);
    common::until(|| !shared.lock().unwrap().is_empty());
    assert_eq!(*shared.lock().unwrap(), ["99"]);
}

// Light greenlets inside.

#[test]
fn light_greenlets_inside_share_its_thread_locals_and_end_before_them() {
    let _watchdog = watchdog();
    thread_local!(static LOCAL: RefCell<Option<Noisy>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || {
            COUNT.set(5);
            LOCAL.replace(Some(Noisy(shared.clone(), "thread-local")));
            let first = spawn(|| COUNT.get());
            assert_eq!(first.join().unwrap(), 5);
            spawn(move || {
                let _frame = Noisy(shared, "light one");
                sleep(Duration::MAX);
            });
            yield_now();
        }
    });
    handle.join().unwrap();
    assert_eq!(*shared.lock().unwrap(), ["light one", "thread-local"]);
}

#[test]
fn a_light_one_that_refuses_to_end_keeps_the_thread_locals() {
    let _watchdog = watchdog();
    thread_local!(static LOCAL: RefCell<Option<Noisy>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let goes_on = Arc::new(AtomicUsize::new(0));
    let handle = spawn_isolated({
        let (shared, goes_on) = (shared.clone(), goes_on.clone());
        move || {
            COUNT.set(5);
            LOCAL.replace(Some(Noisy(shared, "thread-local")));
            spawn(move || {
                loop {
                    let _ = std::panic::catch_unwind(|| sleep(MS));
                    goes_on.fetch_add(COUNT.get() as usize, Ordering::Relaxed);
                }
            });
            yield_now();
        }
    });
    handle.join().unwrap();
    let before = goes_on.load(Ordering::Relaxed);
    common::until(|| goes_on.load(Ordering::Relaxed) > before + 20);
    assert_eq!(goes_on.load(Ordering::Relaxed) % 5, 0);
    assert!(shared.lock().unwrap().is_empty());
}

#[test]
fn who_is_spawned_by_a_destructor_never_runs() {
    let _watchdog = watchdog();
    struct Spawns(Shared);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let captured = Noisy(self.0.clone(), "dropped");
            let handle = spawn(move || drop(captured));
            log(&self.0, "spawned");
            // It waits for nothing, and yields to nobody of this domain.
            yield_now();
            assert!(handle.join().unwrap_err().is_killed());
            let later = greenlet::spawn_later(MS, || unreachable!());
            sleep(2 * MS);
            assert!(later.join().unwrap_err().is_killed());
            // Others have thread-locals of their own.
            assert_eq!(spawn_isolated(|| 3).join().unwrap(), 3);
            log(&self.0, "done");
        }
    }
    thread_local!(static LOCAL: RefCell<Option<Spawns>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || drop(LOCAL.replace(Some(Spawns(shared))))
    });
    handle.join().unwrap();
    assert_eq!(*shared.lock().unwrap(), ["dropped", "spawned", "done"]);
}

#[test]
fn an_explicit_one_that_is_made_by_a_destructor_is_killed_unstarted() {
    let _watchdog = watchdog();
    struct Switches(Shared);
    impl Drop for Switches {
        fn drop(&mut self) {
            for _ in 0..3 {
                let captured = Noisy(self.0.clone(), "dropped");
                let explicit = Greenlet::new(move |n: i32| {
                    drop(captured);
                    unreachable!("{n}")
                });
                let outcome = explicit.try_switch(1);
                assert!(matches!(outcome, Err(SwitchError::Killed)));
                assert!(explicit.is_dead());
                log(&self.0, "killed");
            }
        }
    }
    thread_local!(static LOCAL: RefCell<Option<Switches>> = const { RefCell::new(None) });
    let shared = Shared::default();
    let handle = spawn_isolated({
        let shared = shared.clone();
        move || drop(LOCAL.replace(Some(Switches(shared))))
    });
    handle.join().unwrap();
    assert_eq!(*shared.lock().unwrap(), ["dropped", "killed"].repeat(3));
    // The memory of greenlets is in order.
    for n in 0..100 {
        assert_eq!(spawn(move || n).join().unwrap(), n);
    }
}

#[test]
fn no_switch_leads_from_one_domain_to_another() {
    let _watchdog = watchdog();
    type Bound = std::rc::Rc<&'static str>;
    // While the main greenlet is suspended in a switch, isolated ones run.
    let waits = Greenlet::new(|_: Bound| {
        sleep(10 * MS);
        Bound::new("its own")
    });
    let alone = spawn_isolated(|| Greenlet::<Bound>::current().parent().is_none());
    let with_light_one = spawn_isolated(|| {
        let me = Greenlet::<Bound>::current();
        let light = spawn(move || Greenlet::<Bound>::current().parent() == Some(me));
        light.join().unwrap()
    });
    // What an explicit one leaves goes to the nearest who lives of its own domain.
    let leaves = spawn_isolated(|| {
        let child = spawn(|| Greenlet::new(|_: Bound| Bound::new("another's")));
        let orphan = child.join().unwrap();
        assert!(matches!(
            orphan.try_switch(Bound::new("argument")),
            Ok(left) if *left == "another's"
        ));
    });
    assert_eq!(*waits.switch(Bound::new("argument")), "its own");
    assert!(alone.join().unwrap());
    assert!(with_light_one.join().unwrap());
    leaves.join().unwrap();
}

#[test]
fn nobody_is_taken_for_an_isolated_one_that_has_ended() {
    let _watchdog = watchdog();
    let (sibling_killed, rounds) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handle = spawn_isolated({
        let (sibling_killed, rounds) = (sibling_killed.clone(), rounds.clone());
        move || {
            let owner = Greenlet::<()>::current().id();
            spawn(move || {
                // It refuses to end, and its domain goes on without an owner.
                assert!(std::panic::catch_unwind(|| sleep(Duration::MAX)).is_err());
                loop {
                    sleep(MS);
                    // Memory of greenlets is used again, that of the owner too.
                    let ends = [(); 10].map(|()| spawn(yield_now));
                    let sibling = spawn(|| sleep(Duration::from_secs(50)));
                    for one in ends {
                        one.join().unwrap();
                    }
                    yield_now();
                    let ended = usize::from(sibling.is_finished());
                    sibling_killed.fetch_add(ended, Ordering::Relaxed);
                    sibling.kill_wait();
                    let parent = Greenlet::<()>::current().parent();
                    assert!(parent.is_none_or(|parent| parent.id() == owner));
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
            yield_now();
        }
    });
    handle.join().unwrap();
    let before = rounds.load(Ordering::Relaxed);
    common::until(|| rounds.load(Ordering::Relaxed) > before + 3);
    assert_eq!(sibling_killed.load(Ordering::Relaxed), 0);
}

#[test]
fn a_shutdown_inside_ends_its_own_light_ones_only() {
    let _watchdog = watchdog();
    let outside = spawn(|| sleep(50 * MS));
    let handle = spawn_isolated(|| {
        spawn(|| sleep(Duration::MAX));
        yield_now();
        assert_eq!(greenlet::hub::shutdown(), 0);
    });
    handle.join().unwrap();
    outside.join().unwrap();
}

#[test]
fn a_tracer_is_told_of_its_own_switches_only() {
    let _watchdog = watchdog();
    let mine = Arc::new(AtomicUsize::new(0));
    greenlet::set_tracer(Some({
        let mine = mine.clone();
        std::rc::Rc::new(move |_: &greenlet::TraceEvent| {
            mine.fetch_add(1, Ordering::Relaxed);
        })
    }));
    let handle = spawn_isolated(|| {
        let seen = std::rc::Rc::new(Cell::new(0));
        let counter = seen.clone();
        let before =
            greenlet::set_tracer(Some(std::rc::Rc::new(move |_: &greenlet::TraceEvent| {
                counter.set(counter.get() + 1)
            })));
        assert!(before.is_none());
        greenlet::Greenlet::new(|n: i32| n).switch(1);
        seen.get()
    });
    assert_eq!(handle.join().unwrap(), 2);
    assert_eq!(mine.load(Ordering::Relaxed), 0);
    greenlet::Greenlet::new(|n: i32| n).switch(1);
    assert_eq!(mine.load(Ordering::Relaxed), 2);
    greenlet::set_tracer(None);
}
