//! Files at start-up: recovery reads and repairs with plain calls that wait.

use std::io;
use std::path::{Path, PathBuf};

/// The files of a data directory before its cores run. Whoever changes something has it durable when the call
/// returns.
pub trait StartFiles {
    /// The names in a directory, without `.` and `..`, in any order.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory; names that are no UTF-8 are `InvalidData`.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Bytes of a file.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn len(&self, path: &Path) -> io::Result<u64>;

    /// Reads at `position` until `into` is full or the file ends; how many bytes there were.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn read_at(&self, path: &Path, position: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn read_whole(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.len(path)?).unwrap_or_default()];
        let count = self.read_at(path, 0, &mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Overwrites the file with zeros from `position` to its end, and syncs it. Its length stays.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn zero_from(&mut self, path: &Path, position: u64) -> io::Result<()>;

    /// Removes files, and syncs their directories. One that is not there is no error.
    ///
    /// # Errors
    /// What the system says; some may be removed then.
    fn remove(&mut self, paths: &[PathBuf]) -> io::Result<()>;

    /// Replaces a file as a whole: after a crash it has the old content or the new one.
    ///
    /// # Errors
    /// What the system says; the old content is there then, or the new one if all that failed was
    /// the sync of its directory.
    fn replace(&mut self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Gives a file another name in the same directory, in place of one that has it: after a crash it has one of
    /// both.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes a directory whose parent exists, for its owner alone. One that is there is no error: its
    /// name is synced all the same, for whoever made it may have been killed before that.
    ///
    /// # Errors
    /// What the system says.
    fn make_directory(&mut self, path: &Path) -> io::Result<()>;

    /// Syncs a file: what others wrote before is durable afterwards. Recovery does so before it
    /// believes what it read, because that may be in the page cache alone.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn sync(&mut self, path: &Path) -> io::Result<()>;

    /// Syncs the names in a directory, as [`StartFiles::sync`] does a file.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn sync_directory(&mut self, path: &Path) -> io::Result<()>;
}
