//! Spawning: what a handle says through a greenlet's life, names, stack sizes,
//! closures of every shape.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::{MS, alone, flag, in_subprocess_with, quiet_panics, run_alone, watchdog};
use greenlet::error::{JoinError, SpawnError, StackError};
use greenlet::hub::StackSize;
use greenlet::{Builder, current, joinall, sleep, spawn, spawn_later, yield_now};

/// G054: what a handle says before, while and after; std has no state
/// "constructed, not started".
#[test]
fn a_handle_tells_a_greenlets_life() {
    let _watchdog = watchdog();
    let linked = Rc::new(Cell::new(0));
    let handle = spawn(|| {
        sleep(5 * MS);
        5
    });
    handle.link({
        let linked = Rc::clone(&linked);
        move || linked.set(linked.get() + 1)
    });
    for _ in 0..2 {
        assert!(!handle.is_finished());
        assert!(!handle.is_successful());
        assert_eq!(handle.value(), None);
        yield_now();
    }
    handle.wait();
    assert!(handle.is_finished());
    assert!(handle.is_successful());
    assert_eq!(handle.value(), Some(&5));
    yield_now();
    assert_eq!(linked.get(), 1);
    assert_eq!(handle.join().unwrap(), 5);
}

/// G055
#[test]
fn a_panicked_greenlet_is_finished_without_a_value() {
    let _watchdog = watchdog();
    quiet_panics();
    let handle = spawn(|| -> u32 {
        sleep(MS);
        panic!("on purpose: 55")
    });
    assert!(!handle.wait_timeout(Duration::ZERO));
    assert!(!handle.is_finished());
    handle.wait();
    assert!(handle.is_finished());
    assert!(!handle.is_successful());
    assert_eq!(handle.value(), None);
    let error = handle.join().unwrap_err();
    assert!(error.is_panic());
    let payload = error.into_panic().unwrap();
    assert_eq!(payload.downcast_ref(), Some(&"on purpose: 55"));
}

/// G080
#[test]
fn a_name_stays_after_the_end() {
    let _watchdog = watchdog();
    let handle = Builder::new().name("parser").spawn(|| ()).unwrap();
    assert_eq!(handle.name(), "parser");
    assert!(format!("{handle:?}").contains("parser"));
    handle.wait();
    assert_eq!(handle.name(), "parser");
    assert!(format!("{handle:?}").contains("Finished"));
    let unnamed = spawn(|| current().name());
    assert_eq!(unnamed.name(), format!("greenlet-{}", unnamed.id()));
    assert_eq!(
        unnamed.name(),
        unnamed.value().cloned().unwrap_or_else(|| {
            unnamed.wait();
            unnamed.value().unwrap().clone()
        })
    );
}

#[test]
fn a_greenlet_knows_itself() {
    let _watchdog = watchdog();
    assert!(current().is_main());
    assert_eq!(current().name(), "main");
    let handle = spawn(|| (current().id(), current().is_main()));
    let id = handle.id();
    assert_eq!(handle.join().unwrap(), (id, false));
}

/// G079
#[test]
fn a_greenlet_that_runs_is_not_finished() {
    let _watchdog = watchdog();
    let slot: Rc<std::cell::RefCell<Option<greenlet::JoinHandle<()>>>> = Rc::default();
    let seen = flag();
    *slot.borrow_mut() = Some(spawn({
        let (slot, seen) = (Rc::clone(&slot), Rc::clone(&seen));
        move || {
            let handle = slot.borrow();
            let handle = handle.as_ref().unwrap();
            assert!(!handle.is_finished() && !handle.is_successful());
            assert!(handle.value().is_none());
            seen.set(true);
        }
    }));
    yield_now();
    assert!(seen.get());
    assert!(slot.borrow().as_ref().unwrap().is_finished());
}

