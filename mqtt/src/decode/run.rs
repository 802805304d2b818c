//! A run of QoS 0: PUBLISH packets of one topic, one behind the other, cut in one go.
//!
//! A client that sends fast sends the same topic again and again, and a receive buffer holds many
//! of its packets. What of them is the same is looked at once.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use super::packet_type;
use crate::version::Version;
use crate::wire::{self, Varint};

/// The first byte of a PUBLISH with QoS 0 and without RETAIN.
const PLAIN_HEADER: u8 = packet_type::PUBLISH << 4;

/// Whole PUBLISH packets with QoS 0, without RETAIN and without properties, that name one topic
/// and lie one behind the other. Nothing but their payloads differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PublishRun<'a> {
    /// The topic name as it came. It is not empty, and nothing else about it has been checked.
    pub topic: &'a [u8],
    /// The packets as they came, at least one.
    pub packets: &'a [u8],
    /// How many there are.
    pub count: usize,
    /// Bytes of all payloads.
    pub payload_bytes: usize,
    /// Bytes of the largest packet.
    pub packet_bytes_max: usize,
    /// Bytes between the length of a packet and its payload.
    field_bytes: usize,
}

/// Cuts the longest run off the front of `input`; `None` if it does not begin with one.
///
/// What does not belong to a run is no error here: decoding the packet says what is wrong with
/// it, if anything is. A packet of more than `packet_bytes_max` bytes belongs to none.
#[inline]
#[must_use]
pub fn publish_run(
    version: Version,
    input: &[u8],
    packet_bytes_max: usize,
) -> Option<PublishRun<'_>> {
    let mut cut = Cut::at(input, packet_bytes_max)?;
    let Fields { bytes: fields, topic } = cut.fields(version, input)?;
    let (mut count, mut payload_bytes, mut largest) = (0usize, 0usize, 0usize);
    let mut rest = input;
    loop {
        let alike = cut.count_alike(fields, &mut rest);
        count = count.saturating_add(alike);
        payload_bytes =
            payload_bytes.saturating_add(alike.saturating_mul(cut.payload_bytes(fields)));
        largest = largest.max(cut.total_bytes);
        match Cut::at(rest, packet_bytes_max).filter(|next| next.has_fields(fields, rest)) {
            Some(next) => cut = next,
            None => break,
        }
    }
    let packets = input.get(..input.len().saturating_sub(rest.len()))?;
    let field_bytes = fields.len();
    Some(PublishRun {
        topic,
        packets,
        count,
        payload_bytes,
        packet_bytes_max: largest,
        field_bytes,
    })
}

impl<'a> PublishRun<'a> {
    /// The messages in order: bytes of the packet, and the payload.
    pub fn messages(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let field_bytes = self.field_bytes;
        let mut rest = self.packets;
        core::iter::from_fn(move || {
            let cut = Cut::at(rest, usize::MAX)?;
            let (packet, behind) = rest.split_at_checked(cut.total_bytes)?;
            rest = behind;
            let payload = packet.get(cut.head_bytes.saturating_add(field_bytes)..)?;
            Some((cut.total_bytes, payload))
        })
    }
}

/// Where a packet's first byte and length end, and where the packet does.
#[derive(Clone, Copy)]
struct Cut {
    head_bytes: usize,
    total_bytes: usize,
}

/// What stands between the length of a packet and its payload.
#[derive(Clone, Copy)]
struct Fields<'a> {
    bytes: &'a [u8],
    topic: &'a [u8],
}

impl Cut {
    /// A whole packet with the first byte of a run and its length in the shortest form.
    #[inline]
    fn at(input: &[u8], packet_bytes_max: usize) -> Option<Self> {
        let (&header, rest) = input.split_first()?;
        if header != PLAIN_HEADER {
            return None;
        }
        let Varint::Complete(body_bytes, length_bytes) = wire::varint(rest) else { return None };
        let head_bytes = length_bytes.saturating_add(1);
        let total_bytes = usize::try_from(body_bytes).ok()?.saturating_add(head_bytes);
        let fits = total_bytes <= packet_bytes_max && total_bytes <= input.len();
        let minimal = length_bytes == wire::varint_bytes(body_bytes);
        (fits && minimal).then_some(Self { head_bytes, total_bytes })
    }

    /// The topic name and the empty block of properties of the first packet.
    #[inline]
    fn fields<'a>(self, version: Version, input: &'a [u8]) -> Option<Fields<'a>> {
        let body = input.get(self.head_bytes..self.total_bytes)?;
        let (&length, behind) = body.split_first_chunk()?;
        let topic = behind.get(..usize::from(u16::from_be_bytes(length)))?;
        let mut bytes = topic.len().saturating_add(2);
        if version.is_v5() {
            if body.get(bytes) != Some(&0) {
                return None;
            }
            bytes = bytes.saturating_add(1);
        }
        let bytes = body.get(..bytes)?;
        (!topic.is_empty()).then_some(Fields { bytes, topic })
    }

    /// Passes over the packet that `rest` begins with and those behind it that have its length, and
    /// so its head, which is the usual thing. Returns how many.
    #[inline]
    fn count_alike(self, fields: &[u8], rest: &mut &[u8]) -> usize {
        let Some(head) = rest.get(..self.head_bytes.saturating_add(fields.len())) else { return 0 };
        let mut count = 0usize;
        while let Some((packet, behind)) = rest.split_at_checked(self.total_bytes)
            && (count == 0 || packet.starts_with(head))
        {
            *rest = behind;
            count = count.saturating_add(1);
        }
        count
    }

    /// Whether the packet that `input` begins with has these fields.
    #[inline]
    fn has_fields(self, fields: &[u8], input: &[u8]) -> bool {
        let body = input.get(self.head_bytes..self.total_bytes);
        body.is_some_and(|body| body.starts_with(fields))
    }

    #[inline]
    fn payload_bytes(self, fields: &[u8]) -> usize {
        self.total_bytes.saturating_sub(self.head_bytes).saturating_sub(fields.len())
    }
}
