//! What the other cores want: per topic name a set of cores, small enough to keep on every core.
//!
//! A core announces a filter when its first session takes it and when its last one gives it up. Here
//! an exact filter is a 64-bit hash and a bit per core: that it was taken for another filter's is
//! allowed (the other core matches again and finds nothing), that it is missed is not.

use super::filter_tree::FilterTree;
use super::matching::is_wildcard;
use crate::ids::{CoreId, ENDPOINTS_MAX};
use crate::wide_table::WideTable;
use hashbrown::HashMap;
use std::hash::{BuildHasher, RandomState};

/// A set of cores (mailbox endpoints), one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash, Debug)]
pub struct CoreSet(pub u128);

const _: () = assert!(ENDPOINTS_MAX <= u128::BITS as usize, "an endpoint is a bit");

impl CoreSet {
    /// Puts a core in. Returns whether it was not in yet.
    ///
    /// # Panics
    /// If the id is not below [`ENDPOINTS_MAX`]; so do [`CoreSet::remove`] and
    /// [`CoreSet::contains`].
    pub fn insert(&mut self, core: CoreId) -> bool {
        let new = !self.contains(core);
        self.0 |= Self::bit(core);
        new
    }

    /// Takes a core out. Returns whether it was in.
    pub fn remove(&mut self, core: CoreId) -> bool {
        let old = self.contains(core);
        self.0 &= !Self::bit(core);
        old
    }

    /// Whether a core is in.
    #[must_use]
    pub fn contains(self, core: CoreId) -> bool {
        self.0 & Self::bit(core) != 0
    }

    /// Whether no core is in.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many cores are in.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The cores of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The cores, by rising id.
    pub fn iter(self) -> impl Iterator<Item = CoreId> + use<> {
        let mut left = self.0;
        core::iter::from_fn(move || {
            let core = (left != 0).then(|| CoreId(left.trailing_zeros() as u16))?;
            left &= left - 1;
            Some(core)
        })
    }

    fn bit(core: CoreId) -> u128 {
        assert!(core.index() < ENDPOINTS_MAX, "core id out of range");
        1 << core.0
    }
}

impl FromIterator<CoreId> for CoreSet {
    fn from_iter<I: IntoIterator<Item = CoreId>>(cores: I) -> Self {
        cores.into_iter().fold(Self::default(), |set, core| Self(set.0 | Self::bit(core)))
    }
}

/// The cores that hold exact filters with this hash.
#[derive(Debug)]
struct Holders {
    hash: u64,
    cores: CoreSet,
}

/// The filters that other cores announced.
#[derive(Debug)]
pub struct RemoteFilters {
    hash_state: RandomState,
    /// Bits of a hash that are used; all of them, save in tests that want collisions.
    hash_mask: u64,
    /// There may be a million: they may not all be moved at once.
    exact: WideTable<Holders>,
    /// Filters beyond the first that one core holds under one hash. All but always empty.
    doubled: HashMap<(u64, CoreId), u32, RandomState>,
    wildcards: FilterTree<CoreSet>,
}

impl Default for RemoteFilters {
    fn default() -> Self {
        Self::new()
    }
}

impl RemoteFilters {
    /// No filters.
    #[must_use]
    pub fn new() -> Self {
        Self::with_hash_mask(u64::MAX)
    }

    fn with_hash_mask(hash_mask: u64) -> Self {
        Self {
            hash_state: RandomState::new(),
            hash_mask,
            exact: WideTable::new(),
            doubled: HashMap::default(),
            wildcards: FilterTree::new(),
        }
    }

    /// A core wants a filter. It says so once, until it gives it up.
    pub fn add(&mut self, core: CoreId, filter: &str) {
        if is_wildcard(filter) {
            self.wildcards.entry(filter, CoreSet::default).insert(core);
            return;
        }
        let hash = self.hash(filter);
        let make = || Holders { hash, cores: CoreSet::default() };
        let held =
            self.exact.find_or_insert(hash, |held| held.hash == hash, |held| held.hash, make);
        if !held.cores.insert(core) {
            *self.doubled.entry((hash, core)).or_default() += 1;
        }
    }

    /// A core gives up a filter that it wanted.
    pub fn remove(&mut self, core: CoreId, filter: &str) {
        if is_wildcard(filter) {
            self.remove_wildcard(core, filter);
            return;
        }
        let hash = self.hash(filter);
        if self.remove_doubled(hash, core) {
            return;
        }
        if let Some(held) = self.exact.find_mut(hash, |held| held.hash == hash) {
            held.cores.remove(core);
            if held.cores.is_empty() {
                self.exact.remove(hash, |held| held.hash == hash);
            }
        }
    }

    /// The cores that may want a topic: every one that does, rarely one that does not.
    #[must_use]
    pub fn cores_for(&self, topic: &str) -> CoreSet {
        let mut cores = CoreSet::default();
        if !self.exact.is_empty() {
            let hash = self.hash(topic);
            let held = self.exact.find(hash, |held| held.hash == hash);
            cores = held.map(|held| held.cores).unwrap_or_default();
        }
        self.wildcards.for_each_match(topic, &mut |set| cores = cores.union(*set));
        cores
    }

    /// Distinct filters (exact ones by their hash).
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcards.len()
    }

    /// Whether no core wants anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn remove_wildcard(&mut self, core: CoreId, filter: &str) {
        let Some(cores) = self.wildcards.get_mut(filter) else { return };
        cores.remove(core);
        if cores.is_empty() {
            self.wildcards.remove(filter);
        }
    }

    /// Takes one holder away if the core has several filters under this hash.
    fn remove_doubled(&mut self, hash: u64, core: CoreId) -> bool {
        let Some(extra) = self.doubled.get_mut(&(hash, core)) else { return false };
        *extra -= 1;
        if *extra == 0 {
            self.doubled.remove(&(hash, core));
        }
        true
    }

    fn hash(&self, filter: &str) -> u64 {
        self.hash_state.hash_one(filter) & self.hash_mask
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
