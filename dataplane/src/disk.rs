//! The file seam: what the log asks of the disk, and what came of it.
//!
//! A core puts [`DiskCommand`]s into its [`Disk`] during a turn, a [`FileDriver`] takes them at the
//! end of the turn, and each comes back once as a [`DiskEvent`] in a later one. Completions come in
//! any order: whoever needs one thing after the other waits for the first. Only [`FileJob`]s of one
//! core are carried out in the order in which they were given; and even there [`FileJob::Create`] and
//! [`FileJob::Replace`] may come before files that are opened, or others that are closed.
//!
//! The first error of a [`DiskCommand::Write`] or a [`FileJob::Append`] is final for its file: the
//! driver refuses all later ones with the same error, because the kernel marks pages clean after a
//! sync that failed, and the next sync would succeed without them (fsync(2), "Errors").
//!
//! [`StartFiles`] is the other half: plain calls that wait, for recovery, before the cores run.

pub mod memory;
mod start;

use crate::batch::Batch;
use core::fmt;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use triomphe::Arc;

pub use start::StartFiles;

/// An open file of one core. Given out by [`Disk::open_id`], free again after [`FileJob::Close`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileId(pub u32);

impl FileId {
    /// The position in tables of files.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Chosen by whoever gives a command; comes back once, with what came of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct DiskToken(pub u64);

/// Bytes of the header that is written in front of a batch's body.
pub const BATCH_HEADER_BYTES: usize = 64;
/// What file systems keep together, and read before a part of it is written.
pub const BLOCK_BYTES: usize = 4096;

/// A batch on its way to the disk. The header is written from here and the body from the batch,
/// because the batch may be read by others already when its place in the file is known.
#[derive(Clone, Debug)]
pub struct BatchWrite {
    /// The header.
    pub header: [u8; BATCH_HEADER_BYTES],
    /// Whose [`Batch::body`] follows it; nothing does after a closing batch's header.
    pub batch: Option<Arc<Batch>>,
}

impl BatchWrite {
    /// The bytes behind the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.batch.as_ref().map_or(&[], |batch| batch.body())
    }

    /// Bytes in the file.
    #[must_use]
    pub fn bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.body().len()
    }
}

/// What the log asks of the driver.
#[derive(Debug)]
pub enum DiskCommand {
    /// Writes the batches one behind the other, all of them or an error (short writes are continued
    /// by the driver), and then makes durable what is in the file (fdatasync(2)). It comes back
    /// when both have ended, or with the first error, which says which of them failed.
    Write {
        /// Comes back.
        token: DiskToken,
        /// An open file.
        file: FileId,
        /// Where in the file the first header goes.
        position: u64,
        /// What is written; [`Disk::spare_batches`] has an empty vector for it.
        batches: Vec<BatchWrite>,
        /// Zeros written behind them over zeros, fewer than [`BLOCK_BYTES`]: up to the end of a
        /// block, so that it need not be read first.
        zeros: u32,
        /// Whether somebody reads it soon. If not, it need not go through the page cache.
        is_read_soon: bool,
    },
    /// Reads; fewer bytes come only at the end of the file.
    Read {
        /// Comes back.
        token: DiskToken,
        /// An open file.
        file: FileId,
        /// From where.
        position: u64,
        /// How many.
        bytes: u32,
    },
    /// A longer piece of work, on a thread that does one at a time.
    Job {
        /// Comes back.
        token: DiskToken,
        /// The work.
        job: FileJob,
    },
}

impl DiskCommand {
    /// What comes back.
    #[must_use]
    pub fn token(&self) -> DiskToken {
        match self {
            Self::Write { token, .. } | Self::Read { token, .. } | Self::Job { token, .. } => {
                *token
            }
        }
    }
}

