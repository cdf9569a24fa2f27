//! `GreenletPoolExecutor`: jobs for so many greenlets of this thread.

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::{Log, MS, alone, flag, fork, quiet_panics, watchdog};
use greenlet::error::{Elapsed, JoinError, NoWorkers, SubmitError};
use greenlet::executor::{GreenletPoolExecutor, JobState, LocalJob};
use greenlet::sync::Event;
use greenlet::{current, sleep, spawn, timeout, yield_now};

fn pool(workers: usize) -> GreenletPoolExecutor {
    GreenletPoolExecutor::with_workers(workers).unwrap()
}

#[test]
fn a_job_is_pending_then_running_then_finished() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let first = pool.submit(|| sleep(MS)).unwrap();
    let second = pool.submit(|| 2).unwrap();
    assert_eq!(first.state(), JobState::Pending);
    yield_now();
    assert_eq!(first.state(), JobState::Running);
    assert_eq!(format!("{second:?}"), "Job { state: Pending, .. }");
    assert_eq!(second.result().unwrap(), 2);
    assert_eq!(first.state(), JobState::Finished);
    assert!(matches!(second.result(), Err(JoinError::Taken)));
}

#[test]
fn closures_and_results_need_not_be_send_and_so_many_run_at_a_time() {
    let _watchdog = watchdog();
    let pool = pool(3);
    let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let count = (Rc::clone(&now), Rc::clone(&most));
    let results = pool.map(
        move |n| {
            count.0.set(count.0.get() + 1);
            count.1.set(count.1.get().max(count.0.get()));
            sleep(MS);
            count.0.set(count.0.get() - 1);
            Rc::new(n)
        },
        0..10,
    );
    let results: Vec<i32> = results.unwrap().map(|n| *n.unwrap()).collect();
    assert!(results.into_iter().eq(0..10));
    assert_eq!(most.get(), 3);
}

#[test]
fn shutdown_waits_for_all_jobs_and_refuses_new_ones() {
    let _watchdog = watchdog();
    let pool = pool(2);
    let jobs: Vec<LocalJob<()>> = (0..5).map(|_| pool.submit(|| sleep(MS)).unwrap()).collect();
    pool.shutdown(false);
    assert!(!jobs[0].is_finished());
    assert_eq!(pool.submit(|| 4).unwrap_err().into_inner()(), 4);
    pool.shutdown(true);
    assert!(jobs.iter().all(LocalJob::is_finished));
    assert!(matches!(
        pool.map(|n: u8| n, [1]),
        Err(SubmitError::Shutdown(()))
    ));
    assert_eq!(
        GreenletPoolExecutor::with_workers(0).unwrap_err(),
        NoWorkers
    );
}

#[test]
fn dropping_the_executor_waits_for_its_jobs_unless_it_unwinds() {
    let _watchdog = watchdog();
    let done = flag();
    let submit = |pool: &GreenletPoolExecutor| {
        let done = Rc::clone(&done);
        pool.submit(move || {
            sleep(MS);
            done.set(true);
        })
        .unwrap()
    };
    drop(submit(&pool(1)));
    assert!(done.replace(false));
    let killed = spawn(|| {
        let pool = pool(1);
        pool.submit(|| sleep(MS * 50)).unwrap();
        sleep(Duration::MAX);
    });
    yield_now();
    killed.kill();
    assert!(killed.join().unwrap_err().is_killed());
}

#[test]
fn a_panic_is_the_jobs_result_and_the_worker_goes_on() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = pool(1);
    let job = pool.submit(|| panic!("on purpose")).unwrap();
    let next = pool.submit(|| 1).unwrap();
    assert!(job.join().unwrap_err().is_panic());
    assert_eq!(next.join().unwrap(), 1);
}

#[test]
fn callbacks_run_in_order_in_the_greenlet_that_finished_the_job() {
    let _watchdog = watchdog();
    quiet_panics();
    let pool = pool(1);
    let log = Log::new();
    let job = pool.submit(|| current().id()).unwrap();
    for n in 0..3 {
        let log = log.clone();
        job.add_done_callback(move |job| {
            if let Ok(id) = job.result() {
                assert_eq!(id, current().id());
                log.add("same greenlet");
            }
            assert!(n != 1, "on purpose");
            log.add(n);
        });
    }
    job.wait().unwrap();
    yield_now();
    assert_eq!(log.joined(), "same greenlet 0 2");
    let here = flag();
    job.add_done_callback({
        let here = Rc::clone(&here);
        move |_| here.set(true)
    });
    assert!(here.get());
}

