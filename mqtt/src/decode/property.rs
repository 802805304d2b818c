//! Reads blocks of properties strictly: known, allowed in this packet, in range, not twice.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::error::DecodeError;
use crate::property::id;
use crate::reason::ReasonCode;
use crate::text;
use crate::topic;
use crate::wire::Reader;

/// A property with its checked value.
#[derive(Clone, Copy)]
pub(super) enum Property<'a> {
    PayloadFormat(u8),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId,
    SessionExpiry(u32),
    AssignedClientId(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    MaximumQos(u8),
    RetainAvailable(bool),
    User,
    MaximumPacketSize(u32),
    WildcardAvailable(bool),
    SubscriptionIdsAvailable(bool),
    SharedAvailable(bool),
}

/// A set of property identifiers: all of them are below 64.
#[derive(Clone, Copy)]
pub(super) struct Allowed(u64);

impl Allowed {
    pub(super) const fn of(ids: &[u8]) -> Self {
        let mut set = 0u64;
        let mut rest = ids;
        while let [first, tail @ ..] = rest {
            set |= 1 << (*first & 63);
            rest = tail;
        }
        Self(set)
    }

    const fn holds(self, property: u8) -> bool {
        property < 64 && self.0 >> (property & 63) & 1 == 1
    }
}

/// Reads the properties of one block, one after the other.
pub(super) struct PropertyReader<'a> {
    reader: Reader<'a>,
    allowed: Allowed,
    seen: u64,
    /// Properties that may come more than once in this packet.
    repeatable: Allowed,
}

impl<'a> PropertyReader<'a> {
    /// Only user properties may come more than once.
    pub(super) const fn new(block: &'a [u8], allowed: Allowed) -> Self {
        let repeatable = Allowed::of(&[id::USER_PROPERTY]);
        Self { reader: Reader::new(block), allowed, seen: 0, repeatable }
    }

    /// As in PUBLISH, where a server names every subscription that matched
    /// (Source: MQTT5 §3.3.2.3.8).
    pub(super) const fn with_repeated_subscription_ids(block: &'a [u8], allowed: Allowed) -> Self {
        let repeatable = Allowed::of(&[id::USER_PROPERTY, id::SUBSCRIPTION_IDENTIFIER]);
        Self { reader: Reader::new(block), allowed, seen: 0, repeatable }
    }

