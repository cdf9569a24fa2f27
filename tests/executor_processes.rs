//! `ProcessPoolExecutor`: jobs that are done by worker processes.

mod common;

use std::collections::HashSet;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{MS, alone, fork, run_alone, watchdog};
use greenlet::error::{JoinError, SubmitError};
use greenlet::executor::{JobState, ProcessPoolExecutor};
use greenlet::net::{TcpListener, TcpStream};
use greenlet::process::error::ProcessError;

fn pid(_: ()) -> u32 {
    std::process::id()
}

fn square(n: u64) -> u64 {
    n * n
}

fn panics(text: String) -> u8 {
    std::panic::set_hook(Box::new(|_| {}));
    panic!("{text} on purpose")
}

/// Ends when the other end of the connection is closed.
fn reads(mut stream: TcpStream) -> usize {
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut all).unwrap()
}

/// Says its pid, and then waits for the connection's end.
fn says_its_pid_and_waits(mut stream: TcpStream) {
    use std::io::{Read, Write};
    stream.write_all(&std::process::id().to_ne_bytes()).unwrap();
    let _ = stream.read(&mut [0]);
}

fn exits(code: i32) -> u8 {
    std::process::exit(code)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

/// A job that runs, the pid of its process, and what ends it when it is dropped.
fn running_job(pool: &ProcessPoolExecutor) -> (greenlet::executor::ProcessJob<()>, i32, TcpStream) {
    let (mut ours, theirs) = pair();
    let job = pool.submit(says_its_pid_and_waits, theirs).unwrap();
    let mut pid = [0; 4];
    std::io::Read::read_exact(&mut ours, &mut pid).unwrap();
    (job, i32::from_ne_bytes(pid), ours)
}

#[test]
fn jobs_run_in_other_processes_as_many_as_there_are_workers() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(2).unwrap();
    let jobs: Vec<_> = (0..20).map(|_| pool.submit(pid, ()).unwrap()).collect();
    let pids: HashSet<u32> = jobs.iter().map(|job| job.result().unwrap()).collect();
    assert!(!pids.contains(&std::process::id()));
    assert!((1..=2).contains(&pids.len()), "{pids:?}");
    assert_eq!(pool.workers(), 2);
}

#[test]
fn map_gives_the_results_in_the_order_of_the_items() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(2).unwrap();
    let squares: Vec<u64> = pool
        .map(square, 0..50)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(squares, (0..50).map(|n| n * n).collect::<Vec<_>>());
}

#[test]
fn a_job_that_panics_tells_how_and_its_worker_goes_on() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let before = pool.submit(pid, ()).unwrap().result().unwrap();
    let error = pool
        .submit(panics, "no milk".to_owned())
        .unwrap()
        .result()
        .unwrap_err();
    assert!(error.is_panic());
    assert!(error.to_string().contains("no milk on purpose"), "{error}");
    assert_eq!(pool.submit(pid, ()).unwrap().result().unwrap(), before);
}

#[test]
fn a_worker_killed_in_a_job_takes_that_job_along_and_no_other() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let (job, victim, _end) = running_job(&pool);
    let later: Vec<_> = (0..5).map(|n| pool.submit(square, n).unwrap()).collect();
    // SAFETY: a signal to a process that this test has started.
    assert_eq!(unsafe { libc::kill(victim, libc::SIGKILL) }, 0);
    match job.result() {
        Err(JoinError::Process(ProcessError::Ended { pid, status, .. })) => {
            use std::os::unix::process::ExitStatusExt;
            assert_eq!(pid, victim as u32);
            assert_eq!(status.signal(), Some(libc::SIGKILL));
        }
        other => panic!("{other:?}"),
    }
    let squares: Vec<u64> = later.iter().map(|job| job.result().unwrap()).collect();
    assert_eq!(squares, [0, 1, 4, 9, 16]);
    assert_ne!(
        pool.submit(pid, ()).unwrap().result().unwrap(),
        victim as u32
    );
}

#[test]
fn a_job_that_leaves_its_process_says_with_what_code() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let error = pool.submit(exits, 7).unwrap().result().unwrap_err();
    assert!(error.to_string().contains("exit status: 7"), "{error}");
    assert_eq!(pool.submit(square, 3).unwrap().result().unwrap(), 9);
}

#[test]
fn the_state_is_told_and_a_pending_job_can_be_cancelled() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let (running, _, end) = running_job(&pool);
    let pending = pool.submit(square, 2).unwrap();
    assert_eq!(running.state(), JobState::Running);
    assert_eq!(pending.state(), JobState::Pending);
    assert!(format!("{pending:?}").contains("Pending"));
    assert!(pending.cancel());
    assert!(!running.cancel());
    assert_eq!(pending.state(), JobState::Cancelled);
    assert!(matches!(pending.result(), Err(JoinError::Cancelled)));
    assert!(running.result_timeout(MS).is_err());
    drop(end);
    running.result().unwrap();
    assert_eq!(running.state(), JobState::Finished);
}

