//! Waiting by address: whoever waits for a word in memory queues here, under the
//! address of that word, and is woken by whoever has changed it. It is what the
//! kernel's futexes are, with greenlets among those who wait.
//!
//! ```text
//!   address ──hash──▶ Bucket { lock, head ──▶ Node ◀──▶ Node ◀──▶ Node ◀── tail }
//!                                             0x5580    0x7f10    0x5580
//!                                             greenlet  thread    greenlet
//!                                             (each in the frame of who waits)
//!
//!   wait:  lock ─▶ is the word still as it was? ─▶ link ─▶ unlock ─▶ park
//!   wake:  the word has been changed ─▶ lock ─▶ unlink and claim, first come
//!          first served ─▶ unlock ─▶ tell other hubs and other threads
//! ```
//!
//! Plain threads queue here as well, each beside a word of its own on which it
//! blocks. If they waited in the kernel instead, one half of those who wait would
//! always be asked before the other, whatever their order: whoever wakes one at a
//! time, as a mutex does, would starve the other half as long as there is anybody
//! in the first. Only who began to wait before this table was in use is in the
//! kernel, and is counted, so that a wake-up asks the kernel only if it must.
//!
//! # Rules
//! * An address is a number here. Waking never looks at what is there: it may have
//!   been freed since. A wake-up can therefore find somebody who waits for another
//!   thing that stands at the same address by now, and everybody who waits has to
//!   look at its word again, as with the kernel's futexes.
//! * A bucket's lock is held for nanoseconds, nothing is allocated under it, and no
//!   code but ours runs there. A signal handler may find it held by the thread that
//!   it interrupts: then it leaves a note in the lock's word, and whoever lets go
//!   of the lock wakes everybody in the bucket.
//!   Whom a handler wakes of its own thread's greenlets, it wakes as another thread does.
//! * In the child of a fork a lock is free that another thread held, and the queues
//!   are empty: of all who waited nobody is here.
//! * These waits are not interruptible: a kill or a timeout stays pending. Code that
//!   waits for a lock has no way to go on without it.

mod crowd;
mod lock;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};

pub(super) use self::crowd::Arrivals;
use self::crowd::Crowd;
use self::lock::{Interrupted, Lock};
use super::Hub;
use super::list::{Linked, Links, List};
use super::quiet::Midway;
use super::wait::{Kind, Reason, Waiter, Woken};
use crate::sys::os::{self, Errno};

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    Woken,
    TimedOut,
    /// It did not begin: the word was not as it was said to be.
    Changed,
}

/// How a greenlet waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep {
    pub(crate) reason: Reason,
    pub(crate) kind: Kind,
    pub(crate) deadline: Option<u64>,
    /// Whether the one who wakes it may be made to let it go first: see `InVain`.
    pub(crate) may_go_first: bool,
}

/// Whom to wake, and who is to be woken: those with a bit in common.
pub(crate) const ANY: u32 = u32::MAX;

/// So often a greenlet is woken and finds that it came too late, before the one
/// who wakes it lets it go first: see `InVain`.
const PATIENCE: u32 = 20;

/// Who waits in one bucket.
#[repr(align(128))]
struct Bucket {
    lock: Lock,
    /// How many nodes are linked: whoever finds none need not take the lock.
    linked: AtomicU32,
    /// How many threads may be waiting in the kernel for an address of this bucket.
    in_kernel: AtomicU32,
    /// An address at which there was memory when it was last asked for.
    known: AtomicUsize,
    queue: Queue,
}

/// What the lock guards.
struct Queue {
    list: List<Node>,
    /// Numbers nodes in the order in which they come.
    next: Cell<u64>,
}

// SAFETY: the queue is reached under the bucket's lock only, and what its nodes
// point to is made for several threads.
unsafe impl Sync for Bucket {}

/// A place in the queue of an address.
struct Node {
    links: Links<Node>,
    number: Cell<u64>,
    address: usize,
    bits: u32,
    /// How often it has been woken in vain, if it is a greenlet.
    in_vain: u32,
    told: Cell<Told>,
    sleeper: Sleeper,
}

/// Whether a greenlet has been told that it is woken. Only its own thread writes this.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    No,
    /// By a greenlet of its own hub.
    ByNeighbour,
    /// By another thread, or a signal handler: its node has been in the list of arrivals,
    /// and is out of it.
    FromAfar,
}

