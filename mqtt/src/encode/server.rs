//! Packets that a server sends: CONNACK, SUBACK, UNSUBACK.

use super::wire::{
    framed, put_binary_property, put_flag_property, put_text_property, put_u8_property, put_u16,
    put_u16_property, put_u32_property, put_user_properties, sized,
};
use crate::decode::packet_type;
use crate::properties::ConnackProperties;
use crate::property::id;
use crate::reason::ReasonCode;
use crate::version::Version;
use alloc::vec::Vec;

/// CONNACK. Before MQTT 5 the properties are left out and the reason becomes a return code;
/// MQTT 3.1 knows no Session Present flag.
pub fn connack(
    out: &mut Vec<u8>,
    version: Version,
    session_present: bool,
    reason: ReasonCode,
    properties: &ConnackProperties<'_>,
) {
    let session_present = session_present && version != Version::V31;
    framed(out, packet_type::CONNACK << 4, |out| {
        out.push(u8::from(session_present));
        if version.is_v5() {
            out.push(reason.0);
            sized(out, |out| connack_properties(out, properties));
        } else {
            out.push(return_code(reason));
        }
    });
}

/// SUBACK with one reason per filter. Before MQTT 5 every failure becomes `0x80`.
pub fn suback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reasons: &[ReasonCode],
    reason_string: Option<&str>,
) {
    framed(out, packet_type::SUBACK << 4, |out| {
        put_u16(out, packet_id);
        if version.is_v5() {
            sized(out, |out| put_text_property(out, id::REASON_STRING, reason_string));
            out.extend(reasons.iter().map(|reason| reason.0));
        } else {
            out.extend(reasons.iter().map(|reason| reason.0.min(0x80)));
        }
    });
}

/// UNSUBACK with one reason per filter. Before MQTT 5 only the packet identifier goes out.
pub fn unsuback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reasons: &[ReasonCode],
    reason_string: Option<&str>,
) {
    framed(out, packet_type::UNSUBACK << 4, |out| {
        put_u16(out, packet_id);
        if version.is_v5() {
            sized(out, |out| put_text_property(out, id::REASON_STRING, reason_string));
            out.extend(reasons.iter().map(|reason| reason.0));
        }
    });
}

/// The return code of MQTT 3.1 and 3.1.1 that comes nearest (Source: MQTT3 section 3.2.2.3).
/// 0 to 5 are return codes already; what has no counterpart is "server unavailable".
fn return_code(reason: ReasonCode) -> u8 {
    match reason {
        ReasonCode(code @ 0..=5) => code,
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => 1,
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => 2,
        ReasonCode::BAD_USER_NAME_OR_PASSWORD => 4,
        ReasonCode::NOT_AUTHORIZED => 5,
        _ => 3,
    }
}

fn connack_properties(out: &mut Vec<u8>, properties: &ConnackProperties<'_>) {
    put_u32_property(out, id::SESSION_EXPIRY_INTERVAL, properties.session_expiry_secs);
    put_u16_property(out, id::RECEIVE_MAXIMUM, properties.receive_maximum);
    put_u8_property(out, id::MAXIMUM_QOS, properties.maximum_qos);
    put_flag_property(out, id::RETAIN_AVAILABLE, properties.retain_available);
    put_u32_property(out, id::MAXIMUM_PACKET_SIZE, properties.packet_bytes_max);
    put_text_property(out, id::ASSIGNED_CLIENT_IDENTIFIER, properties.assigned_client_id);
    put_u16_property(out, id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum);
    put_text_property(out, id::REASON_STRING, properties.reason_string);
    put_user_properties(out, &properties.user_properties);
    put_flag_property(out, id::WILDCARD_SUBSCRIPTION_AVAILABLE, properties.wildcard_available);
    put_flag_property(
        out,
        id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
        properties.subscription_ids_available,
    );
    put_flag_property(out, id::SHARED_SUBSCRIPTION_AVAILABLE, properties.shared_available);
    put_u16_property(out, id::SERVER_KEEP_ALIVE, properties.server_keep_alive_secs);
    put_text_property(out, id::RESPONSE_INFORMATION, properties.response_information);
    put_text_property(out, id::SERVER_REFERENCE, properties.server_reference);
    put_text_property(out, id::AUTHENTICATION_METHOD, properties.authentication_method);
    put_binary_property(out, id::AUTHENTICATION_DATA, properties.authentication_data);
}
