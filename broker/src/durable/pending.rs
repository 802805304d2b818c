//! What a session is owed from the log: the postings of its filters, merged.

use super::model::{PartitionState, is_posted};
use super::postings::{Amount, Place, PostingRange};
use super::records::SubscriptionOptions;
use super::session::SentState;
use core::cmp::Reverse;
use std::collections::BinaryHeap;

/// A message that a session is owed, and that is still to be fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwedPosting {
    pub(crate) posting: u64,
    pub(crate) place: Place,
    /// What the record takes in its log, once for each filter that matched.
    pub(crate) bytes: u64,
    /// Whether its stream lets go of the oldest where a backlog is full.
    pub(crate) droppable: bool,
    /// The options of the subscriptions that matched, which are delivered as one.
    pub(crate) options: Vec<SubscriptionOptions>,
}

impl OwedPosting {
    fn new(range: &PostingRange, options: SubscriptionOptions) -> Self {
        let PostingRange { place, first: posting, bytes, droppable, .. } = *range;
        Self { posting, place, bytes, droppable, options: vec![options] }
    }

    /// Another filter has it, too.
    fn add(&mut self, range: &PostingRange, options: SubscriptionOptions) {
        self.bytes += range.bytes;
        self.options.push(options);
    }
}

/// What a session is owed, counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Backlog {
    /// Messages, of overlapping filters once.
    pub(crate) messages: u64,
    /// Where the oldest lies, and up to where its log was matched.
    pub(crate) oldest: Option<(Place, u64)>,
    /// Ranges of postings that were looked at.
    pub(crate) ranges: usize,
}

impl PartitionState {
    /// Counts what a session is owed at and above a posting number, and that it has no exchange of.
    /// Looks at `ranges_max` ranges at most and counts no more than lies in those.
    pub(crate) fn backlog(&self, slot: u32, from: u64, ranges_max: usize) -> Backlog {
        let Some(session) = self.sessions.get(slot) else { return Backlog::default() };
        let mut ranges = Vec::new();
        for (subscription, until) in session.owing() {
            let Some(filter) = self.filters.get(subscription.filter) else { continue };
            if is_posted(&filter.name, subscription.options) {
                let start = from.max(session.owed_from(subscription));
                let left = ranges_max - ranges.len();
                let owed = filter.postings.from(start).map_while(|range| range.until(until));
                ranges.extend(owed.take(left));
            }
        }
        let looked_at = ranges.len() + session.subscriptions.len();
        let (mut messages, mut end) = (0, 0);
        ranges.sort_unstable_by_key(|range| range.first);
        for range in ranges {
            messages += range.end().saturating_sub(end.max(range.first));
            end = end.max(range.end());
        }
        let delivered = session.delivered().map_or(0, |done| done.count_in(from, end));
        let sent = session.sent().filter_map(SentState::posting);
        let sent = sent.filter(|posting| (from..end).contains(posting)).count() as u64;
        let oldest = self.owed(slot, from, 1).first().map(|oldest| {
            let Place { partition, .. } = oldest.place;
            (oldest.place, self.matched_to(partition))
        });
        Backlog { messages: messages.saturating_sub(delivered + sent), oldest, ranges: looked_at }
    }

    /// The first `max` messages that a session is owed at and above a posting number, in order.
    /// Overlapping filters meet at the same number and are one message. Those that are in a QoS 2
    /// exchange, or were, are left out.
    pub(crate) fn owed(&self, slot: u32, from: u64, max: usize) -> Vec<OwedPosting> {
        let Some(session) = self.sessions.get(slot) else { return Vec::new() };
        let handled = session.last_handled();
        let is_owed =
            |posting: &PostingRange| posting.first > handled || !session.has_handled(posting.first);
        // Of each filter the next one; the lowest goes first.
        let (mut lists, mut next) = (Vec::new(), BinaryHeap::new());
        for (subscription, until) in session.owing() {
            let Some(filter) = self.filters.get(subscription.filter) else { continue };
            if !is_posted(&filter.name, subscription.options) {
                continue;
            }
            let start = from.max(session.owed_from(subscription));
            let list = filter.postings.each_from(start).take_while(move |p| p.first < until);
            let mut list = list.filter(is_owed).peekable();
            if let Some(first) = list.peek() {
                next.push(Reverse((first.first, lists.len())));
                lists.push((list, subscription.options));
            }
        }
        let mut owed: Vec<OwedPosting> = Vec::new();
        while let Some(Reverse((posting, index))) = next.pop() {
            let (list, options) = &mut lists[index];
            let Some(range) = list.next() else { continue };
            if let Some(first) = list.peek() {
                next.push(Reverse((first.first, index)));
            }
            let is_full = owed.len() == max;
            match owed.last_mut().filter(|last| last.posting == posting) {
                Some(last) => last.add(&range, *options),
                None if is_full => break,
                None => owed.push(OwedPosting::new(&range, *options)),
            }
        }
        owed
    }

