//! CRC-32C of several byte strings at once.
//!
//! The processor's instruction gives its result after three cycles and takes another one every cycle: one
//! string of a few hundred bytes, whose every step needs the one before, keeps it waiting for two thirds of the time. Records of a
//! batch are of such a length and need nothing of each other.

/// Strings that go on at once: enough for the instruction, with one to spare.
pub(super) const AT_ONCE: usize = 4;
/// Bytes above which what is left of a single string goes to the crate, which cuts it into three.
#[cfg(target_arch = "x86_64")]
const LONG_BYTES: usize = 1024;

/// The checksums of `strings`, each of which begins with `seed`.
pub(super) fn checksums(seed: u32, strings: [&[u8]; AT_ONCE]) -> [u32; AT_ONCE] {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has the instructions (line above), and nothing else is asked of it.
        return unsafe { interleaved(seed, strings) };
    }
    strings.map(|string| crc32c::crc32c_append(seed, string))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn interleaved(seed: u32, strings: [&[u8]; AT_ONCE]) -> [u32; AT_ONCE] {
    use core::arch::x86_64::_mm_crc32_u64;
    let words = strings.map(|string| string.as_chunks::<8>().0);
    let [a, b, c, d] = words;
    let mut crcs = [u64::from(!seed); AT_ONCE];
    for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
        crcs[0] = _mm_crc32_u64(crcs[0], u64::from_le_bytes(*a));
        crcs[1] = _mm_crc32_u64(crcs[1], u64::from_le_bytes(*b));
        crcs[2] = _mm_crc32_u64(crcs[2], u64::from_le_bytes(*c));
        crcs[3] = _mm_crc32_u64(crcs[3], u64::from_le_bytes(*d));
    }
    let done = 8 * words.map(<[_]>::len).into_iter().fold(usize::MAX, usize::min);
    core::array::from_fn(|at| finish(crcs[at] as u32, &strings[at][done..]))
}

/// Goes on with the rest of a string from the state of the instruction; the checksum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn finish(mut crc: u32, rest: &[u8]) -> u32 {
    use core::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};
    if LONG_BYTES <= rest.len() {
        return crc32c::crc32c_append(!crc, rest);
    }
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        crc = _mm_crc32_u64(u64::from(crc), u64::from_le_bytes(*word)) as u32;
    }
    let (half, rest) = rest.as_chunks::<4>();
    for half in half {
        crc = _mm_crc32_u32(crc, u32::from_le_bytes(*half));
    }
    for byte in rest {
        crc = _mm_crc32_u8(crc, *byte);
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alone(seed: u32, strings: [&[u8]; AT_ONCE]) -> [u32; AT_ONCE] {
        strings.map(|string| crc32c::crc32c_append(seed, string))
    }

    #[test]
    fn every_length_and_place_gives_what_one_string_alone_gives() {
        let bytes: Vec<u8> = (0..3000_u32).map(|at| (at * 7 + at / 11) as u8).collect();
        for length in (0..40).chain([63, 64, 65, 1023, 1024, 1025, 2100]) {
            for skew in 0..8 {
                let strings = [
                    &bytes[skew..skew + length],
                    &bytes[..length / 2],
                    &bytes[skew + 1..][..length + skew],
                    &bytes[3..3 + length],
                ];
                assert_eq!(checksums(7, strings), alone(7, strings), "{length} {skew}");
            }
        }
    }

    proptest! {
        #[test]
        fn strings_of_any_lengths_give_what_each_gives_alone(
            strings: [Vec<u8>; AT_ONCE],
            seed: u32,
        ) {
            let strings = strings.each_ref().map(Vec::as_slice);
            prop_assert_eq!(checksums(seed, strings), alone(seed, strings));
        }
    }
}
