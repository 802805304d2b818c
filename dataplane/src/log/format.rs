//! The layout of a segment and of a batch, byte for byte (docs/formats/log.md).
//!
//! A writer makes a [`SegmentHeader`] for each new file, puts batches behind it at multiples of
//! [`ALIGN`], and keeps the `crc` of what it wrote last: each [`BatchHeader`] names the one before
//! it. All integers are little-endian; all checksums are CRC-32C.

use crate::ids::{Offset, PartitionId};

/// The first bytes of every segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"RLNGSEG\x01";
/// The format that this version writes, and the newest that it reads.
pub const VERSION: u16 = 1;
/// Bytes of a segment's header; the first batch begins behind it.
pub const SEGMENT_HEADER_BYTES: u64 = 4096;
/// The first bytes of every batch: never zero, as preallocated space is.
pub const BATCH_MAGIC: u32 = 0x4241_4C52;
/// Bytes of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Batches begin at multiples of this many bytes.
pub const ALIGN: u64 = 8;
/// The most bytes of records in a batch: one record of the largest MQTT packet fits.
pub const BODY_BYTES_MAX: u32 = 1 << 29;
/// Bytes that a writer leaves free at the end of a segment, so that a closing batch can carry
/// [`BatchHeader::is_last`].
pub const SEGMENT_RESERVE_BYTES: u64 = BATCH_HEADER_BYTES as u64;

/// No offset, epoch or number of a segment is above this: at a million a second it takes 146,000
/// years. What is above comes from no broker, and could not be counted on from.
pub const COUNT_MAX: u64 = 1 << 62;

/// What a segment's file name ends with.
pub const SEGMENT_SUFFIX: &str = ".log";
/// What the file name of a segment's index ends with.
pub const INDEX_SUFFIX: &str = ".index";

const CRC_AT: usize = SEGMENT_HEADER_BYTES as usize - 4;
const FLAG_LAST: u32 = 1;

/// `bytes` rounded up to where the next batch may begin.
#[must_use]
pub const fn align(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGN)
}

/// Bytes that a batch with so many bytes of records takes in its segment.
#[must_use]
pub const fn batch_bytes(body_bytes: u32) -> u64 {
    BATCH_HEADER_BYTES as u64 + align(body_bytes as u64)
}

/// The file name of segment `number`.
#[must_use]
pub fn segment_name(number: u64) -> String {
    format!("{number:020}{SEGMENT_SUFFIX}")
}

/// The file name of the index of segment `number`.
#[must_use]
pub fn index_name(number: u64) -> String {
    format!("{number:020}{INDEX_SUFFIX}")
}

/// The directory of a partition, inside the data directory.
#[must_use]
pub fn partition_directory(partition: PartitionId) -> String {
    format!("partitions/{:04}", partition.0)
}

/// The number in a file name that [`segment_name`] or [`index_name`] gave, or in any other one of
/// 20 digits and `suffix`.
#[must_use]
pub fn number_of(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// Identity of a data directory, from its manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct DirectoryId(pub [u8; 16]);

/// Identity of a segment: random, so that what another file left in a block never passes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SegmentId(pub [u8; 16]);

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// There are fewer bytes than a header has.
    Short,
    /// They begin with something else; for a batch, all zeros means that none was written here.
    Magic,
    /// The checksum does not fit.
    Checksum,
    /// A newer version wrote it.
    Version(u16),
    /// A length or a mark in it is impossible.
    Value,
}

impl core::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short => f.write_str("the file ends inside it"),
            Self::Magic => f.write_str("it does not begin as one"),
            Self::Checksum => f.write_str("its checksum does not fit"),
            Self::Version(found) => {
                write!(f, "version {found} is newer than {VERSION}, the newest that is known")
            }
            Self::Value => f.write_str("a length or mark in it is impossible"),
        }
    }
}

impl core::error::Error for HeaderError {}

/// The header of a segment, written once when the file is made ahead of use.
///
/// It does not hold the offset of the first record, which is not known then: the first batch does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The partition that it belongs to.
    pub partition: PartitionId,
    /// The data directory that it belongs to.
    pub directory: DirectoryId,
    /// Its own identity.
    pub segment: SegmentId,
    /// Its number, also in its name: from 0, one more for each segment of the partition.
    pub number: u64,
    /// The epoch in which it was made.
    pub epoch: u64,
    /// When it was made (Unix time, ms).
    pub made_unix_ms: u64,
    /// Bytes of the file: a segment never grows and never shrinks.
    pub file_bytes: u64,
}

