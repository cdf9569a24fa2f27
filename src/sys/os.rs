//! The few raw system calls that must not go through libc's symbols.
//!
//! A program may define `read`, `write`, `close` and `syscall` itself, for all that is in it, ourselves included; the
//! room `monkey` does. What the crate says on standard error, and what it reads from `/proc` to explain
//! a limit, happens on the hub's own stack or inside a signal handler, where nothing may park: so these few calls
//! enter the kernel directly.

use std::ffi::{CStr, c_long};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An error number of the kernel, as in `errno`.
pub(crate) type Errno = i32;

/// One system call with up to four arguments.
///
/// # Safety
///
/// As for [`syscall6`].
#[inline]
pub(crate) unsafe fn syscall(nr: c_long, args: [usize; 4]) -> Result<usize, Errno> {
    let [a, b, c, d] = args;
    // SAFETY: the caller's promise.
    unsafe { syscall6(nr, [a, b, c, d, 0, 0]) }
}

/// One system call with up to six arguments, which is as many as there can be.
///
/// # Safety
///
/// The arguments must be what the kernel documents for call number `nr`; a pointer among them must be good for
/// what the call does with it (or the call must answer `EFAULT` for it).
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[inline(always)]
pub(crate) unsafe fn syscall6(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let answer: isize;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; the rest is the caller's promise.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => answer,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    decode(answer)
}

/// One system call with up to six arguments, which is as many as there can be.
///
/// # Safety
///
/// As on x86-64: the arguments must be what the kernel documents for call number `nr`.
#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
#[inline(always)]
pub(crate) unsafe fn syscall6(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let answer: isize;
    // SAFETY: the kernel keeps every register but x0; the rest is the caller's promise.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") nr,
            inlateout("x0") args[0] => answer,
            in("x1") args[1],
            in("x2") args[2],
            in("x3") args[3],
            in("x4") args[4],
            in("x5") args[5],
            options(nostack),
        );
    }
    decode(answer)
}

/// One system call with up to six arguments, by way of libc where we have no assembly of our own.
///
/// # Safety
///
/// As on x86-64: the arguments must be what the kernel documents for call number `nr`.
#[cfg(not(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
pub(crate) unsafe fn syscall6(nr: c_long, args: [usize; 6]) -> Result<usize, Errno> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the caller's promise.
    let answer = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if answer == -1 {
        Err(last_errno())
    } else {
        Ok(answer as usize)
    }
}

/// The kernel answers with an error number between -4095 and -1.
#[inline]
fn decode(answer: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&answer) {
        Err(-answer as Errno)
    } else {
        Ok(answer as usize)
    }
}

/// The error number of the libc call that has just failed.
pub(crate) fn last_errno() -> Errno {
    std::io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// The calling thread's errno.
#[inline]
pub(crate) fn errno() -> Errno {
    // SAFETY: errno's address is valid on every thread, at any time.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
#[inline]
pub(crate) fn set_errno(value: Errno) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

/// Writes all of `bytes` to standard error. Async-signal-safe, never parks, takes no lock; what cannot be
/// written is lost, for there is nobody to tell.
pub(crate) fn write_stderr(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the pointer and the length are those of a live slice, which write(2) only reads.
        let written = unsafe {
            syscall(
                libc::SYS_write,
                [2, bytes.as_ptr() as usize, bytes.len(), 0],
            )
        };
        match written {
            Ok(0) => return,
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(libc::EINTR) => {}
            Err(_) => return,
        }
    }
}

/// The size of a memory page.
pub(crate) fn page_size() -> usize {
    static PAGE: AtomicUsize = AtomicUsize::new(0);
    match PAGE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf has no preconditions.
            let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            assert!(
                page.is_power_of_two(),
                "the page size is not a power of two"
            );
            PAGE.store(page, Ordering::Relaxed);
            page
        }
        page => page,
    }
}

/// The soft limit on the address space of this process (`ulimit -v`), if there is one.
pub(crate) fn address_space_limit() -> Option<usize> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes to the structure it is given and nowhere else.
    let answer = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    (answer == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as usize)
}

/// Reads a whole file piece by piece, without std and without the heap. False if it could not be read.
pub(crate) fn read_file(path: &CStr, mut each: impl FnMut(&[u8])) -> bool {
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    // SAFETY: the path ends with a zero byte and lives through the call.
    let opened = unsafe {
        syscall(
            libc::SYS_openat,
            [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags, 0],
        )
    };
    let Ok(fd) = opened else { return false };
    let mut buffer = [0u8; 4096];
    let whole = loop {
        // SAFETY: the kernel writes at most `buffer.len()` bytes into a buffer of that length.
        match unsafe {
            syscall(
                libc::SYS_read,
                [fd, buffer.as_mut_ptr() as usize, buffer.len(), 0],
            )
        } {
            Ok(0) => break true,
            Ok(n) => each(&buffer[..n]),
            Err(libc::EINTR) => {}
            Err(_) => break false,
        }
    };
    // SAFETY: the descriptor was opened above and nobody else knows it.
    let _ = unsafe { syscall(libc::SYS_close, [fd, 0, 0, 0]) };
    whole
}

