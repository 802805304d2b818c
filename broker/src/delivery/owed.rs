//! What a session is owed: QoS 1 and 2, and everything of a shared group. It goes into the
//! in-flight window, or waits behind it; it is never lost because a client is slow.

use super::qos0::{Qos0, send_qos0};
use super::view::View;
use crate::connection::{Delivery, Written};
use crate::service::sizes::SHARE_PAYLOAD_BYTES;
use crate::service::{Broker, Turn};
use crate::session::{Inflight, Pending, Phase, Session, SessionId};
use ringlane_mqtt::{QoS, encode};

/// What came of trying to send the next message.
enum Step {
    Sent,
    /// It will not be sent: expired, or too large for the client.
    Skipped(Pending),
    /// QoS 0 of a group: sent, and nobody will acknowledge it.
    Done(Pending),
    /// No room in the window or in the output.
    Full,
    Nothing,
}

impl Broker {
    /// Owes a message to a session. It is sent at the end of this turn, window permitting.
    pub(crate) fn owe(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        self.metrics.queued_messages.add(1);
        self.metrics.queued_bytes.add(pending.cost_bytes() as u64);
        session.outbound.push_queue(pending);
        if session.link.is_some() {
            self.pump(turn, id);
        }
        self.check_backlog(turn, id);
    }

    /// Delivers a message that is already merged and kept: at once with QoS 0 (or it is dropped
    /// and counted when the client is slow), owed otherwise.
    pub(crate) fn owe_or_send(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
        if pending.qos != QoS::AtMostOnce {
            return self.owe(turn, id, pending);
        }
        let Self { sessions, scratch, maker, metrics, sizes, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return };
        let Some(link) = session.link.as_mut() else { return };
        let how = Qos0 {
            retain: pending.retain,
            ids: pending.ids.as_slice(),
            keep_form: false,
            output_bytes_high: sizes.output_bytes_high,
        };
        let mut view = View::of_message(&pending.message);
        let tools = (&mut scratch.forms, maker, &**metrics);
        send_qos0(link, turn.sockets, turn.now, &mut view, how, tools);
    }

