//! WebSocket as MQTT uses it: the opening handshake and the frames, without any input or output.
//!
//! A client offers the subprotocol `mqtt` [MQTT-6.0.0-3], the server answers with it
//! [MQTT-6.0.0-4], and everything afterwards travels in binary frames [MQTT-6.0.0-1] whose
//! boundaries mean nothing to MQTT [MQTT-6.0.0-2]: the decoder turns them into a byte stream.
//!
//! Source: RFC 6455; MQTT 5 section 6.

pub(crate) mod base64;
mod frame;
mod mask;
mod upgrade;

pub use frame::{
    Decoded, Decoder, FRAME_HEADER_BYTES_MAX, WebSocketError, close_frame, frame_header,
};
pub use upgrade::{HEAD_BYTES_MAX, Upgrade, upgrade};

/// What a WebSocket connection keeps besides what every connection does.
#[derive(Debug)]
pub struct State {
    pub(crate) decoder: Decoder,
    /// What ends it, if its end was read while packets before it wait: it goes with a move.
    pub(crate) farewell: Option<Vec<u8>>,
    /// A Close frame has been sent: nothing may follow it.
    pub(crate) close_sent: bool,
}

impl Default for State {
    /// The handshake is complete.
    fn default() -> Self {
        Self { decoder: Decoder::new(usize::MAX), farewell: None, close_sent: false }
    }
}
