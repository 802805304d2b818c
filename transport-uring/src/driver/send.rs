//! Sending: one output in flight per connection, the next one when it has ended.

use super::{NOBODY, OnEvent, Ready, SPARE_SENDINGS_MAX, SocketDriver, after};
use crate::connection::Phase;
use crate::engine::{Engine, SendStart};
use crate::sending::Sending;
use ringlane_dataplane::ids::ConnectionId;
use ringlane_dataplane::net::{Closure, NetEvent, Output, Sockets};
use std::os::fd::AsFd;

impl<E: Engine> SocketDriver<E> {
    /// Sends what the broker wrote, unless a send is in flight: its end comes back here.
    pub(super) fn send_queued(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.sending.is_some() {
            return;
        }
        let Some(output) = sockets.begin_send(id) else { return };
        if !connection.may_send() {
            sockets.end_send(id, output);
            return;
        }
        let mut sending = self.spare.pop().unwrap_or_default();
        sending.restart(output);
        connection.sending = Some(sending);
        self.send_rest(sockets, id);
    }

    fn send_rest(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        loop {
            let Some(connection) = self.connections.get(id) else { return };
            let (Some(socket), Some(sending)) = (&connection.socket, &mut connection.sending)
            else {
                return;
            };
            match self.engine.start_send(id, socket.as_fd(), sending) {
                SendStart::InFlight => {
                    connection.send_in_flight = true;
                    return;
                }
                SendStart::Ended(result) => {
                    if !self.take_result(sockets, id, result) {
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn on_sent(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        result: Result<usize, i32>,
        notice: Option<u32>,
    ) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.send_in_flight = false;
        if let Some(sending) = &mut connection.sending {
            sending.notice = notice;
        }
        if self.take_result(sockets, id, result) {
            self.send_rest(sockets, id);
        }
    }

    /// The kernel can take more of a send that was short.
    pub(super) fn on_writable(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.send_in_flight = false;
        if let Some(sending) = &mut connection.sending {
            sending.notice = None;
            self.send_rest(sockets, id);
        }
    }

    /// Books the result of one send; whether the rest of the same output can follow now.
    fn take_result(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        result: Result<usize, i32>,
    ) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        let may_send = connection.may_send();
        let Some(sending) = &mut connection.sending else { return false };
        match result {
            Ok(taken) => {
                self.counters.sent_bytes += taken as u64;
                sockets.sent(id, taken);
                sending.advance(taken);
                let all = sending.left() == 0;
                if !all && may_send {
                    // A short zero-copy send goes on after its notice, see `on_writable`.
                    return sending.notice.is_none();
                }
                self.drop_sending(sockets, id);
                if all { self.on_output_sent(sockets, id) } else { self.settle(sockets, id) }
            }
            Err(errno) if is_transient(errno) && may_send => return sending.notice.is_none(),
            Err(errno) => {
                self.drop_sending(sockets, id);
                self.on_send_failed(sockets, id, errno);
            }
        }
        false
    }

    /// Ends the use of the output in hand. Not while a send is in flight.
    pub(super) fn drop_sending(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        assert!(!connection.send_in_flight, "the kernel has given the bytes back");
        let Some(mut sending) = connection.sending.take() else { return };
        match sending.notice.take() {
            Some(notice) => {
                self.engine.park(notice, sending);
                sockets.end_send(id, Output::default());
            }
            None => self.recycle(sockets, id, sending),
        }
    }

    pub(super) fn recycle(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        mut sending: Box<Sending>,
    ) {
        debug_assert!(id == NOBODY || sending.notice.is_none());
        sockets.end_send(id, sending.restart(Output::default()));
        if self.spare.len() < SPARE_SENDINGS_MAX {
            self.spare.push(sending);
        }
    }

    fn on_output_sent(&mut self, sockets: &mut Sockets, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.may_send() && sockets.queued_bytes(id) > 0 {
            // With the end of the turn, together with what the rest of the turn writes.
            self.to_send.push(id);
            return;
        }
        match connection.phase {
            Phase::Open => {
                if !connection.drained_is_queued {
                    connection.drained_is_queued = true;
                    self.ready.push_back(Ready::Drained(id));
                }
            }
            Phase::Flushing(_) => self.on_flushed(sockets, id),
            Phase::Detaching
            | Phase::Broken(_)
            | Phase::Lingering(_)
            | Phase::Closing(_)
            | Phase::Over => self.settle(sockets, id),
        }
    }

    /// Sending is over for good. Bytes that came before the peer went (a DISCONNECT perhaps) are
    /// still in the socket: they are received until its end, for a bounded time.
    fn on_send_failed(&mut self, sockets: &mut Sockets, id: ConnectionId, errno: i32) {
        let now = self.now;
        let Some(connection) = self.connections.get(id) else { return };
        match connection.phase {
            Phase::Open => {
                connection.phase = Phase::Broken(errno);
                connection.deadline = after(now, self.config.linger);
                self.deadlines.linger.push_back((connection.deadline, id));
                self.settle(sockets, id);
            }
            Phase::Detaching => self.finish(sockets, id, Closure::Error(errno)),
            Phase::Flushing(cause) => self.finish(sockets, id, cause),
            Phase::Broken(_) | Phase::Lingering(_) | Phase::Closing(_) | Phase::Over => {
                self.settle(sockets, id);
            }
        }
    }

    pub(super) fn deliver_drained(
        &mut self,
        sockets: &mut Sockets,
        id: ConnectionId,
        on_event: &mut OnEvent<'_>,
    ) -> usize {
        let Some(connection) = self.connections.get(id) else { return 0 };
        connection.drained_is_queued = false;
        let drained = connection.phase == Phase::Open
            && connection.sending.is_none()
            && sockets.queued_bytes(id) == 0
            && !sockets.is_closing(id);
        if drained {
            on_event(sockets, NetEvent::Drained { connection: id });
        }
        usize::from(drained)
    }
}

/// Errors of a call rather than of the connection; the send is simply made again.
fn is_transient(errno: i32) -> bool {
    matches!(errno, libc::EINTR | libc::EAGAIN)
}
