//! Moving bytes from one descriptor to another: `sendfile` and `splice`.
//!
//! ```text
//!   try, without waiting ── EAGAIN ─▶ which of the two is not ready? ─▶ park
//!      ▲      │                                                           │
//!      │      ▼ so many                                                   │
//!      │   a socket takes all of them: go on, if there are more           │
//!      └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A pipe can be told by a flag of `splice` not to wait; a socket cannot, nor can
//! anything in `sendfile`, see `kernel::without_blocking_plainly`. As `write` has it,
//! nothing parks for standard output or standard error, whose flags are left alone.

use std::ffi::{c_int, c_uint};
use std::os::fd::RawFd;

use libc::{loff_t, off_t, size_t, ssize_t};

use super::entry::{Answer, Part, hub, interposed, operation, operation_on, raw};
use super::kernel::{self, Attempt};
use super::slices::MOST;
use crate::hub::{Direction, Hub};
use crate::sys::clock;
use crate::sys::os::Errno;

/// All flags of `splice`.
const KNOWN_FLAGS: c_uint = 0xf;
/// When to try again, where both sides look ready and are not.
const NAP: u64 = 1_000_000;

interposed! {
    Files;

    /// Sends a file's bytes; parks while there is no room.
    fn sendfile(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        let answer = match hub(Part::Files) {
            // SAFETY: the caller's promise.
            Some(hub) => unsafe { send_parking(hub, out, from, offset, count) },
            // SAFETY: as above.
            None => unsafe { raw!(libc::SYS_sendfile, out, from, offset, count) },
        };
        answer.answer()
    }

    /// As `sendfile`.
    fn sendfile64(out: c_int, from: c_int, offset: *mut off_t, count: size_t) -> ssize_t {
        // SAFETY: the caller's promise.
        unsafe { sendfile(out, from, offset, count) }
    }

    /// Moves bytes from or to a pipe; parks while there are none, or no room.
    fn splice(
        from: c_int,
        from_at: *mut loff_t,
        to: c_int,
        to_at: *mut loff_t,
        len: size_t,
        flags: c_uint,
    ) -> ssize_t {
        // SAFETY: the caller's promise.
        let call = |len: size_t, flags: c_uint| unsafe {
            raw!(libc::SYS_splice, from, from_at, to, to_at, len, flags)
        };
        let answer = match hub(Part::Files) {
            Some(hub) => {
                let (from, to) = (End::of(from, from_at), End::of(to, to_at));
                splice_parking(hub, from, to, len, flags, call)
            }
            None => call(len, flags),
        };
        answer.answer()
    }
}

/// What is behind a descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Socket,
    Pipe,
    Disk,
    Other,
}

fn kind(fd: RawFd) -> Result<Kind, Errno> {
    Ok(match kernel::file_type(fd)? {
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFIFO => Kind::Pipe,
        file if kernel::is_disks(file) => Kind::Disk,
        _ => Kind::Other,
    })
}

