//! A disk in memory that forgets what was not synced: for tests, and for simulation.
//!
//! Handles share one disk. It completes commands in order, or as a seed chooses; it fails what it is
//! told to fail; and a crash keeps, drops or tears each sector that was written and not synced, as a
//! page cache does when the power goes.

mod files;

use super::{
    COMMANDS_MAX, Disk, DiskCommand, DiskDone, DiskError, DiskEvent, EIO, FileDriver, FileId,
    FileJob,
};
use crate::random::Random;
use files::Files;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use super::StartFiles;

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// The write of a [`DiskCommand::Write`].
    Write,
    /// Its sync.
    Sync,
    /// [`DiskCommand::Read`].
    Read,
    /// [`FileJob::Create`].
    Create,
    /// [`FileJob::Open`].
    Open,
    /// [`FileJob::Begin`].
    Begin,
    /// [`FileJob::Append`].
    Append,
    /// [`FileJob::Publish`].
    Publish,
    /// [`FileJob::Replace`].
    Replace,
    /// [`FileJob::Remove`].
    Remove,
}

impl Operation {
    /// What a command is, or begins with; `None` for what cannot fail.
    fn of(command: &DiskCommand) -> Option<Self> {
        Some(match command {
            DiskCommand::Write { .. } => Self::Write,
            DiskCommand::Read { .. } => Self::Read,
            DiskCommand::Job { job, .. } => match job {
                FileJob::Create { .. } => Self::Create,
                FileJob::Open { .. } => Self::Open,
                FileJob::Close { .. } => return None,
                FileJob::Begin { .. } => Self::Begin,
                FileJob::Append { .. } => Self::Append,
                FileJob::Publish { .. } => Self::Publish,
                FileJob::Replace { .. } => Self::Replace,
                FileJob::Remove { .. } => Self::Remove,
            },
        })
    }
}

#[derive(Debug)]
struct Fault {
    operation: Operation,
    path_part: String,
    errno: i32,
}

/// A command that has not ended.
#[derive(Debug)]
struct Waiting {
    command: DiskCommand,
    /// Of a write: it is done, and the sync is not.
    is_written: bool,
}

impl Waiting {
    fn is_job(&self) -> bool {
        matches!(self.command, DiskCommand::Job { .. })
    }
}

#[derive(Debug, Default)]
struct World {
    files: Files,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    faults: Vec<Fault>,
    /// Chooses what completes next; `None` goes by order.
    random: Option<Random>,
    held: bool,
    holds_reads: bool,
    syncs: u64,
}

/// A handle on a disk in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<World>>);

impl MemoryDisk {
    /// An empty disk that carries out commands in order, each with the next
    /// [`FileDriver::complete`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk that takes its time and completes in any order, as the seed chooses.
    #[must_use]
    pub fn shuffled(seed: u64) -> Self {
        let disk = Self::default();
        disk.world().random = Some(Random::new(seed));
        disk
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Completes nothing until let go again.
    pub fn hold(&self, held: bool) {
        self.world().held = held;
    }

    /// Completes no read until let go again.
    pub fn hold_reads(&self, held: bool) {
        self.world().holds_reads = held;
    }

    /// The next such operation on a path that contains `path_part` fails.
    pub fn fail(&self, operation: Operation, path_part: &str, errno: i32) {
        let path_part = path_part.to_owned();
        self.world().faults.push(Fault { operation, path_part, errno });
    }

    /// Bytes that fit on the disk; what would need more fails with `ENOSPC`.
    pub fn set_capacity(&self, bytes: u64) {
        self.world().files.set_capacity(bytes);
    }

    /// Leaves room for so many more bytes than there are.
    pub fn leave_room(&self, bytes: u64) {
        let files = &mut self.world().files;
        files.set_capacity(files.used() + bytes);
    }

    /// How often something found no room.
    #[must_use]
    pub fn no_room_count(&self) -> u64 {
        self.world().files.no_room_count()
    }

    /// Syncs carried out.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        self.world().syncs
    }

    /// What a reader finds in a file now.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        self.world().files.find(path).map(|inode| inode.content().to_vec())
    }

    /// Puts a file there, durable, in place of one of that name.
    pub fn put(&self, path: &Path, content: &[u8]) {
        self.world().files.put(path, content);
    }

    /// Changes a file behind everybody's back, as damage does: durable at once.
    pub fn damage(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(mut content) = self.content(path) {
            change(&mut content);
            self.put(path, &content);
        }
    }

    /// The paths of all files.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.world().files.paths()
    }

    /// The power goes. Commands under way have happened, or not, or in part; sectors that were
    /// not synced are kept or lost each for itself. All files are closed, and faults forgotten.
    pub fn crash(&self, seed: u64) {
        let mut random = Random::new(seed);
        let world = &mut *self.world();
        world.faults.clear();
        world.held = false;
        let mut jobs_go_on = true;
        for Waiting { command, is_written } in std::mem::take(&mut world.waiting) {
            if let DiskCommand::Write { file, .. } = &command
                && is_written
            {
                if random.one_in(2) {
                    // Whether it worked is nobody's business any more, here and below.
                    let _ = world.files.sync(*file);
                }
            } else if !matches!(command, DiskCommand::Job { .. }) {
                if random.one_in(2) {
                    world.files.interrupt(command, &mut random);
                }
            } else if jobs_go_on {
                jobs_go_on = random.one_in(2);
                if jobs_go_on {
                    let _ = world.files.carry_out(&command);
                } else {
                    world.files.interrupt(command, &mut random);
                }
            }
        }
        world.files.crash(&mut random);
    }
}

