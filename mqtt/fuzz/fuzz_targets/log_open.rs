//! Any damage to a log of two small segments: it opens to a prefix of what was written, twice to the
//! same one, or it is refused; and any bytes are read by the decoders without a panic.

#![no_main]

#[path = "../../../dataplane/tests/support/log_damage.rs"]
mod log_damage;
#[path = "../../../dataplane/tests/support/log_image.rs"]
mod log_image;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    log_damage::check(input);
});
