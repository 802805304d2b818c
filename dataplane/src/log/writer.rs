//! The writer of one log: a state machine that hands sealed batches to the disk and says what is
//! durable.
//!
//! It works in *rounds*, one at a time: one write of everything that is sealed, and its sync. What
//! comes meanwhile is the next round, so that a lone publisher waits for one sync and a thousand
//! share one; where there are replicas, it waits for a moment for those who were just answered ([`super::gather`]). What nobody waits for lingers. A round writes one segment. A batch that does not fit ends its segment: the round
//! closes it with a batch that says so, and the next round begins the next segment. So nothing is in a
//! segment before all that is in the one before it is durable.
//!
//! Each batch names the durable watermark of its moment. When nothing follows for
//! [`CLOSE_AFTER`], a closing batch without records names the newest, so that recovery can tell a
//! torn tail from damage.
//!
//! The first error of a write or a sync ends the log: it acknowledges nothing any more, for nobody
//! knows what the disk holds (fsync(2), "Errors"). A full disk is met earlier ([`Segments`]) and
//! heals.

use super::format::{self, BatchHeader};
use super::gather::Gather;
use super::progress::Progress;
use super::record::RecordSeed;
use super::recovery::ReplayFrom;
use super::room::Claim;
use super::segments::{LogEnd, LogSetup, Segments};
use crate::batch::{Batch, Level};
use crate::disk::{BLOCK_BYTES, BatchWrite, Disk, DiskCommand, DiskError, DiskEvent, DiskToken};
use crate::ids::Offset;
use crate::partition::Marks;
use crate::time::Nanos;
use core::time::Duration;
use std::collections::VecDeque;
use std::path::PathBuf;
use triomphe::Arc;

/// Records that nobody waits for are written this long after the first of them was appended, or
/// when there are many.
pub const LINGER: Duration = Duration::from_millis(50);
const LINGER_BYTES_MAX: u64 = 1 << 20;
const LINGER_BATCHES_MAX: usize = 256;
/// A closing batch is written this long after the last append was flushed.
pub const CLOSE_AFTER: Duration = Duration::from_millis(10);
/// Bytes of one round, at most, unless a single batch is larger.
const ROUND_BYTES_MAX: u64 = 4 << 20;
/// Batches of one round, at most: a system call takes 1,024 pieces (IOV_MAX, sysconf(3)).
const ROUND_BATCHES_MAX: usize = 500;
/// Bytes of a batch that more than one record goes into, at most; any segment has room for it.
pub const BATCH_BYTES_MAX: u64 = 64 * 1024;
/// Bytes that wait for a round, beyond which no publish is taken; and one more is what a turn adds
/// beyond it, because the bound is looked at before each append.
const QUEUE_BYTES_MAX: u64 = 16 << 20;
/// The same for records of state.
const QUEUE_STATE_BYTES_MAX: u64 = 20 << 20;
/// Batches that wait for a round, likewise: small ones have more memory than records.
const QUEUE_BATCHES_MAX: usize = 8192;

/// Bytes of records of the longest batch that a log takes, by its longest record.
pub(crate) fn batch_bytes_max(record_bytes_max: u64) -> u64 {
    record_bytes_max.max(BATCH_BYTES_MAX)
}

/// Whether an append is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It is.
    Open,
    /// The disk is behind: there is room again as soon as a round has ended.
    Busy,
    /// There is no room for the next segment. It is looked for every second.
    Full,
    /// The log has ended with an error, for good.
    Poisoned,
}

/// What was asked of the disk when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultAt {
    /// A segment was to be opened.
    Open,
    /// Batches were to be written.
    Write,
    /// They were to be synced.
    Sync,
}

/// Why a log has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The segment.
    pub path: PathBuf,
    /// Where in it the round began.
    pub position: u64,
    /// What failed.
    pub at: FaultAt,
    /// How.
    pub error: DiskError,
}

/// What one round made durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flushed {
    /// Records, none if a closing batch was all.
    pub records: u64,
    /// Bytes written.
    pub bytes: u64,
    /// From the beginning of the write to the end of the sync.
    pub took: Duration,
}

#[derive(Debug)]
struct Queued {
    batch: Arc<Batch>,
    first: Offset,
    epoch: u64,
}

impl Queued {
    fn bytes(&self) -> u64 {
        format::batch_bytes(self.batch.body_bytes())
    }

