//! The layout of a checkpoint (docs/formats/state.md): the state of a partition as the records that
//! recovery would have read, and a trailer that says where replay goes on.

use super::bytes::{Input, Output};
use super::model::PartitionState;
use super::records::StateRecord;
use super::snapshot::Piece;
use super::start::Recovery;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::COUNT_MAX;
use ringlane_dataplane::log::format::DirectoryId;
use ringlane_dataplane::log::record::{
    self, EXPIRY_NONE, Record, RecordFlags, RecordHead, RecordKind, Records,
};
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::scan::LogOwner;

const MAGIC: [u8; 8] = *b"RLNGCKP\x01";
const VERSION: u16 = 1;
/// Bytes of the trailer, its checksum included.
pub(super) const TRAILER_BYTES: usize = 128;
/// Where in it the checksum is: of everything in it before.
const CRC_AT: usize = TRAILER_BYTES - 4;
/// What the names of checkpoints end in.
pub(crate) const SUFFIX: &str = ".checkpoint";

/// The name of a checkpoint.
pub(crate) fn file_name(from: &ReplayFrom) -> String {
    format!("{:020}{SUFFIX}", from.offset.0)
}

/// Why a file is no checkpoint that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("its end is damaged or missing")]
    Trailer,
    #[error("it is of version {0}, which this release does not know")]
    Version(u16),
    #[error("it belongs to another data directory or partition")]
    Foreign,
    #[error("its content is damaged or not whole")]
    Content,
    #[error("it has a record that this release cannot read")]
    Record,
}

/// Writes a checkpoint: records from the front, and what it is behind them.
#[derive(Debug)]
pub(crate) struct Encoder {
    owner: LogOwner,
    records: u64,
    /// Bytes of records that were taken out.
    taken: u64,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(owner: LogOwner) -> Self {
        Self { owner, records: 0, taken: 0, body: Vec::new(), scratch: Vec::new() }
    }

    pub(crate) fn append(&mut self, record: &StateRecord<'_>) {
        let Self { owner, records, body, scratch, .. } = self;
        scratch.clear();
        record.encode(scratch);
        let head = RecordHead {
            offset: Offset(*records),
            unix_ms: 0,
            epoch: 0,
            kind: RecordKind(record.kind() as u8),
            flags: RecordFlags::default(),
            packet_id: 0,
            expiry_secs: EXPIRY_NONE,
        };
        let (client_id, topic, payload) = (record.client_id(), record.topic(), &scratch[..]);
        let record = Record { head, client_id, topic, properties: &[], payload };
        record::encode(owner.seed(), &record, body);
        *records += 1;
    }

    /// Whose state it is.
    pub(crate) fn owner(&self) -> LogOwner {
        self.owner
    }

    /// Bytes that can be taken out.
    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    /// Takes out what is to be written next.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.taken += self.body.len() as u64;
        core::mem::take(&mut self.body)
    }

    /// Bytes of the whole so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.taken + self.body.len() as u64
    }

    /// The rest, after the last record.
    pub(crate) fn finish(mut self, from: &ReplayFrom) -> Vec<u8> {
        let trailer = trailer(&self.owner, from, self.records, self.bytes());
        self.body.extend_from_slice(&trailer);
        self.body
    }
}

/// Writes the state of a partition as it is where replay begins.
pub(crate) fn encode(owner: &LogOwner, from: &ReplayFrom, state: &PartitionState) -> Vec<u8> {
    let mut encoder = Encoder::new(*owner);
    let mut piece = Piece::Head;
    while piece != Piece::Done {
        piece = state.snapshot(piece, u32::MAX, &mut |record| encoder.append(record));
    }
    for (topic, retained) in &state.retained {
        encoder.append(&StateRecord::Retained { topic, retained: retained.body() });
    }
    encoder.append(&StateRecord::RetainedCursors { cursors: state.retained_cursors() });
    encoder.finish(from)
}

