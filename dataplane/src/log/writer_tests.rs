//! The writer with its partition, on a disk in memory.

use super::super::format::{
    BATCH_MAGIC, BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader, number_of,
};
use super::super::record::{Record, RecordKind, Records};
use super::super::rig::{OWNER, Rig, UNIX_MS, recovered, setup};
use super::*;
use crate::batch::Level;
use crate::disk::EIO;
use crate::disk::memory::{MemoryDisk, Operation};
use crate::partition::StateParts;
use std::path::Path;

/// A batch as it lies on the disk.
struct Found {
    number: u64,
    header: BatchHeader,
    payloads: Vec<Vec<u8>>,
}

/// Everything in the log, each batch checked against the one before it.
fn found(memory: &MemoryDisk) -> Vec<Found> {
    let seed = OWNER.seed();
    let mut found: Vec<Found> = Vec::new();
    for path in memory.paths() {
        let Some(number) = number_of(name(&path), ".log") else { continue };
        let content = memory.content(&path).expect("listed");
        let segment = SegmentHeader::decode(&content).expect("written ahead of use");
        assert_eq!((segment.number, segment.file_bytes), (number, content.len() as u64));
        let mut crc = SegmentHeader::crc_of(&content);
        let mut at = SEGMENT_HEADER_BYTES as usize;
        while content[at..at + 4] == BATCH_MAGIC.to_le_bytes() {
            let header = BatchHeader::decode(&content[at..], &segment.segment).expect("whole");
            let next = found.last().map_or(Offset(0), |last| last.header.next_offset());
            assert_eq!(header.previous_crc, crc);
            assert!(found.is_empty() || header.base_offset == next, "no offset is left out");
            crc = BatchHeader::crc_of(content[at..].first_chunk().expect("whole"));
            let body = &content[at + 64..at + 64 + header.body_bytes as usize];
            let records: Result<Vec<Record<'_>>, _> =
                Records::new(seed, body, header.base_offset, header.epoch).collect();
            let records = records.expect("good");
            assert_eq!(records.len(), header.records as usize);
            let payloads = records.iter().map(|record| record.payload.to_vec()).collect();
            at += header.bytes() as usize;
            found.push(Found { number, header, payloads });
        }
        assert!(content[at..].iter().all(|byte| *byte == 0), "nothing behind the end");
    }
    found
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).expect("a name")
}

fn payloads(memory: &MemoryDisk) -> Vec<Vec<u8>> {
    found(memory).into_iter().flat_map(|batch| batch.payloads).collect()
}

#[test]
fn a_record_is_committed_after_one_write_and_one_sync() {
    let mut rig = Rig::ready();
    rig.append(b"one", Level::LocalDisk);
    rig.turn();
    assert_eq!(rig.committed, [], "handed to the disk");
    assert_eq!(rig.memory.sync_count(), 0);
    let marks = rig.partition.marks();
    assert_eq!((marks.submitted, marks.flushed), (Offset(1), Offset(0)));
    rig.turn();
    assert_eq!(
        (&rig.committed[..], rig.memory.sync_count()),
        (&[(0, Level::LocalDisk, Some(0))][..], 1)
    );
    assert_eq!(rig.partition.marks().flushed, Offset(1));
    assert_eq!(rig.flushed[0].records, 1);
    assert_eq!(payloads(&rig.memory), [b"one"]);
}

#[test]
fn a_round_is_written_in_whole_blocks() {
    let mut rig = Rig::ready();
    rig.append(&[1; 5000], Level::LocalDisk);
    rig.partition.end_turn(rig.now, UNIX_MS, &mut rig.disk);
    let Some(DiskCommand::Write { position, batches, zeros, .. }) = rig.disk.take() else {
        panic!("a round begins with a write")
    };
    let bytes: usize = batches.iter().map(BatchWrite::bytes).sum();
    let end = position as usize + bytes + zeros as usize;
    assert_eq!(end, 3 * BLOCK_BYTES, "the header's block and two more");
    assert!(5000 < bytes && bytes < 2 * BLOCK_BYTES);
}

