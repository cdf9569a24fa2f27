//! Waiting for processes under `patch_all`, by std and by libc's own functions:
//! `Command`, `wait` and its kin, and what fork, exec and abort do.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/interposed.rs"]
mod interposed;
#[path = "common/patched.rs"]
mod patched;

use std::cell::Cell;
use std::ffi::{CString, c_char, c_int};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::time::Duration;

use common::{MS, alone, alone_unwatched, fork, run_alone};
use greenlet::spawn;
use interposed::{Gate, outcome, pipe};
use libc::{pid_t, rusage};
use patched::{Ticker, errno, patched, set_errno};

unsafe extern "C" {
    fn wait3(status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t;
    fn __waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t;
    fn __wait(status: *mut c_int) -> pid_t;
    fn pclose(stream: *mut libc::FILE) -> c_int;
    fn popen(command: *const c_char, mode: *const c_char) -> *mut libc::FILE;
    fn system(command: *const c_char) -> c_int;
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null());
    command
}

/// A child that is there until it is killed.
fn lasting() -> pid_t {
    // Nobody opens this gate.
    Gate::new().child(0)
}

/// A child that ends at once with this code.
fn short(code: i32) -> pid_t {
    // SAFETY: the child calls one function, which is safe after a fork.
    match unsafe { libc::fork() } {
        // SAFETY: as above.
        0 => unsafe { libc::_exit(code) },
        child => child,
    }
}

fn send(child: pid_t, signal: c_int) {
    // SAFETY: a child of this process, not yet waited for.
    assert_eq!(unsafe { libc::kill(child, signal) }, 0);
}

/// Descriptors that are open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Runs `f` with a script that waits until the thread has gone on for a while.
#[track_caller]
fn meanwhile<R>(ticker: &Ticker, script: &str, f: impl FnOnce(Command) -> R) -> R {
    let gate = Gate::new();
    let opener = gate.open_after(ticker);
    let result = ticker.ticks_during(|| f(shell(&gate.then(script))));
    opener.join().unwrap();
    result
}

#[test]
fn stds_command_parks_the_greenlet() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    meanwhile(&ticker, "exit 3", |mut command| {
        let mut child = command.spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        assert_eq!(child.wait().unwrap().code(), Some(3));
        assert_eq!(child.wait().unwrap().code(), Some(3));
    });
    let status = meanwhile(&ticker, "kill -9 $$", |mut command| command.status());
    assert_eq!(status.unwrap().signal(), Some(9));
}

#[test]
fn stds_output_reads_both_pipes_and_parks_the_greenlet() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let output = meanwhile(&ticker, "echo out; echo err >&2", |mut command| {
        command.output()
    });
    let output = output.unwrap();
    assert!(output.status.success());
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"out\n"[..], &b"err\n"[..])
    );
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // More than a pipe holds, in both directions at once.
    let mut input = cat.stdin.take().unwrap();
    let writer = ticker.after(move || input.write_all(&[b'x'; 300_000]).unwrap());
    let output = ticker.ticks_during(|| cat.wait_with_output().unwrap());
    writer.join().unwrap();
    assert_eq!(output.stdout, [b'x'; 300_000]);
}

#[test]
fn a_hundred_children_are_waited_for_at_once_and_leave_no_descriptor() {
    alone_unwatched(
        "a_hundred_children_are_waited_for_at_once_and_leave_no_descriptor",
        || {
            let _watchdog = patched();
            let ticker = Ticker::new();
            // The reactor's own.
            assert!(meanwhile(&ticker, "", |mut command| command.status()).is_ok());
            let (before, threads) = (descriptors(), common::threads());
            let gate = Gate::new();
            let ended = Rc::new(Cell::new(0));
            let greenlets: Vec<_> = (0..100)
                .map(|number| {
                    let (ended, gate) = (Rc::clone(&ended), gate.clone());
                    spawn(move || {
                        let child = gate.child(number);
                        let mut status = 0;
                        // SAFETY: a live variable.
                        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                        assert_eq!(libc::WEXITSTATUS(status), number);
                        ended.set(ended.get() + 1);
                    })
                })
                .collect();
            let opener = gate.open_after(&ticker);
            ticker.ticks_during(|| {
                for greenlet in greenlets {
                    greenlet.join().unwrap();
                }
            });
            opener.join().unwrap();
            assert_eq!((ended.get(), descriptors()), (100, before));
            assert_eq!(common::threads(), threads);
        },
    );
}

