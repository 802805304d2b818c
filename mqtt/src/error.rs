//! What is wrong with a packet, and how a server answers it.

use crate::reason::ReasonCode;
use core::fmt;

/// A packet that the specification forbids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodeError {
    /// The MQTT 5 reason code to answer with. After one of these the connection must be closed
    /// in every version of the protocol (Source: MQTT-4.13.1-1, MQTT-4.13.2-1, MQTT3-4.8.0-1).
    pub reason: ReasonCode,
    /// The fault in a few words, without any of the peer's bytes: safe to log and to send.
    pub what: &'static str,
    /// The statement that was violated: a number such as `MQTT-3.3.1-4` (MQTT 5),
    /// `MQTT3-3.1.2-22` (MQTT 3.1.1), or a section such as `MQTT5 §2.1.4`.
    pub source: &'static str,
}

impl DecodeError {
    /// `0x81`: the bytes cannot be read as the packet they claim to be.
    pub(crate) const fn malformed(what: &'static str, source: &'static str) -> Self {
        Self { reason: ReasonCode::MALFORMED_PACKET, what, source }
    }

    /// `0x82`: readable, but not allowed.
    pub(crate) const fn protocol(what: &'static str, source: &'static str) -> Self {
        Self { reason: ReasonCode::PROTOCOL_ERROR, what, source }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {})", self.what, self.reason, self.source)
    }
}

impl core::error::Error for DecodeError {}
