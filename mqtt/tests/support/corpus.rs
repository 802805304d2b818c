//! Packets to start from: the vectors and the catalogue as bytes.

/// One row of a data file: identifier, protocol level, decoder, bytes, outcome.
#[allow(dead_code, reason = "each test reads the columns that it needs")]
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) level: u8,
    pub(crate) decoder: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) outcome: &'static str,
}

/// The 101 packets of `data/vectors.txt`.
pub(crate) fn vectors() -> Vec<Row> {
    rows(include_str!("../data/vectors.txt"))
}

/// The malformed-packet catalogue of `data/catalogue.txt`, one row per case and level.
pub(crate) fn catalogue() -> Vec<Row> {
    rows(include_str!("../data/catalogue.txt"))
}

fn rows(text: &'static str) -> Vec<Row> {
    text.lines().filter(|line| !line.starts_with('#')).map(row).collect()
}

fn row(line: &'static str) -> Row {
    let mut columns = line.splitn(5, ' ');
    let mut column = || columns.next().expect("five columns");
    Row {
        id: column(),
        level: column().parse().expect("protocol level"),
        decoder: column(),
        bytes: unhex(column()),
        outcome: column(),
    }
}

/// Bytes from a hexadecimal string.
pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd number of digits in {text}");
    (0..text.len() / 2)
        .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hexadecimal digits"))
        .collect()
}
