//! Reading segments batch by batch, each one checked before it is handed out.
//!
//! Recovery and the tools read this way, with plain calls that wait. What is not a good batch is
//! [`Step::Bad`] with its reason; whether that is a torn tail or damage is for
//! [`recovery`](super::recovery) to judge.

use super::format::{
    BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader, DirectoryId, HeaderError, SEGMENT_HEADER_BYTES,
    SegmentHeader, SegmentId, segment_name,
};
use super::record::{Record, RecordError, RecordSeed, Records, parse};
use crate::disk::StartFiles;
use crate::ids::{Offset, PartitionId};
use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes read at a time, if a batch does not need more.
const WINDOW_BYTES: u64 = 256 * 1024;

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOwner {
    /// The data directory.
    pub directory: DirectoryId,
    /// The partition.
    pub partition: PartitionId,
}

impl LogOwner {
    /// What the checksums of its records begin with.
    #[must_use]
    pub fn seed(&self) -> RecordSeed {
        RecordSeed::new(&self.directory, self.partition)
    }
}

/// A segment whose header is good and fits its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its file.
    pub path: PathBuf,
    /// Its header.
    pub header: SegmentHeader,
    /// The checksum of the header: what its first batch names as the one before it.
    pub header_crc: u32,
}

/// Why a segment cannot be opened.
#[derive(Debug)]
pub enum SegmentError {
    /// The file cannot be read.
    Io(io::Error),
    /// The header is none.
    Header(HeaderError),
    /// It is of another data directory.
    Foreign,
    /// It is of another partition.
    Partition(PartitionId),
    /// Its number is not that of its name.
    Number(u64),
    /// The file is longer or shorter than its header says: bytes found.
    Length(u64),
}

impl Segment {
    /// Opens segment `number` in the directory of a partition and checks where it belongs.
    ///
    /// # Errors
    /// [`SegmentError`]: it cannot be used. A header is durable before a segment is, so this is
    /// never the trace of a crash.
    pub fn open<F: StartFiles + ?Sized>(
        files: &F,
        directory: &Path,
        number: u64,
        owner: &LogOwner,
    ) -> Result<Self, SegmentError> {
        let path = directory.join(segment_name(number));
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES as usize];
        let count = read(files, &path, 0, &mut bytes).map_err(SegmentError::Io)?;
        let header = SegmentHeader::decode(&bytes[..count]).map_err(SegmentError::Header)?;
        if header.directory != owner.directory {
            return Err(SegmentError::Foreign);
        }
        if header.partition != owner.partition {
            return Err(SegmentError::Partition(header.partition));
        }
        if header.number != number {
            return Err(SegmentError::Number(header.number));
        }
        let length = files.len(&path).map_err(SegmentError::Io)?;
        if length != header.file_bytes {
            return Err(SegmentError::Length(length));
        }
        Ok(Self { header_crc: SegmentHeader::crc_of(&bytes), path, header })
    }
}

impl fmt::Display for SegmentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read it: {error}"),
            Self::Header(error) => write!(f, "its header is damaged: {error}"),
            Self::Foreign => f.write_str("it belongs to another data directory"),
            Self::Partition(found) => write!(f, "it belongs to partition {}", found.0),
            Self::Number(found) => write!(f, "its header says that it is segment {found}"),
            Self::Length(found) => write!(f, "it has {found} bytes, its header says otherwise"),
        }
    }
}

/// Reads until `into` is full or the file ends.
pub(super) fn read<F: StartFiles + ?Sized>(
    files: &F,
    path: &Path,
    position: u64,
    into: &mut [u8],
) -> io::Result<usize> {
    let mut count = 0;
    while count < into.len() {
        let more = files.read_at(path, position + count as u64, &mut into[count..])?;
        if more == 0 {
            break;
        }
        count += more;
    }
    Ok(count)
}

/// What the batches so far say about the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chain {
    /// Offset that the next batch begins with; `None` if any will do.
    pub next_offset: Option<Offset>,
    /// Checksum of the batch before it; `None` if that one was not read.
    pub previous_crc: Option<u32>,
    /// The highest epoch so far.
    pub epoch: u64,
    /// The highest durable watermark so far.
    pub watermark: Offset,
    /// The highest log start offset so far.
    pub log_start: Offset,
}

impl Chain {
    fn check(&self, header: &BatchHeader) -> Result<(), BadBatch> {
        if self.previous_crc.is_some_and(|crc| crc != header.previous_crc)
            || self.next_offset.is_some_and(|next| next != header.base_offset)
            || header.epoch < self.epoch
            || header.watermark < self.watermark
        {
            return Err(BadBatch::Chain);
        }
        Ok(())
    }

