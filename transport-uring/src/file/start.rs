//! The files of start-up, by plain calls that wait.

use super::paths;
use ringlane_dataplane::disk::StartFiles;
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The real file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StdFiles;

impl StartFiles for StdFiles {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry?.file_name().into_string().map_err(|name| {
                let message = format!("{}: a name that is no UTF-8", name.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            })
        };
        fs::read_dir(directory)?.map(name).collect()
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn read_at(&self, path: &Path, position: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = File::open(path)?;
        let mut filled = 0;
        while filled < into.len() {
            match file.read_at(&mut into[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(bytes) => filled += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn zero_from(&mut self, path: &Path, position: u64) -> io::Result<()> {
        paths::zero_from(path, position)
    }

    fn remove(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        paths::remove(paths)
    }

    fn replace(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        paths::replace(path, content)
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        paths::rename(from, to)
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        paths::make_directory(path)
    }

    /// What is read next comes from the disk: after a write-back that failed, the cache holds pages
    /// that are nowhere else and yet count as clean (fsync(2), "Errors"), so that a second sync
    /// succeeds. posix_fadvise(2) drops clean pages.
    fn sync(&mut self, path: &Path) -> io::Result<()> {
        let file = File::open(path)?;
        file.sync_all()?;
        Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
    }

    fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        paths::sync_directory(path)
    }
}
