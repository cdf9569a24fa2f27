//! `process::spawn`: a function in another process, and how it ends.

mod common;

use std::io::Read;
use std::os::unix::process::ExitStatusExt;

use common::{MS, alone, fork, run_alone, until, watchdog};
use greenlet::error::JoinError;
use greenlet::net::UnixStream;
use greenlet::process::error::{ProcessError, SpawnError};
use greenlet::process::{self, Child};
use greenlet::{joinall, sleep, spawn};
use serde::{Deserialize, Serialize};

fn double(n: u64) -> u64 {
    n * 2
}

fn own_pid((): ()) -> u32 {
    std::process::id()
}

/// Says that it has begun, and waits until it may go on.
fn begin_and_wait(mut stream: UnixStream) -> String {
    use std::io::Write;
    stream.write_all(b"!").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

/// A child that has begun and goes on when the stream is closed.
fn begun() -> (Child<String>, UnixStream) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let child = process::spawn(begin_and_wait, theirs).unwrap();
    ours.read_exact(&mut [0]).unwrap();
    (child, ours)
}

/// The job's process has ended in this way.
#[track_caller]
fn ended(result: Result<impl Sized, JoinError>) -> std::process::ExitStatus {
    match result.map(drop) {
        Err(JoinError::Process(ProcessError::Ended { status, .. })) => status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_function_is_called_in_another_process_and_its_result_comes_back() {
    let _watchdog = watchdog();
    let child = process::spawn(double, 21).unwrap();
    assert_eq!(child.join().unwrap(), 42);
    let child = process::spawn(own_pid, ()).unwrap();
    let pid = child.pid();
    assert_ne!(pid, std::process::id());
    assert_eq!(child.join().unwrap(), pid);
    // A closure that captures nothing is a function.
    let child = process::spawn(|text: String| text.len(), "four".to_owned()).unwrap();
    assert_eq!(child.join().unwrap(), 4);
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
enum Milk {
    None,
    Some {
        litres: f64,
        kinds: Vec<(u8, String)>,
    },
}

#[test]
fn values_of_any_shape_go_there_and_back() {
    let _watchdog = watchdog();
    let milk = Milk::Some {
        litres: 0.5,
        kinds: vec![(1, "oat".into()), (2, String::new())],
    };
    let child = process::spawn(
        |milk: Vec<Option<Milk>>| milk,
        vec![Some(milk.clone()), None],
    );
    assert_eq!(child.unwrap().join().unwrap(), [Some(milk), None]);
    let child = process::spawn(|m: Result<Milk, ()>| m, Err(())).unwrap();
    assert_eq!(child.join().unwrap(), Err(()));
    assert_eq!(process::spawn(|()| (), ()).unwrap().join().unwrap(), ());
    let child = process::spawn(|m: Milk| m == Milk::None, Milk::None).unwrap();
    assert!(child.join().unwrap());
}

#[test]
fn many_megabytes_go_there_and_back() {
    let _watchdog = watchdog();
    let text: String = (0..1_000_000u32)
        .map(|n| char::from(b'a' + (n % 23) as u8))
        .collect();
    let text = text.repeat(30);
    let child = process::spawn(|text: String| text, text.clone()).unwrap();
    assert!(child.join().unwrap() == text);
    // Around the length at which a body does not travel in the packet any more.
    for len in [32_760, 32_764, 32_765, 32_766, 32_768, 32_769, 32_800] {
        let text = text[..len].to_owned();
        let child = process::spawn(|text: String| text, text.clone()).unwrap();
        assert!(child.join().unwrap() == text, "{len}");
    }
}

#[test]
fn other_greenlets_run_while_one_waits_for_a_process() {
    let _watchdog = watchdog();
    let (child, stream) = begun();
    let waiter = spawn(move || child.join().unwrap());
    let other = spawn(move || {
        // The process ends only after this one has run.
        sleep(MS);
        drop(stream);
        "ran"
    });
    assert_eq!(waiter.join().unwrap(), "");
    assert!(other.is_finished());
}

#[test]
fn a_plain_thread_may_spawn_and_another_one_wait() {
    let _watchdog = watchdog();
    let child = std::thread::spawn(|| process::spawn(double, 4).unwrap());
    let child = child.join().unwrap();
    let joined = std::thread::spawn(move || child.join().unwrap());
    assert_eq!(joined.join().unwrap(), 8);
}

#[test]
fn many_processes_run_at_the_same_time() {
    let _watchdog = watchdog();
    let all: Vec<_> = (0..12).map(|_| begun()).collect();
    let waiters = all.into_iter().map(|(child, stream)| {
        drop(stream);
        spawn(move || child.join().unwrap())
    });
    for result in joinall(waiters.collect::<Vec<_>>()) {
        assert_eq!(result.unwrap(), "");
    }
}

#[test]
fn several_greenlets_and_threads_may_wait_for_the_same_process() {
    let _watchdog = watchdog();
    let (child, stream) = begun();
    let child = std::sync::Arc::new(child);
    assert!(child.try_wait().unwrap().is_none());
    assert!(child.wait_timeout(MS).unwrap().is_none());
    let wait = |child: &std::sync::Arc<Child<String>>| {
        let child = child.clone();
        move || child.wait().unwrap().code()
    };
    let greenlets = [spawn(wait(&child)), spawn(wait(&child))];
    let threads = [
        std::thread::spawn(wait(&child)),
        std::thread::spawn(wait(&child)),
    ];
    sleep(MS);
    drop(stream);
    assert!(
        joinall(greenlets)
            .into_iter()
            .all(|code| code.unwrap() == Some(0))
    );
    assert!(
        threads
            .into_iter()
            .all(|thread| thread.join().unwrap() == Some(0))
    );
    // The result is still there.
    let child = std::sync::Arc::into_inner(child).unwrap();
    assert_eq!(child.try_wait().unwrap().unwrap().code(), Some(0));
    assert_eq!(child.join().unwrap(), "");
}

#[test]
fn waiting_for_the_exit_status_takes_a_long_result_in() {
    let _watchdog = watchdog();
    // So many descriptors fill more packets than the connection holds.
    let many = |n: usize| -> Vec<UnixStream> {
        let pair = || UnixStream::pair().unwrap().0;
        std::iter::repeat_with(pair).take(n).collect()
    };
    let child = process::spawn(many, 3000).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(child.join().unwrap().len(), 3000);
    let child = process::spawn(many, 1000).unwrap();
    until(|| child.try_wait().unwrap().is_some());
}

fn panics(text: String) {
    panic!("{text}");
}

#[test]
fn a_panic_comes_back_with_its_message_and_ends_only_that_process() {
    let finished = run_alone(
        "a_panic_comes_back_with_its_message_and_ends_only_that_process",
        || {
            let child = process::spawn(panics, "no milk".to_owned()).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(101));
            let error = child.join().unwrap_err();
            assert!(error.is_panic());
            assert_eq!(error.to_string(), "the greenlet panicked: no milk");
            let child = process::spawn(|()| -> u8 { std::panic::panic_any(7) }, ()).unwrap();
            assert!(child.join().unwrap_err().is_panic());
            let dead = |()| greenlet::sync::Event::new().wait();
            let error = process::spawn(dead, ()).unwrap().join().unwrap_err();
            assert!(
                error.is_panic() && error.to_string().contains("deadlock"),
                "{error}"
            );
        },
    );
    if let Some(finished) = finished {
        finished.succeeded();
        finished.said("thread 'worker' (");
        finished.said("no milk");
    }
}

#[test]
fn a_process_that_leaves_by_itself_gives_its_exit_status() {
    let _watchdog = watchdog();
    let leave = |code: i32| std::process::exit(code);
    for code in [3, 0] {
        let child: Child<()> = process::spawn(leave, code).unwrap();
        let pid = child.pid();
        let error = child.join().unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("exit status: {code}")), "{text}");
        assert!(text.contains(&pid.to_string()), "{text}");
        assert_eq!(ended(Err::<(), _>(error)).code(), Some(code));
    }
}

