//! Locks: `syscall`, as far as it is `SYS_futex`. On it stand std's `Mutex`,
//! `RwLock`, `Condvar`, `Once`, `OnceLock`, `LazyLock` and `Barrier`.
//!
//! ```text
//!   FUTEX_WAIT…   who waits                                     how
//!     WAIT_BITSET   a greenlet, for a lock                      parks in hub::address
//!     WAIT_BITSET   a greenlet, in std's `thread::park`, or     ┐ the same, if it is alone
//!                   for a lock that is a thread-local           │ on its thread-locals;
//!     WAIT          a greenlet                                  ┘ else see below
//!     either        a thread without greenlets                  blocks, queued in hub::address
//!   FUTEX_WAKE…   wakes from that queue, and asks the kernel only if somebody has
//!                 been waiting there since before the locks were patched
//! ```
//!
//! # What belongs to the thread
//! std's `thread::park` has one word for each *thread*, and parking_lot a queue node
//! in a thread-local. A second greenlet that waits while the first one does would
//! break both: the one goes round for ever, the other corrupts its queues. std's
//! channels (`mpsc`), `thread::scope` and crossbeam-channel stand on `thread::park`.
//! So those who share its thread-locals stand still in such a wait, while another thread
//! or an isolated greenlet can end it; and if there is none, the process ends with a report
//! that tells what to use instead. (That other one may itself wait for one who stands
//! still, and hardly anybody can know that; see `park_thread` for what can be known.)
//!
//! rayon has a lock and a condition of std's in a thread-local, for each who asks its pool
//! for something: such a wait is one of the thread's, too.
//!
//! parking_lot is known by the plain `FUTEX_WAIT`, where std has `WAIT_BITSET`;
//! std's word by its address, which is found with an `unpark`: see `is_parker`.
//!
//! A signal handler may wake who waits.

use std::cell::Cell;
use std::ffi::{c_int, c_long};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libc::timespec;

