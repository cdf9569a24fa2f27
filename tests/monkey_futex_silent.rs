//! Locks that only greenlets of one thread have to do with need no system call.
//!
//! This has a main of its own: a thread that has been waiting in the kernel since before
//! `patch_all`, as libtest's does, makes a wake-up ask the kernel wherever the two
//! addresses fall into one bucket of the table of those who wait.

#[cfg(all(feature = "monkey", target_arch = "x86_64"))]
mod common;
#[cfg(all(feature = "monkey", target_arch = "x86_64"))]
#[path = "common/patched.rs"]
mod patched;

#[cfg(not(all(feature = "monkey", target_arch = "x86_64")))]
fn main() {}

/// Two greenlets take turns, and from some point on a futex call ends the process.
#[cfg(all(feature = "monkey", target_arch = "x86_64"))]
fn main() {
    use std::rc::Rc;
    use std::sync::{Condvar, Mutex};

    common::patch();
    // Nor is there another thread: those that watch, in debug builds, wait by futex.
    greenlet::diagnostics::watchdog(None);
    // SAFETY: without a handler SIGALRM ends the process, which is what it is for.
    unsafe { libc::alarm(60) };
    let shared = Rc::new((Mutex::new(0), Condvar::new()));
    let play = move |mine: u32, rounds: u32| {
        let shared = Rc::clone(&shared);
        move || {
            for _ in 0..rounds {
                let mut turn = shared.0.lock().unwrap();
                while *turn != mine {
                    turn = shared.1.wait(turn).unwrap();
                }
                *turn = 1 - mine;
                drop(turn);
                shared.1.notify_all();
            }
        }
    };
    let run = |rounds| {
        let both = [
            greenlet::spawn(play(0, rounds)),
            greenlet::spawn(play(1, rounds)),
        ];
        assert!(
            greenlet::joinall(both)
                .into_iter()
                .all(|ended| ended.is_ok())
        );
    };
    run(2);
    patched::forbid(&[libc::SYS_futex], true);
    run(1000);
    println!("all rounds played");
    // What the runtime does at the end may well need a futex.
    // SAFETY: it has no preconditions.
    unsafe { libc::_exit(0) };
}
