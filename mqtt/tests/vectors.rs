//! Byte-level vectors: what is valid decodes, what is not is refused with the right reason code
//! and names the statement it violates.

#[path = "support/corpus.rs"]
mod corpus;

use corpus::{Row, catalogue, unhex, vectors};
use ringlane_mqtt::{
    Frame, PACKET_BYTES_MAX, Packet, ReasonCode, TopicError, TopicFilter, Version, decode,
    decode_connect, decode_from_client, frame,
};

#[test]
fn every_vector_has_its_outcome() {
    let rows = vectors();
    assert_eq!(rows.len(), 101);
    rows.iter().for_each(check);
}

#[test]
fn every_row_of_the_catalogue_has_its_outcome() {
    let rows = catalogue();
    assert_eq!(rows.len(), 161);
    rows.iter().for_each(check);
}

/// What an id promises must agree with the outcome written beside it.
#[test]
fn bad_vectors_are_refused_and_good_ones_are_not() {
    for row in vectors() {
        let is_ok = row.outcome == "ok";
        assert_eq!(row.id.contains("-ok-"), is_ok, "{}", row.id);
        assert_eq!(row.id.contains("-bad-"), !is_ok, "{}", row.id);
    }
}

#[test]
fn a_filter_of_65535_slashes_is_decoded_and_has_65536_levels() {
    let slashes = "/".repeat(65_535);
    let mut packet = unhex("828480040001ffff");
    packet.extend_from_slice(slashes.as_bytes());
    packet.push(0);
    let raw = complete(&packet);
    let Ok(Packet::Subscribe(subscribe)) = decode_from_client(Version::V311, raw) else {
        panic!("S25 is well-formed for a broker without a limit of levels");
    };
    let entry = subscribe.filters.iter().next().expect("one filter");
    let filter = TopicFilter::parse(entry.filter).expect("slashes are a filter");
    assert_eq!(filter.levels, 65_536);
}

#[test]
fn a_repeated_packet_of_mqtt_31_may_carry_dup() {
    for bytes in
        [&[0x6A, 2, 0, 1][..], &[0x8A, 6, 0, 1, 0, 1, b't', 0], &[0xAA, 5, 0, 1, 0, 1, b't']]
    {
        assert!(decode_from_client(Version::V31, complete(bytes)).is_ok(), "{bytes:02x?}");
        for version in [Version::V311, Version::V5] {
            let error = decode_from_client(version, complete(bytes)).expect_err("reserved flags");
            assert_eq!(error.source, "MQTT-2.1.3-1");
        }
    }
}

#[test]
fn connects_of_mqtt_31_follow_its_own_rules() {
    // Reserved bit and the will's bits without a will are disregarded; a flagged user name and
    // password may be missing at the end of the packet.
    let lenient = unhex("100f00064d514973647003f9003c000170");
    let connect = decode_connect(complete(&lenient)).expect("3.1 disregards these bits");
    assert_eq!(connect.version, Version::V31);
    assert_eq!((connect.user_name, connect.password), (None, None));
    assert!(connect.will.is_none());

    let empty_id = unhex("100e00064d51497364700302003c0000");
    let error = decode_connect(complete(&empty_id)).expect_err("3.1 demands an identifier");
    assert_eq!(error.reason, ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);

    let wrong_level = unhex("100f00064d51497364700402003c000170");
    let error = decode_connect(complete(&wrong_level)).expect_err("MQIsdp is level 3");
    assert_eq!(error.reason, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
}

fn check(row: &Row) {
    let (outcome, detail) = row.outcome.split_once(' ').unwrap_or((row.outcome, ""));
    match (outcome, decoded(row)) {
        ("ok", Ok(Some(_))) | ("incomplete", Ok(None)) => {}
        ("filter", Ok(Some(Packet::Subscribe(subscribe)))) => {
            for entry in subscribe.filters.iter() {
                let error = TopicFilter::parse(entry.filter).expect_err(row.id);
                assert_eq!(format!("{error:?}"), detail, "{}", row.id);
            }
        }
        (_, Err(error)) => {
            assert_eq!(format!("0x{:02x}", error.reason.0), outcome, "{}: {error}", row.id);
            assert_eq!(error.source, detail, "{}: {error}", row.id);
        }
        (_, Ok(packet)) => panic!("{}: expected {outcome}, got {packet:?}", row.id),
    }
}

/// The first packet of the row; `None` if it is incomplete.
fn decoded(row: &Row) -> Result<Option<Packet<'_>>, ringlane_mqtt::DecodeError> {
    let version = if row.level == 5 { Version::V5 } else { Version::V311 };
    let Frame::Complete(raw) = frame(&row.bytes, PACKET_BYTES_MAX)? else { return Ok(None) };
    match row.decoder {
        "any" => decode(version, raw),
        "client" => decode_from_client(version, raw),
        "connect" => decode_connect(raw).map(Packet::Connect),
        other => panic!("{}: no decoder {other}", row.id),
    }
    .map(Some)
}

fn complete(bytes: &[u8]) -> ringlane_mqtt::RawPacket<'_> {
    match frame(bytes, PACKET_BYTES_MAX) {
        Ok(Frame::Complete(raw)) => raw,
        other => panic!("not a whole packet: {other:?}"),
    }
}

#[test]
fn topic_errors_have_texts() {
    let text = TopicError::MultiLevelNotLast.to_string();
    assert_eq!(text, "# is not the last level");
}
