//! Where the items of a queue lie, and which of them is the next.

use std::collections::VecDeque;

use super::heap::Heap;

/// The items of a queue, in the order of its kind.
///
/// The queue's lock is held while `push`, `take`, `lend` and `give_back` run,
/// so nothing of the user's may be called there: no `Ord`, `Clone` or `Drop`.
/// What calls such is done with a `Lent`, which is out of the queue meanwhile.
pub(super) trait Store: Sized {
    type Item;
    /// What is taken out to be looked at.
    type Lent;
    /// Whether to know the next item, items must be compared.
    const COMPARES: bool;

    fn new() -> Self;
    fn len(&self) -> usize;
    fn push(&mut self, item: Self::Item);
    /// Puts back what was the next item before.
    fn put_back(&mut self, item: Self::Item);
    /// The next item, where that needs no comparison.
    fn take(&mut self) -> Option<Self::Item>;
    /// Nobody takes anything until it is given back. Items may be pushed.
    fn lend(&mut self) -> Self::Lent;
    fn give_back(&mut self, lent: Self::Lent);

    fn take_lent(lent: &mut Self::Lent) -> Option<Self::Item>;
    fn peek_lent(lent: &mut Self::Lent) -> Option<&Self::Item>;
}

/// First in, first out.
pub(super) struct Fifo<T>(VecDeque<T>);

impl<T> Store for Fifo<T> {
    type Item = T;
    type Lent = Option<T>;
    const COMPARES: bool = false;

    fn new() -> Self {
        Fifo(VecDeque::new())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn push(&mut self, item: T) {
        self.0.push_back(item);
    }

    fn put_back(&mut self, item: T) {
        self.0.push_front(item);
    }

    #[inline(always)]
    fn take(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    fn lend(&mut self) -> Option<T> {
        self.0.pop_front()
    }

    fn give_back(&mut self, lent: Option<T>) {
        if let Some(item) = lent {
            self.0.push_front(item);
        }
    }

    fn take_lent(lent: &mut Option<T>) -> Option<T> {
        lent.take()
    }

    fn peek_lent(lent: &mut Option<T>) -> Option<&T> {
        lent.as_ref()
    }
}

/// Last in, first out.
pub(super) struct Lifo<T>(Vec<T>);

impl<T> Store for Lifo<T> {
    type Item = T;
    /// The last item, and its place: others may be pushed over it.
    type Lent = (usize, Option<T>);
    const COMPARES: bool = false;

    fn new() -> Self {
        Lifo(Vec::new())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn push(&mut self, item: T) {
        self.0.push(item);
    }

    fn put_back(&mut self, item: T) {
        self.0.push(item);
    }

    #[inline(always)]
    fn take(&mut self) -> Option<T> {
        self.0.pop()
    }

    fn lend(&mut self) -> (usize, Option<T>) {
        let item = self.0.pop();
        (self.0.len(), item)
    }

    fn give_back(&mut self, (place, lent): (usize, Option<T>)) {
        if let Some(item) = lent {
            self.0.insert(place, item);
        }
    }

    fn take_lent(lent: &mut (usize, Option<T>)) -> Option<T> {
        lent.1.take()
    }

    fn peek_lent(lent: &mut (usize, Option<T>)) -> Option<&T> {
        lent.1.as_ref()
    }
}

/// The lowest first; among equals, first in, first out.
pub(super) struct Lowest<T> {
    heap: Heap<T>,
    /// How many were ever pushed.
    pushed: u64,
}

impl<T: Ord> Store for Lowest<T> {
    type Item = T;
    type Lent = Heap<T>;
    const COMPARES: bool = true;

    fn new() -> Self {
        Lowest {
            heap: Heap::new(),
            pushed: 0,
        }
    }

    fn len(&self) -> usize {
        self.heap.len()
    }

    #[inline]
    fn push(&mut self, item: T) {
        self.pushed += 1;
        self.heap.push(item, self.pushed);
    }

    fn put_back(&mut self, item: T) {
        self.push(item);
    }

    fn take(&mut self) -> Option<T> {
        unreachable!("the lowest is found by comparing, and not under a lock")
    }

    /// All of them: what is pushed meanwhile begins a heap of its own, which
    /// need not be in order yet.
    fn lend(&mut self) -> Heap<T> {
        std::mem::replace(&mut self.heap, Heap::new())
    }

    fn give_back(&mut self, lent: Heap<T>) {
        let arrived = std::mem::replace(&mut self.heap, lent);
        self.heap.append(arrived);
    }

    fn take_lent(lent: &mut Heap<T>) -> Option<T> {
        lent.pop()
    }

    fn peek_lent(lent: &mut Heap<T>) -> Option<&T> {
        lent.first()
    }
}
