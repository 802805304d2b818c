//! The layout of a record, byte for byte (docs/formats/log.md).
//!
//! Whoever accepts a message calls [`put`] on the batch buffer, and [`put_checksums`] when no more
//! come, or [`encode`] for a single one; whoever reads one back calls [`decode`], or [`Records`] for a whole batch body. A record lies the same way in memory, in a
//! segment and in a checkpoint, and never moves once its batch is read by others.
//!
//! The checksum begins with a [`RecordSeed`], made of the directory's identity and the partition,
//! and covers epoch and offset: what passes is the record of this log with this epoch and offset,
//! whatever an older file or another log left in a block.

use super::checksum::{AT_ONCE, checksums};
use super::format::{DirectoryId, u16_at, u32_at, u64_at};
use crate::ids::{Offset, PartitionId};
use core::fmt;

/// Bytes of a record before its client identifier.
pub const RECORD_HEAD_BYTES: usize = 48;
/// [`RecordHead::expiry_secs`] of a message that does not expire.
pub const EXPIRY_NONE: u32 = u32::MAX;

/// What the checksums of one partition's records begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordSeed(u32);

impl RecordSeed {
    /// The seed of a partition of a data directory: CRC-32C of both.
    #[must_use]
    pub fn new(directory: &DirectoryId, partition: PartitionId) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(&directory.0), &partition.0.to_le_bytes()))
    }
}

/// The checksum of bytes that are no record, such as the header of a checkpoint: CRC-32C.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RecordKind(pub u8);

impl RecordKind {
    /// A message.
    pub const PUBLISH: Self = Self(1);
    /// The first kind of a state record (docs/formats/state.md); all above it are, too.
    pub const STATE_FIRST: Self = Self(16);
    /// The first record of a leader's epoch: it says nothing else (docs/formats/state.md).
    pub const EPOCH_START: Self = Self(64);

    /// Whether it tells of the state of sessions rather than being a message.
    #[must_use]
    pub fn is_state(self) -> bool {
        self.0 >= Self::STATE_FIRST.0
    }
}

/// Properties of a message, in one byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RecordFlags(pub u8);

impl RecordFlags {
    const QOS: u8 = 0b0_0011;
    const RETAIN: u8 = 0b0_0100;
    const MEMORY: u8 = 0b0_1000;
    const CAPTURED: u8 = 0b1_0000;
    const WILL: u8 = 0b10_0000;

    /// A message of this quality of service.
    #[must_use]
    pub fn new(qos: u8, retain: bool) -> Self {
        Self((qos & Self::QOS) | if retain { Self::RETAIN } else { 0 })
    }

    /// The same, acknowledged at the level `memory` rather than `local_disk`.
    #[must_use]
    pub fn with_memory(self) -> Self {
        Self(self.0 | Self::MEMORY)
    }

    /// The same, QoS 0 that a stream captured.
    #[must_use]
    pub fn with_captured(self) -> Self {
        Self(self.0 | Self::CAPTURED)
    }

    /// The same, the will of its client, which has none any more.
    #[must_use]
    pub fn with_will(self) -> Self {
        Self(self.0 | Self::WILL)
    }

    /// Quality of service of the publish: 0, 1 or 2.
    #[must_use]
    pub fn qos(self) -> u8 {
        self.0 & Self::QOS
    }

    /// Whether it was published with RETAIN set.
    #[must_use]
    pub fn retain(self) -> bool {
        self.0 & Self::RETAIN != 0
    }

    /// Whether it was acknowledged at the level `memory`.
    #[must_use]
    pub fn memory(self) -> bool {
        self.0 & Self::MEMORY != 0
    }

    /// Whether it is QoS 0 that a stream captured.
    #[must_use]
    pub fn captured(self) -> bool {
        self.0 & Self::CAPTURED != 0
    }

    /// Whether it is the will of its client, which has none any more.
    #[must_use]
    pub fn will(self) -> bool {
        self.0 & Self::WILL != 0
    }
}

