//! `offload`: work on helper threads.

mod common;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use common::{alone, fork, watchdog};
use greenlet::{hub, joinall, offload, sleep, spawn, timeout, yield_now};

#[test]
fn it_returns_what_the_job_returns_and_others_run_meanwhile() {
    let _watchdog = watchdog();
    let (go, wait_for_go) = channel();
    let other = spawn(move || go.send("went on").unwrap());
    // The job ends only after the other greenlet has run.
    assert_eq!(offload(move || wait_for_go.recv().unwrap()), "went on");
    assert!(other.is_finished());
}

#[test]
fn the_job_runs_on_another_thread_of_that_name() {
    let _watchdog = watchdog();
    let (id, name) = offload(|| {
        let thread = std::thread::current();
        (thread.id(), thread.name().map(str::to_owned))
    });
    assert_ne!(id, std::thread::current().id());
    assert_eq!(name.as_deref(), Some("greenlet-offload"));
}

#[test]
fn jobs_of_several_greenlets_run_at_the_same_time() {
    let _watchdog = watchdog();
    let barrier = Arc::new(Barrier::new(8));
    let handles: Vec<_> = (0..8)
        .map(|n| {
            let barrier = Arc::clone(&barrier);
            spawn(move || {
                offload(move || {
                    barrier.wait();
                    n
                })
            })
        })
        .collect();
    let results: Vec<i32> = joinall(handles).into_iter().map(Result::unwrap).collect();
    assert_eq!(results, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_panic_in_the_job_goes_on_in_the_caller_with_its_payload() {
    let _watchdog = watchdog();
    let handle = spawn(|| offload(|| -> () { std::panic::panic_any(42u8) }));
    let payload = handle.join().unwrap_err().into_panic().unwrap();
    assert_eq!(payload.downcast_ref(), Some(&42u8));
    // On the main greenlet, too.
    let caught = catch_unwind(|| offload(|| -> () { std::panic::panic_any(43u8) }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&43u8));
}

#[test]
fn a_panic_in_the_job_is_printed_once() {
    let output = common::in_subprocess("a_panic_in_the_job_is_printed_once", || {
        let handle = spawn(|| offload(|| -> () { panic!("said in the job") }));
        assert!(handle.join().unwrap_err().is_panic());
    });
    if let Some(output) = output {
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(text.matches("said in the job").count(), 1, "{text}");
    }
}

/// A value that tells where it was dropped.
struct Tells(std::sync::mpsc::Sender<std::thread::ThreadId>);

impl Drop for Tells {
    fn drop(&mut self) {
        let _ = self.0.send(std::thread::current().id());
    }
}

#[test]
fn a_kill_abandons_the_job_whose_result_is_dropped_on_the_helper() {
    let _watchdog = watchdog();
    let (begun, has_begun) = channel();
    let (finish, may_finish) = channel::<()>();
    let (tell, told) = channel();
    let handle = spawn(move || {
        offload(move || {
            begun.send(std::thread::current().id()).unwrap();
            may_finish.recv().unwrap();
            Tells(tell)
        });
        unreachable!("it was killed in the call");
    });
    yield_now();
    let helper = has_begun.recv().unwrap();
    handle.kill_wait();
    assert!(handle.join().unwrap_err().is_killed());
    finish.send(()).unwrap();
    assert_eq!(told.recv().unwrap(), helper);
}

#[test]
fn a_timeout_abandons_the_job() {
    let _watchdog = watchdog();
    let (finish, may_finish) = channel::<()>();
    let ended = Arc::new(AtomicBool::new(false));
    let result = timeout(Duration::from_millis(10), {
        let ended = Arc::clone(&ended);
        move || {
            offload(move || {
                let _ = may_finish.recv();
                ended.store(true, Ordering::SeqCst);
            })
        }
    });
    assert!(result.is_err());
    assert!(!ended.load(Ordering::SeqCst));
    // It runs to its end all the same.
    drop(finish);
    while !ended.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_greenlet_that_was_killed_before_starts_no_job() {
    let _watchdog = watchdog();
    let ran = Arc::new(AtomicBool::new(false));
    let me = Rc::new(Cell::new(None::<greenlet::JoinHandle<()>>));
    let handle = spawn({
        let (ran, me) = (Arc::clone(&ran), Rc::clone(&me));
        move || {
            let handle = me.take().unwrap();
            handle.kill();
            me.set(Some(handle));
            offload(move || ran.store(true, Ordering::SeqCst));
        }
    });
    me.set(Some(handle));
    yield_now();
    assert!(me.take().unwrap().join().unwrap_err().is_killed());
    // A later job is behind it in the queue.
    offload(|| ());
    assert!(!ran.load(Ordering::SeqCst));
}

#[test]
fn a_destructor_may_offload_while_its_greenlet_unwinds() {
    let _watchdog = watchdog();
    struct Offloads(Rc<Cell<u32>>);
    impl Drop for Offloads {
        fn drop(&mut self) {
            self.0.set(offload(|| 7));
        }
    }
    let seen = Rc::new(Cell::new(0));
    let handle = spawn({
        let seen = Rc::clone(&seen);
        move || {
            let _offloads = Offloads(seen);
            sleep(Duration::MAX);
        }
    });
    yield_now();
    handle.kill_wait();
    assert_eq!(seen.get(), 7);
}

#[test]
fn many_jobs_share_few_threads_and_none_is_lost() {
    alone("many_jobs_share_few_threads_and_none_is_lost", || {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let handles: Vec<_> = (0..300)
            .map(|n| {
                spawn(move || {
                    offload(move || {
                        let running = RUNNING.fetch_add(1, Ordering::SeqCst) + 1;
                        MOST.fetch_max(running, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(5));
                        RUNNING.fetch_sub(1, Ordering::SeqCst);
                        n
                    })
                })
            })
            .collect();
        let sum: u32 = joinall(handles).into_iter().map(Result::unwrap).sum();
        assert_eq!(sum, 299 * 300 / 2);
        let most = MOST.load(Ordering::SeqCst);
        assert!((2..=64).contains(&most), "{most} at the same time");
        assert!(common::threads() <= 64 + 3);
    });
}

#[test]
fn jobs_that_offload_do_not_wait_for_each_other_when_all_helpers_are_busy() {
    // Alone, for it needs every thread that the pool may have.
    let name = "jobs_that_offload_do_not_wait_for_each_other_when_all_helpers_are_busy";
    alone(name, || {
        let all_are_in = Arc::new(Barrier::new(64));
        let handles: Vec<_> = (0..64)
            .map(|n| {
                let all_are_in = Arc::clone(&all_are_in);
                spawn(move || {
                    offload(move || {
                        all_are_in.wait();
                        offload(move || n)
                    })
                })
            })
            .collect();
        let sum: u32 = joinall(handles).into_iter().map(Result::unwrap).sum();
        assert_eq!(sum, 63 * 64 / 2);
    });
}

#[test]
fn a_job_may_use_greenlets_and_those_it_leaves_behind_are_killed() {
    let _watchdog = watchdog();
    let (tell, told) = channel();
    let sum = offload(move || {
        spawn(move || {
            let _tells = Tells(tell);
            sleep(Duration::MAX);
        });
        let handles = [1, 2, 3].map(|n| {
            spawn(move || {
                yield_now();
                n
            })
        });
        joinall(handles)
            .into_iter()
            .map(Result::unwrap)
            .sum::<i32>()
    });
    assert_eq!(sum, 6);
    told.recv().unwrap();
}

#[test]
fn waiting_for_a_job_is_never_a_deadlock_but_idle_helpers_hide_none() {
    // G214. A fork's child is a process without the threads of the harness.
    alone(
        "waiting_for_a_job_is_never_a_deadlock_but_idle_helpers_hide_none",
        || {
            let code = fork(|| {
                let job = spawn(|| offload(|| std::thread::sleep(Duration::from_millis(30))));
                // Everybody waits, and only the helper can go on.
                if job.join().is_err() {
                    return 1;
                }
                // Now there is the helper, which is idle or about to be.
                sleep(Duration::from_millis(30));
                match catch_unwind(|| hub::Parker::new().park()) {
                    Err(payload) if payload.is::<greenlet::error::Deadlock>() => 7,
                    _ => 2,
                }
            });
            assert_eq!(code, 7);
        },
    );
}

#[test]
fn a_deadlock_is_found_when_the_last_job_has_ended() {
    // G214: with an outstanding job, as soon as that is done.
    let name = "a_deadlock_is_found_when_the_last_job_has_ended";
    alone(name, || {
        for _ in 0..20 {
            let code = fork(|| {
                spawn(|| offload(|| std::thread::sleep(Duration::from_millis(3))));
                match catch_unwind(|| hub::Parker::new().park()) {
                    Err(payload) if payload.is::<greenlet::error::Deadlock>() => 7,
                    _ => 2,
                }
            });
            assert_eq!(code, 7);
        }
    });
}

#[test]
fn a_job_has_its_callers_signal_mask_and_an_idle_helper_blocks_all() {
    let _watchdog = watchdog();
    fn blocked() -> bool {
        // SAFETY: the set is written before it is read.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
            libc::sigismember(&set, libc::SIGINT) == 1
        }
    }
    assert!(!blocked());
    assert!(!offload(blocked));
    let masked = std::thread::spawn(|| {
        // SAFETY: as above.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGINT);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        }
        offload(blocked)
    });
    assert!(masked.join().unwrap());
}

#[test]
fn the_pool_starts_anew_in_the_child_of_a_fork() {
    alone("the_pool_starts_anew_in_the_child_of_a_fork", || {
        let here = offload(|| std::thread::current().id());
        let code = fork(|| {
            let there = catch_unwind(|| offload(|| std::thread::current().id()));
            match there {
                Ok(there) if there != here => 7,
                _ => 1,
            }
        });
        assert_eq!(code, 7);
        // And the parent's goes on.
        assert_eq!(offload(|| 5), 5);
    });
}

#[test]
fn a_fork_while_jobs_run_leaves_them_to_the_parent() {
    alone("a_fork_while_jobs_run_leaves_them_to_the_parent", || {
        let (finish, may_finish) = channel::<()>();
        let job = spawn(move || offload(move || may_finish.recv().is_err()));
        yield_now();
        let code = fork(|| offload(|| 9));
        assert_eq!(code, 9);
        drop(finish);
        assert!(job.join().unwrap());
    });
}

#[test]
fn a_panicking_destructor_of_an_abandoned_result_harms_nobody() {
    let _watchdog = watchdog();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("a destructor's panic (expected in this test)");
        }
    }
    let (finish, may_finish) = channel::<()>();
    let handle = spawn(move || {
        let bomb = offload(move || {
            let _ = may_finish.recv();
            Bomb
        });
        std::mem::forget(bomb);
    });
    yield_now();
    handle.kill_wait();
    drop(finish);
    for _ in 0..100 {
        assert_eq!(offload(|| 1), 1);
    }
    let _ = catch_unwind(AssertUnwindSafe(|| drop(handle)));
}

