//! The sparse index of a segment: where to begin reading for an offset or a time.
//!
//! It is built while batches are written, by recovery, or from a segment alone, and stored beside
//! the segment when that is full. Nothing depends on it: one that is missing or wrong is built
//! again ([`SegmentIndex::rebuild`]).

use super::format::{
    ALIGN, BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, SegmentId, array_at, u16_at,
    u32_at, u64_at,
};
use super::scan::{Segment, read};
use crate::disk::StartFiles;
use crate::ids::Offset;
use core::ops::Range;
use std::io;
use std::path::Path;

/// The first bytes of every index file.
pub const INDEX_MAGIC: [u8; 8] = *b"RLNGIDX\x01";
/// An entry is made for a batch that begins at least this many bytes behind the one of the last
/// entry.
pub const INDEX_EVERY_BYTES: u64 = 64 * 1024;

const INDEX_VERSION: u16 = 1;
const HEAD_BYTES: usize = 56;
const ENTRY_BYTES: usize = 24;
const CRC_BYTES: usize = 4;

/// Bytes of the index file of a segment with so many bytes, at most.
#[must_use]
pub const fn index_bytes_max(file_bytes: u64) -> u64 {
    let entries = file_bytes / INDEX_EVERY_BYTES + 1;
    (HEAD_BYTES + CRC_BYTES) as u64 + entries * ENTRY_BYTES as u64
}

/// One batch of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// Its base offset.
    pub offset: Offset,
    /// Where it begins.
    pub position: u64,
    /// The latest time at which a batch before it in the segment was sealed (Unix time, ms); 0 if
    /// there is none. Clocks jump, therefore the latest and not the last.
    pub before_unix_ms: u64,
}

/// Why bytes are no index of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IndexError {
    /// They are no index, or one of a newer version.
    Format,
    /// The checksum does not fit.
    Checksum,
    /// It is of another segment.
    Segment,
    /// Entries are not in order, or lie outside of a segment.
    Order,
}

/// The index of one segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SegmentIndex {
    entries: Vec<IndexEntry>,
    next_offset: Offset,
    last_unix_ms: u64,
}

impl SegmentIndex {
    /// An index of no batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of the next batch. Batches that were left out do no harm, except that whoever
    /// looks for them begins earlier.
    pub fn push(&mut self, position: u64, header: &BatchHeader) {
        let far = |last: &IndexEntry| last.position + INDEX_EVERY_BYTES <= position;
        if self.entries.last().is_none_or(far) {
            let (offset, before_unix_ms) = (header.base_offset, self.last_unix_ms);
            self.entries.push(IndexEntry { offset, position, before_unix_ms });
        }
        self.next_offset = header.next_offset();
        self.last_unix_ms = self.last_unix_ms.max(header.sealed_unix_ms);
    }

    /// The entries, in order of positions and offsets.
    #[must_use]
    pub fn entries(&self) -> &[IndexEntry] {
        &self.entries
    }

    /// Offset behind the last record of the batches that were noted.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The latest time at which a batch was sealed (Unix time, ms); 0 if there is none.
    #[must_use]
    pub fn last_unix_ms(&self) -> u64 {
        self.last_unix_ms
    }

    /// Where to begin reading for `offset`: the last entry at or before it.
    #[must_use]
    pub fn find(&self, offset: Offset) -> Option<IndexEntry> {
        let behind = self.entries.partition_point(|entry| entry.offset <= offset);
        behind.checked_sub(1).map(|index| self.entries[index])
    }

