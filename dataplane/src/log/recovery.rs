//! Opening a log after any end of the process: what was synced is found, what was torn is cut, and
//! what is damaged is refused.
//!
//! W is the highest durable watermark that a batch header or the checkpoint names. Batches are read
//! in order; X is the offset at which the first one is not good. With W above X something is gone
//! that was on the disk: that is damage, nothing is written, and the error names the place. Otherwise
//! nothing at or above X was ever acknowledged: what lies there is a torn tail, it is overwritten
//! with zeros, and reported. Headers behind the bad place count for W, because a crash writes pages in
//! any order (docs/formats/log.md, "Recovery").
//!
//! All files that are read have been synced before, and the directory that names them: after a kill
//! without a power loss, what is read may be in memory alone. A crash in the middle of recovery changes nothing: cutting is its
//! last step, and leaves what it cuts below X alone.

use super::format::{
    BATCH_HEADER_BYTES, BatchHeader, INDEX_SUFFIX, SEGMENT_HEADER_BYTES, SEGMENT_SUFFIX, SegmentId,
    index_name, number_of, segment_name,
};
use super::index::{Before, SegmentIndex};
use super::record::Record;
pub use super::recover_error::{Damage, RecoverError};
use super::scan::{
    BadBatch, Chain, GoodBatch, LogOwner, Rest, Segment, SegmentScan, Step, look_behind, read,
};
use super::segments::{Active, LogEnd, Prepared, Sealed};
use crate::disk::StartFiles;
use crate::ids::Offset;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Where a checkpoint says that replay begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayFrom {
    /// Offset of the first record that is not in the checkpoint.
    pub offset: Offset,
    /// The number of the segment it is in, or will be in.
    pub segment: u64,
    /// Where in it the batch that begins with `offset` begins, or will begin.
    pub position: u64,
    /// The flushed mark when the checkpoint was finished: `offset` or a later one.
    pub flushed: Offset,
}

/// A segment as recovery found it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundSegment {
    /// Its number.
    pub number: u64,
    /// Its identity.
    pub id: SegmentId,
    /// Offset of its first record.
    pub base: Offset,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The checksum of its header.
    pub header_crc: u32,
    /// When it was made (Unix time, ms).
    pub made_unix_ms: u64,
    /// When its last batch was sealed, or a later time (Unix time, ms).
    pub last_unix_ms: u64,
    /// Whether there is an index file; it may be wrong.
    pub has_index: bool,
}

/// Where writing goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tail {
    /// Where the next batch goes, in the last segment.
    pub position: u64,
    /// The checksum of the batch before it, or of the segment's header.
    pub previous_crc: u32,
    /// The last segment is full and says so: the next batch goes into a new one.
    pub is_sealed: bool,
    /// The index of the last segment.
    pub index: SegmentIndex,
}

/// A torn tail that was cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    /// The segment.
    pub path: PathBuf,
    /// Where in it the cut is.
    pub position: u64,
    /// Bytes from there to the last one that was not zero.
    pub bytes: u64,
    /// What the first batch that was cut looked like; `None` if nothing of it was there.
    pub reason: Option<BadBatch>,
}

/// A log that was opened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Its segments with batches, oldest first; the last one is the active one. Between them no
    /// number is missing.
    pub segments: Vec<FoundSegment>,
    /// A segment that was made and not used yet.
    pub prepared: Option<FoundSegment>,
    /// Where writing goes on; `None` if there is no segment.
    pub tail: Option<Tail>,
    /// Number of the next segment that is made.
    pub next_number: u64,
    /// First offset that is there. A crash may bring back what was trimmed.
    pub log_start: Offset,
    /// Offset that the next record gets. All below it is durable.
    pub next_offset: Offset,
    /// The durable watermark that the log itself names.
    pub watermark: Offset,
    /// The highest epoch of a batch, 0 if there is none. A new epoch must be above it.
    pub epoch: u64,
    /// Records that were handed out.
    pub records: u64,
    /// What was cut.
    pub torn: Option<Torn>,
    /// Old segments that came back after they had been trimmed, and were removed again.
    pub trimmed_again: Vec<PathBuf>,
}

