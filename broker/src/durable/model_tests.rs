//! Random lives of a partition, ended by a crash after any record: what recovery makes of the log,
//! with and without a checkpoint that was written meanwhile, is what an independent model says.

use super::model::{MatchedRecord, PartitionState};
use super::postings::Place;
use super::records::{Cursor, SentBody, StateRecord, SubscriptionOptions};
use super::recovered::PublishFacts;
use super::snapshot::Piece;
use super::sweep::Sweep;
use crate::delivery::PostedFilters;
use std::collections::{BTreeMap, BTreeSet};

const PARTITIONS: u32 = 3;
const CLIENTS: usize = 4;
const FILTERS: [&str; 4] = ["a", "b", "+", "#"];
const TOPICS: [&str; 3] = ["a", "b", "c/d"];

fn matches(filter: &str, topic: &str) -> bool {
    filter == "#" || filter == topic || (filter == "+" && !topic.contains('/'))
}

fn matched(place: Place, memory: bool) -> MatchedRecord {
    MatchedRecord { place, memory, bytes: 100, droppable: false }
}

/// Matches a record, with filters that are put together for it.
fn match_again(state: &mut PartitionState, facts: &PublishFacts<'_>) {
    let mut posted = PostedFilters::default();
    let filters = state.posted_filters();
    filters.for_each(|(number, filter)| posted.set(filter, 0, Some(number)));
    let mut matched = Vec::new();
    posted.of_topic(facts.topic, &mut matched);
    state.match_again(matched.iter().map(|posted| posted.filter), facts);
}

/// Where the messages lie that some session is owed, or has not acknowledged with PUBREC.
fn owed_places(state: &PartitionState) -> Vec<Place> {
    let sessions = state.sessions().flat_map(|(slot, session)| {
        let owed = state.owed(slot, 0, usize::MAX).into_iter();
        owed.map(|posting| posting.place).chain(session.pinned())
    });
    sessions.collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A record as it lies in the log.
#[derive(Clone)]
struct Logged {
    kind: u8,
    client_id: String,
    topic: String,
    body: Vec<u8>,
}

impl Logged {
    fn new(record: &StateRecord<'_>) -> Self {
        let mut body = Vec::new();
        record.encode(&mut body);
        let (client_id, topic) = (record.client_id().to_owned(), record.topic().to_owned());
        Self { kind: record.kind() as u8, client_id, topic, body }
    }

    fn apply(&self, state: &mut PartitionState) {
        let record = StateRecord::decode(self.kind, &self.client_id, &self.topic, &self.body);
        state.apply(&record.expect("it was written"));
    }
}

/// A publish in the log of some partition.
#[derive(Clone, Copy)]
struct Published {
    place: Place,
    topic: &'static str,
    memory: bool,
}

impl Published {
    fn facts(&self) -> PublishFacts<'static> {
        let Self { place, topic, memory } = *self;
        PublishFacts { record: matched(place, memory), topic, qos: 1, retained: None }
    }
}

/// What the model knows of a session: the messages that it is owed, by where they lie.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Model {
    filters: BTreeSet<&'static str>,
    owed: BTreeSet<Place>,
    /// QoS 2 exchanges: PUBREC seen or not.
    sent: BTreeMap<u16, (Place, bool)>,
    incoming: BTreeSet<u16>,
}