#[test]
fn a_job_that_is_abandoned_in_the_queue_never_runs() {
    let name = "a_job_that_is_abandoned_in_the_queue_never_runs";
    alone(name, || {
        let (finish, may_finish) = channel::<()>();
        let may_finish = Arc::new(std::sync::Mutex::new(may_finish));
        let busy: Vec<_> = (0..64)
            .map(|_| {
                let may_finish = Arc::clone(&may_finish);
                spawn(move || {
                    offload(move || {
                        let _ = may_finish.lock().unwrap().recv();
                    });
                })
            })
            .collect();
        let ran = Arc::new(AtomicBool::new(false));
        let (tell, told) = channel();
        let queued = spawn({
            let ran = Arc::clone(&ran);
            move || {
                let tells = Tells(tell);
                offload(move || {
                    let _tells = tells;
                    ran.store(true, Ordering::SeqCst);
                });
            }
        });
        yield_now();
        queued.kill_wait();
        drop(finish);
        joinall(busy).into_iter().for_each(|r| r.unwrap());
        // What it captured is dropped on a helper.
        assert_ne!(told.recv().unwrap(), std::thread::current().id());
        assert!(!ran.load(Ordering::SeqCst));
    });
}

#[test]
fn a_forks_child_does_not_count_the_parents_idle_helpers_as_its_own() {
    let name = "a_forks_child_does_not_count_the_parents_idle_helpers_as_its_own";
    alone(name, || {
        offload(|| ());
        // The helper has a moment to become idle.
        sleep(Duration::from_millis(30));
        let code = fork(|| {
            let parker = hub::Parker::new();
            let unparker = parker.unparker();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(50));
                unparker.unpark();
            });
            // No deadlock: the thread is about to come.
            match catch_unwind(AssertUnwindSafe(|| parker.park())) {
                Ok(()) => 7,
                Err(_) => 1,
            }
        });
        assert_eq!(code, 7);
    });
}