#[test]
fn pre_exec_runs_in_a_real_fork_where_calls_are_libcs() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let (reader, writer) = pipe();
    let gate = Gate::new();
    let opener = gate.open_after(&ticker);
    let mut command = shell(&gate.then("exit 7"));
    // SAFETY: what it calls is safe after a fork.
    unsafe {
        command.pre_exec(move || {
            libc::usleep(10_000);
            assert_eq!(libc::write(writer, b"child".as_ptr().cast(), 5), 5);
            assert_eq!(libc::dup2(writer, 100), 100);
            libc::close(100);
            Ok(())
        });
    }
    let status = ticker.ticks_during(|| command.status().unwrap());
    opener.join().unwrap();
    assert_eq!(status.code(), Some(7));
    let mut text = [0; 8];
    // SAFETY: a live buffer.
    let read = unsafe { libc::read(reader, text.as_mut_ptr().cast(), 8) };
    assert_eq!(read, 5);
    assert_eq!(&text[..5], b"child");
    // An error that it answers comes back through a socket.
    let mut command = shell("exit 0");
    // SAFETY: as above.
    unsafe { command.pre_exec(|| Err(std::io::Error::from_raw_os_error(libc::EDOM))) };
    assert_eq!(
        command.spawn().unwrap_err().raw_os_error(),
        Some(libc::EDOM)
    );
    interposed::close(reader);
    interposed::close(writer);
}

/// Every function that waits for one child, and for any.
#[test]
fn each_function_waits_and_says_what_the_kernel_says() {
    alone("each_function_waits_and_says_what_the_kernel_says", || {
        let _watchdog = patched();
        let ticker = Ticker::new();
        let mut status = 0;
        let place = &raw mut status;
        let mut usage = MaybeUninit::<rusage>::zeroed();
        let used = usage.as_mut_ptr();
        type Wait<'a> = (&'a str, Box<dyn Fn(pid_t) -> pid_t + 'a>);
        // SAFETY: the pointers are those of live variables.
        let all: [Wait; 12] = unsafe {
            [
                ("waitpid", Box::new(|pid| libc::waitpid(pid, place, 0))),
                ("__waitpid", Box::new(|pid| __waitpid(pid, place, 0))),
                ("wait4", Box::new(|pid| libc::wait4(pid, place, 0, used))),
                (
                    "wait4 changes",
                    Box::new(|pid| libc::wait4(pid, place, libc::WUNTRACED, used)),
                ),
                ("wait", Box::new(|_| libc::wait(place))),
                ("__wait", Box::new(|_| __wait(place))),
                ("wait3", Box::new(|_| wait3(place, 0, used))),
                ("waitpid any", Box::new(|_| libc::waitpid(-1, place, 0))),
                ("waitpid group", Box::new(|_| libc::waitpid(0, place, 0))),
                (
                    "waitpid this group",
                    Box::new(|_| libc::waitpid(-libc::getpgrp(), place, 0)),
                ),
                (
                    "waitpid all",
                    Box::new(|_| libc::waitpid(-1, place, libc::__WALL)),
                ),
                (
                    "wait4 of any",
                    Box::new(|_| libc::wait4(-1, place, libc::WCONTINUED, used)),
                ),
            ]
        };
        for (name, wait) in &all {
            // In a static program the second names are glibc's.
            if cfg!(target_feature = "crt-static") && name.starts_with("__") {
                continue;
            }
            let gate = Gate::new();
            let (child, opener) = (gate.child(9), gate.open_after(&ticker));
            assert_eq!(ticker.ticks_during(|| wait(child)), child, "{name}");
            opener.join().unwrap();
            // SAFETY: read while nobody writes.
            let status = unsafe { place.read() };
            assert!(
                libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 9,
                "{name}"
            );
            assert_eq!(wait(child), -1, "{name}");
            assert_eq!(errno(), libc::ECHILD, "{name}");
        }
        // SAFETY: zeroed, and written.
        assert!(unsafe { usage.assume_init() }.ru_maxrss > 0);

        for (of, name) in [
            (libc::P_PID, "P_PID"),
            (libc::P_ALL, "P_ALL"),
            (libc::P_PGID, "P_PGID"),
            (libc::P_PIDFD, "P_PIDFD"),
        ] {
            for with_info in [true, false] {
                let gate = Gate::new();
                let (child, opener) = (gate.child(5), gate.open_after(&ticker));
                // SAFETY: as documented; live variables.
                unsafe {
                    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
                    let pidfd = libc::syscall(libc::SYS_pidfd_open, child, 0) as c_int;
                    let id = match of {
                        libc::P_PID => child as u32,
                        libc::P_PGID => libc::getpgrp() as u32,
                        libc::P_PIDFD => pidfd as u32,
                        _ => 0,
                    };
                    let place = match with_info {
                        true => info.as_mut_ptr(),
                        false => ptr::null_mut(),
                    };
                    // First without taking it in.
                    let peek = libc::WEXITED | libc::WNOWAIT;
                    let peeked = ticker.ticks_during(|| libc::waitid(of, id, place, peek));
                    assert_eq!(peeked, 0, "{name}");
                    opener.join().unwrap();
                    assert_eq!(libc::waitid(of, id, place, libc::WEXITED), 0, "{name}");
                    let info = info.assume_init();
                    if with_info {
                        let told = (info.si_pid(), info.si_status(), info.si_code);
                        assert_eq!(told, (child, 5, libc::CLD_EXITED), "{name}");
                    }
                    assert_eq!(libc::waitid(of, id, place, libc::WEXITED), -1, "{name}");
                    assert_eq!(errno(), libc::ECHILD, "{name}");
                    interposed::close(pidfd);
                }
            }
        }
    });
}

