//! Waiting for other processes: `waitpid` and its kin.
//!
//! ```text
//!   waitpid(pid) ─▶ wait4, WNOHANG ── nobody yet ─▶ pidfd_open ─▶ park, readable
//!                        ▲                                              │
//!                        └──────────────────────────────────────────────┘
//!   waitpid(-1)  ─▶ wait4, WNOHANG ── nobody yet ─▶ park, for 1, 2, 4 … 32 ms
//! ```
//!
//! Only the caller's own `wait` ever takes a child in, so nobody's child is taken
//! in by another; and SIGCHLD stays the program's. For "any child" there is no
//! descriptor: such a wait looks again, at growing intervals. So does one for
//! children that stop or go on.
//!
//! A wait that is refused (its greenlet is to end) answers ECANCELED or ETIMEDOUT,
//! and has taken nobody in. Signals do not end one.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::time::Duration;

use libc::{id_t, idtype_t, pid_t, rusage, siginfo_t};

use super::entry::{Answer, Part, hub, interposed, raw};
use super::kernel;
use crate::hub::{self as hubs, Direction, Hub};
use crate::sys::clock;
use crate::sys::os::Errno;

/// When to look again, where nothing tells; doubled each time, up to the latter.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(32);

interposed! {
    Process;

    /// Waits for a child of any kind; parks.
    fn wait(status: *mut c_int) -> pid_t {
        let null = std::ptr::null_mut();
        // SAFETY: the caller's promise.
        unsafe { wait_for(-1, status, 0, null) }.answer() as pid_t
    }

    /// Waits for a child; parks.
    fn waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t {
        let null = std::ptr::null_mut();
        // SAFETY: the caller's promise.
        unsafe { wait_for(pid, status, options, null) }.answer() as pid_t
    }

    /// Waits for a child of any kind; parks.
    fn wait3(status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
        // SAFETY: the caller's promise.
        unsafe { wait_for(-1, status, options, usage) }.answer() as pid_t
    }

    /// Waits for a child; parks.
    fn wait4(pid: pid_t, status: *mut c_int, options: c_int, usage: *mut rusage) -> pid_t {
        // SAFETY: the caller's promise.
        unsafe { wait_for(pid, status, options, usage) }.answer() as pid_t
    }

    /// Waits for a child; parks.
    fn waitid(of: idtype_t, id: id_t, info: *mut siginfo_t, options: c_int) -> c_int {
        let answer = match hub(Part::Process) {
            // SAFETY: the caller's promise.
            Some(hub) if options & libc::WNOHANG == 0 => unsafe {
                identify_parking(hub, of, id, info, options)
            },
            // SAFETY: as above.
            _ => unsafe { identify(of, id, info, options) },
        };
        answer.answer() as c_int
    }

    /// As `wait`.
    #[cfg(not(target_feature = "crt-static"))]
    fn __wait(status: *mut c_int) -> pid_t {
        // SAFETY: the caller's promise.
        unsafe { wait(status) }
    }

    /// As `waitpid`.
    #[cfg(not(target_feature = "crt-static"))]
    fn __waitpid(pid: pid_t, status: *mut c_int, options: c_int) -> pid_t {
        // SAFETY: the caller's promise.
        unsafe { waitpid(pid, status, options) }
    }
}

/// # Safety
/// As for `wait4`.
unsafe fn wait_for(
    pid: pid_t,
    status: *mut c_int,
    options: c_int,
    usage: *mut rusage,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let call = |options: c_int| unsafe { raw!(libc::SYS_wait4, pid, status, options, usage) };
    let parking = match options & libc::WNOHANG {
        0 => hub(Part::Process),
        _ => None,
    };
    let Some(hub) = parking else {
        return call(options);
    };
    let sign = match pid {
        1.. => Sign::EndOf(pid),
        _ => Sign::None,
    };
    // Such a wait is for ends also where it is for other changes.
    let only_ends = options & (libc::WUNTRACED | libc::WCONTINUED) == 0;
    until_told(hub, sign, only_ends, || {
        match call(options | libc::WNOHANG) {
            Ok(0) => None,
            answer => Some(answer),
        }
    })
}