/// # Safety
/// As for `sendfile`.
unsafe fn send_parking(
    hub: &Hub,
    out: RawFd,
    from: RawFd,
    offset: *mut off_t,
    count: size_t,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let call = |count: size_t| unsafe { raw!(libc::SYS_sendfile, out, from, offset, count) };
    let kind = match kind(out) {
        Ok(kind @ (Kind::Socket | Kind::Pipe)) if out > libc::STDERR_FILENO => kind,
        _ => return call(count),
    };
    operation_on(hub, out, 0)?;
    let most = count.min(MOST);
    let mut moved = Moved::new(most);
    let mut deadline = None;
    loop {
        let there_is_room = || kernel::ready_for(out, libc::POLLOUT) != 0;
        let attempt = kernel::without_blocking_plainly(out, there_is_room, || call(moved.left()));
        let (answer, users) = match attempt {
            Ok(Attempt::Nonblocking(answer)) => (answer, true),
            Ok(Attempt::Blocking(answer)) => (answer, false),
            Err(error) => (Err(error), false),
        };
        match answer {
            Err(libc::EAGAIN) if users && is_users_own(out, kind) => return moved.or(libc::EAGAIN),
            Err(libc::EAGAIN) if users => continue,
            Err(libc::EAGAIN) => {}
            Err(error) => return moved.or(error),
            // A pipe takes some of it, as does a socket that does not block.
            Ok(n) if moved.is_all(n) || users || kind == Kind::Pipe => return Ok(moved.0),
            Ok(_) => continue,
        }
        if goes_the_wrong_way(from, out) {
            return call(count);
        }
        let until = match (deadline, kind) {
            (Some(until), _) => until,
            (None, Kind::Socket) => match kernel::patience(out, Some(libc::SO_SNDTIMEO)) {
                Ok(until) => *deadline.insert(until),
                Err(error) => return moved.or(error),
            },
            (None, _) => *deadline.insert(None),
        };
        if let Err(error) = wait(hub, out, Direction::Write, until) {
            return moved.or(error);
        }
    }
}

/// Whether what does not block does so by its user's choice: a socket may also be in
/// the moment of another process's accept or connect.
fn is_users_own(fd: RawFd, kind: Kind) -> bool {
    match kind {
        Kind::Socket => kernel::is_nonblocking(fd).unwrap_or(true),
        _ => true,
    }
}

/// Whether one of them is not open for it. It would never be ready, and the kernel
/// says at once what is wrong.
fn goes_the_wrong_way(from: RawFd, to: RawFd) -> bool {
    let mode = |fd| kernel::status_flags(fd).map(|flags| flags & libc::O_ACCMODE);
    mode(from) == Ok(libc::O_WRONLY) || mode(to) == Ok(libc::O_RDONLY)
}

/// How much has been moved, and how much there was to do.
struct Moved(usize, usize);

impl Moved {
    fn new(most: usize) -> Moved {
        Moved(0, most)
    }

    fn left(&self) -> usize {
        self.1 - self.0
    }

    /// Counts so many more. True if that is all, or there are no more.
    fn is_all(&mut self, n: usize) -> bool {
        self.0 += n;
        n == 0 || self.0 >= self.1
    }

    /// The error, if nothing was moved before it came.
    fn or(&self, error: Errno) -> Result<usize, Errno> {
        match self.0 {
            0 => Err(error),
            n => Ok(n),
        }
    }
}

/// Parks until the descriptor is ready. If it says so already, others have some
/// time nevertheless.
fn wait(hub: &Hub, fd: RawFd, direction: Direction, until: Option<u64>) -> Result<(), Errno> {
    let events = match direction {
        Direction::Read => libc::POLLIN,
        Direction::Write => libc::POLLOUT,
    };
    if kernel::ready_for(fd, events) == 0 {
        return hub.await_descriptor(fd, direction, until);
    }
    match hub.pause_quietly(clock::now_ns() + NAP) {
        Err(libc::EAGAIN) => Ok(()),
        answer => answer,
    }
}

/// One end of a `splice`.
#[derive(Clone, Copy)]
struct End {
    fd: RawFd,
    has_offset: bool,
    kind: Result<Kind, Errno>,
}

impl End {
    fn of(fd: RawFd, offset: *mut loff_t) -> End {
        End {
            fd,
            has_offset: !offset.is_null(),
            kind: kind(fd),
        }
    }

    /// Whether it has an offset that it cannot have.
    fn is_wrong(self) -> bool {
        self.has_offset && matches!(self.kind, Ok(Kind::Pipe | Kind::Socket))
    }
}

