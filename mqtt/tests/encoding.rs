//! Exact bytes of encoded packets, above all the forms in which the versions differ.

use ringlane_mqtt::{
    ConnackProperties, Connect, ConnectProperties, Frame, PACKET_BYTES_MAX, Packet,
    PublishProperties, QoS, ReasonCode, SubscribeFilter, Version, decode, encode, frame,
};

const V31: Version = Version::V31;
const V311: Version = Version::V311;
const V5: Version = Version::V5;

fn bytes(encoder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encoder(&mut out);
    out
}

fn decoded(version: Version, bytes: &[u8]) -> Packet<'_> {
    let Ok(Frame::Complete(raw)) = frame(bytes, PACKET_BYTES_MAX) else { panic!("not whole") };
    decode(version, raw).expect("an encoded packet decodes")
}

#[test]
fn connack_maps_reasons_to_the_return_codes_of_old_versions() {
    let cases = [
        (ReasonCode::SUCCESS, 0),
        (ReasonCode::UNSUPPORTED_PROTOCOL_VERSION, 1),
        (ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, 2),
        (ReasonCode::SERVER_UNAVAILABLE, 3),
        (ReasonCode::SERVER_BUSY, 3),
        (ReasonCode::BAD_USER_NAME_OR_PASSWORD, 4),
        (ReasonCode::NOT_AUTHORIZED, 5),
        (ReasonCode::QUOTA_EXCEEDED, 3),
    ];
    let properties = ConnackProperties { receive_maximum: Some(9), ..Default::default() };
    for (reason, code) in cases {
        for version in [V31, V311] {
            let out = bytes(|out| encode::connack(out, version, false, reason, &properties));
            assert_eq!(out, [0x20, 2, 0, code], "{reason}");
        }
        let out = bytes(|out| encode::connack(out, V5, false, reason, &properties));
        assert_eq!(out, [0x20, 6, 0, reason.0, 3, 0x21, 0, 9]);
    }
}

#[test]
fn session_present_is_unknown_to_mqtt_31() {
    let none = ConnackProperties::default();
    let flag =
        |version| bytes(|out| encode::connack(out, version, true, ReasonCode::SUCCESS, &none))[2];
    assert_eq!([flag(V31), flag(V311), flag(V5)], [0, 1, 1]);
}

#[test]
fn acknowledgements_take_the_shortest_form() {
    let failed = ReasonCode::QUOTA_EXCEEDED;
    let ok = ReasonCode::SUCCESS;
    let puback = |version, reason, text| bytes(|o| encode::puback(o, version, 258, reason, text));
    assert_eq!(puback(V311, failed, Some("why")), [0x40, 2, 1, 2]);
    assert_eq!(puback(V5, ok, None), [0x40, 2, 1, 2]);
    assert_eq!(puback(V5, failed, None), [0x40, 3, 1, 2, 0x97]);
    assert_eq!(puback(V5, failed, Some("x")), [0x40, 8, 1, 2, 0x97, 4, 0x1F, 0, 1, b'x']);
    assert_eq!(puback(V5, ok, Some("x")), [0x40, 8, 1, 2, 0, 4, 0x1F, 0, 1, b'x']);
    assert_eq!(bytes(|out| encode::pubrec(out, V5, 1, ok, None)), [0x50, 2, 0, 1]);
    assert_eq!(bytes(|out| encode::pubrel(out, V5, 1, ok, None)), [0x62, 2, 0, 1]);
    assert_eq!(bytes(|out| encode::pubcomp(out, V5, 1, ok, None)), [0x70, 2, 0, 1]);
    let unknown = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
    assert_eq!(bytes(|out| encode::pubrel(out, V31, 1, unknown, None)), [0x62, 2, 0, 1]);
    assert_eq!(bytes(|out| encode::pubcomp(out, V5, 1, unknown, None)), [0x70, 3, 0, 1, 0x92]);
}

#[test]
fn subscription_acknowledgements_differ_by_version() {
    let reasons = [ReasonCode::GRANTED_QOS_1, ReasonCode::NOT_AUTHORIZED];
    let suback = |version| bytes(|out| encode::suback(out, version, 1, &reasons, Some("x")));
    assert_eq!(suback(V31), [0x90, 4, 0, 1, 1, 0x80]);
    assert_eq!(suback(V311), [0x90, 4, 0, 1, 1, 0x80]);
    assert_eq!(suback(V5), [0x90, 9, 0, 1, 4, 0x1F, 0, 1, b'x', 1, 0x87]);
    let reasons = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
    let unsuback = |version| bytes(|out| encode::unsuback(out, version, 1, &reasons, None));
    assert_eq!(unsuback(V311), [0xB0, 2, 0, 1]);
    assert_eq!(unsuback(V5), [0xB0, 5, 0, 1, 0, 0, 0x11]);
}