use super::entry::{self, Answer, Part, interposed, is_on, raw};
use super::kernel;
use super::moment::Moment;
use crate::hub::address::{self, Sleep, Slept};
use crate::hub::{self, Hub, Kind, Reason};
use crate::sys::os::{self, Errno};
use crate::sys::{clock, fork, locals};

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
                _ => os::syscall6(number, args),
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
    if LOOKING.get() == Looking::ForWake {
        PARKER.set(address);
    }
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
    if LOOKING.get() == Looking::ForWait {
        PARKED.store(value, Ordering::Relaxed);
        PARKER.set(address);
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
    let is_plain = op & !libc::FUTEX_PRIVATE_FLAG == libc::FUTEX_WAIT;
    let slept = match entry::hub(Part::Locks) {
        Some(hub) => {
            // SAFETY: as above.
            let moment = unsafe { moment(timeout, op) }?;
            if hub.is_alone_here() {
                park(hub, address, bits, still, moment)
            } else if is_plain {
                wait_as_thread(hub, address, bits, still, moment, PLAIN)?
            } else if locals::hold(address) && !is_parker(address, value) {
                wait_as_thread(hub, address, bits, still, moment, LOCAL)?
            } else if is_parker(address, value) {
                // SAFETY: there is memory, as above, and std's word.
                unsafe { park_thread(hub, address, still, moment) }?
            } else {
                park(hub, address, bits, still, moment)
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

fn park(hub: &Hub, address: usize, bits: u32, still: impl Fn() -> bool, moment: Moment) -> Slept {
    loop {
        let sleep = Sleep {
            reason: Reason::new("waiting for a lock"),
            kind: Kind::Shared,
            deadline: moment.deadline(),
            may_go_first: true,
        };
        match address::wait(hub, address, bits, &still, sleep) {
            Slept::TimedOut if !moment.has_come() => {}
            slept => return slept,
        }
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

/// What waits belong to the thread.
const PLAIN: &str = "a plain FUTEX_WAIT (a lock of parking_lot's, or the like)";
const PARK: &str = "std::thread::park (with which std's and crossbeam's channels wait too)";

const LOCAL: &str = "a lock or condition that is a thread-local";

/// After so long a blocked thread looks around for the first time, and later on every
/// now and then.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(256);
/// `stay` has ended because others are to have a turn.
const OTHERS: Errno = libc::ECANCELED;

/// Waits in what belongs to the thread. Others who share its thread-locals do not run
/// meanwhile, and if only they could end the wait, the process ends.
///
/// # Errors
/// In `thread::park` also `OTHERS`, see `park_thread`.
fn wait_as_thread(
    hub: &Hub,
    address: usize,
    bits: u32,
    still: impl Fn() -> bool,
    moment: Moment,
    what: &'static str,
) -> Result<Slept, Errno> {
    if hub.has_other_domains() {
        return stand_still(hub, address, bits, still, moment, what);
    }
    let slept = address::block(address, bits, still, |word| stay(hub, word, what, moment));
    match slept {
        Err(libc::ETIMEDOUT) => Ok(Slept::TimedOut),
        slept => slept,
    }
}

/// Parks, and has all stand still who share the current greenlet's thread-locals.
///
/// # Errors
/// As for `wait_as_thread`.
fn stand_still(
    hub: &Hub,
    address: usize,
    bits: u32,
    still: impl Fn() -> bool,
    moment: Moment,
    what: &'static str,
) -> Result<Slept, Errno> {
    let _stands = hub.stand_still();
    let mut time = FIRST_LOOK;
    address::blocking(|| {
        loop {
            let look = clock::deadline_after(time);
            let sleep = Sleep {
                reason: Reason::new("waiting as its thread"),
                kind: Kind::Shared,
                deadline: Some(
                    moment
                        .deadline()
                        .map_or(look, |deadline| deadline.min(look)),
                ),
                may_go_first: true,
            };
            match address::wait(hub, address, bits, &still, sleep) {
                Slept::TimedOut => {}
                slept => return Ok(slept),
            }
            if moment.has_come() {
                return Ok(Slept::TimedOut);
            }
            look_around(hub, what, moment, hub.all_stand_still(), &still)?;
            time = (2 * time).min(LAST_LOOK);
        }
    })
}

/// What is looked at now and then in a wait that belongs to the thread. `alone` says that
/// nobody of this thread can end it.
///
/// # Errors
/// `OTHERS`, see `park_thread`.
fn look_around(
    hub: &Hub,
    what: &'static str,
    moment: Moment,
    alone: bool,
    still: impl Fn() -> bool,
) -> Result<(), Errno> {
    // What the others have done before they ended is seen after that.
    if alone && matches!(moment, Moment::Never) && hub::no_other_threads() && still() {
        hub::abort_blocked(hub, what);
    }
    if what == PARK && hub.somebody_is_midway() {
        return Err(OTHERS);
    }
    Ok(())
}

/// Blocks the thread, in a wait that belongs to it, and ends the process if only its own
/// greenlets could go on.
///
/// # Errors
/// ETIMEDOUT at the moment; in `thread::park` also `OTHERS`, see `park_thread`.
fn stay(hub: &Hub, word: &AtomicU32, what: &'static str, moment: Moment) -> Result<(), Errno> {
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let mut time = FIRST_LOOK;
    loop {
        let left = moment
            .deadline()
            .map(|at| Duration::from_nanos(at.saturating_sub(clock::now_ns())));
        let slice = left.map_or(time, |left| left.min(time));
        let slice = timespec {
            tv_sec: slice.as_secs() as libc::time_t,
            tv_nsec: slice.subsec_nanos().into(),
        };
        let word_at = word as *const AtomicU32;
        // SAFETY: both are live variables.
        match unsafe { raw!(libc::SYS_futex, word_at, op, 0u32, &raw const slice) } {
            Err(libc::ETIMEDOUT) => {}
            ended => return ended.map(|_| ()),
        }
        if moment.has_come() {
            return Err(libc::ETIMEDOUT);
        }
        let still = || word.load(Ordering::Acquire) == 0;
        look_around(hub, what, moment, true, still)?;
        time = (2 * time).min(LAST_LOOK);
    }
}

/// Waits on the word of `thread::park`.
///
/// There is one case in which others run after all. The thread that is to end this
/// wait may itself wait for a greenlet of this hub which is in the middle of
/// something: it wants to be next at a lock, or has yielded, inside of the very channel.
/// `park` may end early; so this one ends early, after a turn of everybody else:
///
/// ```text
///   the word   PARKED ── meanwhile EMPTY, so that others may park ── NOTIFIED ─▶ ends
/// ```
///
/// An `unpark` for another greenlet that comes just before the end is lost with it. That
/// other one has been left in the middle of something then, and has its turn too.
///
/// # Safety
/// The address is that of the word.
unsafe fn park_thread(
    hub: &Hub,
    address: usize,
    still: impl Fn() -> bool,
    moment: Moment,
) -> Result<Slept, Errno> {
    match wait_as_thread(hub, address, address::ANY, still, moment, PARK) {
        Err(OTHERS) => {}
        ended => return ended,
    }
    const EMPTY: u32 = 0;
    const NOTIFIED: u32 = 1;
    let parked = PARKED.load(Ordering::Relaxed);
    // SAFETY: the caller's promise.
    let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
    let order = (Ordering::AcqRel, Ordering::Relaxed);
    if word
        .compare_exchange(parked, EMPTY, order.0, order.1)
        .is_ok()
    {
        hub.yield_midway();
        word.store(NOTIFIED, Ordering::Release);
    }
    Ok(Slept::Woken)
}

// Where std's Parker is.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looking {
    No,
    /// The next FUTEX_WAIT of this thread is that of `thread::park`.
    ForWait,
    /// The next FUTEX_WAKE of this thread is that of `Thread::unpark`.
    ForWake,
}

thread_local! {
    static LOOKING: Cell<Looking> = const { Cell::new(Looking::No) };
    /// Where the word of this thread's Parker is, once that is known.
    static PARKER: Cell<usize> = const { Cell::new(0) };
}

/// What stands in the word of a Parker whose thread waits.
static PARKED: AtomicU32 = AtomicU32::new(u32::MAX);

/// Whether this is the word on which `thread::park` of this thread waits.
///
/// `unpark` wakes that word if the thread is parked, as it is if this is the word;
/// and then the wait that has begun here ends at once, which `park` is allowed to.
/// Otherwise it leaves a permit, so that the next `park` ends at once.
fn is_parker(address: usize, value: u32) -> bool {
    if value != PARKED.load(Ordering::Relaxed) {
        return false;
    }
    if PARKER.get() == 0 {
        LOOKING.set(Looking::ForWake);
        std::thread::current().unpark();
        LOOKING.set(Looking::No);
    }
    PARKER.get() == address
}

/// To be called before the locks are patched: learns what `thread::park` does.
pub(super) fn prepare() {
    // A lock of the table must be free in the child of a fork.
    fork::watch();
    locals::find();
    if PARKER.get() != 0 {
        return;
    }
    // Asked for now, so that no memory is asked for below: the lock of an allocator would
    // be taken for that word.
    let _this = std::thread::current();
    LOOKING.set(Looking::ForWait);
    std::thread::park_timeout(Duration::from_nanos(1));
    LOOKING.set(Looking::No);
    // There was a permit, or somebody may have left one in that moment.
    if PARKER.get() == 0 || os::has_more_threads_than(1) {
        std::thread::current().unpark();
    }
}
