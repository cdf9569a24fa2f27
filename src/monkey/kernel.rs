//! What the kernel is asked about a descriptor, by system calls that nobody
//! interposes, and the moment in which a blocking descriptor does not block.

use std::ffi::{c_int, c_long, c_ulong};
use std::mem::{MaybeUninit, size_of};
use std::os::fd::RawFd;
use std::ptr;
use std::time::Duration;

use libc::{iovec, pollfd, sigset_t, timespec};

use super::entry::raw;
use crate::hub::{Ask, Guarded, Monitor};
use crate::sys::os::{self, Errno};
use crate::sys::pass::PassThrough;
use crate::sys::{clock, socket};

/// Whether a descriptor is that of a regular file, a directory or a block device:
/// those are always ready, as `poll` has it, and what they wait for is the disk.
pub(super) fn is_on_disk(fd: RawFd) -> Result<bool, Errno> {
    file_type(fd).map(is_disks)
}

/// As `is_on_disk`, of a file's type.
pub(super) fn is_disks(file_type: libc::mode_t) -> bool {
    matches!(file_type, libc::S_IFREG | libc::S_IFDIR | libc::S_IFBLK)
}

/// Whether a descriptor is that of a pipe, named or not.
pub(super) fn is_pipe(fd: RawFd) -> bool {
    file_type(fd) == Ok(libc::S_IFIFO)
}

/// Whether a descriptor is that of a terminal.
pub(super) fn is_terminal(fd: RawFd) -> bool {
    let mut mode = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: the kernel writes a record that is shorter than libc's.
    unsafe {
        raw!(
            libc::SYS_ioctl,
            fd,
            libc::TCGETS as usize,
            mode.as_mut_ptr()
        )
    }
    .is_ok()
}

/// Whether a descriptor is a socket.
pub(super) fn is_socket(fd: RawFd) -> bool {
    file_type(fd) == Ok(libc::S_IFSOCK)
}

/// What kind of file is behind a descriptor, as in a `stat`.
pub(super) fn file_type(fd: RawFd) -> Result<libc::mode_t, Errno> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: the kernel writes a `stat`.
    unsafe { raw!(libc::SYS_fstat, fd, stat.as_mut_ptr()) }?;
    // SAFETY: zeroed, and then written.
    Ok(unsafe { stat.assume_init() }.st_mode & libc::S_IFMT)
}

/// The file status flags.
pub(super) fn status_flags(fd: RawFd) -> Result<c_int, Errno> {
    // SAFETY: the call takes no memory.
    unsafe { raw!(libc::SYS_fcntl, fd, libc::F_GETFL, 0) }.map(|flags| flags as c_int)
}

fn set_status_flags(fd: RawFd, flags: c_int) -> Result<(), Errno> {
    // SAFETY: the call takes no memory.
    unsafe { raw!(libc::SYS_fcntl, fd, libc::F_SETFL, flags) }.map(|_| ())
}

/// A number among a socket's options.
pub(super) fn socket_option(fd: RawFd, name: c_int) -> Result<c_int, Errno> {
    socket::option(fd, name)
}

/// Until when an operation may wait that would block.
///
/// # Errors
/// EAGAIN, if its user has chosen that it does not.
pub(super) fn patience(fd: RawFd, timeout_option: Option<c_int>) -> Result<Option<u64>, Errno> {
    let flags = status_flags(fd)?;
    let is_own = match timeout_option {
        Some(_) => is_users_own(flags),
        None => flags & libc::O_NONBLOCK != 0,
    };
    if is_own {
        return Err(libc::EAGAIN);
    }
    let timeout = timeout_option.and_then(|name| socket::timeout(fd, name));
    Ok(timeout.map(|timeout| clock::now_ns().saturating_add(timeout)))
}

/// Until when a socket's operation may wait.
pub(super) fn patience_of_socket(
    fd: RawFd,
    flags: c_int,
    timeout_option: c_int,
) -> Result<Option<u64>, Errno> {
    if flags & libc::MSG_DONTWAIT != 0 {
        return Err(libc::EAGAIN);
    }
    patience(fd, Some(timeout_option))
}

