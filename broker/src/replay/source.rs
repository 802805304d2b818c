//! One partition that is read again for one subscription, on the core that owns the partition.
//!
//! It is a reader that tails the log all its life: stored messages, then live ones, without a seam.
//! What it has read it mails under credit; nothing of it ever waits for a client but itself.

use super::mail::{Batch, Opened, Source, Start, Stored, Wanted};
use super::part::{Amount, WINDOW_BYTES, WINDOW_MESSAGES};
use super::properties;
use crate::delivery::MessageMaker;
use ringlane_dataplane::disk::{Disk, DiskEvent};
use ringlane_dataplane::ids::{CoreId, Offset, PartitionId};
use ringlane_dataplane::log::reader::{self, Next, ReadError, ReadFailure, Reader};
use ringlane_dataplane::log::record::{Record, RecordHead, RecordKind};
use ringlane_dataplane::log::stored::{Clocks, expiry_of};
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::message::{Message, MessageHead};
use ringlane_dataplane::routing::matches;

/// Records that are passed over before the subscriber is told how far reading has come.
const SILENT_RECORDS_MAX: u64 = 16 * 1024;

/// What there is to do for a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// More, in a later turn.
    Busy,
    /// Nothing before the disk has answered.
    Disk,
    /// Nothing before the client has taken something.
    Credit,
    /// Nothing before more is flushed.
    Tail,
    /// The host was short of something: again after a while.
    Later,
}

/// What a step needs besides the source.
pub(super) struct Tools<'a> {
    pub(super) log: &'a Writer,
    pub(super) disk: &'a mut Disk,
    pub(super) maker: &'a mut MessageMaker,
    pub(super) clocks: Clocks,
}

/// What came of a step, for the subscriber.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) opened: Option<Opened>,
    pub(super) batch: Option<Batch>,
    /// Ranges that could not be read, for this broker's own log.
    pub(super) lost: Vec<ReadError>,
}

/// A partition that is read again.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) subscriber: CoreId,
    pub(super) source: Source,
    /// Where the partition stands in the table of its owner.
    pub(super) index: usize,
    reader: Reader,
    wanted: Wanted,
    /// The subscriber is to be told where reading begins: at a record of this time or later, if one
    /// is named.
    opening: Option<Option<u64>>,
    note: Option<String>,
    /// Ranges that could not be read and that the subscriber was not told of.
    lost: Vec<String>,
    messages_left: u32,
    /// Below zero behind a message that is larger than what was left.
    bytes_left: i64,
    waits_for_credit: bool,
    is_closing: bool,
    /// What the subscriber was told last.
    told: (u64, bool),
    scratch: Vec<u8>,
}

impl Reading {
    /// Reads what is wanted. `epoch_end` says where an epoch of this log ends.
    pub(super) fn new(
        subscriber: CoreId,
        (source, index): (Source, usize),
        wanted: Wanted,
        tag: u32,
        log: &Writer,
        epoch_end: impl FnOnce(u64) -> u64,
    ) -> Self {
        let marks = log.marks();
        let (mut note, mut opening) = (None, None);
        let partition = source.partition.0;
        let reader = match wanted.start {
            Start::Earliest => Reader::new(log, tag, marks.start),
            Start::Latest => Reader::new(log, tag, marks.high_watermark),
            Start::Offset(offset) => {
                let next = Offset(offset).min(marks.high_watermark);
                if next.0 < offset {
                    note = Some(format!("p{partition}@{}: the log ends here", next.0));
                }
                Reader::new(log, tag, next)
            }
            Start::Time(unix_ms) => {
                opening = Some(unix_ms);
                Reader::since(log, tag, unix_ms)
            }
            Start::Position { epoch, next } => {
                let end = epoch_end(epoch);
                if end < next {
                    note = Some(format!(
                        "p{partition}@{end}: the log parts here from what the position {next} of \
                         epoch {epoch} stands for: reading goes on here"
                    ));
                }
                Reader::new(log, tag, Offset(next.min(end)))
            }
        };
        let from = reader.offset();
        let mut reading = Self {
            subscriber,
            source,
            index,
            reader,
            wanted,
            opening: Some(opening),
            note,
            lost: Vec::new(),
            messages_left: WINDOW_MESSAGES,
            bytes_left: WINDOW_BYTES as i64,
            waits_for_credit: false,
            is_closing: false,
            told: (from.0, false),
            scratch: Vec::new(),
        };
        if from < marks.start {
            let to = marks.start;
            reading.reader.seek(to);
            let trimmed = format!("p{partition}@{}..{}: {}", from.0, to.0, ReadFailure::Trimmed);
            reading.note = Some(trimmed);
        }
        reading
    }

    /// The client has taken so much. Whether nothing else was waited for.
    pub(super) fn credit(&mut self, amount: Amount) -> bool {
        self.messages_left = self.messages_left.saturating_add(amount.messages);
        self.bytes_left = self.bytes_left.saturating_add(amount.bytes as i64);
        self.has_credit() && core::mem::take(&mut self.waits_for_credit)
    }

    fn has_credit(&self) -> bool {
        self.messages_left > 0 && self.bytes_left > 0
    }

    /// Something that was asked of the disk has ended. Whether there is something to do again.
    pub(super) fn on_disk(&mut self, log: &Writer, event: DiskEvent, disk: &mut Disk) -> bool {
        let was_waiting = self.reader.is_waiting();
        self.reader.on_disk(log, event, disk);
        was_waiting && !self.reader.is_waiting()
    }

    pub(super) fn close(&mut self, disk: &mut Disk) {
        self.is_closing = true;
        self.reader.close(disk);
    }

    /// Whether nobody wants it any more.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }

