//! The durable state of one partition: its sessions, their subscriptions and positions, the postings
//! of their filters, and how far the logs of all partitions were matched for them.
//!
//! It is the same structure while the broker runs and while it recovers: every change of it that
//! must survive is a [`StateRecord`], appended to the partition's log and applied here; recovery
//! applies the records of a checkpoint and of the log behind it. Applying is idempotent, so that a
//! checkpoint may be written while records are appended.

use super::postings::{Place, PostingList, PostingRange};
use super::records::{
    Cursor, FilterPostings, Kind, RANGE_BYTES, StateRecord, SubscriptionOptions, WillBody,
};
use super::session::{Presence, SessionState, SubscriptionState, WillState};
use super::slab::{Named, Slab};
use hashbrown::{HashMap, HashSet};
use std::collections::{BTreeMap, BTreeSet};

/// A filter that some session of the partition subscribes to.
#[derive(Debug)]
pub(crate) struct FilterState {
    pub(crate) name: Box<str>,
    /// Subscriptions of this filter.
    pub(super) subscriptions: u32,
    /// Those of them that records are posted for.
    pub(super) holders: u32,
    /// Tails of those that had it with more than QoS 0: they need what was posted.
    tails: u32,
    pub(super) postings: PostingList,
    /// Whether it is among those with postings that are not in the log.
    unlogged: bool,
}

impl Named for FilterState {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for SessionState {
    fn name(&self) -> &str {
        &self.client_id
    }
}

/// The last retained message of a topic, while a partition recovers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RetainedState {
    pub(crate) place: Place,
    pub(crate) memory: bool,
    pub(crate) publisher: u64,
    pub(crate) accepted_ms: u64,
    pub(crate) expiry_secs: Option<u32>,
    pub(crate) qos: u8,
    pub(crate) properties: Box<[u8]>,
    pub(crate) payload: Box<[u8]>,
}

/// A record that some filters matched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatchedRecord {
    pub(crate) place: Place,
    /// Whether it is of the level `memory`.
    pub(crate) memory: bool,
    /// What it takes in its log, without the client identifier of its publisher.
    pub(crate) bytes: u64,
    /// Whether its stream lets go of the oldest where a backlog is full.
    pub(crate) droppable: bool,
}

/// The durable state of one partition.
#[derive(Debug)]
pub(crate) struct PartitionState {
    pub(super) sessions: Slab<SessionState>,
    pub(super) filters: Slab<FilterState>,
    /// By partition and level.
    pub(super) cursors: Vec<Cursor>,
    pub(super) next_posting: u64,
    /// Postings below are in the log, and so are the cursors unless they are marked.
    logged_posting: u64,
    cursors_unlogged: bool,
    /// The cursors as the log has them: a crash goes back to those.
    pub(super) logged_cursors: Vec<Cursor>,
    unlogged: Vec<u32>,
    /// Epochs of this partition's log, with the first offset of each.
    pub(super) epochs: Vec<(u64, u64)>,
    /// Retained messages that recovery found, by topic.
    pub(super) retained: BTreeMap<Box<str>, RetainedState>,
    /// Retained messages that were found behind the cursors, in their order: the log of this
    /// partition does not have them yet.
    pub(super) retained_again: Vec<(Box<str>, RetainedState)>,
    /// Parts whose whole has not been seen.
    parts: Vec<(Box<str>, Vec<PostingRange>)>,
    /// Up to which epoch and offset retained messages of each partition and level were applied.
    pub(super) retained_cursors: Vec<(u64, u64)>,
}