/// Both live in the frame that the node is in.
#[derive(Clone, Copy)]
enum Sleeper {
    Greenlet(*const Waiter),
    /// 0 while it sleeps.
    Thread(*const AtomicU32),
}

const BUCKETS: usize = 256;
/// No word is here.
const NOWHERE: usize = usize::MAX;

static TABLE: [Bucket; BUCKETS] = [const { Bucket::new() }; BUCKETS];

/// Parks the current greenlet until somebody wakes the address with a bit in
/// common, for as long as `still` says, under the bucket's lock, that there is
/// something to wait for: it looks at the word.
///
/// Nothing is thrown. If nothing can end the wait any more, that is reported once.
pub(crate) fn wait(
    hub: &Hub,
    address: usize,
    bits: u32,
    still: impl Fn() -> bool,
    sleep: Sleep,
) -> Slept {
    let saved = os::errno();
    let bucket = Bucket::of(address);
    let task = hub.current();
    let in_vain = match sleep.may_go_first {
        true => task.in_vain.take().so_far(address, hub.pulse.left()),
        false => 0,
    };
    let _midway = Midway::enter(task);
    let mut kind = sleep.kind;
    let slept = loop {
        let waiter = Waiter::new(hub, sleep.reason, kind, false);
        waiter.set_queued();
        let node = Node::new(address, bits, in_vain, Sleeper::Greenlet(&waiter));
        if !bucket.enter(&node, &still) {
            break Slept::Changed;
        }
        let woken = waiter.park(hub, sleep.deadline);
        match woken {
            Some(Woken::Answered(_)) => {
                bucket.see_told(hub, &node);
                hub.shared.borrow().went_on.fetch_add(1, Ordering::Relaxed);
                if node.told.get() == Told::ByNeighbour {
                    task.in_vain.set(InVain {
                        address,
                        turn: hub.pulse.left(),
                        times: in_vain.saturating_add(1),
                    });
                }
                break Slept::Woken;
            }
            Some(Woken::TimedOut) => {
                bucket.leave(&node);
                break Slept::TimedOut;
            }
            // It has been reported, and there is no way to say it here.
            Some(Woken::Deadlock) => {
                bucket.leave(&node);
                kind = Kind::External;
            }
            None => unreachable!("this wait cannot be interrupted"),
        }
    };
    os::set_errno(saved);
    slept
}

/// Whether the current greenlet, which is about to wait there again, has been woken in vain
/// so often that it may go first.
pub(crate) fn has_been_patient(hub: &Hub, address: usize) -> bool {
    let in_vain = hub.current().in_vain.get();
    in_vain.so_far(address, hub.pulse.left()) >= PATIENCE
}

/// As `wait`, and blocks the thread: `sleep` does that, on a word that is 0 until
/// the thread is woken, by one system call (or several, if it so likes).
///
/// # Errors
/// That of `sleep`, if nobody has woken the thread. A sleep that has ended without
/// an error, or because its word is not 0, counts as woken.
pub(crate) fn block(
    address: usize,
    bits: u32,
    still: impl Fn() -> bool,
    sleep: impl FnOnce(&AtomicU32) -> Result<(), Errno>,
) -> Result<Slept, Errno> {
    let bucket = Bucket::of(address);
    let word = AtomicU32::new(0);
    let node = Node::new(address, bits, 0, Sleeper::Thread(&word));
    if !bucket.enter(&node, &still) {
        return Ok(Slept::Changed);
    }
    let ended = blocking(|| sleep(&word));
    // The lock also keeps the frame until who has set the word is done with it.
    if !bucket.leave(&node) {
        return Ok(Slept::Woken);
    }
    match ended {
        Ok(()) | Err(libc::EAGAIN) => Ok(Slept::Woken),
        Err(error) => Err(error),
    }
}

/// Runs `f`, which blocks the thread, or all of the current greenlet's domain.
///
/// Who lets go of a lock wakes one of those who wait, and relies on that one for the
/// others. If it is a greenlet whose thread blocks, it cannot go on, and nobody else is
/// woken, who might be the one that this thread waits for. So whoever has been woken
/// before, and has not gone on yet, has all the others woken now; and whoever wakes such
/// a greenlet later on wakes another one with it: see `Crowd::claim`.
///
/// That goes for whatever else the thread waits for of another one, which may itself wait
/// for such a lock: an allocator's, under the lock of a [`Monitor`](super::Monitor).
pub(crate) fn blocking<R>(f: impl FnOnce() -> R) -> R {
    let Some(hub) = Hub::try_current() else {
        return f();
    };
    let shared = hub.shared();
    // A signal handler may block a thread that is blocked, and several domains may be.
    shared.blocked.fetch_add(1, Ordering::SeqCst);
    let woken = shared.woken.load(Ordering::SeqCst);
    if woken != shared.went_on.load(Ordering::Relaxed)
        && woken != shared.relieved.swap(woken, Ordering::Relaxed)
    {
        wake_everybody();
    }
    let answer = f();
    shared.blocked.fetch_sub(1, Ordering::SeqCst);
    answer
}

