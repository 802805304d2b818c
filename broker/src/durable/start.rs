//! From the logs to sessions: what is done before a core runs.
//!
//! Every record of every log is applied to its partition's state; then each partition matches what
//! lies behind its cursors, in all logs. That is done on the starting thread, and each core gets what
//! it owns. What sessions are owed stays in the logs until their clients are there.

use super::checkpointing::Checkpoints;
use super::model::{MatchedRecord, PartitionState};
use super::postings::Place;
use super::records::{RetainedBody, StateRecord, StateRecordError};
use super::recovered::PublishFacts;
use super::sweep::Sweep;
use crate::delivery::{Posted, PostedFilters};
use crate::groups::GroupsAtStart;
use ringlane_dataplane::ids::{CoreId, Offset, PartitionId};
use ringlane_dataplane::log::epoch_table::KnownEpochs;
use ringlane_dataplane::log::record::{RECORD_HEAD_BYTES, Record, RecordKind};
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::stored::expiry_of;
use ringlane_dataplane::planted::{self, Bug};
use ringlane_dataplane::replication::epochs::EpochStart;
use ringlane_dataplane::routing::Placement;
use std::sync::Arc;

/// Steps that a follower goes on with a walk over its sessions and postings in one turn, once a second.
const SWEEP_BUDGET: usize = 16 * 1024;

/// Applies a record to the state of a partition.
pub(crate) type Apply<'a> = dyn FnMut(&mut PartitionState, &StateRecord<'_>) + 'a;

/// What the records of one partition's log add up to.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) state: PartitionState,
    /// Where the first record is that is not in the state yet.
    from: Option<ReplayFrom>,
    /// All below it is in the state, where that is known.
    applied: Option<Offset>,
    error: Option<(u64, StateRecordError)>,
    sweep: Sweep,
}

impl Recovery {
    pub(crate) fn new(partitions: u32) -> Self {
        let state = PartitionState::new(partitions);
        Self { state, from: None, applied: None, error: None, sweep: Sweep::default() }
    }

    /// The same, that goes on behind a checkpoint.
    pub(crate) fn behind(self, from: ReplayFrom) -> Self {
        Self { from: Some(from), applied: Some(from.offset), ..self }
    }

    /// The same, of the checkpoint of a leader: where it says that replay begins is a place in that one's log, so that
    /// this node's is read from its beginning, and only what comes behind is applied.
    pub(crate) fn learned(self, from: ReplayFrom) -> Self {
        Self { from: None, applied: Some(from.offset), ..self }
    }

    /// Up to where records are in the state, if that is not where the log begins.
    pub(crate) fn applied(&self) -> Option<Offset> {
        self.applied
    }

    /// The log was trimmed.
    pub(crate) fn trim_epochs(&mut self, log_start: Offset) {
        self.state.trim_epochs(log_start.0);
    }

    /// Where replay begins, unless it is the beginning of the log.
    pub(crate) fn replay_from(&self) -> Option<ReplayFrom> {
        self.from
    }

    /// The epochs of all records in front of where replay begins, if it begins behind a checkpoint.
    pub(crate) fn known_epochs(&self) -> Option<KnownEpochs> {
        let starts = self.state.epochs.iter();
        let starts = starts.map(|&(epoch, first)| EpochStart { epoch, first: Offset(first) });
        self.from.map(|from| KnownEpochs { starts: starts.collect(), from })
    }

    /// The epoch of the record before an offset, and where that epoch begins, if this state knows.
    pub(crate) fn epoch_before(&self, offset: Offset) -> Option<(u64, Offset)> {
        let (epoch, first) = self.state.epoch_before(offset.0)?;
        Some((epoch, Offset(first)))
    }

    /// Whether a record could not be read.
    pub(crate) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// The next record of the log.
    pub(crate) fn on_record(&mut self, record: &Record<'_>) {
        self.on_record_by(record, &mut PartitionState::apply);
    }

    /// The same; `apply` applies what it says of state.
    pub(crate) fn on_record_by(&mut self, record: &Record<'_>, apply: &mut Apply<'_>) {
        let Record { head, client_id, .. } = *record;
        self.state.note_epoch(head.epoch, head.offset.0);
        if head.kind == RecordKind::PUBLISH {
            // A will has no packet identifier: nobody releases it.
            let is_kept = !planted::is(Bug::ExactlyOnceUnkept);
            if head.flags.qos() == 2 && head.packet_id != 0 && is_kept {
                self.state.receive(client_id, head.packet_id);
            }
            if head.flags.will() {
                apply(&mut self.state, &StateRecord::WillGone { client_id });
            }
            return;
        }
        // That an epoch begins is all that it says.
        if head.kind != RecordKind::EPOCH_START {
            self.on_state_by(record, apply);
        }
    }