    /// Sends what the window and the output take.
    pub(crate) fn pump(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let never_owed = |session: &mut Session| session.outbound.existing().is_none();
        if self.sessions.get_mut(id).is_none_or(never_owed) {
            return;
        }
        loop {
            let step = self.pump_one(turn, id);
            match step {
                Step::Sent => {}
                Step::Done(pending) => self.settle_ticket(turn, id, &pending),
                Step::Skipped(pending) => self.settle_ticket(turn, id, &pending),
                Step::Full | Step::Nothing => break,
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.outbound.shrink();
        }
        self.check_backlog_room(turn, id);
    }

    fn pump_one(&mut self, turn: &mut Turn<'_>, id: SessionId) -> Step {
        let Self { sessions, sizes, metrics, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return Step::Nothing };
        let Some(link) = session.link.as_ref() else { return Step::Nothing };
        if turn.sockets.unsent_bytes(link.connection) > sizes.output_bytes_refill
            || !session.outbound.window_is_open(link.window, sizes.inflight_bytes_max)
        {
            return Step::Full;
        }
        if let Some(inflight) = session.outbound.next_resend() {
            let packet_id = inflight.packet_id;
            return self.resend(turn, id, packet_id);
        }
        let Some(pending) = session.outbound.pop_queue() else { return Step::Nothing };
        metrics.queued_messages.sub(1);
        metrics.queued_bytes.sub(pending.cost_bytes() as u64);
        self.send_fresh(turn, id, pending)
    }

    fn send_fresh(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) -> Step {
        let Some(session) = self.sessions.get_mut(id) else { return Step::Nothing };
        if pending.message.head().expires_at <= turn.now {
            self.metrics.dropped_expired.add(1);
            return Step::Skipped(pending);
        }
        if pending.qos == QoS::AtMostOnce {
            return match write_pending(session, turn, &pending, 0, false) {
                Written::Sent => {
                    self.count_publish(&pending);
                    Step::Done(pending)
                }
                _ => Step::Skipped(pending),
            };
        }
        let message = pending.message.clone();
        let (qos, retain, ids) = (pending.qos, pending.retain, pending.ids.clone());
        let packet_id = session.outbound.begin(pending);
        let sent = Pending { message, qos, retain, ids, ticket: None };
        match write_pending(session, turn, &sent, packet_id, false) {
            Written::Sent | Written::Gone => {
                self.metrics.inflight_messages.add(1);
                self.count_publish(&sent);
                Step::Sent
            }
            Written::TooLarge => {
                self.metrics.dropped_too_large.add(1);
                match session.outbound.take_back(packet_id) {
                    Some(pending) => Step::Skipped(pending),
                    None => Step::Nothing,
                }
            }
        }
    }

    /// Sends a PUBLISH of an earlier connection again, with DUP [MQTT-3.3.1-1], [MQTT-4.4.0-1].
    fn resend(&mut self, turn: &mut Turn<'_>, id: SessionId, packet_id: u16) -> Step {
        let Some(session) = self.sessions.get_mut(id) else { return Step::Nothing };
        let Some(Inflight { pending, phase, .. }) = session.outbound.next_resend() else {
            return Step::Nothing;
        };
        *phase = Phase::Sent;
        let copy = Pending {
            message: pending.message.clone(),
            qos: pending.qos,
            retain: pending.retain,
            ids: pending.ids.clone(),
            ticket: None,
        };
        session.outbound.count_resend();
        match write_pending(session, turn, &copy, packet_id, true) {
            Written::Sent | Written::Gone => {
                self.count_publish(&copy);
                Step::Sent
            }
            Written::TooLarge => {
                self.metrics.dropped_too_large.add(1);
                self.metrics.inflight_messages.sub(1);
                match session.outbound.take_back(packet_id) {
                    Some(pending) => Step::Skipped(pending),
                    None => Step::Nothing,
                }
            }
        }
    }

    /// A session came back: PUBREL again for what was received, PUBLISH again for what was not.
    pub(crate) fn resume_outbound(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(outbound) = session.outbound.existing() else { return };
        outbound.begin_connection();
        let Some(link) = session.link.as_ref() else { return };
        for packet_id in outbound.released() {
            crate::connection::write_packet(turn.sockets, link.connection, link.websocket, |out| {
                let success = ringlane_mqtt::ReasonCode::SUCCESS;
                encode::pubrel(out, link.version, packet_id, success, None);
            });
            self.metrics.packets_sent.add(1);
        }
        self.pump(turn, id);
    }

    /// End of turn: windows that opened are filled.
    pub(crate) fn pump_sessions(&mut self, turn: &mut Turn<'_>) {
        let mut ready = core::mem::take(&mut self.pump_ready);
        for id in ready.drain(..) {
            self.pump(turn, id);
            self.resume_primings(turn, id);
        }
        self.pump_ready = ready;
    }

    fn count_publish(&self, pending: &Pending) {
        self.metrics.packets_sent.add(1);
        self.metrics.publish_sent_bytes.add(pending.message.payload().len() as u64);
        match pending.qos {
            QoS::AtMostOnce => self.metrics.publishes_sent_qos0.add(1),
            QoS::AtLeastOnce => self.metrics.publishes_sent_qos1.add(1),
            QoS::ExactlyOnce => self.metrics.publishes_sent_qos2.add(1),
        }
    }
}

fn write_pending(
    session: &mut Session,
    turn: &mut Turn<'_>,
    pending: &Pending,
    packet_id: u16,
    dup: bool,
) -> Written {
    let Some(link) = session.link.as_mut() else { return Written::Gone };
    let message = &pending.message;
    let large = message.payload().len() >= SHARE_PAYLOAD_BYTES;
    let delivery = Delivery {
        topic: message.topic(),
        properties: message.properties(),
        payload: message.payload(),
        expires_at: message.head().expires_at,
        qos: pending.qos,
        retain: pending.retain,
        dup,
        packet_id,
        ids: pending.ids.as_slice(),
        shared: large.then_some(message),
    };
    link.write_publish(turn.sockets, turn.now, &delivery)
}
