//! A second opinion: `mqttbytes`, and every way in which it may disagree.
//!
//! Where the two agree nothing needs saying. Each disagreement must be one of the three tables
//! below, which name the statement that decides it; anything else panics. MQTT 3.1 is left out
//! (`mqttbytes` knows only `MQTT`), and so is UNSUBSCRIBE of MQTT 5, of which `mqttbytes` 0.6
//! prints the packet identifier to standard error.

#[path = "oracle/same.rs"]
mod same;

use mqttbytes::{Error, v4, v5};
use ringlane_mqtt::{
    DecodeError, Frame, PACKET_BYTES_MAX, Packet, RawPacket, Version, connect_version, decode,
    decode_connect, frame,
};

/// What a comparison came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Both refuse, or both read the same packet.
    Agree,
    /// They differ as the named statement demands.
    Explained(&'static str),
    /// Not compared.
    Skipped,
}

/// Compares the two decoders on one input, for both versions.
pub(crate) fn compare_all(input: &[u8]) -> [Verdict; 2] {
    [Version::V311, Version::V5].map(|version| compare(version, input))
}

fn compare(version: Version, input: &[u8]) -> Verdict {
    let Ok(Frame::Complete(raw)) = frame(input, PACKET_BYTES_MAX) else {
        assert!(read_v4(input).is_err() && read_v5(input).is_err(), "no packet in {input:02x?}");
        return Verdict::Agree;
    };
    let packet = &input[..raw.total_bytes];
    match raw.packet_type() {
        CONNECT => compare_connect(packet, raw),
        UNSUBSCRIBE if version.is_v5() => Verdict::Skipped,
        _ => compare_read(version, packet, raw, decode(version, raw)),
    }
}

/// CONNECT says itself which module of `mqttbytes` it is for.
fn compare_connect(packet: &[u8], raw: RawPacket<'_>) -> Verdict {
    let version = connect_version(raw).unwrap_or(Version::V311);
    compare_read(version, packet, raw, decode_connect(raw).map(Packet::Connect))
}

fn compare_read(
    version: Version,
    packet: &[u8],
    raw: RawPacket<'_>,
    ours: Result<Packet<'_>, DecodeError>,
) -> Verdict {
    let theirs = if version.is_v5() {
        read_v5(packet).map(|theirs| same::v5(ours.as_ref().ok(), &theirs))
    } else {
        read_v4(packet).map(|theirs| same::v4(ours.as_ref().ok(), &theirs))
    };
    let explained = match (&ours, &theirs) {
        (Err(_), Err(_)) | (Ok(_), Ok(true)) => return Verdict::Agree,
        (Err(error), Ok(_)) => lax(version, raw, *error),
        (Ok(ours), Err(error)) => strict(version, ours, raw, error),
        (Ok(ours), Ok(false)) => misread(ours),
    };
    match explained {
        Some(statement) => Verdict::Explained(statement),
        None => panic!("unexplained for {version:?} {packet:02x?}:\n{ours:?}\n{theirs:?}"),
    }
}

fn read_v4(packet: &[u8]) -> Result<v4::Packet, Error> {
    v4::read(&mut From::from(packet), PACKET_BYTES_MAX)
}

fn read_v5(packet: &[u8]) -> Result<v5::Packet, Error> {
    v5::read(&mut From::from(packet), PACKET_BYTES_MAX)
}

/// A check that `mqttbytes` leaves out: our words, the statement, and the versions.
struct Lax {
    what: &'static str,
    statement: &'static str,
    levels: &'static [u8],
}

const fn lax_rule(what: &'static str, statement: &'static str, levels: &'static [u8]) -> Lax {
    Lax { what, statement, levels }
}

