//! Records for sessions that catch up, of the logs of this core: read beside the writer, answered in
//! mails, to this core's sessions as to those of others.
//!
//! Each partition has a few readers, which stay where they are: sessions that read on find their
//! window in memory. A session asks for one window at a time and is answered in turn, so that a long
//! backlog costs the others no more than a short one.

use super::Timer;
use super::disk_user::DiskUser;
use super::{Broker, Turn};
use crate::delivery::MessageMaker;
use crate::durable::publisher_of;
use crate::mail::{Fetch, Fetched, Found, Mail, Unfetch};
use ringlane_dataplane::disk::{Disk, DiskEvent};
use ringlane_dataplane::ids::{CoreId, Offset, PartitionId};
use ringlane_dataplane::log::reader::{Next, ReadError, ReadFailure, Reader};
use ringlane_dataplane::log::record::{Record, RecordKind};
use ringlane_dataplane::log::stored::{self, Clocks};
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::routing::Placement;
use ringlane_dataplane::time::Nanos;
use std::collections::VecDeque;
use std::time::Duration;

/// Readers of one partition: each has a file open, and a window of 64 KiB or one record in memory.
const READERS_MAX: usize = 4;
/// Readers have their number in the lowest bits of their tags.
const READER_BITS: u32 = 2;
/// How far a reader may be behind what is wanted and still be the one to read it, in records.
const NEAR: u64 = 16 * 1024;
/// Records read for one partition in a turn, as far as they are in memory; then others have theirs.
const RECORDS_PER_TURN: usize = 1024;
/// A reader that was not needed for so long closes its file.
const IDLE: Duration = Duration::from_secs(10);
/// How long a reader waits where the host has no descriptor or no memory left.
const PUT_OFF: Duration = Duration::from_millis(100);

/// What the sessions of all cores want of this core's logs.
#[derive(Debug)]
pub(super) struct Fetches {
    /// As the partitions stand in the table.
    logs: Vec<LogFetches>,
    /// Partitions that have more to do than one turn takes.
    busy: Vec<usize>,
    /// Whether the timer is armed that goes on with what was put off.
    is_armed: bool,
}

/// Of one partition. A session has one request under way, and whoever does not wait for its answer any
/// more takes it back: the queue is bounded by the windows that cores have open at a time.
#[derive(Debug, Default)]
struct LogFetches {
    readers: Vec<Serving>,
    queue: VecDeque<Task>,
}

/// A reader, and what it reads for.
#[derive(Debug)]
struct Serving {
    reader: Reader,
    task: Option<Task>,
    used_at: Nanos,
    /// Before that the host is not asked again.
    put_off_until: Nanos,
    closing: bool,
}

/// A request, and what was found so far.
#[derive(Debug)]
struct Task {
    from: CoreId,
    fetch: Fetch,
    found: Vec<Found>,
    bytes: usize,
}

/// Mails and the cores that they are for.
type Answers = Vec<(CoreId, Mail)>;

/// How far a task has come.
enum Step {
    Done,
    /// The disk was asked, or as much was read as one turn takes.
    Later,
    /// What comes next is not flushed.
    Unflushed,
}

impl Fetches {
    pub(super) fn new(partitions: usize) -> Self {
        let logs = (0..partitions).map(|_| LogFetches::default()).collect();
        Self { logs, busy: Vec::new(), is_armed: false }
    }

    fn waiting(&self) -> usize {
        self.logs.iter().map(|log| log.queue.len()).sum()
    }

    /// Whether there is more to do than one turn took.
    pub(super) fn has_work(&self) -> bool {
        !self.busy.is_empty()
    }
}

impl Task {
    fn next(&self) -> Option<(u64, Offset)> {
        self.fetch.places.get(self.found.len()).copied()
    }

    fn is_done(&self) -> bool {
        let enough = self.fetch.bytes_max <= self.bytes && !self.found.is_empty();
        enough || self.next().is_none()
    }

    fn push(&mut self, found: Found) {
        if let Found::Message(message, _) = &found {
            self.bytes += message.memory_bytes();
        }
        self.found.push(found);
    }

    fn answer(self) -> (CoreId, Mail) {
        let Fetch { by, request, partition, .. } = self.fetch;
        let fetched = Fetched { by, request, partition, found: self.found };
        (self.from, Mail::Fetched(Box::new(fetched)))
    }

    /// Records that cannot be read: those of them that are wanted, up to the first that is not.
    fn lose(&mut self, error: &ReadError) {
        while let Some((_, offset)) = self.next()
            && error.lost.contains(&offset)
        {
            let gone = error.failure == ReadFailure::Trimmed;
            self.push(if gone { Found::Gone } else { Found::Damaged });
        }
    }
}

/// What a record is made a message with.
struct Tools<'a> {
    log: &'a Writer,
    disk: &'a mut Disk,
    maker: &'a mut MessageMaker,
    placement: &'a Placement,
    clocks: Clocks,
    left: &'a mut usize,
    /// Other nodes have what cannot be read here: it is not skipped.
    others_have_it: bool,
    /// What of that there is.
    lost: Option<ReadError>,
}

