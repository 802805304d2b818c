//! A partition whose node does not lead any more.

use super::Partition;

impl<A> Partition<A> {
    /// This node does not lead any more: who waits for a record is not answered, what was not
    /// sealed is not in the log, and what is in the log is not committed by this partition.
    pub(crate) fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.accepted -= open.len() as u64;
        }
        self.open_acks.clear();
        self.sealed.clear();
        self.waiting.clear();
        self.published = self.published.min(self.accepted);
    }
}