    /// The next property; `None` at the end of the block.
    pub(super) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let property = self.reader.u8()?;
        if !self.allowed.holds(property) {
            return Err(NOT_ALLOWED);
        }
        let bit = 1u64 << (property & 63);
        if self.seen & bit != 0 && !self.repeatable.holds(property) {
            return Err(DUPLICATE);
        }
        self.seen |= bit;
        self.value(property).map(Some)
    }

    fn value(&mut self, property: u8) -> Result<Property<'a>, DecodeError> {
        match property {
            id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::ASSIGNED_CLIENT_IDENTIFIER
            | id::AUTHENTICATION_METHOD
            | id::RESPONSE_INFORMATION
            | id::SERVER_REFERENCE
            | id::REASON_STRING
            | id::USER_PROPERTY => self.text(property),
            id::CORRELATION_DATA => self.reader.binary().map(Property::CorrelationData),
            id::AUTHENTICATION_DATA => self.reader.binary().map(Property::AuthenticationData),
            _ => self.number(property),
        }
    }

    fn text(&mut self, property: u8) -> Result<Property<'a>, DecodeError> {
        let text = self.reader.text()?;
        Ok(match property {
            id::CONTENT_TYPE => Property::ContentType(text),
            id::RESPONSE_TOPIC => Property::ResponseTopic(response_topic(text)?),
            id::ASSIGNED_CLIENT_IDENTIFIER => Property::AssignedClientId(text),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(text),
            id::RESPONSE_INFORMATION => Property::ResponseInformation(text),
            id::SERVER_REFERENCE => Property::ServerReference(text),
            id::REASON_STRING => Property::ReasonString(text),
            id::USER_PROPERTY => {
                // That was the name; the value follows (Source: MQTT5 §1.5.7).
                text::checked(self.reader.binary()?)?;
                Property::User
            }
            _ => return Err(NOT_ALLOWED),
        })
    }

    fn number(&mut self, property: u8) -> Result<Property<'a>, DecodeError> {
        Ok(match property {
            id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormat(self.zero_or_one()?),
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiry(self.reader.u32()?),
            id::SUBSCRIPTION_IDENTIFIER => self.subscription_id()?,
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiry(self.reader.u32()?),
            id::SERVER_KEEP_ALIVE => Property::ServerKeepAlive(self.reader.u16()?),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(self.flag()?),
            id::WILL_DELAY_INTERVAL => Property::WillDelay(self.reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(self.flag()?),
            id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(self.nonzero_u16()?),
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(self.reader.u16()?),
            id::TOPIC_ALIAS => Property::TopicAlias(self.topic_alias()?),
            id::MAXIMUM_QOS => Property::MaximumQos(self.zero_or_one()?),
            id::RETAIN_AVAILABLE => Property::RetainAvailable(self.flag()?),
            id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(self.nonzero_u32()?),
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => Property::WildcardAvailable(self.flag()?),
            id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE => {
                Property::SubscriptionIdsAvailable(self.flag()?)
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => Property::SharedAvailable(self.flag()?),
            _ => return Err(NOT_ALLOWED),
        })
    }

    fn zero_or_one(&mut self) -> Result<u8, DecodeError> {
        match self.reader.u8()? {
            value @ (0 | 1) => Ok(value),
            _ => Err(NEITHER_0_NOR_1),
        }
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        Ok(self.zero_or_one()? == 1)
    }

    fn nonzero_u16(&mut self) -> Result<u16, DecodeError> {
        match self.reader.u16()? {
            0 => Err(MAXIMUM_ZERO),
            value => Ok(value),
        }
    }

    fn nonzero_u32(&mut self) -> Result<u32, DecodeError> {
        match self.reader.u32()? {
            0 => Err(MAXIMUM_ZERO),
            value => Ok(value),
        }
    }

    fn topic_alias(&mut self) -> Result<u16, DecodeError> {
        match self.reader.u16()? {
            0 => Err(TOPIC_ALIAS_ZERO),
            value => Ok(value),
        }
    }

    fn subscription_id(&mut self) -> Result<Property<'a>, DecodeError> {
        match self.reader.varint()? {
            0 => Err(SUBSCRIPTION_ID_ZERO),
            _ => Ok(Property::SubscriptionId),
        }
    }
}

/// A Response Topic is a topic name: no wildcards, at least one character
/// (Source: MQTT-3.3.2-14, MQTT-4.7.3-1).
fn response_topic(text: &str) -> Result<&str, DecodeError> {
    if topic::is_valid_name(text) { Ok(text) } else { Err(RESPONSE_TOPIC) }
}

const NOT_ALLOWED: DecodeError =
    DecodeError::malformed("property is unknown or not of this packet", "MQTT5 §2.2.2.2");
const DUPLICATE: DecodeError =
    DecodeError::protocol("property comes more than once", "MQTT5 §2.2.2.2");
const NEITHER_0_NOR_1: DecodeError =
    DecodeError::protocol("property is neither 0 nor 1", "MQTT5 §3.1.2.11");
const MAXIMUM_ZERO: DecodeError =
    DecodeError::protocol("receive maximum or maximum packet size is 0", "MQTT5 §3.1.2.11");
const TOPIC_ALIAS_ZERO: DecodeError = DecodeError {
    reason: ReasonCode::TOPIC_ALIAS_INVALID,
    what: "topic alias is 0",
    source: "MQTT-3.3.2-8",
};
const SUBSCRIPTION_ID_ZERO: DecodeError =
    DecodeError::protocol("subscription identifier is 0", "MQTT5 §3.8.2.1.2");
const RESPONSE_TOPIC: DecodeError =
    DecodeError::protocol("response topic is not a topic name", "MQTT-3.3.2-14");
