//! Messages of clients: what a node takes, and what it acknowledges.

use super::{Core, Output, PARTITIONS, Time};
use crate::node::RECORD_BYTES_MAX;
use ringlane_dataplane::batch::{Level, Parts, Promise};
use ringlane_dataplane::log::writer::{Admission, Writer};
use ringlane_dataplane::message::MessageHead;
use ringlane_dataplane::random::Random;
use ringlane_dataplane::routing::CoreSet;
use ringlane_dataplane::time::Nanos;

/// A message that is published.
#[derive(Clone, Debug)]
pub struct Publish {
    /// Its number.
    pub number: u64,
    /// Where it goes.
    pub partition: usize,
    /// What it says.
    pub payload: Vec<u8>,
    /// What is promised.
    pub promise: Promise,
}

impl Core {
    /// A client publishes. Whether it was taken; then [`Output::Acknowledged`] may follow.
    pub fn publish(&mut self, publish: &Publish, time: Time) -> Option<u64> {
        let Self { hosts, partitions, pool, .. } = self;
        let partition = &mut partitions[publish.partition];
        let is_open = partition.admission() == Admission::Open;
        if !hosts[publish.partition].is_leading() || !is_open {
            return None;
        }
        let parts = Parts {
            head: MessageHead {
                publisher: 0,
                accepted_at: time.now,
                expires_at: Nanos::NEVER,
                topic_bytes: 0,
                properties_bytes: 0,
                qos: 1,
                retain: false,
            },
            client_id: b"sim",
            packet_id: 0,
            unix_ms: time.unix_ms,
            topic: "t",
            properties: &[],
            payload: &publish.payload,
        };
        assert!(parts.record_bytes() as u64 <= RECORD_BYTES_MAX, "a payload is short");
        let epoch = partition.log().map(Writer::epoch);
        partition.append(pool, &parts, publish.promise, Some(publish.number));
        epoch
    }

    pub(super) fn commit(&mut self, partition: usize) {
        let Self { partitions, pool, outputs, .. } = self;
        let log = &mut partitions[partition];
        while let Some(mut batch) = log.take_committed() {
            while let Some(at) = batch.next_committed() {
                if let Some(publish) = batch.take_ack(at) {
                    let offset = batch.offset(at).0;
                    outputs.push(Output::Acknowledged(partition, offset, publish));
                }
                if batch.is_publish(at) {
                    log.commit(&batch, at, CoreSet::default());
                }
            }
            log.finish(pool, batch);
        }
    }
}

/// A message of a publisher, at `quorum_memory` now and then if some are.
#[must_use]
pub fn publish_of(number: u64, counts_memory: bool, random: &mut Random) -> Publish {
    let partition = random.below(PARTITIONS as u64) as usize;
    let bytes = if random.one_in(20) { random.between(100, 6000) } else { random.between(8, 300) };
    let mut payload = number.to_le_bytes().to_vec();
    payload.resize(bytes as usize, number as u8);
    let level = if random.one_in(3) && counts_memory { Level::Memory } else { Level::LocalDisk };
    Publish { number, partition, payload, promise: Promise { level, quorum: true } }
}
