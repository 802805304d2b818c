//! What is done about the durable state once a second: positions and cursors go to the log, other
//! cores are told how far this one is and what it needs, postings that nobody is owed are dropped,
//! logs are trimmed, and checkpoints are begun.

use super::model::PartitionState;
use super::records::StateRecord;
use crate::mail::Mail;
use crate::service::{Broker, Timer, Turn};
use crate::session::{Session, SessionId};
use ringlane_dataplane::ids::CoreId;
use std::time::Duration;

/// How old a position or a cursor in the log may be.
const EVERY: Duration = Duration::from_secs(1);
/// Bytes of one record of positions, about.
const POSITIONS_BYTES: usize = 48 * 1024;

impl Session {
    /// The first posting that was neither acknowledged nor recorded as an exchange.
    fn owed_from(&self) -> Option<u64> {
        let primings = self.primings.iter().filter_map(|priming| priming.owed_from());
        primings.chain(self.outbound.owed_from()).min()
    }

    /// The position that is to be recorded; `None` if the recorded one is all that is known of it.
    pub(crate) fn position(&self, state: &PartitionState) -> Option<u64> {
        let in_step = self.link.is_some().then(|| state.next_posting());
        self.owed_from().or(in_step)
    }
}

impl Broker {
    /// A session acknowledged something.
    pub(crate) fn note_moved(&mut self, id: SessionId) {
        let Some(index) = self.recorded_index(id) else { return };
        let (Some(durable), Some(session)) = (&mut self.durable, self.sessions.get_mut(id)) else {
            return;
        };
        if !session.moved {
            session.moved = true;
            durable.partitions[index].moved.push(id);
        }
    }

    /// Begins to look after the durable state, in the first turn.
    pub(crate) fn arm_durable(&mut self, turn: &mut Turn<'_>) {
        if let Some(durable) = self.durable.as_mut().filter(|durable| !durable.upkeep_armed) {
            durable.upkeep_armed = true;
            turn.timers.schedule(turn.now + EVERY, Timer::Durable);
        }
    }

    pub(crate) fn on_durable_timer(&mut self, turn: &mut Turn<'_>) {
        if let Some(durable) = &mut self.durable {
            durable.upkeep_armed = false;
        }
        self.arm_durable(turn);
        self.advance_own_cursors();
        self.mail_log_marks(turn);
        self.record_all_replays(turn);
        self.record_groups(turn);
        self.close_idle_readers(turn);
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        for index in 0..partitions {
            // On a full disk all of this is later: a crash makes more be sent again.
            if self.takes_state(index) {
                self.record_positions(turn, index);
                self.append_matched(turn, index);
            }
            self.tell_needs(turn, index);
        }
        self.begin_walks(turn);
        self.trim_logs(turn);
        self.look_for_checkpoints(turn);
    }

    /// Tells the other cores how far this one is, if that has changed.
    fn mail_log_marks(&mut self, turn: &mut Turn<'_>) {
        let own = self.core;
        for to in (0..self.cores()).map(CoreId).filter(|to| *to != own) {
            let marks = self.log_marks(to);
            let Some(durable) = &mut self.durable else { return };
            let told = &mut durable.told[to.index()];
            if *told != marks {
                told.clone_from(&marks);
                self.send_mail(turn, to, Mail::LogMarks { marks });
            }
        }
    }

    /// Records the position of one session, if it has changed.
    pub(crate) fn record_position(&mut self, turn: &Turn<'_>, id: SessionId) {
        let Some(index) = self.recorded_index(id).filter(|index| self.takes_state(*index)) else {
            return;
        };
        let (Some(durable), Some(session)) = (&self.durable, self.sessions.get(id)) else { return };
        let state = &durable.partitions[index].state;
        let client_id = session.client_id.as_str();
        let Some(position) = session.position(state) else { return };
        if session.moved && state.position(client_id) != Some(position) {
            let client_id = client_id.to_owned();
            let positions = vec![(client_id.as_str(), position)];
            self.record(turn, index, &StateRecord::Positions { positions });
        }
    }

    /// Records all positions that have changed, before an orderly end.
    pub(crate) fn record_moved(&mut self, turn: &mut Turn<'_>) {
        self.record_groups(turn);
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        (0..partitions).for_each(|index| self.record_positions(turn, index));
    }

    fn record_positions(&mut self, turn: &Turn<'_>, index: usize) {
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let own = &mut durable.partitions[index];
        let mut positions = Vec::new();
        for id in own.moved.drain(..) {
            let Some(session) = sessions.get_mut(id) else { continue };
            session.moved = false;
            let Some(position) = session.position(&own.state) else { continue };
            let client_id = session.client_id.as_str();
            if own.state.position(client_id).is_some_and(|known| known != position) {
                positions.push((client_id.to_owned(), position));
            }
        }
        let mut rest = &positions[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(client_id, _): &&(String, u64)| {
                let before = bytes;
                bytes += client_id.len() + 10;
                before < POSITIONS_BYTES
            };
            let count = rest.iter().take_while(fits).count();
            let (now, later) = rest.split_at(count);
            let positions = now.iter().map(|(client, position)| (client.as_str(), *position));
            let positions = positions.collect();
            self.record(turn, index, &StateRecord::Positions { positions });
            rest = later;
        }
    }
}
