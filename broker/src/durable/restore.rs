//! The first turn of a core: its sessions are there again, as they were before the start.
//!
//! They and their subscriptions come out of its [`standby`](super::standby); here is what only a few of them have, what
//! groups have, and what is retained. The rest is [`settled`](super::settle) over the turns that follow.

use super::model::RetainedState;
use super::records::{Beside, StateRecord};
use super::session::{SentState, SessionState};
use super::start::CoreState;
use crate::groups::{Errand, is_group};
use crate::service::{Broker, Turn};
use crate::session::{NOT_POSTED, Pending, SessionId, SubscriptionIds};
use ringlane_dataplane::batch::Level;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::stored::Clocks;
use ringlane_dataplane::message::MessageHead;
use ringlane_dataplane::routing::RecordId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;

impl Broker {
    /// Takes over what the logs say, before anything else happens on this core.
    pub(crate) fn restore(&mut self, turn: &mut Turn<'_>, core: CoreState) {
        let restored: u64 = (core.partitions.iter()).map(|s| s.session_count() as u64).sum();
        self.begin_settling();
        for (index, mut state) in core.partitions.into_iter().enumerate() {
            // Nothing was appended in this run: its epoch begins where the log ends.
            state.note_epoch(core.epoch, self.partitions[index].next_offset().0);
            let retained = core::mem::take(&mut state.retained);
            let again = core::mem::take(&mut state.retained_again);
            let mut ended = Vec::new();
            for (slot, session) in state.sessions() {
                if is_group(&session.client_id) {
                    let groups = &core.groups;
                    ended.extend(self.restore_group(turn, index, (slot, session), &state, groups));
                } else if session.is_busy() {
                    self.restore_busy(turn, session);
                }
            }
            if let Some(durable) = &mut self.durable {
                durable.partitions[index].state = state;
            }
            self.end_restored_groups(turn, index, ended);
            for (topic, body) in &again {
                let retained = body.body();
                self.record(turn, index, &StateRecord::Retained { topic, retained });
            }
            for (topic, retained) in retained {
                self.restore_retained(turn, &topic, &retained);
            }
        }
        self.metrics.sessions.set(self.sessions.len() as u64);
        if restored > 0 {
            tracing::info!(core = self.core.0, sessions = restored, "sessions restored");
        }
    }

    /// What few sessions have: replays, and messages with QoS 2 on their way.
    fn restore_busy(&mut self, turn: &mut Turn<'_>, session: &SessionState) {
        let hash = self.placement.client_hash(&session.client_id);
        let Some(id) = self.sessions.find(&session.client_id, hash) else { return };
        self.restore_replays(id, &session.replays);
        let Some(held) = self.sessions.get_mut(id) else { return };
        for packet_id in session.incoming() {
            held.received_qos2.insert(packet_id);
        }
        self.restore_exchanges(id, session);
        self.tell_held(turn, id, &session.held());
    }

    /// QoS 2 goes on where it was; what has to be sent again is read from the log then.
    fn restore_exchanges(&mut self, id: SessionId, session: &SessionState) {
        let (Some(durable), Some(held)) = (&self.durable, self.sessions.get_mut(id)) else {
            return;
        };
        for state in session.sent() {
            let SentState { packet_id, sent, beside, .. } = state;
            let replay = beside.as_ref().filter(|(what, _)| *what == Beside::Replay);
            let replay = replay.and_then(|(_, f)| self.replays.restore_exchange(id, f, sent.place));
            let pending = Pending {
                message: durable.catch_ups.nothing(),
                qos: QoS::ExactlyOnce,
                retain: sent.retain,
                ids: SubscriptionIds::from_slice(&sent.subscription_ids),
                ticket: replay.map(|ticket| Box::new(Errand::Replay(ticket))),
                posting: state.posting().unwrap_or(NOT_POSTED),
            };
            held.outbound.restore(*packet_id, pending, state.place());
            held.outbound.set_frontier(session.position);
            self.metrics.inflight_messages.add(1);
        }
    }

    /// This moment by the core's clock and by the time of day.
    pub(crate) fn clocks(&self, now: Nanos) -> Clocks {
        Clocks { now, unix_ms: self.unix_ms(now) }
    }

    fn restore_retained(&mut self, turn: &mut Turn<'_>, topic: &str, retained: &RetainedState) {
        let head = MessageHead {
            publisher: retained.publisher,
            qos: retained.qos,
            retain: true,
            ..self.clocks(turn.now).head(retained.accepted_ms, retained.expiry_secs)
        };
        let message = self.maker.make(head, topic, &retained.properties, &retained.payload);
        let (partition, offset) =
            (PartitionId(retained.place.partition), Offset(retained.place.offset));
        let level = if retained.memory { Level::Memory } else { Level::LocalDisk };
        self.keep_retained(turn, &message, RecordId { partition, offset, level });
    }
}
