//! Opening the log of a node as a start of the broker does (`startup/replicas`), on a disk in memory.

use crate::durable::{Checkpoints, Recovery};
use crate::startup::checkpoints::{self, PartitionReplay};
use crate::startup::{learn, replicas};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::{BATCH_HEADER_BYTES, segment_name};
use ringlane_dataplane::log::recovery::{Recovered, inspect, recover};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::replication::epochs::EpochTable;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why a node does not start: its operator is to replace it.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

fn refused(error: impl std::fmt::Display) -> Refused {
    Refused(error.to_string())
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

/// Opens a log, with the state of its newest checkpoint.
pub(super) fn open(
    files: &mut MemoryDisk,
    setup: &LogSetup,
    partitions: u32,
) -> Result<OpenedLog, Refused> {
    let (path, owner) =
        (&setup.directory, LogOwner { directory: setup.directory_id, partition: setup.partition });
    learn::put_in_place(files, setup, partitions, 0).map_err(refused)?;
    let replay = checkpoints::newest(files, path, &owner, partitions).map_err(refused)?;
    let PartitionReplay { recovery, found } = replay;
    let mut read = 0;
    let from = recovery.replay_from();
    let recovered = recover(files, path, &owner, from.as_ref(), &mut |_| read += 1);
    let recovered = recovered.map_err(refused)?;
    if recovery.applied().is_none() && recovered.log_start.0 > 0 {
        let start = recovered.log_start.0;
        return Err(Refused(format!("no checkpoint goes with a log that begins at {start}")));
    }
    let known = recovery.known_epochs();
    let epochs = |known| {
        let found = replicas::epochs(files, setup.partition, path, &recovered, &recovery, known);
        found.expect("it can be read").table
    };
    let read_whole = epochs(None);
    let epochs = epochs(known.as_ref());
    assert_eq!(epochs, read_whole, "what a checkpoint knows of the epochs is what the log says");
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
    let replay = checkpoints::newest(files, path, owner, partitions);
    let from = replay.ok().and_then(|replay| replay.recovery.replay_from());
    let mut batches = Vec::new();
    let _looked = inspect(files, path, owner, from.as_ref(), Offset(0), &mut |segment, batch| {
        let end = batch.position + (BATCH_HEADER_BYTES + batch.body().len()) as u64;
        let place = (path.join(segment_name(segment)), batch.position..end);
        batches.push((place, batch.header.next_offset(), batch.header.watermark));
    });
    let is_behind = |at: usize, next: Offset| {
        batches[at + 1..].iter().any(|(_, _, watermark)| next <= *watermark)
    };
    let all = batches.iter().enumerate().filter(|(at, (_, next, _))| is_behind(*at, *next));
    all.filter(|(_, (_, next, _))| next.0 > 0).map(|(_, (place, ..))| place.clone()).collect()
}
