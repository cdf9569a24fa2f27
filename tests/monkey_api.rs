//! `monkey`: switching it on, and what tells about it.
#![cfg(feature = "monkey")]

mod common;
#[path = "common/patched.rs"]
mod patched;

use std::time::Duration;

use common::{MS, alone};
use greenlet::monkey::{self, Part, Patch, coverage, is_patched, patch_all, unpatched};

const PARTS: [&str; 8] = [
    "sleep", "sockets", "poll", "epoll", "files", "process", "dns", "locks",
];

#[test]
fn nothing_is_patched_before_it_is_asked_for() {
    alone("nothing_is_patched_before_it_is_asked_for", || {
        assert!(PARTS.iter().all(|part| !is_patched(part)));
        assert!(coverage().iter().all(|function| !function.patched));
        // And so a sleep blocks the thread.
        let other = greenlet::spawn(|| ());
        std::thread::sleep(MS);
        // SAFETY: it has no preconditions.
        assert_eq!(unsafe { libc::usleep(1000) }, 0);
        assert!(!other.is_finished());
    });
}

#[test]
fn all_is_all_but_epoll() {
    alone("all_is_all_but_epoll", || {
        for _ in 0..2 {
            patch_all().unwrap();
            assert!(
                PARTS
                    .iter()
                    .all(|part| is_patched(part) == (*part != "epoll"))
            );
        }
        Patch::new().epoll(true).apply().unwrap();
        assert!(PARTS.iter().all(|part| is_patched(part)));
    });
}

#[test]
fn parts_can_be_left_out_and_added_later() {
    alone("parts_can_be_left_out_and_added_later", || {
        let _watchdog = common::watchdog();
        Patch::new().sleep(false).locks(false).apply().unwrap();
        assert!(is_patched("sockets") && is_patched("recv") && is_patched("files"));
        assert!(!is_patched("sleep") && !is_patched("nanosleep") && !is_patched("locks"));
        let other = greenlet::spawn(|| ());
        std::thread::sleep(MS);
        assert!(!other.is_finished());
        Patch::default().apply().unwrap();
        assert!(is_patched("nanosleep"));
        std::thread::sleep(MS);
        assert!(other.is_finished());
        // Nothing is ever taken back.
        Patch::new().sleep(false).apply().unwrap();
        assert!(is_patched("sleep"));
    });
}

#[test]
fn sockets_without_files_leave_pipes_alone() {
    alone("sockets_without_files_leave_pipes_alone", || {
        let _watchdog = common::watchdog();
        Patch::new().files(false).threads(false).apply().unwrap();
        let (a, b) = patched::pair(libc::SOCK_STREAM);
        let got = patched::parks(
            move || patched::read(&a, &mut [0; 4]),
            || assert_eq!(patched::write(&b, b"abc"), Ok(3)),
        );
        assert_eq!(got, Ok(3));
        // The writer is another thread: this one is blocked.
        let (reader, writer) = patched::pipe();
        let other = greenlet::spawn(|| ());
        let thread = std::thread::spawn(move || {
            std::thread::sleep(MS * 5);
            patched::write(&writer, b"abc")
        });
        assert_eq!(patched::read(&reader, &mut [0; 4]), Ok(3));
        assert!(!other.is_finished());
        assert_eq!(thread.join().unwrap(), Ok(3));
    });
}

#[test]
fn the_table_names_every_function_once() {
    let all = coverage();
    let mut names: Vec<_> = all.iter().map(|function| function.name).collect();
    for name in [
        "sleep",
        "usleep",
        "nanosleep",
        "clock_nanosleep",
        "sched_yield",
        "recv",
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "send",
        "sendto",
        "sendmsg",
        "sendmmsg",
        "connect",
        "accept",
        "accept4",
        "read",
        "write",
        "readv",
        "writev",
        "close",
        "dup2",
        "dup3",
        "close_range",
        "fcntl",
        "fcntl64",
        "ioctl",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all.len(), "a function is there twice");
    assert!(
        all.iter()
            .all(|function| !function.what.is_empty() && function.what.len() < 100)
    );
    assert!(all.iter().any(|function| function.part == Part::Sockets));
    // Each of them is what the program calls.
    for function in all {
        let name = std::ffi::CString::new(function.name).unwrap();
        // SAFETY: the name is a string.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        // SAFETY: as above. The next one is libc's. An older one may have none.
        let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
        assert!(found != next || next.is_null(), "{name:?}");
    }
    assert!(!is_patched("no such thing") && !is_patched(""));
}