impl SegmentHeader {
    /// The bytes of the header; the last four are its checksum ([`SegmentHeader::crc_of`]).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        bytes.extend_from_slice(&SEGMENT_MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.partition.0.to_le_bytes());
        bytes.extend_from_slice(&self.directory.0);
        bytes.extend_from_slice(&self.segment.0);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.extend_from_slice(&self.made_unix_ms.to_le_bytes());
        bytes.extend_from_slice(&self.file_bytes.to_le_bytes());
        bytes.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from the beginning of a segment.
    ///
    /// # Errors
    /// [`HeaderError`]: the bytes are no header that this version reads.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES as usize).ok_or(HeaderError::Short)?;
        if bytes[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Magic);
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(HeaderError::Checksum);
        }
        let version = u16::from_le_bytes(array_at(bytes, 8));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let header = Self {
            partition: PartitionId(u32_at(bytes, 12)),
            directory: DirectoryId(array_at(bytes, 16)),
            segment: SegmentId(array_at(bytes, 32)),
            number: u64_at(bytes, 48),
            epoch: u64_at(bytes, 56),
            made_unix_ms: u64_at(bytes, 64),
            file_bytes: u64_at(bytes, 72),
        };
        if header.file_bytes < SEGMENT_HEADER_BYTES + SEGMENT_RESERVE_BYTES
            || COUNT_MAX < header.number.max(header.epoch)
        {
            return Err(HeaderError::Value);
        }
        Ok(header)
    }

    /// The checksum in an encoded header: what the first batch names as the one before it.
    #[must_use]
    pub fn crc_of(encoded: &[u8]) -> u32 {
        u32_at(encoded, CRC_AT)
    }
}

/// The header of a batch. Its records follow, padded with zeros to a multiple of [`ALIGN`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// Bytes of its records, without padding; 0 in a closing batch.
    pub body_bytes: u32,
    /// Its records; 0 in a closing batch, which carries nothing but marks.
    pub records: u32,
    /// Offset of its first record; in a closing batch that of the next record.
    pub base_offset: Offset,
    /// The epoch of the batch and of all its records.
    pub epoch: u64,
    /// First offset that was not yet known to be flushed when the batch was sealed: the durable
    /// watermark. What recovery does not find below it is damage, not a torn tail.
    pub watermark: Offset,
    /// When the batch was sealed (Unix time, ms), and no earlier than any batch before it.
    pub sealed_unix_ms: u64,
    /// The checksum field of the batch before it in this segment, or of the segment's header.
    pub previous_crc: u32,
    /// Whether it is the last batch of its segment: the next one is in the next segment.
    pub is_last: bool,
    /// First offset that was still kept when the batch was sealed.
    pub log_start: Offset,
}

impl BatchHeader {
    /// The bytes of the header. Its checksum covers the segment's identity, so that the same bytes
    /// are no batch in another file.
    #[must_use]
    pub fn encode(&self, segment: &SegmentId) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        put(&mut bytes, 0, &BATCH_MAGIC.to_le_bytes());
        put(&mut bytes, 8, &self.body_bytes.to_le_bytes());
        put(&mut bytes, 12, &self.records.to_le_bytes());
        put(&mut bytes, 16, &self.base_offset.0.to_le_bytes());
        put(&mut bytes, 24, &self.epoch.to_le_bytes());
        put(&mut bytes, 32, &self.watermark.0.to_le_bytes());
        put(&mut bytes, 40, &self.sealed_unix_ms.to_le_bytes());
        put(&mut bytes, 48, &self.previous_crc.to_le_bytes());
        put(&mut bytes, 52, &(if self.is_last { FLAG_LAST } else { 0 }).to_le_bytes());
        put(&mut bytes, 56, &self.log_start.0.to_le_bytes());
        let crc = batch_crc(segment, &bytes);
        put(&mut bytes, 4, &crc.to_le_bytes());
        bytes
    }

    /// Reads a header that begins with `bytes`.
    ///
    /// # Errors
    /// [`HeaderError`]: the bytes are no batch of this segment.
    pub fn decode(bytes: &[u8], segment: &SegmentId) -> Result<Self, HeaderError> {
        let bytes = bytes.first_chunk::<BATCH_HEADER_BYTES>().ok_or(HeaderError::Short)?;
        if u32_at(bytes, 0) != BATCH_MAGIC {
            return Err(HeaderError::Magic);
        }
        if batch_crc(segment, bytes) != Self::crc_of(bytes) {
            return Err(HeaderError::Checksum);
        }
        let header = Self {
            body_bytes: u32_at(bytes, 8),
            records: u32_at(bytes, 12),
            base_offset: Offset(u64_at(bytes, 16)),
            epoch: u64_at(bytes, 24),
            watermark: Offset(u64_at(bytes, 32)),
            sealed_unix_ms: u64_at(bytes, 40),
            previous_crc: u32_at(bytes, 48),
            is_last: u32_at(bytes, 52) & FLAG_LAST != 0,
            log_start: Offset(u64_at(bytes, 56)),
        };
        if header.is_possible() { Ok(header) } else { Err(HeaderError::Value) }
    }

    /// The checksum in an encoded header: what the next batch names as the one before it.
    #[must_use]
    pub fn crc_of(encoded: &[u8; BATCH_HEADER_BYTES]) -> u32 {
        u32_at(encoded, 4)
    }

    /// Offset of the record behind its last one.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0 + u64::from(self.records))
    }

    /// Bytes that it takes in its segment, with its records and their padding.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        batch_bytes(self.body_bytes)
    }

    /// Whether it has no records.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.records == 0
    }

    fn is_possible(&self) -> bool {
        self.body_bytes <= BODY_BYTES_MAX
            && (self.body_bytes == 0) == (self.records == 0)
            && self.base_offset.0 <= COUNT_MAX
            && self.epoch <= COUNT_MAX
            && self.watermark <= self.base_offset
            && self.log_start <= self.watermark
    }
}

