//! Which leader wrote which part of a log: the table that two logs are compared by.
//!
//! A leader writes into its own log only, once, and in one epoch, so that (epoch, offset) names one
//! record for ever. Two logs that both have records of an epoch are therefore the same up to where
//! that epoch ends in the one where it ends first, and [`EpochTable::common`] needs nothing else.

use crate::ids::Offset;

/// Epochs that a report holds; the newest ones. A log that ended in more than so many others is
/// truncated in steps.
pub const REPORTED_MAX: usize = 32;
/// Epochs that a table holds; the newest ones: as many as there are when a log changes its leader
/// every hour for seven years. Who has only older ones begins again with a checkpoint.
pub const TABLE_MAX: usize = 1 << 16;

/// Where the records of an epoch begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: u64,
    /// Offset of its first record; where older ones were trimmed, maybe of a later one.
    pub first: Offset,
}

/// The epochs of a log, oldest first: epochs rise, and first offsets rise with them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochTable {
    starts: Vec<EpochStart>,
}

/// Up to where two logs agree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Common {
    /// All records below it are the same, and no others are.
    Below(Offset),
    /// What was reported agrees in nothing; what lies below it was not reported.
    Before(Offset),
    /// Nobody knows any more: the records are older than the table.
    Unknown,
}

impl EpochTable {
    /// A table that holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A table of these entries, as they come. `None`: they do not rise.
    #[must_use]
    pub fn from_starts(starts: Vec<EpochStart>) -> Option<Self> {
        let rises =
            |pair: &[EpochStart]| pair[0].epoch < pair[1].epoch && pair[0].first < pair[1].first;
        starts.windows(2).all(rises).then_some(Self { starts })
    }

    /// The entries.
    #[must_use]
    pub fn starts(&self) -> &[EpochStart] {
        &self.starts
    }

    /// The newest entries, as many as a report holds.
    #[must_use]
    pub fn newest(&self) -> &[EpochStart] {
        &self.starts[self.starts.len().saturating_sub(REPORTED_MAX)..]
    }

    /// The epoch of the last record; 0 if there is none.
    #[must_use]
    pub fn last_epoch(&self) -> u64 {
        self.starts.last().map_or(0, |start| start.epoch)
    }

    /// The epoch of the record before `offset`, if the table goes so far back.
    #[must_use]
    pub fn epoch_before(&self, offset: Offset) -> Option<u64> {
        let count = self.starts.partition_point(|start| start.first < offset);
        count.checked_sub(1).map(|index| self.starts[index].epoch)
    }

    /// Records of `epoch` follow from `first` on.
    ///
    /// # Panics
    /// If the epoch is older than that of the records before: no log goes back.
    pub fn push(&mut self, epoch: u64, first: Offset) {
        let last = self.last_epoch();
        assert!(last <= epoch, "epoch {epoch} does not come behind epoch {last}");
        if epoch == last && !self.starts.is_empty() {
            return;
        }
        let excess = (self.starts.len() + 1).saturating_sub(TABLE_MAX);
        self.starts.drain(..excess);
        self.starts.push(EpochStart { epoch, first });
    }

    /// The records from `to` on have gone.
    pub fn truncate(&mut self, to: Offset) {
        let kept = self.starts.partition_point(|start| start.first < to);
        self.starts.truncate(kept);
    }

    /// The records below `start` have gone. The epoch of the last of them stays.
    pub fn trim(&mut self, start: Offset) {
        let gone = self.starts.partition_point(|entry| entry.first < start).saturating_sub(1);
        self.starts.drain(..gone);
    }

