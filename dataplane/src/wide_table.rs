//! A hash table that grows a little at a time.
//!
//! A table that is full moves all that it has into one of twice its size, within one insertion: with a million filters that
//! is longer than a leader may be silent. This is many small tables side by side, which the hash spreads the
//! entries over: each grows by itself, at another time than most of the others.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Tables side by side. One of a million entries moves 2,000 to 4,000 of them when it grows.
const PARTS: usize = 256;
/// From this bit on the hash says in which one an entry is. Those below choose a bucket there, those from 57 on mark it.
const PART_SHIFT: u32 = 48;

const _: () = assert!(PARTS.is_power_of_two() && PARTS.trailing_zeros() + PART_SHIFT < 57);

/// Entries by hash. Whoever uses it knows how they are hashed and told apart, and keeps the hash in the entry where it is
/// dear to make: a part that grows asks for that of each of its entries.
#[derive(Debug)]
pub struct WideTable<T> {
    /// None before the first entry.
    parts: Vec<HashTable<T>>,
    len: usize,
}

impl<T> Default for WideTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> WideTable<T> {
    /// Without an entry.
    #[must_use]
    pub const fn new() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this hash that `is_it` says yes to.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.parts.get(part_of(hash))?.find(hash, is_it)
    }

    /// The same, to be changed. Its hash must stay as it is.
    #[inline]
    pub fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.parts.get_mut(part_of(hash))?.find_mut(hash, is_it)
    }

    /// The same, made by `make` if it is not there. `hash_of` says the hash of any entry.
    pub fn find_or_insert(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hash_of: impl Fn(&T) -> u64,
        make: impl FnOnce() -> T,
    ) -> &mut T {
        let Self { parts, len } = self;
        match part(parts, hash).entry(hash, is_it, hash_of) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                *len += 1;
                entry.insert(make()).into_mut()
            }
        }
    }

    /// Puts in an entry that is not there. `hash_of` says the hash of any entry.
    pub fn insert_unique(&mut self, hash: u64, entry: T, hash_of: impl Fn(&T) -> u64) {
        part(&mut self.parts, hash).insert_unique(hash, entry, hash_of);
        self.len += 1;
    }

    /// Takes out the entry with this hash that `is_it` says yes to.
    pub fn remove(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let found = self.parts.get_mut(part_of(hash))?.find_entry(hash, is_it).ok()?;
        self.len -= 1;
        Some(found.remove().0)
    }

    /// The most entries that an insertion may have to move.
    #[cfg(test)]
    fn longest_part(&self) -> usize {
        self.parts.iter().map(HashTable::len).max().unwrap_or(0)
    }
}

fn part<T>(parts: &mut Vec<HashTable<T>>, hash: u64) -> &mut HashTable<T> {
    if parts.is_empty() {
        parts.resize_with(PARTS, HashTable::new);
    }
    &mut parts[part_of(hash)]
}

const fn part_of(hash: u64) -> usize {
    (hash >> PART_SHIFT) as usize % PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn it_has_what_was_put_in_and_not_taken_out() {
        // Few hashes, so that entries share them.
        let hash_of = |entry: &u32| u64::from(entry % 50) << 46;
        let (mut table, mut model) = (WideTable::new(), BTreeSet::new());
        for step in 0..10_000_u32 {
            let entry = step.wrapping_mul(2_654_435_761) % 300;
            let hash = hash_of(&entry);
            match step % 3 {
                0 => assert_eq!(
                    table.remove(hash, |other| *other == entry),
                    model.take(&entry),
                    "{step}"
                ),
                1 if model.insert(entry) => table.insert_unique(hash, entry, hash_of),
                _ => {
                    let found =
                        table.find_or_insert(hash, |other| *other == entry, hash_of, || entry);
                    assert_eq!(*found, entry);
                    model.insert(entry);
                }
            }
            assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
        }
        for entry in 0..300 {
            let hash = hash_of(&entry);
            assert_eq!(table.find(hash, |other| *other == entry), model.get(&entry));
            let found = table.find_mut(hash, |other| *other == entry).map(|found| *found);
            assert_eq!(found, model.get(&entry).copied());
        }
    }

    #[test]
    fn no_part_is_much_longer_than_the_others() {
        let hasher = RandomState::new();
        let mut table = WideTable::new();
        let hash_of = |entry: &u32| hasher.hash_one(entry);
        for entry in 0..300_000 {
            table.insert_unique(hash_of(&entry), entry, hash_of);
        }
        // 1,172 on average.
        assert!(table.longest_part() < 2000, "{}", table.longest_part());
    }
}