/// The fixed part of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHead {
    /// Its offset in the partition.
    pub offset: Offset,
    /// When the broker accepted it (Unix time, ms).
    pub unix_ms: u64,
    /// The epoch in which it was accepted: (epoch, offset) names one record for ever.
    pub epoch: u64,
    /// What it is.
    pub kind: RecordKind,
    /// Properties of a message; 0 in a state record unless its kind says otherwise.
    pub flags: RecordFlags,
    /// Packet identifier of a QoS 2 publish, otherwise 0.
    pub packet_id: u16,
    /// Message expiry interval, counted from `unix_ms`, in seconds; [`EXPIRY_NONE`] for none.
    pub expiry_secs: u32,
}

impl RecordHead {
    /// Whether it is a message and nothing else: neither a record of state, nor one of a QoS 2 publish that is to be
    /// released, nor a will that its client has no more.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let is_released = self.flags.qos() == 2 && self.packet_id != 0;
        self.kind == RecordKind::PUBLISH && !is_released && !self.flags.will()
    }
}

/// A record: its head and its variable parts, borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// The fixed part.
    pub head: RecordHead,
    /// Client identifier of the publisher, or of the session that a state record is about.
    pub client_id: &'a str,
    /// Topic name, or the filter of a state record that has one.
    pub topic: &'a str,
    /// Forwarded properties in MQTT 5 wire form, without their length.
    pub properties: &'a [u8],
    /// Payload, or the body of a state record.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes of the record when encoded.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.variable().record_bytes()
    }

    fn variable(&self) -> Variable<'_> {
        let Self { client_id, topic, properties, payload, .. } = *self;
        Variable { client_id: client_id.as_bytes(), topic, properties, payload }
    }
}

/// Appends a record to `out`, whole.
///
/// # Panics
/// As [`put`].
pub fn encode(seed: RecordSeed, record: &Record<'_>, out: &mut Vec<u8>) {
    let at = out.len();
    put(&record.head, &record.variable(), out);
    put_checksums(seed, &mut out[at..]);
}

/// What records are appended to.
pub trait Out {
    /// The next so many bytes, to be overwritten.
    fn grow(&mut self, bytes: usize) -> &mut [u8];
}

impl Out for Vec<u8> {
    fn grow(&mut self, bytes: usize) -> &mut [u8] {
        let at = self.len();
        self.resize(at + bytes, 0);
        &mut self[at..]
    }
}

/// The variable parts of a record, on their way into one.
#[derive(Clone, Copy, Debug)]
pub struct Variable<'a> {
    /// Client identifier; UTF-8, which nobody checks here.
    pub client_id: &'a [u8],
    /// Topic name or filter.
    pub topic: &'a str,
    /// Properties.
    pub properties: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl Variable<'_> {
    /// Bytes of the record when encoded.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        let text = self.client_id.len() + self.topic.len();
        RECORD_HEAD_BYTES + text + self.properties.len() + self.payload.len()
    }
}

/// Appends a record to `out`, without its checksum: one copy.
///
/// # Panics
/// If a text is longer than 65,535 bytes or the record longer than 4 GiB: MQTT has neither, and
/// what cannot be written must not be acknowledged.
pub fn put(head: &RecordHead, variable: &Variable<'_>, out: &mut impl Out) {
    let Variable { client_id, topic, properties, payload } = *variable;
    let bytes = variable.record_bytes();
    assert!(
        client_id.len() <= usize::from(u16::MAX)
            && topic.len() <= usize::from(u16::MAX)
            && bytes <= u32::MAX as usize,
        "a record of {bytes} bytes does not fit its format"
    );
    let place = out.grow(bytes).split_first_chunk_mut::<RECORD_HEAD_BYTES>();
    let (fixed, rest) = place.expect("a record has a head");
    fixed[..4].fill(0);
    fixed[4..8].copy_from_slice(&(bytes as u32).to_le_bytes());
    fixed[8..16].copy_from_slice(&head.offset.0.to_le_bytes());
    fixed[16..24].copy_from_slice(&head.unix_ms.to_le_bytes());
    fixed[24..32].copy_from_slice(&head.epoch.to_le_bytes());
    fixed[32] = head.kind.0;
    fixed[33] = head.flags.0;
    fixed[34..36].copy_from_slice(&(client_id.len() as u16).to_le_bytes());
    fixed[36..38].copy_from_slice(&(topic.len() as u16).to_le_bytes());
    fixed[38..40].copy_from_slice(&head.packet_id.to_le_bytes());
    fixed[40..44].copy_from_slice(&(properties.len() as u32).to_le_bytes());
    fixed[44..48].copy_from_slice(&head.expiry_secs.to_le_bytes());
    let rest = put_part(rest, client_id);
    let rest = put_part(rest, topic.as_bytes());
    let rest = if properties.is_empty() { rest } else { put_part(rest, properties) };
    rest.copy_from_slice(payload);
}

