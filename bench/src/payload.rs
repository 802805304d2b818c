//! What every measured message carries: which stream it belongs to, its place in it, and when it
//! was meant to be sent. So loss, duplicates, order and latency are known of every message.

use ringlane_mqtt::encode::{self, PublishHead};
use ringlane_mqtt::{QoS, Version};

/// The smallest payload that holds a [`Stamp`], in bytes.
pub const PAYLOAD_BYTES_MIN: usize = 16;

/// Streams that a stamp can tell apart.
pub const STREAMS_MAX: u32 = 1 << STREAM_BITS;

const STREAM_BITS: u32 = 24;
const SEQUENCE_BITS: u32 = 40;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// What fills a payload behind the stamp.
const FILLER: u8 = 0x5a;

/// The first 16 bytes of a payload, big endian: stream (24 bits), sequence (40 bits), time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// The publisher's stream, below [`STREAMS_MAX`].
    pub stream: u32,
    /// Place in the stream, from 0, below 2^40.
    pub sequence: u64,
    /// When it was meant to be sent, in nanoseconds of the sender's own clock.
    pub sent_ns: u64,
}

impl Stamp {
    /// Writes the stamp over the first 16 bytes.
    ///
    /// # Panics
    /// If `payload` is shorter than [`PAYLOAD_BYTES_MIN`].
    pub fn write(self, payload: &mut [u8]) {
        let place = (u64::from(self.stream) << SEQUENCE_BITS) | (self.sequence & SEQUENCE_MASK);
        payload[..8].copy_from_slice(&place.to_be_bytes());
        payload[8..16].copy_from_slice(&self.sent_ns.to_be_bytes());
    }

    /// Reads the stamp; `None` if the payload is too short to be one of ours.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let place = u64::from_be_bytes(*payload.first_chunk::<8>()?);
        let sent_ns = u64::from_be_bytes(*payload.get(8..)?.first_chunk::<8>()?);
        let stream = u32::try_from(place >> SEQUENCE_BITS).ok()?;
        Some(Self { stream, sequence: place & SEQUENCE_MASK, sent_ns })
    }
}

/// Whether the bytes behind the stamp are as they were sent. Looks at the ends, not at each byte,
/// so that the check does not grow with the payload.
#[must_use]
pub fn is_intact(payload: &[u8], payload_bytes: usize) -> bool {
    payload.len() == payload_bytes
        && payload[PAYLOAD_BYTES_MIN.min(payload.len())..].first().is_none_or(|b| *b == FILLER)
        && (payload.len() <= PAYLOAD_BYTES_MIN || payload.last() == Some(&FILLER))
}

/// A PUBLISH packet encoded once, of which only packet identifier and stamp change.
#[derive(Clone, Debug)]
pub struct PublishTemplate {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl PublishTemplate {
    /// Encodes the packet with a payload of `payload_bytes`, of which all but the stamp is filler.
    ///
    /// # Panics
    /// If `payload_bytes` is less than [`PAYLOAD_BYTES_MIN`].
    #[must_use]
    pub fn new(version: Version, qos: QoS, topic: &str, payload_bytes: usize) -> Self {
        assert!(payload_bytes >= PAYLOAD_BYTES_MIN, "no room for the stamp");
        let head = PublishHead {
            version,
            dup: false,
            qos,
            retain: false,
            topic,
            topic_alias: None,
            packet_id: u16::from(qos != QoS::AtMostOnce),
            message_expiry_secs: None,
            subscription_ids: &[],
            forwarded: &[],
            payload_bytes,
        };
        let mut bytes = Vec::with_capacity(payload_bytes + topic.len() + 16);
        encode::publish_head(&mut bytes, &head);
        let payload_at = bytes.len();
        let length_bytes = bytes[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
        let packet_id_at = (qos != QoS::AtMostOnce).then_some(1 + length_bytes + 2 + topic.len());
        bytes.resize(payload_at + payload_bytes, FILLER);
        Self { bytes, packet_id_at, payload_at }
    }

    /// Appends the packet. `packet_id` is ignored with QoS 0.
    pub fn write(&self, out: &mut Vec<u8>, packet_id: u16, stamp: Stamp) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        stamp.write(&mut out[start + self.payload_at..]);
    }

    /// Bytes of one packet.
    #[must_use]
    pub fn packet_bytes(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringlane_mqtt::{Frame, Packet, decode, frame};

    #[test]
    fn a_stamp_comes_back_as_written() {
        let stamp = Stamp { stream: STREAMS_MAX - 1, sequence: SEQUENCE_MASK, sent_ns: u64::MAX };
        let mut payload = [0; PAYLOAD_BYTES_MIN];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
    }

    #[test]
    fn a_template_is_a_valid_packet_in_every_version_and_size() {
        for version in [Version::V31, Version::V311, Version::V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for payload_bytes in [16, 17, 100, 128, 20_000] {
                    let template = PublishTemplate::new(version, qos, "a/b", payload_bytes);
                    let stamp = Stamp { stream: 3, sequence: 77, sent_ns: 5 };
                    let mut out = Vec::new();
                    template.write(&mut out, 0x1234, stamp);
                    assert_eq!(out.len(), template.packet_bytes());
                    let Ok(Frame::Complete(raw)) = frame(&out, 1 << 20) else {
                        panic!("not one whole packet")
                    };
                    let Ok(Packet::Publish(publish)) = decode(version, raw) else {
                        panic!("not a PUBLISH")
                    };
                    assert_eq!(publish.topic, "a/b");
                    assert_eq!(publish.qos, qos);
                    assert_eq!(publish.packet_id, if qos == QoS::AtMostOnce { 0 } else { 0x1234 });
                    assert_eq!(Stamp::read(publish.payload), Some(stamp));
                    assert!(is_intact(publish.payload, payload_bytes));
                }
            }
        }
    }

    #[test]
    fn a_damaged_payload_is_seen() {
        assert!(!is_intact(&[0; 20], 20));
        assert!(!is_intact(&[FILLER; 20], 21));
        assert!(is_intact(&[0; 16], 16));
    }
}
