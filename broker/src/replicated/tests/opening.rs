//! Opening the log of a node as a start of the broker does (`startup/replicas`), on a disk in memory.

use crate::durable::{Checkpoints, KEPT, Kept, Recovery, checkpoint};
use crate::startup::learn;
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::epoch_table::epoch_table;
use ringlane_dataplane::log::format::{BATCH_HEADER_BYTES, segment_name};
use ringlane_dataplane::log::recovery::{Recovered, inspect, recover};
use ringlane_dataplane::log::reset::LEARNED_NAME;
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
    let (recovery, checkpoints) = newest(files, path, &owner, partitions);
    let mut read = 0;
    let from = recovery.replay_from();
    let recovered = recover(files, path, &owner, from.as_ref(), &mut |_| read += 1);
    let recovered = recovered.map_err(refused)?;
    if recovery.applied().is_none() && recovered.log_start.0 > 0 {
        let start = recovered.log_start.0;
        return Err(Refused(format!("no checkpoint goes with a log that begins at {start}")));
    }
    let found = epoch_table(files, path, &recovered).expect("it can be read");
    let mut epochs = EpochTable::new();
    if let Some((epoch, first)) = recovery.epoch_before(recovered.log_start) {
        epochs.push(epoch, first);
    }
    found.starts().iter().for_each(|start| epochs.push(start.epoch, start.first));
    Ok(OpenedLog { recovered, recovery, checkpoints, epochs, read })
}

/// The state of the newest checkpoint that can be used, and what there is to go on with.
fn newest(
    files: &MemoryDisk,
    path: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> (Recovery, Checkpoints) {
    let (mut kept, mut stale): (Vec<Kept>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    let mut state = None;
    for (path, bytes) in checkpoints(files, path) {
        let file = files.content(&path).expect("it is listed");
        let from = if kept.len() == KEPT {
            None
        } else if state.is_none() {
            checkpoint::decode(owner, partitions, &file).ok().map(|(from, recovery)| {
                state = Some(recovery.behind(from));
                from
            })
        } else {
            checkpoint::verify(owner, &file).ok()
        };
        match from {
            Some(from) => kept.push(Kept { from, path, bytes }),
            None => stale.push(path),
        }
    }
    kept.reverse();
    let learned = path.join(LEARNED_NAME);
    let is_learned = files.content(&learned).is_some();
    if let Some(state) = state {
        stale.extend(is_learned.then_some(learned));
        return (state, Checkpoints::new(kept, stale, None));
    }
    let read = is_learned.then(|| learn::read(files, &learned, owner, partitions));
    match read.and_then(Result::ok) {
        Some((from, recovery)) => (recovery, Checkpoints::learned(learned, from.flushed, None)),
        None => (Recovery::new(partitions), Checkpoints::default()),
    }
}

/// All checkpoints, newest first, and how long they are.
pub(super) fn checkpoints(files: &MemoryDisk, path: &Path) -> Vec<(PathBuf, u64)> {
    let names = files.list(path).unwrap_or_default();
    let mut names: Vec<_> =
        names.into_iter().filter(|name| name.ends_with(checkpoint::SUFFIX)).collect();
    names.sort_unstable();
    let path = names.iter().rev().map(|name| path.join(name));
    path.map(|path| (path.clone(), files.len(&path).expect("it is listed"))).collect()
}

/// Where the batches are that a start reads and of which a later one says that they were flushed.
pub(super) fn flushed_batches(
    files: &MemoryDisk,
    path: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Vec<(PathBuf, Range<u64>)> {
    let (recovery, _) = newest(files, path, owner, partitions);
    let mut batches = Vec::new();
    let from = recovery.replay_from();
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
