//! Exhaustive tables: every first byte, every reason code, every property in every packet.

use ringlane_mqtt::{
    DecodeError, Frame, PACKET_BYTES_MAX, Packet, ReasonCode, Version, decode, decode_connect,
    decode_from_client, frame,
};

fn read(version: Version, bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    match frame(bytes, PACKET_BYTES_MAX)? {
        Frame::Complete(raw) => decode(version, raw),
        Frame::Incomplete { needed } => panic!("{needed} bytes missing in {bytes:02x?}"),
    }
}

/// A packet from its first byte and a body below 128 bytes.
fn packet(header: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let length = u8::try_from(body.len()).expect("a short body");
    assert!(length < 0x80);
    [&[header, length], &body[..]].concat()
}

/// A valid body for every packet type of a version; `None` where the type does not exist.
fn body(version: Version, packet_type: u8) -> Option<Vec<u8>> {
    let v5 = version.is_v5();
    let block: &[u8] = if v5 { &[0] } else { &[] };
    Some(match packet_type {
        1 if v5 => b"\0\x04MQTT\x05\x02\0\x3c\0\0\x01c".to_vec(),
        1 if version == Version::V31 => b"\0\x06MQIsdp\x03\x02\0\x3c\0\x01c".to_vec(),
        1 => b"\0\x04MQTT\x04\x02\0\x3c\0\x01c".to_vec(),
        2 => [&[0, 0], block].concat(),
        3 => [b"\0\x01t\0\x01", block].concat(),
        4..=7 => vec![0, 1],
        8 => [&[0, 1], block, b"\0\x01t\0"].concat(),
        9 => [&[0, 1], block, &[0]].concat(),
        10 => [&[0, 1], block, b"\0\x01t"].concat(),
        11 if v5 => vec![0, 1, 0, 0],
        11 => vec![0, 1],
        12..=14 => Vec::new(),
        15 if v5 => Vec::new(),
        _ => return None,
    })
}

/// Which flags a type may have (Source: MQTT5 §2.1.3; MQTT 3.1 section 2.1 for DUP).
fn is_allowed(version: Version, header: u8) -> bool {
    let flags = header & 0x0F;
    match header >> 4 {
        3 => flags & 6 != 6 && (flags & 6 != 0 || flags & 8 == 0),
        6 | 8 | 10 => flags == 2 || (version == Version::V31 && flags == 0x0A),
        _ => flags == 0,
    }
}

#[test]
fn every_first_byte_is_decided_as_the_table_says() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for header in 0..=u8::MAX {
            let Some(mut body) = body(version, header >> 4) else {
                let error = read(version, &[header, 0]).expect_err("no such type");
                assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET);
                continue;
            };
            if header >> 4 == 3 && header & 6 == 0 {
                // QoS 0 has no packet identifier.
                body.drain(3..5);
            }
            let bytes = packet(header, &[&body]);
            let decoded = read(version, &bytes);
            assert_eq!(decoded.is_ok(), is_allowed(version, header), "{version:?} {header:#04x}");
            if let Err(error) = decoded {
                assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET, "{header:#04x}");
            }
        }
    }
}

#[test]
fn every_body_is_refused_when_cut_or_extended() {
    for version in [Version::V31, Version::V311, Version::V5] {
        for packet_type in 1..=15u8 {
            let Some(body) = body(version, packet_type) else { continue };
            let flags = if matches!(packet_type, 3 | 6 | 8 | 10) { 2 } else { 0 };
            let header = packet_type << 4 | flags;
            assert!(read(version, &packet(header, &[&body])).is_ok(), "{version:?} {packet_type}");
            for cut in 0..body.len() {
                let is_short_form = version.is_v5() && packet_type == 15 && cut == 0;
                let bytes = packet(header, &[&body[..cut]]);
                // A PUBLISH has no end of its own, and 3.1.1 none behind its packet identifier.
                assert!(is_short_form || read(version, &bytes).is_err(), "{bytes:02x?}");
            }
            if packet_type != 3 {
                let bytes = packet(header, &[&body, &[0xFF]]);
                assert!(read(version, &bytes).is_err(), "{version:?} {bytes:02x?}");
            }
        }
    }
}

/// Reason codes of each packet of MQTT 5 (Source: the tables of MQTT5 §3.2.2.2 to §3.15.2.1).
const REASONS: [(u8, &[u8]); 9] = [
    (
        2,
        &[
            0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
            0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
        ],
    ),
    (4, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (5, &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]),
    (6, &[0x00, 0x92]),
    (7, &[0x00, 0x92]),
    (9, &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2]),
    (11, &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]),
    (
        14,
        &[
            0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93,
            0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1,
            0xA2,
        ],
    ),
    (15, &[0x00, 0x18, 0x19]),
];