impl Recovered {
    /// What the writer needs to go on.
    #[must_use]
    pub fn log_end(&self) -> LogEnd {
        let mut found = self.segments.iter();
        let tail = self.tail.as_ref().filter(|tail| !tail.is_sealed);
        let active = tail.and_then(|tail| Some((tail, found.next_back()?)));
        let bases = self.segments.iter().skip(1).map(|segment| segment.base);
        let ends = bases.chain([self.next_offset]);
        LogEnd {
            start: self.log_start,
            next: self.next_offset,
            watermark: self.watermark,
            sealed: found.zip(ends).map(|(segment, end)| segment.sealed(end)).collect(),
            active: active.map(|(tail, segment)| segment.active(tail)),
            prepared: self.prepared.as_ref().map(FoundSegment::prepared),
            next_number: self.next_number,
        }
    }
}

impl FoundSegment {
    fn sealed(&self, end: Offset) -> Sealed {
        let Self { number, id, base, file_bytes, last_unix_ms, .. } = *self;
        Sealed { number, id, base, end, file_bytes, last_unix_ms }
    }

    fn active(&self, tail: &Tail) -> Active {
        let Self { number, id, base, file_bytes, last_unix_ms, .. } = *self;
        let Tail { position, previous_crc, ref index, .. } = *tail;
        let index = index.clone();
        Active { number, id, base, file_bytes, position, previous_crc, last_unix_ms, index }
    }

    fn prepared(&self) -> Prepared {
        let Self { number, id, file_bytes, header_crc, made_unix_ms, .. } = *self;
        Prepared { number, id, file_bytes, header_crc, made_unix_ms }
    }
}

/// Opens the log of `owner` in `directory`. Each record from the replay offset on (without one: all)
/// is handed to `on_record`, in order; on an error, forget them.
///
/// # Errors
/// [`RecoverError`]: the log cannot be opened, and says where and why. Nothing was changed.
pub fn recover<F: StartFiles + ?Sized>(
    files: &mut F,
    directory: &Path,
    owner: &LogOwner,
    from: Option<&ReplayFrom>,
    on_record: &mut dyn FnMut(&Record<'_>),
) -> Result<Recovered, RecoverError> {
    let listing = Listing::read(files, directory)?;
    let start = listing.start(directory, from, Offset(0))?;
    let Some(start) = start else { return Ok(Recovered::default()) };
    listing.sync(files, directory, start.segment)?;
    let mut records = 0;
    let inspected = look(files, directory, owner, &listing, &start, &mut |_, batch| {
        for record in batch.records().filter(|r| r.head.offset >= start.offset) {
            records += 1;
            on_record(&record);
        }
    })?;
    // From here on the log is good, and what is changed is none of it.
    let mut recovered = inspected.repair(files, directory)?;
    recovered.records = records;
    Ok(recovered)
}

/// Looks at the log of `owner` in `directory` as [`recover`] does, from the replay offset on
/// (without one: from the beginning), and changes nothing. `flushed` is a mark that is known from elsewhere,
/// such as a checkpoint that is not read from. Each good batch is handed out with the number of its
/// segment. `None`: there is no log yet.
///
/// A log that is written to meanwhile may look damaged at its end.
///
/// # Errors
/// [`RecoverError`]: what a start would say, too.
pub fn inspect<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    owner: &LogOwner,
    from: Option<&ReplayFrom>,
    flushed: Offset,
    on_batch: &mut OnBatch<'_>,
) -> Result<Option<Inspected>, RecoverError> {
    let listing = Listing::read(files, directory)?;
    let Some(start) = listing.start(directory, from, flushed)? else { return Ok(None) };
    look(files, directory, owner, &listing, &start, on_batch).map(Some)
}

/// Takes a good batch and the number of its segment.
pub type OnBatch<'a> = dyn FnMut(u64, &GoodBatch<'_>) + 'a;

