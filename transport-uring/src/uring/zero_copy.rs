//! Zero-copy sends: the kernel reads the bytes until its notice, which comes after the result.

use super::ring::RingCompletion;
use crate::engine::Completion;
use crate::sending::Sending;
use io_uring::cqueue;
use ringlane_dataplane::ids::ConnectionId;

/// Large sends that are copied after the kernel refused to pin memory (its limit is reached, or
/// the socket cannot), before it is asked again.
const SKIPPED_AFTER_REFUSAL: u32 = 1024;

#[derive(Debug)]
struct Pending {
    connection: ConnectionId,
    /// The result is there, the notice is not.
    waits_for_notice: bool,
    /// The bytes, if the connection does not need them any more.
    parked: Option<Box<Sending>>,
}

/// Which zero-copy sends the kernel still has memory of.
#[derive(Debug)]
pub(super) struct ZeroCopySends {
    bytes_min: usize,
    pending_max: usize,
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    skip: u32,
}

impl ZeroCopySends {
    pub(super) fn new(bytes_min: usize, pending_max: usize) -> Self {
        Self { bytes_min, pending_max, pending: Vec::new(), free: Vec::new(), skip: 0 }
    }

    /// The place of a new zero-copy send, if a send of this size is to be one.
    pub(super) fn begin(&mut self, connection: ConnectionId, bytes: usize) -> Option<u32> {
        if bytes < self.bytes_min {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        let pending = Some(Pending { connection, waits_for_notice: false, parked: None });
        if let Some(index) = self.free.pop() {
            self.pending[index as usize] = pending;
            return Some(index);
        }
        if self.pending.len() >= self.pending_max {
            return None;
        }
        self.pending.push(pending);
        Some(self.pending.len() as u32 - 1)
    }

    /// Sends whose result is there and whose notice is not.
    pub(super) fn waiting(&self) -> usize {
        self.pending.iter().flatten().filter(|pending| pending.waits_for_notice).count()
    }

    /// Keeps the bytes until the notice comes; frees them if it has come.
    pub(super) fn park(&mut self, index: u32, sending: Box<Sending>) {
        if let Some(pending) = &mut self.pending[index as usize] {
            pending.parked = Some(sending);
        }
    }

    pub(super) fn complete(
        &mut self,
        index: u32,
        raw: RingCompletion,
        more: bool,
    ) -> Option<Completion> {
        let pending = self.pending.get_mut(index as usize)?.as_mut()?;
        let connection = pending.connection;
        if cqueue::notif(raw.flags) {
            let parked = pending.parked.take();
            self.end(index);
            return Some(match parked {
                Some(sending) => Completion::Released { sending },
                None => Completion::Noticed { connection },
            });
        }
        let result = usize::try_from(raw.result).map_err(|_| self.refusal_to_retry(-raw.result));
        if !more {
            self.end(index);
            return Some(Completion::Sent { connection, result, notice: None });
        }
        if let Some(pending) = &mut self.pending[index as usize] {
            pending.waits_for_notice = true;
        }
        Some(Completion::Sent { connection, result, notice: Some(index) })
    }

    /// Frees nothing of what the kernel may still read.
    pub(super) fn leak(&mut self) {
        for pending in self.pending.drain(..).flatten() {
            core::mem::forget(pending.parked);
        }
    }

    /// An error of zero-copy itself becomes a retry, which copies.
    fn refusal_to_retry(&mut self, errno: i32) -> i32 {
        let refused =
            matches!(errno, libc::ENOMEM | libc::ENOBUFS | libc::EOPNOTSUPP | libc::EINVAL);
        if !refused {
            return errno;
        }
        self.skip = SKIPPED_AFTER_REFUSAL;
        libc::EAGAIN
    }

    fn end(&mut self, index: u32) {
        self.pending[index as usize] = None;
        self.free.push(index);
    }
}