/// How to ask until when a socket's operation with these flags may wait: some of them
/// make it another question than that of all others.
pub(super) fn ask_with<F>(flags: c_int, ask: F) -> Ask<F>
where
    F: FnOnce() -> Result<Option<u64>, Errno>,
{
    match flags & (libc::MSG_DONTWAIT | libc::MSG_OOB | libc::MSG_ERRQUEUE) {
        0 => Ask::unless_known(ask),
        _ => Ask::always(ask),
    }
}

/// Whether an operation on the descriptor does not block anyway, or is answered with
/// an error.
pub(super) fn never_blocks(fd: RawFd) -> bool {
    match status_flags(fd) {
        Ok(flags) => is_users_own(flags) || is_on_disk(fd).unwrap_or(true),
        Err(_) => true,
    }
}

/// Whether an error of the socket's is pending that has ended its stream: who has done
/// a part leaves it to the next call.
pub(super) fn has_failed(fd: RawFd) -> bool {
    // Messages in the error queue alone do not hang it up.
    const FAILED: i16 = libc::POLLERR | libc::POLLHUP;
    ready_for(fd, 0) & FAILED == FAILED
}

/// A number that an `ioctl` of this kind tells.
pub(super) fn told_by(fd: RawFd, request: usize) -> Result<c_int, Errno> {
    let mut value: c_int = 0;
    // SAFETY: the kernel writes an int.
    unsafe { raw!(libc::SYS_ioctl, fd, request, &raw mut value) }?;
    Ok(value)
}

/// Whether the kernel would read memory from there.
///
/// # Errors
/// EFAULT.
pub(super) fn readable(start: usize, len: usize) -> Result<(), Errno> {
    const PAGE: usize = 4096;
    let Some(end) = start.checked_add(len) else {
        return Err(libc::EFAULT);
    };
    let mut at = start & !3;
    while at < end {
        // FUTEX_WAIT reads the word, and with no time at all it does not wait.
        let none = NO_TIME;
        let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel checks the address.
        let answer = unsafe { raw!(libc::SYS_futex, at, wait, 0u32, &raw const none) };
        if answer == Err(libc::EFAULT) {
            return Err(libc::EFAULT);
        }
        at = (at & !(PAGE - 1)).saturating_add(PAGE);
    }
    Ok(())
}

/// What a descriptor is ready for right now.
pub(super) fn ready_for(fd: RawFd, events: i16) -> i16 {
    let mut one = pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: one entry, which is a live variable.
    match unsafe { poll_now(&raw mut one, 1) } {
        Ok(_) => one.revents,
        Err(_) => 0,
    }
}

/// What a number of descriptors are ready for right now.
///
/// # Safety
/// As for `poll`; a pointer that is no good is answered with EFAULT.
#[inline(always)]
pub(super) unsafe fn poll_now(fds: *mut pollfd, count: usize) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    unsafe { poll(fds, count, 0) }
}

/// The system call that `poll` is.
///
/// # Safety
/// As for `poll`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn poll(fds: *mut pollfd, count: usize, millis: c_int) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    unsafe { raw!(libc::SYS_poll, fds, count, millis) }
}

/// The system call that `poll` is where there is none of this name.
///
/// # Safety
/// As for `poll`.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn poll(fds: *mut pollfd, count: usize, millis: c_int) -> Result<usize, Errno> {
    let mut time = time_of_millis(millis).map(timespec_of);
    let time = time.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: the caller's promise; without a mask its size is not looked at.
    unsafe { raw!(libc::SYS_ppoll, fds, count, time, 0usize, 0usize) }
}

/// No time at all.
pub(super) const NO_TIME: timespec = timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

pub(super) fn timespec_of(nanos: u64) -> timespec {
    timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as c_long,
    }
}

/// Of a time that is none before the epoch.
pub(super) fn nanos_of(time: timespec) -> u64 {
    (time.tv_sec as u64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as u64)
}

/// `poll`'s milliseconds as nanoseconds. A negative number is for ever.
pub(super) fn time_of_millis(millis: c_int) -> Option<u64> {
    u64::try_from(millis).ok().map(|millis| millis * 1_000_000)
}

/// As `time_at`, where no pointer is for ever.
///
/// # Safety
/// As there.
pub(super) unsafe fn time_or_never(time: *const timespec) -> Result<Option<u64>, Errno> {
    if time.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { time_at(time) }.map(Some)
}

