//! A client that writes packets, answers what it has to answer, and remembers.

use super::driver::Outer;
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{
    Ack, Connect, ConnectProperties, Frame, Packet, Publish, QoS, ReasonCode, SubscribeFilter,
    Version, decode, frame,
};
use std::collections::BTreeSet;

const VERSION: Version = Version::V5;

pub(super) struct Client {
    id: String,
    wire: Option<usize>,
    pub(super) connected: bool,
    pub(super) session_present: bool,
    /// Payloads, in the order in which they came.
    pub(super) received: Vec<Vec<u8>>,
    pub(super) subacks: usize,
    /// UNSUBACKs that came.
    pub(super) unsubacks: usize,
    /// Subscription identifiers of what it received.
    pub(super) subscription_ids: BTreeSet<u32>,
    /// Packet identifiers of its publishes that were acknowledged (PUBACK, or PUBREC).
    pub(super) acknowledged: BTreeSet<u16>,
    /// Those of QoS 2 that are complete.
    pub(super) completed: BTreeSet<u16>,
    /// Whether it may be told that a quota is used up, as by a node whose disk is full.
    may_be_refused: bool,
    /// Packet identifiers of its publishes that were refused so.
    pub(super) refused: BTreeSet<u16>,
    /// Whether its CONNECT was, since this was asked.
    is_refused: bool,
    /// Whether it answers PUBREC by PUBREL.
    pub(super) releases: bool,
    pub(super) disconnect_reason: Option<ReasonCode>,
    next_packet_id: u16,
    is_new: bool,
    /// Whether it connects with Clean Start.
    pub(super) is_clean: bool,
    qos2_seen: BTreeSet<u16>,
}