impl PartitionState {
    /// The state of an empty log, on a node with this many partitions.
    pub(crate) fn new(partitions: u32) -> Self {
        let cursors = (0..2 * partitions).map(|index| {
            let (partition, memory) = (index / 2, index % 2 == 1);
            Cursor { partition, memory, epoch: 0, next: 0 }
        });
        let cursors: Vec<_> = cursors.collect();
        Self {
            sessions: Slab::new(),
            filters: Slab::new(),
            logged_cursors: cursors.clone(),
            cursors,
            next_posting: 0,
            logged_posting: 0,
            cursors_unlogged: false,
            unlogged: Vec::new(),
            epochs: Vec::new(),
            retained: BTreeMap::new(),
            retained_again: Vec::new(),
            parts: Vec::new(),
            retained_cursors: vec![(0, 0); 2 * partitions as usize],
        }
    }

    // -- questions ---------------------------------------------------------------------------

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// The recorded position of a session.
    pub(crate) fn position(&self, client_id: &str) -> Option<u64> {
        let slot = self.sessions.find(client_id)?;
        self.sessions.get(slot).map(|session| session.position)
    }

    /// Up to where all records of a partition's log were matched.
    pub(crate) fn matched_from(&self, partition: u32) -> u64 {
        let both = [false, true].map(|memory| self.cursors[cursor_index(partition, memory)].next);
        both[0].min(both[1])
    }

    /// Up to where records of a partition's log were matched, of whatever level.
    pub(crate) fn matched_to(&self, partition: u32) -> u64 {
        let both = [false, true].map(|memory| self.cursors[cursor_index(partition, memory)].next);
        both[0].max(both[1])
    }

    /// A session's number, by its client identifier.
    pub(crate) fn find(&self, client_id: &str) -> Option<u32> {
        self.sessions.find(client_id)
    }