    /// Whether a record of it is committed when it is flushed.
    fn is_awaited(&self) -> bool {
        self.batch.memory_records() < self.batch.len() as u32
    }

    /// Whether other nodes are to have it before it is flushed here.
    fn is_sooner(&self) -> bool {
        self.batch.needs_quorum(Level::Memory)
    }

    fn end(&self) -> Offset {
        Offset(self.first.0 + self.batch.len() as u64)
    }
}

/// What is under way.
#[derive(Debug)]
struct Round {
    token: DiskToken,
    begun: Nanos,
    number: u64,
    position: u64,
    bytes: u64,
    records: u64,
    /// Where the flushed mark goes, and what the batches of the round say that it was.
    end: Offset,
    watermark: Offset,
    /// What they say that the log start offset is.
    log_start: Offset,
    seals: bool,
    /// Somebody waits for a record of it.
    is_awaited: bool,
}

/// Up to where a majority of the replicas has the records of a log; exclusive, `flushed <= accepted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuorumMarks {
    /// In their logs.
    pub accepted: Offset,
    /// Durable on their nodes.
    pub flushed: Offset,
}

/// The writer of one log.
#[derive(Debug)]
pub struct Writer {
    seed: RecordSeed,
    /// Of what is accepted now.
    epoch: u64,
    /// Of the batch that was put into a segment last.
    put_epoch: u64,
    /// Batches that were accepted of late, for those who replicate them.
    sealed: Vec<(Arc<Batch>, Offset)>,
    progress: Progress,
    /// What the replicas have, if there are several.
    quorum: Option<QuorumMarks>,
    segments: Segments,
    queue: VecDeque<Queued>,
    queue_bytes: u64,
    /// Batches in the queue with records that somebody waits for.
    awaited: usize,
    /// Batches in the queue that a majority is to have in memory, which no round is waited for.
    sooner: usize,
    /// When those are written that nobody waits for.
    linger_until: Nanos,
    round: Option<Round>,
    /// How long rounds that somebody waited for took of late: a mean in which the last one counts
    /// for an eighth.
    usual: Duration,
    /// When a closing batch is due.
    close_at: Nanos,
    /// Nothing lingers until everything is durable and said to be.
    hurries: bool,
    /// Whether something has happened since the end of the last turn.
    is_touched: bool,
    fault: Option<Fault>,
    /// Whether what comes is what another node has made.
    is_follower: bool,
    gather: Gather,
    /// Until when what is queued waits for its round and is nowhere else before; `None` if it is anywhere.
    held_until: Option<Nanos>,
    /// Until when the next round waits for more.
    gathers_until: Option<Nanos>,
    /// No file is to stay open.
    is_closing: bool,
    /// The latest time at which a batch was sealed, or a later one (Unix time, ms).
    sealed_unix_ms: u64,
}

impl Writer {
    /// A writer that goes on where the log ends. It asks for its files at the end of its first
    /// turn, and takes appends at once.
    #[must_use]
    pub fn new(setup: LogSetup, end: LogEnd) -> Self {
        let progress = Progress::at(end.next, end.watermark);
        let unsaid = end.watermark < end.next;
        let sealed_unix_ms = end.last_unix_ms();
        Self {
            seed: RecordSeed::new(&setup.directory_id, setup.partition),
            epoch: setup.epoch,
            put_epoch: setup.epoch,
            sealed: Vec::new(),
            progress,
            quorum: None,
            segments: Segments::new(setup, end),
            queue: VecDeque::new(),
            queue_bytes: 0,
            awaited: 0,
            sooner: 0,
            linger_until: Nanos::NEVER,
            round: None,
            usual: Duration::ZERO,
            close_at: if unsaid { Nanos(0) } else { Nanos::NEVER },
            hurries: false,
            is_touched: true,
            fault: None,
            is_follower: false,
            gather: Gather::default(),
            held_until: None,
            gathers_until: None,
            is_closing: false,
            sealed_unix_ms,
        }
    }

    pub(crate) fn seed(&self) -> RecordSeed {
        self.seed
    }

