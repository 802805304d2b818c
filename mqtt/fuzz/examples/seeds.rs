//! Writes the inputs that fuzzing starts from: `cargo run --example seeds -- DIRECTORY` fills
//! `DIRECTORY/packets` (vectors, catalogue, full packets), `DIRECTORY/topics`, and `DIRECTORY/damages`
//! of a log.

#[path = "../../tests/support/corpus.rs"]
mod corpus;
#[path = "../../tests/support/samples.rs"]
mod samples;

use std::path::Path;
use std::{env, fs, io};

/// Filters and names; the first byte of each input is the length of the filter.
const TOPICS: [(&str, &str); 10] = [
    ("#", "a/b"),
    ("a/+/c", "a/b/c"),
    ("a/#", "a"),
    ("+/+", "/a"),
    ("$share/group/a/+", "a/b"),
    ("$share//a", "a"),
    ("$SYS/#", "$SYS/uptime"),
    ("#", "$SYS/uptime"),
    ("a/#/b", "a/b"),
    ("a+/b", "a/b"),
];

fn main() -> io::Result<()> {
    let directory = env::args().nth(1).unwrap_or_else(|| "seeds".to_owned());
    let rows = corpus::vectors().into_iter().chain(corpus::catalogue()).map(|row| row.bytes);
    let full = samples::samples().into_iter().map(|(_, packet)| packet);
    write_all(&Path::new(&directory).join("packets"), rows.chain(full))?;
    let topics = TOPICS.iter().map(|(filter, name)| {
        let length = u8::try_from(filter.len()).expect("short filters");
        [&[length], filter.as_bytes(), name.as_bytes()].concat()
    });
    write_all(&Path::new(&directory).join("topics"), topics)?;
    let damages = (0..16u8).map(|kind| [kind, kind.wrapping_mul(37), 0x11, 64].to_vec());
    write_all(&Path::new(&directory).join("damages"), damages)
}

fn write_all(directory: &Path, inputs: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (index, input) in inputs.enumerate() {
        fs::write(directory.join(format!("{index:04}")), input)?;
    }
    Ok(())
}