fn batch_crc(segment: &SegmentId, bytes: &[u8; BATCH_HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&segment.0), &bytes[8..])
}

fn put(bytes: &mut [u8; BATCH_HEADER_BYTES], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The `N` bytes at `at`, which must be there.
pub(super) fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment_header() -> SegmentHeader {
        SegmentHeader {
            partition: PartitionId(3),
            directory: DirectoryId([1; 16]),
            segment: SegmentId([2; 16]),
            number: 7,
            epoch: 5,
            made_unix_ms: 1_700_000_000_000,
            file_bytes: 1 << 20,
        }
    }

    fn batch_header() -> BatchHeader {
        BatchHeader {
            body_bytes: 100,
            records: 2,
            base_offset: Offset(40),
            epoch: 5,
            watermark: Offset(38),
            sealed_unix_ms: 1_700_000_000_001,
            previous_crc: 0xDEAD_BEEF,
            is_last: true,
            log_start: Offset(9),
        }
    }

    #[test]
    fn headers_come_back_as_they_went_out() {
        let header = segment_header();
        let bytes = header.encode();
        assert_eq!(bytes.len() as u64, SEGMENT_HEADER_BYTES);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header.clone()));
        let batch = batch_header();
        let bytes = batch.encode(&header.segment);
        assert_eq!(BatchHeader::decode(&bytes, &header.segment), Ok(batch));
        assert_eq!((batch.bytes(), batch.next_offset()), (64 + 104, Offset(42)));
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let header = segment_header();
        let mut bytes = header.encode();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let mut bytes = batch_header().encode(&header.segment);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchHeader::decode(&bytes, &header.segment).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_batch_of_another_segment_is_none() {
        let bytes = batch_header().encode(&SegmentId([2; 16]));
        assert_eq!(BatchHeader::decode(&bytes, &SegmentId([3; 16])), Err(HeaderError::Checksum));
    }

    #[test]
    fn zeros_and_impossible_values_are_no_headers() {
        let segment = SegmentId([0; 16]);
        assert_eq!(BatchHeader::decode(&[0; 64], &segment), Err(HeaderError::Magic));
        assert_eq!(BatchHeader::decode(&[0; 63], &segment), Err(HeaderError::Short));
        assert_eq!(SegmentHeader::decode(&[0; 4096]), Err(HeaderError::Magic));
        assert_eq!(SegmentHeader::decode(&[0; 4095]), Err(HeaderError::Short));
        let good = batch_header();
        for bad in [
            BatchHeader { body_bytes: 0, ..good },
            BatchHeader { records: 0, ..good },
            BatchHeader { body_bytes: BODY_BYTES_MAX + 1, ..good },
            BatchHeader { base_offset: Offset(u64::MAX), ..good },
            BatchHeader { base_offset: Offset(COUNT_MAX + 1), ..good },
            BatchHeader { epoch: COUNT_MAX + 1, ..good },
            BatchHeader { watermark: Offset(41), ..good },
            BatchHeader { log_start: Offset(39), ..good },
        ] {
            let bytes = bad.encode(&segment);
            assert_eq!(BatchHeader::decode(&bytes, &segment), Err(HeaderError::Value), "{bad:?}");
        }
        for bad in [
            SegmentHeader { file_bytes: SEGMENT_HEADER_BYTES, ..segment_header() },
            SegmentHeader { number: u64::MAX, ..segment_header() },
            SegmentHeader { epoch: COUNT_MAX + 1, ..segment_header() },
        ] {
            assert_eq!(SegmentHeader::decode(&bad.encode()), Err(HeaderError::Value), "{bad:?}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = segment_header().encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Version(2)));
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(segment_name(12), "00000000000000000012.log");
        assert_eq!(number_of(&segment_name(12), SEGMENT_SUFFIX), Some(12));
        assert_eq!(number_of(&index_name(u64::MAX), INDEX_SUFFIX), Some(u64::MAX));
        for name in ["12.log", "0000000000000000001x.log", "00000000000000000012.log.tmp"] {
            assert_eq!(number_of(name, SEGMENT_SUFFIX), None, "{name}");
        }
        assert_eq!(partition_directory(PartitionId(3)), "partitions/0003");
    }
}