    pub(crate) fn session(&self, slot: u32) -> Option<&SessionState> {
        self.sessions.get(slot)
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = (u32, &SessionState)> {
        self.sessions.iter()
    }

    pub(crate) fn filter(&self, number: u32) -> Option<&FilterState> {
        self.filters.get(number)
    }

    #[cfg(test)]
    pub(crate) fn find_filter(&self, name: &str) -> Option<u32> {
        self.filters.find(name)
    }

    /// The filters that records are posted for.
    pub(crate) fn posted_filters(&self) -> impl Iterator<Item = (u32, &str)> {
        let held = self.filters.iter().filter(|(_, filter)| filter.holders > 0);
        held.map(|(number, filter)| (number, &*filter.name))
    }

    /// The number of a filter that records are posted for.
    pub(crate) fn posted_number(&self, filter: &str) -> Option<u32> {
        let number = self.filters.find(filter)?;
        self.filters.get(number).filter(|found| found.holders > 0).map(|_| number)
    }

    /// The filters that a session subscribes to.
    pub(crate) fn filters_of(&self, client_id: &str) -> Vec<Box<str>> {
        let session = self.sessions.find(client_id).and_then(|slot| self.sessions.get(slot));
        let subscriptions = session.into_iter().flat_map(|session| &session.subscriptions);
        let filters = subscriptions.filter_map(|held| self.filters.get(held.filter));
        filters.map(|filter| filter.name.clone()).collect()
    }

    /// Whether a session subscribes to a filter.
    pub(crate) fn has_subscription(&self, client_id: &str, filter: &str) -> bool {
        let session = self.sessions.find(client_id).and_then(|slot| self.sessions.get(slot));
        let number = self.filters.find(filter);
        session.is_some_and(|s| s.subscriptions.iter().any(|held| Some(held.filter) == number))
    }

    /// Since when a session has no connection (unix ms); `None` if it has one, or is not known.
    pub(crate) fn absent_since_ms(&self, client_id: &str) -> Option<u64> {
        match self.session(self.sessions.find(client_id)?)?.presence {
            Presence::Connected => None,
            Presence::Closed(since_ms) => Some(since_ms),
        }
    }

    /// The posting numbers that records have which a shared group may owe: those of them that it has not
    /// behind it.
    pub(crate) fn numbers_of(&self, slot: u32, places: &HashSet<Place>) -> Vec<u64> {
        let Some(session) = self.sessions.get(slot) else { return Vec::new() };
        let mut by_log: HashMap<(u32, u64), BTreeSet<u64>> = HashMap::new();
        for Place { partition, epoch, offset } in places {
            by_log.entry((*partition, *epoch)).or_default().insert(*offset);
        }
        let filters = session
            .subscriptions
            .iter()
            .filter_map(|held| Some((self.filters.get(held.filter)?, session.owed_from(held))));
        let ranges = filters.flat_map(|(filter, from)| filter.postings.from(from));
        let found = ranges.flat_map(|PostingRange { place, first, count, .. }| {
            let offsets = by_log.get(&(place.partition, place.epoch));
            let span = place.offset..place.offset + u64::from(count);
            let found = offsets.into_iter().flat_map(move |offsets| offsets.range(span.clone()));
            found.map(move |offset| first + (offset - place.offset))
        });
        found.collect()
    }

    /// The options of a session's subscription.
    pub(crate) fn options_of(&self, client_id: &str, filter: &str) -> Option<SubscriptionOptions> {
        let session = self.session(self.sessions.find(client_id)?)?;
        let number = self.filters.find(filter)?;
        let held = session.subscriptions.iter().find(|held| held.filter == number)?;
        Some(held.options)
    }

    /// From which posting on a subscription of this session counts: an older one is only replaced. One
    /// with QoS 0 owes nothing from here on.
    pub(crate) fn since(&self, client_id: &str, filter: &str, options: SubscriptionOptions) -> u64 {
        if !is_posted(filter, options) {
            return self.next_posting;
        }
        let held = || {
            let session = self.session(self.sessions.find(client_id)?)?;
            let number = self.filters.find(filter)?;
            let held = session.subscriptions.iter().find(|held| held.filter == number)?;
            is_posted(filter, held.options).then_some(held.since)
        };
        held().unwrap_or(self.next_posting)
    }

    /// How far each partition's log was matched, `local_disk` before `memory`.
    pub(crate) fn cursors(&self) -> &[Cursor] {
        &self.cursors
    }

    /// The number that the next posting gets.
    pub(crate) fn next_posting(&self) -> u64 {
        self.next_posting
    }

    // -- changes that become a record later ----------------------------------------------------

    /// Posts a record for the filters that it matched, under the next posting number.
    pub(crate) fn post(
        &mut self,
        record: MatchedRecord,
        filters: impl IntoIterator<Item = u32>,
    ) -> u64 {
        let MatchedRecord { place, memory, bytes, droppable } = record;
        let posting = self.next_posting;
        self.next_posting += 1;
        for number in filters {
            let Some(filter) = self.filters.get_mut(number) else { continue };
            let range = PostingRange { place, first: posting, count: 1, bytes, droppable };
            filter.postings.push(range);
            if !filter.unlogged {
                filter.unlogged = true;
                self.unlogged.push(number);
            }
        }
        let Place { partition, epoch, offset } = place;
        self.advance(Cursor { partition, memory, epoch, next: offset + 1 });
        posting
    }

    /// Notes that a partition's log was matched up to an offset.
    pub(crate) fn advance(&mut self, cursor: Cursor) {
        let Some(known) = self.cursors.get_mut(cursor_index(cursor.partition, cursor.memory))
        else {
            return;
        };
        if (known.epoch, known.next) < (cursor.epoch, cursor.next) {
            *known = cursor;
            self.cursors_unlogged = true;
        }
    }

    /// Whether something was matched that is not in the log.
    pub(crate) fn has_unlogged(&self) -> bool {
        self.cursors_unlogged || self.logged_posting < self.next_posting
    }

    /// Filters with postings that are not in the log: what the next record of them costs.
    pub(crate) fn unlogged_count(&self) -> u64 {
        self.next_posting - self.logged_posting + self.unlogged.len() as u64
    }

    /// What the next records of postings take, in bytes, about and not less.
    pub(crate) fn unlogged_bytes(&self) -> usize {
        let filters = self.unlogged.iter().filter_map(|number| self.filters.get(*number));
        let bytes = filters.map(|filter| {
            let ranges = filter.postings.from(self.logged_posting).count();
            filter.name.len() + FILTER_BYTES + ranges * RANGE_BYTES
        });
        let cursors = if self.has_unlogged() { self.cursors.len() * CURSOR_BYTES } else { 0 };
        bytes.sum::<usize>() + cursors
    }

    /// The records that say what was matched since the last ones, to be appended one right behind
    /// the other; none if nothing was. Each is of about `bytes_max` bytes at most.
    pub(crate) fn unlogged(&self, bytes_max: usize) -> Vec<StateRecord<'_>> {
        let mut records = Vec::new();
        if !self.has_unlogged() {
            return records;
        }
        let (mut filters, mut bytes) = (Vec::new(), 0);
        for number in &self.unlogged {
            let Some(filter) = self.filters.get(*number) else { continue };
            let ranges: Vec<_> = filter.postings.from(self.logged_posting).collect();
            for ranges in ranges.chunks((bytes_max / RANGE_BYTES).max(1)) {
                let more = filter.name.len() + FILTER_BYTES + ranges.len() * RANGE_BYTES;
                if bytes + more > bytes_max && bytes > 0 {
                    let filters = core::mem::take(&mut filters);
                    records.push(StateRecord::PostingsPart { filters });
                    bytes = 0;
                }
                bytes += more;
                filters.push(FilterPostings { filter: &filter.name, ranges: ranges.to_vec() });
            }
        }
        let cursors = self.cursors.iter().filter(|cursor| cursor.next > 0).copied().collect();
        records.push(StateRecord::Postings { next: self.next_posting, cursors, filters });
        records
    }