#[test]
fn a_process_that_is_killed_in_the_middle_of_its_job_names_the_signal() {
    let _watchdog = watchdog();
    let (child, _stream) = begun();
    // SAFETY: a signal to a child that has not been waited for.
    assert_eq!(unsafe { libc::kill(child.pid() as i32, libc::SIGKILL) }, 0);
    let error = child.join().unwrap_err();
    assert!(error.to_string().contains("signal: 9 (SIGKILL)"), "{error}");
    assert_eq!(ended(Err::<(), _>(error)).signal(), Some(libc::SIGKILL));
}

#[test]
fn kill_and_terminate_end_it() {
    let _watchdog = watchdog();
    let (child, _stream) = begun();
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    child.kill().unwrap();
    child.terminate().unwrap();
    assert_eq!(ended(child.join()).signal(), Some(libc::SIGKILL));
    let (child, _stream) = begun();
    child.terminate().unwrap();
    assert_eq!(ended(child.join()).signal(), Some(libc::SIGTERM));
}

#[test]
fn a_result_counts_whatever_becomes_of_the_process_afterwards() {
    let _watchdog = watchdog();
    let crash_at_exit = |n: u8| {
        extern "C" fn crash() {
            // SAFETY: raise has no preconditions.
            unsafe { libc::raise(libc::SIGKILL) };
        }
        // SAFETY: the function lives for ever.
        unsafe { libc::atexit(crash) };
        n + 1
    };
    let child = process::spawn(crash_at_exit, 1).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(child.join().unwrap(), 2);
}

