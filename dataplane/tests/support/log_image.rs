//! Logs made by hand: a builder that writes the format as the document says, and files in memory
//! that can be damaged at will.

#![allow(dead_code, reason = "each test uses a part of it")]

use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::format::{
    BATCH_HEADER_BYTES, BatchHeader, DirectoryId, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentId,
    align, segment_name,
};
use ringlane_dataplane::log::record::{
    EXPIRY_NONE, Record, RecordFlags, RecordHead, RecordKind, encode,
};
use ringlane_dataplane::log::scan::LogOwner;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The partition directory of every log in memory.
pub(crate) const DIRECTORY: &str = "/data/partitions/0003";

/// The file of a segment.
pub(crate) fn segment_path(number: u64) -> PathBuf {
    Path::new(DIRECTORY).join(segment_name(number))
}

/// Files in memory; changes are durable at once.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    pub(crate) files: BTreeMap<PathBuf, Vec<u8>>,
}

impl Image {
    pub(crate) fn segment(&mut self, number: u64) -> &mut Vec<u8> {
        self.files.entry(segment_path(number)).or_default()
    }

    fn existing(&self, path: &Path) -> io::Result<&Vec<u8>> {
        self.files.get(path).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl StartFiles for Image {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let inside = self.files.keys().filter(|path| path.parent() == Some(directory));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(self.existing(path)?.len() as u64)
    }

    fn read_at(&self, path: &Path, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.existing(path)?.get(position as usize..).unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn zero_from(&mut self, path: &Path, position: u64) -> io::Result<()> {
        let bytes = self.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?;
        if let Some(rest) = bytes.get_mut(position as usize..) {
            rest.fill(0);
        }
        Ok(())
    }

    fn remove(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        for path in paths {
            self.files.remove(path);
        }
        Ok(())
    }

    fn replace(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.files.insert(path.to_owned(), content.to_vec());
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let bytes = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn make_directory(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        self.existing(path).map(|_| ())
    }

    fn sync_directory(&mut self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// A record with nothing borrowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) offset: u64,
    pub(crate) epoch: u64,
    pub(crate) client_id: String,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

impl Stored {
    pub(crate) fn of(record: &Record<'_>) -> Self {
        Self {
            offset: record.head.offset.0,
            epoch: record.head.epoch,
            client_id: record.client_id.to_owned(),
            topic: record.topic.to_owned(),
            payload: record.payload.to_vec(),
        }
    }
}

/// Where a batch lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Placed {
    pub(crate) segment: u64,
    pub(crate) position: u64,
    pub(crate) header: BatchHeader,
}

impl Placed {
    /// The bytes that matter: without padding.
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        let begin = self.position as usize;
        begin..begin + BATCH_HEADER_BYTES + self.header.body_bytes as usize
    }
}

/// Writes a log.
#[derive(Clone)]
pub(crate) struct LogBuilder {
    pub(crate) image: Image,
    pub(crate) owner: LogOwner,
    pub(crate) epoch: u64,
    /// The flushed mark; each batch says what it was when the batch was sealed.
    pub(crate) flushed: u64,
    pub(crate) next: u64,
    pub(crate) log_start: u64,
    pub(crate) unix_ms: u64,
    pub(crate) records: Vec<Stored>,
    pub(crate) batches: Vec<Placed>,
    pub(crate) segment_bytes: u64,
    number: u64,
    position: u64,
    previous_crc: u32,
    salt: u8,
}

pub(crate) fn owner(directory: u8) -> LogOwner {
    LogOwner { directory: DirectoryId([directory; 16]), partition: PartitionId(3) }
}

impl LogBuilder {
    pub(crate) fn new(owner: LogOwner, segment_bytes: u64) -> Self {
        let mut builder = Self {
            image: Image::default(),
            owner,
            epoch: 1,
            flushed: 0,
            next: 0,
            log_start: 0,
            unix_ms: 1_700_000_000_000,
            records: Vec::new(),
            batches: Vec::new(),
            segment_bytes,
            number: 0,
            position: 0,
            previous_crc: 0,
            salt: owner.directory.0[0],
        };
        builder.begin_segment(0);
        builder
    }

    /// Makes a segment and goes on in it.
    pub(crate) fn begin_segment(&mut self, number: u64) {
        let header = self.segment_header(number);
        let mut bytes = header.encode();
        self.previous_crc = SegmentHeader::crc_of(&bytes);
        bytes.resize(self.segment_bytes as usize, 0);
        *self.image.segment(number) = bytes;
        (self.number, self.position) = (number, SEGMENT_HEADER_BYTES);
    }

    /// Makes a segment that is not used yet.
    pub(crate) fn prepare_segment(&mut self, number: u64) {
        let mut bytes = self.segment_header(number).encode();
        bytes.resize(self.segment_bytes as usize, 0);
        *self.image.segment(number) = bytes;
    }

    fn segment_header(&self, number: u64) -> SegmentHeader {
        SegmentHeader {
            partition: self.owner.partition,
            directory: self.owner.directory,
            segment: SegmentId([self.salt.wrapping_mul(31).wrapping_add(number as u8); 16]),
            number,
            epoch: self.epoch,
            made_unix_ms: self.unix_ms,
            file_bytes: self.segment_bytes,
        }
    }

    /// Goes on where recovery says.
    pub(crate) fn resume(&mut self, image: Image, next: u64, number: u64, position: u64, crc: u32) {
        self.image = image;
        self.epoch += 1;
        (self.next, self.flushed) = (next, next);
        (self.number, self.position, self.previous_crc) = (number, position, crc);
        self.records.truncate(next as usize);
        self.batches.retain(|batch| {
            (batch.segment, batch.position) < (number, position) && batch.segment <= number
        });
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that are left, without those for the closing batch.
    pub(crate) fn room(&self) -> u64 {
        self.segment_bytes.saturating_sub(self.position + 2 * BATCH_HEADER_BYTES as u64)
    }

    /// A batch of messages with these payloads, and topics `t/{offset mod 4}`.
    pub(crate) fn batch(&mut self, payloads: &[Vec<u8>]) {
        let mut body = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            let offset = self.next + index as u64;
            let topic = format!("t/{}", offset % 4);
            let client_id = format!("client-{}", offset % 3);
            let record = Record {
                head: RecordHead {
                    offset: Offset(offset),
                    unix_ms: self.unix_ms,
                    epoch: self.epoch,
                    kind: RecordKind::PUBLISH,
                    flags: RecordFlags::new((1 + offset % 2) as u8, offset.is_multiple_of(7)),
                    packet_id: if offset.is_multiple_of(2) { 0 } else { 9 },
                    expiry_secs: EXPIRY_NONE,
                },
                client_id: &client_id,
                topic: &topic,
                properties: &[],
                payload,
            };
            self.records.push(Stored::of(&record));
            encode(self.owner.seed(), &record, &mut body);
        }
        self.put(payloads.len() as u32, &body, false);
    }

    /// A closing batch: marks alone.
    pub(crate) fn close(&mut self) {
        self.put(0, &[], false);
    }

    /// Ends the segment with a closing batch, and goes on in the next one.
    pub(crate) fn roll(&mut self) {
        self.put(0, &[], true);
        self.begin_segment(self.number + 1);
    }

    /// All so far is durable.
    pub(crate) fn flush(&mut self) {
        self.flushed = self.next;
    }

    fn put(&mut self, records: u32, body: &[u8], is_last: bool) {
        let header = BatchHeader {
            body_bytes: body.len() as u32,
            records,
            base_offset: Offset(self.next),
            epoch: self.epoch,
            watermark: Offset(self.flushed),
            sealed_unix_ms: self.unix_ms,
            previous_crc: self.previous_crc,
            is_last,
            log_start: Offset(self.log_start.min(self.flushed)),
        };
        let (number, at) = (self.number, self.position as usize);
        let encoded = header.encode(&self.segment_header(number).segment);
        self.previous_crc = BatchHeader::crc_of(&encoded);
        let file = self.image.segment(number);
        let end = at + BATCH_HEADER_BYTES + align(body.len() as u64) as usize;
        assert!(end <= file.len(), "the batch does not fit");
        file[at..at + BATCH_HEADER_BYTES].copy_from_slice(&encoded);
        file[at + BATCH_HEADER_BYTES..at + BATCH_HEADER_BYTES + body.len()].copy_from_slice(body);
        self.batches.push(Placed { segment: number, position: self.position, header });
        self.position = end as u64;
        self.next += u64::from(records);
        self.unix_ms += 5;
    }
}