impl Serving {
    /// Reads on for the task in hand.
    fn step(&mut self, tools: &mut Tools<'_>) -> Step {
        let Self { reader, task: Some(task), .. } = self else { return Step::Done };
        while !task.is_done() {
            let Some((epoch, offset)) = task.next() else { break };
            if *tools.left == 0 {
                return Step::Later;
            }
            if tools.log.marks().high_watermark <= offset {
                // Of an earlier run, or of a log that has failed, no more will be flushed.
                if epoch == tools.log.epoch() && tools.log.fault().is_none() {
                    return Step::Unflushed;
                }
                task.push(Found::Gone);
                continue;
            }
            if !read_one(reader, task, (epoch, offset), tools) {
                return Step::Later;
            }
        }
        Step::Done
    }
}

/// Reads the record at an offset, or finds out that it cannot be read. False if the disk has to be
/// waited for.
fn read_one(
    reader: &mut Reader,
    task: &mut Task,
    (epoch, offset): (u64, Offset),
    tools: &mut Tools<'_>,
) -> bool {
    reader.seek(offset);
    // Behind a seek it takes one look to find out what is missing, and one to ask for it.
    for _ in 0..3 {
        match reader.next_record() {
            Next::Record(record) => {
                *tools.left -= 1;
                task.push(found(&record, epoch, offset, tools));
                return true;
            }
            Next::Lost(error) if tools.others_have_it && error.failure != ReadFailure::Trimmed => {
                tools.lost = Some(error);
                return false;
            }
            Next::Lost(error) => {
                report(task.fetch.partition, &error);
                task.lose(&error);
                return true;
            }
            Next::Wait => reader.ask(tools.log, tools.disk),
        }
        if reader.is_waiting() {
            return false;
        }
    }
    false
}

fn report(partition: PartitionId, error: &ReadError) {
    if error.failure != ReadFailure::Trimmed {
        tracing::error!(
            partition = partition.0,
            %error,
            "a part of a log cannot be read: what sessions are owed of it is skipped and counted; \
             see `ringlane log verify`"
        );
    }
}

fn found(record: &Record<'_>, epoch: u64, offset: Offset, tools: &mut Tools<'_>) -> Found {
    let head = &record.head;
    if (head.epoch, head.offset, head.kind) != (epoch, offset, RecordKind::PUBLISH) {
        return Found::Gone;
    }
    let head = stored::head_of(record, publisher_of(record, tools.placement), &tools.clocks);
    let Record { topic, properties, payload, .. } = *record;
    Found::Message(tools.maker.make(head, topic, properties, payload), record.head.unix_ms)
}

impl Broker {
    /// A session wants records of a log of this core.
    pub(super) fn on_fetch(&mut self, turn: &mut Turn<'_>, from: CoreId, fetch: Fetch) {
        let index = self.partition_index(fetch.partition);
        let task = Task { from, fetch, found: Vec::new(), bytes: 0 };
        let Some(fetches) = self.fetches.logs.get_mut(index) else { return };
        fetches.queue.push_back(task);
        self.serve_fetches(turn, index);
    }

    /// Nobody waits for an answer any more. What a reader has in hand ends as it would.
    pub(super) fn on_unfetch(&mut self, from: CoreId, unfetch: &Unfetch) {
        let index = self.partition_index(unfetch.partition);
        let Some(fetches) = self.fetches.logs.get_mut(index) else { return };
        fetches.queue.retain(|Task { from: asked_by, fetch, .. }| {
            (*asked_by, fetch.by, fetch.request) != (from, unfetch.by, unfetch.request)
        });
        self.metrics.fetches_waiting.set(self.fetches.waiting() as u64);
    }

    /// What was put off is tried again.
    pub(super) fn on_fetch_timer(&mut self, turn: &mut Turn<'_>) {
        self.fetches.is_armed = false;
        for index in 0..self.fetches.logs.len() {
            self.serve_fetches(turn, index);
        }
    }

    /// The disk has answered a reader.
    pub(super) fn on_fetch_event(&mut self, turn: &mut Turn<'_>, tag: u32, event: DiskEvent) {
        let (index, number) = ((tag >> READER_BITS) as usize, tag % (1 << READER_BITS));
        let Some(log) = self.partitions[index].log() else { return };
        let Some(serving) = self.fetches.logs[index].readers.get_mut(number as usize) else {
            return;
        };
        serving.reader.on_disk(log, event, turn.disk);
        self.serve_fetches(turn, index);
    }

    /// End of turn: partitions that had more to do than one turn takes go on.
    pub(super) fn go_on_fetching(&mut self, turn: &mut Turn<'_>) {
        for index in core::mem::take(&mut self.fetches.busy) {
            self.serve_fetches(turn, index);
        }
    }

