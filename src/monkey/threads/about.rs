//! What is asked and said of a thread that is an isolated greenlet: its attributes, its
//! name, and the signals that are sent to it.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{pthread_attr_t, pthread_t, sigval, stack_t};

use super::record::{NAME, Thread};
use crate::hub::{Hub, StackSize};
use crate::monkey::entry::{Answer, interposed, raw};
use crate::monkey::real::real;
use crate::sys::os;

interposed! {
    Threads;

    /// The attributes of a thread that is a greenlet: its stack above all.
    fn pthread_getattr_np(thread: pthread_t, attributes: *mut pthread_attr_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => tell_attributes(&known, attributes),
                None => real!(
                    c"pthread_getattr_np", fn(pthread_t, *mut pthread_attr_t), (thread, attributes)
                ),
            }
        }
    }

    /// Names a thread that is a greenlet, which is known so in reports, too.
    fn pthread_setname_np(thread: pthread_t, name: *const c_char) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(known) = Thread::of(thread) else {
                return real!(c"pthread_setname_np", fn(pthread_t, *const c_char), (thread, name));
            };
            let bytes = CStr::from_ptr(name).to_bytes_with_nul();
            let mut own = [0; NAME];
            let Some(place) = own.get_mut(..bytes.len()) else {
                return libc::ERANGE;
            };
            place.copy_from_slice(bytes);
            known.set_name(own);
            0
        }
    }

    /// The name of a thread that is a greenlet.
    fn pthread_getname_np(thread: pthread_t, name: *mut c_char, size: usize) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(known) = Thread::of(thread) else {
                return real!(
                    c"pthread_getname_np", fn(pthread_t, *mut c_char, usize), (thread, name, size)
                );
            };
            if size < NAME {
                return libc::ERANGE;
            }
            ptr::copy_nonoverlapping(known.name().as_ptr(), name.cast(), NAME);
            0
        }
    }

    /// To a thread that is a greenlet: sent to the OS thread that it runs on.
    fn pthread_kill(thread: pthread_t, signal: c_int) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => send(&known, signal, |me, tid| {
                    raw!(libc::SYS_tgkill, me, tid, signal).map(drop)
                }),
                None => real!(c"pthread_kill", fn(pthread_t, c_int), (thread, signal)),
            }
        }
    }

    /// As `pthread_kill`.
    fn pthread_sigqueue(thread: pthread_t, signal: c_int, value: sigval) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => send(&known, signal, |me, tid| queue(me, tid, signal, value)),
                None => real!(
                    c"pthread_sigqueue", fn(pthread_t, c_int, sigval), (thread, signal, value)
                ),
            }
        }
    }

    /// Of a thread that is a greenlet, refused with ENOTSUP, and with a message once.
    fn pthread_cancel(thread: pthread_t) -> c_int {
        static SAID: AtomicBool = AtomicBool::new(false);
        // SAFETY: the caller's promise.
        unsafe {
            if Thread::of(thread).is_none() {
                return real!(c"pthread_cancel", fn(pthread_t), (thread));
            }
        }
        if !SAID.swap(true, Ordering::Relaxed) {
            os::write_stderr(
                b"greenlet: pthread_cancel of a thread that is a greenlet is refused (ENOTSUP): \
                  tell it to end, or make it by monkey::os_thread\n",
            );
        }
        libc::ENOTSUP
    }

    /// In an isolated greenlet the signal stack is the OS thread's, and stays.
    fn sigaltstack(stack: *const stack_t, old: *mut stack_t) -> c_int {
        let isolated = Hub::is_isolated();
        let stack = if isolated { ptr::null() } else { stack };
        // SAFETY: the caller's promise.
        unsafe { raw!(libc::SYS_sigaltstack, stack, old) }.answer() as c_int
    }
}

/// Has `send` send a signal to the OS thread of this thread, unless it has ended or the
/// signal is none: then there is only the number to look at.
fn send(
    thread: &Thread,
    signal: c_int,
    send: impl FnOnce(u32, c_int) -> Result<(), c_int>,
) -> c_int {
    // The two below are glibc's own.
    if !(0..=libc::SIGRTMAX()).contains(&signal) || (32..34).contains(&signal) {
        return libc::EINVAL;
    }
    if signal == 0 || thread.has_ended() {
        return 0;
    }
    let sent = send(os::process_id(), thread.runs_on());
    sent.err().unwrap_or(0)
}

