//! PUBACK, PUBREC, PUBREL and PUBCOMP.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::property::{Allowed, Property, PropertyReader};
use super::{RawPacket, require_flags, require_request_flags};
use crate::error::DecodeError;
use crate::packet::Ack;
use crate::properties::UserProperties;
use crate::property::id;
use crate::reason::ReasonCode;
use crate::version::Version;
use crate::wire::Reader;

pub(super) fn puback<'a>(version: Version, raw: RawPacket<'a>) -> Result<Ack<'a>, DecodeError> {
    require_flags(raw, 0)?;
    ack(version, raw, is_receipt_reason, "MQTT-3.4.2-1")
}

pub(super) fn pubrec<'a>(version: Version, raw: RawPacket<'a>) -> Result<Ack<'a>, DecodeError> {
    require_flags(raw, 0)?;
    ack(version, raw, is_receipt_reason, "MQTT-3.5.2-1")
}

pub(super) fn pubrel<'a>(version: Version, raw: RawPacket<'a>) -> Result<Ack<'a>, DecodeError> {
    require_request_flags(version, raw)?;
    ack(version, raw, is_release_reason, "MQTT-3.6.2-1")
}

pub(super) fn pubcomp<'a>(version: Version, raw: RawPacket<'a>) -> Result<Ack<'a>, DecodeError> {
    require_flags(raw, 0)?;
    ack(version, raw, is_release_reason, "MQTT-3.7.2-1")
}

/// Reasons of PUBACK and PUBREC (Source: MQTT5 §3.4.2.1, §3.5.2.1).
fn is_receipt_reason(reason: u8) -> bool {
    matches!(reason, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
}

/// Reasons of PUBREL and PUBCOMP (Source: MQTT5 §3.6.2.1, §3.7.2.1).
fn is_release_reason(reason: u8) -> bool {
    matches!(reason, 0x00 | 0x92)
}

/// MQTT 5 leaves out the reason code if it is success and nothing follows, and the property
/// length if nothing follows (Source: MQTT5 §3.4.2.1, §3.4.2.2.1).
fn ack<'a>(
    version: Version,
    raw: RawPacket<'a>,
    is_allowed: fn(u8) -> bool,
    source: &'static str,
) -> Result<Ack<'a>, DecodeError> {
    let mut reader = Reader::new(raw.body);
    let mut ack = Ack {
        packet_id: reader.packet_id()?,
        reason: ReasonCode::SUCCESS,
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    if !version.is_v5() || reader.is_empty() {
        reader.finish()?;
        return Ok(ack);
    }
    let reason = reader.u8()?;
    if !is_allowed(reason) {
        return Err(DecodeError::protocol("reason code is not one of this packet's", source));
    }
    ack.reason = ReasonCode(reason);
    if !reader.is_empty() {
        (ack.reason_string, ack.user_properties) = reason_properties(&mut reader)?;
        reader.finish()?;
    }
    Ok(ack)
}

const REASON_PROPERTIES: Allowed = Allowed::of(&[id::REASON_STRING, id::USER_PROPERTY]);

/// The block of properties that all acknowledgements have: reason string and user properties.
pub(super) fn reason_properties<'a>(
    reader: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeError> {
    let block = reader.properties()?;
    let mut reason_string = None;
    let mut properties = PropertyReader::new(block, REASON_PROPERTIES);
    while let Some(property) = properties.next()? {
        if let Property::ReasonString(text) = property {
            reason_string = Some(text);
        }
    }
    Ok((reason_string, UserProperties::from_wire(block)))
}
