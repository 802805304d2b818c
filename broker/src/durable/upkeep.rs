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
/// Bytes of one position, beside the client identifier.
const POSITION_BYTES: usize = 10;

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
            durable.partitions[index].moved.push_back(id);
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
        self.close_idle_readers(turn);
        let room = self.upkeep_bytes_now(turn.now);
        self.record_all_positions(turn, room);
        for index in 0..self.durable.as_ref().map_or(0, |durable| durable.partitions.len()) {
            self.tell_needs(turn, index);
        }
        self.sweep_groups(turn);
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

    /// Records all positions that have changed and that the logs have room for, before an orderly end.
    pub(crate) fn record_moved(&mut self, turn: &mut Turn<'_>) {
        let room = self.upkeep_bytes().into_iter().enumerate();
        // What waits for a log that is only busy is not lost.
        let room = room.map(|(index, room)| room.or((!self.is_full(index)).then_some(usize::MAX)));
        let room = room.collect();
        self.record_all_positions(turn, room);
    }

    /// Records what has moved on of sessions and groups, and what was matched, as far as the logs of
    /// the partitions have room for it.
    fn record_all_positions(&mut self, turn: &mut Turn<'_>, mut room: Vec<Option<usize>>) {
        self.record_groups(turn, &mut room);
        for (index, room) in room.into_iter().enumerate() {
            if let Some(bytes_max) = room {
                self.record_positions(turn, index, bytes_max);
                self.append_matched(turn, index);
            }
        }
    }

    /// Records positions that have changed, of about so many bytes.
    fn record_positions(&mut self, turn: &Turn<'_>, index: usize, bytes_max: usize) {
        let Self { durable: Some(durable), sessions, .. } = self else { return };
        let own = &mut durable.partitions[index];
        let (mut positions, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max
            && let Some(id) = own.moved.pop_front()
        {
            let Some(session) = sessions.get_mut(id) else { continue };
            session.moved = false;
            let Some(position) = session.position(&own.state) else { continue };
            let client_id = session.client_id.as_str();
            if own.state.position(client_id).is_some_and(|known| known != position) {
                bytes += client_id.len() + POSITION_BYTES;
                positions.push((client_id.to_owned(), position));
            }
        }
        let mut rest = &positions[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(client_id, _): &&(String, u64)| {
                let before = bytes;
                bytes += client_id.len() + POSITION_BYTES;
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
