//! Encodes what was decoded, so that both directions can be held against each other.

use ringlane_mqtt::{
    Ack, Auth, Disconnect, Frame, PACKET_BYTES_MAX, Packet, Publish, RawPacket, ReasonCode, Suback,
    Subscribe, Unsubscribe, UserProperties, Version, decode, encode, frame,
};

/// Decodes, encodes, and decodes again: the packet must be the same, for every version.
pub(crate) fn round_trip(input: &[u8]) {
    let Some(raw) = complete(input) else { return };
    for version in [Version::V31, Version::V311, Version::V5] {
        let Ok(packet) = decode(version, raw) else { continue };
        let version = match &packet {
            Packet::Connect(connect) => connect.version,
            _ => version,
        };
        let bytes = reencode(version, &packet);
        let again = complete(&bytes).expect("an encoded packet is complete");
        assert_eq!(again.total_bytes, bytes.len(), "length of the encoded packet");
        assert!(again.minimal_length, "encoded lengths are minimal");
        let decoded = decode(version, again).expect("an encoded packet decodes");
        assert_eq!(comparable(packet), decoded, "{version:?} {bytes:02x?}");
    }
}

fn complete(input: &[u8]) -> Option<RawPacket<'_>> {
    match frame(input, PACKET_BYTES_MAX) {
        Ok(Frame::Complete(raw)) => Some(raw),
        _ => None,
    }
}

/// Encodes a decoded packet for the same version.
///
/// User properties of packets for which no encoder takes any are lost: see `comparable`.
fn reencode(version: Version, packet: &Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        Packet::Connect(connect) => encode::connect(&mut out, connect),
        Packet::Connack(connack) => encode::connack(
            &mut out,
            version,
            connack.session_present,
            connack.reason,
            &connack.properties,
        ),
        Packet::Publish(publish) => reencode_publish(version, publish, &mut out),
        Packet::Puback(a) => encode::puback(&mut out, version, a.packet_id, a.reason, text(a)),
        Packet::Pubrec(a) => encode::pubrec(&mut out, version, a.packet_id, a.reason, text(a)),
        Packet::Pubrel(a) => encode::pubrel(&mut out, version, a.packet_id, a.reason, text(a)),
        Packet::Pubcomp(a) => encode::pubcomp(&mut out, version, a.packet_id, a.reason, text(a)),
        Packet::Subscribe(subscribe) => {
            let filters: Vec<_> = subscribe.filters.iter().collect();
            let id = subscribe.subscription_id;
            encode::subscribe(&mut out, version, subscribe.packet_id, id, &filters);
        }
        Packet::Suback(suback) => {
            let reasons = codes(suback);
            encode::suback(&mut out, version, suback.packet_id, &reasons, suback.reason_string);
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<_> = unsubscribe.filters.iter().collect();
            encode::unsubscribe(&mut out, version, unsubscribe.packet_id, &filters);
        }
        Packet::Unsuback(unsuback) => {
            let (id, text) = (unsuback.packet_id, unsuback.reason_string);
            encode::unsuback(&mut out, version, id, &codes(unsuback), text);
        }
        Packet::Pingreq => encode::pingreq(&mut out),
        Packet::Pingresp => encode::pingresp(&mut out),
        Packet::Disconnect(d) => encode::disconnect(
            &mut out,
            version,
            d.reason,
            d.reason_string,
            d.server_reference,
            d.session_expiry_secs,
        ),
        Packet::Auth(a) => encode::auth(&mut out, a.reason, a.method, a.data, a.reason_string),
    }
    out
}

/// The packet without the user properties that no encoder takes.
fn comparable(packet: Packet<'_>) -> Packet<'_> {
    let user_properties = UserProperties::default();
    match packet {
        Packet::Puback(ack) => Packet::Puback(Ack { user_properties, ..ack }),
        Packet::Pubrec(ack) => Packet::Pubrec(Ack { user_properties, ..ack }),
        Packet::Pubrel(ack) => Packet::Pubrel(Ack { user_properties, ..ack }),
        Packet::Pubcomp(ack) => Packet::Pubcomp(Ack { user_properties, ..ack }),
        Packet::Subscribe(packet) => Packet::Subscribe(Subscribe { user_properties, ..packet }),
        Packet::Suback(ack) => Packet::Suback(Suback { user_properties, ..ack }),
        Packet::Unsubscribe(packet) => {
            Packet::Unsubscribe(Unsubscribe { user_properties, ..packet })
        }
        Packet::Unsuback(ack) => Packet::Unsuback(Suback { user_properties, ..ack }),
        Packet::Disconnect(packet) => Packet::Disconnect(Disconnect { user_properties, ..packet }),
        Packet::Auth(packet) => Packet::Auth(Auth { user_properties, ..packet }),
        other => other,
    }
}

fn reencode_publish(version: Version, publish: &Publish<'_>, out: &mut Vec<u8>) {
    let mut forwarded = Vec::new();
    publish.properties.write_forwarded(&mut forwarded);
    let subscription_ids: Vec<u32> = publish.properties.subscription_ids.iter().collect();
    let head = encode::PublishHead {
        version,
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        topic_alias: publish.properties.topic_alias,
        packet_id: publish.packet_id,
        message_expiry_secs: publish.properties.message_expiry_secs,
        subscription_ids: &subscription_ids,
        forwarded: &forwarded,
        payload_bytes: publish.payload.len(),
    };
    encode::publish_head(out, &head);
    if let Some(position) = encode::packet_id_position(&head) {
        assert_eq!(out[position..position + 2], publish.packet_id.to_be_bytes());
    }
    out.extend_from_slice(publish.payload);
    assert_eq!(out.len(), encode::publish_bytes(&head), "size of PUBLISH");
}

fn text<'a>(ack: &Ack<'a>) -> Option<&'a str> {
    ack.reason_string
}

fn codes(suback: &Suback<'_>) -> Vec<ReasonCode> {
    suback.reasons.iter().map(|&reason| ReasonCode(reason)).collect()
}