#[test]
fn only_mqtt_5_has_a_disconnect_with_a_reason() {
    let disconnect = |version, reason| {
        bytes(|out| encode::disconnect(out, version, reason, Some("x"), None, None))
    };
    assert_eq!(disconnect(V311, ReasonCode::NORMAL_DISCONNECTION), [0xE0, 0]);
    assert_eq!(disconnect(V311, ReasonCode::SERVER_SHUTTING_DOWN), []);
    assert_eq!(disconnect(V31, ReasonCode::SESSION_TAKEN_OVER), []);
    let taken_over = ReasonCode::SESSION_TAKEN_OVER;
    assert_eq!(disconnect(V5, taken_over), [0xE0, 6, 0x8E, 4, 0x1F, 0, 1, b'x']);
    let plain = |reason| bytes(|out| encode::disconnect(out, V5, reason, None, None, None));
    assert_eq!(plain(taken_over), [0xE0, 2, 0x8E, 0]);
    assert_eq!(plain(ReasonCode::NORMAL_DISCONNECTION), [0xE0, 0]);
    let normal = ReasonCode::NORMAL_DISCONNECTION;
    let expiry = bytes(|out| encode::disconnect(out, V5, normal, None, None, Some(10)));
    assert_eq!(expiry, [0xE0, 7, 0, 5, 0x11, 0, 0, 0, 10]);
}

#[test]
fn auth_and_pings_have_their_short_forms() {
    let auth = bytes(|out| encode::auth(out, ReasonCode::SUCCESS, None, None, None));
    assert_eq!(auth, [0xF0, 0]);
    let again = ReasonCode::RE_AUTHENTICATE;
    let auth = bytes(|out| encode::auth(out, again, Some("m"), Some(&[7]), None));
    assert_eq!(auth, [0xF0, 10, 0x19, 8, 0x15, 0, 1, b'm', 0x16, 0, 1, 7]);
    assert_eq!(bytes(encode::pingreq), [0xC0, 0]);
    assert_eq!(bytes(encode::pingresp), [0xD0, 0]);
}

#[test]
fn requests_carry_options_only_in_mqtt_5() {
    let filter = SubscribeFilter {
        filter: "t",
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: 2,
    };
    let subscribe = |version| bytes(|out| encode::subscribe(out, version, 1, Some(300), &[filter]));
    assert_eq!(subscribe(V311), [0x82, 6, 0, 1, 0, 1, b't', 2]);
    assert_eq!(subscribe(V5), [0x82, 10, 0, 1, 3, 0x0B, 0xAC, 2, 0, 1, b't', 0x2E]);
    let unsubscribe = |version| bytes(|out| encode::unsubscribe(out, version, 1, &["t"]));
    assert_eq!(unsubscribe(V31), [0xA2, 5, 0, 1, 0, 1, b't']);
    assert_eq!(unsubscribe(V5), [0xA2, 6, 0, 1, 0, 0, 1, b't']);
}

