//! What several test files share.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

/// Ends the process with a message if a test hangs, until it is dropped.
pub struct Watchdog {
    _alive: Sender<()>,
}

/// Watches the test that calls it.
#[must_use]
pub fn watchdog() -> Watchdog {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let (alive, gone): (Sender<()>, Receiver<()>) = channel();
    std::thread::spawn(move || {
        if gone.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
            eprintln!("watchdog: {name} has been hanging for 60 s");
            std::process::abort();
        }
    });
    Watchdog { _alive: alive }
}

/// Runs `body` in a process of its own: this test binary, started again for the
/// test `name` alone. For what ends the process, or needs it to itself.
pub fn in_subprocess(name: &str, body: impl FnOnce()) -> Option<Output> {
    const MARK: &str = "GREENLET_TEST_SUBPROCESS";
    if std::env::var_os(MARK).is_some() {
        let _watchdog = watchdog();
        body();
        return None;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    Some(output)
}

/// As `in_subprocess`, for a body that is expected to succeed.
pub fn alone(name: &str, body: impl FnOnce()) {
    if let Some(output) = in_subprocess(name, body) {
        assert!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// Forks; the child runs `body` and leaves with the code that it returns.
/// Returns how the child ended: its code, or minus the signal's number.
pub fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs on with this thread alone, and what it calls is
    // prepared for that.
    match unsafe { libc::fork() } {
        0 => {
            let code = body();
            // SAFETY: _exit has no preconditions.
            unsafe { libc::_exit(code) }
        }
        child => reap(child),
    }
}

/// Waits for a child process; blocks the thread.
pub fn reap(child: i32) -> i32 {
    assert!(child > 0, "fork failed");
    let mut status = 0;
    // SAFETY: the status is a live variable.
    let reaped = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(reaped, child);
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        -libc::WTERMSIG(status)
    }
}

/// How many threads this process has.
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}