impl Client {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            wire: None,
            connected: false,
            session_present: false,
            received: Vec::new(),
            subacks: 0,
            unsubacks: 0,
            subscription_ids: BTreeSet::new(),
            is_clean: false,
            acknowledged: BTreeSet::new(),
            completed: BTreeSet::new(),
            may_be_refused: false,
            refused: BTreeSet::new(),
            is_refused: false,
            releases: true,
            disconnect_reason: None,
            next_packet_id: 0,
            is_new: false,
            qos2_seen: BTreeSet::new(),
        }
    }

    /// One that takes it if a quota is used up.
    pub(super) fn that_may_be_refused(id: &str) -> Self {
        Self { may_be_refused: true, ..Self::new(id) }
    }

    /// Writes CONNECT on a wire that some core is to accept; the session outlives the connection.
    pub(super) fn connect(&mut self, outer: &Outer, wire: usize) {
        (self.wire, self.connected, self.disconnect_reason) = (Some(wire), false, None);
        self.is_new = false;
        let session_expiry_secs = Some(3600);
        let connect = Connect {
            version: VERSION,
            clean_start: self.is_clean,
            keep_alive_secs: 0,
            client_id: &self.id,
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties { session_expiry_secs, ..ConnectProperties::default() },
        };
        self.write(outer, |out| encode::connect(out, &connect));
    }

    fn write(&self, outer: &Outer, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(wire) = self.wire else { return };
        encode(&mut outer.wires.borrow_mut()[wire].to_broker);
    }

    pub(super) fn subscribe(&mut self, outer: &Outer, filter: &str, qos: QoS) {
        self.subscribe_as(outer, filter, qos, (false, None));
    }

    /// The same, with No Local and a subscription identifier.
    pub(super) fn subscribe_as(
        &mut self,
        outer: &Outer,
        filter: &str,
        qos: QoS,
        (no_local, id): (bool, Option<u32>),
    ) {
        let (retain_as_published, retain_handling) = (false, 0);
        let filters =
            [SubscribeFilter { filter, qos, no_local, retain_as_published, retain_handling }];
        let packet_id = self.fresh();
        self.write(outer, |out| encode::subscribe(out, VERSION, packet_id, id, &filters));
    }

    pub(super) fn unsubscribe(&mut self, outer: &Outer, filter: &str) {
        let packet_id = self.fresh();
        self.write(outer, |out| encode::unsubscribe(out, VERSION, packet_id, &[filter]));
    }

    /// Returns the packet identifier.
    pub(super) fn publish(
        &mut self,
        outer: &Outer,
        (topic, payload): (&str, &[u8]),
        qos: QoS,
        retain: bool,
    ) -> u16 {
        let packet_id = self.fresh();
        self.publish_as(outer, packet_id, (topic, payload), qos, (retain, false));
        packet_id
    }

    /// A publish, maybe again, with a packet identifier of the caller's.
    pub(super) fn publish_as(
        &self,
        outer: &Outer,
        packet_id: u16,
        (topic, payload): (&str, &[u8]),
        qos: QoS,
        (retain, dup): (bool, bool),
    ) {
        let head = PublishHead {
            version: VERSION,
            dup,
            qos,
            retain,
            topic,
            topic_alias: None,
            packet_id,
            message_expiry_secs: None,
            subscription_ids: &[],
            forwarded: &[],
            payload_bytes: payload.len(),
        };
        self.write(outer, |out| {
            encode::publish_head(out, &head);
            out.extend_from_slice(payload);
        });
    }

    /// Releases a message whose PUBREC has come.
    pub(super) fn release(&self, outer: &Outer, packet_id: u16) {
        let ok = ReasonCode::SUCCESS;
        self.write(outer, |out| encode::pubrel(out, VERSION, packet_id, ok, None));
    }

    fn fresh(&mut self) -> u16 {
        self.next_packet_id += 1;
        self.next_packet_id
    }

    /// Closes its socket.
    pub(super) fn hang_up(&mut self, outer: &Outer) {
        if let Some(wire) = self.wire.take() {
            outer.wires.borrow_mut()[wire].hung_up = true;
        }
        self.connected = false;
    }

    /// Whether CONNACK has come since this was asked.
    pub(super) fn take_connected(&mut self) -> bool {
        core::mem::take(&mut self.is_new)
    }

    /// Whether CONNECT was refused since this was asked.
    pub(super) fn take_refused(&mut self) -> bool {
        core::mem::take(&mut self.is_refused)
    }

    /// Whether a reason says that a quota is used up, and may.
    fn is_quota(&self, reason: ReasonCode) -> bool {
        self.may_be_refused && reason == ReasonCode::QUOTA_EXCEEDED
    }

    /// Whether it has a socket.
    pub(super) fn has_wire(&self) -> bool {
        self.wire.is_some()
    }

    /// Reads what arrived and answers it.
    pub(super) fn read(&mut self, outer: &Outer) {
        let Some(wire) = self.wire else { return };
        let bytes = core::mem::take(&mut outer.wires.borrow_mut()[wire].from_broker);
        let (mut rest, mut answers) = (&bytes[..], Vec::new());
        while let Ok(Frame::Complete(raw)) = frame(rest, 1 << 24) {
            let packet = decode(VERSION, raw).expect("the broker writes valid packets");
            self.take(packet, &mut answers);
            rest = &rest[raw.total_bytes..];
        }
        let mut wires = outer.wires.borrow_mut();
        wires[wire].from_broker.splice(0..0, rest.iter().copied());
        wires[wire].to_broker.extend(answers);
        if wires[wire].closed {
            (self.wire, self.connected) = (None, false);
        }
    }

    fn take(&mut self, packet: Packet<'_>, answers: &mut Vec<u8>) {
        let ok = ReasonCode::SUCCESS;
        match packet {
            Packet::Connack(connack) if self.is_quota(connack.reason) => self.is_refused = true,
            Packet::Connack(connack) => {
                assert_eq!(connack.reason.0, 0, "refused");
                (self.connected, self.session_present) = (true, connack.session_present);
                self.is_new = true;
            }
            Packet::Publish(publish) => self.take_publish(&publish, answers),
            Packet::Pubrel(Ack { packet_id, .. }) => {
                self.qos2_seen.remove(&packet_id);
                encode::pubcomp(answers, VERSION, packet_id, ok, None);
            }
            Packet::Puback(ack) | Packet::Pubrec(ack) if self.is_quota(ack.reason) => {
                self.refused.insert(ack.packet_id);
            }
            Packet::Puback(ack) => {
                assert!(!ack.reason.is_error(), "{:?}", ack.reason);
                self.acknowledged.insert(ack.packet_id);
            }
            Packet::Pubrec(ack) => {
                assert!(!ack.reason.is_error(), "{:?}", ack.reason);
                self.acknowledged.insert(ack.packet_id);
                if self.releases {
                    encode::pubrel(answers, VERSION, ack.packet_id, ok, None);
                }
            }
            Packet::Pubcomp(ack) => {
                self.completed.insert(ack.packet_id);
            }
            Packet::Suback(_) => self.subacks += 1,
            Packet::Unsuback(_) => self.unsubacks += 1,
            Packet::Disconnect(disconnect) => self.disconnect_reason = Some(disconnect.reason),
            other => panic!("a broker does not send {other:?}"),
        }
    }

    fn take_publish(&mut self, publish: &Publish<'_>, answers: &mut Vec<u8>) {
        let ok = ReasonCode::SUCCESS;
        let first = publish.qos != QoS::ExactlyOnce || self.qos2_seen.insert(publish.packet_id);
        if first {
            self.received.push(publish.payload.to_vec());
            self.subscription_ids.extend(publish.properties.subscription_ids.iter());
        }
        match publish.qos {
            QoS::AtLeastOnce => encode::puback(answers, VERSION, publish.packet_id, ok, None),
            QoS::ExactlyOnce => encode::pubrec(answers, VERSION, publish.packet_id, ok, None),
            QoS::AtMostOnce => {}
        }
    }
}
