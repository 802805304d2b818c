//! The durable state while the broker runs: every change is appended to the log of its partition and
//! applied; and what was matched is appended before it.

use super::catch_up::{CatchUps, Window};
use super::checkpointing::Checkpoints;
use super::model::{MatchedRecord, PartitionState};
use super::overdue::Overdue;
use super::postings::Place;
use super::records::{Cursor, StateRecord};
use super::sweep::Sweep;
use super::trimming::{Needs, Trimming};
use super::waits::Wait;
use crate::config::{Config, WhenFull};
use crate::delivery::{PostedAs, View};
use crate::mail::{FetchBy, LogMark};
use crate::service::{AckToken, Broker, Turn};
use crate::session::{SessionId, SessionStore};
use hashbrown::HashMap;
use ringlane_dataplane::batch::{BatchPool, Level};
use ringlane_dataplane::ids::{ConnectionId, CoreId, PartitionId};
use ringlane_dataplane::log::record::{RECORD_HEAD_BYTES, RecordKind};
use ringlane_dataplane::partition::{Partition, StateParts};
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::QoS;
use std::collections::VecDeque;

/// One partition of this core.
#[derive(Debug)]
pub(crate) struct DurablePartition {
    pub(crate) state: PartitionState,
    /// Who waits for the log to be flushed up to an offset, in the order of offsets.
    pub(super) waits: VecDeque<(u64, Wait)>,
    /// Sessions whose position may have changed, in the order in which they did.
    pub(super) moved: VecDeque<SessionId>,
    pub(super) sweep: Sweep,
    pub(super) needs: Needs,
    pub(super) checkpoints: Checkpoints,
    /// What the log had no room for.
    pub(super) overdue: Overdue,
    /// When positions were recorded although the disk was full.
    pub(super) upkept_at: Nanos,
}

impl DurablePartition {
    fn new(state: PartitionState) -> Self {
        Self {
            state,
            waits: VecDeque::new(),
            moved: VecDeque::new(),
            sweep: Sweep::default(),
            needs: Needs::default(),
            checkpoints: Checkpoints::new(Vec::new(), Vec::new(), None),
            overdue: Overdue::default(),
            upkept_at: Nanos(0),
        }
    }
}

/// The durable state of the partitions of one core, as they stand in its table.
#[derive(Debug)]
pub(crate) struct Durable {
    pub(crate) partitions: Vec<DurablePartition>,
    /// The epoch of everything that is appended in this run, on every core.
    pub(super) epoch: u64,
    body: Vec<u8>,
    /// Connections whose CONNACK waits for their session's record.
    pub(super) openings: HashMap<SessionId, ConnectionId>,
    pub(super) upkeep_armed: bool,
    /// What each core was told last of this one's logs.
    pub(super) told: Vec<Vec<LogMark>>,
    pub(super) trimming: Trimming,
    /// The partition that is walked over, and behind it those that still are to be.
    pub(super) walk: Option<usize>,
    /// Whether the timer of the checkpoint in the making is armed.
    pub(super) checkpoints_armed: bool,
    /// When the last checkpoint of this core was made.
    pub(super) checkpointed_at: Nanos,
    /// Partitions that have had their last checkpoint, at the end.
    pub(super) ended: usize,
    pub(super) catch_ups: CatchUps,
    /// What all records that were posted in this run take in their logs, in bytes, once for each
    /// partition that posted them: no backlog grows faster.
    posted_bytes: u64,
    /// By the slots of sessions: before so much is posted, the session's backlog is below its
    /// bound. Those of an earlier session in a slot come too early, which does no harm.
    backlog_looks: Vec<u64>,
}

