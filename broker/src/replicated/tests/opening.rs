//! Opening the log of a node as a start of the broker does (`startup/replicas`), on a disk in memory.

use super::node::directory;
use crate::durable::{Checkpoints, Recovery};
use crate::startup::checkpoints::{self, PartitionReplay};
use crate::startup::learn::{self, LearnError};
use crate::startup::replicas;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::{
    BATCH_HEADER_BYTES, SEGMENT_HEADER_BYTES, SEGMENT_SUFFIX, number_of, segment_name,
};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::log::recovery::{RecoverError, Recovered, ReplayFrom, inspect, recover};
use ringlane_dataplane::log::scan::{Chain, GoodBatch, LogOwner, Segment, SegmentScan, Step};
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::replication::epochs::EpochTable;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a log is not opened or changed.
#[derive(Debug)]
pub(super) enum Refused {
    /// It is damaged: the operator of its node is to replace it.
    Damaged(String),
    /// There is no room on the disk: again when there is.
    NoRoom(String),
}

pub(super) fn refused_learn(error: &LearnError) -> Refused {
    let no_room = matches!(error, LearnError::Files { error, .. } if is_no_room(error));
    refused(no_room, error)
}

pub(super) fn refused_log(error: &RecoverError) -> Refused {
    let no_room = matches!(error, RecoverError::Io { error, .. } if is_no_room(error));
    refused(no_room, error)
}

fn is_no_room(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::StorageFull
}

fn refused(no_room: bool, error: &impl std::fmt::Display) -> Refused {
    let why = error.to_string();
    if no_room { Refused::NoRoom(why) } else { Refused::Damaged(why) }
}

/// A log, and the state that its start begins with.
pub(super) struct OpenedLog {
    pub(super) recovered: Recovered,
    pub(super) recovery: Recovery,
    pub(super) checkpoints: Checkpoints,
    pub(super) epochs: EpochTable,
    /// Records that were read.
    pub(super) read: u64,
}

/// Opens a log, with the state of its newest checkpoint. One that is not flawed is read as a whole, to see that nothing of
/// it goes by that checkpoint alone.
pub(super) fn open(
    files: &mut MemoryDisk,
    setup: &LogSetup,
    partitions: u32,
    is_flawed: bool,
) -> Result<OpenedLog, Refused> {
    let (path, owner) =
        (&setup.directory, LogOwner { directory: setup.directory_id, partition: setup.partition });
    learn::put_in_place(files, setup, partitions, 0).map_err(|error| refused_learn(&error))?;
    let replay = checkpoints::newest(files, path, &owner, partitions);
    let replay = replay.map_err(|error| refused(false, &error))?;
    let PartitionReplay { recovery, found } = replay;
    let mut read = 0;
    let from = recovery.replay_from();
    let recovered = recover(files, path, &owner, from.as_ref(), &mut |_| read += 1);
    let recovered = recovered.map_err(|error| refused_log(&error))?;
    if recovery.applied().is_none() && recovered.log_start.0 > 0 {
        let start = recovered.log_start.0;
        return Err(Refused::Damaged(format!(
            "no checkpoint goes with a log that begins at {start}"
        )));
    }
    let known = recovery.known_epochs();
    let epochs = |known| {
        let found = replicas::epochs(files, setup.partition, path, &recovered, &recovery, known);
        found.map(|found| found.table).map_err(|error| refused(false, &error))
    };
    let read_whole = if is_flawed { None } else { Some(epochs(None)?) };
    let epochs = epochs(known.as_ref())?;
    let is_right = read_whole.is_none_or(|read_whole| read_whole == epochs);
    assert!(is_right, "what a checkpoint knows of the epochs is what the log says: {epochs:?}");
    Ok(OpenedLog { recovered, recovery, checkpoints: found.into_kept(), epochs, read })
}

/// All checkpoints, newest first, and how long they are.
pub(super) fn checkpoints(files: &MemoryDisk, path: &Path) -> Vec<(PathBuf, u64)> {
    let paths = checkpoints::list(files, path).unwrap_or_default();
    let length = |path: &Path| files.len(path).expect("it is listed");
    paths.into_iter().map(|path| (path.clone(), length(&path))).collect()
}

/// Where the batches are that a start reads and of which a later one says that they were flushed.
pub(super) fn flushed_batches(
    files: &MemoryDisk,
    path: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Vec<(PathBuf, Range<u64>)> {
    let from = replay_from(files, path, owner, partitions);
    let mut batches = Vec::new();
    let _looked = inspect(files, path, owner, from.as_ref(), Offset(0), &mut |segment, batch| {
        let place = place_of(path, segment, batch);
        batches.push((place, batch.header.next_offset(), batch.header.watermark));
    });
    let is_behind = |at: usize, next: Offset| {
        batches[at + 1..].iter().any(|(_, _, watermark)| next <= *watermark)
    };
    let all = batches.iter().enumerate().filter(|(at, (_, next, _))| is_behind(*at, *next));
    all.filter(|(_, (_, next, _))| next.0 > 0).map(|(_, (place, ..))| place.clone()).collect()
}

/// Where the batches are in front of the newest checkpoint, which a start does not read.
pub(super) fn unread_batches(
    files: &MemoryDisk,
    path: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Vec<(PathBuf, Range<u64>)> {
    let Some(from) = replay_from(files, path, owner, partitions) else { return Vec::new() };
    let mut batches = Vec::new();
    let _looked = inspect(files, path, owner, None, Offset(0), &mut |segment, batch| {
        if (segment, batch.position) < (from.segment, from.position) {
            batches.push(place_of(path, segment, batch));
        }
    });
    batches
}

fn replay_from(
    files: &MemoryDisk,
    path: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Option<ReplayFrom> {
    let replay = checkpoints::newest(files, path, owner, partitions);
    replay.ok().and_then(|replay| replay.recovery.replay_from())
}

fn place_of(path: &Path, segment: u64, batch: &GoodBatch<'_>) -> (PathBuf, Range<u64>) {
    let end = batch.position + (BATCH_HEADER_BYTES + batch.body().len()) as u64;
    (path.join(segment_name(segment)), batch.position..end)
}

/// Reads a log beside its writer.
pub(super) fn read_log(
    files: &MemoryDisk,
    owner: &LogOwner,
    range: Range<Offset>,
    each: &mut dyn FnMut(&Record<'_>),
) -> Result<(), String> {
    let path = directory(owner.partition.0);
    let mut next = range.start;
    // What was trimmed may vanish meanwhile.
    for number in segments(files, &path) {
        let segment = Segment::open(files, &path, number, owner);
        let segment = segment.map_err(|error| format!("segment {number}: {error}"))?;
        let mut scan = SegmentScan::new(files, &segment, SEGMENT_HEADER_BYTES, Chain::default());
        while let Step::Batch(batch) = scan.step().expect("a disk in memory") {
            for record in batch.records().filter(|record| record.head.offset < range.end) {
                if record.head.offset == next {
                    next.0 += 1;
                    each(&record);
                }
            }
        }
    }
    if next < range.end { Err(format!("{next:?} of {range:?} cannot be read")) } else { Ok(()) }
}

/// The segments of a log, in order.
pub(super) fn segments(files: &MemoryDisk, path: &Path) -> Vec<u64> {
    let names = files.list(path).unwrap_or_default();
    let mut numbers: Vec<_> =
        names.iter().filter_map(|name| number_of(name, SEGMENT_SUFFIX)).collect();
    numbers.sort_unstable();
    numbers
}
