//! Finds the ends of packets in what was read: the fixed header and the length, nothing more.

use super::PACKET_BYTES_MAX;

/// The first byte of a PUBLISH with QoS 0 that is neither a duplicate nor retained.
const PLAIN_PUBLISH: u8 = 0x30;

/// How far the plain PUBLISH packets at the front of what was read go, and what comes then.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Up to here they are whole; the rest is the beginning of one more, or nothing.
    Whole(usize),
    /// Up to `at` they are whole; there a packet of another kind begins, and ends at `end`.
    Other {
        /// Where it begins.
        at: usize,
        /// One past its last byte.
        end: usize,
    },
    /// A packet larger than the relay takes, or a length that is none.
    Refused,
}

/// Walks over plain PUBLISH packets.
pub(super) fn cut(bytes: &[u8]) -> Cut {
    let mut at = 0;
    while let Some((total, header)) = packet(&bytes[at..]) {
        if total > PACKET_BYTES_MAX {
            return Cut::Refused;
        }
        let end = at + total;
        if end > bytes.len() {
            break;
        }
        if header != PLAIN_PUBLISH {
            return Cut::Other { at, end };
        }
        at = end;
    }
    Cut::Whole(at)
}

/// Bytes of the first packet of some that are whole.
pub(super) fn first(bytes: &[u8]) -> usize {
    packet(bytes).map_or(bytes.len(), |(total, _)| total.min(bytes.len()))
}

/// The size of the first packet and its first byte; `None` while the length is not complete.
/// A length of more than four bytes gives a size that is too large.
#[inline]
fn packet(bytes: &[u8]) -> Option<(usize, u8)> {
    let (header, rest) = bytes.split_first()?;
    let mut length = 0usize;
    for (index, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((2 + index + length, *header));
        }
    }
    (rest.len() >= 4).then_some((usize::MAX, *header))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(body: usize) -> Vec<u8> {
        let mut packet = vec![PLAIN_PUBLISH];
        let mut length = body;
        loop {
            let byte = (length % 128) as u8;
            length /= 128;
            packet.push(if length > 0 { byte | 0x80 } else { byte });
            if length == 0 {
                break;
            }
        }
        packet.resize(packet.len() + body, 7);
        packet
    }

    #[test]
    fn every_cut_of_a_stream_ends_at_the_last_whole_packet() {
        let sizes = [2, 127, 128, 16_383, 16_384];
        let packets: Vec<Vec<u8>> = sizes.iter().map(|size| publish(*size)).collect();
        let stream = packets.concat();
        let mut ends = vec![0];
        packets.iter().for_each(|packet| ends.push(ends[ends.len() - 1] + packet.len()));
        for length in 0..=stream.len() {
            let expected = ends.iter().rev().find(|end| **end <= length).copied().unwrap();
            assert_eq!(cut(&stream[..length]), Cut::Whole(expected));
        }
    }

    #[test]
    fn other_packets_are_found_between_plain_ones() {
        let mut stream = publish(10);
        let at = stream.len();
        stream.extend_from_slice(&[0xc0, 0]);
        stream.extend_from_slice(&publish(3));
        assert_eq!(cut(&stream), Cut::Other { at, end: at + 2 });
        assert_eq!(cut(&[0x32, 2, 0]), Cut::Whole(0));
        assert_eq!(cut(&[0x32, 1, 0]), Cut::Other { at: 0, end: 3 });
    }

    #[test]
    fn a_length_without_end_is_refused() {
        assert_eq!(cut(&[0x30, 0x80, 0x80, 0x80]), Cut::Whole(0));
        assert_eq!(cut(&[0x30, 0x80, 0x80, 0x80, 0x80]), Cut::Refused);
        assert_eq!(cut(&[0x30, 0xff, 0xff, 0xff, 0x7f]), Cut::Refused);
    }
}
