//! Opening a log of three segments and 64 KiB that was damaged at one place: every byte position,
//! cut short, zeroed to the end, a bit flipped, a block of another log or of an older epoch put in.
//!
//! Each case has an exact answer, computed from what the damage left alone: either the log opens
//! with all records before the damage, or it is refused with the place. A debug build looks at
//! a sample; `RINGLANE_EXHAUSTIVE=1` at every position.

#[path = "support/log_image.rs"]
mod log_image;

use log_image::{DIRECTORY, Image, LogBuilder, Placed, Stored, owner};
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::recovery::{RecoverError, Recovered, ReplayFrom, recover};
use ringlane_dataplane::log::scan::SegmentError;
use std::path::Path;

const SEGMENT_BYTES: u64 = 64 * 1024 / 3 / 8 * 8;

/// What came of opening a log.
type Opened = Result<(Recovered, Vec<Stored>), RecoverError>;

fn open(image: &mut Image, from: Option<&ReplayFrom>) -> Opened {
    let mut records = Vec::new();
    let recovered = recover(image, Path::new(DIRECTORY), &owner(1), from, &mut |record| {
        records.push(Stored::of(record));
    })?;
    Ok((recovered, records))
}

/// Three segments with batches of one to five records, flushed after every second batch, closed at
/// the end; the last segment is half full, and one more is prepared.
fn three_segments(directory: u8) -> LogBuilder {
    let mut log = LogBuilder::new(owner(directory), SEGMENT_BYTES);
    for number in 0..3 {
        while log.room() > if number == 2 { SEGMENT_BYTES / 2 } else { 1400 } {
            let count = 1 + log.next % 5;
            let payload =
                |n: u64| vec![(log.next + n) as u8 ^ directory; 20 + (n * 83) as usize % 170];
            let payloads: Vec<_> = (0..count).map(payload).collect();
            log.batch(&payloads);
            if log.batches.len().is_multiple_of(2) {
                log.flush();
            }
        }
        log.flush();
        if number < 2 {
            log.roll();
        }
    }
    log.close();
    log.prepare_segment(3);
    log
}

/// Positions to look at: all of them, or a sample that begins elsewhere for each kind of damage.
fn positions(kind: usize) -> impl Iterator<Item = (u64, usize)> {
    let all = std::env::var_os("RINGLANE_EXHAUSTIVE").is_some();
    let step = if all { 1 } else { 89 };
    let first = if all { 0 } else { kind * 13 };
    (0..3u64).flat_map(move |number| {
        (first..SEGMENT_BYTES as usize).step_by(step).map(move |position| (number, position))
    })
}

/// What must come of a log whose bytes were changed, if no good header was put in: the offset
/// where its records end, or damage.
fn expected(log: &LogBuilder, damaged: &Image) -> Result<u64, u64> {
    let intact = |batch: &&Placed, header_only: bool| {
        let mut range = batch.range();
        if header_only {
            range.end = range.start + 64;
        }
        let path = Path::new(DIRECTORY).join(format!("{:020}.log", batch.segment));
        log.image.files[&path][range.clone()] == damaged.files[&path][range]
    };
    let bad = log.batches.iter().find(|batch| !intact(batch, false));
    let end = bad.map_or(log.next, |batch| batch.header.base_offset.0);
    let marks = log.batches.iter().filter(|batch| intact(batch, true));
    let flushed = marks.map(|batch| batch.header.watermark.0).max().unwrap_or(0);
    let goes_on = bad.is_some_and(|bad| log.batches.iter().any(|b| b.segment > bad.segment));
    if flushed <= end && !goes_on { Ok(end) } else { Err(end) }
}

fn check(log: &LogBuilder, mut damaged: Image, case: &str) {
    let before = damaged.clone();
    match (expected(log, &damaged), open(&mut damaged, None)) {
        (Ok(end), Ok((recovered, records))) => {
            assert_eq!(recovered.next_offset.0, end, "{case}");
            assert!(records == log.records[..end as usize], "{case}: other records");
            let (again, records) = open(&mut damaged, None).expect(case);
            assert_eq!((again.torn, again.next_offset), (None, recovered.next_offset), "{case}");
            assert_eq!(records.len() as u64, end, "{case}");
        }
        (Err(end), Err(RecoverError::Damaged(damage))) => {
            assert_eq!(damage.next.0, end, "{case}: {damage}");
            assert!(damage.flushed.is_some_and(|flushed| flushed.0 >= end), "{case}: {damage}");
            assert!(damaged == before, "{case}: refused, and changed all the same");
        }
        (expected, opened) => panic!("{case}: expected {expected:?}, not {opened:?}"),
    }
}

fn is_in_header(position: usize) -> bool {
    position < 4096
}