#[test]
fn reason_codes_are_those_of_the_packet() {
    for (packet_type, allowed) in REASONS {
        for reason in 0..=u8::MAX {
            let bytes = match packet_type {
                2 => packet(0x20, &[&[0, reason, 0]]),
                9 | 11 => packet(packet_type << 4, &[&[0, 1, 0, reason]]),
                14 => packet(0xE0, &[&[reason]]),
                15 => packet(0xF0, &[&[reason, 4, 0x15, 0, 1, b'm']]),
                6 => packet(0x62, &[&[0, 1, reason]]),
                _ => packet(packet_type << 4, &[&[0, 1, reason]]),
            };
            let decoded = read(Version::V5, &bytes);
            assert_eq!(decoded.is_ok(), allowed.contains(&reason), "{bytes:02x?}");
            if let Err(error) = decoded {
                assert_eq!(error.reason, ReasonCode::PROTOCOL_ERROR, "{bytes:02x?}");
            }
            assert!(!allowed.contains(&reason) || ReasonCode(reason).name() != "unassigned");
        }
    }
}

#[test]
fn return_codes_before_mqtt_5_are_few() {
    for version in [Version::V31, Version::V311] {
        for code in 0..=u8::MAX {
            let connack = packet(0x20, &[&[0, code]]);
            assert_eq!(read(version, &connack).is_ok(), code <= 5, "CONNACK {code}");
            let suback = packet(0x90, &[&[0, 1, code]]);
            assert_eq!(read(version, &suback).is_ok(), code <= 2 || code == 0x80, "SUBACK {code}");
        }
    }
}

#[test]
fn codes_of_servers_are_not_taken_from_clients() {
    let clients = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x99];
    for reason in 0..=u8::MAX {
        let bytes = packet(0xE0, &[&[reason]]);
        let Ok(Frame::Complete(raw)) = frame(&bytes, PACKET_BYTES_MAX) else { panic!("complete") };
        let decoded = decode_from_client(Version::V5, raw);
        assert_eq!(decoded.is_ok(), clients.contains(&reason), "{reason:#04x}");
    }
    let success = packet(0xF0, &[&[0x00, 4, 0x15, 0, 1, b'm']]);
    let Ok(Frame::Complete(raw)) = frame(&success, PACKET_BYTES_MAX) else { panic!("complete") };
    assert_eq!(decode_from_client(Version::V5, raw).map_err(|e| e.source), Err("MQTT-3.15.2-1"));
}

/// Every property with a valid value, and the packets that may hold it: 0 stands for the will
/// (Source: MQTT5 §2.2.2.2, table 2-4).
const PROPERTIES: [(&[u8], &[u8]); 27] = [
    (&[0x01, 1], &[3, 0]),
    (&[0x02, 0, 0, 0, 1], &[3, 0]),
    (&[0x03, 0, 1, b'c'], &[3, 0]),
    (&[0x08, 0, 1, b'r'], &[3, 0]),
    (&[0x09, 0, 1, 0xFF], &[3, 0]),
    (&[0x0B, 1], &[3, 8]),
    (&[0x11, 0, 0, 0, 1], &[1, 2, 14]),
    (&[0x12, 0, 1, b'a'], &[2]),
    (&[0x13, 0, 1], &[2]),
    (&[0x15, 0, 1, b'm'], &[1, 2, 15]),
    (&[0x16, 0, 1, 0xFF], &[1, 2, 15]),
    (&[0x17, 1], &[1]),
    (&[0x18, 0, 0, 0, 1], &[0]),
    (&[0x19, 1], &[1]),
    (&[0x1A, 0, 1, b'i'], &[2]),
    (&[0x1C, 0, 1, b's'], &[2, 14]),
    (&[0x1F, 0, 1, b'r'], &[2, 4, 5, 6, 7, 9, 11, 14, 15]),
    (&[0x21, 0, 1], &[1, 2]),
    (&[0x22, 0, 1], &[1, 2]),
    (&[0x23, 0, 1], &[3]),
    (&[0x24, 1], &[2]),
    (&[0x25, 1], &[2]),
    (&[0x26, 0, 1, b'k', 0, 1, b'v'], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15]),
    (&[0x27, 0, 0, 0, 1], &[1, 2]),
    (&[0x28, 1], &[2]),
    (&[0x29, 1], &[2]),
    (&[0x2A, 1], &[2]),
];

