//! `scope`: greenlets that borrow.

mod common;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{alone, fork, in_subprocess, watchdog};
use greenlet::error::{Deadlock, JoinError};
use greenlet::hub::Parker;
use greenlet::{Builder, current, scope, sleep, spawn, timeout, wait, yield_now};

fn message(payload: &(dyn std::any::Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().unwrap_or("no text")
}

/// Data whose destruction is seen by everybody who still refers to it.
struct Data(Cell<bool>);

impl Data {
    fn new() -> Data {
        Data(Cell::new(true))
    }

    #[track_caller]
    fn check(&self) {
        assert!(self.0.get(), "the data is gone");
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Refers to the data to its very end.
struct Uses<'a>(&'a Data, &'a Cell<u32>);

impl Uses<'_> {
    /// A method, so that a closure captures the whole of it.
    #[track_caller]
    fn check(&self) {
        self.0.check();
    }
}

impl Drop for Uses<'_> {
    fn drop(&mut self) {
        self.0.check();
        self.1.set(self.1.get() + 1);
    }
}

#[test]
fn children_borrow_and_the_scope_waits_for_them() {
    let _watchdog = watchdog();
    let mut rows = [[1, 2], [3, 4]];
    let order = RefCell::new(Vec::new());
    let result = scope(|s| {
        for (n, row) in rows.iter_mut().enumerate() {
            let order = &order;
            s.spawn(move || {
                yield_now();
                row.iter_mut().for_each(|x| *x *= 10);
                order.borrow_mut().push(n);
            });
        }
        order.borrow_mut().push(9);
        "returned"
    });
    assert_eq!(result, "returned");
    assert_eq!(rows, [[10, 20], [30, 40]]);
    assert_eq!(order.into_inner(), [9, 0, 1]);
}

#[test]
fn a_scope_without_children_returns_at_once() {
    let _watchdog = watchdog();
    assert_eq!(scope(|_| 5), 5);
}

#[test]
fn a_handle_gives_the_result_and_results_may_borrow() {
    let _watchdog = watchdog();
    let text = String::from("eat play");
    let first = scope(|s| {
        let handle = s.spawn(|| text.split(' ').next().unwrap());
        let id = handle.id();
        assert!(!handle.is_finished());
        assert_eq!(handle.name(), format!("greenlet-{id}"));
        handle.wait();
        assert!(handle.is_finished());
        handle.join().unwrap()
    });
    assert_eq!(first, "eat");
}

#[test]
fn handles_can_be_waited_for_together() {
    let _watchdog = watchdog();
    scope(|s| {
        let slow = s.spawn(|| sleep(Duration::MAX));
        let quick = s.spawn(|| ());
        assert_eq!(wait(&[&slow, &quick], None, Some(1)), [1]);
        slow.kill();
    });
}

#[test]
fn children_spawn_siblings_and_nested_scopes_work() {
    let _watchdog = watchdog();
    let count = Cell::new(0);
    let add = || count.set(count.get() + 1);
    scope(|s| {
        s.spawn(|| {
            add();
            s.spawn(|| {
                sleep(Duration::from_millis(2));
                add();
                s.spawn(add);
            });
            let local = Cell::new(0);
            scope(|inner| {
                inner.spawn(|| {
                    yield_now();
                    local.set(local.get() + 1);
                    s.spawn(add);
                });
            });
            assert_eq!(local.get(), 1);
        });
    });
    assert_eq!(count.get(), 4);
}

#[test]
fn an_unjoined_panic_makes_the_scope_panic_after_all_have_ended() {
    let _watchdog = watchdog();
    let ended = Cell::new(false);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        scope(|s| {
            s.spawn(|| panic!("a child's panic (expected in this test)"));
            s.spawn(|| {
                sleep(Duration::from_millis(2));
                ended.set(true);
            });
        });
    }));
    assert_eq!(message(&*caught.unwrap_err()), "a scoped greenlet panicked");
    assert!(ended.get());
}

