//! CONNECT: the only packet that says itself which version it is.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::property::{Allowed, Property, PropertyReader};
use super::{RawPacket, packet_type, publish, require_flags, require_minimal, topic_name_error};
use crate::error::DecodeError;
use crate::packet::{Connect, Will};
use crate::properties::{ConnectProperties, UserProperties};
use crate::property::id;
use crate::reason::ReasonCode;
use crate::topic;
use crate::version::{QoS, Version};
use crate::wire::Reader;

/// Decodes the first packet of a connection.
///
/// # Errors
/// `0x82` if it is no CONNECT; `0x84` if the protocol name is right and the level is not one of
/// 3, 4 and 5 (a bridge's `0x80` bit included); `0x85` if the client identifier is empty where it
/// must not be; else `0x81` or `0x82`. A wrong protocol name is `0x81`: close without a word.
pub fn decode_connect<'a>(raw: RawPacket<'a>) -> Result<Connect<'a>, DecodeError> {
    if raw.packet_type() != packet_type::CONNECT {
        return Err(NOT_CONNECT);
    }
    require_flags(raw, 0)?;
    let mut reader = Reader::new(raw.body);
    let version = protocol(&mut reader)?;
    require_minimal(version, raw)?;
    let flags = Flags::from_byte(version, reader.u8()?)?;
    let keep_alive_secs = reader.u16()?;
    let properties =
        if version.is_v5() { connect_properties(&mut reader)? } else { Default::default() };
    let client_id = reader.text()?;
    let will = if flags.will { Some(will(version, flags, &mut reader)?) } else { None };
    let user_name =
        if flags.field(version, flags.user_name, &reader) { Some(reader.text()?) } else { None };
    let password =
        if flags.field(version, flags.password, &reader) { Some(reader.binary()?) } else { None };
    reader.finish()?;
    check_client_id(version, flags.clean_start, client_id)?;
    Ok(Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive_secs,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

/// The version that a CONNECT names, whatever else is wrong with it, so that an error can be
/// answered in that version's form. `None` if name and level do not belong together.
#[must_use]
pub fn connect_version(raw: RawPacket<'_>) -> Option<Version> {
    if raw.packet_type() != packet_type::CONNECT {
        return None;
    }
    protocol(&mut Reader::new(raw.body)).ok()
}

/// Protocol name and level (Source: MQTT-3.1.2-1, MQTT-3.1.2-2; MQTT 3.1 section 3.1).
fn protocol(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(PROTOCOL_NAME);
    }
    match (name, reader.u8()?) {
        (b"MQIsdp", 3) => Ok(Version::V31),
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        _ => Err(PROTOCOL_LEVEL),
    }
}

/// The Connect Flags (Source: MQTT5 §3.1.2.3).
#[derive(Clone, Copy)]
struct Flags {
    clean_start: bool,
    will: bool,
    will_qos: QoS,
    will_retain: bool,
    user_name: bool,
    password: bool,
}

impl Flags {
    /// MQTT 3.1 disregards the reserved bit, and the will's bits where there is no will.
    fn from_byte(version: Version, byte: u8) -> Result<Self, DecodeError> {
        let strict = version != Version::V31;
        if strict && byte & 0x01 != 0 {
            return Err(RESERVED_CONNECT_FLAG);
        }
        let will = byte & 0x04 != 0;
        if strict && !will && byte & 0x38 != 0 {
            return Err(WILL_FLAGS_WITHOUT_WILL);
        }
        let will_qos = match QoS::from_u8(byte >> 3 & 3) {
            Some(qos) => qos,
            None if will => return Err(WILL_QOS_3),
            None => QoS::AtMostOnce,
        };
        let flags = Self {
            clean_start: byte & 0x02 != 0,
            will,
            will_qos,
            will_retain: byte & 0x20 != 0,
            user_name: byte & 0x80 != 0,
            password: byte & 0x40 != 0,
        };
        if flags.password && !flags.user_name && !version.is_v5() {
            return Err(PASSWORD_WITHOUT_USER_NAME);
        }
        Ok(flags)
    }

    /// Whether the user name or password follows. In MQTT 3.1 the end of the packet takes
    /// precedence over the flag (Source: MQTT 3.1, section 3.1, user name and password flags).
    fn field(self, version: Version, flag: bool, reader: &Reader<'_>) -> bool {
        flag && !(version == Version::V31 && reader.is_empty())
    }
}

