//! The codec against `mqttbytes`: every disagreement is one that the specification explains (the
//! table in `tests/support/oracle.rs`), and anything else panics.
//!
//! The oracle hands no MQTT 5 UNSUBSCRIBE to `mqttbytes`: version 0.6 prints each of them to
//! standard error, which would bury the fuzzer's log.

#![no_main]

#[path = "../../tests/support/oracle.rs"]
mod oracle;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    oracle::compare_all(input);
});
