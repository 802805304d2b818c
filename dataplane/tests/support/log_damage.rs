//! Damage as a list of edits in bytes, for the fuzzer and for random tests, and what must hold then.

use crate::log_image::{DIRECTORY, Image, LogBuilder, Stored, owner};
use ringlane_dataplane::log::format::{BatchHeader, SegmentHeader, SegmentId};
use ringlane_dataplane::log::index::SegmentIndex;
use ringlane_dataplane::log::record;
use ringlane_dataplane::log::recovery::recover;
use std::path::Path;
use std::sync::LazyLock;

const SEGMENT_BYTES: u64 = 6 * 1024;

/// Two segments of an older life and a newer one, all flushed and closed.
static LOG: LazyLock<LogBuilder> = LazyLock::new(|| {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    for number in 0..2 {
        while log.room() > 700 {
            let payload = |n: u64| vec![(log.next + n) as u8; 5 + 31 * n as usize];
            log.batch(&(0..1 + log.next % 3).map(payload).collect::<Vec<_>>());
            log.flush();
        }
        if number == 0 {
            log.roll();
            log.epoch += 1;
        }
    }
    log.close();
    log
});

/// Applies the edits in `input` and checks what comes of it; then decodes `input` itself.
///
/// An edit is a kind, a position (u16) and a length; kind 0 is followed by that many bytes.
///
/// # Panics
/// If something does not hold.
pub(crate) fn check(input: &[u8]) {
    decode(input);
    let mut image = LOG.image.clone();
    let mut edits = input;
    while let Some((&[kind, low, high, length], rest)) = edits.split_first_chunk() {
        let at = usize::from(u16::from_le_bytes([low, high]));
        let (bytes, rest) =
            rest.split_at(if kind % 8 < 2 { rest.len().min(usize::from(length)) } else { 0 });
        edit(image.segment(u64::from(kind / 8 % 2)), kind % 8, at, length.into(), bytes);
        edits = rest;
    }
    open(image);
}

fn edit(file: &mut Vec<u8>, kind: u8, at: usize, length: usize, bytes: &[u8]) {
    let at = at % (SEGMENT_BYTES as usize);
    let end = file.len().min(at + length);
    let room = file.len().saturating_sub(end.saturating_sub(at));
    match kind {
        // Truncation makes later edits fall outside.
        _ if end < at => {}
        0 | 1 => file.iter_mut().skip(at).zip(bytes).for_each(|(old, new)| *old = *new),
        2 => file[at..end].fill(0),
        3 => file[at..].fill(0),
        4 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= length as u8),
        5 => file.copy_within(at..end, room.min(4096)),
        6 => file.copy_within(at..end, room.min(at + 512)),
        _ => file.truncate(at),
    }
}

fn open(mut image: Image) {
    let before = image.clone();
    let Some((next, records)) = once(&mut image) else {
        assert!(image == before, "refused, and changed all the same");
        return;
    };
    assert!(records == LOG.records[..records.len()], "other records than were written");
    assert_eq!(records.len() as u64, next);
    let repaired = image.clone();
    assert_eq!(once(&mut image).map(|(next, _)| next), Some(next), "another end the second time");
    assert!(image == repaired, "the second time changed something");
}

fn once(image: &mut Image) -> Option<(u64, Vec<Stored>)> {
    let mut records = Vec::new();
    let recovered = recover(image, Path::new(DIRECTORY), &owner(1), None, &mut |record| {
        records.push(Stored::of(record));
    });
    recovered.ok().map(|recovered| (recovered.next_offset.0, records))
}

fn decode(input: &[u8]) {
    let id = SegmentId([7; 16]);
    assert!(record::decode(owner(1).seed(), input).is_err(), "a checksum was guessed");
    if let Ok(record) = record::parse(input) {
        assert!(record.bytes() <= input.len());
    }
    let _ = SegmentHeader::decode(input);
    let _ = BatchHeader::decode(input, &id);
    if let Ok(index) = SegmentIndex::decode(input, &id) {
        assert_eq!(SegmentIndex::decode(&index.encode(&id), &id), Ok(index));
    }
}
