//! `ThreadPoolExecutor`: jobs for so many OS threads.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use common::{MS, alone, fork, quiet_panics, threads, watchdog};
use greenlet::error::{Deadlock, Elapsed, JoinError, NoWorkers, SubmitError};
use greenlet::executor::{Job, JobState, ThreadPoolExecutor};
use greenlet::{sleep, spawn, timeout, yield_now};

fn pool(workers: usize) -> ThreadPoolExecutor {
    ThreadPoolExecutor::with_workers(workers).unwrap()
}

/// A job that runs until something is sent, once it has begun.
fn busy(pool: &ThreadPoolExecutor) -> (Job<()>, Sender<()>) {
    let (go, gone): (Sender<()>, Receiver<()>) = channel();
    let (begun, begin) = channel();
    let job = pool.submit(move || {
        begun.send(()).unwrap();
        let _ = gone.recv();
    });
    begin.recv().unwrap();
    (job.unwrap(), go)
}

fn this_thread() -> ThreadId {
    std::thread::current().id()
}

/// N5: the handle knows its state, and printing it shows the state.
#[test]
fn a_job_is_pending_then_running_then_finished() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (first, go) = busy(&pool);
    let second = pool.submit(|| 2).unwrap();
    assert_eq!(first.state(), JobState::Running);
    assert_eq!(second.state(), JobState::Pending);
    assert_eq!(format!("{second:?}"), "Job { state: Pending, .. }");
    assert!(!first.is_finished());
    go.send(()).unwrap();
    assert_eq!(second.result().unwrap(), 2);
    assert_eq!(first.state(), JobState::Finished);
    assert!(second.is_finished());
    assert!(matches!(second.join(), Err(JoinError::Taken)));
}

/// G166
#[test]
fn a_panic_is_the_jobs_result_and_the_worker_goes_on() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = pool(1);
    let job = pool.submit(|| panic!("on purpose 7")).unwrap();
    let error = job.join().unwrap_err();
    assert!(error.is_panic() && error.to_string().contains("on purpose 7"));
    assert_eq!(pool.submit(|| 1).unwrap().join().unwrap(), 1);
}

