//! Dropping postings that nobody is owed any more, and finding out what is needed of each log.

use super::model::PartitionState;
use super::postings::Place;
use super::records::{Beside, Cursor, StateRecord};
use super::session::Presence;
use hashbrown::HashMap;

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
    /// Goes on with a walk, as far as `budget` goes: one each for a session, a subscription, a filter,
    /// a range of postings, and a block of postings that is dropped. When a walk has ended:
    /// the first offset of each log that this partition needs, to match it, to send it, or to send
    /// it again. That holds, also after a crash, once the log of this partition is flushed as far
    /// as it goes now. Postings that every session has behind it are dropped on the way.
    pub(crate) fn sweep(&mut self, sweep: &mut Sweep, budget: &mut usize) -> Option<Vec<u64>> {
        if let Stage::Sessions(from) = sweep.stage
            && self.sweep_sessions(sweep, from, budget)
        {
            self.need_cursors(sweep);
            sweep.stage = Stage::Filters { number: 0, posting: 0 };
        }
        let Stage::Filters { number, posting } = sweep.stage else { return None };
        if !self.sweep_filters(sweep, number, posting, budget) {
            return None;
        }
        sweep.stage = Stage::Sessions(0);
        Some(core::mem::take(&mut sweep.needed))
    }

    /// Whether all sessions were visited.
    fn sweep_sessions(&self, sweep: &mut Sweep, from: u32, budget: &mut usize) -> bool {
        if from == 0 {
            sweep.before = self.next_posting;
            sweep.owed_from.clear();
            sweep.needed = vec![u64::MAX; self.cursors.len() / 2];
        }
        for slot in from..self.sessions.slots() {
            if *budget == 0 {
                sweep.stage = Stage::Sessions(slot);
                return false;
            }
            *budget -= 1;
            let Some(session) = self.sessions.get(slot) else { continue };
            *budget = budget.saturating_sub(session.subscriptions.len());
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
        true
    }

    /// What is matched from now on lies at or behind the cursors, and what is matched again after
    /// a crash lies at or behind those that the log has. A full log has old ones, and lacks the
    /// retained messages in between.
    fn need_cursors(&self, sweep: &mut Sweep) {
        for Cursor { partition, next, .. } in self.cursors.iter().chain(&self.logged_cursors) {
            sweep.need(*partition, *next);
        }
    }

    /// Drops what nobody is owed of each filter, and needs the rest. Whether all were gone through.
    ///
    /// A number is used again when its filter has gone: the new one has no posting as old as those
    /// that are dropped.
    fn sweep_filters(
        &mut self,
        sweep: &mut Sweep,
        from: u32,
        mut posting: u64,
        budget: &mut usize,
    ) -> bool {
        for number in from..self.filters.slots() {
            if *budget == 0 {
                sweep.stage = Stage::Filters { number, posting };
                return false;
            }
            // A filter costs something although it has no postings.
            *budget -= 1;
            let posting = core::mem::take(&mut posting);
            let Some(filter) = self.filters.get_mut(number) else { continue };
            let owed_from = sweep.owed_from.get(&number).map(|from| sweep.before.min(*from));
            if owed_from.is_some_and(|from| !filter.postings.trim(from, budget)) {
                sweep.stage = Stage::Filters { number, posting };
                return false;
            }
            for range in filter.postings.from(posting) {
                if *budget == 0 {
                    sweep.stage = Stage::Filters { number, posting: range.first };
                    return false;
                }
                *budget -= 1;
                sweep.need_place(range.place);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::MatchedRecord;
    use super::super::records::SubscriptionOptions;
    use super::*;

    const FILTERS: u64 = 50;
    const POSTINGS: u64 = 3_000;

    /// Sessions with a filter each that have acknowledged all but the last of their messages.
    fn state() -> PartitionState {
        let mut state = PartitionState::new(1);
        let options =
            SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
        for n in 0..FILTERS {
            let (client_id, filter) = (&*format!("c{n}"), &*format!("f{n}"));
            let open =
                StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 9, will: None };
            state.apply(&open);
            state.apply(&StateRecord::Subscribe { client_id, filter, options, since: 0 });
        }
        for offset in 0..POSTINGS {
            // Records that do not follow each other: each is a range of its own.
            let place = Place { partition: 0, epoch: 1, offset: 2 * offset };
            let matched = MatchedRecord { place, memory: false, bytes: 9, droppable: false };
            state.post(matched, 0..FILTERS as u32);
        }
        for n in 0..FILTERS {
            let client_id = format!("c{n}");
            let positions = vec![(&*client_id, POSTINGS - 1)];
            state.apply(&StateRecord::Positions { positions });
        }
        state.advance(Cursor { partition: 0, memory: true, epoch: 1, next: 2 * POSTINGS });
        state.set_logged();
        state
    }

    #[test]
    fn a_step_costs_no_more_than_its_budget_and_drops_no_more() {
        let (mut state, mut sweep) = (state(), Sweep::default());
        let left = |state: &PartitionState| -> usize {
            (0..FILTERS as u32)
                .filter_map(|number| state.filter(number))
                .map(|filter| filter.postings.block_count())
                .sum()
        };
        let (mut steps, mut before) = (0, left(&state));
        assert!(before > 1_000);
        let needed = loop {
            let mut budget = 40;
            let found = state.sweep(&mut sweep, &mut budget);
            let now = left(&state);
            assert!(before - now <= 40, "step {steps}");
            (before, steps) = (now, steps + 1);
            if let Some(found) = found {
                break found;
            }
            assert_eq!(budget, 0, "it goes on as far as it may");
        };
        assert_eq!((needed, before), (vec![2 * (POSTINGS - 1)], 0));
        assert!(steps > 25, "{steps}");
    }
}