#[test]
fn callbacks_run_in_this_process_in_order_and_a_late_one_at_once() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let (running, _, end) = running_job(&pool);
    let (told, tells) = channel();
    for number in 0..3 {
        let told = told.clone();
        running.add_done_callback(move |job| {
            assert_eq!(job.state(), JobState::Finished);
            let thread = std::thread::current().name().map(str::to_owned);
            told.send((number, std::process::id(), thread)).unwrap();
        });
    }
    drop(end);
    for number in 0..3 {
        let here = (number, std::process::id(), Some("process-0".to_owned()));
        assert_eq!(tells.recv().unwrap(), here);
    }
    let mut late = false;
    running.wait().unwrap();
    std::thread::scope(|_| {
        let (told, tells) = channel();
        running.add_done_callback(move |_| told.send(()).unwrap());
        late = tells.try_recv().is_ok();
    });
    assert!(late);
}

#[test]
fn a_greenlet_that_waits_parks_and_one_that_is_killed_leaves_the_job_alone() {
    let _watchdog = watchdog();
    let pool = std::rc::Rc::new(ProcessPoolExecutor::with_workers(1).unwrap());
    let (job, _, end) = running_job(&pool);
    let job = std::rc::Rc::new(job);
    let waiting = greenlet::spawn({
        let job = std::rc::Rc::clone(&job);
        move || job.wait()
    });
    // It parks, for otherwise this would not go on.
    greenlet::yield_now();
    waiting.kill_wait();
    drop(end);
    job.result().unwrap();
}

#[test]
fn a_closed_pool_refuses_and_shutdown_waits_for_jobs_and_processes() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(2).unwrap();
    let pids = [(); 4].map(|()| pool.submit(pid, ()).unwrap());
    pool.shutdown(true);
    for job in pids {
        let pid = job.join().unwrap();
        // SAFETY: signal 0 asks whether the process is there.
        assert_eq!(unsafe { libc::kill(pid as i32, 0) }, -1, "{pid} is there");
    }
    match pool.submit(square, 5) {
        Err(SubmitError::Shutdown(argument)) => assert_eq!(argument, 5),
        other => panic!("{other:?}"),
    }
    pool.shutdown(true);
}

#[test]
fn a_socket_goes_along_with_the_argument() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let (mut ours, theirs) = pair();
    let job = pool.submit(reads, theirs).unwrap();
    std::io::Write::write_all(&mut ours, &[7; 1000]).unwrap();
    // The worker has its own copy; the parent's went with the argument.
    drop(ours);
    assert_eq!(job.result().unwrap(), 1000);
}

#[test]
fn what_cannot_be_serialised_comes_back_with_the_reason() {
    #[derive(Debug, serde::Deserialize)]
    struct Stubborn;
    impl serde::Serialize for Stubborn {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("it will not"))
        }
    }
    fn take(_: Stubborn) {}
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    match pool.submit(take, Stubborn) {
        Err(SubmitError::Unsendable { error, .. }) => {
            assert!(error.to_string().contains("Stubborn"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// Keeps its process from ending, by a function that is called at its exit, until the
/// connection is closed.
fn lingers(stream: TcpStream) {
    static LEFT: std::sync::Mutex<Option<TcpStream>> = std::sync::Mutex::new(None);
    extern "C" fn linger() {
        let stream = LEFT.lock().unwrap().take().unwrap();
        let _ = std::io::Read::read(&mut &stream, &mut [0]);
    }
    *LEFT.lock().unwrap() = Some(stream);
    // SAFETY: the function may be called at any time.
    assert_eq!(unsafe { libc::atexit(linger) }, 0);
}

#[test]
fn who_waits_for_a_process_that_is_long_in_leaving_does_not_stop_others() {
    let _watchdog = watchdog();
    let pool = ProcessPoolExecutor::with_workers(1).unwrap();
    let (end, theirs) = pair();
    pool.submit(lingers, theirs).unwrap().join().unwrap();
    // Its turn comes when the process has been told to leave, and the thread that
    // looks after it has no more jobs.
    let ends = greenlet::spawn(move || {
        greenlet::sleep(50 * MS);
        drop(end);
    });
    pool.shutdown(true);
    assert!(ends.is_finished());
}

#[test]
fn no_workers_are_refused() {
    let error = ProcessPoolExecutor::with_workers(0).unwrap_err();
    assert_eq!(error.to_string(), "an executor needs at least one worker");
}

#[test]
fn the_child_of_a_fork_has_no_workers() {
    alone("the_child_of_a_fork_has_no_workers", || {
        let pool = ProcessPoolExecutor::with_workers(1).unwrap();
        let (job, _, end) = running_job(&pool);
        let code = fork(|| {
            let refused = matches!(pool.submit(square, 1), Err(SubmitError::Shutdown(1)));
            let lost = matches!(job.result(), Err(JoinError::Killed));
            pool.shutdown(true);
            i32::from(!(refused && lost))
        });
        assert_eq!(code, 0);
        drop(end);
        job.result().unwrap();
    });
}

#[test]
fn workers_end_when_the_process_does() {
    let finished = run_alone("workers_end_when_the_process_does", || {
        let pool = ProcessPoolExecutor::with_workers(1).unwrap();
        let (_job, pid, end) = running_job(&pool);
        println!("the worker is {pid}");
        std::mem::forget((pool, end));
        std::process::exit(0);
    });
    let Some(finished) = finished else { return };
    let (_, pid) = finished.stdout.split_once("the worker is ").unwrap();
    let pid: i32 = pid.lines().next().unwrap().parse().unwrap();
    let _watchdog = watchdog();
    // SAFETY: signal 0 asks whether the process is there.
    while unsafe { libc::kill(pid, 0) } == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}
