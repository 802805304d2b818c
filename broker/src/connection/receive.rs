//! Bytes in, packets out.

use super::{End, Phase, Stream};
use crate::handlers::{Flow, Origin};
use crate::service::{Broker, Turn};
use crate::session::SessionId;
use crate::websocket::WebSocketError;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_mqtt::{
    DecodeError, Frame, PACKET_BYTES_MAX, RawPacket, ReasonCode, decode_from_client, frame,
};

impl Broker {
    /// Takes bytes from a socket; what makes no whole packet is kept.
    pub(crate) fn on_received(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.heard_at = turn.now;
        match &mut connection.stream {
            Stream::Plain => self.take_mqtt(turn, id, bytes),
            Stream::Proxied(kind) => {
                let kind = *kind;
                self.take_proxied(turn, id, kind, bytes);
            }
            Stream::Upgrade => self.take_upgrade(turn, id, bytes),
            Stream::WebSocket(_) => self.take_frames(turn, id, bytes),
        }
        self.check_output(turn, id);
    }

    /// Takes bytes of MQTT: straight from the receive buffer where nothing waits before them.
    fn take_mqtt(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(rest) = self.complete_inbox(turn, id, bytes) else { return };
        let used = self.consume(turn, id, rest);
        if used < rest.len() {
            self.keep(id, &rest[used..]);
        }
    }

    /// Keeps bytes that cannot be handled yet.
    fn keep(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.inbox.capacity() == 0 {
            connection.inbox = self.scratch.inboxes.take();
        }
        connection.inbox.extend_from_slice(bytes);
    }