/// What `mqttbytes` accepts although the statement forbids it.
const LAX: [Lax; 30] = [
    lax_rule("reserved flags of the packet type are wrong", "MQTT-2.1.3-1", &[4, 5]),
    lax_rule("packet must have no body", "MQTT-4.13.1-1", &[4, 5]),
    lax_rule("bytes behind the last field", "MQTT-4.13.1-1", &[4, 5]),
    // Its properties may cross the end of their block into what follows.
    lax_rule("packet ends inside a field", "MQTT-4.13.1-1", &[5]),
    lax_rule("string holds U+0000", "MQTT-1.5.4-2", &[4, 5]),
    lax_rule("length is not in its shortest form", "MQTT-1.5.5-1", &[5]),
    lax_rule("packet identifier is 0", "MQTT-2.2.1-3", &[4, 5]),
    lax_rule("property comes more than once", "MQTT5 §2.2.2.2", &[5]),
    lax_rule("property is neither 0 nor 1", "MQTT5 §3.1.2.11", &[5]),
    lax_rule("receive maximum or maximum packet size is 0", "MQTT5 §3.1.2.11", &[5]),
    lax_rule("topic alias is 0", "MQTT-3.3.2-8", &[5]),
    lax_rule("subscription identifier is 0", "MQTT5 §3.8.2.1.2", &[5]),
    lax_rule("response topic is not a topic name", "MQTT-3.3.2-14", &[5]),
    lax_rule("reserved connect flag is set", "MQTT-3.1.2-3", &[4, 5]),
    lax_rule("will topic is not a topic name", "MQTT-4.7.0-1", &[4, 5]),
    lax_rule("password without a user name", "MQTT3-3.1.2-22", &[4]),
    lax_rule("authentication data without a method", "MQTT5 §3.1.2.11.10", &[5]),
    lax_rule("client identifier is empty", "MQTT3-3.1.3-8", &[4]),
    lax_rule("reserved acknowledge flags are set", "MQTT-3.2.2-1", &[4, 5]),
    lax_rule("session present without success", "MQTT-3.2.2-6", &[4, 5]),
    lax_rule("DUP with QoS 0", "MQTT-3.3.1-2", &[4, 5]),
    lax_rule("topic name holds a wildcard", "MQTT-3.3.2-2", &[4, 5]),
    lax_rule("topic name is empty", "MQTT3-4.7.3-1", &[4]),
    lax_rule("empty topic name without a topic alias", "MQTT5 §3.3.2.1", &[5]),
    lax_rule("SUBSCRIBE without a topic filter", "MQTT-3.8.3-2", &[4, 5]),
    lax_rule("UNSUBSCRIBE without a topic filter", "MQTT-3.10.3-2", &[4]),
    lax_rule("requested QoS is not 0, 1 or 2", "MQTT3-3.8.3-4", &[4]),
    lax_rule("reserved bits of the subscription options are set", "MQTT-3.8.3-5", &[5]),
    lax_rule("topic filter is empty", "MQTT-4.7.3-1", &[4, 5]),
    lax_rule("no local on a shared subscription", "MQTT-3.8.3-4", &[5]),
];

fn lax(version: Version, raw: RawPacket<'_>, error: DecodeError) -> Option<&'static str> {
    let is_rule = |rule: &&Lax| {
        rule.what == error.what
            && rule.statement == error.source
            && rule.levels.contains(&version.level())
    };
    let rule = LAX.iter().find(is_rule).map(|rule| rule.statement);
    rule.or_else(|| miscounted(version, raw))
}

/// What `mqttbytes` refuses although the specification allows it.
fn strict(
    version: Version,
    ours: &Packet<'_>,
    raw: RawPacket<'_>,
    error: &Error,
) -> Option<&'static str> {
    match (ours, error) {
        (Packet::Connect(connect), Error::InvalidProtocol) if connect.version == Version::V31 => {
            Some("MQTT 3.1, section 3.1: the name MQIsdp")
        }
        // It wants passwords in UTF-8.
        (Packet::Connect(connect), Error::TopicNotUtf8)
            if connect.password.is_some_and(|password| !ringlane_mqtt::is_utf8(password)) =>
        {
            Some("MQTT5 §3.1.3.6: the password is binary data")
        }
        (Packet::Disconnect(_), Error::PayloadRequired | Error::InsufficientBytes(_))
            if version.is_v5() && raw.body.len() < 2 =>
        {
            Some("MQTT5 §3.14.2.1: reason code and properties may be left out")
        }
        (Packet::Auth(_), Error::InvalidPacketType(15)) => Some("MQTT5 §3.15: AUTH"),
        (Packet::Subscribe(subscribe), _) if subscribe.subscription_id.is_some() => {
            Some(MISCOUNTED)
        }
        _ => None,
    }
}

/// What `mqttbytes` reads as another packet than it is.
fn misread(ours: &Packet<'_>) -> Option<&'static str> {
    match ours {
        Packet::Publish(publish) if !publish.properties.subscription_ids.is_empty() => {
            Some(MISCOUNTED)
        }
        Packet::Subscribe(subscribe) if subscribe.subscription_id.is_some() => Some(MISCOUNTED),
        _ => None,
    }
}

/// It counts the byte of a Subscription Identifier's own identifier twice, so that the block of
/// properties ends for it one byte early per identifier; what follows is read as something else.
const MISCOUNTED: &str = "MQTT5 §2.2.2.1: the property length";

fn miscounted(version: Version, raw: RawPacket<'_>) -> Option<&'static str> {
    const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    let can_hold_one = matches!(raw.packet_type(), PUBLISH | SUBSCRIBE);
    let holds_one = can_hold_one && raw.body.contains(&SUBSCRIPTION_IDENTIFIER);
    (version.is_v5() && holds_one).then_some(MISCOUNTED)
}

const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const UNSUBSCRIBE: u8 = 10;
