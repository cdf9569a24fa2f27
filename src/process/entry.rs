//! The worker's side: how this program becomes a worker before its `main`, and what it does then.
//!
//! A worker is this program started anew. The loader calls the functions of `.init_array` before `main`; one of
//! them is ours. In a process that was started as a worker it does not return:
//!
//! ```text
//!   the loader         catch: started as a worker?
//!     │                  │ no ──▶ return; main is called, and knows nothing of this
//!     │                  │ yes
//!     ▼                  ▼
//!   constructors ──▶ the rest of the constructors, which the loader would call
//!                        │
//!                        ├─ thread "worker": receive a job, call it, send the reply, …
//!                        │      until the connection is closed: std::process::exit
//!                        │
//!                        └─ the process's first thread: blocks until the parent has
//!                           ended, and then ends this process
//! ```
//!
//! What the standard library does before it calls `main` is done here: SIGPIPE is ignored, and 0, 1 and 2 are
//! open. At the end `std::process::exit` does what it does for any program: standard output is flushed.

use std::ffi::{CStr, c_char, c_int};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::exit;
use std::thread::Builder;

use super::job::Reply;
use super::wire::Wire;
use crate::hub::{self, Patience};
use crate::sys::helpers::IdleGuard;
use crate::sys::os_thread;
use crate::sys::program::program;
use crate::sys::{child, fork, os, passing, signal, unforked};

/// The variable that makes a process a worker; its value is the parent's number.
pub(super) const MARK: &str = "GREENLET_WORKER_OF";

/// What a process exits with whose job has panicked, as of any Rust program.
const PANICKED: i32 = 101;
/// What a process exits with that was to be a worker and cannot be one.
const NO_WORKER: i32 = 70;

/// The value of the mark for the children of this process.
pub(super) fn mark() -> String {
    std::process::id().to_string()
}

type BeforeMain = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

/// Has the loader call us before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static CATCH: BeforeMain = catch;

/// Whether this program can be started anew as a worker.
pub(super) fn check() -> io::Result<()> {
    // This also makes the linker keep what nobody else names.
    let entry = std::hint::black_box(&raw const CATCH) as usize;
    if !program().contains(entry) {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "there are worker processes only where greenlet is part of the executable, and here it is in a library",
        ));
    }
    program().check_file()
}

extern "C" fn catch(argc: c_int, argv: *const *const c_char, envp: *const *const c_char) {
    // SAFETY: the loader gives the environment: strings, and null at their end.
    let Some(parent) = (unsafe { find_mark(envp) }) else {
        return;
    };
    // SAFETY: getauxval has no preconditions. A program that has more rights than its caller does nothing that its
    // caller says.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0
        || !program().contains(&raw const CATCH as usize)
    {
        return;
    }
    // SAFETY: there is no other thread yet that could look at the environment.
    unsafe { std::env::remove_var(MARK) };
    let Some(control) = control(parent) else {
        os::write_stderr(
            b"greenlet: this process was started as a worker, and has no connection to a parent\n",
        );
        child::exit_at_once(NO_WORKER);
    };
    // Before the other constructors open something.
    child::close_inherited();
    // SAFETY: the loader has called this function, with these arguments, and will get no answer.
    unsafe { program().finish_before_main(catch as *const () as usize, argc, argv, envp) };
    run(parent, control)
}

/// The parent's number, if the environment has the mark.
///
/// # Safety
/// `envp` is null, or a list of strings that ends with null.
unsafe fn find_mark(envp: *const *const c_char) -> Option<i32> {
    let mut at = envp;
    // SAFETY: the caller's promise.
    while let Some(variable) = unsafe { at.as_ref() }.filter(|variable| !variable.is_null()) {
        // SAFETY: as above.
        let variable = unsafe { CStr::from_ptr(*variable) }.to_bytes();
        let value = variable
            .strip_prefix(MARK.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"="));
        if let Some(value) = value {
            return Some(std::str::from_utf8(value).ok()?.parse().unwrap_or(0));
        }
        // SAFETY: this was not the end of the list.
        at = unsafe { at.add(1) };
    }
    None
}

/// The connection to the parent.
fn control(parent: i32) -> Option<OwnedFd> {
    if passing::maker(child::GIVEN) != Some(parent) {
        return None;
    }
    // SAFETY: it is open, and was given to this process for nobody else.
    let control = unsafe { OwnedFd::from_raw_fd(child::GIVEN) };
    child::close_on_exec(control.as_fd()).ok()?;
    Some(control)
}

/// The life of a worker process.
fn run(parent: i32, control: OwnedFd) -> ! {
    child::name_after_program();
    signal::ignore(libc::SIGPIPE);
    for _ in 0..3 {
        // The lowest free number is given out: if it is none of the three, all are open.
        match File::options().read(true).write(true).open("/dev/null") {
            Ok(file) if child::is_standard(file.as_fd()) => std::mem::forget(file),
            _ => break,
        }
    }
    // The connection ends with this process, and not with what a job forks.
    unforked::close_in_children(control.as_fd());
    let parents_end = match child::open(parent) {
        Ok(descriptor) if child::parent() == parent => descriptor,
        // It has ended already.
        _ => child::exit_at_once(NO_WORKER),
    };
    // This thread never does anything again that another one could wait for.
    let _idle = IdleGuard::new();
    let named = Builder::new()
        .name("worker".to_owned())
        .stack_size(child::main_stack_size());
    let started = os_thread::spawn(named, move || serve(control));
    if let Err(error) = started {
        eprintln!("greenlet: a worker process cannot start its thread: {error}");
        child::exit_at_once(NO_WORKER);
    }
    child::block_until_ended(parents_end.as_fd());
    child::exit_at_once(NO_WORKER)
}

/// Does one job after the other, until there are no more.
fn serve(control: OwnedFd) {
    let generation = fork::generation();
    let wire = Wire::new(control);
    let mut code = 0;
    while let Ok(Some(request)) = wire.receive(Patience::Forever) {
        let reply = Reply::to(request);
        // What the job spawned here and did not join has no turn after it.
        hub::contain(|| {
            hub::shutdown();
        });
        code = if reply.is_panic() { PANICKED } else { 0 };
        if fork::generation() != generation {
            // The job has forked, and this is the child: the connection is the parent's.
            break;
        }
        if wire.send(reply.message()).is_err() {
            // Nobody waits for the result any more.
            break;
        }
    }
    exit(code)
}
