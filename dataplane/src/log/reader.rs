//! Reads a log again, from any offset up to the high watermark, without ever waiting for the disk.
//!
//! A reader holds one open segment, its index and one window of it in memory. It asks the disk in
//! [`Reader::ask`], is told in [`Reader::on_disk`], and hands out records in between. Each record's
//! checksum is checked. What cannot be read is told once, with its file, position and range of
//! offsets; what follows is read all the same.

use super::format::{BATCH_HEADER_BYTES, BatchHeader, HeaderError, SEGMENT_HEADER_BYTES, u32_at};
use super::index::{IndexEntry, SegmentIndex, index_bytes_max};
use super::record::{self, RECORD_HEAD_BYTES, Record, RecordError, RecordSeed};
use super::segments;
use super::writer::Writer;
use crate::disk::{
    Disk, DiskCommand, DiskDone, DiskError, DiskEvent, DiskToken, FileId, FileJob, is_transient,
};
use crate::ids::Offset;
use core::fmt;
use core::ops::Range;
use std::path::PathBuf;

/// Bytes read at a time, if a record does not need more.
pub const WINDOW_BYTES: u32 = 64 * 1024;

/// Why records cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFailure {
    /// They are no longer kept.
    Trimmed,
    /// The disk said so.
    Disk(DiskError),
    /// No batch begins where one should.
    Header(HeaderError),
    /// A batch does not go on where the one before it ended.
    Misplaced,
    /// A record is damaged.
    Record(RecordError),
}

impl fmt::Display for ReadFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trimmed => f.write_str("they are no longer kept"),
            Self::Disk(error) => write!(f, "{error}"),
            Self::Header(error) => write!(f, "no batch begins here: {error}"),
            Self::Misplaced => f.write_str("a batch that does not follow the one before it"),
            Self::Record(error) => write!(f, "a record is damaged: {error}"),
        }
    }
}

/// Records that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadError {
    /// The segment.
    pub path: PathBuf,
    /// Where in it.
    pub position: u64,
    /// The offsets that are not there, the last one exclusive.
    pub lost: Range<Offset>,
    /// Why.
    pub failure: ReadFailure,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.lost.start.0, self.lost.end.0);
        let path = self.path.display();
        write!(f, "{path}: cannot read offsets {from}..{to}, position {}: ", self.position)?;
        write!(f, "{}", self.failure)
    }
}

impl std::error::Error for ReadError {}

/// What a reader has.
#[derive(Debug)]
pub enum Next<'a> {
    /// The record at [`Reader::offset`] as it was before the call.
    Record(Record<'a>),
    /// Nothing yet: the disk is to be asked, or there is nothing more below the high watermark.
    Wait,
    /// Records that cannot be read. It goes on behind them.
    Lost(ReadError),
}

/// What is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Nowhere,
    /// The index, which is being opened or read.
    Index(FileId, Asked),
    Segment(FileId, Asked),
}

/// What the disk was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Nothing,
    Open(DiskToken),
    Read(DiskToken),
}

/// The batch that is read.
#[derive(Clone, Copy, Debug)]
struct InBatch {
    /// Of the next record of it.
    next: Offset,
    header: BatchHeader,
    /// Where its records end, and where the next batch begins.
    body_end: u64,
    end: u64,
}

/// What comes next in the window.
enum Step {
    Record(Range<usize>),
    Wait,
}

/// A reader of one log.
#[derive(Debug)]
pub struct Reader {
    tag: u32,
    asked: u32,
    seed: RecordSeed,
    /// The offset that is wanted next.
    next: Offset,
    /// What was sealed before this time (Unix time, ms) may be left out, until a record of that time
    /// has been read.
    since: Option<u64>,
    place: Place,
    segment: Option<segments::Place>,
    index: SegmentIndex,
    /// Whether `position` leads to `next`.
    is_placed: bool,
    /// What is wanted of the segment: where, and how much.
    want: Option<(u64, u32)>,
    position: u64,
    /// Offset of the batch at `position`.
    expected: Offset,
    batch: Option<InBatch>,
    window: Vec<u8>,
    window_at: u64,
    /// Bytes that were asked for.
    window_wanted: u32,
    /// Fewer came: the file ends there.
    is_cut: bool,
    /// The high watermark when the window was asked for: below it all is in the window, or behind it.
    window_end: Offset,
    failure: Option<(u64, ReadFailure)>,
    error: Option<ReadError>,
    is_put_off: bool,
    is_closing: bool,
    /// What is durable here is read, whether a majority has it or not.
    is_of_flushed: bool,
}

