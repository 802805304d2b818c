//! Power losses: a writer that keeps the rules of docs/formats/log.md, and a page cache that keeps,
//! drops or tears each sector that was not synced. What was synced comes back, in order, and never
//! anything else; crashes during recovery change nothing.

#[path = "support/log_image.rs"]
mod log_image;

use log_image::{DIRECTORY, Image, LogBuilder, Stored, owner};
use proptest::prelude::*;
use ringlane_dataplane::log::recovery::{Recovered, recover};
use std::path::{Path, PathBuf};

const SEGMENT_BYTES: u64 = 12 * 1024;

/// What a cache does with one sector that was written and not synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Kept,
    Dropped,
    Torn(u16),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![Just(Fate::Kept), Just(Fate::Dropped), (0u16..512).prop_map(Fate::Torn)]
}

/// One life of a broker: rounds of batches, each with the sizes of its payloads, and what becomes
/// of the sectors of the last round, which is not synced.
#[derive(Clone, Debug)]
struct Life {
    rounds: Vec<Vec<Vec<u16>>>,
    closes: bool,
    fates: Vec<Fate>,
    /// Sector fates of a crash in the middle of recovery.
    recovery_fates: Option<Vec<Fate>>,
    sector: usize,
}

fn life() -> impl Strategy<Value = Life> {
    let batch = proptest::collection::vec(0u16..700, 1..5);
    let round = proptest::collection::vec(batch, 1..6);
    let fates = || proptest::collection::vec(fate(), 64);
    (
        proptest::collection::vec(round, 1..7),
        any::<bool>(),
        fates(),
        proptest::option::of(fates()),
        prop_oneof![Just(64usize), Just(512), Just(4096)],
    )
        .prop_map(|(rounds, closes, fates, recovery_fates, sector)| Life {
            rounds,
            closes,
            fates,
            recovery_fates,
            sector,
        })
}

/// `durable`, with some of the sectors that differ in `cached`.
fn after_power_loss(durable: &Image, cached: &Image, fates: &[Fate], sector: usize) -> Image {
    let mut image = durable.clone();
    let mut fates = fates.iter().cycle();
    for (path, new) in &cached.files {
        let Some(old) = image.files.get_mut(path) else { continue };
        let sectors = old.chunks_mut(sector).zip(new.chunks(sector));
        for (old, new) in sectors.filter(|(old, new)| **old != **new) {
            match fates.next() {
                Some(Fate::Kept) | None => old.copy_from_slice(new),
                Some(Fate::Dropped) => {}
                Some(Fate::Torn(at)) => {
                    let at = usize::from(*at).min(old.len());
                    old[..at].copy_from_slice(&new[..at]);
                }
            }
        }
    }
    image
}

fn open(image: &mut Image) -> (Recovered, Vec<Stored>) {
    let mut records = Vec::new();
    let recovered = recover(image, Path::new(DIRECTORY), &owner(1), None, &mut |record| {
        records.push(Stored::of(record));
    });
    (recovered.expect("a power loss leaves no damage"), records)
}

