//! The data types of the wire format, written one after the other.

use crate::properties::UserProperties;
use crate::property::id;
use crate::wire::{VARINT_MAX, varint_bytes};
use alloc::vec::Vec;

/// Bytes of the longest string or binary field.
const FIELD_BYTES_MAX: usize = 65_535;

/// Appends a first byte, the length of what `body` appends, and that.
pub(super) fn framed(out: &mut Vec<u8>, header: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(header);
    sized(out, body);
}

/// Appends the length of what `body` appends as a Variable Byte Integer, and that.
///
/// One byte is kept free for the length, which is all that most packets need; a longer one moves
/// the body.
pub(super) fn sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let position = out.len();
    out.push(0);
    body(out);
    let length = varint_of(out.len() - position - 1);
    match encode_varint(length) {
        ([only, ..], 1) => out[position] = only,
        (encoded, bytes) => drop(out.splice(position..=position, encoded.into_iter().take(bytes))),
    }
}

/// A length as the format can express it. Callers keep packets within the format's limit; the
/// assertion says so where tests run.
pub(super) fn varint_of(bytes: usize) -> u32 {
    debug_assert!(bytes <= VARINT_MAX as usize, "packet above the format's limit");
    u32::try_from(bytes).unwrap_or(VARINT_MAX).min(VARINT_MAX)
}

/// The shortest form of a Variable Byte Integer, and how many of the bytes it takes.
fn encode_varint(value: u32) -> ([u8; 4], usize) {
    let bytes = varint_bytes(value);
    let mut encoded = [0u8; 4];
    for (index, byte) in encoded.iter_mut().enumerate().take(bytes) {
        let more = if index + 1 < bytes { 0x80 } else { 0 };
        *byte = (value >> (7 * index)) as u8 & 0x7F | more;
    }
    (encoded, bytes)
}

pub(super) fn put_varint(out: &mut Vec<u8>, value: u32) {
    let (encoded, bytes) = encode_varint(value.min(VARINT_MAX));
    out.extend(encoded.into_iter().take(bytes));
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_binary(out: &mut Vec<u8>, value: &[u8]) {
    let value = &value[..value.len().min(FIELD_BYTES_MAX)];
    put_u16(out, value.len() as u16);
    out.extend_from_slice(value);
}

pub(super) fn put_text(out: &mut Vec<u8>, value: &str) {
    put_binary(out, clamped(value).as_bytes());
}

/// The string, cut to what a field can hold.
pub(super) fn clamped(value: &str) -> &str {
    &value[..value.floor_char_boundary(FIELD_BYTES_MAX)]
}

pub(super) fn put_u8_property(out: &mut Vec<u8>, property: u8, value: Option<u8>) {
    if let Some(value) = value {
        out.extend_from_slice(&[property, value]);
    }
}

pub(super) fn put_flag_property(out: &mut Vec<u8>, property: u8, value: Option<bool>) {
    put_u8_property(out, property, value.map(u8::from));
}

pub(super) fn put_u16_property(out: &mut Vec<u8>, property: u8, value: Option<u16>) {
    if let Some(value) = value {
        out.push(property);
        put_u16(out, value);
    }
}

pub(super) fn put_u32_property(out: &mut Vec<u8>, property: u8, value: Option<u32>) {
    if let Some(value) = value {
        out.push(property);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

pub(super) fn put_text_property(out: &mut Vec<u8>, property: u8, value: Option<&str>) {
    if let Some(value) = value {
        out.push(property);
        put_text(out, value);
    }
}

pub(super) fn put_binary_property(out: &mut Vec<u8>, property: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        out.push(property);
        put_binary(out, value);
    }
}

pub(super) fn put_user_properties(out: &mut Vec<u8>, properties: &UserProperties<'_>) {
    for (name, value) in properties.iter() {
        out.push(id::USER_PROPERTY);
        put_text(out, name);
        put_text(out, value);
    }
}
