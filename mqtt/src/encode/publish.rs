//! PUBLISH: its head, its size, and the properties that travel with a message.

use super::wire::{
    clamped, put_binary_property, put_text, put_text_property, put_u8_property, put_u16,
    put_u16_property, put_u32_property, put_user_properties, put_varint, varint_of,
};
use crate::decode::packet_type;
use crate::properties::PublishProperties;
use crate::property::id;
use crate::version::{QoS, Version};
use crate::wire::{VARINT_MAX, varint_bytes};
use alloc::vec::Vec;

/// Everything of a PUBLISH but the payload.
#[derive(Clone, Copy, Debug)]
pub struct PublishHead<'a> {
    /// The receiver's version. Before MQTT 5 the properties are left out.
    pub version: Version,
    /// Whether it was sent before.
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The topic name; empty if the receiver knows the alias already.
    pub topic: &'a str,
    /// Topic Alias; not 0.
    pub topic_alias: Option<u16>,
    /// The packet identifier; not written with QoS 0.
    pub packet_id: u16,
    /// Message Expiry Interval that is left, in seconds.
    pub message_expiry_secs: Option<u32>,
    /// Subscription Identifiers, each from 1 to 268,435,455.
    pub subscription_ids: &'a [u32],
    /// Further properties in wire form, without a length: what
    /// [`PublishProperties::write_forwarded`] or [`forwarded`] wrote.
    pub forwarded: &'a [u8],
    /// Bytes of the payload that the caller appends.
    pub payload_bytes: usize,
}

/// Appends everything of a PUBLISH but the payload, which the caller sends behind it.
pub fn publish_head(out: &mut Vec<u8>, head: &PublishHead<'_>) {
    let properties_bytes = properties_bytes(head);
    let header = packet_type::PUBLISH << 4
        | u8::from(head.dup) << 3
        | (head.qos as u8) << 1
        | u8::from(head.retain);
    out.push(header);
    put_varint(out, varint_of(remaining_bytes(head, properties_bytes)));
    put_text(out, head.topic);
    if head.qos != QoS::AtMostOnce {
        put_u16(out, head.packet_id);
    }
    if head.version.is_v5() {
        put_varint(out, varint_of(properties_bytes));
        put_u32_property(out, id::MESSAGE_EXPIRY_INTERVAL, head.message_expiry_secs);
        put_u16_property(out, id::TOPIC_ALIAS, head.topic_alias);
        for &subscription_id in head.subscription_ids {
            out.push(id::SUBSCRIPTION_IDENTIFIER);
            put_varint(out, subscription_id);
        }
        out.extend_from_slice(head.forwarded);
    }
}

/// Bytes of the whole packet, payload included: what Maximum Packet Size limits
/// (Source: MQTT-3.1.2-24).
#[must_use]
pub fn publish_bytes(head: &PublishHead<'_>) -> usize {
    let remaining = remaining_bytes(head, properties_bytes(head));
    1 + length_bytes(remaining) + remaining
}

/// Where the packet identifier lies, counted from the packet's first byte, so that a fan-out can
/// encode the head once and write each receiver's identifier into it (big-endian). `None` with
/// QoS 0.
#[must_use]
pub fn packet_id_position(head: &PublishHead<'_>) -> Option<usize> {
    let remaining = remaining_bytes(head, properties_bytes(head));
    let topic_bytes = 2 + clamped(head.topic).len();
    (head.qos != QoS::AtMostOnce).then(|| 1 + length_bytes(remaining) + topic_bytes)
}

/// Appends the properties of a message that a server forwards, from the fields: payload format,
/// content type, response topic, correlation data and user properties. For what was decoded,
/// [`PublishProperties::write_forwarded`] is faster and keeps the sender's order.
pub fn forwarded(out: &mut Vec<u8>, properties: &PublishProperties<'_>) {
    put_u8_property(out, id::PAYLOAD_FORMAT_INDICATOR, properties.payload_format);
    put_text_property(out, id::CONTENT_TYPE, properties.content_type);
    put_text_property(out, id::RESPONSE_TOPIC, properties.response_topic);
    put_binary_property(out, id::CORRELATION_DATA, properties.correlation_data);
    put_user_properties(out, &properties.user_properties);
}

/// Appends one user property in wire form: what [`crate::UserProperties::from_wire`] reads.
pub fn user_property(out: &mut Vec<u8>, name: &str, value: &str) {
    out.push(id::USER_PROPERTY);
    put_text(out, name);
    put_text(out, value);
}

fn properties_bytes(head: &PublishHead<'_>) -> usize {
    if !head.version.is_v5() {
        return 0;
    }
    let ids: usize = head
        .subscription_ids
        .iter()
        .map(|&subscription_id| 1 + varint_bytes(subscription_id.min(VARINT_MAX)))
        .sum();
    let expiry = if head.message_expiry_secs.is_some() { 5 } else { 0 };
    let alias = if head.topic_alias.is_some() { 3 } else { 0 };
    expiry + alias + ids + head.forwarded.len()
}

/// The Remaining Length.
fn remaining_bytes(head: &PublishHead<'_>, properties_bytes: usize) -> usize {
    let packet_id = if head.qos == QoS::AtMostOnce { 0 } else { 2 };
    let properties =
        if head.version.is_v5() { length_bytes(properties_bytes) + properties_bytes } else { 0 };
    2 + clamped(head.topic).len() + packet_id + properties + head.payload_bytes
}

fn length_bytes(bytes: usize) -> usize {
    varint_bytes(u32::try_from(bytes).unwrap_or(VARINT_MAX))
}