/// A length of time that the caller has given by a pointer, in nanoseconds.
///
/// # Errors
/// EFAULT and EINVAL, as the kernel would say: it is asked.
///
/// # Safety
/// The pointer is good, or no good in a way that the kernel finds out.
pub(super) unsafe fn time_at(time: *const timespec) -> Result<u64, Errno> {
    // To a futex that is no timeout at all.
    if time.is_null() {
        return Err(libc::EFAULT);
    }
    // FUTEX_WAIT reads its timeout first and then finds that the word is not what
    // it is said to be, so it never waits.
    let word = 0u32;
    let wait = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the kernel checks the pointer.
    let answer = unsafe { raw!(libc::SYS_futex, &raw const word, wait, 1u32, time) };
    match answer {
        Err(libc::EAGAIN) => {
            // SAFETY: the kernel has just read it from there.
            Ok(nanos_of(unsafe { time.read_unaligned() }))
        }
        Err(error) => Err(error),
        Ok(_) => Err(libc::EINVAL),
    }
}

/// Reads words that the caller has given a pointer to, and says how many could be
/// read.
///
/// # Safety
/// The pointer is good, or no good in a way that the kernel finds out.
pub(super) unsafe fn peek(from: *const c_ulong, words: &mut [c_ulong]) -> usize {
    let len = size_of_val(words);
    if len == 0 {
        return 0;
    }
    let ours = iovec {
        iov_base: words.as_mut_ptr().cast(),
        iov_len: len,
    };
    let theirs = iovec {
        iov_base: from.cast_mut().cast(),
        iov_len: len,
    };
    // SAFETY: a process has a number.
    let process = unsafe { libc::getpid() };
    // SAFETY: the kernel writes at most `len` bytes into a slice of that length, and
    // finds out whether it can read the others.
    let read = unsafe {
        raw!(
            libc::SYS_process_vm_readv,
            process,
            &raw const ours,
            1usize,
            &raw const theirs,
            1usize,
            0usize
        )
    };
    match read {
        Ok(bytes) => bytes / size_of::<c_ulong>(),
        Err(libc::EFAULT) => 0,
        // Somebody has forbidden the call; so it is as in libc: good, or a crash.
        Err(_) => {
            for (at, word) in words.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                *word = unsafe { from.wrapping_add(at).read_unaligned() };
            }
            words.len()
        }
    }
}

/// The length of the kernel's signal sets; libc's are longer.
pub(super) const MASK_SIZE: usize = 8;

/// Whether a signal mask is the one that the thread has anyway.
///
/// # Safety
/// The kernel has just read it.
pub(super) unsafe fn is_present_mask(mask: *const sigset_t) -> bool {
    let mut present = 0u64;
    let none = ptr::null::<sigset_t>();
    let out = &raw mut present;
    // SAFETY: the kernel writes eight bytes into a live variable.
    let asked = unsafe {
        raw!(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            none,
            out,
            MASK_SIZE
        )
    };
    // SAFETY: the caller's promise.
    let mask = unsafe { mask.cast::<u64>().read_unaligned() };
    // These two cannot be blocked, and their bits mean nothing.
    let never = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    asked.is_ok() && mask & !never == present & !never
}

/// Nanoseconds of some clock.
pub(super) fn now(id: libc::clockid_t) -> u64 {
    let mut time = NO_TIME;
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(id, &mut time) };
    nanos_of(time)
}

/// Held by whoever changes the flags of a descriptor, or looks at them.
struct Flags;

impl Guarded for Flags {}

static FLAGS: Monitor<Flags, 0> = Monitor::new(Flags);

/// What tells a descriptor that does not block for the length of one call from one
/// that never does: two flags, of which a socket's user sets the one alone. On a
/// socket the other one has no meaning.
const FOR_A_MOMENT: c_int = libc::O_NONBLOCK | libc::O_APPEND;

/// Whether a socket with these flags is non-blocking by its user's choice.
fn is_users_own(flags: c_int) -> bool {
    flags & FOR_A_MOMENT == libc::O_NONBLOCK
}

/// Runs `f` while nobody of this process is in `without_blocking`.
pub(super) fn between_flags<R>(f: impl FnOnce() -> R) -> R {
    // What stands in a signal handler does not come back for the lock.
    let _pass = PassThrough::enter();
    let _guard = FLAGS.lock();
    f()
}