/// N1: so many at a time, and the next when one is done.
#[test]
fn no_more_jobs_run_at_a_time_than_there_are_workers() {
    let _watchdog = watchdog();
    let pool = pool(3);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let all_three = Arc::new(Barrier::new(3));
    let count = (Arc::clone(&now), Arc::clone(&most));
    let results = pool.map(
        move |_| {
            count
                .1
                .fetch_max(count.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Ends only if three really run at the same time.
            all_three.wait();
            count.0.fetch_sub(1, Ordering::SeqCst);
        },
        0..9,
    );
    assert_eq!(results.unwrap().filter(Result::is_ok).count(), 9);
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

/// G166, G143: whichever job is the first to end.
#[test]
fn map_gives_the_results_in_the_order_of_the_items() {
    let _watchdog = watchdog();
    quiet_panics();
    for workers in [1, 2, 3, 10] {
        let pool = pool(workers);
        let results = pool.map(
            |n: u64| {
                std::thread::sleep(Duration::from_micros(n * 7919 % 300));
                assert!(n != 7, "on purpose");
                n
            },
            0..100,
        );
        for (n, result) in (0..).zip(results.unwrap()) {
            match result {
                Ok(value) => assert_eq!(value, n),
                Err(error) => assert!(error.is_panic() && n == 7),
            }
        }
    }
}

/// G171: a callback makes the end of a job something that `wait` knows.
#[test]
fn the_first_of_several_jobs_is_waited_for_by_a_callback() {
    let _watchdog = watchdog();
    let pool = pool(2);
    let jobs = [busy(&pool), busy(&pool)];
    let ended = Arc::new([(); 2].map(|()| greenlet::sync::Event::new()));
    for (n, (job, _)) in jobs.iter().enumerate() {
        let ended = Arc::clone(&ended);
        job.add_done_callback(move |_| ended[n].set());
    }
    jobs[1].1.send(()).unwrap();
    assert_eq!(greenlet::wait(&[&ended[0], &ended[1]], None, Some(1)), [1]);
    jobs[0].1.send(()).unwrap();
    assert_eq!(greenlet::wait(&[&ended[0], &ended[1]], None, None).len(), 2);
}

#[test]
fn threads_are_named_started_on_demand_and_gone_after_shutdown() {
    alone(
        "threads_are_named_started_on_demand_and_gone_after_shutdown",
        || {
            let before = threads();
            let pool = pool(2);
            assert_eq!(threads(), before);
            let name = || std::thread::current().name().map(String::from);
            assert_eq!(
                pool.submit(name).unwrap().join().unwrap().as_deref(),
                Some("worker-0")
            );
            assert_eq!(threads(), before + 1);
            let jobs = [busy(&pool), busy(&pool)];
            assert_eq!(threads(), before + 2);
            drop(jobs);
            pool.shutdown(true);
            // The kernel lists a thread for a moment longer than it is waited for.
            common::until(|| threads() == before);
        },
    );
}

#[test]
fn by_default_there_are_four_more_workers_than_processors() {
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(ThreadPoolExecutor::new().workers(), (cores + 4).min(32));
}

#[test]
fn an_executor_without_workers_is_refused() {
    assert_eq!(ThreadPoolExecutor::with_workers(0).unwrap_err(), NoWorkers);
}

/// N7, N9: it waits for all, and refuses new ones.
#[test]
fn shutdown_waits_for_all_jobs_and_refuses_new_ones() {
    let _watchdog = watchdog();
    let pool = pool(2);
    let jobs: Vec<Job<u32>> = (0..20)
        .map(|n| {
            pool.submit(move || {
                std::thread::sleep(MS);
                n
            })
            .unwrap()
        })
        .collect();
    pool.shutdown(true);
    assert!(jobs.iter().all(Job::is_finished));
    let refused = pool.submit(|| "mine").unwrap_err();
    assert_eq!(refused.to_string(), "the executor has been shut down");
    assert_eq!(refused.into_inner()(), "mine");
    assert!(matches!(
        pool.map(|n: u8| n, [1]),
        Err(SubmitError::Shutdown(()))
    ));
    pool.shutdown(true);
    let results: Vec<u32> = jobs.into_iter().map(|job| job.join().unwrap()).collect();
    assert!(results.into_iter().eq(0..20));
}

#[test]
fn shutdown_without_waiting_returns_at_once_and_the_jobs_are_done() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (_, go) = busy(&pool);
    let queued = pool.submit(|| 5).unwrap();
    pool.shutdown(false);
    assert_eq!(queued.state(), JobState::Pending);
    go.send(()).unwrap();
    drop(pool);
    assert_eq!(queued.state(), JobState::Finished);
    assert_eq!(queued.join().unwrap(), 5);
}

#[test]
fn a_drop_while_unwinding_does_not_wait() {
    let _watchdog = watchdog();
    quiet_panics();
    let mut go = None;
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let pool = pool(1);
        go = Some(busy(&pool));
        panic!("on purpose");
    }));
    // It would hang above, for nobody lets the job go on but we.
    assert!(caught.is_err());
    let (job, go) = go.unwrap();
    go.send(()).unwrap();
    job.join().unwrap();
}

#[test]
fn a_job_may_shut_its_own_executor_down_and_drop_it() {
    let _watchdog = watchdog();
    let pool = Arc::new(pool(1));
    let inner = Arc::clone(&pool);
    let (go, gone) = channel::<()>();
    let job = pool.submit(move || {
        inner.shutdown(true);
        gone.recv().unwrap();
        drop(inner);
    });
    drop(pool);
    go.send(()).unwrap();
    job.unwrap().join().unwrap();
}

#[test]
fn cancel_keeps_a_pending_job_from_running_and_drops_it() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (running, go) = busy(&pool);
    let captured = Arc::new(());
    let job = pool.submit({
        let captured = Arc::clone(&captured);
        move || drop(captured)
    });
    let job = job.unwrap();
    let called = Arc::new(Mutex::new(Vec::new()));
    for n in 0..2 {
        let called = Arc::clone(&called);
        job.add_done_callback(move |job| {
            called.lock().unwrap().push((n, job.state(), this_thread()));
        });
    }
    assert!(job.cancel() && job.cancel());
    assert_eq!(Arc::strong_count(&captured), 1);
    let here = this_thread();
    let expected = [
        (0, JobState::Cancelled, here),
        (1, JobState::Cancelled, here),
    ];
    assert_eq!(*called.lock().unwrap(), expected);
    assert!(matches!(job.result(), Err(JoinError::Cancelled)));
    assert_eq!(job.state(), JobState::Cancelled);
    assert!(!running.cancel());
    go.send(()).unwrap();
    running.wait().unwrap();
    assert!(!running.cancel());
}