    /// Reads on for those who want records of one partition.
    pub(super) fn serve_fetches(&mut self, turn: &mut Turn<'_>, index: usize) {
        let fetches = &self.fetches.logs[index];
        if fetches.queue.is_empty() && fetches.readers.iter().all(|serving| serving.task.is_none())
        {
            return;
        }
        let clocks = self.clocks(turn.now);
        let mut left = RECORDS_PER_TURN;
        let mut answers = Vec::new();
        let Self { partitions, fetches, maker, placement, replicas, .. } = self;
        let Some(log) = partitions[index].log() else { return };
        let others_have_it = replicas.as_ref().is_some_and(|replicas| replicas.has_others());
        let tools = &mut Tools {
            log,
            disk: turn.disk,
            maker,
            placement,
            clocks,
            left: &mut left,
            others_have_it,
            lost: None,
        };
        fetches.logs[index].serve(turn.now, index, tools, &mut answers);
        if let (Some(error), Some(replicas)) = (tools.lost.take(), replicas) {
            replicas.on_lost(index, &error);
        }
        if left == 0 && !self.fetches.busy.contains(&index) {
            self.fetches.busy.push(index);
        }
        if self.fetches.logs[index].is_put_off(turn.now) && !self.fetches.is_armed {
            self.fetches.is_armed = true;
            turn.timers.schedule(turn.now + PUT_OFF, Timer::Fetch);
        }
        self.metrics.fetches_waiting.set(self.fetches.waiting() as u64);
        for (to, mail) in answers {
            self.send_mail(turn, to, mail);
        }
    }

    /// Readers that nobody has needed for a while let go of their files.
    pub(crate) fn close_idle_readers(&mut self, turn: &mut Turn<'_>) {
        for fetches in &mut self.fetches.logs {
            for serving in &mut fetches.readers {
                let idle = serving.task.is_none() && IDLE <= turn.now.since(serving.used_at);
                if idle && !serving.closing {
                    serving.closing = true;
                    serving.reader.close(turn.disk);
                }
            }
            // Their numbers are in their tags: from the last one on.
            while fetches.readers.last().is_some_and(|serving| serving.reader.is_closed()) {
                fetches.readers.pop();
            }
        }
    }
}

impl LogFetches {
    /// Whether a reader waits until the host may have what it is short of.
    fn is_put_off(&self, now: Nanos) -> bool {
        self.readers.iter().any(|serving| serving.task.is_some() && now < serving.put_off_until)
    }

    fn serve(&mut self, now: Nanos, index: usize, tools: &mut Tools<'_>, answers: &mut Answers) {
        for number in 0..self.readers.len() {
            self.go_on(now, number, tools, answers);
        }
        // Each task is looked at once: it may have to wait behind the others.
        for _ in 0..self.queue.len() {
            let next = self.queue.front().and_then(Task::next);
            let offset = next.map_or(Offset(0), |(_, offset)| offset);
            if *tools.left == 0 {
                break;
            }
            let Some(number) = self.choose(now, index, offset, tools.log) else { break };
            self.readers[number].task = self.queue.pop_front();
            self.go_on(now, number, tools, answers);
        }
    }

    fn go_on(&mut self, now: Nanos, number: usize, tools: &mut Tools<'_>, answers: &mut Answers) {
        let serving = &mut self.readers[number];
        if serving.task.is_none() || serving.reader.is_waiting() {
            return;
        }
        if serving.reader.take_put_off() {
            serving.put_off_until = now + PUT_OFF;
        }
        if now < serving.put_off_until {
            return;
        }
        serving.used_at = now;
        match serving.step(tools) {
            Step::Later => {}
            Step::Done => answers.extend(serving.task.take().map(Task::answer)),
            Step::Unflushed => {
                let Some(task) = serving.task.take() else { return };
                if task.found.is_empty() {
                    self.queue.push_back(task);
                } else {
                    // The rest is asked for again.
                    answers.push(task.answer());
                }
            }
        }
    }

    /// A reader that has nothing to do: one that is shortly before the offset, or another.
    fn choose(&mut self, now: Nanos, index: usize, offset: Offset, log: &Writer) -> Option<usize> {
        let distance = |serving: &Serving| {
            let distance = offset.0.checked_sub(serving.reader.offset().0);
            distance.filter(|distance| *distance < NEAR)
        };
        let is_idle = |serving: &Serving| serving.task.is_none() && !serving.closing;
        let idle = || {
            let readers = self.readers.iter().enumerate();
            readers.filter(|(_, serving)| is_idle(serving))
        };
        let near = idle().filter_map(|(number, serving)| Some((distance(serving)?, number))).min();
        if let Some((_, number)) = near {
            return Some(number);
        }
        let closed = self.readers.iter().position(|serving| serving.reader.is_closed());
        let number = closed.unwrap_or(self.readers.len());
        if number == READERS_MAX {
            let oldest = idle().min_by_key(|(_, serving)| serving.used_at);
            return oldest.map(|(number, _)| number);
        }
        let tag = DiskUser::Fetch.tag((index as u32) << READER_BITS | number as u32);
        let reader = Reader::new(log, tag, offset);
        let put_off_until = Nanos(0);
        let serving = Serving { reader, task: None, used_at: now, put_off_until, closing: false };
        match self.readers.get_mut(number) {
            Some(closed) => *closed = serving,
            None => self.readers.push(serving),
        }
        Some(number)
    }
}
