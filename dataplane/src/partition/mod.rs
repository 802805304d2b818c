//! A partition: the log of the publishes of the clients that hash to it.
//!
//! A message is *appended* and gets an offset; it becomes *committed*; and that single event
//! causes both its acknowledgement and its fan-out. When depends on the record's [`Promise`]:
//! what is to be in memory is committed in the turn that accepted it, what is to be on the disk
//! when the writer ([`crate::log::writer`]) has flushed it, and what a majority of the replicas is
//! to have when it has that; where there are replicas, so is what was promised of this node alone while
//! its lease does not count. Within a level commitment follows the order of offsets: a record waits
//! for the one before it, also where that was promised more. Messages are accepted into batches ([`crate::batch`]), and committed ones are kept
//! only while some destination core's fan-out cursor ([`Cursors`]) has not passed them.
//!
//! A partition without a log is possible: then everything is committed as in memory.

mod cursors;
mod replicated;

use crate::batch::{Batch, BatchPool, Entry, Level, Logged, MessageRef, Parts, Promise};
use crate::disk::{Disk, DiskEvent};
use crate::ids::{Offset, PartitionId};
use crate::log::format;
use crate::log::record::RecordKind;
use crate::log::room::Claim;
use crate::log::writer::{Admission, Flushed, Writer};
use crate::message::MessageHead;
use crate::planted::{self, Bug};
use crate::routing::CoreSet;
use crate::time::Nanos;
use std::collections::VecDeque;
use triomphe::Arc;

pub use cursors::Cursors;

/// The body of a record that begins an epoch (docs/formats/state.md).
const EPOCH_START_VERSION: u8 = 1;
/// Lists of acknowledgements that a partition keeps for reuse.
const SPARE_ACKS_MAX: usize = 8;

/// A record of the state of sessions, on its way into the log.
#[derive(Clone, Copy, Debug)]
pub struct StateParts<'a> {
    /// What it says.
    pub kind: RecordKind,
    /// Whose state.
    pub client_id: &'a str,
    /// A topic filter, where there is one.
    pub topic: &'a str,
    /// The body of that kind.
    pub body: &'a [u8],
    /// The broker's time, in milliseconds since 1970.
    pub unix_ms: u64,
}

/// Records that were accepted one behind the other and now become committed: those that
/// [`AcceptedBatch::next_committed`] names, each by [`Partition::commit`] if it is a publish.
#[derive(Debug)]
pub struct AcceptedBatch<A> {
    first: u64,
    batch: Arc<Batch>,
    acks: Vec<Option<A>>,
    /// Whether there are records of both levels.
    is_mixed: bool,
    /// The records that become committed now.
    level: Level,
    /// Where [`AcceptedBatch::next_committed`] goes on.
    at: u32,
}

impl<A> AcceptedBatch<A> {
    fn end(&self) -> u64 {
        self.first + self.acks.len() as u64
    }

    /// Whether what is to be in memory is there, of a majority where that was promised or all must be.
    fn is_accepted(&self, quorum_accepted: u64, counts_alone: bool) -> bool {
        let needs_quorum = !counts_alone || self.batch.needs_quorum(Level::Memory);
        self.end() <= quorum_accepted || !needs_quorum
    }

    /// The level of the records that become committed now.
    #[must_use]
    pub fn level_now(&self) -> Level {
        self.level
    }

    /// The next record that becomes committed now.
    pub fn next_committed(&mut self) -> Option<u32> {
        let records = self.acks.len() as u32;
        if self.is_mixed {
            while self.at < records && self.batch.level(self.at) != self.level {
                self.at += 1;
            }
        }
        let index = (self.at < records).then_some(self.at)?;
        self.at += 1;
        Some(index)
    }

    /// Where a record lies.
    #[must_use]
    pub fn offset(&self, index: u32) -> Offset {
        Offset(self.first + u64::from(index))
    }

