//! The sessions of one core, by client identifier and by slot.

use super::{Session, SessionId, Subscription, SubscriptionKind};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::wide_table::WideTable;

/// A bounded table of sessions.
#[derive(Debug)]
pub(crate) struct SessionStore {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots, by the hash of the session's client identifier.
    by_client: WideTable<u32>,
    sessions_max: usize,
}

#[derive(Debug)]
enum Slot {
    /// With the generation of the next session.
    Free(u32),
    Used(Session),
}

impl Slot {
    fn session(&self) -> Option<&Session> {
        match self {
            Self::Used(session) => Some(session),
            Self::Free(_) => None,
        }
    }

    fn session_mut(&mut self) -> Option<&mut Session> {
        match self {
            Self::Used(session) => Some(session),
            Self::Free(_) => None,
        }
    }
}

impl SessionStore {
    pub(crate) fn new(sessions_max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), by_client: WideTable::new(), sessions_max }
    }

    /// As many as there is room for.
    pub(crate) fn sessions_max(&self) -> usize {
        self.sessions_max
    }

    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.sessions_max
    }

    /// The session of a client; `client_hash` is the placement's hash of its identifier.
    pub(crate) fn find(&self, client_id: &str, client_hash: u64) -> Option<SessionId> {
        let is_it = |slot: &u32| {
            let session = self.slots[*slot as usize].session();
            session.is_some_and(|session| session.client_id.as_bytes() == client_id.as_bytes())
        };
        let slot = *self.by_client.find(table_hash(client_hash), is_it)?;
        self.slots[slot as usize].session().map(|session| session.id)
    }

    /// Makes a session for a client that has none.
    pub(crate) fn create(
        &mut self,
        client_id: &str,
        client_hash: u64,
        partition: PartitionId,
    ) -> SessionId {
        debug_assert!(self.find(client_id, client_hash).is_none(), "one session per client");
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free(0));
            (self.slots.len() - 1) as u32
        });
        let Self { slots, by_client, .. } = self;
        by_client.insert_unique(table_hash(client_hash), slot, |slot| hash_of(slots, *slot));
        let entry = &mut slots[slot as usize];
        let Slot::Free(generation) = *entry else { unreachable!("the free list names free slots") };
        let id = SessionId { slot, generation };
        *entry = Slot::Used(Session::new(id, client_id, client_hash, partition));
        id
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.slot as usize)?.session().filter(|session| session.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.slot as usize)?.session_mut().filter(|session| session.id == id)
    }

    /// Slots that were ever used: all are below.
    pub(crate) fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The session in a slot, whichever it is.
    pub(crate) fn at(&self, slot: u32) -> Option<&Session> {
        self.slots.get(slot as usize)?.session()
    }

    /// The session in a slot, whichever it is: for lists that are kept exactly in step.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize)?.session_mut()
    }

    /// Where the subscription of the session in a slot lies in the list of its filter, which is kept exactly
    /// in step.
    pub(crate) fn set_position(&mut self, slot: u32, filter: &str, position: u32) {
        let held = self.at_mut(slot).and_then(|session| session.subscriptions.get_mut(filter));
        if let Some(Subscription { kind: SubscriptionKind::Plain { position: known }, .. }) = held {
            *known = position;
        }
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let hash = table_hash(self.get(id)?.client_hash);
        let next = Slot::Free(id.generation.wrapping_add(1));
        let old = core::mem::replace(&mut self.slots[id.slot as usize], next);
        self.free.push(id.slot);
        let _slot = self.by_client.remove(hash, |slot| *slot == id.slot);
        match old {
            Slot::Used(session) => Some(session),
            Slot::Free(_) => None,
        }
    }
}

/// All sessions of a core agree in what chose the core, and that is the low bits of the hash: the
/// table, which finds its buckets by them, gets the high ones there.
fn table_hash(client_hash: u64) -> u64 {
    client_hash.rotate_left(32)
}

fn hash_of(slots: &[Slot], slot: u32) -> u64 {
    let session = slots[slot as usize].session();
    session.map_or(0, |session| table_hash(session.client_hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_session_is_not_found_by_its_old_id() {
        let mut store = SessionStore::new(2);
        let first = store.create("a", 1, PartitionId(0));
        assert_eq!(store.find("a", 1), Some(first));
        assert!(store.remove(first).is_some());
        let second = store.create("b", 2, PartitionId(0));
        assert_eq!(second.slot, first.slot);
        assert!(store.get(first).is_none());
        assert!(store.get_mut(second).is_some());
        assert!(store.find("a", 1).is_none());
        assert!(!store.is_full());
        store.create("c", 3, PartitionId(0));
        assert!(store.is_full());
    }

    #[test]
    fn clients_are_found_by_identifier_even_if_their_hashes_are_equal() {
        let mut store = SessionStore::new(1000);
        let name = |number: u32| format!("client {number}");
        let ids: Vec<_> =
            (0..1000).map(|n| store.create(&name(n), u64::from(n % 7), PartitionId(0))).collect();
        for n in (0..1000).step_by(2) {
            assert!(store.remove(ids[n as usize]).is_some());
        }
        for n in 0..1000 {
            let expected = (n % 2 == 1).then(|| ids[n as usize]);
            assert_eq!(store.find(&name(n), u64::from(n % 7)), expected);
        }
        assert_eq!(store.len(), 500);
    }
}