    /// Where to begin reading for what was sealed at `unix_ms` or later: all that lies before the
    /// entry is older.
    #[must_use]
    pub fn find_time(&self, unix_ms: u64) -> Option<IndexEntry> {
        let behind = self.entries.partition_point(|entry| entry.before_unix_ms < unix_ms);
        behind.checked_sub(1).or(Some(0)).and_then(|index| self.entries.get(index).copied())
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self, segment: &SegmentId) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEAD_BYTES + self.entries.len() * ENTRY_BYTES + CRC_BYTES);
        bytes.extend_from_slice(&INDEX_MAGIC);
        bytes.extend_from_slice(&INDEX_VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&segment.0);
        bytes.extend_from_slice(&self.next_offset.0.to_le_bytes());
        bytes.extend_from_slice(&self.last_unix_ms.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.offset.0.to_le_bytes());
            bytes.extend_from_slice(&entry.position.to_le_bytes());
            bytes.extend_from_slice(&entry.before_unix_ms.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads an index file of `segment`.
    ///
    /// # Errors
    /// [`IndexError`]: it is to be built again.
    pub fn decode(bytes: &[u8], segment: &SegmentId) -> Result<Self, IndexError> {
        if bytes.len() < HEAD_BYTES + CRC_BYTES || bytes[..8] != INDEX_MAGIC {
            return Err(IndexError::Format);
        }
        let (bytes, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
        if crc32c::crc32c(bytes) != u32_at(crc, 0) {
            return Err(IndexError::Checksum);
        }
        let entries = bytes[HEAD_BYTES..].as_chunks::<ENTRY_BYTES>();
        if u16_at(bytes, 8) != INDEX_VERSION
            || entries.0.len() != u32_at(bytes, 12) as usize
            || !entries.1.is_empty()
        {
            return Err(IndexError::Format);
        }
        if array_at::<16>(bytes, 16) != segment.0 {
            return Err(IndexError::Segment);
        }
        let index = Self {
            entries: entries.0.iter().map(IndexEntry::decode).collect(),
            next_offset: Offset(u64_at(bytes, 32)),
            last_unix_ms: u64_at(bytes, 40),
        };
        if index.is_in_order() { Ok(index) } else { Err(IndexError::Order) }
    }

    fn is_in_order(&self) -> bool {
        let inside = |entry: &IndexEntry| {
            entry.position >= SEGMENT_HEADER_BYTES
                && entry.position.is_multiple_of(ALIGN)
                && entry.offset <= self.next_offset
        };
        self.entries.iter().all(inside)
            && self.entries.is_sorted_by(|one, two| {
                one.position < two.position
                    && one.offset <= two.offset
                    && one.before_unix_ms <= two.before_unix_ms
            })
    }

    /// Builds the index of a segment up to `end`, from its batch headers alone. What lies behind a
    /// header that is none is left out.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn rebuild<F: StartFiles + ?Sized>(
        files: &F,
        segment: &Segment,
        end: u64,
    ) -> io::Result<Self> {
        Before::read(files, &segment.path, &segment.header.segment, end).map(|before| before.index)
    }
}

/// What the batch headers of a segment say, up to a place in it.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) index: SegmentIndex,
    /// The last header and its checksum.
    pub(super) last: Option<(BatchHeader, u32)>,
    /// The highest log start offset that a header names.
    pub(super) log_start: Offset,
    /// Where the batch behind the last one begins: before the place only if no header is there.
    pub(super) position: u64,
}

impl Before {
    /// Reads the headers in front of `end`, or in front of the first place without one.
    pub(super) fn read<F: StartFiles + ?Sized>(
        files: &F,
        path: &Path,
        segment: &SegmentId,
        end: u64,
    ) -> io::Result<Self> {
        Self::read_each(files, path, segment, SEGMENT_HEADER_BYTES..end, |_| ())
    }

    /// As [`Before::read`], from a place on where a batch begins, and hands out the bytes of each header.
    pub(super) fn read_each<F: StartFiles + ?Sized>(
        files: &F,
        path: &Path,
        segment: &SegmentId,
        Range { start, end }: Range<u64>,
        mut each: impl FnMut(&[u8; BATCH_HEADER_BYTES]),
    ) -> io::Result<Self> {
        let mut before =
            Self { index: SegmentIndex::new(), last: None, log_start: Offset(0), position: start };
        let mut window = Window::default();
        while before.position < end {
            let bytes = window.header_at(files, path, before.position)?;
            let Some(bytes) = bytes.first_chunk::<BATCH_HEADER_BYTES>() else { break };
            let Ok(header) = BatchHeader::decode(bytes, segment) else { break };
            each(bytes);
            before.index.push(before.position, &header);
            before.last = Some((header, BatchHeader::crc_of(bytes)));
            before.log_start = before.log_start.max(header.log_start);
            before.position += header.bytes();
        }
        Ok(before)
    }
}

/// Bytes that are read at once where batches are short: many headers are among them.
const WINDOW_BYTES: usize = 32 * 1024;
/// Behind a batch that is longer than this nothing but the next header is read.
const SHORT_BATCH_BYTES: u64 = 4096;

/// The bytes of a segment around the header that was read last.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    /// Where they begin.
    at: u64,
    /// Where the header lay that was asked for before.
    before: Option<u64>,
}

