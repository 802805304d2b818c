//! Retained messages of QoS 0 stay behind earlier ones of their client.
//!
//! Nobody waits for a QoS 0 message, so it is committed in the turn that accepts it. While an earlier
//! retained message of the same partition waits for the disk, a retained one of QoS 0 waits, too: else
//! the earlier one would come last, and stay. Then its client's other messages of QoS 0 wait behind it.

use super::Broker;
use crate::session::SessionId;
use hashbrown::HashMap;
use ringlane_dataplane::batch::{Level, Promise};
use ringlane_dataplane::ids::Offset;

/// What retained messages of QoS 0 must not overtake, and what must not overtake them.
#[derive(Debug)]
pub(crate) struct RetainedOrder {
    /// Behind the last retained record that waits for the disk, by the partition's place.
    ends: Vec<Offset>,
    /// Behind the last record of QoS 0 that waits for the disk, by publisher; only while it does.
    qos0_ends: HashMap<SessionId, (usize, Offset)>,
    /// The high watermarks of all partitions, added up, when the ends were looked at.
    looked_at: u64,
}

impl RetainedOrder {
    pub(super) fn new(partitions: usize) -> Self {
        Self { ends: vec![Offset(0); partitions], qos0_ends: HashMap::new(), looked_at: 0 }
    }
}

impl Broker {
    /// What is promised of a publish, if its stream promises `stream`.
    pub(super) fn publish_promise(
        &self,
        index: usize,
        qos: u8,
        retain: bool,
        stream: Promise,
    ) -> Promise {
        let waits = retain && self.is_unflushed(index, self.retained_order.ends[index]);
        // Nobody is promised anything: in a cluster the leader's lease is enough.
        if qos > 0 || waits { stream } else { Level::Memory.into() }
    }

    /// A retained message that waits for the disk was appended.
    pub(super) fn note_retained(
        &mut self,
        index: usize,
        offset: Offset,
        qos: u8,
        session: Option<SessionId>,
    ) {
        let end = Offset(offset.0 + 1);
        let order = &mut self.retained_order;
        order.ends[index] = end;
        if let Some(session) = session.filter(|_| qos == 0) {
            order.qos0_ends.insert(session, (index, end));
        }
    }

    /// Whether a client's QoS 0 has to wait behind a retained message of its own.
    pub(crate) fn holds_qos0_of(&self, session: SessionId) -> bool {
        let waits = |(index, end): &(usize, Offset)| self.is_unflushed(*index, *end);
        let ends = &self.retained_order.qos0_ends;
        !ends.is_empty() && ends.get(&session).is_some_and(waits)
    }

    /// End of turn: forgets what has been flushed.
    pub(super) fn settle_retained_order(&mut self) {
        if self.retained_order.qos0_ends.is_empty() {
            return;
        }
        let Self { retained_order, partitions, .. } = self;
        let watermarks = partitions.iter().map(|partition| partition.marks().high_watermark.0);
        let now = watermarks.fold(0, u64::wrapping_add);
        if core::mem::replace(&mut retained_order.looked_at, now) == now {
            return;
        }
        let is_unflushed = |_: &SessionId, (index, end): &mut (usize, Offset)| {
            partitions[*index].marks().high_watermark < *end
        };
        retained_order.qos0_ends.retain(is_unflushed);
    }

    fn is_unflushed(&self, index: usize, end: Offset) -> bool {
        self.partitions[index].marks().high_watermark < end
    }
}
