//! The owner's side: the partitions of this core that are read again for subscriptions of any core.
//!
//! All of it together takes a bounded part of a turn (`pace`), and what is read at the end of a log is
//! read at most every few milliseconds, less often the more there are: live traffic comes first. A
//! bounded number are read at a time; who comes beyond waits in line.

use super::line::Line;
use super::mail::{Batch, Credit, Opening, ReplayMail, Source};
use super::pace::Share;
use super::source::{Reading, Step, Told, Tools};
use crate::mail::Mail;
use crate::service::{Broker, DISK_NUMBERS, DiskUser, Turn};
use hashbrown::HashMap;
use ringlane_dataplane::disk::{DiskDone, DiskEvent};
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::log::reader::ReadFailure;
use ringlane_dataplane::log::stored::Clocks;
use ringlane_dataplane::time::Nanos;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// What looking after one of them costs, as bytes.
const STEP_COST_BYTES: usize = 512;
/// How often what was just flushed is read.
const TAIL_EVERY: Duration = Duration::from_millis(5);
/// And so much less often for each that waits at the end of a log: 20,000 looks a second at most.
const TAIL_EACH: Duration = Duration::from_micros(50);
/// How soon is tried again what the host was too short of descriptors or memory for.
const LATER: Duration = Duration::from_secs(1);

/// The readings of a core.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    next: u32,
    /// By the number in their tokens.
    by_number: HashMap<u32, Reading>,
    by_source: HashMap<(CoreId, Source), u32>,
    /// How many there may be, those that are being closed among them.
    room: usize,
    /// Those that there is no room for yet.
    line: Line<(CoreId, Source), Opening>,
    /// Those with something to do; some have gone since.
    ready: VecDeque<u32>,
    /// Those that try again at a time.
    later: BTreeSet<u32>,
    later_at: Nanos,
    /// Those that have read all that is flushed, by the place of their partition.
    tails: Vec<Tail>,
}

/// Who waits at the end of one log.
#[derive(Debug, Default)]
struct Tail {
    waiting: BTreeSet<u32>,
    /// Whether more was flushed since they were looked at.
    is_due: bool,
    looked_at: Nanos,
}

