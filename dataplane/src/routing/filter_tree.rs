//! Topic filters with a value each, and the question which of them match a topic name.
//!
//! Exact filters, which are most of them, lie in a hash table: one look-up. Filters with wildcards
//! lie in a tree by level, in which `+` and `#` are fields of a node and not children. A match visits
//! every node at most once, because each is reached by one path only: however a filter
//! is built, a match costs at most what is stored.
//!
//! Filters come from clients, so the tables must not be open to chosen collisions: they are hashed by
//! SipHash-1-3 with keys that the operating system drew at random (the standard library's state).
//! hashbrown's own default is faster, but its seed is not drawn from a source of randomness.

use super::matching::{is_hidden, is_wildcard, split_multi_level};
use crate::wide_table::WideTable;
use hashbrown::HashMap;
use std::hash::{BuildHasher, RandomState};

/// Children above which a node looks them up by hash and no longer by binary search.
const CHILDREN_SORTED_MAX: usize = 8;
/// Children from which on they are in a table that grows a little at a time: of `{device}/#` there may be a million. Just
/// as many fill a table of 2,048 places.
const CHILDREN_HASHED_MAX: usize = 1792;

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

#[derive(Debug)]
enum Children {
    /// By rising level name.
    Sorted(Vec<(Box<str>, u32)>),
    Hashed(Box<HashMap<Box<str>, u32, RandomState>>),
    Wide(Box<Names<u32>>),
}

#[derive(Debug)]
struct Node<V> {
    /// Of the filter that ends here.
    value: Option<V>,
    /// Of the filter that ends with `#` below here.
    multi_level: Option<V>,
    /// The child for `+`, or [`NONE`].
    single_level: u32,
    children: Children,
}

/// A set of topic filters, each with a value. Filters are taken as valid (see
/// [`matching`](super::matching)) and are not bounded here.
#[derive(Debug)]
pub struct FilterTree<V> {
    exact: Names<V>,
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    wildcards: usize,
}

/// Values by name: the filters without wildcards, and the children of a node that has many. There may be a million: they
/// may not all be moved at once.
#[derive(Debug)]
struct Names<V> {
    table: WideTable<Named<V>>,
    hasher: RandomState,
}

/// A name with what it stands for. Its hash is kept: to read all names again is most of what it takes to move them.
#[derive(Debug)]
struct Named<V> {
    hash: u64,
    name: Box<str>,
    value: V,
}

impl<V> Named<V> {
    fn is(&self, hash: u64, name: &str) -> bool {
        self.hash == hash && *self.name == *name
    }
}

impl<V> Names<V> {
    fn new() -> Self {
        Self { table: WideTable::new(), hasher: RandomState::new() }
    }

    fn len(&self) -> usize {
        self.table.len()
    }

    fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    #[inline]
    fn get(&self, name: &str) -> Option<&V> {
        let hash = self.hasher.hash_one(name);
        self.table.find(hash, |known| known.is(hash, name)).map(|found| &found.value)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut V> {
        let hash = self.hasher.hash_one(name);
        self.table.find_mut(hash, |known| known.is(hash, name)).map(|found| &mut found.value)
    }

    fn get_or_insert(&mut self, name: &str, make: impl FnOnce() -> V) -> &mut V {
        let Self { table, hasher } = self;
        let hash = hasher.hash_one(name);
        let make = || Named { hash, name: name.into(), value: make() };
        &mut table
            .find_or_insert(hash, |known| known.is(hash, name), |known| known.hash, make)
            .value
    }

    fn remove(&mut self, name: &str) -> Option<V> {
        let hash = self.hasher.hash_one(name);
        self.table.remove(hash, |known| known.is(hash, name)).map(|found| found.value)
    }
}

impl<V> Default for FilterTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> FilterTree<V> {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self { exact: Names::new(), nodes: vec![Node::new()], free: Vec::new(), wildcards: 0 }
    }

