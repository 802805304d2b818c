//! The end of a connection, and what its session makes of it.

use super::{Connection, Phase, write_packet};
use crate::service::{Broker, Timer, Turn};
use crate::session::SessionId;
use crate::websocket;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::net::{Close, Closure};
use ringlane_mqtt::{ReasonCode, encode};

/// Why a connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// DISCONNECT with reason 0x00: the will is dropped [MQTT-3.14.4-3].
    Clean,
    /// DISCONNECT that asks for the will, 0x04, or any other reason.
    WithWill,
    /// Without DISCONNECT: an error, a reset, silence.
    Unclean,
    /// The socket is gone already.
    Lost,
    /// Its output stayed above the hard bound.
    Slow,
    /// The same client identifier connected again [MQTT-3.1.4-3]; the session goes on if `resumed`.
    TakenOver { resumed: bool },
    /// The broker stops, or the partition's log has failed: a will that is in the log comes after the
    /// restart unless the client does; no other is published.
    Shutdown,
}

impl Broker {
    /// The driver reports the end of a socket.
    pub(crate) fn on_closed(&mut self, turn: &mut Turn<'_>, id: ConnectionId, cause: Closure) {
        if self.connections.get(id).is_some() {
            tracing::debug!(core = self.core.0, ?cause, "connection lost");
            self.end_connection(turn, id, End::Lost);
        }
    }

    /// Ends a connection: its state goes now, its socket is closed, its session is told.
    pub(crate) fn end_connection(&mut self, turn: &mut Turn<'_>, id: ConnectionId, end: End) {
        self.close_websocket(turn, id, end);
        let Some(connection) = self.connections.remove(id) else { return };
        if let Some(deadline) = connection.deadline {
            turn.timers.cancel(deadline);
        }
        match end {
            End::Lost => {}
            End::Slow => turn.sockets.close(id, Close::Abort),
            _ => turn.sockets.close(id, Close::Flush),
        }
        let session = match connection.phase {
            Phase::Connected(session) => session,
            Phase::Opening { session, .. } => return self.abandon_opening(turn, session, id),
            Phase::Greeting | Phase::Moving(_) => return,
        };
        self.metrics.connections.sub(1);
        match end {
            End::Clean | End::WithWill => self.metrics.disconnects_clean.add(1),
            End::TakenOver { .. } => self.metrics.takeovers.add(1),
            End::Unclean | End::Lost | End::Slow => self.metrics.disconnects_unclean.add(1),
            End::Shutdown => {}
        }
        self.unlink_session(turn, session, id, end);
    }

    /// A WebSocket ends with a Close frame: 1001 when the broker stops, 1000 otherwise
    /// (RFC 6455 section 7.4.1).
    fn close_websocket(&mut self, turn: &mut Turn<'_>, id: ConnectionId, end: End) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.websocket().is_none_or(|state| state.close_sent) {
            return;
        }
        let code = if end == End::Shutdown { 1001 } else { 1000 };
        if let Some(output) = turn.sockets.output(id) {
            output.bytes.extend_from_slice(&websocket::close_frame(code));
        }
    }

    /// The session loses its connection.
    fn unlink_session(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        connection: ConnectionId,
        end: End,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.link.as_ref().is_none_or(|link| link.connection != connection) {
            return;
        }
        session.link = None;
        self.begin_lag(id);
        let Some(session) = self.sessions.get_mut(id) else { return };
        if end == End::Clean || (end == End::Shutdown && !session.recorded) {
            session.will = None;
        }
        let is_interrupted = end == End::Shutdown && session.will.is_some();
        self.set_presence(turn, id, 0);
        self.return_group_messages(turn, id);
        self.pause_replays(turn, id);
        self.check_backlog_room(turn, id);
        if is_interrupted {
            // The log goes on saying that the client is connected, as after a kill: its will comes after
            // the restart unless the client does (MQTT5 §3.1.2.5: a server that stops may defer it).
            return self.record_position(turn, id);
        }
        if let End::TakenOver { resumed } = end {
            return self.will_at_takeover(turn, id, resumed);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !session.is_persistent() {
            return self.end_session(turn, id);
        }
        self.arm_expiry(turn, id);
        self.record_closed(turn, id);
        self.leave_to_log(id);
        self.arm_will(turn, id);
        // Nobody is there to be paced.
        self.resume_primings(turn, id);
    }

    /// Sends DISCONNECT to an MQTT 5 client; 3.1.1 knows none from a server.
    pub(crate) fn send_disconnect(
        &self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        reason: ReasonCode,
        reference: Option<&str>,
    ) {
        self.send_disconnect_with(turn, id, reason, None, reference);
    }

    /// As [`Broker::send_disconnect`], with a reason string if the client wants to know
    /// [MQTT-3.14.2-3], [MQTT-3.1.2-29].
    pub(crate) fn send_disconnect_with(
        &self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        reason: ReasonCode,
        text: Option<&str>,
        reference: Option<&str>,
    ) {
        let Some(connection) = self.connections.get(id) else { return };
        // No DISCONNECT before CONNACK [MQTT-3.14.0-1].
        let Phase::Connected(session) = connection.phase else { return };
        if !connection.version.is_v5() {
            return;
        }
        let link = self.sessions.get(session).and_then(|session| session.link.as_ref());
        // Without the text the packet is small enough for everybody [MQTT-3.14.2-3].
        let text = text.filter(|text| {
            link.is_some_and(|link| {
                link.problem_information && text.len() + 16 <= link.packet_bytes_max
            })
        });
        let websocket = Connection::is_websocket(connection);
        write_packet(turn.sockets, id, websocket, |out| {
            encode::disconnect(out, connection.version, reason, text, reference, None);
        });
        self.metrics.packets_sent.add(1);
    }

    /// 1.5 keep alive intervals may have passed [MQTT-3.1.2-22].
    pub(crate) fn on_keep_alive(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.deadline = None;
        let mut due = connection.heard_at + connection.silence_max();
        if connection.stalled || turn.sockets.is_paused(id) {
            // It is the broker that does not listen.
            due = turn.now + connection.silence_max();
        }
        if due > turn.now {
            connection.deadline = Some(turn.timers.schedule(due, Timer::KeepAlive(id)));
            return;
        }
        self.metrics.keep_alive_timeouts.add(1);
        self.send_disconnect(turn, id, ReasonCode::KEEP_ALIVE_TIMEOUT, None);
        self.end_connection(turn, id, End::Unclean);
    }
}
