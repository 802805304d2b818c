//! Packets become bytes, appended to a `Vec<u8>`.
//!
//! Encoding cannot fail: callers hand in what decoding would accept. A string or binary field of
//! more than 65,535 bytes, which the format cannot express, is cut there (a string at a character
//! boundary), so that the stream stays readable whatever a caller does.

mod client;
mod publish;
mod server;
mod wire;

pub use client::{connect, subscribe, unsubscribe};
pub use publish::{
    PublishHead, forwarded, packet_id_position, publish_bytes, publish_head, user_property,
};
pub use server::{connack, suback, unsuback};

use crate::decode::packet_type;
use crate::property::id;
use crate::reason::ReasonCode;
use crate::version::Version;
use alloc::vec::Vec;
use wire::{framed, put_text_property, put_u16, put_u32_property, sized};

/// PUBACK. Before MQTT 5 only the packet identifier goes out; in MQTT 5 the shortest form that
/// says everything.
pub fn puback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    ack(out, packet_type::PUBACK << 4, version, packet_id, reason, reason_string);
}

/// PUBREC, in the forms of [`puback`].
pub fn pubrec(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    ack(out, packet_type::PUBREC << 4, version, packet_id, reason, reason_string);
}

/// PUBREL, in the forms of [`puback`].
pub fn pubrel(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    ack(out, packet_type::PUBREL << 4 | REQUEST_FLAGS, version, packet_id, reason, reason_string);
}

/// PUBCOMP, in the forms of [`puback`].
pub fn pubcomp(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    ack(out, packet_type::PUBCOMP << 4, version, packet_id, reason, reason_string);
}

/// PINGREQ.
pub fn pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[packet_type::PINGREQ << 4, 0]);
}

/// PINGRESP.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[packet_type::PINGRESP << 4, 0]);
}

/// DISCONNECT.
///
/// Before MQTT 5 only a client sends it, and only to end normally: with
/// [`ReasonCode::NORMAL_DISCONNECTION`] the two bytes `E0 00` go out, with any other reason
/// nothing (Source: MQTT3 section 3.14).
pub fn disconnect(
    out: &mut Vec<u8>,
    version: Version,
    reason: ReasonCode,
    reason_string: Option<&str>,
    server_reference: Option<&str>,
    session_expiry_secs: Option<u32>,
) {
    let bare = [packet_type::DISCONNECT << 4, 0];
    let is_plain =
        reason_string.is_none() && server_reference.is_none() && session_expiry_secs.is_none();
    match reason {
        ReasonCode::NORMAL_DISCONNECTION if is_plain || !version.is_v5() => {
            out.extend_from_slice(&bare);
        }
        _ if !version.is_v5() => {}
        _ => framed(out, packet_type::DISCONNECT << 4, |out| {
            out.push(reason.0);
            // An empty property section may be left out [MQTT5 §3.14.2.2.1], but clients in the
            // field wait for it.
            sized(out, |out| {
                put_u32_property(out, id::SESSION_EXPIRY_INTERVAL, session_expiry_secs);
                put_text_property(out, id::REASON_STRING, reason_string);
                put_text_property(out, id::SERVER_REFERENCE, server_reference);
            });
        }),
    }
}

/// AUTH (MQTT 5 only). The method belongs to every AUTH but the two-byte form, which is what a
/// success without any property becomes (Source: MQTT5 §3.15.2.1).
pub fn auth(
    out: &mut Vec<u8>,
    reason: ReasonCode,
    method: Option<&str>,
    data: Option<&[u8]>,
    reason_string: Option<&str>,
) {
    let has_properties = method.is_some() || data.is_some() || reason_string.is_some();
    framed(out, packet_type::AUTH << 4, |out| {
        if reason == ReasonCode::SUCCESS && !has_properties {
            return;
        }
        out.push(reason.0);
        sized(out, |out| {
            put_text_property(out, id::AUTHENTICATION_METHOD, method);
            wire::put_binary_property(out, id::AUTHENTICATION_DATA, data);
            put_text_property(out, id::REASON_STRING, reason_string);
        });
    });
}

fn ack(
    out: &mut Vec<u8>,
    header: u8,
    version: Version,
    packet_id: u16,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    let [high, low] = packet_id.to_be_bytes();
    match reason_string.filter(|_| version.is_v5()) {
        None if !version.is_v5() || reason == ReasonCode::SUCCESS => {
            out.extend_from_slice(&[header, 2, high, low]);
        }
        None => out.extend_from_slice(&[header, 3, high, low, reason.0]),
        Some(text) => framed(out, header, |out| {
            put_u16(out, packet_id);
            out.push(reason.0);
            sized(out, |out| put_text_property(out, id::REASON_STRING, Some(text)));
        }),
    }
}

/// The fixed flags of PUBREL, SUBSCRIBE and UNSUBSCRIBE (Source: MQTT5 §2.1.3).
const REQUEST_FLAGS: u8 = 0b0010;