    /// Filters in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcards
    }

    /// Whether there is no filter.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Nodes of the tree of wildcard filters; at least one, the root.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// The value of a filter (of this very filter: nothing is matched).
    #[must_use]
    pub fn get(&self, filter: &str) -> Option<&V> {
        if !is_wildcard(filter) {
            return self.exact.get(filter);
        }
        let (levels, multi_level) = split_multi_level(filter);
        let node = &self.nodes[self.find(levels)? as usize];
        if multi_level { node.multi_level.as_ref() } else { node.value.as_ref() }
    }

    /// The value of a filter, to be changed.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        if !is_wildcard(filter) {
            return self.exact.get_mut(filter);
        }
        let (levels, multi_level) = split_multi_level(filter);
        let found = self.find(levels)?;
        self.nodes[found as usize].place(multi_level).as_mut()
    }

    /// The value of a filter, which is added with the value of `make` if it is not there.
    ///
    /// # Panics
    /// If the tree would have `u32::MAX` nodes.
    pub fn entry(&mut self, filter: &str, make: impl FnOnce() -> V) -> &mut V {
        if !is_wildcard(filter) {
            return self.exact.get_or_insert(filter, make);
        }
        let (levels, multi_level) = split_multi_level(filter);
        let mut node = ROOT;
        for level in levels.into_iter().flat_map(|levels| levels.split('/')) {
            node = self.child_or_new(node, level);
        }
        let place = self.nodes[node as usize].place(multi_level);
        if place.is_none() {
            self.wildcards += 1;
        }
        place.get_or_insert_with(make)
    }

    /// Takes a filter out, with the nodes that only it needed.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        if !is_wildcard(filter) {
            return self.exact.remove(filter);
        }
        let (levels, multi_level) = split_multi_level(filter);
        let mut path = Vec::new();
        let mut node = ROOT;
        for level in levels.into_iter().flat_map(|levels| levels.split('/')) {
            path.push((node, level));
            node = self.nodes[node as usize].child(level)?;
        }
        let value = self.nodes[node as usize].place(multi_level).take()?;
        self.wildcards -= 1;
        self.prune(node, path);
        Some(value)
    }

    /// Calls `visit` with the value of each filter that matches the topic name, once per filter, in
    /// no particular order.
    pub fn for_each_match(&self, topic: &str, visit: &mut impl FnMut(&V)) {
        if !self.exact.is_empty()
            && let Some(value) = self.exact.get(topic)
        {
            visit(value);
        }
        if self.wildcards > 0 {
            self.match_wildcards(topic, visit);
        }
    }

    /// Walks down by the topic's levels. Where a node has both the literal child and `+`, the `+` is
    /// put off; so the stack holds one entry per level at most.
    fn match_wildcards(&self, topic: &str, visit: &mut impl FnMut(&V)) {
        let root = &self.nodes[ROOT as usize];
        let hidden = is_hidden(topic);
        if !hidden && let Some(value) = &root.multi_level {
            visit(value);
        }
        let mut put_off = PutOff::default();
        let mut at = Some(Branch { node: ROOT, rest: topic });
        let mut first = true;
        while let Some(Branch { node, rest }) = at.take().or_else(|| put_off.pop()) {
            let (level, rest) = split_level(rest);
            let node = &self.nodes[node as usize];
            let single_level = if first && hidden { NONE } else { node.single_level };
            first = false;
            at = self.enter(node.child_literal(level), rest, visit);
            if let Some(branch) = self.enter(known(single_level), rest, visit) {
                match at {
                    Some(_) => put_off.push(branch),
                    None => at = Some(branch),
                }
            }
        }
    }

    /// Visits what ends at a node that was reached with `rest` of the topic left; the branch to go on
    /// with, if there is any.
    fn enter<'t>(
        &self,
        node: Option<u32>,
        rest: Option<&'t str>,
        visit: &mut impl FnMut(&V),
    ) -> Option<Branch<'t>> {
        let index = node?;
        let node = &self.nodes[index as usize];
        if let Some(value) = &node.multi_level {
            visit(value);
        }
        if rest.is_none()
            && let Some(value) = &node.value
        {
            visit(value);
        }
        rest.map(|rest| Branch { node: index, rest })
    }

    /// The node at the end of `levels`; the root for none.
    fn find(&self, levels: Option<&str>) -> Option<u32> {
        let mut node = ROOT;
        for level in levels.into_iter().flat_map(|levels| levels.split('/')) {
            node = self.nodes[node as usize].child(level)?;
        }
        Some(node)
    }

    fn child_or_new(&mut self, parent: u32, level: &str) -> u32 {
        if let Some(child) = self.nodes[parent as usize].child(level) {
            return child;
        }
        let child = self.allocate();
        self.nodes[parent as usize].link(level, child);
        child
    }

    fn allocate(&mut self) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        let index = u32::try_from(self.nodes.len()).expect("more nodes than 32 bits count");
        assert!(index != NONE, "more nodes than 32 bits count");
        self.nodes.push(Node::new());
        index
    }

    /// Frees `node` and what is above it, as long as it is empty. `path` leads to it from the root.
    fn prune(&mut self, mut node: u32, mut path: Vec<(u32, &str)>) {
        while self.nodes[node as usize].is_empty()
            && let Some((parent, level)) = path.pop()
        {
            self.nodes[parent as usize].unlink(level);
            self.nodes[node as usize] = Node::new();
            self.free.push(node);
            node = parent;
        }
    }
}

