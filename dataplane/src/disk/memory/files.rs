//! The files of a disk in memory: what a reader finds, and what a crash leaves.

use super::broken;
use crate::disk::{
    BatchWrite, DiskCommand, DiskDone, DiskError, ENOSPC, FileId, FileJob, TEMPORARY_SUFFIX,
    temporary,
};
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;
/// What the page cache keeps together.
const PAGE_BYTES: usize = 4096;
static BLANK: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
const EEXIST: i32 = 17;
const ENOENT: i32 = 2;

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Pages in which the two differ, or may.
    dirty: BTreeSet<usize>,
}

impl Inode {
    fn durable(content: &[u8]) -> Self {
        Self { cached: content.to_vec(), durable: content.to_vec(), dirty: BTreeSet::new() }
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn read_at(&self, position: u64, into: &mut [u8]) -> usize {
        let from = self.cached.get(position as usize..).unwrap_or(&[]);
        let bytes = from.len().min(into.len());
        into[..bytes].copy_from_slice(&from[..bytes]);
        bytes
    }

    fn write(&mut self, position: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let position = position as usize;
        let end = position + bytes.len();
        if self.cached.len() < end {
            self.cached.resize(end, 0);
        }
        self.cached[position..end].copy_from_slice(bytes);
        self.dirty.extend(position / PAGE_BYTES..=(end - 1) / PAGE_BYTES);
    }

    /// What [`bytes_of`] says, without a copy of it.
    fn write_all(&mut self, position: u64, batches: &[BatchWrite], zeros: u32) {
        let mut at = position;
        let mut write = |bytes: &[u8]| {
            self.write(at, bytes);
            at += bytes.len() as u64;
        };
        for batch in batches {
            write(&batch.header);
            write(batch.body());
        }
        let mut left = zeros as usize;
        while left > 0 {
            let now = left.min(PAGE_BYTES);
            write(&BLANK[..now]);
            left -= now;
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.cached.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            let from = (page * PAGE_BYTES).min(self.cached.len());
            let to = (from + PAGE_BYTES).min(self.cached.len());
            self.durable[from..to].copy_from_slice(&self.cached[from..to]);
        }
    }

    /// Each sector that is not durable is kept or lost. What was added at the end is there in
    /// length, or not.
    fn crash(&mut self, random: &mut Random) {
        if self.durable.len() < self.cached.len() && random.one_in(2) {
            self.durable.resize(self.cached.len(), 0);
        }
        for page in std::mem::take(&mut self.dirty) {
            let keeps_all = random.one_in(3);
            let keeps_some = keeps_all || random.one_in(2);
            let end = ((page + 1) * PAGE_BYTES).min(self.durable.len());
            for from in (page * PAGE_BYTES..end).step_by(SECTOR_BYTES) {
                let to = (from + SECTOR_BYTES).min(end);
                if keeps_all || (keeps_some && random.one_in(2)) {
                    self.durable[from..to].copy_from_slice(&self.cached[from..to]);
                }
            }
        }
        self.cached.clone_from(&self.durable);
    }
}

/// What a write puts into its file.
fn bytes_of(batches: &[BatchWrite], zeros: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for batch in batches {
        bytes.extend_from_slice(&batch.header);
        bytes.extend_from_slice(batch.body());
    }
    bytes.resize(bytes.len() + zeros as usize, 0);
    bytes
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// Begun and not published.
    begun: bool,
    error: Option<DiskError>,
}

/// All files. What a job did is durable with it.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// By path, as bytes: compared more often than anything else here.
    inodes: BTreeMap<OsString, Inode>,
    directories: BTreeSet<PathBuf>,
    open: BTreeMap<FileId, Open>,
    capacity: Option<u64>,
    /// How often there was no room.
    no_room: u64,
    /// Commands under way by file, to catch a close that comes too early.
    busy: BTreeMap<FileId, usize>,
}