    fn advance(&mut self, header: &BatchHeader, crc: u32) {
        self.next_offset = Some(header.next_offset());
        self.previous_crc = Some(crc);
        self.epoch = header.epoch;
        self.watermark = header.watermark;
        self.log_start = self.log_start.max(header.log_start);
    }
}

/// Why a batch is not good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadBatch {
    /// Its header is none.
    Header(HeaderError),
    /// Its header is good, and does not follow what lies before it. No crash leaves that
    /// behind: recovery overwrites what it cuts, and nothing is written twice.
    Chain,
    /// It says that it is longer than what is left of the file.
    Length,
    /// This record of it, from 0, is not good.
    Record(u32, RecordError),
    /// It holds another number of records than it says.
    Count,
}

impl fmt::Display for BadBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(error) => write!(f, "no batch begins here: {error}"),
            Self::Chain => f.write_str("a good batch that does not follow the one before it"),
            Self::Length => f.write_str("the batch is longer than the file"),
            Self::Record(index, error) => write!(f, "record {index} of the batch: {error}"),
            Self::Count => f.write_str("the batch holds another number of records than it says"),
        }
    }
}

/// A good batch.
#[derive(Clone, Copy, Debug)]
pub struct GoodBatch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// Where in the segment it begins.
    pub position: u64,
    body: &'a [u8],
}

impl<'a> GoodBatch<'a> {
    /// The bytes of its records, without padding.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Its records; they have been checked.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let mut rest = self.body;
        core::iter::from_fn(move || {
            let record = parse(rest).ok()?;
            rest = &rest[record.bytes()..];
            Some(record)
        })
    }
}

/// What comes next in a segment.
#[derive(Debug)]
pub enum Step<'a> {
    /// A good batch.
    Batch(GoodBatch<'a>),
    /// The batch before was the last one of the segment, and says so.
    Last,
    /// No batch begins here: zeros, or the end of the file.
    Blank,
    /// What begins here is no good batch.
    Bad {
        /// Why not.
        reason: BadBatch,
        /// Its header, if that is one: its marks are true all the same.
        header: Option<BatchHeader>,
    },
}

/// Goes through the batches of a segment.
#[derive(Debug)]
pub struct SegmentScan<'a, F: ?Sized> {
    files: &'a F,
    segment: &'a Segment,
    seed: RecordSeed,
    chain: Chain,
    position: u64,
    is_over: bool,
    window: Window,
}

impl<'a, F: StartFiles + ?Sized> SegmentScan<'a, F> {
    /// From `position`, where a batch begins. At the first one, `chain.previous_crc` is set to the
    /// header's.
    #[must_use]
    pub fn new(files: &'a F, segment: &'a Segment, position: u64, mut chain: Chain) -> Self {
        if position == SEGMENT_HEADER_BYTES {
            chain.previous_crc = Some(segment.header_crc);
        }
        let owner =
            LogOwner { directory: segment.header.directory, partition: segment.header.partition };
        let window = Window::default();
        Self { files, segment, seed: owner.seed(), chain, position, is_over: false, window }
    }

    /// Where the next batch begins, or would.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What is known at this position.
    #[must_use]
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The next batch. After anything else the scan stays where it is.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self) -> io::Result<Step<'_>> {
        if self.is_over {
            return Ok(Step::Last);
        }
        let left = self.segment.header.file_bytes.saturating_sub(self.position);
        let Self { files, segment, window, position, .. } = self;
        let position = *position;
        let head = window.load(*files, segment, position, BATCH_HEADER_BYTES as u64)?;
        if head.iter().all(|&byte| byte == 0) {
            return Ok(Step::Blank);
        }
        let header = match BatchHeader::decode(head, &segment.header.segment) {
            Ok(header) => header,
            Err(error) => return Ok(bad(BadBatch::Header(error), None)),
        };
        let crc = head.first_chunk().map_or(0, BatchHeader::crc_of);
        if let Err(reason) = self.chain.check(&header) {
            return Ok(bad(reason, Some(header)));
        }
        if header.bytes() > left {
            return Ok(bad(BadBatch::Length, Some(header)));
        }
        let bytes = window.load(*files, segment, position, header.bytes())?;
        let body =
            bytes.get(BATCH_HEADER_BYTES..).and_then(|b| b.get(..header.body_bytes as usize));
        let Some(body) = body else { return Ok(bad(BadBatch::Length, Some(header))) };
        if let Err(reason) = check_records(self.seed, body, &header) {
            return Ok(bad(reason, Some(header)));
        }
        self.chain.advance(&header, crc);
        self.position += header.bytes();
        self.is_over = header.is_last;
        Ok(Step::Batch(GoodBatch { header, position, body }))
    }
}

fn bad(reason: BadBatch, header: Option<BatchHeader>) -> Step<'static> {
    Step::Bad { reason, header }
}