impl Window {
    /// Reads so many bytes, or those that there are.
    fn read<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        path: &Path,
        len: usize,
    ) -> io::Result<()> {
        self.bytes.resize(len, 0);
        let count = read(files, path, self.at, &mut self.bytes)?;
        self.bytes.truncate(count);
        Ok(())
    }

    /// The bytes from a position on: those of a header, or fewer at the end of the file.
    fn header_at<F: StartFiles + ?Sized>(
        &mut self,
        files: &F,
        path: &Path,
        position: u64,
    ) -> io::Result<&[u8]> {
        let skipped = position.checked_sub(self.at).unwrap_or(u64::MAX);
        let from = usize::try_from(skipped).unwrap_or(usize::MAX);
        if self.bytes.len() < from.saturating_add(BATCH_HEADER_BYTES) {
            let is_short = |before: u64| position.saturating_sub(before) <= SHORT_BATCH_BYTES;
            let is_short = self.before.is_some_and(is_short);
            self.at = position;
            // What cannot be read behind it is no matter of this header.
            if !is_short || self.read(files, path, WINDOW_BYTES).is_err() {
                self.read(files, path, BATCH_HEADER_BYTES)?;
            }
        }
        self.before = Some(position);
        let rest = self.bytes.get((position - self.at) as usize..).unwrap_or(&[]);
        Ok(&rest[..rest.len().min(BATCH_HEADER_BYTES)])
    }
}

impl IndexEntry {
    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Self {
        Self {
            offset: Offset(u64_at(bytes, 0)),
            position: u64_at(bytes, 8),
            before_unix_ms: u64_at(bytes, 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: u64, records: u32, sealed_unix_ms: u64) -> BatchHeader {
        BatchHeader {
            body_bytes: records * 100,
            records,
            base_offset: Offset(base),
            epoch: 1,
            watermark: Offset(0),
            sealed_unix_ms,
            previous_crc: 0,
            is_last: false,
            log_start: Offset(0),
        }
    }

    /// Batches of ten records every 40 KiB; the clock jumps back once.
    fn index() -> SegmentIndex {
        let mut index = SegmentIndex::new();
        for (n, time) in [100, 200, 900, 300, 400, 950].into_iter().enumerate() {
            let n = n as u64;
            index.push(SEGMENT_HEADER_BYTES + n * 40 * 1024, &batch(n * 10, 10, time));
        }
        index
    }

    #[test]
    fn offsets_and_times_are_found() {
        let index = index();
        let offsets: Vec<_> = index.entries().iter().map(|entry| entry.offset.0).collect();
        assert_eq!(offsets, [0, 20, 40]);
        assert_eq!((index.next_offset(), index.last_unix_ms()), (Offset(60), 950));
        let at = |offset| index.find(Offset(offset)).map(|entry| entry.offset.0);
        assert_eq!([at(0), at(19), at(20), at(1000)], [Some(0), Some(0), Some(20), Some(40)]);
        let since = |time| index.find_time(time).map(|entry| entry.offset.0);
        assert_eq!([since(0), since(200), since(201)], [Some(0), Some(0), Some(20)]);
        assert_eq!([since(900), since(901), since(u64::MAX)], [Some(20), Some(40), Some(40)]);
        let empty = SegmentIndex::new();
        assert_eq!((empty.find(Offset(0)), empty.find_time(0)), (None, None));
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let (index, id) = (index(), SegmentId([9; 16]));
        let bytes = index.encode(&id);
        assert_eq!(SegmentIndex::decode(&bytes, &id), Ok(index));
        let other = SegmentId([8; 16]);
        assert_eq!(SegmentIndex::decode(&bytes, &other), Err(IndexError::Segment));
        for end in 0..bytes.len() {
            assert!(SegmentIndex::decode(&bytes[..end], &id).is_err());
        }
        let mut bytes = bytes;
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentIndex::decode(&bytes, &id).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn entries_that_are_not_in_order_are_refused() {
        let id = SegmentId([9; 16]);
        let mut index = index();
        index.entries.swap(0, 1);
        assert_eq!(SegmentIndex::decode(&index.encode(&id), &id), Err(IndexError::Order));
        index.entries.swap(0, 1);
        index.entries[0].position = 8;
        assert_eq!(SegmentIndex::decode(&index.encode(&id), &id), Err(IndexError::Order));
    }
}
