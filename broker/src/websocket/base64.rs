//! The little of base64 that the opening handshake and the tools need.
//!
//! Source: RFC 4648 sections 4 and 5.

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

/// `bytes` in base64 with padding.
pub(crate) fn text(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    encode(bytes, &mut out);
    out.into_iter().map(char::from).collect()
}

/// The bytes that `text` stands for, if it is base64 with padding.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let letters = group.iter().take_while(|letter| **letter != b'=').count();
        let mut bits = 0;
        for place in 0..4 {
            let value = match group.get(place) {
                Some(letter) if place < letters => ALPHABET.iter().position(|a| a == letter)?,
                Some(b'=') if 2 <= place => 0,
                _ => return None,
            };
            bits = bits << 6 | value as u32;
        }
        out.extend_from_slice(&bits.to_be_bytes()[1..letters]);
    }
    Some(out)
}

/// The bytes in base64url without padding.
pub(crate) fn encode_url(bytes: &[u8]) -> String {
    let standard = text(bytes);
    standard.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// The bytes that `text` stands for, if it is base64url without padding in its one form: unused
/// bits are zero.
pub(crate) fn decode_url(text: &str) -> Option<Vec<u8>> {
    let padding = "=".repeat(text.len().wrapping_neg() % 4);
    let bytes = decode(&(text.replace('-', "+").replace('_', "/") + &padding))?;
    (encode_url(&bytes) == text).then_some(bytes)
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
            assert_eq!(decode(expected).as_deref(), Some(&b"foobar"[..length]));
        }
    }

    #[test]
    fn the_form_for_names_comes_back() {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        for from in 0..bytes.len() {
            let text = encode_url(&bytes[from..]);
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            assert_eq!(decode_url(&text).as_deref(), Some(&bytes[from..]));
        }
        for bad in ["A", "AB", "Zg==", "Zm9v+", "Zm9/", "Zm9vYg\n"] {
            assert_eq!(decode_url(bad), None, "{bad:?}");
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
