//! Which epochs the records of a log are of, found in the headers of its batches.
//!
//! A leader seldom changes: only the segments in which an epoch begins are read, by the headers of their
//! batches. Of all others the first header is enough.

use super::format::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, segment_name};
use super::index::Before;
use super::recovery::{FoundSegment, Recovered};
use super::scan::read;
use crate::disk::StartFiles;
use crate::replication::epochs::EpochTable;
use std::io;
use std::path::Path;

/// The epochs of a log in `directory` that was just opened.
///
/// That of the record before its first one is in no batch any more; who knows it from a checkpoint puts
/// it in front.
///
/// # Errors
/// A segment cannot be read.
pub fn epoch_table<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    recovered: &Recovered,
) -> io::Result<EpochTable> {
    let mut firsts = Vec::with_capacity(recovered.segments.len());
    for segment in &recovered.segments {
        firsts.push(first_header(files, directory, segment)?);
    }
    let mut table = EpochTable::new();
    for (index, segment) in recovered.segments.iter().enumerate() {
        let next = match firsts.get(index + 1) {
            Some(next) => next.map(|header| header.epoch),
            None => Some(recovered.epoch),
        };
        let same = firsts[index].filter(|first| !first.is_closing() && next == Some(first.epoch));
        if let Some(first) = same {
            table.push(first.epoch, first.base_offset);
            continue;
        }
        let end = match &recovered.tail {
            Some(tail) if index + 1 == recovered.segments.len() => tail.position,
            _ => segment.file_bytes,
        };
        push_each(files, directory, segment, end, &mut table)?;
    }
    Ok(table)
}

fn first_header<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    segment: &FoundSegment,
) -> io::Result<Option<BatchHeader>> {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let path = directory.join(segment_name(segment.number));
    let count = read(files, &path, SEGMENT_HEADER_BYTES, &mut bytes)?;
    Ok(BatchHeader::decode(&bytes[..count], &segment.id).ok())
}

fn push_each<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    segment: &FoundSegment,
    end: u64,
    table: &mut EpochTable,
) -> io::Result<()> {
    let path = directory.join(segment_name(segment.number));
    Before::read_each(files, &path, &segment.id, end, |bytes| {
        if let Ok(header) = BatchHeader::decode(bytes, &segment.id)
            && !header.is_closing()
        {
            table.push(header.epoch, header.base_offset);
        }
    })?;
    Ok(())
}
