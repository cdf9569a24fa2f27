//! Threads of C with locks of C, as threads and as greenlets: the same output. And what
//! the locks do before anything is patched: before `main`, and in threads that are
//! cancelled.
#![cfg(all(feature = "monkey", target_arch = "x86_64", panic = "unwind"))]

mod common;
#[path = "common/interposed.rs"]
mod interposed;
#[path = "common/patched.rs"]
mod patched;

use common::{Finished, in_subprocess_with, run_alone, watchdog};
use interposed::CLibrary;

type Function = unsafe extern "C" fn(*mut u8, usize) -> i64;

fn library() -> CLibrary {
    CLibrary::compile("locks", include_str!("c/locks.c"), &[])
}

fn call(library: &CLibrary, name: &str) -> (i64, String) {
    let mut said = vec![0; 1 << 16];
    // SAFETY: it has this type, and writes no more than there is room for.
    let answer = unsafe {
        let function = std::mem::transmute::<*mut _, Function>(library.symbol(name));
        function(said.as_mut_ptr(), said.len())
    };
    let end = said.iter().position(|byte| *byte == 0).unwrap();
    (answer, String::from_utf8(said[..end].to_vec()).unwrap())
}

fn run_and_tell() {
    let (_, said) = call(&library(), "locks_run");
    eprintln!("<<<{said}>>>");
}

fn told(finished: &Finished) -> &str {
    finished.succeeded();
    let told = finished.stderr.split("<<<").nth(1).unwrap();
    told.split(">>>").next().unwrap()
}

#[test]
fn threads_with_locks_say_the_same_as_greenlets() {
    let name = "threads_with_locks_say_the_same_as_greenlets";
    let _watchdog = watchdog();
    let run = |how: &'static str| {
        in_subprocess_with(name, &[("LOCKS_HOW", how)], || {
            match std::env::var("LOCKS_HOW").unwrap().as_str() {
                "threads" => run_and_tell(),
                "patched" => {
                    common::patch();
                    run_and_tell();
                }
                // Its threads are greenlets, and there are no others.
                "greenlets" => {
                    greenlet::monkey::patch_all().unwrap();
                    let ticker = patched::Ticker::new();
                    ticker.tick();
                    let before = common::threads();
                    run_and_tell();
                    assert_eq!(common::threads(), before);
                    assert!(ticker.ticks() > 5);
                }
                // And of several OS threads.
                _ => {
                    let patch = greenlet::monkey::Patch::new().hubs(2);
                    patch.apply().unwrap();
                    run_and_tell();
                }
            }
        })
    };
    let Some(real) = run("threads") else {
        return;
    };
    let real = told(&real);
    assert!(
        real.contains("sum 12505000") && real.contains("meals 500"),
        "{real}"
    );
    for how in ["patched", "greenlets", "hubs"] {
        assert_eq!(told(&run(how).unwrap()), real, "{how}");
    }
}

/// Unwinding a thread goes through our functions as if they were not there.
#[test]
fn a_thread_that_is_cancelled_or_leaves_in_a_wait_cleans_up() {
    let name = "a_thread_that_is_cancelled_or_leaves_in_a_wait_cleans_up";
    let finished = run_alone(name, || {
        assert_eq!(call(&library(), "locks_left").0, 2);
    });
    if let Some(finished) = finished {
        finished.succeeded();
    }
}

/// By `pthread_exit`: as threads, and as greenlets.
#[test]
fn an_initialiser_that_ends_its_thread_is_run_anew() {
    let name = "an_initialiser_that_ends_its_thread_is_run_anew";
    let run = |patched: &str| {
        in_subprocess_with(name, &[("LOCKS_HOW", patched)], || {
            if std::env::var("LOCKS_HOW").unwrap() == "patched" {
                greenlet::monkey::patch_all().unwrap();
            }
            assert_eq!(call(&library(), "locks_once_left").0, 2);
        })
    };
    for how in ["threads", "patched"] {
        if let Some(finished) = run(how) {
            finished.succeeded();
        }
    }
}

/// The library is loaded with the program, and its constructor is run before anything of
/// the program is.
#[test]
fn a_constructor_uses_them_before_main() {
    let name = "a_constructor_uses_them_before_main";
    let path = CLibrary::build("early", include_str!("c/locks.c"), &[]);
    let preload = [("LD_PRELOAD", path.to_str().unwrap())];
    let finished = in_subprocess_with(name, &preload, || {
        // SAFETY: a string with its end, and a function of this type.
        let early = unsafe {
            let found = libc::dlsym(libc::RTLD_DEFAULT, c"locks_early".as_ptr());
            assert!(!found.is_null());
            std::mem::transmute::<*mut _, Function>(found)(std::ptr::null_mut(), 0)
        };
        assert_eq!(early, 10);
    });
    let _ = std::fs::remove_file(path);
    if let Some(finished) = finished {
        finished.succeeded();
    }
}
