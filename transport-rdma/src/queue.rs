//! The seam between what a link decides and the queue pair that does it: one chain of writes per
//! turn out, completions in. A queue in memory stands behind it in tests, so that everything but the
//! calls themselves is tried on any host.

use crate::error::{DownCause, WorkStatus};
use ringlane_dataplane::batch::Arena;

/// Part of memory that is registered with the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    /// Which memory: 0 is the stage, then the arenas of [`Queue::slice_of`].
    pub region: u16,
    /// Where in it.
    pub at: u32,
    /// How many bytes.
    pub bytes: u32,
}

/// One write into the peer's ring, with immediate data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    /// Comes back with its completion.
    pub id: u64,
    /// Where in the peer's ring.
    pub at: u32,
    /// Bytes in all; the sum of its slices.
    pub bytes: u32,
    /// How many of the chain's slices are its own.
    pub slices: u16,
    /// What the peer learns with it.
    pub imm: u32,
    /// Whether its bytes are copied into the request, so that the device need not fetch them: at most
    /// [`Queue::inline_max`].
    pub inline: bool,
    /// Whether its completion is reported; that of the last of a chain always has to be.
    pub signalled: bool,
}

/// What a queue reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// This write and all before it are done: their memory may be used again. It does not say that
    /// the peer's process has seen them.
    Done {
        /// Of the write.
        id: u64,
    },
    /// A write of the peer has landed.
    Landed {
        /// What it told with it.
        imm: u32,
    },
    /// Something failed; nothing that comes after it counts.
    Failed(WorkStatus),
}

/// Completions taken at once at most.
pub const COMPLETIONS_MAX: usize = 32;

/// A queue pair with its memory, as a link uses it.
pub trait Queue {
    /// Bytes of the ring that the peer writes into.
    fn ring_bytes(&self) -> u32;

    /// Bytes of the stage.
    fn stage_bytes(&self) -> u32;

    /// Slices that one write may have.
    fn slices_max(&self) -> u16;

    /// Copies into the stage. The range is inside, and no write that is under way has it.
    fn stage(&mut self, at: u32, bytes: &[u8]);

    /// Bytes that a write may carry in its request.
    fn inline_max(&self) -> u32;

    /// Where `bytes`, which are in `arena`, lie in registered memory: the arena is registered if it is not yet.
    /// `None` if it cannot be.
    fn slice_of(&mut self, bytes: &[u8], arena: &Arena) -> Option<Slice>;

    /// Posts a chain with one call, so that the device hears of it once.
    ///
    /// # Errors
    ///
    /// The device takes no more; the link is over.
    fn post(&mut self, chain: &[Write], slices: &[Slice]) -> Result<(), DownCause>;

    /// Posts receives, each for one write of the peer with immediate data.
    ///
    /// # Errors
    ///
    /// As above.
    fn post_receives(&mut self, count: u32) -> Result<(), DownCause>;

    /// Takes completions, up to [`COMPLETIONS_MAX`], in order.
    ///
    /// # Errors
    ///
    /// The device is gone.
    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), DownCause>;

    /// Copies out of the ring. The range is inside. The peer may be writing there.
    fn copy_ring(&self, at: u32, into: &mut [u8]);

    /// Asks for one notice at the next completion; after it [`Queue::poll`] has to be called once.
    ///
    /// # Errors
    ///
    /// The device is gone.
    fn arm(&mut self) -> Result<(), DownCause>;

    /// Takes the peer's right to write, for good: when it returns, no byte of the ring changes any
    /// more. Nothing else may be called after it.
    ///
    /// # Errors
    ///
    /// The device did not do it; the memory must then stay where it is.
    fn revoke(&mut self) -> Result<(), DownCause>;
}
