//! Giving up the end of a log: a leader's log has other records there.
//!
//! Nothing is written twice to one place (docs/formats/log.md, "Writing"). The segments behind the boundary
//! are removed, the newest first; then the one that the boundary lies in is written anew, with another identity, and
//! takes the place of the old one under its name. So at any moment the log is whole: it ends where it did, at the
//! boundary, or at the end of a segment between them, and no record below the boundary is ever missing.
//!
//! The boundary is at or above everything that a checkpoint names as flushed: whoever takes checkpoints of a
//! replicated log names no more than its high watermark.

use super::format::{
    BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, align, index_name, segment_name,
};
use super::record::bytes_of;
use super::recovery::{FoundSegment, RecoverError, Recovered, ReplayFrom, recover};
use super::scan::{Chain, GoodBatch, LogOwner, Segment, SegmentScan, Step};
use crate::disk::StartFiles;
use crate::ids::Offset;
use std::io;
use std::path::Path;

/// Gives up the records from `to` on of the log of `owner` in `directory`, which nobody writes to. What is
/// left is durable, and is opened as after any start, with a new [`secret`](super::segments::LogSetup::secret):
/// numbers of segments are used again. `id` is random. Only what lies behind the checkpoint, `from`, is read; where
/// that says that replay begins stays true.
///
/// After a crash, and after an error, this can be done again.
///
/// # Errors
/// [`RecoverError`]: the log cannot be opened, or files cannot be changed.
///
/// # Panics
/// If `to` is below the log start offset, or below the replay offset: what is not there cannot be kept.
pub fn truncate<F: StartFiles + ?Sized>(
    files: &mut F,
    directory: &Path,
    owner: &LogOwner,
    from: Option<&ReplayFrom>,
    to: Offset,
    id: SegmentId,
) -> Result<(), RecoverError> {
    let found = recover(files, directory, owner, from, &mut |_| ())?;
    if found.next_offset <= to {
        return Ok(());
    }
    assert!(found.log_start <= to, "a log is truncated where it has records, or at its beginning");
    let is_replayed = from.is_none_or(|from| from.offset <= to && from.flushed <= to);
    assert!(is_replayed, "what a checkpoint holds is not given up");
    // The last one with a record below the boundary, or the first.
    let before = found.segments.partition_point(|segment| segment.base < to);
    let boundary = &found.segments[before.saturating_sub(1)];
    remove_behind(files, directory, &found, boundary.number)?;
    let failed =
        |error| io_error("truncate", &directory.join(segment_name(boundary.number)), error);
    let end = found.segments.get(before).map_or(found.next_offset, |segment| segment.base);
    if before > 0 && end == to {
        // It is full, says so, and is what is kept.
        return Ok(());
    }
    files.remove(&[directory.join(index_name(boundary.number))]).map_err(failed)?;
    let bytes = rewritten(files, directory, owner, boundary, to, id)?;
    files.replace(&directory.join(segment_name(boundary.number)), &bytes).map_err(failed)
}

fn io_error(what: &'static str, path: &Path, error: io::Error) -> RecoverError {
    RecoverError::Io { what, path: path.to_owned(), error }
}

/// Removes the segments behind `number`, one after the other: a gap in their numbers would be damage.
fn remove_behind<F: StartFiles + ?Sized>(
    files: &mut F,
    directory: &Path,
    found: &Recovered,
    number: u64,
) -> Result<(), RecoverError> {
    for removed in (number + 1..found.next_number).rev() {
        for name in [index_name(removed), segment_name(removed)] {
            let path = directory.join(name);
            let path = core::slice::from_ref(&path);
            files.remove(path).map_err(|error| io_error("remove", directory, error))?;
        }
    }
    Ok(())
}

/// The segment without the records from `to` on, and with a closing batch that says that what is left is
/// durable.
fn rewritten<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    owner: &LogOwner,
    found: &FoundSegment,
    to: Offset,
    id: SegmentId,
) -> Result<Vec<u8>, RecoverError> {
    let path = directory.join(segment_name(found.number));
    let segment = Segment::open(files, directory, found.number, owner)
        .map_err(|error| RecoverError::Segment { path: path.clone(), error })?;
    let failed = |error| io_error("read", &path, error);
    let mut scan = SegmentScan::new(files, &segment, SEGMENT_HEADER_BYTES, Chain::default());
    let mut copy = Copied::new(&segment, id);
    while let Step::Batch(batch) = scan.step().map_err(failed)? {
        // Where nothing is kept, the records that come may be of an older epoch than those that go.
        copy.last = Some(copy.last.unwrap_or(BatchHeader { epoch: 0, ..batch.header }));
        if batch.header.next_offset() <= to {
            copy.put(batch.header, batch.body());
        } else {
            copy.put_part(&batch, to);
            break;
        }
    }
    copy.close(to);
    copy.bytes.resize(segment.header.file_bytes as usize, 0);
    Ok(copy.bytes)
}

/// A segment that is made anew.
struct Copied {
    id: SegmentId,
    bytes: Vec<u8>,
    previous_crc: u32,
    /// The batch that was put last; before the first one, that itself without its epoch.
    last: Option<BatchHeader>,
}

impl Copied {
    fn new(segment: &Segment, id: SegmentId) -> Self {
        let bytes = SegmentHeader { segment: id, ..segment.header.clone() }.encode();
        Self { id, previous_crc: SegmentHeader::crc_of(&bytes), bytes, last: None }
    }

    fn put(&mut self, header: BatchHeader, body: &[u8]) {
        let previous_crc = self.previous_crc;
        let body_bytes = body.len() as u32;
        let header = BatchHeader { body_bytes, previous_crc, is_last: false, ..header };
        let encoded = header.encode(&self.id);
        self.previous_crc = BatchHeader::crc_of(&encoded);
        self.bytes.extend_from_slice(&encoded);
        self.bytes.extend_from_slice(body);
        self.bytes.resize(align(self.bytes.len() as u64) as usize, 0);
        self.last = Some(header);
    }

    /// The records of a batch that are below `to`, if there are any.
    fn put_part(&mut self, batch: &GoodBatch<'_>, to: Offset) {
        let records = to.0.saturating_sub(batch.header.base_offset.0) as u32;
        let mut end = 0;
        for _ in 0..records {
            end += bytes_of(&batch.body()[end..]).expect("the records have been checked");
        }
        if records > 0 {
            self.put(BatchHeader { records, ..batch.header }, &batch.body()[..end]);
        }
    }

    fn close(&mut self, to: Offset) {
        let last = self.last.expect("a segment with records has a batch");
        let header = BatchHeader { records: 0, base_offset: to, watermark: to, ..last };
        self.put(header, &[]);
    }
}
