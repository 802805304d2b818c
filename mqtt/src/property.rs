//! The identifiers and shapes of MQTT 5 properties, and a walk over a block of them.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::error::DecodeError;
use crate::wire::Reader;

/// Property identifiers (Source: MQTT5 §2.2.2.2, table 2-4).
pub(crate) mod id {
    pub(crate) const PAYLOAD_FORMAT_INDICATOR: u8 = 1;
    pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 2;
    pub(crate) const CONTENT_TYPE: u8 = 3;
    pub(crate) const RESPONSE_TOPIC: u8 = 8;
    pub(crate) const CORRELATION_DATA: u8 = 9;
    pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 11;
    pub(crate) const SESSION_EXPIRY_INTERVAL: u8 = 17;
    pub(crate) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 18;
    pub(crate) const SERVER_KEEP_ALIVE: u8 = 19;
    pub(crate) const AUTHENTICATION_METHOD: u8 = 21;
    pub(crate) const AUTHENTICATION_DATA: u8 = 22;
    pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 23;
    pub(crate) const WILL_DELAY_INTERVAL: u8 = 24;
    pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 25;
    pub(crate) const RESPONSE_INFORMATION: u8 = 26;
    pub(crate) const SERVER_REFERENCE: u8 = 28;
    pub(crate) const REASON_STRING: u8 = 31;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 33;
    pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
    pub(crate) const TOPIC_ALIAS: u8 = 35;
    pub(crate) const MAXIMUM_QOS: u8 = 36;
    pub(crate) const RETAIN_AVAILABLE: u8 = 37;
    pub(crate) const USER_PROPERTY: u8 = 38;
    pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 39;
    pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 40;
    pub(crate) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 41;
    pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 42;
}

/// The data type of a property's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Byte,
    TwoBytes,
    FourBytes,
    Varint,
    /// A UTF-8 string or binary data: alike in shape, only the check differs.
    Sized,
    Pair,
}

/// The shape of this property's value; `None` if the specification knows no such identifier.
///
/// Identifiers are Variable Byte Integers, and all that are assigned take one byte.
#[inline]
pub(crate) const fn kind(property: u8) -> Option<Kind> {
    match property {
        id::PAYLOAD_FORMAT_INDICATOR
        | id::REQUEST_PROBLEM_INFORMATION
        | id::REQUEST_RESPONSE_INFORMATION
        | id::MAXIMUM_QOS
        | id::RETAIN_AVAILABLE
        | id::WILDCARD_SUBSCRIPTION_AVAILABLE
        | id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE
        | id::SHARED_SUBSCRIPTION_AVAILABLE => Some(Kind::Byte),
        id::SERVER_KEEP_ALIVE | id::RECEIVE_MAXIMUM | id::TOPIC_ALIAS_MAXIMUM | id::TOPIC_ALIAS => {
            Some(Kind::TwoBytes)
        }
        id::MESSAGE_EXPIRY_INTERVAL
        | id::SESSION_EXPIRY_INTERVAL
        | id::WILL_DELAY_INTERVAL
        | id::MAXIMUM_PACKET_SIZE => Some(Kind::FourBytes),
        id::SUBSCRIPTION_IDENTIFIER => Some(Kind::Varint),
        id::CONTENT_TYPE
        | id::RESPONSE_TOPIC
        | id::CORRELATION_DATA
        | id::ASSIGNED_CLIENT_IDENTIFIER
        | id::AUTHENTICATION_METHOD
        | id::AUTHENTICATION_DATA
        | id::RESPONSE_INFORMATION
        | id::SERVER_REFERENCE
        | id::REASON_STRING => Some(Kind::Sized),
        id::USER_PROPERTY => Some(Kind::Pair),
        _ => None,
    }
}

/// One property as it lies in the block: identifier, value, and both together.
#[derive(Clone, Copy)]
pub(crate) struct RawProperty<'a> {
    pub(crate) id: u8,
    pub(crate) value: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Walks a block of properties without looking into the values. Ends at the first byte that is
/// not a property, so that it is safe on any bytes and complete on checked ones.
#[derive(Clone)]
pub(crate) struct RawProperties<'a> {
    rest: &'a [u8],
}

impl<'a> RawProperties<'a> {
    #[inline]
    pub(crate) const fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }

    fn read(&self) -> Result<Option<(RawProperty<'a>, &'a [u8])>, DecodeError> {
        let mut reader = Reader::new(self.rest);
        let property = reader.u8()?;
        let Some(kind) = kind(property) else { return Ok(None) };
        let start = reader.rest();
        skip(&mut reader, kind)?;
        let rest = reader.rest();
        let value_bytes = start.len().saturating_sub(rest.len());
        let value = start.get(..value_bytes).unwrap_or_default();
        let whole = self.rest.get(..value_bytes.saturating_add(1)).unwrap_or_default();
        Ok(Some((RawProperty { id: property, value, whole }, rest)))
    }
}

impl<'a> Iterator for RawProperties<'a> {
    type Item = RawProperty<'a>;

    #[inline]
    fn next(&mut self) -> Option<RawProperty<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (property, rest) = self.read().ok().flatten()?;
        self.rest = rest;
        Some(property)
    }
}

fn skip(reader: &mut Reader<'_>, kind: Kind) -> Result<(), DecodeError> {
    match kind {
        Kind::Byte => reader.take(1).map(drop),
        Kind::TwoBytes => reader.take(2).map(drop),
        Kind::FourBytes => reader.take(4).map(drop),
        Kind::Varint => reader.varint().map(drop),
        Kind::Sized => reader.binary().map(drop),
        Kind::Pair => {
            reader.binary()?;
            reader.binary().map(drop)
        }
    }
}
