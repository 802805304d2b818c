//! What a client said before anybody answered, and whether it may be said again to another leader.
//!
//! A CONNECT may be: a leader that has gone and the next one have the same session, as with a client
//! that connects again by itself. What comes behind it may not: a message would be published twice.

use crate::proxy_protocol::{self, Proxied};
use crate::service::ListenerKind;
use ringlane_mqtt::{Frame, PACKET_BYTES_MAX, decode_connect, frame};

/// Bytes that are kept of a client that nobody has answered yet.
pub(super) const OPENING_BYTES_MAX: usize = 16 * 1024;

/// The first byte of a CONNECT [MQTT-2.1.3-1].
const CONNECT: u8 = 0x10;

/// What a client is, as far as its CONNECT has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// It has not come.
    Nothing,
    /// A client of MQTT 5 that takes packets of so many bytes.
    Version5 { packet_bytes_max: usize },
    /// Something else, or more than is kept.
    Other,
}

/// What a client said first.
#[derive(Debug)]
pub(super) struct Opening {
    kind: ListenerKind,
    is_behind_balancer: bool,
    bytes: Vec<u8>,
    /// It said more than is kept.
    is_cut: bool,
}

impl Opening {
    pub(super) fn new(kind: ListenerKind, is_behind_balancer: bool, bytes: Vec<u8>) -> Self {
        Self { kind, is_behind_balancer, bytes, is_cut: false }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The packets among them.
    pub(super) fn packets(&self) -> &[u8] {
        self.behind_the_header().unwrap_or_default()
    }

    /// How much more may be read before there is a leader.
    pub(super) fn room(&self) -> usize {
        OPENING_BYTES_MAX.saturating_sub(self.bytes.len())
    }

    /// Keeps what was read as long as there is room, else nothing at all.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        if self.is_cut || self.room() < bytes.len() {
            self.forget();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Lets go of it: somebody has answered.
    pub(super) fn forget(&mut self) {
        self.is_cut = true;
        self.bytes = Vec::new();
    }

    /// What the client is.
    pub(super) fn heard(&self) -> Heard {
        if self.is_cut || self.kind != ListenerKind::Tcp {
            return Heard::Other;
        }
        let Some(bytes) = self.behind_the_header() else { return Heard::Nothing };
        match frame(bytes, OPENING_BYTES_MAX) {
            Ok(Frame::Incomplete { .. }) => Heard::Nothing,
            Ok(Frame::Complete(packet)) => match decode_connect(packet) {
                Ok(connect) if connect.version.is_v5() => {
                    let bytes = connect.properties.packet_bytes_max.unwrap_or(u32::MAX);
                    Heard::Version5 { packet_bytes_max: bytes as usize }
                }
                // The leader says what is wrong with it.
                Ok(_) | Err(_) => Heard::Other,
            },
            Err(_) => Heard::Other,
        }
    }

    /// Whether all that the client said may be said again.
    pub(super) fn may_be_repeated(&self) -> bool {
        !self.is_cut && self.is_opening_alone()
    }

    fn is_opening_alone(&self) -> bool {
        let Some(bytes) = self.behind_the_header() else { return true };
        match self.kind {
            ListenerKind::Tcp if bytes.first().is_some_and(|first| *first != CONNECT) => false,
            ListenerKind::Tcp => match frame(bytes, PACKET_BYTES_MAX) {
                Ok(Frame::Complete(packet)) => packet.total_bytes == bytes.len(),
                Ok(Frame::Incomplete { .. }) => true,
                Err(_) => false,
            },
            ListenerKind::WebSocket => {
                let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
                end.is_none_or(|end| end + 4 == bytes.len())
            }
        }
    }

    /// What comes behind a balancer's header; `None` if that is not whole.
    fn behind_the_header(&self) -> Option<&[u8]> {
        if !self.is_behind_balancer {
            return Some(&self.bytes);
        }
        match proxy_protocol::read(&self.bytes) {
            Proxied::Whole { consumed, .. } => self.bytes.get(consumed..),
            Proxied::Incomplete | Proxied::Wrong => None,
        }
    }
}