#[test]
fn an_unharmed_log_opens_whole() {
    let log = three_segments(1);
    let mut image = log.image.clone();
    let (recovered, records) = open(&mut image, None).expect("opens");
    assert_eq!(records, log.records);
    assert!(records.len() > 150, "{}", records.len());
    let end = recovered.log_end();
    let sealed: Vec<_> = end.sealed.iter().map(|segment| (segment.base, segment.end)).collect();
    let active = end.active.expect("the last one");
    assert_eq!(sealed.len(), 2);
    assert_eq!((sealed[0].0.0, sealed[0].1, sealed[1].1), (0, sealed[1].0, active.base));
    assert_eq!((end.start.0, end.next.0, end.next_number), (0, log.next, 4));
    assert_eq!((active.number, end.prepared.map(|s| s.number)), (2, Some(3)));
    let tail = recovered.tail.expect("a tail");
    assert_eq!((tail.position, tail.is_sealed), (log.position(), false));
    assert_eq!((active.position, active.previous_crc), (tail.position, tail.previous_crc));
    assert_eq!((recovered.torn, recovered.epoch, recovered.next_number), (None, 1, 4));
    assert_eq!(recovered.watermark, recovered.next_offset);
    let numbers: Vec<_> = recovered.segments.iter().map(|segment| segment.number).collect();
    assert_eq!(
        (numbers.as_slice(), recovered.prepared.map(|s| s.number)),
        (&[0, 1, 2][..], Some(3))
    );
    let indexes = image.files.keys().filter(|path| path.extension().is_some_and(|e| e == "index"));
    assert_eq!(indexes.count(), 2, "those of the full segments");
}

#[test]
fn a_flipped_bit() {
    let log = three_segments(1);
    for (number, position) in positions(1) {
        let mut image = log.image.clone();
        image.segment(number)[position] ^= 1 << (position % 8);
        let case = format!("bit flipped in segment {number} at {position}");
        if is_in_header(position) {
            assert!(matches!(open(&mut image, None), Err(RecoverError::Segment { .. })), "{case}");
        } else {
            check(&log, image, &case);
        }
    }
}

#[test]
fn zeros_to_the_end() {
    let log = three_segments(1);
    for (number, position) in positions(2) {
        let mut image = log.image.clone();
        image.segment(number)[position..].fill(0);
        let case = format!("zeros in segment {number} from {position}");
        if is_in_header(position) {
            assert!(matches!(open(&mut image, None), Err(RecoverError::Segment { .. })), "{case}");
        } else {
            check(&log, image, &case);
        }
    }
}

#[test]
fn a_file_cut_short() {
    let log = three_segments(1);
    for (number, position) in positions(3) {
        let mut image = log.image.clone();
        image.segment(number).truncate(position);
        let before = image.clone();
        // A segment has its whole length from the beginning: a crash never shortens it.
        match open(&mut image, None) {
            Err(RecoverError::Segment { error: SegmentError::Length(found), .. }) => {
                assert_eq!(found, position as u64);
            }
            Err(RecoverError::Segment { error: SegmentError::Header(_), .. }) => {
                assert!(is_in_header(position));
            }
            other => panic!("segment {number} cut at {position}: {other:?}"),
        }
        assert!(image == before);
    }
}

#[test]
fn a_block_of_another_log() {
    let (log, mut other) = (three_segments(1), three_segments(2));
    assert_eq!(log.batches.len(), other.batches.len(), "the same layout, so that blocks fit");
    for (number, position) in positions(4) {
        for bytes in [8, 512, 4096] {
            let mut image = log.image.clone();
            let end = (position + bytes).min(SEGMENT_BYTES as usize);
            image.segment(number)[position..end]
                .copy_from_slice(&other.image.segment(number)[position..end]);
            let case = format!("{bytes} bytes of another log in segment {number} at {position}");
            if !is_in_header(position) {
                check(&log, image, &case);
            } else if image != log.image {
                assert!(open(&mut image, None).is_err(), "{case}");
            }
        }
    }
}

/// A log whose first epoch had a long tail that was cut, and what the tail was.
fn two_epochs(flushed_before: bool) -> (LogBuilder, Image) {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    let batch = |log: &mut LogBuilder, salt: u8| {
        let payloads: Vec<_> = (0..3).map(|n| vec![salt ^ n; 60]).collect();
        log.batch(&payloads);
    };
    for _ in 0..4 {
        batch(&mut log, 1);
        log.flush();
    }
    if flushed_before {
        log.close();
    }
    let (next, position) = (log.next, log.position());
    let shared = log.image.clone();
    for _ in 0..28 {
        batch(&mut log, 2);
    }
    let old = log.image.clone();
    let mut image = shared;
    let (recovered, _) = open(&mut image, None).expect("opens");
    let tail = recovered.tail.expect("a tail");
    assert_eq!((recovered.next_offset.0, tail.position), (next, position));
    log.resume(image, next, 0, position, tail.previous_crc);
    for _ in 0..24 {
        batch(&mut log, 3);
        log.flush();
    }
    log.close();
    (log, old)
}