#[test]
fn a_kill_of_the_greenlet_that_waits_leaves_the_process_alone() {
    let _watchdog = watchdog();
    let (child, stream) = begun();
    let child = std::rc::Rc::new(child);
    let waiter = spawn({
        let child = child.clone();
        move || child.wait().map(drop)
    });
    sleep(MS);
    waiter.kill_wait();
    assert!(greenlet::timeout(MS, || child.wait()).is_err());
    drop(stream);
    assert!(child.wait().unwrap().success());
    assert_eq!(std::rc::Rc::into_inner(child).unwrap().join().unwrap(), "");
}

/// Whether it is a process that has ended and was not waited for.
fn exists(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn dropping_the_handle_lets_the_process_go_on_and_leaves_no_zombie() {
    let _watchdog = watchdog();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let go_on = |mut stream: UnixStream| {
        use std::io::Write;
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"went on").unwrap();
    };
    let child = process::spawn(go_on, theirs).unwrap();
    let pid = child.pid();
    drop(child);
    std::io::Write::write_all(&mut ours, b"?").unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "went on");
    until(|| !exists(pid));
    // One that has ended by the time its handle is dropped, and many at once.
    let child = process::spawn(double, 1).unwrap();
    child.wait().unwrap();
    assert!(!exists(child.pid()));
    drop(child);
    let pids: Vec<u32> = (0..10)
        .map(|n| process::spawn(double, n).unwrap().pid())
        .collect();
    until(|| !pids.iter().any(|pid| exists(*pid)));
}

#[test]
fn a_process_ends_when_its_parent_dies_whatever_it_is_doing() {
    let finished = run_alone(
        "a_process_ends_when_its_parent_dies_whatever_it_is_doing",
        || {
            let _ends_with_the_process = [begun(), begun()];
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let compute = |mut stream: UnixStream| -> () {
                std::io::Write::write_all(&mut stream, b"!").unwrap();
                loop {
                    std::hint::spin_loop();
                }
            };
            drop(process::spawn(compute, theirs).unwrap());
            ours.read_exact(&mut [0]).unwrap();
            // SAFETY: raise has no preconditions.
            unsafe { libc::raise(libc::SIGKILL) };
        },
    );
    // That this returns shows it: its end waits for all who hold the subprocess's standard output.
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGKILL);
    }
}

#[test]
fn a_process_may_spawn_processes_and_takes_them_with_it() {
    let _watchdog = watchdog();
    let outer = |n: u64| process::spawn(double, n).unwrap().join().unwrap() + 1;
    assert_eq!(process::spawn(outer, 4).unwrap().join().unwrap(), 9);
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let outer = |stream: UnixStream| {
        let (child, _stream) = begun_with(stream);
        child.join().unwrap();
    };
    let outer = process::spawn(outer, theirs).unwrap();
    let mut pid = [0; 4];
    ours.read_exact(&mut pid).unwrap();
    let pid = u32::from_ne_bytes(pid);
    assert!(exists(pid));
    outer.kill().unwrap();
    // It holds the other end of our stream.
    assert_eq!(ours.read(&mut [0]).unwrap(), 0);
}

