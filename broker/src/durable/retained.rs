//! Retained messages in the log of the partition that owns their topic.

use super::overdue::RetainedCopy;
use super::postings::Place;
use super::records::RetainedBody;
use crate::service::{Broker, Turn};
use ringlane_dataplane::batch::Level;
use ringlane_dataplane::message::Message;
use ringlane_dataplane::routing::RecordId;
use ringlane_dataplane::time::Nanos;

impl Broker {
    /// A retained message was kept, replaced or cleared. Its publisher does not wait for this: after
    /// a crash it is found again in the publisher's log, because the cursor comes behind it.
    pub(crate) fn record_retained(
        &mut self,
        turn: &mut Turn<'_>,
        message: &Message,
        record: RecordId,
    ) {
        let Some(durable) = &self.durable else { return };
        // What the broker publishes itself is in no log, and is published again.
        if record.partition.0 >= self.placement.partitions() {
            return;
        }
        let epoch = durable.epoch;
        let Some(index) = self.durable_index(self.placement.topic_partition(message.topic()))
        else {
            return;
        };
        let copy = RetainedCopy {
            message: message.clone(),
            place: Place { partition: record.partition.0, epoch, offset: record.offset.0 },
            memory: record.level == Level::Memory,
            accepted_ms: self.unix_ms(message.head().accepted_at),
        };
        self.record_copy(turn, index, copy);
    }
}

impl<'a> RetainedBody<'a> {
    /// What is recorded of a message.
    pub(super) fn of(
        message: &'a Message,
        place: Place,
        memory: bool,
        unix_ms: impl Fn(Nanos) -> u64,
    ) -> Self {
        let head = message.head();
        let expires = Some(head.expires_at).filter(|expires_at| *expires_at != Nanos::NEVER);
        let secs = expires.map(|expires_at| expires_at.since(head.accepted_at).as_secs());
        Self {
            place,
            memory,
            publisher: head.publisher,
            accepted_ms: unix_ms(head.accepted_at),
            expiry_secs: secs.map(|secs| u32::try_from(secs).unwrap_or(u32::MAX - 1)),
            qos: head.qos,
            properties: message.properties(),
            payload: message.payload(),
        }
    }
}
