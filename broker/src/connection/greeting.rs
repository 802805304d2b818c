//! From the first byte to a complete CONNECT.

use super::{Connection, End, Phase, Stream, write_packet};
use crate::handlers::Flow;
use crate::proxy_protocol::{self, Proxied};
use crate::service::{Broker, ListenerKind, Timer, Turn};
use crate::websocket::{self, Upgrade};
use ringlane_dataplane::ids::{ConnectionId, ListenerId, PartitionId};
use ringlane_dataplane::net::Close;
use ringlane_mqtt::encode;
use ringlane_mqtt::{
    ConnackProperties, Connect, Frame, ReasonCode, Version, decode_connect, frame,
};

/// The fixed header byte of CONNECT [MQTT-2.1.3-1].
const CONNECT_HEADER: u8 = 0x10;

impl Broker {
    pub(crate) fn on_accepted(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        listener: ListenerId,
    ) {
        self.metrics.sockets_opened.add(1);
        if self.draining {
            turn.sockets.close(id, Close::Abort);
            return;
        }
        let kind = self.listeners.get(usize::from(listener.0)).copied();
        let kind = kind.unwrap_or(ListenerKind::Tcp);
        let is_proxied = self.config.listeners.is_passed(listener)
            || match kind {
                ListenerKind::Tcp => self.config.listeners.tcp.proxy_protocol,
                ListenerKind::WebSocket => self.config.listeners.websocket.proxy_protocol,
            };
        let stream = if is_proxied { Stream::Proxied(kind) } else { Stream::begin(kind) };
        let mut connection = Connection::new(stream, turn.now);
        let deadline = turn.now + self.config.mqtt.connect_timeout;
        connection.deadline = Some(turn.timers.schedule(deadline, Timer::ConnectDeadline(id)));
        self.connections.insert(id, connection);
    }

    /// CONNECT did not come in time, counted from the accept, not from the last byte; or the log
    /// did not take it in time.
    pub(crate) fn on_connect_deadline(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.deadline = None;
        match connection.phase {
            Phase::Greeting => {
                self.metrics.connect_timeouts.add(1);
                self.connections.remove(id);
                turn.sockets.close(id, Close::Abort);
            }
            Phase::Opening { .. } => {
                let version = connection.version;
                self.metrics.connect_timeouts.add(1);
                self.refuse(turn, id, version, ReasonCode::SERVER_UNAVAILABLE);
            }
            Phase::Moving(_) | Phase::Connected(_) => {}
        }
    }

    /// Takes bytes of the header that a load balancer puts in front of the client's.
    pub(super) fn take_proxied(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        kind: ListenerKind,
        bytes: &[u8],
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.inbox.extend_from_slice(bytes);
        match proxy_protocol::read(&connection.inbox) {
            Proxied::Incomplete => {}
            Proxied::Whole { consumed, client } => {
                if let Some(client) = client {
                    turn.sockets.set_peer(id, client);
                }
                self.go_on_behind(turn, id, consumed, Stream::begin(kind));
            }
            Proxied::Wrong => self.refuse_unproxied(turn, id),
        }
    }

    fn refuse_unproxied(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        self.metrics.malformed_packets.add(1);
        if let Some(suppressed) = self.bad_packet_logs.take(turn.now) {
            let peer = turn.sockets.peer(id).map(tracing::field::display);
            tracing::info!(
                core = self.core.0,
                peer,
                suppressed,
                "disconnected: no header of the PROXY protocol came first; the load balancer has to \
                 send one (version 1 or 2), or proxy_protocol of this listener has to be false"
            );
        }
        self.end_connection(turn, id, End::Unclean);
    }

    /// Takes bytes of the WebSocket handshake.
    pub(super) fn take_upgrade(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.inbox.extend_from_slice(bytes);
        let settings = &self.config.listeners.websocket;
        match websocket::upgrade(&connection.inbox, &settings.path, &settings.allowed_origins) {
            Upgrade::Incomplete => {}
            Upgrade::Refused { response } => {
                if let Some(output) = turn.sockets.output(id) {
                    output.bytes.extend_from_slice(&response);
                }
                self.end_connection(turn, id, End::Unclean);
            }
            Upgrade::Accepted { consumed, response } => {
                if let Some(output) = turn.sockets.output(id) {
                    output.bytes.extend_from_slice(&response);
                }
                self.go_on_behind(turn, id, consumed, Stream::WebSocket(Box::default()));
            }
        }
    }

    /// What came before the client's own bytes is done with: the rest of the inbox is taken as those
    /// of `stream`.
    fn go_on_behind(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        consumed: usize,
        stream: Stream,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let rest = connection.inbox.split_off(consumed);
        connection.inbox = Vec::new();
        connection.stream = stream;
        if !rest.is_empty() {
            self.on_received(turn, id, &rest);
        }
    }

    /// Takes the CONNECT: refuses it, moves the connection, or accepts it here.
    pub(super) fn greet(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) -> Flow {
        // Anything but CONNECT ends the connection without an answer [MQTT-3.1.0-1].
        if bytes[0] != CONNECT_HEADER {
            self.metrics.malformed_packets.add(1);
            self.end_connection(turn, id, End::Unclean);
            return Flow::Over;
        }
        let raw = match frame(bytes, self.sizes.connect_bytes_max) {
            Ok(Frame::Complete(raw)) => raw,
            Ok(Frame::Incomplete { .. }) => return Flow::More,
            Err(error) => return self.fail(turn, id, error),
        };
        let phase = self.connections.get(id).map(|connection| connection.phase);
        let flow = match decode_connect(raw) {
            Ok(connect) => self.place(turn, id, &connect, raw.total_bytes),
            Err(error) if error.reason == ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => {
                // The 3.1.1 form: the one that every client understands [MQTT-3.1.2-2].
                self.refuse(turn, id, Version::V311, error.reason)
            }
            Err(error) if error.reason == ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => {
                // Only 3.1 and 3.1.1 refuse an identifier at this point [MQTT-3.1.3-8].
                self.refuse(turn, id, Version::V311, error.reason)
            }
            Err(error) => self.fail(turn, id, error),
        };
        // One that is to be tried again is counted then.
        let again = flow == Flow::Stall
            && self.connections.get(id).is_some_and(|c| c.phase == Phase::Greeting);
        let counts = phase == Some(Phase::Greeting) && !again;
        self.metrics.packets_received.add(u64::from(counts));
        flow
    }

    /// Decides which core the client belongs to. A client without identifier stays here, unless
    /// this core owns no partition.
    fn place(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        connect: &Connect<'_>,
        bytes: usize,
    ) -> Flow {
        let owner = match connect.client_id {
            "" if self.partitions.is_empty() => self.placement.owner(PartitionId(0)),
            "" => self.core,
            client_id => self.placement.client_owner(client_id),
        };
        if owner != self.core {
            return self.begin_move(turn, id, owner);
        }
        self.on_connect(turn, id, connect, bytes)
    }

    /// Answers CONNECT with a refusal and closes [MQTT-3.1.4-2], [MQTT-3.2.2-7].
    pub(crate) fn refuse(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        version: Version,
        reason: ReasonCode,
    ) -> Flow {
        self.metrics.connects_refused.add(1);
        let websocket = self.connections.get(id).is_some_and(Connection::is_websocket);
        write_packet(turn.sockets, id, websocket, |out| {
            encode::connack(out, version, false, reason, &ConnackProperties::default());
        });
        self.end_connection(turn, id, End::Unclean);
        Flow::Over
    }
}
