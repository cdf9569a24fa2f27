//! What glibc does with its own record of the calling thread, and cannot do with an
//! isolated greenlet's, which is not in its lists: see `docs/isolated.md`.
//!
//! ```text
//!   fork       writes the child's number into the record, and unlinks it
//!   setuid …   asks all other threads in its list to do the same, and waits
//!   robust and priority-inheriting mutexes    tell the kernel the record's number
//! ```
//!
//! The first two are done on the OS thread's own thread-locals, and come back to the
//! greenlet's; in the child of a fork as well. Elsewhere than in an isolated greenlet
//! all of these are libc's functions, whatever is patched.

use std::ffi::{c_char, c_int, c_void};

use libc::{gid_t, pid_t, pthread_mutexattr_t, uid_t};

use super::entry::interposed;
use super::real::{Real, missing, real};
use crate::hub::{self, Hub};
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;

unsafe extern "C" {
    /// `fork`, by a name that nobody takes the place of.
    fn __fork() -> pid_t;
}

/// As `real!`, on the OS thread, for what says by errno what is wrong.
macro_rules! real_on_thread {
    ($($call:tt)*) => {
        on_thread(|| real!($($call)* else missing()))
    };
}

interposed! {
    Process;

    /// In an isolated greenlet, the child's thread is made of the OS thread.
    fn fork() -> pid_t {
        // SAFETY: the caller's promise.
        on_thread(|| unsafe { __fork() })
    }

    /// As `fork`; before glibc 2.34 it is `fork`.
    fn _Fork() -> pid_t {
        // SAFETY: the caller's promise.
        on_thread(|| unsafe { real!(c"_Fork", fn(), () else __fork()) })
    }

    /// In an isolated greenlet, done by the OS thread, for all of the process.
    fn setuid(user: uid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setuid", fn(uid_t), (user)) }
    }

    /// As `setuid`.
    fn setgid(group: gid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setgid", fn(gid_t), (group)) }
    }

    /// As `setuid`.
    fn seteuid(user: uid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"seteuid", fn(uid_t), (user)) }
    }

    /// As `setuid`.
    fn setegid(group: gid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setegid", fn(gid_t), (group)) }
    }

    /// As `setuid`.
    fn setreuid(real: uid_t, effective: uid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setreuid", fn(uid_t, uid_t), (real, effective)) }
    }

    /// As `setuid`.
    fn setregid(real: gid_t, effective: gid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setregid", fn(gid_t, gid_t), (real, effective)) }
    }

    /// As `setuid`.
    fn setresuid(real: uid_t, effective: uid_t, saved: uid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setresuid", fn(uid_t, uid_t, uid_t), (real, effective, saved)) }
    }

    /// As `setuid`.
    fn setresgid(real: gid_t, effective: gid_t, saved: gid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setresgid", fn(gid_t, gid_t, gid_t), (real, effective, saved)) }
    }

    /// As `setuid`.
    fn setgroups(count: usize, groups: *const gid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"setgroups", fn(usize, *const gid_t), (count, groups)) }
    }

    /// As `setuid`.
    fn initgroups(user: *const c_char, group: gid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { real_on_thread!(c"initgroups", fn(*const c_char, gid_t), (user, group)) }
    }

    /// A robust mutex is refused in an isolated greenlet, with ENOTSUP.
    fn pthread_mutexattr_setrobust(attributes: *mut pthread_mutexattr_t, robust: c_int) -> c_int {
        const PTHREAD_MUTEX_ROBUST: c_int = 1;
        if robust == PTHREAD_MUTEX_ROBUST && Hub::is_isolated() {
            return libc::ENOTSUP;
        }
        // SAFETY: the caller's promise.
        unsafe {
            real!(
                c"pthread_mutexattr_setrobust",
                fn(*mut pthread_mutexattr_t, c_int),
                (attributes, robust)
            )
        }
    }

    /// Priority inheritance is refused in an isolated greenlet, with ENOTSUP.
    fn pthread_mutexattr_setprotocol(attributes: *mut pthread_mutexattr_t, protocol: c_int) -> c_int {
        if protocol != libc::PTHREAD_PRIO_NONE && Hub::is_isolated() {
            return libc::ENOTSUP;
        }
        // SAFETY: the caller's promise.
        unsafe {
            real!(
                c"pthread_mutexattr_setprotocol",
                fn(*mut pthread_mutexattr_t, c_int),
                (attributes, protocol)
            )
        }
    }
}

/// `exit` runs the destructors of the caller's thread-locals, as those of a thread.
/// From then on no other greenlet of the thread runs: one of the same domain could have
/// a reference into what is destroyed.
///
/// # Safety
/// As for libc's function of this name.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn exit(code: c_int) -> ! {
    // SAFETY: it has this type.
    static REAL: Real<unsafe extern "C" fn(c_int) -> !> = unsafe { Real::new(c"exit") };
    hub::process_exits();
    if Hub::is_isolated() {
        hub::close_isolated();
    }
    match REAL.get() {
        // SAFETY: the caller's promise.
        Some(exit) => unsafe { exit(code) },
        None => os::abort(),
    }
}

/// Runs it on the OS thread's own thread-locals; the errno is the caller's.
fn on_thread<F: FnOnce() -> c_int>(f: F) -> c_int {
    struct Job<F> {
        function: Option<F>,
        answer: c_int,
        errno: Errno,
    }
    unsafe extern "C" fn run<F: FnOnce() -> c_int>(job: *mut c_void) {
        // SAFETY: the caller's variable.
        let job = unsafe { &mut *job.cast::<Job<F>>() };
        // Handlers of fork are the user's, and must not park here.
        let _pass = PassThrough::enter();
        let before = os::errno();
        if let Some(function) = job.function.take() {
            job.answer = function();
        }
        job.errno = os::errno();
        os::set_errno(before);
    }
    let mut job = Job {
        function: Some(f),
        answer: -1,
        errno: 0,
    };
    // SAFETY: the argument is of the function's type; it calls libc, which neither
    // unwinds nor parks here.
    let ran = unsafe { Hub::on_thread(run::<F>, (&raw mut job).cast()) };
    match job.function.take() {
        Some(function) if !ran => function(),
        _ => {
            if job.answer == -1 {
                os::set_errno(job.errno);
            }
            job.answer
        }
    }
}
