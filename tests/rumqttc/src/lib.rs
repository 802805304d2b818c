//! rumqttc, the Rust client, with a bound on every wait, and the broker that it drives.
//!
//! [`v3`] and [`v5`] wrap the two halves of rumqttc alike, so that one list of tests serves both.

pub mod broker;
pub mod events;
pub mod v3;
pub mod v5;

use std::time::Duration;

/// What a subscriber got, in a form common to both versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Topic name as it was on the wire.
    pub topic: String,
    /// Application payload.
    pub payload: Vec<u8>,
    /// QoS of this delivery: 0, 1 or 2.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
}

/// How a client connects.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Client identifier.
    pub client_id: String,
    /// False: resume the session, and keep it (in MQTT 5 for ever) after this connection.
    pub keep_session: bool,
    /// Will topic and payload, QoS 1.
    pub will: Option<(String, String)>,
    /// Acknowledge only on request.
    pub manual_acks: bool,
    /// MQTT 5 Receive Maximum; 3.1.1 has none.
    pub receive_maximum: Option<u16>,
}

impl Connection {
    /// A clean session without a will.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self { client_id: client_id.into(), ..Self::default() }
    }
}

/// The bound of one wait: scaled by `RINGLANE_TEST_TIME_FACTOR` like the other suites'.
pub fn patience() -> Duration {
    let factor = std::env::var("RINGLANE_TEST_TIME_FACTOR").ok();
    Duration::from_secs_f64(10.0 * factor.and_then(|text| text.parse().ok()).unwrap_or(1.0))
}

/// Largest packet that the clients send and take, in bytes: the broker's own default.
pub const PACKET_BYTES_MAX: u32 = 1 << 20;
