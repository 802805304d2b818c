//! The resume token: how far a replay came in each partition, as text that clients carry.
//!
//! It is base64url (RFC 4648 section 5, without padding) of a version, the number of partitions, then
//! partition, epoch and next offset of each, all as variable-length integers (LEB128), and a CRC-32C
//! over these bytes that begins with a seed of the data directory. Clients see it as opaque.

use crate::websocket::base64;
use ringlane_dataplane::log::record::checksum;

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;
/// Partitions in a token, at most: as many as a node can have.
const PARTITIONS_MAX: u64 = 1 << 16;

/// How far one partition was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    pub(crate) partition: u32,
    /// The epoch in which that was so: what it was then up to `next` may have been lost since.
    pub(crate) epoch: u64,
    /// The first offset that was not read.
    pub(crate) next: u64,
}

/// The text of a token.
pub(crate) fn encode(positions: &[Position], seed: u32) -> String {
    let mut bytes = vec![VERSION];
    put(&mut bytes, positions.len() as u64);
    for position in positions {
        put(&mut bytes, u64::from(position.partition));
        put(&mut bytes, position.epoch);
        put(&mut bytes, position.next);
    }
    let crc = seeded(seed, &bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    base64::encode_url(&bytes)
}

/// The positions of a token that a node with this seed has made.
pub(crate) fn decode(text: &str, seed: u32) -> Option<Vec<Position>> {
    let bytes = base64::decode_url(text)?;
    let (bytes, crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_BYTES)?)?;
    let (version, mut rest) = bytes.split_first()?;
    if *version != VERSION || seeded(seed, bytes).to_le_bytes() != *crc {
        return None;
    }
    let count = take(&mut rest).filter(|count| (1..=PARTITIONS_MAX).contains(count))?;
    let position = |rest: &mut &[u8]| {
        let partition = u32::try_from(take(rest)?).ok()?;
        Some(Position { partition, epoch: take(rest)?, next: take(rest)? })
    };
    let positions: Option<Vec<Position>> = (0..count).map(|_| position(&mut rest)).collect();
    positions.filter(|_| rest.is_empty())
}

fn seeded(seed: u32, bytes: &[u8]) -> u32 {
    checksum(&[&seed.to_le_bytes()[..], bytes].concat())
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions() -> Vec<Position> {
        let position = |partition, epoch, next| Position { partition, epoch, next };
        vec![position(0, 1, 0), position(7, 300, u64::MAX), position(u32::MAX, 1 << 61, 127)]
    }

    #[test]
    fn what_was_written_is_read() {
        for count in 1..=3 {
            let token = encode(&positions()[..count], 99);
            assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
            assert_eq!(decode(&token, 99).as_deref(), Some(&positions()[..count]));
            assert_eq!(decode(&token, 98), None, "of another data directory");
        }
    }

    #[test]
    fn nothing_else_is_a_token() {
        let token = encode(&positions(), 99);
        for cut in 0..token.len() {
            assert_eq!(decode(&token[..cut], 99), None, "cut to {cut}");
        }
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_ne!(decode(&changed, 99), Some(positions()), "letter {at}");
        }
        assert_eq!(decode(&encode(&[], 99), 99), None, "of no partition");
    }
}