    /// Whether a record is a publish; what is not is a record of state, and only its
    /// acknowledgement is due.
    #[must_use]
    pub fn is_publish(&self, index: u32) -> bool {
        self.batch.kind(index) == RecordKind::PUBLISH
    }

    /// A message.
    #[must_use]
    pub fn message(&self, index: u32) -> MessageRef<'_> {
        MessageRef::InBatch(&self.batch, index)
    }

    /// What waits for a record, given back exactly once.
    pub fn take_ack(&mut self, index: u32) -> Option<A> {
        self.acks.get_mut(index as usize)?.take()
    }
}

/// The marks of a partition, all exclusive: `high_watermark <= flushed <= submitted <= accepted`
/// and `high_watermark <= quorum_accepted <= accepted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// The first offset that is still kept in the log.
    pub start: Offset,
    /// Up to here records are durable on this node and, where the log is replicated, on a majority
    /// of the replicas: nothing below is ever cut off again, and only that is read again.
    pub high_watermark: Offset,
    /// Up to here records are in the logs of a majority of the replicas. Without replicas: accepted.
    pub quorum_accepted: Offset,
    /// Up to here records are durable on this node. Without a log: accepted.
    pub flushed: Offset,
    /// Up to here records have been handed to the disk.
    pub submitted: Offset,
    /// Up to here records are in memory: the offset that the next append gets.
    pub accepted: Offset,
}

/// The log of one partition. `A` is what somebody waits with for a record.
#[derive(Debug)]
pub struct Partition<A> {
    id: PartitionId,
    accepted: u64,
    /// Behind the last publish that was accepted.
    published: u64,
    /// Next offsets to be committed, of [`Level::Memory`] and [`Level::LocalDisk`].
    committed: [u64; 2],
    /// The first record of a batch that was taken out and not given back.
    taken: Option<u64>,
    /// Full or sealed, with records in memory that are not committed yet, or behind such.
    sealed: VecDeque<AcceptedBatch<A>>,
    /// Older than those: with records that have to be flushed.
    waiting: VecDeque<AcceptedBatch<A>>,
    open: Option<Arc<Batch>>,
    open_acks: Vec<Option<A>>,
    spare_acks: Vec<Vec<Option<A>>>,
    cursors: Cursors,
    writer: Option<Box<Writer>>,
    /// Whether this node may commit what it alone has, although there are replicas.
    has_lease: bool,
    /// This node led it and does not any more, or has not yet.
    is_abandoned: bool,
}

impl<A> Partition<A> {
    /// An empty partition without a log.
    #[must_use]
    pub fn new(id: PartitionId) -> Self {
        Self {
            id,
            accepted: 0,
            published: 0,
            committed: [0; 2],
            taken: None,
            sealed: VecDeque::new(),
            waiting: VecDeque::new(),
            open: None,
            open_acks: Vec::new(),
            spare_acks: Vec::new(),
            cursors: Cursors::default(),
            writer: None,
            has_lease: false,
            is_abandoned: false,
        }
    }

    /// A partition that goes on where its log ends.
    #[must_use]
    pub fn with_log(id: PartitionId, writer: Writer) -> Self {
        let next = writer.marks().accepted.0;
        let writer = Some(Box::new(writer));
        let committed = [next; 2];
        Self { accepted: next, published: next, committed, writer, ..Self::new(id) }
    }

    /// The partition's number.
    #[must_use]
    pub fn id(&self) -> PartitionId {
        self.id
    }

