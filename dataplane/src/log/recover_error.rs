//! Why a log is not opened: each error names the file, the place, and what an operator can do.

use super::format::{HeaderError, SEGMENT_SUFFIX, number_of};
use super::scan::{BadBatch, SegmentError};
use crate::ids::Offset;
use core::fmt;
use std::io;
use std::path::PathBuf;

/// Why a log cannot be opened. Nothing was changed.
#[derive(Debug)]
pub enum RecoverError {
    /// A file operation failed.
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A segment has no good header, or does not belong here.
    Segment {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: SegmentError,
    },
    /// A segment with durable records is not there.
    Missing {
        /// The file that should be there.
        path: PathBuf,
        /// First offset that is missing.
        next: Offset,
        /// Records were durable up to here, exclusive.
        flushed: Offset,
    },
    /// Durable records are damaged.
    Damaged(Damage),
}

/// Where durable records are damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The segment.
    pub path: PathBuf,
    /// Where in it.
    pub position: u64,
    /// First offset that cannot be read.
    pub next: Offset,
    /// Records were durable up to here, exclusive; `None` if nobody knows.
    pub flushed: Option<Offset>,
    /// What is wrong there; `None` if there are zeros.
    pub reason: Option<BadBatch>,
}

impl Damage {
    /// The number of the segment.
    #[must_use]
    pub fn segment(&self) -> Option<u64> {
        number_of(self.path.file_name()?.to_str()?, SEGMENT_SUFFIX)
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, position) = (self.path.display(), self.position);
        write!(f, "{path}: damaged at position {position}, offset {}: ", self.next.0)?;
        match &self.reason {
            Some(reason) => write!(f, "{reason}")?,
            None => f.write_str("nothing is there")?,
        }
        match self.flushed {
            Some(flushed) if flushed > self.next => {
                write!(f, "; the records below offset {} were durable", flushed.0)?;
            }
            Some(_) => f.write_str("; what follows does not continue what lies before it")?,
            None => {}
        }
        f.write_str("; restore the directory from a backup, or give up what follows with `ringlane log truncate-tail`")
    }
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, path, error } => {
                write!(f, "{}: cannot {what} it: {error}", path.display())
            }
            Self::Segment { path, error } => {
                write!(f, "{}: {error}; {}", path.display(), segment_remedy(error))
            }
            Self::Missing { path, next, flushed } => write!(
                f,
                "{}: the segment is missing, with records from offset {} below {} that were \
                 durable; restore it from a backup",
                path.display(),
                next.0,
                flushed.0
            ),
            Self::Damaged(damage) => write!(f, "{damage}"),
        }
    }
}

impl std::error::Error for RecoverError {}

fn segment_remedy(error: &SegmentError) -> &'static str {
    match error {
        SegmentError::Io(_) => "look at the disk and the permissions",
        SegmentError::Header(HeaderError::Version(_)) => {
            "upgrade ringlane, or start with an empty data_dir"
        }
        SegmentError::Header(_) | SegmentError::Length(_) => "restore it from a backup",
        SegmentError::Foreign | SegmentError::Partition(_) | SegmentError::Number(_) => {
            "put it back where it came from"
        }
    }
}
