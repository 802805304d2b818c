//! Packets as a client writes and reads them, for MQTT 3.1, 3.1.1 and 5.

use super::properties::Properties;

/// A version of MQTT with its protocol level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Version {
    V31 = 3,
    V311 = 4,
    V5 = 5,
}

impl Version {
    pub const BOTH: [Self; 2] = [Self::V311, Self::V5];

    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// The type of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Reserved,
    Connect,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Pingreq,
    Pingresp,
    Disconnect,
    Auth,
}

impl Kind {
    const ALL: [Self; 16] = [
        Self::Reserved,
        Self::Connect,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Pingreq,
        Self::Pingresp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The first byte of a packet of this type with the flags that it must have.
    pub fn first_byte(self) -> u8 {
        let flags = match self {
            Self::Pubrel | Self::Subscribe | Self::Unsubscribe => 2,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

pub const PINGREQ: [u8; 2] = [0xc0, 0];

/// Puts the fixed header in front of a body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    variable_integer(&mut bytes, body.len());
    bytes.extend_from_slice(body);
    bytes
}

pub fn variable_integer(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let more = if value > 0x7f { 0x80 } else { 0 };
        out.push((value & 0x7f) as u8 | more);
        value >>= 7;
        if value == 0 {
            return;
        }
    }
}

pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_properties(out: &mut Vec<u8>, version: Version, properties: &Properties) {
    if version.is_v5() {
        variable_integer(out, properties.0.len());
        out.extend_from_slice(&properties.0);
    }
}

/// A will message.
#[derive(Clone, Debug)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Properties,
}

impl Will {
    pub fn new(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.as_bytes().to_vec(),
            qos: 1,
            retain: false,
            properties: Properties::new(),
        }
    }
}

/// A CONNECT packet; clean, and with a keep alive of 60 s, unless told otherwise.
#[derive(Clone, Debug)]
pub struct Connect {
    pub version: Version,
    pub client_id: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub will: Option<Will>,
    pub properties: Properties,
}

impl Connect {
    pub fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 60,
            will: None,
            properties: Properties::new(),
        }
    }

    pub fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = properties;
        self
    }

    /// A session that outlives its connections: clean session 0, in MQTT 5 with an expiry interval
    /// of an hour.
    pub fn durable(mut self) -> Self {
        self.clean = false;
        if self.version.is_v5() {
            self.properties = self.properties.four(super::properties::SESSION_EXPIRY, 3600);
        }
        self
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let name: &[u8] = if self.version == Version::V31 { b"MQIsdp" } else { b"MQTT" };
        put_string(&mut body, name);
        let will_flags = self
            .will
            .as_ref()
            .map_or(0, |will| 0x04 | will.qos << 3 | if will.retain { 0x20 } else { 0 });
        body.push(self.version as u8);
        body.push(will_flags | if self.clean { 0x02 } else { 0 });
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        put_properties(&mut body, self.version, &self.properties);
        put_string(&mut body, self.client_id.as_bytes());
        if let Some(will) = &self.will {
            put_properties(&mut body, self.version, &will.properties);
            put_string(&mut body, will.topic.as_bytes());
            put_string(&mut body, &will.payload);
        }
        packet(Kind::Connect.first_byte(), &body)
    }
}

/// A PUBLISH packet to send. The identifier is left out of QoS 0.
#[derive(Clone, Debug)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub dup: bool,
    pub retain: bool,
    pub id: u16,
    pub properties: Properties,
}

impl Publish {
    pub fn new(topic: &str, payload: impl AsRef<[u8]>) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            dup: false,
            retain: false,
            id: 0,
            properties: Properties::new(),
        }
    }

    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        self.qos = qos;
        self.id = id;
        self
    }

    pub fn dup(mut self) -> Self {
        self.dup = true;
        self
    }

    pub fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub fn properties(mut self, properties: Properties) -> Self {
        self.properties = properties;
        self
    }

    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        put_string(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend_from_slice(&self.id.to_be_bytes());
        }
        put_properties(&mut body, version, &self.properties);
        body.extend_from_slice(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        packet(Kind::Publish.first_byte() | flags, &body)
    }
}

/// A SUBSCRIBE packet; each filter comes with its options byte.
pub fn subscribe(
    version: Version,
    id: u16,
    filters: &[(&str, u8)],
    properties: &Properties,
) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    put_properties(&mut body, version, properties);
    for (filter, options) in filters {
        put_string(&mut body, filter.as_bytes());
        body.push(*options);
    }
    packet(Kind::Subscribe.first_byte(), &body)
}

pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    put_properties(&mut body, version, &Properties::new());
    for filter in filters {
        put_string(&mut body, filter.as_bytes());
    }
    packet(Kind::Unsubscribe.first_byte(), &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP in the form that all versions share: success.
pub fn acknowledge(kind: Kind, id: u16) -> Vec<u8> {
    packet(kind.first_byte(), &id.to_be_bytes())
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with a reason code of MQTT 5.
pub fn acknowledge_with(kind: Kind, id: u16, reason: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    packet(kind.first_byte(), &[high, low, reason])
}

/// DISCONNECT of MQTT 5 with a reason code.
pub fn disconnect_with(reason: u8) -> Vec<u8> {
    packet(Kind::Disconnect.first_byte(), &[reason])
}

pub fn disconnect() -> Vec<u8> {
    packet(Kind::Disconnect.first_byte(), &[])
}

/// A packet that the broker sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    pub version: Version,
    pub first: u8,
    pub body: Vec<u8>,
}

/// A PUBLISH packet that the broker sent, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub dup: bool,
    pub retain: bool,
    pub id: u16,
    pub properties: Properties,
}

impl Received {
    pub fn text(&self) -> String {
        String::from_utf8(self.payload.clone()).expect("UTF-8 in a payload")
    }
}

impl Packet {
    /// The first packet in `bytes` and how many bytes it took; `None` if it is not complete.
    pub fn parse(version: Version, bytes: &[u8]) -> Option<(Self, usize)> {
        let mut length = 0;
        for index in 0..4 {
            let byte = *bytes.get(1 + index)?;
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                let start = 2 + index;
                let body = bytes.get(start..start + length)?.to_vec();
                return Some((Self { version, first: bytes[0], body }, start + length));
            }
        }
        panic!("the broker sent a Remaining Length of 5 bytes");
    }

    pub fn kind(&self) -> Kind {
        Kind::ALL[usize::from(self.first >> 4)]
    }

    pub fn encode(&self) -> Vec<u8> {
        packet(self.first, &self.body)
    }

    /// The packet identifier of an acknowledgement, SUBACK or UNSUBACK.
    pub fn id(&self) -> u16 {
        u16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// The reason code (return code before MQTT 5); 0 where it is left out.
    pub fn reason(&self) -> u8 {
        let place = match self.kind() {
            Kind::Connack => 1,
            Kind::Puback | Kind::Pubrec | Kind::Pubrel | Kind::Pubcomp => 2,
            _ => 0,
        };
        self.body.get(place).copied().unwrap_or(0)
    }

    pub fn session_present(&self) -> bool {
        assert_eq!(self.kind(), Kind::Connack);
        self.body[0] & 1 == 1
    }

    /// The reason codes of SUBACK or UNSUBACK, one per filter.
    pub fn codes(&self) -> &[u8] {
        let mut rest = &self.body[2..];
        if self.version.is_v5() {
            let (length, size) = read_variable_integer(rest);
            rest = &rest[size + length..];
        }
        rest
    }

    /// The properties of a CONNACK or DISCONNECT of MQTT 5.
    pub fn properties(&self) -> Properties {
        let start = if self.kind() == Kind::Connack { 2 } else { 1 };
        let Some(rest) = self.body.get(start..).filter(|rest| !rest.is_empty()) else {
            return Properties::new();
        };
        let (length, size) = read_variable_integer(rest);
        Properties(rest[size..size + length].to_vec())
    }

    /// Takes a PUBLISH apart.
    pub fn publish(&self) -> Received {
        assert_eq!(self.kind(), Kind::Publish, "{self:?}");
        let topic_length = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8(self.body[2..2 + topic_length].to_vec());
        let mut rest = &self.body[2 + topic_length..];
        let qos = self.first >> 1 & 3;
        let mut id = 0;
        if qos > 0 {
            id = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Properties::new();
        if self.version.is_v5() {
            let (length, size) = read_variable_integer(rest);
            properties.0.extend_from_slice(&rest[size..size + length]);
            rest = &rest[size + length..];
        }
        Received {
            topic: topic.expect("UTF-8 in a topic name"),
            payload: rest.to_vec(),
            qos,
            dup: self.first & 8 != 0,
            retain: self.first & 1 != 0,
            id,
            properties,
        }
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({})", self.kind(), super::show(&self.encode()))
    }
}

fn read_variable_integer(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().take(4) {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    panic!("the broker sent a variable byte integer of 5 bytes");
}