impl Durable {
    /// For the partitions that a core of `cores` owns.
    pub(crate) fn new(
        states: Vec<PartitionState>,
        config: &Config,
        partitions: u32,
        epoch: u64,
        cores: u16,
    ) -> Self {
        Self {
            trimming: Trimming::new(config, states.len(), partitions),
            partitions: states.into_iter().map(DurablePartition::new).collect(),
            walk: None,
            epoch,
            body: Vec::new(),
            openings: HashMap::new(),
            upkeep_armed: false,
            told: vec![Vec::new(); usize::from(cores)],
            checkpoints_armed: false,
            checkpointed_at: Nanos(0),
            ended: 0,
            catch_ups: CatchUps::new(),
            posted_bytes: 0,
            backlog_looks: Vec::new(),
        }
    }

    /// The epoch of everything that is appended in this run, on every core.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What all records that were posted in this run take, in bytes.
    pub(crate) fn posted_bytes(&self) -> u64 {
        self.posted_bytes
    }

    /// A number for a request that was not used before.
    pub(crate) fn fresh_request(&mut self) -> u64 {
        self.catch_ups.fresh_request()
    }

    /// Nobody waits for what a window has asked for: its owners are told at the end of the turn.
    pub(crate) fn take_back(&mut self, window: Window, by: FetchBy) {
        self.catch_ups.unwanted.extend(window.take_back(by));
    }

    /// Whether a session's backlog may have come to its bound since it was looked at.
    pub(crate) fn backlog_is_due(&self, session: SessionId) -> bool {
        let look = self.backlog_looks.get(session.slot as usize);
        look.is_none_or(|look| *look <= self.posted_bytes)
    }

    /// A session's backlog has room for so many bytes.
    pub(crate) fn set_backlog_room(&mut self, session: SessionId, bytes: u64) {
        let slot = session.slot as usize;
        if self.backlog_looks.len() <= slot {
            self.backlog_looks.resize(slot + 1, 0);
        }
        self.backlog_looks[slot] = self.posted_bytes + bytes;
    }

    /// Appends what was matched since the last time, if anything was, and before it the retained messages
    /// that had to wait.
    pub(super) fn append_matched(&mut self, index: usize, log: &mut Log<'_>) {
        let Self { partitions, body, .. } = self;
        let DurablePartition { state, overdue, .. } = &mut partitions[index];
        for copy in overdue.take_retained() {
            state.note_retained(copy.place, copy.memory);
            log.append(body, &copy.record());
        }
        for record in state.unlogged(POSTINGS_BYTES) {
            log.append(body, &record);
        }
        state.set_logged();
    }

    /// Appends a record behind what was matched, and applies it. A retained message goes before
    /// what was matched, which may include it: a crash between the two must find it again.
    pub(super) fn append(&mut self, index: usize, log: &mut Log<'_>, record: &StateRecord<'_>) {
        if let StateRecord::Retained { retained, .. } = record {
            // It has a store of its own while the broker runs.
            self.partitions[index].state.note_retained(retained.place, retained.memory);
            return log.append(&mut self.body, record);
        }
        self.append_matched(index, log);
        log.append(&mut self.body, record);
        self.partitions[index].sweep.note(record);
        self.partitions[index].state.apply(record);
    }
}

/// Bytes of one record of postings, about.
const POSTINGS_BYTES: usize = 48 * 1024;
/// Postings that are not in the log, at most; then they are appended at once. What a crash leaves
/// to be matched again is bounded by the time between two upkeeps besides.
const UNLOGGED_MAX: u64 = 16 * 1024;

/// The log that a partition's records go to.
pub(super) struct Log<'a> {
    pub(super) partition: &'a mut Partition<AckToken>,
    pub(super) batches: &'a mut BatchPool,
    pub(super) unix_ms: u64,
}

impl Log<'_> {
    fn append(&mut self, body: &mut Vec<u8>, record: &StateRecord<'_>) {
        body.clear();
        record.encode(body);
        let state = StateParts {
            kind: RecordKind(record.kind() as u8),
            client_id: record.client_id(),
            topic: record.topic(),
            body,
            unix_ms: self.unix_ms,
        };
        self.partition.append_state(self.batches, &state, None);
    }
}

