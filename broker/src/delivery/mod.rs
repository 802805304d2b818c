//! From a message to the clients of this core.
//!
//! A message is matched once; each session gets it once, with the highest QoS of its matching
//! subscriptions [MQTT-3.3.4-2]; and the bytes of a QoS 0 PUBLISH are encoded once per form, not
//! once per subscriber.

mod fan_out;
mod owed;
mod qos0;
mod subscriber;
mod view;

pub(crate) use qos0::Forms;
pub(crate) use subscriber::{Subscriber, Subscribers, Target};
pub(crate) use view::{MessageMaker, View};

/// Buffers that are reused from message to message.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) matched: Vec<Subscriber>,
    pub(crate) forms: Forms,
    /// Subscription identifiers of one delivery.
    pub(crate) ids: Vec<u32>,
    /// Forwarded properties of one publish.
    pub(crate) properties: Vec<u8>,
    /// MQTT bytes out of WebSocket frames.
    pub(crate) frames: Vec<u8>,
}