/// Whether a socket does not block, by its user's choice.
pub(super) fn is_nonblocking(fd: RawFd) -> Result<bool, Errno> {
    between_flags(|| status_flags(fd)).map(is_users_own)
}

/// Runs a system call on a descriptor that blocks as if it did not.
///
/// accept and connect have no flag that says so. O_NONBLOCK does, but it belongs to
/// what is open behind the descriptor, which other processes may share. So it is set
/// for the length of this one call.
///
/// Nobody in this process sees that: the lock is taken by `fcntl` and `ioctl` too,
/// where they have to do with these flags. Another process of this crate's sees two
/// flags and knows.
///
/// # Errors
/// Those of asking for the flags, and of setting them.
pub(super) fn without_blocking(
    fd: RawFd,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<Attempt, Errno> {
    between_flags(|| for_a_moment(fd, FOR_A_MOMENT, || true, call))
}

/// As `without_blocking`, and while no other process of this crate's does so with the
/// same socket, which it shares: it would take O_NONBLOCK away again while our call,
/// which then blocks, is on its way.
///
/// The lock is one by `fcntl`, which is a process's, is given up when that ends, and
/// which nobody else has a use for on a socket. To be called for sockets only: on a
/// file it would undo the locks of its user.
///
/// # Errors
/// As for `without_blocking`.
pub(super) fn without_blocking_in_turn(
    fd: RawFd,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<Attempt, Errno> {
    // Who holds it needs it for microseconds, unless it was stopped in them.
    const TRIES: u32 = 1000;
    const NAP: Duration = Duration::from_micros(100);
    between_flags(|| {
        for tries in 0..TRIES {
            match lock(fd, libc::F_WRLCK) {
                Err(libc::EAGAIN | libc::EACCES) if tries < TRIES / 2 => os::yield_thread(),
                Err(libc::EAGAIN | libc::EACCES) => clock::block_thread_for(NAP),
                _ => break,
            }
        }
        let answer = for_a_moment(fd, FOR_A_MOMENT, || true, call);
        let _ = lock(fd, libc::F_UNLCK);
        answer
    })
}

/// As `without_blocking`, for sendfile and splice, of a socket or a pipe. These refuse
/// what has the second flag, so there is only the first. Another process that shares
/// the socket may take it for its user's choice; but who shares one that bytes are
/// moved to, and waits for it at the same time, gets a muddle of bytes anyway. It is
/// done only if `worthwhile` says that the call is likely to find something; the answer
/// is EAGAIN otherwise.
///
/// # Errors
/// As for `without_blocking`.
pub(super) fn without_blocking_plainly(
    fd: RawFd,
    worthwhile: impl FnOnce() -> bool,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<Attempt, Errno> {
    between_flags(|| for_a_moment(fd, libc::O_NONBLOCK, worthwhile, call))
}

fn lock(fd: RawFd, kind: c_int) -> Result<usize, Errno> {
    // SAFETY: a record of zeros is the whole of a file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as _;
    // SAFETY: the kernel reads the record.
    unsafe { raw!(libc::SYS_fcntl, fd, libc::F_SETLK, &raw const lock) }
}

/// Makes the call while the descriptor has these flags, of which O_NONBLOCK alone would
/// be its user's.
fn for_a_moment(
    fd: RawFd,
    moment: c_int,
    worthwhile: impl FnOnce() -> bool,
    call: impl FnOnce() -> Result<usize, Errno>,
) -> Result<Attempt, Errno> {
    let flags = status_flags(fd)?;
    if flags & moment == libc::O_NONBLOCK {
        return Ok(Attempt::Nonblocking(call()));
    }
    if !worthwhile() {
        return Ok(Attempt::Blocking(Err(libc::EAGAIN)));
    }
    set_status_flags(fd, flags | moment)?;
    let answer = call();
    // Both flags may have been there before: left by a process that was killed
    // in this very moment. Otherwise the second is the user's.
    let before = match flags & moment == moment {
        true => flags & !moment,
        false => flags,
    };
    // The descriptor may have been closed by the call's side effects only if
    // somebody else did so; then there is nothing to put back.
    let _ = set_status_flags(fd, before);
    Ok(Attempt::Blocking(answer))
}

/// A call that did not block, and whether its user would have had it block.
pub(super) enum Attempt {
    Blocking(Result<usize, Errno>),
    Nonblocking(Result<usize, Errno>),
}
