//! What the kernel's scheduler knows of a thread that is an isolated greenlet: it knows
//! the OS thread that it runs on, and that is asked, and told.

use std::ffi::c_int;

use libc::{clockid_t, cpu_set_t, pthread_t, sched_param};

use super::record::Thread;
use crate::monkey::entry::{interposed, raw};
use crate::monkey::real::real;

interposed! {
    Threads;

    /// Of a thread that is a greenlet, its OS thread's.
    fn pthread_getschedparam(
        thread: pthread_t,
        policy: *mut c_int,
        parameters: *mut sched_param,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(known) = Thread::of(thread) else {
                return real!(
                    c"pthread_getschedparam",
                    fn(pthread_t, *mut c_int, *mut sched_param),
                    (thread, policy, parameters)
                );
            };
            let found = raw!(libc::SYS_sched_getscheduler, known.runs_on()).and_then(|found| {
                raw!(libc::SYS_sched_getparam, known.runs_on(), parameters)?;
                policy.write(found as c_int);
                Ok(0)
            });
            found.err().unwrap_or(0)
        }
    }

    /// As `pthread_getschedparam`: the OS thread's are set.
    fn pthread_setschedparam(
        thread: pthread_t,
        policy: c_int,
        parameters: *const sched_param,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => {
                    let tid = known.runs_on();
                    let set = raw!(libc::SYS_sched_setscheduler, tid, policy, parameters);
                    set.err().unwrap_or(0)
                }
                None => real!(
                    c"pthread_setschedparam",
                    fn(pthread_t, c_int, *const sched_param),
                    (thread, policy, parameters)
                ),
            }
        }
    }

    /// As `pthread_getschedparam`: where the OS thread may run.
    fn pthread_getaffinity_np(thread: pthread_t, size: usize, set: *mut cpu_set_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            let Some(known) = Thread::of(thread) else {
                return real!(
                    c"pthread_getaffinity_np",
                    fn(pthread_t, usize, *mut cpu_set_t),
                    (thread, size, set)
                );
            };
            match raw!(libc::SYS_sched_getaffinity, known.runs_on(), size, set) {
                Ok(written) => {
                    // The kernel writes as much as it has processors for.
                    set.cast::<u8>().add(written).write_bytes(0, size.saturating_sub(written));
                    0
                }
                Err(error) => error,
            }
        }
    }

    /// As `pthread_getschedparam`: where the OS thread is to run.
    fn pthread_setaffinity_np(thread: pthread_t, size: usize, set: *const cpu_set_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => {
                    let done = raw!(libc::SYS_sched_setaffinity, known.runs_on(), size, set);
                    done.err().unwrap_or(0)
                }
                None => real!(
                    c"pthread_setaffinity_np",
                    fn(pthread_t, usize, *const cpu_set_t),
                    (thread, size, set)
                ),
            }
        }
    }

    /// Of a thread that is a greenlet, the clock of its OS thread.
    fn pthread_getcpuclockid(thread: pthread_t, clock: *mut clockid_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe {
            match Thread::of(thread) {
                Some(known) => {
                    // The kernel's way to name the clock of one thread.
                    const OF_A_THREAD: clockid_t = 4;
                    const AS_SCHEDULED: clockid_t = 2;
                    clock.write((!known.runs_on() << 3) | OF_A_THREAD | AS_SCHEDULED);
                    0
                }
                None => real!(
                    c"pthread_getcpuclockid", fn(pthread_t, *mut clockid_t), (thread, clock)
                ),
            }
        }
    }
}