#[test]
fn a_cancel_wakes_those_who_wait() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (_running, _go) = busy(&pool);
    let job = Arc::new(pool.submit(|| ()).unwrap());
    let waiter = std::thread::spawn({
        let job = Arc::clone(&job);
        move || job.result()
    });
    sleep(MS);
    assert!(job.cancel());
    assert!(matches!(waiter.join().unwrap(), Err(JoinError::Cancelled)));
}

/// N11, G171: in the pool's thread, once, in order, with the finished handle.
#[test]
fn callbacks_run_in_order_on_the_thread_that_finished_the_job() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = pool(1);
    let (first, go) = busy(&pool);
    let job = pool.submit(this_thread).unwrap();
    let (called, calls) = channel();
    for n in 0..4 {
        let called = called.clone();
        job.add_done_callback(move |job| {
            // The first takes the result; one panics, and the others run.
            called
                .send((n, this_thread(), job.state(), job.result().ok()))
                .unwrap();
            assert!(n != 1, "on purpose");
        });
    }
    assert!(calls.try_recv().is_err());
    go.send(()).unwrap();
    let calls: Vec<_> = calls.iter().take(4).collect();
    let worker = calls[0].1;
    assert_ne!(worker, this_thread());
    for (n, call) in calls.into_iter().enumerate() {
        let result = (n == 0).then_some(worker);
        assert_eq!(call, (n, worker, JobState::Finished, result));
    }
    first.join().unwrap();
    assert_eq!(pool.submit(|| 1).unwrap().join().unwrap(), 1);
}

/// At once, on the caller; its panic stays there (G172).
#[test]
fn a_callback_of_a_finished_job_runs_at_once_on_the_caller() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = pool(1);
    let job = pool.submit(|| 9).unwrap();
    job.wait().unwrap();
    let (called, calls) = channel();
    job.add_done_callback(|_| panic!("on purpose"));
    job.add_done_callback(move |job| called.send((this_thread(), job.result().unwrap())).unwrap());
    assert_eq!(calls.try_recv(), Ok((this_thread(), 9)));
}

#[test]
fn a_callback_that_blocks_holds_up_its_worker_and_no_waiter() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (running, begin) = busy(&pool);
    let (go, gone) = channel::<()>();
    running.add_done_callback(move |_| gone.recv().unwrap());
    let next = pool.submit(|| ()).unwrap();
    begin.send(()).unwrap();
    running.result().unwrap();
    assert!(matches!(next.result_timeout(MS), Err(Elapsed)));
    go.send(()).unwrap();
    next.join().unwrap();
}

/// G171: others run while one waits.
#[test]
fn a_greenlet_that_waits_parks_and_a_thread_that_waits_blocks() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (job, go) = busy(&pool);
    // This greenlet's turn comes only if the main greenlet's wait parks.
    let other = spawn(move || go.send(()).unwrap());
    job.result().unwrap();
    other.join().unwrap();
    let (job, go) = busy(&pool);
    let thread = std::thread::spawn(move || job.result());
    go.send(()).unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_waiter_that_times_out_or_is_killed_leaves_the_job_alone() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (job, go) = busy(&pool);
    let job = Arc::new(job);
    assert!(matches!(job.result_timeout(Duration::ZERO), Err(Elapsed)));
    assert!(matches!(job.result_timeout(MS), Err(Elapsed)));
    assert!(timeout(MS, || job.result()).is_err());
    let waiter = spawn({
        let job = Arc::clone(&job);
        move || job.result()
    });
    yield_now();
    waiter.kill();
    assert!(waiter.join().unwrap_err().is_killed());
    assert_eq!(job.state(), JobState::Running);
    go.send(()).unwrap();
    job.result_timeout(Duration::MAX).unwrap().unwrap();
}