    /// The records of [`PartitionState::unlogged`] were appended.
    pub(crate) fn set_logged(&mut self) {
        for number in self.unlogged.drain(..) {
            if let Some(filter) = self.filters.get_mut(number) {
                filter.unlogged = false;
            }
        }
        self.logged_posting = self.next_posting;
        self.logged_cursors.clone_from(&self.cursors);
        self.cursors_unlogged = false;
    }

    // -- records -------------------------------------------------------------------------------

    /// Applies a record that was appended, or that recovery reads.
    pub(crate) fn apply(&mut self, record: &StateRecord<'_>) {
        if !matches!(record.kind(), Kind::Postings | Kind::PostingsPart) {
            self.parts.clear();
        }
        match record {
            StateRecord::SessionOpen { client_id, clean, expiry_secs, will } => {
                self.open_session(client_id, *clean, *expiry_secs, will.as_ref());
            }
            StateRecord::SessionClosed { client_id, since_ms, expiry_secs, will_gone } => {
                let Some(session) = self.session_mut(client_id) else { return };
                session.presence = Presence::Closed(*since_ms);
                session.expiry_secs = *expiry_secs;
                if *will_gone {
                    session.will = None;
                }
            }
            StateRecord::SessionEnd { client_id } => self.end_session(client_id),
            StateRecord::Subscribe { client_id, filter, options, since } => {
                self.subscribe(client_id, filter, *options, *since);
            }
            StateRecord::Unsubscribe { client_id, filter } => self.unsubscribe(client_id, filter),
            StateRecord::Postings { next, cursors, filters } => {
                self.apply_postings(*next, cursors, filters);
            }
            StateRecord::PostingsPart { filters } => {
                let parts = filters.iter().map(|part| (part.filter.into(), part.ranges.clone()));
                self.parts.extend(parts);
            }
            StateRecord::Positions { positions } => {
                for (client_id, position) in positions {
                    self.set_position(client_id, *position);
                }
            }
            StateRecord::Incoming { client_id, packet_ids } => {
                for packet_id in packet_ids {
                    self.receive(client_id, *packet_id);
                }
            }
            StateRecord::WillGone { client_id }
            | StateRecord::Sent { client_id, .. }
            | StateRecord::SentBeside { client_id, .. }
            | StateRecord::Received { client_id, .. }
            | StateRecord::Completed { client_id, .. }
            | StateRecord::Release { client_id, .. }
            | StateRecord::Delivered { client_id, .. }
            | StateRecord::DeliveredRanges { client_id, .. }
            | StateRecord::Replay { client_id, .. }
            | StateRecord::ReplayBegin { client_id, .. }
            | StateRecord::ReplayDelivered { client_id, .. }
            | StateRecord::ReplayEnd { client_id, .. }
            | StateRecord::GroupKept { client_id, .. }
            | StateRecord::GroupHeld { client_id, .. } => {
                self.with_session(client_id, |session| session.apply(record));
            }
            StateRecord::Retained { topic, retained } => self.set_retained(topic, retained),
            StateRecord::Epochs { epochs } => self.epochs.clone_from(epochs),
            StateRecord::RetainedCursors { cursors } => self.set_retained_cursors(cursors),
        }
    }