#[test]
fn a_wait_for_any_takes_in_nobody_that_was_not_asked_for() {
    alone(
        "a_wait_for_any_takes_in_nobody_that_was_not_asked_for",
        || {
            let _watchdog = patched();
            let ticker = Ticker::new();
            let gate = Gate::new();
            let mut in_a_group = shell(&gate.then("exit 4"));
            let mut in_a_group = in_a_group.process_group(0).spawn().unwrap();
            let group = in_a_group.id() as pid_t;
            let other = short(6);
            let opener = gate.open_after(&ticker);
            let mut status = 0;
            // SAFETY: a live variable.
            let first = ticker.ticks_during(|| unsafe { libc::waitpid(-group, &mut status, 0) });
            assert_eq!((first, libc::WEXITSTATUS(status)), (group, 4));
            let again = in_a_group.wait().unwrap_err();
            assert_eq!(again.raw_os_error(), Some(libc::ECHILD));
            opener.join().unwrap();
            // It has most likely ended long before, and is still there for who asks.
            // SAFETY: as above.
            assert_eq!(unsafe { libc::waitpid(other, &mut status, 0) }, other);
            assert_eq!(libc::WEXITSTATUS(status), 6);
            // SIGCHLD is nobody's.
            let mut action = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: it only asks.
            let action = unsafe {
                libc::sigaction(libc::SIGCHLD, ptr::null(), action.as_mut_ptr());
                action.assume_init()
            };
            assert_eq!(action.sa_sigaction, libc::SIG_DFL);
        },
    );
}