    /// How much a session is owed at and above a posting number. What several of its filters match
    /// counts for each of them.
    pub(crate) fn amount(&self, slot: u32, from: u64) -> Amount {
        let subscriptions = self.sessions.get(slot).into_iter().flat_map(|session| {
            let all = session.owing();
            all.map(|(held, until)| (held, from.max(session.owed_from(held)), until))
        });
        let amounts = subscriptions.filter_map(|(held, from, until)| {
            let filter = self.filters.get(held.filter)?;
            let posted = is_posted(&filter.name, held.options);
            posted.then(|| {
                let all = filter.postings.amount_from(from);
                all.without(filter.postings.amount_from(until.max(from)))
            })
        });
        amounts.fold(Amount::default(), Amount::and)
    }

    /// The first posting number that a session is left with if it lets go of its oldest postings at
    /// and above `from` until at most `bytes_max` bytes are left, as far as their streams allow it
    /// and `max` of them at most; and how many it lets go of.
    pub(crate) fn without_oldest(
        &self,
        slot: u32,
        from: u64,
        bytes_max: u64,
        max: usize,
    ) -> (u64, u64) {
        let (mut next, mut dropped) = (from, 0);
        let mut left = self.amount(slot, from).bytes;
        for oldest in self.owed(slot, from, max) {
            if left <= bytes_max || !oldest.droppable {
                break;
            }
            left = left.saturating_sub(oldest.bytes);
            (next, dropped) = (oldest.posting + 1, dropped + 1);
        }
        (next, dropped)
    }

    /// Where a message lies that a session is owed.
    pub(crate) fn place_of(&self, slot: u32, posting: u64) -> Option<Place> {
        let session = self.sessions.get(slot)?;
        session.owing().filter(|(_, until)| posting < *until).find_map(|(subscription, _)| {
            let filter = self.filters.get(subscription.filter)?;
            let first = filter.postings.each_from(posting).next()?;
            (first.first == posting).then_some(first.place)
        })
    }

    /// Where the message of an open QoS 2 exchange lies, if it may have to be sent again.
    pub(crate) fn exchange_place(&self, slot: u32, packet_id: u16) -> Option<Place> {
        let mut sent = self.sessions.get(slot)?.sent();
        sent.find(|state| state.packet_id == packet_id)?.place()
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::MatchedRecord;
    use super::super::records::StateRecord;
    use super::*;

    #[test]
    fn the_oldest_are_let_go_of_as_far_as_bytes_streams_and_steps_say() {
        let mut state = PartitionState::new(1);
        let (client_id, filter) = ("c", "f");
        let options =
            SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
        let open = StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 9, will: None };
        state.apply(&open);
        state.apply(&StateRecord::Subscribe { client_id, filter, options, since: 0 });
        for offset in 0..3_000 {
            let place = Place { partition: 0, epoch: 1, offset };
            let droppable = offset != 2_500;
            state.post(MatchedRecord { place, memory: false, bytes: 10, droppable }, [0]);
        }
        assert_eq!(state.without_oldest(0, 0, 29_000, 1024), (100, 100));
        assert_eq!(state.without_oldest(0, 100, 0, 1024), (1_124, 1024), "one step");
        assert_eq!(state.without_oldest(0, 1_124, 0, 4096), (2_500, 1_376), "another stream");
        assert_eq!(state.without_oldest(0, 0, 30_000, 1024), (0, 0));
    }
}