#[test]
fn only_what_a_follower_writes_is_not_read_soon() {
    let mut rig = Rig::ready();
    rig.append(b"of a leader", Level::LocalDisk);
    let is_read_soon = |rig: &mut Rig| {
        rig.partition.end_turn(rig.now, UNIX_MS, &mut rig.disk);
        let Some(DiskCommand::Write { is_read_soon, batches, .. }) = rig.disk.commands().next()
        else {
            panic!("a round begins with a write")
        };
        (*is_read_soon, batches.first().and_then(|write| write.batch.clone()))
    };
    let (leads, batch) = is_read_soon(&mut rig);
    let body = batch.expect("it has a record").body().to_vec();
    assert!(leads);
    let mut rig = Rig::ready();
    let batch = rig.pool.copy_records(&body, 1);
    rig.partition.append_records(batch, 5);
    assert!(!is_read_soon(&mut rig).0);
}

#[test]
fn appends_are_taken_before_there_is_a_segment() {
    let mut rig = Rig::new(MemoryDisk::new());
    rig.append(b"early", Level::LocalDisk);
    rig.settle();
    assert_eq!((rig.offsets(), payloads(&rig.memory)), (vec![0], vec![b"early".to_vec()]));
}

#[test]
fn what_comes_during_a_round_shares_the_next_one() {
    let mut rig = Rig::ready();
    rig.append(&[0], Level::LocalDisk);
    rig.turn();
    rig.memory.hold(true);
    for n in 1..=100 {
        rig.append(&[n], Level::LocalDisk);
        rig.turn();
    }
    rig.memory.hold(false);
    rig.settle();
    assert_eq!(rig.offsets(), (0..=100).collect::<Vec<_>>());
    assert_eq!(rig.memory.sync_count(), 2, "one for the first, one for a hundred");
    let batches = found(&rig.memory);
    assert!(batches.len() <= 3, "what waits goes into few batches: {}", batches.len());
    assert_eq!(payloads(&rig.memory).concat(), (0..=100).collect::<Vec<u8>>());
}

#[test]
fn levels_are_committed_each_at_its_own_time_and_in_order() {
    let mut rig = Rig::ready();
    for n in 0..6 {
        let level = if n % 3 == 0 { Level::Memory } else { Level::LocalDisk };
        rig.append(&[n], level);
    }
    rig.turn();
    let memory = |offset| (offset, Level::Memory, Some(offset));
    let disk = |offset| (offset, Level::LocalDisk, Some(offset));
    assert_eq!(rig.committed, [memory(0), memory(3)]);
    rig.memory.hold(true);
    rig.append(&[6], Level::Memory);
    rig.turn();
    rig.memory.hold(false);
    rig.settle();
    rig.wait(LINGER);
    rig.settle();
    let expected = [memory(0), memory(3), memory(6), disk(1), disk(2), disk(4), disk(5)];
    assert_eq!(rig.committed, expected);
    assert_eq!(payloads(&rig.memory).concat(), [0, 1, 2, 3, 4, 5, 6]);
    rig.pool.look(64);
    assert_eq!(rig.pool.read_count(), 0, "all batches came back");
}

#[test]
fn what_nobody_waits_for_lingers_until_there_is_more_of_it() {
    let mut rig = Rig::ready();
    rig.append(b"one", Level::Memory);
    rig.settle();
    assert_eq!((rig.committed.len(), rig.partition.marks().submitted), (1, Offset(0)));
    assert_eq!(rig.log().next_deadline(), rig.now + LINGER);
    rig.wait(LINGER);
    rig.settle();
    assert_eq!(rig.partition.marks().flushed, Offset(1));
    rig.append(b"two", Level::Memory);
    rig.turn();
    rig.append(b"three", Level::LocalDisk);
    rig.settle();
    assert_eq!(rig.partition.marks().flushed, Offset(3), "it goes with what somebody waits for");
    for _ in 0..60 {
        rig.append(&[1; 20_000], Level::Memory);
        rig.turn();
    }
    rig.settle();
    assert!(rig.partition.marks().flushed > Offset(50), "much of it is written at once");
    assert_eq!(rig.committed.len(), 63);
    rig.partition.log_mut().expect("it has one").close_soon();
    rig.settle();
    assert!(rig.log().is_quiet(), "at the end nothing lingers");
}

