//! A log against a model, through crashes: what was reported flushed is there, in order, and
//! nothing is there twice or was never appended.

use super::reader::{Next, ReadFailure};
use super::recovery::{ReplayFrom, recover};
use super::rig::{OWNER, Rig, recovered, setup};
use super::writer::Admission;
use crate::batch::Level;
use crate::disk::EIO;
use crate::disk::memory::{MemoryDisk, Operation};
use crate::ids::Offset;
use core::time::Duration;
use std::collections::BTreeMap;

/// Choices that follow from a seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What has to be true whatever happens.
#[derive(Default)]
struct Model {
    /// What was appended and may be in the log, by offset: epoch and payload.
    appended: BTreeMap<u64, (u64, Vec<u8>)>,
    /// Up to here all of it was reported as flushed.
    flushed: u64,
    /// Up to here somebody allowed to trim.
    trimmed: u64,
    appends: u64,
}

impl Model {
    /// A payload that is like no other one.
    fn payload(&mut self, choices: &mut Choices) -> Vec<u8> {
        self.appends += 1;
        let bytes = match choices.below(100) {
            0 => 250_000,
            1..10 => 10_000,
            _ => 8 + choices.below(900),
        };
        let mut payload = vec![self.appends as u8; bytes as usize];
        payload[..8].copy_from_slice(&self.appends.to_le_bytes());
        payload
    }

    /// Compares what recovery found, and goes on from that.
    fn check(&mut self, start: u64, records: Vec<(u64, u64, Vec<u8>)>, what: &str) {
        assert!(start <= self.trimmed, "{what}: trimmed further than allowed");
        let end = start + records.len() as u64;
        assert!(self.flushed <= end, "{what}: ends at {end}, {} were flushed", self.flushed);
        for (at, (offset, epoch, payload)) in records.iter().enumerate() {
            assert_eq!(*offset, start + at as u64, "{what}: offsets are dense");
            let expected = self.appended.get(offset);
            assert!(expected == Some(&(*epoch, payload.clone())), "{what}: another {offset}");
        }
        self.appended.retain(|offset, _| *offset < end);
        self.flushed = end;
    }
}

/// One life of a process, up to a crash.
fn live(rig: &mut Rig, epoch: u64, model: &mut Model, choices: &mut Choices) {
    rig.read_from(rig.partition.marks().start.0);
    let turns = 20 + choices.below(150);
    for _ in 0..turns {
        for _ in 0..choices.below(8) {
            if rig.partition.admission() != Admission::Open {
                break;
            }
            let payload = model.payload(choices);
            let level = [Level::Memory, Level::LocalDisk][choices.below(2) as usize];
            let offset = rig.append(&payload, level);
            model.appended.insert(offset, (epoch, payload));
        }
        match choices.below(60) {
            0 => rig.memory.fail(Operation::Write, ".log", EIO),
            1 => rig.memory.fail(Operation::Sync, ".log", EIO),
            2..5 => rig.memory.fail(Operation::Create, "", EIO),
            5..12 => {
                let below = choices.below(rig.partition.marks().flushed.0 + 1);
                model.trimmed = model.trimmed.max(below);
                rig.partition.log_mut().expect("it has one").trim(Offset(below));
            }
            _ => {}
        }
        rig.wait(Duration::from_millis(choices.below(20) * choices.below(20)));
        for (offset, level, ack) in rig.committed.drain(..) {
            assert_eq!(ack, Some(offset), "who waits is told once, and of its own record");
            if level == Level::LocalDisk {
                model.flushed = model.flushed.max(offset + 1);
            }
        }
        read_on(rig, model);
    }
}

/// The reader sees what was appended, in order and without a gap, and nothing that is not flushed.
fn read_on(rig: &mut Rig, model: &Model) {
    let flushed = rig.partition.marks().flushed;
    let Some(mut reader) = rig.reader.take() else { return };
    loop {
        let at = reader.offset();
        match reader.next_record() {
            Next::Record(record) => {
                assert_eq!(record.head.offset, at);
                assert!(at < flushed, "only what is durable is read");
                let expected = &model.appended[&at.0];
                assert!((record.head.epoch, record.payload) == (expected.0, &expected.1[..]));
            }
            Next::Lost(error) => {
                assert!(error.lost.end.0 <= model.trimmed, "only what is trimmed is lost: {error}");
                let disk = |failure| matches!(failure, ReadFailure::Disk(_));
                assert!(error.failure == ReadFailure::Trimmed || disk(error.failure), "{error}");
            }
            Next::Wait => break,
        }
    }
    reader.ask(rig.partition.log().expect("it has one"), &mut rig.disk);
    rig.reader = Some(reader);
}

#[test]
fn what_was_flushed_survives_every_crash() {
    let seeds = std::env::var("RINGLANE_MODEL_SEEDS").ok().and_then(|text| text.parse().ok());
    let (mut committed, mut sealed) = (0, 0);
    for seed in 0..seeds.unwrap_or(40_u64) {
        let (mut model, mut choices) = (Model::default(), Choices(seed * 7919 + 1));
        let memory = MemoryDisk::shuffled(seed);
        for epoch in 1..6 {
            let what = format!("seed {seed}, epoch {epoch}");
            let (found, records) = recovered(&memory);
            model.check(found.log_start.0, records, &what);
            let mut rig = Rig::open(memory.clone(), found.log_end(), epoch);
            live(&mut rig, epoch, &mut model, &mut choices);
            sealed += rig.log().segments().sealed().len();
            memory.crash(seed * 31 + epoch);
        }
        committed += model.flushed;
    }
    assert!(committed > 1000 && sealed > 10, "the model says something: {committed} {sealed}");
}

/// Replay may begin wherever the writer says, in every turn: also while the last batch of a segment
/// is written, or when the next segment is not there yet.
#[test]
fn replay_begins_at_a_batch_in_every_turn() {
    let mut choices = Choices(5);
    let mut rig = Rig::ready();
    let mut places: Vec<ReplayFrom> = Vec::new();
    for number in 0..400_u64 {
        let bytes = if choices.below(10) == 0 { 200_000 } else { 9_000 };
        rig.append(&vec![number as u8; bytes as usize], Level::LocalDisk);
        for _ in 0..choices.below(3) {
            rig.turn();
            places.push(rig.log().replay_from());
        }
    }
    rig.settle();
    places.push(rig.log().replay_from());
    places.dedup();
    let end = rig.log().marks().flushed;
    assert!(rig.log().segments().count() > 3);
    let directory = setup(1).directory;
    for from in places {
        let from = ReplayFrom { flushed: end, ..from };
        let mut offsets = Vec::new();
        let found =
            recover(&mut rig.memory.clone(), &directory, &OWNER, Some(&from), &mut |record| {
                offsets.push(record.head.offset.0);
            });
        let next = found.map(|found| found.next_offset).map_err(|error| error.to_string());
        assert_eq!(next, Ok(end), "{from:?}");
        assert!(offsets.into_iter().eq(from.offset.0..end.0), "{from:?}");
        let behind = rig.log().segments().bytes_behind(&from);
        assert!(9_000 * (end.0 - from.offset.0) <= behind, "{from:?}: {behind}");
    }
}
