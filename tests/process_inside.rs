//! What it is like inside of another process.

mod common;

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, IntoRawFd};

use common::{alone, run_alone, watchdog};
use greenlet::net::UnixStream;
use greenlet::process;
use greenlet::{sleep, spawn};

/// A line of /proc/self/status or of a thread's, as a number in hexadecimal.
fn signals(of: &str, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What the descriptors of this process are, by their numbers.
fn descriptors() -> Vec<(i32, String)> {
    let files = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut all: Vec<(i32, String)> = files
        .filter_map(|file| {
            let path = file.unwrap().path();
            let link = std::fs::read_link(&path).ok()?;
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, link.to_string_lossy().into_owned()))
        })
        .collect();
    all.sort();
    all
}

#[test]
fn only_the_standard_descriptors_and_the_connection_reach_a_worker() {
    let _watchdog = watchdog();
    // SAFETY: the path ends with a zero byte. The descriptors are not closed by exec.
    let leaky = [(); 5].map(|()| unsafe { libc::open(c"/proc/version".as_ptr(), libc::O_RDONLY) });
    // SAFETY: a number that nobody else has.
    assert_eq!(unsafe { libc::dup2(leaky[0], 500) }, 500);
    let (mut ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let kept = _theirs.as_raw_fd();
    // SAFETY: clears the flag that would close it.
    unsafe { libc::fcntl(kept, libc::F_SETFD, 0) };
    let all = process::spawn(|()| descriptors(), ())
        .unwrap()
        .join()
        .unwrap();
    let numbers: Vec<i32> = all.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers[..4], [0, 1, 2, 3]);
    assert!(
        all.iter().all(|(_, link)| link != "/proc/version"),
        "{all:?}"
    );
    let sockets = all
        .iter()
        .skip(3)
        .filter(|(_, link)| link.starts_with("socket:"));
    assert_eq!(sockets.count(), 1, "{all:?}");
    for fd in leaky.into_iter().chain([500]) {
        // SAFETY: they were opened above.
        unsafe { libc::close(fd) };
    }
    // Nor does a program that the job starts get the connection.
    let list = |()| {
        let listed = std::process::Command::new("ls")
            .arg("/proc/self/fd")
            .output();
        String::from_utf8(listed.unwrap().stdout).unwrap()
    };
    let listed = process::spawn(list, ()).unwrap().join().unwrap();
    assert_eq!(
        listed.split_whitespace().collect::<Vec<_>>(),
        ["0", "1", "2", "3"]
    );
    let _ = ours.write_all(b"");
}

#[test]
fn closed_standard_descriptors_are_open_in_a_worker() {
    alone("closed_standard_descriptors_are_open_in_a_worker", || {
        // SAFETY: nobody reads from it.
        unsafe { libc::close(0) };
        let all = process::spawn(|()| descriptors(), ())
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(all[0], (0, "/dev/null".to_owned()));
        assert!(all[3].1.starts_with("socket:"), "{all:?}");
    });
}

#[test]
fn the_signals_of_a_worker_are_those_of_a_fresh_program() {
    alone(
        "the_signals_of_a_worker_are_those_of_a_fresh_program",
        || {
            extern "C" fn handler(_: i32) {}
            let handler: extern "C" fn(i32) = handler;
            // SAFETY: a handler that does nothing; masks and dispositions of this process alone.
            unsafe {
                libc::signal(libc::SIGUSR1, handler as usize);
                libc::signal(libc::SIGCHLD, libc::SIG_IGN);
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
            }
            let look = |()| {
                // The process's first thread may still be busy with starting this one.
                common::until(|| signals("self", "SigBlk:") == 0);
                let blocked = signals("thread-self", "SigBlk:");
                let ignored = signals("self", "SigIgn:");
                let caught = signals("self", "SigCgt:");
                (blocked, ignored, caught)
            };
            let (blocked, ignored, caught) = process::spawn(look, ()).unwrap().join().unwrap();
            assert_eq!(blocked, 0);
            // As of any program: what its parent ignores; and SIGPIPE, which std ignores.
            assert_eq!(ignored & bit(libc::SIGPIPE), bit(libc::SIGPIPE));
            assert_eq!(ignored & bit(libc::SIGHUP), bit(libc::SIGHUP));
            assert_eq!(ignored & bit(libc::SIGCHLD), 0);
            assert_eq!(caught & bit(libc::SIGUSR1), 0);
        },
    );
}

