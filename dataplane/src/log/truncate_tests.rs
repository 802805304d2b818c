//! Tests of truncation: at every record, with the power lost in every step of it; and of logs that are
//! appended to by another node, in its epochs.

use super::epoch_table::{KnownEpochs, epoch_table};
use super::format::{BatchHeader, SEGMENT_HEADER_BYTES, SegmentId, segment_name};
use super::recovery::{RecoverError, ReplayFrom, inspect, recover};
use super::rig::{OWNER, Rig, recovered, setup};
use super::scan::GoodBatch;
use super::segments::{LogEnd, LogSetup};
use super::truncate::truncate;
use crate::batch::Level;
use crate::disk::StartFiles;
use crate::disk::memory::MemoryDisk;
use crate::ids::Offset;
use crate::replication::epochs::{EpochStart, EpochTable};
use core::cell::Cell;
use core::time::Duration;
use std::io;
use std::path::{Path, PathBuf};

pub(super) type Records = Vec<(u64, u64, Vec<u8>)>;

const NEW: SegmentId = SegmentId([0x5A; 16]);

/// Segments do not grow.
pub(super) fn rig(memory: MemoryDisk, end: LogEnd, epoch: u64) -> Rig {
    let mut rig = Rig::with_setup(memory, end, LogSetup { segment_bytes: 1 << 20, ..setup(epoch) });
    rig.turn();
    rig.turn();
    rig
}

/// Three segments, batches of three small records and of a large one, and three epochs.
pub(super) fn log() -> (MemoryDisk, Records) {
    let mut rig = rig(MemoryDisk::new(), LogEnd::default(), 5);
    for turn in 0..9_u8 {
        if turn % 3 == 2 {
            rig.partition.begin_epoch(&mut rig.pool, 5 + u64::from(turn), 1);
        }
        for small in 0..3 {
            rig.append(&vec![turn; 100 + small], Level::LocalDisk);
        }
        rig.turn();
        rig.append(&vec![turn; 250_000], Level::LocalDisk);
        for _ in 0..20 {
            rig.turn();
        }
    }
    rig.settle();
    rig.wait(Duration::from_millis(10));
    rig.settle();
    let (found, records) = recovered(&rig.memory);
    assert_eq!((found.segments.len(), records.len()), (3, 39));
    (rig.memory, records)
}

pub(super) fn copy(memory: &MemoryDisk) -> MemoryDisk {
    let copied = MemoryDisk::new();
    for path in memory.paths() {
        copied.put(&path, &memory.content(&path).expect("it is listed"));
    }
    copied
}

fn directory() -> PathBuf {
    setup(1).directory
}

/// What happens of the change in which the power is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Nothing,
    All,
}

/// Files that are changed so often, and then the power is lost.
pub(super) struct Interrupted {
    pub(super) files: MemoryDisk,
    pub(super) left: Cell<u32>,
    pub(super) fate: Fate,
}

impl Interrupted {
    fn change(&self) -> Result<(), bool> {
        match self.left.get() {
            0 => Err(false),
            1 => {
                self.left.set(0);
                Err(self.fate == Fate::All)
            }
            left => {
                self.left.set(left - 1);
                Ok(())
            }
        }
    }

    fn changed(&mut self, do_it: impl FnOnce(&mut MemoryDisk) -> io::Result<()>) -> io::Result<()> {
        match self.change() {
            Ok(()) => do_it(&mut self.files),
            Err(happens) => {
                if happens {
                    do_it(&mut self.files)?;
                }
                Err(io::Error::other("the power is lost"))
            }
        }
    }
}

