//! A checkpoint that came whole from a leader, put in place of a partition's log and state.
//!
//! It is checked before anything is touched. From then on there is no way back: a start that finds it goes on.

use crate::durable::{BALLAST_NAME, Checkpoints, Recovery, checkpoint};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::reset::{LEARNED_NAME, received, reset};
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use std::io;
use std::path::{Path, PathBuf};

/// A checkpoint that is in place: the log is empty, and begins at `start`.
#[derive(Debug)]
pub(crate) struct InPlace {
    /// Where the log begins.
    pub(crate) start: Offset,
    /// The epoch of the record before; 0 if there has never been one.
    pub(crate) epoch: u64,
    /// The state of the checkpoint.
    pub(crate) recovery: Recovery,
    /// The checkpoint itself.
    pub(crate) checkpoints: Checkpoints,
}

/// Why it is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LearnError {
    /// What came is of no use. Nothing was changed.
    #[error("{path}: {message}", path = path.display())]
    Unusable { path: PathBuf, message: String },
    /// The directory cannot be read, or changed.
    #[error("{path}: {error}", path = path.display())]
    Files { path: PathBuf, error: io::Error },
}

/// Reads the state that a checkpoint of a leader is.
pub(crate) fn read<F: StartFiles + ?Sized>(
    files: &F,
    path: &Path,
    owner: &LogOwner,
    partitions: u32,
) -> Result<(ReplayFrom, Recovery), LearnError> {
    let failed = |error| LearnError::Files { path: path.to_owned(), error };
    let bytes = files.read_whole(path).map_err(failed)?;
    let decoded = checkpoint::decode(owner, partitions, &bytes);
    let unusable = |message| LearnError::Unusable { path: path.to_owned(), message };
    let (from, recovery) = decoded.map_err(|error| unusable(error.to_string()))?;
    Ok((from, recovery.learned(from)))
}

/// Puts a checkpoint that came in place, if there is one, in the directory of the log of `setup`, which nobody has open.
///
/// # Errors
/// [`LearnError`]. After an error of files the start of the node goes on with it.
pub(crate) fn put_in_place<F: StartFiles + ?Sized>(
    files: &mut F,
    setup: &LogSetup,
    partitions: u32,
    unix_ms: u64,
) -> Result<Option<InPlace>, LearnError> {
    let directory = &setup.directory;
    let failed = |error| LearnError::Files { path: directory.clone(), error };
    let Some((path, start)) = received(files, directory).map_err(failed)? else { return Ok(None) };
    let owner = LogOwner { directory: setup.directory_id, partition: setup.partition };
    let (from, recovery) = read(files, &path, &owner, partitions)?;
    let epoch = recovery.epoch_before(start).map(|(epoch, _)| epoch);
    let epoch = epoch.or((start.0 == 0).then_some(0)).filter(|_| start <= from.offset);
    let Some(epoch) = epoch else {
        let message = format!("it does not go with a log that begins at offset {}", start.0);
        return Err(LearnError::Unusable { path, message });
    };
    let is_old = |name: &str| name.ends_with(checkpoint::SUFFIX) || name == BALLAST_NAME;
    reset(files, setup, start, unix_ms, &is_old).map_err(failed)?;
    let checkpoints = Checkpoints::learned(directory.join(LEARNED_NAME), from.flushed, None);
    Ok(Some(InPlace { start, epoch, recovery, checkpoints }))
}
