//! Reading again, beside a writer, on a disk in memory.

use super::super::format::{index_name, segment_name};
use super::super::recovery::{ReplayFrom, recover};
use super::super::rig::{OWNER, READER_TAG, Rig, UNIX_MS, setup};
use super::*;
use crate::batch::Level;
use crate::disk::EIO;
use crate::disk::memory::Operation;

impl Rig {
    /// What is read from `from` up to the flushed mark: offsets with the first bytes of payloads,
    /// and what was lost.
    fn read_all(&mut self, from: u64) -> (Vec<(u64, u8)>, Vec<ReadError>) {
        if self.reader.is_none() {
            self.read_from(from);
        }
        if let Some(reader) = &mut self.reader {
            reader.seek(Offset(from));
        }
        self.read_on()
    }

    /// What the reader has before it.
    fn read_on(&mut self) -> (Vec<(u64, u8)>, Vec<ReadError>) {
        let mut reader = self.reader.take().expect("one that reads");
        let (mut records, mut lost) = (Vec::new(), Vec::new());
        let end = self.partition.marks().flushed;
        for _ in 0..5_000 {
            loop {
                match reader.next_record() {
                    Next::Record(record) => {
                        assert_eq!((record.client_id, record.topic), ("meter-7", "plant/7"));
                        assert_eq!(record.properties, [1, 2]);
                        assert!(UNIX_MS <= record.head.unix_ms);
                        records.push((record.head.offset.0, record.payload[0]));
                    }
                    Next::Lost(error) => lost.push(error),
                    Next::Wait => break,
                }
            }
            if end <= reader.offset() && !reader.is_waiting() {
                break;
            }
            reader.ask(self.partition.log().expect("it has one"), &mut self.disk);
            self.reader = Some(reader);
            self.turn();
            reader = self.reader.take().expect("put there");
        }
        assert!(end <= reader.offset(), "it comes to the end");
        self.reader = Some(reader);
        (records, lost)
    }

    /// A log of so many records, with their numbers in their payloads.
    fn filled(count: u64, bytes: usize) -> Self {
        let mut rig = Self::ready();
        for n in 0..count {
            rig.append(&vec![n as u8; bytes], Level::LocalDisk);
            if n % 5 == 0 {
                rig.turn();
            }
        }
        rig.settle();
        rig
    }

    fn damage(&self, segment: u64, at: usize) {
        self.memory.damage(&setup(5).directory.join(segment_name(segment)), |bytes| bytes[at] ^= 1);
    }
}

fn expected(from: u64, to: u64) -> Vec<(u64, u8)> {
    (from..to).map(|offset| (offset, offset as u8)).collect()
}

#[test]
fn all_is_read_from_any_offset_over_all_segments() {
    let mut rig = Rig::filled(1000, 7_000);
    assert_eq!(rig.log().segments().sealed().len(), 2);
    for from in [0, 1, 17, 149, 150, 151, 400, 444, 700, 999, 1000, 3] {
        assert_eq!(rig.read_all(from), (expected(from, 1000), vec![]), "from {from}");
    }
    rig.reader = None;
    assert_eq!(rig.read_all(500), (expected(500, 1000), vec![]), "a reader that begins there");
}

#[test]
fn a_reader_follows_the_writer_and_sees_nothing_that_is_not_flushed() {
    let mut rig = Rig::ready();
    let mut seen = Vec::new();
    for n in 0..200_u64 {
        rig.append(&[n as u8; 20_000], Level::LocalDisk);
        rig.turn();
        let flushed = rig.partition.marks().flushed.0;
        assert!(flushed <= n, "it is not there at once");
        if flushed > 0 {
            let from = seen.len() as u64;
            let (records, lost) = rig.read_all(from);
            assert!(lost.is_empty());
            seen.extend(records);
        }
    }
    rig.settle();
    seen.extend(rig.read_all(seen.len() as u64).0);
    assert_eq!(seen, expected(0, 200));
}

