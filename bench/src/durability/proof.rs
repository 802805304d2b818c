//! The payload that proves itself: whose it is, its place, and a checksum over everything.

use crc32c::{crc32c, crc32c_append};
use ringlane_mqtt::QoS;

/// Bytes of a proof without padding.
pub const PROOF_BYTES: usize = 29;

const CRC_AT: usize = 25;

/// What a message says of itself. In a payload, big-endian: run u64, publisher u32, topic u32,
/// sequence u64, QoS u8, CRC-32C u32 over everything else, padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Proof {
    /// The run of this tool.
    pub(super) run: u64,
    /// Number of the publisher.
    pub(super) publisher: u32,
    /// Number of the topic at that publisher.
    pub(super) topic: u32,
    /// Place in the stream of publisher, topic and QoS.
    pub(super) sequence: u64,
    /// The QoS that it was published with.
    pub(super) qos: QoS,
}

impl Proof {
    /// Appends the payload, padded to `payload_bytes`.
    pub(super) fn write(&self, out: &mut Vec<u8>, payload_bytes: usize) {
        let start = out.len();
        out.extend_from_slice(&self.run.to_be_bytes());
        out.extend_from_slice(&self.publisher.to_be_bytes());
        out.extend_from_slice(&self.topic.to_be_bytes());
        out.extend_from_slice(&self.sequence.to_be_bytes());
        out.push(self.qos as u8);
        out.extend_from_slice(&[0; 4]);
        let padding = payload_bytes.saturating_sub(PROOF_BYTES);
        out.extend((0..padding).map(|place| (self.sequence as u8).wrapping_add(place as u8)));
        let crc = checksum(&out[start..]);
        out[start + CRC_AT..start + PROOF_BYTES].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads a payload; `None` if it is not a proof, or damaged.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let crc = u32::from_be_bytes(*payload.get(CRC_AT..)?.first_chunk()?);
        if checksum(payload) != crc {
            return None;
        }
        Some(Self {
            run: u64::from_be_bytes(*payload.first_chunk()?),
            publisher: u32::from_be_bytes(*payload.get(8..)?.first_chunk()?),
            topic: u32::from_be_bytes(*payload.get(12..)?.first_chunk()?),
            sequence: u64::from_be_bytes(*payload.get(16..)?.first_chunk()?),
            qos: QoS::from_u8(*payload.get(24)?)?,
        })
    }
}

/// Over all bytes but those of the checksum; the payload holds a whole proof.
fn checksum(payload: &[u8]) -> u32 {
    crc32c_append(crc32c(&payload[..CRC_AT]), &payload[PROOF_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROOF: Proof =
        Proof { run: 7, publisher: 2, topic: 3, sequence: 1 << 40, qos: QoS::ExactlyOnce };

    #[test]
    fn a_payload_gives_its_proof_back() {
        for payload_bytes in [0, PROOF_BYTES, 64, 4096] {
            let mut payload = Vec::new();
            PROOF.write(&mut payload, payload_bytes);
            assert_eq!(payload.len(), payload_bytes.max(PROOF_BYTES));
            assert_eq!(Proof::read(&payload), Some(PROOF));
        }
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_seen() {
        let mut payload = Vec::new();
        PROOF.write(&mut payload, 40);
        for place in 0..payload.len() {
            assert_eq!(Proof::read(&payload[..place]), None);
            let mut damaged = payload.clone();
            damaged[place] ^= 0x10;
            assert_eq!(Proof::read(&damaged), None, "byte {place}");
        }
    }
}