/// `recv…` in the guide is all that begins so. glibc's second names, and those for
/// FORTIFY, go without saying.
#[test]
fn the_guide_names_every_function_under_its_part_and_no_other() {
    let guide = include_str!("../docs/monkey.md");
    let section = guide.split("## What is patched").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2);
    let mut part = "";
    let mut named = Vec::new();
    for row in section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
    {
        let cells: Vec<_> = row.split('|').collect();
        part = quoted(cells[1]).next().unwrap_or(part);
        // What comes after a colon is not libc's.
        let functions = cells[2].split(": ").next().unwrap();
        named.extend(quoted(functions).map(|name| (part, name)));
    }
    let is_named = |given: &str, name: &str| match given.strip_suffix('…') {
        Some(start) => name.starts_with(start),
        None => given == name,
    };
    let plain = |name: &'static str| {
        let name = name.trim_start_matches("__");
        name.strip_suffix("_chk").unwrap_or(name)
    };
    let all = coverage();
    for function in &all {
        let part = format!("{:?}", function.part).to_lowercase();
        let is_there = named
            .iter()
            .any(|(of, given)| *of == part && is_named(given, plain(function.name)));
        assert!(is_there, "{} of {part} is not named", function.name);
    }
    for (part, given) in named {
        let is_covered = all.iter().any(|function| is_named(given, function.name));
        assert!(is_covered, "{given} of {part} is not covered");
    }
}

#[test]
fn order_does_not_matter() {
    alone("order_does_not_matter", || {
        let _watchdog = common::watchdog();
        // A hub, a socket with a timeout, a greenlet that waits: all from before.
        let (a, b) = patched::pair(libc::SOCK_STREAM);
        patched::set_timeout(&a, libc::SO_RCVTIMEO, Duration::from_secs(1000));
        let sleeping = greenlet::spawn(|| greenlet::sleep(MS * 5));
        greenlet::yield_now();
        patch_all().unwrap();
        let got = patched::parks(
            move || patched::recv(&a, &mut [0; 4], 0),
            || assert_eq!(patched::send(&b, b"abc", 0), Ok(3)),
        );
        assert_eq!(got, Ok(3));
        sleeping.join().unwrap();
        // It can be called in a greenlet, and on another thread.
        greenlet::spawn(|| patch_all().unwrap()).join().unwrap();
        std::thread::spawn(|| patch_all().unwrap()).join().unwrap();
    });
}

#[test]
fn threads_without_greenlets_are_blocked_as_ever() {
    let _watchdog = patched::patched();
    let (a, b) = patched::pair(libc::SOCK_STREAM);
    let thread = std::thread::spawn(move || {
        // SAFETY: it has no preconditions.
        let me = unsafe { libc::gettid() };
        let got = patched::recv(&a, &mut [0; 4], libc::MSG_WAITALL);
        std::thread::sleep(MS);
        (me, got)
    });
    greenlet::sleep(MS * 2);
    assert_eq!(patched::send(&b, b"a", 0), Ok(1));
    greenlet::sleep(MS * 2);
    assert!(!thread.is_finished());
    assert_eq!(patched::send(&b, b"bcd", 0), Ok(3));
    assert_eq!(thread.join().unwrap().1, Ok(4));
}

#[test]
fn a_signal_ends_a_call_of_a_thread_without_greenlets() {
    alone("a_signal_ends_a_call_of_a_thread_without_greenlets", || {
        let _watchdog = patched::patched();
        extern "C" fn nothing(_: i32) {}
        // SAFETY: an action of zeros is one; without SA_RESTART calls end with EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = nothing as *const () as usize;
            assert_eq!(
                libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
                0
            );
        }
        let (a, _b) = patched::pair(libc::SOCK_STREAM);
        let (id, is_there) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // SAFETY: it has no preconditions.
            id.send(unsafe { libc::pthread_self() }).unwrap();
            let received = patched::recv(&a, &mut [0; 4], 0);
            // SAFETY: it has no preconditions.
            let left = unsafe { libc::sleep(1000) };
            (received, left)
        });
        let id = is_there.recv().unwrap();
        while !thread.is_finished() {
            greenlet::sleep(MS * 5);
            // SAFETY: the thread has not been joined.
            unsafe { libc::pthread_kill(id, libc::SIGUSR1) };
        }
        let (received, left) = thread.join().unwrap();
        assert_eq!(received, Err(libc::EINTR));
        assert!(
            left > 900,
            "a sleep that was interrupted tells what is left: {left}"
        );
    });
}

