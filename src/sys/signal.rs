//! Signals, raw: masks, dispositions, and the one handler of this crate.
//!
//! What a handler may do is little: no lock, no allocation. Ours walks a list
//! of *nodes*, one per `Signals` object that exists, sets a bit in those that
//! asked for the signal, and writes to their eventfds, on which greenlets wait:
//!
//! ```text
//!   NODES ─▶ Node { wanted: INT|TERM, pending: INT, fd 7 } ──▶ Node { … } ──▶ …
//!                                       ▲            ▲
//!              1. the handler sets a bit┘            └─ 2. and then writes
//!   a greenlet clears the eventfd first and reads the bits afterwards, so a
//!   signal that comes in between leaves the eventfd readable
//! ```
//!
//! A handler may be in the middle of the list at any moment, on any thread. So
//! nodes are never freed and their eventfds are not closed: a descriptor number
//! that was used again would receive the handler's bytes. Nodes are used again
//! instead; there are as many as there ever were `Signals` at one time.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fork::{self, PerProcess};
use super::list::List;
use super::{eventfd, os};

/// The signals of a thread that are held back.
#[derive(Clone, Copy)]
pub(crate) struct SignalMask(libc::sigset_t);

impl SignalMask {
    /// Holds back everything that can be, except what the thread's own faults
    /// raise: those end the process anyway, and should do so with a message.
    pub(crate) fn all_but_faults() -> SignalMask {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset initialises the set, and the signals are valid.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            let mut set = set.assume_init();
            for signal in FAULTS {
                libc::sigdelset(&mut set, signal);
            }
            SignalMask(set)
        }
    }

    /// The calling thread's mask.
    pub(crate) fn current() -> SignalMask {
        let mut set = MaybeUninit::uninit();
        // SAFETY: without a new set the call only writes the old one.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), set.as_mut_ptr());
            SignalMask(set.assume_init())
        }
    }

    /// As `sigaction` wants it.
    pub(crate) fn set(self) -> libc::sigset_t {
        self.0
    }

    /// Makes this the calling thread's mask and returns the one before.
    pub(crate) fn swap(self) -> SignalMask {
        let mut before = MaybeUninit::uninit();
        // SAFETY: both sets are valid for the call, which writes the old mask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, before.as_mut_ptr());
            SignalMask(before.assume_init())
        }
    }
}