impl Broker {
    /// Where a partition of this core stands, if what it holds is durable.
    pub(crate) fn durable_index(&self, partition: PartitionId) -> Option<usize> {
        let durable = self.durable.as_ref()?;
        let index = self.partition_index(partition);
        (index < durable.partitions.len()).then_some(index)
    }

    /// The state of a partition as its log has it, if it has one.
    pub(crate) fn durable_state(&self, partition: PartitionId) -> Option<&PartitionState> {
        let index = self.durable_index(partition)?;
        Some(&self.durable.as_ref()?.partitions[index].state)
    }

    /// Where the log of a session is, if it has one and is in it.
    pub(super) fn recorded_index(&self, id: SessionId) -> Option<usize> {
        let session = self.sessions.get(id).filter(|session| session.recorded)?;
        self.durable_index(session.partition)
    }

    /// The durable state of this core, the log of one of its partitions, and the sessions.
    fn log(&mut self, now: Nanos, index: usize) -> Option<(&mut Durable, Log<'_>, &SessionStore)> {
        let unix_ms = self.unix_ms(now);
        let Self { durable, partitions, batches, sessions, .. } = self;
        let log = Log { partition: &mut partitions[index], batches, unix_ms };
        Some((durable.as_mut()?, log, sessions))
    }

    /// Appends a record that names no session.
    pub(crate) fn record(&mut self, turn: &Turn<'_>, index: usize, record: &StateRecord<'_>) {
        let Some((durable, mut log, _)) = self.log(turn.now, index) else { return };
        durable.append(index, &mut log, record);
    }

    /// Appends a record of a session that its log knows, and puts the client identifier in. Where
    /// its partition stands, or `None` if nothing was appended.
    pub(crate) fn record_of(
        &mut self,
        turn: &Turn<'_>,
        id: SessionId,
        record: StateRecord<'_>,
    ) -> Option<usize> {
        let index = self.recorded_index(id)?;
        let (durable, mut log, sessions) = self.log(turn.now, index)?;
        let session = sessions.get(id)?;
        durable.append(index, &mut log, &record.of(session.client_id.as_str()));
        Some(index)
    }

    /// Somebody waits until everything that was appended to a log so far is flushed.
    pub(super) fn wait_flushed(&mut self, index: usize, wait: Wait) {
        let end = self.partitions[index].next_offset().0;
        if let Some(durable) = &mut self.durable {
            durable.partitions[index].waits.push_back((end, wait));
        }
    }

    /// Gives the record in hand a posting number in each partition with a durable session that it
    /// is for. They stay in the scratch for its deliveries.
    pub(crate) fn post(&mut self, view: &View<'_>) {
        let Self { scratch, durable, streams, .. } = self;
        scratch.postings.clear();
        let (Some(durable), Some(record)) = (durable, view.record) else { return };
        if scratch.posted.is_empty() || view.qos == QoS::AtMostOnce {
            return;
        }
        let (partition, offset) = (record.partition.0, record.offset.0);
        let place = Place { partition, epoch: durable.epoch, offset };
        let bytes = RECORD_HEAD_BYTES + view.topic.len() + view.properties.len();
        let matched = MatchedRecord {
            place,
            memory: record.level == Level::Memory,
            bytes: (bytes + view.payload.len()) as u64,
            droppable: streams.of(view.topic).when_full == WhenFull::DropOldest,
        };
        for same in scratch.posted.chunk_by(|a, b| a.partition == b.partition) {
            let partition = same[0].partition;
            let state = &mut durable.partitions[usize::from(partition)].state;
            durable.posted_bytes += matched.bytes;
            let posting = state.post(matched, same.iter().map(|posted| posted.filter));
            scratch.postings.push(PostedAs { partition, posting });
        }
    }

