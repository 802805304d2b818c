//! Checkpoints on the disk: written when a start has put its state together, so that the next one
//! replays only what comes behind. The two newest are kept.

use super::{StartError, learn};
use crate::durable::{BALLAST_NAME, Checkpoints, KEPT, Kept, PartitionState, Recovery, checkpoint};
use ringlane_dataplane::disk::{StartFiles, temporary};
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::recovery::{Recovered, ReplayFrom};
use ringlane_dataplane::log::reset::LEARNED_NAME;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_transport_uring::StdFiles;
use ringlane_transport_uring::failpoint::hit;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

/// Replay of fewer records takes no time worth a checkpoint.
const RECORDS_MIN: u64 = 1000;

/// The checkpoints of a partition, as a start finds and makes them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Those that can be used, newest first.
    usable: Vec<Kept>,
    /// All others.
    stale: Vec<PathBuf>,
    /// Bytes that are kept for the next one.
    ballast: Option<u64>,
    /// One of a leader that the state is made of, and the offset behind which it is right.
    learned: Option<(PathBuf, Offset)>,
}

impl Found {
    /// What the running broker goes on with.
    pub(crate) fn into_kept(mut self) -> Checkpoints {
        self.usable.reverse();
        match self.learned {
            Some((path, right_from)) => Checkpoints::learned(path, right_from, self.ballast),
            None => Checkpoints::new(self.usable, self.stale, self.ballast),
        }
    }
}

/// What the records of a partition come to, and the checkpoints that replay may begin behind.
#[derive(Debug)]
pub(crate) struct PartitionReplay {
    pub(crate) recovery: Recovery,
    pub(crate) found: Found,
}

/// The newest checkpoint of a partition that can be used, or an empty state: then the whole log is
/// read.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn newest<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Result<PartitionReplay, StartError> {
    let mut replay =
        PartitionReplay { recovery: Recovery::new(partitions), found: Found::default() };
    replay.found.ballast = files.len(&directory.join(BALLAST_NAME)).ok();
    for path in list(files, directory)? {
        if replay.found.usable.len() == KEPT {
            replay.found.stale.push(path);
            continue;
        }
        let read = files.read_whole(&path).map_err(|error| error.to_string());
        let decoded = read.and_then(|file| {
            let from = match replay.found.usable.is_empty() {
                true => checkpoint::decode(owner, partitions, &file).map(|(from, recovery)| {
                    replay.recovery = recovery.behind(from);
                    from
                }),
                // It is relied upon when the log is trimmed behind it.
                false => checkpoint::verify(owner, &file),
            };
            let bytes = file.len() as u64;
            from.map(|from| (from, bytes)).map_err(|error| error.to_string())
        });
        match decoded {
            Ok((from, bytes)) => replay.found.usable.push(Kept { from, path, bytes }),
            Err(error) => {
                warn!(
                    partition = owner.partition.0, file = %path.display(), error,
                    "a checkpoint cannot be used: an older one, or the whole log, takes its place"
                );
                replay.found.stale.push(path);
            }
        }
    }
    take_learned(&mut replay, files, directory, owner, partitions);
    Ok(replay)
}

/// A checkpoint that came from a leader stands for the state while there is no other one.
fn take_learned<F: StartFiles + ?Sized>(
    replay: &mut PartitionReplay,
    files: &F,
    directory: &Path,
    owner: &LogOwner,
    partitions: u32,
) {
    let path = directory.join(LEARNED_NAME);
    if files.len(&path).is_err() {
        return;
    }
    if !replay.found.usable.is_empty() {
        return replay.found.stale.push(path);
    }
    match learn::read(files, &path, owner, partitions) {
        Ok((from, recovery)) => {
            replay.recovery = recovery;
            replay.found.learned = Some((path, from.flushed));
        }
        Err(error) => {
            warn!(partition = owner.partition.0, %error, "a leader's checkpoint cannot be used");
        }
    }
}

/// Writes the state of a partition, if much of its log was read for it. What cannot be written is
/// reported and done without: the log has it all.
pub(super) fn write(
    directory: &Path,
    owner: &LogOwner,
    log: &Recovered,
    state: &PartitionState,
    found: &mut Found,
) {
    let Some(from) = replay_from(log).filter(|_| RECORDS_MIN <= log.records) else { return };
    let path = directory.join(checkpoint::file_name(&from));
    let file = checkpoint::encode(owner, &from, state);
    let bytes = file.len() as u64;
    if let Err(error) = publish(directory, &path, &file) {
        warn!(partition = owner.partition.0, %error, "no checkpoint was written");
        return;
    }
    found.stale.retain(|stale| *stale != path);
    found.usable.retain(|kept| kept.path != path);
    found.usable.insert(0, Kept { from, path, bytes });
    let gone = found.usable.drain(KEPT.min(found.usable.len())..);
    found.stale.extend(gone.map(|kept| kept.path));
    let mut files = StdFiles;
    match files.remove(&found.stale) {
        Ok(()) => found.stale.clear(),
        Err(error) => {
            warn!(partition = owner.partition.0, %error, "an old checkpoint cannot be removed");
        }
    }
}

/// Where the log goes on. A full segment has no such place: the next start has.
fn replay_from(log: &Recovered) -> Option<ReplayFrom> {
    let tail = log.tail.as_ref().filter(|tail| !tail.is_sealed)?;
    let segment = log.segments.last()?.number;
    let (offset, position) = (log.next_offset, tail.position);
    Some(ReplayFrom { offset, segment, position, flushed: offset })
}

fn publish(directory: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let begun = temporary(path);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&begun)?;
    file.write_all(content)?;
    file.sync_all()?;
    hit("checkpoint.before-rename");
    fs::rename(&begun, path)?;
    File::open(directory)?.sync_all()?;
    hit("checkpoint.after-rename");
    Ok(())
}

/// The checkpoints of a partition, newest first.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn list<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
) -> Result<Vec<PathBuf>, StartError> {
    let failed = |error| StartError::system("list a partition's directory", error);
    let mut names = files.list(directory).map_err(failed)?;
    names.retain(|name| name.ends_with(checkpoint::SUFFIX));
    names.sort_unstable();
    Ok(names.iter().rev().map(|name| directory.join(name)).collect())
}
