//! PUBLISH, and the properties that a will shares with it.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::property::{Allowed, Property, PropertyReader};
use super::{RawPacket, topic_name_error};
use crate::error::DecodeError;
use crate::packet::Publish;
use crate::properties::{PublishProperties, SubscriptionIds, UserProperties};
use crate::property::id;
use crate::text;
use crate::version::{QoS, Version};
use crate::wire::Reader;

#[inline]
pub(super) fn decode<'a>(version: Version, raw: RawPacket<'a>) -> Result<Publish<'a>, DecodeError> {
    let flags = raw.flags();
    let dup = flags & 0x08 != 0;
    let qos = QoS::from_u8(flags >> 1 & 3).ok_or(QOS_3)?;
    if dup && qos == QoS::AtMostOnce {
        return Err(DUP_WITH_QOS_0);
    }
    let mut reader = Reader::new(raw.body);
    let topic = topic_name(version, reader.binary()?)?;
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
    let has_properties = version.is_v5() && !reader.skip_zero();
    let properties =
        if has_properties { publish_properties(&mut reader)? } else { Default::default() };
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(empty_topic(version));
    }
    let retain = flags & 0x01 != 0;
    Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: reader.rest() })
}

/// What a server accepts from nobody but another server (Source: MQTT-3.3.4-6).
pub(super) fn check_from_client(publish: &Publish<'_>) -> Result<(), DecodeError> {
    if publish.properties.subscription_ids.is_empty() { Ok(()) } else { Err(SUBSCRIPTION_ID) }
}

/// A topic name that may be empty. One pass looks for everything that is forbidden in ASCII.
#[inline]
fn topic_name(version: Version, bytes: &[u8]) -> Result<&str, DecodeError> {
    if text::holds_any(bytes, |byte| matches!(byte, 0 | b'+' | b'#')) {
        // Which of them it is decides the reason code, and only matters now.
        text::checked(bytes)?;
        return Err(topic_name_error(version, "topic name holds a wildcard", "MQTT-3.3.2-2"));
    }
    text::without_nul(bytes)
}

const PUBLISH_PROPERTIES: Allowed = Allowed::of(&[
    id::PAYLOAD_FORMAT_INDICATOR,
    id::MESSAGE_EXPIRY_INTERVAL,
    id::TOPIC_ALIAS,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER_PROPERTY,
    id::SUBSCRIPTION_IDENTIFIER,
    id::CONTENT_TYPE,
]);

fn publish_properties<'a>(reader: &mut Reader<'a>) -> Result<PublishProperties<'a>, DecodeError> {
    let block = reader.properties()?;
    let properties = PropertyReader::with_repeated_subscription_ids(block, PUBLISH_PROPERTIES);
    message_properties(block, properties).map(|(found, _)| found)
}

const WILL_PROPERTIES: Allowed = Allowed::of(&[
    id::WILL_DELAY_INTERVAL,
    id::PAYLOAD_FORMAT_INDICATOR,
    id::MESSAGE_EXPIRY_INTERVAL,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER_PROPERTY,
]);

/// The will's properties and its delay in seconds (Source: MQTT5 §3.1.3.2).
pub(super) fn will_properties<'a>(
    reader: &mut Reader<'a>,
) -> Result<(PublishProperties<'a>, u32), DecodeError> {
    let block = reader.properties()?;
    message_properties(block, PropertyReader::new(block, WILL_PROPERTIES))
}

fn message_properties<'a>(
    block: &'a [u8],
    mut properties: PropertyReader<'a>,
) -> Result<(PublishProperties<'a>, u32), DecodeError> {
    let mut delay_secs = 0;
    let mut found = PublishProperties {
        user_properties: UserProperties::from_wire(block),
        raw: block,
        ..PublishProperties::default()
    };
    while let Some(property) = properties.next()? {
        match property {
            Property::PayloadFormat(format) => found.payload_format = Some(format),
            Property::MessageExpiry(secs) => found.message_expiry_secs = Some(secs),
            Property::TopicAlias(alias) => found.topic_alias = Some(alias),
            Property::ResponseTopic(topic) => found.response_topic = Some(topic),
            Property::CorrelationData(data) => found.correlation_data = Some(data),
            Property::ContentType(text) => found.content_type = Some(text),
            // Set only here, so that the view is empty without a walk where there is none.
            Property::SubscriptionId => found.subscription_ids = SubscriptionIds::from_wire(block),
            Property::WillDelay(secs) => delay_secs = secs,
            _ => {}
        }
    }
    Ok((found, delay_secs))
}

fn empty_topic(version: Version) -> DecodeError {
    if version.is_v5() {
        DecodeError::protocol("empty topic name without a topic alias", "MQTT5 §3.3.2.1")
    } else {
        DecodeError::malformed("topic name is empty", "MQTT3-4.7.3-1")
    }
}

const QOS_3: DecodeError = DecodeError::malformed("QoS is 3", "MQTT-3.3.1-4");
const DUP_WITH_QOS_0: DecodeError = DecodeError::malformed("DUP with QoS 0", "MQTT-3.3.1-2");
const SUBSCRIPTION_ID: DecodeError =
    DecodeError::protocol("subscription identifier from a client", "MQTT-3.3.4-6");