impl Files {
    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity = Some(bytes);
    }

    pub(super) fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.cached.len() as u64).sum()
    }

    pub(super) fn no_room_count(&self) -> u64 {
        self.no_room
    }

    pub(super) fn find(&self, path: &Path) -> Option<&Inode> {
        self.inodes.get(path.as_os_str())
    }

    pub(super) fn existing(&self, path: &Path) -> io::Result<&Inode> {
        self.find(path).ok_or_else(|| io::Error::from_raw_os_error(ENOENT))
    }

    pub(super) fn paths(&self) -> Vec<PathBuf> {
        self.inodes.keys().map(PathBuf::from).collect()
    }

    pub(super) fn put(&mut self, path: &Path, content: &[u8]) {
        self.inodes.insert(path.into(), Inode::durable(content));
    }

    pub(super) fn remove(&mut self, path: &Path) {
        self.inodes.remove(path.as_os_str());
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let inode = self
            .inodes
            .remove(from.as_os_str())
            .ok_or_else(|| io::Error::from_raw_os_error(ENOENT))?;
        self.inodes.insert(to.into(), inode);
        Ok(())
    }

    pub(super) fn make_directory(&mut self, path: &Path) {
        self.directories.insert(path.to_owned());
    }

    pub(super) fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let files = self.inodes.keys().map(Path::new);
        let children = files.chain(self.directories.iter().map(PathBuf::as_path));
        let names: Vec<String> = children
            .filter(|path| path.parent() == Some(directory))
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect();
        if names.is_empty() && !self.directories.contains(directory) {
            return Err(io::Error::from_raw_os_error(ENOENT));
        }
        Ok(names)
    }

    pub(super) fn zero_from(&mut self, path: &Path, position: u64) -> io::Result<()> {
        let inode = self.inodes.get_mut(path.as_os_str());
        let inode = inode.ok_or_else(|| io::Error::from_raw_os_error(ENOENT))?;
        let position = position.min(inode.cached.len() as u64);
        let zeros = vec![0; inode.cached.len() - position as usize];
        inode.write(position, &zeros);
        inode.sync();
        Ok(())
    }

    pub(super) fn sync_path(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.inodes.get_mut(path.as_os_str());
        inode.ok_or_else(|| io::Error::from_raw_os_error(ENOENT))?.sync();
        Ok(())
    }

    /// The path that a command is about.
    pub(super) fn path_of(&self, command: &DiskCommand) -> Option<PathBuf> {
        let of = |file: &FileId| self.open.get(file).map(|open| open.path.clone());
        match command {
            DiskCommand::Write { file, .. } | DiskCommand::Read { file, .. } => of(file),
            DiskCommand::Job { job, .. } => match job {
                FileJob::Create { path, .. }
                | FileJob::Open { path, .. }
                | FileJob::Begin { path, .. }
                | FileJob::Replace { path, .. } => Some(path.clone()),
                FileJob::Close { file }
                | FileJob::Append { file, .. }
                | FileJob::Publish { file } => of(file),
                FileJob::Remove { paths } => paths.first().cloned(),
            },
        }
    }

    /// Counts what is under way on each file.
    pub(super) fn on_submit(&mut self, command: &DiskCommand) {
        match command {
            DiskCommand::Write { file, .. } | DiskCommand::Read { file, .. } => {
                *self.busy.entry(*file).or_default() += 1;
            }
            DiskCommand::Job { job: FileJob::Close { file }, .. } => {
                let busy = self.busy.get(file).copied().unwrap_or(0);
                assert_eq!(busy, 0, "file {} is closed while it is in use", file.0);
            }
            DiskCommand::Job { .. } => {}
        }
    }

    fn ended(&mut self, file: FileId) {
        if let Some(busy) = self.busy.get_mut(&file) {
            *busy = busy.saturating_sub(1);
        }
    }

    /// A command failed as it was told to.
    pub(super) fn fail(&mut self, command: &DiskCommand, error: DiskError) {
        match command {
            DiskCommand::Write { file, .. } => {
                self.ended(*file);
                self.set_error(*file, error);
            }
            DiskCommand::Read { file, .. } => self.ended(*file),
            DiskCommand::Job { job: FileJob::Append { file, .. }, .. } => {
                self.set_error(*file, error);
            }
            DiskCommand::Job { .. } => {}
        }
    }

    fn set_error(&mut self, file: FileId, error: DiskError) {
        if let Some(open) = self.open.get_mut(&file) {
            open.error.get_or_insert(error);
        }
    }

    /// The second half of a write.
    pub(super) fn sync(&mut self, file: FileId) -> Result<(), DiskError> {
        self.ended(file);
        self.writable(file)?.sync();
        Ok(())
    }

    /// All of a command, and of a write its first half.
    pub(super) fn carry_out(&mut self, command: &DiskCommand) -> Result<DiskDone, DiskError> {
        match command {
            DiskCommand::Write { file, position, batches, zeros, .. } => {
                let written = self.writable(*file).map(|inode| {
                    inode.write_all(*position, batches, *zeros);
                });
                written.inspect_err(|_| self.ended(*file))?;
            }
            DiskCommand::Read { file, position, bytes, .. } => {
                self.ended(*file);
                let path = &self.open.get(file).ok_or_else(broken)?.path;
                let inode = self.inodes.get(path.as_os_str()).ok_or_else(broken)?;
                let mut into = vec![0; *bytes as usize];
                let read = inode.read_at(*position, &mut into);
                into.truncate(read);
                return Ok(DiskDone::Read(into));
            }
            DiskCommand::Job { job, .. } => self.job(job)?,
        }
        Ok(DiskDone::Done)
    }

    fn writable(&mut self, file: FileId) -> Result<&mut Inode, DiskError> {
        let open = self.open.get(&file).ok_or_else(broken)?;
        match open.error {
            Some(error) => Err(error),
            None => self.inodes.get_mut(open.path.as_os_str()).ok_or_else(broken),
        }
    }

    fn job(&mut self, job: &FileJob) -> Result<(), DiskError> {
        match job {
            FileJob::Create { file, path, header, bytes } => {
                if self.inodes.contains_key(path.as_os_str()) {
                    return Err(DiskError::from_errno(EEXIST));
                }
                self.room_for(*bytes)?;
                let mut content = header.clone();
                content.resize(*bytes as usize, 0);
                self.put(path, &content);
                self.opened(*file, path.clone(), false);
            }
            FileJob::Open { file, path } => {
                self.find(path).ok_or_else(|| DiskError::from_errno(ENOENT))?;
                self.opened(*file, path.clone(), false);
            }
            FileJob::Close { file } => self.close(*file),
            FileJob::Begin { file, path } => {
                self.put(&temporary(path), &[]);
                self.opened(*file, temporary(path), true);
            }
            FileJob::Append { file, bytes } => {
                self.room_for(bytes.len() as u64).inspect_err(|e| self.set_error(*file, *e))?;
                let inode = self.writable(*file)?;
                inode.write(inode.cached.len() as u64, bytes);
            }
            FileJob::Publish { file } => self.publish(*file)?,
            FileJob::Replace { path, content } => {
                self.room_for(content.len() as u64)?;
                self.put(path, content);
            }
            FileJob::Remove { paths } => paths.iter().for_each(|path| self.remove(path)),
        }
        Ok(())
    }

    fn opened(&mut self, file: FileId, path: PathBuf, begun: bool) {
        let before = self.open.insert(file, Open { path, begun, error: None });
        assert!(before.is_none(), "file {} is open already", file.0);
    }

    fn close(&mut self, file: FileId) {
        self.busy.remove(&file);
        if let Some(open) = self.open.remove(&file)
            && open.begun
        {
            self.remove(&open.path);
        }
    }

    fn publish(&mut self, file: FileId) -> Result<(), DiskError> {
        self.writable(file)?.sync();
        let open = self.open.get_mut(&file).ok_or_else(broken)?;
        let name = open.path.to_string_lossy();
        let path = PathBuf::from(name.strip_suffix(TEMPORARY_SUFFIX).ok_or_else(broken)?);
        let inode = self.inodes.remove(open.path.as_os_str()).ok_or_else(broken)?;
        open.path.clone_from(&path);
        open.begun = false;
        self.inodes.insert(path.into(), inode);
        Ok(())
    }

    fn room_for(&mut self, bytes: u64) -> Result<(), DiskError> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        if self.used() + bytes <= capacity {
            return Ok(());
        }
        self.no_room += 1;
        Err(DiskError::from_errno(ENOSPC))
    }

    /// A command was under way when the power went.
    pub(super) fn interrupt(&mut self, command: DiskCommand, random: &mut Random) {
        match command {
            DiskCommand::Write { file, position, batches, zeros, .. } => {
                let Ok(inode) = self.writable(file) else { return };
                let mut bytes = bytes_of(&batches, zeros);
                bytes.truncate(random.index(bytes.len() + 1));
                inode.write(position, &bytes);
            }
            DiskCommand::Job { job: FileJob::Create { path, header, .. }, .. } => {
                self.put(&temporary(&path), &header[..random.index(header.len() + 1)]);
            }
            DiskCommand::Job { job: FileJob::Remove { paths }, .. } => {
                let removed = random.index(paths.len() + 1);
                paths[..removed].iter().for_each(|path| self.remove(path));
            }
            DiskCommand::Read { .. } | DiskCommand::Job { .. } => {}
        }
    }

    pub(super) fn crash(&mut self, random: &mut Random) {
        self.open.clear();
        self.busy.clear();
        self.inodes.values_mut().for_each(|inode| inode.crash(random));
    }
}