/// Wakes up to `count` of those who wait for an address with a bit in common, in
/// the order in which they came, and says how many those were. Who waits in the
/// kernel is not among them: see [`may_be_in_kernel`].
pub(crate) fn wake(address: usize, bits: u32, count: usize) -> usize {
    let bucket = Bucket::of(address);
    // Whoever waits counts itself and then looks at the word; we come from changing
    // that word. One of the two sees what the other has done.
    fence(Ordering::SeqCst);
    if bucket.linked.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    bucket.wake(Some((address, bits)), count)
}

/// As `wake`, for who has changed the word by an instruction that fences, as those of
/// locks are on x86-64. It costs next to nothing where nobody waits.
#[inline(always)]
pub(crate) fn wake_after_fence(address: usize, bits: u32, count: usize) -> usize {
    if !cfg!(target_arch = "x86_64") {
        fence(Ordering::SeqCst);
    }
    let bucket = Bucket::of(address);
    if bucket.linked.load(Ordering::Relaxed) == 0 {
        return 0;
    }
    bucket.wake(Some((address, bits)), count)
}

/// As `wake` with everybody at every address: for whom we do not understand.
pub(crate) fn wake_everybody() {
    fence(Ordering::SeqCst);
    for bucket in &TABLE {
        if bucket.linked.load(Ordering::Relaxed) != 0 {
            bucket.wake(None, usize::MAX);
        }
    }
}

/// Somebody may be waiting in the kernel for any address, from now on.
static ANYWHERE: AtomicBool = AtomicBool::new(false);

/// Whether somebody may be waiting in the kernel for this address.
pub(crate) fn may_be_in_kernel(address: usize) -> bool {
    fence(Ordering::SeqCst);
    Bucket::of(address).in_kernel.load(Ordering::Relaxed) != 0 || ANYWHERE.load(Ordering::Relaxed)
}

/// Somebody waits in the kernel, and nobody knows for which address.
pub(crate) fn in_kernel_anywhere() {
    ANYWHERE.store(true, Ordering::SeqCst);
}

/// Runs `f`, in which this thread may wait in the kernel for this address.
pub(crate) fn in_kernel<R>(address: usize, f: impl FnOnce() -> R) -> R {
    let count = &Bucket::of(address).in_kernel;
    count.fetch_add(1, Ordering::SeqCst);
    let answer = f();
    count.fetch_sub(1, Ordering::Release);
    answer
}

/// Whether `remember` was the last to be called with this address, of those in the
/// same bucket.
pub(crate) fn is_known(address: usize) -> bool {
    Bucket::of(address).known.load(Ordering::Relaxed) == address
}

/// See `is_known`.
pub(crate) fn remember(address: usize) {
    Bucket::of(address).known.store(address, Ordering::Relaxed);
}

impl Bucket {
    const fn new() -> Bucket {
        Bucket {
            lock: Lock::new(),
            linked: AtomicU32::new(0),
            in_kernel: AtomicU32::new(0),
            known: AtomicUsize::new(NOWHERE),
            queue: Queue {
                list: List::new(),
                next: Cell::new(0),
            },
        }
    }

