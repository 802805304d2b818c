//! The will message of a session.

use ringlane_mqtt::{QoS, Will};

/// A will, owned: it outlives the CONNECT that brought it.
#[derive(Debug)]
pub(crate) struct WillMessage {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Box<[u8]>,
    /// Properties that are forwarded, in wire form.
    pub(crate) properties: Box<[u8]>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) delay_secs: u32,
    pub(crate) message_expiry_secs: Option<u32>,
}

impl WillMessage {
    pub(crate) fn from_connect(will: &Will<'_>) -> Self {
        let mut properties = Vec::new();
        will.properties.write_forwarded(&mut properties);
        Self {
            topic: will.topic.into(),
            payload: will.payload.into(),
            properties: properties.into(),
            qos: will.qos,
            retain: will.retain,
            delay_secs: will.delay_secs,
            message_expiry_secs: will.properties.message_expiry_secs,
        }
    }
}