/// Scan and verdict.
fn look<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    owner: &LogOwner,
    listing: &Listing,
    start: &Start,
    on_batch: &mut OnBatch<'_>,
) -> Result<Inspected, RecoverError> {
    let opened = Opened::open(files, directory, owner, listing, start.segment)?;
    let mut pass = Pass::new(start);
    if opened.new[0].header.file_bytes < start.position {
        pass.bad = Some((BadBatch::Length, None));
        return Err(pass.damaged(&opened.new[0], start.offset, Some(start.flushed)));
    }
    pass.scan(files, &opened, on_batch)?;
    let rest = pass.judge(files, &opened, start.flushed)?;
    let base = opened.old.first().map_or(pass.scanned[0].base, |segment| segment.base);
    let log_start = pass.log_start(files, &opened, base)?;
    let trimmed_again = listing.left_over(directory, base, log_start)?;
    Ok(Inspected { opened, pass, rest, trimmed_again })
}

fn io_error(what: &'static str, path: &Path, error: io::Error) -> RecoverError {
    RecoverError::Io { what, path: path.to_owned(), error }
}

/// Takes those behind the last gap out of the numbers of segments, which rise: what comes before a gap is
/// left over from trimming, or the gap is damage.
#[must_use]
pub fn run_of(numbers: &mut Vec<u64>) -> Vec<u64> {
    let is_gap = |pair: &[u64]| pair[0] + 1 != pair[1];
    let begin = numbers.windows(2).rposition(is_gap).map_or(0, |index| index + 1);
    numbers.split_off(begin)
}

/// Where reading begins.
struct Start {
    segment: u64,
    position: u64,
    /// Offset of the first batch there, if that is known.
    next_offset: Option<Offset>,
    /// Records below it are not handed out.
    offset: Offset,
    /// The checkpoint's flushed mark.
    flushed: Offset,
}

/// The segments by their names.
struct Listing {
    /// Left over from trimming, before the last gap.
    stray: Vec<u64>,
    /// Without a gap.
    run: Vec<u64>,
    indexes: Vec<u64>,
}

impl Listing {
    fn read<F: StartFiles + ?Sized>(files: &F, directory: &Path) -> Result<Self, RecoverError> {
        let names = match files.list(directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io_error("list", directory, error)),
        };
        let numbers = |suffix| names.iter().filter_map(move |name| number_of(name, suffix));
        let mut stray: Vec<_> = numbers(SEGMENT_SUFFIX).collect();
        stray.sort_unstable();
        let run = run_of(&mut stray);
        Ok(Self { stray, run, indexes: numbers(INDEX_SUFFIX).collect() })
    }

    /// Where reading begins; nowhere if there is no segment at all, and none is missing.
    fn start(
        &self,
        directory: &Path,
        from: Option<&ReplayFrom>,
        flushed: Offset,
    ) -> Result<Option<Start>, RecoverError> {
        let (first, last) = (self.run.first().copied(), self.run.last().copied());
        let beginning = ReplayFrom {
            offset: Offset(0),
            segment: first.unwrap_or_default(),
            position: SEGMENT_HEADER_BYTES,
            flushed,
        };
        let ReplayFrom { offset, segment, position, .. } = *from.unwrap_or(&beginning);
        let flushed = from.map_or(flushed, |from| from.flushed.max(flushed));
        let begin = |segment, next_offset, position| {
            Ok(Some(Start { segment, position, next_offset, offset, flushed }))
        };
        if self.run.contains(&segment) {
            let is_known = from.is_some() || segment == 0;
            return begin(segment, is_known.then_some(offset), position);
        }
        // The segment that replay begins in had not been made yet: the one before it is full.
        if position == SEGMENT_HEADER_BYTES && flushed <= offset {
            if let Some(last) = last.filter(|last| last.checked_add(1) == Some(segment)) {
                return begin(last, (last == 0).then_some(Offset(0)), SEGMENT_HEADER_BYTES);
            }
            if last.is_none() && offset.0 == 0 {
                return Ok(None);
            }
        }
        let path = directory.join(segment_name(segment));
        Err(RecoverError::Missing { path, next: offset, flushed })
    }

    /// What will be read is durable afterwards: before, it may be in memory alone.
    fn sync<F: StartFiles + ?Sized>(
        &self,
        files: &mut F,
        directory: &Path,
        first: u64,
    ) -> Result<(), RecoverError> {
        files.sync_directory(directory).map_err(|error| io_error("sync", directory, error))?;
        for &number in self.run.iter().filter(|&&number| first <= number) {
            let path = directory.join(segment_name(number));
            files.sync(&path).map_err(|error| io_error("sync", &path, error))?;
        }
        Ok(())
    }

    /// Segments before the first one, or before a gap, can only be gone by trimming: then the log
    /// start offset is behind them. Otherwise they are damage.
    fn left_over(
        &self,
        directory: &Path,
        base: Offset,
        log_start: Offset,
    ) -> Result<Vec<PathBuf>, RecoverError> {
        if log_start < base {
            let before = self.run.first().map_or(0, |first| first.saturating_sub(1));
            let missing = self.stray.last().map_or(before, |last| last + 1);
            return Err(RecoverError::Missing {
                path: directory.join(segment_name(missing)),
                next: log_start,
                flushed: base,
            });
        }
        let paths =
            self.stray.iter().flat_map(|&number| [index_name(number), segment_name(number)]);
        Ok(paths.map(|name| directory.join(name)).collect())
    }
}