    pub(super) fn is_closed(&self) -> bool {
        self.reader.is_closed()
    }

    /// What the client is to know of where reading begins, if that is anything.
    pub(super) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Reads on, and takes what it reads off `budget` bytes.
    pub(super) fn step(&mut self, tools: &mut Tools<'_>, budget: &mut usize) -> (Step, Told) {
        let mut told = Told::default();
        if self.opening == Some(None) {
            told.opened = Some(self.open(self.reader.offset().0, tools.log));
        }
        let mut stored = Vec::new();
        let step = loop {
            if self.opening.is_none() && !self.has_credit() {
                self.waits_for_credit = true;
                break Step::Credit;
            }
            if *budget == 0 {
                break Step::Busy;
            }
            match self.take(tools, budget, &mut stored) {
                Taken::Record => {}
                Taken::Opening(offset) => told.opened = Some(self.open(offset, tools.log)),
                Taken::Lost(error) => {
                    let (from, to) = (error.lost.start.0, error.lost.end.0);
                    let partition = self.source.partition.0;
                    self.lost.push(format!("p{partition}@{from}..{to}: {}", error.failure));
                    told.lost.push(error);
                }
                Taken::Nothing if self.reader.take_put_off() => break Step::Later,
                Taken::Nothing => {
                    self.reader.ask(tools.log, tools.disk);
                    if self.reader.is_waiting() {
                        *budget = budget.saturating_sub(ASK_COST_BYTES);
                        break Step::Disk;
                    }
                    if !self.reader.has_failed() {
                        break Step::Tail;
                    }
                }
            }
        };
        self.let_go(step);
        let next = self.reader.offset().0;
        if self.opening.is_some() && step == Step::Tail {
            told.opened = Some(self.open(next, tools.log));
        }
        let at_end = step == Step::Tail;
        if self.opening.is_none() && self.is_worth_telling(next, at_end, &stored) {
            self.told = (next, at_end);
            let lost = core::mem::take(&mut self.lost);
            told.batch = Some(Batch { source: self.source, stored, read: next, at_end, lost });
        }
        (step, told)
    }

    /// What is not needed soon is not kept: at the end of the log it is read anew in any case, and
    /// for a client that takes nothing a large record can be.
    fn let_go(&mut self, step: Step) {
        let is_large = self.reader.window_bytes() > reader::WINDOW_BYTES as usize;
        if step == Step::Tail || (step == Step::Credit && is_large) {
            self.reader.forget_window();
        }
    }

    /// Takes the next record, and puts it with those `stored` if it is wanted.
    fn take(
        &mut self,
        tools: &mut Tools<'_>,
        budget: &mut usize,
        stored: &mut Vec<Stored>,
    ) -> Taken {
        let record = match self.reader.next_record() {
            Next::Record(record) => record,
            Next::Lost(error) => return Taken::Lost(error),
            Next::Wait => return Taken::Nothing,
        };
        *budget = budget.saturating_sub(record.bytes() + RECORD_COST_BYTES);
        let RecordHead { offset, epoch, unix_ms, .. } = record.head;
        if self.opening.flatten().is_some_and(|since| unix_ms < since) {
            return Taken::Record;
        }
        if is_wanted(&self.wanted, &record, &tools.clocks) {
            let says_where = self.wanted.says_where.then_some(self.source.partition);
            let message = make(&record, says_where, tools, &mut self.scratch);
            let one = Stored { message, offset: offset.0, epoch, unix_ms };
            self.messages_left = self.messages_left.saturating_sub(1);
            self.bytes_left -= one.bytes() as i64;
            stored.push(one);
        }
        if self.opening.is_some() { Taken::Opening(offset.0) } else { Taken::Record }
    }

    /// Reading begins at this offset.
    fn open(&mut self, next: u64, log: &Writer) -> Opened {
        self.opening = None;
        let (source, stored_end) = (self.source, log.marks().high_watermark.0);
        Opened { source, next, stored_end, note: self.note.take() }
    }

    fn is_worth_telling(&self, next: u64, at_end: bool, stored: &[Stored]) -> bool {
        let (told, was_at_end) = self.told;
        !stored.is_empty()
            || !self.lost.is_empty()
            || (at_end && !was_at_end)
            || told + SILENT_RECORDS_MAX <= next
    }
}

/// What a reader had.
enum Taken {
    Record,
    /// The record at which reading begins.
    Opening(u64),
    Lost(ReadError),
    Nothing,
}

/// What looking at a record costs, as bytes of the budget.
const RECORD_COST_BYTES: usize = 128;
/// What asking the disk costs.
const ASK_COST_BYTES: usize = 4 * 1024;

fn is_wanted(wanted: &Wanted, record: &Record<'_>, clocks: &Clocks) -> bool {
    record.head.kind == RecordKind::PUBLISH
        && matches(&wanted.filter, record.topic)
        && wanted.not_of.as_deref().is_none_or(|own| own != record.client_id)
        && clocks.head(record.head.unix_ms, expiry_of(record)).expires_at > clocks.now
}

fn make(
    record: &Record<'_>,
    says_where: Option<PartitionId>,
    tools: &mut Tools<'_>,
    scratch: &mut Vec<u8>,
) -> Message {
    let head = tools.clocks.head(record.head.unix_ms, expiry_of(record));
    let head = MessageHead { qos: record.head.flags.qos(), ..head };
    let Some(partition) = says_where else {
        return tools.maker.make(head, record.topic, record.properties, record.payload);
    };
    scratch.clear();
    scratch.extend_from_slice(record.properties);
    let RecordHead { offset, unix_ms, .. } = record.head;
    properties::put_place(scratch, partition, offset.0, unix_ms);
    tools.maker.make(head, record.topic, scratch, record.payload)
}
