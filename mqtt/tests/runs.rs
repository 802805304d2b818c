//! Runs of QoS 0: what is cut in one go is what decoding packet by packet gives.

#[path = "support/random.rs"]
mod random;

use random::{Random, mutate};
use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{
    Frame, PACKET_BYTES_MAX, Packet, QoS, Version, decode_from_client, frame, publish_run,
};

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

fn publish(version: Version, qos: QoS, retain: bool, topic: &str, payload: &[u8]) -> Vec<u8> {
    let head = PublishHead {
        version,
        dup: false,
        qos,
        retain,
        topic,
        topic_alias: None,
        packet_id: 1,
        message_expiry_secs: None,
        subscription_ids: &[],
        forwarded: &[],
        payload_bytes: payload.len(),
    };
    let mut bytes = Vec::new();
    encode::publish_head(&mut bytes, &head);
    bytes.extend_from_slice(payload);
    bytes
}

/// Checks a run against the decoder; how many packets it has.
fn check(version: Version, input: &[u8]) -> usize {
    let Some(run) = publish_run(version, input, PACKET_BYTES_MAX) else { return 0 };
    assert_eq!(run.packets, &input[..run.packets.len()]);
    let (mut rest, mut payload_bytes, mut largest) = (run.packets, 0, 0);
    let mut messages = run.messages();
    while !rest.is_empty() {
        let Ok(Frame::Complete(raw)) = frame(rest, PACKET_BYTES_MAX) else {
            panic!("no whole packet in {rest:02x?}")
        };
        let (bytes, payload) = messages.next().expect("one for each packet");
        assert_eq!(bytes, raw.total_bytes);
        if let Ok(Packet::Publish(publish)) = decode_from_client(version, raw) {
            assert_eq!(publish.topic.as_bytes(), run.topic);
            assert_eq!(publish.payload, payload);
            assert_eq!((publish.qos, publish.retain), (QoS::AtMostOnce, false));
            assert!(publish.properties.raw.is_empty());
        } else {
            // The name is all that a run does not check.
            let name = core::str::from_utf8(run.topic);
            assert!(name.is_err() || !ringlane_mqtt::topic::is_valid_name(name.expect("UTF-8")));
        }
        payload_bytes += payload.len();
        largest = largest.max(raw.total_bytes);
        rest = &rest[raw.total_bytes..];
    }
    assert!(messages.next().is_none());
    assert_eq!(run.messages().count(), run.count);
    assert_eq!((run.payload_bytes, run.packet_bytes_max), (payload_bytes, largest));
    run.count
}

#[test]
fn a_run_ends_where_anything_but_the_payload_changes() {
    for version in VERSIONS {
        let plain = |payload: &[u8]| publish(version, QoS::AtMostOnce, false, "a/b", payload);
        let run = [plain(b"1"), plain(b""), plain(&[7; 300]), plain(b"2")].concat();
        assert_eq!(check(version, &run), 4);
        let others = [
            publish(version, QoS::AtMostOnce, false, "a/c", b"1"),
            publish(version, QoS::AtMostOnce, false, "a/bc", b"1"),
            publish(version, QoS::AtMostOnce, true, "a/b", b"1"),
            publish(version, QoS::AtLeastOnce, false, "a/b", b"1"),
            vec![0xC0, 0],
            vec![0x30],
            plain(b"12")[..4].to_vec(),
        ];
        for other in others {
            assert_eq!(check(version, &[&run[..], &other, &run].concat()), 4, "{other:02x?}");
        }
    }
}

#[test]
fn what_is_no_plain_publish_begins_no_run() {
    let version = Version::V311;
    let packet = publish(version, QoS::AtMostOnce, false, "a", b"1");
    assert_eq!(publish_run(version, &[], PACKET_BYTES_MAX), None);
    assert_eq!(publish_run(version, &packet[..4], PACKET_BYTES_MAX), None);
    assert_eq!(publish_run(version, &packet, packet.len() - 1), None, "larger than allowed");
    assert!(publish_run(version, &packet, packet.len()).is_some());
    assert_eq!(publish_run(version, b"\x30\x02\0\0", PACKET_BYTES_MAX), None, "no topic");
    assert_eq!(publish_run(version, b"\x30\x02\0\x01", PACKET_BYTES_MAX), None, "torn topic");
    assert_eq!(publish_run(version, b"\x30\x84\0\0\x01a1", PACKET_BYTES_MAX), None, "not minimal");
    let with_property = b"\x30\x07\0\x01a\x02\x01\x00z";
    assert_eq!(publish_run(Version::V5, with_property, PACKET_BYTES_MAX), None);
}

#[test]
fn random_streams_agree_with_the_decoder() {
    let mut random = Random::new(0x0052_554E);
    let topics = ["a", "a/b", "a/b/c", "plant/7", "+", "\u{fc}"];
    let mut in_runs = 0;
    for _ in 0..20_000 {
        let version = VERSIONS[random.below(VERSIONS.len())];
        let mut stream = Vec::new();
        let topic = topics[random.below(topics.len())];
        for _ in 0..random.below(6) {
            let topic = if random.below(8) == 0 { topics[random.below(6)] } else { topic };
            let payload = vec![b'x'; random.below(4) * 50];
            stream.extend(publish(version, QoS::AtMostOnce, false, topic, &payload));
        }
        if random.below(2) == 0 {
            mutate(&mut stream, b"\x30\0\0\x01a", &mut random);
        }
        in_runs += check(version, &stream);
    }
    assert!(in_runs > 20_000, "only {in_runs} packets in runs");
}