#[test]
fn children_that_stop_and_go_on_are_told_of() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let child = lasting();
    let mut status = 0;
    let place = &raw mut status;
    let later = |signal| ticker.after(move || send(child, signal));
    // SAFETY: a live variable.
    let wait = |options| ticker.ticks_during(|| unsafe { libc::waitpid(child, place, options) });
    // SAFETY: as above.
    let status = || unsafe { place.read() };
    let both = libc::WUNTRACED | libc::WCONTINUED;
    let signal = later(libc::SIGSTOP);
    assert_eq!(wait(both), child);
    assert!(libc::WIFSTOPPED(status()));
    signal.join().unwrap();
    let signal = later(libc::SIGCONT);
    assert_eq!(wait(both), child);
    assert!(libc::WIFCONTINUED(status()));
    signal.join().unwrap();
    let signal = later(libc::SIGKILL);
    assert_eq!(wait(both), child);
    assert!(libc::WIFSIGNALED(status()));
    signal.join().unwrap();
}

/// The same arguments to the interposed call, in a greenlet, and to the kernel.
#[test]
fn every_refusal_is_the_kernels() {
    alone("every_refusal_is_the_kernels", || {
        let _watchdog = patched();
        let ticker = Ticker::new();
        let bad = ptr::without_provenance_mut::<c_int>(8);
        let bad_usage = ptr::without_provenance_mut::<rusage>(8);
        let null = ptr::null_mut::<rusage>();
        // SAFETY: bad pointers are answered, and the rest are numbers.
        unsafe {
            for pid in [1, -1, 0, -1234, i32::MIN, i32::MAX, libc::getpid()] {
                for options in [
                    0,
                    1,
                    0x0fff_ffff,
                    64,
                    libc::WUNTRACED,
                    libc::__WALL,
                    i32::MIN,
                ] {
                    let ours = outcome(libc::wait4(pid, ptr::null_mut(), options, null));
                    let zero = 0usize;
                    let raw = libc::syscall(libc::SYS_wait4, pid, zero, options, zero);
                    assert_eq!(ours, outcome(raw), "{pid} {options}");
                }
            }
            for of in [0, 1, 2, 3, 4, 99] {
                for id in [0u32, 1, 5, 1000, u32::MAX] {
                    for options in [0, libc::WEXITED, libc::WSTOPPED, libc::WNOWAIT, -1, 64] {
                        let ours = outcome(libc::waitid(of, id, ptr::null_mut(), options));
                        let zero = 0usize;
                        let raw = libc::syscall(libc::SYS_waitid, of, id, zero, options, zero);
                        assert_eq!(ours, outcome(raw), "{of} {id} {options}");
                    }
                }
            }
            // The child is taken in, and then there is nowhere to write.
            for (status, usage) in [(bad, null), (ptr::null_mut(), bad_usage)] {
                let gate = Gate::new();
                let (first, opener) = (gate.child(0), gate.open_after(&ticker));
                assert_eq!(
                    outcome(libc::wait4(first, status, 0, usage)),
                    Err(libc::EFAULT)
                );
                opener.join().unwrap();
                let second = short(0);
                let raw = libc::syscall(libc::SYS_wait4, second, status, 0, usage);
                assert_eq!(outcome(raw), Err(libc::EFAULT));
                for pid in [first, second] {
                    let left = libc::waitpid(pid, ptr::null_mut(), libc::WNOHANG);
                    assert_eq!(outcome(left), Err(libc::ECHILD));
                }
            }
            let one = short(0);
            let info = bad.cast::<libc::siginfo_t>();
            let told = outcome(libc::waitid(libc::P_PID, one as u32, info, libc::WEXITED));
            assert_eq!(told, Err(libc::EFAULT));
            // Nothing to say leaves errno as it was.
            let gate = Gate::new();
            let (two, opener) = (gate.child(0), gate.open_after(&ticker));
            set_errno(1234);
            assert_eq!(libc::waitpid(two, ptr::null_mut(), 0), two);
            assert_eq!(errno(), 1234);
            opener.join().unwrap();
        }
    });
}

#[test]
fn a_pidfd_that_does_not_block_is_not_waited_for() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let child = lasting();
    // SAFETY: no pointers.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, child, libc::O_NONBLOCK) as c_int;
        assert!(pidfd > 0);
        let answer = libc::waitid(libc::P_PIDFD, pidfd as u32, ptr::null_mut(), libc::WEXITED);
        assert_eq!(outcome(answer), Err(libc::EAGAIN));
        send(child, libc::SIGKILL);
        assert_eq!(libc::waitpid(child, ptr::null_mut(), 0), child);
        interposed::close(pidfd);
    }
}

