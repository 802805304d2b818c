//! PUBACK, PUBREC, PUBREL and PUBCOMP from a client [MQTT5 §4.3].

use super::Flow;
use crate::connection::write_packet;
use crate::service::{Broker, Turn};
use crate::session::{Pending, SessionId};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{Ack, ReasonCode, encode};
use ringlane_transport_uring::failpoint::hit;

impl Broker {
    /// Ends a QoS 1 exchange. An identifier that is not in flight changes nothing.
    pub(super) fn on_puback(&mut self, session: SessionId, ack: &Ack<'_>, bytes: usize) -> Flow {
        let Some(held) = self.sessions.get_mut(session) else { return Flow::Over };
        if let Some(pending) = held.outbound.on_puback(ack.packet_id) {
            self.end_exchange(session, &pending);
        }
        Flow::Next(bytes)
    }

    pub(super) fn on_pubrec(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        ack: &Ack<'_>,
        bytes: usize,
    ) -> Flow {
        let Some(held) = self.sessions.get_mut(session) else { return Flow::Over };
        if ack.reason.is_error() {
            if let Some(pending) = held.outbound.on_pubrec_error(ack.packet_id) {
                self.record_completed(turn, session, ack.packet_id);
                self.end_exchange(session, &pending);
            }
            return Flow::Next(bytes);
        }
        let reason = if held.outbound.on_pubrec(ack.packet_id) {
            if self.record_received(turn, id, session, ack.packet_id) {
                return Flow::Next(bytes);
            }
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        self.answer(turn, id, |out, version| {
            hit("pubrel.before");
            encode::pubrel(out, version, ack.packet_id, reason, None);
        });
        Flow::Next(bytes)
    }

    /// Releases a QoS 2 identifier: the next PUBLISH under it is a new message [MQTT-4.3.3-12].
    pub(super) fn on_pubrel(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        ack: &Ack<'_>,
        bytes: usize,
    ) -> Flow {
        let Some(held) = self.sessions.get_mut(session) else { return Flow::Over };
        let reason = if held.received_qos2.remove(ack.packet_id) {
            self.record_release(turn, session, ack.packet_id);
            ReasonCode::SUCCESS
        } else {
            ReasonCode::PACKET_IDENTIFIER_NOT_FOUND
        };
        if self.wait_for_release(id, session, ack.packet_id, reason) {
            return Flow::Next(bytes);
        }
        self.answer(turn, id, |out, version| {
            hit("pubcomp.before");
            encode::pubcomp(out, version, ack.packet_id, reason, None);
            hit("pubcomp.after");
        });
        Flow::Next(bytes)
    }

    pub(super) fn on_pubcomp(
        &mut self,
        turn: &Turn<'_>,
        session: SessionId,
        ack: &Ack<'_>,
        bytes: usize,
    ) -> Flow {
        let Some(held) = self.sessions.get_mut(session) else { return Flow::Over };
        if let Some(pending) = held.outbound.on_pubcomp(ack.packet_id) {
            self.record_completed(turn, session, ack.packet_id);
            self.end_exchange(session, &pending);
        }
        Flow::Next(bytes)
    }

    /// A message has left the session: its window is filled at the end of the turn.
    fn end_exchange(&mut self, session: SessionId, pending: &Pending) {
        self.metrics.inflight_messages.sub(1);
        self.note_moved(session);
        self.owe_ticket(session, pending);
        self.pump_at_end(session);
    }

    /// The session's window may have opened: it is filled at the end of the turn.
    pub(crate) fn pump_at_end(&mut self, session: SessionId) {
        if self.pump_ready.last() != Some(&session) {
            self.pump_ready.push(session);
        }
    }

    /// Writes one packet to a client, if it is still there.
    pub(crate) fn answer(
        &self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        encode: impl FnOnce(&mut Vec<u8>, ringlane_mqtt::Version),
    ) {
        let Some(connection) = self.connections.get(id) else { return };
        let version = connection.version;
        write_packet(turn.sockets, id, connection.is_websocket(), |out| encode(out, version));
        self.metrics.packets_sent.add(1);
    }
}
