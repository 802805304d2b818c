//! The properties that packets of MQTT 5 carry, as views into the packet.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::property::{RawProperties, id};
use crate::wire::Reader;
use alloc::vec::Vec;
use core::fmt;

/// The user properties of a packet, in the order in which they were sent.
///
/// A view over the packet's whole block of properties: iterating walks the block. Two views are
/// equal if they hold the same pairs in the same order.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a>(&'a [u8]);

impl<'a> UserProperties<'a> {
    /// A view on properties in wire form, without their length prefix. Properties of other kinds
    /// are passed over, and the walk ends at the first byte that is not a property.
    #[must_use]
    pub const fn from_wire(properties: &'a [u8]) -> Self {
        Self(properties)
    }

    /// The pairs of name and value. The same name may come more than once.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        RawProperties::new(self.0)
            .filter(|property| property.id == id::USER_PROPERTY)
            .filter_map(|property| pair(property.value))
    }

    /// How many pairs there are. Walks the block.
    #[must_use]
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

fn pair(value: &[u8]) -> Option<(&str, &str)> {
    let mut reader = Reader::new(value);
    let name = core::str::from_utf8(reader.binary().ok()?).ok()?;
    let value = core::str::from_utf8(reader.binary().ok()?).ok()?;
    Some((name, value))
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The Subscription Identifiers of a PUBLISH that a server sent, in the order of the packet.
///
/// A view over the packet's whole block of properties, as [`UserProperties`] is.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIds<'a>(&'a [u8]);

impl<'a> SubscriptionIds<'a> {
    /// A view on properties in wire form, without their length prefix.
    #[must_use]
    pub const fn from_wire(properties: &'a [u8]) -> Self {
        Self(properties)
    }

    /// The identifiers, each from 1 to 268,435,455.
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        RawProperties::new(self.0)
            .filter(|property| property.id == id::SUBSCRIPTION_IDENTIFIER)
            .filter_map(|property| Reader::new(property.value).varint().ok())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

impl fmt::Debug for SubscriptionIds<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Properties of CONNECT (Source: MQTT5 §3.1.2.11). Absent ones are `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectProperties<'a> {
    /// Session Expiry Interval in seconds; `u32::MAX` means never.
    pub session_expiry_secs: Option<u32>,
    /// Receive Maximum: QoS 1 and 2 publishes that the client handles at a time. Never 0.
    pub receive_maximum: Option<u16>,
    /// Maximum Packet Size in bytes that the client accepts. Never 0.
    pub packet_bytes_max: Option<u32>,
    /// Topic Alias Maximum that the client accepts.
    pub topic_alias_maximum: Option<u16>,
    /// Whether the client asks for Response Information in CONNACK; `false` if absent.
    pub request_response_information: bool,
    /// Whether reason strings and user properties may be sent on failures; `true` if absent.
    pub request_problem_information: bool,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Authentication Method: present if the client asks for enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data; only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_secs: None,
            receive_maximum: None,
            packet_bytes_max: None,
            topic_alias_maximum: None,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::default(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

/// Properties of PUBLISH, and of a will message (Source: MQTT5 §3.3.2.3, §3.1.3.2).
///
/// Equality compares what the properties say and leaves `raw` out.
#[derive(Clone, Copy, Default, Debug)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator: 0 for bytes, 1 for UTF-8.
    pub payload_format: Option<u8>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_secs: Option<u32>,
    /// Topic Alias. Never 0.
    pub topic_alias: Option<u16>,
    /// Response Topic: a topic name without wildcards.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Subscription Identifiers; only in a PUBLISH from a server.
    pub subscription_ids: SubscriptionIds<'a>,
    /// The block as it came, without its length. Empty if the value was not decoded.
    pub raw: &'a [u8],
}

impl PublishProperties<'_> {
    /// Appends the wire form, without a length, of what a server forwards unaltered: everything
    /// in `raw` but the message expiry (it is counted down), the topic alias (it belongs to one
    /// connection), subscription identifiers (they are the receiver's) and a will's delay.
    /// The order stays.
    ///
    /// Source: MQTT-3.3.2-4, -6, -15, -16, -17, -18, -20; MQTT5 §3.3.2.3.4 for the alias.
    pub fn write_forwarded(&self, out: &mut Vec<u8>) {
        let mut run_start = 0usize;
        let mut position = 0usize;
        for property in RawProperties::new(self.raw) {
            let end = position.saturating_add(property.whole.len());
            if !is_forwarded(property.id) {
                out.extend_from_slice(self.raw.get(run_start..position).unwrap_or_default());
                run_start = end;
            }
            position = end;
        }
        out.extend_from_slice(self.raw.get(run_start..position).unwrap_or_default());
    }
}

const fn is_forwarded(property: u8) -> bool {
    !matches!(
        property,
        id::MESSAGE_EXPIRY_INTERVAL
            | id::TOPIC_ALIAS
            | id::SUBSCRIPTION_IDENTIFIER
            | id::WILL_DELAY_INTERVAL
    )
}

impl PartialEq for PublishProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.payload_format == other.payload_format
            && self.message_expiry_secs == other.message_expiry_secs
            && self.topic_alias == other.topic_alias
            && self.response_topic == other.response_topic
            && self.correlation_data == other.correlation_data
            && self.content_type == other.content_type
            && self.user_properties == other.user_properties
            && self.subscription_ids == other.subscription_ids
    }
}

impl Eq for PublishProperties<'_> {}

/// Properties of CONNACK (Source: MQTT5 §3.2.2.3). Absent ones are `None`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ConnackProperties<'a> {
    /// Session Expiry Interval in seconds, if the server uses another than the client asked for.
    pub session_expiry_secs: Option<u32>,
    /// Receive Maximum of the server. Never 0.
    pub receive_maximum: Option<u16>,
    /// Maximum QoS: 0 or 1; absent means 2.
    pub maximum_qos: Option<u8>,
    /// Whether retained messages are supported; absent means yes.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size in bytes that the server accepts. Never 0.
    pub packet_bytes_max: Option<u32>,
    /// The client identifier that the server chose.
    pub assigned_client_id: Option<&'a str>,
    /// Topic Alias Maximum that the server accepts.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String, for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Whether wildcard subscriptions are supported; absent means yes.
    pub wildcard_available: Option<bool>,
    /// Whether subscription identifiers are supported; absent means yes.
    pub subscription_ids_available: Option<bool>,
    /// Whether shared subscriptions are supported; absent means yes.
    pub shared_available: Option<bool>,
    /// Keep alive in seconds that the client must use instead of its own.
    pub server_keep_alive_secs: Option<u16>,
    /// Response Information.
    pub response_information: Option<&'a str>,
    /// Server Reference.
    pub server_reference: Option<&'a str>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
}