#[test]
fn a_kill_and_a_timeout_end_the_wait_and_take_nobody_in() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let child = lasting();
    let heard = Rc::new(Cell::new(0));
    let heard_in = Rc::clone(&heard);
    let waiter = spawn(move || {
        // SAFETY: no pointers.
        let told = outcome(unsafe { libc::waitpid(child, ptr::null_mut(), 0) });
        heard_in.set(told.unwrap_err());
    });
    greenlet::sleep(5 * MS);
    waiter.kill_wait();
    assert_eq!(heard.get(), libc::ECANCELED);
    let mut told = Ok(0);
    let over = greenlet::timeout(5 * MS, || {
        // SAFETY: no pointers.
        told = outcome(unsafe { libc::waitpid(child, ptr::null_mut(), 0) });
        greenlet::sleep(MS);
    });
    assert!(over.is_err());
    assert_eq!(told, Err(libc::ETIMEDOUT));
    send(child, libc::SIGKILL);
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::waitpid(child, ptr::null_mut(), 0) }, child);
}

#[test]
fn a_wait_for_any_can_be_killed() {
    alone("a_wait_for_any_can_be_killed", || {
        let _watchdog = patched();
        let _ticker = Ticker::new();
        let child = lasting();
        // SAFETY: no pointers.
        let waiter = spawn(|| outcome(unsafe { libc::wait(ptr::null_mut()) }));
        greenlet::sleep(10 * MS);
        waiter.kill();
        assert_eq!(waiter.join().unwrap(), Err(libc::ECANCELED));
        send(child, libc::SIGKILL);
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::wait(ptr::null_mut()) }, child);
    });
}

#[test]
fn a_wait_whose_descriptor_is_closed_goes_on() {
    alone_unwatched("a_wait_whose_descriptor_is_closed_goes_on", || {
        let _watchdog = patched();
        let ticker = Ticker::new();
        let gate = Gate::new();
        let child = gate.child(8);
        let waiter = spawn(move || {
            let mut status = 0;
            // SAFETY: a live variable.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            libc::WEXITSTATUS(status)
        });
        greenlet::sleep(5 * MS);
        // As one does who closes all numbers that he does not know.
        let is_pidfd = |fd: &c_int| {
            let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
            link.is_ok_and(|link| link.to_string_lossy().contains("pidfd"))
        };
        let ours: Vec<c_int> = (3..100).filter(is_pidfd).collect();
        assert_eq!(ours.len(), 1);
        interposed::close(ours[0]);
        // Somebody else gets the number, and keeps it.
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        assert_eq!(std::os::fd::AsRawFd::as_raw_fd(&file), ours[0]);
        let opener = gate.open_after(&ticker);
        assert_eq!(ticker.ticks_during(|| waiter.join().unwrap()), 8);
        opener.join().unwrap();
        assert!(file.metadata().is_ok());
    });
}

