//! The groups that one core owns, by key and by slot.

use super::{Group, GroupId, GroupKey};
use hashbrown::HashMap;

/// A table of groups. Bounded by the subscriptions of the node, each of which a session paid for.
#[derive(Debug, Default)]
pub(crate) struct GroupStore {
    slots: Vec<(u32, Option<Group>)>,
    free: Vec<u32>,
    by_key: HashMap<GroupKey, u32>,
    /// The same by the hash that the log knows them by.
    by_hash: HashMap<u64, u32>,
    /// Cores that have not told of all members that they had before the start.
    unsettled: u16,
}

impl GroupStore {
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// So many cores are about to tell of the members that they had before the start.
    pub(crate) fn set_unsettled(&mut self, cores: u16) {
        self.unsettled = cores;
    }

    /// One of them has told of all. Whether it was the last.
    pub(crate) fn set_settled(&mut self) -> bool {
        self.unsettled = self.unsettled.saturating_sub(1);
        self.unsettled == 0
    }

    /// Whether all members are known: a group without any has none.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    pub(crate) fn find(&self, key: &GroupKey) -> Option<GroupId> {
        let slot = *self.by_key.get(key)?;
        Some(GroupId { slot, generation: self.slots[slot as usize].0 })
    }

    pub(crate) fn find_by_hash(&self, hash: u64) -> Option<GroupId> {
        self.by_hash.get(&hash).and_then(|slot| self.id_at(*slot))
    }

    /// All groups.
    pub(crate) fn ids(&self) -> Vec<GroupId> {
        self.by_key.values().filter_map(|slot| self.id_at(*slot)).collect()
    }

    /// How many slots there are, free ones included.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Makes a group that is not there.
    pub(crate) fn create(&mut self, key: &GroupKey, hash: u64) -> GroupId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32
        });
        let (generation, group) = &mut self.slots[slot as usize];
        *group = Some(Group::new(key.clone(), hash));
        self.by_key.insert(key.clone(), slot);
        self.by_hash.insert(hash, slot);
        GroupId { slot, generation: *generation }
    }

    pub(crate) fn get(&self, id: GroupId) -> Option<&Group> {
        let (generation, group) = self.slots.get(id.slot as usize)?;
        if *generation == id.generation { group.as_ref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        let (generation, group) = self.slots.get_mut(id.slot as usize)?;
        if *generation == id.generation { group.as_mut() } else { None }
    }

    /// Where the group's entry lies in its filter's list.
    pub(crate) fn set_position(&mut self, slot: u32, position: u32) {
        if let Some((_, Some(group))) = self.slots.get_mut(slot as usize) {
            group.position = position;
        }
    }

    /// The group in a slot, for the subscription tree, which is kept exactly in step.
    pub(crate) fn id_at(&self, slot: u32) -> Option<GroupId> {
        let (generation, group) = self.slots.get(slot as usize)?;
        group.as_ref().map(|_| GroupId { slot, generation: *generation })
    }

    pub(crate) fn remove(&mut self, id: GroupId) -> Option<Group> {
        let (generation, group) = self.slots.get_mut(id.slot as usize)?;
        if *generation != id.generation {
            return None;
        }
        let group = group.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.slot);
        self.by_key.remove(&group.key);
        self.by_hash.remove(&group.hash);
        Some(group)
    }
}