    /// The next records of the log, from an offset on: messages of this epoch and nothing else.
    pub(crate) fn on_plain(&mut self, epoch: u64, first: Offset) {
        self.state.note_epoch(epoch, first.0);
    }

    /// The next record of a checkpoint.
    pub(super) fn on_state(&mut self, record: &Record<'_>) {
        self.on_state_by(record, &mut PartitionState::apply);
    }

    fn on_state_by(&mut self, record: &Record<'_>, apply: &mut Apply<'_>) {
        let Record { head, client_id, topic, payload, .. } = *record;
        match StateRecord::decode(head.kind.0, client_id, topic, payload) {
            Ok(record) => apply(&mut self.state, &record),
            Err(error) => self.error = self.error.or(Some((head.offset.0, error))),
        }
    }

    /// Drops some of the postings that nobody is owed any more, as the broker does while it runs: a
    /// follower goes on for ever. To be called once a second.
    pub(crate) fn sweep(&mut self) {
        self.state.sweep(&mut self.sweep, &mut { SWEEP_BUDGET });
        // Where clients have a connection is known to the leader alone.
        self.sweep.take_behind();
    }

    /// The state, unless the log has a record that this release cannot read.
    ///
    /// # Errors
    /// The first such record: its offset, and what is wrong with it.
    pub(crate) fn finish(self) -> Result<PartitionState, (u64, StateRecordError)> {
        self.error.map_or(Ok(self.state), Err)
    }
}

/// What a node's logs add up to.
#[derive(Debug)]
pub(crate) struct NodeState {
    /// By partition.
    pub(crate) partitions: Vec<PartitionState>,
    /// By core.
    posted: Vec<PostedFilters>,
    /// The ends of their logs.
    ends: Vec<Offset>,
}

/// Reads the records of a partition's log from an offset on, in order.
pub(crate) type ReadLog<'a, E> =
    dyn FnMut(PartitionId, Offset, &mut dyn FnMut(&Record<'_>)) -> Result<(), E> + 'a;

/// The filters of all partitions that records are posted for, by core.
pub(crate) fn posted_filters(
    partitions: &[PartitionState],
    placement: &Placement,
) -> Vec<PostedFilters> {
    let mut posted: Vec<_> = (0..placement.cores).map(|_| PostedFilters::default()).collect();
    for (partition, state) in (0..).map(PartitionId).zip(partitions) {
        let index = placement.index_on_core(partition) as u16;
        let posted = &mut posted[placement.owner(partition).index()];
        for (number, filter) in state.posted_filters() {
            posted.set(filter, index, Some(number));
        }
    }
    posted
}

impl NodeState {
    /// Matches what lies behind the cursors. `posted` are the filters of all partitions that records are posted for,
    /// by core; `next_offsets` are the ends of the logs; `is_droppable` says of a topic whether its stream lets go
    /// of the oldest where a backlog is full.
    ///
    /// # Errors
    /// Of `read`.
    pub(crate) fn build<E>(
        (mut partitions, posted): (Vec<PartitionState>, Vec<PostedFilters>),
        next_offsets: &[Offset],
        placement: &Placement,
        is_droppable: &mut dyn FnMut(&str) -> bool,
        read: &mut ReadLog<'_, E>,
    ) -> Result<Self, E> {
        set_back(&mut partitions, next_offsets);
        let mut matching =
            Matching { partitions: &mut partitions, posted: &posted, matched: Vec::new() };
        matching.match_rest(next_offsets, placement, is_droppable, read)?;
        Ok(Self { partitions, posted, ends: next_offsets.to_vec() })
    }
}

/// Sets cursors back that point behind the end of the epoch that they were in.
fn set_back(partitions: &mut [PartitionState], next_offsets: &[Offset]) {
    for index in 0..partitions.len() {
        let cursors = partitions[index].cursors().to_vec();
        for cursor in cursors {
            let log = cursor.partition as usize;
            let end = partitions[log].epoch_end(cursor.epoch, next_offsets[log].0);
            partitions[index].set_back(cursor.partition, cursor.memory, end);
        }
    }
}

/// Matches what lies behind the cursors.
struct Matching<'a> {
    partitions: &'a mut [PartitionState],
    /// By core.
    posted: &'a [PostedFilters],
    matched: Vec<Posted>,
}

impl Matching<'_> {
    fn match_rest<E>(
        &mut self,
        next_offsets: &[Offset],
        placement: &Placement,
        is_droppable: &mut dyn FnMut(&str) -> bool,
        read: &mut ReadLog<'_, E>,
    ) -> Result<(), E> {
        for (log, next) in (0..).zip(next_offsets) {
            let from = self.partitions.iter().map(|state| state.matched_from(log)).min();
            let Some(from) = from.filter(|from| *from < next.0) else { continue };
            read(PartitionId(log), Offset(from), &mut |record| {
                if record.head.kind == RecordKind::PUBLISH {
                    let droppable = is_droppable(record.topic);
                    let stored = StoredFacts::new(PartitionId(log), record, placement, droppable);
                    self.match_again(&stored, placement);
                }
            })?;
        }
        Ok(())
    }

    fn match_again(&mut self, stored: &StoredFacts<'_>, placement: &Placement) {
        for (core, posted) in (0..).map(CoreId).zip(self.posted) {
            posted.of_topic(stored.record.topic, &mut self.matched);
            let mut of_core = self.matched.chunk_by(|a, b| a.partition == b.partition).peekable();
            for own in placement.owned(core) {
                let index = placement.index_on_core(own);
                let of_it = of_core.next_if(|same| u32::from(same[0].partition) == index);
                let filters = of_it.into_iter().flatten().map(|posted| posted.filter);
                self.partitions[own.0 as usize].match_again(filters, &stored.facts(own.0));
            }
        }
    }
}