    #[inline(always)]
    fn of(address: usize) -> &'static Bucket {
        // The two lowest bits are always 0. The golden ratio spreads the rest.
        let hash = (address as u64 >> 2).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &TABLE[(hash >> 56) as usize % BUCKETS]
    }

    /// Links a node behind all others, if there is something to wait for.
    fn enter(&self, node: &Node, still: &impl Fn() -> bool) -> bool {
        let held = match self.lock() {
            Ok(held) => held,
            // A handler cannot wait for what it has interrupted; looking at the word
            // again is always allowed. Those who wait there get a note for nothing.
            Err(Interrupted) => return false,
        };
        self.linked.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if still() {
            held.queue().push(node);
            return true;
        }
        self.linked.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Takes a node out. False if it was out already.
    fn leave(&self, node: &Node) -> bool {
        // Interrupted: not possible, for the thread was not in the lock when the
        // node was linked, and who is in a handler has returned from it by now.
        let Ok(held) = self.lock() else { os::abort() };
        self.unlink(&held, node)
    }

    /// Who answers takes the node out first, and another thread puts it into the list of
    /// arrivals then. A greenlet that has parked goes on when it is out of that, too; but
    /// one that is woken before it parks goes on at once.
    fn see_told(&self, hub: &Hub, node: &Node) {
        if node.told.get() == Told::No {
            // It is put there under the lock that it was claimed under.
            drop(self.lock());
            hub.shared.borrow().arrivals.take_in(hub);
        }
    }

    /// False if it was out already.
    fn unlink(&self, held: &Held<'_>, node: &Node) -> bool {
        let was_linked = held.queue().list.remove(node);
        if was_linked {
            self.linked.fetch_sub(1, Ordering::Relaxed);
        }
        was_linked
    }

    /// Wakes those who wait for an address; without one, everybody.
    fn wake(&self, whom: Option<(usize, u32)>, count: usize) -> usize {
        let mut woken = 0;
        // Who comes while we are at it has looked at its word after us.
        let mut end = None;
        loop {
            let mut crowd = Crowd::new();
            let Ok(held) = self.lock() else { return woken };
            let end = *end.get_or_insert(held.queue().next.get());
            let mut at = held.queue().list.first();
            // SAFETY: linked nodes are alive.
            while let Some(node) = unsafe { at.as_ref() } {
                if woken == count || crowd.is_full() || node.number.get() >= end {
                    break;
                }
                at = node.links.next.get();
                if whom.is_none_or(|(address, bits)| node.is_meant(address, bits)) {
                    self.unlink(&held, node);
                    woken += usize::from(crowd.claim(node));
                }
            }
            let done = !crowd.is_full() || woken == count;
            drop(held);
            // Who wakes everybody is about to block, or in a signal handler.
            crowd.tell(whom.is_some());
            if done {
                return woken;
            }
        }
    }
}

impl Queue {
    fn push(&self, node: &Node) {
        node.number.set(self.next.get());
        self.next.set(self.next.get() + 1);
        // SAFETY: `wait` and `block` leave their frames when the node is out.
        unsafe { self.list.push(node) };
    }
}

impl Linked for Node {
    #[inline(always)]
    fn links(&self) -> &Links<Node> {
        &self.links
    }
}

impl Node {
    fn new(address: usize, bits: u32, in_vain: u32, sleeper: Sleeper) -> Node {
        Node {
            links: Links::new(),
            number: Cell::new(0),
            address,
            bits,
            in_vain,
            told: Cell::new(Told::No),
            sleeper,
        }
    }

    fn is_meant(&self, address: usize, bits: u32) -> bool {
        self.address == address && self.bits & bits != 0
    }
}

/// How often a greenlet has been woken in vain at an address: by a greenlet of its
/// own hub, each time in a row, and came back to wait in the very turn in which it
/// went on.
///
/// std's locks are not handed over: who lets go of one and takes it again at once is
/// ahead of whom it has woken. Of threads, one is slow at times, and then the other
/// has its turn; of greenlets of one thread, that one would never have it. So now and
/// then the one who wakes lets the other go first.
///
/// That is the exception, for nobody expects a switch where a lock is let go of: code
/// that is in the middle of what belongs to its thread (see `monkey::as_thread`) may take
/// and let go of a lock meanwhile. So an allocator may: see `monkey::locks::mutex`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct InVain {
    address: usize,
    /// The hub's count of turns when it went on.
    turn: u32,
    times: u32,
}

impl InVain {
    fn so_far(self, address: usize, turn: u32) -> u32 {
        match self.address == address && self.turn == turn {
            true => self.times,
            false => 0,
        }
    }
}

/// The lock of a bucket, held.
struct Held<'a>(&'a Bucket);

impl Bucket {
    #[inline]
    fn lock(&self) -> Result<Held<'_>, Interrupted> {
        self.lock.take()?;
        let held = Held(self);
        if self.queue.list.forget_before_fork() {
            // Of those who waited, and of who may have been changing it, nobody is
            // in this process.
            self.linked.store(0, Ordering::Relaxed);
        }
        Ok(held)
    }
}

impl Held<'_> {
    fn queue(&self) -> &Queue {
        &self.0.queue
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.lock.free() {
            self.0.wake(None, usize::MAX);
        }
    }
}

#[cfg(test)]
mod tests;
