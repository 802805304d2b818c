//! The orderly end: clients are told, outputs are flushed, then the core stops.

use super::{Broker, Timer, Turn};
use crate::connection::End;
use ringlane_mqtt::ReasonCode;
use std::time::Duration;

/// How long the clients of a node have that leads no more: it is of use to nobody before it follows, and those that it does
/// not reach would take all of `mqtt.drain_timeout`.
const DEPOSED_MAX: Duration = Duration::from_secs(1);

impl Broker {
    /// Disconnects every client. MQTT 5 clients get 0x8B, or 0x9D and the server reference if the
    /// configuration names one [MQTT5 §3.14.2.1].
    pub(crate) fn begin_drain(&mut self, turn: &mut Turn<'_>) {
        self.drain_within(turn, None, self.config.mqtt.drain_timeout);
    }

    /// The same, of a node that leads no more; the server reference is `moved_to`, if something is known.
    pub(crate) fn drain_deposed(&mut self, turn: &mut Turn<'_>, moved_to: Option<String>) {
        self.drain_within(turn, moved_to, self.config.mqtt.drain_timeout.min(DEPOSED_MAX));
    }

    fn drain_within(&mut self, turn: &mut Turn<'_>, moved_to: Option<String>, within: Duration) {
        if self.draining {
            return;
        }
        self.draining = true;
        let reference = moved_to.or_else(|| self.config.mqtt.server_reference.clone());
        let reason = match reference {
            Some(_) => ReasonCode::SERVER_MOVED,
            None => ReasonCode::SERVER_SHUTTING_DOWN,
        };
        for id in self.connections.ids() {
            self.send_disconnect(turn, id, reason, reference.as_deref());
            self.end_connection(turn, id, End::Shutdown);
        }
        self.record_moved(turn);
        turn.timers.schedule(turn.now + within, Timer::DrainDeadline);
    }

    /// Stops once the last socket is closed, or the clients have had their time, and everything
    /// that was accepted is on the disk; and behind a checkpoint, if there is time for one.
    pub(super) fn check_drained(&mut self, turn: &mut Turn<'_>) {
        let left = turn.sockets.open_count() == 0 && !self.post.has_work();
        if self.draining && (left || self.clients_have_left) && self.logs_are_quiet() {
            // In a cluster nothing may come to be committed any more that a checkpoint has to wait for.
            let needs_none = self.replicas.is_some();
            self.stopping = self.may_stop() && (needs_none || self.end_with_checkpoints(turn));
        }
    }
}