/// A publish, as each partition sees it.
struct StoredFacts<'a> {
    record: &'a Record<'a>,
    matched: MatchedRecord,
    /// Who keeps it, if it is to be retained.
    retained: Option<(PartitionId, RetainedBody<'a>)>,
}

impl<'a> StoredFacts<'a> {
    fn new(
        log: PartitionId,
        record: &'a Record<'a>,
        placement: &Placement,
        droppable: bool,
    ) -> Self {
        let head = record.head;
        let place = Place { partition: log.0, epoch: head.epoch, offset: head.offset.0 };
        let retained = head.flags.retain().then(|| {
            let body = RetainedBody {
                place,
                memory: head.flags.memory(),
                publisher: publisher_of(record, placement),
                accepted_ms: head.unix_ms,
                expiry_secs: expiry_of(record),
                qos: head.flags.qos(),
                properties: record.properties,
                payload: record.payload,
            };
            (placement.topic_partition(record.topic), body)
        });
        let bytes = RECORD_HEAD_BYTES + record.topic.len() + record.properties.len();
        let bytes = (bytes + record.payload.len()) as u64;
        let matched = MatchedRecord { place, memory: head.flags.memory(), bytes, droppable };
        Self { record, matched, retained }
    }

    fn facts(&self, partition: u32) -> PublishFacts<'_> {
        let flags = self.record.head.flags;
        let retained = self.retained.as_ref();
        let retained = retained.filter(|(owner, _)| owner.0 == partition).map(|(_, body)| body);
        PublishFacts { record: self.matched, topic: self.record.topic, qos: flags.qos(), retained }
    }
}

/// The keyed hash of a record's publisher; 0 for what the broker publishes itself.
pub(crate) fn publisher_of(record: &Record<'_>, placement: &Placement) -> u64 {
    match record.client_id {
        "" => 0,
        client_id => placement.client_hash(client_id),
    }
}

/// What one core takes over from before the start.
#[derive(Debug)]
pub(crate) struct CoreState {
    /// Of the partitions that it owns, in rising order.
    pub(crate) partitions: Vec<PartitionState>,
    /// Their checkpoints, in the same order.
    pub(crate) checkpoints: Vec<Checkpoints>,
    /// Their filters that records are posted for.
    pub(crate) posted: PostedFilters,
    /// What members of shared groups have of them, in the sessions of all cores.
    pub(crate) groups: Arc<GroupsAtStart>,
    /// The epoch of this run.
    pub(crate) epoch: u64,
}

impl NodeState {
    /// What each core takes over.
    pub(crate) fn split(self, placement: &Placement, epoch: u64) -> Vec<CoreState> {
        let Self { partitions: states, posted, ends } = self;
        let mut groups = GroupsAtStart::default();
        states.iter().for_each(|state| groups.add(state));
        let groups = Arc::new(groups);
        let core = |posted| CoreState {
            partitions: Vec::new(),
            posted,
            checkpoints: Vec::new(),
            groups: Arc::clone(&groups),
            epoch,
        };
        let mut cores: Vec<CoreState> = posted.into_iter().map(core).collect();
        for ((partition, mut state), end) in (0..).map(PartitionId).zip(states).zip(ends) {
            state.note_epoch(epoch, end.0);
            cores[placement.owner(partition).index()].partitions.push(state);
        }
        cores
    }
}

#[cfg(test)]
mod tests {
    use super::super::postings::PostingRange;
    use super::super::records::{FilterPostings, SubscriptionOptions, WillBody};
    use super::*;
    use ringlane_dataplane::log::record::{EXPIRY_NONE, RecordFlags, RecordHead};