/// Copies a part to the front of `place`; what is behind it.
fn put_part<'a>(place: &'a mut [u8], part: &[u8]) -> &'a mut [u8] {
    let (front, rest) = place.split_at_mut(part.len());
    front.copy_from_slice(part);
    rest
}

/// Puts the checksums into records that lie one behind the other, made by [`put`]. Those of many
/// records at once take a fraction of the time ([`checksums`]), and wait for no byte that was stored just before.
pub fn put_checksums(seed: RecordSeed, records: &mut [u8]) {
    let mut at = 0;
    while at < records.len() {
        // Where each of the next records begins, and where the last of them ends.
        let mut starts = [at; AT_ONCE + 1];
        let mut count = 0;
        while count < AT_ONCE && at < records.len() {
            let len = u32_at(records, at + 4) as usize;
            assert!(
                (RECORD_HEAD_BYTES..=records.len() - at).contains(&len),
                "a record has {len} bytes"
            );
            at += len;
            count += 1;
            starts[count..].fill(at);
        }
        // Those that there are not are empty.
        let of = |record: usize| records.get(starts[record] + 4..starts[record + 1]);
        let crcs = checksums(seed.0, core::array::from_fn(|record| of(record).unwrap_or(&[])));
        for (start, crc) in starts.iter().zip(crcs).take(count) {
            records[*start..*start + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordError {
    /// They end inside of it, or its lengths contradict each other.
    Length,
    /// The checksum does not fit.
    Checksum,
    /// The client identifier or the topic is no UTF-8.
    Text,
    /// It is a good record, but not the one that belongs here: wrong offset or epoch.
    Misplaced,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "its length is impossible",
            Self::Checksum => "its checksum does not fit",
            Self::Text => "its client identifier or topic is no UTF-8",
            Self::Misplaced => "its offset or epoch does not belong here",
        })
    }
}

impl core::error::Error for RecordError {}

/// Bytes of the record that begins with `bytes`, as it says itself; it may be damaged.
///
/// # Errors
/// [`RecordError::Length`]: they end inside of it, or it is shorter than its head.
pub fn bytes_of(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.len() < RECORD_HEAD_BYTES {
        return Err(RecordError::Length);
    }
    let count = u32_at(bytes, 4) as usize;
    if (RECORD_HEAD_BYTES..=bytes.len()).contains(&count) {
        Ok(count)
    } else {
        Err(RecordError::Length)
    }
}

/// Reads the record that begins with `bytes`, after checking its checksum.
///
/// # Errors
/// [`RecordError`]: it is damaged, or no record of this log.
pub fn decode(seed: RecordSeed, bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let bytes = &bytes[..bytes_of(bytes)?];
    if crc32c::crc32c_append(seed.0, &bytes[4..]) != u32_at(bytes, 0) {
        return Err(RecordError::Checksum);
    }
    parse(bytes)
}

/// Reads the record that begins with `bytes` without looking at its checksum: for bytes that this
/// process has encoded, or has checked before.
///
/// # Errors
/// [`RecordError::Length`] or [`RecordError::Text`].
pub fn parse(bytes: &[u8]) -> Result<Record<'_>, RecordError> {
    let bytes = &bytes[..bytes_of(bytes)?];
    let (fixed, rest) = bytes.split_at(RECORD_HEAD_BYTES);
    let (client_id, rest) = split(rest, usize::from(u16_at(fixed, 34)))?;
    let (topic, rest) = split(rest, usize::from(u16_at(fixed, 36)))?;
    let (properties, payload) = split(rest, u32_at(fixed, 40) as usize)?;
    let head = RecordHead {
        offset: Offset(u64_at(fixed, 8)),
        unix_ms: u64_at(fixed, 16),
        epoch: u64_at(fixed, 24),
        kind: RecordKind(fixed[32]),
        flags: RecordFlags(fixed[33]),
        packet_id: u16_at(fixed, 38),
        expiry_secs: u32_at(fixed, 44),
    };
    let text = |bytes| core::str::from_utf8(bytes).map_err(|_| RecordError::Text);
    Ok(Record { head, client_id: text(client_id)?, topic: text(topic)?, properties, payload })
}

