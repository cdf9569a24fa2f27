//! The timers of one hub: started and cancelled in O(log n), fired in the
//! order of their deadlines, and first come first served at equal ones.
//!
//! ```text
//!   heap   (4-ary, by deadline, then by number)      slots
//!   ┌───────────────────────────────┐                ┌───┬───┬───┬───┐
//!   │ deadline │ number │ slot │ …  │ ── slot ─────▶ │ 2 │ 0 │ – │ 1 │  place in
//!   └───────────────────────────────┘ ◀── place ──── └───┴───┴───┴───┘  the heap
//! ```
//!
//! A key is a slot and the timer's number. Numbers never repeat, so a key that
//! has fired, or was cancelled, finds nothing when its slot is used again. The
//! slots are four bytes each: moving an entry in the heap writes there, and not
//! into a hundred thousand sleeping stacks.

/// Which timer: for cancelling it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey {
    slot: u32,
    number: u64,
}

#[derive(Clone, Copy)]
struct Entry<P> {
    deadline: u64,
    number: u64,
    slot: u32,
    payload: P,
}

impl<P> Entry<P> {
    fn order(&self) -> (u64, u64) {
        (self.deadline, self.number)
    }
}

/// A slot that no timer has; the list of free slots goes through `free`.
const NOWHERE: u32 = u32::MAX;
/// Children of a heap entry. Four of them share a cache line or two.
const ARITY: usize = 4;
/// Memory below this many timers is not worth giving back.
const SMALL: usize = 64;

pub(crate) struct Timers<P> {
    heap: Vec<Entry<P>>,
    /// For each slot the place of its entry in the heap.
    slots: Vec<u32>,
    /// Slots without a timer.
    free: Vec<u32>,
    next_number: u64,
}

impl<P: Copy> Timers<P> {
    pub(crate) const fn new() -> Timers<P> {
        Timers {
            heap: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            next_number: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Starts a timer for `deadline` (nanoseconds of the hub's clock).
    pub(crate) fn start(&mut self, deadline: u64, payload: P) -> TimerKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(NOWHERE);
            (self.slots.len() - 1) as u32
        });
        let number = self.next_number;
        self.next_number += 1;
        self.heap.push(Entry {
            deadline,
            number,
            slot,
            payload,
        });
        self.sift_up(self.heap.len() - 1);
        TimerKey { slot, number }
    }

    /// Stops a timer. None if it has fired or was stopped before.
    pub(crate) fn cancel(&mut self, key: TimerKey) -> Option<P> {
        let place = *self.slots.get(key.slot as usize)? as usize;
        if self.heap.get(place)?.number != key.number {
            return None;
        }
        Some(self.remove(place))
    }

