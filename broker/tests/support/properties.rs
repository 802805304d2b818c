//! Properties of MQTT 5, written and read.
//!
//! Source: MQTT 5 section 2.2.2.

use super::packets::{put_string, variable_integer};

/// A list of properties in wire form, without the length in front.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Properties(pub Vec<u8>);

impl Properties {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn byte(mut self, id: u8, value: u8) -> Self {
        self.0.extend_from_slice(&[id, value]);
        self
    }

    pub fn two(mut self, id: u8, value: u16) -> Self {
        self.0.push(id);
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn four(mut self, id: u8, value: u32) -> Self {
        self.0.push(id);
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub fn variable(mut self, id: u8, value: u32) -> Self {
        self.0.push(id);
        variable_integer(&mut self.0, value as usize);
        self
    }

    pub fn string(mut self, id: u8, value: &str) -> Self {
        self.0.push(id);
        put_string(&mut self.0, value.as_bytes());
        self
    }

    pub fn pair(mut self, name: &str, value: &str) -> Self {
        self.0.push(USER_PROPERTY);
        put_string(&mut self.0, name.as_bytes());
        put_string(&mut self.0, value.as_bytes());
        self
    }

    /// Each property with its value as it stands on the wire.
    pub fn list(&self) -> Vec<(u8, &[u8])> {
        let mut rest = &self.0[..];
        let mut list = Vec::new();
        while let Some((id, values)) = rest.split_first() {
            let length = value_length(*id, values);
            let (value, after) = values.split_at(length);
            list.push((*id, value));
            rest = after;
        }
        list
    }

    /// The value of the first property with this identifier, read as a big-endian number.
    pub fn number(&self, id: u8) -> Option<u64> {
        let list = self.list();
        let (_, value) = list.iter().find(|(found, _)| *found == id)?;
        Some(value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// The text of the first property with this identifier.
    pub fn text(&self, id: u8) -> Option<String> {
        let list = self.list();
        let (_, value) = list.iter().find(|(found, _)| *found == id)?;
        Some(String::from_utf8(value[2..].to_vec()).expect("UTF-8 in a property"))
    }
}

pub const PAYLOAD_FORMAT: u8 = 0x01;
pub const MESSAGE_EXPIRY: u8 = 0x02;
pub const CONTENT_TYPE: u8 = 0x03;
pub const RESPONSE_TOPIC: u8 = 0x08;
pub const CORRELATION_DATA: u8 = 0x09;
pub const SUBSCRIPTION_ID: u8 = 0x0b;
pub const SESSION_EXPIRY: u8 = 0x11;
pub const ASSIGNED_CLIENT_ID: u8 = 0x12;
pub const SERVER_KEEP_ALIVE: u8 = 0x13;
pub const AUTHENTICATION_METHOD: u8 = 0x15;
pub const AUTHENTICATION_DATA: u8 = 0x16;
pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub const WILL_DELAY: u8 = 0x18;
pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub const RESPONSE_INFORMATION: u8 = 0x1a;
pub const SERVER_REFERENCE: u8 = 0x1c;
pub const REASON_STRING: u8 = 0x1f;
pub const RECEIVE_MAXIMUM: u8 = 0x21;
pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub const TOPIC_ALIAS: u8 = 0x23;
pub const USER_PROPERTY: u8 = 0x26;
pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;

fn value_length(id: u8, values: &[u8]) -> usize {
    let text = |from: usize| 2 + usize::from(u16::from_be_bytes([values[from], values[from + 1]]));
    match id {
        PAYLOAD_FORMAT | REQUEST_PROBLEM_INFORMATION | REQUEST_RESPONSE_INFORMATION => 1,
        0x24 | 0x25 | 0x28..=0x2a => 1,
        SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | TOPIC_ALIAS_MAXIMUM | TOPIC_ALIAS => 2,
        MESSAGE_EXPIRY | SESSION_EXPIRY | WILL_DELAY | MAXIMUM_PACKET_SIZE => 4,
        SUBSCRIPTION_ID => 1 + values.iter().position(|byte| byte & 0x80 == 0).unwrap_or(0),
        USER_PROPERTY => text(0) + text(text(0)),
        CONTENT_TYPE
        | RESPONSE_TOPIC
        | CORRELATION_DATA
        | ASSIGNED_CLIENT_ID
        | AUTHENTICATION_METHOD
        | AUTHENTICATION_DATA
        | RESPONSE_INFORMATION
        | SERVER_REFERENCE
        | REASON_STRING => text(0),
        _ => panic!("the broker sent the unknown property {id:#04x}"),
    }
}
