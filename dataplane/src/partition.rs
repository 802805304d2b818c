//! A partition: the log of the publishes of the clients that hash to it.
//!
//! A message is *appended* and gets an offset; it becomes *committed*; and that single event
//! causes both its acknowledgement and its fan-out. At the level `memory` the owning core commits
//! what it accepted in the same turn. Messages are accepted into batches ([`crate::batch`]), and
//! stay in the log only while some destination core's fan-out cursor has not passed them: a core
//! never waits for another one's mailbox, its cursor stops.

use crate::batch::{Batch, BatchPool, MessageRef, Parts};
use crate::ids::{CoreId, Offset, PartitionId};
use crate::message::Message;
use crate::routing::CoreSet;
use std::collections::VecDeque;
use triomphe::Arc;

/// Lists of acknowledgements that a partition keeps for reuse.
const SPARE_ACKS_MAX: usize = 8;

/// A committed record that some core still wants, or that lies behind one.
#[derive(Debug)]
struct Kept {
    message: Message,
    wanted: CoreSet,
}

/// Messages that were accepted one behind the other and now become committed, each by
/// [`Partition::commit`].
#[derive(Debug)]
pub struct AcceptedBatch<A> {
    first: u64,
    messages: Messages,
    acks: Vec<Option<A>>,
}

#[derive(Debug)]
enum Messages {
    Batch(Arc<Batch>),
    Alone(Message),
}

impl<A> AcceptedBatch<A> {
    /// How many there are, at least one.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.acks.len() as u32
    }

    /// Where a message lies.
    #[must_use]
    pub fn offset(&self, index: u32) -> Offset {
        Offset(self.first + u64::from(index))
    }

    /// A message.
    #[must_use]
    pub fn message(&self, index: u32) -> MessageRef<'_> {
        match &self.messages {
            Messages::Batch(batch) => MessageRef::InBatch(batch, index),
            Messages::Alone(message) => MessageRef::Handle(message),
        }
    }

    /// What the publisher of a message waits with, given back exactly once.
    pub fn take_ack(&mut self, index: u32) -> Option<A> {
        self.acks.get_mut(index as usize)?.take()
    }
}

/// A destination core whose cursor stands still.
#[derive(Debug)]
struct Lag {
    core: CoreId,
    cursor: u64,
}

/// The log of one partition at the level `memory`. `A` is what a publisher waits with.
///
/// All marks are exclusive: `trimmed <= cursor <= committed <= accepted`.
#[derive(Debug)]
pub struct Partition<A> {
    id: PartitionId,
    /// Offset of the first record that is kept; `committed` if no core lags.
    trimmed: u64,
    committed: u64,
    accepted: u64,
    /// Accepted and full, older than `open`.
    full: VecDeque<AcceptedBatch<A>>,
    open: Option<Arc<Batch>>,
    open_acks: Vec<Option<A>>,
    spare_acks: Vec<Vec<Option<A>>>,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// Kept records of QoS 0 (retained messages): QoS 0 in no log must not pass them.
    qos0_kept: usize,
    lags: Vec<Lag>,
}

