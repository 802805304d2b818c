//! `ringlane log`: looks at the logs of a data directory, stopped or in use, and mends a stopped
//! one by hand.
//!
//! Beside a running broker only what is durable is shown: up to the newest durable watermark that
//! the log itself names. Of a stopped one everything that its next start would find.

mod directory;
mod export;
mod list;
#[cfg(feature = "parquet")]
mod parquet;
mod place;
pub(crate) mod print;
mod progress;
mod read;
mod select;
mod sink;
mod truncate;
mod verify;
mod walk;

use clap::{Args, Subcommand};
use directory::Directory;
use export::ExportFormat;
use select::Selection;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Looks at the commit log of a data directory.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// List segments: offsets, bytes, times
    Ls {
        #[command(flatten)]
        place: Place,
        /// Only this partition; may be repeated
        #[arg(long, value_name = "N")]
        partition: Vec<u32>,
        /// Print JSON, one line per segment
        #[arg(long)]
        json: bool,
    },
    /// Print records, partition by partition
    Read {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
        /// Go on with what is appended, until interrupted
        #[arg(long)]
        follow: bool,
        /// Print JSON, one line per record
        #[arg(long)]
        json: bool,
    },
    /// Check every batch and record; exit code 1 if one is damaged
    Verify {
        #[command(flatten)]
        place: Place,
        /// Only this partition; may be repeated
        #[arg(long, value_name = "N")]
        partition: Vec<u32>,
    },
    /// Give up the end of a damaged log, of a stopped broker
    TruncateTail {
        #[command(flatten)]
        place: Place,
        /// The partition
        #[arg(long, value_name = "N")]
        partition: u32,
        /// First offset to give up; without it, where the first damage is
        #[arg(long, value_name = "OFFSET")]
        at: Option<u64>,
        /// Do it; without it only say what would be given up
        #[arg(long)]
        yes: bool,
    },
    /// Write records to a file, or as JSON lines to standard output
    Export {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        selection: Selection,
        /// File to make; it appears once it is whole
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// What is written
        #[arg(long, value_enum, default_value_t)]
        format: ExportFormat,
    },
}

/// Which data directory.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE", env = "RINGLANE_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the node's data (data_dir)
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// Why a command failed. Each says what to do.
#[derive(Debug)]
pub(crate) enum ToolError {
    /// Damage was found and has been reported.
    Damaged,
    /// Whoever read the output has gone (`| head`).
    Closed,
    /// Anything else.
    Failed(String),
}

impl ToolError {
    fn io(what: &str, path: &Path, error: &io::Error) -> Self {
        Self::Failed(format!("{}: cannot {what} it: {error}", path.display()))
    }

    /// An error of the output.
    fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged => f.write_str("the log is damaged"),
            Self::Closed => f.write_str("the output was closed"),
            Self::Failed(message) => f.write_str(message),
        }
    }
}

impl LogCommand {
    /// Which data directory it is about.
    pub(crate) fn place(&self) -> &Place {
        match self {
            Self::Ls { place, .. }
            | Self::Read { place, .. }
            | Self::Verify { place, .. }
            | Self::TruncateTail { place, .. }
            | Self::Export { place, .. } => place,
        }
    }

    /// Does it, in the data directory that flags and configuration gave.
    ///
    /// # Errors
    /// [`ToolError`]; damage has been printed already.
    pub(crate) fn run(&self, data_dir: &Path) -> Result<(), ToolError> {
        match self {
            Self::Ls { partition, json, .. } => {
                list::run(&Directory::open(data_dir)?, partition, *json)
            }
            Self::Read { selection, follow, json, .. } => {
                read::print(&Directory::open(data_dir)?, selection, *json, *follow)
            }
            Self::Verify { partition, .. } => verify::run(&Directory::open(data_dir)?, partition),
            Self::TruncateTail { partition, at, yes, .. } => {
                truncate::run(data_dir, *partition, *at, *yes)
            }
            Self::Export { selection, out, format, .. } => {
                export::run(&Directory::open(data_dir)?, selection, *format, out.as_deref())
            }
        }
    }
}