impl World {
    /// Takes the command that goes on next.
    fn next(&mut self) -> Option<Waiting> {
        if self.held || self.waiting.is_empty() {
            return None;
        }
        let Some(random) = &mut self.random else {
            let is_held = |waiting: &Waiting| matches!(waiting.command, DiskCommand::Read { .. });
            let next = self.waiting.iter().position(|one| !(self.holds_reads && is_held(one)))?;
            return self.waiting.remove(next);
        };
        if random.one_in(4) {
            return None;
        }
        let chosen = random.index(self.waiting.len());
        // Jobs keep their order: the first of them stands for all.
        let first_job = self.waiting.iter().position(Waiting::is_job);
        let is_job = self.waiting[chosen].is_job();
        self.waiting.remove(if is_job { first_job.unwrap_or(chosen) } else { chosen })
    }

    /// Goes on with a command; how it ended, or `None` if it is written and not synced yet, which
    /// a disk that completes in any order takes its time for.
    fn step(&mut self, mut waiting: Waiting) -> Option<(DiskCommand, Result<DiskDone, DiskError>)> {
        let command = &waiting.command;
        let DiskCommand::Write { file, .. } = command else {
            let result = self.carry_out(command);
            return Some((waiting.command, result));
        };
        if !waiting.is_written {
            if let Err(error) = self.carry_out(command) {
                return Some((waiting.command, Err(error)));
            }
            if self.random.is_some() {
                waiting.is_written = true;
                self.waiting.push_back(waiting);
                return None;
            }
        }
        let result = self.sync(command, *file).map_err(DiskError::of_sync);
        Some((waiting.command, result))
    }

    fn carry_out(&mut self, command: &DiskCommand) -> Result<DiskDone, DiskError> {
        if let Some(error) = Operation::of(command).and_then(|o| self.fault(o, command)) {
            self.files.fail(command, error);
            return Err(error);
        }
        self.files.carry_out(command)
    }

    fn sync(&mut self, command: &DiskCommand, file: FileId) -> Result<DiskDone, DiskError> {
        if let Some(error) = self.fault(Operation::Sync, command) {
            self.files.fail(command, error);
            return Err(error);
        }
        self.syncs += 1;
        self.files.sync(file).map(|()| DiskDone::Done)
    }

    /// The error that an operation of a command was told to fail with.
    fn fault(&mut self, operation: Operation, command: &DiskCommand) -> Option<DiskError> {
        if self.faults.is_empty() {
            return None;
        }
        let path = self.files.path_of(command)?;
        let path = path.to_string_lossy();
        let index = self.faults.iter().position(|fault| {
            fault.operation == operation && path.contains(fault.path_part.as_str())
        })?;
        Some(DiskError::from_errno(self.faults.remove(index).errno))
    }
}

impl FileDriver for MemoryDisk {
    fn submit(&mut self, disk: &mut Disk) {
        let world = &mut *self.world();
        while let Some(command) = disk.take() {
            world.files.on_submit(&command);
            world.waiting.push_back(Waiting { command, is_written: false });
        }
        assert!(world.waiting.len() < COMMANDS_MAX, "whoever asks has a bound of its own");
    }

    fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        let mut count = 0;
        while count < events_max {
            let ended = {
                let world = &mut *self.world();
                world.next().and_then(|waiting| world.step(waiting))
            };
            let Some((command, result)) = ended else { break };
            let token = command.token();
            if let DiskCommand::Write { batches, .. } = command {
                disk.give_back(batches);
            }
            on_event(disk, DiskEvent { token, result });
            count += 1;
        }
        count
    }

    fn in_flight(&self) -> usize {
        self.world().waiting.len()
    }
}

impl StartFiles for MemoryDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.world().files.list(directory)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        Ok(self.world().files.existing(path)?.content().len() as u64)
    }

    fn read_at(&self, path: &Path, position: u64, into: &mut [u8]) -> io::Result<usize> {
        self.world().start_fault(Operation::Read, path)?;
        Ok(self.world().files.existing(path)?.read_at(position, into))
    }

    fn zero_from(&mut self, path: &Path, position: u64) -> io::Result<()> {
        self.world().start_fault(Operation::Write, path)?;
        self.world().files.zero_from(path, position)
    }

    fn remove(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        for path in paths {
            self.world().start_fault(Operation::Remove, path)?;
            self.world().files.remove(path);
        }
        Ok(())
    }

    fn replace(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.world().start_fault(Operation::Replace, path)?;
        self.world().files.put(path, content);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.world().start_fault(Operation::Replace, from)?;
        self.world().files.rename(from, to)
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        self.world().files.make_directory(path);
        Ok(())
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        self.world().start_fault(Operation::Sync, path)?;
        self.world().files.sync_path(path)
    }

    /// Names are durable at once here.
    fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        self.world().start_fault(Operation::Sync, path)
    }
}

impl World {
    /// As `fault`, for the calls of start-up.
    fn start_fault(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        if self.faults.is_empty() {
            return Ok(());
        }
        let path = path.to_string_lossy();
        let index = self.faults.iter().position(|fault| {
            fault.operation == operation && path.contains(fault.path_part.as_str())
        });
        match index {
            Some(index) => Err(io::Error::from_raw_os_error(self.faults.remove(index).errno)),
            None => Ok(()),
        }
    }
}

fn broken() -> DiskError {
    DiskError::from_errno(EIO)
}

#[cfg(test)]
mod tests;