#[test]
fn the_end_of_a_round_is_expected_where_somebody_waits_for_it() {
    let mut rig = Rig::ready();
    let took = Duration::from_micros(160);
    for _ in 0..2 {
        rig.append(b"awaited", Level::LocalDisk);
        rig.turn();
        rig.now = rig.now + took;
        rig.settle();
    }
    rig.append(b"awaited", Level::LocalDisk);
    rig.turn();
    let usual = took / 8 * 7 / 8 + took / 8;
    assert_eq!(rig.log().expected(), Some(rig.now + usual));
    rig.settle();
    assert_eq!(rig.log().expected(), None, "it has ended");
    rig.append(b"not awaited", Level::Memory);
    rig.turn();
    rig.wait(LINGER);
    let marks = rig.partition.marks();
    assert!(marks.flushed < marks.submitted, "it is under way");
    assert_eq!(rig.log().expected(), None);
}

#[test]
fn records_of_state_lie_between_the_messages() {
    let mut rig = Rig::ready();
    rig.append(b"one", Level::LocalDisk);
    let state = StateParts {
        kind: RecordKind::STATE_FIRST,
        client_id: "meter-7",
        topic: "a/#",
        body: b"body",
        unix_ms: UNIX_MS,
    };
    assert_eq!(rig.partition.append_state(&mut rig.pool, &state, Some(99)), Offset(1));
    rig.append(b"two", Level::LocalDisk);
    rig.settle();
    let acks: Vec<_> = rig.committed.iter().map(|(.., ack)| *ack).collect();
    assert_eq!(acks, [Some(0), Some(99), Some(2)]);
    assert_eq!(payloads(&rig.memory), [&b"one"[..], b"body", b"two"]);
}

#[test]
fn a_closing_batch_says_what_is_durable_when_nothing_follows() {
    let mut rig = Rig::ready();
    rig.append(b"one", Level::LocalDisk);
    rig.settle();
    assert!(!rig.log().is_quiet());
    assert_eq!(rig.log().next_deadline(), rig.now + CLOSE_AFTER);
    rig.wait(CLOSE_AFTER);
    rig.settle();
    assert!(rig.log().is_quiet());
    assert_eq!(rig.log().next_deadline(), Nanos::NEVER);
    let batches = found(&rig.memory);
    let marks: Vec<_> = batches.iter().map(|b| (b.header.records, b.header.watermark.0)).collect();
    assert_eq!(marks, [(1, 0), (0, 1)]);
    rig.append(b"two", Level::LocalDisk);
    rig.settle();
    assert_eq!(found(&rig.memory)[2].header.watermark, Offset(1));
    assert!(!rig.log().is_quiet());
    rig.partition.log_mut().expect("it has one").close_soon();
    rig.settle();
    assert!(rig.log().is_quiet());
}

#[test]
fn what_lingers_is_the_only_deadline_until_it_is_written() {
    let mut rig = Rig::ready();
    rig.append(b"one", Level::LocalDisk);
    rig.settle();
    let closes_at = rig.log().next_deadline();
    rig.append(b"two", Level::Memory);
    rig.turn();
    let lingers_until = rig.now + LINGER;
    assert_eq!(rig.log().next_deadline(), lingers_until);
    rig.now = closes_at;
    rig.turn();
    assert_eq!(rig.log().next_deadline(), lingers_until, "nothing is to be done before");
    rig.now = lingers_until;
    rig.settle();
    rig.now = rig.log().next_deadline();
    rig.settle();
    assert!(rig.log().is_quiet());
}

#[test]
fn a_log_grows_over_its_segments_and_loses_nothing() {
    let mut rig = Rig::ready();
    let mut expected = Vec::new();
    for n in 0..400_u32 {
        let bytes = if n % 40 == 3 { 250_000 } else { 5_000 + 131 * (n as usize % 60) };
        let mut payload = vec![n as u8; bytes];
        payload[..4].copy_from_slice(&n.to_le_bytes());
        rig.append(&payload, Level::LocalDisk);
        expected.push(payload);
        if n % 7 == 0 {
            rig.turn();
        }
    }
    rig.settle();
    assert_eq!(rig.offsets(), (0..400).collect::<Vec<_>>());
    assert!(payloads(&rig.memory) == expected);
    let segments = rig.log().segments();
    let sealed: Vec<_> = segments.sealed().iter().map(|s| (s.number, s.file_bytes)).collect();
    assert_eq!(sealed, [(0, 1 << 20), (1, 2 << 20)], "each twice as large, up to the size");
    let mut base = Offset(0);
    for segment in segments.sealed() {
        assert_eq!(segment.base, base);
        base = segment.end;
    }
    assert_eq!(segments.newest().map(|active| active.base), Some(base));
    let batches = found(&rig.memory);
    for pair in batches.windows(2) {
        let rolls = pair[0].number < pair[1].number;
        assert_eq!(pair[0].header.is_last, rolls, "the last one of a segment says so");
        let known = pair[1].header.watermark;
        assert!(!rolls || known == pair[1].header.base_offset, "all before a segment is durable");
    }
}