/// # Safety
/// None of memory: the kernel reads the variable here.
unsafe fn queue(me: u32, tid: c_int, signal: c_int, value: sigval) -> Result<(), c_int> {
    #[repr(C)]
    struct Info {
        signo: c_int,
        errno: c_int,
        code: c_int,
        pad: c_int,
        pid: c_int,
        uid: u32,
        value: sigval,
        rest: [usize; 12],
    }
    const _: () = assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());
    const SI_QUEUE: c_int = -1;
    let info = Info {
        signo: signal,
        errno: 0,
        code: SI_QUEUE,
        pad: 0,
        pid: me as c_int,
        // SAFETY: it has no preconditions.
        uid: unsafe { libc::getuid() },
        value,
        rest: [0; 12],
    };
    // SAFETY: a live variable, as large as the kernel reads.
    unsafe {
        raw!(
            libc::SYS_rt_tgsigqueueinfo,
            me,
            tid,
            signal,
            &raw const info
        )
    }
    .map(drop)
}

/// What a new thread is to be like.
pub(super) struct Attributes {
    pub(super) detached: bool,
    stack: usize,
}

/// What there is below every stack at least.
const GUARD: usize = 64 << 10;

/// Smaller ones get so much more: what we do on a stack ourselves comes on top of what
/// the thread was to have.
const SMALL: usize = 128 << 10;
const ON_TOP: usize = 16 << 10;

impl Attributes {
    /// Those that are given, or else those of the process.
    pub(super) fn of(given: Option<&pthread_attr_t>) -> Result<Attributes, c_int> {
        let mut default = MaybeUninit::uninit();
        let (mut stack, mut state) = (0, libc::PTHREAD_CREATE_JOINABLE);
        // SAFETY: attributes that the caller has initialised, or that are here.
        unsafe {
            match given {
                Some(given) => {
                    pthread_attr_getdetachstate(given, &mut state);
                    libc::pthread_attr_getstacksize(given, &mut stack);
                }
                None => {
                    let error = pthread_getattr_default_np(default.as_mut_ptr());
                    if error != 0 {
                        return Err(error);
                    }
                    libc::pthread_attr_getstacksize(default.as_ptr(), &mut stack);
                    libc::pthread_attr_destroy(default.as_mut_ptr());
                }
            }
        }
        Ok(Attributes {
            detached: state == libc::PTHREAD_CREATE_DETACHED,
            stack,
        })
    }

    /// # Errors
    /// EAGAIN, as where there is no memory for it, if it is larger than any can be.
    pub(super) fn stack(&self) -> Result<StackSize, c_int> {
        let bytes = match self.stack {
            small @ 0..SMALL => small.max(StackSize::MIN.bytes()) + ON_TOP,
            large => large,
        };
        StackSize::new(bytes).map_err(|_| libc::EAGAIN)
    }
}

unsafe extern "C" {
    fn pthread_attr_getdetachstate(attributes: *const pthread_attr_t, state: *mut c_int) -> c_int;
    fn pthread_getattr_default_np(attributes: *mut pthread_attr_t) -> c_int;
}

/// # Safety
/// There is room for the attributes.
unsafe fn tell_attributes(thread: &Thread, attributes: *mut pthread_attr_t) -> c_int {
    let (low, size) = thread.stack();
    let state = match thread.is_detached() {
        true => libc::PTHREAD_CREATE_DETACHED,
        false => libc::PTHREAD_CREATE_JOINABLE,
    };
    // SAFETY: the caller's promise; the attributes are initialised first.
    unsafe {
        let error = libc::pthread_attr_init(attributes);
        if error != 0 {
            return error;
        }
        libc::pthread_attr_setdetachstate(attributes, state);
        libc::pthread_attr_setguardsize(attributes, GUARD);
        match low {
            // It has not begun, and may get any stack of this size.
            0 => libc::pthread_attr_setstacksize(attributes, size),
            low => libc::pthread_attr_setstack(attributes, low as *mut c_void, size),
        }
    }
}