#[test]
fn a_callback_that_blocks_holds_up_its_worker_and_no_waiter() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let first = pool.submit(yield_now).unwrap();
    let gate = Rc::new(greenlet::sync::Event::new());
    first.add_done_callback({
        let gate = Rc::clone(&gate);
        move |_| gate.wait()
    });
    let next = pool.submit(|| ()).unwrap();
    first.result().unwrap();
    assert!(matches!(next.result_timeout(MS), Err(Elapsed)));
    gate.set();
    next.join().unwrap();
}

#[test]
fn cancel_keeps_a_pending_job_from_running() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let ran = flag();
    let job = pool.submit({
        let ran = Rc::clone(&ran);
        move || ran.set(true)
    });
    let job = job.unwrap();
    assert!(job.cancel());
    assert!(matches!(job.result(), Err(JoinError::Cancelled)));
    pool.shutdown(true);
    assert!(!ran.get() && Rc::strong_count(&ran) == 1);
    let done = GreenletPoolExecutor::new().submit(|| ()).unwrap();
    assert!(!done.cancel());
}

#[test]
fn a_waiter_that_times_out_or_is_killed_leaves_the_job_alone() {
    let _watchdog = watchdog();
    let pool = pool(1);
    let gate = Rc::new(Event::new());
    let waits = Rc::clone(&gate);
    let job = Rc::new(pool.submit(move || waits.wait()).unwrap());
    assert!(matches!(job.result_timeout(Duration::ZERO), Err(Elapsed)));
    assert!(timeout(MS, || job.result()).is_err());
    let waiter = spawn({
        let job = Rc::clone(&job);
        move || job.result()
    });
    yield_now();
    waiter.kill();
    assert!(waiter.join().unwrap_err().is_killed());
    gate.set();
    job.result().unwrap();
}

#[test]
fn a_job_that_waits_for_a_job_of_its_own_full_executor_does_it() {
    let _watchdog = watchdog();
    let pool = Rc::new(pool(1));
    let inner = Rc::clone(&pool);
    let job = pool.submit(move || {
        let nested = inner.submit(|| current().id()).unwrap();
        inner.shutdown(true);
        nested.result().unwrap() == current().id()
    });
    assert!(job.unwrap().join().unwrap());
}

#[test]
fn jobs_whose_last_worker_is_killed_are_killed() {
    alone("jobs_whose_last_worker_is_killed_are_killed", || {
        let pool = pool(1);
        let running = pool.submit(|| sleep(Duration::MAX)).unwrap();
        let captured = Rc::new(());
        let queued = pool.submit({
            let captured = Rc::clone(&captured);
            move || drop(captured)
        });
        yield_now();
        greenlet::hub::shutdown();
        assert!(matches!(running.result(), Err(JoinError::Killed)));
        assert!(matches!(queued.unwrap().result(), Err(JoinError::Killed)));
        assert_eq!(Rc::strong_count(&captured), 1);
        assert_eq!(pool.submit(|| 3).unwrap().result().unwrap(), 3);
    });
}

#[test]
fn jobs_that_wait_for_each_other_are_a_deadlock() {
    alone("jobs_that_wait_for_each_other_are_a_deadlock", || {
        let pool = pool(2);
        let slot: Rc<Cell<Option<LocalJob<()>>>> = Rc::default();
        let first = pool.submit({
            let slot = Rc::clone(&slot);
            move || {
                yield_now();
                drop(slot.take().unwrap().result());
            }
        });
        let first = Rc::new(first.unwrap());
        let second = pool.submit({
            let first = Rc::clone(&first);
            move || drop(first.result())
        });
        slot.set(Some(second.unwrap()));
        assert!(matches!(first.result(), Err(JoinError::Deadlock(_))));
        std::mem::forget(pool);
    });
}

#[test]
fn after_a_fork_the_child_is_refused() {
    alone("after_a_fork_the_child_is_refused", || {
        let pool = pool(1);
        let job = pool.submit(|| 5).unwrap();
        let code = fork(|| {
            assert!(matches!(pool.submit(|| ()), Err(SubmitError::Shutdown(_))));
            assert!(matches!(job.result(), Err(JoinError::Killed)));
            pool.shutdown(true);
            6
        });
        assert_eq!(code, 6);
        assert_eq!(job.result().unwrap(), 5);
    });
}

#[test]
fn a_job_is_a_future() {
    let pool = pool(1);
    let job = pool.submit(|| Rc::new(3)).unwrap();
    assert_eq!(*greenlet::block_on(job).unwrap(), 3);
}