    /// An incoming QoS 2 PUBLISH of a client was appended. Of a client without a durable session
    /// nothing is kept.
    pub(crate) fn receive(&mut self, client_id: &str, packet_id: u16) {
        self.with_session(client_id, |session| {
            session.exchanges().incoming.insert(packet_id);
        });
    }

    fn session_mut(&mut self, client_id: &str) -> Option<&mut SessionState> {
        let slot = self.sessions.find(client_id)?;
        self.sessions.get_mut(slot)
    }

    /// A session that is not there ended later than the checkpoint began: nothing is to be done.
    fn with_session(&mut self, client_id: &str, change: impl FnOnce(&mut SessionState)) {
        if let Some(session) = self.session_mut(client_id) {
            change(session);
        }
    }

    fn set_position(&mut self, client_id: &str, position: u64) {
        let Some(session) = self.session_mut(client_id) else { return };
        for filter in session.set_position(position) {
            self.end_tails(filter, 1);
        }
    }

    fn open_session(
        &mut self,
        client_id: &str,
        clean: bool,
        expiry_secs: u32,
        will: Option<&WillBody<'_>>,
    ) {
        if clean {
            self.end_session(client_id);
        }
        let slot = self.sessions.find(client_id);
        let slot = slot.unwrap_or_else(|| self.sessions.insert(SessionState::new(client_id)));
        let Some(session) = self.sessions.get_mut(slot) else { return };
        session.presence = Presence::Connected;
        session.expiry_secs = expiry_secs;
        session.will = will.map(|will| Box::new(WillState::new(will)));
    }

    fn end_session(&mut self, client_id: &str) {
        let slot = self.sessions.find(client_id);
        let Some(session) = slot.and_then(|slot| self.sessions.remove(slot)) else { return };
        for tail in session.tails() {
            self.end_tails(tail.before.filter, 1);
        }
        for subscription in &session.subscriptions {
            self.drop_filter(subscription);
        }
    }

    fn subscribe(&mut self, client_id: &str, name: &str, options: SubscriptionOptions, since: u64) {
        let Self { sessions, filters, .. } = self;
        let slot = sessions.find(client_id);
        let Some(session) = slot.and_then(|slot| sessions.get_mut(slot)) else { return };
        let number = filters.find(name);
        let number = number.unwrap_or_else(|| filters.insert(FilterState::new(name)));
        let Some(filter) = filters.get_mut(number) else { return };
        let posted = is_posted(name, options);
        let new = SubscriptionState { filter: number, options, since };
        match session.subscriptions.iter_mut().find(|held| held.filter == number) {
            Some(held) => {
                let before = core::mem::replace(held, new);
                let was_posted = is_posted(name, before.options);
                if was_posted && !posted {
                    filter.tails += u32::from(session.cut_off(before, since));
                }
                filter.set_holders(was_posted, posted);
            }
            None => {
                session.subscriptions.reserve_exact(1);
                session.subscriptions.push(new);
                filter.subscriptions += 1;
                filter.set_holders(false, posted);
            }
        }
    }