fn trailer(owner: &LogOwner, from: &ReplayFrom, records: u64, bytes: u64) -> Vec<u8> {
    let mut trailer = MAGIC.to_vec();
    let mut out = Output(&mut trailer);
    out.u16(VERSION);
    out.u16(0);
    out.u32(owner.partition.0);
    out.0.extend_from_slice(&owner.directory.0);
    for number in [from.offset.0, from.segment, from.position, from.flushed.0, records, bytes] {
        out.u64(number);
    }
    trailer.resize(CRC_AT, 0);
    let crc = record::checksum(&trailer);
    trailer.extend_from_slice(&crc.to_le_bytes());
    trailer
}

/// Reads a checkpoint: the state in it, and where replay goes on.
///
/// # Errors
/// [`CheckpointError`]: it cannot be used. An older one, or the whole log, takes its place.
pub(crate) fn decode(
    owner: &LogOwner,
    partitions: u32,
    file: &[u8],
) -> Result<(ReplayFrom, Recovery), CheckpointError> {
    let mut recovery = Recovery::new(partitions);
    let from = read(owner, file, &mut |record| recovery.on_state(record))?;
    if recovery.has_failed() {
        return Err(CheckpointError::Record);
    }
    Ok((from, recovery))
}

/// Checks a checkpoint whole, as [`decode`] does, and where replay goes on behind it.
///
/// # Errors
/// As [`decode`].
pub(crate) fn verify(owner: &LogOwner, file: &[u8]) -> Result<ReplayFrom, CheckpointError> {
    let mut readable = true;
    let from = read(owner, file, &mut |record| {
        let Record { head, client_id, topic, payload, .. } = *record;
        readable &= StateRecord::decode(head.kind.0, client_id, topic, payload).is_ok();
    })?;
    if readable { Ok(from) } else { Err(CheckpointError::Record) }
}

