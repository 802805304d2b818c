//! The little of base64 that the opening handshake and the tools need.
//!
//! Source: RFC 4648 section 4.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` to `out` in base64 with padding.
pub(crate) fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    for group in bytes.chunks(3) {
        let second = group.get(1).copied().unwrap_or(0);
        let third = group.get(2).copied().unwrap_or(0);
        let bits = u32::from_be_bytes([0, group[0], second, third]);
        for (place, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = ALPHABET[(bits >> shift & 0x3f) as usize];
            out.push(if place <= group.len() { letter } else { b'=' });
        }
    }
}

/// Whether `text` is base64 for exactly 16 bytes, as `Sec-WebSocket-Key` must be.
///
/// The unused bits of the last letter are not looked at: clients exist that fill them.
pub(super) fn is_sixteen_bytes(text: &[u8]) -> bool {
    let Some(letters) = text.strip_suffix(b"==") else { return false };
    letters.len() == 22 && letters.iter().all(|letter| ALPHABET.contains(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        encode(bytes, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// RFC 4648 section 10.
    #[test]
    fn the_vectors_of_the_rfc() {
        let vectors = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        for (length, expected) in vectors.into_iter().enumerate() {
            assert_eq!(encoded(&b"foobar"[..length]), expected);
        }
    }

    #[test]
    fn every_letter_is_reached() {
        let all: Vec<u8> = (0..64u8).collect();
        let packed: Vec<u8> = all
            .chunks(4)
            .flat_map(|six| {
                let bits = six.iter().fold(0u32, |bits, value| bits << 6 | u32::from(*value));
                bits.to_be_bytes()[1..].to_vec()
            })
            .collect();
        assert_eq!(encoded(&packed).as_bytes(), ALPHABET);
    }

    #[test]
    fn a_key_is_sixteen_bytes() {
        assert!(is_sixteen_bytes(b"dGhlIHNhbXBsZSBub25jZQ=="));
        for wrong in [
            &b""[..],
            b"==",
            b"dGhlIHNhbXBsZSBub25jZQ=",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZ===",
            b"dGhlIHNhbXBsZSBub25j*Q==",
            b"dGhlIHNhbXBsZSBub25jZQQ==",
        ] {
            assert!(!is_sixteen_bytes(wrong), "{}", String::from_utf8_lossy(wrong));
        }
    }
}