fn split(bytes: &[u8], at: usize) -> Result<(&[u8], &[u8]), RecordError> {
    bytes.split_at_checked(at).ok_or(RecordError::Length)
}

/// The records of a batch body, each checked: checksum, epoch, and offsets without a gap.
///
/// After an error it ends.
#[derive(Debug)]
pub struct Records<'a> {
    seed: RecordSeed,
    rest: &'a [u8],
    next: Offset,
    epoch: u64,
}

impl<'a> Records<'a> {
    /// The records in `body`, without its padding, of a batch with this base offset and epoch.
    #[must_use]
    pub fn new(seed: RecordSeed, body: &'a [u8], base_offset: Offset, epoch: u64) -> Self {
        Self { seed, rest: body, next: base_offset, epoch }
    }

    fn take(&mut self) -> Result<Record<'a>, RecordError> {
        let record = decode(self.seed, self.rest)?;
        if record.head.offset != self.next || record.head.epoch != self.epoch {
            return Err(RecordError::Misplaced);
        }
        self.rest = &self.rest[record.bytes()..];
        self.next = Offset(self.next.0.wrapping_add(1));
        Ok(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let taken = self.take();
        if taken.is_err() {
            self.rest = &[];
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: RecordSeed = RecordSeed(0x1234_5678);

    fn head(offset: u64) -> RecordHead {
        RecordHead {
            offset: Offset(offset),
            unix_ms: 1_700_000_000_000,
            epoch: 3,
            kind: RecordKind::PUBLISH,
            flags: RecordFlags::new(1, true).with_memory(),
            packet_id: 0,
            expiry_secs: EXPIRY_NONE,
        }
    }

    fn record(offset: u64) -> Record<'static> {
        Record {
            head: head(offset),
            client_id: "meter-7",
            topic: "a/b",
            properties: &[1, 2],
            payload: b"21.5",
        }
    }

    #[test]
    fn flags_say_what_was_put_in() {
        let flags = RecordFlags::new(2, true).with_captured();
        assert_eq!((flags.qos(), flags.retain(), flags.captured()), (2, true, true));
        assert!(!flags.memory() && !flags.will() && flags.with_will().will());
        assert!(RecordFlags::new(0, false).with_memory().memory());
        assert!(RecordKind(16).is_state() && !RecordKind::PUBLISH.is_state());
    }

    #[test]
    fn a_plain_record_is_a_message_alone() {
        let plain = head(1);
        assert!(plain.is_plain());
        assert!(RecordHead { flags: RecordFlags::new(2, false), ..plain }.is_plain());
        let released = RecordHead { flags: RecordFlags::new(2, false), packet_id: 7, ..plain };
        let will = RecordHead { flags: plain.flags.with_will(), ..plain };
        let state = RecordHead { kind: RecordKind::STATE_FIRST, ..plain };
        let start = RecordHead { kind: RecordKind::EPOCH_START, ..plain };
        assert!([released, will, state, start].iter().all(|head| !head.is_plain()));
    }

    #[test]
    fn every_changed_bit_is_seen() {
        let mut bytes = Vec::new();
        encode(SEED, &record(9), &mut bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(SEED, &bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for end in 0..bytes.len() {
            assert_eq!(decode(SEED, &bytes[..end]), Err(RecordError::Length));
        }
    }

    #[test]
    fn a_record_of_another_log_is_none() {
        let (mut bytes, id) = (Vec::new(), DirectoryId([7; 16]));
        let seed = RecordSeed::new(&id, PartitionId(1));
        encode(seed, &record(9), &mut bytes);
        assert_eq!(decode(seed, &bytes), Ok(record(9)));
        for other in [
            RecordSeed::new(&id, PartitionId(2)),
            RecordSeed::new(&DirectoryId([8; 16]), PartitionId(1)),
        ] {
            assert_eq!(decode(other, &bytes), Err(RecordError::Checksum));
        }
    }

    #[test]
    fn a_body_is_dense_and_of_one_epoch() {
        let mut body = Vec::new();
        for offset in 5..8 {
            encode(SEED, &record(offset), &mut body);
        }
        let read = |base, epoch| Records::new(SEED, &body, Offset(base), epoch).collect::<Vec<_>>();
        assert_eq!(read(5, 3), [Ok(record(5)), Ok(record(6)), Ok(record(7))]);
        assert_eq!(read(4, 3), [Err(RecordError::Misplaced)]);
        assert_eq!(read(5, 2), [Err(RecordError::Misplaced)]);
        body.truncate(body.len() - 1);
        let cut: Vec<_> = Records::new(SEED, &body, Offset(5), 3).collect();
        assert_eq!(cut.last(), Some(&Err(RecordError::Length)));
    }

    #[test]
    fn lengths_that_contradict_each_other_are_no_record() {
        let mut bytes = Vec::new();
        encode(SEED, &record(9), &mut bytes);
        bytes[40] = 200;
        let crc = crc32c::crc32c_append(SEED.0, &bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(SEED, &bytes), Err(RecordError::Length));
    }

    #[test]
    fn checksums_of_any_number_of_records_are_those_of_each() {
        let payload = [7; 300];
        for count in 0..10 {
            let (mut together, mut alone) = (Vec::new(), Vec::new());
            for offset in 0..count {
                let payload = &payload[..offset as usize * 33];
                let record = Record { payload, ..record(offset) };
                put(&record.head, &record.variable(), &mut together);
                encode(SEED, &record, &mut alone);
            }
            put_checksums(SEED, &mut together);
            assert_eq!(together, alone, "{count} records");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            client_id in "\\PC{0,40}",
            topic in "\\PC{0,40}",
            properties in proptest::collection::vec(any::<u8>(), 0..40),
            payload in proptest::collection::vec(any::<u8>(), 0..400),
            numbers: (u64, u64, u64, u16, u32),
            kind: u8,
            flags: u8,
        ) {
            let (offset, unix_ms, epoch, packet_id, expiry_secs) = numbers;
            let head = RecordHead {
                offset: Offset(offset), unix_ms, epoch, packet_id, expiry_secs,
                kind: RecordKind(kind), flags: RecordFlags(flags),
            };
            let record = Record {
                head, client_id: &client_id, topic: &topic,
                properties: &properties, payload: &payload,
            };
            let mut bytes = vec![0xAA; 3];
            encode(SEED, &record, &mut bytes);
            prop_assert_eq!(bytes.len(), 3 + record.bytes());
            prop_assert_eq!(bytes_of(&bytes[3..]), Ok(record.bytes()));
            prop_assert_eq!(decode(SEED, &bytes[3..]), Ok(record));
            prop_assert_eq!(parse(&bytes[3..]), Ok(record));
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(SEED, &bytes).is_err());
            let _ = parse(&bytes);
        }
    }
}