#[test]
fn without_any_helper_thread_the_job_runs_where_it_is_called() {
    let name = "without_any_helper_thread_the_job_runs_where_it_is_called";
    alone(name, || {
        let handle = spawn(|| 1);
        handle.join().unwrap();
        // No room for the stack of one more thread.
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let used = status
            .lines()
            .find(|line| line.starts_with("VmSize"))
            .unwrap();
        let used: u64 = used.split_whitespace().nth(1).unwrap().parse().unwrap();
        let limit = libc::rlimit {
            rlim_cur: used * 1024 + (1 << 20),
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit is a live variable.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
        let here = std::thread::current().id();
        assert_eq!(offload(|| std::thread::current().id()), here);
        let caught = catch_unwind(|| offload(|| -> () { std::panic::panic_any(3u8) }));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&3u8));
        // And as soon as there is room, helpers are back.
        let unlimited = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &unlimited) }, 0);
        assert_ne!(offload(|| std::thread::current().id()), here);
    });
}

#[test]
fn a_job_that_forks_ends_with_its_new_process() {
    let name = "a_job_that_forks_ends_with_its_new_process";
    alone(name, || {
        // SAFETY: as in `common::fork`.
        let child = offload(|| unsafe { libc::fork() });
        // Only the helper thread is in the child, and there it ends.
        assert_ne!(child, 0);
        assert_eq!(common::reap(child), 0);
        assert_eq!(offload(|| 5), 5);
    });
}
