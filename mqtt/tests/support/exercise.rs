//! Invariants that must hold for any bytes. The mutation test and the fuzz targets share them.

use ringlane_mqtt::{
    DecodeError, Frame, PACKET_BYTES_MAX, Packet, QoS, RawPacket, UserProperties, Version,
    connect_version, decode, decode_connect, decode_from_client, frame, topic,
};

pub(crate) const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

/// Cuts packets out of the bytes until they end, and decodes each in every way.
/// Returns how many packets were cut, and how many decodings succeeded.
pub(crate) fn decode_all(input: &[u8]) -> (usize, usize) {
    let (mut packets, mut decoded) = (0, 0);
    let mut rest = input;
    while let Some(raw) = cut(rest) {
        rest = &rest[raw.total_bytes..];
        packets += 1;
        decoded += VERSIONS.iter().filter(|&&version| decode_one(version, raw)).count();
        decoded += usize::from(connect_one(raw));
    }
    (packets, decoded)
}

/// The framing's promises about one input.
fn cut(input: &[u8]) -> Option<RawPacket<'_>> {
    match frame(input, PACKET_BYTES_MAX) {
        Ok(Frame::Complete(raw)) => {
            assert!(raw.total_bytes <= input.len());
            assert!(raw.body.len() < raw.total_bytes);
            assert_eq!(raw.header, input[0]);
            assert!(frame(input, raw.total_bytes).is_ok(), "exactly as large as allowed");
            assert!(frame(input, raw.total_bytes - 1).is_err(), "one byte too large");
            Some(raw)
        }
        Ok(Frame::Incomplete { needed }) => {
            assert!(needed > 0, "an incomplete packet needs something");
            None
        }
        Err(error) => {
            check_error(error);
            None
        }
    }
}

fn decode_one(version: Version, raw: RawPacket<'_>) -> bool {
    let packet = decode(version, raw);
    let from_client = decode_from_client(version, raw);
    match (packet, from_client) {
        (Ok(packet), Ok(same)) => assert_eq!(packet, same),
        (Ok(_), Err(error)) | (Err(error), Err(_)) => check_error(error),
        (Err(_), Ok(_)) => panic!("a client may send what nobody may"),
    }
    let Ok(packet) = packet else { return false };
    walk(&packet);
    true
}

fn connect_one(raw: RawPacket<'_>) -> bool {
    match decode_connect(raw) {
        Ok(connect) => {
            assert_eq!(connect_version(raw), Some(connect.version));
            walk(&Packet::Connect(connect));
            true
        }
        Err(error) => {
            check_error(error);
            false
        }
    }
}

/// An error names a failure and a statement.
fn check_error(error: DecodeError) {
    assert!(error.reason.is_error());
    assert_ne!(error.reason.name(), "unassigned");
    assert!(error.source.starts_with("MQTT"));
}

/// Reads every view of a packet to its end and checks what decoding has promised of it.
fn walk(packet: &Packet<'_>) {
    let user_properties = user_properties(packet);
    let pairs = user_properties.count();
    assert_eq!(user_properties.is_empty(), pairs == 0);
    assert!(user_properties.iter().all(|(name, value)| is_text(name) && is_text(value)));
    match packet {
        Packet::Subscribe(subscribe) => {
            assert_eq!(subscribe.filters.iter().count(), subscribe.filters.len());
            assert!(subscribe.filters.len() > 0);
            assert!(subscribe.filters.iter().all(|entry| is_filter(entry.filter)));
            assert!(subscribe.filters.iter().all(|entry| entry.retain_handling <= 2));
            assert_ne!(subscribe.subscription_id, Some(0));
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert_eq!(unsubscribe.filters.iter().count(), unsubscribe.filters.len());
            assert!(unsubscribe.filters.len() > 0);
            assert!(unsubscribe.filters.iter().all(is_filter));
        }
        Packet::Publish(publish) => {
            assert!(publish.properties.subscription_ids.iter().all(|id| id > 0));
            assert!(publish.topic.is_empty() || topic::is_valid_name(publish.topic));
            assert!(!publish.topic.is_empty() || publish.properties.topic_alias.is_some());
            assert_eq!(publish.packet_id == 0, publish.qos == QoS::AtMostOnce);
            assert_ne!(publish.properties.topic_alias, Some(0));
        }
        Packet::Connect(connect) => {
            assert!(is_text(connect.client_id));
            assert_ne!(connect.properties.receive_maximum, Some(0));
            assert!(connect.will.is_none_or(|will| topic::is_valid_name(will.topic)));
        }
        _ => {}
    }
}

fn user_properties<'a>(packet: &Packet<'a>) -> UserProperties<'a> {
    match packet {
        Packet::Connect(packet) => packet.properties.user_properties,
        Packet::Connack(packet) => packet.properties.user_properties,
        Packet::Publish(packet) => packet.properties.user_properties,
        Packet::Puback(ack) | Packet::Pubrec(ack) => ack.user_properties,
        Packet::Pubrel(ack) | Packet::Pubcomp(ack) => ack.user_properties,
        Packet::Subscribe(packet) => packet.user_properties,
        Packet::Suback(ack) | Packet::Unsuback(ack) => ack.user_properties,
        Packet::Unsubscribe(packet) => packet.user_properties,
        Packet::Pingreq | Packet::Pingresp => UserProperties::default(),
        Packet::Disconnect(packet) => packet.user_properties,
        Packet::Auth(packet) => packet.user_properties,
    }
}

fn is_text(text: &str) -> bool {
    !text.contains('\0')
}

fn is_filter(filter: &str) -> bool {
    !filter.is_empty() && is_text(filter)
}