/// Records of 4 KB, each in a turn of its own.
fn fill(rig: &mut Rig, records: usize) {
    for _ in 0..records {
        rig.append(&[1; 4_000], Level::LocalDisk);
        rig.turn();
    }
    rig.settle();
}

#[test]
fn a_full_disk_refuses_publishes_and_heals() {
    let mut rig = Rig::ready();
    rig.memory.set_capacity(2 << 20);
    fill(&mut rig, 120);
    assert_eq!(rig.partition.admission(), Admission::Full);
    assert_eq!(rig.partition.state_admission(), Admission::Open, "half a segment is left");
    assert_eq!(rig.log().full().map(|error| error.errno), Some(crate::disk::ENOSPC));
    let known = rig.committed.len();
    assert_eq!(known, 120, "what was taken is flushed");
    rig.wait(Duration::from_millis(999));
    rig.settle();
    assert_eq!(rig.partition.admission(), Admission::Full);
    rig.now = rig.log().next_deadline();
    for _ in 0..5 {
        rig.turn();
        assert_eq!(rig.partition.admission(), Admission::Full, "also while it is tried again");
    }
    rig.memory.set_capacity(20 << 20);
    rig.now = rig.log().next_deadline();
    rig.settle();
    assert_eq!(rig.partition.admission(), Admission::Open);
    for _ in 0..400 {
        rig.append(&[2; 4_000], Level::LocalDisk);
    }
    rig.settle();
    assert_eq!(rig.committed.len(), 520);
    assert!(payloads(&rig.memory).len() == 520);
}

/// Appends as long as there is room for a claim, a record of state if it is not for publishes.
fn use_up(rig: &mut Rig, claim: Claim, bytes: usize) -> usize {
    let body = vec![1; bytes];
    let mut taken = 0;
    while rig.partition.admits(claim) == Admission::Open {
        if claim == Claim::Publish {
            rig.append(&body, Level::LocalDisk);
        } else {
            let (kind, client_id, topic) = (RecordKind(16), "c", "");
            let state = StateParts { kind, client_id, topic, body: &body, unix_ms: UNIX_MS };
            rig.partition.append_state(&mut rig.pool, &state, None);
        }
        taken += 1;
        if taken % 3 == 0 {
            rig.turn();
        }
    }
    taken
}

#[test]
fn what_was_taken_finds_room_on_a_full_disk_and_the_rest_is_for_ends() {
    for bytes in [10, 4_000, 250_000] {
        let mut rig = Rig::ready();
        rig.memory.set_capacity(2 << 20);
        let published = use_up(&mut rig, Claim::Publish, bytes);
        assert!(published > 0);
        rig.settle();
        rig.wait(Duration::from_secs(1));
        rig.settle();
        assert_eq!(rig.partition.admission(), Admission::Full);
        let states = use_up(&mut rig, Claim::State(0), bytes);
        assert!(states > 0, "after {published} publishes of {bytes} bytes");
        let upkeeps = use_up(&mut rig, Claim::Upkeep(300), 100);
        assert_eq!(rig.partition.state_admission(), Admission::Full);
        let ends = use_up(&mut rig, Claim::End(300), 100);
        assert!(upkeeps > 100 && ends > 100, "{upkeeps} {ends}");
        rig.settle();
        let marks = rig.partition.marks();
        assert_eq!(marks.flushed, marks.accepted, "{bytes}");
        assert_eq!(rig.committed.len(), published + states + upkeeps + ends);
        assert_eq!(rig.log().segments().count(), 1);
    }
}

#[test]
fn publishes_wait_for_the_next_segment_before_what_is_kept_back() {
    let mut rig = Rig::ready();
    rig.append(&[0], Level::LocalDisk);
    rig.turn();
    rig.memory.hold(true);
    let taken = use_up(&mut rig, Claim::Publish, 4_000);
    assert_eq!(rig.partition.admission(), Admission::Busy, "nobody knows of a full disk");
    assert_eq!(rig.partition.state_admission(), Admission::Open);
    rig.memory.hold(false);
    rig.settle();
    assert_eq!(rig.partition.admission(), Admission::Open);
    assert_eq!(rig.committed.len(), taken + 1);
}