/// A partition, its log, and the model beside it.
struct Life {
    random: Random,
    state: PartitionState,
    log: Vec<Logged>,
    /// In the order in which they were matched.
    published: Vec<Published>,
    unflushed: Vec<Published>,
    next_offsets: [u64; PARTITIONS as usize],
    models: BTreeMap<String, Model>,
    /// How much had been published when a filter was subscribed to.
    since: BTreeMap<(String, &'static str), usize>,
    checkpoint: Vec<Logged>,
    piece: Piece,
    replay_from: usize,
    sweep: Sweep,
    /// What the last walk that was made in steps has found out.
    walk: Option<Vec<u64>>,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            state: PartitionState::new(PARTITIONS),
            log: Vec::new(),
            published: Vec::new(),
            unflushed: Vec::new(),
            next_offsets: [0; PARTITIONS as usize],
            models: BTreeMap::new(),
            since: BTreeMap::new(),
            checkpoint: Vec::new(),
            piece: Piece::Done,
            replay_from: 0,
            sweep: Sweep::default(),
            walk: None,
        }
    }

    /// Appends a record behind what was matched, and applies it.
    fn record(&mut self, record: &StateRecord<'_>) {
        self.log_matched();
        self.log.push(Logged::new(record));
        self.sweep.note(record);
        self.state.apply(record);
    }

    fn log_matched(&mut self) {
        // A bound of one entry, so that most of it is in parts.
        let records: Vec<_> = self.state.unlogged(1).iter().map(Logged::new).collect();
        if !records.is_empty() {
            self.log.extend(records);
            self.state.set_logged();
        }
    }

    fn step(&mut self) {
        let client = format!("c{}", self.random.below(CLIENTS));
        match self.random.below(20) {
            0 => self.open(&client),
            1 => self.end(&client),
            2 | 3 => self.subscribe(&client),
            4 => self.unsubscribe(&client),
            5..=9 => self.publish(),
            10 | 11 => self.acknowledge(&client),
            12 | 13 => self.send(&client),
            14 => self.answer(&client),
            15 => self.incoming(&client),
            16 => self.log_matched(),
            17 => self.sweep_on(),
            _ => self.write_piece(),
        }
    }

    fn open(&mut self, client_id: &str) {
        let clean = self.random.below(3) == 0;
        self.record(&StateRecord::SessionOpen { client_id, clean, expiry_secs: 60, will: None });
        if clean {
            self.models.remove(client_id);
        }
        self.models.entry(client_id.to_owned()).or_default();
    }

    fn end(&mut self, client_id: &str) {
        if self.models.remove(client_id).is_some() {
            self.record(&StateRecord::SessionEnd { client_id });
        }
    }

    fn subscribe(&mut self, client_id: &str) {
        let filter = FILTERS[self.random.below(FILTERS.len())];
        let Some(model) = self.models.get_mut(client_id) else { return };
        if model.filters.insert(filter) {
            self.since.insert((client_id.to_owned(), filter), self.published.len());
            let options =
                SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
            let since = self.state.next_posting();
            self.record(&StateRecord::Subscribe { client_id, filter, options, since });
        }
    }

    fn unsubscribe(&mut self, client_id: &str) {
        let filter = FILTERS[self.random.below(FILTERS.len())];
        let Some(model) = self.models.get_mut(client_id) else { return };
        if model.filters.remove(filter) {
            self.record(&StateRecord::Unsubscribe { client_id, filter });
            // What only this filter was owed is not owed any more.
            self.since.remove(&(client_id.to_owned(), filter));
            let Self { models, published, since, .. } = self;
            let model = models.get_mut(client_id).expect("looked up above");
            model.owed.retain(|place| {
                let at = published.iter().position(|published| published.place == *place);
                let at = at.expect("it was published");
                model.filters.iter().any(|filter| {
                    matches(filter, published[at].topic)
                        && since[&(client_id.to_owned(), *filter)] <= at
                })
            });
        }
    }

    /// Publishes at one of the levels: `memory` is matched at once, `local_disk` when flushed, and so
    /// not in the order of offsets.
    fn publish(&mut self) {
        let partition = self.random.below(PARTITIONS as usize) as u32;
        let offset = &mut self.next_offsets[partition as usize];
        let place = Place { partition, epoch: 1, offset: *offset };
        *offset += 1;
        let topic = TOPICS[self.random.below(TOPICS.len())];
        let memory = self.random.below(2) == 0;
        let published = Published { place, topic, memory };
        if memory {
            self.commit(published);
        } else {
            self.unflushed.push(published);
        }
        if self.random.below(3) == 0 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for published in core::mem::take(&mut self.unflushed) {
            self.commit(published);
        }
    }

    fn commit(&mut self, published: Published) {
        self.published.push(published);
        match_again(&mut self.state, &published.facts());
        for model in self.models.values_mut() {
            if model.filters.iter().any(|filter| matches(filter, published.topic)) {
                model.owed.insert(published.place);
            }
        }
    }

    /// Acknowledges everything up to one of the messages that a session is owed.
    fn acknowledge(&mut self, client_id: &str) {
        let Some(slot) = self.state.find(client_id) else { return };
        let owed = self.state.owed(slot, 0, 1 + self.random.below(4));
        let Some(last) = owed.last() else { return };
        let position = last.posting + 1;
        self.record(&StateRecord::Positions { positions: vec![(client_id, position)] });
        let model = self.models.get_mut(client_id).expect("the state knows it");
        for posting in &owed {
            model.owed.remove(&posting.place);
        }
    }

    /// Begins a QoS 2 exchange for one of the first messages.
    fn send(&mut self, client_id: &str) {
        let Some(slot) = self.state.find(client_id) else { return };
        let owed = self.state.owed(slot, 0, 3);
        if owed.is_empty() {
            return;
        }
        let posting = &owed[self.random.below(owed.len())];
        let free = (1..).find(|id| !self.models[client_id].sent.contains_key(id));
        let packet_id = free.expect("few are open");
        let place = posting.place;
        let sent =
            SentBody { posting: posting.posting, place, retain: false, subscription_ids: vec![] };
        self.record(&StateRecord::Sent { client_id, packet_id, sent });
        let model = self.models.get_mut(client_id).expect("the state knows it");
        model.owed.remove(&place);
        model.sent.insert(packet_id, (place, false));
    }

    /// PUBREC or PUBCOMP for one of the exchanges.
    fn answer(&mut self, client_id: &str) {
        let Some(model) = self.models.get_mut(client_id) else { return };
        let Some((packet_id, (_, received))) = model.sent.iter_mut().next() else { return };
        let packet_id = *packet_id;
        if *received {
            model.sent.remove(&packet_id);
            self.record(&StateRecord::Completed { client_id, packet_id });
        } else {
            *received = true;
            self.record(&StateRecord::Received { client_id, packet_id });
        }
    }

    fn incoming(&mut self, client_id: &str) {
        let packet_id = 1 + self.random.below(5) as u16;
        let Some(model) = self.models.get_mut(client_id) else { return };
        if model.incoming.insert(packet_id) {
            // In the log it is part of the publish.
            let packet_ids = vec![packet_id];
            self.record(&StateRecord::Incoming { client_id, packet_ids });
        } else {
            model.incoming.remove(&packet_id);
            self.record(&StateRecord::Release { client_id, packet_id });
        }
    }

    fn sweep_on(&mut self) {
        if let Some(needed) = self.state.sweep(&mut self.sweep, &mut { 5 }) {
            self.walk = Some(needed);
        }
    }

    /// What anybody needs lies at or above what was found to be needed: now, and after a crash,
    /// whether or not the log has what was matched last.
    fn check_needed(&self, needed: &[u64]) {
        for state in [&self.state, &self.recover(false, 1)] {
            for place in owed_places(state) {
                assert!(needed[place.partition as usize] <= place.offset, "{place:?}");
            }
            for (cursors, needed) in state.cursors().chunks(2).zip(needed) {
                assert!(cursors.iter().all(|cursor| *needed <= cursor.next), "{cursors:?}");
            }
        }
    }

    /// Begins a checkpoint or goes on with it.
    fn write_piece(&mut self) {
        self.log_matched();
        if self.piece == Piece::Done {
            self.checkpoint.clear();
            self.replay_from = self.log.len();
            self.piece = Piece::Head;
        }
        let mut records = Vec::new();
        let mut keep = |record: &StateRecord<'_>| records.push(Logged::new(record));
        self.piece = self.state.snapshot(self.piece, 1, &mut keep);
        self.checkpoint.append(&mut records);
    }

    /// Recovers from the whole log, or from the checkpoint and what follows it; `times` says how
    /// often each record is applied.
    fn recover(&self, with_checkpoint: bool, times: usize) -> PartitionState {
        let mut state = PartitionState::new(PARTITIONS);
        let from = if with_checkpoint { self.replay_from } else { 0 };
        let checkpoint = self.checkpoint.iter().filter(|_| with_checkpoint);
        for record in checkpoint.chain(&self.log[from..]) {
            (0..times).for_each(|_| record.apply(&mut state));
        }
        self.match_rest(&mut state);
        state
    }

    /// Matches again what lies behind the cursors, log by log and so in another order.
    fn match_rest(&self, state: &mut PartitionState) {
        for partition in 0..PARTITIONS {
            let of_it = |published: &&Published| published.place.partition == partition;
            let mut log: Vec<_> = self.published.iter().filter(of_it).collect();
            log.sort_by_key(|published| published.place.offset);
            for published in log {
                match_again(state, &published.facts());
            }
        }
    }

    fn check(&self, state: &PartitionState) {
        let known: BTreeMap<String, Model> = state
            .sessions()
            .map(|(_, session)| {
                (session.client_id.to_string(), model_of(state, &session.client_id))
            })
            .collect();
        assert_eq!(known, self.models);
    }
}