#[test]
fn system_and_pclose_wait_on_helper_threads() {
    let _watchdog = patched();
    let ticker = Ticker::new();
    let run = |script: &str| {
        let gate = Gate::new();
        let opener = gate.open_after(&ticker);
        let command = CString::new(gate.then(script)).unwrap();
        // SAFETY: a string with its end.
        let status = ticker.ticks_during(|| unsafe { system(command.as_ptr()) });
        opener.join().unwrap();
        status
    };
    assert_eq!(libc::WEXITSTATUS(run("exit 5")), 5);
    assert_eq!(libc::WTERMSIG(run("kill -9 $$")), 9);
    // SAFETY: a null command asks whether there is a shell.
    assert_eq!(unsafe { system(ptr::null()) }, 1);
    let written = std::env::temp_dir().join(format!("popen-{}", std::process::id()));
    let gate = Gate::new();
    let script = format!("cat > {}; {}\0", written.display(), gate.then("exit 6"));
    // SAFETY: strings with their ends, and a stream that is closed once.
    unsafe {
        let stream = popen(script.as_ptr().cast(), c"w".as_ptr());
        let opener = gate.open_after(&ticker);
        assert!(!stream.is_null());
        assert!(libc::fputs(c"piped".as_ptr(), stream) >= 0);
        let status = ticker.ticks_during(|| pclose(stream));
        assert_eq!(libc::WEXITSTATUS(status), 6);
        opener.join().unwrap();
        let stream = popen(c"sleep 0.02; echo read".as_ptr(), c"r".as_ptr());
        let mut line = [0u8; 16];
        // This one blocks the thread: it is a stream of libc's.
        assert!(!libc::fgets(line.as_mut_ptr().cast(), 16, stream).is_null());
        assert_eq!(pclose(stream), 0);
        assert_eq!(&line[..5], b"read\n");
    }
    assert_eq!(std::fs::read(&written).unwrap(), b"piped");
    let _ = std::fs::remove_file(written);
}

#[test]
fn a_killed_system_and_pclose_are_finished_alone() {
    let _watchdog = patched();
    let _ticker = Ticker::new();
    let file = std::env::temp_dir().join(format!("system-{}", std::process::id()));
    let says = |text: &[u8]| std::fs::read(&file).is_ok_and(|said| said == text);
    let path = file.display();
    let gate = Gate::new();
    let command = gate.then(&format!("echo done > {path}"));
    let command = format!("echo begun > {path}; {command}\0");
    // SAFETY: a string with its end, which the call does not outlive by itself.
    let killed = spawn(move || outcome(unsafe { system(command.as_ptr().cast()) }));
    common::until(|| says(b"begun\n"));
    killed.kill();
    assert_eq!(killed.join().unwrap(), Err(libc::ECANCELED));
    gate.open();
    common::until(|| says(b"done\n"));
    let gate = Gate::new();
    let command = format!("cat > {path}; {}\0", gate.then(&format!("rm {path}")));
    let killed = spawn(move || {
        // SAFETY: strings with their ends, and a stream that is closed once.
        unsafe {
            let stream = popen(command.as_ptr().cast(), c"w".as_ptr());
            libc::fputs(c"piped\n".as_ptr(), stream);
            outcome(pclose(stream))
        }
    });
    greenlet::sleep(5 * MS);
    killed.kill();
    assert_eq!(killed.join().unwrap(), Err(libc::ECANCELED));
    common::until(|| says(b"piped\n"));
    gate.open();
    common::until(|| !file.exists());
    // One that is to end before it begins still closes what it was given.
    let command = format!("cat > {path}\0");
    let killed = spawn(move || {
        // SAFETY: as above.
        unsafe {
            let stream = popen(command.as_ptr().cast(), c"w".as_ptr());
            libc::fputs(c"late\n".as_ptr(), stream);
            // Until it is killed.
            std::thread::sleep(Duration::from_secs(60));
            outcome(pclose(stream))
        }
    });
    greenlet::sleep(5 * MS);
    killed.kill();
    // It may also be closed before it is asked whether it waits.
    let told = killed.join().unwrap();
    assert!(told == Err(libc::ECANCELED) || told == Ok(0), "{told:?}");
    common::until(|| says(b"late\n"));
    let _ = std::fs::remove_file(&file);
}

