//! A log that begins anew where its leader's does, behind a checkpoint that takes the place of everything.
//!
//! The checkpoint comes under the name [`received_name`], which says where the log is to begin: from the moment in which the
//! file has that name there is no way back, and a start that finds it does [`reset()`] again. That removes the old
//! log, makes an empty one that says where it begins, and only then calls the checkpoint [`LEARNED_NAME`]. It stands for the
//! state until the replica has checkpoints of its own, whose places are in its own log.

use super::format::{
    BatchHeader, INDEX_SUFFIX, SEGMENT_SUFFIX, SegmentHeader, number_of, segment_name,
};
use super::segments::LogSetup;
use crate::disk::StartFiles;
use crate::ids::Offset;
use std::io;
use std::path::{Path, PathBuf};

/// What the name of a checkpoint ends in that takes the place of the log.
pub const RECEIVED_SUFFIX: &str = ".received";
/// The checkpoint that took the place of the log, while no other one is newer.
pub const LEARNED_NAME: &str = "learned.state";
/// Number of the first segment of a log that begins anew. 0 is that of a log that begins at offset 0.
const FIRST_NUMBER: u64 = 1;

/// The name of a checkpoint that came whole, with which the log begins at `start`.
#[must_use]
pub fn received_name(start: Offset) -> String {
    format!("{:020}{RECEIVED_SUFFIX}", start.0)
}

/// The checkpoint in a partition's directory that is to take the place of everything, if there is one, and where the log
/// is to begin then.
///
/// # Errors
/// The directory cannot be read.
pub fn received<F: StartFiles + ?Sized>(
    files: &F,
    directory: &Path,
) -> io::Result<Option<(PathBuf, Offset)>> {
    let names = files.list(directory)?;
    let found = names.iter().filter_map(|name| Some((name, number_of(name, RECEIVED_SUFFIX)?)));
    // There is one at most: a newer one comes only after the one before was put in place.
    Ok(found
        .max_by_key(|(_, start)| *start)
        .map(|(name, start)| (directory.join(name), Offset(start))))
}

/// Puts the checkpoint of [`received`] in place: the log of `setup` becomes an empty one that begins at `start`, and the
/// files that `is_old` names of the partition's directory, checkpoints of the old log, are removed. All of it is durable. `setup` has a
/// [`secret`](LogSetup::secret) of its own: numbers of segments are used again.
///
/// After a crash, and after an error, this is to be done again.
///
/// # Errors
/// Files cannot be changed.
pub fn reset<F: StartFiles + ?Sized>(
    files: &mut F,
    setup: &LogSetup,
    start: Offset,
    unix_ms: u64,
    is_old: &dyn Fn(&str) -> bool,
) -> io::Result<()> {
    let directory = &setup.directory;
    let names = files.list(directory)?;
    let is_log =
        |name: &str| number_of(name, SEGMENT_SUFFIX).or(number_of(name, INDEX_SUFFIX)).is_some();
    let is_gone = |name: &&String| is_log(name) || name.as_str() == LEARNED_NAME || is_old(name);
    for name in names.iter().filter(is_gone) {
        files.remove(&[directory.join(name)])?;
    }
    let path = directory.join(segment_name(FIRST_NUMBER));
    files.replace(&path, &first_segment(setup, start, unix_ms))?;
    files.rename(&directory.join(received_name(start)), &directory.join(LEARNED_NAME))
}

/// A segment without records, whose one batch says that the log begins here and that nothing is missing.
fn first_segment(setup: &LogSetup, start: Offset, unix_ms: u64) -> Vec<u8> {
    let header = SegmentHeader {
        partition: setup.partition,
        directory: setup.directory_id,
        segment: setup.segment_id(FIRST_NUMBER),
        number: FIRST_NUMBER,
        epoch: setup.epoch,
        made_unix_ms: unix_ms,
        file_bytes: setup.bytes_after(None),
    };
    let mut bytes = header.encode();
    let closing = BatchHeader {
        body_bytes: 0,
        records: 0,
        base_offset: start,
        // Records that follow may be of any epoch.
        epoch: 0,
        watermark: start,
        sealed_unix_ms: unix_ms,
        previous_crc: SegmentHeader::crc_of(&bytes),
        is_last: false,
        log_start: start,
    };
    bytes.extend_from_slice(&closing.encode(&header.segment));
    bytes.resize(header.file_bytes as usize, 0);
    bytes
}