/// A packet of MQTT 5 with this block of properties; type 0 stands for the will.
fn with_properties(packet_type: u8, block: &[u8]) -> Vec<u8> {
    let length = [u8::try_from(block.len()).expect("a short block")];
    let sized: [&[u8]; 2] = [&length, block];
    let sized = &sized.concat()[..];
    match packet_type {
        0 => packet(0x10, &[b"\0\x04MQTT\x05\x06\0\x3c\0\0\x01c", sized, b"\0\x01w\0\x01p"]),
        1 => packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3c", sized, b"\0\x01c"]),
        2 => packet(0x20, &[&[0, 0], sized]),
        3 => packet(0x30, &[b"\0\x01t", sized, b"payload"]),
        6 => packet(0x62, &[&[0, 1, 0], sized]),
        8 => packet(0x82, &[&[0, 1], sized, b"\0\x01t\0"]),
        10 => packet(0xA2, &[&[0, 1], sized, b"\0\x01t"]),
        9 | 11 => packet(packet_type << 4, &[&[0, 1], sized, &[0]]),
        14 => packet(0xE0, &[&[0], sized]),
        15 => packet(0xF0, &[&[0x18], sized]),
        _ => packet(packet_type << 4, &[&[0, 1, 0], sized]),
    }
}

const WITH_PROPERTIES: [u8; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15];

/// The method belongs to every AUTH, and to Authentication Data in CONNECT: put it in front where
/// the packet needs it and the property under test is another.
fn completed(packet_type: u8, property: &[u8]) -> Vec<u8> {
    const METHOD: &[u8] = &[0x15, 0, 1, b'm'];
    let needs_method = packet_type == 15 || (packet_type == 1 && property[0] == 0x16);
    if needs_method && property[0] != 0x15 {
        [METHOD, property].concat()
    } else {
        property.to_vec()
    }
}

#[test]
fn properties_are_those_of_the_packet() {
    for (property, packets) in PROPERTIES {
        for packet_type in WITH_PROPERTIES {
            let bytes = with_properties(packet_type, &completed(packet_type, property));
            let decoded = read(Version::V5, &bytes);
            let is_allowed = packets.contains(&packet_type);
            assert_eq!(decoded.is_ok(), is_allowed, "{packet_type}: {bytes:02x?} {decoded:?}");
            if let Err(error) = decoded {
                assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET, "{bytes:02x?}");
            }
        }
    }
}

#[test]
fn identifiers_that_are_not_assigned_are_refused_everywhere() {
    for identifier in 0..=u8::MAX {
        if PROPERTIES.iter().any(|(property, _)| property[0] == identifier) {
            continue;
        }
        for packet_type in WITH_PROPERTIES {
            let bytes = with_properties(packet_type, &[identifier, 0, 0, 0, 0]);
            let error = read(Version::V5, &bytes).expect_err("no such property");
            assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET, "{bytes:02x?}");
        }
    }
}

#[test]
fn only_user_properties_and_the_identifiers_of_matches_may_be_repeated() {
    for (property, packets) in PROPERTIES {
        for &packet_type in packets {
            let twice = [property, property].concat();
            let bytes = with_properties(packet_type, &completed(packet_type, &twice));
            let is_allowed = property[0] == 0x26 || (property[0] == 0x0B && packet_type == 3);
            let decoded = read(Version::V5, &bytes);
            assert_eq!(decoded.is_ok(), is_allowed, "{bytes:02x?}");
            if let Err(error) = decoded {
                assert_eq!(error.reason, ReasonCode::PROTOCOL_ERROR, "{bytes:02x?}");
            }
        }
    }
}

#[test]
fn values_out_of_range_have_their_reason() {
    let protocol: [(u8, &[u8]); 14] = [
        (3, &[0x01, 2]),
        (0, &[0x01, 0xFF]),
        (8, &[0x0B, 0]),
        (3, &[0x0B, 0]),
        (1, &[0x17, 2]),
        (1, &[0x19, 2]),
        (1, &[0x21, 0, 0]),
        (1, &[0x27, 0, 0, 0, 0]),
        (2, &[0x24, 2]),
        (2, &[0x25, 2]),
        (2, &[0x28, 2]),
        (3, &[0x08, 0, 0]),
        (3, &[0x08, 0, 1, b'#']),
        (1, &[0x16, 0, 0]),
    ];
    for (packet_type, block) in protocol {
        let error = read(Version::V5, &with_properties(packet_type, block)).expect_err("range");
        assert_eq!(error.reason, ReasonCode::PROTOCOL_ERROR, "{packet_type} {block:02x?}");
    }
    let alias = with_properties(3, &[0x23, 0, 0]);
    let error = read(Version::V5, &alias).expect_err("alias 0");
    assert_eq!(error.reason, ReasonCode::TOPIC_ALIAS_INVALID);
}

