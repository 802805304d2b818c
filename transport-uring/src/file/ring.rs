//! Operations that are in the core's ring: they stay here, and so does all that they name, until
//! their completion.

use super::operation::{FileOperation, SLICES_MAX, Step};
use std::os::fd::{AsFd, BorrowedFd};

/// An operation with the slices that the kernel reads.
#[derive(Debug)]
pub(crate) struct RingOperation {
    pub(super) operation: FileOperation,
    slices: Vec<libc::iovec>,
}

/// What to submit. The pointers are into the operation, and valid as long as that is neither
/// stepped again nor dropped.
pub(crate) enum RingStep {
    Write { slices: *const libc::iovec, count: u32, position: u64 },
    Sync,
    Read { into: *mut u8, bytes: u32, position: u64 },
}

impl RingOperation {
    /// The file.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.operation.open.file.as_fd()
    }

    /// What to submit next.
    pub(crate) fn step(&mut self) -> RingStep {
        match self.operation.step() {
            Step::Write { position } => {
                let pieces = self.operation.pieces().take(SLICES_MAX);
                self.slices.clear();
                self.slices.extend(pieces.map(|piece| libc::iovec {
                    // The kernel only reads what a write names.
                    iov_base: piece.as_ptr().cast_mut().cast(),
                    iov_len: piece.len(),
                }));
                let count = self.slices.len() as u32;
                RingStep::Write { slices: self.slices.as_ptr(), count, position }
            }
            Step::Sync => RingStep::Sync,
            Step::Read { position, into } => {
                let bytes = u32::try_from(into.len()).unwrap_or(u32::MAX);
                RingStep::Read { into: into.as_mut_ptr(), bytes, position }
            }
        }
    }
}

/// The operations that the kernel has, by the number in their tokens.
#[derive(Debug, Default)]
pub(super) struct InRing {
    operations: Vec<Option<RingOperation>>,
    free: Vec<u32>,
    /// Vectors of slices, kept for the next operations.
    spare: Vec<Vec<libc::iovec>>,
}

impl InRing {
    /// Keeps an operation; its number, and where it is.
    pub(super) fn insert(&mut self, operation: FileOperation) -> (u32, &mut RingOperation) {
        let slices = self.spare.pop().unwrap_or_default();
        let index = self.free.pop().unwrap_or_else(|| {
            self.operations.push(None);
            self.operations.len() as u32 - 1
        });
        let place = &mut self.operations[index as usize];
        (index, place.insert(RingOperation { operation, slices }))
    }

    /// The operation of a completion.
    pub(super) fn get(&mut self, index: u32) -> &mut RingOperation {
        let place = self.operations.get_mut(index as usize);
        place.and_then(Option::as_mut).expect("the kernel completes what it was given, once")
    }

    /// Takes an operation out that the kernel has completed.
    pub(super) fn remove(&mut self, index: u32) -> FileOperation {
        let place = self.operations.get_mut(index as usize).and_then(Option::take);
        let done = place.expect("the kernel completes what it was given, once");
        self.free.push(index);
        self.spare.push(done.slices);
        done.operation
    }

    /// Frees nothing of what the kernel may still use.
    pub(super) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.operations));
    }
}
