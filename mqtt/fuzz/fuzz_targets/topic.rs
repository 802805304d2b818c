//! Topic filters and names against a naive recursive model. The first byte says where the input
//! is split into the two.

#![no_main]

#[path = "../../tests/support/topics.rs"]
mod topics;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((&split, text)) = input.split_first() else { return };
    let Ok(text) = core::str::from_utf8(text) else { return };
    let split = text.floor_char_boundary(usize::from(split).min(text.len()));
    let (filter, name) = text.split_at(split);
    topics::compare(filter, name);
});