#[test]
fn a_fork_with_parked_greenlets_leaves_them_with_the_parent() {
    alone(
        "a_fork_with_parked_greenlets_leaves_them_with_the_parent",
        || {
            static RAN: AtomicU32 = AtomicU32::new(0);
            let _watchdog = patched();
            let ticker = Ticker::new();
            let (reader, writer) = pipe();
            let parked = spawn(move || {
                let mut byte = 0u8;
                // SAFETY: a live variable.
                let read = unsafe { libc::read(reader, (&raw mut byte).cast(), 1) };
                RAN.fetch_add(1, SeqCst);
                read
            });
            let gate = Gate::new();
            let waiting = spawn({
                let gate = gate.clone();
                move || {
                    let child = gate.child(1);
                    // SAFETY: no pointers.
                    unsafe { libc::waitpid(child, ptr::null_mut(), 0) == child }
                }
            });
            greenlet::sleep(5 * MS);
            let ended = fork(|| {
                // Here calls wait as ever, in greenlets as well.
                let before = RAN.load(SeqCst);
                let other = spawn(|| std::thread::sleep(5 * MS));
                std::thread::sleep(5 * MS);
                other.join().unwrap();
                let grandchild = short(3);
                let mut status = 0;
                // SAFETY: a live variable.
                let reaped = unsafe { libc::waitpid(grandchild, &mut status, 0) };
                assert_eq!(reaped, grandchild);
                assert_eq!(shell("exit 4").status().unwrap().code(), Some(4));
                assert_eq!(RAN.load(SeqCst), before);
                libc::WEXITSTATUS(status)
            });
            assert_eq!(ended, 3);
            // And one that turns into another program.
            let ended = fork(|| {
                let error = shell("exit 9").exec();
                error.raw_os_error().unwrap()
            });
            assert_eq!(ended, 9);
            // SAFETY: a live variable.
            assert_eq!(unsafe { libc::write(writer, [1u8].as_ptr().cast(), 1) }, 1);
            let opener = gate.open_after(&ticker);
            ticker.ticks_during(|| assert!(waiting.join().unwrap()));
            opener.join().unwrap();
            assert_eq!(parked.join().unwrap(), 1);
        },
    );
}

#[test]
fn abort_inside_an_interposed_call_ends_the_process() {
    extern "C" fn abort(_: c_int) {
        std::process::abort();
    }
    let name = "abort_inside_an_interposed_call_ends_the_process";
    let finished = run_alone(name, || {
        let _watchdog = patched();
        let (reader, writer) = pipe();
        interposed::fill(writer);
        let handler = abort as *const () as usize;
        // SAFETY: the handler may run at any time.
        unsafe { libc::signal(libc::SIGUSR1, handler) };
        spawn(move || {
            // SAFETY: a live variable.
            unsafe { libc::write(writer, [1u8].as_ptr().cast(), 1) };
        });
        spawn(move || {
            // SAFETY: a child, which is this process's.
            unsafe { libc::waitpid(lasting(), ptr::null_mut(), 0) };
        });
        spawn(move || {
            greenlet::sleep(5 * MS);
            // SAFETY: no preconditions.
            unsafe { libc::raise(libc::SIGUSR1) };
        });
        std::thread::sleep(Duration::from_secs(50));
        interposed::close(reader);
    });
    if let Some(finished) = finished {
        finished.was_killed_by(libc::SIGABRT);
    }
}

#[test]
fn without_its_part_a_wait_blocks_the_thread() {
    alone("without_its_part_a_wait_blocks_the_thread", || {
        use greenlet::monkey::{Patch, is_patched};
        Patch::new().threads(false).process(false).apply().unwrap();
        assert!(!is_patched("waitpid") && !is_patched("system") && is_patched("read"));
        let ticker = Ticker::new();
        greenlet::sleep(3 * MS);
        let mut child = shell("sleep 0.02").spawn().unwrap();
        let before = ticker.ticks();
        assert!(child.wait().unwrap().success());
        assert_eq!(ticker.ticks(), before);
        Patch::new().threads(false).apply().unwrap();
        assert!(is_patched("waitpid"));
    });
}

#[test]
fn output_of_a_child_is_read_as_it_comes() {
    // G183: a pipe from a process, read by a greenlet.
    let _watchdog = patched();
    let ticker = Ticker::new();
    let gate = Gate::new();
    let mut child = shell(&format!("echo one; {}", gate.then("echo two")))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut buffer = [0; 5];
    assert_eq!(out.read(&mut buffer).unwrap(), 4);
    let opener = gate.open_after(&ticker);
    let text = ticker.ticks_during(|| {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(text, "two\n");
    opener.join().unwrap();
    assert!(child.wait().unwrap().success());
}