#[test]
fn a_full_disk_keeps_what_was_taken_until_there_is_room() {
    let mut rig = Rig::ready();
    rig.memory.set_capacity(2 << 20);
    fill(&mut rig, 500);
    assert_eq!(rig.partition.state_admission(), Admission::Full);
    let before = rig.committed.len();
    assert!((200..300).contains(&before), "one segment: {before}");
    rig.memory.set_capacity(20 << 20);
    rig.wait(Duration::from_secs(1));
    rig.settle();
    assert_eq!(rig.offsets(), (0..500).collect::<Vec<_>>());
}

/// A log whose first segment has room for all that may be queued.
fn roomy() -> Rig {
    Rig::ready_with(LogSetup { record_bytes_max: 20 << 20, ..setup(5) })
}

#[test]
fn a_disk_that_is_behind_is_back_pressure() {
    let mut rig = roomy();
    rig.append(&[0], Level::LocalDisk);
    rig.turn();
    rig.memory.hold(true);
    let mut taken = 0;
    while rig.partition.admission() == Admission::Open {
        rig.append(&[1; 200_000], Level::LocalDisk);
        rig.turn();
        taken += 1;
    }
    assert!((80..90).contains(&taken), "16 MiB: {taken}");
    assert_eq!(rig.partition.admission(), Admission::Busy);
    assert_eq!(rig.partition.state_admission(), Admission::Open);
    rig.memory.hold(false);
    rig.settle();
    assert_eq!(rig.partition.admission(), Admission::Open);
    assert_eq!(rig.committed.len(), taken + 1);
    assert_eq!(rig.log().queue_bytes(), 0);
}

#[test]
fn many_small_batches_are_back_pressure_too() {
    let mut rig = roomy();
    rig.append(&[0], Level::LocalDisk);
    rig.turn();
    rig.memory.hold(true);
    let mut taken = 0;
    while rig.partition.admission() == Admission::Open {
        rig.append(&[1], Level::Memory);
        rig.turn();
        taken += 1;
    }
    assert_eq!(taken, QUEUE_BATCHES_MAX);
    rig.memory.hold(false);
    rig.settle();
    assert_eq!(rig.partition.admission(), Admission::Open);
}

#[test]
fn an_error_of_the_disk_ends_the_log_for_good() {
    for operation in [Operation::Write, Operation::Sync] {
        let mut rig = Rig::ready();
        rig.append(b"good", Level::LocalDisk);
        rig.settle();
        rig.wait(CLOSE_AFTER);
        rig.settle();
        rig.memory.fail(operation, ".log", EIO);
        rig.append(b"never acknowledged", Level::LocalDisk);
        rig.settle();
        assert_eq!(rig.offsets(), [0], "{operation:?}");
        assert_eq!(rig.partition.admission(), Admission::Poisoned);
        assert_eq!(rig.partition.state_admission(), Admission::Poisoned);
        let fault = rig.log().fault().expect("it is told").clone();
        assert_eq!(name(&fault.path), "00000000000000000000.log");
        assert_eq!(fault.error.errno, EIO);
        assert!(fault.position > SEGMENT_HEADER_BYTES);
        let at = if operation == Operation::Write { FaultAt::Write } else { FaultAt::Sync };
        assert_eq!(fault.at, at);
        let syncs = rig.memory.sync_count();
        rig.append(b"nor this", Level::LocalDisk);
        rig.wait(Duration::from_secs(5));
        rig.settle();
        assert_eq!((rig.offsets(), rig.memory.sync_count()), (vec![0], syncs), "nothing retried");
        assert_eq!(rig.log().next_deadline(), Nanos::NEVER);
    }
}

