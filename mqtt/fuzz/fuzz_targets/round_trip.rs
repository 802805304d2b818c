//! What decodes is encoded and decoded again: the packet stays the same.

#![no_main]

#[path = "../../tests/support/reencode.rs"]
mod reencode;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    reencode::round_trip(input);
});
