//! Receiving: deliver, hold back or drop; start again where it ended.

use super::{OnEvent, Ready, SocketDriver};
use crate::connection::{Fate, Phase, Receiving};
use crate::engine::{Buffer, Engine, Receive, ReceiveEnd};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::net::{NetEvent, Sockets, Stage};
use std::os::fd::AsFd;

impl<E: Engine> SocketDriver<E> {
    /// Bytes came; the caller gives the buffer back. Returns how many events were delivered.
    pub(super) fn on_received(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        buffer: &Buffer,
        more: bool,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        self.counters.received_bytes += buffer.bytes as u64;
        let Some(connection) = self.connections.get(id) else { return 0 };
        if !more {
            connection.receiving = Receiving::Idle;
            self.to_receive.push(id);
        }
        let fate = connection.fate_of_bytes(sockets);
        let lent = if fate == Fate::Deliver { self.engine.lend(buffer) } else { None };
        let bytes = self.engine.received(buffer);
        match fate {
            Fate::Deliver => {
                sockets.lend(lent);
                on_event(sockets, NetEvent::Received { connection: id, bytes });
                sockets.lend(None);
            }
            Fate::HoldBack => connection.held.push(bytes),
            Fate::Drop => {}
        }
        let resize = connection.appetite.changes(buffer.bytes, buffer.full);
        if !more {
            self.settle(sockets, id);
        } else if resize {
            // It starts again with the other size when it has ended.
            self.stop_receiving(id);
        }
        usize::from(fate == Fate::Deliver)
    }

    pub(super) fn on_receive_ended(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        end: ReceiveEnd,
    ) {
        if end == ReceiveEnd::Shortage {
            self.counters.buffer_shortages += 1;
        }
        let Some(connection) = self.connections.get(id) else { return };
        connection.receiving = Receiving::Idle;
        match end {
            ReceiveEnd::Finished | ReceiveEnd::Failed(_) => connection.end = Some(end),
            ReceiveEnd::Stopped => self.to_receive.push(id),
            ReceiveEnd::Shortage => self.starved.push_back(id),
        }
        self.settle(sockets, id);
    }

    /// Starts receiving if that is wanted and none is in flight; `once` takes one buffer and no more.
    pub(super) fn receive_if_wanted(&mut self, id: ConnectionId, once: bool) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.receiving != Receiving::Idle || !connection.wants_bytes() {
            return;
        }
        let Some(socket) = &connection.socket else { return };
        connection.receiving = Receiving::Armed;
        // What is dropped anyway may come by multishot: the connection goes nowhere any more.
        let many = connection.stage == Stage::Established || connection.phase != Phase::Open;
        let how = match (many && !once, many && connection.appetite.is_bulk()) {
            (false, false) => Receive::Once,
            (false, true) => Receive::BulkOnce,
            (true, false) => Receive::Many,
            (true, true) => Receive::Bulk,
        };
        self.engine.start_receive(id, socket.as_fd(), how);
    }

    /// Tells a receive in flight to stop.
    pub(super) fn stop_receiving(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.receiving == Receiving::Armed {
            let ended = self.engine.stop_receive(id);
            connection.receiving = if ended { Receiving::Idle } else { Receiving::Stopping };
        }
    }

    pub(super) fn pause(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.paused = true;
        self.stop_receiving(id);
    }

    pub(super) fn resume(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.paused = false;
        self.to_receive.push(id);
        self.queue_held(id);
        self.settle(sockets, id);
    }

    pub(super) fn queue_held(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if !connection.held.is_empty() && !connection.held_is_queued {
            connection.held_is_queued = true;
            self.ready.push_back(Ready::Held(id));
        }
    }

    pub(super) fn deliver_held(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(connection) = self.connections.get(id) else { return 0 };
        connection.held_is_queued = false;
        let moving = connection.phase == Phase::Detaching;
        let asked_otherwise = sockets.is_paused(id) || sockets.is_closing(id);
        if connection.held.is_empty() || (asked_otherwise && !moving) {
            return 0;
        }
        let held = connection.held.take();
        on_event(sockets, NetEvent::Received { connection: id, bytes: &held });
        self.to_receive.push(id);
        self.settle(sockets, id);
        1
    }
}