    /// Stops all timers but those with such a payload. Their keys stay good.
    pub(crate) fn retain(&mut self, keep: impl Fn(&P) -> bool) {
        let unwanted: Vec<TimerKey> = self
            .heap
            .iter()
            .filter(|entry| !keep(&entry.payload))
            .map(|entry| TimerKey {
                slot: entry.slot,
                number: entry.number,
            })
            .collect();
        for key in unwanted {
            self.cancel(key);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Takes out the first timer whose deadline is not after `now`.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<P> {
        if self.next_deadline()? > now {
            return None;
        }
        Some(self.remove(0))
    }

    fn remove(&mut self, place: usize) -> P {
        let removed = self.heap.swap_remove(place);
        self.slots[removed.slot as usize] = NOWHERE;
        self.free.push(removed.slot);
        if place < self.heap.len() {
            self.sift_down(place);
            self.sift_up(place);
        }
        self.give_memory_back();
        removed.payload
    }

    fn put(&mut self, place: usize, entry: Entry<P>) {
        self.slots[entry.slot as usize] = place as u32;
        self.heap[place] = entry;
    }

    fn sift_up(&mut self, mut place: usize) {
        let entry = self.heap[place];
        while place > 0 {
            let parent = (place - 1) / ARITY;
            if self.heap[parent].order() <= entry.order() {
                break;
            }
            self.put(place, self.heap[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    fn sift_down(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let first = place * ARITY + 1;
            let children = first..(first + ARITY).min(self.heap.len());
            let Some(least) = children.min_by_key(|&child| self.heap[child].order()) else {
                break;
            };
            if entry.order() <= self.heap[least].order() {
                break;
            }
            self.put(place, self.heap[least]);
            place = least;
        }
        self.put(place, entry);
    }

    /// Memory follows the timers that are alive: the heap shrinks at a quarter
    /// of its capacity; slots, which keys refer to, when no key is alive.
    fn give_memory_back(&mut self) {
        let len = self.heap.len();
        if self.heap.capacity() > SMALL && len < self.heap.capacity() / 4 {
            self.heap.shrink_to((len * 2).max(SMALL));
        }
        if len == 0 && self.slots.len() > SMALL {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn timers_fire_in_the_order_of_their_deadlines() {
        let mut timers = Timers::new();
        for deadline in [5, 1, 4, 2, 3] {
            timers.start(deadline, deadline);
        }
        let fired: Vec<u64> = std::iter::from_fn(|| timers.pop_due(4)).collect();
        assert_eq!(fired, [1, 2, 3, 4]);
        assert_eq!(timers.next_deadline(), Some(5));
    }

    // G234: gevent fires these 0, 1, 4, 3, 2.
    #[test]
    fn timers_of_equal_deadline_fire_first_come_first_served() {
        let mut timers = Timers::new();
        for name in 0..100 {
            timers.start(7, name);
        }
        let fired: Vec<u32> = std::iter::from_fn(|| timers.pop_due(7)).collect();
        assert!(fired.iter().copied().eq(0..100));
    }

    #[test]
    fn a_stale_key_cancels_nobody() {
        let mut timers = Timers::new();
        let old = timers.start(1, 'a');
        assert_eq!(timers.cancel(old), Some('a'));
        let new = timers.start(1, 'b');
        assert_eq!(old.slot, new.slot);
        assert_eq!(timers.cancel(old), None);
        assert_eq!(timers.pop_due(1), Some('b'));
        assert_eq!(timers.cancel(new), None);
    }

    #[test]
    fn ten_million_started_and_cancelled_leave_no_growth() {
        let mut timers = Timers::new();
        for n in 0..10_000_000u64 / if cfg!(miri) { 10_000 } else { 1 } {
            let key = timers.start(n, ());
            timers.cancel(key);
        }
        assert!(timers.heap.capacity() <= SMALL);
        assert!(timers.slots.capacity() <= SMALL);
    }

    #[test]
    fn a_burst_gives_its_memory_back() {
        let mut timers = Timers::new();
        let keys: Vec<TimerKey> = (0..10_000).map(|n| timers.start(n, ())).collect();
        for key in keys {
            assert!(timers.cancel(key).is_some());
        }
        assert!(timers.heap.capacity() <= SMALL);
        assert!(timers.slots.capacity() + timers.free.capacity() <= SMALL);
    }

    /// Everything against a sorted map, with a seeded generator.
    #[test]
    fn the_heap_agrees_with_a_sorted_map() {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut timers = Timers::new();
        let mut model = BTreeMap::new();
        let mut keys = Vec::new();
        for step in 0..if cfg!(miri) { 500u64 } else { 50_000 } {
            match next() % 4 {
                0 | 1 => {
                    let deadline = next() % 1000;
                    let key = timers.start(deadline, step);
                    model.insert((deadline, key.number), step);
                    keys.push((deadline, key));
                }
                2 if !keys.is_empty() => {
                    let at = next() as usize % keys.len();
                    let (deadline, key) = keys.swap_remove(at);
                    assert_eq!(timers.cancel(key), model.remove(&(deadline, key.number)));
                }
                _ => {
                    let now = next() % 200;
                    let due = model.first_key_value().filter(|(k, _)| k.0 <= now);
                    let due = due.map(|(k, v)| (*k, *v));
                    if let Some((k, _)) = due {
                        model.remove(&k);
                    }
                    assert_eq!(timers.pop_due(now), due.map(|(_, v)| v));
                }
            }
            assert_eq!(timers.len(), model.len());
        }
    }
}
