//! CONNACK, DISCONNECT and AUTH: the packets about the connection itself.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::property::{Allowed, Property, PropertyReader};
use super::{RawPacket, empty, require_flags};
use crate::error::DecodeError;
use crate::packet::{Auth, Connack, Disconnect};
use crate::properties::{ConnackProperties, UserProperties};
use crate::property::id;
use crate::reason::ReasonCode;
use crate::version::Version;
use crate::wire::Reader;

pub(super) fn connack<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Connack<'a>, DecodeError> {
    require_flags(raw, 0)?;
    let mut reader = Reader::new(raw.body);
    let session_present = match reader.u8()? {
        // MQTT 3.1 does not use this byte.
        _ if version == Version::V31 => false,
        0 => false,
        1 => true,
        _ => return Err(CONNACK_FLAGS),
    };
    let reason = ReasonCode(reader.u8()?);
    let is_known = if version.is_v5() { is_connack_reason(reason.0) } else { reason.0 <= 5 };
    if !is_known {
        return Err(CONNACK_REASON);
    }
    if session_present && reason != ReasonCode::SUCCESS {
        return Err(SESSION_WITHOUT_SUCCESS);
    }
    let properties =
        if version.is_v5() { connack_properties(&mut reader)? } else { Default::default() };
    reader.finish()?;
    Ok(Connack { session_present, reason, properties })
}

/// Source: MQTT5 §3.2.2.2.
fn is_connack_reason(reason: u8) -> bool {
    matches!(
        reason,
        0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99 | 0x9A..=0x9D | 0x9F
    )
}

const CONNACK_PROPERTIES: Allowed = Allowed::of(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::RECEIVE_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::MAXIMUM_PACKET_SIZE,
    id::ASSIGNED_CLIENT_IDENTIFIER,
    id::TOPIC_ALIAS_MAXIMUM,
    id::REASON_STRING,
    id::USER_PROPERTY,
    id::WILDCARD_SUBSCRIPTION_AVAILABLE,
    id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
    id::SHARED_SUBSCRIPTION_AVAILABLE,
    id::SERVER_KEEP_ALIVE,
    id::RESPONSE_INFORMATION,
    id::SERVER_REFERENCE,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
]);

fn connack_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnackProperties<'a>, DecodeError> {
    let block = reader.properties()?;
    let mut found = ConnackProperties {
        user_properties: UserProperties::from_wire(block),
        ..ConnackProperties::default()
    };
    let mut properties = PropertyReader::new(block, CONNACK_PROPERTIES);
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(secs) => found.session_expiry_secs = Some(secs),
            Property::ReceiveMaximum(maximum) => found.receive_maximum = Some(maximum),
            Property::MaximumQos(qos) => found.maximum_qos = Some(qos),
            Property::RetainAvailable(on) => found.retain_available = Some(on),
            Property::MaximumPacketSize(bytes) => found.packet_bytes_max = Some(bytes),
            Property::AssignedClientId(text) => found.assigned_client_id = Some(text),
            Property::TopicAliasMaximum(maximum) => found.topic_alias_maximum = Some(maximum),
            Property::ReasonString(text) => found.reason_string = Some(text),
            Property::WildcardAvailable(on) => found.wildcard_available = Some(on),
            Property::SubscriptionIdsAvailable(on) => found.subscription_ids_available = Some(on),
            Property::SharedAvailable(on) => found.shared_available = Some(on),
            Property::ServerKeepAlive(secs) => found.server_keep_alive_secs = Some(secs),
            Property::ResponseInformation(text) => found.response_information = Some(text),
            Property::ServerReference(text) => found.server_reference = Some(text),
            Property::AuthenticationMethod(text) => found.authentication_method = Some(text),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => {}
        }
    }
    Ok(found)
}

const DISCONNECT_PROPERTIES: Allowed = Allowed::of(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::REASON_STRING,
    id::USER_PROPERTY,
    id::SERVER_REFERENCE,
]);

/// MQTT 5 leaves out the reason code if it is 0 and nothing follows, and the property length if
/// nothing follows (Source: MQTT5 §3.14.2.1, §3.14.2.2.1).
pub(super) fn disconnect<'a>(
    version: Version,
    raw: RawPacket<'a>,
) -> Result<Disconnect<'a>, DecodeError> {
    let mut found = Disconnect {
        reason: ReasonCode::NORMAL_DISCONNECTION,
        session_expiry_secs: None,
        reason_string: None,
        server_reference: None,
        user_properties: UserProperties::default(),
    };
    if !version.is_v5() || raw.body.is_empty() {
        return empty(raw).map(|()| found);
    }
    require_flags(raw, 0)?;
    let mut reader = Reader::new(raw.body);
    found.reason = ReasonCode(reader.u8()?);
    if !is_disconnect_reason(found.reason.0) {
        return Err(DISCONNECT_REASON);
    }
    if !reader.is_empty() {
        disconnect_properties(&mut reader, &mut found)?;
        reader.finish()?;
    }
    Ok(found)
}