#[test]
fn a_log_that_has_ended_keeps_nothing() {
    let mut rig = Rig::ready();
    rig.memory.fail(Operation::Sync, ".log", EIO);
    for n in 0..5 {
        rig.append(&[n], Level::LocalDisk);
        rig.append(&[n], Level::Memory);
        rig.turn();
    }
    rig.settle();
    assert_eq!(rig.partition.admission(), Admission::Poisoned);
    assert_eq!(rig.offsets(), [1, 3, 5, 7, 9], "in memory all is well");
    assert_eq!((rig.pool.read_count(), rig.meter.bytes()), (0, 0), "what waited was let go");
    for n in 0..10 {
        let state = StateParts {
            kind: RecordKind::STATE_FIRST,
            client_id: "meter-7",
            topic: "",
            body: &[0; 5000],
            unix_ms: UNIX_MS,
        };
        let offset = rig.partition.append_state(&mut rig.pool, &state, Some(99));
        assert_eq!(offset, Offset(10 + 3 * n), "offsets go on");
        rig.append(b"memory", Level::Memory);
        rig.append(b"disk", Level::LocalDisk);
        rig.turn();
    }
    rig.settle();
    assert_eq!(rig.committed.len(), 15);
    assert!(rig.committed.iter().all(|(_, level, _)| *level == Level::Memory));
    assert_eq!((rig.pool.read_count(), rig.meter.bytes()), (0, 0));
}

#[test]
fn trimming_removes_whole_segments_below_the_mark() {
    let mut rig = Rig::ready();
    for _ in 0..400 {
        rig.append(&[1; 10_000], Level::LocalDisk);
        rig.turn();
    }
    rig.settle();
    let ends: Vec<_> = rig.log().segments().sealed().iter().map(|s| s.end).collect();
    assert_eq!(ends.len(), 2);
    let below = Offset(ends[1].0 - 1);
    rig.partition.log_mut().expect("it has one").trim(below);
    assert_eq!(rig.partition.marks().start, ends[0]);
    let old = |rig: &Rig| {
        let paths = rig.memory.paths();
        paths.iter().any(|path| name(path).starts_with("00000000000000000000"))
    };
    let said = |rig: &Rig| last_log_start(&rig.memory) == ends[0];
    for _ in 0..10 {
        assert!(old(&rig) || said(&rig), "nothing is removed before a batch says so");
        rig.turn();
    }
    assert!(!old(&rig) && said(&rig), "a closing batch does");
    let (recovered, records) = recovered(&rig.memory);
    assert_eq!((recovered.log_start, records.len() as u64), (ends[0], 400 - ends[0].0));
    rig.append(b"one more", Level::LocalDisk);
    rig.settle();
    assert_eq!(last_log_start(&rig.memory), ends[0]);
}

fn last_log_start(memory: &MemoryDisk) -> Offset {
    found(memory).last().map(|batch| batch.header.log_start).expect("there are batches")
}

#[test]
fn the_newest_segment_with_records_is_never_trimmed() {
    let mut rig = Rig::ready();
    rig.memory.set_capacity(2 << 20);
    fill(&mut rig, 500);
    let segments = rig.log().segments();
    assert!(segments.sealed().len() == 1 && segments.newest().is_none(), "no room for another");
    let end = rig.partition.marks().flushed;
    rig.partition.log_mut().expect("it has one").trim(end);
    rig.settle();
    assert_eq!(rig.partition.marks().start, Offset(0));
    assert_eq!(recovered(&rig.memory).0.next_offset, end, "it says where offsets go on");
    rig.memory.set_capacity(20 << 20);
    rig.wait(Duration::from_secs(1));
    rig.settle();
    rig.partition.log_mut().expect("it has one").trim(end);
    rig.settle();
    let (found, _) = recovered(&rig.memory);
    assert_eq!((found.log_start, found.next_offset), (end, Offset(500)), "another one does");
}

#[test]
fn an_index_that_cannot_be_written_refuses_no_start() {
    let mut rig = Rig::ready();
    rig.memory.fail(Operation::Replace, ".index", EIO);
    for _ in 0..200 {
        rig.append(&[1; 10_000], Level::LocalDisk);
        rig.turn();
    }
    rig.settle();
    assert_eq!((rig.log().segments().sealed().len(), rig.log().segments().failed_jobs()), (1, 1));
    rig.memory.fail(Operation::Replace, ".index", crate::disk::ENOSPC);
    let (opened, records) = recovered(&rig.memory);
    assert_eq!((records.len(), opened.segments[0].has_index), (200, false));
    assert!(recovered(&rig.memory).0.segments[0].has_index, "the next start has room");
}

#[test]
#[should_panic(expected = "a crash is no damage")]
fn a_directory_that_cannot_be_synced_is_not_believed() {
    let mut rig = Rig::ready();
    rig.append(b"one", Level::LocalDisk);
    rig.settle();
    rig.memory.fail(Operation::Sync, "partitions/0003", EIO);
    recovered(&rig.memory);
}
