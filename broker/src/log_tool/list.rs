//! `ringlane log ls`.

use super::directory::{Directory, PartitionLog};
use super::place::{first_batch, read_index};
use super::{ToolError, print};
use ringlane_dataplane::log::index::SegmentIndex;
use ringlane_transport_uring::StdFiles;
use serde::Serialize;
use std::io::{self, Write};

/// One segment.
#[derive(Serialize)]
struct SegmentLine {
    partition: u32,
    segment: u64,
    /// Offset of the first record; `None` if it has none yet.
    base_offset: Option<u64>,
    /// Offset behind the last record.
    next_offset: Option<u64>,
    file_bytes: u64,
    epoch: u64,
    made_unix_ms: u64,
    last_unix_ms: Option<u64>,
    has_index: bool,
}

/// Prints the segments of the partitions, by their headers alone.
pub(super) fn run(directory: &Directory, wanted: &[u32], json: bool) -> Result<(), ToolError> {
    let mut out = io::stdout().lock();
    let mut text = String::new();
    if !json {
        text.push_str("partition  segment      from        to       MiB  made                      last batch\n");
    }
    let (mut segments, mut bytes) = (0, 0);
    for log in directory.partitions(wanted)? {
        for number in log.files()? {
            let line = match describe(&log, number) {
                Ok(line) => line,
                // A broker that runs has trimmed it since.
                Err(_) if !log.files()?.contains(&number) => continue,
                Err(error) => return Err(error),
            };
            (segments, bytes) = (segments + 1, bytes + line.file_bytes);
            text.push_str(&if json { as_json(&line) } else { as_text(&line) });
        }
    }
    if !json {
        text.push_str(&format!("{segments} segments, {} MiB\n", bytes >> 20));
    }
    out.write_all(text.as_bytes()).map_err(|error| ToolError::output(&error))
}

fn describe(log: &PartitionLog, number: u64) -> Result<SegmentLine, ToolError> {
    let segment = log.segment(number)?;
    let stored = read_index(log, &segment);
    let has_index = stored.is_some();
    let index = match stored {
        Some(index) => index,
        None => SegmentIndex::rebuild(&StdFiles, &segment, segment.header.file_bytes)
            .map_err(|error| ToolError::io("read", &segment.path, &error))?,
    };
    let first = first_batch(&segment)?;
    Ok(SegmentLine {
        partition: log.number(),
        segment: number,
        base_offset: first.map(|header| header.base_offset.0),
        next_offset: first.map(|_| index.next_offset().0),
        file_bytes: segment.header.file_bytes,
        epoch: segment.header.epoch,
        made_unix_ms: segment.header.made_unix_ms,
        last_unix_ms: first.map(|_| index.last_unix_ms()),
        has_index,
    })
}

fn as_json(line: &SegmentLine) -> String {
    let mut text = serde_json::to_string(line).unwrap_or_default();
    text.push('\n');
    text
}

fn as_text(line: &SegmentLine) -> String {
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    format!(
        "{:>9} {:>8} {:>9} {:>9} {:>9.1}  {}  {}\n",
        line.partition,
        line.segment,
        number(line.base_offset),
        number(line.next_offset),
        line.file_bytes as f64 / (1 << 20) as f64,
        print::time(line.made_unix_ms),
        line.last_unix_ms.map_or_else(|| "-".to_owned(), print::time),
    )
}
