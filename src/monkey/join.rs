//! Waiting for a thread to end: `pthread_join`, which is std's `JoinHandle::join`.
//!
//! The greenlet parks on a descriptor that the kernel has for threads (Linux 6.9),
//! or looks now and then. What there is to say about the thread, that it has ended,
//! is detached, or is oneself, glibc says: it is asked with a time that is over.

use std::ffi::{c_int, c_void};
use std::mem::size_of;
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use libc::{pthread_t, timespec};

use super::entry::{Part, hub, interposed, raw};
#[cfg(not(target_feature = "crt-static"))]
use super::moment::Moment;
#[cfg(not(target_feature = "crt-static"))]
use super::threads::{self, Thread};
use crate::hub::{self, Hub, Reason};
use crate::sys::clock;

interposed! {
    Process;

    /// Waits for a thread to end; others run.
    fn pthread_join(thread: pthread_t, result: *mut *mut c_void) -> c_int {
        #[cfg(not(target_feature = "crt-static"))]
        // SAFETY: the caller's promise.
        if let Some(known) = unsafe { Thread::of(thread) } {
            // SAFETY: as above.
            return unsafe { threads::join(&known, result, Moment::Never) };
        }
        match hub(Part::Process) {
            None => hub::address::blocking(|| {
                // SAFETY: the caller's promise.
                unsafe { pthread_timedjoin_np(thread, result, ptr::null()) }
            }),
            // SAFETY: as above.
            Some(hub) => unsafe { join(hub, thread, result) },
        }
    }
}

unsafe extern "C" {
    /// Without a time it is `pthread_join`, whose name is ours.
    fn pthread_timedjoin_np(
        thread: pthread_t,
        result: *mut *mut c_void,
        until: *const timespec,
    ) -> c_int;
}

/// How long to wait until the next look, where there is no descriptor.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(10);

/// # Safety
/// As for `pthread_join`.
unsafe fn join(hub: &Hub, thread: pthread_t, result: *mut *mut c_void) -> c_int {
    let long_ago = timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the caller's promise; the time is a live variable.
    let attempt = || unsafe { pthread_timedjoin_np(thread, result, &raw const long_ago) };
    let mut answer = attempt();
    if answer != libc::ETIMEDOUT {
        return answer;
    }
    let reason = Reason::new("joining a thread");
    // SAFETY: the thread has not been joined, so it is there.
    if let Some(end) = unsafe { End::of(thread) } {
        if hub.await_regardless(end.0, reason).is_ok() {
            answer = attempt();
        }
    }
    let mut pause = SHORTEST;
    while answer == libc::ETIMEDOUT {
        hub.sleep_regardless(clock::deadline_after(pause), reason);
        pause = (2 * pause).min(LONGEST);
        answer = attempt();
    }
    answer
}

/// A descriptor that can be read from when a thread has ended.
struct End(RawFd);

/// In `pidfd_open`: the number is a thread's, not only a process's.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
/// glibc's record of a thread is larger than this, and has the number in it.
const RECORD: usize = 1024;

impl End {
    /// # Safety
    /// The thread has not been joined.
    unsafe fn of(thread: pthread_t) -> Option<End> {
        let place = number_place()?;
        // SAFETY: a `pthread_t` is the address of the thread's record, and the kernel
        // changes this word in the end.
        let number = || unsafe { (thread as *const u32).add(place).read_volatile() };
        let tid = number();
        let signal = 0u32;
        // SAFETY: neither touches any memory. The signal is none: it is a question
        // whether this process has such a thread.
        let opened = unsafe {
            let me = raw!(libc::SYS_getpid).ok()?;
            raw!(libc::SYS_tgkill, me, tid, signal).ok()?;
            raw!(libc::SYS_pidfd_open, tid, PIDFD_THREAD).ok()?
        };
        let end = End(opened as RawFd);
        // If it has ended, the number may have been another one's already.
        (number() == tid).then_some(end)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        let _ = hub::closing(self.0, || unsafe { raw!(libc::SYS_close, self.0) });
    }
}

/// Where in glibc's record of a thread its number is, in words: this thread's number
/// stands there in this thread's record, and nowhere else in it.
fn number_place() -> Option<usize> {
    // SAFETY: it takes no arguments.
    let tid = unsafe { raw!(libc::SYS_gettid) }.ok()? as u32;
    // SAFETY: it has no preconditions.
    let record = unsafe { libc::pthread_self() } as *const u32;
    let mut places = (0..RECORD / size_of::<u32>())
        // SAFETY: it is that large, and as long as we run it is there.
        .filter(|place| unsafe { record.add(*place).read_volatile() } == tid);
    match (places.next(), places.next()) {
        (Some(place), None) => Some(place),
        _ => None,
    }
}
