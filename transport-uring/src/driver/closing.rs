//! The ways out: flush and linger, abort, the peer's end, and the move to another core.

use super::{OnEvent, Ready, SocketDriver, after};
use crate::connection::{Phase, Receiving};
use crate::engine::{Engine, ReceiveEnd};
use crate::sys;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::net::{Closure, NetEvent, Sockets};
use ringlane_dataplane::time::Nanos;
use std::os::fd::AsFd;

impl<E: Engine> SocketDriver<E> {
    /// Looks whether something that the connection waits for has come, and takes the next step.
    pub(super) fn settle(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        // What a paused connection received may still wait in the broker: its end comes after.
        let paused = sockets.is_paused(id);
        let Some(connection) = self.connections.get(id) else { return };
        let everything_delivered = connection.held.is_empty();
        let end = connection.end;
        match connection.phase {
            Phase::Open if everything_delivered && !paused => match end {
                Some(ReceiveEnd::Failed(errno)) => self.finish(sockets, id, Closure::Error(errno)),
                Some(_) => self.flush(sockets, id, Closure::Peer),
                None => {}
            },
            Phase::Broken(errno) if everything_delivered && end.is_some() => {
                self.finish(sockets, id, Closure::Error(errno));
            }
            Phase::Detaching if everything_delivered => self.hand_over_if_idle(sockets, id),
            Phase::Flushing(cause) if matches!(end, Some(ReceiveEnd::Failed(_))) => {
                self.finish(sockets, id, cause);
            }
            Phase::Lingering(cause) if end.is_some() => self.finish(sockets, id, cause),
            Phase::Closing(cause) => self.close_if_idle(id, cause),
            Phase::Open
            | Phase::Broken(_)
            | Phase::Detaching
            | Phase::Flushing(_)
            | Phase::Lingering(_)
            | Phase::Over => {}
        }
    }

    /// `Close::Flush`.
    pub(super) fn close_after_flush(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        drop(connection.held.take());
        match connection.phase {
            Phase::Open | Phase::Detaching => self.flush(sockets, id, Closure::Local),
            Phase::Broken(_) => self.finish(sockets, id, Closure::Local),
            // On its way out already; an end that the peer began stays the peer's.
            Phase::Flushing(_) | Phase::Lingering(_) | Phase::Closing(_) | Phase::Over => {}
        }
    }

    /// `Close::Abort`: RST, and the kernel keeps nothing for a peer that reads nothing.
    pub(super) fn abort(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if matches!(connection.phase, Phase::Closing(_) | Phase::Over) {
            return;
        }
        if let Some(socket) = &connection.socket {
            self.counters.system_calls += 1;
            sys::reset_on_close(socket.as_fd());
        }
        self.finish(sockets, id, Closure::Local);
    }

    /// Sends what is queued, for a bounded time, then ends the connection.
    fn flush(&mut self, sockets: &mut Sockets, id: ConnectionId, cause: Closure) {
        let now = self.now;
        let Some(connection) = self.connections.get(id) else { return };
        connection.phase = Phase::Flushing(cause);
        if connection.sending.is_none() && sockets.queued_bytes(id) == 0 {
            self.on_flushed(sockets, id);
            return;
        }
        connection.deadline = after(now, self.config.flush_timeout);
        self.deadlines.flush.push_back((connection.deadline, id));
        // The peer may be waiting for us to read before it reads.
        self.to_receive.push(id);
        self.to_send.push(id);
    }

    /// Everything queued is with the kernel. Closing now, with bytes of the peer unread, would
    /// make the kernel send RST, and that can overtake the last bytes we sent (RFC 1122 section
    /// 4.2.2.13): so FIN first, and read until the peer's FIN.
    pub(super) fn on_flushed(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let now = self.now;
        let Some(connection) = self.connections.get(id) else { return };
        let Phase::Flushing(cause) = connection.phase else { return };
        if connection.end.is_some() {
            self.finish(sockets, id, cause);
            return;
        }
        if let Some(socket) = &connection.socket {
            self.counters.system_calls += 1;
            sys::finish_sending(socket.as_fd());
        }
        connection.phase = Phase::Lingering(cause);
        connection.deadline = after(now, self.config.linger);
        self.deadlines.linger.push_back((connection.deadline, id));
        self.to_receive.push(id);
    }

