//! What is done to names and directories, with the care that a crash asks for: a file is synced
//! before it gets its name, and a directory after each change of its names (fsync(2), rename(2)).

use crate::failpoint::hit;
use crate::sys;
use ringlane_dataplane::disk::{BLOCK_BYTES, temporary};
use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags, fallocate, renameat_with};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files are their owner's alone: messages are in them.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;
/// Zeros written at once. The disk has to take each piece before the next one is written, so that
/// a segment that is made ahead of use does not fill the disk's queue in front of a sync.
const ZEROS_BYTES: usize = 1024 * 1024;

/// Zeros that files are filled with: memory that begins with a block, made when it is first used and then used for
/// every file. Made for each of them, it would be touched and cleared each time.
#[derive(Debug, Default)]
pub(super) struct Zeros(Vec<u8>);

impl Zeros {
    fn blocks(&mut self) -> &[u8] {
        if self.0.is_empty() {
            self.0 = vec![0; ZEROS_BYTES + BLOCK_BYTES];
        }
        let start = self.0.as_ptr().align_offset(BLOCK_BYTES);
        &self.0[start..][..ZEROS_BYTES]
    }
}

fn readable() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}

/// Opens a file that exists, to read and write.
pub(super) fn open(path: &Path) -> io::Result<File> {
    readable().open(path)
}

/// Makes an empty file under the temporary name of `path`; what a crash left there goes.
pub(super) fn begin(path: &Path) -> io::Result<(File, PathBuf)> {
    let temporary = temporary(path);
    let file = readable().create(true).truncate(true).open(&temporary)?;
    Ok((file, temporary))
}

/// Makes a file with `header` and then zeros, `bytes` bytes in all, as `FileJob::Create` says.
/// `stopped` is asked now and then whether it is still wanted.
pub(super) fn create(
    path: &Path,
    header: &[u8],
    bytes: u64,
    zeros: &mut Zeros,
    stopped: &dyn Fn() -> bool,
) -> io::Result<File> {
    let (file, temporary) = begin(path)?;
    fill((&file, &temporary), header, bytes, zeros.blocks(), stopped)
        .inspect(|()| hit("segment.before-rename"))
        .and_then(|()| rename_new(&temporary, path))
        .inspect_err(|_| undo(&temporary))?;
    hit("segment.after-rename");
    sync_parent(path).inspect_err(|_| undo(path))?;
    hit("segment.made");
    Ok(file)
}

/// Takes a file away again that could not be made. What cannot be taken away now is found at the
/// next start, by its name or because nothing was ever written to it.
fn undo(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = sync_parent(path);
}

fn fill(
    (file, path): (&File, &Path),
    header: &[u8],
    bytes: u64,
    zeros: &[u8],
    stopped: &dyn Fn() -> bool,
) -> io::Result<()> {
    reserve(file, bytes)?;
    file.write_all_at(header, 0)?;
    let zeroed = zero_beside_cache(path, header.len() as u64, bytes, zeros, stopped)?;
    zero(file, zeroed, bytes, zeros, stopped)?;
    file.sync_all()
}

/// Has the file system set the room aside, so that it is full now or not at all, and in one piece.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // The zeros that are written next do it, in more pieces.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        result => Ok(result?),
    }
}

/// Writes zeros past the page cache (O_DIRECT, open(2)): half of the CPU time or less, and pages of
/// the cache are made when they hold messages. Up to where it came: not beyond `from` if that is no
/// multiple of a block, or if the file system cannot do it.
fn zero_beside_cache(
    path: &Path,
    from: u64,
    to: u64,
    zeros: &[u8],
    stopped: &dyn Fn() -> bool,
) -> io::Result<u64> {
    if !from.is_multiple_of(BLOCK_BYTES as u64) {
        return Ok(from);
    }
    let flags = OFlags::DIRECT.bits().cast_signed();
    let Ok(file) = OpenOptions::new().write(true).custom_flags(flags).open(path) else {
        return Ok(from);
    };
    let mut at = from;
    while BLOCK_BYTES as u64 <= to - at {
        if stopped() {
            return Err(cancelled());
        }
        let blocks = (to - at).min(zeros.len() as u64) as usize / BLOCK_BYTES;
        match file.write_at(&zeros[..blocks * BLOCK_BYTES], at) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(0) => break,
            Ok(bytes) => at += bytes as u64,
        }
    }
    Ok(at)
}

fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

fn zero(
    file: &File,
    from: u64,
    to: u64,
    zeros: &[u8],
    stopped: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut at = from;
    while at < to {
        if stopped() {
            return Err(cancelled());
        }
        let bytes = (to - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..bytes as usize], at)?;
        sys::write_back(file.as_fd(), at, bytes)?;
        at += bytes;
    }
    Ok(())
}

/// Renames, if nothing has the new name yet: a segment is never replaced.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot tell (rename(2)): ask first. Nobody else makes such names.
        Err(Errno::INVAL) if to.try_exists()? => Err(Errno::EXIST.into()),
        Err(Errno::INVAL) => fs::rename(from, to),
        result => Ok(result?),
    }
}

/// Gives a file that was begun its name, in place of one that has it.
pub(super) fn publish(file: &File, temporary: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    hit("checkpoint.before-rename");
    fs::rename(temporary, path)?;
    hit("checkpoint.after-rename");
    sync_parent(path)
}

/// Replaces a small file as a whole.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let (mut file, temporary) = begin(path)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .inspect(|()| hit("file.before-rename"))
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| undo(&temporary))?;
    hit("file.after-rename");
    sync_parent(path)
}

/// Gives a file another name in its directory, in place of one that has it.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    hit("file.after-rename");
    sync_parent(to)
}

/// Removes files, and syncs their directories. One that is not there is no error.
pub(super) fn remove(paths: &[PathBuf]) -> io::Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    hit("remove.before");
    let mut directories = BTreeSet::new();
    let mut first_error = None;
    for path in paths {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                first_error.get_or_insert(error);
            }
            Ok(()) | Err(_) => {}
        }
        directories.extend(path.parent());
    }
    for directory in directories {
        sync_directory(directory)?;
    }
    hit("remove.after");
    first_error.map_or(Ok(()), Err)
}

/// Makes a directory, durable in its parent; also one that is there, because whoever made it may have
/// been killed before that.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => sync_parent(path),
    }
}

/// Overwrites a file with zeros from `position` to its end, and syncs it.
pub(super) fn zero_from(path: &Path, position: u64) -> io::Result<()> {
    let file = open(path)?;
    zero(&file, position, file.metadata()?.len(), Zeros::default().blocks(), &|| false)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
