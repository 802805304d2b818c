//! Any bytes, cut into packets and decoded for every version: no panic, and what decodes keeps
//! the promises of its types.

#![no_main]

#[path = "../../tests/support/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    exercise::decode_all(input);
});