impl StartFiles for Interrupted {
    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.files.list(directory)
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        StartFiles::len(&self.files, path)
    }

    fn read_at(&self, path: &Path, position: u64, into: &mut [u8]) -> io::Result<usize> {
        self.files.read_at(path, position, into)
    }

    fn zero_from(&mut self, path: &Path, position: u64) -> io::Result<()> {
        self.changed(|files| files.zero_from(path, position))
    }

    fn remove(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        assert!(paths.len() <= 1, "several at once may vanish in any order");
        if paths.is_empty() {
            return Ok(());
        }
        self.changed(|files| files.remove(paths))
    }

    fn replace(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.changed(|files| files.replace(path, content))
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.changed(|files| files.rename(from, to))
    }

    fn make_directory(&mut self, path: &Path) -> io::Result<()> {
        self.files.make_directory(path)
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        self.files.sync(path)
    }

    fn sync_directory(&mut self, path: &Path) -> io::Result<()> {
        self.files.sync_directory(path)
    }
}

fn cut(files: &mut dyn StartFiles, to: u64) -> bool {
    truncate(files, &directory(), &OWNER, None, Offset(to), NEW).is_ok()
}

fn table_of(records: &Records) -> EpochTable {
    let mut table = EpochTable::new();
    records.iter().for_each(|(offset, epoch, _)| table.push(*epoch, Offset(*offset)));
    table
}

/// The log holds exactly these records, says that they are durable, and goes on.
fn holds(memory: &MemoryDisk, expected: &Records) {
    let (found, records) = recovered(memory);
    assert_eq!(&records, expected);
    let next = Offset(expected.len() as u64);
    assert_eq!((found.next_offset, &found.torn), (next, &None));
    let epochs = epoch_table(memory, &directory(), &found, None).expect("it is readable");
    assert_eq!(epochs.table, table_of(expected));
    let mut rig = rig(memory.clone(), found.log_end(), 99);
    rig.append(b"more", Level::LocalDisk);
    rig.settle();
    rig.wait(Duration::from_millis(10));
    rig.settle();
    let (_, records) = recovered(memory);
    let more = (next.0, 99, b"more".to_vec());
    assert_eq!(
        (&records[..expected.len()], &records[expected.len()..]),
        (&expected[..], &[more][..])
    );
}

#[test]
fn a_log_is_truncated_at_any_record() {
    let (memory, records) = log();
    for to in 0..=records.len() {
        let mut files = copy(&memory);
        assert!(cut(&mut files, to as u64), "to {to}");
        assert!(cut(&mut files, to as u64), "to {to}, again");
        holds(&files, &records[..to].to_vec());
    }
}

/// Where the second batch of the last segment begins.
fn second_of_the_last(memory: &MemoryDisk) -> ReplayFrom {
    let (found, _) = recovered(memory);
    let last = &found.segments[2];
    let mut places = Vec::new();
    let looked = inspect(memory, &directory(), &OWNER, None, Offset(0), &mut |number, batch| {
        places.push((number, batch.position, batch.header.base_offset))
    });
    assert!(looked.is_ok());
    let place = places.iter().filter(|(number, ..)| *number == last.number).nth(1);
    let (segment, position, offset) = *place.expect("it has two batches");
    ReplayFrom { offset, segment, position, flushed: offset }
}

/// What a checkpoint holds is not read at a start, so that nobody has seen it.
#[test]
fn damage_below_a_checkpoint_is_told_and_nothing_is_changed() {
    let (memory, records) = log();
    let from = second_of_the_last(&memory);
    let path = directory().join(segment_name(from.segment));
    let mut bytes = memory.content(&path).expect("it is there");
    bytes[SEGMENT_HEADER_BYTES as usize + 200] ^= 1;
    memory.put(&path, &bytes);
    let mut files = copy(&memory);
    for to in from.offset.0 + 1..records.len() as u64 {
        let cut = truncate(&mut files, &directory(), &OWNER, Some(&from), Offset(to), NEW);
        let Err(RecoverError::Damaged(damage)) = cut else { panic!("to {to}: {cut:?}") };
        assert_eq!((damage.segment(), damage.position), (Some(from.segment), SEGMENT_HEADER_BYTES));
        assert_eq!(files.content(&path).as_ref(), Some(&bytes), "to {to}");
    }
}

