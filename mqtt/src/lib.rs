//! MQTT 3.1, 3.1.1 and 5 syntax: a strict codec that borrows from the receive buffer.
//!
//! Decoding has two steps. [`frame`] cuts one packet out of a byte stream and trusts no length;
//! [`decode_connect`] and [`decode_from_client`] turn that packet into a [`Packet`] whose strings,
//! properties and payload are views into the same bytes. Nothing is copied and nothing allocated.
//! Whatever the specifications forbid on the level of bytes is a [`DecodeError`] that carries the
//! MQTT 5 reason code to answer with and the statement that was violated; what depends on the
//! state of a session (aliases in use, identifiers in flight, quotas) is the broker's business.
//!
//! [`encode`] appends packets to a `Vec<u8>`. [`topic`] knows topic names and topic filters.
//!
//! Statement numbers such as `MQTT-3.3.1-4` are those of MQTT 5.0 (OASIS Standard, 7 March 2019);
//! `MQTT3-3.1.2-22` is one of MQTT 3.1.1 (OASIS Standard, 29 October 2014) that has no twin in 5.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod decode;
pub mod encode;
mod error;
mod packet;
mod properties;
mod property;
mod reason;
mod text;
pub mod topic;
mod version;
mod wire;

pub use decode::{
    AckKind, Frame, PACKET_BYTES_MAX, PublishRun, RawPacket, connect_version, decode,
    decode_connect, decode_from_client, frame, publish_run, short_ack,
};
pub use error::DecodeError;
pub use packet::{
    Ack, Auth, Connack, Connect, Disconnect, Packet, Publish, Suback, Subscribe, SubscribeFilter,
    SubscribeFilters, Unsubscribe, UnsubscribeFilters, Will,
};
pub use properties::{
    ConnackProperties, ConnectProperties, PublishProperties, SubscriptionIds, UserProperties,
};
pub use reason::ReasonCode;
pub use text::is_utf8;
pub use topic::{TopicError, TopicFilter};
pub use version::{QoS, Version};
