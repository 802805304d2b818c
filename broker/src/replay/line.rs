//! What waits for room, first come first served, and may give up.

use core::hash::Hash;
use hashbrown::HashMap;
use std::collections::BTreeMap;

/// A line of waiters, each with a key of its own.
#[derive(Debug)]
pub(super) struct Line<K, V> {
    next: u64,
    by_key: HashMap<K, u64>,
    in_order: BTreeMap<u64, (K, V)>,
}

impl<K, V> Default for Line<K, V> {
    fn default() -> Self {
        Self { next: 0, by_key: HashMap::new(), in_order: BTreeMap::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Line<K, V> {
    /// Who is there already waits at its end from now on.
    pub(super) fn push(&mut self, key: K, waiter: V) {
        self.remove(&key);
        self.by_key.insert(key, self.next);
        self.in_order.insert(self.next, (key, waiter));
        self.next += 1;
    }

    /// The one that has waited longest.
    pub(super) fn first(&self) -> Option<&K> {
        self.in_order.first_key_value().map(|(_, (key, _))| key)
    }

    /// Takes the one that has waited longest.
    pub(super) fn pop(&mut self) -> Option<(K, V)> {
        let (_, (key, waiter)) = self.in_order.pop_first()?;
        self.by_key.remove(&key);
        Some((key, waiter))
    }

    /// Gives up waiting. Whether it was there.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let place = self.by_key.remove(key);
        place.is_some_and(|place| self.in_order.remove(&place).is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.in_order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served_and_nothing_is_left_of_who_gives_up() {
        let mut line = Line::default();
        for key in [3, 1, 2, 1] {
            line.push(key, key * 10);
        }
        assert_eq!(line.first(), Some(&3));
        assert!(line.remove(&3) && !line.remove(&3));
        assert_eq!((line.pop(), line.pop(), line.pop()), (Some((2, 20)), Some((1, 10)), None));
        assert!(line.is_empty() && line.by_key.is_empty());
    }
}
