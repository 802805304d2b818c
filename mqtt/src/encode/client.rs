//! Packets that a client sends: CONNECT, SUBSCRIBE, UNSUBSCRIBE.

use super::REQUEST_FLAGS;
use super::publish::forwarded;
use super::wire::{
    framed, put_binary, put_binary_property, put_flag_property, put_text, put_text_property,
    put_u16, put_u16_property, put_u32_property, put_user_properties, put_varint, sized,
};
use crate::decode::packet_type;
use crate::packet::{Connect, SubscribeFilter, Will};
use crate::properties::ConnectProperties;
use crate::property::id;
use crate::version::Version;
use alloc::vec::Vec;

/// CONNECT. Before MQTT 5 the properties are left out.
pub fn connect(out: &mut Vec<u8>, connect: &Connect<'_>) {
    framed(out, packet_type::CONNECT << 4, |out| {
        put_text(out, if connect.version == Version::V31 { "MQIsdp" } else { "MQTT" });
        out.push(connect.version.level());
        out.push(connect_flags(connect));
        put_u16(out, connect.keep_alive_secs);
        if connect.version.is_v5() {
            sized(out, |out| connect_properties(out, &connect.properties));
        }
        put_text(out, connect.client_id);
        if let Some(message) = &connect.will {
            will(out, connect.version, message);
        }
        if let Some(user_name) = connect.user_name {
            put_text(out, user_name);
        }
        if let Some(password) = connect.password {
            put_binary(out, password);
        }
    });
}

/// SUBSCRIBE. Before MQTT 5 only filters and quality of service go out.
pub fn subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    filters: &[SubscribeFilter<'_>],
) {
    framed(out, packet_type::SUBSCRIBE << 4 | REQUEST_FLAGS, |out| {
        put_u16(out, packet_id);
        if version.is_v5() {
            sized(out, |out| {
                if let Some(subscription_id) = subscription_id {
                    out.push(id::SUBSCRIPTION_IDENTIFIER);
                    put_varint(out, subscription_id);
                }
            });
        }
        for filter in filters {
            put_text(out, filter.filter);
            out.push(if version.is_v5() { filter.options() } else { filter.qos as u8 });
        }
    });
}

/// UNSUBSCRIBE.
pub fn unsubscribe(out: &mut Vec<u8>, version: Version, packet_id: u16, filters: &[&str]) {
    framed(out, packet_type::UNSUBSCRIBE << 4 | REQUEST_FLAGS, |out| {
        put_u16(out, packet_id);
        if version.is_v5() {
            out.push(0);
        }
        for filter in filters {
            put_text(out, filter);
        }
    });
}

/// The Connect Flags (Source: MQTT5 §3.1.2.3).
fn connect_flags(connect: &Connect<'_>) -> u8 {
    let will = connect
        .will
        .as_ref()
        .map_or(0, |will| 0x04 | (will.qos as u8) << 3 | u8::from(will.retain) << 5);
    u8::from(connect.clean_start) << 1
        | will
        | u8::from(connect.password.is_some()) << 6
        | u8::from(connect.user_name.is_some()) << 7
}

fn connect_properties(out: &mut Vec<u8>, properties: &ConnectProperties<'_>) {
    let asks_for_response = properties.request_response_information.then_some(true);
    let waives_problems = (!properties.request_problem_information).then_some(false);
    put_u32_property(out, id::SESSION_EXPIRY_INTERVAL, properties.session_expiry_secs);
    put_u16_property(out, id::RECEIVE_MAXIMUM, properties.receive_maximum);
    put_u32_property(out, id::MAXIMUM_PACKET_SIZE, properties.packet_bytes_max);
    put_u16_property(out, id::TOPIC_ALIAS_MAXIMUM, properties.topic_alias_maximum);
    put_flag_property(out, id::REQUEST_RESPONSE_INFORMATION, asks_for_response);
    put_flag_property(out, id::REQUEST_PROBLEM_INFORMATION, waives_problems);
    put_user_properties(out, &properties.user_properties);
    put_text_property(out, id::AUTHENTICATION_METHOD, properties.authentication_method);
    put_binary_property(out, id::AUTHENTICATION_DATA, properties.authentication_data);
}

fn will(out: &mut Vec<u8>, version: Version, will: &Will<'_>) {
    if version.is_v5() {
        sized(out, |out| {
            let delay = (will.delay_secs > 0).then_some(will.delay_secs);
            put_u32_property(out, id::WILL_DELAY_INTERVAL, delay);
            let expiry = will.properties.message_expiry_secs;
            put_u32_property(out, id::MESSAGE_EXPIRY_INTERVAL, expiry);
            forwarded(out, &will.properties);
        });
    }
    put_text(out, will.topic);
    put_binary(out, will.payload);
}
