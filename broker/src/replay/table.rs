//! The replay subscriptions of a core.

use super::line::Line;
use super::mail::ReplayId;
use super::room::Room;
use super::subscription::Replay;
use crate::durable::{Place, SubscriptionOptions};
use crate::session::SessionId;
use hashbrown::{HashMap, HashSet};
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::runtime::TimerId;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;

/// Which replayed message a client acknowledges.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    pub(super) replay: ReplayId,
    pub(super) partition: PartitionId,
    pub(super) offset: u64,
    /// The epoch of the record.
    pub(super) epoch: u64,
}

impl Ticket {
    /// Where the message lies.
    pub(crate) fn place(&self) -> Place {
        Place { partition: self.partition.0, epoch: self.epoch, offset: self.offset }
    }
}

/// The replay subscriptions of the sessions of one core.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    next: ReplayId,
    by_id: HashMap<ReplayId, Replay>,
    by_session: HashMap<SessionId, Held>,
    /// Those that are being read.
    active: HashSet<ReplayId>,
    /// What they cost.
    readings: usize,
    room: Room,
    /// Those whose client is there, and that wait for room.
    waiting: Line<ReplayId, ()>,
    /// Sessions whose client may take something, each once.
    ready: VecDeque<SessionId>,
    /// When the timer fires, if it is armed.
    pub(super) armed: Option<(Nanos, TimerId)>,
}

/// The replays of a session, the one that was made first first.
#[derive(Debug, Default)]
struct Held {
    ids: Vec<ReplayId>,
    is_ready: bool,
}

impl Replays {
    pub(crate) fn new(room: Room) -> Self {
        Self { room, ..Self::default() }
    }

    /// An identifier that was not used before.
    pub(super) fn fresh_id(&mut self) -> ReplayId {
        self.next += 1;
        self.next
    }

    pub(super) fn insert(&mut self, replay: Replay) {
        self.by_session.entry(replay.session).or_default().ids.push(replay.id);
        self.by_id.insert(replay.id, replay);
    }

    /// Takes a replay out as it was: whether it is read is still in it.
    pub(super) fn remove(&mut self, id: ReplayId) -> Option<Replay> {
        let was_active = self.set_asleep(id);
        let mut replay = self.by_id.remove(&id)?;
        replay.is_active = was_active;
        if let Some(held) = self.by_session.get_mut(&replay.session) {
            held.ids.retain(|other| *other != id);
            if held.ids.is_empty() {
                self.by_session.remove(&replay.session);
            }
        }
        Some(replay)
    }

