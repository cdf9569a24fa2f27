//! Connecting and accepting.
//!
//! Neither has a flag that says "do not wait", see `kernel::without_blocking`.

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::time::Duration;

use libc::{sockaddr, socklen_t};

use super::entry::{Answer, Part, hub, interposed, is_any_on, operation, raw};
use super::kernel::{self, Attempt};
use crate::hub::{Direction, Hub};
use crate::sys::clock;
use crate::sys::os::Errno;

/// How often a Unix socket is asked whether its queue has room again. Nothing
/// tells who waits for that.
const KNOCK_INTERVAL: Duration = Duration::from_millis(1);

interposed! {
    Sockets;

    /// Connects; parks until it is done.
    fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
        let answer = match hub(Part::Sockets) {
            // SAFETY: the caller's promise.
            None => unsafe { raw!(libc::SYS_connect, fd, address, len) },
            // SAFETY: as above.
            Some(hub) => unsafe { connect_parking(hub, fd, address, len) },
        };
        answer.answer() as c_int
    }

    /// As `connect`, under glibc's second name.
    #[cfg(not(target_feature = "crt-static"))]
    fn __connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { connect(fd, address, len) }
    }

    /// Accepts a connection; parks until there is one.
    fn accept(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { take_connection(fd, address, len, 0) }.answer() as c_int
    }

    /// Accepts a connection; parks until there is one.
    fn accept4(fd: c_int, address: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { take_connection(fd, address, len, flags) }.answer() as c_int
    }
}

/// # Safety
/// As for `connect`.
unsafe fn connect_parking(
    hub: &Hub,
    fd: RawFd,
    address: *const sockaddr,
    len: socklen_t,
) -> Result<usize, Errno> {
    operation(hub)?;
    let mut deadline = None;
    loop {
        // SAFETY: the caller's promise.
        let call = || unsafe { raw!(libc::SYS_connect, fd, address, len) };
        let answer = match kernel::without_blocking(fd, || true, call)? {
            Attempt::Nonblocking(answer) => return answer,
            Attempt::Blocking(answer) => answer,
        };
        match answer {
            Err(libc::EINPROGRESS | libc::EALREADY) => return connected(hub, fd),
            // A Unix socket's listener has no room for it.
            Err(libc::EAGAIN) => {
                let until = match deadline {
                    Some(until) => until,
                    None => *deadline.insert(kernel::patience(fd, Some(libc::SO_SNDTIMEO))?),
                };
                let now = clock::now_ns();
                if until.is_some_and(|until| until <= now) {
                    return Err(libc::EAGAIN);
                }
                hub.sleep_quietly(now + KNOCK_INTERVAL.as_nanos() as u64);
                if let Some(error) = hub.refusal() {
                    return Err(error);
                }
            }
            answer => return answer,
        }
    }
}

/// Waits for a connection that is on its way.
fn connected(hub: &Hub, fd: RawFd) -> Result<usize, Errno> {
    let deadline = kernel::patience(fd, Some(libc::SO_SNDTIMEO))?;
    loop {
        match hub.await_descriptor(fd, Direction::Write, deadline) {
            Err(libc::EAGAIN) => return Err(libc::EINPROGRESS),
            answer => answer?,
        }
        if kernel::ready_for(fd, libc::POLLOUT) != 0 {
            return match kernel::socket_option(fd, libc::SO_ERROR)? {
                0 => Ok(0),
                error => Err(error),
            };
        }
    }
}

/// # Safety
/// As for `accept4`.
#[inline]
unsafe fn take_connection(
    fd: RawFd,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> Result<usize, Errno> {
    match hub(Part::Sockets) {
        // SAFETY: the caller's promise.
        Some(hub) => unsafe { accept_parking(hub, fd, address, len, flags) },
        None => loop {
            // SAFETY: as above.
            let answer = unsafe { raw!(libc::SYS_accept4, fd, address, len, flags) };
            // It may have come in the moment in which a greenlet's accept on
            // another thread does not block.
            let try_again = answer == Err(libc::EAGAIN)
                && is_any_on()
                && kernel::between_flags(|| kernel::status_flags(fd))
                    .is_ok_and(|flags| flags & libc::O_NONBLOCK == 0)
                && kernel::socket_option(fd, libc::SO_RCVTIMEO) == Ok(0);
            if !try_again {
                return answer;
            }
        },
    }
}

/// # Safety
/// As for `accept4`.
unsafe fn accept_parking(
    hub: &Hub,
    fd: RawFd,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> Result<usize, Errno> {
    operation(hub)?;
    let mut deadline = None;
    loop {
        // SAFETY: the caller's promise.
        let call = || unsafe { raw!(libc::SYS_accept4, fd, address, len, flags) };
        let somebody_there = || kernel::ready_for(fd, libc::POLLIN) != 0;
        match kernel::without_blocking(fd, somebody_there, call)? {
            Attempt::Nonblocking(Err(libc::EAGAIN)) if kernel::users_own(fd) => {
                return Err(libc::EAGAIN);
            }
            Attempt::Nonblocking(Err(libc::EAGAIN)) => continue,
            Attempt::Nonblocking(answer) => return answer,
            Attempt::Blocking(Err(libc::EAGAIN)) => {}
            Attempt::Blocking(answer) => return answer,
        }
        if kernel::socket_option(fd, libc::SO_ACCEPTCONN)? == 0 {
            // Nobody will ever come, and the kernel says why.
            return call();
        }
        let until = match deadline {
            Some(until) => until,
            None => *deadline.insert(kernel::patience(fd, Some(libc::SO_RCVTIMEO))?),
        };
        hub.await_descriptor(fd, Direction::Read, until)?;
    }
}