/// A process inside of a process, which tells its number and waits.
fn begun_with(stream: UnixStream) -> (Child<()>, UnixStream) {
    let inner = |mut stream: UnixStream| {
        let pid = std::process::id().to_ne_bytes();
        std::io::Write::write_all(&mut stream, &pid).unwrap();
        sleep(std::time::Duration::MAX);
    };
    let copy = stream.try_clone().unwrap();
    (process::spawn(inner, copy).unwrap(), stream)
}

#[test]
fn after_a_fork_the_processes_are_the_parents() {
    alone("after_a_fork_the_processes_are_the_parents", || {
        let (child, stream) = begun();
        let (joined, _stream) = begun();
        let code = fork(|| {
            let forked = "belongs to the process that this one was forked from";
            assert!(child.wait().unwrap_err().to_string().contains(forked));
            assert!(child.kill().unwrap_err().to_string().contains(forked));
            // The child of a fork has processes of its own.
            assert_eq!(process::spawn(double, 3).unwrap().join().unwrap(), 6);
            let error = joined.join().unwrap_err();
            assert!(
                matches!(error, JoinError::Process(ProcessError::Forked)),
                "{error}"
            );
            0
        });
        assert_eq!(code, 0);
        assert!(child.try_wait().unwrap().is_none(), "it was left alone");
        drop(stream);
        assert_eq!(child.join().unwrap(), "");
    });
}

#[test]
fn a_job_may_fork() {
    let _watchdog = watchdog();
    let forks = |mut stream: UnixStream| {
        // SAFETY: the child returns at once, and leaves.
        if unsafe { libc::fork() } == 0 {
            std::io::Write::write_all(&mut stream, b"child").unwrap();
            return 0;
        }
        1
    };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let child = process::spawn(forks, theirs).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "child");
    assert_eq!(child.join().unwrap(), 1, "the child's answer is nobody's");
    // Whoever it has forked does not keep the end of the process from being seen.
    let forks_and_dies = |mut stream: UnixStream| {
        // SAFETY: the child only waits, and the parent leaves.
        match unsafe { libc::fork() } {
            0 => drop(stream.read(&mut [0])),
            _ => std::process::exit(5),
        }
    };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = process::spawn(forks_and_dies, theirs).unwrap();
    assert_eq!(ended(child.join()).code(), Some(5));
    drop(ours);
}

#[test]
fn a_status_that_somebody_else_has_taken_is_an_error_that_says_so() {
    alone(
        "a_status_that_somebody_else_has_taken_is_an_error_that_says_so",
        || {
            let (child, _stream) = begun();
            child.kill().unwrap();
            common::reap(child.pid() as i32);
            assert_eq!(child.wait().unwrap_err().raw_os_error(), Some(libc::ECHILD));
            let error = child.join().unwrap_err();
            assert!(
                matches!(error, JoinError::Process(ProcessError::Lost { .. })),
                "{error}"
            );
            // A result needs no status.
            // SAFETY: ignoring installs no handler.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            assert_eq!(process::spawn(double, 3).unwrap().join().unwrap(), 6);
            let leave = |()| std::process::exit(1);
            let error = process::spawn::<(), ()>(leave, ())
                .unwrap()
                .join()
                .unwrap_err();
            assert!(error.to_string().contains("SIGCHLD is ignored"), "{error}");
        },
    );
}

#[test]
fn without_descriptors_there_is_an_error_and_no_process() {
    alone(
        "without_descriptors_there_is_an_error_and_no_process",
        || {
            process::spawn(double, 1).unwrap().join().unwrap();
            let mut all = Vec::new();
            let limit = libc::rlimit {
                rlim_cur: 64,
                rlim_max: 64,
            };
            // SAFETY: a valid limit.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
            while let Ok(file) = std::fs::File::open("/dev/null") {
                all.push(file);
            }
            for _ in 0..6 {
                let error = match process::spawn(double, 1) {
                    Ok(_) => break,
                    Err(error) => error,
                };
                assert!(matches!(error, SpawnError::System(_)), "{error}");
                assert!(error.to_string().contains("Too many open files"), "{error}");
                all.pop();
            }
            all.clear();
            assert_eq!(process::spawn(double, 2).unwrap().join().unwrap(), 4);
        },
    );
}
