//! Taking the client's mask off a payload.
//!
//! Source: RFC 6455 section 5.3.

/// Exclusive-ors `bytes` with `mask`, beginning at place `phase` (0 to 3) of the mask.
pub(super) fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) {
    let turned = turn(mask, phase);
    let [a, b, c, d] = turned;
    let word = u64::from_le_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for chunk in &mut words {
        let mut value = [0; 8];
        value.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_le_bytes(value) ^ word).to_le_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(turned.into_iter().cycle()) {
        *byte ^= key;
    }
}

fn turn(mask: [u8; 4], phase: usize) -> [u8; 4] {
    let mut turned = mask;
    turned.rotate_left(phase & 3);
    turned
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_formula_of_the_rfc(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            mask in any::<[u8; 4]>(),
            phase in 0usize..4,
        ) {
            let expected: Vec<u8> = bytes
                .iter()
                .enumerate()
                .map(|(index, byte)| byte ^ mask[(index + phase) % 4])
                .collect();
            let mut actual = bytes;
            unmask(&mut actual, mask, phase);
            prop_assert_eq!(actual, expected);
        }
    }
}
