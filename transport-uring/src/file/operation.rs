//! One write with its sync, or one read: what is left of it, and how it ends.
//!
//! Both backends drive it the same way: ask for the [`Step`], do it, and say what came of it with
//! [`FileOperation::on_result`], until that says how it ended.

use super::beside::{Beside, Blocks, Place};
use super::open::OpenFile;
use crate::failpoint::hit;
use ringlane_dataplane::disk::{
    BLOCK_BYTES, BatchWrite, DiskDone, DiskError, DiskEvent, DiskToken, FileId,
};
use std::io;
use std::sync::{Arc, PoisonError};

/// Slices of one call, at most (IOV_MAX, writev(2)).
pub(super) const SLICES_MAX: usize = 1024;
/// A step that the kernel puts off this many times in a row has failed.
const PUT_OFF_MAX: u32 = 1000;
static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

#[derive(Debug)]
pub(super) enum Work {
    /// With so many zeros behind the batches.
    Write {
        batches: Vec<BatchWrite>,
        zeros: usize,
        is_read_soon: bool,
    },
    Read {
        buffer: Vec<u8>,
    },
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Write [`FileOperation::pieces`], or as many as one call takes, at this position.
    Write { position: u64 },
    /// Sync the data.
    Sync,
    /// Read from this position.
    Read { position: u64, into: &'a mut [u8] },
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) event: DiskEvent,
    /// The file that an operation was on; `None` for a job.
    pub(super) file: Option<FileId>,
    /// What was written.
    pub(super) batches: Option<Vec<BatchWrite>>,
}

/// A write or read under way.
#[derive(Debug)]
pub(super) struct FileOperation {
    pub(super) token: DiskToken,
    pub(super) id: FileId,
    pub(super) open: Arc<OpenFile>,
    work: Work,
    position: u64,
    /// Bytes to write or read.
    bytes: usize,
    /// Bytes written or read.
    done: usize,
    /// All is written and the sync is next.
    syncs: bool,
    put_off: u32,
}

impl FileOperation {
    pub(super) fn new(
        token: DiskToken,
        id: FileId,
        open: Arc<OpenFile>,
        work: Work,
        position: u64,
    ) -> Self {
        let bytes = match &work {
            Work::Write { batches, zeros, .. } => {
                batches.iter().map(BatchWrite::bytes).sum::<usize>() + zeros
            }
            Work::Read { buffer } => buffer.len(),
        };
        Self { token, id, open, work, position, bytes, done: 0, syncs: false, put_off: 0 }
    }

    pub(super) fn is_read(&self) -> bool {
        matches!(self.work, Work::Read { .. })
    }