impl<A> Partition<A> {
    /// An empty log.
    #[must_use]
    pub fn new(id: PartitionId) -> Self {
        Self {
            id,
            trimmed: 0,
            committed: 0,
            accepted: 0,
            full: VecDeque::new(),
            open: None,
            open_acks: Vec::new(),
            spare_acks: Vec::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            qos0_kept: 0,
            lags: Vec::new(),
        }
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

    /// Bytes of the committed records that are kept for a core that lags.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Copies a message into the batch that is open, the only copy on its way in; it must be one
    /// that [`Parts::fits_a_batch`]. Nobody hears of it before it is committed.
    pub fn append(&mut self, pool: &mut BatchPool, parts: &Parts<'_>, ack: Option<A>) -> Offset {
        if let Some(full) = pool.fill(&mut self.open, parts) {
            self.close(Messages::Batch(full));
        }
        self.accept(ack)
    }

    /// As [`Partition::append`], for a message that has an allocation of its own.
    pub fn append_alone(&mut self, message: Message, ack: Option<A>) -> Offset {
        self.close_open();
        let offset = self.accept(ack);
        self.close(Messages::Alone(message));
        offset
    }

    fn accept(&mut self, ack: Option<A>) -> Offset {
        self.open_acks.push(ack);
        self.accepted += 1;
        Offset(self.accepted - 1)
    }

    fn close_open(&mut self) {
        if let Some(batch) = self.open.take() {
            self.close(Messages::Batch(batch));
        }
    }

    fn close(&mut self, messages: Messages) {
        let spare = self.spare_acks.pop().unwrap_or_default();
        let acks = core::mem::replace(&mut self.open_acks, spare);
        let first = self.accepted - acks.len() as u64;
        self.full.push_back(AcceptedBatch { first, messages, acks });
    }

    /// Takes out the oldest accepted messages, to be committed in their order.
    pub fn take_accepted(&mut self) -> Option<AcceptedBatch<A>> {
        if self.full.is_empty() {
            self.close_open();
        }
        self.full.pop_front()
    }

    /// Commits a message that was taken out. `missed` are the cores that want it and could not be
    /// told now: their cursors stop here.
    ///
    /// # Panics
    /// If it is not the next one in the order of offsets.
    pub fn commit(&mut self, offset: Offset, message: MessageRef<'_>, missed: CoreSet) {
        assert_eq!(offset.0, self.committed, "messages become committed in their order");
        self.committed += 1;
        if missed.is_empty() && self.lags.is_empty() {
            self.trimmed = self.committed;
            return;
        }
        let message = message.to_message();
        self.kept_bytes += message.memory_bytes();
        self.qos0_kept += usize::from(message.head().qos == 0);
        self.kept.push_back(Kept { message, wanted: missed });
        for core in missed.iter() {
            if !self.is_lagging(core) {
                self.lags.push(Lag { core, cursor: offset.0 });
            }
        }
    }

    /// Gives the memory of committed messages back.
    pub fn finish(&mut self, pool: &mut BatchPool, mut batch: AcceptedBatch<A>) {
        if let Messages::Batch(messages) = batch.messages {
            pool.give_out(messages);
        }
        if self.spare_acks.len() < SPARE_ACKS_MAX {
            batch.acks.clear();
            self.spare_acks.push(batch.acks);
        }
    }

    /// Whether records wait for their commitment.
    #[must_use]
    pub fn has_uncommitted(&self) -> bool {
        self.committed < self.accepted
    }

    /// Whether this core's cursor stands before some committed record: nothing may be sent to it
    /// out of turn.
    #[must_use]
    pub fn is_lagging(&self, core: CoreId) -> bool {
        self.lags.iter().any(|lag| lag.core == core)
    }

    /// Whether a QoS 0 message that is in no log would pass a record of QoS 0 on its way to a core.
    #[must_use]
    pub fn holds_qos0_for(&self, core: CoreId) -> bool {
        self.qos0_kept > 0 && self.is_lagging(core)
    }

    /// Whether any core's cursor stands still.
    #[must_use]
    pub fn has_lag(&self) -> bool {
        !self.lags.is_empty()
    }

    /// Moves the stopped cursors on: calls `mail` for each record that a core still wants, in
    /// offset order per core, until it says that the mailbox is full. Drops the records that
    /// every cursor has passed.
    pub fn advance_cursors(&mut self, mut mail: impl FnMut(CoreId, Offset, &Message) -> bool) {
        let (kept, trimmed, committed) = (&mut self.kept, self.trimmed, self.committed);
        self.lags.retain_mut(|lag| {
            while lag.cursor < committed {
                let record = &mut kept[(lag.cursor - trimmed) as usize];
                if record.wanted.contains(lag.core) {
                    if !mail(lag.core, Offset(lag.cursor), &record.message) {
                        return true;
                    }
                    record.wanted.remove(lag.core);
                }
                lag.cursor += 1;
            }
            false
        });
        self.trim();
    }

    fn trim(&mut self) {
        let keep_from = self.lags.iter().map(|lag| lag.cursor).fold(self.committed, u64::min);
        while self.trimmed < keep_from {
            let Some(record) = self.kept.pop_front() else { break };
            self.kept_bytes -= record.message.memory_bytes();
            self.qos0_kept -= usize::from(record.message.head().qos == 0);
            self.trimmed += 1;
        }
        debug_assert!(self.trimmed <= self.committed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MessageHead, MessageMeter};
    use crate::time::Nanos;

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
            let parts = Parts { head: HEAD, topic: "t", properties: &[], payload };
            if parts.fits_a_batch() {
                return self.partition.append(&mut self.pool, &parts, ack);
            }
            let message = Message::new(HEAD, "t", &[], payload, &mut Vec::new());
            self.partition.append_alone(message, ack)
        }

        /// Commits everything; returns offsets, first bytes of payloads, and acknowledgements.
        fn commit(
            &mut self,
            missed: impl Fn(Offset) -> CoreSet,
        ) -> Vec<(u64, u8, Option<&'static str>)> {
            let mut committed = Vec::new();
            while let Some(mut batch) = self.partition.take_accepted() {
                for index in 0..batch.count() {
                    let (offset, ack) = (batch.offset(index), batch.take_ack(index));
                    assert_eq!(batch.take_ack(index), None);
                    let message = batch.message(index);
                    committed.push((offset.0, message.payload()[0], ack));
                    self.partition.commit(offset, message, missed(offset));
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
        assert!(log.partition.has_uncommitted());
        assert_eq!(log.commit(|_| CoreSet::default()), [(0, 1, Some("ack")), (1, 2, None)]);
        assert!(!log.partition.has_uncommitted());
        assert!(log.partition.take_accepted().is_none());
        assert_eq!((log.partition.kept_bytes(), log.pool.read_count()), (0, 0));
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
        assert!(partition.is_lagging(far));
        pool.look(8);
        assert_eq!(pool.read_count(), 1, "the records that are kept lie in it");

        let mut sent = Vec::new();
        partition.advance_cursors(|core, offset, _| {
            sent.push((core, offset.0));
            !(core == far && offset.0 == 2)
        });
        assert_eq!(sent, [(far, 1), (far, 2), (near, 3)]);
        assert!(!partition.is_lagging(near));

        sent.clear();
        partition.advance_cursors(|core, offset, _| {
            sent.push((core, offset.0));
            true
        });
        assert_eq!(sent, [(far, 2), (far, 3)]);
        assert!(!partition.has_lag());
        assert_eq!(partition.kept_bytes(), 0);
        pool.look(8);
        assert_eq!(pool.read_count(), 0);
    }
}