#[test]
fn a_block_of_an_older_epoch() {
    for flushed_before in [false, true] {
        let (log, mut old) = two_epochs(flushed_before);
        let all = std::env::var_os("RINGLANE_EXHAUSTIVE").is_some();
        for position in (4096..SEGMENT_BYTES as usize).step_by(if all { 1 } else { 31 }) {
            for bytes in [8, 64, 512, 4096] {
                let mut image = log.image.clone();
                let end = (position + bytes).min(SEGMENT_BYTES as usize);
                image.segment(0)[position..end].copy_from_slice(&old.segment(0)[position..end]);
                let case = format!("{bytes} bytes of an older epoch at {position}");
                let floor = expected(&log, &image);
                match open(&mut image, None) {
                    Ok((recovered, records)) => {
                        assert_eq!(Ok(recovered.next_offset.0), floor, "{case}");
                        assert!(records == log.records[..records.len()], "{case}: other records");
                    }
                    Err(RecoverError::Damaged(_)) => {
                        assert!(image != log.image, "{case}: refused without a reason");
                    }
                    Err(other) => panic!("{case}: {other}"),
                }
            }
        }
    }
}

/// What an older epoch had where the last batch is now: a batch of the same records, of `old` bytes
/// where there are `new` ones.
fn last_batch_of_an_older_epoch(old: usize, new: usize) -> (LogBuilder, Image, Placed) {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    log.batch(&[vec![1; 50]]);
    log.flush();
    let mut image = log.image.clone();
    log.batch(&[vec![2; old]]);
    let (older, placed) = (log.image.clone(), log.batches[1]);
    let (recovered, _) = open(&mut image, None).expect("opens");
    let tail = recovered.tail.expect("a tail");
    log.resume(image, 1, 0, tail.position, tail.previous_crc);
    log.batch(&[vec![3; new]]);
    log.flush();
    log.close();
    (log, older, placed)
}

#[test]
fn the_last_batch_of_an_older_epoch_is_refused() {
    // The closing batch follows, but another batch than its own; or it lies further behind.
    for (old, new) in [(60, 60), (60, 300)] {
        let (log, mut older, placed) = last_batch_of_an_older_epoch(old, new);
        let mut image = log.image.clone();
        image.segment(0)[placed.range()].copy_from_slice(&older.segment(0)[placed.range()]);
        let refused = open(&mut image, None);
        assert!(matches!(refused, Err(RecoverError::Damaged(_))), "{old} for {new}: {refused:?}");
    }
}

#[test]
fn records_of_an_older_epoch_under_a_newer_header_are_refused() {
    let (log, mut older, placed) = last_batch_of_an_older_epoch(60, 60);
    let mut image = log.image.clone();
    let body = placed.range().start + 64..placed.range().end;
    image.segment(0)[body.clone()].copy_from_slice(&older.segment(0)[body]);
    let refused = open(&mut image, None);
    assert!(matches!(refused, Err(RecoverError::Damaged(_))), "{refused:?}");
}

#[test]
fn an_older_version_of_a_whole_segment_is_refused() {
    let mut log = three_segments(1);
    let mut early = LogBuilder::new(owner(1), SEGMENT_BYTES);
    early.batch(&[vec![1; 20]]);
    let old = early.image.segment(0).clone();
    *log.image.segment(0) = old;
    let refused = open(&mut log.image, None);
    assert!(matches!(refused, Err(RecoverError::Damaged(_))), "{refused:?}");
}

/// The segment behind holds one round, and no closing batch that would name it.
#[test]
fn the_end_of_a_full_segment_is_no_torn_tail() {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    log.batch(&[vec![1; 20]]);
    log.flush();
    log.roll();
    let last = *log.batches.last().expect("the batch that ends the segment");
    assert_eq!(last.header.records, 0);
    log.batch(&[vec![2; 20]]);
    log.image.segment(0)[last.range()].fill(0);
    let before = log.image.clone();
    let refused = open(&mut log.image, None);
    let Err(RecoverError::Damaged(damage)) = refused else { panic!("{refused:?}") };
    assert_eq!((damage.next.0, damage.position), (1, last.position));
    assert!(log.image == before);
}

