//! What a session is owed from the log: the postings of its filters, merged.

use super::model::{PartitionState, is_posted};
use super::postings::Place;
use super::records::SubscriptionOptions;

/// A message that a session is owed, and that is still to be fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OwedPosting {
    pub(crate) posting: u64,
    pub(crate) place: Place,
    /// The options of the subscriptions that matched, which are delivered as one.
    pub(crate) options: Vec<SubscriptionOptions>,
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
        for subscription in &session.subscriptions {
            let Some(filter) = self.filters.get(subscription.filter) else { continue };
            if is_posted(&filter.name, subscription.options) {
                let start = from.max(session.owed_from(subscription));
                let left = ranges_max - ranges.len();
                ranges.extend(filter.postings.from(start).take(left));
            }
        }
        let looked_at = ranges.len() + session.subscriptions.len();
        let (mut messages, mut end) = (0, 0);
        ranges.sort_unstable_by_key(|range| range.first);
        for range in ranges {
            messages += range.end().saturating_sub(end.max(range.first));
            end = end.max(range.end());
        }
        let delivered = session.delivered();
        let sent = session.sent().map(|state| state.sent.posting);
        let handled = delivered.chain(sent).filter(|posting| (from..end).contains(posting));
        let oldest = self.owed(slot, from, 1).first().map(|oldest| {
            let Place { partition, .. } = oldest.place;
            (oldest.place, self.matched_to(partition))
        });
        Backlog {
            messages: messages.saturating_sub(handled.count() as u64),
            oldest,
            ranges: looked_at,
        }
    }

    /// The first `max` messages that a session is owed at and above a posting number, in order.
    /// Overlapping filters meet at the same number and are one message. Those that are in a QoS 2
    /// exchange, or were, are left out.
    pub(crate) fn owed(&self, slot: u32, from: u64, max: usize) -> Vec<OwedPosting> {
        let Some(session) = self.sessions.get(slot) else { return Vec::new() };
        let mut found = Vec::new();
        for subscription in &session.subscriptions {
            let Some(filter) = self.filters.get(subscription.filter) else { continue };
            if !is_posted(&filter.name, subscription.options) {
                continue;
            }
            let start = from.max(session.owed_from(subscription));
            // The first `max` of the whole are among the first `max` of each.
            let postings = filter.postings.each_from(start);
            let owed = postings.filter(|(posting, _)| !session.has_handled(*posting)).take(max);
            found.extend(owed.map(|(posting, place)| (posting, place, subscription.options)));
        }
        found.sort_by_key(|(posting, ..)| *posting);
        merge(found, max)
    }

    /// Where the messages lie that some session is owed, or has not acknowledged with PUBREC.
    pub(crate) fn owed_places(&self) -> impl Iterator<Item = Place> {
        self.sessions.iter().flat_map(|(slot, session)| {
            let owed = self.owed(slot, 0, usize::MAX).into_iter();
            owed.map(|posting| posting.place).chain(session.pinned())
        })
    }

    /// Where a message lies that a session is owed.
    pub(crate) fn place_of(&self, slot: u32, posting: u64) -> Option<Place> {
        let session = self.sessions.get(slot)?;
        session.subscriptions.iter().find_map(|subscription| {
            let filter = self.filters.get(subscription.filter)?;
            let (first, place) = filter.postings.each_from(posting).next()?;
            (first == posting).then_some(place)
        })
    }
}

fn merge(found: Vec<(u64, Place, SubscriptionOptions)>, max: usize) -> Vec<OwedPosting> {
    let mut owed: Vec<OwedPosting> = Vec::new();
    for (posting, place, options) in found {
        let is_full = owed.len() == max;
        match owed.last_mut() {
            Some(last) if last.posting == posting => last.options.push(options),
            _ if is_full => break,
            _ => owed.push(OwedPosting { posting, place, options: vec![options] }),
        }
    }
    owed
}