#[test]
fn a_joined_panic_is_the_joiners_and_a_leaked_handle_hides_none() {
    let _watchdog = watchdog();
    let bad = || -> i32 { panic!("a child's panic (expected in this test)") };
    let joined = scope(|s| s.spawn(bad).join().unwrap_err().is_panic());
    assert!(joined);
    let leaked = catch_unwind(|| {
        scope(|s| std::mem::forget(s.spawn(bad)));
    });
    assert!(leaked.is_err());
    let dropped_after_the_end = catch_unwind(|| {
        scope(|s| {
            let handle = s.spawn(bad);
            handle.wait();
            drop(handle);
        });
    });
    assert!(dropped_after_the_end.is_err());
}

#[test]
fn a_panic_of_the_owner_goes_on_after_the_children_have_ended_by_themselves() {
    let _watchdog = watchdog();
    let (data, drops) = (Data::new(), Cell::new(0));
    let ended = Cell::new(0);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        scope(|s| {
            for _ in 0..3 {
                let uses = Uses(&data, &drops);
                let ended = &ended;
                s.spawn(move || {
                    for _ in 0..3 {
                        yield_now();
                        uses.check();
                    }
                    ended.set(ended.get() + 1);
                });
            }
            panic!("the owner's panic (expected in this test)");
        });
    }));
    let payload = caught.unwrap_err();
    assert!(message(&*payload).starts_with("the owner's"));
    assert_eq!((ended.get(), drops.get()), (3, 3));
}

/// A greenlet that owns data, and a scope that borrows it.
fn owner(ended: Rc<Cell<u32>>, f: impl FnOnce(&Data) + 'static) -> impl FnOnce() + 'static {
    move || {
        let (data, drops) = (Data::new(), Cell::new(0));
        let _count = Count(&ended);
        scope(|s| {
            for _ in 0..3 {
                let (uses, ended) = (Uses(&data, &drops), &ended);
                s.spawn(move || {
                    let _count = Count(ended);
                    // It needs a while after its kill, too.
                    let _slow = Slow(uses.0);
                    sleep(Duration::MAX);
                });
            }
            f(&data);
        });
    }
}

struct Count<'a>(&'a Cell<u32>);

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

/// Calls a closure when dropped.
struct CallAtEnd<F: FnMut()>(F);

impl<F: FnMut()> Drop for CallAtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A destructor that blocks.
struct Slow<'a>(&'a Data);

impl Drop for Slow<'_> {
    fn drop(&mut self) {
        for _ in 0..5 {
            yield_now();
            self.0.check();
        }
        sleep(Duration::from_millis(2));
        self.0.check();
    }
}

#[test]
fn a_kill_of_the_owner_kills_the_children_and_waits_for_them() {
    let _watchdog = watchdog();
    // While the owner waits for its children.
    let ended = Rc::new(Cell::new(0));
    let handle = spawn(owner(Rc::clone(&ended), |_| ()));
    yield_now();
    yield_now();
    handle.kill_wait();
    assert_eq!(ended.get(), 4);
    assert!(handle.join().unwrap_err().is_killed());
    // And while it is in its closure.
    let ended = Rc::new(Cell::new(0));
    let handle = spawn(owner(Rc::clone(&ended), |_| sleep(Duration::MAX)));
    yield_now();
    yield_now();
    handle.kill_wait();
    assert_eq!(ended.get(), 4);
    assert!(handle.join().unwrap_err().is_killed());
}

#[test]
fn a_timeout_of_the_owner_kills_the_children_and_waits_for_them() {
    let _watchdog = watchdog();
    for in_closure in [false, true] {
        let ended = Rc::new(Cell::new(0));
        let body = owner(Rc::clone(&ended), move |_| {
            if in_closure {
                sleep(Duration::MAX);
            }
        });
        assert!(timeout(Duration::from_millis(5), body).is_err());
        assert_eq!(ended.get(), 4);
    }
}

#[test]
fn a_kill_reaches_the_children_of_nested_scopes() {
    let _watchdog = watchdog();
    let ended = Rc::new(Cell::new(0));
    let handle = spawn({
        let ended = Rc::clone(&ended);
        move || {
            let data = Data::new();
            scope(|s| {
                s.spawn(|| {
                    let inner_data = Data::new();
                    let _count = Count(&ended);
                    scope(|inner| {
                        inner.spawn(|| {
                            let _count = Count(&ended);
                            let _slow = Slow(&data);
                            let _slower = Slow(&inner_data);
                            sleep(Duration::MAX);
                        });
                    });
                });
            });
        }
    });
    for _ in 0..4 {
        yield_now();
    }
    handle.kill_wait();
    assert_eq!(ended.get(), 2);
}