#[test]
fn records_larger_than_the_window_are_read() {
    let mut rig = Rig::filled(20, 250_000);
    assert_eq!(rig.read_all(3), (expected(3, 20), vec![]));
}

#[test]
fn without_its_index_a_segment_is_read_from_its_beginning() {
    let mut rig = Rig::filled(1000, 7_000);
    let path = setup(5).directory.join(index_name(0));
    rig.memory.damage(&path, |bytes| bytes.truncate(20));
    assert_eq!(rig.read_all(100), (expected(100, 1000), vec![]));
    let index = setup(5).directory.join(index_name(1));
    let job = FileJob::Remove { paths: vec![index, path] };
    rig.disk.push(DiskCommand::Job { token: DiskToken(1 << 40), job });
    assert_eq!(rig.read_all(120), (expected(120, 1000), vec![]));
    assert_eq!(rig.read_all(300), (expected(300, 1000), vec![]));
}

#[test]
fn a_damaged_record_is_named_and_costs_its_batch_alone() {
    let mut rig = Rig::filled(1000, 7_000);
    rig.damage(0, 300_000);
    let (records, lost) = rig.read_all(0);
    assert_eq!(lost.len(), 1);
    let ReadError { path, position, lost, failure } = &lost[0];
    assert!(path.ends_with(segment_name(0)));
    assert!((290_000..300_000).contains(position), "{position}");
    assert_eq!(*failure, ReadFailure::Record(RecordError::Checksum));
    let mut left = expected(0, 1000);
    left.retain(|(offset, _)| !(lost.start.0..lost.end.0).contains(offset));
    assert_eq!(records, left);
    assert!(left.len() >= 993, "a batch has few records here: {lost:?}");
}

#[test]
fn behind_a_damaged_header_reading_goes_on_with_the_index() {
    let mut rig = Rig::filled(1000, 7_000);
    let sealed = rig.log().segments().sealed()[0].clone();
    let content = rig.memory.content(&setup(5).directory.join(segment_name(0))).expect("there");
    let magic = super::super::format::BATCH_MAGIC.to_le_bytes();
    let header = (300_000..).step_by(8).find(|at| content[*at..*at + 4] == magic).expect("there");
    rig.damage(0, header + 20);
    let (records, lost) = rig.read_all(0);
    assert_eq!((lost.len(), lost[0].position), (1, header as u64));
    assert_eq!(lost[0].failure, ReadFailure::Header(HeaderError::Checksum));
    let to = lost[0].lost.end;
    assert!(to < sealed.end && to.0 < lost[0].lost.start.0 + 25, "as far as the index: {to:?}");
    assert_eq!(records.len() as u64, 1000 - (to.0 - lost[0].lost.start.0));
}

/// What a reader reads that begins at a time: it leaves out much of what is older, and nothing else.
#[test]
fn reading_begins_at_a_time() {
    let mut rig = Rig::ready();
    for n in 0..1000 {
        // One record each millisecond, and the clock jumps back by 100 ms in the middle.
        rig.unix_ms = UNIX_MS + if n < 500 { n } else { n - 100 };
        rig.append(&vec![n as u8; 7_000], Level::LocalDisk);
        rig.turn();
        rig.turn();
        rig.turn();
    }
    rig.settle();
    assert_eq!(rig.log().segments().sealed().len(), 2);
    for (after, first) in
        [(0_u64, 0_u64), (1, 1), (30, 30), (170, 170), (490, 490), (499, 499), (600, 700)]
    {
        rig.reader = Some(Reader::since(rig.log(), READER_TAG, UNIX_MS + after));
        let (records, lost) = rig.read_on();
        assert!(lost.is_empty());
        let begins = records[0].0;
        assert!((first.saturating_sub(40)..=first).contains(&begins), "{after}: {begins}");
        assert_eq!(records, expected(begins, 1000));
    }
    rig.reader = Some(Reader::since(rig.log(), READER_TAG, UNIX_MS + 5_000));
    assert!(rig.read_on().0.len() < 400, "at most the segment that is written");
    rig.reader = Some(Reader::since(rig.log(), READER_TAG, 0));
    assert_eq!(rig.read_on().0, expected(0, 1000));
}

