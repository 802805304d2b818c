//! One file per packet that a client sends.

mod ack_run;
mod acks;
mod connect;
mod disconnect;
mod inbound;
mod publish;
mod subscribe;
mod unsubscribe;
mod volatile;

pub(crate) use volatile::Origin;

pub(crate) use publish::{Accepted, Source, checked_topic};

use crate::connection::write_packet;
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{Packet, ReasonCode, encode};

/// What the receive loop does after a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// These bytes are done with: go on.
    Next(usize),
    /// These bytes are done with: go on when the connection is read from again.
    NextThenStall(usize),
    /// The packet waits; the connection is not read from.
    Stall,
    /// No whole packet is there.
    More,
    /// The connection has ended.
    Over,
}

impl Broker {
    /// Hands a packet of a connected client to its handler.
    pub(crate) fn on_packet(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        packet: Packet<'_>,
        bytes: usize,
    ) -> Flow {
        let recorded = matches!(
            packet,
            Packet::Pubrec(_) | Packet::Pubrel(_) | Packet::Pubcomp(_) | Packet::Unsubscribe(_)
        );
        if recorded && self.state_waits(session) {
            self.stall_for_retry(turn, id);
            return Flow::Stall;
        }
        match packet {
            Packet::Publish(publish) => self.on_publish(turn, id, session, &publish, bytes),
            Packet::Puback(ack) => self.on_puback(session, &ack, bytes),
            Packet::Pubrec(ack) => self.on_pubrec(turn, id, session, &ack, bytes),
            Packet::Pubrel(ack) => self.on_pubrel(turn, id, session, &ack, bytes),
            Packet::Pubcomp(ack) => self.on_pubcomp(turn, session, &ack, bytes),
            Packet::Subscribe(subscribe) => self.on_subscribe(turn, id, session, &subscribe, bytes),
            Packet::Unsubscribe(unsubscribe) => {
                self.on_unsubscribe(turn, id, session, &unsubscribe, bytes)
            }
            Packet::Pingreq => self.on_pingreq(turn, id, session, bytes),
            Packet::Disconnect(disconnect) => self.on_disconnect(turn, id, session, &disconnect),
            Packet::Auth(_) => self.fail_with(
                turn,
                id,
                ReasonCode::PROTOCOL_ERROR,
                "AUTH, but CONNECT named no authentication method",
                "MQTT-4.12.0-7",
            ),
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp => self.fail_with(
                turn,
                id,
                ReasonCode::PROTOCOL_ERROR,
                "a packet that clients do not send here",
                "MQTT-4.13.1-1",
            ),
        }
    }

    /// A client that sends PINGREQ has had nothing to say for a while: it keeps what an idle one
    /// needs.
    fn on_pingreq(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        bytes: usize,
    ) -> Flow {
        if let Some(held) = self.sessions.get_mut(session) {
            held.release_idle();
        }
        let Some(connection) = self.connections.get_mut(id) else { return Flow::Over };
        connection.release_idle();
        let websocket = connection.is_websocket();
        write_packet(turn.sockets, id, websocket, encode::pingresp);
        self.metrics.packets_sent.add(1);
        Flow::Next(bytes)
    }
}