#[test]
fn a_checkpoint_still_says_where_replay_begins() {
    let (memory, records) = log();
    let from = second_of_the_last(&memory);
    let offset = from.offset;
    for to in offset.0..=records.len() as u64 {
        let mut files = copy(&memory);
        let cut = truncate(&mut files, &directory(), &OWNER, Some(&from), Offset(to), NEW);
        assert!(cut.is_ok(), "to {to}");
        let mut replayed = Vec::new();
        let found = recover(&mut files, &directory(), &OWNER, Some(&from), &mut |record| {
            replayed.push(record.head.offset.0);
        });
        assert_eq!(found.expect("it is whole").next_offset, Offset(to));
        assert_eq!(replayed, (offset.0..to).collect::<Vec<_>>());
    }
}

#[test]
fn power_that_is_lost_in_any_step_leaves_a_log_that_lacks_nothing_below_the_boundary() {
    let (memory, records) = log();
    let ends: Vec<u64> =
        recovered(&memory).0.segments.iter().map(|segment| segment.base.0).collect();
    let mut interrupted = 0;
    for to in (0..records.len() as u64).step_by(5).chain(ends.iter().copied()) {
        for (step, fate) in (1..20).flat_map(|step| [(step, Fate::Nothing), (step, Fate::All)]) {
            let files = copy(&memory);
            let mut files = Interrupted { files, left: Cell::new(step), fate };
            if cut(&mut files, to) {
                break;
            }
            interrupted += 1;
            files.files.crash(step.into());
            let (found, left) = recovered(&files.files);
            let next = found.next_offset.0;
            assert!(next == to || next == 39 || ends.contains(&next), "{next} in step {step}");
            assert_eq!(left, records[..next as usize], "to {to}, step {step}");
            assert!(to <= next, "records below {to} are missing");
            assert!(cut(&mut files.files, to));
            assert_eq!(recovered(&files.files).1, records[..to as usize]);
        }
    }
    assert!(interrupted > 60, "{interrupted}");
}

/// Only the newest batch says where the log begins, and it goes.
#[test]
fn a_log_that_was_trimmed_still_says_so_when_it_has_lost_its_end() {
    let (logged, records) = log();
    let memory = copy(&logged);
    let start = recovered(&memory).0.segments[1].base.0;
    let mut rig = rig(memory.clone(), recovered(&memory).0.log_end(), 20);
    rig.partition.log_mut().expect("it has one").trim(Offset(start));
    rig.settle();
    let (found, left) = recovered(&memory);
    assert_eq!((found.log_start, found.segments.len()), (Offset(start), 2));
    assert_eq!(left, records[start as usize..]);
    let mut interrupted = 0;
    for to in start..records.len() as u64 {
        for (step, fate) in (1..20).flat_map(|step| [(step, Fate::Nothing), (step, Fate::All)]) {
            let mut files = Interrupted { files: copy(&memory), left: Cell::new(step), fate };
            let is_done = cut(&mut files, to);
            files.files.crash(step.into());
            let (found, left) = recovered(&files.files);
            assert_eq!(found.log_start, Offset(start), "to {to}, step {step}");
            assert!(to <= found.next_offset.0, "records below {to} are missing");
            assert_eq!(left, records[start as usize..found.next_offset.0 as usize]);
            assert!(cut(&mut files.files, to));
            let (found, left) = recovered(&files.files);
            assert_eq!((found.log_start, &found.torn), (Offset(start), &None));
            assert_eq!(left, records[start as usize..to as usize], "to {to}, step {step}");
            if is_done {
                break;
            }
            interrupted += 1;
        }
    }
    assert!(interrupted > 30, "{interrupted}");
}

/// The batches of a log, with what is in them.
fn batches(memory: &MemoryDisk) -> Vec<(BatchHeader, Vec<u8>)> {
    let mut batches = Vec::new();
    let take = &mut |_, batch: &GoodBatch<'_>| batches.push((batch.header, batch.body().to_vec()));
    let found = inspect(memory, &directory(), &OWNER, None, Offset(0), take);
    assert!(found.is_ok());
    batches
}

