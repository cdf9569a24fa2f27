//! What the tests of `monkey` share: a call that is to park, who ends it, and a greenlet
//! that shows whether the thread goes on.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use greenlet::JoinHandle;

use crate::common::{MS, Watchdog, until, watchdog};

/// Patches everything but threads, and watches the test that calls it.
#[must_use]
pub fn patched() -> Watchdog {
    crate::common::patch();
    watchdog()
}

/// A greenlet that counts its turns, one a millisecond, until it is dropped.
pub struct Ticker {
    ticks: Rc<Cell<u32>>,
    greenlet: JoinHandle<()>,
}

impl Ticker {
    pub fn new() -> Ticker {
        let ticks = Rc::new(Cell::new(0));
        let counter = Rc::clone(&ticks);
        let greenlet = greenlet::spawn(move || {
            loop {
                counter.set(counter.get() + 1);
                greenlet::sleep(MS);
            }
        });
        Ticker { ticks, greenlet }
    }

    pub fn ticks(&self) -> u32 {
        self.ticks.get()
    }

    /// Waits for three more turns.
    pub fn tick(&self) {
        let before = self.ticks();
        until(|| self.ticks() >= before + 3);
    }

    /// Has a greenlet do `f` after three more turns: what that wakes was waited for
    /// while the thread went on. If it stood still, nobody would ever wake it.
    pub fn after<R: 'static>(&self, f: impl FnOnce() -> R + 'static) -> JoinHandle<R> {
        let ticks = Rc::clone(&self.ticks);
        let begun = ticks.get();
        greenlet::spawn(move || {
            while ticks.get() < begun + 3 {
                greenlet::sleep(MS);
            }
            f()
        })
    }

    /// Runs `f`, and fails if the thread stood still meanwhile. What ends it is done
    /// by [`after`](Ticker::after), or takes some turns by itself.
    #[track_caller]
    pub fn ticks_during<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = self.ticks();
        let result = f();
        let ticked = self.ticks() - before;
        assert!(ticked > 2, "the thread stood still: {ticked} turns");
        result
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.greenlet.kill();
    }
}

/// Runs `call` in a greenlet. It must not end before `release` is called, from this
/// greenlet, which has slept three times by then: a call that blocked the thread would
/// never end.
#[track_caller]
pub fn parks<R: 'static>(call: impl FnOnce() -> R + 'static, release: impl FnOnce()) -> R {
    let waiting = greenlet::spawn(call);
    for _ in 0..3 {
        greenlet::sleep(MS);
        assert!(!waiting.is_finished(), "it did not wait");
    }
    release();
    waiting.join().unwrap()
}

/// Runs `call` in a greenlet, beside another one that could run.
#[track_caller]
pub fn in_greenlet<R: 'static>(call: impl FnOnce() -> R + 'static) -> R {
    let other = greenlet::spawn(|| greenlet::sleep(MS * 3_600_000));
    let answer = greenlet::spawn(call).join().unwrap();
    other.kill();
    answer
}

/// Runs `call` in a greenlet, which ends by itself; another one must have had turns
/// meanwhile.
#[track_caller]
pub fn lets_others_run<R: 'static>(call: impl FnOnce() -> R + 'static) -> R {
    let ticker = Ticker::new();
    let answer = greenlet::spawn(call).join().unwrap();
    // The first turn was before the call.
    assert!(ticker.ticks() > 1, "nobody else ran meanwhile");
    answer
}

/// The error number that a libc call has left.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap()
}

pub fn set_errno(value: i32) {
    // SAFETY: errno's address is valid on every thread.
    unsafe { *libc::__errno_location() = value };
}

/// The answer of a libc call, or its errno. errno must be left alone by a call that
/// succeeds.
#[track_caller]
pub fn checked<N: Copy + Into<i64>>(call: impl FnOnce() -> N) -> Result<usize, i32> {
    const UNTOUCHED: i32 = 4077;
    set_errno(UNTOUCHED);
    let answer = call().into();
    let errno = errno();
    if answer == -1 {
        assert_ne!(errno, UNTOUCHED, "it has failed and not said why");
        return Err(errno);
    }
    assert_eq!(errno, UNTOUCHED, "it has changed errno and succeeded");
    Ok(usize::try_from(answer).unwrap())
}

