//! Whatever is encoded decodes to the same packet, for every packet type and version.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use ringlane_mqtt::{
    Ack, Auth, Connack, ConnackProperties, Connect, ConnectProperties, Disconnect, Frame,
    PACKET_BYTES_MAX, Packet, Publish, PublishProperties, QoS, RawPacket, ReasonCode, Suback,
    SubscribeFilter, SubscriptionIds, UserProperties, Version, Will, decode, encode, frame,
};

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3u8).prop_map(|level| QoS::from_u8(level).expect("below 3"))
}

/// Any string without U+0000, wildcards included.
fn text() -> impl Strategy<Value = String> {
    "[a-z/+#$\u{1}\u{e9}\u{ffff}\u{1f600}]{0,12}"
}

fn name() -> impl Strategy<Value = String> {
    "[a-z/$\u{e9}\u{1f600}]{1,12}"
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..20)
}

/// User properties in wire form.
fn user() -> impl Strategy<Value = Vec<u8>> {
    vec((text(), text()), 0..4).prop_map(|pairs| {
        let mut out = Vec::new();
        pairs.iter().for_each(|(name, value)| encode::user_property(&mut out, name, value));
        out
    })
}

fn reason(codes: &'static [u8]) -> impl Strategy<Value = ReasonCode> {
    prop::sample::select(codes).prop_map(ReasonCode)
}

fn packet(encoder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0xAA];
    encoder(&mut out);
    // Encoders append: what was there stays.
    assert_eq!(out.remove(0), 0xAA);
    out
}

fn complete(bytes: &[u8]) -> RawPacket<'_> {
    match frame(bytes, bytes.len()) {
        Ok(Frame::Complete(raw)) => {
            assert_eq!(raw.total_bytes, bytes.len());
            assert!(raw.minimal_length);
            raw
        }
        other => panic!("not a whole packet: {other:?}"),
    }
}

fn decoded(version: Version, bytes: &[u8]) -> Packet<'_> {
    decode(version, complete(bytes)).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"))
}

/// Owned values of the properties of a message.
type Message = (Option<u8>, Option<u32>, Option<String>, Option<Vec<u8>>, Option<String>, Vec<u8>);

fn message() -> impl Strategy<Value = Message> {
    let format = option::of(0..2u8);
    let expiry = option::of(any::<u32>());
    let texts = (option::of(name()), option::of(bytes()), option::of(text()));
    (format, expiry, texts, user()).prop_map(|(format, expiry, (topic, data, content), user)| {
        (format, expiry, topic, data, content, user)
    })
}