const CONNECT_PROPERTIES: Allowed = Allowed::of(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::RECEIVE_MAXIMUM,
    id::MAXIMUM_PACKET_SIZE,
    id::TOPIC_ALIAS_MAXIMUM,
    id::REQUEST_RESPONSE_INFORMATION,
    id::REQUEST_PROBLEM_INFORMATION,
    id::USER_PROPERTY,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
]);

fn connect_properties<'a>(reader: &mut Reader<'a>) -> Result<ConnectProperties<'a>, DecodeError> {
    let block = reader.properties()?;
    let mut found = ConnectProperties {
        user_properties: UserProperties::from_wire(block),
        ..ConnectProperties::default()
    };
    let mut properties = PropertyReader::new(block, CONNECT_PROPERTIES);
    while let Some(property) = properties.next()? {
        match property {
            Property::SessionExpiry(secs) => found.session_expiry_secs = Some(secs),
            Property::ReceiveMaximum(maximum) => found.receive_maximum = Some(maximum),
            Property::MaximumPacketSize(bytes) => found.packet_bytes_max = Some(bytes),
            Property::TopicAliasMaximum(maximum) => found.topic_alias_maximum = Some(maximum),
            Property::RequestResponseInformation(on) => found.request_response_information = on,
            Property::RequestProblemInformation(on) => found.request_problem_information = on,
            Property::AuthenticationMethod(method) => found.authentication_method = Some(method),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => {}
        }
    }
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(DATA_WITHOUT_METHOD);
    }
    Ok(found)
}

fn will<'a>(
    version: Version,
    flags: Flags,
    reader: &mut Reader<'a>,
) -> Result<Will<'a>, DecodeError> {
    let (properties, delay_secs) =
        if version.is_v5() { publish::will_properties(reader)? } else { Default::default() };
    let topic = reader.text()?;
    if !topic::is_valid_name(topic) {
        return Err(topic_name_error(version, "will topic is not a topic name", "MQTT-4.7.0-1"));
    }
    let payload = reader.binary()?;
    Ok(Will {
        qos: flags.will_qos,
        retain: flags.will_retain,
        topic,
        payload,
        delay_secs,
        properties,
    })
}

/// Where the server may not choose an identifier itself, the client must give one
/// (Source: MQTT3-3.1.3-7, MQTT3-3.1.3-8; MQTT 3.1 section 3.1; free in MQTT 5).
fn check_client_id(
    version: Version,
    clean_start: bool,
    client_id: &str,
) -> Result<(), DecodeError> {
    let may_be_empty = match version {
        Version::V31 => false,
        Version::V311 => clean_start,
        Version::V5 => true,
    };
    if client_id.is_empty() && !may_be_empty { Err(CLIENT_ID_EMPTY) } else { Ok(()) }
}

const NOT_CONNECT: DecodeError =
    DecodeError::protocol("first packet is not CONNECT", "MQTT-3.1.0-1");
const PROTOCOL_NAME: DecodeError =
    DecodeError::malformed("protocol name is neither MQTT nor MQIsdp", "MQTT-3.1.2-1");
const PROTOCOL_LEVEL: DecodeError = DecodeError {
    reason: ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
    what: "protocol level is not supported",
    source: "MQTT-3.1.2-2",
};
const RESERVED_CONNECT_FLAG: DecodeError =
    DecodeError::malformed("reserved connect flag is set", "MQTT-3.1.2-3");
const WILL_FLAGS_WITHOUT_WILL: DecodeError =
    DecodeError::malformed("will QoS or will retain without a will", "MQTT-3.1.2-11");
const WILL_QOS_3: DecodeError = DecodeError::malformed("will QoS is 3", "MQTT-3.1.2-12");
const PASSWORD_WITHOUT_USER_NAME: DecodeError =
    DecodeError::malformed("password without a user name", "MQTT3-3.1.2-22");
const DATA_WITHOUT_METHOD: DecodeError =
    DecodeError::protocol("authentication data without a method", "MQTT5 §3.1.2.11.10");
const CLIENT_ID_EMPTY: DecodeError = DecodeError {
    reason: ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
    what: "client identifier is empty",
    source: "MQTT3-3.1.3-8",
};