/// Two connected sockets.
pub fn pair(kind: i32) -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: the array has room for two.
    let made = unsafe {
        libc::socketpair(
            libc::AF_UNIX,
            kind | libc::SOCK_CLOEXEC,
            0,
            fds.as_mut_ptr(),
        )
    };
    assert_eq!(made, 0);
    // SAFETY: just made, and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
}

/// A pipe: where to read from, and where to write to.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: the array has room for two.
    assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: just made, and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
}

/// A pair of TCP sockets.
pub fn tcp_pair() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The descriptor's flags, as the kernel has them.
pub fn kernel_flags(fd: RawFd) -> i32 {
    // SAFETY: the call takes no memory.
    let flags = unsafe { libc::syscall(libc::SYS_fcntl, fd, libc::F_GETFL, 0) };
    assert_ne!(flags, -1);
    flags as i32
}

/// Fails if the descriptor was left non-blocking.
#[track_caller]
pub fn assert_blocking(fd: &impl AsRawFd) {
    let odd = libc::O_NONBLOCK | libc::O_APPEND;
    assert_eq!(
        kernel_flags(fd.as_raw_fd()) & odd,
        0,
        "O_NONBLOCK was left behind"
    );
}

pub fn set_nonblocking(fd: &impl AsRawFd, on: bool) {
    let flags = kernel_flags(fd.as_raw_fd());
    let flags = match on {
        true => flags | libc::O_NONBLOCK,
        false => flags & !libc::O_NONBLOCK,
    };
    // SAFETY: the call takes no memory.
    let answer = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) };
    assert_eq!(answer, 0);
}

pub fn recv(fd: &impl AsRawFd, buffer: &mut [u8], flags: i32) -> Result<usize, i32> {
    let fd = fd.as_raw_fd();
    // SAFETY: the buffer is live.
    checked(|| unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) } as i64)
}

pub fn send(fd: &impl AsRawFd, bytes: &[u8], flags: i32) -> Result<usize, i32> {
    let fd = fd.as_raw_fd();
    // SAFETY: the bytes are live.
    checked(|| unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) } as i64)
}

pub fn read(fd: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, i32> {
    let fd = fd.as_raw_fd();
    // SAFETY: the buffer is live.
    checked(|| unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } as i64)
}

pub fn write(fd: &impl AsRawFd, bytes: &[u8]) -> Result<usize, i32> {
    let fd = fd.as_raw_fd();
    // SAFETY: the bytes are live.
    checked(|| unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as i64)
}

pub fn close(fd: impl std::os::fd::IntoRawFd) -> Result<usize, i32> {
    // SAFETY: it is given away.
    checked(|| unsafe { libc::close(fd.into_raw_fd()) })
}

/// Sets one of a socket's two timeouts.
pub fn set_timeout(fd: &impl AsRawFd, option: i32, time: std::time::Duration) {
    let time = libc::timeval {
        tv_sec: time.as_secs() as _,
        tv_usec: time.subsec_micros().into(),
    };
    let len = size_of::<libc::timeval>() as u32;
    let (fd, at) = (fd.as_raw_fd(), (&raw const time).cast());
    // SAFETY: the option is a timeval.
    let answer = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, at, len) };
    assert_eq!(answer, 0);
}

/// How many descriptors this process has open.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// An address that no memory is at.
pub fn nowhere<T>() -> *mut T {
    16 as *mut T
}

/// Ends the process at the next system call of this thread whose number is listed, or
/// at the next that is not.
pub fn forbid(listed: &[i64], is_listed: bool) {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let ends = |it| match it {
        true => step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        false => step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    };
    let mut steps = vec![step(LOAD, 0, 0, 0)];
    for (at, number) in listed.iter().enumerate() {
        let to_last = (listed.len() - at) as u8;
        steps.push(step(JUMP_IF_EQUAL, to_last, 0, *number as u32));
    }
    steps.extend([ends(!is_listed), ends(is_listed)]);
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the program is a live variable, which the kernel copies.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &program), 0);
    }
}