/// The segments, with good headers.
#[derive(Debug)]
struct Opened {
    /// Before replay begins: only looked at.
    old: Vec<FoundSegment>,
    /// From where replay begins.
    new: Vec<Segment>,
    indexes: Vec<u64>,
}

impl Opened {
    fn open<F: StartFiles + ?Sized>(
        files: &F,
        directory: &Path,
        owner: &LogOwner,
        listing: &Listing,
        first: u64,
    ) -> Result<Self, RecoverError> {
        let mut opened =
            Self { old: Vec::new(), new: Vec::new(), indexes: listing.indexes.clone() };
        for &number in &listing.run {
            let segment = Segment::open(files, directory, number, owner).map_err(|error| {
                RecoverError::Segment { path: directory.join(segment_name(number)), error }
            })?;
            if first <= number {
                opened.new.push(segment);
            } else {
                opened.look_at_old(files, &segment)?;
            }
        }
        Ok(opened)
    }

    /// An old segment's first batch says with which offset it begins.
    fn look_at_old<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        segment: &Segment,
    ) -> Result<(), RecoverError> {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let count = read(files, &segment.path, SEGMENT_HEADER_BYTES, &mut bytes)
            .map_err(|error| io_error("read", &segment.path, error))?;
        let header = BatchHeader::decode(&bytes[..count], &segment.header.segment);
        let previous = self.old.last_mut();
        let damaged = |reason, next: Offset| {
            RecoverError::Damaged(Damage {
                path: segment.path.clone(),
                position: SEGMENT_HEADER_BYTES,
                next,
                flushed: None,
                reason: Some(reason),
            })
        };
        let next = previous.as_ref().map_or(Offset(0), |segment| segment.base);
        let header = header.map_err(|error| damaged(BadBatch::Header(error), next))?;
        if header.base_offset < next {
            return Err(damaged(BadBatch::Chain, next));
        }
        if let Some(previous) = previous {
            previous.last_unix_ms = header.sealed_unix_ms;
        }
        let mut found = self.found(segment, header.base_offset);
        found.last_unix_ms = header.sealed_unix_ms;
        self.old.push(found);
        Ok(())
    }

    fn found(&self, segment: &Segment, base: Offset) -> FoundSegment {
        let header = &segment.header;
        FoundSegment {
            number: header.number,
            id: header.segment,
            base,
            file_bytes: header.file_bytes,
            header_crc: segment.header_crc,
            made_unix_ms: header.made_unix_ms,
            last_unix_ms: header.made_unix_ms,
            has_index: self.indexes.contains(&header.number),
        }
    }
}