fn splice_parking(
    hub: &Hub,
    from: End,
    to: End,
    len: size_t,
    flags: c_uint,
    call: impl Fn(size_t, c_uint) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let is_wrong = from.is_wrong() || to.is_wrong() || flags & !KNOWN_FLAGS != 0;
    let (Ok(source), Ok(target)) = (from.kind, to.kind) else {
        return call(len, flags);
    };
    let (from, to) = (from.fd, to.fd);
    let socket = match (source, target) {
        (Kind::Socket, _) => Some(from),
        (_, Kind::Socket) => Some(to),
        _ => None,
    };
    let is_standard = to == libc::STDOUT_FILENO || to == libc::STDERR_FILENO;
    let leaves_alone = is_standard || socket == Some(libc::STDIN_FILENO);
    let has_pipe = source == Kind::Pipe || target == Kind::Pipe;
    // What is wrong with these, the kernel says at once.
    if len == 0 || is_wrong || !has_pipe || leaves_alone {
        return call(len, flags);
    }
    let users_flag = flags & libc::SPLICE_F_NONBLOCK != 0;
    // What does not block is neither refused nor made to wait, see `operation_on`.
    if !users_flag || !socket.is_none_or(kernel::never_blocks) {
        operation(hub)?;
    }
    let mut moved = Moved::new(len.min(MOST));
    loop {
        let both_ready = || {
            kernel::ready_for(from, libc::POLLIN) != 0 && kernel::ready_for(to, libc::POLLOUT) != 0
        };
        // A terminal, say, knows of no flag, and is asked first as in `read`.
        let would_wait = || {
            source == Kind::Other && kernel::ready_for(from, libc::POLLIN) == 0
                || target == Kind::Other && kernel::ready_for(to, libc::POLLOUT) == 0
        };
        let attempt = || match would_wait() {
            true => Err(libc::EAGAIN),
            false => call(moved.left(), flags | libc::SPLICE_F_NONBLOCK),
        };
        let answer = match socket {
            Some(socket) => match kernel::without_blocking_plainly(socket, both_ready, attempt) {
                Ok(Attempt::Nonblocking(answer) | Attempt::Blocking(answer)) => answer,
                Err(error) => Err(error),
            },
            None => attempt(),
        };
        match answer {
            Err(libc::EAGAIN) => {}
            Err(error) => return moved.or(error),
            // A socket takes all that is there.
            Ok(n) if moved.is_all(n) || target != Kind::Socket => return Ok(moved.0),
            Ok(_) => {}
        }
        let (fd, kind, direction, timeout) = match kernel::ready_for(from, libc::POLLIN) {
            // What was there has been taken.
            0 if moved.0 > 0 => return Ok(moved.0),
            0 => (from, source, Direction::Read, libc::SO_RCVTIMEO),
            _ => (to, target, Direction::Write, libc::SO_SNDTIMEO),
        };
        if answer.is_ok() {
            continue;
        }
        if goes_the_wrong_way(from, to) {
            return call(len, flags);
        }
        if kind == Kind::Disk || source == Kind::Disk && kernel::ready_for(to, libc::POLLOUT) != 0 {
            // It waits for nothing but the disk.
            return match call(moved.left(), flags) {
                Ok(n) => Ok(moved.0 + n),
                Err(error) => moved.or(error),
            };
        }
        let patience = match kind {
            Kind::Socket if is_users_own(fd, kind) => Err(libc::EAGAIN),
            Kind::Socket if users_flag && heeds_the_flag(fd, direction) => Err(libc::EAGAIN),
            Kind::Socket => kernel::patience(fd, Some(timeout)),
            _ if users_flag => Err(libc::EAGAIN),
            // Of two pipes, either speaks for both.
            _ if source == target => kernel::patience(from, None).and(kernel::patience(to, None)),
            _ => kernel::patience(fd, None),
        };
        if let Err(error) = patience.and_then(|until| wait(hub, fd, direction, until)) {
            return moved.or(error);
        }
    }
}

/// The flag is for the pipe; but what comes from one kind of sockets heeds it too.
fn heeds_the_flag(socket: RawFd, direction: Direction) -> bool {
    let domain = kernel::socket_option(socket, libc::SO_DOMAIN);
    direction == Direction::Read && domain == Ok(libc::AF_UNIX)
}
