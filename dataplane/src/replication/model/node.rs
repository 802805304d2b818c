//! A node of the model: a log, what of it is on the disk, and what the node was asked to do.

use super::{PARTITION, seed};
use crate::batch::{Batch, BatchPool};
use crate::ids::{NodeId, Offset};
use crate::log::record::{self, Records};
use crate::message::MessageMeter;
use crate::replication::epochs::EpochTable;
use crate::replication::message::{CheckpointStart, Claim};
use crate::replication::reign::Reign;
use crate::replication::replica::{Opened, Replica, Setup};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use triomphe::Arc;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) epoch: u64,
    pub(super) bytes: Vec<u8>,
}

/// What a node was asked to do, and does when its time comes.
#[derive(Debug)]
pub(super) enum Job {
    Persist(Reign),
    Revoke(Vec<NodeId>),
    Truncate(Offset),
    Read(NodeId, Offset, u32),
    Clear,
    Write(u64),
    Reset(CheckpointStart),
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) replica: Option<Replica>,
    pub(super) pool: BatchPool,
    // On the disk.
    pub(super) manifest: Reign,
    pub(super) damage: Option<Claim>,
    pub(super) start: u64,
    /// Of the record before `start`, where a checkpoint said it.
    pub(super) epoch_before: Option<u64>,
    pub(super) records: Vec<Stored>,
    pub(super) flushed: u64,
    /// The state of its last checkpoint has all below it.
    pub(super) state: u64,
    // In memory.
    pub(super) jobs: VecDeque<Job>,
    /// What comes, and its bytes so far.
    pub(super) checkpoint: Option<(CheckpointStart, u64)>,
    pub(super) appends_in: Option<u64>,
    pub(super) high_watermark: u64,
    pub(super) checked: u64,
}

impl Node {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            replica: None,
            pool: BatchPool::new(MessageMeter::leaked()),
            manifest: Reign::default(),
            damage: None,
            start: 0,
            epoch_before: None,
            records: Vec::new(),
            flushed: 0,
            state: 0,
            jobs: VecDeque::new(),
            checkpoint: None,
            appends_in: None,
            high_watermark: 0,
            checked: 0,
        }
    }

    pub(super) fn next(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    pub(super) fn at(&self, offset: u64) -> &Stored {
        &self.records[(offset - self.start) as usize]
    }

    pub(super) fn epochs(&self) -> EpochTable {
        let mut epochs = EpochTable::new();
        if let Some(epoch) = self.epoch_before.filter(|_| self.start > 0) {
            epochs.push(epoch, Offset(self.start - 1));
        }
        for (record, offset) in self.records.iter().zip(self.start..) {
            epochs.push(record.epoch, Offset(offset));
        }
        epochs
    }

    pub(super) fn open(&mut self, members: Vec<NodeId>, counts_memory: bool) {
        self.jobs.clear();
        (self.checkpoint, self.appends_in) = (None, None);
        let opened = Opened {
            reign: self.manifest,
            start: Offset(self.start),
            next: Offset(self.next()),
            epochs: self.epochs(),
            damage: self.damage,
        };
        let setup = Setup {
            node: self.id,
            partition: PARTITION,
            members,
            seed: seed(),
            record_bytes_max: 600,
            counts_memory,
            window_bytes: 600,
        };
        let replica = Replica::new(setup, opened);
        self.high_watermark = replica.high_watermark().0;
        self.checked = self.start;
        self.replica = Some(replica);
    }

    pub(super) fn claim(&self) -> Claim {
        let kept = (self.flushed - self.start) as usize;
        let epoch = self.records[..kept].last().map_or(0, |record| record.epoch);
        Claim { epoch, watermark: Offset(self.flushed) }
    }

    /// A checkpoint takes the place of everything.
    pub(super) fn reset(&mut self, start: CheckpointStart) {
        self.records.clear();
        (self.start, self.flushed) = (start.start.0, start.start.0);
        (self.epoch_before, self.checked) = (Some(start.epoch), start.start.0);
        self.state = start.next.0;
    }

    /// Encoded records of one epoch, from `from` on.
    pub(super) fn read(&mut self, from: u64, bytes_max: u32) -> Option<Arc<Batch>> {
        if from < self.start || self.flushed <= from {
            return None;
        }
        let (mut body, mut count, epoch) = (Vec::new(), 0, self.at(from).epoch);
        for offset in from..self.flushed {
            let record = self.at(offset);
            let fits = body.is_empty() || body.len() + record.bytes.len() <= bytes_max as usize;
            if !fits || record.epoch != epoch {
                break;
            }
            body.extend_from_slice(&record.bytes);
            count += 1;
        }
        Some(self.pool.copy_records(&body, count))
    }

    pub(super) fn store(&mut self, batch: &Batch, first: u64, epoch: u64) {
        assert_eq!(first, self.next(), "the log takes what is next");
        assert!(self.records.last().is_none_or(|last| last.epoch <= epoch), "epochs rise");
        let body = &batch.body()[..batch.body_bytes() as usize];
        for record in Records::new(seed(), body, Offset(first), epoch) {
            let mut bytes = Vec::new();
            record::encode(seed(), &record.expect("a good record"), &mut bytes);
            self.records.push(Stored { epoch, bytes });
        }
        assert_eq!(self.next(), first + batch.len() as u64);
    }
}

impl Node {
    /// What a truncation left is durable.
    pub(super) fn flushed_is(&self, flushed: &mut BTreeMap<(u64, u64), BTreeSet<NodeId>>) {
        for (record, offset) in self.records.iter().zip(self.start..) {
            flushed.entry((offset, record.epoch)).or_default().insert(self.id);
        }
    }
}
