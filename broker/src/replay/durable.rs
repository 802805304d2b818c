//! What outlives the broker of a replay: its subscription, and how far the client is done with it.

use super::name;
use super::subscription::Replay;
use super::token::Position;
use crate::durable::{ReplayBody, StateRecord, SubscriptionOptions};
use crate::service::{Broker, Turn};
use crate::session::SessionId;

/// A replay of a session, as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReplayState {
    /// As it was subscribed to.
    pub(crate) name: Box<str>,
    pub(crate) options: SubscriptionOptions,
    /// In rising order of partitions.
    pub(crate) positions: Vec<Position>,
}

impl ReplayState {
    pub(crate) fn new(name: &str, body: &ReplayBody) -> Self {
        Self { name: name.into(), options: body.options, positions: body.positions.clone() }
    }

    pub(crate) fn body(&self) -> ReplayBody {
        ReplayBody { options: self.options, positions: self.positions.clone() }
    }

    /// Whether it is the replay of the same filter.
    pub(crate) fn is_same(&self, name: &str) -> bool {
        name::filter_of(&self.name) == name::filter_of(name)
    }
}

impl Broker {
    /// Whether what is said of a session's replays outlives the broker.
    fn keeps_replays(&self, session: SessionId) -> bool {
        self.sessions.get(session).is_some_and(|held| held.recorded && held.is_persistent())
    }

    /// Records the positions of a session's replays, as far as they have changed.
    pub(crate) fn record_replays(&mut self, turn: &Turn<'_>, session: SessionId) {
        if !self.keeps_replays(session) {
            return;
        }
        for id in self.replays.of(session) {
            let Some(replay) = self.replays.get_mut(id) else { continue };
            if !replay.is_placed() || replay.is_replaced {
                continue;
            }
            if replay.take_moved() {
                let body = ReplayBody { options: replay.options, positions: replay.done() };
                let name = replay.name.clone();
                let record = StateRecord::Replay { client_id: "", name: &name, replay: body };
                self.record_of(turn, session, record);
            }
        }
    }

    /// The same for all sessions whose log takes it now: once a second.
    pub(crate) fn record_all_replays(&mut self, turn: &Turn<'_>) {
        self.readings.look_again();
        for session in self.replays.active_sessions() {
            if !self.state_waits(session) {
                self.record_replays(turn, session);
            }
        }
    }

    /// A replay ended. Where the log is that says so, if one does.
    pub(super) fn record_replay_end(
        &mut self,
        turn: &Turn<'_>,
        session: SessionId,
        name: &str,
    ) -> Option<usize> {
        if !self.keeps_replays(session) {
            return None;
        }
        self.record_of(turn, session, StateRecord::ReplayEnd { client_id: "", name })
    }

    /// A session is there again after a start, and so are its replays: they go on when its client
    /// is back.
    pub(crate) fn restore_replays(&mut self, session: SessionId, replays: &[ReplayState]) {
        for ReplayState { name, options, positions } in replays {
            // The node may have been given another configuration, but not fewer partitions.
            let Some(filter) = name::filter_of(name) else { continue };
            let id = self.replays.fresh_id();
            let positions = positions.iter().copied();
            let mut replay = Replay::new(id, session, (name, filter), *options, positions);
            replay.is_granted = true;
            self.replays.insert(replay);
        }
    }
}
