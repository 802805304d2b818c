//! One full packet of every type and version, with every field and property in use.

use ringlane_mqtt::{
    ConnackProperties, Connect, ConnectProperties, PublishProperties, QoS, ReasonCode,
    SubscribeFilter, UserProperties, Version, Will, encode,
};

/// The packets as bytes, each with the version it belongs to.
pub(crate) fn samples() -> Vec<(Version, Vec<u8>)> {
    let mut samples = Vec::new();
    for version in [Version::V31, Version::V311, Version::V5] {
        let packets = [connections(version), messages(version), acknowledgements(version)];
        samples.extend(packets.into_iter().flatten().map(|packet| (version, packet)));
    }
    samples
}

fn packet(encoder: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encoder(&mut out);
    out
}

fn user_properties() -> Vec<u8> {
    packet(|out| {
        encode::user_property(out, "name", "value");
        encode::user_property(out, "name", "päivää");
    })
}

fn connections(version: Version) -> Vec<Vec<u8>> {
    let user = user_properties();
    let user_properties = UserProperties::from_wire(&user);
    let will = Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic: "will/topic",
        payload: b"gone",
        delay_secs: 5,
        properties: message_properties(user_properties),
    };
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive_secs: 60,
        client_id: "client",
        will: Some(will),
        user_name: Some("user"),
        password: Some(b"secret"),
        properties: connect_properties(user_properties),
    };
    let plain = Connect { will: None, user_name: None, password: None, ..connect };
    let connack = connack_properties(user_properties);
    let mut packets = vec![
        packet(|out| encode::connect(out, &connect)),
        packet(|out| encode::connect(out, &plain)),
        packet(|out| encode::connack(out, version, true, ReasonCode::SUCCESS, &connack)),
        packet(encode::pingreq),
        packet(encode::pingresp),
        packet(|out| {
            encode::disconnect(out, version, ReasonCode::NORMAL_DISCONNECTION, None, None, Some(9));
        }),
    ];
    if version.is_v5() {
        let continues = ReasonCode::CONTINUE_AUTHENTICATION;
        packets.push(packet(|out| {
            encode::auth(out, continues, Some("SCRAM"), Some(b"data"), Some("more"));
        }));
        packets.push(packet(|out| {
            let moved = ReasonCode::SERVER_MOVED;
            encode::disconnect(out, version, moved, Some("moved"), Some("other:1883"), None);
        }));
    }
    packets
}

fn messages(version: Version) -> Vec<Vec<u8>> {
    let user = user_properties();
    let properties = message_properties(UserProperties::from_wire(&user));
    let forwarded = packet(|out| encode::forwarded(out, &properties));
    let levels = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let publishes = levels.map(|qos| {
        packet(|out| {
            let head = encode::PublishHead {
                version,
                dup: qos == QoS::ExactlyOnce,
                qos,
                retain: qos == QoS::AtLeastOnce,
                topic: "factory/line/3",
                topic_alias: (qos == QoS::AtLeastOnce).then_some(7),
                packet_id: 0x1234,
                message_expiry_secs: Some(60),
                subscription_ids: if qos == QoS::ExactlyOnce { &[1, 300] } else { &[] },
                forwarded: &forwarded,
                payload_bytes: 4,
            };
            encode::publish_head(out, &head);
            out.extend_from_slice(b"21.5");
        })
    });
    let filter = SubscribeFilter {
        filter: "factory/+/#",
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: 2,
    };
    let shared = SubscribeFilter { filter: "$share/group/a/b", no_local: false, ..filter };
    let mut packets = publishes.to_vec();
    packets.push(packet(|out| encode::subscribe(out, version, 9, Some(300), &[filter, shared])));
    packets.push(packet(|out| encode::unsubscribe(out, version, 10, &["a/b", "factory/+/#"])));
    packets
}

fn acknowledgements(version: Version) -> Vec<Vec<u8>> {
    let failed = ReasonCode::QUOTA_EXCEEDED;
    let unknown = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
    let granted =
        [ReasonCode::GRANTED_QOS_0, ReasonCode::GRANTED_QOS_2, ReasonCode::NOT_AUTHORIZED];
    let removed = [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED];
    vec![
        packet(|out| encode::puback(out, version, 1, ReasonCode::SUCCESS, None)),
        packet(|out| encode::puback(out, version, 1, failed, Some("full"))),
        packet(|out| encode::pubrec(out, version, 2, failed, None)),
        packet(|out| encode::pubrel(out, version, 3, unknown, Some("unknown"))),
        packet(|out| encode::pubcomp(out, version, 4, unknown, None)),
        packet(|out| encode::suback(out, version, 9, &granted, Some("partly"))),
        packet(|out| encode::unsuback(out, version, 10, &removed, Some("partly"))),
    ]
}

fn message_properties(user_properties: UserProperties<'_>) -> PublishProperties<'_> {
    PublishProperties {
        payload_format: Some(1),
        message_expiry_secs: Some(3600),
        response_topic: Some("answer/here"),
        correlation_data: Some(&[0, 1, 2]),
        content_type: Some("text/plain"),
        user_properties,
        ..PublishProperties::default()
    }
}

fn connect_properties(user_properties: UserProperties<'_>) -> ConnectProperties<'_> {
    ConnectProperties {
        session_expiry_secs: Some(3600),
        receive_maximum: Some(20),
        packet_bytes_max: Some(65_536),
        topic_alias_maximum: Some(10),
        request_response_information: true,
        request_problem_information: false,
        user_properties,
        authentication_method: Some("SCRAM"),
        authentication_data: Some(b"data"),
    }
}

fn connack_properties(user_properties: UserProperties<'_>) -> ConnackProperties<'_> {
    ConnackProperties {
        session_expiry_secs: Some(1),
        receive_maximum: Some(2),
        maximum_qos: Some(1),
        retain_available: Some(false),
        packet_bytes_max: Some(3),
        assigned_client_id: Some("assigned"),
        topic_alias_maximum: Some(4),
        reason_string: Some("welcome"),
        user_properties,
        wildcard_available: Some(true),
        subscription_ids_available: Some(false),
        shared_available: Some(true),
        server_keep_alive_secs: Some(5),
        response_information: Some("answers/"),
        server_reference: Some("other:1883"),
        authentication_method: Some("SCRAM"),
        authentication_data: Some(b"data"),
    }
}