#[test]
fn the_oldest_segments_are_only_gone_if_the_log_says_so() {
    let mut log = three_segments(1);
    let base = log.batches.iter().find(|b| b.segment == 1).map(|b| b.header.base_offset);
    let base = base.expect("there is a second segment");
    let mut lost = log.image.clone();
    lost.files.pop_first();
    let before = lost.clone();
    match open(&mut lost, None) {
        Err(RecoverError::Missing { path, next, flushed }) => {
            assert!(path.ends_with(format!("{:020}.log", 0)), "{}", path.display());
            assert_eq!((next, flushed), (Offset(0), base));
        }
        other => panic!("{other:?}"),
    }
    assert!(lost == before);
    log.log_start = base.0;
    log.close();
    log.image.files.pop_first();
    let (recovered, records) = open(&mut log.image.clone(), None).expect("opens");
    assert_eq!((recovered.log_start, records.len() as u64), (base, log.next - base.0));
    // Nothing is behind the replay offset: the batch that says so lies before it.
    let (offset, segment) = (Offset(log.next), 2);
    let from = ReplayFrom { offset, segment, position: log.position(), flushed: offset };
    let (recovered, records) = open(&mut log.image, Some(&from)).expect("opens");
    assert_eq!((recovered.log_start, records.len()), (base, 0));
}

#[test]
fn every_position_as_a_place_to_replay_from() {
    let log = three_segments(1);
    for batch in &log.batches {
        let base = batch.header.base_offset;
        let from = ReplayFrom {
            offset: base,
            segment: batch.segment,
            position: batch.position,
            flushed: base,
        };
        let mut image = log.image.clone();
        let (recovered, records) = open(&mut image, Some(&from)).expect("opens");
        assert!(records == log.records[base.0 as usize..], "from {base:?}");
        assert_eq!(recovered.next_offset.0, log.next);
        let bases: Vec<_> = recovered.segments.iter().map(|segment| segment.base).collect();
        let first = |n| log.batches.iter().find(|b| b.segment == n).map(|b| b.header.base_offset);
        assert_eq!(bases, (0..3).filter_map(first).collect::<Vec<_>>(), "from {base:?}");
        let too_far = ReplayFrom { flushed: Offset(log.next + 1), ..from };
        let refused = open(&mut log.image.clone(), Some(&too_far));
        assert!(matches!(refused, Err(RecoverError::Damaged(_))), "{refused:?}");
        let nowhere = ReplayFrom { position: SEGMENT_BYTES + 8, ..from };
        let refused = open(&mut log.image.clone(), Some(&nowhere));
        assert!(matches!(refused, Err(RecoverError::Damaged(_))), "{refused:?}");
    }
}

/// The end of a log, as a checkpoint says that replay begins there.
fn from_the_end(log: &LogBuilder) -> ReplayFrom {
    let offset = Offset(log.next);
    ReplayFrom { offset, segment: 2, position: log.position(), flushed: offset }
}

#[test]
fn what_follows_a_checkpoint_with_nothing_behind_it_goes_on_with_the_log() {
    let mut log = three_segments(1);
    let from = from_the_end(&log);
    let (whole, _) = open(&mut log.image.clone(), None).expect("opens");
    let (recovered, records) = open(&mut log.image, Some(&from)).expect("opens");
    assert_eq!((&recovered.tail, records.len()), (&whole.tail, 0));
    assert_eq!((recovered.epoch, recovered.watermark), (whole.epoch, whole.watermark));
}

#[test]
fn a_checkpoint_behind_damage_with_nothing_behind_it_is_refused() {
    let log = three_segments(1);
    let from = from_the_end(&log);
    for batch in log.batches.iter().filter(|batch| batch.segment == 2) {
        let mut damaged = log.image.clone();
        damaged.segment(2)[batch.position as usize + 8] ^= 1;
        let before = damaged.clone();
        let refused = open(&mut damaged, Some(&from));
        assert!(matches!(refused, Err(RecoverError::Damaged(_))), "{batch:?}: {refused:?}");
        assert!(damaged == before);
    }
}

#[test]
fn replay_from_a_segment_that_was_not_made_yet() {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    log.batch(&[vec![1; 20]]);
    log.flush();
    log.roll();
    let next = Offset(log.next);
    log.image.files.pop_last();
    let from = ReplayFrom { offset: next, segment: 1, position: 4096, flushed: next };
    let (recovered, records) = open(&mut log.image, Some(&from)).expect("opens");
    assert_eq!((recovered.next_offset, records.len()), (next, 0));
    assert!(recovered.tail.is_some_and(|tail| tail.is_sealed));
    let missing = ReplayFrom { segment: 2, ..from };
    assert!(matches!(open(&mut log.image, Some(&missing)), Err(RecoverError::Missing { .. })));
}