/// A set of signals in libc's form.
#[cfg(feature = "process")]
pub(super) fn set_of(signals: &[i32]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; a number that is no signal is refused.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

/// Has this process ignore a signal.
#[cfg(feature = "process")]
pub(crate) fn ignore(signal: i32) {
    // SAFETY: ignoring installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// What the CPU raises for an instruction: a handler that returned from one
/// would run into it again.
const FAULTS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
];

/// The highest signal number of Linux.
const HIGHEST: i32 = 64;

/// Whether a greenlet may wait for this signal. Those that glibc keeps for
/// itself (32 and 33) are refused by `sigaction`.
pub(crate) fn may_be_waited_for(signal: i32) -> bool {
    let never = [libc::SIGKILL, libc::SIGSTOP];
    (1..=HIGHEST).contains(&signal) && !never.contains(&signal) && !FAULTS.contains(&signal)
}

/// A set of signals as bits.
pub(crate) fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The signals of a set, in the order of their numbers.
pub(crate) fn signals_of(set: u64) -> impl Iterator<Item = i32> {
    (1..=HIGHEST).filter(move |signal| set & bit(*signal) != 0)
}

/// The first of a set.
pub(crate) fn lowest(set: u64) -> Option<i32> {
    (set != 0).then(|| set.trailing_zeros() as i32 + 1)
}

/// What the handler knows of one `Signals` object.
pub(crate) struct Node {
    in_use: AtomicBool,
    wanted: AtomicU64,
    pending: AtomicU64,
    /// The eventfd; -1 while it has none.
    fd: AtomicI32,
}

impl Node {
    /// What becomes readable when a signal has come.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        let fd: RawFd = self.fd.load(Ordering::Acquire);
        // SAFETY: the eventfd of a node in use is closed by no one but a
        // fork's child, in its own table, where callers ask `is_ours` first.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Makes the eventfd readable. Async-signal-safe.
    pub(crate) fn ring(&self) {
        let fd = self.fd.load(Ordering::Acquire);
        if fd >= 0 {
            // SAFETY: as in `fd`.
            eventfd::set(unsafe { BorrowedFd::borrow_raw(fd) });
        }
    }
}

static NODES: List<Node> = List::new();

extern "C" fn handler(signal: libc::c_int) {
    // SAFETY: errno's address is valid on every thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above. The code that was interrupted may be about to read it.
    let saved = unsafe { *errno };
    for node in NODES.iter() {
        if node.wanted.load(Ordering::Acquire) & bit(signal) != 0 {
            node.pending.fetch_or(bit(signal), Ordering::SeqCst);
            node.ring();
        }
    }
    // SAFETY: as above.
    unsafe { *errno = saved };
}

/// How many mailboxes want each signal. After a fork the child counts anew.
static WANTED_BY: PerProcess<Mutex<[u32; HIGHEST as usize + 1]>> = PerProcess::new();

fn counts() -> MutexGuard<'static, [u32; HIGHEST as usize + 1]> {
    WANTED_BY
        .get(|| Mutex::new([0; HIGHEST as usize + 1]))
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

/// The signals whose previous disposition is in `PREVIOUS`.
static INSTALLED: AtomicU64 = AtomicU64::new(0);

/// What to put back. An entry is written before its bit of `INSTALLED` is set,
/// under the lock of the counts, and read while that bit is set.
struct Previous([std::cell::UnsafeCell<MaybeUninit<libc::sigaction>>; HIGHEST as usize + 1]);

// SAFETY: entries are written under a lock while nobody reads them; see above.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous =
    Previous([const { std::cell::UnsafeCell::new(MaybeUninit::uninit()) }; HIGHEST as usize + 1]);

/// Has the handler run for `signal`. The counts' lock is held.
fn install(signal: i32) -> io::Result<()> {
    // SAFETY: `now` and `ours` are valid for the calls; nobody reads the entry
    // before its bit is set.
    unsafe {
        let mut now = MaybeUninit::zeroed();
        if libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        *PREVIOUS.0[signal as usize].get() = now;
        INSTALLED.fetch_or(bit(signal), Ordering::SeqCst);
        let mut ours: libc::sigaction = MaybeUninit::zeroed().assume_init();
        ours.sa_sigaction = handler as *const () as libc::sighandler_t;
        // On the alternate stack: a greenlet's may have little room left. And
        // no system call of code that knows nothing of us is to be cut short.
        ours.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigemptyset(&mut ours.sa_mask);
        if libc::sigaction(signal, &ours, ptr::null_mut()) != 0 {
            let error = io::Error::last_os_error();
            INSTALLED.fetch_and(!bit(signal), Ordering::SeqCst);
            return Err(error);
        }
    }
    Ok(())
}

/// Puts back what was there before, unless somebody else has installed
/// something since. Async-signal-safe.
fn restore(signal: i32) {
    // SAFETY: the bit of this signal is set, so its entry has been written.
    unsafe {
        let mut now = MaybeUninit::<libc::sigaction>::zeroed();
        let known = libc::sigaction(signal, ptr::null(), now.as_mut_ptr()) == 0;
        let ours = handler as *const () as libc::sighandler_t;
        if known && now.assume_init().sa_sigaction == ours {
            let previous = PREVIOUS.0[signal as usize].get();
            libc::sigaction(signal, (*previous).as_ptr(), ptr::null_mut());
        }
    }
    INSTALLED.fetch_and(!bit(signal), Ordering::SeqCst);
}

/// The child of a fork: its mailboxes' eventfds are the parent's, and nobody
/// is known to wait here. Those who do, enter themselves again.
pub(super) fn after_fork() {
    for signal in signals_of(INSTALLED.load(Ordering::SeqCst)) {
        restore(signal);
    }
    for node in NODES.iter() {
        node.wanted.store(0, Ordering::SeqCst);
        node.pending.store(0, Ordering::SeqCst);
        let fd = node.fd.swap(-1, Ordering::SeqCst);
        if fd >= 0 {
            // SAFETY: the descriptor is this node's, and no handler knows the
            // number any more.
            let _ = unsafe { os::syscall(libc::SYS_close, [fd as usize, 0, 0, 0]) };
        }
        node.in_use.store(false, Ordering::SeqCst);
    }
}

/// A mailbox for a set of signals, for as long as it lives.
pub(crate) struct Mailbox {
    node: &'static Node,
    wanted: u64,
    /// The process that it was entered in.
    generation: u32,
}

impl Mailbox {
    /// Enters a mailbox: from now on these signals go there.
    pub(crate) fn new(wanted: u64) -> io::Result<Mailbox> {
        let node = take_node()?;
        let mut mailbox = Mailbox {
            node,
            wanted: 0,
            generation: fork::generation(),
        };
        node.pending.store(0, Ordering::SeqCst);
        node.wanted.store(wanted, Ordering::SeqCst);
        let mut counts = counts();
        for signal in signals_of(wanted) {
            if counts[signal as usize] == 0 {
                if let Err(error) = install(signal) {
                    // Takes back what was installed so far.
                    drop(counts);
                    drop(mailbox);
                    return Err(error);
                }
            }
            counts[signal as usize] += 1;
            mailbox.wanted |= bit(signal);
        }
        Ok(mailbox)
    }

    /// Whether it was entered by this process, and not by one that it was
    /// forked from: then it gets nothing, and has nothing to wait on.
    pub(crate) fn is_ours(&self) -> bool {
        self.generation == fork::generation()
    }

    /// The node, whose eventfd becomes readable when a signal has come.
    pub(crate) fn node(&self) -> &'static Node {
        self.node
    }

    /// Takes out what has come, as bits.
    pub(crate) fn take(&self) -> u64 {
        eventfd::clear(self.node.fd());
        // The node's former owner may have asked for others.
        self.node.pending.swap(0, Ordering::SeqCst) & self.wanted
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        if !self.is_ours() {
            return;
        }
        {
            let mut counts = counts();
            for signal in signals_of(self.wanted) {
                counts[signal as usize] -= 1;
                if counts[signal as usize] == 0 {
                    restore(signal);
                }
            }
        }
        self.node.wanted.store(0, Ordering::SeqCst);
        self.node.in_use.store(false, Ordering::SeqCst);
    }
}

/// A node that nobody uses, with an eventfd.
fn take_node() -> io::Result<&'static Node> {
    // The signals of a fork's child are put right by a callback.
    fork::watch();
    let free = NODES.iter().find(|node| {
        node.in_use
            .compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    });
    let node = free.unwrap_or_else(|| {
        NODES.add(Node {
            in_use: AtomicBool::new(true),
            wanted: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            fd: AtomicI32::new(-1),
        })
    });
    if node.fd.load(Ordering::Acquire) < 0 {
        match eventfd::new() {
            Ok(fd) => node.fd.store(fd.into_raw_fd(), Ordering::Release),
            Err(error) => {
                node.in_use.store(false, Ordering::SeqCst);
                return Err(error);
            }
        }
    }
    Ok(node)
}
