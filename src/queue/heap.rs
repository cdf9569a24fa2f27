//! A heap that loses nothing when a comparison panics.
//!
//! std's would drop the item that it is about to return. Here every step first
//! compares and then moves: a comparison that panics finds all items in it, and
//! leaves them there. And pushing compares nothing, so it can be done under a
//! lock; what was pushed is put in order by who wants the first.
//!
//! ```text
//!    entries  [ in order as a heap ...... │ pushed since ...... ]
//!               0                          sorted
//! ```

/// An item, and how many were pushed before it: equal ones keep their order.
struct Entry<T> {
    item: T,
    number: u64,
}

impl<T: Ord> Entry<T> {
    fn is_before(&self, other: &Entry<T>) -> bool {
        match self.item.cmp(&other.item) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => self.number < other.number,
            std::cmp::Ordering::Greater => false,
        }
    }
}

pub(super) struct Heap<T> {
    entries: Vec<Entry<T>>,
    sorted: usize,
}

impl<T> Heap<T> {
    pub(super) const fn new() -> Heap<T> {
        Heap {
            entries: Vec::new(),
            sorted: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Compares nothing.
    pub(super) fn push(&mut self, item: T, number: u64) {
        self.entries.push(Entry { item, number });
    }

    /// Compares nothing.
    pub(super) fn append(&mut self, mut other: Heap<T>) {
        self.entries.append(&mut other.entries);
    }
}

impl<T: Ord> Heap<T> {
    pub(super) fn first(&mut self) -> Option<&T> {
        self.sort();
        self.entries.first().map(|entry| &entry.item)
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        self.sort();
        let last = self.entries.len().checked_sub(1)?;
        // Where the last entry will go: down along the smaller children to a
        // leaf, and up again to the first whose place it may take.
        let mut path = Vec::new();
        let mut at = 0;
        while let Some(child) = self.smaller_child(at, last) {
            path.push(child);
            at = child;
        }
        while let Some(&lowest) = path.last() {
            if self.entries[lowest].is_before(&self.entries[last]) {
                break;
            }
            path.pop();
        }
        // From here on nothing is compared.
        let mut hole = 0;
        for place in path {
            self.entries.swap(hole, place);
            hole = place;
        }
        // The first entry is in the hole now.
        self.sorted = last;
        Some(self.entries.swap_remove(hole).item)
    }

    /// The smaller of the children of a place, among those before `end`.
    fn smaller_child(&self, parent: usize, end: usize) -> Option<usize> {
        let (left, right) = (2 * parent + 1, 2 * parent + 2);
        if left >= end {
            return None;
        }
        if right < end && self.entries[right].is_before(&self.entries[left]) {
            return Some(right);
        }
        Some(left)
    }

    /// Takes what was pushed into the heap.
    fn sort(&mut self) {
        while self.sorted < self.entries.len() {
            let new = self.sorted;
            let mut place = new;
            while place > 0 {
                let parent = (place - 1) / 2;
                if !self.entries[new].is_before(&self.entries[parent]) {
                    break;
                }
                place = parent;
            }
            // From here on nothing is compared: everybody on the way from the
            // new one's place up to its right one moves down by a step.
            let mut at = new;
            while at != place {
                let parent = (at - 1) / 2;
                self.entries.swap(at, parent);
                at = parent;
            }
            self.sorted += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::cmp::Ordering;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    thread_local! {
        /// How many comparisons there may still be.
        static LEFT: Cell<u32> = const { Cell::new(u32::MAX) };
    }

    #[derive(PartialEq, Eq, Debug)]
    struct Touchy(u32);

    impl PartialOrd for Touchy {
        fn partial_cmp(&self, other: &Touchy) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Touchy {
        fn cmp(&self, other: &Touchy) -> Ordering {
            LEFT.set(LEFT.get().checked_sub(1).expect("no comparison is left"));
            self.0.cmp(&other.0)
        }
    }

    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn it_gives_the_lowest_first_and_equals_in_their_order() {
        let mut seed = 0x9E37_79B9_7F4A_7C15;
        for size in 0..60 {
            let mut heap = Heap::new();
            let mut expected = Vec::new();
            for number in 0..size {
                let item = random(&mut seed) % 10;
                heap.push((item, ()), number);
                expected.push(item);
                if random(&mut seed) % 4 == 0 {
                    expected.sort_unstable();
                    assert_eq!(heap.pop().unwrap().0, expected.remove(0));
                }
            }
            expected.sort_unstable();
            let rest: Vec<u64> = std::iter::from_fn(|| heap.pop()).map(|i| i.0).collect();
            assert_eq!(rest, expected, "size {size}");
        }

        #[derive(PartialEq, Eq, PartialOrd, Ord)]
        struct Same;
        let mut heap = Heap::new();
        (0..20).for_each(|number| heap.push(Same, number));
        for number in 0..20 {
            heap.sort();
            assert_eq!(heap.entries[0].number, number);
            heap.pop();
        }
    }

    #[test]
    fn a_comparison_that_panics_loses_nothing() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        for limit in 0..200 {
            let mut heap = Heap::new();
            for number in 0..30 {
                heap.push(Touchy((number * 7 % 30) as u32), number);
            }
            LEFT.set(limit);
            let mut seen = Vec::new();
            while let Ok(Some(item)) = catch_unwind(AssertUnwindSafe(|| heap.pop())) {
                seen.push(item.0);
            }
            LEFT.set(u32::MAX);
            while let Some(item) = heap.pop() {
                seen.push(item.0);
            }
            assert_eq!(seen, (0..30).collect::<Vec<u32>>(), "limit {limit}");
        }
        std::panic::set_hook(hook);
    }
}
