//! UTF-8 strings as MQTT allows them.

#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::error::DecodeError;

/// Whether these bytes are well-formed UTF-8: the check of a payload whose Payload Format
/// Indicator is 1 (Source: MQTT5 §3.3.2.3.2; U+0000 is allowed there).
#[must_use]
pub fn is_utf8(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_ok()
}

/// The bytes as a string, if they are well-formed UTF-8 without surrogates and without U+0000.
///
/// The standard library's check takes two words at a time while the text is ASCII.
///
/// Source: MQTT-1.5.4-1, MQTT-1.5.4-2. Control characters and non-characters, which a sender
/// SHOULD NOT use, are accepted: refusing them would hurt clients and protect nobody.
#[inline]
pub(crate) fn checked(bytes: &[u8]) -> Result<&str, DecodeError> {
    if holds_any(bytes, |byte| byte == 0) {
        return Err(NUL);
    }
    without_nul(bytes)
}

/// As [`checked`], for bytes in which the caller has already looked for U+0000.
#[inline]
pub(crate) fn without_nul(bytes: &[u8]) -> Result<&str, DecodeError> {
    core::str::from_utf8(bytes).map_err(|_| ILL_FORMED)
}

/// Whether any byte satisfies the predicate. Looks at all of them without branching, which the
/// compiler turns into vector code; the strings it is used on are short.
#[inline]
pub(crate) fn holds_any(bytes: &[u8], predicate: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |found, &byte| found | predicate(byte))
}

const NUL: DecodeError = DecodeError::malformed("string holds U+0000", "MQTT-1.5.4-2");
const ILL_FORMED: DecodeError =
    DecodeError::malformed("string is not well-formed UTF-8", "MQTT-1.5.4-1");