fn check_records(seed: RecordSeed, body: &[u8], header: &BatchHeader) -> Result<(), BadBatch> {
    let mut count = 0;
    for record in Records::new(seed, body, header.base_offset, header.epoch) {
        record.map_err(|error| BadBatch::Record(count, error))?;
        count += 1;
    }
    if count == header.records { Ok(()) } else { Err(BadBatch::Count) }
}

/// The part of a segment that is in memory.
#[derive(Debug, Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// `count` bytes at `position`, or fewer at the end of the file.
    fn load<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        segment: &Segment,
        position: u64,
        count: u64,
    ) -> io::Result<&[u8]> {
        let count = count.min(segment.header.file_bytes.saturating_sub(position));
        let held = self.start..self.start + self.bytes.len() as u64;
        if position < held.start || held.end < position + count {
            let left = segment.header.file_bytes.saturating_sub(position);
            self.bytes.resize(count.max(WINDOW_BYTES).min(left) as usize, 0);
            self.start = position;
            let found = read(files, &segment.path, position, &mut self.bytes)?;
            self.bytes.truncate(found);
        }
        let at = (position - self.start) as usize;
        let end = self.bytes.len().min(at + count as usize);
        Ok(&self.bytes[at.min(end)..end])
    }
}

/// What lies in a segment behind the place where its batches end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rest {
    /// The highest durable watermark of a batch header there.
    pub watermark: Offset,
    /// The lowest base offset of a batch header there.
    pub base_offset: Option<Offset>,
    /// The highest epoch of a batch header there.
    pub epoch: u64,
    /// Whether there is a byte that is not zero.
    pub is_used: bool,
    /// The position behind the last such byte.
    pub end: u64,
}

/// Looks for batch headers, and for anything but zeros, from `position` (a multiple of 8) to the
/// end of a segment.
///
/// A header counts whatever its records look like: a crash writes pages in any order, and its
/// marks were true when it was sealed. Those that `is_copy` says lie in front as well do not: somebody has
/// published what was in this file.
///
/// # Errors
/// The file cannot be read.
pub fn look_behind<F: StartFiles + ?Sized>(
    files: &F,
    segment: &Segment,
    position: u64,
    is_copy: &dyn Fn(&[u8]) -> bool,
) -> io::Result<Rest> {
    let mut rest = Rest::default();
    let mut at = position;
    let bytes_left = segment.header.file_bytes.saturating_sub(position);
    let mut window = vec![0; bytes_left.min(WINDOW_BYTES) as usize];
    while at < segment.header.file_bytes {
        let left = (segment.header.file_bytes - at).min(WINDOW_BYTES);
        let count = read(files, &segment.path, at, &mut window[..left as usize])?;
        if count == 0 {
            break;
        }
        let bytes = &window[..count];
        if let Some(last) = last_used(bytes) {
            rest.is_used = true;
            rest.end = at + last as u64 + 1;
            let used = &bytes[..bytes.len().min(last + BATCH_HEADER_BYTES)];
            note_headers(used, &segment.header.segment, is_copy, &mut rest);
        }
        // Headers that lie across the windows' border are seen with the next one.
        let step = if (count as u64) < left || at + count as u64 == segment.header.file_bytes {
            count as u64
        } else {
            count as u64 - BATCH_HEADER_BYTES as u64
        };
        at += step;
    }
    Ok(rest)
}

/// The last byte that is not zero: most are, and so they are looked at many at a time.
fn last_used(bytes: &[u8]) -> Option<usize> {
    let is_blank = |chunk: &[u8]| chunk.iter().fold(0, |all, byte| all | byte) == 0;
    let blank =
        bytes.rchunks(64).take_while(|chunk| is_blank(chunk)).map(<[u8]>::len).sum::<usize>();
    bytes[..bytes.len() - blank].iter().rposition(|&byte| byte != 0)
}

fn note_headers(
    bytes: &[u8],
    segment: &SegmentId,
    is_copy: &dyn Fn(&[u8]) -> bool,
    rest: &mut Rest,
) {
    let magic = BATCH_MAGIC.to_le_bytes();
    for at in (0..bytes.len().saturating_sub(BATCH_HEADER_BYTES - 1)).step_by(8) {
        if bytes[at..at + 4] == magic
            && let Ok(header) = BatchHeader::decode(&bytes[at..], segment)
            && !is_copy(&bytes[at..at + BATCH_HEADER_BYTES])
        {
            rest.note(&header);
        }
    }
}

impl Rest {
    /// Takes a header into account.
    pub fn note(&mut self, header: &BatchHeader) {
        self.watermark = self.watermark.max(header.watermark);
        let lowest = self.base_offset.map_or(header.base_offset, |o| o.min(header.base_offset));
        self.base_offset = Some(lowest);
        self.epoch = self.epoch.max(header.epoch);
    }
}