fn places(state: &PartitionState, client_id: &str) -> BTreeSet<Place> {
    let slot = state.find(client_id).expect("a session");
    let owed = state.owed(slot, 0, usize::MAX);
    let places: BTreeSet<Place> = owed.iter().map(|posting| posting.place).collect();
    assert_eq!(places.len(), owed.len(), "no message is owed twice");
    places
}

fn model_of(state: &PartitionState, client_id: &str) -> Model {
    let session = state.find(client_id).and_then(|slot| state.session(slot)).expect("a session");
    let filters = session.subscriptions.iter().map(|held| {
        let name = &*state.filter(held.filter).expect("a filter").name;
        *FILTERS.iter().find(|filter| **filter == name).expect("one of ours")
    });
    let sent = session.sent().map(|s| (s.packet_id, (s.sent.place, s.received)));
    Model {
        filters: filters.collect(),
        owed: places(state, client_id),
        sent: sent.collect(),
        incoming: session.incoming().into_iter().collect(),
    }
}

#[test]
fn recovery_finds_what_the_model_says() {
    for seed in 0..300 {
        let mut life = Life::new(seed);
        for _ in 0..120 {
            life.step();
            life.check(&life.state);
        }
        life.check(&life.recover(false, 1));
        life.check(&life.recover(false, 2));
        while life.piece != Piece::Done {
            life.write_piece();
        }
        life.check(&life.recover(true, 1));
        life.check(&life.recover(true, 2));
        // What goes on behind the checkpoint is replayed on top of it.
        for _ in 0..60 {
            life.step();
            if life.piece == Piece::Done {
                life.check(&life.recover(true, 1));
            }
        }
    }
}

