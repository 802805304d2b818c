//! What a session is owed: QoS 1 and 2, and everything of a shared group. It goes into the
//! in-flight window, or waits behind it; it is never lost because a client is slow.

use super::Scratch;
use super::owed_forms::Receiver;
use super::qos0::{Qos0, send_qos0};
use super::view::{MessageMaker, View};
use crate::connection::{Delivery, Link, Written};
use crate::metrics::CoreMetrics;
use crate::service::sizes::SHARE_PAYLOAD_BYTES;
use crate::service::{Broker, Sizes, Turn};
use crate::session::{Inflight, Pending, Session, SessionId, SubscriptionIds};
use ringlane_dataplane::net::Sockets;
use ringlane_dataplane::time::Nanos;
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

/// How one message is owed to one session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// Whether other clients get the same packet, so that it pays to keep it encoded.
    pub(super) keep_form: bool,
    /// The posting number, or `NOT_POSTED`.
    pub(super) posting: u64,
}

impl Broker {
    /// Owes a matched message to a session; its subscription identifiers are in the scratch.
    /// It goes out at once if nothing waits before it and there is room.
    pub(super) fn owe_match(
        &mut self,
        turn: &mut Turn<'_>,
        slot: u32,
        view: &mut View<'_>,
        owed: Owed,
    ) {
        let Owed { qos, retain, posting, .. } = owed;
        let held = self.sessions.at_mut(slot).filter(|_| qos == QoS::ExactlyOnce);
        let recorded = held.filter(|session| session.records_exchanges()).map(|held| held.id);
        let is_recorded = recorded.is_some();
        let waits = recorded.is_some_and(|id| self.state_waits(id));
        let Self { sessions, scratch, maker, metrics, sizes, upkeep, .. } = self;
        let Some(session) = sessions.at_mut(slot) else { return };
        let ids = SubscriptionIds::from_slice(&scratch.ids);
        let in_step = session.outbound.is_in_step() && view.expires_at > turn.now;
        if waits || !in_step || !has_room(session, turn.sockets, sizes) {
            let message = view.lasting(maker);
            let pending = Pending { message, qos, retain, ids, ticket: None, posting };
            let id = session.id;
            return self.owe(turn, id, pending);
        }
        if is_recorded {
            let message = view.handle(maker);
            let pending = Pending { message, qos, retain, ids, ticket: None, posting };
            let id = session.id;
            return self.record_sent(turn, id, pending);
        }
        let Session { link: Some(link), outbound, .. } = session else { return };
        let packet_id = outbound.fresh_packet_id();
        let written = write_match(link, turn, view, owed, packet_id, scratch, maker);
        if written == Written::TooLarge {
            metrics.dropped_too_large.add(1);
            return;
        }
        count_publish(metrics, qos, view.payload.len());
        metrics.inflight_messages.add(1);
        let message = view.handle(maker);
        outbound.begin(packet_id, Pending { message, qos, retain, ids, ticket: None, posting });
        upkeep.note(turn, session);
    }

    /// Owes a message to a session. It is sent at the end of this turn, window permitting.
    pub(crate) fn owe(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.leaves_to_log(pending.posting) || self.falls_behind(id, &pending) {
            return self.on_left_to_log(turn, id);
        }
        self.queue(turn, id, pending);
    }

    /// Owes a message that was held back while later ones went on. Nobody falls behind at it: what
    /// is posted behind it may be in the queue already, or acknowledged.
    fn owe_late(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
        let Some(session) = self.sessions.get(id) else { return };
        if session.leaves_to_log(pending.posting) {
            return self.on_left_to_log(turn, id);
        }
        self.queue(turn, id, pending);
    }

    fn queue(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
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
        match pending.qos {
            QoS::AtMostOnce => self.send_kept(turn, id, &pending),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.owe(turn, id, pending),
        }
    }

    /// The same with one that was held back while later ones went on.
    pub(crate) fn owe_or_send_late(
        &mut self,
        turn: &mut Turn<'_>,
        id: SessionId,
        pending: Pending,
    ) {
        match pending.qos {
            QoS::AtMostOnce => self.send_kept(turn, id, &pending),
            QoS::AtLeastOnce | QoS::ExactlyOnce => self.owe_late(turn, id, pending),
        }
    }