impl Reader {
    /// A reader that begins at `from`. `tag` becomes the upper half of its tokens.
    #[must_use]
    pub fn new(log: &Writer, tag: u32, from: Offset) -> Self {
        Self {
            tag,
            asked: 0,
            seed: log.seed(),
            next: from,
            since: None,
            place: Place::Nowhere,
            segment: None,
            index: SegmentIndex::new(),
            is_placed: false,
            want: None,
            position: 0,
            expected: Offset(0),
            batch: None,
            window: Vec::new(),
            window_at: 0,
            window_wanted: 0,
            is_cut: false,
            window_end: Offset(0),
            failure: None,
            error: None,
            is_put_off: false,
            is_closing: false,
            is_of_flushed: false,
        }
    }

    /// A reader of all that is durable on this node, also where no majority has it: what another
    /// node lacks. What it reads may be truncated later, and then it is to be closed.
    #[must_use]
    pub fn of_flushed(log: &Writer, tag: u32, from: Offset) -> Self {
        Self { is_of_flushed: true, ..Self::new(log, tag, from) }
    }

    /// Up to here it reads.
    fn end(&self, log: &Writer) -> Offset {
        let marks = log.marks();
        if self.is_of_flushed { marks.flushed } else { marks.high_watermark }
    }

    /// A reader that begins where records of this time (Unix time, ms) may first be found: all that
    /// it leaves out is older, and what it reads first may be. Clocks jump: where a later record is
    /// older than an earlier one, the earlier one counts.
    #[must_use]
    pub fn since(log: &Writer, tag: u32, unix_ms: u64) -> Self {
        let sealed = log.segments().sealed();
        let newer = sealed.iter().find(|segment| unix_ms <= segment.last_unix_ms);
        let from = match (newer, log.segments().newest()) {
            (Some(segment), _) => segment.base,
            (None, Some(active)) => active.base,
            (None, None) => log.marks().high_watermark,
        };
        let from = from.max(log.marks().start);
        Self { since: Some(unix_ms), ..Self::new(log, tag, from) }
    }