#[test]
fn ids_differ_between_threads_too() {
    let _watchdog = watchdog();
    let here: Vec<_> = (0..100)
        .map(|_| spawn(|| current().id()).join().unwrap())
        .collect();
    let there = std::thread::spawn(|| {
        (0..100)
            .map(|_| spawn(|| current().id()).join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut all: Vec<_> = there.join().unwrap();
    all.extend(here);
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 200);
}

/// A panic ends its greenlet only.
#[test]
fn a_panic_leaves_the_others_alone() {
    let _watchdog = watchdog();
    quiet_panics();
    let before = spawn(|| {
        sleep(2 * MS);
        "before"
    });
    let panicking = spawn(|| -> () { panic!("on purpose") });
    let after = spawn(|| {
        sleep(MS);
        "after"
    });
    assert!(panicking.join().unwrap_err().is_panic());
    assert_eq!(before.join().unwrap(), "before");
    assert_eq!(after.join().unwrap(), "after");
    assert!(!std::thread::panicking());
}

#[test]
fn a_payload_that_is_not_text_comes_back_as_it_was() {
    let _watchdog = watchdog();
    let handle = spawn(|| -> () { std::panic::resume_unwind(Box::new(vec![1, 2, 3])) });
    let payload = handle.join().unwrap_err().into_panic().unwrap();
    assert_eq!(*payload.downcast::<Vec<i32>>().unwrap(), [1, 2, 3]);
}

#[test]
fn a_panic_is_reported_as_std_reports_it() {
    let _watchdog = watchdog();
    let finished = run_alone("a_panic_is_reported_as_std_reports_it", || {
        let error = spawn(|| -> () { panic!("the message {}", 7) })
            .join()
            .unwrap_err();
        assert_eq!(error.to_string(), "the greenlet panicked: the message 7");
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.said("panicked at tests/spawn.rs:");
    finished.said("the message 7");
}

/// A panic hook is the user's code: what blocks in it must work.
#[test]
fn a_panic_hook_may_block() {
    if common::panic_count_is_off() {
        return;
    }
    let _watchdog = watchdog();
    alone("a_panic_hook_may_block", || {
        let _watchdog = watchdog();
        let others_ran = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        std::panic::set_hook(Box::new({
            let others_ran = std::sync::Arc::clone(&others_ran);
            move |_| {
                sleep(MS);
                yield_now();
                let helper = spawn({
                    let others_ran = std::sync::Arc::clone(&others_ran);
                    move || others_ran.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                });
                helper.join().unwrap();
            }
        }));
        let panicking = spawn(|| -> () { panic!("told by the hook") });
        let neighbour = spawn(|| {
            for _ in 0..10 {
                yield_now();
                assert!(!std::thread::panicking());
            }
        });
        assert!(panicking.join().unwrap_err().is_panic());
        neighbour.join().unwrap();
        assert_eq!(others_ran.load(std::sync::atomic::Ordering::Relaxed), 1);
        let _ = std::panic::take_hook();
    });
}

/// G072: a panic of the runtime in gevent; a Rust stack that overflows cannot
/// be unwound, so the process ends, as it does for a thread.
#[test]
fn a_stack_overflow_names_the_greenlet_its_stack_and_the_remedy() {
    let _watchdog = watchdog();
    for guard in ["madvise", "mprotect"] {
        let finished = in_subprocess_with(
            "a_stack_overflow_names_the_greenlet_its_stack_and_the_remedy",
            &[("GREENLET_GUARD", guard)],
            || {
                let deep = Builder::new()
                    .name("deep-thought")
                    .stack_size(128 << 10)
                    .spawn(|| dive(u64::MAX))
                    .unwrap();
                let _ = deep.join();
            },
        );
        let Some(finished) = finished else { return };
        finished.was_killed_by(libc::SIGABRT);
        finished.said("greenlet 'deep-thought' has overflowed its stack of 128 KiB");
        finished.said("Builder::stack_size");
    }
}

fn dive(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 64]);
    if depth == 0 {
        return 0;
    }
    dive(depth - 1) + std::hint::black_box(frame)[63]
}

/// A thread that has a hub keeps std's own message.
#[test]
fn the_overflow_of_a_thread_is_told_by_std() {
    let _watchdog = watchdog();
    let finished = run_alone("the_overflow_of_a_thread_is_told_by_std", || {
        let thread = std::thread::Builder::new().name("a-real-thread".into());
        let thread = thread.spawn(|| {
            spawn(|| ()).join().unwrap();
            dive(u64::MAX)
        });
        let _ = thread.unwrap().join();
    });
    let Some(finished) = finished else { return };
    finished.was_killed_by(libc::SIGABRT);
    finished.said("thread 'a-real-thread'");
    finished.said("has overflowed its stack");
    finished.did_not_say("greenlet '");
}

#[test]
fn a_stack_size_out_of_range_is_refused_with_the_limit() {
    let _watchdog = watchdog();
    for asked in [0, 1, 4096, StackSize::MIN.bytes() - 1] {
        let error = Builder::new().stack_size(asked).spawn(|| ()).unwrap_err();
        assert_eq!(
            error,
            SpawnError::Stack(StackError::TooSmall {
                asked,
                minimum: 16 << 10
            })
        );
        assert!(error.to_string().contains("16384"), "{error}");
    }
    for asked in [StackSize::MAX.bytes() + 1, usize::MAX / 2, usize::MAX] {
        let error = Builder::new()
            .stack_size(asked)
            .spawn_later(MS, || ())
            .unwrap_err();
        assert!(matches!(
            error,
            SpawnError::Stack(StackError::TooLarge { maximum, .. }) if maximum == 1 << 30
        ));
        let io: std::io::Error = error.into();
        assert_eq!(io.kind(), std::io::ErrorKind::InvalidInput);
    }
}

#[test]
fn a_stack_size_is_rounded_up_and_really_there() {
    let _watchdog = watchdog();
    for asked in [
        StackSize::MIN.bytes(),
        (16 << 10) + 1,
        100_001,
        (1 << 20) - 1,
        8 << 20,
    ] {
        // A frame is 2 KiB or so without optimisation: half of it.
        let depth = asked as u64 / 2 / 2400;
        let handle = Builder::new().stack_size(asked).spawn(move || dive(depth));
        handle.unwrap().join().unwrap();
    }
    let largest = Builder::new().stack_size(StackSize::MAX.bytes());
    assert_eq!(largest.spawn(|| 5).unwrap().join().unwrap(), 5);
}

/// Captures do not count against the stack of the greenlet.
#[test]
fn a_closure_with_100_kib_of_captures_runs() {
    let _watchdog = watchdog();
    let mut big = [0u8; 100 << 10];
    big[0] = 1;
    big[(100 << 10) - 1] = 2;
    let handle = spawn(move || {
        yield_now();
        std::hint::black_box(&big);
        u32::from(big[0]) + u32::from(big[(100 << 10) - 1])
    });
    assert_eq!(handle.join().unwrap(), 3);
}

#[test]
fn a_result_of_100_kib_comes_back_whole() {
    let _watchdog = watchdog();
    let handle = spawn(|| {
        let mut big = [7u8; 100 << 10];
        yield_now();
        big[5] = 8;
        big
    });
    let big = handle.join().unwrap();
    assert!(big[5] == 8 && big.iter().filter(|&&byte| byte == 7).count() == (100 << 10) - 1);
}

#[test]
fn over_aligned_captures_and_results_stay_aligned() {
    let _watchdog = watchdog();
    #[repr(align(4096))]
    struct Page(u8);
    #[repr(align(64))]
    struct Line(u8);
    fn aligned<T>(value: &T) -> bool {
        std::ptr::from_ref(value).addr() % align_of::<T>() == 0
    }
    for n in 0..20 {
        let (page, line) = (Page(n), Line(n));
        let handle = spawn(move || {
            assert!(aligned(&page) && aligned(&line));
            yield_now();
            assert_eq!((page.0, line.0), (n, n));
            (page, line)
        });
        handle.wait();
        let (page, line) = handle.value().unwrap();
        assert!(aligned(page) && aligned(line));
        assert_eq!((page.0, line.0), (n, n));
    }
}

#[test]
fn captures_of_no_size_and_results_of_no_size_are_fine() {
    let _watchdog = watchdog();
    joinall((0..100).map(|_| spawn(|| ())))
        .into_iter()
        .for_each(|end| end.unwrap());
    let never = spawn(|| -> std::convert::Infallible { std::panic::resume_unwind(Box::new(())) });
    assert!(never.join().unwrap_err().is_panic());
}

/// G073, G074 have no counterpart; that a greenlet owns what it captured does.
#[test]
fn captures_are_dropped_when_the_body_ends_and_the_result_with_its_owner() {
    let _watchdog = watchdog();
    let (captured, result) = (flag(), flag());
    let handle = spawn({
        let captured = common::OnDrop(Rc::clone(&captured));
        let result = common::OnDrop(Rc::clone(&result));
        move || {
            let _captured = captured;
            result
        }
    });
    assert!(!captured.get());
    handle.wait();
    assert!(captured.get());
    assert!(!result.get(), "the handle owns the result");
    drop(handle);
    assert!(result.get());
}

#[test]
fn the_result_of_a_detached_greenlet_is_dropped_at_its_end() {
    let _watchdog = watchdog();
    let result = flag();
    drop(spawn({
        let result = common::OnDrop(Rc::clone(&result));
        move || {
            yield_now();
            result
        }
    }));
    yield_now();
    assert!(!result.get());
    yield_now();
    assert!(result.get());
}

/// "Dropping the last handle from inside": the greenlet goes on.
#[test]
fn dropping_the_last_handle_from_inside_detaches() {
    let _watchdog = watchdog();
    let (ran_on, dropped) = (flag(), flag());
    let slot: Rc<Cell<Option<greenlet::JoinHandle<common::OnDrop>>>> = Rc::default();
    slot.set(Some(spawn({
        let (slot, ran_on) = (Rc::clone(&slot), Rc::clone(&ran_on));
        let result = common::OnDrop(Rc::clone(&dropped));
        move || {
            drop(slot.take());
            yield_now();
            ran_on.set(true);
            result
        }
    })));
    for _ in 0..3 {
        yield_now();
    }
    assert!(ran_on.get());
    assert!(dropped.get());
}

#[test]
fn a_delayed_greenlet_does_not_start_before_its_time() {
    let _watchdog = watchdog();
    let start = std::time::Instant::now();
    let handle = spawn_later(10 * MS, move || start.elapsed());
    assert!(handle.join().unwrap() >= 10 * MS);
    let builder = Builder::new().name("later");
    let named = builder.spawn_later(MS, || current().name()).unwrap();
    assert_eq!(named.join().unwrap(), "later");
}

#[test]
fn an_enormous_delay_never_starts() {
    let _watchdog = watchdog();
    for delay in [Duration::MAX, Duration::from_secs(u64::MAX / 2_000_000_000)] {
        let handle = spawn_later(delay, || ());
        sleep(MS);
        assert!(!handle.is_finished());
        handle.kill_wait();
        assert!(matches!(handle.join(), Err(JoinError::Killed)));
    }
}

/// Many handles dropped unjoined: memory follows what is alive.
#[test]
fn a_million_handles_dropped_unjoined_leave_no_growth() {
    let _watchdog = watchdog();
    alone("a_million_handles_dropped_unjoined_leave_no_growth", || {
        let round = || {
            for n in 0..10_000u32 {
                drop(spawn(move || std::hint::black_box(n)));
            }
            yield_now();
        };
        for _ in 0..5 {
            round();
        }
        let before = common::resident_kib();
        for _ in 0..100 {
            round();
        }
        let after = common::resident_kib();
        assert!(after < before + 8 * 1024, "{before} KiB, then {after} KiB");
    });
}

/// The limit is met by the call that spawns, and by nobody else.
#[test]
fn a_limit_of_the_address_space_is_named_with_its_value() {
    let _watchdog = watchdog();
    alone(
        "a_limit_of_the_address_space_is_named_with_its_value",
        || {
            let _watchdog = watchdog();
            let disturbed = spawn(|| {
                let mut turns = 0;
                while turns < 50 {
                    turns += 1;
                    sleep(MS / 10);
                }
                turns
            });
            yield_now();
            let in_use = common::proc_status("VmSize:") << 10;
            let limit = in_use + (1 << 30);
            let new = libc::rlimit {
                rlim_cur: limit as u64,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: a valid rlimit of this process.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &new) }, 0);
            let mut handles = Vec::new();
            let error = loop {
                match Builder::new().stack_size(16 << 20).spawn(|| ()) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => break error,
                }
                assert!(handles.len() < 100, "no limit was met");
            };
            let SpawnError::Stack(StackError::AddressSpace { limit: named, .. }) = error.clone()
            else {
                panic!("{error:?}");
            };
            assert_eq!(named, limit);
            assert!(error.to_string().contains(&limit.to_string()), "{error}");
            assert!(error.to_string().contains("RLIMIT_AS"), "{error}");
            let io: std::io::Error = error.into();
            assert_eq!(io.kind(), std::io::ErrorKind::OutOfMemory);
            // Those that were promised a stack get it, and the others go on.
            let count = handles.len();
            assert!(count > 0);
            assert_eq!(
                joinall(handles).into_iter().filter(Result::is_ok).count(),
                count
            );
            assert_eq!(disturbed.join().unwrap(), 50);
            // Stacks of the ended are used again.
            let again = Builder::new().stack_size(16 << 20).spawn(|| 6).unwrap();
            assert_eq!(again.join().unwrap(), 6);
        },
    );
}

