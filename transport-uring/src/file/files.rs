//! The files of one core: its table, and what is under way.

use super::jobs::Opened;
use super::open::OpenFile;
use super::operation::{Ended, FileOperation, Work};
use super::ring::InRing;
use super::threads::Threads;
use super::{FileBackend, FileConfig};
use crate::engine::Engine;
use crate::failpoint::hit;
use crate::wake::Wakers;
use ringlane_dataplane::disk::{
    BatchWrite, COMMANDS_MAX, Disk, DiskCommand, DiskError, DiskEvent, DiskToken, FileId, FileJob,
};
use ringlane_dataplane::ids::CoreId;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

#[derive(Debug)]
struct Entry {
    open: Arc<OpenFile>,
    /// Operations under way on it.
    busy: u32,
}

/// The files of one core.
#[derive(Debug, Default)]
pub(crate) struct Files {
    table: Vec<Option<Entry>>,
    /// `None` where the core was opened without files: every command is refused.
    threads: Option<Threads>,
    in_ring: InRing,
    /// Ended without a thread: in the ring, or refused.
    ended: VecDeque<Ended>,
    in_flight: usize,
}

impl Files {
    /// Starts the threads that the configuration asks for.
    pub(crate) fn open<E: Engine>(
        core: CoreId,
        config: Option<&FileConfig>,
        wakers: Wakers,
    ) -> io::Result<Self> {
        let Some(config) = config else { return Ok(Self::default()) };
        let in_ring = E::HAS_FILES && config.backend == FileBackend::Ring;
        let workers = if in_ring { 0 } else { config.threads };
        let threads = Threads::start(core, config, workers, wakers)?;
        Ok(Self { threads: Some(threads), ..Self::default() })
    }

    /// Commands taken that have not been reported.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether something has ended that no wake-up will tell of.
    pub(crate) fn have_ended(&self) -> bool {
        !self.ended.is_empty() || self.threads.as_ref().is_some_and(Threads::have_more)
    }

    /// The core is about to wait: whether nothing has ended that no wake-up would tell of.
    pub(crate) fn sleep(&self) -> bool {
        self.ended.is_empty() && self.threads.as_ref().is_none_or(Threads::sleep)
    }

    /// The core has waited.
    pub(crate) fn wake(&self) {
        if let Some(threads) = &self.threads {
            threads.wake();
        }
    }

    /// Begins with everything that the core asks for.
    pub(crate) fn submit<E: Engine>(&mut self, disk: &mut Disk, engine: &mut E) {
        while let Some(command) = disk.take() {
            self.in_flight += 1;
            assert!(self.in_flight <= COMMANDS_MAX, "whoever asks has a bound of its own");
            match command {
                DiskCommand::Write { token, file, position, batches, zeros, is_read_soon } => {
                    hit("write.before");
                    let zeros = zeros as usize;
                    let work = Work::Write { batches, zeros, is_read_soon };
                    self.operate(engine, token, file, work, position);
                }
                DiskCommand::Read { token, file, position, bytes } => {
                    let buffer = vec![0; bytes as usize];
                    self.operate(engine, token, file, Work::Read { buffer }, position);
                }
                DiskCommand::Job { token, job } => self.job(token, job),
            }
        }
    }

    fn operate<E: Engine>(
        &mut self,
        engine: &mut E,
        token: DiskToken,
        id: FileId,
        work: Work,
        position: u64,
    ) {
        let entry = self.table.get_mut(id.index()).and_then(Option::as_mut);
        let (Some(entry), Some(threads)) = (entry, &self.threads) else {
            let batches = match work {
                Work::Write { batches, .. } => Some(batches),
                Work::Read { .. } => None,
            };
            return self.refuse(token, libc::EBADF, batches);
        };
        entry.busy += 1;
        let operation = FileOperation::new(token, id, Arc::clone(&entry.open), work, position);
        if let Err(error) = operation.check() {
            self.ended.push_back(operation.end(Err(error)));
        } else if threads.have_workers() {
            threads.operate(operation);
        } else {
            let (index, place) = self.in_ring.insert(operation);
            engine.start_file(index, place);
        }
    }

    fn job(&mut self, token: DiskToken, job: FileJob) {
        let Some(threads) = &self.threads else {
            return self.refuse(token, libc::EOPNOTSUPP, None);
        };
        if let FileJob::Close { file } = &job
            && let Some(entry) = self.table.get_mut(file.index()).and_then(Option::take)
        {
            assert_eq!(entry.busy, 0, "file {} is closed while it is in use", file.0);
        }
        threads.job(token, job);
    }

    fn refuse(&mut self, token: DiskToken, errno: i32, batches: Option<Vec<BatchWrite>>) {
        let event = DiskEvent { token, result: Err(DiskError::from_errno(errno)) };
        self.ended.push_back(Ended { event, file: None, batches });
    }

    /// The ring has done a step of an operation.
    pub(crate) fn on_result<E: Engine>(
        &mut self,
        engine: &mut E,
        index: u32,
        result: Result<usize, i32>,
    ) {
        let place = self.in_ring.get(index);
        match place.operation.on_result(result) {
            Some(end) => self.ended.push_back(self.in_ring.remove(index).end(end)),
            None => engine.start_file(index, place),
        }
    }

    /// Reports what has ended, at most `events_max`.
    pub(crate) fn complete(
        &mut self,
        disk: &mut Disk,
        events_max: usize,
        on_event: &mut dyn FnMut(&mut Disk, DiskEvent),
    ) -> usize {
        let mut count = 0;
        while count < events_max
            && let Some(ended) = self.next_ended()
        {
            self.in_flight -= 1;
            if let Some(batches) = ended.batches {
                hit("sync.after");
                disk.give_back(batches);
            }
            on_event(disk, ended.event);
            count += 1;
        }
        count
    }

    fn next_ended(&mut self) -> Option<Ended> {
        let ended = self.ended.pop_front().or_else(|| {
            let report = self.threads.as_mut()?.next()?;
            if let Some(opened) = report.opened {
                self.take_in(opened);
            }
            Some(report.ended)
        })?;
        if let Some(id) = ended.file
            && let Some(entry) = self.table[id.index()].as_mut()
        {
            entry.busy -= 1;
        }
        Some(ended)
    }

    fn take_in(&mut self, (id, open): Opened) {
        if self.table.len() <= id.index() {
            self.table.resize_with(id.index() + 1, || None);
        }
        self.table[id.index()] = Some(Entry { open, busy: 0 });
    }

    /// Frees nothing of what the kernel may still use.
    pub(crate) fn leak(&mut self) {
        self.in_ring.leak();
    }
}