#[test]
fn a_crash_after_any_record_leaves_the_state_of_that_moment() {
    for seed in 1000..1040 {
        let mut life = Life::new(seed);
        let mut moments = Vec::new();
        for _ in 0..80 {
            life.step();
            moments.push((life.log.len(), life.published.len(), life.models.clone()));
        }
        for (records, published, models) in moments {
            let mut crashed = Life::new(0);
            crashed.log = life.log[..records].to_vec();
            crashed.published = life.published[..published].to_vec();
            crashed.models = models;
            crashed.check(&crashed.recover(false, 1));
        }
    }
}

#[test]
fn sweeping_drops_what_everybody_has_and_nothing_else() {
    for seed in 2000..2050 {
        let mut life = Life::new(seed);
        for _ in 0..150 {
            life.step();
            let mut sweep = Sweep::default();
            let needed = life.state.sweep(&mut sweep, &mut { usize::MAX }).expect("a whole walk");
            life.check(&life.state);
            life.check_needed(&needed);
            if let Some(needed) = life.walk.take() {
                life.check_needed(&needed);
            }
        }
        let clients: Vec<String> = life.models.keys().cloned().collect();
        let position = life.state.next_posting();
        let positions = clients.iter().map(|client| (client.as_str(), position)).collect();
        life.record(&StateRecord::Positions { positions });
        let needed = life.state.sweep(&mut Sweep::default(), &mut { usize::MAX });
        let needed = needed.expect("a whole walk");
        let cursors = life.state.cursors().chunks(2);
        let cursors: Vec<u64> = cursors.map(|both| both[0].next.min(both[1].next)).collect();
        let owed = life.state.posted_filters().map(|(filter, _)| filter);
        assert!(
            owed.into_iter().all(|f| life.state.filter(f).is_some_and(|f| f.postings.is_empty()))
        );
        assert!(needed.iter().zip(cursors).all(|(needed, cursor)| *needed <= cursor));
    }
}