    /// Completes the packet that waits in the inbox, if one does, with no more bytes than it needs.
    /// Returns the bytes behind it, or `None` if all of them have to wait.
    fn complete_inbox<'b>(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        mut bytes: &'b [u8],
    ) -> Option<&'b [u8]> {
        loop {
            let connection = self.connections.get_mut(id)?;
            if connection.stalled {
                self.keep(id, bytes);
                return None;
            }
            if connection.inbox.is_empty() {
                return Some(bytes);
            }
            let (missing, behind) =
                bytes.split_at(missing_bytes(&connection.inbox).min(bytes.len()));
            connection.inbox.extend_from_slice(missing);
            self.consume_inbox(turn, id);
            if behind.is_empty() {
                return None;
            }
            bytes = behind;
        }
    }

    /// Handles the whole packets of the inbox.
    pub(crate) fn consume_inbox(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let mut inbox = core::mem::take(&mut connection.inbox);
        let used = self.consume(turn, id, &inbox);
        let Some(connection) = self.connections.get_mut(id) else { return };
        if used < inbox.len() {
            inbox.drain(..used);
            connection.inbox = inbox;
        } else {
            self.scratch.inboxes.give_back(inbox);
        }
    }

    /// Takes WebSocket frames apart and handles the MQTT bytes in them.
    fn take_frames(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(state) = connection.websocket() else { return };
        let mut payload = core::mem::take(&mut self.scratch.frames);
        let mut replies = Vec::new();
        payload.clear();
        let decoded = state.decoder.decode(bytes, &mut payload, &mut replies);
        let end = match decoded {
            Ok(decoded) if decoded.closed => Some(core::mem::take(&mut replies)),
            Ok(_) => None,
            Err(error) => Some(self.count_bad_frame(error)),
        };
        // Pongs first: what stands behind CONNECT may leave this core with the connection.
        if !replies.is_empty()
            && let Some(output) = turn.sockets.output(id)
        {
            output.bytes.extend_from_slice(&replies);
        }
        if !payload.is_empty() {
            self.take_mqtt(turn, id, &payload);
        }
        self.scratch.frames = payload;
        if let Some(farewell) = end {
            self.end_websocket(turn, id, farewell);
        }
    }

    fn count_bad_frame(&self, error: WebSocketError) -> Vec<u8> {
        self.metrics.malformed_packets.add(1);
        error.close_frame().to_vec()
    }

    /// Answers the end of a WebSocket, here or on the core that the connection moves to.
    pub(crate) fn end_websocket(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        farewell: Vec<u8>,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let waits = connection.stalled || matches!(connection.phase, Phase::Moving(_));
        let Some(state) = connection.websocket() else { return };
        if waits {
            state.farewell = Some(farewell);
            return;
        }
        state.close_sent = true;
        if let Some(output) = turn.sockets.output(id) {
            output.bytes.extend_from_slice(&farewell);
        }
        self.end_connection(turn, id, End::Unclean);
    }

    /// Handles whole packets from the front of `bytes`; returns how many bytes are done with.
    fn consume(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let Some(connection) = self.connections.get(id) else { return bytes.len() };
            let rest = &bytes[used..];
            if rest.is_empty() {
                return used;
            }
            let flow = match connection.phase {
                Phase::Moving(_) => return used,
                Phase::Greeting | Phase::Opening { .. } => self.greet(turn, id, rest),
                Phase::Connected(session) => {
                    let from = Origin { id, session, version: connection.version };
                    match self.take_run(turn, from, rest) {
                        Some(flow) => flow,
                        None => self.take_packet(turn, id, session, rest),
                    }
                }
            };
            match flow {
                Flow::Next(bytes) => used += bytes,
                Flow::NextThenStall(bytes) => return used + bytes,
                Flow::Stall | Flow::More => return used,
                Flow::Over => return bytes.len(),
            }
        }
    }

    fn take_packet(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        bytes: &[u8],
    ) -> Flow {
        if let Some(flow) = self.take_ack_run(turn, id, session, bytes) {
            return flow;
        }
        let raw = match frame(bytes, self.sizes.packet_bytes_max) {
            Ok(Frame::Complete(raw)) => raw,
            Ok(Frame::Incomplete { .. }) => return Flow::More,
            Err(error) => return self.fail(turn, id, error),
        };
        if self.post.is_congested() {
            self.stall_for_retry(turn, id);
            return Flow::Stall;
        }
        self.decode_packet(turn, id, session, raw)
    }

    fn decode_packet(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        session: SessionId,
        raw: RawPacket<'_>,
    ) -> Flow {
        let Some(connection) = self.connections.get(id) else { return Flow::Over };
        match decode_from_client(connection.version, raw) {
            Ok(packet) => {
                let flow = self.on_packet(turn, id, session, packet, raw.total_bytes);
                self.metrics.packets_received.add(u64::from(flow != Flow::Stall));
                flow
            }
            Err(error) => self.fail(turn, id, error),
        }
    }

    /// Ends a connection whose client broke the protocol [MQTT-4.13.1-1], [MQTT-4.8.0-1].
    pub(crate) fn fail(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        error: DecodeError,
    ) -> Flow {
        self.metrics.malformed_packets.add(1);
        if let Some(suppressed) = self.bad_packet_logs.take(turn.now) {
            let peer = turn.sockets.peer(id).map(tracing::field::display);
            tracing::info!(
                core = self.core.0,
                peer,
                reason = format_args!("{:#04x}", error.reason.0),
                source = error.source,
                suppressed,
                "disconnected: {}",
                error.what
            );
        }
        self.send_disconnect_with(turn, id, error.reason, Some(error.what), None);
        self.end_connection(turn, id, End::Unclean);
        Flow::Over
    }

    /// As [`Broker::fail`], for an error that only the connection's state shows.
    pub(crate) fn fail_with(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        reason: ReasonCode,
        what: &'static str,
        source: &'static str,
    ) -> Flow {
        self.fail(turn, id, DecodeError { reason, what, source })
    }

    /// A client that does not read what it asked for is cut off at the hard bound. One message
    /// of the largest size may lie above it: there was room when that one came.
    pub(crate) fn check_output(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let bound = self.sizes.output_bytes_max + self.sizes.packet_bytes_max;
        if turn.sockets.unsent_bytes(id) > bound {
            self.metrics.slow_disconnects.add(1);
            self.end_connection(turn, id, End::Slow);
        }
    }
}

/// At least so many bytes must come before the packet at the front of an inbox is complete.
fn missing_bytes(inbox: &[u8]) -> usize {
    match frame(inbox, PACKET_BYTES_MAX) {
        Ok(Frame::Incomplete { needed }) => needed,
        // It is complete and waits for something else, or it never will be.
        Ok(Frame::Complete(_)) | Err(_) => usize::MAX,
    }
}
