//! The data types of the wire format, read one after the other out of a slice.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::error::DecodeError;
use crate::text;

/// The largest value of a Variable Byte Integer (Source: MQTT5 §1.5.5).
pub(crate) const VARINT_MAX: u32 = 268_435_455;

/// How far reading a Variable Byte Integer came.
pub(crate) enum Varint {
    /// The value, and how many bytes it took (1 to 4).
    Complete(u32, usize),
    /// All bytes that there are belong to it, and more must follow.
    Incomplete,
    /// The fourth byte announces a fifth.
    TooLong,
}

/// Reads a Variable Byte Integer from the start of `bytes`, minimal or not.
#[inline]
pub(crate) fn varint(bytes: &[u8]) -> Varint {
    let mut value = 0u32;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        // At most 3 * 7 bits: the shift never leaves the 32 bits of the value.
        let shift = index.saturating_mul(7);
        value |= u32::from(byte & 0x7F) << (shift & 31);
        if byte & 0x80 == 0 {
            return Varint::Complete(value, index.saturating_add(1));
        }
    }
    if bytes.len() < 4 { Varint::Incomplete } else { Varint::TooLong }
}

/// Bytes that the shortest encoding of `value` takes: 1 to 4.
#[inline]
pub(crate) const fn varint_bytes(value: u32) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Reads fields from the front of a packet's body. Every read checks the bounds.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[inline]
    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Ends the reading: bytes that belong to no field are an error.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(TRAILING) }
    }

    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(bytes))
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (&bytes, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Passes over the next byte if it is 0: the length of an empty block.
    #[inline]
    pub(crate) fn skip_zero(&mut self) -> bool {
        let Some(rest) = self.rest.strip_prefix(&[0]) else { return false };
        self.rest = rest;
        true
    }

    /// A Variable Byte Integer in its shortest form (Source: MQTT-1.5.5-1).
    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        match varint(self.rest) {
            Varint::Complete(value, bytes) if bytes == varint_bytes(value) => {
                self.take(bytes)?;
                Ok(value)
            }
            Varint::Complete(..) => Err(NOT_MINIMAL),
            Varint::Incomplete => Err(TRUNCATED),
            Varint::TooLong => Err(VARINT_TOO_LONG),
        }
    }

    /// Binary Data: two bytes of length, then that many bytes.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    /// A UTF-8 Encoded String, checked.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        text::checked(self.binary()?)
    }

    /// A Packet Identifier, which is never 0.
    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(PACKET_ID_ZERO),
            packet_id => Ok(packet_id),
        }
    }

    /// A block of properties with its length in front; the block without the length.
    #[inline]
    pub(crate) fn properties(&mut self) -> Result<&'a [u8], DecodeError> {
        let bytes = self.varint()?;
        // A block longer than the address space would be longer than the packet as well.
        self.take(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}

const TRUNCATED: DecodeError =
    DecodeError::malformed("packet ends inside a field", "MQTT-4.13.1-1");
const TRAILING: DecodeError =
    DecodeError::malformed("bytes behind the last field", "MQTT-4.13.1-1");
pub(crate) const NOT_MINIMAL: DecodeError =
    DecodeError::malformed("length is not in its shortest form", "MQTT-1.5.5-1");
pub(crate) const VARINT_TOO_LONG: DecodeError =
    DecodeError::malformed("length takes more than four bytes", "MQTT5 §1.5.5");
const PACKET_ID_ZERO: DecodeError = DecodeError::protocol("packet identifier is 0", "MQTT-2.2.1-3");
