//! What goes over a link: one receive in flight into its own buffer, one send out of its output.

use super::peer::Phase;
use super::table::{OnEvent, Ready, TcpLinks};
use crate::engine::{Engine, ReceiveStart, SendStart};
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::link::{LinkDown, LinkEvent, LinkId, Links, Outbox};
use ringlane_dataplane::net::Output;
use std::os::fd::AsFd;

/// Bytes of heads that a link keeps memory for; what a burst took beyond it goes back.
const OUTPUT_KEPT_BYTES: usize = 256 * 1024;

impl TcpLinks {
    // ---- receiving ----

    /// Receives, unless that is under way or over.
    pub(super) fn receive<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let capacity = self.config.as_ref().map_or(0, |config| config.receive_bytes as usize);
        let Some(peer) = self.peer(id) else { return };
        if peer.receiving || peer.end.is_some() || peer.closing.is_some() {
            return;
        }
        let Some(socket) = &peer.socket else { return };
        let room = match peer.phase {
            Phase::Up => peer.assembly.room(capacity),
            _ => peer.assembly.room_for_hello(),
        };
        match engine.start_receive_into(id, socket.as_fd(), room) {
            ReceiveStart::InFlight => peer.receiving = true,
            ReceiveStart::Ended(result) => self.on_received(engine, id, result),
        }
    }

    /// A receive has ended.
    pub(crate) fn on_received<E: Engine>(
        &mut self,
        engine: &mut E,
        id: ConnectionId,
        result: Result<usize, i32>,
    ) {
        let Some(peer) = self.peer(id) else { return };
        peer.receiving = false;
        if peer.closing.is_some() {
            return self.settle(engine, id);
        }
        match result {
            Ok(0) => peer.end = peer.end.or(Some(LinkDown::Ended)),
            Ok(bytes) => peer.assembly.filled(bytes),
            Err(errno) if is_transient(errno) => {
                if peer.end.is_none() {
                    return self.receive(engine, id);
                }
            }
            Err(errno) => peer.end = peer.end.or(Some(LinkDown::Error(errno))),
        }
        match peer.phase {
            Phase::Up => self.queue_readable(id),
            _ => self.greet(engine, id),
        }
    }

    /// The socket has something to receive.
    pub(crate) fn on_readable<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let Some(peer) = self.peer(id) else { return };
        peer.receiving = false;
        if peer.closing.is_some() {
            self.settle(engine, id);
        } else {
            self.receive(engine, id);
        }
    }

    fn queue_readable(&mut self, id: ConnectionId) {
        if let Some(peer) = self.peer(id)
            && !peer.is_readable
        {
            peer.is_readable = true;
            self.readable.push_back(id);
        }
    }

    /// Delivers the whole messages of one link, at most `events_max`, and receives again behind the
    /// last; how many there were.
    pub(super) fn deliver_messages<E: Engine>(
        &mut self,
        engine: &mut E,
        links: &mut Links,
        id: ConnectionId,
        events_max: usize,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(peer) = self.peer(id) else { return 0 };
        peer.is_readable = false;
        let (Some(link), Some(own)) = (peer.link, &peer.own) else { return 0 };
        let bytes_max = own.message_bytes_max;
        let (mut count, mut bytes) = (0, 0);
        // After a revocation nothing of this peer is heard any more.
        let end = loop {
            if count == events_max || peer.closing.is_some() || !links.is_heard(link) {
                break None;
            }
            match peer.assembly.next(bytes_max) {
                Ok(Some(message)) => {
                    count += 1;
                    bytes += message.len() as u64;
                    on_event(links, LinkEvent::Received { link, message });
                }
                Ok(None) => break peer.end,
                Err(length) => break Some(LinkDown::Length(length)),
            }
        };
        let is_heard = peer.closing.is_none() && links.is_heard(link);
        self.counters.received_messages += count as u64;
        self.counters.received_bytes += bytes;
        if !is_heard {
            return count;
        }
        if count == events_max {
            self.queue_readable(id);
        } else if let Some(cause) = end {
            self.finish(engine, id, cause);
        } else {
            self.receive(engine, id);
            let moved = self.peer(id).map_or(0, |peer| peer.assembly.take_moved());
            self.counters.moved_bytes += moved;
        }
        count
    }

    // ---- sending ----

    /// Sends what the core wrote, unless a send is under way: its end comes back here.
    pub(super) fn send_queued<E: Engine>(
        &mut self,
        engine: &mut E,
        links: &mut Links,
        link: LinkId,
    ) {
        let Some(peer) = self.of_link(link) else { return };
        let is_busy = peer.send_in_flight || peer.sending.left() > 0;
        if peer.phase != Phase::Up || is_busy || peer.end.is_some() || peer.closing.is_some() {
            return;
        }
        let id = peer.id;
        match links.begin_send(link, core::mem::take(&mut peer.outbox)) {
            Ok(mut outbox) => {
                let mut output = Output::default();
                outbox.swap_output(&mut output);
                peer.outbox = outbox;
                let _empty = peer.sending.restart(output);
                self.send_rest(engine, id);
            }
            Err(empty) => peer.outbox = empty,
        }
    }

    pub(super) fn send_rest<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        loop {
            let Some(peer) = self.peer(id) else { return };
            let Some(socket) = &peer.socket else { return };
            match engine.start_send(id, socket.as_fd(), &mut peer.sending) {
                SendStart::InFlight => {
                    peer.send_in_flight = true;
                    return;
                }
                SendStart::Ended(result) => {
                    if !self.take_result(engine, id, result) {
                        return;
                    }
                }
            }
        }
    }

    /// A send has ended.
    pub(crate) fn on_sent<E: Engine>(
        &mut self,
        engine: &mut E,
        id: ConnectionId,
        result: Result<usize, i32>,
    ) {
        let Some(peer) = self.peer(id) else { return };
        peer.send_in_flight = false;
        if peer.closing.is_some() {
            return self.settle(engine, id);
        }
        if self.take_result(engine, id, result) {
            self.send_rest(engine, id);
        }
    }

    /// The kernel can take more of what is being sent.
    pub(crate) fn on_writable<E: Engine>(&mut self, engine: &mut E, id: ConnectionId) {
        let Some(peer) = self.peer(id) else { return };
        peer.send_in_flight = false;
        if peer.closing.is_some() {
            self.settle(engine, id);
        } else if peer.sending.left() > 0 {
            self.send_rest(engine, id);
        }
    }

    /// Books the result of one send; whether the rest of the same output is to follow now.
    fn take_result<E: Engine>(
        &mut self,
        engine: &mut E,
        id: ConnectionId,
        result: Result<usize, i32>,
    ) -> bool {
        let Some(peer) = self.peer(id) else { return false };
        match result {
            Ok(bytes) => {
                peer.sending.advance(bytes);
                let is_all = peer.sending.left() == 0;
                if !peer.says_hello {
                    peer.sent_bytes += bytes;
                }
                if is_all {
                    self.on_output_sent(id);
                }
                self.counters.sends += 1;
                self.counters.sent_bytes += bytes as u64;
                !is_all
            }
            Err(errno) if is_transient(errno) => true,
            Err(errno) => {
                self.on_send_failed(engine, id, errno);
                false
            }
        }
    }

    /// Keeps the buffers, and tells the core with the next delivery.
    fn on_output_sent(&mut self, id: ConnectionId) {
        let Some(peer) = self.peer(id) else { return };
        let mut output = peer.sending.restart(Output::default());
        peer.outbox.swap_output(&mut output);
        peer.outbox.clear(OUTPUT_KEPT_BYTES);
        peer.says_hello = false;
        if !peer.sent_is_queued {
            peer.sent_is_queued = true;
            self.ready.push_back(Ready::Sent(id));
        }
    }

    /// Nothing can be sent any more. What has come before is delivered still.
    fn on_send_failed<E: Engine>(&mut self, engine: &mut E, id: ConnectionId, errno: i32) {
        let Some(peer) = self.peer(id) else { return };
        peer.end = peer.end.or(Some(LinkDown::Error(errno)));
        drop(peer.sending.restart(Output::default()));
        if peer.receiving {
            peer.receiving = !engine.stop_receive(id);
        }
        if peer.receiving {
            return;
        }
        match peer.phase {
            Phase::Up => self.queue_readable(id),
            // It was the answer: the peer has gone.
            Phase::Greeted => self.finish(engine, id, LinkDown::Error(errno)),
            Phase::Resting | Phase::Connecting | Phase::Greeting => self.greet(engine, id),
        }
    }
}

/// Errors of a call rather than of the link, or an operation that was told to stop.
fn is_transient(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED)
}

const _: () = assert!(size_of::<Outbox>() <= 64, "it is moved with each send");