/// A clock that was ahead and is set back hides nothing of what was accepted before, neither beside
/// the writer nor after a start that reads only the last segment.
#[test]
fn a_clock_that_is_set_back_hides_nothing() {
    let mut rig = Rig::ready();
    for n in 0..1000 {
        rig.unix_ms = UNIX_MS + if n < 100 { 3_600_000 } else { n };
        rig.append(&[n as u8; 7_000], Level::LocalDisk);
        rig.turn();
        rig.turn();
    }
    rig.settle();
    let begin = |rig: &Rig, after| Reader::since(rig.log(), READER_TAG, UNIX_MS + after).offset();
    assert_eq!(begin(&rig, 1_800_000), Offset(0));
    let sealed = rig.log().segments().sealed();
    assert_eq!(sealed.len(), 2);
    let (offset, flushed) = (sealed[1].end, rig.partition.marks().flushed);
    let from = ReplayFrom { offset, segment: 2, position: SEGMENT_HEADER_BYTES, flushed };
    let directory = setup(1).directory;
    let found = recover(&mut rig.memory.clone(), &directory, &OWNER, Some(&from), &mut |_| {});
    let end = found.expect("a good log").log_end();
    assert!(end.sealed.iter().all(|segment| UNIX_MS + 3_600_000 <= segment.last_unix_ms));
    let rig = Rig::open(rig.memory, end, 6);
    assert_eq!(begin(&rig, 1_800_000), Offset(0));
}

#[test]
fn an_error_of_the_disk_costs_a_range_and_not_the_reader() {
    let mut rig = Rig::filled(1000, 7_000);
    rig.memory.fail(Operation::Read, ".log", EIO);
    let (records, lost) = rig.read_all(0);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].failure, ReadFailure::Disk(DiskError::from_errno(EIO)));
    assert_eq!(records.len() as u64 + lost[0].lost.end.0 - lost[0].lost.start.0, 1000);
    assert!(records.len() > 950, "{lost:?}");
    rig.memory.fail(Operation::Open, &segment_name(1), EIO);
    rig.reader = None;
    let (records, lost) = rig.read_all(0);
    let sealed = &rig.log().segments().sealed()[1];
    assert_eq!((lost[0].lost.start, lost[0].lost.end), (sealed.base, sealed.end));
    assert_eq!(records.len() as u64, 1000 - (sealed.end.0 - sealed.base.0));
}

#[test]
fn a_lack_of_descriptors_or_memory_costs_nothing() {
    const EMFILE: i32 = 24;
    let mut rig = Rig::filled(1000, 7_000);
    for part in [index_name(0), segment_name(0), segment_name(1), segment_name(2)] {
        rig.memory.fail(Operation::Open, &part, EMFILE);
    }
    rig.memory.fail(Operation::Read, ".log", 12);
    assert_eq!(rig.read_all(0), (expected(0, 1000), vec![]));
    let reader = rig.reader.as_mut().expect("it has read");
    assert!(reader.take_put_off() && !reader.take_put_off(), "told once");
}

#[test]
fn behind_an_error_at_opening_the_written_segment_is_opened_anew() {
    let mut rig = Rig::filled(10, 100);
    rig.memory.fail(Operation::Open, ".log", EIO);
    let (records, lost) = rig.read_all(0);
    assert_eq!((records, lost.len()), (vec![], 1));
    for n in 10..20 {
        rig.append(&[n; 100], Level::LocalDisk);
    }
    rig.settle();
    assert_eq!(rig.read_on(), (expected(10, 20), vec![]));
}