#[test]
fn a_follower_holds_what_it_is_sent_in_the_epochs_of_its_leaders() {
    let (memory, records) = log();
    let mut rig = rig(MemoryDisk::new(), LogEnd::default(), 5);
    // The log was begun in epoch 5, and so were its first records.
    for (header, body) in batches(&memory).into_iter().filter(|(header, _)| !header.is_closing()) {
        assert_eq!(rig.partition.next_offset(), header.base_offset);
        let batch = rig.pool.copy_records(&body, header.records);
        rig.partition.append_records(batch.clone(), header.epoch);
        rig.pool.give_out(batch);
        for _ in 0..8 {
            rig.turn();
        }
    }
    rig.settle();
    rig.wait(Duration::from_millis(10));
    rig.settle();
    assert_eq!(rig.log().marks().flushed, Offset(39));
    assert!(rig.committed.is_empty(), "nobody waits for them");
    rig.partition.begin_epoch(&mut rig.pool, 40, 1);
    let mark = crate::log::writer::QuorumMarks { accepted: Offset(39), flushed: Offset(39) };
    rig.partition.log_mut().expect("it has one").note_quorum(mark);
    rig.settle();
    let sealed: Vec<_> = rig.partition.log_mut().expect("it has one").take_sealed().collect();
    assert_eq!(sealed.iter().map(|(_, first)| first.0).collect::<Vec<_>>(), [39]);
    let (found, copied) = recovered(&rig.memory);
    assert_eq!(copied[..39], records);
    assert_eq!((copied[39].0, copied[39].1), (39, 40));
    let epochs = epoch_table(&rig.memory, &directory(), &found, None).expect("it is readable");
    assert_eq!(epochs.table, table_of(&copied));
}

/// An epoch that begins behind a damaged header is not missed: it is found, or the damage is said. Where a
/// checkpoint knows what is in front of it, damage there does no harm.
#[test]
fn a_header_that_is_damaged_in_front_of_a_checkpoint_hides_no_epoch() {
    let (memory, records) = log();
    let (found, _) = recovered(&memory);
    let (expected, directory) = (table_of(&records), directory());
    let mut places = Vec::new();
    let looked = inspect(&memory, &directory, &OWNER, None, Offset(0), &mut |segment, batch| {
        places.push((segment, batch.position, batch.header));
    });
    assert!(looked.is_ok());
    let mut said = 0;
    for (segment, position, header) in places.iter().copied() {
        let memory = copy(&memory);
        let path = directory.join(segment_name(segment));
        memory.damage(&path, |content| content[position as usize + 20] ^= 1);
        let offset = header.next_offset();
        let behind = match header.is_last {
            true => (segment + 1, SEGMENT_HEADER_BYTES),
            false => (segment, position + header.bytes()),
        };
        let from = ReplayFrom { offset, segment: behind.0, position: behind.1, flushed: offset };
        let known = KnownEpochs { starts: expected.starts().to_vec(), from };
        let epochs = epoch_table(&memory, &directory, &found, Some(&known)).expect("it is known");
        assert_eq!(epochs.table, expected, "{segment}, {position}");
        match epoch_table(&memory, &directory, &found, None) {
            Ok(epochs) => assert_eq!(epochs.table, expected, "{segment}, {position}"),
            Err(error) => {
                assert!(error.to_string().contains(&format!("position {position}")), "{error}");
                said += 1;
            }
        }
    }
    assert!(0 < said && said < places.len(), "{said} of {}", places.len());
}