/// Writes the rounds, each synced and perhaps followed by a closing batch, but for the last one. A
/// batch that does not fit ends the round and its segment. Returns what is durable.
fn live(log: &mut LogBuilder, life: &Life) -> Image {
    let mut durable = log.image.clone();
    for (number, round) in life.rounds.iter().enumerate() {
        let is_lost = number + 1 == life.rounds.len();
        for sizes in round {
            let bytes: u64 = sizes.iter().map(|&size| u64::from(size) + 80).sum();
            if log.room() < bytes + 8 {
                log.roll();
                let made = log.image.segment(log.number()).clone();
                if is_lost {
                    // The next segment is durable before this one says that it is full.
                    *durable.segment(log.number()) = made;
                    return durable;
                }
                log.flush();
                durable = log.image.clone();
            }
            let next = log.next;
            let payload = |(n, &size): (usize, &u16)| vec![(next as usize + n) as u8; size.into()];
            let payloads: Vec<_> = sizes.iter().enumerate().map(payload).collect();
            log.batch(&payloads);
        }
        if !is_lost {
            log.flush();
            if life.closes && log.room() > 64 {
                log.close();
            }
            durable = log.image.clone();
        }
    }
    durable
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_synced_comes_back(lives in proptest::collection::vec(life(), 1..5)) {
        let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
        for life in &lives {
            let durable = live(&mut log, life);
            let mut image = after_power_loss(&durable, &log.image, &life.fates, life.sector);
            if let Some(fates) = &life.recovery_fates {
                let before = image.clone();
                let mut cached = image.clone();
                open(&mut cached);
                image = after_power_loss(&before, &cached, fates, life.sector);
            }
            let (recovered, records) = open(&mut image);
            prop_assert!(recovered.next_offset.0 >= log.flushed, "lost what was synced");
            prop_assert!(records == log.records[..records.len()], "other records");
            prop_assert_eq!(records.len() as u64, recovered.next_offset.0);
            let (again, _) = open(&mut image);
            prop_assert_eq!((again.torn, again.next_offset), (None, recovered.next_offset));
            go_on(&mut log, image, &recovered);
        }
    }
}

fn go_on(log: &mut LogBuilder, image: Image, recovered: &Recovered) {
    let tail = recovered.tail.as_ref().expect("there is a segment");
    let number = recovered.segments.last().expect("there is one").number;
    log.resume(image, recovered.next_offset.0, number, tail.position, tail.previous_crc);
    if tail.is_sealed {
        log.begin_segment(number + 1);
    }
}

#[test]
fn a_hole_before_good_batches_is_a_torn_tail() {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    log.batch(&[vec![1; 100]]);
    log.flush();
    log.batch(&[vec![2; 100]]);
    let hole = *log.batches.last().expect("one");
    log.batch(&[vec![3; 100]]);
    let path: PathBuf = Path::new(DIRECTORY).join("00000000000000000000.log");
    log.image.files.get_mut(&path).expect("it")[hole.range()].fill(0);
    let (recovered, records) = open(&mut log.image);
    assert_eq!((recovered.next_offset.0, records.len()), (1, 1));
    let torn = recovered.torn.expect("cut");
    assert_eq!((torn.position, torn.reason, torn.path), (hole.position, None, path));
}

/// Somebody has published what was in the file of this very segment.
#[test]
fn a_copy_of_the_log_in_a_torn_batch_is_no_damage() {
    let mut log = LogBuilder::new(owner(1), SEGMENT_BYTES);
    for n in 0..6 {
        log.batch(&[vec![n; 100]]);
        log.flush();
    }
    log.close();
    let end = log.position() as usize;
    // In front of the payload: batch header 64, record head 48, client identifier 8, topic 3.
    let mut payload = vec![0; 5];
    payload.extend_from_slice(&log.image.segment(0)[4096..end]);
    log.batch(&[payload, vec![7; 100]]);
    let torn = log.batches.last().expect("one").range();
    assert_eq!(
        &log.image.segment(0)[torn.start + 128..][..4],
        b"RLAB",
        "where headers are looked for"
    );
    for at in torn.clone().step_by(8) {
        let mut image = log.image.clone();
        image.segment(0)[at..at + 8].fill(0);
        let (recovered, records) = open(&mut image);
        if recovered.next_offset.0 == 6 {
            assert_eq!(records, log.records[..6], "torn at {at}");
            assert_eq!(recovered.torn.expect("cut").position as usize, torn.start);
        } else {
            assert_eq!(records, log.records, "{at} is padding or was zero");
        }
        // Only the end of it came to the disk.
        let mut image = log.image.clone();
        image.segment(0)[torn.start..at].fill(0);
        let (recovered, _) = open(&mut image);
        assert!(recovered.next_offset.0 == 6 || at == torn.start);
    }
}
