//! What outlives the broker of a replay: its subscription, and how far the client is done with it.

use super::name;
use super::subscription::Replay;
use super::token::Position;
use crate::durable::{ReplayBody, StateRecord, SubscriptionOptions};
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use std::collections::BTreeSet;

/// A replay of a session, as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ReplayState {
    /// As it was subscribed to.
    pub(crate) name: Box<str>,
    pub(crate) options: SubscriptionOptions,
    /// In rising order of partitions.
    pub(crate) positions: Vec<Position>,
    /// Messages at or above the positions that were completed with QoS 2, by partition and offset:
    /// they are not sent again.
    delivered: BTreeSet<(u32, u64)>,
}

impl ReplayState {
    pub(crate) fn new(name: &str, body: &ReplayBody) -> Self {
        let (options, positions) = (body.options, body.positions.clone());
        Self { name: name.into(), options, positions, delivered: BTreeSet::new() }
    }

    /// The filter part of a replay's name, which says which one of its session it is.
    pub(crate) fn filter_of(name: &str) -> &str {
        name::filter_of(name).unwrap_or_default()
    }

    pub(crate) fn filter(&self) -> &str {
        Self::filter_of(&self.name)
    }

    /// It has come as far as `later` says.
    pub(crate) fn go_on(&mut self, later: Self) {
        let delivered = core::mem::take(&mut self.delivered);
        *self = later;
        for (partition, offset) in delivered {
            self.add_delivered(partition, offset);
        }
    }

    /// A message was completed with QoS 2.
    pub(crate) fn add_delivered(&mut self, partition: u32, offset: u64) {
        let found = self.positions.binary_search_by_key(&partition, |at| at.partition);
        if found.is_ok_and(|index| self.positions[index].next <= offset) {
            self.delivered.insert((partition, offset));
        }
    }

    /// Messages at or above the positions that were completed with QoS 2.
    pub(crate) fn delivered(&self) -> Vec<(u32, u64)> {
        self.delivered.iter().copied().collect()
    }

    pub(crate) fn body(&self) -> ReplayBody {
        ReplayBody { options: self.options, positions: self.positions.clone() }
    }

    /// Whether it is the replay of the same filter.
    pub(crate) fn is_same(&self, name: &str) -> bool {
        self.filter() == Self::filter_of(name)
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
                let is_known = core::mem::replace(&mut replay.is_recorded, true);
                let (client_id, name, replay) = ("", &*name, body);
                let record = match is_known {
                    true => StateRecord::Replay { client_id, name, replay },
                    false => StateRecord::ReplayBegin { client_id, name, replay },
                };
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
        for state in replays {
            let ReplayState { name, options, positions, .. } = state;
            // The node may have been given another configuration, but not fewer partitions.
            let Some(filter) = name::filter_of(name) else { continue };
            let id = self.replays.fresh_id();
            let positions = positions.iter().copied();
            let mut replay = Replay::new(id, session, (name, filter), *options, positions);
            (replay.is_granted, replay.is_recorded) = (true, true);
            for (partition, offset) in state.delivered() {
                replay.set_exact(partition, offset, true);
            }
            self.replays.insert(replay);
        }
    }
}