/// Wherever a checkpoint lies, what it knows of the epochs is not read, and what it is wrong about is.
#[test]
fn epochs_that_a_checkpoint_knows_are_not_read_again() {
    let (memory, records) = log();
    let (found, _) = recovered(&memory);
    let expected = table_of(&records);
    let directory = directory();
    let find = |known: Option<&KnownEpochs>| {
        let epochs = epoch_table(&memory, &directory, &found, known).expect("it is readable");
        assert_eq!(epochs.table, expected);
        epochs.segments_read
    };
    let all = find(None);
    assert_eq!(all, 2, "an epoch begins in so many");
    let right = |offset: u64| KnownEpochs {
        starts: expected.starts().to_vec(),
        from: ReplayFrom {
            offset: Offset(offset),
            segment: 0,
            position: 0,
            flushed: Offset(offset),
        },
    };
    let mut read = Vec::new();
    for batch in batches(&memory).into_iter().filter(|(header, _)| !header.is_closing()) {
        read.push(find(Some(&right(batch.0.base_offset.0))));
    }
    assert!(read.is_sorted_by(|one, other| one >= other), "{read:?}");
    assert_eq!((read.first(), read.last()), (Some(&all), Some(&0)));
    assert_eq!(find(Some(&right(records.len() as u64))), 0);

    // One that ends behind the log, knows of the first records nothing, or names others goes with another log.
    assert_eq!(find(Some(&right(records.len() as u64 + 1))), all);
    let mut known = right(records.len() as u64);
    known.starts[0].epoch += 1;
    assert_eq!(find(Some(&known)), all);
    known.starts.remove(0);
    assert_eq!(find(Some(&known)), all);
    let EpochStart { epoch, first } = expected.starts()[1];
    let mut known = right(records.len() as u64);
    known.starts[0] = EpochStart { epoch: epoch + 1, first: Offset(first.0 - 1) };
    assert_eq!(find(Some(&known)), all, "they do not rise");
    // 7 from 8 on, 10 from 21 on, 13 from 34 on, and segments from 0, 20 and 38 on.
    for (epoch, why) in [(60, "none is so new"), (12, "an older one follows")] {
        let mut known = right(30);
        known.starts.retain(|start| start.first < Offset(29));
        known.starts.push(EpochStart { epoch, first: Offset(29) });
        assert_eq!(find(Some(&known)), all, "{why}");
    }
}

/// A log of two records of epoch 69, in a batch each.
fn two_of_epoch_69() -> Vec<(BatchHeader, Vec<u8>)> {
    let mut rig = rig(MemoryDisk::new(), LogEnd::default(), 69);
    for _ in 0..2 {
        rig.append(b"of epoch 69", Level::LocalDisk);
        rig.settle();
    }
    let batches = batches(&rig.memory);
    assert_eq!(batches.len(), 2);
    batches
}

#[test]
fn an_epoch_without_a_record_keeps_no_older_ones_out() {
    let batches = two_of_epoch_69();
    let mut rig = rig(MemoryDisk::new(), LogEnd::default(), 69);
    let append = |rig: &mut Rig, (header, body): &(BatchHeader, Vec<u8>)| {
        let batch = rig.pool.copy_records(body, header.records);
        rig.partition.append_records(batch.clone(), header.epoch);
        rig.pool.give_out(batch);
    };
    append(&mut rig, &batches[0]);
    rig.settle();
    rig.partition.begin_epoch(&mut rig.pool, 72, 1);
    rig.partition.abandon();
    assert_eq!(rig.partition.next_offset(), Offset(1), "its first record was not sealed");
    // The leader of epoch 74 has a record of epoch 69 that this node lacked.
    append(&mut rig, &batches[1]);
    rig.partition.begin_epoch(&mut rig.pool, 74, 1);
    rig.settle();
    rig.wait(Duration::from_millis(10));
    rig.settle();
    let (_, records) = recovered(&rig.memory);
    let epochs: Vec<_> = records.iter().map(|(offset, epoch, _)| (*offset, *epoch)).collect();
    assert_eq!(epochs, [(0, 69), (1, 69), (2, 74)]);
}

#[test]
#[should_panic(expected = "epoch 71 does not come behind epoch 72")]
fn a_record_of_an_older_epoch_does_not_come_behind_a_newer_one() {
    let mut rig = rig(MemoryDisk::new(), LogEnd::default(), 69);
    rig.partition.begin_epoch(&mut rig.pool, 72, 1);
    rig.settle();
    rig.partition.abandon();
    rig.partition.log_mut().expect("it has one").begin_epoch(71);
}
