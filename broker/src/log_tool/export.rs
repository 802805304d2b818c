//! Exporting records to a file, which appears once it is whole.

use super::ToolError;
use super::directory::Directory;
#[cfg(feature = "parquet")]
use super::parquet::Table;
use super::progress::Progress;
use super::read::{print, readers, worse};
use super::select::Selection;
use super::sink::{Lines, Sink};
use clap::ValueEnum;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// What is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum ExportFormat {
    /// JSON, one line per record
    #[default]
    Jsonl,
    /// Apache Parquet, one row per message
    #[cfg(feature = "parquet")]
    Parquet,
}

/// `ringlane log export`.
pub(super) fn run(
    directory: &Directory,
    selection: &Selection,
    format: ExportFormat,
    path: Option<&Path>,
) -> Result<(), ToolError> {
    match (format, path) {
        (ExportFormat::Jsonl, None) => print(directory, selection, true, false),
        (ExportFormat::Jsonl, Some(path)) => {
            let target = Target::make(path)?;
            let mut lines = Lines::new(BufWriter::new(&target.file), true);
            let result = copy(directory, selection, &mut lines)?;
            lines.flush()?;
            drop(lines);
            target.finish()?;
            result
        }
        #[cfg(feature = "parquet")]
        (ExportFormat::Parquet, None) => {
            Err(ToolError::Failed("Parquet wants a file: name it with --out".to_owned()))
        }
        #[cfg(feature = "parquet")]
        (ExportFormat::Parquet, Some(_)) if selection.state => {
            Err(ToolError::Failed("state records have no form in Parquet".to_owned()))
        }
        #[cfg(feature = "parquet")]
        (ExportFormat::Parquet, Some(path)) => {
            let target = Target::make(path)?;
            let mut table = Table::new(&target.file)?;
            let result = copy(directory, selection, &mut table)?;
            table.finish()?;
            target.finish()?;
            result
        }
    }
}

/// Copies all records that are wanted. The inner result is damage that was met.
fn copy<S: Sink>(
    directory: &Directory,
    selection: &Selection,
    sink: &mut S,
) -> Result<Result<(), ToolError>, ToolError> {
    let mut readers = readers(directory, selection)?;
    let total = readers.iter().map(|reader| reader.bytes_left).sum();
    let (mut progress, mut before) = (Progress::new("exporting".to_owned(), total), 0);
    let mut result = Ok(());
    for reader in &mut readers {
        let ended = reader.read_all(sink, &mut |done| progress.at(before + done))?;
        result = worse(result, ended);
        before += reader.bytes_left;
    }
    Ok(result)
}

/// A file that is made under another name, and never takes the place of one that is there.
struct Target {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl Target {
    fn make(path: &Path) -> Result<Self, ToolError> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(ToolError::io("make", path, &io::ErrorKind::AlreadyExists.into()));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let file =
            File::create_new(&partial).map_err(|error| ToolError::io("make", &partial, &error))?;
        Ok(Self { file, partial, path: path.to_owned() })
    }

    fn finish(self) -> Result<(), ToolError> {
        let path = &self.path;
        let failed = |what| move |error: io::Error| ToolError::io(what, path, &error);
        self.file.sync_all().map_err(failed("sync"))?;
        renameat_with(CWD, &self.partial, CWD, path, RenameFlags::NOREPLACE)
            .map_err(|errno| failed("make")(errno.into()))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = File::open(parent.unwrap_or(Path::new(".")));
        directory.and_then(|directory| directory.sync_all()).map_err(failed("sync"))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // What was finished has its own name by now.
        let _ = fs::remove_file(&self.partial);
    }
}