/// Before Linux 6.13 each stack takes two mappings.
#[test]
fn the_limit_of_mappings_is_named_with_its_value() {
    let _watchdog = watchdog();
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    if limit > 200_000 {
        // It would take more stacks than a test should make.
        return;
    }
    let finished = in_subprocess_with(
        "the_limit_of_mappings_is_named_with_its_value",
        &[("GREENLET_GUARD", "mprotect")],
        || {
            let neighbour = spawn(|| sleep(MS));
            let mut handles = Vec::new();
            let error = loop {
                match Builder::new().stack_size(16 << 10).spawn(|| ()) {
                    Ok(handle) => handles.push(handle),
                    Err(error) => break error,
                }
                assert!(handles.len() < limit, "no limit was met");
            };
            assert!(handles.len() > limit / 2 - 2000, "{}", handles.len());
            let SpawnError::Stack(StackError::MapCount { limit: named, .. }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(named, limit);
            assert!(error.to_string().contains(&limit.to_string()), "{error}");
            neighbour.join().unwrap();
            assert!(joinall(handles).into_iter().all(|end| end.is_ok()));
        },
    );
    if let Some(finished) = finished {
        finished.succeeded();
    }
}

/// `spawn` cannot return an error, so it panics with it.
#[test]
fn spawn_panics_where_there_is_no_stack_and_names_the_limit() {
    let _watchdog = watchdog();
    let finished = run_alone(
        "spawn_panics_where_there_is_no_stack_and_names_the_limit",
        || {
            yield_now();
            // Enough for the threads that are starting, and for a panic.
            let limit = (common::proc_status("VmSize:") << 10) + (256 << 20);
            let new = libc::rlimit {
                rlim_cur: limit as u64,
                rlim_max: libc::RLIM_INFINITY,
            };
            // SAFETY: a valid rlimit of this process.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &new) }, 0);
            greenlet::hub::set_stack_size(StackSize::new(512 << 20).unwrap());
            spawn(|| ());
        },
    );
    let Some(finished) = finished else { return };
    finished.exited_with(101);
    finished.said("failed to spawn a greenlet: no address space left for a stack");
    finished.said("panicked at tests/spawn.rs:");
}

#[test]
fn the_hubs_stack_size_is_for_those_who_do_not_ask() {
    let _watchdog = watchdog();
    std::thread::spawn(|| {
        greenlet::hub::set_stack_size(StackSize::new(4 << 20).unwrap());
        // Deeper than the default would bear.
        let handle = spawn(|| dive(800));
        handle.join().unwrap();
    })
    .join()
    .unwrap();
}

/// Documented at `spawn`: a light greenlet shares thread-locals, so an
/// initialiser that blocks lets another greenlet come in and initialise the
/// variable a second time. std notices and panics, or the later value wins; it
/// is not undefined behaviour.
#[test]
fn a_thread_local_initialiser_that_blocks_is_entered_twice() {
    let _watchdog = watchdog();
    let finished = run_alone(
        "a_thread_local_initialiser_that_blocks_is_entered_twice",
        || {
            thread_local! {
                static ENTERED: Cell<u32> = const { Cell::new(0) };
                static SLOW: u32 = {
                    ENTERED.set(ENTERED.get() + 1);
                    yield_now();
                    ENTERED.get()
                };
            }
            let both = [0, 1].map(|_| spawn(|| SLOW.with(|value| *value)));
            let ends = joinall(both);
            assert_eq!(ENTERED.get(), 2, "each thought that it was the first");
            // The value that is left is one of the two.
            assert!(ends.iter().any(|end| matches!(end, Ok(2))));
        },
    );
    let Some(finished) = finished else { return };
    finished.succeeded();
}

/// G227
#[test]
fn process_exit_inside_a_greenlet_is_clean() {
    let _watchdog = watchdog();
    let finished = run_alone("process_exit_inside_a_greenlet_is_clean", || {
        for _ in 0..10 {
            spawn(|| {
                let _never = common::defer(|| eprintln!("unwound"));
                sleep(Duration::MAX)
            });
        }
        spawn(|| {
            yield_now();
            std::process::exit(7)
        });
        sleep(Duration::MAX);
    });
    let Some(finished) = finished else { return };
    finished.exited_with(7);
    finished.did_not_say("unwound");
}

/// G233, G052: what is still suspended is leaked, not unwound.
#[test]
fn a_process_ends_cleanly_while_greenlets_are_parked() {
    let _watchdog = watchdog();
    let finished = run_alone("a_process_ends_cleanly_while_greenlets_are_parked", || {
        // The test harness returns from main after this.
        std::thread::spawn(|| {
            for n in 0..10u64 {
                spawn(move || {
                    let _never = common::defer(|| eprintln!("unwound"));
                    spawn(move || sleep(Duration::from_secs(3600 + n)))
                        .join()
                        .unwrap();
                });
            }
            sleep(MS);
        })
        .join()
        .unwrap();
        spawn(|| {
            let _never = common::defer(|| eprintln!("unwound"));
            sleep(Duration::MAX)
        });
        yield_now();
    });
    let Some(finished) = finished else { return };
    finished.succeeded();
    finished.did_not_say("unwound");
}
