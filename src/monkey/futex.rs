//! Locks: `syscall`, as far as it is `SYS_futex`. On it stand std's `Mutex`,
//! `RwLock`, `Condvar`, `Once`, `OnceLock`, `LazyLock` and `Barrier`.
//!
//! ```text
//!   FUTEX_WAIT…   who waits                                     how
//!     WAIT_BITSET   a greenlet, for a lock                      parks in hub::address
//!     WAIT_BITSET   a greenlet, in std's `thread::park`, or     ┐ the same, if it is alone
//!                   for a lock that is a thread-local           │ on its thread-locals;
//!     WAIT          a greenlet                                  ┘ else see `as_thread`
//!     either        a thread without greenlets                  blocks, queued in hub::address
//!   FUTEX_WAKE…   wakes from that queue, and asks the kernel only if somebody has
//!                 been waiting there since before the locks were patched
//! ```
//!
//! A signal handler may wake who waits.

use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::timespec;

use super::as_thread;
use super::descriptor;
use super::entry::{self, Answer, Part, interposed, is_on, raw};
use super::kernel;
use super::moment::Moment;
use crate::hub::address::{self, Sleep, Slept};
use crate::hub::{Hub, Kind, Reason};
use crate::sys::os::{self, Errno};

interposed! {
    Locks;

    /// A wait for a lock by `SYS_futex` parks. Every other system call is made.
    ///
    /// C declares it with a variable number of arguments, which on x86-64 and
    /// aarch64 are passed as these are; those that the caller did not give are
    /// something or other, and the kernel does not look at them.
    fn syscall(
        number: c_long,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> c_long {
        let args = [a, b, c, d, e, f];
        // SAFETY: the caller's promise.
        let answer = unsafe {
            match number {
                libc::SYS_futex => futex(&args),
                FUTEX_WAITV | FUTEX_2_WAIT | FUTEX_2_WAKE | FUTEX_2_REQUEUE | IO_URING_SETUP => {
                    stranger(number, &args)
                }
                _ => {
                    let answer = os::syscall6(number, args);
                    descriptor::look_at(number, b, c);
                    answer
                }
            }
        };
        answer.answer() as c_long
    }
}

// These have the same numbers on all architectures.
const IO_URING_SETUP: c_long = 425;
const FUTEX_WAITV: c_long = 449;
const FUTEX_2_WAKE: c_long = 454;
const FUTEX_2_WAIT: c_long = 455;
const FUTEX_2_REQUEUE: c_long = 456;

/// Where addresses end that a program can have, unless it asks for others.
const END_OF_MEMORY: usize = match cfg!(target_arch = "x86_64") {
    true => 1 << 47,
    false => 1 << 48,
};

/// Others who wait in the kernel, or wake who may be waiting in our table.
///
/// # Safety
/// As for the system call.
#[cold]
unsafe fn stranger(number: c_long, args: &[usize; 6]) -> Result<usize, Errno> {
    match number {
        FUTEX_2_WAKE => {
            address::wake(args[0], address::ANY, usize::MAX);
        }
        FUTEX_2_REQUEUE => address::wake_everybody(),
        _ => address::in_kernel_anywhere(),
    }
    // SAFETY: the caller's promise.
    unsafe { os::syscall6(number, *args) }
}

/// # Safety
/// As for the system call.
#[inline]
unsafe fn futex(args: &[usize; 6]) -> Result<usize, Errno> {
    let [address, op, _, _, other, bits] = *args;
    let (op, bits) = (op as c_int, bits as u32);
    if op & libc::FUTEX_PRIVATE_FLAG == 0 || address & 3 != 0 || address >= END_OF_MEMORY {
        // Other processes wait for it, or the kernel says what is wrong.
        // SAFETY: the caller's promise.
        return unsafe { in_kernel(args) };
    }
    const IN_REAL_TIME: c_int = libc::FUTEX_WAIT_BITSET | libc::FUTEX_CLOCK_REALTIME;
    // SAFETY: as above, for all of them.
    unsafe {
        match op & !libc::FUTEX_PRIVATE_FLAG {
            libc::FUTEX_WAIT => wait(args, address::ANY),
            libc::FUTEX_WAIT_BITSET | IN_REAL_TIME if bits != 0 => wait(args, bits),
            libc::FUTEX_WAKE => wake(args, address::ANY),
            libc::FUTEX_WAKE_BITSET if bits != 0 => wake(args, bits),
            libc::FUTEX_REQUEUE | libc::FUTEX_CMP_REQUEUE => {
                address::wake(address, address::ANY, usize::MAX);
                if address::may_be_in_kernel(address) {
                    // Who waits there may wait for another address from now on.
                    address::in_kernel_anywhere();
                }
                in_kernel(args)
            }
            libc::FUTEX_WAKE_OP => {
                // The word behind the second address is changed before anybody is
                // woken there, so they are woken afterwards.
                let answer = in_kernel(args);
                for address in [address, other] {
                    address::wake(address, address::ANY, usize::MAX);
                }
                answer
            }
            // Whatever else waits, waits in the kernel.
            _ => address::in_kernel(address, || in_kernel(args)),
        }
    }
}

/// The system call as it is.
///
/// # Safety
/// As for the system call.
unsafe fn in_kernel(args: &[usize; 6]) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    unsafe { os::syscall6(libc::SYS_futex, *args) }
}