    /// A phase has lasted as long as it may.
    pub(super) fn on_deadline(&mut self, sockets: &mut Sockets, id: ConnectionId, at: Nanos) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.deadline != at {
            return;
        }
        match connection.phase {
            Phase::Flushing(cause) => {
                // The peer takes nothing: what the kernel holds for it is dropped too.
                if let Some(socket) = &connection.socket {
                    self.counters.system_calls += 1;
                    sys::reset_on_close(socket.as_fd());
                }
                self.finish(sockets, id, cause);
            }
            Phase::Lingering(cause) => self.finish(sockets, id, cause),
            Phase::Broken(errno) => self.finish(sockets, id, Closure::Error(errno)),
            Phase::Detaching => self.finish(sockets, id, Closure::Error(libc::ETIMEDOUT)),
            Phase::Open | Phase::Closing(_) | Phase::Over => {}
        }
    }

    /// Ends a connection now: stops what is in flight and closes once that has ended.
    pub(super) fn finish(&mut self, sockets: &mut Sockets, id: ConnectionId, cause: Closure) {
        let Some(connection) = self.connections.get(id) else { return };
        if matches!(connection.phase, Phase::Closing(_) | Phase::Over) {
            return;
        }
        connection.phase = Phase::Closing(cause);
        drop(connection.held.take());
        if connection.send_in_flight
            && let Some(sending) = &connection.sending
        {
            connection.send_in_flight = !self.engine.stop_send(id, sending);
        }
        if !connection.send_in_flight {
            self.drop_sending(sockets, id);
        }
        self.stop_receiving(id);
        self.settle(sockets, id);
    }

    fn close_if_idle(&mut self, id: ConnectionId, cause: Closure) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.receiving != Receiving::Idle || connection.sending.is_some() {
            return;
        }
        connection.phase = Phase::Over;
        let socket = connection.socket.take();
        self.ready.push_back(Ready::Closed(id, cause));
        if let Some(socket) = socket {
            self.close_descriptor(socket);
        }
    }

    pub(super) fn deliver_closed(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        cause: Closure,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        self.connections.remove(id);
        on_event(sockets, NetEvent::Closed { connection: id, cause });
        sockets.release(id);
        1
    }

    // ---- moving ----

    pub(super) fn detach(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let now = self.now;
        let Some(connection) = self.connections.get(id) else { return };
        match connection.phase {
            Phase::Open => {}
            // Its Closed event is on its way.
            Phase::Detaching | Phase::Flushing(_) | Phase::Lingering(_) => return,
            Phase::Closing(_) | Phase::Over => return,
            Phase::Broken(errno) => return self.finish(sockets, id, Closure::Error(errno)),
        }
        connection.phase = Phase::Detaching;
        connection.deadline = after(now, self.config.flush_timeout);
        self.deadlines.flush.push_back((connection.deadline, id));
        self.stop_receiving(id);
        self.queue_held(id);
        self.settle(sockets, id);
    }

    fn hand_over_if_idle(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        match connection.end {
            Some(ReceiveEnd::Failed(errno)) => {
                return self.finish(sockets, id, Closure::Error(errno));
            }
            Some(_) => return self.finish(sockets, id, Closure::Peer),
            None => {}
        }
        let idle = connection.receiving == Receiving::Idle
            && connection.sending.is_none()
            && sockets.queued_bytes(id) == 0;
        if !idle {
            return;
        }
        if let Some(socket) = &connection.socket {
            self.engine.remove(id, socket.as_fd());
        }
        connection.phase = Phase::Over;
        self.ready.push_back(Ready::Detached(id));
    }

    pub(super) fn deliver_detached(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(connection) = self.connections.get(id) else { return 0 };
        let socket = connection.socket.take();
        self.connections.remove(id);
        let (Some(socket), Some((listener, peer))) = (socket, sockets.origin(id)) else {
            return 0;
        };
        on_event(sockets, NetEvent::Detached { connection: id, socket, listener, peer });
        sockets.release(id);
        1
    }
}
