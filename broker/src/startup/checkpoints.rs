//! Checkpoints on the disk: written when a start has put its state together, so that the next one
//! replays only what comes behind. The two newest are kept.

use super::StartError;
use crate::durable::{PartitionState, Recovery, checkpoint};
use ringlane_dataplane::disk::temporary;
use ringlane_dataplane::log::recovery::{Recovered, ReplayFrom};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_transport_uring::failpoint::hit;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use tracing::warn;

const SUFFIX: &str = ".checkpoint";
const KEPT: usize = 2;
/// Replay of fewer records takes no time worth a checkpoint.
const RECORDS_MIN: u64 = 1000;

/// The newest checkpoint of a partition that can be used, or an empty state: then the whole log is
/// read.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn newest(
    directory: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Result<Recovery, StartError> {
    for path in list(directory)? {
        let read = fs::read(&path).map_err(|error| error.to_string());
        let decoded = read.and_then(|file| {
            checkpoint::decode(owner, partitions, &file).map_err(|error| error.to_string())
        });
        match decoded {
            Ok((from, recovery)) => return Ok(recovery.behind(from)),
            Err(error) => warn!(
                partition = owner.partition.0, file = %path.display(), error,
                "a checkpoint cannot be used: an older one, or the whole log, is read instead"
            ),
        }
    }
    Ok(Recovery::new(partitions))
}

/// Writes the state of a partition, if much of its log was read for it. What cannot be written is
/// reported and done without: the log has it all.
pub(super) fn write(directory: &Path, owner: &LogOwner, log: &Recovered, state: &PartitionState) {
    let Some(from) = replay_from(log).filter(|_| RECORDS_MIN <= log.records) else { return };
    let path = directory.join(format!("{:020}{SUFFIX}", from.offset.0));
    let file = checkpoint::encode(owner, &from, state);
    if let Err(error) = publish(directory, &path, &file) {
        warn!(partition = owner.partition.0, %error, "no checkpoint was written");
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
    let newest_first = list(directory).map_err(io::Error::other)?;
    for old in newest_first.iter().skip(KEPT) {
        fs::remove_file(old)?;
    }
    Ok(())
}

/// The checkpoints of a partition, newest first.
fn list(directory: &Path) -> Result<Vec<PathBuf>, StartError> {
    let failed = |error| StartError::system("list a partition's directory", error);
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.to_str().is_some_and(|name| name.ends_with(SUFFIX)) {
            found.push(path);
        }
    }
    found.sort_unstable();
    found.reverse();
    Ok(found)
}
