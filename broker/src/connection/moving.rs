//! A connection moves to the core that owns its client identifier, with the bytes already read
//! and no operation in flight (design, section 2).

use super::{Connection, Phase, Stream};
use crate::handlers::Flow;
use crate::mail::{Adoption, Mail};
use crate::service::{Broker, Timer, Turn};
use ringlane_dataplane::ids::{ConnectionId, CoreId, ListenerId};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

impl Broker {
    /// Asks the driver for the socket; the bytes wait in the inbox.
    pub(super) fn begin_move(&mut self, turn: &mut Turn<'_>, id: ConnectionId, to: CoreId) -> Flow {
        let Some(connection) = self.connections.get_mut(id) else { return Flow::Over };
        connection.phase = Phase::Moving(to);
        if let Some(deadline) = connection.deadline.take() {
            turn.timers.cancel(deadline);
        }
        turn.sockets.detach(id);
        Flow::More
    }

    /// The socket is out of this core: it goes to the owner.
    pub(crate) fn on_detached(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        socket: OwnedFd,
        listener: ListenerId,
        peer: SocketAddr,
    ) {
        let Some(connection) = self.connections.remove(id) else { return };
        let Phase::Moving(to) = connection.phase else { return };
        let websocket = match connection.stream {
            Stream::WebSocket(state) => Some(state),
            Stream::Plain | Stream::Proxied(_) | Stream::Upgrade => None,
        };
        self.metrics.connections_moved.add(1);
        let adoption = Adoption { socket, listener, peer, inbox: connection.inbox, websocket };
        self.send_mail(turn, to, Mail::Adopt(Box::new(adoption)));
    }

    /// A connection of a client of this core arrives.
    pub(crate) fn on_adopt(&mut self, turn: &mut Turn<'_>, adoption: Adoption) {
        let Adoption { socket, listener, peer, inbox, websocket } = adoption;
        if self.draining {
            return;
        }
        let Ok(id) = turn.sockets.adopt(socket, listener, peer) else {
            self.metrics.connects_refused.add(1);
            return;
        };
        let stream = websocket.map_or(Stream::Plain, Stream::WebSocket);
        let mut connection = Connection::new(stream, turn.now);
        connection.inbox = inbox;
        let deadline = turn.now + self.config.mqtt.connect_timeout;
        connection.deadline = Some(turn.timers.schedule(deadline, Timer::ConnectDeadline(id)));
        self.connections.insert(id, connection);
        self.consume_inbox(turn, id);
        let state = self.connections.get_mut(id).and_then(Connection::websocket);
        if let Some(farewell) = state.and_then(|state| state.farewell.take()) {
            self.end_websocket(turn, id, farewell);
        }
    }
}
