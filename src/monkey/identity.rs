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

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{gid_t, pid_t, pthread_mutexattr_t, uid_t};

use super::entry::interposed;
use crate::hub::{self, Hub};
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;

interposed! {
    Process;

    /// In an isolated greenlet, the child's thread is made of the OS thread.
    fn fork() -> pid_t {
        unsafe extern "C" {
            /// The same function, by a name that nobody takes the place of.
            fn __fork() -> pid_t;
        }
        // SAFETY: the caller's promise.
        on_thread(|| unsafe { __fork() })
    }

    /// As `fork`.
    fn _Fork() -> pid_t {
        static NEXT: Next = Next::new(c"_Fork");
        // SAFETY: libc's function, of this type.
        on_thread(|| unsafe { NEXT.call(|real: unsafe extern "C" fn() -> pid_t| real()) })
    }

    /// In an isolated greenlet, done by the OS thread, for all of the process.
    fn setuid(user: uid_t) -> c_int {
        static NEXT: Next = Next::new(c"setuid");
        // SAFETY: libc's function, of this type, as for all of these.
        on_thread(|| unsafe { NEXT.call(|real: unsafe extern "C" fn(uid_t) -> c_int| real(user)) })
    }

    /// As `setuid`.
    fn setgid(group: gid_t) -> c_int {
        static NEXT: Next = Next::new(c"setgid");
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|real: unsafe extern "C" fn(gid_t) -> c_int| real(group)) })
    }

    /// As `setuid`.
    fn seteuid(user: uid_t) -> c_int {
        static NEXT: Next = Next::new(c"seteuid");
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|real: unsafe extern "C" fn(uid_t) -> c_int| real(user)) })
    }

    /// As `setuid`.
    fn setegid(group: gid_t) -> c_int {
        static NEXT: Next = Next::new(c"setegid");
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|real: unsafe extern "C" fn(gid_t) -> c_int| real(group)) })
    }

    /// As `setuid`.
    fn setreuid(real: uid_t, effective: uid_t) -> c_int {
        static NEXT: Next = Next::new(c"setreuid");
        // SAFETY: as above.
        on_thread(|| unsafe {
            NEXT.call(|f: unsafe extern "C" fn(uid_t, uid_t) -> c_int| f(real, effective))
        })
    }

    /// As `setuid`.
    fn setregid(real: gid_t, effective: gid_t) -> c_int {
        static NEXT: Next = Next::new(c"setregid");
        // SAFETY: as above.
        on_thread(|| unsafe {
            NEXT.call(|f: unsafe extern "C" fn(gid_t, gid_t) -> c_int| f(real, effective))
        })
    }

    /// As `setuid`.
    fn setresuid(real: uid_t, effective: uid_t, saved: uid_t) -> c_int {
        static NEXT: Next = Next::new(c"setresuid");
        type Function = unsafe extern "C" fn(uid_t, uid_t, uid_t) -> c_int;
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|f: Function| f(real, effective, saved)) })
    }

    /// As `setuid`.
    fn setresgid(real: gid_t, effective: gid_t, saved: gid_t) -> c_int {
        static NEXT: Next = Next::new(c"setresgid");
        type Function = unsafe extern "C" fn(gid_t, gid_t, gid_t) -> c_int;
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|f: Function| f(real, effective, saved)) })
    }

    /// As `setuid`.
    fn setgroups(count: usize, groups: *const gid_t) -> c_int {
        static NEXT: Next = Next::new(c"setgroups");
        type Function = unsafe extern "C" fn(usize, *const gid_t) -> c_int;
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|f: Function| f(count, groups)) })
    }

    /// As `setuid`.
    fn initgroups(user: *const c_char, group: gid_t) -> c_int {
        static NEXT: Next = Next::new(c"initgroups");
        type Function = unsafe extern "C" fn(*const c_char, gid_t) -> c_int;
        // SAFETY: as above.
        on_thread(|| unsafe { NEXT.call(|f: Function| f(user, group)) })
    }

    /// A robust mutex is refused in an isolated greenlet, with ENOTSUP.
    fn pthread_mutexattr_setrobust(attributes: *mut pthread_mutexattr_t, robust: c_int) -> c_int {
        const PTHREAD_MUTEX_ROBUST: c_int = 1;
        static NEXT: Next = Next::new(c"pthread_mutexattr_setrobust");
        if robust == PTHREAD_MUTEX_ROBUST && Hub::is_isolated() {
            return libc::ENOTSUP;
        }
        // SAFETY: as above.
        unsafe { NEXT.call(|f: Attribute| f(attributes, robust)) }
    }

    /// Priority inheritance is refused in an isolated greenlet, with ENOTSUP.
    fn pthread_mutexattr_setprotocol(attributes: *mut pthread_mutexattr_t, protocol: c_int) -> c_int {
        static NEXT: Next = Next::new(c"pthread_mutexattr_setprotocol");
        if protocol != libc::PTHREAD_PRIO_NONE && Hub::is_isolated() {
            return libc::ENOTSUP;
        }
        // SAFETY: as above.
        unsafe { NEXT.call(|f: Attribute| f(attributes, protocol)) }
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
    static NEXT: Next = Next::new(c"exit");
    if Hub::is_isolated() {
        hub::close_isolated();
    }
    // SAFETY: libc's function, of this type.
    unsafe { NEXT.call(|real: unsafe extern "C" fn(c_int) -> c_int| real(code)) };
    // It does not return.
    os::abort()
}

/// Ends the process with a message in an isolated greenlet, whose frames glibc does not
/// know the end of.
///
/// glibc unwinds the frames of a thread that calls it, this one too: so there must be
/// nothing to drop in it, and it is not there in programs that cannot unwind.
///
/// # Safety
/// As for libc's function of this name.
#[cfg(panic = "unwind")]
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C-unwind" fn pthread_exit(value: *mut c_void) -> ! {
    static NEXT: Next = Next::new(c"pthread_exit");
    if Hub::is_isolated() {
        os::write_stderr(
            b"greenlet: fatal: pthread_exit in an isolated greenlet: it ends by returning\n",
        );
        os::abort();
    }
    // SAFETY: libc's function, of this type.
    unsafe { NEXT.call(|real: unsafe extern "C-unwind" fn(*mut c_void) -> c_int| real(value)) };
    os::abort()
}

type Attribute = unsafe extern "C" fn(*mut pthread_mutexattr_t, c_int) -> c_int;

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

/// libc's function of a name that is ours, looked up once.
struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Next {
        Next {
            name,
            address: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Has `call` call it. Without it, which cannot be but for functions that this
    /// libc does not have, the answer is -1 and ENOSYS.
    ///
    /// # Safety
    /// The function has this type.
    unsafe fn call<F: Copy>(&self, call: impl FnOnce(F) -> c_int) -> c_int {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            // SAFETY: the name is a string with its end.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            self.address.store(address, Ordering::Relaxed);
        }
        if address.is_null() {
            os::set_errno(libc::ENOSYS);
            return -1;
        }
        // SAFETY: the caller's promise, and the sizes are equal.
        call(unsafe { std::mem::transmute_copy::<*mut c_void, F>(&address) })
    }
}
