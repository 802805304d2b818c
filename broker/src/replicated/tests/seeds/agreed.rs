//! What nodes agree on, looked at after every turn: the high watermark of a partition does not go back within a start of
//! a node, and what is below it is the same on every node, for ever.
//!
//! Epochs are compared at once, as a replica knows them; what records say is, as a node has them on its disk, a little later.

use super::super::node::{Node, directory, owner};
use super::super::opening::segments;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::ids::{Offset, PartitionId};
use ringlane_dataplane::log::format::{SEGMENT_HEADER_BYTES, SegmentId};
use ringlane_dataplane::log::scan::{Chain, GoodBatch, Segment, SegmentScan, Step};
use ringlane_dataplane::replication::host::Host;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

/// In so many turns the logs on the disks are read once, which costs more than the turns do.
const TURNS_PER_LOOK: u64 = 500;

/// A node, by its place, and a partition.
type Of = (usize, PartitionId);

/// What is known by offset: once it is, it is that on every node.
#[derive(Debug, Default)]
struct Agreed {
    what: &'static str,
    known: BTreeMap<PartitionId, Vec<Option<u64>>>,
}

impl Agreed {
    fn agree(&mut self, (node, partition): Of, offset: u64, found: u64) {
        let all = self.known.entry(partition).or_default();
        let at = offset as usize;
        if all.len() <= at {
            all.resize(at + 1, None);
        }
        let known = *all[at].get_or_insert(found);
        let what = self.what;
        assert!(
            known == found,
            "logs part below the high watermark: {what} of {partition:?} at {offset} is {found} on \
             node {}, and was {known} on another",
            node + 1
        );
    }
}

/// A log as it was seen since its node was started.
#[derive(Debug, Default)]
struct Seen {
    process: u64,
    high_watermark: Offset,
    /// Up to here epochs were compared.
    compared: Offset,
    place: Option<Place>,
}

/// Where a log was read up to, and what is known there.
#[derive(Clone, Copy, Debug)]
struct Place {
    number: u64,
    segment: SegmentId,
    position: u64,
    chain: Chain,
}

/// The rules.
#[derive(Debug)]
pub(super) struct Agreement {
    turns: u64,
    epochs: Agreed,
    /// Hashes of what records say.
    contents: Agreed,
    seen: BTreeMap<Of, Seen>,
}

impl Agreement {
    pub(super) fn new() -> Self {
        let [epochs, contents] =
            ["the epoch", "the record"].map(|what| Agreed { what, known: BTreeMap::new() });
        Self { turns: 0, epochs, contents, seen: BTreeMap::new() }
    }

    /// Records that nodes have on their disks, and agree on.
    pub(super) fn records(&self) -> u64 {
        let known = self.contents.known.values().flatten();
        known.filter(|known| known.is_some()).count() as u64
    }

    /// After a turn. Returns a number that tells runs apart which did not do the same.
    pub(super) fn look(&mut self, nodes: &mut [Node]) -> u64 {
        self.turns += 1;
        let mut trace = DefaultHasher::new();
        for (at, node) in nodes.iter_mut().enumerate() {
            let process = node.processes;
            for (partition, host) in node.replicas() {
                self.compare_epochs((at, partition), process, host);
                let replica = host.replica();
                let marks = [replica.high_watermark(), replica.next_offset(), host.applied()];
                marks.iter().for_each(|mark| trace.write_u64(mark.0));
            }
            if self.turns.is_multiple_of(TURNS_PER_LOOK) && node.is_running() {
                self.read(at, node);
            }
        }
        trace.finish()
    }

    fn compare_epochs(&mut self, of: Of, process: u64, host: &Host) {
        let replica = host.replica();
        let seen = self.seen.entry(of).or_default();
        if seen.process != process {
            *seen = Seen { process, ..Seen::default() };
        }
        let mark = replica.high_watermark();
        let before = core::mem::replace(&mut seen.high_watermark, mark);
        assert!(before <= mark, "the high watermark of {of:?} goes back: {before:?}, {mark:?}");
        if !host.has_open_log() {
            return;
        }
        let next = replica.next_offset();
        assert!(seen.compared <= next, "the log of {of:?} ends at {next:?}, below what was agreed");
        for offset in seen.compared.0..mark.min(next).0 {
            if let Some(epoch) = replica.epochs().epoch_before(Offset(offset + 1)) {
                self.epochs.agree(of, offset, epoch);
            }
        }
        seen.compared = seen.compared.max(mark.min(next));
    }

    /// Reads on what is below the high watermark and on the disk.
    fn read(&mut self, at: usize, node: &Node) {
        let Self { seen, contents, .. } = self;
        let logs = seen.range_mut((at, PartitionId(0))..(at + 1, PartitionId(0)));
        for (of, Seen { compared, place, .. }) in logs {
            let partition = of.1;
            let mut read = |batch: &GoodBatch<'_>| {
                let mut rest = batch.body();
                for record in batch.records() {
                    let (bytes, behind) = rest.split_at(record.bytes());
                    rest = behind;
                    let mut hash = DefaultHasher::new();
                    hash.write(bytes);
                    contents.agree(*of, record.head.offset.0, hash.finish());
                }
            };
            *place = read_on(&node.files_of(partition.0), partition, *compared, *place, &mut read);
        }
    }
}

/// Reads whole batches that end at `end` or before, from a place in a log or from its beginning. Returns the place behind
/// them.
fn read_on(
    files: &MemoryDisk,
    partition: PartitionId,
    end: Offset,
    place: Option<Place>,
    each: &mut dyn FnMut(&GoodBatch<'_>),
) -> Option<Place> {
    let numbers = segments(files, &directory(partition.0));
    // One that was put in place of another begins anew.
    let mut place = place.filter(|place| numbers.last().is_some_and(|last| place.number <= *last));
    for number in numbers {
        if place.is_some_and(|place| number < place.number) {
            continue;
        }
        // One that is made ahead may not be there yet.
        let opened = Segment::open(files, &directory(partition.0), number, &owner(partition.0));
        let Ok(segment) = opened else { break };
        let id = segment.header.segment;
        let known = place.filter(|place| place.number == number && place.segment == id);
        if place.is_some_and(|place| place.number == number) && known.is_none() {
            // It was written anew, without its end: from the beginning next time.
            return None;
        }
        // Those between may have been trimmed.
        let before = place.filter(|place| place.number + 1 == number);
        let next_offset = before.and_then(|place| place.chain.next_offset);
        let first = Chain { next_offset, ..Chain::default() };
        let (position, chain) =
            known.map_or((SEGMENT_HEADER_BYTES, first), |place| (place.position, place.chain));
        let mut scan = SegmentScan::new(files, &segment, position, chain);
        loop {
            let (position, chain) = (scan.position(), *scan.chain());
            place = Some(Place { number, segment: id, position, chain });
            match scan.step().expect("a disk in memory") {
                Step::Batch(batch) if batch.header.next_offset() <= end => each(&batch),
                Step::Last => break,
                // The rest is not below the mark, or not on the disk.
                Step::Batch(_) | Step::Blank => return place,
                // Not what was there before: from the beginning next time.
                Step::Bad { .. } => return None,
            }
        }
    }
    place
}