#[test]
fn a_segment_that_ends_too_early_is_told() {
    for cut in [300_000, 300_040, 300_100, 299_000] {
        let mut rig = Rig::filled(1000, 7_000);
        let path = setup(5).directory.join(segment_name(0));
        rig.memory.damage(&path, |bytes| bytes.truncate(cut));
        let (records, lost) = rig.read_all(0);
        let end = rig.log().segments().sealed()[0].end;
        let mut left = expected(0, 1000);
        left.retain(|(offset, _)| !lost.iter().any(|lost| lost.lost.contains(&Offset(*offset))));
        assert_eq!(records, left);
        assert!((35..=45).contains(&lost[0].lost.start.0), "{lost:?}");
        assert_eq!(lost.last().map(|lost| lost.lost.end), Some(end), "{lost:?}");
    }
}

#[test]
fn at_the_end_of_a_log_only_what_is_new_is_read() {
    let mut rig = Rig::filled(200, 7_000);
    rig.read_all(0);
    rig.append(&[200; 100], Level::LocalDisk);
    rig.settle();
    assert_eq!(rig.read_on().0, expected(200, 201));
    let reader = rig.reader.as_mut().expect("it has read");
    assert!(reader.window_bytes() < 1_000, "{}", reader.window_bytes());
    reader.forget_window();
    rig.append(&[201; 100], Level::LocalDisk);
    rig.settle();
    assert_eq!(rig.read_on(), (expected(201, 202), vec![]));
}

#[test]
fn a_window_that_was_let_go_is_read_again() {
    let mut rig = Rig::filled(100, 700);
    rig.read_from(0);
    for _ in 0..4 {
        let mut reader = rig.reader.take().expect("made");
        reader.ask(rig.partition.log().expect("it has one"), &mut rig.disk);
        rig.reader = Some(reader);
        rig.turn();
    }
    let reader = rig.reader.as_mut().expect("put there");
    for _ in 0..7 {
        assert!(matches!(reader.next_record(), Next::Record(_)));
    }
    reader.forget_window();
    assert_eq!(reader.window_bytes(), 0);
    assert_eq!(rig.read_on(), (expected(7, 100), vec![]));
}

#[test]
fn what_is_trimmed_is_told() {
    let mut rig = Rig::filled(1000, 7_000);
    let end = rig.log().segments().sealed()[0].end;
    rig.partition.log_mut().expect("it has one").trim(end);
    let (records, lost) = rig.read_all(5);
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].lost.clone(), lost[0].failure), (Offset(5)..end, ReadFailure::Trimmed));
    assert_eq!(records, expected(end.0, 1000));
}

#[test]
fn a_reader_that_is_closed_lets_go_of_its_file() {
    let mut rig = Rig::filled(10, 50_000);
    rig.read_all(0);
    let mut reader = rig.reader.take().expect("made");
    reader.seek(Offset(3));
    reader.ask(rig.partition.log().expect("it has one"), &mut rig.disk);
    assert!(reader.is_waiting());
    reader.close(&mut rig.disk);
    assert!(!reader.is_closed(), "a read is under way");
    rig.reader = Some(reader);
    rig.settle();
    assert!(rig.reader.as_ref().is_some_and(Reader::is_closed));
}

/// Who wants one record in three does not read each from the disk.
#[test]
fn a_seek_within_what_is_in_memory_asks_nobody() {
    let mut rig = Rig::filled(40, 1000);
    assert_eq!(rig.read_all(0).0.len(), 40);
    let mut reader = rig.reader.take().expect("made");
    for offset in [3, 4, 9, 10, 30, 8, 39, 0] {
        reader.seek(Offset(offset));
        while matches!(reader.next_record(), Next::Wait) {
            reader.ask(rig.partition.log().expect("it has one"), &mut rig.disk);
            assert!(!reader.is_waiting(), "all of it is in one window");
            if let Next::Record(record) = reader.next_record() {
                assert_eq!((record.head.offset.0, record.payload[0]), (offset, offset as u8));
                break;
            }
        }
        assert_eq!(reader.offset(), Offset(offset + 1));
    }
}
