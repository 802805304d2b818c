//! Dropping postings that nobody is owed any more, and finding out what is needed of each log.

use super::model::PartitionState;
use super::records::Cursor;
use hashbrown::HashMap;

/// A walk over all sessions of a partition, a few at a time.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    next_slot: u32,
    /// Postings that were made since the walk began are left alone.
    before: u64,
    /// The lowest posting number that a session visited so far is owed, by filter.
    owed_from: HashMap<u32, u64>,
}

impl PartitionState {
    /// Visits up to `sessions` sessions; true if that ended a walk, and postings that every session
    /// has behind it were dropped.
    pub(crate) fn sweep(&mut self, sweep: &mut Sweep, sessions: u32) -> bool {
        if sweep.next_slot == 0 {
            sweep.before = self.next_posting;
            sweep.owed_from.clear();
        }
        let end = sweep.next_slot.saturating_add(sessions).min(self.sessions.slots());
        for slot in sweep.next_slot..end {
            let Some(session) = self.sessions.get(slot) else { continue };
            for subscription in &session.subscriptions {
                let from = session.owed_from(subscription);
                let lowest = sweep.owed_from.entry(subscription.filter).or_insert(from);
                *lowest = from.min(*lowest);
            }
        }
        sweep.next_slot = end;
        if end < self.sessions.slots() {
            return false;
        }
        sweep.next_slot = 0;
        for (filter, from) in sweep.owed_from.drain() {
            if let Some(filter) = self.filters.get_mut(filter) {
                filter.postings.trim(from.min(sweep.before));
            }
        }
        true
    }

    /// The first offset of each partition's log that is still needed: to be matched, to be sent, or
    /// to be sent again.
    #[cfg_attr(not(test), expect(dead_code, reason = "checkpoints and trimming come next"))]
    pub(crate) fn needed(&self) -> Vec<u64> {
        let lower = |both: &[Cursor]| both.iter().map(|cursor| cursor.next).min();
        let mut needed: Vec<u64> = self.cursors.chunks(2).filter_map(lower).collect();
        let mut need = |partition: u32, offset: u64| {
            if let Some(lowest) = needed.get_mut(partition as usize) {
                *lowest = offset.min(*lowest);
            }
        };
        for (_, filter) in self.filters.iter() {
            filter
                .postings
                .from(0)
                .for_each(|range| need(range.place.partition, range.place.offset));
        }
        for (_, session) in self.sessions.iter() {
            session.pinned().for_each(|place| need(place.partition, place.offset));
        }
        needed
    }
}
