//! Which epochs the records of a log are of, found in the headers of its batches.
//!
//! What a checkpoint knows of them is not read again. Behind it only the segments in which an epoch begins are read, by the
//! headers of their batches: with small batches that is all of such a segment, and a log may have
//! hundreds of them. Of all segments the first header is read, and has to be of the epoch that the checkpoint says.

use super::format::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, segment_name};
use super::index::Before;
use super::recovery::{FoundSegment, Recovered, ReplayFrom};
use super::scan::read;
use crate::disk::StartFiles;
use crate::ids::Offset;
use crate::replication::epochs::{EpochStart, EpochTable};
use std::io;
use std::path::Path;

/// What a checkpoint says of the epochs of its log.
#[derive(Clone, Debug)]
pub struct KnownEpochs {
    /// The epochs, oldest first.
    pub starts: Vec<EpochStart>,
    /// They are those of all records in front of this place; further ones do not count.
    pub from: ReplayFrom,
}

/// The epochs of a log, and how they were found.
#[derive(Debug)]
pub struct FoundEpochs {
    /// The epochs.
    pub table: EpochTable,
    /// Segments that were read for them.
    pub segments_read: usize,
}

/// The epochs of a log in `directory` that was just opened, of which a checkpoint may know some.
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
    known: Option<&KnownEpochs>,
) -> io::Result<FoundEpochs> {
    let mut firsts = Vec::with_capacity(recovered.segments.len());
    for segment in &recovered.segments {
        firsts.push(first_header(files, directory, segment)?);
    }
    let known = known.and_then(|known| Some((known.checked(recovered, &firsts)?, known.from)));
    let (table, known_to) = known.unzip();
    let table = table.unwrap_or_default();
    let mut finding = Finding { table, known_to, segments_read: 0, is_refuted: false };
    for (index, segment) in recovered.segments.iter().enumerate() {
        let behind = recovered.segments.get(index + 1);
        if behind.map_or(recovered.next_offset, |behind| behind.base) <= finding.from() {
            continue;
        }
        let next = match firsts.get(index + 1) {
            Some(next) => next.map(|header| header.epoch),
            None => Some(recovered.epoch),
        };
        let same = firsts[index].filter(|first| !first.is_closing() && next == Some(first.epoch));
        if let Some(first) = same {
            finding.push(&first);
            continue;
        }
        let end = match &recovered.tail {
            Some(tail) if behind.is_none() => tail.position,
            _ => segment.file_bytes,
        };
        finding.push_each(files, directory, segment, end)?;
    }
    if finding.is_refuted {
        return epoch_table(files, directory, recovered, None);
    }
    let Finding { table, segments_read, .. } = finding;
    Ok(FoundEpochs { table, segments_read })
}

impl KnownEpochs {
    /// The table of the records in front of the place; nothing if it does not go with the log.
    fn checked(&self, recovered: &Recovered, firsts: &[Option<BatchHeader>]) -> Option<EpochTable> {
        let (start, end) = (recovered.log_start, self.from.offset);
        let starts = self.starts.iter().filter(|epoch| epoch.first < end).copied().collect();
        let mut table = EpochTable::from_starts(starts)?;
        let of = |offset: Offset| table.epoch_before(Offset(offset.0 + 1));
        let is_covered = start < end && end <= recovered.next_offset && of(start).is_some();
        let is_of_this_log = table.last_epoch() <= recovered.epoch;
        let mut in_front = firsts.iter().flatten().filter(|first| first.base_offset < end);
        let are_right =
            in_front.all(|first| first.is_closing() || of(first.base_offset) == Some(first.epoch));
        (is_covered && is_of_this_log && are_right).then(|| {
            table.trim(start);
            table
        })
    }
}

/// Epochs while they are found.
struct Finding {
    table: EpochTable,
    /// The place of a checkpoint: what is in front of it is known.
    known_to: Option<ReplayFrom>,
    segments_read: usize,
    /// A record behind what is known is of an older epoch: what is known is of another log.
    is_refuted: bool,
}

impl Finding {
    /// The epochs of records in front of it are known.
    fn from(&self) -> Offset {
        self.known_to.map_or(Offset(0), |place| place.offset)
    }

    fn push(&mut self, header: &BatchHeader) {
        if header.is_closing() || header.base_offset < self.from() {
            return;
        }
        self.is_refuted |= self.from() > Offset(0) && header.epoch < self.table.last_epoch();
        if !self.is_refuted {
            self.table.push(header.epoch, header.base_offset);
        }
    }

    fn push_each<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        directory: &Path,
        segment: &FoundSegment,
        end: u64,
    ) -> io::Result<()> {
        let path = directory.join(segment_name(segment.number));
        self.segments_read += 1;
        let start = self.first_unknown(files, &path, segment)?;
        let before = Before::read_each(files, &path, &segment.id, start..end, |bytes| {
            if let Ok(header) = BatchHeader::decode(bytes, &segment.id) {
                self.push(&header);
            }
        })?;
        // Behind a header that is damaged an epoch may begin of which nobody would know.
        let is_whole = before.last.is_some_and(|(last, _)| last.is_last) || before.position == end;
        if is_whole {
            return Ok(());
        }
        let message = format!(
            "{}: no batch begins at position {}, where one has to",
            path.display(),
            before.position
        );
        Err(io::Error::other(message))
    }

    /// Where the headers begin of which the epochs are not known: the checkpoint's place, if the
    /// batch is there that has to be, so that damage in front of it does no harm.
    fn first_unknown<F: StartFiles + ?Sized>(
        &self,
        files: &F,
        path: &Path,
        segment: &FoundSegment,
    ) -> io::Result<u64> {
        let place = self.known_to.filter(|place| place.segment == segment.number);
        let Some(ReplayFrom { offset, position, .. }) = place else {
            return Ok(SEGMENT_HEADER_BYTES);
        };
        let header = header_at(files, path, segment, position)?;
        let is_there = header.is_some_and(|header| header.base_offset == offset);
        Ok(if is_there { position } else { SEGMENT_HEADER_BYTES })
    }
}

fn first_header<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    segment: &FoundSegment,
) -> io::Result<Option<BatchHeader>> {
    let path = directory.join(segment_name(segment.number));
    header_at(files, &path, segment, SEGMENT_HEADER_BYTES)
}

fn header_at<F: StartFiles + ?Sized>(
    files: &F,
    path: &Path,
    segment: &FoundSegment,
    position: u64,
) -> io::Result<Option<BatchHeader>> {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let count = read(files, path, position, &mut bytes)?;
    Ok(BatchHeader::decode(&bytes[..count], &segment.id).ok())
}