    /// Up to where this log, which ends at `next`, agrees with another one that has `theirs` as its
    /// newest epochs and ends at `their_next`.
    #[must_use]
    pub fn common(&self, next: Offset, theirs: &[EpochStart], their_next: Offset) -> Common {
        let oldest = theirs.first().filter(|_| next.0 > 0);
        let Some(oldest) = oldest else { return Common::Below(Offset(0)) };
        let mut their_end = their_next;
        for entry in theirs.iter().rev() {
            if let Some(end) = self.end_of(entry.epoch, next) {
                return Common::Below(end.min(their_end));
            }
            their_end = entry.first;
        }
        let is_known = self.starts.first().is_some_and(|first| first.epoch < oldest.epoch);
        if is_known { Common::Before(oldest.first) } else { Common::Unknown }
    }

    fn end_of(&self, epoch: u64, next: Offset) -> Option<Offset> {
        let index = self.starts.binary_search_by_key(&epoch, |start| start.epoch).ok()?;
        Some(self.starts.get(index + 1).map_or(next, |start| start.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(starts: &[(u64, u64)]) -> EpochTable {
        let mut table = EpochTable::new();
        starts.iter().for_each(|&(epoch, first)| table.push(epoch, Offset(first)));
        table
    }

    fn common(ours: &[(u64, u64)], next: u64, theirs: &[(u64, u64)], their_next: u64) -> Common {
        table(ours).common(Offset(next), table(theirs).starts(), Offset(their_next))
    }

    #[test]
    fn logs_agree_up_to_where_their_last_common_epoch_ends_first() {
        let ours = [(1, 0), (3, 10), (7, 20)];
        let below = |offset| Common::Below(Offset(offset));
        assert_eq!(common(&ours, 30, &ours, 30), below(30));
        assert_eq!(common(&ours, 30, &ours, 25), below(25), "they are behind");
        assert_eq!(common(&ours, 30, &[(1, 0), (3, 10)], 26), below(20), "their end is longer");
        assert_eq!(common(&ours, 30, &[(1, 0), (3, 10)], 15), below(15));
        assert_eq!(common(&ours, 30, &[(1, 0), (3, 10), (5, 12)], 40), below(12));
        assert_eq!(common(&ours, 30, &[(1, 0), (2, 4)], 40), below(4));
        assert_eq!(common(&ours, 30, &[], 0), below(0));
    }

    #[test]
    fn what_was_not_reported_is_asked_for_and_what_is_too_old_is_not_known() {
        let ours = [(4, 10), (7, 20)];
        assert_eq!(common(&ours, 30, &[(5, 15), (6, 18)], 40), Common::Before(Offset(15)));
        assert_eq!(common(&ours, 30, &[(1, 0), (2, 5)], 12), Common::Unknown);
        assert_eq!(common(&[], 0, &[(1, 0)], 4), Common::Below(Offset(0)), "ours is empty");
    }

    #[test]
    fn tables_follow_their_log() {
        let mut table = table(&[(1, 0), (1, 5), (3, 10), (7, 20)]);
        assert_eq!(table.starts().len(), 3);
        assert_eq!(table.epoch_before(Offset(0)), None);
        assert_eq!(table.epoch_before(Offset(10)), Some(1));
        assert_eq!(table.epoch_before(Offset(11)), Some(3));
        table.trim(Offset(10));
        assert_eq!(table.epoch_before(Offset(10)), Some(1), "that of the record before stays");
        table.trim(Offset(11));
        assert_eq!(table.starts().len(), 2);
        table.truncate(Offset(20));
        assert_eq!(table.last_epoch(), 3);
        table.truncate(Offset(10));
        assert_eq!(table.last_epoch(), 0);
    }

    #[test]
    fn a_table_has_a_bound() {
        let mut table = EpochTable::new();
        for epoch in 1..=TABLE_MAX as u64 + 5 {
            table.push(epoch, Offset(epoch * 2));
        }
        assert_eq!((table.starts().len(), table.newest().len()), (TABLE_MAX, REPORTED_MAX));
        assert_eq!(table.last_epoch(), TABLE_MAX as u64 + 5);
    }

    #[test]
    #[should_panic(expected = "does not come behind")]
    fn epochs_never_go_back() {
        table(&[(3, 0), (2, 5)]);
    }
}
