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

/// Which acknowledgement it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AckKind {
    /// PUBACK.
    Puback,
    /// PUBREC.
    Pubrec,
    /// PUBREL.
    Pubrel,
    /// PUBCOMP.
    Pubcomp,
}

/// The acknowledgement at the front of `bytes` if it is one of the four bytes that nearly all of
/// them have, in every version: success, and nothing else. `None` for anything else, which
/// [`super::frame()`] and [`super::decode`] then judge.
#[inline]
#[must_use]
pub fn short_ack(bytes: &[u8]) -> Option<(AckKind, u16)> {
    let &[header, 2, high, low, ..] = bytes else { return None };
    let kind = match header {
        0x40 => AckKind::Puback,
        0x50 => AckKind::Pubrec,
        0x62 => AckKind::Pubrel,
        0x70 => AckKind::Pubcomp,
        _ => return None,
    };
    let packet_id = u16::from_be_bytes([high, low]);
    (packet_id != 0).then_some((kind, packet_id))
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

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "tests")]

    use super::*;
    use crate::decode::{Frame, decode, frame};
    use crate::packet::Packet;

    #[test]
    fn a_short_acknowledgement_is_what_decode_says_in_every_version() {
        for header in 0..=u8::MAX {
            for id in [0, 1, 0x1234_u16] {
                let [high, low] = id.to_be_bytes();
                let bytes = [header, 2, high, low];
                let Some((kind, packet_id)) = short_ack(&bytes) else { continue };
                for version in [Version::V31, Version::V311, Version::V5] {
                    let Frame::Complete(raw) = frame(&bytes, 100).unwrap() else { panic!("whole") };
                    let (ack, decoded) = match decode(version, raw).unwrap() {
                        Packet::Puback(ack) => (ack, AckKind::Puback),
                        Packet::Pubrec(ack) => (ack, AckKind::Pubrec),
                        Packet::Pubrel(ack) => (ack, AckKind::Pubrel),
                        Packet::Pubcomp(ack) => (ack, AckKind::Pubcomp),
                        other => panic!("{other:?}"),
                    };
                    assert_eq!((decoded, ack.packet_id), (kind, packet_id));
                    assert_eq!(ack.reason, ReasonCode::SUCCESS);
                }
            }
        }
        assert_eq!(short_ack(&[0x40, 2, 0, 7, 0x40]), Some((AckKind::Puback, 7)));
        for other in [&[0x40, 2, 0][..], &[0x40, 3, 0, 7, 0], &[0x40, 2, 0, 0], &[0x6A, 2, 0, 7]] {
            assert_eq!(short_ack(other), None);
        }
    }
}