#[test]
fn what_a_killed_owner_spawns_is_killed_unstarted() {
    let _watchdog = watchdog();
    let ran = Rc::new(Cell::new(false));
    let dropped = Rc::new(Cell::new(0));
    let handle = spawn({
        let (ran, dropped) = (Rc::clone(&ran), Rc::clone(&dropped));
        move || {
            let data = Data::new();
            scope(|s| {
                s.spawn(|| {
                    let _late = CallAtEnd(|| {
                        let uses = Uses(&data, &dropped);
                        let ran = &ran;
                        s.spawn(move || {
                            uses.check();
                            ran.set(true);
                        });
                    });
                    sleep(Duration::MAX);
                });
            });
        }
    });
    yield_now();
    yield_now();
    handle.kill_wait();
    assert!(!ran.get());
    assert_eq!(dropped.get(), 1);
}

#[test]
fn a_killed_child_is_no_panic_and_an_unstarted_one_drops_what_it_captured() {
    let _watchdog = watchdog();
    let (data, drops) = (Data::new(), Cell::new(0));
    scope(|s| {
        let uses = Uses(&data, &drops);
        let unstarted = s.spawn(move || uses.check());
        unstarted.kill();
        assert!(matches!(unstarted.join(), Err(JoinError::Killed)));
        assert_eq!(drops.get(), 1);
        let uses = Uses(&data, &drops);
        let started = s.spawn(move || {
            uses.check();
            sleep(Duration::MAX);
        });
        yield_now();
        started.kill_wait();
        assert!(started.is_finished());
        assert!(matches!(started.join(), Err(JoinError::Killed)));
        assert_eq!(drops.get(), 2);
    });
}

#[test]
fn a_result_that_nobody_takes_is_dropped_before_the_scope_returns() {
    let _watchdog = watchdog();
    for greenlet_ends_first in [false, true] {
        let drops = Cell::new(0);
        let data = Data::new();
        scope(|s| {
            let (data, drops) = (&data, &drops);
            // The destructor takes a while.
            let handle = s.spawn(move || (Slow(data), Uses(data, drops)));
            if greenlet_ends_first {
                handle.wait();
            }
            drop(handle);
        });
        assert_eq!(drops.get(), 1, "{greenlet_ends_first}");
    }
}

#[test]
fn a_panic_in_a_results_destructor_makes_the_scope_panic_and_no_more() {
    let _watchdog = watchdog();
    struct Bomb<'a>(&'a Data);
    impl Drop for Bomb<'_> {
        fn drop(&mut self) {
            self.0.check();
            panic!("a destructor's panic (expected in this test)");
        }
    }
    let (data, drops) = (Data::new(), Cell::new(0));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        scope(|s| {
            let (data, drops) = (&data, &drops);
            s.spawn(move || (Bomb(data), Uses(data, drops)));
        });
    }));
    assert!(caught.is_err());
    assert_eq!(drops.get(), 1);
}

#[test]
fn a_leaked_handle_keeps_nothing_from_ending() {
    let _watchdog = watchdog();
    let (data, drops) = (Data::new(), Cell::new(0));
    scope(|s| {
        let uses = Uses(&data, &drops);
        std::mem::forget(s.spawn(move || {
            yield_now();
            uses.check();
        }));
    });
    assert_eq!(drops.get(), 1);
}

#[test]
fn a_current_that_outlives_the_scope_refers_to_nothing_borrowed() {
    let _watchdog = watchdog();
    let drops = Cell::new(0);
    let kept = {
        let data = Data::new();
        scope(|s| {
            let uses = Uses(&data, &drops);
            let handle = s.spawn(move || {
                uses.check();
                current()
            });
            handle.join().unwrap()
        })
    };
    assert_eq!(drops.get(), 1);
    assert!(kept.name().starts_with("greenlet-"));
}

