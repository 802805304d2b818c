//! Bytes become packets: [`frame()`] cuts, [`decode`] and its relatives check and give views.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

mod ack;
mod connect;
mod frame;
mod property;
mod publish;
mod run;
mod session;
mod subscribe;

pub use ack::{AckKind, short_ack};
pub use connect::{connect_version, decode_connect};
pub use frame::{Frame, PACKET_BYTES_MAX, RawPacket, frame};
pub use run::{PublishRun, publish_run};

use crate::error::DecodeError;
use crate::packet::Packet;
use crate::reason::ReasonCode;
use crate::version::Version;
use crate::wire;

/// Packet types: the upper four bits of the first byte (Source: MQTT5 §2.1.2).
pub(crate) mod packet_type {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const UNSUBSCRIBE: u8 = 10;
    pub(crate) const UNSUBACK: u8 = 11;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
    pub(crate) const AUTH: u8 = 15;
}

/// Decodes one packet of a connection that speaks `version`, whoever sent it.
///
/// Strict: flags, reserved bits, the set of properties of each packet, duplicates, ranges, UTF-8,
/// and no byte left over. A CONNECT is decoded with the version that it names itself.
///
/// # Errors
/// The first violation found, with the MQTT 5 reason code to answer with.
#[inline]
pub fn decode<'a>(version: Version, raw: RawPacket<'a>) -> Result<Packet<'a>, DecodeError> {
    require_minimal(version, raw)?;
    if raw.packet_type() == packet_type::PUBLISH {
        return publish::decode(version, raw).map(Packet::Publish);
    }
    decode_other(version, raw)
}

/// Decodes one packet that a server received after CONNECT.
///
/// As [`decode`], and what only a server may send is `0x82`: CONNACK, SUBACK, UNSUBACK, PINGRESP,
/// Subscription Identifiers in PUBLISH, the reason codes of AUTH and DISCONNECT that the
/// specification reserves for servers. So is a second CONNECT.
///
/// # Errors
/// The first violation found, with the MQTT 5 reason code to answer with.
#[inline]
pub fn decode_from_client<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Packet<'a>, DecodeError> {
    if raw.packet_type() == packet_type::PUBLISH {
        require_minimal(version, raw)?;
        // Checked before it becomes a `Packet`, which is larger and would be moved once more.
        let publish = publish::decode(version, raw)?;
        publish::check_from_client(&publish)?;
        return Ok(Packet::Publish(publish));
    }
    decode_other_from_client(version, raw)
}

/// Kept out of line, so that the way of a PUBLISH stays short enough to be inlined.
#[inline(never)]
fn decode_other_from_client<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Packet<'a>, DecodeError> {
    match raw.packet_type() {
        packet_type::CONNECT => return Err(SECOND_CONNECT),
        packet_type::CONNACK
        | packet_type::SUBACK
        | packet_type::UNSUBACK
        | packet_type::PINGRESP => return Err(SERVER_ONLY),
        _ => {}
    }
    let packet = decode(version, raw)?;
    match &packet {
        Packet::Disconnect(disconnect) => session::check_disconnect_from_client(disconnect)?,
        Packet::Auth(auth) => session::check_auth_from_client(auth)?,
        _ => {}
    }
    Ok(packet)
}

/// MQTT 5 wants lengths in their shortest form (Source: MQTT-1.5.5-1).
#[inline]
fn require_minimal(version: Version, raw: RawPacket<'_>) -> Result<(), DecodeError> {
    if version.is_v5() && !raw.minimal_length { Err(wire::NOT_MINIMAL) } else { Ok(()) }
}

/// Kept out of line, so that the way of a PUBLISH stays short enough to be inlined.
#[inline(never)]
fn decode_other<'a>(version: Version, raw: RawPacket<'a>) -> Result<Packet<'a>, DecodeError> {
    match raw.packet_type() {
        packet_type::CONNECT => decode_connect(raw).map(Packet::Connect),
        packet_type::CONNACK => session::connack(version, raw).map(Packet::Connack),
        packet_type::PUBACK => ack::puback(version, raw).map(Packet::Puback),
        packet_type::PUBREC => ack::pubrec(version, raw).map(Packet::Pubrec),
        packet_type::PUBREL => ack::pubrel(version, raw).map(Packet::Pubrel),
        packet_type::PUBCOMP => ack::pubcomp(version, raw).map(Packet::Pubcomp),
        packet_type::SUBSCRIBE => subscribe::subscribe(version, raw).map(Packet::Subscribe),
        packet_type::SUBACK => subscribe::suback(version, raw).map(Packet::Suback),
        packet_type::UNSUBSCRIBE => subscribe::unsubscribe(version, raw).map(Packet::Unsubscribe),
        packet_type::UNSUBACK => subscribe::unsuback(version, raw).map(Packet::Unsuback),
        packet_type::PINGREQ => empty(raw).map(|()| Packet::Pingreq),
        packet_type::PINGRESP => empty(raw).map(|()| Packet::Pingresp),
        packet_type::DISCONNECT => session::disconnect(version, raw).map(Packet::Disconnect),
        packet_type::AUTH if version.is_v5() => session::auth(raw).map(Packet::Auth),
        _ => Err(FORBIDDEN_TYPE),
    }
}

/// A packet of two bytes and nothing else.
fn empty(raw: RawPacket<'_>) -> Result<(), DecodeError> {
    require_flags(raw, 0)?;
    if raw.body.is_empty() { Ok(()) } else { Err(BODY_NOT_EMPTY) }
}

/// Checks the reserved flags in the first byte (Source: MQTT-2.1.3-1, MQTT3-2.2.2-2).
#[inline]
fn require_flags(raw: RawPacket<'_>, flags: u8) -> Result<(), DecodeError> {
    if raw.flags() == flags { Ok(()) } else { Err(RESERVED_FLAGS) }
}

/// Checks the flags 0010 of PUBREL, SUBSCRIBE and UNSUBSCRIBE. In MQTT 3.1 they are QoS 1 and DUP
/// as in PUBLISH, and a client that repeats the packet sets DUP (Source: MQTT 3.1, section 2.1).
#[inline]
fn require_request_flags(version: Version, raw: RawPacket<'_>) -> Result<(), DecodeError> {
    let flags = if version == Version::V31 { raw.flags() & !DUP } else { raw.flags() };
    if flags == REQUEST_FLAGS { Ok(()) } else { Err(RESERVED_FLAGS) }
}

const DUP: u8 = 0b1000;
const REQUEST_FLAGS: u8 = 0b0010;

const RESERVED_FLAGS: DecodeError =
    DecodeError::malformed("reserved flags of the packet type are wrong", "MQTT-2.1.3-1");
const FORBIDDEN_TYPE: DecodeError =
    DecodeError::malformed("packet type is forbidden", "MQTT5 §2.1.2");
const BODY_NOT_EMPTY: DecodeError =
    DecodeError::malformed("packet must have no body", "MQTT-4.13.1-1");
const SECOND_CONNECT: DecodeError = DecodeError::protocol("second CONNECT", "MQTT-3.1.0-2");
const SERVER_ONLY: DecodeError =
    DecodeError::protocol("packet that only a server sends", "MQTT-4.13.1-1");

/// An error of a topic name: MQTT 5 has a reason code of its own for it, 3.1.1 only the close.
fn topic_name_error(version: Version, what: &'static str, source: &'static str) -> DecodeError {
    let reason =
        if version.is_v5() { ReasonCode::TOPIC_NAME_INVALID } else { ReasonCode::MALFORMED_PACKET };
    DecodeError { reason, what, source }
}