    /// The offset of the record that comes next, if it can be read.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.next
    }

    /// Goes on at another offset. What is in memory is used again if it is there.
    pub fn seek(&mut self, offset: Offset) {
        if offset != self.next {
            if self.batch.is_some_and(|batch| offset < batch.next) {
                self.batch = None;
                // Where it begins is not known any more: the index says where to go on.
                self.expected = Offset(u64::MAX);
            }
            self.next = offset;
            self.since = None;
            self.is_placed = false;
            self.want = None;
            self.failure = None;
            self.error = None;
        }
    }

    /// Whether the disk has been asked and has not answered.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        match self.place {
            Place::Nowhere => false,
            Place::Index(_, asked) | Place::Segment(_, asked) => asked != Asked::Nothing,
        }
    }

    /// Whether [`Next::Lost`] comes next.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Whether the host was short of descriptors or memory for what was asked last: nothing is
    /// lost, and it is to be asked again, best after a while. Told once.
    pub fn take_put_off(&mut self) -> bool {
        core::mem::take(&mut self.is_put_off)
    }

    /// Lets go of what was read and not handed out: it is read again when it is wanted.
    pub fn forget_window(&mut self) {
        self.window = Vec::new();
        self.is_cut = false;
    }

    /// Bytes of the file that are in memory.
    #[must_use]
    pub fn window_bytes(&self) -> usize {
        self.window.len()
    }

    /// The record that comes next, as far as it is in memory.
    pub fn next_record(&mut self) -> Next<'_> {
        if let Some(error) = self.error.take() {
            return Next::Lost(error);
        }
        let range = match self.step() {
            Ok(Step::Record(range)) => range,
            Ok(Step::Wait) => return Next::Wait,
            Err(failure) => {
                self.failure = Some((self.position, failure));
                return Next::Wait;
            }
        };
        match record::parse(&self.window[range]) {
            Ok(record) => Next::Record(record),
            Err(_) => Next::Wait,
        }
    }

    fn step(&mut self) -> Result<Step, ReadFailure> {
        while self.is_placed && self.failure.is_none() && self.next < self.window_end {
            let Some(mut batch) = self.batch else {
                if !self.begin_batch()? {
                    return Ok(Step::Wait);
                }
                continue;
            };
            if batch.header.next_offset() <= batch.next {
                self.end_batch(&batch);
                continue;
            }
            let Some(range) = self.record_range(&batch)? else { return Ok(Step::Wait) };
            let bytes = &self.window[range.clone()];
            let head = record::decode(self.seed, bytes).map_err(ReadFailure::Record)?.head;
            if head.offset != batch.next || head.epoch != batch.header.epoch {
                return Err(ReadFailure::Record(RecordError::Misplaced));
            }
            self.position += range.len() as u64;
            batch.next.0 += 1;
            self.batch = Some(batch);
            if self.next <= head.offset {
                self.next = batch.next;
                self.since = self.since.filter(|since| head.unix_ms < *since);
                return Ok(Step::Record(range));
            }
        }
        Ok(Step::Wait)
    }

    /// The bytes at `position` that are in memory; if there are fewer, they are wanted.
    ///
    /// # Errors
    ///
    /// `at_end` if the file ends before them.
    fn loaded(&mut self, bytes: usize, at_end: ReadFailure) -> Result<Option<usize>, ReadFailure> {
        let at = self.position.checked_sub(self.window_at).map(|at| at as usize);
        if let Some(at) = at {
            if at + bytes <= self.window.len() {
                return Ok(Some(at));
            }
            if self.is_cut {
                return Err(at_end);
            }
        }
        self.want = Some((self.position, WINDOW_BYTES.max(bytes as u32)));
        Ok(None)
    }

    /// Reads the header of the next batch. Whether it was there.
    fn begin_batch(&mut self) -> Result<bool, ReadFailure> {
        let Some(segment) = &self.segment else { return Ok(false) };
        let id = segment.id;
        let short = ReadFailure::Header(HeaderError::Short);
        let Some(at) = self.loaded(BATCH_HEADER_BYTES, short)? else { return Ok(false) };
        let header = BatchHeader::decode(&self.window[at..], &id).map_err(ReadFailure::Header)?;
        if header.base_offset != self.expected {
            return Err(ReadFailure::Misplaced);
        }
        let body = self.position + BATCH_HEADER_BYTES as u64;
        let batch = InBatch {
            next: header.base_offset,
            header,
            body_end: body + u64::from(header.body_bytes),
            end: self.position + header.bytes(),
        };
        if header.next_offset() <= self.next {
            self.end_batch(&batch);
        } else {
            (self.position, self.batch) = (body, Some(batch));
        }
        Ok(true)
    }

    /// Goes on behind a batch.
    fn end_batch(&mut self, batch: &InBatch) {
        self.position = batch.end;
        self.expected = batch.header.next_offset();
        self.batch = None;
        // The next segment is for `ask` to open.
        self.is_placed = !batch.header.is_last;
    }

    /// Where in the window the next record of a batch is, if it is there.
    fn record_range(&mut self, batch: &InBatch) -> Result<Option<Range<usize>>, ReadFailure> {
        let length = ReadFailure::Record(RecordError::Length);
        let left = batch.body_end.saturating_sub(self.position);
        if left < RECORD_HEAD_BYTES as u64 {
            return Err(length);
        }
        let Some(at) = self.loaded(RECORD_HEAD_BYTES, length)? else { return Ok(None) };
        let bytes = u32_at(&self.window, at + 4) as usize;
        if bytes < RECORD_HEAD_BYTES || left < bytes as u64 {
            return Err(length);
        }
        Ok(self.loaded(bytes, length)?.map(|at| at..at + bytes))
    }

    /// Asks the disk for what is missing, if there is anything below the high watermark. To be called
    /// after [`Next::Wait`], once a turn. If it does not wait for the disk then
    /// ([`Reader::is_waiting`]), there may be something in memory behind a [`Reader::seek`].
    pub fn ask(&mut self, log: &Writer, disk: &mut Disk) {
        if self.is_waiting() || self.is_closing || self.error.is_some() {
            return;
        }
        let marks = log.marks();
        if self.next < marks.start {
            let setup = log.segments().setup();
            let path = setup.directory.clone();
            self.lose(path, 0, marks.start, ReadFailure::Trimmed);
        }
        if let Some((position, failure)) = self.failure.take() {
            self.fail(log, position, failure);
        }
        let end = self.end(log);
        if end <= self.next || self.error.is_some() {
            return;
        }
        if self.is_placed {
            if self.window_end <= self.next {
                // The window may be older than what lies there now.
                self.want = Some((self.position, self.unread_bytes(log)));
            }
        } else {
            self.go_to(log, disk);
        }
        self.read(end, disk);
    }

    /// What there is to read behind `position`, as far as it is worth one read: at the end of the
    /// log that is what was written since.
    fn unread_bytes(&self, log: &Writer) -> u32 {
        let newest = log.segments().newest();
        let newest = newest.filter(|newest| self.segment.is_some_and(|at| at.id == newest.id));
        let Some(newest) = newest else { return WINDOW_BYTES };
        let unread = newest.position.saturating_sub(self.position);
        let unread = u32::try_from(unread).unwrap_or(WINDOW_BYTES);
        unread.clamp(BATCH_HEADER_BYTES as u32, WINDOW_BYTES)
    }

    /// Records up to `to` are lost.
    fn lose(&mut self, path: PathBuf, position: u64, to: Offset, failure: ReadFailure) {
        self.error = Some(ReadError { path, position, lost: self.next..to, failure });
        self.next = to;
        self.is_placed = false;
        self.batch = None;
        self.want = None;
    }

    /// What cannot be read is left out: the rest of its batch, or all up to the next batch that
    /// the index knows, or the rest of its segment.
    fn fail(&mut self, log: &Writer, position: u64, failure: ReadFailure) {
        let Some(reading) = self.segment else { return };
        if log.segments().find(self.next) != Some(reading) {
            // It had no more record that is wanted.
            (self.is_placed, self.batch) = (false, None);
            return;
        }
        let path = log.segments().setup().segment_path(reading.number);
        let in_batch = match failure {
            ReadFailure::Record(_) => self.batch.map(|batch| batch.header.next_offset()),
            ReadFailure::Trimmed
            | ReadFailure::Disk(_)
            | ReadFailure::Header(_)
            | ReadFailure::Misplaced => None,
        };
        if let (Some(to), Some(batch)) = (in_batch, self.batch) {
            self.lose(path, position, to, failure);
            self.end_batch(&batch);
            return;
        }
        let index = log.segments().index_of(reading.number).unwrap_or(&self.index);
        // Position 0 is that of a segment that could not be opened.
        let behind = |entry: &&IndexEntry| {
            0 < position && position < entry.position && self.next < entry.offset
        };
        let known = index.entries().iter().find(behind).map(|entry| entry.offset);
        let end = log.segments().end_of(reading.number).unwrap_or(self.end(log));
        self.lose(path, position, known.unwrap_or(end).max(self.next), failure);
    }

    /// Finds the segment of the offset that is wanted, and where to begin in it.
    fn go_to(&mut self, log: &Writer, disk: &mut Disk) {
        let Some(segment) = log.segments().find(self.next) else { return };
        if self.segment == Some(segment)
            && let Place::Segment(_, Asked::Nothing) = self.place
        {
            self.begin_at(log);
            return;
        }
        self.close_file(disk);
        self.segment = Some(segment);
        self.index = SegmentIndex::new();
        self.forget_window();
        if log.segments().index_of(segment.number).is_some() {
            self.open_segment(log, disk);
        } else {
            let path = log.segments().setup().index_path(segment.number);
            let (file, token) = self.open(path, disk);
            self.place = Place::Index(file, Asked::Open(token));
        }
    }

    fn open_segment(&mut self, log: &Writer, disk: &mut Disk) {
        let Some(segment) = &self.segment else { return };
        let path = log.segments().setup().segment_path(segment.number);
        let (file, token) = self.open(path, disk);
        self.place = Place::Segment(file, Asked::Open(token));
    }

    fn open(&mut self, path: PathBuf, disk: &mut Disk) -> (FileId, DiskToken) {
        let (file, token) = (disk.open_id(), self.token());
        disk.push(DiskCommand::Job { token, job: FileJob::Open { file, path } });
        (file, token)
    }

    fn token(&mut self) -> DiskToken {
        self.asked = self.asked.wrapping_add(1);
        DiskToken(u64::from(self.tag) << 32 | u64::from(self.asked))
    }

    /// Begins in the open segment, at the last batch that is known to be at or before the offset.
    fn begin_at(&mut self, log: &Writer) {
        let Some(segment) = &self.segment else { return };
        let index = log.segments().index_of(segment.number).unwrap_or(&self.index);
        if let Some(entry) = self.since.and_then(|unix_ms| index.find_time(unix_ms)) {
            // What is not below the high watermark is not read, however old.
            self.next = self.next.max(entry.offset.min(self.end(log)));
        }
        let (expected, position) = match index.find(self.next) {
            Some(entry) => (entry.offset, entry.position),
            None => (segment.base, SEGMENT_HEADER_BYTES),
        };
        let goes_on = self.expected <= self.next && position <= self.position;
        if !goes_on {
            (self.expected, self.position, self.batch) = (expected, position, None);
        }
        self.is_placed = true;
        let window = self.window_at..self.window_at + self.window.len() as u64;
        if !window.contains(&self.position) || self.window_end <= self.next {
            self.want = Some((self.position, self.unread_bytes(log)));
        }
    }

    fn read(&mut self, end: Offset, disk: &mut Disk) {
        let Place::Segment(file, Asked::Nothing) = self.place else { return };
        let Some((position, bytes)) = self.want.take() else { return };
        let token = self.token();
        disk.push(DiskCommand::Read { token, file, position, bytes });
        self.place = Place::Segment(file, Asked::Read(token));
        self.forget_window();
        (self.window_at, self.window_wanted, self.window_end) = (position, bytes, end);
    }

    /// Something that this reader asked for has ended.
    pub fn on_disk(&mut self, log: &Writer, event: DiskEvent, disk: &mut Disk) {
        let result = event.result;
        match self.place {
            Place::Index(file, Asked::Open(token)) if token == event.token => {
                self.on_index_open(log, file, result, disk);
            }
            Place::Index(_, Asked::Read(token)) if token == event.token => {
                if let (Ok(DiskDone::Read(bytes)), Some(segment)) = (result, &self.segment) {
                    self.index = SegmentIndex::decode(&bytes, &segment.id).unwrap_or_default();
                }
                self.end_index(log, disk);
            }
            Place::Segment(file, Asked::Open(token)) if token == event.token => {
                self.place = Place::Segment(file, Asked::Nothing);
                match result {
                    Ok(_) => self.begin_at_first(log),
                    Err(error) => self.on_not_open(error, disk),
                }
            }
            Place::Segment(file, Asked::Read(token)) if token == event.token => {
                self.place = Place::Segment(file, Asked::Nothing);
                self.on_window(result);
            }
            // A file was closed.
            Place::Nowhere | Place::Index(..) | Place::Segment(..) => {}
        }
        if self.is_closing && !self.is_waiting() {
            self.close_file(disk);
        }
    }

    /// A file could not be opened: there is nothing that could be read.
    fn on_not_open(&mut self, error: DiskError, disk: &mut Disk) {
        self.close_file(disk);
        if is_transient(error.errno) {
            self.is_put_off = true;
        } else {
            self.failure = Some((0, ReadFailure::Disk(error)));
        }
    }

    fn on_index_open(
        &mut self,
        log: &Writer,
        file: FileId,
        result: Result<DiskDone, DiskError>,
        disk: &mut Disk,
    ) {
        if let Err(error) = result
            && is_transient(error.errno)
        {
            return self.on_not_open(error, disk);
        }
        let segment = self.segment.filter(|_| result.is_ok() && !self.is_closing);
        let Some(segment) = segment else {
            // Without an index the segment is read from its beginning.
            self.end_index(log, disk);
            return;
        };
        let (token, position) = (self.token(), 0);
        let bytes = index_bytes_max(segment.file_bytes) as u32;
        disk.push(DiskCommand::Read { token, file, position, bytes });
        self.place = Place::Index(file, Asked::Read(token));
    }

    fn end_index(&mut self, log: &Writer, disk: &mut Disk) {
        self.close_file(disk);
        if !self.is_closing {
            self.open_segment(log, disk);
        }
    }

    /// The segment has just been opened.
    fn begin_at_first(&mut self, log: &Writer) {
        (self.position, self.batch) = (0, None);
        if self.segment.is_some() && self.segment == log.segments().find(self.next) {
            self.begin_at(log);
        }
    }

    fn on_window(&mut self, result: Result<DiskDone, DiskError>) {
        match result {
            Ok(DiskDone::Read(bytes)) => {
                self.is_cut = bytes.len() < self.window_wanted as usize;
                self.window = bytes;
            }
            Ok(DiskDone::Done) => {}
            // The window is not there, and is wanted again.
            Err(error) if is_transient(error.errno) => self.is_put_off = true,
            Err(error) => self.failure = Some((self.window_at, ReadFailure::Disk(error))),
        }
    }

    /// Lets go of the open file. A reader that is closed is dropped once nothing is waited for.
    pub fn close(&mut self, disk: &mut Disk) {
        self.is_closing = true;
        if !self.is_waiting() {
            self.close_file(disk);
        }
    }

    /// Takes [`Reader::close`] back: what is wanted next is opened again.
    pub fn reopen(&mut self) {
        if core::mem::take(&mut self.is_closing) {
            self.forget_window();
            (self.is_placed, self.batch, self.want) = (false, None, None);
            // Where it was says nothing of a file that is opened again.
            self.expected = Offset(u64::MAX);
        }
    }

    /// Whether nothing is open any more, after [`Reader::close`].
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closing && self.place == Place::Nowhere
    }

    fn close_file(&mut self, disk: &mut Disk) {
        if let Place::Index(file, _) | Place::Segment(file, _) = self.place {
            let token = self.token();
            disk.push(DiskCommand::Job { token, job: FileJob::Close { file } });
            self.place = Place::Nowhere;
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
