//! The sessions of one core, by client identifier and by slot.

use super::{Session, SessionId};
use hashbrown::HashMap;
use ringlane_dataplane::ids::PartitionId;

/// A bounded table of sessions.
#[derive(Debug)]
pub(crate) struct SessionStore {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_client: HashMap<Box<str>, u32>,
    sessions_max: usize,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    session: Option<Box<Session>>,
}

impl SessionStore {
    pub(crate) fn new(sessions_max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_client: HashMap::new(), sessions_max }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.sessions_max
    }

    pub(crate) fn find(&self, client_id: &str) -> Option<SessionId> {
        let slot = *self.by_client.get(client_id)?;
        Some(SessionId { slot, generation: self.slots[slot as usize].generation })
    }

    /// Makes a session for a client that has none.
    pub(crate) fn create(
        &mut self,
        client_id: &str,
        client_hash: u64,
        partition: PartitionId,
    ) -> &mut Session {
        debug_assert!(!self.by_client.contains_key(client_id), "one session per client");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, session: None });
            (self.slots.len() - 1) as u32
        });
        self.by_client.insert(client_id.into(), slot);
        let entry = &mut self.slots[slot as usize];
        let id = SessionId { slot, generation: entry.generation };
        entry.session.insert(Box::new(Session::new(id, client_id, client_hash, partition)))
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        let slot = self.slots.get(id.slot as usize)?;
        if slot.generation == id.generation { slot.session.as_deref() } else { None }
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation == id.generation { slot.session.as_deref_mut() } else { None }
    }

    /// The session in a slot, whichever it is: for lists that are kept exactly in step.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize)?.session.as_deref_mut()
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Box<Session>> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if slot.generation != id.generation {
            return None;
        }
        let session = slot.session.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.slot);
        self.by_client.remove(&session.client_id);
        Some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_session_is_not_found_by_its_old_id() {
        let mut store = SessionStore::new(2);
        let first = store.create("a", 1, PartitionId(0)).id;
        assert_eq!(store.find("a"), Some(first));
        assert!(store.remove(first).is_some());
        let second = store.create("b", 2, PartitionId(0)).id;
        assert_eq!(second.slot, first.slot);
        assert!(store.get(first).is_none());
        assert!(store.get_mut(second).is_some());
        assert!(store.find("a").is_none());
        assert!(!store.is_full());
        store.create("c", 3, PartitionId(0));
        assert!(store.is_full());
    }
}