#[test]
fn many_waiters_are_woken_and_one_gets_the_result() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (_, go) = busy(&pool);
    let job = Arc::new(pool.submit(|| 1).unwrap());
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let job = Arc::clone(&job);
            spawn(move || job.result().is_ok())
        })
        .collect();
    yield_now();
    go.send(()).unwrap();
    let got = greenlet::joinall(waiters);
    assert_eq!(got.iter().filter(|one| matches!(one, Ok(true))).count(), 1);
}

#[test]
fn a_job_is_a_future() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (job, go) = busy(&pool);
    spawn(move || go.send(()).unwrap());
    greenlet::block_on(job).unwrap();
    assert_eq!(greenlet::block_on(pool.submit(|| 3).unwrap()).unwrap(), 3);
}

/// G168: it does the job itself.
#[test]
fn a_job_that_waits_for_a_job_of_its_own_full_executor_does_it() {
    let _watchdog = watchdog();
    let pool = Arc::new(pool(1));
    let inner = Arc::clone(&pool);
    let job = pool.submit(move || {
        let (nested, thread) = (inner.submit(this_thread).unwrap(), this_thread());
        sleep(MS);
        nested.result().unwrap() == thread
    });
    assert!(job.unwrap().join().unwrap());
}

#[test]
fn greenlets_that_a_job_leaves_behind_are_killed() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let (ended, ends) = channel::<()>();
    pool.submit(move || {
        spawn(move || {
            let _ended = ended;
            sleep(Duration::MAX);
        });
        yield_now();
    })
    .unwrap();
    // Its end of the channel is dropped; nothing was sent.
    assert!(ends.recv().is_err());
}

/// Waiting for a thread is no deadlock, and its idle threads hide none.
#[test]
fn idle_workers_do_not_hide_a_deadlock() {
    alone("idle_workers_do_not_hide_a_deadlock", || {
        let run = || {
            let pool = pool(1);
            pool.submit(|| std::thread::sleep(MS * 30))
                .unwrap()
                .join()
                .unwrap();
            let parks = spawn(|| greenlet::hub::Parker::new().park());
            assert!(matches!(parks.join(), Err(JoinError::Deadlock(Deadlock))));
        };
        // The harness's own thread must not be one that could help.
        match fork(|| {
            run();
            0
        }) {
            0 => {}
            code => panic!("the child ended with {code}"),
        }
    });
}

#[test]
fn after_a_fork_the_child_is_refused_and_not_blocked() {
    alone("after_a_fork_the_child_is_refused_and_not_blocked", || {
        let pool = pool(2);
        let (job, go) = busy(&pool);
        let code = fork(|| {
            assert!(matches!(pool.submit(|| ()), Err(SubmitError::Shutdown(_))));
            assert!(matches!(job.result(), Err(JoinError::Killed)));
            assert!(!job.cancel());
            pool.shutdown(true);
            let own = ThreadPoolExecutor::new();
            own.submit(|| 7).unwrap().join().unwrap()
        });
        assert_eq!(code, 7);
        go.send(()).unwrap();
        job.join().unwrap();
    });
}

/// What went in comes out once, whoever waits, cancels and gives up.
#[test]
fn every_job_ends_once_whatever_is_done_to_it() {
    let _watchdog = watchdog();
    let ran = Arc::new(AtomicUsize::new(0));
    let called = Arc::new(AtomicUsize::new(0));
    let mut cancelled = 0;
    for round in 0..50 {
        let pool = pool(1 + round % 3);
        let mut waiters = Vec::new();
        for n in 0..20 {
            let ran = Arc::clone(&ran);
            let job = pool.submit(move || {
                ran.fetch_add(1, Ordering::SeqCst);
                n
            });
            let job = job.unwrap();
            let called = Arc::clone(&called);
            job.add_done_callback(move |_| {
                called.fetch_add(1, Ordering::SeqCst);
            });
            match n % 4 {
                0 => cancelled += usize::from(job.cancel()),
                1 => waiters.push(spawn(move || assert_eq!(job.result().unwrap(), n))),
                2 => drop(job.result_timeout(Duration::from_micros(5))),
                _ => {
                    let waiter = spawn(move || drop(job.result()));
                    yield_now();
                    waiter.kill();
                }
            }
        }
        assert!(greenlet::joinall(waiters).iter().all(Result::is_ok));
    }
    assert_eq!(ran.load(Ordering::SeqCst) + cancelled, 1000);
    assert_eq!(called.load(Ordering::SeqCst), 1000);
}
