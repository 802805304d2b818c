//! A client of the model: it writes packets, answers what it has to answer, and remembers.

use super::node::Node;
use ringlane_mqtt::{
    Ack, Connect, ConnectProperties, Frame, Packet, Publish, QoS, ReasonCode, SubscribeFilter,
    Version, decode, encode, frame,
};
use std::collections::HashSet;

/// A message as a client received it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
}

pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) version: Version,
    pub(crate) wire: Option<usize>,
    pub(crate) connected: bool,
    pub(crate) session_present: bool,
    pub(crate) received: Vec<Received>,
    pub(crate) subacks: usize,
    /// Packet identifiers of own publishes that were acknowledged.
    pub(crate) acknowledged: HashSet<u16>,
    pub(crate) next_packet_id: u16,
    /// Whether it acknowledges what it receives.
    pub(crate) answers: bool,
    pub(crate) disconnect_reason: Option<ReasonCode>,
    qos2_seen: HashSet<u16>,
}

impl Client {
    pub(crate) fn new(id: &str, version: Version) -> Self {
        Self {
            id: id.to_owned(),
            version,
            wire: None,
            connected: false,
            session_present: false,
            received: Vec::new(),
            subacks: 0,
            acknowledged: HashSet::new(),
            next_packet_id: 0,
            answers: true,
            disconnect_reason: None,
            qos2_seen: HashSet::new(),
        }
    }

    /// Opens a socket on `core` and writes CONNECT.
    pub(crate) fn connect(&mut self, node: &mut Node, core: usize, clean: bool) {
        let wire = node.connect(core);
        self.wire = Some(wire);
        self.connected = false;
        if clean {
            self.qos2_seen.clear();
        }
        let properties = ConnectProperties {
            session_expiry_secs: (self.version.is_v5() && !clean).then_some(3600),
            ..ConnectProperties::default()
        };
        let connect = Connect {
            version: self.version,
            clean_start: clean,
            keep_alive_secs: 0,
            client_id: &self.id,
            will: None,
            user_name: None,
            password: None,
            properties,
        };
        self.write(node, |out| encode::connect(out, &connect));
    }

    pub(crate) fn write(&self, node: &mut Node, encode: impl FnOnce(&mut Vec<u8>)) {
        let Some(wire) = self.wire else { return };
        let mut bytes = Vec::new();
        encode(&mut bytes);
        node.wires[wire].to_broker.extend(bytes);
    }

    pub(crate) fn subscribe(&mut self, node: &mut Node, filter: &str, qos: QoS) {
        let filters = [SubscribeFilter {
            filter,
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: 0,
        }];
        let (version, packet_id) = (self.version, self.fresh());
        self.write(node, |out| encode::subscribe(out, version, packet_id, None, &filters));
    }

    /// Returns the packet identifier.
    pub(crate) fn publish(
        &mut self,
        node: &mut Node,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        retain: bool,
    ) -> u16 {
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { self.fresh() };
        let head = encode::PublishHead {
            version: self.version,
            dup: false,
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
        self.write(node, |out| {
            encode::publish_head(out, &head);
            out.extend_from_slice(payload);
        });
        packet_id
    }

    fn fresh(&mut self) -> u16 {
        self.next_packet_id = self.next_packet_id.checked_add(1).unwrap_or(1);
        self.next_packet_id
    }

    /// Reads what arrived and answers it.
    pub(crate) fn read(&mut self, node: &mut Node) {
        let Some(wire) = self.wire else { return };
        let bytes = std::mem::take(&mut node.wires[wire].from_broker);
        let mut rest = &bytes[..];
        let mut answers = Vec::new();
        while let Ok(Frame::Complete(raw)) = frame(rest, 1 << 24) {
            let packet = decode(self.version, raw).expect("the broker writes valid packets");
            self.take(packet, &mut answers);
            rest = &rest[raw.total_bytes..];
        }
        node.wires[wire].from_broker.splice(0..0, rest.iter().copied());
        node.wires[wire].to_broker.extend(answers);
        if node.wires[wire].closed {
            self.wire = None;
            self.connected = false;
        }
    }

    fn take(&mut self, packet: Packet<'_>, answers: &mut Vec<u8>) {
        let version = self.version;
        let ok = ReasonCode::SUCCESS;
        match packet {
            Packet::Connack(connack) => {
                assert_eq!(connack.reason.0, 0, "refused");
                self.connected = true;
                self.session_present = connack.session_present;
            }
            Packet::Publish(publish) => self.take_publish(&publish, answers),
            Packet::Pubrel(Ack { packet_id, .. }) => {
                self.qos2_seen.remove(&packet_id);
                encode::pubcomp(answers, version, packet_id, ok, None);
            }
            Packet::Puback(ack) => {
                assert!(!ack.reason.is_error(), "{:?}", ack.reason);
                self.acknowledged.insert(ack.packet_id);
            }
            Packet::Pubrec(ack) => {
                assert!(!ack.reason.is_error(), "{:?}", ack.reason);
                self.acknowledged.insert(ack.packet_id);
                encode::pubrel(answers, version, ack.packet_id, ok, None);
            }
            Packet::Suback(_) => self.subacks += 1,
            Packet::Disconnect(disconnect) => self.disconnect_reason = Some(disconnect.reason),
            Packet::Pubcomp(_) | Packet::Unsuback(_) | Packet::Pingresp => {}
            other => panic!("a broker does not send {other:?}"),
        }
    }

    fn take_publish(&mut self, publish: &Publish<'_>, answers: &mut Vec<u8>) {
        let ok = ReasonCode::SUCCESS;
        let first = match publish.qos {
            QoS::ExactlyOnce => self.qos2_seen.insert(publish.packet_id),
            _ => true,
        };
        if first {
            self.received.push(Received {
                topic: publish.topic.to_owned(),
                payload: publish.payload.to_vec(),
                qos: publish.qos as u8,
                retain: publish.retain,
                dup: publish.dup,
            });
        }
        match publish.qos {
            QoS::AtLeastOnce if self.answers => {
                encode::puback(answers, self.version, publish.packet_id, ok, None);
            }
            QoS::ExactlyOnce if self.answers => {
                encode::pubrec(answers, self.version, publish.packet_id, ok, None);
            }
            _ => {}
        }
    }
}