    /// The offset that the next append gets.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        Offset(self.accepted)
    }

    /// The marks.
    #[must_use]
    pub fn marks(&self) -> Marks {
        let accepted = Offset(self.accepted);
        match &self.writer {
            Some(writer) => {
                let marks = writer.marks();
                let is_replicated = writer.quorum().is_some();
                let quorum_accepted = if is_replicated { marks.quorum_accepted } else { accepted };
                Marks { accepted, quorum_accepted, ..marks }
            }
            None => Marks {
                start: accepted,
                high_watermark: accepted,
                quorum_accepted: accepted,
                flushed: accepted,
                submitted: accepted,
                accepted,
            },
        }
    }

    /// Up to here every publish of a level is committed. It goes on although the level is not used:
    /// as far as there are publishes, and of [`Level::LocalDisk`] as far as they are flushed.
    #[must_use]
    pub fn committed(&self, level: Level) -> Offset {
        let open = self.open.iter().map(|batch| (self.accepted - batch.len() as u64, batch));
        let sealed = self.sealed.iter().map(|accepted| (accepted.first, &accepted.batch));
        let first = match level {
            Level::Memory => {
                let mut queued = sealed.chain(open);
                queued.find(|(_, batch)| batch.memory_records() > 0).map(|(first, _)| first)
            }
            Level::LocalDisk => {
                let waiting = self.waiting.front().map(|accepted| accepted.first);
                let queued = sealed.chain(open).map(|(first, _)| first).next();
                let flushed = self.marks().flushed.0;
                waiting.into_iter().chain(queued).chain([flushed]).min()
            }
        };
        let before = first.into_iter().chain(self.taken).fold(self.published, u64::min);
        Offset(before.max(self.committed[level as usize]))
    }

    /// Behind the last publish that was accepted; what follows are records of state.
    #[must_use]
    pub fn published(&self) -> Offset {
        Offset(self.published)
    }

    /// The log, if there is one.
    #[must_use]
    pub fn log(&self) -> Option<&Writer> {
        self.writer.as_deref()
    }

    /// The log, if there is one.
    pub fn log_mut(&mut self) -> Option<&mut Writer> {
        self.writer.as_deref_mut()
    }

    /// Whether a publish is taken now. What is appended without asking is bounded by nothing.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admits(Claim::Publish)
    }

    /// Whether a record of state is taken now: for longer than a publish is, so that what sessions
    /// are owed can be delivered while publishers wait for room.
    #[must_use]
    pub fn state_admission(&self) -> Admission {
        self.admits(Claim::State(0))
    }

    /// Whether there is room for a record in the log.
    #[must_use]
    pub fn admits(&self, claim: Claim) -> Admission {
        let open =
            self.open.as_ref().map_or(0, |open| format::batch_bytes(open.body().len() as u32));
        self.writer.as_ref().map_or(Admission::Open, |writer| writer.admission(claim, open))
    }

    /// The fan-out cursors.
    #[must_use]
    pub fn cursors(&self) -> &Cursors {
        &self.cursors
    }

    /// The fan-out cursors.
    pub fn cursors_mut(&mut self) -> &mut Cursors {
        &mut self.cursors
    }

    /// Copies a message into the batch that is open, the only copy on its way in. Nobody hears of
    /// it before it is committed, which a partition without a log does as at [`Level::Memory`].
    /// What a log that has ended could not flush is not kept, nor what comes behind [`Partition::abandon`].
    ///
    /// # Panics
    /// If the record is larger than the writer was told that records become.
    pub fn append(
        &mut self,
        pool: &mut BatchPool,
        parts: &Parts<'_>,
        promise: impl Into<Promise>,
        ack: Option<A>,
    ) -> Offset {
        self.accept(pool, parts, (RecordKind::PUBLISH, false), promise.into(), ack)
    }

    /// As [`Partition::append`], for the will of the client that `parts` names: who recovers knows
    /// by the one record that it was published and is not to be published again.
    ///
    /// # Panics
    /// As [`Partition::append`].
    pub fn append_will(
        &mut self,
        pool: &mut BatchPool,
        parts: &Parts<'_>,
        promise: impl Into<Promise>,
    ) -> Offset {
        self.accept(pool, parts, (RecordKind::PUBLISH, true), promise.into(), None)
    }

    /// As [`Partition::append`], for a record of state: committed when it is flushed, on a majority
    /// of the replicas where there are several.
    ///
    /// # Panics
    /// If its kind is none of a state record, or as [`Partition::append`].
    pub fn append_state(
        &mut self,
        pool: &mut BatchPool,
        state: &StateParts<'_>,
        ack: Option<A>,
    ) -> Offset {
        assert!(state.kind.is_state(), "a publish is appended as one");
        let StateParts { kind, client_id, topic, body: payload, unix_ms } = *state;
        let client_id = client_id.as_bytes();
        let (head, properties, packet_id) = (MessageHead::of_state(), &[][..], 0);
        let parts = Parts { head, client_id, packet_id, unix_ms, topic, properties, payload };
        let quorum = self.writer.as_ref().is_some_and(|writer| writer.quorum().is_some());
        let promise = Promise { level: Level::LocalDisk, quorum };
        self.accept(pool, &parts, (kind, false), promise, ack)
    }

    fn accept(
        &mut self,
        pool: &mut BatchPool,
        parts: &Parts<'_>,
        (kind, is_will): (RecordKind, bool),
        promise: Promise,
        ack: Option<A>,
    ) -> Offset {
        let offset = Offset(self.accepted);
        let Promise { level, quorum } = promise;
        if self.is_abandoned || (level == Level::LocalDisk && self.has_failed()) {
            self.pass_over();
            return offset;
        }
        let entry = match &self.writer {
            Some(writer) => {
                assert!(!quorum || writer.quorum().is_some(), "nobody else counts a majority");
                let logged = Logged { offset, epoch: writer.epoch() };
                Entry { kind, promise, is_will, logged: Some(logged) }
            }
            None => Entry { kind, promise: Level::Memory.into(), is_will, logged: None },
        };
        if let Some(full) = pool.fill(&mut self.open, parts, &entry) {
            self.close(full);
        }
        self.open_acks.push(ack);
        self.accepted += 1;
        if kind == RecordKind::PUBLISH {
            self.published = self.accepted;
        }
        offset
    }

    /// Takes records that the leader of this partition has made, checked and sealed, of that epoch. Nobody
    /// here waits for them, and none is told to sessions.
    ///
    /// # Panics
    /// If there is no log, or something of this node is in the way, or the epoch goes back.
    pub fn append_records(&mut self, batch: Arc<Batch>, epoch: u64) {
        let is_idle = self.open.is_none() && self.sealed.is_empty() && self.waiting.is_empty();
        assert!(is_idle && self.taken.is_none(), "a follower appends nothing of its own");
        let first = Offset(self.accepted);
        self.accepted += batch.len() as u64;
        (self.published, self.committed) = (self.accepted, [self.accepted; 2]);
        let writer = self.writer.as_mut().expect("only a log has followers");
        writer.push_records(batch, first, epoch);
    }

    /// What is appended from now on is of this epoch, and the first record says that it begins; it is committed
    /// as a record of state is.
    ///
    /// # Panics
    /// If there is no log, or the epoch goes back.
    pub fn begin_epoch(&mut self, pool: &mut BatchPool, epoch: u64, unix_ms: u64) -> Offset {
        self.close_open();
        self.is_abandoned = false;
        self.writer.as_mut().expect("only a log has epochs").begin_epoch(epoch);
        let kind = RecordKind::EPOCH_START;
        let (client_id, topic, body) = ("", "", &[EPOCH_START_VERSION][..]);
        self.append_state(pool, &StateParts { kind, client_id, topic, body, unix_ms }, None)
    }

    fn has_failed(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.fault().is_some())
    }

    /// Gives the next offset to a record that a log which has ended would never flush, or that comes behind others
    /// which a deposed leader has let go of: nothing of it is kept, and nobody is answered.
    fn pass_over(&mut self) {
        self.close_open();
        self.accepted += 1;
    }

    fn close_open(&mut self) {
        if let Some(batch) = self.open.take() {
            self.close(batch);
        }
    }

    fn close(&mut self, mut batch: Arc<Batch>) {
        let spare = self.spare_acks.pop().unwrap_or_default();
        let acks = core::mem::replace(&mut self.open_acks, spare);
        let first = self.accepted - acks.len() as u64;
        assert_eq!(batch.len(), acks.len(), "each record has its place for who waits");
        if let Some(writer) = &mut self.writer {
            Arc::get_mut(&mut batch).expect("nobody reads what is open").seal(writer.seed());
            writer.push(batch.clone(), Offset(first));
        }
        let memory = batch.memory_records() as usize;
        let is_mixed = memory != 0 && memory != acks.len();
        let (level, at) = (Level::Memory, 0);
        self.sealed.push_back(AcceptedBatch { first, batch, acks, is_mixed, level, at });
    }

    /// Takes out the next records that may be committed, to be given back by
    /// [`Partition::finish`] before the next are taken. Of a log that has ended also what waits in
    /// vain: none of it is committed.
    pub fn take_committed(&mut self) -> Option<AcceptedBatch<A>> {
        let batch = self.take_next();
        self.taken = batch.as_ref().map(|batch| batch.first);
        batch
    }

    fn take_next(&mut self) -> Option<AcceptedBatch<A>> {
        if self.has_flushed() {
            let mut batch = self.waiting.pop_front()?;
            (batch.level, batch.at) = (Level::LocalDisk, 0);
            return Some(batch);
        }
        if self.has_open_memory() {
            self.close_open();
        }
        self.pass_to_waiting();
        let (accepted, counts_alone) = (self.quorum_accepted(), self.counts_alone());
        let next = self.sealed.pop_front_if(|batch| batch.is_accepted(accepted, counts_alone));
        next.or_else(|| self.take_in_vain())
    }

    /// What waits for a log that has ended, with nobody to be told any more.
    fn take_in_vain(&mut self) -> Option<AcceptedBatch<A>> {
        let mut batch = if self.waits_in_vain() { self.waiting.pop_front()? } else { return None };
        batch.level = Level::LocalDisk;
        batch.acks.clear();
        Some(batch)
    }

    fn quorum_accepted(&self) -> u64 {
        self.writer.as_ref().map_or(u64::MAX, |writer| writer.marks().quorum_accepted.0)
    }

    fn has_flushed(&self) -> bool {
        self.waiting.front().is_some_and(|batch| batch.end() <= self.durable_for(&batch.batch))
    }

    /// Up to where records are durable as was promised of those of a batch.
    fn durable_for(&self, batch: &Batch) -> u64 {
        let Some(writer) = &self.writer else { return 0 };
        let marks = writer.marks();
        let is_early = planted::is(Bug::PostingEarly);
        let is_alone = self.counts_alone() && !batch.needs_quorum(Level::LocalDisk);
        let needs_quorum = !is_alone && !is_early;
        if needs_quorum { marks.high_watermark.0 } else { marks.flushed.0 }
    }

    fn waits_in_vain(&self) -> bool {
        !self.waiting.is_empty() && self.has_failed()
    }

    fn has_open_memory(&self) -> bool {
        self.open.as_ref().is_some_and(|batch| batch.memory_records() > 0)
    }

    /// Sealed batches in front that have nothing to be committed before they are flushed.
    fn pass_to_waiting(&mut self) {
        while let Some(batch) = self.sealed.pop_front_if(|b| b.batch.memory_records() == 0) {
            self.wait(batch);
        }
    }

    fn wait(&mut self, batch: AcceptedBatch<A>) {
        let before = self.waiting.back().map_or(batch.first, |last| last.end());
        assert!(before <= batch.first, "records wait in their order");
        self.waiting.push_back(batch);
    }

    /// Whether [`Partition::take_committed`] has something.
    #[must_use]
    pub fn has_committable(&self) -> bool {
        let (accepted, counts_alone) = (self.quorum_accepted(), self.counts_alone());
        let mut memory = self.sealed.iter().filter(|batch| batch.batch.memory_records() > 0);
        self.has_open_memory()
            || memory.next().is_some_and(|batch| batch.is_accepted(accepted, counts_alone))
            || self.has_flushed()
            || self.waits_in_vain()
    }

    /// Commits a message of a batch that was taken out. `missed` are the cores that want it and
    /// could not be told now: their cursors stop here.
    ///
    /// # Panics
    /// If it is not the next one of its level in the order of offsets, or not flushed as its level
    /// demands.
    pub fn commit(&mut self, batch: &AcceptedBatch<A>, index: u32, missed: CoreSet) {
        let offset = batch.offset(index);
        let committed = &mut self.committed[batch.level as usize];
        assert!(*committed <= offset.0, "messages become committed in their order");
        *committed = offset.0 + 1;
        if batch.level == Level::LocalDisk {
            let durable = self.durable_for(&batch.batch);
            assert!(offset.0 < durable, "nothing is committed that its level does not allow");
        }
        self.cursors.commit(offset, batch.level, batch.message(index), missed);
    }

    /// Gives a batch back that was taken out: to its pool, or to where its other records wait.
    pub fn finish(&mut self, pool: &mut BatchPool, mut batch: AcceptedBatch<A>) {
        self.taken = None;
        let still_waits = batch.batch.memory_records() < batch.batch.len() as u32;
        if batch.level == Level::Memory && still_waits {
            self.wait(batch);
            return;
        }
        pool.give_out(batch.batch);
        if self.spare_acks.len() < SPARE_ACKS_MAX {
            batch.acks.clear();
            self.spare_acks.push(batch.acks);
        }
    }

    /// End of turn, after everything that can be has been committed: hands to the disk what it
    /// can take.
    pub fn end_turn(&mut self, now: Nanos, unix_ms: u64, disk: &mut Disk) {
        let Some(writer) = &self.writer else { return };
        // What comes while a round is under way goes into the same batch, unless it is read or
        // replicas wait for it.
        if self.open.is_some() && (writer.takes_rounds() || writer.quorum().is_some()) {
            self.close_open();
        }
        self.pass_to_waiting();
        if let Some(writer) = &mut self.writer {
            writer.end_turn(now, unix_ms, disk);
        }
    }

    /// Something that the writer asked of the disk has ended; what was flushed by it, if
    /// something was.
    ///
    /// # Panics
    /// If nothing was asked, or another thing.
    pub fn on_disk(&mut self, now: Nanos, event: &DiskEvent, disk: &mut Disk) -> Option<Flushed> {
        self.writer.as_mut().expect("only a log asks the disk").on_disk(now, event, disk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CoreId;
    use crate::message::MessageMeter;

    const HEAD: MessageHead = MessageHead {
        publisher: 1,
        accepted_at: Nanos(0),
        expires_at: Nanos::NEVER,
        topic_bytes: 0,
        properties_bytes: 0,
        qos: 1,
        retain: false,
    };

    struct Log {
        partition: Partition<&'static str>,
        pool: BatchPool,
    }

    impl Log {
        fn new() -> Self {
            let pool = BatchPool::new(MessageMeter::leaked());
            Self { partition: Partition::new(PartitionId(0)), pool }
        }

        fn append(&mut self, payload: &[u8], ack: Option<&'static str>) -> Offset {
            let parts = Parts {
                head: HEAD,
                client_id: b"client",
                packet_id: 0,
                unix_ms: 0,
                topic: "t",
                properties: &[],
                payload,
            };
            self.partition.append(&mut self.pool, &parts, Level::LocalDisk, ack)
        }

        /// Commits everything; returns offsets, first bytes of payloads, and acknowledgements.
        fn commit(
            &mut self,
            missed: impl Fn(Offset) -> CoreSet,
        ) -> Vec<(u64, u8, Option<&'static str>)> {
            let mut committed = Vec::new();
            while let Some(mut batch) = self.partition.take_committed() {
                while let Some(index) = batch.next_committed() {
                    let (offset, ack) = (batch.offset(index), batch.take_ack(index));
                    assert_eq!(batch.take_ack(index), None);
                    committed.push((offset.0, batch.message(index).payload()[0], ack));
                    self.partition.commit(&batch, index, missed(offset));
                }
                self.partition.finish(&mut self.pool, batch);
            }
            committed
        }
    }

    #[test]
    fn a_record_is_committed_once_and_its_ack_given_once() {
        let mut log = Log::new();
        assert_eq!(log.append(&[1], Some("ack")), Offset(0));
        assert_eq!(log.append(&[2], None), Offset(1));
        assert!(log.partition.has_committable());
        assert_eq!(log.commit(|_| CoreSet::default()), [(0, 1, Some("ack")), (1, 2, None)]);
        assert!(!log.partition.has_committable());
        assert!(log.partition.take_committed().is_none());
        assert_eq!((log.partition.cursors().kept_bytes(), log.pool.read_count()), (0, 0));
        assert_eq!(log.partition.next_offset(), Offset(2));
    }

    #[test]
    fn order_and_acks_hold_across_batches_and_large_messages() {
        let mut log = Log::new();
        let mut expected = Vec::new();
        for n in 0..200 {
            let bytes = if n % 50 == 7 { 100_000 } else { 1000 };
            let ack = (n % 3 == 0).then_some("ack");
            log.append(&vec![n; bytes], ack);
            expected.push((u64::from(n), n, ack));
        }
        assert_eq!(log.commit(|_| CoreSet::default()), expected);
        assert_eq!(log.append(&[1], None), Offset(200));
    }

    #[test]
    fn a_level_that_is_not_used_is_committed_as_far_as_there_are_publishes() {
        let mut log = Log::new();
        log.append(&[1], None);
        assert_eq!(log.partition.committed(Level::Memory), Offset(0), "it is not matched yet");
        let batch = log.partition.take_committed().expect("one record");
        assert_eq!(log.partition.committed(Level::LocalDisk), Offset(0), "nor now");
        log.partition.finish(&mut log.pool, batch);
        log.append(&[2], None);
        log.commit(|_| CoreSet::default());
        let state =
            StateParts { kind: RecordKind(16), client_id: "c", topic: "", body: &[1], unix_ms: 0 };
        log.partition.append_state(&mut log.pool, &state, None);
        let batch = log.partition.take_committed().expect("one record");
        log.partition.finish(&mut log.pool, batch);
        for level in [Level::Memory, Level::LocalDisk] {
            assert_eq!(log.partition.committed(level), Offset(2), "{level:?}");
        }
        assert_eq!(
            (log.partition.published(), log.partition.next_offset()),
            (Offset(2), Offset(3))
        );
    }

    #[test]
    fn a_stopped_cursor_keeps_records_and_order() {
        let mut log = Log::new();
        let (near, far) = (CoreId(1), CoreId(2));
        for n in 0..4 {
            log.append(&[n], None);
        }
        log.commit(|offset| match offset.0 {
            0 => CoreSet::default(),
            3 => [near, far].into_iter().collect(),
            _ => [far].into_iter().collect(),
        });
        let Log { mut partition, mut pool } = log;
        assert!(partition.cursors().is_lagging(far));
        pool.look(8);
        assert_eq!(pool.read_count(), 1, "the records that are kept lie in it");

        let mut sent = Vec::new();
        partition.cursors_mut().advance(|core, offset, _, _| {
            sent.push((core, offset.0));
            !(core == far && offset.0 == 2)
        });
        assert_eq!(sent, [(far, 1), (far, 2), (near, 3)]);
        assert!(!partition.cursors().is_lagging(near));

        sent.clear();
        partition.cursors_mut().advance(|core, offset, _, _| {
            sent.push((core, offset.0));
            true
        });
        assert_eq!(sent, [(far, 2), (far, 3)]);
        assert!(!partition.cursors().has_lag());
        assert_eq!(partition.cursors().kept_bytes(), 0);
        pool.look(8);
        assert_eq!(pool.read_count(), 0);
    }
}