/// What was read of one segment.
#[derive(Debug)]
struct Scanned {
    /// Offset of its first record.
    base: Offset,
    index: SegmentIndex,
    is_last: bool,
}

/// One pass over the batches.
#[derive(Debug)]
struct Pass {
    chain: Chain,
    scanned: Vec<Scanned>,
    /// Where the next batch of the last scanned segment begins, or would.
    position: u64,
    /// The batch that is not good, if there is more than zeros.
    bad: Option<(BadBatch, Option<BatchHeader>)>,
}

impl Pass {
    fn new(start: &Start) -> Self {
        Self {
            chain: Chain { next_offset: start.next_offset, ..Chain::default() },
            scanned: Vec::new(),
            position: start.position,
            bad: None,
        }
    }

    fn scan<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        opened: &Opened,
        on_batch: &mut OnBatch<'_>,
    ) -> Result<(), RecoverError> {
        for (index, segment) in opened.new.iter().enumerate() {
            let position = if index == 0 { self.position } else { SEGMENT_HEADER_BYTES };
            if !self.scan_segment(files, segment, position, on_batch)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the segment was read to an end that says that the next one follows.
    fn scan_segment<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        segment: &Segment,
        position: u64,
        on_batch: &mut OnBatch<'_>,
    ) -> Result<bool, RecoverError> {
        let failed = |error| io_error("read", &segment.path, error);
        let mut index = self.look_before(files, segment, position).map_err(failed)?;
        let mut base = index.entries().first().map(|entry| entry.offset);
        let mut scan = SegmentScan::new(files, segment, position, self.chain);
        let mut bad = None;
        let is_last = loop {
            match scan.step().map_err(failed)? {
                Step::Batch(batch) => {
                    base.get_or_insert(batch.header.base_offset);
                    index.push(batch.position, &batch.header);
                    on_batch(segment.header.number, &batch);
                }
                Step::Last => break true,
                Step::Blank => break false,
                Step::Bad { reason, header } => {
                    bad = Some((reason, header));
                    break false;
                }
            }
        };
        (self.position, self.chain, self.bad) = (scan.position(), *scan.chain(), bad);
        let base = base.or(self.chain.next_offset).unwrap_or_default();
        self.scanned.push(Scanned { base, index, is_last });
        Ok(is_last)
    }

    /// What lies before the replay offset in this segment is only looked at: the headers there say
    /// what the next batch follows. Behind a damaged one nobody knows.
    fn look_before<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        segment: &Segment,
        position: u64,
    ) -> io::Result<SegmentIndex> {
        let before = Before::read(files, &segment.path, &segment.header.segment, position)?;
        let chain = &mut self.chain;
        chain.log_start = chain.log_start.max(before.log_start);
        if let Some((header, crc)) = before.last.filter(|_| before.position == position)
            && chain.next_offset.is_none_or(|next| next == header.next_offset())
        {
            (chain.previous_crc, chain.epoch) = (Some(crc), header.epoch);
            chain.watermark = header.watermark;
        }
        Ok(before.index)
    }

    /// Tells a torn tail from damage: what lies behind the end, in the same segment.
    fn judge<F: StartFiles + ?Sized>(
        &self,
        files: &F,
        opened: &Opened,
        checkpointed: Offset,
    ) -> Result<Rest, RecoverError> {
        let last = self.scanned.len() - 1;
        let segment = &opened.new[last];
        let Some(next) = self.chain.next_offset else {
            // The oldest segment that is left has records; if none can be read, nobody knows
            // which offset comes next.
            return Err(self.damaged(segment, Offset(0), None));
        };
        if self.chain.previous_crc.is_none() {
            // Nothing is behind the replay offset, and what is before it is damaged: nothing can
            // follow it.
            return Err(self.damaged(segment, next, None));
        }
        let failed = |error| io_error("read", &segment.path, error);
        let rest = self.rest(files, segment, self.position, next).map_err(failed)?;
        let mut flushed = checkpointed.max(self.chain.watermark).max(rest.watermark);
        let mut is_odd = matches!(self.bad, Some((BadBatch::Chain, _)))
            || self.is_out_of_place(&rest, next, files, segment)?;
        for segment in &opened.new[last + 1..] {
            let failed = |error| io_error("read", &segment.path, error);
            let nothing = |_: &[u8]| false;
            let rest =
                look_behind(files, segment, SEGMENT_HEADER_BYTES, &nothing).map_err(failed)?;
            flushed = flushed.max(rest.watermark);
            // Nothing is in a segment before the batch that ends the one before it is durable.
            is_odd |= rest.is_used;
        }
        if flushed > next || is_odd {
            return Err(self.damaged(segment, next, Some(flushed)));
        }
        Ok(rest)
    }

    /// What lies behind the end of the last segment that was read. A payload may hold a copy of this very
    /// segment, and a crash may have torn its batch: a header that lies in front as well is such a
    /// copy, and says nothing that the one in front does not. No batch is written twice, and no two
    /// headers are equal, for each names the checksum of the one before it.
    fn rest<F: StartFiles + ?Sized>(
        &self,
        files: &F,
        segment: &Segment,
        position: u64,
        next: Offset,
    ) -> io::Result<Rest> {
        let rest = look_behind(files, segment, position, &|_| false)?;
        if rest.base_offset.is_none_or(|base| base > next) {
            return Ok(rest);
        }
        let mut in_front = HashSet::new();
        let id = &segment.header.segment;
        Before::read_each(
            files,
            &segment.path,
            id,
            SEGMENT_HEADER_BYTES..self.position,
            |header| {
                in_front.insert(*header);
            },
        )?;
        look_behind(files, segment, position, &|header| in_front.contains(header))
    }

    /// Whether a good header lies behind the end although its records come before: then something
    /// else once lay where the last good batches are. The batch at the end itself may have a good
    /// header and torn records.
    fn is_out_of_place<F: StartFiles + ?Sized>(
        &self,
        rest: &Rest,
        next: Offset,
        files: &F,
        segment: &Segment,
    ) -> Result<bool, RecoverError> {
        if rest.base_offset.is_none_or(|base| base > next) {
            return Ok(false);
        }
        let at_end = matches!(self.bad, Some((_, Some(_))));
        if !at_end || rest.base_offset.is_some_and(|base| base < next) {
            return Ok(true);
        }
        let behind = self.position + BATCH_HEADER_BYTES as u64;
        let behind = self
            .rest(files, segment, behind, next)
            .map_err(|error| io_error("read", &segment.path, error))?;
        Ok(behind.base_offset.is_some_and(|base| base <= next))
    }

    /// The highest log start offset that a batch names, at least as far as `base`: the segment
    /// before the first that was read is looked at only if that one does not go as far.
    fn log_start<F: StartFiles + ?Sized>(
        &self,
        files: &F,
        opened: &Opened,
        base: Offset,
    ) -> Result<Offset, RecoverError> {
        let log_start = self.chain.log_start;
        let Some(old) = opened.old.last().filter(|_| log_start < base) else {
            return Ok(log_start);
        };
        let path = opened.new[0].path.with_file_name(segment_name(old.number));
        let before = Before::read(files, &path, &old.id, old.file_bytes)
            .map_err(|error| io_error("read", &path, error))?;
        Ok(log_start.max(before.log_start))
    }

    fn damaged(&self, segment: &Segment, next: Offset, flushed: Option<Offset>) -> RecoverError {
        RecoverError::Damaged(Damage {
            path: segment.path.clone(),
            position: self.position,
            next,
            flushed,
            reason: self.bad.as_ref().map(|(reason, _)| *reason),
        })
    }

    /// Writes the index of each full segment that has none. Nothing depends on it: one that cannot
    /// be written, on a full disk for example, is written at a later start.
    fn store_indexes<F: StartFiles + ?Sized>(&self, files: &mut F, opened: &mut Opened) {
        for (scanned, segment) in self.scanned.iter().zip(&opened.new) {
            let number = segment.header.number;
            if scanned.is_last && !opened.indexes.contains(&number) {
                let path = segment.path.with_file_name(index_name(number));
                let bytes = scanned.index.encode(&segment.header.segment);
                if files.replace(&path, &bytes).is_ok() {
                    opened.indexes.push(number);
                }
            }
        }
    }

    fn finish(self, opened: Opened, torn: Option<Torn>, trimmed_again: Vec<PathBuf>) -> Recovered {
        let mut segments = opened.old.clone();
        if let (Some(old), Some(new)) = (segments.last_mut(), self.scanned.first()) {
            old.last_unix_ms = old.last_unix_ms.max(new.index.last_unix_ms());
        }
        for (scanned, segment) in self.scanned.iter().zip(&opened.new) {
            let mut found = opened.found(segment, scanned.base);
            found.last_unix_ms = found.last_unix_ms.max(scanned.index.last_unix_ms());
            segments.push(found);
        }
        let next_offset = self.chain.next_offset.unwrap_or_default();
        let prepared =
            opened.new.get(self.scanned.len()).map(|segment| opened.found(segment, next_offset));
        let newest = prepared.as_ref().or(segments.last());
        let next_number = newest.map_or(0, |segment| segment.number + 1);
        let first = segments.first().map_or(next_offset, |segment| segment.base);
        let tail = self.scanned.into_iter().next_back().map(|scanned| Tail {
            position: self.position,
            previous_crc: self.chain.previous_crc.unwrap_or_default(),
            is_sealed: scanned.is_last,
            index: scanned.index,
        });
        Recovered {
            segments,
            prepared,
            tail,
            next_number,
            log_start: first,
            next_offset,
            watermark: self.chain.watermark,
            epoch: self.chain.epoch,
            records: 0,
            torn,
            trimmed_again,
        }
    }
}