    fn send_kept(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: &Pending) {
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
                Step::Skipped(pending) => {
                    self.note_moved(id);
                    self.settle_ticket(turn, id, &pending);
                }
                Step::Full | Step::Nothing => break,
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.outbound.shrink();
        }
        self.catch_up(turn, id);
        self.check_backlog_room(turn, id);
    }

    fn pump_one(&mut self, turn: &mut Turn<'_>, id: SessionId) -> Step {
        let Self { sessions, sizes, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return Step::Nothing };
        if !has_room(session, turn.sockets, sizes) {
            return Step::Full;
        }
        if session.outbound.has_resends() {
            return match session.outbound.next_resend_is_away() {
                true => Step::Full,
                false => self.resend(turn, id),
            };
        }
        if session.outbound.next_is_exactly_once() && self.state_waits(id) {
            self.pump_at_retry(turn, id);
            return Step::Full;
        }
        let Self { sessions, metrics, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return Step::Nothing };
        let Some(pending) = session.outbound.pop_queue() else { return Step::Nothing };
        metrics.queued_messages.sub(1);
        metrics.queued_bytes.sub(pending.cost_bytes() as u64);
        self.send_fresh(turn, id, pending)
    }

    fn send_fresh(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) -> Step {
        let Self { sessions, metrics, upkeep, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return Step::Nothing };
        let is_recorded = session.records_exchanges();
        let Session { link: Some(link), outbound, .. } = session else { return Step::Nothing };
        if pending.message.head().expires_at <= turn.now {
            metrics.dropped_expired.add(1);
            return Step::Skipped(pending);
        }
        if pending.qos == QoS::ExactlyOnce && is_recorded {
            self.record_sent(turn, id, pending);
            return Step::Sent;
        }
        let is_qos0 = pending.qos == QoS::AtMostOnce;
        let packet_id = if is_qos0 { 0 } else { outbound.fresh_packet_id() };
        match write_pending(link, turn, &pending, packet_id, false) {
            Written::Sent if is_qos0 => {
                count_publish(metrics, pending.qos, pending.message.payload().len());
                Step::Done(pending)
            }
            Written::Gone if is_qos0 => Step::Skipped(pending),
            Written::Sent | Written::Gone => {
                count_publish(metrics, pending.qos, pending.message.payload().len());
                metrics.inflight_messages.add(1);
                outbound.begin(packet_id, pending);
                upkeep.note(turn, session);
                Step::Sent
            }
            Written::TooLarge => {
                metrics.dropped_too_large.add(u64::from(!is_qos0));
                Step::Skipped(pending)
            }
        }
    }

    /// Whether a session has room for a message that is not queued, and nothing goes before it.
    pub(crate) fn takes_more(&self, turn: &Turn<'_>, id: SessionId) -> bool {
        self.sessions.get(id).is_some_and(|session| {
            session.outbound.is_in_step() && has_room(session, turn.sockets, &self.sizes)
        })
    }

    /// Whether a message is small enough for the client of a session [MQTT-3.1.2-24].
    pub(crate) fn is_small_enough(&self, now: Nanos, id: SessionId, pending: &Pending) -> bool {
        let link = self.sessions.get(id).and_then(|session| session.link.as_ref());
        link.is_none_or(|link| link.takes(now, &delivery(pending, 1, false)))
    }

    /// Sends a message that was not queued to a session that takes more.
    pub(crate) fn send_now(&mut self, turn: &mut Turn<'_>, id: SessionId, pending: Pending) {
        match self.send_fresh(turn, id, pending) {
            Step::Done(pending) | Step::Skipped(pending) => self.settle_ticket(turn, id, &pending),
            Step::Sent | Step::Full | Step::Nothing => {}
        }
    }

    /// Sends a PUBLISH of an earlier connection again, with DUP [MQTT-3.3.1-1], [MQTT-4.4.0-1].
    fn resend(&mut self, turn: &mut Turn<'_>, id: SessionId) -> Step {
        let Self { sessions, metrics, upkeep, .. } = self;
        let Some(session) = sessions.get_mut(id) else { return Step::Nothing };
        let Session { link: Some(link), outbound, .. } = session else { return Step::Nothing };
        let Some(Inflight { packet_id, pending, .. }) = outbound.begin_resend() else {
            return Step::Nothing;
        };
        let packet_id = *packet_id;
        match write_pending(link, turn, pending, packet_id, true) {
            Written::Sent | Written::Gone => {
                count_publish(metrics, pending.qos, pending.message.payload().len());
                upkeep.note(turn, session);
                Step::Sent
            }
            Written::TooLarge => {
                metrics.dropped_too_large.add(1);
                metrics.inflight_messages.sub(1);
                let taken = outbound.take_back(packet_id);
                self.record_completed(turn, id, packet_id);
                match taken {
                    Some(pending) => Step::Skipped(pending),
                    None => Step::Nothing,
                }
            }
        }
    }

    /// A session came back: PUBREL again for what was received, PUBLISH again for what was not.
    pub(crate) fn resume_outbound(&mut self, turn: &mut Turn<'_>, id: SessionId) {
        self.begin_catch_up(id);
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
            self.replays.wake(id);
        }
        // What came to be ready meanwhile has the next turn.
        ready.append(&mut self.pump_ready);
        self.pump_ready = ready;
    }
}