#[test]
fn a_scoped_child_may_be_named_and_has_its_spawn_errors() {
    let _watchdog = watchdog();
    let (data, drops) = (Data::new(), Cell::new(0));
    scope(|s| {
        let named = Builder::new().name("worker");
        let handle = named.spawn_scoped(s, || current().name()).unwrap();
        assert_eq!(handle.join().unwrap(), "worker");
        let uses = Uses(&data, &drops);
        let refused = Builder::new().stack_size(usize::MAX);
        assert!(refused.spawn_scoped(s, move || uses.check()).is_err());
        assert_eq!(drops.get(), 1);
        // One whose stack has no room on this machine, perhaps.
        let uses = Uses(&data, &drops);
        let huge = Builder::new().stack_size(1 << 46);
        let _ = huge.spawn_scoped(s, move || uses.check());
    });
    assert_eq!(drops.get(), 2);
}

#[test]
fn a_scope_in_a_destructor_waits_while_its_greenlet_unwinds() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    struct Scopes(Rc<Cell<u32>>);
    impl Drop for Scopes {
        fn drop(&mut self) {
            let data = Data::new();
            let count = &self.0;
            scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        sleep(Duration::from_millis(1));
                        data.check();
                        count.set(count.get() + 1);
                    });
                }
            });
        }
    }
    let count = Rc::new(Cell::new(0));
    let handle = spawn({
        let count = Rc::clone(&count);
        move || {
            let _scopes = Scopes(count);
            panic!("a panic with a scope in its way (expected in this test)");
        }
    });
    assert!(handle.join().unwrap_err().is_panic());
    assert_eq!(count.get(), 3);
}

#[test]
fn shutdown_ends_scopes_from_outside_and_from_inside() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        let ended = Rc::new(Cell::new(0));
        spawn(owner(Rc::clone(&ended), |_| ()));
        yield_now();
        yield_now();
        assert_eq!(greenlet::hub::shutdown(), 0);
        assert_eq!(ended.get(), 4);
        // The owner is the thread's main greenlet, which is nobody's victim.
        let (data, drops) = (Data::new(), Cell::new(0));
        scope(|s| {
            let uses = Uses(&data, &drops);
            s.spawn(move || {
                uses.check();
                sleep(Duration::MAX);
            });
            yield_now();
            assert_eq!(greenlet::hub::shutdown(), 0);
            assert_eq!(drops.get(), 1);
        });
    })
    .join()
    .unwrap();
}

#[test]
fn a_thread_that_ends_leaks_an_unfinished_scope() {
    static DROPPED: AtomicBool = AtomicBool::new(false);
    struct Dropped;
    impl Drop for Dropped {
        fn drop(&mut self) {
            DROPPED.store(true, Ordering::SeqCst);
        }
    }
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        spawn(|| {
            let data = Dropped;
            scope(|s| {
                s.spawn(|| {
                    let _inner = Dropped;
                    sleep(Duration::MAX);
                    let _data = &data;
                });
            });
        });
        yield_now();
        yield_now();
    })
    .join()
    .unwrap();
    assert!(!DROPPED.load(Ordering::SeqCst));
}

#[test]
fn a_deadlock_kills_the_children_before_the_scope_panics() {
    alone(
        "a_deadlock_kills_the_children_before_the_scope_panics",
        || {
            for in_closure in [false, true] {
                let code = fork(|| {
                    let (data, drops) = (Data::new(), Cell::new(0));
                    let caught = catch_unwind(AssertUnwindSafe(|| {
                        scope(|s| {
                            let uses = Uses(&data, &drops);
                            let handle = s.spawn(move || {
                                let _slow = Slow(uses.0);
                                Parker::new().park();
                            });
                            if in_closure {
                                handle.wait();
                            }
                        });
                    }));
                    let deadlock = caught.is_err_and(|payload| payload.is::<Deadlock>());
                    if deadlock && drops.get() == 1 { 7 } else { 1 }
                });
                assert_eq!(code, 7, "in the closure: {in_closure}");
            }
        },
    );
}

#[test]
fn children_that_wait_again_after_a_deadlocks_kill_abort_with_a_message() {
    let name = "children_that_wait_again_after_a_deadlocks_kill_abort_with_a_message";
    let output = in_subprocess(name, || {
        let code = fork(|| {
            scope(|s| {
                s.spawn(|| {
                    let _ = catch_unwind(|| Parker::new().park());
                    Parker::new().park();
                });
            });
            1
        });
        assert_eq!(code, -libc::SIGABRT);
    });
    if let Some(output) = output {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains("the greenlets of a scope were killed"),
            "{text}"
        );
    }
}