/// A log that is good up to where its batches end, as it was found.
#[derive(Debug)]
pub struct Inspected {
    opened: Opened,
    pass: Pass,
    /// What lies behind the end, in the same segment.
    rest: Rest,
    /// Left over from trimming.
    trimmed_again: Vec<PathBuf>,
}

impl Inspected {
    /// What a start would cut.
    #[must_use]
    pub fn torn(&self) -> Option<Torn> {
        let pass = &self.pass;
        let last = self.opened.new.get(pass.scanned.len() - 1).filter(|_| self.rest.is_used)?;
        Some(Torn {
            path: last.path.clone(),
            position: pass.position,
            bytes: self.rest.end.saturating_sub(pass.position),
            reason: pass.bad.as_ref().map(|(reason, _)| *reason),
        })
    }

    /// Cuts what lies behind the end, and removes what is left over.
    fn repair<F: StartFiles + ?Sized>(
        mut self,
        files: &mut F,
        directory: &Path,
    ) -> Result<Recovered, RecoverError> {
        let failed = |what, error| io_error(what, directory, error);
        files.remove(&self.trimmed_again).map_err(|error| failed("remove", error))?;
        let torn = self.torn();
        if let Some(Torn { path, position, .. }) = &torn {
            let what = "overwrite the torn tail of";
            files.zero_from(path, *position).map_err(|error| io_error(what, path, error))?;
        }
        // Later segments hold nothing: one is kept.
        let kept = self.opened.new.len().min(self.pass.scanned.len() + 1);
        let blank = self.opened.new.drain(kept..).map(|segment| segment.path);
        let blank: Vec<_> = blank.collect();
        files.remove(&blank).map_err(|error| failed("remove segments behind the last", error))?;
        self.pass.store_indexes(files, &mut self.opened);
        Ok(self.pass.finish(self.opened, torn, self.trimmed_again))
    }
}