/// Work on files and directories. The jobs of a core are carried out in order, one at a time.
///
/// A path that a job makes is absolute, its directory exists, and nobody else uses the path with
/// [`TEMPORARY_SUFFIX`] appended. Each `Done` is durable: file and directory have been synced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FileJob {
    /// Makes a file of `bytes` bytes: `header`, then zeros that are really written, so that later
    /// writes change no metadata and a sync of them waits for no journal. Under a temporary
    /// name first, then renamed to `path`, which must not exist yet. It is open afterwards. After an error nothing
    /// of it stays.
    Create {
        /// The file's id from now on; [`FileJob::Close`] it also after an error.
        file: FileId,
        /// Its name.
        path: PathBuf,
        /// What it begins with.
        header: Vec<u8>,
        /// Its length, at least that of the header.
        bytes: u64,
    },
    /// Opens a file that exists, to read and write.
    Open {
        /// The file's id from now on; [`FileJob::Close`] it also after an error.
        file: FileId,
        /// Its name.
        path: PathBuf,
    },
    /// Closes a file, and frees its id at once. Nothing else may be under way on it. A file that
    /// was begun and not published is removed.
    Close {
        /// An id that was given to a job before.
        file: FileId,
    },
    /// Begins a file that appears as a whole later, under a temporary name.
    Begin {
        /// The file's id from now on; [`FileJob::Close`] it also after an error.
        file: FileId,
        /// The name that it will have.
        path: PathBuf,
    },
    /// Adds bytes at the end of a file that was begun.
    Append {
        /// The file.
        file: FileId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Makes a file that was begun appear under its name, in place of one that had it. After a
    /// crash there is the old one or the new one.
    Publish {
        /// The file.
        file: FileId,
    },
    /// Replaces a small file as a whole, with the same care.
    Replace {
        /// Its name.
        path: PathBuf,
        /// What is in it afterwards.
        content: Vec<u8>,
    },
    /// Removes files; one that is not there is no error.
    Remove {
        /// Their names.
        paths: Vec<PathBuf>,
    },
}

/// How a command ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskEvent {
    /// Of the command.
    pub token: DiskToken,
    /// What came of it.
    pub result: Result<DiskDone, DiskError>,
}

/// A command that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DiskDone {
    /// Nothing more to say.
    Done,
    /// What was read.
    Read(Vec<u8>),
}

/// Whether there may be room later, or something is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    /// The file system, or what the user may have of it, is full (ENOSPC, EDQUOT).
    Full,
    /// Everything else.
    Io,
}

/// Why a command was not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskError {
    /// What kind.
    pub kind: DiskErrorKind,
    /// What the kernel said, see errno(3).
    pub errno: i32,
    /// Whether it was the sync of a [`DiskCommand::Write`], and no longer the write.
    pub in_sync: bool,
}

/// `ENOSPC` on Linux, on every processor that this program runs on (errno(3)).
pub const ENOSPC: i32 = 28;
/// `EIO`.
pub const EIO: i32 = 5;
const EDQUOT: i32 = 122;

/// Errors of a host that is short of something just now: EINTR, EAGAIN, ENOMEM, ENFILE, EMFILE
/// (errno(3)). They say nothing of what is on the disk.
const TRANSIENT: [i32; 5] = [4, 11, 12, 23, 24];

/// Whether an `errno` value says that the host was short of something, and nothing of what is on the disk.
#[must_use]
pub fn is_transient(errno: i32) -> bool {
    TRANSIENT.contains(&errno)
}

impl DiskError {
    /// The error of an `errno` value.
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        let kind = match errno {
            ENOSPC | EDQUOT => DiskErrorKind::Full,
            _ => DiskErrorKind::Io,
        };
        Self { kind, errno, in_sync: false }
    }

    /// The same of a sync.
    #[must_use]
    pub fn of_sync(self) -> Self {
        Self { in_sync: true, ..self }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for DiskError {}

/// What names of files end in that are not whole yet. What is found with it at start is left over
/// from a crash and is removed.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// The name under which a file is made that gets the name `path` when it is whole.
#[must_use]
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    PathBuf::from(name)
}

/// Commands that wait for the driver, at most. Whoever gives commands has its own bounds, which
/// add up to far less; at this one the core stops, because it is a leak.
pub const COMMANDS_MAX: usize = 1 << 16;
/// Files that a core has open, at most; likewise.
pub const FILES_MAX: u32 = 1 << 20;
/// Empty vectors kept for the next writes.
const SPARE_BATCHES_MAX: usize = 64;

/// What a core's log asks of the disk: filled during the turn, taken by the driver at its end.
#[derive(Debug, Default)]
pub struct Disk {
    commands: VecDeque<DiskCommand>,
    free: Vec<FileId>,
    next: u32,
    spare: Vec<Vec<BatchWrite>>,
}