#[test]
fn writing_to_a_closed_pipe_is_an_error_and_not_the_end() {
    let _watchdog = watchdog();
    let write = |()| {
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(theirs);
        ours.set_nonblocking(true).unwrap();
        let fd = ours.as_raw_fd();
        // SAFETY: write(2), unlike send, raises SIGPIPE; it reads one byte.
        let written = unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) };
        let _ = ours.flush();
        written
    };
    assert_eq!(process::spawn(write, ()).unwrap().join().unwrap(), -1);
}

#[test]
fn what_a_job_prints_without_a_line_end_is_printed_when_it_ends() {
    let finished = run_alone(
        "what_a_job_prints_without_a_line_end_is_printed_when_it_ends",
        || {
            let print = |text: String| print!("[{text}]");
            process::spawn(print, "to the end".into())
                .unwrap()
                .join()
                .unwrap();
            let print_and_leave = |()| {
                print!("[before exit]");
                std::process::exit(3);
            };
            let child = process::spawn::<(), ()>(print_and_leave, ()).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(3));
        },
    );
    if let Some(finished) = finished {
        finished.succeeded();
        let said = &finished.stdout;
        assert!(said.contains("[to the end][before exit]"), "{said}");
    }
}

#[test]
fn the_program_and_its_surroundings_are_the_same() {
    let _watchdog = watchdog();
    let look = |()| {
        let mark = std::env::var_os("GREENLET_WORKER_OF").is_some();
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let arguments: Vec<String> = std::env::args().collect();
        let here = std::env::current_dir().unwrap();
        let exe = std::env::current_exe().unwrap();
        let path = std::env::var("PATH").ok();
        (mark, name, arguments, here, exe, path)
    };
    let (mark, name, arguments, here, exe, path) =
        process::spawn(look, ()).unwrap().join().unwrap();
    assert!(!mark, "a program that a job starts is no worker");
    let file = exe.file_name().unwrap().to_string_lossy().into_owned();
    assert!(file.starts_with(name.trim()), "{name}");
    assert_eq!(arguments, std::env::args().collect::<Vec<_>>());
    assert_eq!(here, std::env::current_dir().unwrap());
    assert_eq!(exe, std::env::current_exe().unwrap());
    assert_eq!(path, std::env::var("PATH").ok());
}

#[test]
fn greenlets_threads_and_signals_work_in_a_worker() {
    let _watchdog = watchdog();
    let work = |mut stream: UnixStream| {
        let name = std::thread::current().name().unwrap().to_owned();
        let thread = std::thread::spawn(|| spawn(|| sleep(common::MS)).join().is_ok());
        let all: u32 = greenlet::joinall((0..100).map(|n| spawn(move || n)))
            .into_iter()
            .map(Result::unwrap)
            .sum();
        let signals = greenlet::signal::Signals::new(&[libc::SIGTERM]).unwrap();
        stream.write_all(b"!").unwrap();
        let signal = signals.wait().unwrap();
        (name, thread.join().unwrap(), all, signal)
    };
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let child = process::spawn(work, theirs).unwrap();
    ours.read_exact(&mut [0]).unwrap();
    child.terminate().unwrap();
    let expected = ("worker".to_owned(), true, 4950, libc::SIGTERM);
    assert_eq!(child.join().unwrap(), expected);
}

/// Constructors of the program, beside that of the crate.
mod constructors {
    use std::sync::atomic::{AtomicU32, Ordering};

    pub static CALLED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn construct() {
        CALLED.fetch_add(1, Ordering::SeqCst);
    }

    #[used]
    #[unsafe(link_section = ".init_array")]
    static ONE: extern "C" fn() = construct;
    #[used]
    #[unsafe(link_section = ".init_array.00200")]
    static EARLY: extern "C" fn() = construct;
    #[used]
    #[unsafe(link_section = ".init_array.65535")]
    static LATE: extern "C" fn() = construct;
}

#[test]
fn all_constructors_of_the_program_have_run_before_a_job() {
    let _watchdog = watchdog();
    let called = || constructors::CALLED.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(called(), 3);
    let in_worker = |()| constructors::CALLED.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(process::spawn(in_worker, ()).unwrap().join().unwrap(), 3);
}

#[test]
fn a_job_has_as_much_stack_as_main_has() {
    let _watchdog = watchdog();
    fn deep(n: u32) -> u64 {
        let big = std::hint::black_box([n as u8; 64 << 10]);
        match n {
            0 => 0,
            n => deep(n - 1) + u64::from(big[7]),
        }
    }
    // More than the two megabytes of std's threads.
    assert!(process::spawn(deep, 60).unwrap().join().is_ok());
    let _ = std::fs::File::open("/dev/null").map(IntoRawFd::into_raw_fd);
}
