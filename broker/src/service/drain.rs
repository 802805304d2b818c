//! The orderly end: clients are told, outputs are flushed, then the core stops.

use super::{Broker, Timer, Turn};
use crate::connection::End;
use ringlane_mqtt::ReasonCode;

impl Broker {
    /// Disconnects every client. MQTT 5 clients get 0x8B, or 0x9D and the server reference if the
    /// configuration names one [MQTT5 §3.14.2.1].
    pub(crate) fn begin_drain(&mut self, turn: &mut Turn<'_>) {
        if self.draining {
            return;
        }
        self.draining = true;
        let reference = self.config.mqtt.server_reference.clone();
        let reason = match reference {
            Some(_) => ReasonCode::SERVER_MOVED,
            None => ReasonCode::SERVER_SHUTTING_DOWN,
        };
        for id in self.connections.ids() {
            self.send_disconnect(turn, id, reason, reference.as_deref());
            self.end_connection(turn, id, End::Shutdown);
        }
        self.record_moved(turn);
        turn.timers.schedule(turn.now + self.config.mqtt.drain_timeout, Timer::DrainDeadline);
    }

    /// Stops once the last socket is closed, or the clients have had their time, and everything
    /// that was accepted is on the disk; and behind a checkpoint, if there is time for one.
    pub(super) fn check_drained(&mut self, turn: &mut Turn<'_>) {
        let left = turn.sockets.open_count() == 0 && !self.post.has_work();
        if self.draining && (left || self.clients_have_left) && self.logs_are_quiet() {
            self.stopping = self.end_with_checkpoints(turn);
        }
    }
}