impl Disk {
    /// Nothing asked for, no file open.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An id for a file to be made, opened or begun.
    pub fn open_id(&mut self) -> FileId {
        self.free.pop().unwrap_or_else(|| {
            assert!(self.next < FILES_MAX, "files are closed after use");
            self.next += 1;
            FileId(self.next - 1)
        })
    }

    /// Asks for something. The driver begins with it at the end of this turn.
    pub fn push(&mut self, command: DiskCommand) {
        assert!(self.commands.len() < COMMANDS_MAX, "whoever asks has a bound of its own");
        if let DiskCommand::Job { job: FileJob::Close { file }, .. } = &command {
            assert!(file.0 < self.next, "an id that was given out");
            // Jobs are carried out in order: whoever gets the id next comes after this one.
            self.free.push(*file);
        }
        self.commands.push_back(command);
    }

    /// An empty vector for the batches of a write.
    #[must_use]
    pub fn spare_batches(&mut self) -> Vec<BatchWrite> {
        self.spare.pop().unwrap_or_default()
    }

    // ---- the driver's side ----

    /// The next command, in the order in which they were given.
    pub fn take(&mut self) -> Option<DiskCommand> {
        self.commands.pop_front()
    }

    /// The commands that were not taken yet.
    pub fn commands(&self) -> impl Iterator<Item = &DiskCommand> {
        self.commands.iter()
    }

    /// Whether the driver has something to take.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.commands.is_empty()
    }

    /// Lets go of what was written, on the core's own thread, which may be the last to hold it.
    pub fn give_back(&mut self, mut batches: Vec<BatchWrite>) {
        batches.clear();
        if self.spare.len() < SPARE_BATCHES_MAX {
            self.spare.push(batches);
        }
    }
}

/// Carries out what a core asks of the disk. Beside [`net::Driver`](crate::net::Driver), and like it
/// on the core's own thread: nothing blocks.
pub trait FileDriver {
    /// Takes the commands of this turn and begins with them.
    fn submit(&mut self, disk: &mut Disk);

    /// Reports at most `events_max` commands that have ended; how many there were. A core that sleeps
    /// is woken when there is one.
    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize;

    /// Commands taken that have not been reported.
    fn in_flight(&self) -> usize;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(file: FileId) -> DiskCommand {
        DiskCommand::Job { token: DiskToken(0), job: FileJob::Close { file } }
    }

    #[test]
    fn an_id_is_used_again_after_its_close_was_asked_for() {
        let mut disk = Disk::new();
        let (one, two) = (disk.open_id(), disk.open_id());
        assert_eq!((one, two), (FileId(0), FileId(1)));
        disk.push(close(one));
        assert_eq!((disk.open_id(), disk.open_id()), (one, FileId(2)));
        assert!(disk.has_work());
        assert_eq!(disk.take().map(|command| command.token()), Some(DiskToken(0)));
        assert!(disk.take().is_none() && !disk.has_work());
    }

    #[test]
    #[should_panic(expected = "given out")]
    fn an_id_that_nobody_has_is_not_closed() {
        Disk::new().push(close(FileId(0)));
    }

    #[test]
    fn vectors_come_back_empty() {
        let mut disk = Disk::new();
        let mut batches = disk.spare_batches();
        batches.push(BatchWrite { header: [1; BATCH_HEADER_BYTES], batch: None });
        assert_eq!((batches[0].bytes(), batches[0].body().len()), (BATCH_HEADER_BYTES, 0));
        let capacity = batches.capacity();
        disk.give_back(batches);
        let again = disk.spare_batches();
        assert_eq!((again.len(), again.capacity()), (0, capacity));
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        assert_eq!(DiskError::from_errno(ENOSPC).kind, DiskErrorKind::Full);
        assert_eq!(DiskError::from_errno(EDQUOT).kind, DiskErrorKind::Full);
        assert_eq!(
            DiskError::from_errno(EIO),
            DiskError { kind: DiskErrorKind::Io, errno: EIO, in_sync: false }
        );
        assert!(DiskError::from_errno(ENOSPC).to_string().contains("No space"));
    }

    #[test]
    fn a_temporary_name_keeps_the_whole_name() {
        assert_eq!(temporary(Path::new("/d/1.log")), Path::new("/d/1.log.tmp"));
    }
}
