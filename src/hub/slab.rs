//! A slab with generations: a key that was removed never finds its successor.

/// The place of a value in a [`Slab`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// A key that no slab gives out.
    pub(crate) const DANGLING: Key = Key {
        index: u32::MAX,
        generation: 0,
    };

    pub(crate) fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(crate) fn from_u64(bits: u64) -> Key {
        Key {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

enum Slot<T> {
    Used {
        generation: u32,
        value: T,
    },
    /// The index of the next free slot; `u32::MAX` ends the list.
    Free {
        next: u32,
    },
}

/// So few values count as next to none: the hub's main greenlet is always there.
const KEPT: usize = 1;

/// Values by key, in O(1).
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
    /// Of the next insertion. One counter for all slots, so that slots may be
    /// given back to the allocator without a key coming twice.
    generation: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Slab<T> {
        Slab {
            slots: Vec::new(),
            free: u32::MAX,
            len: 0,
            generation: 1,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn insert(&mut self, value: T) -> Key {
        let generation = self.generation;
        self.generation = generation.wrapping_add(1);
        self.len += 1;
        let used = Slot::Used { generation, value };
        let index = self.free;
        match self.slots.get_mut(index as usize) {
            Some(slot) => {
                if let Slot::Free { next } = *slot {
                    self.free = next;
                }
                *slot = used;
                Key { index, generation }
            }
            None => {
                let index = self.slots.len() as u32;
                self.slots.push(used);
                Key { index, generation }
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        match self.slots.get(key.index as usize)? {
            Slot::Used { generation, value } if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        match slot {
            Slot::Used { generation, .. } if *generation == key.generation => {}
            _ => return None,
        }
        let freed = Slot::Free { next: self.free };
        let removed = std::mem::replace(slot, freed);
        self.free = key.index;
        self.len -= 1;
        if self.len <= KEPT {
            self.give_memory_back();
        }
        match removed {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Used { value, .. } => Some(value),
            Slot::Free { .. } => None,
        })
    }

    pub(crate) fn clear(&mut self) {
        *self = Slab {
            generation: self.generation,
            ..Slab::new()
        };
    }

    /// Next to nothing is left: what a burst has needed goes back. What there
    /// is was inserted first, as a hub's main greenlet is, and stays in place.
    fn give_memory_back(&mut self) {
        let first = &self.slots[..self.len];
        if first.iter().all(|slot| matches!(slot, Slot::Used { .. })) {
            self.slots.truncate(self.len);
            self.slots.shrink_to(64);
            self.free = u32::MAX;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_key_does_not_find_its_successor() {
        let mut slab = Slab::new();
        let old = slab.insert('a');
        let other = slab.insert('b');
        assert_eq!(slab.remove(old), Some('a'));
        let new = slab.insert('c');
        assert_eq!(new.index, old.index);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.get(new), Some(&'c'));
        assert_eq!(slab.get(other), Some(&'b'));
        assert_eq!(Key::from_u64(new.to_u64()), new);
    }

    #[test]
    fn no_key_comes_twice_after_the_slab_was_empty() {
        let mut slab = Slab::new();
        let old = slab.insert(1);
        slab.remove(old);
        let new = slab.insert(2);
        assert_ne!(old, new);
        assert_eq!(slab.get(old), None);
    }

    #[test]
    fn an_empty_slab_has_given_its_memory_back() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..100_000).map(|n| slab.insert(n)).collect();
        for key in keys {
            slab.remove(key);
        }
        assert!(slab.slots.capacity() <= 64);
        assert_eq!(slab.len(), 0);
    }

    #[test]
    fn iteration_passes_over_what_was_removed() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..5).map(|n| slab.insert(n)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        assert_eq!(slab.iter().copied().collect::<Vec<_>>(), [0, 2, 4]);
    }
}
