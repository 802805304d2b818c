//! A partition with replicas: what its node may commit by itself, and what becomes of it when the node
//! does not lead any more.

use super::Partition;

impl<A> Partition<A> {
    /// Whether the lease of this leader counts now: to be said after what was flushed is known and before
    /// anything is committed. While it does not, and before anything was said, what was promised of this
    /// node alone waits for a majority as well. Without replicas nobody needs a lease.
    pub fn note_lease(&mut self, counts: bool) {
        self.has_lease = counts;
    }

    /// Whether records wait to be committed.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        self.open.is_some() || !self.sealed.is_empty() || !self.waiting.is_empty()
    }

    /// Whether what this node alone has may be committed, where that was promised.
    pub(super) fn counts_alone(&self) -> bool {
        self.has_lease || self.writer.as_ref().is_none_or(|writer| writer.quorum().is_none())
    }

    /// This node does not lead any more: who waits for a record is not answered, what was not
    /// sealed is not in the log, and what is in the log is not committed by this partition. Nothing that is
    /// appended from now on gets into the log: it would follow records that are not there.
    pub(crate) fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.accepted -= open.len() as u64;
        }
        self.open_acks.clear();
        self.sealed.clear();
        self.waiting.clear();
        self.published = self.published.min(self.accepted);
        self.is_abandoned = true;
    }

    /// Whether this node does not lead it, since [`Partition::abandon`] and before the next epoch of its own. What is in
    /// the log then waits in no queue here and may not be committed: [`Partition::committed`] says nothing of it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.is_abandoned
    }
}
