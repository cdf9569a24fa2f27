//! The connections that are open: their greenlets, and who waits for them to end.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::JoinHandle;
use crate::hub::{self, Hub, Kind, Reason, WaitQueue, Woken};
use crate::sys::pass::PassThrough;

/// The greenlets of the connections.
pub(super) struct Open {
    last: Cell<u64>,
    greenlets: RefCell<BTreeMap<u64, JoinHandle<()>>>,
    /// Who waits for them to become fewer.
    fewer: WaitQueue,
}

/// Takes a connection's greenlet out when it ends: by return, by panic, or
/// killed before it ran.
pub(super) struct Leave(Rc<Open>, u64);

impl Drop for Leave {
    fn drop(&mut self) {
        let pass = PassThrough::enter();
        let handle = self.0.greenlets.borrow_mut().remove(&self.1);
        drop(pass);
        self.0.fewer.wake_all();
        drop(handle);
    }
}

impl Open {
    pub(super) fn new() -> Rc<Open> {
        Rc::new(Open {
            last: Cell::new(0),
            greenlets: RefCell::default(),
            fewer: WaitQueue::new(),
        })
    }

    /// A number for a greenlet that is to be, and what that must own.
    pub(super) fn enter(this: &Rc<Open>) -> (u64, Leave) {
        let number = this.last.get() + 1;
        this.last.set(number);
        (number, Leave(Rc::clone(this), number))
    }

    /// Adds the greenlet of a number, which has not run yet.
    pub(super) fn add(&self, number: u64, handle: JoinHandle<()>) {
        let _pass = PassThrough::enter();
        self.greenlets.borrow_mut().insert(number, handle);
    }

    pub(super) fn len(&self) -> usize {
        self.greenlets.borrow().len()
    }

    /// Takes out those that are not there, in the child of a fork: the blocks behind
    /// the handles are the parent's business.
    pub(super) fn forget(&self, lost: impl Fn(&JoinHandle<()>) -> bool) {
        let _pass = PassThrough::enter();
        let mut greenlets = self.greenlets.borrow_mut();
        for (number, handle) in std::mem::take(&mut *greenlets) {
            if lost(&handle) {
                std::mem::forget(handle);
            } else {
                greenlets.insert(number, handle);
            }
        }
    }

    /// Whether the greenlet that runs is one of them.
    fn has_current(&self) -> bool {
        let me = Hub::get().current().id;
        let greenlets = self.greenlets.borrow();
        greenlets.values().any(|handle| handle.task().id == me)
    }

    /// Waits until none is left but the caller; whether that is so.
    pub(super) fn wait_for_others(&self, deadline: Option<u64>) -> bool {
        let own = usize::from(self.has_current());
        loop {
            let open = self.len();
            if open <= own {
                return true;
            }
            let reason = Reason::with("waiting for connections to end:", open as u64);
            match self.fewer.wait(reason, Kind::Local, deadline) {
                Woken::Answered(_) => {}
                Woken::TimedOut => return self.len() <= own,
                Woken::Deadlock => hub::panic_deadlock(),
            }
        }
    }

    /// Kills all but the caller, and returns how many these are.
    pub(super) fn kill_others(&self) -> usize {
        let me = Hub::get().current().id;
        let greenlets = self.greenlets.borrow();
        let others = greenlets.values().filter(|handle| handle.task().id != me);
        // A kill is queued, and nothing runs before the caller blocks. Not by
        // `JoinHandle::kill`, which refuses panic = "abort": `stop` has done so.
        others
            .map(|handle| hub::kill(Hub::get(), handle.task().ptr()))
            .count()
    }
}