/// # Safety
/// As for `waitid`.
unsafe fn identify(
    of: idtype_t,
    id: id_t,
    info: *mut siginfo_t,
    options: c_int,
) -> Result<usize, Errno> {
    // The usage, which libc's function has no argument for.
    let none = 0usize;
    // SAFETY: the caller's promise.
    unsafe { raw!(libc::SYS_waitid, of, id, info, options, none) }
}

/// # Safety
/// As for `waitid`.
unsafe fn identify_parking(
    hub: &Hub,
    of: idtype_t,
    id: id_t,
    info: *mut siginfo_t,
    options: c_int,
) -> Result<usize, Errno> {
    let sign = match of {
        libc::P_PID => Sign::EndOf(id as pid_t),
        libc::P_PIDFD => Sign::Theirs(id as RawFd),
        _ => Sign::None,
    };
    if let Sign::Theirs(fd) = sign {
        if kernel::status_flags(fd).is_ok_and(|flags| flags & libc::O_NONBLOCK != 0) {
            // SAFETY: the caller's promise.
            return unsafe { identify(of, id, info, options) };
        }
    }
    let only_ends = options & (libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED) == libc::WEXITED;
    let mut own = MaybeUninit::<siginfo_t>::zeroed();
    // Whether there was somebody is said there and nowhere else.
    let info = match info.is_null() {
        true => own.as_mut_ptr(),
        false => info,
    };
    until_told(hub, sign, only_ends, || {
        // SAFETY: as above, or a live variable.
        match unsafe { identify(of, id, info, options | libc::WNOHANG) } {
            // SAFETY: the kernel has just written it.
            Ok(_) if unsafe { (*info).si_pid() } == 0 => None,
            answer => Some(answer),
        }
    })
}

/// What tells that a child has ended.
#[derive(Clone, Copy)]
enum Sign {
    /// A descriptor of ours, for the process of this number.
    EndOf(pid_t),
    /// A descriptor of the caller's.
    Theirs(RawFd),
    None,
}

/// A pidfd.
struct Watched {
    fd: RawFd,
    ours: bool,
}

impl Watched {
    /// None where there is none: the kernel is too old, there is no descriptor
    /// left, it is not a process but a thread.
    fn open(sign: Sign) -> Option<Watched> {
        let (fd, ours) = match sign {
            // SAFETY: the call takes no memory.
            Sign::EndOf(pid) => unsafe { raw!(libc::SYS_pidfd_open, pid, 0) }
                .map(|fd| (fd as RawFd, true))
                .ok()?,
            Sign::Theirs(fd) => (fd, false),
            Sign::None => return None,
        };
        Some(Watched { fd, ours })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.ours {
            // SAFETY: it was opened above, and nobody else knows it.
            let _ = hubs::closing(self.fd, || unsafe { raw!(libc::SYS_close, self.fd) });
        }
    }
}

/// Parks between one attempt and the next, until there is an answer. Where not
/// `only_ends` are waited for, the sign is not enough.
fn until_told(
    hub: &Hub,
    sign: Sign,
    only_ends: bool,
    mut attempt: impl FnMut() -> Option<Result<usize, Errno>>,
) -> Result<usize, Errno> {
    if let Some(error) = hub.refusal() {
        return Err(error);
    }
    if let Some(answer) = attempt() {
        return answer;
    }
    let mut watched = Watched::open(sign);
    let mut pause = FIRST_LOOK;
    loop {
        let look = clock::deadline_after(pause);
        pause = (pause * 2).min(LAST_LOOK);
        let told = match &watched {
            Some(watched) => {
                let deadline = (!only_ends).then_some(look);
                hub.await_descriptor(watched.fd, Direction::Read, deadline)
            }
            None => hub.pause_quietly(look),
        };
        if let Some(answer) = attempt() {
            return answer;
        }
        match told {
            Err(libc::EAGAIN) => {}
            // It has ended, and is not for us to take in yet: somebody traces it.
            Ok(()) => watched = None,
            // Somebody has closed all descriptors, ours too.
            Err(libc::EBADF) => std::mem::forget(watched.take()),
            Err(error) => return Err(error),
        }
    }
}
