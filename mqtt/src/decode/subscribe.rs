//! SUBSCRIBE and UNSUBSCRIBE with their acknowledgements.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::ack::reason_properties;
use super::property::{Allowed, PropertyReader};
use super::{RawPacket, require_flags, require_request_flags};
use crate::error::DecodeError;
use crate::packet::{Suback, Subscribe, SubscribeFilters, Unsubscribe, UnsubscribeFilters};
use crate::properties::{SubscriptionIds, UserProperties};
use crate::property::id;
use crate::reason::ReasonCode;
use crate::topic::SHARE_PREFIX;
use crate::version::Version;
use crate::wire::Reader;

const SUBSCRIBE_PROPERTIES: Allowed =
    Allowed::of(&[id::SUBSCRIPTION_IDENTIFIER, id::USER_PROPERTY]);
const UNSUBSCRIBE_PROPERTIES: Allowed = Allowed::of(&[id::USER_PROPERTY]);

pub(super) fn subscribe<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Subscribe<'a>, DecodeError> {
    require_request_flags(version, raw)?;
    let mut reader = Reader::new(raw.body);
    let packet_id = reader.packet_id()?;
    let block = properties(version, &mut reader, SUBSCRIBE_PROPERTIES)?;
    let entries = reader.rest();
    let mut count = 0usize;
    while !reader.is_empty() {
        subscribe_entry(version, &mut reader)?;
        count = count.saturating_add(1);
    }
    if count == 0 {
        return Err(SUBSCRIBE_EMPTY);
    }
    Ok(Subscribe {
        packet_id,
        subscription_id: SubscriptionIds::from_wire(block).iter().next(),
        user_properties: UserProperties::from_wire(block),
        filters: SubscribeFilters::from_checked(entries, count),
    })
}

pub(super) fn unsubscribe<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Unsubscribe<'a>, DecodeError> {
    require_request_flags(version, raw)?;
    let mut reader = Reader::new(raw.body);
    let packet_id = reader.packet_id()?;
    let block = properties(version, &mut reader, UNSUBSCRIBE_PROPERTIES)?;
    let entries = reader.rest();
    let mut count = 0usize;
    while !reader.is_empty() {
        filter(version, &mut reader)?;
        count = count.saturating_add(1);
    }
    if count == 0 {
        return Err(UNSUBSCRIBE_EMPTY);
    }
    Ok(Unsubscribe {
        packet_id,
        user_properties: UserProperties::from_wire(block),
        filters: UnsubscribeFilters::from_checked(entries, count),
    })
}

/// The checked block of properties; empty before MQTT 5.
fn properties<'a>(
    version: Version,
    reader: &mut Reader<'a>,
    allowed: Allowed,
) -> Result<&'a [u8], DecodeError> {
    if !version.is_v5() {
        return Ok(&[]);
    }
    let block = reader.properties()?;
    let mut properties = PropertyReader::new(block, allowed);
    while properties.next()?.is_some() {}
    Ok(block)
}

fn subscribe_entry(version: Version, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let filter = filter(version, reader)?;
    let options = reader.u8()?;
    if !version.is_v5() {
        return if options <= 2 { Ok(()) } else { Err(OPTIONS_V3) };
    }
    if options & 0xC0 != 0 {
        return Err(OPTIONS_RESERVED);
    }
    if options & 0x03 == 3 || options & 0x30 == 0x30 {
        return Err(OPTIONS_RANGE);
    }
    if options & 0x04 != 0 && filter.starts_with(SHARE_PREFIX) {
        return Err(NO_LOCAL_SHARED);
    }
    Ok(())
}

/// A topic filter of at least one character (Source: MQTT-4.7.3-1). Its wildcards are left to
/// `TopicFilter::parse`, because SUBACK answers them one by one.
fn filter<'a>(version: Version, reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.text()? {
        "" if version.is_v5() => {
            Err(DecodeError { reason: ReasonCode::TOPIC_FILTER_INVALID, ..FILTER_EMPTY })
        }
        "" => Err(FILTER_EMPTY),
        filter => Ok(filter),
    }
}

pub(super) fn suback<'a>(version: Version, raw: RawPacket<'a>) -> Result<Suback<'a>, DecodeError> {
    let is_allowed = if version.is_v5() { is_suback_reason } else { is_suback_return_code };
    let suback = reasons(version, raw)?;
    check_reasons(&suback, is_allowed, "MQTT-3.9.3-2")?;
    Ok(suback)
}

pub(super) fn unsuback<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Suback<'a>, DecodeError> {
    let unsuback = reasons(version, raw)?;
    if version.is_v5() {
        check_reasons(&unsuback, is_unsuback_reason, "MQTT-3.11.3-2")?;
    } else if !unsuback.reasons.is_empty() {
        return Err(UNSUBACK_V3_BODY);
    }
    Ok(unsuback)
}

fn reasons<'a>(version: Version, raw: RawPacket<'a>) -> Result<Suback<'a>, DecodeError> {
    require_flags(raw, 0)?;
    let mut reader = Reader::new(raw.body);
    let packet_id = reader.packet_id()?;
    let (reason_string, user_properties) =
        if version.is_v5() { reason_properties(&mut reader)? } else { Default::default() };
    Ok(Suback { packet_id, reasons: reader.rest(), reason_string, user_properties })
}

fn check_reasons(
    ack: &Suback<'_>,
    is_allowed: fn(u8) -> bool,
    source: &'static str,
) -> Result<(), DecodeError> {
    if ack.reasons.is_empty() {
        return Err(DecodeError::protocol("acknowledgement of no filter", source));
    }
    if !ack.reasons.iter().all(|&reason| is_allowed(reason)) {
        return Err(DecodeError::protocol("reason code is not one of this packet's", source));
    }
    Ok(())
}

/// Source: MQTT5 §3.9.3.
fn is_suback_reason(reason: u8) -> bool {
    matches!(reason, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
}

/// Source: MQTT3-3.9.3-2.
fn is_suback_return_code(code: u8) -> bool {
    matches!(code, 0x00..=0x02 | 0x80)
}

/// Source: MQTT5 §3.11.3.
fn is_unsuback_reason(reason: u8) -> bool {
    matches!(reason, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
}

const SUBSCRIBE_EMPTY: DecodeError =
    DecodeError::protocol("SUBSCRIBE without a topic filter", "MQTT-3.8.3-2");
const UNSUBSCRIBE_EMPTY: DecodeError =
    DecodeError::protocol("UNSUBSCRIBE without a topic filter", "MQTT-3.10.3-2");
const OPTIONS_V3: DecodeError =
    DecodeError::malformed("requested QoS is not 0, 1 or 2", "MQTT3-3.8.3-4");
const OPTIONS_RESERVED: DecodeError =
    DecodeError::malformed("reserved bits of the subscription options are set", "MQTT-3.8.3-5");
const OPTIONS_RANGE: DecodeError =
    DecodeError::protocol("QoS or retain handling is 3", "MQTT5 §3.8.3.1");
const NO_LOCAL_SHARED: DecodeError =
    DecodeError::protocol("no local on a shared subscription", "MQTT-3.8.3-4");
const FILTER_EMPTY: DecodeError = DecodeError::malformed("topic filter is empty", "MQTT-4.7.3-1");
const UNSUBACK_V3_BODY: DecodeError =
    DecodeError::malformed("UNSUBACK has a payload", "MQTT3-4.8.0-1");
