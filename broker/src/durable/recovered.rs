//! What recovery does besides applying state records: epochs, cursors that point behind a lost
//! tail, records that were not matched before the end, and retained messages.

use super::model::{MatchedRecord, PartitionState, RetainedState, cursor_index};
use super::postings::Place;
use super::records::{Cursor, RetainedBody};

/// What recovery needs to know of a publish to match it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublishFacts<'a> {
    pub(crate) record: MatchedRecord,
    pub(crate) topic: &'a str,
    pub(crate) qos: u8,
    /// The retained message that it is, if it is one and this partition owns its topic.
    pub(crate) retained: Option<&'a RetainedBody<'a>>,
}

impl PartitionState {
    /// A record of this partition's log begins, or goes on with, an epoch.
    pub(crate) fn note_epoch(&mut self, epoch: u64, offset: u64) {
        if self.epochs.last().is_none_or(|(last, _)| *last < epoch) {
            self.drop_parts();
            self.epochs.push((epoch, offset));
        }
    }

    /// Forgets the epochs that ended before the first offset that is kept, but for that of the record before it: logs are
    /// compared by that.
    pub(crate) fn trim_epochs(&mut self, log_start: u64) {
        let kept = self.epochs.partition_point(|(_, first)| *first < log_start);
        self.epochs.drain(..kept.saturating_sub(1));
    }

    /// The epoch of the record before an offset of this partition's log, and its first offset.
    pub(crate) fn epoch_before(&self, offset: u64) -> Option<(u64, u64)> {
        self.epochs.iter().rev().find(|(_, first)| *first < offset).copied()
    }

    /// The first offset of this partition's log that is of a later epoch, or `next_offset`.
    pub(crate) fn epoch_end(&self, epoch: u64, next_offset: u64) -> u64 {
        let later = self.epochs.iter().find(|(other, _)| *other > epoch);
        later.map_or(next_offset, |(_, first)| *first)
    }

    /// Sets a cursor back to where a log diverges from what was matched: behind that, records were
    /// lost (at the level `memory`), and others have their offsets now. `end` is the end of the
    /// cursor's epoch in that log. True if the cursor was set back.
    pub(crate) fn set_back(&mut self, partition: u32, memory: bool, end: u64) -> bool {
        let cursor = self.cursors.get_mut(cursor_index(partition, memory));
        let Some(cursor) = cursor.filter(|cursor| end < cursor.next) else { return false };
        cursor.next = end;
        true
    }

    /// Whether a record lies at or behind its log's cursor.
    fn is_behind(&self, record: &MatchedRecord) -> bool {
        let Place { partition, offset, .. } = record.place;
        let cursor = self.cursors.get(cursor_index(partition, record.memory));
        cursor.is_some_and(|cursor| cursor.next <= offset)
    }

    /// Matches a record that lies at or behind its log's cursor, once. `filters` are the numbers of those that
    /// match it.
    pub(crate) fn match_again(
        &mut self,
        filters: impl Iterator<Item = u32>,
        facts: &PublishFacts<'_>,
    ) {
        if !self.is_behind(&facts.record) {
            return;
        }
        if let Some(retained) = facts.retained
            && self.apply_retained(facts.topic, retained)
        {
            self.retained_again.push((facts.topic.into(), RetainedState::new(retained)));
        }
        let mut filters = filters.filter(|_| facts.qos > 0).peekable();
        if filters.peek().is_some() {
            self.post(facts.record, filters);
        } else {
            let MatchedRecord { memory, place: Place { partition, epoch, offset }, .. } =
                facts.record;
            self.advance(Cursor { partition, memory, epoch, next: offset + 1 });
        }
    }

    /// Keeps, replaces or clears a retained message that is found in the log of its publisher. A
    /// partition's messages of one level are applied in the order of its log, so what lies below one
    /// that was applied was applied before it. False if it was.
    fn apply_retained(&mut self, topic: &str, body: &RetainedBody<'_>) -> bool {
        let Place { partition, epoch, offset } = body.place;
        let applied = self.retained_cursors.get(cursor_index(partition, body.memory));
        let is_new = applied.is_some_and(|applied| *applied <= (epoch, offset));
        if is_new {
            self.set_retained(topic, body);
        }
        is_new
    }

    /// Keeps, replaces or clears a retained message, as the log of this partition says.
    pub(super) fn set_retained(&mut self, topic: &str, body: &RetainedBody<'_>) {
        self.note_retained(body.place, body.memory);
        if body.payload.is_empty() {
            self.retained.remove(topic);
        } else {
            self.retained.insert(topic.into(), RetainedState::new(body));
        }
    }

    /// A retained message of a log was applied.
    pub(super) fn note_retained(&mut self, place: Place, memory: bool) {
        let Place { partition, epoch, offset } = place;
        if let Some(applied) = self.retained_cursors.get_mut(cursor_index(partition, memory)) {
            *applied = (epoch, offset + 1).max(*applied);
        }
    }

    /// Up to where retained messages of each log were applied.
    pub(super) fn retained_cursors(&self) -> Vec<Cursor> {
        let known = (0..).zip(&self.retained_cursors).filter(|(_, known)| **known > (0, 0));
        let cursor = |(index, (epoch, next)): (u32, &(u64, u64))| {
            let (partition, memory) = (index / 2, index % 2 == 1);
            Cursor { partition, memory, epoch: *epoch, next: *next }
        };
        known.map(cursor).collect()
    }

    /// The same, as a checkpoint says: whatever is in it was applied before.
    pub(super) fn set_retained_cursors(&mut self, cursors: &[Cursor]) {
        self.retained_cursors.fill((0, 0));
        for Cursor { partition, memory, epoch, next } in cursors {
            if let Some(known) = self.retained_cursors.get_mut(cursor_index(*partition, *memory)) {
                *known = (*epoch, *next);
            }
        }
    }
}

impl RetainedState {
    fn new(body: &RetainedBody<'_>) -> Self {
        Self {
            place: body.place,
            memory: body.memory,
            publisher: body.publisher,
            accepted_ms: body.accepted_ms,
            expiry_secs: body.expiry_secs,
            qos: body.qos,
            properties: body.properties.into(),
            payload: body.payload.into(),
        }
    }

    pub(super) fn body(&self) -> RetainedBody<'_> {
        RetainedBody {
            place: self.place,
            memory: self.memory,
            publisher: self.publisher,
            accepted_ms: self.accepted_ms,
            expiry_secs: self.expiry_secs,
            qos: self.qos,
            properties: &self.properties,
            payload: &self.payload,
        }
    }
}