impl Readings {
    /// Those of a core with so many partitions, at most `room` of them at a time.
    pub(crate) fn new(partitions: usize, room: usize) -> Self {
        let tails = (0..partitions).map(|_| Tail::default()).collect();
        Self { tails, room: room.max(1), ..Self::default() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.by_number.is_empty() && self.line.is_empty()
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Nothing is read: who was ready has gone.
    pub(super) fn forget_ready(&mut self) {
        self.ready.clear();
    }

    /// A number that no reading has.
    fn fresh_number(&mut self) -> u32 {
        loop {
            self.next = (self.next + 1) % DISK_NUMBERS;
            if !self.by_number.contains_key(&self.next) {
                return self.next;
            }
        }
    }

    /// More of a log was flushed.
    pub(crate) fn on_flushed(&mut self, index: usize) {
        if let Some(tail) = self.tails.get_mut(index) {
            tail.is_due = !tail.waiting.is_empty();
        }
    }

    /// Those at the ends of their logs are looked at, whatever was flushed.
    pub(crate) fn look_again(&mut self) {
        (0..self.tails.len()).for_each(|index| self.on_flushed(index));
    }

    /// Has those read on behind whom more was flushed; when it is to be called again, if it is.
    fn wake_tails(&mut self, now: Nanos) -> Nanos {
        let Self { tails, ready, .. } = self;
        let mut next = Nanos::NEVER;
        let waiting = tails.iter().map(|tail| tail.waiting.len()).sum::<usize>();
        let every = TAIL_EVERY + TAIL_EACH * u32::try_from(waiting).unwrap_or(u32::MAX);
        for tail in tails.iter_mut().filter(|tail| tail.is_due) {
            let due = tail.looked_at + every;
            if due <= now {
                ready.extend(core::mem::take(&mut tail.waiting));
                (tail.is_due, tail.looked_at) = (false, now);
            } else {
                next = next.min(due);
            }
        }
        next
    }

    /// Has those try again that the host was too short of something for; when that is due.
    fn wake_later(&mut self, now: Nanos) -> Nanos {
        if self.later.is_empty() {
            return Nanos::NEVER;
        }
        if now < self.later_at {
            return self.later_at;
        }
        self.ready.extend(core::mem::take(&mut self.later));
        Nanos::NEVER
    }

    /// Tries a reading again after a while. Whether it is the first of those that do.
    fn put_off(&mut self, now: Nanos, number: u32) -> bool {
        let is_first = self.later.is_empty();
        if is_first {
            self.later_at = now + LATER;
        }
        self.later.insert(number);
        is_first
    }

    /// One that waits in line, if there is room for it.
    fn next_in_line(&mut self) -> Option<(CoreId, Opening)> {
        if self.room <= self.by_number.len() {
            return None;
        }
        self.line.pop().map(|((subscriber, _), opening)| (subscriber, opening))
    }

    fn forget(&mut self, number: u32) {
        self.by_number.remove(&number);
    }
}

impl Broker {
    pub(crate) fn on_replay_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: ReplayMail) {
        match mail {
            // Begun at the end of this turn, if there is room.
            ReplayMail::Open(opening) => {
                self.readings.line.push((from, opening.source), *opening);
            }
            ReplayMail::Credit(Credit { source, amount }) => {
                let readings = &mut self.readings;
                let Some(number) = readings.by_source.get(&(from, source)).copied() else { return };
                let Some(reading) = readings.by_number.get_mut(&number) else { return };
                if reading.credit(amount) {
                    readings.ready.push_back(number);
                }
            }
            ReplayMail::Close(source) => self.close_reading(turn, from, source),
            ReplayMail::Opened(opened) => self.on_replay_opened(turn, opened),
            ReplayMail::Batch(batch) => self.on_replay_batch(turn, batch),
        }
    }

    fn open_reading(&mut self, subscriber: CoreId, opening: Opening) {
        let Opening { source, wanted } = opening;
        let index = self.partition_index(source.partition);
        let Some(log) = self.partitions.get(index).and_then(|partition| partition.log()) else {
            return;
        };
        let number = self.readings.fresh_number();
        let tag = DiskUser::Replay.tag(number);
        let epoch_end = |epoch: u64| {
            let next = self.partitions[index].next_offset().0;
            let Some(durable) = &self.durable else { return next };
            let state = &durable.partitions[index].state;
            // Of an epoch that is yet to come nothing is known but that this run is not of it.
            let known = if log.epoch() < epoch { log.epoch() - 1 } else { epoch };
            state.epoch_end(known, next)
        };
        let reading = Reading::new(subscriber, (source, index), wanted, tag, log, epoch_end);
        if let Some(note) = reading.note() {
            tracing::warn!(
                core = self.core.0,
                note,
                "a replay begins elsewhere than was asked for"
            );
        }
        self.readings.by_number.insert(number, reading);
        self.readings.by_source.insert((subscriber, source), number);
        self.readings.ready.push_back(number);
    }

    fn close_reading(&mut self, turn: &mut Turn<'_>, subscriber: CoreId, source: Source) {
        let readings = &mut self.readings;
        readings.line.remove(&(subscriber, source));
        let Some(number) = readings.by_source.remove(&(subscriber, source)) else { return };
        let Some(reading) = readings.by_number.get_mut(&number) else { return };
        if let Some(tail) = readings.tails.get_mut(reading.index) {
            tail.waiting.remove(&number);
        }
        readings.later.remove(&number);
        reading.close(turn.disk);
        if reading.is_closed() {
            readings.forget(number);
        }
    }

    /// Something that a reading asked of the disk has ended.
    pub(crate) fn on_reading_event(&mut self, turn: &mut Turn<'_>, number: u32, event: DiskEvent) {
        if let Ok(DiskDone::Read(bytes)) = &event.result {
            self.metrics.replay_read_bytes.add(bytes.len() as u64);
        }
        let Self { readings, partitions, .. } = self;
        // Its file was closed, and it is forgotten.
        let Some(reading) = readings.by_number.get_mut(&number) else { return };
        let log = partitions.get(reading.index).and_then(|partition| partition.log());
        let Some(log) = log else { return };
        let is_answered = reading.on_disk(log, event, turn.disk);
        if reading.is_closed() {
            readings.forget(number);
        } else if is_answered {
            readings.ready.push_back(number);
        }
    }

    /// End of turn: reads on. When there is more to do although nothing happens.
    pub(super) fn run_readings(&mut self, turn: &mut Turn<'_>, share: &Share) -> Nanos {
        while let Some((subscriber, opening)) = self.readings.next_in_line() {
            self.open_reading(subscriber, opening);
        }
        let next = self.readings.wake_tails(turn.now).min(self.readings.wake_later(turn.now));
        let mut budget = share.read;
        for _ in 0..self.readings.ready.len() {
            if budget == 0 {
                break;
            }
            let Some(number) = self.readings.ready.pop_front() else { break };
            let mut step = share.read_one.min(budget);
            budget -= step;
            self.step_reading(turn, number, &mut step);
            budget = (budget + step).saturating_sub(STEP_COST_BYTES);
        }
        next
    }

    fn step_reading(&mut self, turn: &mut Turn<'_>, number: u32, budget: &mut usize) {
        let unix_ms = self.unix_ms(turn.now);
        let Self { readings, partitions, maker, .. } = self;
        let reading = readings.by_number.get_mut(&number).filter(|reading| !reading.is_closing());
        let Some(reading) = reading else { return };
        let (index, subscriber) = (reading.index, reading.subscriber);
        let Some(log) = partitions.get(index).and_then(|partition| partition.log()) else { return };
        let clocks = Clocks { now: turn.now, unix_ms };
        let mut tools = Tools { log, disk: &mut *turn.disk, maker, clocks };
        let (step, told) = reading.step(&mut tools, budget);
        match step {
            Step::Busy => readings.ready.push_back(number),
            Step::Tail => {
                readings.tails[index].waiting.insert(number);
            }
            Step::Later if readings.put_off(turn.now, number) => {
                let core = self.core.0;
                tracing::warn!(core, "replays wait: too few descriptors, or too little memory");
            }
            Step::Later | Step::Disk | Step::Credit => {}
        }
        self.tell_subscriber(turn, subscriber, told);
    }

    fn tell_subscriber(&mut self, turn: &mut Turn<'_>, to: CoreId, told: Told) {
        for lost in &told.lost {
            self.metrics.replay_lost_ranges.add(1);
            if lost.failure == ReadFailure::Trimmed {
                tracing::warn!(core = self.core.0, %lost, "a replay goes on behind what was trimmed");
            } else {
                tracing::error!(core = self.core.0, %lost, "a replay goes on behind what cannot be read");
            }
        }
        if let Some(opened) = told.opened {
            self.send_mail(turn, to, Mail::Replay(Box::new(ReplayMail::Opened(opened))));
        }
        if let Some(batch) = told.batch {
            self.metrics.replayed_messages.add(Batch::len(&batch));
            self.send_mail(turn, to, Mail::Replay(Box::new(ReplayMail::Batch(batch))));
        }
    }
}