#[test]
fn unpatched_is_a_matter_of_the_greenlet() {
    let _watchdog = patched::patched();
    let (a, b) = patched::pair(libc::SOCK_STREAM);
    let turn = common::flag();
    let seen = turn.clone();
    // It lets others run, by a call of our own, and is unpatched meanwhile.
    let blocker = greenlet::spawn(move || {
        unpatched(|| {
            greenlet::sleep(MS * 5);
            std::thread::sleep(MS);
            let before = seen.get();
            std::thread::sleep(MS);
            before == seen.get()
        })
    });
    let got = patched::parks(
        move || {
            let got = patched::recv(&a, &mut [0; 4], 0);
            turn.set(true);
            got
        },
        || assert_eq!(patched::send(&b, b"abc", 0), Ok(3)),
    );
    assert_eq!(got, Ok(3), "others are patched as ever");
    assert!(blocker.join().unwrap());
    // It nests, and a panic leaves it too.
    common::quiet_panics();
    let caught = std::panic::catch_unwind(|| unpatched(|| unpatched(|| panic!("on purpose"))));
    assert!(caught.is_err());
    let other = greenlet::spawn(|| ());
    std::thread::sleep(MS);
    assert!(other.is_finished());
    assert_eq!(monkey::unpatched(|| 7), 7);
}

#[test]
fn calls_in_a_signal_handler_pass_through() {
    alone("calls_in_a_signal_handler_pass_through", || {
        let _watchdog = patched::patched();
        static WRITER: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(-1);
        extern "C" fn write(_: i32) {
            let fd = WRITER.load(std::sync::atomic::Ordering::SeqCst);
            // SAFETY: write is allowed in handlers.
            unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) };
        }
        // SAFETY: the handler does what handlers may do.
        unsafe { libc::signal(libc::SIGUSR1, write as *const () as usize) };
        let (reader, writer) = patched::pipe();
        use std::os::fd::AsRawFd;
        WRITER.store(writer.as_raw_fd(), std::sync::atomic::Ordering::SeqCst);
        // While greenlets wait, in the hub and in the kernel.
        let got = patched::parks(
            move || patched::read(&reader, &mut [0; 4]),
            // SAFETY: it has no preconditions.
            || assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0),
        );
        assert_eq!(got, Ok(1));
    });
}

#[test]
fn a_thread_that_ends_with_waiting_greenlets_ends() {
    let _watchdog = patched::patched();
    let (a, b) = patched::pair(libc::SOCK_STREAM);
    let kept = a.try_clone().unwrap();
    std::thread::spawn(move || {
        greenlet::spawn(move || patched::recv(&a, &mut [0; 4], 0));
        greenlet::spawn(|| std::thread::sleep(Duration::from_secs(1000)));
        greenlet::sleep(MS);
    })
    .join()
    .unwrap();
    // Nothing of it is in the way of others, who wait for the same, and close it.
    let got = patched::parks(
        move || patched::recv(&kept, &mut [0; 4], 0),
        || assert_eq!(patched::send(&b, b"abc", 0), Ok(3)),
    );
    assert_eq!(got, Ok(3));
}

#[test]
fn main_returns_while_greenlets_wait() {
    let ended = common::run_alone("main_returns_while_greenlets_wait", || {
        patch_all().unwrap();
        let (a, _b) = patched::pair(libc::SOCK_STREAM);
        greenlet::spawn(move || patched::recv(&a, &mut [0; 4], 0));
        greenlet::sleep(MS);
        std::process::exit(7);
    });
    if let Some(ended) = ended {
        ended.exited_with(7);
    }
    let ended = common::run_alone("main_returns_while_greenlets_wait", || {
        patch_all().unwrap();
        greenlet::spawn(|| {
            std::thread::sleep(MS);
            std::process::exit(8)
        })
        .join()
        .unwrap();
    });
    if let Some(ended) = ended {
        assert!(matches!(ended.status.code(), Some(7 | 8)));
    }
}