    fn record(kind: RecordKind, packet_id: u16, payload: &[u8]) -> Record<'_> {
        let head = RecordHead {
            offset: Offset(0),
            unix_ms: 1,
            epoch: 1,
            kind,
            flags: RecordFlags(if kind == RecordKind::PUBLISH { 2 } else { 0 }),
            packet_id,
            expiry_secs: EXPIRY_NONE,
        };
        Record { head, client_id: "c", topic: "", properties: &[], payload }
    }

    #[test]
    fn the_beginning_of_an_epoch_says_nothing_of_sessions() {
        let mut recovery = Recovery::new(1);
        recovery.on_record(&record(RecordKind::EPOCH_START, 0, &[]));
        assert!(!recovery.has_failed());
        recovery.on_record(&record(RecordKind(65), 0, &[]));
        assert!(recovery.has_failed(), "a kind of a later release");
    }

    fn on_state(recovery: &mut Recovery, state: &StateRecord<'_>) {
        let mut body = Vec::new();
        state.encode(&mut body);
        let (client_id, topic) = (state.client_id(), state.topic());
        let record = record(RecordKind(state.kind() as u8), 0, &body);
        recovery.on_record(&Record { client_id, topic, ..record });
    }

    /// A follower applies for as long as it runs: what everybody has goes.
    #[test]
    fn postings_that_nobody_is_owed_are_swept() {
        let mut recovery = Recovery::new(1);
        let (client_id, filter) = ("c", "t");
        let open = StateRecord::SessionOpen { client_id, clean: true, expiry_secs: 9, will: None };
        on_state(&mut recovery, &open);
        let options =
            SubscriptionOptions { qos: 1, no_local: false, retain_as_published: false, id: 0 };
        let since = recovery.state.next_posting();
        on_state(&mut recovery, &StateRecord::Subscribe { client_id, filter, options, since });
        // Every other record, so that they do not lie one behind the other.
        for number in 0..100 {
            let place = Place { partition: 0, epoch: 1, offset: number * 2 };
            let (first, next) = (since + number, since + number + 1);
            let range = PostingRange { place, first, count: 1, bytes: 9, droppable: false };
            let filters = vec![FilterPostings { filter, ranges: vec![range] }];
            on_state(&mut recovery, &StateRecord::Postings { next, cursors: vec![], filters });
        }
        let ranges = |recovery: &Recovery| {
            let number = recovery.state.find_filter(filter).expect("it is held");
            recovery.state.filter(number).expect("it is held").postings.range_count()
        };
        recovery.sweep();
        assert_eq!(ranges(&recovery), 100, "nothing was acknowledged");
        let positions = vec![(client_id, since + 90)];
        on_state(&mut recovery, &StateRecord::Positions { positions });
        recovery.sweep();
        assert_eq!(ranges(&recovery), 10);
        assert!(!recovery.has_failed());
    }

    #[test]
    fn a_will_is_no_received_identifier() {
        let open =
            StateRecord::SessionOpen { client_id: "c", clean: true, expiry_secs: 9, will: None };
        let mut body = Vec::new();
        open.encode(&mut body);
        let mut recovery = Recovery::new(1);
        recovery.on_record(&record(RecordKind(open.kind() as u8), 0, &body));
        for packet_id in [0, 7] {
            recovery.on_record(&record(RecordKind::PUBLISH, packet_id, b"x"));
        }
        let state = recovery.finish().expect("good records");
        let session = state.find("c").and_then(|slot| state.session(slot)).expect("a session");
        assert_eq!(session.incoming(), [7]);
    }

    /// The log may end behind it, before the record that says the same.
    #[test]
    fn a_will_that_was_published_is_not_there_any_more() {
        let will = WillBody {
            topic: "t",
            payload: b"gone",
            properties: &[],
            qos: 1,
            retain: false,
            delay_secs: 0,
            message_expiry_secs: None,
        };
        let (client_id, expiry_secs) = ("c", 9);
        let will = Some(will);
        let open = StateRecord::SessionOpen { client_id, clean: true, expiry_secs, will };
        let mut body = Vec::new();
        open.encode(&mut body);
        let has_will = |flags: RecordFlags| {
            let mut recovery = Recovery::new(1);
            recovery.on_record(&record(RecordKind(open.kind() as u8), 0, &body));
            let mut publish = record(RecordKind::PUBLISH, 0, b"gone");
            publish.head.flags = flags;
            recovery.on_record(&publish);
            let state = recovery.finish().expect("good records");
            let session = state.find("c").and_then(|slot| state.session(slot));
            session.is_some_and(|session| session.will.is_some())
        };
        assert!(has_will(RecordFlags::new(1, false)), "another message of the client");
        assert!(!has_will(RecordFlags::new(1, false).with_will()));
    }
}