    /// What to do next.
    pub(super) fn step(&mut self) -> Step<'_> {
        let position = self.position + self.done as u64;
        match &mut self.work {
            Work::Write { .. } if self.syncs => Step::Sync,
            Work::Write { .. } => Step::Write { position },
            Work::Read { buffer } => Step::Read { position, into: &mut buffer[self.done..] },
        }
    }

    /// What is left to write, piece by piece.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (batches, zeros): (&[BatchWrite], usize) = match &self.work {
            Work::Write { batches, zeros, .. } => (batches, *zeros),
            Work::Read { .. } => (&[], 0),
        };
        let mut skip = self.done;
        let pieces = batches.iter().flat_map(|batch| [&batch.header[..], batch.body()]);
        let pieces = pieces.chain([&ZEROS[..zeros]]);
        pieces.filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            skip -= skipped;
            let left = &piece[skipped..];
            (!left.is_empty()).then_some(left)
        })
    }

    /// Writes all of it past the page cache, if nobody reads it soon: how many bytes. `None`: it goes through the cache.
    pub(super) fn write_beside(&self, blocks: &mut Blocks) -> Option<io::Result<usize>> {
        let Work::Write { zeros, is_read_soon: false, .. } = self.work else { return None };
        if self.done > 0 {
            return None;
        }
        let place = Place { position: self.position, bytes: self.bytes, zeros };
        let OpenFile { file, beside, .. } = &*self.open;
        // What a panic leaves goes through the cache.
        let mut way = beside.lock().unwrap_or_else(PoisonError::into_inner);
        let way = way.get_or_insert_with(|| Beside::open(file));
        let written = way.write(file, place, self.pieces(), blocks)?;
        Some(written.map(|()| self.bytes))
    }

    /// Whether it may begin: a file that had an error is neither written nor synced.
    pub(super) fn check(&self) -> Result<(), DiskError> {
        match self.work {
            Work::Write { .. } => self.open.check(),
            Work::Read { .. } => Ok(()),
        }
    }

    /// Takes what came of a step, bytes or an errno value. How it ended, or `None` if there is
    /// another step.
    pub(super) fn on_result(
        &mut self,
        result: Result<usize, i32>,
    ) -> Option<Result<(), DiskError>> {
        match self.work {
            Work::Write { .. } if self.syncs => {
                // Never a second time: see `OpenFile::settle`.
                let end = self.open.settle(result.map(drop));
                Some(end.map_err(DiskError::of_sync))
            }
            Work::Write { .. } => {
                let end = self.advance(result, Err(libc::EIO))?;
                let end = self.open.settle(end);
                hit("write.after");
                self.syncs = end.is_ok();
                if !self.syncs {
                    return Some(end);
                }
                hit("sync.before");
                None
            }
            Work::Read { .. } => {
                let end = self.advance(result, Ok(()))?;
                Some(end.map_err(DiskError::from_errno))
            }
        }
    }

    /// As `on_result`; `at_nothing` is what it means that no byte was moved.
    fn advance(
        &mut self,
        result: Result<usize, i32>,
        at_nothing: Result<(), i32>,
    ) -> Option<Result<(), i32>> {
        match result {
            Ok(bytes) => {
                self.done += bytes;
                self.put_off = 0;
                assert!(self.done <= self.bytes, "the kernel moved more than it was asked to");
                if self.done == self.bytes {
                    return Some(Ok(()));
                }
                (bytes == 0).then_some(at_nothing)
            }
            Err(libc::EINTR | libc::EAGAIN) if self.put_off < PUT_OFF_MAX => {
                self.put_off += 1;
                None
            }
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Ends it: what is reported, and what goes back to the core. The file is let go of here.
    pub(super) fn end(self, result: Result<(), DiskError>) -> Ended {
        let (done, batches) = match self.work {
            Work::Write { batches, .. } => (DiskDone::Done, Some(batches)),
            Work::Read { mut buffer } => {
                buffer.truncate(self.done);
                (DiskDone::Read(buffer), None)
            }
        };
        let event = DiskEvent { token: self.token, result: result.map(|()| done) };
        Ended { event, file: Some(self.id), batches }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn operation(work: Work) -> FileOperation {
        let open = Arc::new(OpenFile::new(File::open("/dev/null").unwrap()));
        FileOperation::new(DiskToken(1), FileId(0), open, work, 4096)
    }

    fn three_batches() -> FileOperation {
        let batch = |byte| BatchWrite { header: [byte; 64], batch: None };
        let batches = vec![batch(1), batch(2), batch(3)];
        operation(Work::Write { batches, zeros: 100, is_read_soon: true })
    }

    #[test]
    fn a_short_write_goes_on_where_it_stopped() {
        let mut write = three_batches();
        assert_eq!(write.on_result(Ok(70)), None);
        assert!(matches!(write.step(), Step::Write { position: 4166 }));
        let left: Vec<_> = write.pieces().map(|piece| (piece[0], piece.len())).collect();
        assert_eq!(left, [(2, 58), (3, 64), (0, 100)]);
        assert_eq!(write.on_result(Err(libc::EINTR)), None);
        assert_eq!(write.on_result(Ok(130)), None);
        assert_eq!(write.pieces().map(<[u8]>::len).collect::<Vec<_>>(), [92]);
        assert_eq!(write.on_result(Ok(92)), None);
        assert!(matches!(write.step(), Step::Sync));
        assert_eq!(write.on_result(Ok(0)), Some(Ok(())));
        let ended = write.end(Ok(()));
        assert_eq!(ended.event.result, Ok(DiskDone::Done));
        assert_eq!(ended.batches.map(|batches| batches.len()), Some(3));
    }

    #[test]
    fn a_write_that_does_not_go_on_has_failed() {
        let mut write = three_batches();
        assert_eq!(write.on_result(Ok(0)), Some(Err(DiskError::from_errno(libc::EIO))));
        let mut write = three_batches();
        let end = (0..=PUT_OFF_MAX).find_map(|_| write.on_result(Err(libc::EAGAIN)));
        assert_eq!(end, Some(Err(DiskError::from_errno(libc::EAGAIN))));
        assert!(write.check().is_err(), "its file has failed with it");
    }

    #[test]
    fn a_sync_has_one_try() {
        let mut write = three_batches();
        assert_eq!(write.on_result(Ok(292)), None);
        let error = DiskError::from_errno(libc::EINTR).of_sync();
        assert_eq!(write.on_result(Err(libc::EINTR)), Some(Err(error)));
        assert!(write.check().is_err());
    }

    #[test]
    fn a_read_ends_with_the_file_and_its_error_is_not_final() {
        let mut read = operation(Work::Read { buffer: vec![0; 10] });
        assert_eq!(read.on_result(Ok(4)), None);
        let Step::Read { position, into } = read.step() else { panic!("it is a read") };
        assert_eq!((position, into.len()), (4100, 6));
        assert_eq!(read.on_result(Ok(0)), Some(Ok(())));
        assert_eq!(read.end(Ok(())).event.result, Ok(DiskDone::Read(vec![0; 4])));
        let mut read = operation(Work::Read { buffer: vec![0; 10] });
        assert_eq!(read.on_result(Err(libc::EIO)), Some(Err(DiskError::from_errno(libc::EIO))));
        assert_eq!(read.open.check(), Ok(()));
    }
}