/// # Safety
/// As for the system call.
unsafe fn wake(args: &[usize; 6], bits: u32) -> Result<usize, Errno> {
    let [address, _, count, ..] = *args;
    as_thread::look_at_wake(address);
    if !is_on(Part::Locks) {
        // SAFETY: the caller's promise.
        return unsafe { in_kernel(args) };
    }
    // The kernel wakes one, and then looks whether that was enough.
    let count = (count as c_int).max(1) as usize;
    let woken = address::wake(address, bits, count);
    if woken == count || !address::may_be_in_kernel(address) {
        return Ok(woken);
    }
    let mut rest = *args;
    rest[2] = count - woken;
    // SAFETY: as above.
    unsafe { in_kernel(&rest) }.map(|more| woken + more)
}

/// # Safety
/// As for the system call; the address is aligned, and one of a program's.
unsafe fn wait(args: &[usize; 6], bits: u32) -> Result<usize, Errno> {
    let [address, op, value, timeout, ..] = *args;
    let (op, value, timeout) = (op as c_int, value as u32, timeout as *const timespec);
    if as_thread::looks_at_wait(address, value) {
        return Err(libc::ETIMEDOUT);
    }
    if !is_on(Part::Locks) {
        // SAFETY: the caller's promise.
        return address::in_kernel(address, || unsafe { in_kernel(args) });
    }
    // What is wrong with the time, the kernel finds first.
    let after_time = |error| match timeout.is_null() {
        true => error,
        // SAFETY: the caller's promise, or the kernel says what is wrong.
        false => unsafe { kernel::time_at(timeout) }.err().unwrap_or(error),
    };
    if !address::is_known(address) {
        // SAFETY: the kernel checks the address, and does nothing else.
        unsafe { look_at(address, value) }.map_err(after_time)?;
        address::remember(address);
    }
    let still = || {
        // SAFETY: there is memory, says the kernel, and it is aligned.
        let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
        word.load(Ordering::SeqCst) == value
    };
    let slept = match entry::hub(Part::Locks) {
        Some(hub) => {
            let wait = Wait {
                address,
                bits,
                still,
                // SAFETY: as above.
                moment: unsafe { moment(timeout, op) }?,
            };
            let is_plain = op & !libc::FUTEX_PRIVATE_FLAG == libc::FUTEX_WAIT;
            match as_thread::what(hub, is_plain, address, value) {
                None => wait.park(hub),
                // SAFETY: there is memory, as above, and where it is std's, it is its word.
                Some(what) => unsafe { wait.as_thread(hub, what) }?,
            }
        }
        // SAFETY: as above.
        None => unsafe { block(args, address, bits, still) }?,
    };
    match slept {
        Slept::Woken => Ok(0),
        Slept::TimedOut => Err(libc::ETIMEDOUT),
        Slept::Changed => Err(after_time(libc::EAGAIN)),
    }
}

/// Asks the kernel whether this value stands at this address.
///
/// # Safety
/// The address may be no good, and then the kernel says so.
unsafe fn look_at(address: usize, value: u32) -> Result<(), Errno> {
    // Of none that wait there, none are to be woken, and none to wait elsewhere.
    let op = libc::FUTEX_CMP_REQUEUE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: it only compares.
    unsafe { raw!(libc::SYS_futex, address, op, 0u32, 0usize, address, value) }.map(|_| ())
}

/// Until when a futex's wait lasts.
///
/// # Safety
/// The pointer may be no good, and then the kernel says so.
unsafe fn moment(timeout: *const timespec, op: c_int) -> Result<Moment, Errno> {
    if timeout.is_null() {
        return Ok(Moment::Never);
    }
    // SAFETY: the caller's promise.
    let time = unsafe { kernel::time_at(timeout) }?;
    Ok(match op & libc::FUTEX_CLOCK_REALTIME {
        0 => Moment::Here(time),
        _ => Moment::InRealTime(time),
    })
}

/// A greenlet's wait for a word of memory.
pub(super) struct Wait<S> {
    pub(super) address: usize,
    pub(super) bits: u32,
    /// Whether the word is still as it was said to be.
    pub(super) still: S,
    pub(super) moment: Moment,
}

impl<S: Fn() -> bool> Wait<S> {
    /// Parks.
    fn park(&self, hub: &Hub) -> Slept {
        loop {
            let deadline = self.moment.deadline();
            match self.park_until(hub, "waiting for a lock", deadline) {
                Slept::TimedOut if !self.moment.has_come() => {}
                slept => return slept,
            }
        }
    }

    /// As `park`, with a deadline of its own.
    pub(super) fn park_until(
        &self,
        hub: &Hub,
        reason: &'static str,
        deadline: Option<u64>,
    ) -> Slept {
        let sleep = Sleep {
            reason: Reason::new(reason),
            kind: Kind::Shared,
            deadline,
            may_go_first: true,
        };
        address::wait(hub, self.address, self.bits, &self.still, sleep)
    }
}

/// Blocks the thread.
///
/// # Safety
/// As for the system call.
unsafe fn block(
    args: &[usize; 6],
    address: usize,
    bits: u32,
    still: impl Fn() -> bool,
) -> Result<Slept, Errno> {
    let [_, op, _, timeout, ..] = *args;
    address::block(address, bits, still, |word| {
        let word = word as *const AtomicU32;
        // SAFETY: the word lives as long as the wait, and the time is the caller's.
        unsafe { raw!(libc::SYS_futex, word, op, 0u32, timeout, 0usize, bits) }.map(|_| ())
    })
}