fn properties(message: &Message) -> PublishProperties<'_> {
    let (format, expiry, topic, data, content, user) = message;
    PublishProperties {
        payload_format: *format,
        message_expiry_secs: *expiry,
        response_topic: topic.as_deref(),
        correlation_data: data.as_deref(),
        content_type: content.as_deref(),
        user_properties: UserProperties::from_wire(user),
        ..PublishProperties::default()
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn publish(
        version in version(), qos in qos(), retain: bool, dup: bool, topic in name(),
        alias in option::of(1..=u16::MAX), packet_id in 1..=u16::MAX, message in message(),
        ids in vec(1..=268_435_455u32, 0..3), payload in bytes(),
    ) {
        let dup = dup && qos != QoS::AtMostOnce;
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { packet_id };
        let mut forwarded = Vec::new();
        encode::forwarded(&mut forwarded, &properties(&message));
        let head = encode::PublishHead {
            version, dup, qos, retain, topic: &topic, topic_alias: alias, packet_id,
            message_expiry_secs: message.1, subscription_ids: &ids, forwarded: &forwarded,
            payload_bytes: payload.len(),
        };
        let bytes = packet(|out| {
            encode::publish_head(out, &head);
            out.extend_from_slice(&payload);
        });
        prop_assert_eq!(bytes.len(), encode::publish_bytes(&head));
        let position = encode::packet_id_position(&head);
        prop_assert_eq!(position.is_some(), qos != QoS::AtMostOnce);
        if let Some(position) = position {
            prop_assert_eq!(&bytes[position..position + 2], &packet_id.to_be_bytes());
        }
        let expected = PublishProperties { topic_alias: alias, ..properties(&message) };
        let properties = if version.is_v5() { expected } else { PublishProperties::default() };
        let topic = topic.as_str();
        let payload = payload.as_slice();
        let expected = Publish { dup, qos, retain, topic, packet_id, properties, payload };
        let Packet::Publish(publish) = decoded(version, &bytes) else { panic!("not PUBLISH") };
        let subscription_ids = SubscriptionIds::default();
        let properties = PublishProperties { subscription_ids, ..publish.properties };
        prop_assert_eq!(Publish { properties, ..publish }, expected);
        if version.is_v5() {
            prop_assert!(publish.properties.subscription_ids.iter().eq(ids.iter().copied()));
            let mut again = Vec::new();
            publish.properties.write_forwarded(&mut again);
            prop_assert_eq!(again, forwarded);
        }
    }

    #[test]
    fn connect(
        version in version(), clean_start: bool, keep_alive_secs: u16, client_id in "[a-z]{1,30}",
        will in option::of((qos(), any::<bool>(), name(), bytes(), any::<u32>(), message())),
        user_name in option::of(text()), password in option::of(bytes()),
        numbers in (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(1..=u32::MAX),
            option::of(any::<u16>())),
        flags: (bool, bool), user in user(), method in option::of((text(), option::of(bytes()))),
    ) {
        let v5 = version.is_v5();
        let will = will.as_ref().map(|(qos, retain, topic, payload, delay, message)| Will {
            qos: *qos, retain: *retain, topic, payload,
            delay_secs: if v5 { *delay } else { 0 },
            properties: if v5 { properties(message) } else { PublishProperties::default() },
        });
        let properties = ConnectProperties {
            session_expiry_secs: numbers.0,
            receive_maximum: numbers.1,
            packet_bytes_max: numbers.2,
            topic_alias_maximum: numbers.3,
            request_response_information: flags.0,
            request_problem_information: flags.1,
            user_properties: UserProperties::from_wire(&user),
            authentication_method: method.as_ref().map(|(method, _)| method.as_str()),
            authentication_data: method.as_ref().and_then(|(_, data)| data.as_deref()),
        };
        let properties = if v5 { properties } else { ConnectProperties::default() };
        let password = password.as_deref().filter(|_| v5 || user_name.is_some());
        let connect = Connect {
            version, clean_start, keep_alive_secs, client_id: &client_id, will,
            user_name: user_name.as_deref(), password, properties,
        };
        let bytes = packet(|out| encode::connect(out, &connect));
        prop_assert_eq!(decoded(version, &bytes), Packet::Connect(connect));
        prop_assert_eq!(ringlane_mqtt::connect_version(complete(&bytes)), Some(version));
    }

    #[test]
    fn connack(
        session_present: bool, reason in reason(&[0, 0x80, 0x84, 0x8A, 0x8C, 0x95, 0x9F]),
        numbers in (option::of(any::<u32>()), option::of(1..=u16::MAX), option::of(0..2u8),
            option::of(1..=u32::MAX), option::of(any::<u16>()), option::of(any::<u16>())),
        flags: [Option<bool>; 4], texts in vec(option::of(text()), 5), data in option::of(bytes()),
        user in user(),
    ) {
        let session_present = session_present && !reason.is_error();
        let properties = ConnackProperties {
            session_expiry_secs: numbers.0,
            receive_maximum: numbers.1,
            maximum_qos: numbers.2,
            retain_available: flags[0],
            packet_bytes_max: numbers.3,
            assigned_client_id: texts[0].as_deref(),
            topic_alias_maximum: numbers.4,
            reason_string: texts[1].as_deref(),
            user_properties: UserProperties::from_wire(&user),
            wildcard_available: flags[1],
            subscription_ids_available: flags[2],
            shared_available: flags[3],
            server_keep_alive_secs: numbers.5,
            response_information: texts[2].as_deref(),
            server_reference: texts[3].as_deref(),
            authentication_method: texts[4].as_deref(),
            authentication_data: data.as_deref(),
        };
        let bytes = packet(|out| {
            encode::connack(out, Version::V5, session_present, reason, &properties);
        });
        let expected = Connack { session_present, reason, properties };
        prop_assert_eq!(decoded(Version::V5, &bytes), Packet::Connack(expected));
    }

    #[test]
    fn acknowledgements(
        version in version(), packet_id in 1..=u16::MAX, receipt in reason(&[0, 0x10, 0x80, 0x99]),
        release in reason(&[0, 0x92]), text in option::of(text()),
    ) {
        let text = text.as_deref();
        let v5 = version.is_v5();
        let expected = |reason| Ack {
            packet_id,
            reason: if v5 { reason } else { ReasonCode::SUCCESS },
            reason_string: text.filter(|_| v5),
            user_properties: UserProperties::default(),
        };
        let bytes = packet(|out| encode::puback(out, version, packet_id, receipt, text));
        prop_assert_eq!(decoded(version, &bytes), Packet::Puback(expected(receipt)));
        let bytes = packet(|out| encode::pubrec(out, version, packet_id, receipt, text));
        prop_assert_eq!(decoded(version, &bytes), Packet::Pubrec(expected(receipt)));
        let bytes = packet(|out| encode::pubrel(out, version, packet_id, release, text));
        prop_assert_eq!(decoded(version, &bytes), Packet::Pubrel(expected(release)));
        let bytes = packet(|out| encode::pubcomp(out, version, packet_id, release, text));
        prop_assert_eq!(decoded(version, &bytes), Packet::Pubcomp(expected(release)));
    }

    #[test]
    fn subscriptions(
        version in version(), packet_id in 1..=u16::MAX, id in option::of(1..=268_435_455u32),
        entries in vec(("[a-z/+#\u{e9}]{1,8}", qos(), any::<(bool, bool)>(), 0..3u8), 1..5),
    ) {
        let v5 = version.is_v5();
        let filters: Vec<_> = entries.iter().map(|(filter, qos, flags, retain_handling)| {
            SubscribeFilter {
                filter, qos: *qos, no_local: flags.0 && v5, retain_as_published: flags.1 && v5,
                retain_handling: if v5 { *retain_handling } else { 0 },
            }
        }).collect();
        let bytes = packet(|out| encode::subscribe(out, version, packet_id, id, &filters));
        let Packet::Subscribe(subscribe) = decoded(version, &bytes) else { panic!("SUBSCRIBE") };
        prop_assert_eq!(subscribe.packet_id, packet_id);
        prop_assert_eq!(subscribe.subscription_id, id.filter(|_| v5));
        prop_assert_eq!(subscribe.filters.len(), filters.len());
        prop_assert_eq!(subscribe.filters.iter().collect::<Vec<_>>(), filters.clone());
        let names: Vec<_> = filters.iter().map(|entry| entry.filter).collect();
        let bytes = packet(|out| encode::unsubscribe(out, version, packet_id, &names));
        let Packet::Unsubscribe(packet) = decoded(version, &bytes) else { panic!("UNSUBSCRIBE") };
        prop_assert_eq!(packet.packet_id, packet_id);
        prop_assert_eq!(packet.filters.iter().collect::<Vec<_>>(), names);
    }

    #[test]
    fn subscription_acknowledgements(
        version in version(), packet_id in 1..=u16::MAX, text in option::of(text()),
        granted in vec(reason(&[0, 1, 2, 0x80, 0x87, 0x8F, 0xA2]), 1..6),
        removed in vec(reason(&[0, 0x11, 0x80, 0x91]), 1..6),
    ) {
        let v5 = version.is_v5();
        let text = text.as_deref();
        let expected = |reasons| Suback {
            packet_id, reasons, reason_string: text.filter(|_| v5),
            user_properties: UserProperties::default(),
        };
        let bytes = packet(|out| encode::suback(out, version, packet_id, &granted, text));
        let codes: Vec<u8> =
            granted.iter().map(|code| if v5 { code.0 } else { code.0.min(0x80) }).collect();
        prop_assert_eq!(decoded(version, &bytes), Packet::Suback(expected(&codes)));
        let bytes = packet(|out| encode::unsuback(out, version, packet_id, &removed, text));
        let codes: Vec<u8> = removed.iter().map(|code| code.0).filter(|_| v5).collect();
        prop_assert_eq!(decoded(version, &bytes), Packet::Unsuback(expected(&codes)));
    }

    #[test]
    fn disconnect_and_auth(
        reason in reason(&[0, 4, 0x81, 0x8E, 0x9D, 0xA2]), texts in vec(option::of(text()), 2),
        session_expiry_secs in option::of(any::<u32>()), method in text(),
        data in option::of(bytes()), step in reason(&[0, 0x18, 0x19]),
    ) {
        let (reason_string, server_reference) = (texts[0].as_deref(), texts[1].as_deref());
        let user_properties = UserProperties::default();
        let bytes = packet(|out| encode::disconnect(
            out, Version::V5, reason, reason_string, server_reference, session_expiry_secs,
        ));
        let expected = Disconnect {
            reason, session_expiry_secs, reason_string, server_reference, user_properties,
        };
        prop_assert_eq!(decoded(Version::V5, &bytes), Packet::Disconnect(expected));
        let data = data.as_deref();
        let bytes = packet(|out| encode::auth(out, step, Some(&method), data, reason_string));
        let method = Some(method.as_str());
        let expected = Auth { reason: step, method, data, reason_string, user_properties };
        prop_assert_eq!(decoded(Version::V5, &bytes), Packet::Auth(expected));
    }

    #[test]
    fn every_prefix_of_a_packet_is_incomplete(payload_bytes in 0..40_000usize, behind in bytes()) {
        let head = encode::PublishHead {
            version: Version::V5, dup: false, qos: QoS::AtLeastOnce, retain: false, topic: "a/b",
            topic_alias: None, packet_id: 1, message_expiry_secs: Some(1), subscription_ids: &[],
            forwarded: &[], payload_bytes,
        };
        let mut bytes = packet(|out| encode::publish_head(out, &head));
        bytes.resize(bytes.len() + payload_bytes, b'x');
        let total = bytes.len();
        for cut in (0..total.min(12)).chain([total / 2, total - 1]) {
            let Ok(Frame::Incomplete { needed }) = frame(&bytes[..cut], PACKET_BYTES_MAX) else {
                panic!("complete after {cut} of {total} bytes");
            };
            prop_assert!((1..=total - cut).contains(&needed));
        }
        bytes.extend_from_slice(&behind);
        let Ok(Frame::Complete(raw)) = frame(&bytes, total) else { panic!("complete") };
        prop_assert_eq!(raw.total_bytes, total);
        let refused = frame(&bytes[..5], total - 1).map_err(|error| error.reason);
        prop_assert_eq!(refused, Err(ReasonCode::PACKET_TOO_LARGE));
    }
}
