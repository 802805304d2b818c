//! The replay subscriptions of a core.

use super::mail::ReplayId;
use super::subscription::Replay;
use crate::durable::SubscriptionOptions;
use crate::session::SessionId;
use hashbrown::HashMap;
use ringlane_dataplane::ids::PartitionId;
use ringlane_dataplane::runtime::TimerId;
use ringlane_dataplane::time::Nanos;

/// Which replayed message a client acknowledges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    pub(super) replay: ReplayId,
    pub(super) partition: PartitionId,
    pub(super) offset: u64,
}

/// The replay subscriptions of the sessions of one core.
#[derive(Debug, Default)]
pub(crate) struct Replays {
    next: ReplayId,
    by_id: HashMap<ReplayId, Replay>,
    by_session: HashMap<SessionId, Vec<ReplayId>>,
    /// Those that are being read.
    active: usize,
    /// Sessions whose client may take something.
    ready: Vec<SessionId>,
    /// When the timer fires, if it is armed.
    pub(super) armed: Option<(Nanos, TimerId)>,
}

impl Replays {
    /// An identifier that was not used before.
    pub(super) fn fresh_id(&mut self) -> ReplayId {
        self.next += 1;
        self.next
    }

    pub(super) fn insert(&mut self, replay: Replay) {
        self.by_session.entry(replay.session).or_default().push(replay.id);
        self.by_id.insert(replay.id, replay);
    }

    pub(super) fn remove(&mut self, id: ReplayId) -> Option<Replay> {
        let replay = self.by_id.remove(&id)?;
        self.active -= usize::from(replay.is_active);
        if let Some(ids) = self.by_session.get_mut(&replay.session) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
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
        self.by_session.get(&session).cloned().unwrap_or_default()
    }

    /// The replays of a session: what was subscribed to, its filter part, and the options.
    pub(crate) fn listed(
        &self,
        session: SessionId,
    ) -> impl Iterator<Item = (&str, &str, SubscriptionOptions)> {
        let ids = self.by_session.get(&session).into_iter().flatten();
        let replays = ids.filter_map(|id| self.by_id.get(id)).filter(|replay| !replay.is_replaced);
        replays.map(|replay| (&*replay.name, &*replay.filter, replay.options))
    }

    /// The replay of a filter, unless another one is about to take its place.
    pub(super) fn find(&self, session: SessionId, filter: &str) -> Option<ReplayId> {
        let mut ids = self.by_session.get(&session)?.iter().copied();
        let is_it = |replay: &Replay| *replay.filter == *filter && !replay.is_replaced;
        ids.find(|id| self.by_id.get(id).is_some_and(is_it))
    }

    /// Whether a replay is read, or sleeps.
    pub(super) fn set_active(&mut self, id: ReplayId, is_active: bool) {
        let Some(replay) = self.by_id.get_mut(&id) else { return };
        self.active -= usize::from(replay.is_active);
        self.active += usize::from(is_active);
        replay.is_active = is_active;
    }

    /// The sessions with replays that are being read.
    pub(super) fn active_sessions(&self) -> Vec<SessionId> {
        let active = self.by_id.values().filter(|replay| replay.is_active);
        let mut sessions: Vec<SessionId> = active.map(|replay| replay.session).collect();
        sessions.sort_unstable_by_key(|session| session.slot);
        sessions.dedup();
        sessions
    }

    /// Replays that are being read.
    pub(super) fn active_count(&self) -> usize {
        self.active
    }

    /// The client of a session may take something: it is looked at at the end of the turn.
    pub(crate) fn wake(&mut self, session: SessionId) {
        if self.by_session.contains_key(&session) && !self.ready.contains(&session) {
            self.ready.push(session);
        }
    }

    pub(super) fn take_ready(&mut self) -> Vec<SessionId> {
        core::mem::take(&mut self.ready)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active == 0
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
