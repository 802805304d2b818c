//! A partition: the log of the publishes of the clients that hash to it.
//!
//! A message is *appended* and gets an offset; it becomes *committed*; and that single event
//! causes both its acknowledgement and its fan-out. At the level `memory` the owning core commits
//! what it accepted in the same turn. Records stay only while some destination core's fan-out
//! cursor has not passed them: a core never waits for another one's mailbox, its cursor stops.

use crate::ids::{CoreId, Offset, PartitionId};
use crate::message::Message;
use crate::routing::CoreSet;
use std::collections::VecDeque;

/// One stored message, who waits for it, and which cores still want it.
#[derive(Debug)]
struct Record<A> {
    message: Message,
    ack: Option<A>,
    wanted: CoreSet,
}

/// A record that has just been committed.
#[derive(Debug)]
pub struct Committed<A> {
    /// Where it lies.
    pub offset: Offset,
    /// The message.
    pub message: Message,
    /// What the publisher waits for, given back exactly once.
    pub ack: Option<A>,
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
    /// Offset of the first record that is kept.
    trimmed: u64,
    committed: u64,
    records: VecDeque<Record<A>>,
    record_bytes: usize,
    /// Kept records of QoS 0 (retained messages): QoS 0 in no log must not pass them.
    qos0_records: usize,
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
            records: VecDeque::new(),
            record_bytes: 0,
            qos0_records: 0,
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
        Offset(self.trimmed + self.records.len() as u64)
    }

    /// Bytes of the records that are kept.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Appends a message. Nobody hears of it before it is committed.
    pub fn append(&mut self, message: Message, ack: Option<A>) -> Offset {
        let offset = self.next_offset();
        self.record_bytes += message.memory_bytes();
        self.qos0_records += usize::from(message.head().qos == 0);
        self.records.push_back(Record { message, ack, wanted: CoreSet::default() });
        offset
    }

    /// Commits the next accepted record, in offset order; `None` if all are committed.
    pub fn commit_next(&mut self) -> Option<Committed<A>> {
        let index = usize::try_from(self.committed - self.trimmed).ok()?;
        let record = self.records.get_mut(index)?;
        let offset = Offset(self.committed);
        self.committed += 1;
        Some(Committed { offset, message: record.message.clone(), ack: record.ack.take() })
    }

    /// Whether records wait for their commitment.
    #[must_use]
    pub fn has_uncommitted(&self) -> bool {
        self.committed < self.next_offset().0
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
        self.qos0_records > 0 && self.is_lagging(core)
    }

    /// Whether any core's cursor stands still.
    #[must_use]
    pub fn has_lag(&self) -> bool {
        !self.lags.is_empty()
    }

    /// The record at `offset` could not be mailed to `core` now: its cursor stops there.
    ///
    /// # Panics
    /// If the offset is not that of a kept, committed record.
    pub fn stop_cursor(&mut self, core: CoreId, offset: Offset) {
        assert!(offset.0 < self.committed, "a cursor stops at committed records only");
        let index = (offset.0 - self.trimmed) as usize;
        self.records[index].wanted.insert(core);
        if !self.is_lagging(core) {
            self.lags.push(Lag { core, cursor: offset.0 });
        }
    }

    /// Moves the stopped cursors on: calls `mail` for each record that a core still wants, in
    /// offset order per core, until it says that the mailbox is full.
    pub fn advance_cursors(&mut self, mut mail: impl FnMut(CoreId, Offset, &Message) -> bool) {
        let (records, trimmed, committed) = (&mut self.records, self.trimmed, self.committed);
        self.lags.retain_mut(|lag| {
            while lag.cursor < committed {
                let record = &mut records[(lag.cursor - trimmed) as usize];
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
    }

    /// Drops the records that every cursor has passed.
    pub fn trim(&mut self) {
        let keep_from = self.lags.iter().map(|lag| lag.cursor).fold(self.committed, u64::min);
        while self.trimmed < keep_from {
            let Some(record) = self.records.pop_front() else { break };
            self.record_bytes -= record.message.memory_bytes();
            self.qos0_records -= usize::from(record.message.head().qos == 0);
            self.trimmed += 1;
        }
        debug_assert!(self.trimmed <= self.committed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageHead;
    use crate::time::Nanos;

    fn message(n: u8) -> Message {
        let head = MessageHead {
            publisher: 1,
            accepted_at: Nanos(0),
            expires_at: Nanos::NEVER,
            topic_bytes: 0,
            properties_bytes: 0,
            qos: 1,
            retain: false,
        };
        Message::new(head, "t", &[], &[n], &mut Vec::new())
    }

    #[test]
    fn a_record_is_committed_once_and_its_ack_given_once() {
        let mut partition = Partition::new(PartitionId(0));
        assert_eq!(partition.append(message(1), Some("ack")), Offset(0));
        assert_eq!(partition.append(message(2), None), Offset(1));
        let first = partition.commit_next().expect("accepted");
        assert_eq!((first.offset, first.ack), (Offset(0), Some("ack")));
        assert_eq!(partition.commit_next().expect("accepted").ack, None);
        assert!(partition.commit_next().is_none());
        partition.trim();
        assert_eq!(partition.record_bytes(), 0);
        assert_eq!(partition.next_offset(), Offset(2));
    }

    #[test]
    fn a_stopped_cursor_keeps_records_and_order() {
        let mut partition: Partition<()> = Partition::new(PartitionId(0));
        let (near, far) = (CoreId(1), CoreId(2));
        for n in 0..4 {
            partition.append(message(n), None);
        }
        while let Some(record) = partition.commit_next() {
            if record.offset.0 >= 1 {
                partition.stop_cursor(far, record.offset);
            }
        }
        partition.stop_cursor(near, Offset(3));
        partition.trim();
        assert!(partition.is_lagging(far));

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
        partition.trim();
        assert_eq!(partition.record_bytes(), 0);
    }
}