#[test]
fn connect_names_its_version() {
    let connect = |version| Connect {
        version,
        clean_start: true,
        keep_alive_secs: 60,
        client_id: "c",
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    let out = bytes(|out| encode::connect(out, &connect(V31)));
    assert_eq!(out, b"\x10\x0f\0\x06MQIsdp\x03\x02\0\x3c\0\x01c");
    let out = bytes(|out| encode::connect(out, &connect(V311)));
    assert_eq!(out, b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c");
    let out = bytes(|out| encode::connect(out, &connect(V5)));
    assert_eq!(out, b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01c");
}

fn head(version: Version, payload_bytes: usize) -> encode::PublishHead<'static> {
    encode::PublishHead {
        version,
        dup: true,
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "t",
        topic_alias: Some(5),
        packet_id: 0x0102,
        message_expiry_secs: Some(9),
        subscription_ids: &[1, 300],
        forwarded: &[0x01, 1],
        payload_bytes,
    }
}

#[test]
fn publish_heads_are_complete_but_for_the_payload() {
    let out = bytes(|out| encode::publish_head(out, &head(V311, 3)));
    assert_eq!(out, [0x3B, 8, 0, 1, b't', 1, 2]);
    assert_eq!(encode::publish_bytes(&head(V311, 3)), 10);
    assert_eq!(encode::packet_id_position(&head(V311, 3)), Some(5));

    let out = bytes(|out| encode::publish_head(out, &head(V5, 0)));
    let properties = [2, 0, 0, 0, 9, 0x23, 0, 5, 0x0B, 1, 0x0B, 0xAC, 2, 0x01, 1];
    assert_eq!(out[..8], [0x3B, 21, 0, 1, b't', 1, 2, 15]);
    assert_eq!(out[8..], properties);

    let quiet = encode::PublishHead { qos: QoS::AtMostOnce, dup: false, ..head(V311, 0) };
    assert_eq!(bytes(|out| encode::publish_head(out, &quiet)), [0x31, 3, 0, 1, b't']);
    assert_eq!(encode::packet_id_position(&quiet), None);
}

#[test]
fn sizes_hold_at_every_length_of_the_length() {
    for total_payload in [0, 100, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 3_000_000] {
        for version in [V311, V5] {
            let head = head(version, total_payload);
            let out = bytes(|out| encode::publish_head(out, &head));
            assert_eq!(out.len() + total_payload, encode::publish_bytes(&head));
            let position = encode::packet_id_position(&head).expect("QoS 1");
            assert_eq!(out[position..position + 2], [1, 2]);
        }
    }
}

#[test]
fn bodies_and_blocks_above_127_bytes_get_longer_lengths() {
    let text = "x".repeat(20_000);
    let full = ReasonCode::QUOTA_EXCEEDED;
    let out = bytes(|out| encode::puback(out, V5, 1, full, Some(&text)));
    let Packet::Puback(ack) = decoded(V5, &out) else { panic!("PUBACK") };
    assert_eq!(ack.reason_string, Some(text.as_str()));
    assert_eq!(out.len(), 1 + 3 + 3 + 3 + 3 + 20_000);
}

#[test]
fn fields_above_the_format_are_cut_at_a_character() {
    let text = "\u{e9}".repeat(40_000);
    let full = ReasonCode::QUOTA_EXCEEDED;
    let out = bytes(|out| encode::puback(out, V5, 1, full, Some(&text)));
    let Packet::Puback(ack) = decoded(V5, &out) else { panic!("PUBACK") };
    let kept = ack.reason_string.expect("a reason");
    assert_eq!(kept.len(), 65_534);
    assert!(text.starts_with(kept));
    let topic = "t".repeat(70_000);
    let head = encode::PublishHead { topic: &topic, ..head(V311, 0) };
    let out = bytes(|out| encode::publish_head(out, &head));
    assert_eq!(out.len(), encode::publish_bytes(&head));
    let Packet::Publish(publish) = decoded(V311, &out) else { panic!("PUBLISH") };
    assert_eq!(publish.topic.len(), 65_535);
}

/// Every property a PUBLISH or a will may hold, in an order of no system.
const BLOCK: [&[u8]; 10] = [
    &[0x26, 0, 1, b'k', 0, 1, b'1'],
    &[0x02, 0, 0, 0, 60],
    &[0x03, 0, 1, b'c'],
    &[0x23, 0, 1],
    &[0x0B, 1],
    &[0x09, 0, 1, 0xFF],
    &[0x0B, 0xAC, 2],
    &[0x08, 0, 1, b'r'],
    &[0x01, 1],
    &[0x26, 0, 1, b'k', 0, 1, b'2'],
];

#[test]
fn what_belongs_to_the_sender_alone_is_not_forwarded() {
    let block = BLOCK.concat();
    let length = [u8::try_from(block.len()).expect("short")];
    let body = [&[0, 1, b't'], &length[..], &block].concat();
    let packet = [&[0x30, u8::try_from(body.len()).expect("short")], &body[..]].concat();
    let Packet::Publish(publish) = decoded(V5, &packet) else { panic!("PUBLISH") };
    let expected: Vec<u8> = BLOCK
        .iter()
        .filter(|property| !matches!(property[0], 0x02 | 0x23 | 0x0B))
        .flat_map(|property| property.iter().copied())
        .collect();
    assert_eq!(bytes(|out| publish.properties.write_forwarded(out)), expected);
    let users: Vec<_> = publish.properties.user_properties.iter().collect();
    assert_eq!(users, [("k", "1"), ("k", "2")]);
    assert_eq!(publish.properties.subscription_ids.iter().collect::<Vec<_>>(), [1, 300]);
}

#[test]
fn the_delay_of_a_will_is_not_forwarded() {
    let block = b"\x18\0\0\0\x05\x01\x01\x26\0\x01k\0\x01v";
    let packet =
        [&b"\x10\x23\0\x04MQTT\x05\x06\0\x3c\0\0\x01c\x0e"[..], block, b"\0\x01w\0\x01p"].concat();
    let Packet::Connect(connect) = decoded(V5, &packet) else { panic!("CONNECT") };
    let will = connect.will.expect("a will");
    assert_eq!(will.delay_secs, 5);
    let forwarded = bytes(|out| will.properties.write_forwarded(out));
    assert_eq!(forwarded, [0x01, 1, 0x26, 0, 1, b'k', 0, 1, b'v']);
}

#[test]
fn nothing_is_forwarded_from_nothing() {
    assert!(bytes(|out| PublishProperties::default().write_forwarded(out)).is_empty());
}

#[test]
fn numbers_and_names_of_versions_levels_and_reasons() {
    assert_eq!([V31.level(), V311.level(), V5.level()], [3, 4, 5]);
    assert_eq!((0..5).map(QoS::from_u8).filter(Option::is_some).count(), 3);
    assert!(QoS::AtMostOnce < QoS::ExactlyOnce);
    assert_eq!(ReasonCode::PACKET_TOO_LARGE.to_string(), "0x95 packet too large");
    assert_eq!(ReasonCode(0x7F).name(), "unassigned");
    assert!(ReasonCode::UNSPECIFIED_ERROR.is_error());
    assert!(!ReasonCode::RE_AUTHENTICATE.is_error());
    assert!(ringlane_mqtt::is_utf8(b"a\0\xc3\xa9") && !ringlane_mqtt::is_utf8(b"\xff"));
}