    pub(super) fn get(&self, id: ReplayId) -> Option<&Replay> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ReplayId) -> Option<&mut Replay> {
        self.by_id.get_mut(&id)
    }

    /// The replays of a session, the one that was made first first.
    pub(super) fn of(&self, session: SessionId) -> Vec<ReplayId> {
        self.by_session.get(&session).map(|held| held.ids.clone()).unwrap_or_default()
    }

    /// The replays of a session: what was subscribed to, its filter part, and the options.
    pub(crate) fn listed(
        &self,
        session: SessionId,
    ) -> impl Iterator<Item = (&str, &str, SubscriptionOptions)> {
        let ids = self.by_session.get(&session).into_iter().flat_map(|held| &held.ids);
        let replays = ids.filter_map(|id| self.by_id.get(id)).filter(|replay| !replay.is_replaced);
        replays.map(|replay| (&*replay.name, &*replay.filter, replay.options))
    }

    /// The filter part of a replay's name; empty if it has ended.
    pub(crate) fn filter_of(&self, ticket: &Ticket) -> &str {
        self.by_id.get(&ticket.replay).map_or("", |replay| &replay.filter)
    }

    /// A message of a replay that was sent with QoS 2 before the broker was started; `None` if that
    /// has ended.
    pub(crate) fn restore_exchange(
        &mut self,
        session: SessionId,
        filter: &str,
        place: Place,
    ) -> Option<Ticket> {
        let replay = self.find(session, filter)?;
        let Place { partition, epoch, offset } = place;
        self.by_id.get_mut(&replay)?.set_exact(partition, offset, false);
        Some(Ticket { replay, partition: PartitionId(partition), offset, epoch })
    }

    /// The replay of a filter, unless another one is about to take its place.
    pub(super) fn find(&self, session: SessionId, filter: &str) -> Option<ReplayId> {
        let mut ids = self.by_session.get(&session)?.ids.iter().copied();
        let is_it = |replay: &Replay| *replay.filter == *filter && !replay.is_replaced;
        ids.find(|id| self.by_id.get(id).is_some_and(is_it))
    }

    /// Whether one more of so many partitions can be read at once, in the place of `replaced`. Who
    /// waits comes first.
    pub(super) fn has_room(&self, partitions: usize, replaced: Option<ReplayId>) -> bool {
        let replaced = replaced.filter(|id| self.active.contains(id));
        let freed = replaced.map_or((0, 0), |id| (1, self.cost(id)));
        let used = (self.active.len() - freed.0, self.readings - freed.1);
        self.waiting.is_empty() && self.room.fits(used, self.room.cost(partitions))
    }

    /// What reading a replay costs.
    fn cost(&self, id: ReplayId) -> usize {
        self.by_id.get(&id).map_or(0, |replay| self.room.cost(replay.parts.len()))
    }

    /// A replay is being read from now on.
    pub(super) fn set_active(&mut self, id: ReplayId) {
        self.set_asleep(id);
        let cost = self.cost(id);
        let Some(replay) = self.by_id.get_mut(&id) else { return };
        replay.is_active = true;
        self.active.insert(id);
        self.readings += cost;
    }

    /// A replay is not read any more, nor does it wait for that. Whether it was read.
    pub(super) fn set_asleep(&mut self, id: ReplayId) -> bool {
        self.waiting.remove(&id);
        let was_active = self.active.remove(&id);
        if was_active {
            self.readings -= self.cost(id);
        }
        if let Some(replay) = self.by_id.get_mut(&id) {
            replay.is_active = false;
        }
        was_active
    }

    /// A replay is to be read as soon as there is room.
    pub(super) fn set_waiting(&mut self, id: ReplayId) {
        self.waiting.push(id, ());
    }

    /// The replay that has waited longest, if there is room for it now.
    pub(super) fn next_waiting(&mut self) -> Option<ReplayId> {
        let first = *self.waiting.first()?;
        let used = (self.active.len(), self.readings);
        self.room.fits(used, self.cost(first)).then(|| self.waiting.pop())?.map(|(id, ())| id)
    }

    /// The sessions with replays that are being read.
    pub(super) fn active_sessions(&self) -> Vec<SessionId> {
        let active = self.active.iter().filter_map(|id| self.by_id.get(id));
        let mut sessions: Vec<SessionId> = active.map(|replay| replay.session).collect();
        sessions.sort_unstable_by_key(|session| session.slot);
        sessions.dedup();
        sessions
    }

    /// Replays that are being read.
    pub(super) fn active_count(&self) -> usize {
        self.active.len()
    }

    /// The client of a session may take something: it is looked at at the end of the turn.
    pub(crate) fn wake(&mut self, session: SessionId) {
        let Some(held) = self.by_session.get_mut(&session) else { return };
        if !core::mem::replace(&mut held.is_ready, true) {
            self.ready.push_back(session);
        }
    }

    /// The session that was woken first.
    pub(super) fn pop_ready(&mut self) -> Option<SessionId> {
        let session = self.ready.pop_front()?;
        if let Some(held) = self.by_session.get_mut(&session) {
            held.is_ready = false;
        }
        Some(session)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.is_empty() && self.waiting.is_empty()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A client is done with a message.
    pub(crate) fn on_done(&mut self, ticket: &Ticket) {
        if let Some(replay) = self.by_id.get_mut(&ticket.replay) {
            replay.on_done(ticket.partition, ticket.offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Position;

    fn insert(replays: &mut Replays, slot: u32, partitions: u32) -> ReplayId {
        let id = replays.fresh_id();
        let options =
            SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
        let positions = (0..partitions).map(|partition| Position { partition, epoch: 0, next: 0 });
        let session = SessionId { slot, generation: 0 };
        let names = ("$replay/latest/#", "#");
        replays.insert(Replay::new(id, session, names, options, positions));
        id
    }

    /// Those that wait begin in their order, each as soon as it fits, and nobody overtakes them.
    #[test]
    fn what_is_read_at_a_time_has_a_bound() {
        let mut replays = Replays::new(Room::new(10, 8, 4, 1));
        let all: Vec<ReplayId> = (0..4).map(|slot| insert(&mut replays, slot, 4)).collect();
        for id in &all {
            replays.set_waiting(*id);
        }
        assert!(!replays.has_room(1, None), "others wait");
        for id in &all[..2] {
            assert_eq!(replays.next_waiting(), Some(*id));
            replays.set_active(*id);
        }
        assert_eq!(replays.next_waiting(), None, "eight are read");
        assert!(!replays.set_asleep(all[2]), "gave up waiting");
        let removed = replays.remove(all[0]).expect("it is there");
        assert!(removed.is_active, "it was read until now");
        assert_eq!(replays.next_waiting(), Some(all[3]));
        replays.set_active(all[3]);
        assert!(!replays.has_room(1, None) && replays.has_room(4, Some(all[3])));
        assert!(replays.set_asleep(all[1]) && replays.set_asleep(all[3]) && replays.is_idle());
        assert!(replays.has_room(4, None));
    }

    #[test]
    fn a_session_is_ready_once() {
        let mut replays = Replays::new(Room::default());
        insert(&mut replays, 7, 1);
        let session = SessionId { slot: 7, generation: 0 };
        replays.wake(session);
        replays.wake(session);
        assert_eq!((replays.pop_ready(), replays.pop_ready()), (Some(session), None));
        replays.wake(session);
        assert!(replays.has_ready());
    }
}
