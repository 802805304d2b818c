//! Whether the log of a partition takes records of its sessions. On a full disk it takes those that
//! let go of something for longer than those that somebody waits for: positions, cursors and what a
//! checkpoint needs, because the logs of the node are trimmed behind them, and to the very end the
//! ends of sessions, which an operator makes room with.

use crate::service::Broker;
use ringlane_dataplane::log::room::Claim;
use ringlane_dataplane::log::writer::Admission;
use ringlane_dataplane::time::Nanos;
use std::time::Duration;

/// How often positions and cursors are recorded on a full disk, while there is room for them.
const FULL_EVERY: Duration = Duration::from_secs(10);
/// Bytes of positions that are recorded at once then, about.
const FULL_POSITIONS_BYTES: usize = 4 * 1024;
/// What records take in the log besides what they say: their heads, those of their batch and of a
/// closing one, and the cursors.
const OVERHEAD_BYTES: u64 = 1024;

fn takes(admission: Admission) -> bool {
    matches!(admission, Admission::Open | Admission::Poisoned)
}

impl Broker {
    /// Bytes that have to go before the next record of state: what was matched, and retained messages
    /// that wait. Counted where the disk is full; elsewhere there will be room.
    fn bytes_before(&self, index: usize) -> u64 {
        let own = self.durable.as_ref().and_then(|durable| durable.partitions.get(index));
        own.filter(|_| self.is_full(index)).map_or(0, |own| {
            let postings = own.state.unlogged_bytes() as u64;
            postings + own.overdue.retained_bytes() as u64 + OVERHEAD_BYTES
        })
    }

    pub(super) fn is_full(&self, index: usize) -> bool {
        self.partitions[index].log().is_some_and(|log| log.full().is_some())
    }

    /// Whether the log of a partition takes records of state. Retained messages that had to wait come
    /// first: the cursor is behind them, and goes with the next record.
    pub(crate) fn state_admission(&self, index: usize) -> Admission {
        match self.partitions[index].admits(Claim::State(self.bytes_before(index))) {
            Admission::Open if self.retained_overdue(index) > 0 => Admission::Busy,
            admission => admission,
        }
    }

    /// Whether retained messages that had to wait are appended now.
    pub(super) fn takes_retained(&self, index: usize) -> bool {
        takes(self.partitions[index].admits(Claim::State(self.bytes_before(index))))
    }

    /// Whether a record of state is appended now. A log that has failed takes them all, and keeps
    /// none.
    pub(crate) fn takes_state(&self, index: usize) -> bool {
        takes(self.state_admission(index))
    }

    /// Whether a log takes the end of the session with this name.
    pub(crate) fn end_admission(&self, index: usize, name: &str) -> Admission {
        match self.state_admission(index) {
            Admission::Full | Admission::Busy if self.is_full(index) => {
                let bytes = self.bytes_before(index) + name.len() as u64;
                self.partitions[index].admits(Claim::End(bytes))
            }
            admission => admission,
        }
    }

    /// As [`Broker::end_admission`]; a log that has failed takes it, too.
    pub(crate) fn takes_end(&self, index: usize, name: &str) -> bool {
        takes(self.end_admission(index, name))
    }

    /// Whether the log takes what pieces of a checkpoint need to go before them.
    pub(super) fn takes_checkpoint(&self, index: usize) -> bool {
        self.takes_state(index) || self.takes_upkeep(index, 0)
    }

    fn takes_upkeep(&self, index: usize, bytes: usize) -> bool {
        let claim = Claim::Upkeep(self.bytes_before(index) + bytes as u64);
        self.is_full(index) && takes(self.partitions[index].admits(claim))
    }

    /// How many bytes of positions the log of each partition takes, if any.
    pub(super) fn upkeep_bytes(&self) -> Vec<Option<usize>> {
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        let of = |index: usize| match self.takes_state(index) {
            true => Some(usize::MAX),
            false => self.takes_upkeep(index, FULL_POSITIONS_BYTES).then_some(FULL_POSITIONS_BYTES),
        };
        (0..partitions).map(of).collect()
    }

    /// The same, but seldom where the disk is full: a crash makes more be sent again.
    pub(super) fn upkeep_bytes_now(&mut self, now: Nanos) -> Vec<Option<usize>> {
        let mut bytes = self.upkeep_bytes();
        let partitions = self.durable.iter_mut().flat_map(|durable| &mut durable.partitions);
        for (bytes, own) in bytes.iter_mut().zip(partitions) {
            let is_due = FULL_EVERY <= now.since(own.upkept_at);
            match bytes {
                Some(FULL_POSITIONS_BYTES) if is_due => own.upkept_at = now,
                Some(FULL_POSITIONS_BYTES) => *bytes = None,
                Some(_) | None => {}
            }
        }
        bytes
    }
}