/// The first number in a file such as `/proc/sys/vm/max_map_count`.
pub(crate) fn proc_number(path: &CStr) -> Option<usize> {
    let mut number = Number::default();
    read_file(path, |piece| {
        piece.iter().for_each(|&byte| number.feed(byte))
    });
    number.value
}

/// The number that stands behind `key` in a file of lines such as `/proc/meminfo`.
pub(crate) fn proc_field(path: &CStr, key: &[u8]) -> Option<usize> {
    let (mut matched, mut at_line_start, mut number) = (0, true, Number::default());
    read_file(path, |piece| {
        for &byte in piece {
            if matched == key.len() {
                number.feed(byte);
            } else if (matched > 0 || at_line_start) && byte == key[matched] {
                matched += 1;
            } else {
                matched = 0;
            }
            at_line_start = byte == b'\n';
        }
    });
    number.value
}

/// How many mappings this process has: the lines of `/proc/self/maps`.
pub(crate) fn mappings_in_use() -> Option<usize> {
    let mut lines = 0;
    read_file(c"/proc/self/maps", |piece| {
        lines += piece.iter().filter(|&&byte| byte == b'\n').count()
    })
    .then_some(lines)
}

/// The first run of decimal digits in a stream of bytes.
#[derive(Default)]
struct Number {
    value: Option<usize>,
    over: bool,
}

impl Number {
    fn feed(&mut self, byte: u8) {
        match (byte, self.value) {
            (b'0'..=b'9', value) if !self.over => {
                self.value = Some(
                    value
                        .unwrap_or(0)
                        .saturating_mul(10)
                        .saturating_add((byte - b'0') as usize),
                );
            }
            (_, Some(_)) => self.over = true,
            _ => {}
        }
    }
}

/// How many threads this process has.
pub(crate) fn thread_count() -> Option<usize> {
    proc_field(c"/proc/self/status", b"Threads:")
}

/// Whether this process has more than `threads` threads for certain; where it
/// cannot tell, it says no. It costs much less than `thread_count`, for whose
/// file the kernel writes out all that it knows of the process.
pub(crate) fn has_more_threads_than(threads: usize) -> bool {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the path is a string with its end, and the kernel writes a `stat`.
    let answer = unsafe {
        syscall(
            libc::SYS_newfstatat,
            [
                libc::AT_FDCWD as usize,
                c"/proc/self/task".as_ptr() as usize,
                stat.as_mut_ptr() as usize,
                0,
            ],
        )
    };
    if answer.is_err() {
        return false;
    }
    // SAFETY: the call has succeeded, and has written it.
    let links = unsafe { stat.assume_init() }.st_nlink as usize;
    // A directory has two links, and one for each in it.
    links > threads.saturating_add(2)
}

/// Lets other threads of the machine have the processor.
pub(crate) fn yield_thread() {
    // SAFETY: sched_yield has no arguments, and no preconditions.
    let _ = unsafe { syscall(libc::SYS_sched_yield, [0; 4]) };
}

/// The number of this process, which libc may have had to look up for another.
pub(crate) fn process_id() -> u32 {
    // SAFETY: getpid has no arguments, and never fails.
    unsafe { syscall(libc::SYS_getpid, [0; 4]) }.map_or(0, |id| id as u32)
}

/// Ends the process at once; async-signal-safe.
pub(crate) fn abort() -> ! {
    // SAFETY: abort has no preconditions, and POSIX lists it as async-signal-safe.
    unsafe { libc::abort() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_proc() {
        assert!(proc_number(c"/proc/sys/vm/max_map_count").is_some_and(|count| count > 0));
        assert!(proc_field(c"/proc/meminfo", b"CommitLimit:").is_some_and(|kib| kib > 0));
        assert!(mappings_in_use().is_some_and(|count| count > 5));
        assert_eq!(proc_number(c"/proc/no/such/file"), None);
    }

    #[test]
    fn threads_are_not_counted_where_there_are_none() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || ended.recv());
        // This one, that one, and what the test harness has.
        assert!(has_more_threads_than(1) && thread_count().is_some_and(|count| count > 1));
        assert!(!has_more_threads_than(100_000) && !has_more_threads_than(usize::MAX));
        drop(end);
        assert!(thread.join().is_ok());
    }

    #[test]
    fn a_failing_call_answers_with_its_errno() {
        // SAFETY: closing a descriptor that cannot exist changes nothing.
        let answer = unsafe { syscall(libc::SYS_close, [usize::MAX, 0, 0, 0]) };
        assert_eq!(answer, Err(libc::EBADF));
    }
}
