//! Records below the high watermark, handed out in order: out of the batches that came of late while
//! those are in memory, else out of the log.
//!
//! What a follower takes is committed a round of its log and a message of its leader later, so that in
//! step nothing is read again. A batch was checked when it was taken, and never changes.

use super::{Ask, Host, Outside, Turn};
use crate::batch::Batch;
use crate::disk::Disk;
use crate::ids::Offset;
use crate::log::reader::{Next, Reader};
use crate::log::record::{self, Record};
use std::collections::VecDeque;
use triomphe::Arc;

/// Records applied in one turn, at most: others wait for theirs, and a node that catches up must not be taken for dead.
/// One of a subscription takes some microseconds.
const APPLY_MAX: usize = 512;
/// Batches kept for it, and bytes of their records, at most. What is too much is read from the log.
const KEPT_BATCHES_MAX: usize = 128;
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
    batches: VecDeque<(Offset, Arc<Batch>)>,
    bytes: u64,
    /// A record of the first batch: its offset, and where it begins.
    place: (Offset, usize),
}

impl Apply {
    pub(super) fn new(next: Offset) -> Self {
        Self { next, reader: None, kept: Kept::default() }
    }

    /// The log has taken a batch whose first record has this offset.
    pub(super) fn keep(&mut self, first: Offset, batch: Arc<Batch>) {
        self.kept.push(first, batch);
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
    fn push(&mut self, first: Offset, batch: Arc<Batch>) {
        self.bytes += u64::from(batch.body_bytes());
        self.batches.push_back((first, batch));
        if self.batches.len() == 1 {
            self.place = (first, 0);
        }
        while self.batches.len() > KEPT_BATCHES_MAX || self.bytes > KEPT_BYTES_MAX {
            self.pop();
        }
    }

    fn pop(&mut self) {
        if let Some((_, batch)) = self.batches.pop_front() {
            self.bytes -= u64::from(batch.body_bytes());
        }
        self.place = self.batches.front().map_or((Offset(0), 0), |(first, _)| (*first, 0));
    }

    /// The record with this offset, if it is here. What lies below is let go of.
    fn record(&mut self, offset: Offset) -> Option<Record<'_>> {
        while let Some((first, batch)) = self.batches.front()
            && first.0 + batch.len() as u64 <= offset.0
        {
            self.pop();
        }
        let (_, batch) = self.batches.front()?;
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
            let Some(record) = self.apply.kept.record(self.apply.next) else { break };
            self.apply.next.0 += 1;
            left -= 1;
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