    /// The epoch of what is appended.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What is appended from now on is of this epoch, which is durable. An epoch that was begun and
    /// let go of before a batch of it was accepted may be followed by an older one: another node
    /// leads, and sends what this one lacked.
    ///
    /// # Panics
    /// If it is older than the batch that was accepted last.
    pub fn begin_epoch(&mut self, epoch: u64) {
        let last = self.queue.back().map_or(self.put_epoch, |queued| queued.epoch);
        assert!(last <= epoch, "epoch {epoch} does not come behind epoch {last}");
        self.epoch = epoch;
    }

    /// The batches that this node has made and that were accepted since the last call, each with the
    /// offset of its first record: what a leader tells its followers. Only of a log that replicas hold
    /// ([`Writer::note_quorum`]); they are asked for in every turn.
    pub fn take_sealed(&mut self) -> impl Iterator<Item = (Arc<Batch>, Offset)> + '_ {
        self.sealed.drain(..)
    }

    /// Lets go of all files, once no round is under way: nothing is written any more, and what is
    /// queued is lost. To be called in each turn until it is so: whether nothing is open and nothing under way.
    pub fn close(&mut self, disk: &mut Disk) -> bool {
        self.is_closing = true;
        self.round.is_none() && self.segments.close_all(disk)
    }

    /// The marks of what was handed over in batches.
    #[must_use]
    pub fn marks(&self) -> Marks {
        let (accepted, flushed) = (self.progress.accepted(), self.progress.flushed());
        let quorum = self.quorum.unwrap_or(QuorumMarks { accepted, flushed });
        Marks {
            start: self.segments.start(),
            high_watermark: quorum.flushed.min(flushed),
            quorum_accepted: quorum.accepted.min(accepted),
            flushed,
            submitted: self.progress.submitted(),
            accepted,
        }
    }

    /// What the replicas have, if there are several.
    #[must_use]
    pub fn quorum(&self) -> Option<QuorumMarks> {
        self.quorum
    }

    /// A majority of the replicas has the records up to here. From the first time on nothing is
    /// committed that was promised to be with a majority and is not.
    ///
    /// # Panics
    /// If a mark goes back, or the two are not in their order.
    pub fn note_quorum(&mut self, marks: QuorumMarks) {
        let before = self.quorum.unwrap_or(QuorumMarks { accepted: Offset(0), flushed: Offset(0) });
        assert!(marks.flushed <= marks.accepted, "what is durable was accepted");
        assert!(before.accepted <= marks.accepted, "what a majority has stays there");
        assert!(before.flushed <= marks.flushed, "what is durable on a majority stays so");
        (self.quorum, self.is_touched) = (Some(marks), true);
    }

    /// The segments.
    #[must_use]
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Why the log has ended, if it has.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.as_ref()
    }

    /// Why there is no room, if there is none.
    #[must_use]
    pub fn full(&self) -> Option<DiskError> {
        self.segments.full()
    }

    /// Bytes that wait for a round.
    #[must_use]
    pub fn queue_bytes(&self) -> u64 {
        self.queue_bytes
    }

    /// Whether a record is taken now. `open_bytes` were accepted and not handed over yet.
    pub(crate) fn admission(&self, claim: Claim, open_bytes: u64) -> Admission {
        if self.fault.is_some() {
            return Admission::Poisoned;
        }
        let is_publish = claim == Claim::Publish;
        let is_full = self.segments.full().is_some();
        let free = self.segments.room().saturating_sub(self.queue_bytes + open_bytes);
        let claim = match claim {
            // The next segment is on its way as far as anybody knows: what is small need not wait.
            Claim::State(bytes) if !is_full => Claim::Upkeep(bytes),
            claim => claim,
        };
        let fits = self.segments.room_for(claim) <= free;
        let bytes_max = if is_publish { QUEUE_BYTES_MAX } else { QUEUE_STATE_BYTES_MAX };
        let keeps_up = self.queue_bytes < bytes_max && self.queue.len() < QUEUE_BATCHES_MAX;
        match (fits, keeps_up) {
            _ if is_full && (is_publish || !fits) => Admission::Full,
            (true, true) => Admission::Open,
            _ => Admission::Busy,
        }
    }

    /// Where a checkpoint's replay begins that holds what every record up to the accepted mark
    /// says: at a batch that is not written yet. Records between it and the accepted mark are
    /// replayed although the checkpoint has them.
    #[must_use]
    pub fn replay_from(&self) -> ReplayFrom {
        // Behind the last batch of a segment nothing follows, also while that is being written.
        let seals = self.round.as_ref().is_some_and(|round| round.seals);
        let (segment, position) = match self.segments.newest().filter(|_| !seals) {
            Some(active) => (active.number, active.position),
            None => (self.segments.next_number(), format::SEGMENT_HEADER_BYTES),
        };
        let flushed = self.progress.flushed();
        ReplayFrom { offset: self.progress.submitted(), segment, position, flushed }
    }

    /// Whether everything is durable and the log says so: nothing is lost if the process ends.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.progress.watermark() == self.progress.accepted() && self.round.is_none()
    }

    /// From now on nothing lingers, until [`Writer::is_quiet`].
    pub fn close_soon(&mut self) {
        self.hurries = !self.is_quiet();
        self.is_touched = true;
    }

    /// When the round that is under way is likely to have ended, if somebody waits for it.
    #[must_use]
    pub fn expected(&self) -> Option<Nanos> {
        let round = self.round.as_ref().filter(|round| round.is_awaited)?;
        Some(round.begun + self.usual)
    }

    /// When the end of a turn has something to do although nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        if self.fault.is_some() || self.is_closing {
            return Nanos::NEVER;
        }
        let idle = self.round.is_none() && self.segments.active().is_some();
        // What is queued is written first, and a closing batch only behind the last of it.
        let closes_at = if self.queue.is_empty() { self.close_at } else { Nanos::NEVER };
        let due = if idle { closes_at.min(self.linger_until) } else { Nanos::NEVER };
        let [held, gathers] =
            [self.held_until, self.gathers_until].map(|until| until.unwrap_or(Nanos::NEVER));
        due.min(held).min(gathers).min(self.segments.next_deadline())
    }

    /// Whether a batch that is sealed now is written now.
    pub(crate) fn takes_rounds(&self) -> bool {
        self.round.is_none() && self.segments.active().is_some()
    }

    /// Takes a sealed batch whose first record has the offset `first`. A log that has ended takes
    /// nothing more.
    ///
    /// # Panics
    /// If it is not the next one, or larger than records were said to become.
    pub(crate) fn push(&mut self, batch: Arc<Batch>, first: Offset) {
        if self.quorum.is_some() && self.fault.is_none() {
            self.sealed.push((batch.clone(), first));
        }
        self.is_follower = false;
        self.accept(batch, first, self.epoch);
    }

    /// Takes a batch that another node has made, of that epoch: the log of a follower.
    ///
    /// # Panics
    /// As [`Writer::push`], or if its epoch is older than that of the batch before.
    pub(crate) fn push_records(&mut self, batch: Arc<Batch>, first: Offset, epoch: u64) {
        self.begin_epoch(epoch);
        self.is_follower = true;
        self.accept(batch, first, epoch);
    }

    fn accept(&mut self, batch: Arc<Batch>, first: Offset, epoch: u64) {
        if self.fault.is_some() {
            return;
        }
        let queued = Queued { batch, first, epoch };
        self.progress.accept(first, queued.end());
        let body_bytes = u64::from(queued.batch.body_bytes());
        let bytes_max = batch_bytes_max(self.segments.setup().record_bytes_max);
        assert!(body_bytes <= bytes_max, "a batch of {body_bytes} bytes may fit no segment");
        self.queue_bytes += queued.bytes();
        self.awaited += usize::from(queued.is_awaited());
        self.sooner += usize::from(queued.is_sooner());
        self.queue.push_back(queued);
        self.is_touched = true;
    }

    /// End of turn: begins a round if there is something to write, and has the next segment made.
    pub(crate) fn end_turn(&mut self, now: Nanos, unix_ms: u64, disk: &mut Disk) {
        // Most turns have nothing for most logs.
        let is_due = self.is_touched || self.next_deadline() <= now;
        if !is_due || self.fault.is_some() || self.is_closing {
            return;
        }
        self.is_touched = false;
        let queued = (self.progress.submitted(), self.queue_bytes);
        self.segments.end_turn(now, unix_ms, queued, disk);
        if !self.queue.is_empty() && self.linger_until == Nanos::NEVER {
            self.linger_until = now + LINGER;
        }
        let marks = self.marks();
        self.gather.on_committed(now, marks.high_watermark, self.usual);
        if self.round.is_none() {
            self.begin_round(now, unix_ms, disk);
        }
        let gathers = self.round.is_none() && self.awaited > 0 && self.waits_for_more(now);
        self.gathers_until = gathers.then(|| self.gather.until());
        self.held_until = self.hold(now);
    }

    /// Until when other nodes get nothing of what is queued: they have one round where this node has one, then. A round
    /// that takes longer than usual is no reason to wait.
    fn hold(&self, now: Nanos) -> Option<Nanos> {
        if self.awaited == 0 || self.sooner > 0 {
            return None;
        }
        let until = match &self.round {
            None => self.gathers_until,
            Some(round) => {
                let may_wait = self.leads() && self.gather.may_wait(self.queue_bytes);
                may_wait.then(|| round.begun + self.usual * 2)
            }
        };
        until.filter(|until| now < *until)
    }

    /// Whether it is the log of a leader with other nodes.
    fn leads(&self) -> bool {
        self.quorum.is_some() && !self.is_follower
    }

    /// Whether a leader waits for more records before it writes those that are queued.
    fn waits_for_more(&self, now: Nanos) -> bool {
        self.leads() && !self.hurries && self.gather.waits(now, &self.progress, self.queue_bytes)
    }

    /// Whether what is queued is to be on no other node before its round begins here: as of the end of the last turn.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.held_until.is_some()
    }

    /// Whether what is queued is to be written now.
    fn is_due(&self, now: Nanos) -> bool {
        !self.queue.is_empty()
            && ((self.awaited > 0 && !self.waits_for_more(now))
                || self.hurries
                || self.linger_until <= now
                || LINGER_BYTES_MAX <= self.queue_bytes
                || LINGER_BATCHES_MAX <= self.queue.len())
    }

    /// Whether a closing batch is to be written now.
    fn closes(&self, now: Nanos) -> bool {
        let unsaid = self.progress.watermark() < self.progress.flushed();
        self.queue.is_empty() && (self.close_at <= now || (self.hurries && unsaid))
    }

    fn begin_round(&mut self, now: Nanos, unix_ms: u64, disk: &mut Disk) {
        let closes = self.closes(now);
        let Some((file, active)) = self.segments.active() else { return };
        if !closes && !self.is_due(now) {
            return;
        }
        let (number, position) = (active.number, active.position);
        let (from, mut batches) = (self.progress.submitted(), disk.spare_batches());
        let awaited = self.awaited;
        self.put_queued(unix_ms, &mut batches);
        let body_bytes = self.queue.front().map_or(0, |front| front.batch.body_bytes());
        let seals = (closes || !self.queue.is_empty()) && !self.has_room(body_bytes);
        if closes || seals {
            batches.push(self.put(None, seals, unix_ms));
        }
        let end = self.progress.submitted();
        let zeros = self.zeros_behind();
        let round = Round {
            token: self.segments.token(),
            begun: now,
            number,
            position,
            bytes: batches.iter().map(|batch| batch.bytes() as u64).sum(),
            records: end.0 - from.0,
            end,
            watermark: self.progress.flushed(),
            log_start: self.segments.start(),
            seals,
            is_awaited: self.awaited < awaited,
        };
        self.gather.on_begun(round.records);
        // Nobody reads a follower's log while there is a leader.
        let (token, is_read_soon) = (round.token, !self.is_follower);
        disk.push(DiskCommand::Write { token, file, position, batches, zeros, is_read_soon });
        (self.close_at, self.linger_until) = (Nanos::NEVER, Nanos::NEVER);
        self.round = Some(round);
    }

    /// How many zeros are written behind the round that was just put into the active segment: over
    /// those that are there, up to the end of the block.
    fn zeros_behind(&self) -> u32 {
        self.segments.active().map_or(0, |(_, active)| {
            let block_end = active.position.next_multiple_of(BLOCK_BYTES as u64);
            (block_end.min(active.file_bytes) - active.position) as u32
        })
    }

    fn has_room(&self, body_bytes: u32) -> bool {
        self.segments.active().is_some_and(|(_, active)| active.has_room(body_bytes))
    }

    /// Puts what is queued into the active segment, as much as one round takes.
    fn put_queued(&mut self, unix_ms: u64, batches: &mut Vec<BatchWrite>) {
        let mut bytes = 0;
        while let Some(front) = self.queue.front() {
            let fits = bytes == 0 || bytes + front.bytes() <= ROUND_BYTES_MAX;
            let room = self.has_room(front.batch.body_bytes());
            if !fits || !room || batches.len() >= ROUND_BATCHES_MAX {
                return;
            }
            let Some(queued) = self.queue.pop_front() else { return };
            bytes += queued.bytes();
            self.queue_bytes -= queued.bytes();
            self.awaited -= usize::from(queued.is_awaited());
            self.sooner -= usize::from(queued.is_sooner());
            let end = queued.end();
            self.put_epoch = queued.epoch;
            batches.push(self.put(Some(queued.batch), false, unix_ms));
            self.progress.submit(end);
        }
    }

    /// Gives a batch its place in the active segment; a closing one if there is none.
    fn put(&mut self, batch: Option<Arc<Batch>>, is_last: bool, unix_ms: u64) -> BatchWrite {
        // A clock that is set back stands still here: what comes first is never found to be newer.
        self.sealed_unix_ms = self.sealed_unix_ms.max(unix_ms);
        let mut header = BatchHeader {
            body_bytes: batch.as_ref().map_or(0, |batch| batch.body_bytes()),
            records: batch.as_ref().map_or(0, |batch| batch.len() as u32),
            base_offset: self.progress.submitted(),
            epoch: self.put_epoch,
            watermark: self.progress.flushed(),
            sealed_unix_ms: self.sealed_unix_ms,
            previous_crc: 0,
            is_last,
            log_start: self.segments.start(),
        };
        let active = self.segments.active_mut().expect("rounds are of an open segment");
        header.previous_crc = active.previous_crc;
        let encoded = header.encode(&active.id);
        active.index.push(active.position, &header);
        active.previous_crc = BatchHeader::crc_of(&encoded);
        active.position += header.bytes();
        active.last_unix_ms = header.sealed_unix_ms;
        BatchWrite { header: encoded, batch }
    }

    /// A command of this log has ended.
    pub(crate) fn on_disk(
        &mut self,
        now: Nanos,
        event: &DiskEvent,
        disk: &mut Disk,
    ) -> Option<Flushed> {
        self.is_touched = true;
        self.segments.on_ended();
        if let Some(round) = self.round.take_if(|round| round.token == event.token) {
            return self.on_round(now, round, event.result.as_ref().err().copied(), disk);
        }
        if let Err((number, error)) = self.segments.on_disk(now, event, disk) {
            self.end(number, 0, FaultAt::Open, error);
        }
        None
    }

    fn on_round(
        &mut self,
        now: Nanos,
        round: Round,
        error: Option<DiskError>,
        disk: &mut Disk,
    ) -> Option<Flushed> {
        if let Some(error) = error {
            let at = if error.in_sync { FaultAt::Sync } else { FaultAt::Write };
            self.end(round.number, round.position, at, error);
            return None;
        }
        self.progress.flush(round.end, round.watermark);
        if round.seals {
            self.segments.seal(round.end, disk);
        }
        self.segments.remove_below(round.log_start, disk);
        if self.progress.watermark() < self.progress.flushed() {
            self.close_at = now + CLOSE_AFTER;
        }
        self.hurries &= !self.is_quiet();
        let took = now.since(round.begun);
        if round.is_awaited {
            self.usual = self.usual * 7 / 8 + took / 8;
            self.gather.on_ended(now, self.usual);
        }
        Some(Flushed { records: round.records, bytes: round.bytes, took })
    }

    /// Ends the log. What is queued is never written; those who wait for it are never answered.
    fn end(&mut self, number: u64, position: u64, at: FaultAt, error: DiskError) {
        let path = self.segments.setup().segment_path(number);
        self.fault = Some(Fault { path, position, at, error });
        self.queue.clear();
        (self.queue_bytes, self.awaited, self.sooner) = (0, 0, 0);
        (self.held_until, self.gathers_until) = (None, None);
    }

    /// Gives up the segments that have no record at or above `below`, nor above what is flushed.
    /// They are removed when a durable batch says so, at the latest a closing one; the newest with
    /// records is kept.
    pub fn trim(&mut self, below: Offset) {
        let flushed = self.progress.flushed();
        if self.fault.is_none() && self.segments.trim(below.min(flushed), flushed) {
            (self.close_at, self.is_touched) = (Nanos(0), true);
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
