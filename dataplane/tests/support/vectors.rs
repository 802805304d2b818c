//! The vectors at the end of the pages in docs/formats.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// The vectors of a page of docs/formats, by name.
pub(crate) fn page(name: &str) -> BTreeMap<String, Vec<u8>> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/formats");
    let text = std::fs::read_to_string(Path::new(directory).join(name)).expect("the page is there");
    let (_, block) = text.split_once("```vectors\n").expect("a block of vectors");
    let (block, _) = block.split_once("```").expect("its end");
    block.lines().filter_map(|line| line.split_once(' ')).map(read_vector).collect()
}

fn read_vector((name, digits): (&str, &str)) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    for part in digits.split(' ') {
        match part.strip_prefix("00*") {
            Some(count) => bytes.resize(bytes.len() + count.parse::<usize>().expect("a count"), 0),
            None => {
                bytes.extend((0..part.len()).step_by(2).map(|at| {
                    u8::from_str_radix(&part[at..at + 2], 16).expect("hexadecimal digits")
                }))
            }
        }
    }
    (name.to_owned(), bytes)
}

/// As it stands on the page: long runs of zeros are counted.
fn digits(bytes: &[u8]) -> String {
    let mut text = String::new();
    for run in bytes.chunk_by(|one, two| *one == 0 && *two == 0) {
        if run.len() > 16 {
            write!(text, " 00*{} ", run.len()).expect("memory");
        } else {
            run.iter().for_each(|byte| write!(text, "{byte:02x}").expect("memory"));
        }
    }
    text.trim().to_owned()
}

/// The vectors of a page are these.
pub(crate) fn check(name: &str, written: &BTreeMap<String, Vec<u8>>) {
    let mut block = String::new();
    for (name, bytes) in written {
        writeln!(block, "{name} {}", digits(bytes)).expect("memory");
    }
    assert_eq!(&page(name), written, "this block belongs there:\n{block}");
}
