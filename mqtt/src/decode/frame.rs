//! Cuts one packet out of a byte stream.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::error::DecodeError;
use crate::reason::ReasonCode;
use crate::wire::{self, VARINT_MAX, Varint};

/// The largest packet that the format can express, in bytes: first byte, four bytes of length and
/// the largest body. The limit to use for a peer that names none.
pub const PACKET_BYTES_MAX: usize = 5 + VARINT_MAX as usize;

/// What lies at the front of a byte stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A whole packet.
    Complete(RawPacket<'a>),
    /// The beginning of a packet, or nothing.
    Incomplete {
        /// At least this many more bytes must come before the packet is complete; at least 1.
        needed: usize,
    },
}

/// A packet whose body has not been looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawPacket<'a> {
    /// The first byte: the type in the upper four bits, flags in the lower four.
    pub header: u8,
    /// Everything behind the length.
    pub body: &'a [u8],
    /// Bytes of the whole packet: first byte, length and body.
    pub total_bytes: usize,
    /// Whether the length was in its shortest form. MQTT 5 demands it [MQTT-1.5.5-1], 3.1 and
    /// 3.1.1 do not; the version is not known here, so decoding decides.
    pub minimal_length: bool,
}

impl RawPacket<'_> {
    /// The packet type, 0 to 15.
    #[inline]
    #[must_use]
    pub const fn packet_type(&self) -> u8 {
        self.header >> 4
    }

    /// The four flag bits.
    #[inline]
    pub(crate) const fn flags(&self) -> u8 {
        self.header & 0x0F
    }
}

/// Cuts the first packet out of `input`, which may hold less or more than one.
///
/// The length is never trusted: nothing is reserved for it, and a packet of more than
/// `packet_bytes_max` bytes (first byte and length included) is refused as soon as its length is
/// known.
///
/// # Errors
/// `0x81` if the fourth byte of the length announces a fifth, `0x95` if the packet is too large.
#[inline]
pub fn frame(input: &[u8], packet_bytes_max: usize) -> Result<Frame<'_>, DecodeError> {
    let Some((&header, rest)) = input.split_first() else {
        return Ok(Frame::Incomplete { needed: 2 });
    };
    let (body_bytes, length_bytes) = match wire::varint(rest) {
        Varint::Complete(value, bytes) => (value, bytes),
        Varint::Incomplete => return Ok(Frame::Incomplete { needed: 1 }),
        Varint::TooLong => return Err(wire::VARINT_TOO_LONG),
    };
    let minimal_length = length_bytes == wire::varint_bytes(body_bytes);
    let body_bytes = usize::try_from(body_bytes).map_err(|_| TOO_LARGE)?;
    let total_bytes = body_bytes.saturating_add(length_bytes).saturating_add(1);
    if total_bytes > packet_bytes_max {
        return Err(TOO_LARGE);
    }
    let body = rest.get(length_bytes..).and_then(|behind| behind.get(..body_bytes));
    Ok(match body {
        Some(body) => Frame::Complete(RawPacket { header, body, total_bytes, minimal_length }),
        None => Frame::Incomplete { needed: total_bytes.saturating_sub(input.len()) },
    })
}

const TOO_LARGE: DecodeError = DecodeError {
    reason: ReasonCode::PACKET_TOO_LARGE,
    what: "packet is larger than allowed",
    source: "MQTT-3.2.2-15",
};
