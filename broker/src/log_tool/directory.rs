//! A data directory seen from outside: its manifest, whether a broker uses it, its partitions.

use super::ToolError;
use crate::startup::checkpoints;
use crate::startup::manifest::{self, Manifest};
use ringlane_dataplane::disk::StartFiles;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::format::{
    DirectoryId, SEGMENT_SUFFIX, number_of, partition_directory,
};
use ringlane_dataplane::log::recovery::{
    Inspected, OnBatch, RecoverError, ReplayFrom, inspect, run_of,
};
use ringlane_dataplane::log::scan::{LogOwner, Segment};
use ringlane_transport_uring::StdFiles;
use std::io;
use std::path::{Path, PathBuf};

/// A data directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    manifest: Manifest,
    /// Whether a broker had it when it was opened.
    pub(super) in_use: bool,
}

/// The log of one partition.
#[derive(Clone, Debug)]
pub(super) struct PartitionLog {
    /// Its directory.
    pub(super) path: PathBuf,
    /// Whose it is.
    pub(super) owner: LogOwner,
    /// How many partitions there are.
    partitions: u32,
}

impl Directory {
    /// Looks at a data directory, and changes nothing.
    pub(super) fn open(path: &Path) -> Result<Self, ToolError> {
        let failed = |error: &dyn std::fmt::Display| ToolError::Failed(error.to_string());
        let manifest = manifest::peek(path).map_err(|error| failed(&error))?;
        let in_use = manifest::is_in_use(path).map_err(|error| failed(&error))?;
        Ok(Self { path: path.to_owned(), manifest, in_use })
    }

    /// The partitions that were asked for, or all.
    pub(super) fn partitions(&self, wanted: &[u32]) -> Result<Vec<PartitionLog>, ToolError> {
        let count = self.manifest.partitions;
        if let Some(unknown) = wanted.iter().find(|&&number| number >= count) {
            let last = count - 1;
            let message = format!("there is no partition {unknown}; there are 0 to {last}");
            return Err(ToolError::Failed(message));
        }
        let all = (0..count).filter(|number| wanted.is_empty() || wanted.contains(number));
        Ok(all.map(|number| self.partition(number)).collect())
    }

    /// How many partitions there are.
    pub(super) fn count(&self) -> u32 {
        self.manifest.partitions
    }

    fn partition(&self, number: u32) -> PartitionLog {
        let partition = PartitionId(number);
        let directory = DirectoryId(self.manifest.id);
        PartitionLog {
            path: self.path.join(partition_directory(partition)),
            owner: LogOwner { directory, partition },
            partitions: self.manifest.partitions,
        }
    }
}

impl PartitionLog {
    /// Its number.
    pub(super) fn number(&self) -> u32 {
        self.owner.partition.0
    }

    /// The numbers of its segments, in order and without a gap; none if nothing was logged yet.
    pub(super) fn segments(&self) -> Result<Vec<u64>, ToolError> {
        Ok(run_of(&mut self.files()?))
    }

    /// The numbers of all files, those that are left over from trimming included.
    pub(super) fn files(&self) -> Result<Vec<u64>, ToolError> {
        let names = match StdFiles.list(&self.path) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(ToolError::io("list", &self.path, &error)),
        };
        let mut numbers: Vec<_> =
            names.iter().filter_map(|name| number_of(name, SEGMENT_SUFFIX)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Where a start begins to read: with the newest checkpoint that it can use.
    pub(super) fn replay_from(&self) -> Result<Option<ReplayFrom>, ToolError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let newest = checkpoints::newest(&StdFiles, &self.path, &self.owner, self.partitions);
        let replay = newest.map_err(|error| ToolError::Failed(error.to_string()))?;
        Ok(replay.recovery.replay_from())
    }

    /// Looks at it as a start does.
    pub(super) fn inspect(
        &self,
        from: Option<&ReplayFrom>,
        flushed: Offset,
        on_batch: &mut OnBatch<'_>,
    ) -> Result<Option<Inspected>, RecoverError> {
        inspect(&StdFiles, &self.path, &self.owner, from, flushed, on_batch)
    }

    /// One of its segments.
    pub(super) fn segment(&self, number: u64) -> Result<Segment, ToolError> {
        Segment::open(&StdFiles, &self.path, number, &self.owner).map_err(|error| {
            let path = self.segment_path(number);
            ToolError::Failed(format!("{}: {error}; restore it from a backup", path.display()))
        })
    }

    /// The file of a segment.
    pub(super) fn segment_path(&self, number: u64) -> PathBuf {
        self.path.join(ringlane_dataplane::log::format::segment_name(number))
    }
}
