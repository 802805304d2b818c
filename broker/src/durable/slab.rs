//! Numbered things with a name each: found by name, and by a small number that others keep.

use ringlane_dataplane::wide_table::WideTable;
use std::hash::{BuildHasher, RandomState};

/// A thing with a name.
pub(super) trait Named {
    fn name(&self) -> &str;
}

/// Things by number and by name. Numbers are used again.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
    /// Numbers, each with the hash of its name.
    by_name: WideTable<(u64, u32)>,
    /// Names come from clients: the keys of the hash are drawn at random.
    hasher: RandomState,
}

impl<T: Named> Slab<T> {
    pub(super) fn new() -> Self {
        let hasher = RandomState::new();
        Self { slots: Vec::new(), free: Vec::new(), by_name: WideTable::new(), hasher }
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Numbers that were ever given out: all are below.
    pub(super) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let is_it =
            |(known, slot): &(u64, u32)| *known == hash && is_named(&self.slots, *slot, name);
        self.by_name.find(hash, is_it).map(|(_, slot)| *slot)
    }

    /// # Panics
    /// If there are 2^32 things.
    pub(super) fn insert(&mut self, thing: T) -> u32 {
        let Self { slots, free, by_name, hasher } = self;
        let slot = free.pop().unwrap_or_else(|| {
            slots.push(None);
            u32::try_from(slots.len() - 1).expect("memory ends long before")
        });
        let hash = hasher.hash_one(thing.name());
        slots[slot as usize] = Some(thing);
        by_name.insert_unique(hash, (hash, slot), |(hash, _)| *hash);
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<T> {
        let thing = self.slots.get_mut(slot as usize)?.take()?;
        let hash = self.hasher.hash_one(thing.name());
        let _number = self.by_name.remove(hash, |(_, other)| *other == slot);
        self.free.push(slot);
        Some(thing)
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(slot, thing)| Some((slot as u32, thing.as_ref()?)))
    }
}

fn is_named<T: Named>(slots: &[Option<T>], slot: u32, name: &str) -> bool {
    slots[slot as usize].as_ref().is_some_and(|thing| thing.name() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Named for String {
        fn name(&self) -> &str {
            self
        }
    }

    #[test]
    fn things_are_found_by_name_until_they_are_removed() {
        let mut slab = Slab::new();
        let numbers: Vec<u32> = (0..100).map(|n| slab.insert(format!("n{n}"))).collect();
        for (n, number) in numbers.iter().enumerate() {
            assert_eq!(slab.find(&format!("n{n}")), Some(*number));
        }
        assert_eq!(slab.remove(numbers[7]).as_deref(), Some("n7"));
        assert_eq!((slab.find("n7"), slab.len()), (None, 99));
        assert_eq!(slab.insert("again".to_owned()), numbers[7]);
        assert_eq!(slab.iter().count(), 100);
        assert_eq!(slab.slots(), 100);
    }
}