    /// Records are posted for a filter as long as somebody subscribes durably.
    pub(crate) fn sync_posted(&mut self, index: usize, filter: &str) {
        let Some(durable) = &self.durable else { return };
        let number = durable.partitions[index].state.posted_number(filter);
        self.routes.set_posted(filter, index as u16, number);
    }

    /// Appends what a partition has matched.
    pub(super) fn append_matched(&mut self, turn: &Turn<'_>, index: usize) {
        let Some((durable, mut log, _)) = self.log(turn.now, index) else { return };
        durable.append_matched(index, &mut log);
    }

    /// End of turn: too much to be matched again after a crash goes to the log, unless that is full.
    pub(crate) fn bound_unlogged(&mut self, turn: &Turn<'_>) {
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        for index in 0..partitions {
            let own = self.durable.as_ref().map(|durable| &durable.partitions[index].state);
            let is_many = own.is_some_and(|state| state.unlogged_count() >= UNLOGGED_MAX);
            if is_many && self.takes_state(index) {
                self.append_matched(turn, index);
            }
        }
    }

    /// Up to where the partitions of this core are committed and told to another core; nothing of
    /// those that the core lags behind in, nor of those that this node does not lead any more: a partition that it
    /// still leads must not say that their uncommitted ends were matched.
    pub(crate) fn log_marks(&self, to: CoreId) -> Vec<LogMark> {
        let Some(durable) = &self.durable else { return Vec::new() };
        let owned = self.partitions.iter().take(durable.partitions.len());
        let told = owned.filter(|log| !log.is_abandoned() && !log.cursors().is_lagging(to));
        let mark = |log: &Partition<AckToken>| LogMark {
            partition: log.id(),
            memory: log.committed(Level::Memory),
            disk: log.committed(Level::LocalDisk),
        };
        told.map(mark).collect()
    }

    /// What another core, or this one, has told so far is all that there is below its marks.
    pub(crate) fn on_log_marks(&mut self, marks: &[LogMark]) {
        let Some(durable) = &mut self.durable else { return };
        let epoch = durable.epoch;
        for LogMark { partition, memory, disk } in marks {
            for (memory, mark) in [(true, memory), (false, disk)] {
                let cursor = Cursor { partition: partition.0, memory, epoch, next: mark.0 };
                for own in &mut durable.partitions {
                    own.state.advance(cursor);
                }
            }
        }
    }

    /// What this core's own partitions have committed was matched.
    pub(crate) fn advance_own_cursors(&mut self) {
        let marks = self.log_marks(self.core);
        self.on_log_marks(&marks);
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::RetainedBody;
    use super::*;
    use ringlane_dataplane::message::MessageMeter;

    #[test]
    fn a_retained_message_goes_before_the_cursor_behind_it() {
        let states = vec![PartitionState::new(1)];
        let mut durable = Durable::new(states, &Config::default(), 1, 1, 1);
        let cursor = Cursor { partition: 0, memory: false, epoch: 1, next: 8 };
        durable.partitions[0].state.advance(cursor);
        let mut partition = Partition::new(PartitionId(0));
        let mut batches = BatchPool::new(MessageMeter::leaked());
        let mut log = Log { partition: &mut partition, batches: &mut batches, unix_ms: 1 };
        let retained = RetainedBody {
            place: Place { partition: 0, epoch: 1, offset: 7 },
            memory: false,
            publisher: 1,
            accepted_ms: 1,
            expiry_secs: None,
            qos: 1,
            properties: &[],
            payload: b"x",
        };
        durable.append(0, &mut log, &StateRecord::Retained { topic: "t", retained });
        durable.append(0, &mut log, &StateRecord::WillGone { client_id: "c" });
        let mut batch = partition.take_committed().expect("records");
        let mut topics = Vec::new();
        while let Some(at) = batch.next_committed() {
            topics.push(batch.message(at).topic().to_owned());
        }
        assert_eq!(topics, ["t", "", ""], "retained, cursors, and what needs them");
    }
}
