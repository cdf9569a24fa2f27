//! Those who have been woken by address: claimed under a bucket's lock, and told when
//! it has been let go.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::{Hub, Node, PATIENCE, Sleeper, Told};
use crate::hub::shared::Visit;
use crate::hub::wait::Answer;
use crate::sys::os;
use crate::sys::pass::{self, PassThrough};

/// So many are woken before the lock is let go for a moment.
pub(super) const CROWD: usize = 16;

/// Who has been claimed under a bucket's lock, and is told when it has been let go.
pub(super) struct Crowd {
    /// The hubs of greenlets that have arrived there.
    hubs: [Option<Visit>; CROWD],
    /// The words of threads, as numbers: a thread may have left its frame by now,
    /// and the kernel does not look at what is there either.
    words: [usize; CROWD],
    claimed: usize,
    /// A greenlet of this hub among them has been woken in vain too often.
    let_go_first: bool,
}

impl Crowd {
    pub(super) fn new() -> Crowd {
        Crowd {
            hubs: [const { None }; CROWD],
            words: [0; CROWD],
            claimed: 0,
            let_go_first: false,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.claimed == CROWD
    }

    /// Claims one that has been unlinked. False if its wait had ended already, or if
    /// another one is to be woken with it.
    pub(super) fn claim(&mut self, node: &Node) -> bool {
        let at = self.claimed;
        let mut useful = true;
        match node.sleeper {
            Sleeper::Greenlet(waiter) => {
                // SAFETY: a greenlet leaves its frame when it has been told, or has
                // taken its node out under the lock, which we hold.
                let waiter = unsafe { &*waiter };
                match waiter.claim_visiting(pass::may_be_in_handler()) {
                    Ok(Answer::Refused | Answer::ToSend(_)) => return false,
                    Ok(Answer::Done) => {
                        // It is of this thread, and cannot run before we are done.
                        node.told.set(Told::ByNeighbour);
                        self.let_go_first |= node.in_vain >= PATIENCE;
                        if let Some(hub) = Hub::try_current() {
                            hub.shared.borrow().woken.fetch_add(1, Ordering::Relaxed);
                            // It may have to wait for its turn until another one is woken.
                            useful = !hub.held_back.is_any();
                        }
                    }
                    Err(hub) => {
                        hub.woken.fetch_add(1, Ordering::SeqCst);
                        useful = hub.blocked.load(Ordering::SeqCst) == 0;
                        // It may go on as soon as it is there.
                        hub.arrivals.push(node);
                        self.hubs[at] = Some(hub);
                    }
                }
            }
            Sleeper::Thread(word) => {
                self.words[at] = word as usize;
                // SAFETY: the thread takes the lock before it leaves its frame.
                unsafe { (*word).store(1, Ordering::Release) };
            }
        }
        self.claimed += 1;
        useful
    }

    /// Tells them. Only where it `may_yield`, this is the moment to let others go first.
    pub(super) fn tell(self, may_yield: bool) {
        for hub in self.hubs.into_iter().flatten() {
            let _pass = PassThrough::enter();
            hub.inbox.nudge();
        }
        for word in self.words.into_iter().filter(|word| *word != 0) {
            let wake = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
            // SAFETY: waking touches no memory.
            let _ = unsafe { os::syscall(libc::SYS_futex, [word, wake, 1, 0]) };
        }
        if may_yield && self.let_go_first {
            if let Some(hub) = Hub::parking() {
                hub.yield_midway();
            }
        }
    }
}

/// Greenlets of one hub that other threads have claimed: a list of their nodes, the
/// last one first.
///
/// They do not go through the hub's inbox, which needs a lock and memory: whoever waits
/// may be waiting for the lock of the allocator.
pub(in crate::hub) struct Arrivals(AtomicPtr<Node>);

impl Arrivals {
    pub(in crate::hub) const fn new() -> Arrivals {
        Arrivals(AtomicPtr::new(ptr::null_mut()))
    }

    /// Adds a node that has been unlinked and claimed.
    fn push(&self, node: *const Node) {
        let mut first = self.0.load(Ordering::Relaxed);
        loop {
            // SAFETY: the greenlet does not go on before it is taken from here, see
            // `Bucket::see_told`.
            unsafe { (*node).links.next.set(first) };
            let order = (Ordering::SeqCst, Ordering::Relaxed);
            match self
                .0
                .compare_exchange_weak(first, node.cast_mut(), order.0, order.1)
            {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    #[inline(always)]
    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.0.load(Ordering::SeqCst).is_null()
    }

    /// Queues them all in their hub, in the order in which they came.
    #[cold]
    pub(in crate::hub) fn take_in(&self, hub: &Hub) {
        let mut last_first = self.0.swap(ptr::null_mut(), Ordering::SeqCst).cast_const();
        let mut in_order = ptr::null();
        // SAFETY: as above; they go on after we have gone.
        while let Some(node) = unsafe { last_first.as_ref() } {
            last_first = node.links.next.replace(in_order);
            in_order = node;
        }
        // SAFETY: as above.
        while let Some(node) = unsafe { in_order.as_ref() } {
            in_order = node.links.next.get();
            node.told.set(Told::FromAfar);
            if let Sleeper::Greenlet(waiter) = node.sleeper {
                // SAFETY: the waiter is in the same frame.
                unsafe { (*waiter).notified(hub) };
            }
        }
    }
}
