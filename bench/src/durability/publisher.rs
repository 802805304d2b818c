//! A publisher: a persistent session that resumes what is in flight as MQTT-4.4.0-1 demands, with
//! the same packet identifiers, DUP, and in the same order.

use super::book::{Fate, Kind, MessageId};
use super::choice::Choice;
use super::dial::Dial;
use super::journal::Journal;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{Ack, QoS, ReasonCode, Version};
use serde_json::json;
use std::collections::VecDeque;

/// How often a message is a retained one, and how often such a one clears its topic.
const RETAINED_ONE_IN: u64 = 8;
const CLEARING_ONE_IN: u64 = 4;

/// How far an exchange has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// PUBLISH is not answered.
    Published,
    /// PUBREC came, PUBREL is not answered.
    Released,
}

/// A message that is not finished.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    packet_id: u16,
    id: MessageId,
    step: Step,
}

/// What an answer of the broker settles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Settled {
    pub(super) id: MessageId,
    pub(super) fate: Fate,
}

/// One publisher.
#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) dial: Dial,
    /// Its streams of live messages.
    pub(super) live: Vec<usize>,
    /// Its stream of retained messages.
    pub(super) retained: usize,
    window: usize,
    in_flight: VecDeque<InFlight>,
    last_packet_id: u16,
}

impl Publisher {
    pub(super) fn new(dial: Dial, live: Vec<usize>, retained: usize, window: usize) -> Self {
        let in_flight = VecDeque::new();
        Self { dial, live, retained, window, in_flight, last_packet_id: 0 }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Fills the window.
    pub(super) fn pump(
        &mut self,
        version: Version,
        choice: &mut Choice,
        journal: &mut Journal,
        out: &mut Vec<u8>,
    ) {
        while self.in_flight.len() < self.window.min(usize::from(self.dial.receive_maximum)) {
            let is_retained = choice.one_in(RETAINED_ONE_IN);
            let clears = is_retained && choice.one_in(CLEARING_ONE_IN);
            let live = self.live[choice.below(self.live.len() as u64) as usize];
            let stream = if is_retained { self.retained } else { live };
            let id = journal.book.invoke(stream, clears, journal.cycle);
            let packet_id = self.take_packet_id();
            let next = InFlight { packet_id, id, step: Step::Published };
            self.in_flight.push_back(next);
            self.write(version, next, false, journal, out);
        }
    }

    /// Goes on after a CONNACK with the session that was there before.
    pub(super) fn resume(&self, version: Version, journal: &mut Journal, out: &mut Vec<u8>) {
        for next in &self.in_flight {
            match next.step {
                Step::Published => self.write(version, *next, true, journal, out),
                Step::Released => {
                    encode::pubrel(out, version, next.packet_id, ReasonCode::SUCCESS, None);
                }
            }
        }
    }

    /// The session is gone at the broker: what is in flight may have come or not, and a client that
    /// sent it again would double it.
    pub(super) fn forget(&mut self, journal: &mut Journal) {
        for lost in self.in_flight.drain(..) {
            let stream = journal.book.stream(lost.id);
            let details =
                json!({"topic": stream.topic, "seq": lost.id.sequence, "why": "session lost"});
            journal.history.add(self.dial.name(), "info", "publish", || details);
        }
    }

    pub(super) fn on_puback(&mut self, ack: &Ack<'_>, journal: &mut Journal) -> Option<Settled> {
        let place = self.place(ack.packet_id, QoS::AtLeastOnce, journal)?;
        let done = self.in_flight.remove(place)?;
        Some(self.settle(done.id, ack.reason, journal))
    }

    /// PUBREC settles the message; PUBREL must follow.
    pub(super) fn on_pubrec(
        &mut self,
        version: Version,
        ack: &Ack<'_>,
        journal: &mut Journal,
        out: &mut Vec<u8>,
    ) -> Option<Settled> {
        let Some(place) = self.place(ack.packet_id, QoS::ExactlyOnce, journal) else {
            encode::pubrel(
                out,
                version,
                ack.packet_id,
                ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                None,
            );
            return None;
        };
        if ack.reason.is_error() {
            let refused = self.in_flight.remove(place)?;
            return Some(self.settle(refused.id, ack.reason, journal));
        }
        encode::pubrel(out, version, ack.packet_id, ReasonCode::SUCCESS, None);
        let next = &mut self.in_flight[place];
        let is_first = next.step == Step::Published;
        next.step = Step::Released;
        let id = next.id;
        is_first.then(|| self.settle(id, ack.reason, journal))
    }

    pub(super) fn on_pubcomp(&mut self, ack: &Ack<'_>, journal: &mut Journal) {
        let Some(place) = self.place(ack.packet_id, QoS::ExactlyOnce, journal) else { return };
        if self.in_flight[place].step == Step::Released {
            self.in_flight.remove(place);
            journal.answers += 1;
        }
    }

    fn settle(&self, id: MessageId, reason: ReasonCode, journal: &mut Journal) -> Settled {
        // What was sent before may have been taken then, whatever is said of it now.
        let fate = match reason.is_error() {
            false => Fate::Kept,
            true if journal.book.entry(id).sends > 1 => Fate::Unknown,
            true => Fate::Refused,
        };
        journal.book.settle(id, fate);
        journal.answers += 1;
        let kind = match fate {
            Fate::Kept => "ok",
            Fate::Refused => "fail",
            Fate::Unknown => "info",
        };
        let topic = &journal.book.stream(id).topic;
        let details = || json!({"topic": topic, "seq": id.sequence, "rc": reason.0});
        journal.history.add(self.dial.name(), kind, "publish", details);
        Settled { id, fate }
    }

    fn place(&self, packet_id: u16, qos: QoS, journal: &Journal) -> Option<usize> {
        self.in_flight
            .iter()
            .position(|next| next.packet_id == packet_id && journal.book.stream(next.id).qos == qos)
    }

    /// Identifiers come again soon, so that one which the broker did not forget meets a new message.
    fn take_packet_id(&mut self) -> u16 {
        let most = u16::try_from(self.window * 4).unwrap_or(u16::MAX);
        loop {
            self.last_packet_id =
                if self.last_packet_id >= most { 1 } else { self.last_packet_id + 1 };
            let packet_id = self.last_packet_id;
            if self.in_flight.iter().all(|next| next.packet_id != packet_id) {
                return packet_id;
            }
        }
    }

    fn write(
        &self,
        version: Version,
        next: InFlight,
        dup: bool,
        journal: &mut Journal,
        out: &mut Vec<u8>,
    ) {
        let payload = journal.book.payload(next.id, journal.payload_bytes);
        journal.book.on_send(next.id);
        let stream = journal.book.stream(next.id);
        let details = || {
            json!({
                "topic": stream.topic, "qos": stream.qos as u8, "seq": next.id.sequence,
                "mid": next.packet_id, "dup": dup, "conn": self.dial.connection,
            })
        };
        journal.history.add(self.dial.name(), "invoke", "publish", details);
        let head = PublishHead {
            version,
            dup,
            qos: stream.qos,
            retain: stream.kind == Kind::Retained,
            topic: &stream.topic,
            topic_alias: None,
            packet_id: next.packet_id,
            message_expiry_secs: None,
            subscription_ids: &[],
            forwarded: &[],
            payload_bytes: payload.len(),
        };
        encode::publish_head(out, &head);
        out.extend_from_slice(&payload);
    }
}
