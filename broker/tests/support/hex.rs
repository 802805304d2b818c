//! Bytes written as in the tables: `10 0D 2F*65535`.

use std::fmt::Write;

/// Reads two-digit bytes separated by blanks; `2F*3` stands for three of them.
pub fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        let (digits, count) = match word.split_once('*') {
            Some((digits, count)) => (digits, count.parse().expect("a count after *")),
            None => (word, 1),
        };
        assert_eq!(digits.len(), 2, "{word} in {text}");
        let byte = u8::from_str_radix(digits, 16).expect("two hexadecimal digits");
        bytes.resize(bytes.len() + count, byte);
    }
    bytes
}

/// Writes bytes as [`hex`] reads them, cut after 48.
pub fn show(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().take(48) {
        let blank = if text.is_empty() { "" } else { " " };
        write!(text, "{blank}{byte:02X}").expect("writing to a string");
    }
    if bytes.len() > 48 {
        write!(text, " ... ({} bytes)", bytes.len()).expect("writing to a string");
    }
    text
}