#[test]
fn an_exchange_that_begins_behind_a_walk_is_needed() {
    let mut life = Life::new(1);
    let place = Place { partition: 0, epoch: 1, offset: 5 };
    let options =
        SubscriptionOptions { qos: 2, no_local: false, retain_as_published: false, id: 0 };
    for client_id in ["first", "second"] {
        life.record(&StateRecord::SessionOpen {
            client_id,
            clean: true,
            expiry_secs: 60,
            will: None,
        });
    }
    let client_id = "first";
    life.record(&StateRecord::Subscribe { client_id, filter: "a", options, since: 0 });
    let filter = life.state.find_filter("a").expect("subscribed");
    let posting = life.state.post(matched(place, false), [filter]);
    for memory in [false, true] {
        life.state.advance(Cursor { partition: 0, memory, epoch: 1, next: 9 });
    }
    life.log_matched();
    assert_eq!(life.state.sweep(&mut life.sweep, &mut { 2 }), None, "the first was visited");
    let sent = SentBody { posting, place, retain: false, subscription_ids: Vec::new() };
    life.record(&StateRecord::Sent { client_id, packet_id: 1, sent });
    life.record(&StateRecord::Unsubscribe { client_id, filter: "a" });
    let needed = (0..9).find_map(|_| life.state.sweep(&mut life.sweep, &mut { 2 }));
    assert_eq!(needed.expect("the end of the walk")[0], 5);
}

#[test]
fn what_the_log_does_not_say_was_matched_is_needed() {
    let mut state = PartitionState::new(1);
    let next = |offset, memory| Cursor { partition: 0, memory, epoch: 1, next: offset };
    let needed = |state: &mut PartitionState| {
        state.sweep(&mut Sweep::default(), &mut { usize::MAX }).expect("a whole walk")
    };
    for memory in [false, true] {
        state.advance(next(9, memory));
    }
    assert_eq!(needed(&mut state), [0], "a crash matches all of it again");
    state.set_logged();
    assert_eq!(needed(&mut state), [9]);
    let cursors = vec![next(20, false), next(21, true)];
    state.apply(&StateRecord::Postings { next: 0, cursors, filters: Vec::new() });
    assert_eq!(needed(&mut state), [20], "what recovery reads is in the log");
}

#[test]
fn a_cursor_behind_a_lost_tail_is_set_back_to_the_next_epoch() {
    let mut log = PartitionState::new(PARTITIONS);
    log.note_epoch(1, 0);
    log.note_epoch(1, 50);
    log.note_epoch(3, 90);
    assert_eq!((log.epoch_end(1, 120), log.epoch_end(3, 120)), (90, 120));
    let mut state = PartitionState::new(PARTITIONS);
    state.post(matched(Place { partition: 2, epoch: 1, offset: 99 }, false), []);
    assert!(state.set_back(2, false, log.epoch_end(1, 120)));
    let place = Place { partition: 2, epoch: 3, offset: 90 };
    let facts = PublishFacts { record: matched(place, false), topic: "a", qos: 1, retained: None };
    match_again(&mut state, &facts);
    assert_eq!((state.cursors()[4].epoch, state.cursors()[4].next), (3, 91));
    log.trim_epochs(95);
    assert_eq!(log.epoch_end(0, 120), 90);
}

#[test]
fn an_absent_session_with_a_million_messages_is_small() {
    let mut state = PartitionState::new(1);
    let options =
        SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
    let client_id = "c";
    state.apply(&StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 60, will: None });
    state.apply(&StateRecord::Subscribe { client_id, filter: "a", options, since: 0 });
    let filter = state.find_filter("a").expect("subscribed");
    for offset in 0..1_000_000 {
        state.post(matched(Place { partition: 0, epoch: 1, offset }, false), [filter]);
    }
    assert_eq!(state.filter(filter).map(|f| f.postings.range_count()), Some(1));
    let slot = state.find(client_id).expect("a session");
    let owed = state.owed(slot, 500_000, 64);
    assert_eq!((owed.len(), owed[0].place.offset), (64, 500_000));
    assert!(size_of::<super::session::SessionState>() <= 112);
}
