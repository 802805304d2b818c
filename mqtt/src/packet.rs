//! The control packets, as views into the bytes that they were decoded from.

use crate::properties::{ConnackProperties, ConnectProperties, PublishProperties, UserProperties};
use crate::reason::ReasonCode;
use crate::version::{QoS, Version};
use crate::wire::Reader;
use core::fmt;

/// Any control packet. As large as the largest of them: it is meant to be matched at once, on the
/// stack, and a box would cost an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// CONNECT: a client asks for a session.
    Connect(Connect<'a>),
    /// CONNACK: the server's answer.
    Connack(Connack<'a>),
    /// PUBLISH: a message, in either direction.
    Publish(Publish<'a>),
    /// PUBACK: the end of a QoS 1 exchange.
    Puback(Ack<'a>),
    /// PUBREC: the second packet of a QoS 2 exchange.
    Pubrec(Ack<'a>),
    /// PUBREL: the third packet of a QoS 2 exchange.
    Pubrel(Ack<'a>),
    /// PUBCOMP: the end of a QoS 2 exchange.
    Pubcomp(Ack<'a>),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// SUBACK.
    Suback(Suback<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK.
    Unsuback(Suback<'a>),
    /// PINGREQ.
    Pingreq,
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT.
    Disconnect(Disconnect<'a>),
    /// AUTH (MQTT 5 only).
    Auth(Auth<'a>),
}

/// CONNECT (Source: MQTT5 §3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect<'a> {
    /// The version that the client speaks from here on.
    pub version: Version,
    /// Clean Start; Clean Session before MQTT 5.
    pub clean_start: bool,
    /// Keep alive in seconds; 0 switches it off.
    pub keep_alive_secs: u16,
    /// The client identifier. May be empty in MQTT 5, and in 3.1.1 with a clean session.
    pub client_id: &'a str,
    /// The will message.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub user_name: Option<&'a str>,
    /// The password: any bytes.
    pub password: Option<&'a [u8]>,
    /// Properties; the defaults before MQTT 5.
    pub properties: ConnectProperties<'a>,
}

/// The will message of a CONNECT (Source: MQTT5 §3.1.3.2 to §3.1.3.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Will<'a> {
    /// The quality of service to publish it with.
    pub qos: QoS,
    /// Whether it is published as a retained message.
    pub retain: bool,
    /// The topic name.
    pub topic: &'a str,
    /// The payload.
    pub payload: &'a [u8],
    /// Will Delay Interval in seconds; 0 if absent.
    pub delay_secs: u32,
    /// The properties that the message will have, its expiry included.
    pub properties: PublishProperties<'a>,
}

/// CONNACK (Source: MQTT5 §3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connack<'a> {
    /// Whether the server goes on with a session that it had; always `false` in MQTT 3.1.
    pub session_present: bool,
    /// The reason code; before MQTT 5 the raw return code (0 to 5).
    pub reason: ReasonCode,
    /// Properties; empty before MQTT 5.
    pub properties: ConnackProperties<'a>,
}

/// PUBLISH (Source: MQTT5 §3.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Publish<'a> {
    /// Whether the sender has sent it before. Never set with QoS 0.
    pub dup: bool,
    /// The quality of service.
    pub qos: QoS,
    /// Whether the message is to be retained, or was.
    pub retain: bool,
    /// The topic name: no wildcards. Empty only in MQTT 5, and then there is a topic alias.
    pub topic: &'a str,
    /// The packet identifier; 0 with QoS 0 and never otherwise.
    pub packet_id: u16,
    /// Properties; empty before MQTT 5.
    pub properties: PublishProperties<'a>,
    /// The payload. Not checked against the Payload Format Indicator (see [`crate::is_utf8`]).
    pub payload: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (Source: MQTT5 §3.4 to §3.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ack<'a> {
    /// The packet identifier of the exchange. Never 0.
    pub packet_id: u16,
    /// The reason code; success before MQTT 5.
    pub reason: ReasonCode,
    /// Reason String, for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// SUBSCRIBE (Source: MQTT5 §3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscribe<'a> {
    /// The packet identifier. Never 0.
    pub packet_id: u16,
    /// Subscription Identifier, 1 to 268,435,455, for all filters of the packet.
    pub subscription_id: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The filters with their options: at least one.
    pub filters: SubscribeFilters<'a>,
}

/// One entry of a SUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SubscribeFilter<'a> {
    /// The filter as sent, `$share/...` included: not empty, but its wildcards are unchecked
    /// (see [`crate::TopicFilter::parse`]).
    pub filter: &'a str,
    /// The highest quality of service that the client wants.
    pub qos: QoS,
    /// No Local: the client does not want its own messages back. `false` before MQTT 5.
    pub no_local: bool,
    /// Retain As Published: forward the RETAIN flag as it was. `false` before MQTT 5.
    pub retain_as_published: bool,
    /// Retain Handling: 0 sends retained messages, 1 only for a new subscription, 2 none.
    pub retain_handling: u8,
}

impl SubscribeFilter<'_> {
    /// The options byte of MQTT 5 (Source: MQTT5 §3.8.3.1).
    pub(crate) fn options(&self) -> u8 {
        self.qos as u8
            | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling & 3) << 4
    }
}

/// The entries of a SUBSCRIBE, as a view over checked bytes.
#[derive(Clone, Copy)]
pub struct SubscribeFilters<'a> {
    raw: &'a [u8],
    count: usize,
}

impl<'a> SubscribeFilters<'a> {
    /// `raw` holds exactly `count` checked entries: the loop of `decode::subscribe` counts them.
    pub(crate) const fn from_checked(raw: &'a [u8], count: usize) -> Self {
        Self { raw, count }
    }

    /// The entries in the order of the packet.
    pub fn iter(&self) -> impl Iterator<Item = SubscribeFilter<'a>> + Clone + use<'a> {
        let mut reader = Reader::new(self.raw);
        core::iter::from_fn(move || {
            let filter = core::str::from_utf8(reader.binary().ok()?).ok()?;
            let options = reader.u8().ok()?;
            Some(SubscribeFilter {
                filter,
                qos: QoS::from_u8(options & 3)?,
                no_local: options & 0x04 != 0,
                retain_as_published: options & 0x08 != 0,
                retain_handling: options >> 4 & 3,
            })
        })
    }

    /// How many entries there are: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty [MQTT-3.8.3-2]")]
    pub const fn len(&self) -> usize {
        self.count
    }
}

impl PartialEq for SubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for SubscribeFilters<'_> {}

impl fmt::Debug for SubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// SUBACK, or UNSUBACK (Source: MQTT5 §3.9, §3.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Suback<'a> {
    /// The packet identifier of the request. Never 0.
    pub packet_id: u16,
    /// One reason code per filter, in the request's order; empty in UNSUBACK before MQTT 5.
    pub reasons: &'a [u8],
    /// Reason String, for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// UNSUBSCRIBE (Source: MQTT5 §3.10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unsubscribe<'a> {
    /// The packet identifier. Never 0.
    pub packet_id: u16,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The filters: at least one.
    pub filters: UnsubscribeFilters<'a>,
}

/// The filters of an UNSUBSCRIBE, as a view over checked bytes.
#[derive(Clone, Copy)]
pub struct UnsubscribeFilters<'a> {
    raw: &'a [u8],
    count: usize,
}

impl<'a> UnsubscribeFilters<'a> {
    /// `raw` holds exactly `count` checked filters: the loop of `decode::unsubscribe` counts them.
    pub(crate) const fn from_checked(raw: &'a [u8], count: usize) -> Self {
        Self { raw, count }
    }

    /// The filters as sent, in the order of the packet: not empty, wildcards unchecked.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + Clone + use<'a> {
        let mut reader = Reader::new(self.raw);
        core::iter::from_fn(move || core::str::from_utf8(reader.binary().ok()?).ok())
    }

    /// How many filters there are: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty [MQTT-3.10.3-2]")]
    pub const fn len(&self) -> usize {
        self.count
    }
}

impl PartialEq for UnsubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}

impl Eq for UnsubscribeFilters<'_> {}

impl fmt::Debug for UnsubscribeFilters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// DISCONNECT (Source: MQTT5 §3.14).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Disconnect<'a> {
    /// The reason code; normal disconnection before MQTT 5.
    pub reason: ReasonCode,
    /// The Session Expiry Interval in seconds that replaces the one of CONNECT.
    pub session_expiry_secs: Option<u32>,
    /// Reason String, for people.
    pub reason_string: Option<&'a str>,
    /// Server Reference: where to connect instead.
    pub server_reference: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// AUTH (Source: MQTT5 §3.15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Auth<'a> {
    /// The reason code: success, continue or re-authenticate.
    pub reason: ReasonCode,
    /// Authentication Method; absent only in the two-byte form of the packet.
    pub method: Option<&'a str>,
    /// Authentication Data.
    pub data: Option<&'a [u8]>,
    /// Reason String, for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}