fn disconnect_properties<'a>(
    reader: &mut Reader<'a>,
    found: &mut Disconnect<'a>,
) -> Result<(), DecodeError> {
    let block = reader.properties()?;
    found.user_properties = UserProperties::from_wire(block);
    let mut properties = PropertyReader::new(block, DISCONNECT_PROPERTIES);
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(secs) => found.session_expiry_secs = Some(secs),
            Property::ReasonString(text) => found.reason_string = Some(text),
            Property::ServerReference(text) => found.server_reference = Some(text),
            _ => {}
        }
    }
    Ok(())
}

/// Source: MQTT5 §3.14.2.1.
fn is_disconnect_reason(reason: u8) -> bool {
    matches!(
        reason,
        0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2
    )
}

/// The codes that the table gives to clients (Source: MQTT5 §3.14.2.1, column "sent by").
fn is_client_disconnect_reason(reason: u8) -> bool {
    matches!(reason, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x97 | 0x99)
}

pub(super) fn check_disconnect_from_client(disconnect: &Disconnect<'_>) -> Result<(), DecodeError> {
    if is_client_disconnect_reason(disconnect.reason.0) { Ok(()) } else { Err(DISCONNECT_REASON) }
}

const AUTH_PROPERTIES: Allowed = Allowed::of(&[
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::REASON_STRING,
    id::USER_PROPERTY,
]);

/// The reason code and the properties are left out together (Source: MQTT5 §3.15.2.1).
pub(super) fn auth<'a>(raw: RawPacket<'a>) -> Result<Auth<'a>, DecodeError> {
    require_flags(raw, 0)?;
    let mut found = Auth {
        reason: ReasonCode::SUCCESS,
        method: None,
        data: None,
        reason_string: None,
        user_properties: UserProperties::default(),
    };
    if raw.body.is_empty() {
        return Ok(found);
    }
    let mut reader = Reader::new(raw.body);
    found.reason = ReasonCode(reader.u8()?);
    if !matches!(found.reason.0, 0x00 | 0x18 | 0x19) {
        return Err(AUTH_REASON);
    }
    auth_properties(&mut reader, &mut found)?;
    reader.finish()?;
    if found.method.is_none() {
        return Err(AUTH_WITHOUT_METHOD);
    }
    Ok(found)
}

fn auth_properties<'a>(reader: &mut Reader<'a>, found: &mut Auth<'a>) -> Result<(), DecodeError> {
    let block = reader.properties()?;
    found.user_properties = UserProperties::from_wire(block);
    let mut properties = PropertyReader::new(block, AUTH_PROPERTIES);
    while let Some(property) = properties.next()? {
        match property {
            Property::AuthenticationMethod(text) => found.method = Some(text),
            Property::AuthenticationData(data) => found.data = Some(data),
            Property::ReasonString(text) => found.reason_string = Some(text),
            _ => {}
        }
    }
    Ok(())
}

/// Only a server says that authentication has succeeded (Source: MQTT5 §3.15.2.1).
pub(super) fn check_auth_from_client(auth: &Auth<'_>) -> Result<(), DecodeError> {
    if auth.reason == ReasonCode::SUCCESS { Err(AUTH_REASON) } else { Ok(()) }
}

const CONNACK_FLAGS: DecodeError =
    DecodeError::malformed("reserved acknowledge flags are set", "MQTT-3.2.2-1");
const CONNACK_REASON: DecodeError =
    DecodeError::protocol("reason code is not one of CONNACK's", "MQTT-3.2.2-8");
const SESSION_WITHOUT_SUCCESS: DecodeError =
    DecodeError::protocol("session present without success", "MQTT-3.2.2-6");
const DISCONNECT_REASON: DecodeError =
    DecodeError::protocol("reason code is not one of DISCONNECT's", "MQTT-3.14.2-1");
const AUTH_REASON: DecodeError =
    DecodeError::protocol("reason code is not one of AUTH's", "MQTT-3.15.2-1");
const AUTH_WITHOUT_METHOD: DecodeError =
    DecodeError::protocol("AUTH without an authentication method", "MQTT5 §3.15.2.2.2");