/// Whether the window and the output of a session's connection take another message.
fn has_room(session: &Session, sockets: &Sockets, sizes: &Sizes) -> bool {
    session.link.as_ref().is_some_and(|link| {
        sockets.unsent_bytes(link.connection) <= sizes.output_bytes_refill
            && session.outbound.window_is_open(link.window, sizes.inflight_bytes_max)
    })
}

pub(crate) fn count_publish(metrics: &CoreMetrics, qos: QoS, payload_bytes: usize) {
    metrics.packets_sent.add(1);
    metrics.publish_sent_bytes.add(payload_bytes as u64);
    match qos {
        QoS::AtMostOnce => metrics.publishes_sent_qos0.add(1),
        QoS::AtLeastOnce => metrics.publishes_sent_qos1.add(1),
        QoS::ExactlyOnce => metrics.publishes_sent_qos2.add(1),
    }
}

/// Writes a matched message; `scratch` has the session's subscription identifiers.
fn write_match(
    link: &mut Link,
    turn: &mut Turn<'_>,
    view: &mut View<'_>,
    owed: Owed,
    packet_id: u16,
    scratch: &mut Scratch,
    maker: &mut MessageMaker,
) -> Written {
    let large = view.payload.len() >= SHARE_PAYLOAD_BYTES;
    let plain = !large && !link.websocket && link.aliases.is_none() && scratch.ids.is_empty();
    if owed.keep_form && plain {
        let Some(output) = turn.sockets.output(link.connection) else { return Written::Gone };
        let (version, packet_bytes_max) = (link.version, link.packet_bytes_max);
        let to = Receiver { version, packet_bytes_max, packet_id, now: turn.now };
        return match scratch.owed_forms.append(&mut output.bytes, view, owed, to) {
            true => Written::Sent,
            false => Written::TooLarge,
        };
    }
    let shared = large.then(|| view.handle(maker));
    let delivery = Delivery {
        topic: view.topic,
        properties: view.properties,
        payload: view.payload,
        expires_at: view.expires_at,
        qos: owed.qos,
        retain: owed.retain,
        dup: false,
        packet_id,
        ids: &scratch.ids,
        shared: shared.as_ref(),
    };
    link.write_publish(turn.sockets, turn.now, &delivery)
}

pub(crate) fn write_pending(
    link: &mut Link,
    turn: &mut Turn<'_>,
    pending: &Pending,
    packet_id: u16,
    dup: bool,
) -> Written {
    link.write_publish(turn.sockets, turn.now, &delivery(pending, packet_id, dup))
}

fn delivery(pending: &Pending, packet_id: u16, dup: bool) -> Delivery<'_> {
    let message = &pending.message;
    let large = message.payload().len() >= SHARE_PAYLOAD_BYTES;
    Delivery {
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
    }
}
