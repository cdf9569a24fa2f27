//! Connecting and accepting.
//!
//! Neither has a flag that says "do not wait", see `kernel::without_blocking`.

use std::ffi::c_int;
use std::os::fd::RawFd;

use libc::{sockaddr, socklen_t};

use super::entry::{Answer, Part, hub, interposed, is_any_on, operation_on, raw};
use super::kernel::{self, Attempt};
use crate::hub::{Ask, Direction, Hub, Quiet};
use crate::sys::os::Errno;
use crate::sys::{clock, socket};

/// How often a Unix socket is asked whether its queue has room again. Nothing
/// tells who waits for that.
const KNOCK_INTERVAL: u64 = 1_000_000;

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
    operation_on(hub, fd, 0)?;
    // SAFETY: the caller's promise.
    let call = || unsafe { raw!(libc::SYS_connect, fd, address, len) };
    if kernel::socket_option(fd, libc::SO_TYPE).is_err() {
        return call();
    }
    let mut deadline = None;
    loop {
        // What it says of a connection that is on its way, and when the time is over.
        let mut on_its_way = None;
        let patience = || kernel::patience(fd, Some(libc::SO_SNDTIMEO));
        let answer = hub.until_ready(fd, Direction::Write, Ask::always(patience), || {
            match kernel::without_blocking(fd, call)? {
                Attempt::Nonblocking(answer) => Ok(answer),
                Attempt::Blocking(Err(error @ (libc::EINPROGRESS | libc::EALREADY))) => {
                    on_its_way.get_or_insert(error);
                    Err(libc::EAGAIN)
                }
                // Some protocols say so of a connection that has come about since.
                Attempt::Blocking(Err(libc::EISCONN)) if on_its_way.is_some() => Ok(Ok(0)),
                Attempt::Blocking(answer) => Ok(answer),
            }
        });
        match (answer, on_its_way) {
            (Err(libc::EAGAIN), Some(error)) => return Err(error),
            (Err(error), _) => return Err(error),
            // A Unix socket's listener has no room for it.
            (Ok(Err(libc::EAGAIN)), None) if !kernel::is_nonblocking(fd)? => {}
            (Ok(answer), _) => return answer,
        }
        let until = match deadline {
            Some(until) => until,
            None => *deadline.insert(patience()?),
        };
        let now = clock::now_ns();
        if until.is_some_and(|until| until <= now) {
            return Err(libc::EAGAIN);
        }
        if let Quiet::Refused(error) = hub.sleep_quietly(now + KNOCK_INTERVAL) {
            return Err(error);
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
    // SAFETY: the caller's promise.
    let call = || unsafe { raw!(libc::SYS_accept4, fd, address, len, flags) };
    match hub(Part::Sockets) {
        Some(hub) if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) == 0 => {
            accept_parking(hub, fd, call)
        }
        _ => match call() {
            Err(libc::EAGAIN) if is_any_on() => accept_again(fd, call),
            answer => answer,
        },
    }
}

/// A thread that blocks may come in the moment in which a greenlet's accept on
/// another thread, or in another process, does not.
#[cold]
fn accept_again(fd: RawFd, call: impl Fn() -> Result<usize, Errno>) -> Result<usize, Errno> {
    loop {
        // With a timeout there is no telling; most likely it is over.
        if kernel::is_nonblocking(fd)? || socket::timeout(fd, libc::SO_RCVTIMEO).is_some() {
            return Err(libc::EAGAIN);
        }
        match call() {
            Err(libc::EAGAIN) => {}
            answer => return answer,
        }
    }
}

fn accept_parking(
    hub: &Hub,
    fd: RawFd,
    call: impl Fn() -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    operation_on(hub, fd, 0)?;
    if kernel::socket_option(fd, libc::SO_ACCEPTCONN) != Ok(1) {
        // Nobody will ever come, and the kernel says why.
        return call();
    }
    let patience = Ask::always(|| kernel::patience(fd, Some(libc::SO_RCVTIMEO)));
    hub.until_ready(fd, Direction::Read, patience, || {
        if kernel::ready_for(fd, libc::POLLIN) == 0 {
            return Err(libc::EAGAIN);
        }
        match kernel::without_blocking_in_turn(fd, &call)? {
            Attempt::Nonblocking(answer) | Attempt::Blocking(answer) => answer,
        }
    })
}