#[test]
fn an_owner_that_forks_waits_in_the_child_only_for_what_was_spawned_there() {
    alone(
        "an_owner_that_forks_waits_in_the_child_only_for_what_was_spawned_there",
        || {
            for fork_in_greenlet in [false, true] {
                let body = || {
                    let count = Cell::new(0);
                    let mut child = None;
                    scope(|s| {
                        let before = s.spawn(|| {
                            let _end = CallAtEnd(|| count.set(count.get() + 100));
                            sleep(Duration::from_millis(20));
                            count.set(count.get() + 1);
                        });
                        yield_now();
                        // SAFETY: as in `common::fork`.
                        let pid = unsafe { libc::fork() };
                        if pid == 0 {
                            // A kill of somebody who is not here does nothing.
                            before.kill();
                            yield_now();
                            s.spawn(|| {
                                sleep(Duration::from_millis(1));
                                count.set(count.get() + 10);
                            });
                        }
                        child = Some(pid);
                    });
                    if child == Some(0) {
                        // SAFETY: _exit has no preconditions.
                        unsafe { libc::_exit(count.get()) }
                    }
                    assert_eq!(count.get(), 101);
                    common::reap(child.unwrap())
                };
                let code = if fork_in_greenlet {
                    spawn(body).join().unwrap()
                } else {
                    body()
                };
                assert_eq!(code, 10);
            }
        },
    );
}

#[test]
fn a_scoped_child_that_forks_ends_the_new_process_with_its_own_end() {
    let name = "a_scoped_child_that_forks_ends_the_new_process_with_its_own_end";
    alone(name, || {
        let count = Cell::new(0);
        let child = scope(|s| {
            s.spawn(|| {
                sleep(Duration::from_millis(20));
                count.set(count.get() + 1);
            });
            let forks = s.spawn(|| {
                let text = String::from("borrowed from a frame of its own");
                // SAFETY: as in `common::fork`.
                let pid = unsafe { libc::fork() };
                if pid == 0 {
                    // A scope of its own works, and so does its owner's data.
                    scope(|inner| {
                        inner.spawn(|| count.set(count.get() + text.len()));
                    });
                    let count = &count;
                    s.spawn(move || {
                        sleep(Duration::from_millis(1));
                        assert_eq!(count.get(), 32);
                        // Nobody else is here: this is the exit code.
                        std::process::exit(9);
                    });
                }
                pid
            });
            forks.join().unwrap()
        });
        assert_ne!(child, 0, "the owner is not in the new process");
        assert_eq!(common::reap(child), 9);
        assert_eq!(count.get(), 1);
    });
}

#[test]
fn a_scoped_child_that_forks_and_returns_ends_the_new_process_quietly() {
    let name = "a_scoped_child_that_forks_and_returns_ends_the_new_process_quietly";
    alone(name, || {
        for joined in [false, true] {
            let (data, drops) = (Data::new(), Cell::new(0));
            let child = Cell::new(0);
            scope(|s| {
                let uses = Uses(&data, &drops);
                let forks = s.spawn(|| {
                    // SAFETY: as in `common::fork`.
                    child.set(unsafe { libc::fork() });
                });
                s.spawn(move || {
                    yield_now();
                    uses.check();
                });
                if joined {
                    forks.join().unwrap();
                }
            });
            assert_ne!(child.get(), 0, "the owner is not in the new process");
            assert_eq!(common::reap(child.get()), 0);
            assert_eq!(drops.get(), 1);
        }
    });
}

#[test]
fn ten_thousand_children_in_one_scope() {
    let _watchdog = watchdog();
    let sum = Cell::new(0u64);
    scope(|s| {
        for n in 0..10_000 {
            let sum = &sum;
            s.spawn(move || {
                if n % 3 == 0 {
                    yield_now();
                }
                sum.set(sum.get() + n);
            });
        }
    });
    assert_eq!(sum.get(), 9_999 * 10_000 / 2);
}