impl<V> Node<V> {
    const fn new() -> Self {
        let children = Children::Sorted(Vec::new());
        Self { value: None, multi_level: None, single_level: NONE, children }
    }

    fn place(&mut self, multi_level: bool) -> &mut Option<V> {
        if multi_level { &mut self.multi_level } else { &mut self.value }
    }

    /// The child for a level of a filter.
    fn child(&self, level: &str) -> Option<u32> {
        if level == "+" { known(self.single_level) } else { self.child_literal(level) }
    }

    /// The child for a level of a topic name.
    fn child_literal(&self, level: &str) -> Option<u32> {
        match &self.children {
            Children::Sorted(sorted) => {
                let found = sorted.binary_search_by(|(name, _)| (**name).cmp(level)).ok()?;
                Some(sorted[found].1)
            }
            Children::Hashed(hashed) => hashed.get(level).copied(),
            Children::Wide(wide) => wide.get(level).copied(),
        }
    }

    fn link(&mut self, level: &str, child: u32) {
        if level == "+" {
            self.single_level = child;
            return;
        }
        match &mut self.children {
            Children::Hashed(hashed) => {
                hashed.insert(level.into(), child);
                if hashed.len() == CHILDREN_HASHED_MAX {
                    let mut wide = Names::new();
                    for (name, child) in hashed.drain() {
                        wide.get_or_insert(&name, || child);
                    }
                    self.children = Children::Wide(Box::new(wide));
                }
            }
            Children::Wide(wide) => {
                wide.get_or_insert(level, || child);
            }
            Children::Sorted(sorted) => {
                let at = sorted.partition_point(|(name, _)| **name < *level);
                sorted.insert(at, (level.into(), child));
                if sorted.len() > CHILDREN_SORTED_MAX {
                    let hashed = core::mem::take(sorted).into_iter().collect();
                    self.children = Children::Hashed(Box::new(hashed));
                }
            }
        }
    }

    fn unlink(&mut self, level: &str) {
        if level == "+" {
            self.single_level = NONE;
            return;
        }
        match &mut self.children {
            Children::Hashed(hashed) => {
                hashed.remove(level);
            }
            Children::Wide(wide) => {
                wide.remove(level);
            }
            Children::Sorted(sorted) => {
                if let Ok(found) = sorted.binary_search_by(|(name, _)| (**name).cmp(level)) {
                    sorted.remove(found);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        let childless = match &self.children {
            Children::Sorted(sorted) => sorted.is_empty(),
            Children::Hashed(hashed) => hashed.is_empty(),
            Children::Wide(wide) => wide.is_empty(),
        };
        childless && self.single_level == NONE && self.value.is_none() && self.multi_level.is_none()
    }
}

/// The first level of a topic name and what is behind it. Levels are short: a loop over their bytes
/// ends before a search that looks at many bytes at once has begun.
#[inline]
fn split_level(topic: &str) -> (&str, Option<&str>) {
    match topic.bytes().position(|byte| byte == b'/') {
        Some(end) => (&topic[..end], Some(&topic[end + 1..])),
        None => (topic, None),
    }
}

fn known(node: u32) -> Option<u32> {
    (node != NONE).then_some(node)
}

/// A node to go on from, and what is left of the topic there.
#[derive(Clone, Copy)]
struct Branch<'t> {
    node: u32,
    rest: &'t str,
}

/// Branches that were put off. Only filters with as many nested choices as this has places make
/// a match allocate.
#[derive(Default)]
struct PutOff<'t> {
    few: [Option<Branch<'t>>; PUT_OFF_INLINE],
    count: usize,
    more: Vec<Branch<'t>>,
}

const PUT_OFF_INLINE: usize = 16;

impl<'t> PutOff<'t> {
    fn push(&mut self, branch: Branch<'t>) {
        if self.count < PUT_OFF_INLINE {
            self.few[self.count] = Some(branch);
            self.count += 1;
        } else {
            self.more.push(branch);
        }
    }

    fn pop(&mut self) -> Option<Branch<'t>> {
        if let Some(branch) = self.more.pop() {
            return Some(branch);
        }
        self.count = self.count.checked_sub(1)?;
        self.few[self.count].take()
    }
}

#[cfg(test)]
#[path = "filter_tree_tests.rs"]
mod tests;
