//! Any bytes as a message between nodes: refused, or read in a way that says the same bytes again;
//! also with a checksum and a length that fit, so that the fuzzer gets behind them.

#![no_main]

use ringlane_dataplane::replication::{hello::Hello, wire};

/// The bytes with length and checksum made good, where the kind has a head of fixed length.
fn mended(input: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = input[..input.len() / 8 * 8].to_vec();
    let length = u32::try_from(bytes.len()).ok()?;
    bytes.get_mut(..4)?.copy_from_slice(&length.to_le_bytes());
    wire::mend_checksum(&mut bytes)?;
    Some(bytes)
}

fn check(bytes: &[u8]) {
    let _ = wire::bytes_of(bytes, wire::MESSAGE_BYTES_MAX);
    if let Ok((envelope, body)) = wire::decode(bytes) {
        let mut again = Vec::new();
        envelope.encode(&mut again);
        assert_eq!(again, bytes[..again.len()]);
        assert_eq!(body.len(), envelope.message.body_bytes() as usize);
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let _ = Hello::decode(input);
    check(input);
    if let Some(bytes) = mended(input) {
        check(&bytes);
    }
});
