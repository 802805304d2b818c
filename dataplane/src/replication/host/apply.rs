//! Records below the high watermark, handed out in order: out of the batches that came of late while
//! those are in memory, else out of the log.
//!
//! What a follower takes is committed a round of its log and a message of its leader later, so that in
//! step nothing is read again. A batch was checked when it was taken, and never changes. Of one that was seen then to
//! have messages alone nothing is read at all, if whoever applies has nothing to do for those.

use super::{Ask, Host, Outside, Turn};
use crate::batch::Batch;
use crate::disk::Disk;
use crate::ids::Offset;
use crate::log::reader::{Next, Reader};
use crate::log::record::{self, Record};
use std::collections::VecDeque;
use triomphe::Arc;

/// Records applied in one turn, at most, where those of a batch that is passed count as one: others wait for theirs, and
/// a node that catches up must not be taken for dead.
/// One of a subscription takes some microseconds.
const APPLY_MAX: usize = 512;
/// Batches kept for it, and bytes of their records, at most. What is too much is read from the log.
const KEPT_BATCHES_MAX: usize = 512;
const KEPT_BYTES_MAX: u64 = 4 << 20;

/// How far the state is, and where what comes next is found.
#[derive(Debug)]
pub(super) struct Apply {
    pub(super) next: Offset,
    pub(super) reader: Option<Reader>,
    kept: Kept,
}

/// Batches of the end of the log, one behind the other, that are not applied yet.
#[derive(Debug, Default)]
struct Kept {
    batches: VecDeque<KeptBatch>,
    bytes: u64,
    /// A record of the first batch: its offset, and where it begins.
    place: (Offset, usize),
}

#[derive(Debug)]
struct KeptBatch {
    first: Offset,
    epoch: u64,
    batch: Arc<Batch>,
}

impl KeptBatch {
    fn end(&self) -> Offset {
        Offset(self.first.0 + self.batch.len() as u64)
    }
}

impl Apply {
    pub(super) fn new(next: Offset) -> Self {
        Self { next, reader: None, kept: Kept::default() }
    }

    /// The log has taken a batch of an epoch, whose first record has this offset.
    pub(super) fn keep(&mut self, first: Offset, batch: Arc<Batch>, epoch: u64) {
        self.kept.push(KeptBatch { first, epoch, batch });
    }

    /// What was taken may be given up.
    pub(super) fn forget(&mut self) {
        self.kept = Kept::default();
    }

    /// Nothing is read while all that comes next is in memory: its file may be removed meanwhile.
    fn rest_reader(&mut self, disk: &mut Disk) {
        if let Some(reader) = &mut self.reader {
            reader.close(disk);
        }
    }
}

impl Kept {
    fn push(&mut self, kept: KeptBatch) {
        self.bytes += u64::from(kept.batch.body_bytes());
        if self.batches.is_empty() {
            self.place = (kept.first, 0);
        }
        self.batches.push_back(kept);
        while self.batches.len() > KEPT_BATCHES_MAX || self.bytes > KEPT_BYTES_MAX {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some(kept) = self.batches.pop_front() {
            self.bytes -= u64::from(kept.batch.body_bytes());
        }
        self.place = self.batches.front().map_or((Offset(0), 0), |kept| (kept.first, 0));
    }

    /// Lets go of what lies below an offset.
    fn release(&mut self, offset: Offset) {
        while self.batches.front().is_some_and(|kept| kept.end() <= offset) {
            self.pop();
        }
    }

    /// How many records from this offset on, of which epoch, lie in a batch of messages and nothing else.
    fn plain(&self, offset: Offset, end: Offset) -> Option<(u64, u64)> {
        let kept = self.batches.front().filter(|kept| kept.batch.is_plain())?;
        let is_here = kept.first <= offset && offset < kept.end();
        is_here.then(|| (kept.end().min(end).0 - offset.0, kept.epoch))
    }

    /// The record with this offset, if it is in the first batch.
    fn record(&mut self, offset: Offset) -> Option<Record<'_>> {
        let KeptBatch { batch, .. } = self.batches.front()?;
        let body = &batch.body()[..batch.body_bytes() as usize];
        while self.place.0 < offset {
            self.place.1 += record::bytes_of(&body[self.place.1..]).ok()?;
            self.place.0.0 += 1;
        }
        let is_here = self.place.0 == offset;
        is_here.then(|| record::parse(&body[self.place.1..]).ok()).flatten()
    }
}

impl Host {
    /// Hands out what is below the high watermark.
    pub(super) fn apply_on<A>(&mut self, turn: &mut Turn<'_, A>, outside: &mut impl Outside) {
        let Some(log) = turn.partition.log() else { return };
        let end = self.apply_end(log.marks().high_watermark);
        let mut left = APPLY_MAX;
        while left > 0 && self.apply.next < end {
            let Apply { next, kept, .. } = &mut self.apply;
            left -= 1;
            kept.release(*next);
            if let Some((records, epoch)) = kept.plain(*next, end)
                && outside.pass(*next, records, epoch)
            {
                next.0 += records;
                continue;
            }
            let Some(record) = kept.record(*next) else { break };
            next.0 += 1;
            outside.apply(&record);
        }
        if left == 0 || end <= self.apply.next {
            self.apply.rest_reader(turn.disk);
        } else {
            self.apply_from_log(end, left, turn, outside);
        }
    }

    fn apply_from_log<A>(
        &mut self,
        end: Offset,
        mut left: usize,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        let Some(log) = turn.partition.log() else { return };
        let Apply { next, reader, .. } = &mut self.apply;
        let tag = self.tag + 1;
        let reader = reader.get_or_insert_with(|| Reader::new(log, tag, *next));
        reader.reopen();
        reader.seek(*next);
        while left > 0 && *next < end {
            left -= 1;
            match reader.next_record() {
                Next::Record(record) => {
                    *next = Offset(record.head.offset.0 + 1);
                    outside.apply(&record);
                }
                Next::Lost(error) => {
                    *next = error.lost.end;
                    outside.ask(Ask::Lost(error));
                }
                Next::Wait => break,
            }
        }
        reader.ask(log, turn.disk);
    }

    /// Where handing out ends: in front of an own epoch, whose records make the live state.
    fn apply_end(&self, high_watermark: Offset) -> Offset {
        match self.leads_at {
            _ if self.is_leading => self.apply.next,
            Some((_, start)) => high_watermark.min(start),
            None => high_watermark,
        }
    }
}
