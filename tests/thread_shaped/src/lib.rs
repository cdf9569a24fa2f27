//! What the tests share: each runs in a process of its own, which has one thread. It runs
//! twice: the threads that it makes are threads of the OS, and then they are greenlets.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::time::Duration;
use std::{env, panic};

pub const MS: Duration = Duration::from_millis(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// A test by its name, which is a fact, and how its process ends.
pub type Test = (&'static str, End, fn());

/// How a test's process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Well,
    /// By abort, with a report that names the greenlet "stuck" and its wait.
    Aborted(&'static str),
}

/// Seconds until a process that hangs is ended.
const LIMIT: u32 = 30;

/// Runs the tests whose names have one of the program's arguments in them, or all.
pub fn run(tests: &[Test]) {
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    for (name, end, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        for threads in [false, true] {
            let (code, said) = in_child(threads, *test);
            let as_expected = match end {
                End::Well => code == 0,
                End::Aborted(wait) => {
                    code == -libc::SIGABRT
                        && said.contains(&format!("the greenlet \"stuck\" waits in {wait}"))
                        && said.contains("spawn_isolated")
                }
            };
            let whose = if threads { "greenlets" } else { "OS threads" };
            assert!(
                as_expected,
                "{name} (threads are {whose}) ended with {code} and said:\n{said}"
            );
        }
        println!("test {name} ... ok");
    }
}

/// Runs it in a child process; its exit code, or minus the signal that has ended it,
/// and what it wrote to its standard error.
fn in_child(threads: bool, body: fn()) -> (i32, String) {
    let mut ends = [0; 2];
    // SAFETY: the call writes two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: they were just made.
    let [mut said, theirs] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: without a handler SIGALRM ends the process.
        unsafe {
            libc::dup2(theirs.as_raw_fd(), 2);
            libc::alarm(LIMIT);
        }
        let ended = panic::catch_unwind(|| {
            let threads = threads && greenlet::isolation().is_ok();
            let patch = greenlet::monkey::Patch::new().threads(threads);
            patch.apply().expect("the program owns its symbols");
            body();
        });
        // SAFETY: it has no preconditions.
        unsafe { libc::_exit(i32::from(ended.is_err())) }
    }
    drop(theirs);
    let mut text = String::new();
    said.read_to_string(&mut text).expect("it writes text");
    let mut status = 0;
    // SAFETY: the child is ours, and the status a live variable.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    match libc::WIFEXITED(status) {
        true => (libc::WEXITSTATUS(status), text),
        false => (-libc::WTERMSIG(status), text),
    }
}

/// The greenlet that the report has to name.
pub fn stuck(body: impl FnOnce() + 'static) -> greenlet::JoinHandle<()> {
    let builder = greenlet::Builder::new().name("stuck");
    builder.spawn(body).expect("there is a stack for it")
}

/// Joins them all, and passes on their panics.
pub fn join_all(greenlets: impl IntoIterator<Item = greenlet::JoinHandle<()>>) {
    for ended in greenlet::joinall(greenlets) {
        ended.expect("a greenlet has panicked");
    }
}
