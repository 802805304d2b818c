//! UNSUBSCRIBE from a client [MQTT5 §3.10].

use super::Flow;
use crate::connection::write_packet;
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{ReasonCode, Unsubscribe, encode};

impl Broker {
    /// Nothing new is added for a filter from here on; what is in flight is completed
    /// [MQTT-3.10.4-2], [MQTT-3.10.4-3].
    pub(super) fn on_unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        unsubscribe: &Unsubscribe<'_>,
        bytes: usize,
    ) -> Flow {
        if !self.allows_user_properties(unsubscribe.user_properties) {
            let what = "more user properties than this broker takes";
            return self.fail_with(turn, id, ReasonCode::QUOTA_EXCEEDED, what, "MQTT5 §4.13");
        }
        // What was published before this packet still matches.
        self.commit_all(turn);
        let mut reasons = Vec::new();
        for filter in unsubscribe.filters.iter() {
            self.stop_priming(turn, session, filter);
            let removed = self.remove_subscription(turn, session, filter);
            reasons.push(if removed {
                ReasonCode::SUCCESS
            } else {
                ReasonCode::NO_SUBSCRIPTION_EXISTED
            });
        }
        let Some(connection) = self.connections.get(id) else { return Flow::Over };
        let version = connection.version;
        write_packet(turn.sockets, id, connection.is_websocket(), |out| {
            encode::unsuback(out, version, unsubscribe.packet_id, &reasons, None);
        });
        self.metrics.packets_sent.add(1);
        Flow::Next(bytes)
    }
}
