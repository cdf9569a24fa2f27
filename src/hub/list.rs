//! The list of those who wait: doubly linked, first come first served, with its nodes in
//! the frames of who waits. So it allocates nothing, and whoever ends its wait takes its
//! node out from wherever that is.
//!
//! ```text
//!    List { head ─────▶ node ◀──▶ node ◀──▶ node ◀───── tail }
//!                       (each in the frame of its greenlet, or of its thread)
//! ```
//!
//! After a fork the child's copy of a list is empty: of all who waited, nobody lives
//! there.

use std::cell::Cell;
use std::ptr;

use crate::sys::fork;

/// A node, and where its links are.
pub(super) trait Linked: Sized {
    fn links(&self) -> &Links<Self>;
}

/// A node's place in a list.
pub(super) struct Links<N> {
    prev: Cell<*const N>,
    /// For its owner to use while it is in no list.
    pub(super) next: Cell<*const N>,
    linked: Cell<bool>,
}

impl<N> Links<N> {
    pub(super) fn new() -> Links<N> {
        Links {
            prev: Cell::new(ptr::null()),
            next: Cell::new(ptr::null()),
            linked: Cell::new(false),
        }
    }
}

/// See above.
pub(super) struct List<N> {
    head: Cell<*const N>,
    tail: Cell<*const N>,
    /// The fork count when the list was last used.
    fork: Cell<u32>,
}

impl<N: Linked> List<N> {
    pub(super) const fn new() -> List<N> {
        List {
            head: Cell::new(ptr::null()),
            tail: Cell::new(ptr::null()),
            fork: Cell::new(0),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.head.get().is_null() || self.fork.get() != fork::generation()
    }

    /// The first node, if there is one; it is alive until it is taken out.
    #[inline]
    pub(super) fn first(&self) -> *const N {
        self.forget_before_fork();
        self.head.get()
    }

    /// Puts a node that is in no list behind all others.
    ///
    /// # Safety
    /// The node stays where it is until it has been taken out; or for ever.
    #[inline]
    pub(super) unsafe fn push(&self, node: &N) {
        self.forget_before_fork();
        let last = self.tail.get();
        let links = node.links();
        links.prev.set(last);
        links.next.set(ptr::null());
        links.linked.set(true);
        self.tail.set(node);
        // SAFETY: linked nodes are alive.
        match unsafe { last.as_ref() } {
            Some(last) => last.links().next.set(node),
            None => self.head.set(node),
        }
    }

    /// Takes a node out of this list. False if it was out already.
    #[inline(always)]
    pub(super) fn remove(&self, node: &N) -> bool {
        self.forget_before_fork();
        let links = node.links();
        if !links.linked.replace(false) {
            return false;
        }
        let (prev, next) = (links.prev.get(), links.next.get());
        // SAFETY: the neighbours of a linked node are linked, hence alive.
        match unsafe { prev.as_ref() } {
            Some(prev) => prev.links().next.set(next),
            None => self.head.set(next),
        }
        // SAFETY: as above.
        match unsafe { next.as_ref() } {
            Some(next) => next.links().prev.set(prev),
            None => self.tail.set(prev),
        }
        true
    }

    /// True: this process is a fork's child, and has just found that out.
    #[inline]
    pub(super) fn forget_before_fork(&self) -> bool {
        let now = fork::generation();
        let stale = self.fork.get() != now;
        if stale {
            self.fork.set(now);
            self.head.set(ptr::null());
            self.tail.set(ptr::null());
        }
        stale
    }
}
