//! A list that only grows and is read without a lock: a signal may come, or the process be forked, while somebody
//! is in the middle of it.
//!
//! ```text
//!   first ──▶ Node { value } ──▶ Node { value } ──▶ …      the newest is first
//! ```
//!
//! Nodes are never freed. Whoever has no more use of a value marks it so in the value, and it is used again.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

pub(crate) struct List<T: 'static> {
    first: AtomicPtr<Node<T>>,
}

struct Node<T: 'static> {
    /// Never changes once the node is in the list.
    next: AtomicPtr<Node<T>>,
    value: T,
}

impl<T: Send + Sync> List<T> {
    pub(crate) const fn new() -> List<T> {
        List {
            first: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// All values, the newest first. Async-signal-safe.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static T> + use<T> {
        let mut at = self.first.load(Ordering::Acquire);
        std::iter::from_fn(move || {
            // SAFETY: nodes are leaked boxes, published with Release; null ends the list.
            let node: &'static Node<T> = unsafe { at.as_ref()? };
            at = node.next.load(Ordering::Relaxed);
            Some(&node.value)
        })
    }

    pub(crate) fn add(&self, value: T) -> &'static T {
        let node: &'static Node<T> = Box::leak(Box::new(Node {
            next: AtomicPtr::new(self.first.load(Ordering::Acquire)),
            value,
        }));
        let new = ptr::from_ref(node).cast_mut();
        while let Err(first) = self.first.compare_exchange(
            node.next.load(Ordering::Relaxed),
            new,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            node.next.store(first, Ordering::Relaxed);
        }
        &node.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_add_at_the_same_time_is_all_there() {
        static LIST: List<(usize, usize)> = List::new();
        std::thread::scope(|s| {
            for thread in 0..4 {
                s.spawn(move || {
                    for n in 0..100 {
                        let added = LIST.add((thread, n));
                        assert!(LIST.iter().any(|value| ptr::eq(value, added)));
                    }
                });
            }
        });
        for thread in 0..4 {
            let of_this = LIST.iter().filter(|(of, _)| *of == thread);
            assert!(of_this.map(|(_, n)| *n).eq((0..100).rev()));
        }
    }
}
