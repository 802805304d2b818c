//! Giving up the end of a log: a leader's log has other records there.
//!
//! Nothing is written twice to one place (docs/formats/log.md, "Writing"). The segments behind the boundary
//! are removed, the newest first; then the one that the boundary lies in is written anew, with another identity, and
//! takes the place of the old one under its name. So at any moment the log is whole: it ends where it did, at the
//! boundary, or at the end of a segment between them, and no record below the boundary is ever missing.
//!
//! Where the log begins may be said only behind the boundary: a log that was trimmed, and says no more that it was, looks
//! like one that lacks segments. So before any is removed, the one that the boundary lies in is written anew as a whole, and says it.
//!
//! The boundary is at or above everything that a checkpoint names as flushed: whoever takes checkpoints of a
//! replicated log names no more than its high watermark.

use super::format::{
    BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId, align, index_name, segment_name,
};
use super::record::bytes_of;
use super::recovery::{Damage, RecoverError, Recovered, ReplayFrom, recover};
use super::scan::{Chain, GoodBatch, LogOwner, Segment, SegmentScan, Step};
use crate::disk::StartFiles;
use crate::ids::Offset;
use std::io;
use std::path::{Path, PathBuf};

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
    if boundary.number + 1 < found.next_number && found.log_start.0 > 0 {
        say_start(files, directory, owner, boundary.number, found.log_start, id)?;
    }
    let end = found.segments.get(before).map_or(found.next_offset, |segment| segment.base);
    // It may be full, say so, and be what is kept.
    let is_whole = before > 0 && end == to;
    let anew = if is_whole {
        None
    } else {
        let (segment, path) = open(files, directory, owner, boundary.number)?;
        Some(rewritten(files, (&segment, &path), (to, found.log_start), id)?)
    };
    remove_behind(files, directory, &found, boundary.number)?;
    anew.map_or(Ok(()), |bytes| replace(files, directory, boundary.number, &bytes))
}

fn open<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    owner: &LogOwner,
    number: u64,
) -> Result<(Segment, PathBuf), RecoverError> {
    let path = directory.join(segment_name(number));
    match Segment::open(files, directory, number, owner) {
        Ok(segment) => Ok((segment, path)),
        Err(error) => Err(RecoverError::Segment { path, error }),
    }
}

/// What a segment is from now on. Its index is none of it.
fn replace<F: StartFiles + ?Sized>(
    files: &mut F,
    directory: &Path,
    number: u64,
    bytes: &[u8],
) -> Result<(), RecoverError> {
    let path = directory.join(segment_name(number));
    let done = files.remove(&[directory.join(index_name(number))]);
    let done = done.and_then(|()| files.replace(&path, bytes));
    done.map_err(|error| io_error("truncate", &path, error))
}

/// Has a segment say where the log begins, unless it does: those behind it go.
fn say_start<F: StartFiles + ?Sized>(
    files: &mut F,
    directory: &Path,
    owner: &LogOwner,
    number: u64,
    start: Offset,
    id: SegmentId,
) -> Result<(), RecoverError> {
    let (segment, path) = open(files, directory, owner, number)?;
    let mut scan = SegmentScan::new(files, &segment, SEGMENT_HEADER_BYTES, Chain::default());
    // The segment may be written anew once more, and is another one then.
    let mut copy = Copied::new(&segment, SegmentId(id.0.map(|byte| !byte)), start);
    let mut said = Offset(0);
    while let Some(batch) = next_of(&mut scan, &path)? {
        said = batch.header.log_start;
        copy.put(batch.header, batch.body());
    }
    if said < start { replace(files, directory, number, &copy.whole(&segment)) } else { Ok(()) }
}

/// The next batch, if there is one. What was never looked at since it was written may be damaged: that is said, and
/// nothing is changed.
fn next_of<'s, F: StartFiles + ?Sized>(
    scan: &'s mut SegmentScan<'_, F>,
    path: &Path,
) -> Result<Option<GoodBatch<'s>>, RecoverError> {
    let (position, next) = (scan.position(), scan.chain().next_offset.unwrap_or(Offset(0)));
    match scan.step().map_err(|error| io_error("read", path, error))? {
        Step::Batch(batch) => Ok(Some(batch)),
        Step::Last | Step::Blank => Ok(None),
        Step::Bad { reason, .. } => {
            let (path, reason) = (path.to_owned(), Some(reason));
            Err(RecoverError::Damaged(Damage { path, position, next, flushed: None, reason }))
        }
    }
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
/// durable, and where the log begins.
fn rewritten<F: StartFiles + ?Sized>(
    files: &F,
    (segment, path): (&Segment, &Path),
    (to, start): (Offset, Offset),
    id: SegmentId,
) -> Result<Vec<u8>, RecoverError> {
    let mut scan = SegmentScan::new(files, segment, SEGMENT_HEADER_BYTES, Chain::default());
    let mut copy = Copied::new(segment, id, start);
    while let Some(batch) = next_of(&mut scan, path)? {
        let header = BatchHeader { is_last: false, ..batch.header };
        // Where nothing is kept, the records that come may be of an older epoch than those that go.
        copy.last = Some(copy.last.unwrap_or(BatchHeader { epoch: 0, ..header }));
        if header.next_offset() <= to {
            copy.put(header, batch.body());
        } else {
            copy.put_part(&batch, to);
            break;
        }
    }
    copy.close(to);
    Ok(copy.whole(segment))
}

/// A segment that is made anew.
struct Copied {
    id: SegmentId,
    /// Where the log begins.
    start: Offset,
    bytes: Vec<u8>,
    previous_crc: u32,
    /// The batch that was put last; before the first one, that itself without its epoch.
    last: Option<BatchHeader>,
}

impl Copied {
    fn new(segment: &Segment, id: SegmentId, start: Offset) -> Self {
        let bytes = SegmentHeader { segment: id, ..segment.header.clone() }.encode();
        Self { id, start, previous_crc: SegmentHeader::crc_of(&bytes), bytes, last: None }
    }

    /// With the zeros of what is not written yet.
    fn whole(mut self, segment: &Segment) -> Vec<u8> {
        self.bytes.resize(segment.header.file_bytes as usize, 0);
        self.bytes
    }

    fn put(&mut self, header: BatchHeader, body: &[u8]) {
        let previous_crc = self.previous_crc;
        let body_bytes = body.len() as u32;
        // What lies below the beginning was durable when it was given up.
        let watermark = header.watermark.max(self.start);
        let header = BatchHeader {
            body_bytes,
            previous_crc,
            watermark,
            log_start: header.log_start.max(self.start),
            ..header
        };
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
            let header = BatchHeader { records, is_last: false, ..batch.header };
            self.put(header, &batch.body()[..end]);
        }
    }

    fn close(&mut self, to: Offset) {
        let last = self.last.expect("a segment with records has a batch");
        let header = BatchHeader { records: 0, base_offset: to, watermark: to, ..last };
        self.put(header, &[]);
    }
}
