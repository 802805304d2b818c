//! A log on a disk in memory, turned by hand: for the tests of this directory.

use super::format::DirectoryId;
use super::reader::Reader;
use super::recovery::{Recovered, recover};
use super::scan::LogOwner;
use super::segments::{LogEnd, LogSetup};
use super::writer::{Flushed, Writer};
use crate::batch::{BatchPool, Level, Parts, Promise};
use crate::disk::memory::MemoryDisk;
use crate::disk::{Disk, FileDriver};
use crate::ids::{Offset, PartitionId};
use crate::message::{MessageHead, MessageMeter};
use crate::partition::Partition;
use crate::routing::CoreSet;
use crate::time::Nanos;
use core::time::Duration;
use std::path::PathBuf;

pub(super) const OWNER: LogOwner =
    LogOwner { directory: DirectoryId([7; 16]), partition: PartitionId(3) };
pub(super) const UNIX_MS: u64 = 1_800_000_000_000;
pub(super) const READER_TAG: u32 = 78;

/// What was committed: its offset, its level, and who waited.
pub(super) type Committed = (u64, Level, Option<u64>);

pub(super) struct Rig {
    pub(super) memory: MemoryDisk,
    pub(super) disk: Disk,
    pub(super) pool: BatchPool,
    pub(super) meter: &'static MessageMeter,
    pub(super) partition: Partition<u64>,
    pub(super) reader: Option<Reader>,
    pub(super) now: Nanos,
    /// The time of day.
    pub(super) unix_ms: u64,
    pub(super) committed: Vec<Committed>,
    pub(super) flushed: Vec<Flushed>,
}

pub(super) fn setup(epoch: u64) -> LogSetup {
    LogSetup {
        partition: OWNER.partition,
        directory: PathBuf::from("/data/partitions/0003"),
        directory_id: OWNER.directory,
        epoch,
        secret: [epoch as u8; 16],
        segment_bytes: 4 << 20,
        record_bytes_max: 300_000,
        tag: 77,
    }
}

/// What recovery finds: each record's offset, epoch and payload.
pub(super) fn recovered(memory: &MemoryDisk) -> (Recovered, Vec<(u64, u64, Vec<u8>)>) {
    let mut records = Vec::new();
    let directory = setup(1).directory;
    let found = recover(&mut memory.clone(), &directory, &OWNER, None, &mut |record| {
        records.push((record.head.offset.0, record.head.epoch, record.payload.to_vec()));
    });
    (found.expect("a crash is no damage"), records)
}

impl Rig {
    pub(super) fn new(memory: MemoryDisk) -> Self {
        Self::open(memory, LogEnd::default(), 5)
    }

    /// A log that goes on after recovery.
    pub(super) fn open(memory: MemoryDisk, end: LogEnd, epoch: u64) -> Self {
        Self::with_setup(memory, end, setup(epoch))
    }

    pub(super) fn with_setup(memory: MemoryDisk, end: LogEnd, setup: LogSetup) -> Self {
        let writer = Writer::new(setup, end);
        let meter = MessageMeter::leaked();
        Self {
            memory,
            disk: Disk::new(),
            pool: BatchPool::new(meter),
            meter,
            partition: Partition::with_log(OWNER.partition, writer),
            reader: None,
            now: Nanos::from_secs(1),
            unix_ms: UNIX_MS,
            committed: Vec::new(),
            flushed: Vec::new(),
        }
    }

    /// A log whose first segment is there.
    pub(super) fn ready() -> Self {
        Self::ready_with(setup(5))
    }

    pub(super) fn ready_with(setup: LogSetup) -> Self {
        let mut rig = Self::with_setup(MemoryDisk::new(), LogEnd::default(), setup);
        rig.turn();
        rig.turn();
        assert!(rig.log().takes_rounds());
        rig
    }

    pub(super) fn log(&self) -> &Writer {
        self.partition.log().expect("it has one")
    }

    pub(super) fn append(&mut self, payload: &[u8], promise: impl Into<Promise>) -> u64 {
        let head = MessageHead { qos: 1, ..MessageHead::of_state() };
        let ack = Some(self.partition.next_offset().0);
        let parts = Parts {
            head,
            client_id: b"meter-7",
            packet_id: 0,
            unix_ms: self.unix_ms,
            topic: "plant/7",
            properties: &[1, 2],
            payload,
        };
        self.partition.append(&mut self.pool, &parts, promise, ack).0
    }

    pub(super) fn events(&mut self) {
        let Self { memory, disk, partition, flushed, now, reader, .. } = self;
        memory.complete(disk, 64, &mut |disk, event| {
            if event.token.0 >> 32 != u64::from(READER_TAG) {
                flushed.extend(partition.on_disk(*now, &event, disk));
            } else if let (Some(reader), Some(log)) = (reader.as_mut(), partition.log()) {
                reader.on_disk(log, event, disk);
            }
        });
    }

    pub(super) fn commit(&mut self) {
        while let Some(mut batch) = self.partition.take_committed() {
            while let Some(at) = batch.next_committed() {
                let ack = batch.take_ack(at);
                self.committed.push((batch.offset(at).0, batch.level_now(), ack));
                if batch.is_publish(at) {
                    self.partition.commit(&batch, at, CoreSet::default());
                }
            }
            self.partition.finish(&mut self.pool, batch);
        }
    }

    /// One turn, as the broker has it.
    pub(super) fn turn(&mut self) {
        self.events();
        self.commit();
        assert!(!self.partition.has_committable());
        self.partition.end_turn(self.now, self.unix_ms, &mut self.disk);
        self.memory.submit(&mut self.disk);
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            self.turn();
        }
        assert_eq!(self.memory.in_flight(), 0);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.turn();
    }

    pub(super) fn offsets(&self) -> Vec<u64> {
        self.committed.iter().map(|(offset, ..)| *offset).collect()
    }

    /// Reads from an offset from now on.
    pub(super) fn read_from(&mut self, from: u64) {
        self.reader = Some(Reader::new(self.log(), READER_TAG, Offset(from)));
    }
}
