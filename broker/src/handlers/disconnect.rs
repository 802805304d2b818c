//! DISCONNECT from a client [MQTT5 §3.14].

use super::Flow;
use crate::connection::End;
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{Disconnect, ReasonCode};

impl Broker {
    pub(super) fn on_disconnect(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        disconnect: &Disconnect<'_>,
    ) -> Flow {
        let cap = self.session_expiry_cap();
        let Some(held) = self.sessions.get_mut(session) else { return Flow::Over };
        if let Some(secs) = disconnect.session_expiry_secs {
            if held.expiry_secs == 0 && secs > 0 {
                return self.fail_with(
                    turn,
                    id,
                    ReasonCode::PROTOCOL_ERROR,
                    "DISCONNECT sets a session expiry interval that CONNECT did not have",
                    "MQTT5 §3.14.2.2.2",
                );
            }
            held.expiry_secs = secs.min(cap);
        }
        self.settle_before_end(turn, id);
        let clean = disconnect.reason == ReasonCode::NORMAL_DISCONNECTION;
        self.end_connection(turn, id, if clean { End::Clean } else { End::WithWill });
        Flow::Over
    }

    /// What the client published before its DISCONNECT in the same turn is committed and
    /// acknowledged first [MQTT-4.3.2-4], [MQTT-4.3.3-8].
    fn settle_before_end(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        if self.connections.get(id).is_some_and(|connection| !connection.acks.queue.is_empty()) {
            self.commit_all(turn);
            self.flush_acks(turn);
        }
    }

    /// The longest session expiry interval that is granted, in seconds.
    pub(crate) fn session_expiry_cap(&self) -> u32 {
        match self.config.session.max_expiry.as_secs() {
            0 => u32::MAX,
            secs => u32::try_from(secs).unwrap_or(u32::MAX),
        }
    }
}
