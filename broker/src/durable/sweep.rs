//! Dropping postings that nobody is owed any more, and finding out what is needed of each log.

use super::model::PartitionState;
use super::postings::Place;
use super::records::{Beside, Cursor, StateRecord};
use super::session::Presence;
use hashbrown::HashMap;

/// Sessions that are visited each time and per partition, and ranges of postings.
pub(super) const SWEPT_SESSIONS: u32 = 8192;
pub(super) const SWEPT_RANGES: usize = 64 * 1024;

/// How far a walk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The sessions from this slot on are still to be visited.
    Sessions(u32),
    /// What is left for the filters is still to be gone through, from this posting of this one on.
    Filters { number: u32, posting: u64 },
}

/// A walk over all sessions of a partition and then over all postings, a few at a time.
#[derive(Debug)]
pub(crate) struct Sweep {
    stage: Stage,
    /// Postings that were made since the walk began are left alone.
    before: u64,
    /// The lowest posting number that a session visited so far is owed, by filter.
    owed_from: HashMap<u32, u64>,
    /// The lowest offset of each log that was found to be needed so far.
    needed: Vec<u64>,
    /// Sessions with a connection that have recorded less than there is for them.
    behind: Vec<u32>,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            stage: Stage::Sessions(0),
            before: 0,
            owed_from: HashMap::new(),
            needed: Vec::new(),
            behind: Vec::new(),
        }
    }
}

impl Sweep {
    fn need(&mut self, partition: u32, offset: u64) {
        if let Some(lowest) = self.needed.get_mut(partition as usize) {
            *lowest = offset.min(*lowest);
        }
    }

    fn need_place(&mut self, place: Place) {
        self.need(place.partition, place.offset);
    }

    /// A record is appended while a walk is under way: an exchange that begins now may be of a
    /// session that was visited, and its filter may go before its postings are gone through.
    pub(crate) fn note(&mut self, record: &StateRecord<'_>) {
        if let StateRecord::Sent { sent, .. }
        | StateRecord::SentBeside { what: Beside::Replay | Beside::Group(_), sent, .. } = record
        {
            self.need_place(sent.place);
        }
    }

    /// Takes out sessions that were visited and whose recorded position may be too old, although
    /// nothing is on its way to them: what is not sent to them (No Local) moves no position.
    pub(crate) fn take_behind(&mut self) -> Vec<u32> {
        core::mem::take(&mut self.behind)
    }
}

impl PartitionState {
    /// Visits up to `sessions` sessions, or up to `ranges` ranges of postings. When a walk has ended:
    /// the first offset of each log that this partition needs, to match it, to send it, or to send
    /// it again. That holds, also after a crash, once the log of this partition is flushed as far
    /// as it goes now. Postings that every session has behind it are
    /// dropped in between.
    pub(crate) fn sweep(
        &mut self,
        sweep: &mut Sweep,
        sessions: u32,
        ranges: usize,
    ) -> Option<Vec<u64>> {
        if let Stage::Sessions(from) = sweep.stage
            && self.sweep_sessions(sweep, from, sessions)
        {
            self.drop_postings(sweep);
            self.need_cursors(sweep);
            sweep.stage = Stage::Filters { number: 0, posting: 0 };
        }
        let Stage::Filters { number, posting } = sweep.stage else { return None };
        if !self.sweep_filters(sweep, number, posting, ranges) {
            return None;
        }
        sweep.stage = Stage::Sessions(0);
        Some(core::mem::take(&mut sweep.needed))
    }

    /// Whether all sessions were visited.
    fn sweep_sessions(&self, sweep: &mut Sweep, from: u32, sessions: u32) -> bool {
        if from == 0 {
            sweep.before = self.next_posting;
            sweep.owed_from.clear();
            sweep.needed = vec![u64::MAX; self.cursors.len() / 2];
        }
        let end = from.saturating_add(sessions).min(self.sessions.slots());
        for slot in from..end {
            let Some(session) = self.sessions.get(slot) else { continue };
            let mut is_behind = false;
            for (subscription, _) in session.owing() {
                let from = session.owed_from(subscription);
                let lowest = sweep.owed_from.entry(subscription.filter).or_insert(from);
                *lowest = from.min(*lowest);
                let filter = self.filters.get(subscription.filter);
                is_behind |= filter.is_some_and(|filter| from < filter.postings.end());
            }
            if is_behind && session.presence == Presence::Connected {
                sweep.behind.push(slot);
            }
            session.pinned().for_each(|place| sweep.need_place(place));
        }
        sweep.stage = Stage::Sessions(end);
        end == self.sessions.slots()
    }

    fn drop_postings(&mut self, sweep: &mut Sweep) {
        for (filter, from) in sweep.owed_from.drain() {
            if let Some(filter) = self.filters.get_mut(filter) {
                filter.postings.trim(from.min(sweep.before));
            }
        }
    }

    /// What is matched from now on lies at or behind the cursors, and what is matched again after
    /// a crash lies at or behind those that the log has. A full log has old ones, and lacks the
    /// retained messages in between.
    fn need_cursors(&self, sweep: &mut Sweep) {
        for Cursor { partition, next, .. } in self.cursors.iter().chain(&self.logged_cursors) {
            sweep.need(*partition, *next);
        }
    }

    /// Whether all filters were gone through.
    fn sweep_filters(&self, sweep: &mut Sweep, from: u32, posting: u64, ranges: usize) -> bool {
        let (mut left, mut posting) = (ranges, posting);
        for number in from..self.filters.slots() {
            let filter = self.filters.get(number);
            for range in filter.iter().flat_map(|filter| filter.postings.from(posting)) {
                if left == 0 {
                    sweep.stage = Stage::Filters { number, posting: range.first };
                    return false;
                }
                left -= 1;
                sweep.need_place(range.place);
            }
            posting = 0;
            // A filter costs something although it has no postings.
            left = left.saturating_sub(1);
            if left == 0 {
                sweep.stage = Stage::Filters { number: number + 1, posting: 0 };
                return false;
            }
        }
        true
    }
}