#[test]
fn strings_are_checked_in_every_place() {
    for bad in [&b"\xC3\x28"[..], b"\xED\xA0\x80", b"\xC0\x80", b"a\0", b"\xF8\x88\x80\x80\x80"] {
        let length = [0, u8::try_from(bad.len()).expect("short")];
        let text = [&length[..], bad].concat();
        let places: [(Version, Vec<u8>); 9] = [
            (Version::V311, packet(0x10, &[b"\0\x04MQTT\x04\x02\0\x3c", &text])),
            (Version::V311, packet(0x10, &[b"\0\x04MQTT\x04\x06\0\x3c\0\x01c", &text, b"\0\0"])),
            (Version::V311, packet(0x10, &[b"\0\x04MQTT\x04\x82\0\x3c\0\x01c", &text])),
            (Version::V311, packet(0x30, &[&text])),
            (Version::V311, packet(0x82, &[&[0, 1], &text, &[0]])),
            (Version::V311, packet(0xA2, &[&[0, 1], &text])),
            (Version::V5, with_properties(3, &[&[0x03], &text[..]].concat())),
            (Version::V5, with_properties(3, &[&[0x26], &text[..], &[0, 0]].concat())),
            (Version::V5, with_properties(3, &[&[0x26, 0, 0], &text[..]].concat())),
        ];
        for (version, bytes) in places {
            let error = read(version, &bytes).expect_err("a bad string");
            assert_eq!(error.reason, ReasonCode::MALFORMED_PACKET, "{bytes:02x?}");
            assert!(error.source.starts_with("MQTT-1.5.4"), "{bytes:02x?}: {error}");
        }
        // The password and the payload are bytes.
        let password = packet(0x10, &[b"\0\x04MQTT\x04\xC2\0\x3c\0\x01c\0\x01u", &text]);
        assert!(read(Version::V311, &password).is_ok());
        assert!(read(Version::V311, &packet(0x30, &[b"\0\x01t", bad])).is_ok());
    }
}

#[test]
fn the_first_packet_must_be_connect() {
    for packet_type in (0..=15u8).filter(|&packet_type| packet_type != 1) {
        let bytes = [packet_type << 4, 0];
        let Ok(Frame::Complete(raw)) = frame(&bytes, PACKET_BYTES_MAX) else { panic!("complete") };
        let error = decode_connect(raw).expect_err("not CONNECT");
        assert_eq!((error.reason, error.source), (ReasonCode::PROTOCOL_ERROR, "MQTT-3.1.0-1"));
    }
}

#[test]
fn lengths_are_read_at_every_edge_and_never_trusted() {
    let edges: [(&[u8], usize); 8] = [
        (&[0x00], 0),
        (&[0x7F], 127),
        (&[0x80, 0x01], 128),
        (&[0xFF, 0x7F], 16_383),
        (&[0x80, 0x80, 0x01], 16_384),
        (&[0xFF, 0xFF, 0x7F], 2_097_151),
        (&[0x80, 0x80, 0x80, 0x01], 2_097_152),
        (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
    ];
    for (length, body) in edges.into_iter().skip(1) {
        let input = [&[0x30], length].concat();
        assert_eq!(frame(&input, PACKET_BYTES_MAX), Ok(Frame::Incomplete { needed: body }));
        let total = input.len() + body;
        let refused = frame(&input, total - 1).expect_err("one byte too large");
        assert_eq!(refused.reason, ReasonCode::PACKET_TOO_LARGE);
        for cut in 2..input.len() {
            let partial = frame(&input[..cut], PACKET_BYTES_MAX);
            assert_eq!(partial, Ok(Frame::Incomplete { needed: 1 }));
        }
    }
    assert_eq!(frame(&[], PACKET_BYTES_MAX), Ok(Frame::Incomplete { needed: 2 }));
    assert_eq!(frame(&[0xC0], PACKET_BYTES_MAX), Ok(Frame::Incomplete { needed: 1 }));
    assert!(matches!(frame(&[0xC0, edges[0].0[0]], 2), Ok(Frame::Complete(_))));
    let endless = frame(&[0x30, 0x80, 0x80, 0x80, 0x80], PACKET_BYTES_MAX);
    assert_eq!(endless.map_err(|error| error.reason), Err(ReasonCode::MALFORMED_PACKET));
}

#[test]
fn only_mqtt_5_demands_the_shortest_length() {
    let publish = [0x30, 0x84, 0x00, 0x00, 0x01, b't', 0x00];
    for version in [Version::V31, Version::V311] {
        assert!(read(version, &publish).is_ok());
    }
    assert_eq!(read(Version::V5, &publish).map_err(|error| error.source), Err("MQTT-1.5.5-1"));
}