    fn unsubscribe(&mut self, client_id: &str, name: &str) {
        let Some(number) = self.filters.find(name) else { return };
        let Some(session) = self.session_mut(client_id) else { return };
        let found = session.subscriptions.iter().position(|held| held.filter == number);
        let Some(index) = found else { return };
        let subscription = session.subscriptions.swap_remove(index);
        let tails = session.end_tails(number);
        self.end_tails(number, tails);
        self.drop_filter(&subscription);
    }

    fn end_tails(&mut self, filter: u32, count: usize) {
        if let Some(filter) = self.filters.get_mut(filter).filter(|_| count > 0) {
            filter.end_tails(count);
        }
    }

    fn drop_filter(&mut self, subscription: &SubscriptionState) {
        let Some(filter) = self.filters.get_mut(subscription.filter) else { return };
        filter.subscriptions -= 1;
        filter.set_holders(is_posted(&filter.name, subscription.options), false);
        if filter.subscriptions == 0 {
            self.filters.remove(subscription.filter);
            self.unlogged.retain(|number| *number != subscription.filter);
        }
    }

    fn apply_postings(&mut self, next: u64, cursors: &[Cursor], filters: &[FilterPostings<'_>]) {
        for (filter, ranges) in core::mem::take(&mut self.parts) {
            self.push_postings(&filter, &ranges);
        }
        for FilterPostings { filter, ranges } in filters {
            self.push_postings(filter, ranges);
        }
        for cursor in cursors {
            let index = cursor_index(cursor.partition, cursor.memory);
            for cursors in [&mut self.cursors, &mut self.logged_cursors] {
                if let Some(known) = cursors.get_mut(index) {
                    *known = *cursor;
                }
            }
        }
        self.next_posting = self.next_posting.max(next);
        self.logged_posting = self.next_posting;
    }

    fn push_postings(&mut self, name: &str, ranges: &[PostingRange]) {
        let number = self.filters.find(name);
        let filter = number.and_then(|number| self.filters.get_mut(number));
        if let Some(filter) = filter.filter(|filter| filter.holders + filter.tails > 0) {
            ranges.iter().for_each(|range| filter.postings.push(*range));
        }
    }

    /// Parts that were left alone at the end of an epoch are none.
    /// Whether parts of postings wait for the record that they count with.
    pub(super) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    pub(super) fn drop_parts(&mut self) {
        self.parts.clear();
    }
}

impl FilterState {
    fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            subscriptions: 0,
            holders: 0,
            tails: 0,
            postings: PostingList::default(),
            unlogged: false,
        }
    }

    /// A subscription of this filter was posted for, and is now.
    fn set_holders(&mut self, before: bool, after: bool) {
        self.holders = self.holders + u32::from(after) - u32::from(before);
        self.drop_unheld();
    }

    fn end_tails(&mut self, count: usize) {
        self.tails -= count as u32;
        self.drop_unheld();
    }

    fn drop_unheld(&mut self) {
        if self.holders == 0 && self.tails == 0 {
            self.postings = PostingList::default();
        }
    }
}

/// Bytes of a filter beside its name and ranges.
const FILTER_BYTES: usize = 6;
/// Bytes of a cursor.
const CURSOR_BYTES: usize = 21;

/// Where the cursor of a partition and level is.
pub(super) fn cursor_index(partition: u32, memory: bool) -> usize {
    partition as usize * 2 + usize::from(memory)
}

/// Whether records are posted for a subscription: with QoS 0 nothing is kept for it, and shared ones
/// are matched by their group.
pub(crate) fn is_posted(filter: &str, options: SubscriptionOptions) -> bool {
    options.qos > 0 && !filter.starts_with("$share/")
}