fn read(
    owner: &LogOwner,
    file: &[u8],
    each: &mut dyn FnMut(&Record<'_>),
) -> Result<ReplayFrom, CheckpointError> {
    let (body, trailer) = split(file)?;
    let (from, records, bytes) = decode_trailer(owner, trailer)?;
    if body.len() as u64 != bytes {
        return Err(CheckpointError::Content);
    }
    let mut count = 0;
    for record in Records::new(owner.seed(), body, Offset(0), 0) {
        each(&record.map_err(|_| CheckpointError::Content)?);
        count += 1;
    }
    if count == records { Ok(from) } else { Err(CheckpointError::Content) }
}

fn split(file: &[u8]) -> Result<(&[u8], &[u8]), CheckpointError> {
    let body = file.len().checked_sub(TRAILER_BYTES).ok_or(CheckpointError::Trailer)?;
    Ok(file.split_at(body))
}

fn decode_trailer(
    owner: &LogOwner,
    trailer: &[u8],
) -> Result<(ReplayFrom, u64, u64), CheckpointError> {
    let parsed = || {
        let mut input = Input(trailer);
        let magic = input.take(MAGIC.len())?;
        let (version, _) = (input.u16()?, input.u16()?);
        let partition = input.u32()?;
        let directory = DirectoryId(input.take(16)?.try_into().ok()?);
        let mut number = || input.u64();
        let from = ReplayFrom {
            offset: Offset(number()?),
            segment: number()?,
            position: number()?,
            flushed: Offset(number()?),
        };
        let (records, bytes) = (number()?, number()?);
        let crc = Input(&trailer[CRC_AT..]).u32()?;
        let good = magic == MAGIC && crc == record::checksum(&trailer[..CRC_AT]);
        good.then_some((version, partition, directory, from, records, bytes))
    };
    let parsed = parsed().ok_or(CheckpointError::Trailer)?;
    let (version, partition, directory, from, records, bytes) = parsed;
    if version != VERSION {
        return Err(CheckpointError::Version(version));
    }
    if partition != owner.partition.0 || directory != owner.directory {
        return Err(CheckpointError::Foreign);
    }
    // What it stands for was durable when it was made: otherwise offsets could be left out.
    let highest = from.flushed.0.max(from.segment).max(from.position);
    if from.flushed < from.offset || COUNT_MAX < highest {
        return Err(CheckpointError::Trailer);
    }
    Ok((from, records, bytes))
}

/// Where replay goes on behind a checkpoint, whatever is in its records.
///
/// # Errors
/// [`CheckpointError`]: its end cannot be used.
pub(crate) fn place(owner: &LogOwner, file: &[u8]) -> Result<ReplayFrom, CheckpointError> {
    let (body, trailer) = split(file)?;
    let (from, _, bytes) = decode_trailer(owner, trailer)?;
    if body.len() as u64 == bytes { Ok(from) } else { Err(CheckpointError::Content) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::postings::Place;
    use crate::durable::records::RetainedBody;
    use ringlane_dataplane::ids::PartitionId;

    const OWNER: LogOwner = LogOwner { directory: DirectoryId([7; 16]), partition: PartitionId(1) };
    const FROM: ReplayFrom =
        ReplayFrom { offset: Offset(9), segment: 2, position: 4096, flushed: Offset(9) };

    fn sample() -> PartitionState {
        let mut state = PartitionState::new(2);
        let client_id = "c";
        let will = None;
        state.apply(&StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 9, will });
        state.apply(&StateRecord::Incoming { client_id, packet_ids: vec![4] });
        state.note_epoch(3, 0);
        // In the order of the log; the names are in another.
        for (offset, topic) in [(5, "z"), (9, "m"), (12, "a")] {
            let place = Place { partition: 1, epoch: 3, offset };
            let retained = RetainedBody {
                place,
                memory: offset == 9,
                publisher: 1,
                accepted_ms: 2,
                expiry_secs: None,
                qos: 1,
                properties: &[],
                payload: topic.as_bytes(),
            };
            state.apply(&StateRecord::Retained { topic, retained });
        }
        state
    }

    #[test]
    fn what_was_written_is_read_and_no_changed_byte_is() {
        let file = encode(&OWNER, &FROM, &sample());
        let (from, recovery) = decode(&OWNER, 2, &file).expect("as it was written");
        assert_eq!(from, FROM);
        assert_eq!(verify(&OWNER, &file), Ok(FROM));
        let state = recovery.finish().expect("nothing unknown");
        assert_eq!(state.retained, sample().retained);
        assert_eq!(state.retained_cursors(), sample().retained_cursors());
        assert_eq!(encode(&OWNER, &FROM, &state), file);
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1;
            assert!(decode(&OWNER, 2, &changed).is_err(), "byte {index}");
            assert!(verify(&OWNER, &changed).is_err(), "byte {index}");
            assert!(decode(&OWNER, 2, &file[..index]).is_err(), "cut to {index}");
        }
    }

    #[test]
    fn one_that_is_ahead_of_what_was_durable_is_refused() {
        let decoded = |from: ReplayFrom| decode(&OWNER, 2, &encode(&OWNER, &from, &sample()));
        let offset = Offset(COUNT_MAX + 1);
        for bad in [
            ReplayFrom { flushed: Offset(8), ..FROM },
            ReplayFrom { offset, flushed: offset, ..FROM },
            ReplayFrom { segment: u64::MAX, ..FROM },
            ReplayFrom { position: u64::MAX, ..FROM },
        ] {
            assert_eq!(decoded(bad).err(), Some(CheckpointError::Trailer), "{bad:?}");
        }
        assert!(decoded(ReplayFrom { flushed: Offset(12), ..FROM }).is_ok());
    }

    #[test]
    fn it_belongs_to_one_partition_of_one_directory() {
        let file = encode(&OWNER, &FROM, &sample());
        let other = LogOwner { partition: PartitionId(0), ..OWNER };
        let foreign = LogOwner { directory: DirectoryId([8; 16]), ..OWNER };
        for owner in [other, foreign] {
            assert_eq!(decode(&owner, 2, &file).err(), Some(CheckpointError::Foreign));
        }
    }
}
