//! The layout of a checkpoint (docs/formats/state.md): a header, and the state of a partition as the
//! records that recovery would have read.

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
/// Bytes of the header, its checksum included.
const HEADER_BYTES: usize = 128;
/// Where the checksum is: of everything before it.
const CRC_AT: usize = HEADER_BYTES - 4;

/// Why a file is no checkpoint that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("its header is damaged")]
    Header,
    #[error("it is of version {0}, which this release does not know")]
    Version(u16),
    #[error("it belongs to another data directory or partition")]
    Foreign,
    #[error("its content is damaged or not whole")]
    Content,
    #[error("it has a record that this release cannot read")]
    Record,
}

/// Writes the state of a partition as it is where replay begins.
pub(crate) fn encode(owner: &LogOwner, from: &ReplayFrom, state: &PartitionState) -> Vec<u8> {
    let mut body = Vec::new();
    let (seed, mut count, mut scratch) = (owner.seed(), 0_u64, Vec::new());
    let mut append = |record: &StateRecord<'_>| {
        scratch.clear();
        record.encode(&mut scratch);
        let head = RecordHead {
            offset: Offset(count),
            unix_ms: 0,
            epoch: 0,
            kind: RecordKind(record.kind() as u8),
            flags: RecordFlags::default(),
            packet_id: 0,
            expiry_secs: EXPIRY_NONE,
        };
        let (client_id, topic, payload) = (record.client_id(), record.topic(), &scratch[..]);
        let record = Record { head, client_id, topic, properties: &[], payload };
        record::encode(seed, &record, &mut body);
        count += 1;
    };
    let mut piece = Piece::Head;
    while piece != Piece::Done {
        piece = state.snapshot(piece, u32::MAX, &mut append);
    }
    for (topic, retained) in &state.retained {
        append(&StateRecord::Retained { topic, retained: retained.body() });
    }
    let mut file = header(owner, from, count, body.len() as u64);
    file.extend_from_slice(&body);
    file
}

fn header(owner: &LogOwner, from: &ReplayFrom, records: u64, bytes: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    let mut out = Output(&mut header);
    out.u16(VERSION);
    out.u16(0);
    out.u32(owner.partition.0);
    out.0.extend_from_slice(&owner.directory.0);
    for number in [from.offset.0, from.segment, from.position, from.flushed.0, records, bytes] {
        out.u64(number);
    }
    header.resize(CRC_AT, 0);
    let crc = record::checksum(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header
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
    let (header, body) = file.split_at_checked(HEADER_BYTES).ok_or(CheckpointError::Header)?;
    let (from, records, bytes) = decode_header(owner, header)?;
    if body.len() as u64 != bytes {
        return Err(CheckpointError::Content);
    }
    let mut recovery = Recovery::new(partitions);
    let mut count = 0;
    for record in Records::new(owner.seed(), body, Offset(0), 0) {
        recovery.on_state(&record.map_err(|_| CheckpointError::Content)?);
        count += 1;
    }
    if count != records {
        return Err(CheckpointError::Content);
    }
    if recovery.has_failed() {
        return Err(CheckpointError::Record);
    }
    Ok((from, recovery))
}

fn decode_header(
    owner: &LogOwner,
    header: &[u8],
) -> Result<(ReplayFrom, u64, u64), CheckpointError> {
    let parsed = || {
        let mut input = Input(header);
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
        let crc = Input(&header[CRC_AT..]).u32()?;
        let good = magic == MAGIC && crc == record::checksum(&header[..CRC_AT]);
        good.then_some((version, partition, directory, from, records, bytes))
    };
    let parsed = parsed().ok_or(CheckpointError::Header)?;
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
        return Err(CheckpointError::Header);
    }
    Ok((from, records, bytes))
}

/// Where replay goes on behind a checkpoint, whatever else is in it.
///
/// # Errors
/// [`CheckpointError`]: its header cannot be used.
pub(crate) fn place(owner: &LogOwner, file: &[u8]) -> Result<ReplayFrom, CheckpointError> {
    let header = file.get(..HEADER_BYTES).ok_or(CheckpointError::Header)?;
    decode_header(owner, header).map(|(from, ..)| from)
}

#[cfg(test)]
mod tests {
    use super::*;
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
        state
    }

    #[test]
    fn what_was_written_is_read_and_no_changed_byte_is() {
        let file = encode(&OWNER, &FROM, &sample());
        let (from, recovery) = decode(&OWNER, 2, &file).expect("as it was written");
        assert_eq!(from, FROM);
        let state = recovery.finish().expect("nothing unknown");
        assert_eq!(encode(&OWNER, &FROM, &state), file);
        for index in 0..file.len() {
            let mut changed = file.clone();
            changed[index] ^= 1;
            assert!(decode(&OWNER, 2, &changed).is_err(), "byte {index}");
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
            assert_eq!(decoded(bad).err(), Some(CheckpointError::Header), "{bad:?}");
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
