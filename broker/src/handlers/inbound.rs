//! Acknowledgements owed to publishers: kept in the order of their PUBLISH packets, sent once a
//! turn [MQTT-4.6.0-2], [MQTT-4.6.0-3].

use crate::connection::{OwedAck, Phase, write_packet};
use crate::service::{AckToken, Broker, Turn};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{ReasonCode, Version, encode};
use ringlane_transport_uring::failpoint::hit;

/// Room for acknowledgements that a connection keeps between bursts: the default Receive Maximum.
const ACKS_KEPT: usize = 1024;

impl Broker {
    /// Owes an acknowledgement. `ready` holds its reason if nothing has to happen first.
    pub(crate) fn owe_ack(
        &mut self,
        id: ConnectionId,
        packet_id: u16,
        qos2: bool,
        ready: Option<ReasonCode>,
    ) -> Option<AckToken> {
        let connection = self.connections.get_mut(id)?;
        let acks = &mut *connection.acks;
        let seq = acks.base + acks.queue.len() as u64;
        let reason = ready.unwrap_or(ReasonCode::SUCCESS);
        acks.queue.push_back(OwedAck { packet_id, qos2, ready: ready.is_some(), reason });
        acks.qos1 += u32::from(!qos2);
        if ready.is_some() && !connection.ack_ready {
            connection.ack_ready = true;
            self.ack_ready.push(id);
        }
        Some(AckToken { connection: id, seq })
    }

    /// What an acknowledgement waited for has happened.
    pub(crate) fn acknowledge(&mut self, token: Option<AckToken>, reason: ReasonCode) {
        let Some(token) = token else { return };
        let Some(connection) = self.connections.get_mut(token.connection) else { return };
        let acks = &mut *connection.acks;
        let Some(index) = token.seq.checked_sub(acks.base) else { return };
        let Some(ack) = acks.queue.get_mut(index as usize) else { return };
        ack.ready = true;
        ack.reason = reason;
        if !connection.ack_ready {
            connection.ack_ready = true;
            self.ack_ready.push(token.connection);
        }
    }

    /// End of turn: sends what is ready, up to the first that is not.
    pub(crate) fn flush_acks(&mut self, turn: &mut Turn<'_>) {
        let mut ready = core::mem::take(&mut self.ack_ready);
        for id in ready.drain(..) {
            self.flush_connection_acks(turn, id);
        }
        self.ack_ready = ready;
    }

    fn flush_connection_acks(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.ack_ready = false;
        let (version, websocket) = (connection.version, connection.is_websocket());
        let id_of = match connection.phase {
            Phase::Connected(session) => Some(session),
            Phase::Greeting | Phase::Moving(_) | Phase::Opening { .. } => None,
        };
        let session = id_of.and_then(|session| self.sessions.get_mut(session));
        let mut released = session.map(|session| &mut session.received_qos2);
        let mut refused = Vec::new();
        let acks = &mut *connection.acks;
        if acks.queue.front().is_some_and(|ack| ack.ready) {
            write_packet(turn.sockets, id, websocket, |out| {
                while let Some(ack) = acks.queue.pop_front_if(|ack| ack.ready) {
                    acks.base += 1;
                    acks.qos1 -= u32::from(!ack.qos2);
                    self.metrics.packets_sent.add(1);
                    if ack.qos2 && ack.reason.is_error() && version.is_v5() {
                        // The exchange is over: its identifier may be used again at once
                        // [MQTT-4.3.3-9].
                        if released.as_mut().is_some_and(|ids| ids.remove(ack.packet_id)) {
                            refused.push(ack.packet_id);
                        }
                    }
                    encode_ack(out, version, &ack);
                }
            });
            if acks.queue.is_empty() && acks.queue.capacity() > ACKS_KEPT {
                acks.queue.shrink_to(0);
            }
        }
        if let Some(session) = id_of {
            for packet_id in refused {
                self.record_release(turn, session, packet_id);
            }
        }
        self.check_output(turn, id);
    }
}

fn encode_ack(out: &mut Vec<u8>, version: Version, ack: &OwedAck) {
    if ack.qos2 {
        hit("pubrec.before");
        encode::pubrec(out, version, ack.packet_id, ack.reason, None);
        hit("pubrec.after");
    } else {
        hit("puback.before");
        encode::puback(out, version, ack.packet_id, ack.reason, None);
    }
}
