//! Checkpoints while the broker runs, so that a start replays little and the log can be trimmed.
//!
//! A checkpoint is taken in pieces over many turns (see `snapshot` for why that is right) and written
//! off the turn: what was taken goes to a temporary file chunk by chunk, so that a core holds a few
//! hundred KiB of it at a time, whatever the state is. Once the log is flushed up to where the last
//! piece was taken the file gets its trailer and its name. The two newest are kept. One that
//! cannot be written is counted and reported, and tried again later: the log has it all.

mod following;

pub(crate) use following::Followed;

use super::ballast::Ballast;
use super::checkpoint::{Encoder, TRAILER_BYTES, file_name};
use super::postings::Place;
use super::records::{RetainedBody, StateRecord};
use super::snapshot::Piece;
use crate::clock::WallClock;
use crate::metrics::CoreMetrics;
use crate::service::{Broker, DiskUser, Timer, Turn};
use ringlane_dataplane::batch::Level;
use ringlane_dataplane::disk::{
    Disk, DiskCommand, DiskError, DiskEvent, DiskToken, ENOSPC, FileId, FileJob,
};
use ringlane_dataplane::ids::Offset;
use ringlane_dataplane::log::format::SEGMENT_HEADER_BYTES;
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::writer::{self, Writer};
use ringlane_dataplane::message::Message;
use ringlane_dataplane::routing::RecordId;
use ringlane_dataplane::time::Nanos;
use ringlane_transport_uring::failpoint::hit;
use std::path::PathBuf;
use std::time::Duration;

/// Records that take about a second to be replayed.
const RECORDS_MAX: u64 = 500_000;
/// Of a checkpoint, about: behind a large one there are as many more.
const RECORD_BYTES: u64 = 100;
/// Replay of fewer records takes no time worth a checkpoint at the end.
const RECORDS_MIN: u64 = 1000;
/// How long after one a checkpoint is made only because the log could be trimmed behind it, and
/// how long after a failure the next is tried.
const PAUSE: Duration = Duration::from_secs(10);
/// Between two pieces, and between two looks whether the log is flushed.
const PIECE_EVERY: Duration = Duration::from_millis(1);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Pieces of one turn, each a session, a filter or a topic, and about how many bytes it takes, with the
/// last piece beyond that; and when nobody waits for turns any more.
const TURN: (u32, usize) = (1024, 32 * 1024);
const LAST_TURN: (u32, usize) = (128 * 1024, CHUNK_BYTES);
/// Bytes that are handed to the disk at once, about.
const CHUNK_BYTES: usize = 256 * 1024;

/// A checkpoint that is on the disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub(crate) from: ReplayFrom,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// The checkpoints of one partition.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// Those that can be used, oldest first.
    kept: Vec<Kept>,
    /// Files that are in the way.
    stale: Vec<PathBuf>,
    removing: Option<(DiskToken, Vec<PathBuf>)>,
    making: Option<Making>,
    /// When the newest was made by this process; `Nanos(0)` if it was not.
    made_at: Nanos,
    /// After a failure, when the next is tried.
    not_before: Nanos,
    /// When one is made so that the log can be trimmed; `NEVER` if nothing is gained by it.
    wanted_at: Nanos,
    asked: u32,
    /// Room for the next one where the disk is full.
    pub(super) ballast: Ballast,
    /// The last one found no room.
    lacked_room: bool,
    /// Where a follower's next one begins, once all below it is applied.
    mark: Option<ReplayFrom>,
    /// The checkpoint of a leader that the state is made of, while there is none that was made here.
    learned: Option<PathBuf>,
    /// The state is right only behind this offset: one that was learned says too early what the log says up to there.
    right_from: Offset,
    /// A follower goes on with the one in the making then.
    step_at: Nanos,
}

/// How far a checkpoint is.
#[derive(Debug)]
enum Stage {
    State(Piece),
    /// Retained messages behind this topic.
    Retained(Option<Box<str>>),
    /// Everything is taken: the log has to be flushed up to here.
    Flushing(Offset),
    /// It gets its name.
    Publishing,
}

/// A checkpoint in the making.
#[derive(Debug)]
struct Making {
    from: ReplayFrom,
    path: PathBuf,
    file: FileId,
    encoder: Encoder,
    bytes: u64,
    stage: Stage,
    /// What the disk was asked for and has not done.
    asked: Option<DiskToken>,
}

/// How many bytes and records of the log may lie behind a checkpoint of so many bytes. Behind a large one
/// it is twice as much as it has itself: it would be written for little again and again otherwise. So
/// a start reads at most three times what the newest one takes, or the configured bytes more.
fn distance(bytes_max: u64, checkpoint: u64) -> (u64, u64) {
    let bytes = checkpoint.saturating_mul(2);
    (bytes_max.max(bytes), RECORDS_MAX.max(bytes / RECORD_BYTES))
}

/// What came of something that was asked of the disk.
#[derive(Debug)]
enum Ended {
    /// Nothing that the checkpoint in the making waits for.
    Nothing,
    /// It can go on.
    Step,
    /// It has its name.
    Made,
    /// It cannot be written.
    Failed(PathBuf, DiskError),
}

impl Ended {
    /// Says and counts it.
    fn tell(&self, partition: u32, metrics: &CoreMetrics) {
        match self {
            Self::Nothing | Self::Step => {}
            Self::Made => metrics.checkpoints_written.add(1),
            Self::Failed(path, error) => {
                metrics.checkpoints_failed.add(1);
                tracing::warn!(
                    partition, file = %path.display(), %error,
                    "a checkpoint cannot be written; it is tried again, and until then nothing of this \
                     partition's log is trimmed"
                );
            }
        }
    }
}

/// Checkpoints that are kept.
pub(crate) const KEPT: usize = 2;

impl Checkpoints {
    /// Those that a start has found, oldest first, files that are in the way, and the bytes of the
    /// ballast if there is one.
    pub(crate) fn new(kept: Vec<Kept>, stale: Vec<PathBuf>, ballast: Option<u64>) -> Self {
        let ballast = Ballast::found(ballast);
        Self { kept, stale, ballast, wanted_at: Nanos::NEVER, ..Self::default() }
    }

    /// Those of a state that is a leader's checkpoint, which is in this file and right behind this offset.
    pub(crate) fn learned(path: PathBuf, right_from: Offset, ballast: Option<u64>) -> Self {
        let found = Self::new(Vec::new(), Vec::new(), ballast);
        Self { learned: Some(path), right_from, ..found }
    }

    /// The newest one, which may be sent to a node that needs it.
    pub(crate) fn newest_kept(&self) -> Option<&Kept> {
        self.kept.last()
    }

    /// Another node needs one, and there is none: it is made as soon as may be.
    fn is_asked_for(&mut self, now: Nanos) {
        self.wanted_at = self.wanted_at.min(now);
    }

    pub(super) fn newest_bytes(&self) -> u64 {
        self.kept.last().map_or(0, |kept| kept.bytes)
    }

    /// Where replay begins if the newest cannot be used any more; `None` if it is all there is.
    pub(super) fn older(&self) -> Option<ReplayFrom> {
        let older = self.kept.len().checked_sub(KEPT).and_then(|index| self.kept.get(index));
        older.map(|kept| kept.from)
    }

    fn newest(&self) -> ReplayFrom {
        let nothing = ReplayFrom {
            offset: Offset(0),
            segment: 0,
            position: SEGMENT_HEADER_BYTES,
            flushed: Offset(0),
        };
        self.kept.last().map_or(nothing, |kept| kept.from)
    }

    /// The log could be trimmed if its older checkpoint were behind what is needed.
    pub(super) fn want(&mut self, now: Nanos, is_wanted: bool, is_full: bool) {
        if !is_wanted {
            self.wanted_at = Nanos::NEVER;
        } else if is_full {
            // Everybody waits for it.
            self.wanted_at = self.wanted_at.min(now);
        } else if self.wanted_at == Nanos::NEVER {
            self.wanted_at = now.max(self.made_at + PAUSE);
        }
    }

    /// Whether the next one is due.
    fn is_due(&self, now: Nanos, log: &Writer, bytes_max: u64) -> bool {
        let (newest, next) = (self.newest(), log.replay_from().offset);
        if now < self.not_before || next <= newest.offset || log.fault().is_some() {
            return false;
        }
        let (bytes, records) = distance(bytes_max, self.newest_bytes());
        bytes <= log.segments().bytes_behind(&newest)
            || records <= next.0 - newest.offset.0
            || self.wanted_at <= now
    }

    /// Whether one is wanted for trimming, and nothing was appended that it could stand for.
    fn lacks_records(&self, now: Nanos, log: &Writer) -> bool {
        let is_wanted = self.wanted_at <= now && self.not_before <= now;
        is_wanted && log.marks().accepted <= self.newest().offset
    }

    fn token(&mut self, index: usize) -> DiskToken {
        self.asked = self.asked.wrapping_add(1);
        let tag = DiskUser::Checkpoint.tag(index as u32);
        DiskToken(u64::from(tag) << 32 | u64::from(self.asked))
    }

    pub(super) fn job(&mut self, index: usize, disk: &mut Disk, job: FileJob) -> DiskToken {
        let token = self.token(index);
        disk.push(DiskCommand::Job { token, job });
        token
    }

    /// Begins with one that replay of this log goes on behind.
    fn begin(&mut self, index: usize, log: &Writer, disk: &mut Disk) {
        self.begin_behind(index, log.replay_from(), log, disk);
    }

    fn begin_behind(&mut self, index: usize, from: ReplayFrom, log: &Writer, disk: &mut Disk) {
        if log.full().is_some() || core::mem::take(&mut self.lacked_room) {
            self.give_ballast(index, log, disk);
        }
        let file = disk.open_id();
        let path = log.segments().directory().join(file_name(&from));
        let asked = self.job(index, disk, FileJob::Begin { file, path: path.clone() });
        self.making = Some(Making {
            from,
            path,
            file,
            encoder: Encoder::new(log.segments().owner()),
            bytes: 0,
            stage: Stage::State(Piece::Head),
            asked: Some(asked),
        });
        self.wanted_at = Nanos::NEVER;
    }

    /// Hands what was taken to the disk.
    fn write_taken(&mut self, index: usize, disk: &mut Disk) {
        let Some(making) = &mut self.making else { return };
        let (file, bytes) = (making.file, making.encoder.take());
        let asked = self.job(index, disk, FileJob::Append { file, bytes });
        if let Some(making) = &mut self.making {
            making.asked = Some(asked);
        }
    }

    /// Writes the end, and gives the file its name: the log is flushed as far as it has to be.
    fn publish(&mut self, index: usize, flushed: Offset, disk: &mut Disk) {
        let Some(mut making) = self.making.take() else { return };
        hit("checkpoint.taken");
        let file = making.file;
        making.from.flushed = flushed;
        making.bytes = making.encoder.bytes() + TRAILER_BYTES as u64;
        let owner = making.encoder.owner();
        let encoder = core::mem::replace(&mut making.encoder, Encoder::new(owner));
        let bytes = encoder.finish(&making.from);
        // If this fails, so does what follows.
        self.job(index, disk, FileJob::Append { file, bytes });
        making.asked = Some(self.job(index, disk, FileJob::Publish { file }));
        making.stage = Stage::Publishing;
        self.making = Some(making);
    }

    /// Lets go of the one in the making. A file without its name is removed by that.
    fn let_go(&mut self, index: usize, disk: &mut Disk) -> Option<Making> {
        let making = self.making.take()?;
        self.job(index, disk, FileJob::Close { file: making.file });
        Some(making)
    }

    /// It has its name: an older one may go.
    fn keep(&mut self, index: usize, disk: &mut Disk) {
        let Some(Making { from, path, bytes, .. }) = self.let_go(index, disk) else { return };
        self.stale.retain(|stale| *stale != path);
        self.kept.retain(|kept| kept.path != path);
        self.kept.push(Kept { from, path, bytes });
        self.stale.extend(self.learned.take());
        let gone = self.kept.len().saturating_sub(KEPT);
        self.stale.extend(self.kept.drain(..gone).map(|kept| kept.path));
        if !self.stale.is_empty() && self.removing.is_none() {
            let paths = core::mem::take(&mut self.stale);
            let token = self.job(index, disk, FileJob::Remove { paths: paths.clone() });
            self.removing = Some((token, paths));
        }
    }

    /// Something that was asked of the disk has ended.
    fn on_event(&mut self, index: usize, event: &DiskEvent, now: Nanos, disk: &mut Disk) -> Ended {
        self.on_removed(event);
        self.on_ballast(index, event, disk);
        let Some(making) = &mut self.making else { return Ended::Nothing };
        if making.asked != Some(event.token) {
            return Ended::Nothing;
        }
        making.asked = None;
        let is_published = matches!(making.stage, Stage::Publishing);
        match event.result {
            Err(error) => {
                let path = self.let_go(index, disk).map(|making| making.path).unwrap_or_default();
                self.not_before = now + PAUSE;
                self.lacked_room = error.errno == ENOSPC;
                Ended::Failed(path, error)
            }
            Ok(_) if is_published => {
                self.keep(index, disk);
                self.made_at = now;
                Ended::Made
            }
            Ok(_) => Ended::Step,
        }
    }

    /// What was to be removed is gone, or is tried again behind the next checkpoint.
    fn on_removed(&mut self, event: &DiskEvent) {
        let Some((_, paths)) = self.removing.take_if(|(token, _)| *token == event.token) else {
            return;
        };
        if let Err(error) = &event.result {
            tracing::warn!(files = ?paths, %error, "an old checkpoint cannot be removed");
            self.stale.extend(paths);
        }
    }
}

impl Broker {
    /// What a start has found, partition by partition.
    pub(crate) fn take_checkpoints(&mut self, found: Vec<Checkpoints>) {
        if let Some(durable) = &mut self.durable {
            for (own, found) in durable.partitions.iter_mut().zip(found) {
                own.checkpoints = found;
            }
        }
    }

    /// The newest checkpoint of the partition at this place; without one it is made as soon as may be.
    pub(crate) fn newest_checkpoint(&mut self, now: Nanos, index: usize) -> Option<Kept> {
        let own = self.durable.as_mut()?.partitions.get_mut(index)?;
        if own.checkpoints.kept.is_empty() {
            own.checkpoints.is_asked_for(now);
        }
        own.checkpoints.newest_kept().cloned()
    }

    /// Once a second: begins with a checkpoint if one is due. One at a time is made on a core.
    pub(super) fn look_for_checkpoints(&mut self, turn: &mut Turn<'_>) {
        let bytes_max = self.config.commit_log.checkpoint_size;
        self.prepare_checkpoints(turn);
        let Some(durable) = &self.durable else { return };
        let own = durable.partitions.iter().map(|own| &own.checkpoints);
        let is_free = own.clone().all(|own| own.making.is_none());
        let due = own.zip(&self.partitions).enumerate().filter_map(|(index, (own, partition))| {
            let log = partition.log().filter(|log| own.is_due(turn.now, log, bytes_max))?;
            if partition.is_abandoned() || !self.takes_checkpoint(index) {
                return None;
            }
            Some((log.segments().bytes_behind(&own.newest()), index))
        });
        // Who has gone on furthest comes first, so that nobody is left out.
        if let Some((_, index)) = due.max().filter(|_| is_free) {
            self.begin_checkpoint(turn, index);
        }
        self.show_checkpoints(turn.now);
    }

    /// Looks after the room for the next ones, and appends the cursors anew where a checkpoint that
    /// trimming waits for would be the same as the newest one.
    fn prepare_checkpoints(&mut self, turn: &mut Turn<'_>) {
        let partitions = self.durable.as_ref().map_or(0, |durable| durable.partitions.len());
        for index in 0..partitions {
            let takes = self.takes_checkpoint(index);
            let Self { durable: Some(durable), partitions, .. } = self else { return };
            let own = &mut durable.partitions[index];
            let Some(log) = partitions[index].log() else { continue };
            own.checkpoints.look_after_ballast(index, log, turn.disk);
            if takes && own.checkpoints.lacks_records(turn.now, log) {
                let (next, filters) = (own.state.next_posting(), Vec::new());
                let cursors = own.state.cursors().to_vec();
                self.record(turn, index, &StateRecord::Postings { next, cursors, filters });
            }
        }
    }

    fn begin_checkpoint(&mut self, turn: &mut Turn<'_>, index: usize) {
        let Self { durable: Some(durable), partitions, .. } = self else { return };
        if let Some(log) = partitions[index].log() {
            durable.partitions[index].checkpoints.begin(index, log, turn.disk);
        }
    }

    fn show_checkpoints(&self, now: Nanos) {
        let Some(durable) = &self.durable else { return };
        let (mut bytes, mut behind) = (0, 0);
        for (own, partition) in durable.partitions.iter().zip(&self.partitions) {
            let newest = own.checkpoints.kept.last();
            bytes += newest.map_or(0, |kept| kept.bytes);
            let log = partition.log().map(Writer::segments);
            behind += log.map_or(0, |log| log.bytes_behind(&own.checkpoints.newest()));
        }
        let age = now.since(durable.checkpointed_at).as_secs();
        self.metrics.checkpoint_bytes.set(bytes);
        self.metrics.checkpoint_lag_bytes.set(behind);
        self.metrics.checkpoint_age_secs.set(age);
    }

    fn arm_checkpoints(&mut self, turn: &mut Turn<'_>, after: Duration) {
        if let Some(durable) = self.durable.as_mut().filter(|durable| !durable.checkpoints_armed) {
            durable.checkpoints_armed = true;
            turn.timers.schedule(turn.now + after, Timer::Checkpoint);
        }
    }

    /// Goes on with the checkpoint in the making.
    pub(crate) fn on_checkpoint_timer(&mut self, turn: &mut Turn<'_>) {
        let Some(durable) = &mut self.durable else { return };
        durable.checkpoints_armed = false;
        let is_made = |own: &super::live::DurablePartition| own.checkpoints.making.is_some();
        let Some(index) = durable.partitions.iter().position(is_made) else { return };
        let checkpoints = &mut durable.partitions[index].checkpoints;
        let partition = &self.partitions[index];
        if partition.is_abandoned() || partition.log().is_none_or(|log| log.fault().is_some()) {
            // What is taken of a log that has ended, or of a state that its log does not have, is never valid.
            checkpoints.let_go(index, turn.disk);
            return;
        }
        let is_full = self.state_admission(index) == writer::Admission::Full;
        if is_full && !self.takes_checkpoint(index) {
            // Nobody knows when it is flushed as far as this needs: other logs come first.
            let Some(durable) = &mut self.durable else { return };
            let checkpoints = &mut durable.partitions[index].checkpoints;
            checkpoints.let_go(index, turn.disk);
            checkpoints.not_before = turn.now + PAUSE;
            return;
        }
        self.step_checkpoint(turn, index);
    }

    fn step_checkpoint(&mut self, turn: &mut Turn<'_>, index: usize) {
        let flushed = self.partitions[index].marks().high_watermark;
        let bounds = if self.draining { LAST_TURN } else { TURN };
        self.take_pieces(turn, index, bounds);
        let takes_state = self.takes_checkpoint(index);
        let Some(durable) = &mut self.durable else { return };
        let checkpoints = &mut durable.partitions[index].checkpoints;
        let Some(making) = &checkpoints.making else { return };
        if making.asked.is_some() {
            return;
        }
        let after = match making.stage {
            Stage::Flushing(end) if making.encoder.len() == 0 && end <= flushed => {
                return checkpoints.publish(index, flushed, turn.disk);
            }
            Stage::Flushing(_) if making.encoder.len() == 0 => LOOK_EVERY,
            Stage::Flushing(_) => return checkpoints.write_taken(index, turn.disk),
            _ if CHUNK_BYTES <= making.encoder.len() => {
                return checkpoints.write_taken(index, turn.disk);
            }
            _ if takes_state => PIECE_EVERY,
            _ => LOOK_EVERY,
        };
        self.arm_checkpoints(turn, after);
    }

    /// Takes pieces up to a number and about so many bytes, as far as something is left to be taken,
    /// the disk has taken what was taken before, and the log takes what goes before each.
    fn take_pieces(&mut self, turn: &Turn<'_>, index: usize, (pieces, bytes): (u32, usize)) {
        let mut bytes_max = None;
        for _ in 0..pieces {
            let Some(durable) = &self.durable else { return };
            let Some(making) = &durable.partitions[index].checkpoints.making else { return };
            let is_taking = matches!(making.stage, Stage::State(_) | Stage::Retained(_));
            let taken = making.encoder.len();
            let bytes_max = *bytes_max.get_or_insert(CHUNK_BYTES.min(taken + bytes));
            if making.asked.is_some() || !is_taking || bytes_max <= taken {
                return;
            }
            if !self.takes_checkpoint(index) {
                return;
            }
            self.append_matched(turn, index);
            self.take_piece(index);
        }
    }

    fn take_piece(&mut self, index: usize) {
        let partition = self.partitions[index].id();
        let end = self.partitions[index].next_offset();
        let Self { durable: Some(durable), retained, placement, clock, .. } = self else { return };
        let own = &mut durable.partitions[index];
        let Some(Making { stage, encoder, .. }) = &mut own.checkpoints.making else { return };
        *stage = match core::mem::replace(stage, Stage::Publishing) {
            Stage::State(Piece::Done) => Stage::Retained(None),
            Stage::State(piece) => {
                let mut append = |record: &StateRecord<'_>| encoder.append(record);
                Stage::State(own.state.snapshot(piece, 1, &mut append))
            }
            Stage::Retained(after) => {
                let next = retained.walk(after.as_deref(), 1, &mut |message, record| {
                    let is_own = placement.topic_partition(message.topic()) == partition;
                    // What the broker publishes itself is in no log.
                    if is_own && record.partition.0 < placement.partitions() {
                        let (topic, retained) = (message.topic(), body(message, record, clock));
                        encoder.append(&StateRecord::Retained { topic, retained });
                    }
                });
                next.map_or_else(
                    || {
                        let cursors = own.state.retained_cursors();
                        encoder.append(&StateRecord::RetainedCursors { cursors });
                        Stage::Flushing(end)
                    },
                    |after| Stage::Retained(Some(after)),
                )
            }
            taken => taken,
        };
    }

    /// Something that a checkpoint asked of the disk has ended.
    pub(crate) fn on_checkpoint_event(
        &mut self,
        turn: &mut Turn<'_>,
        index: usize,
        event: &DiskEvent,
    ) {
        let partition = self.partitions[index].id().0;
        let Some(durable) = &mut self.durable else { return };
        let checkpoints = &mut durable.partitions[index].checkpoints;
        let ended = checkpoints.on_event(index, event, turn.now, turn.disk);
        ended.tell(partition, &self.metrics);
        match ended {
            Ended::Made => durable.checkpointed_at = turn.now,
            Ended::Step => self.arm_checkpoints(turn, Duration::ZERO),
            Ended::Nothing | Ended::Failed(..) => {}
        }
    }

    /// At the end, when the logs are quiet: writes a checkpoint of each partition that has gone on
    /// much since its last one. Whether that is done, or there is no time for it.
    pub(crate) fn end_with_checkpoints(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(durable) = &self.durable else { return true };
        if self.clients_have_left
            || durable.partitions.iter().any(|own| own.checkpoints.making.is_some())
        {
            return self.clients_have_left;
        }
        while let Some(durable) = &mut self.durable
            && durable.ended < durable.partitions.len()
        {
            let index = durable.ended;
            durable.ended += 1;
            if self.is_worth_a_last(index) {
                self.begin_checkpoint(turn, index);
                return false;
            }
        }
        true
    }

    fn is_worth_a_last(&self, index: usize) -> bool {
        let Some(durable) = &self.durable else { return false };
        let newest = durable.partitions[index].checkpoints.newest().offset;
        let log = self.partitions[index].log().filter(|log| log.fault().is_none());
        let is_worth = |log: &Writer| newest.0 + RECORDS_MIN <= log.replay_from().offset.0;
        self.takes_state(index) && log.is_some_and(is_worth)
    }
}

/// A retained message as it is kept. Its epoch is not kept with it, and not needed: up to where they
/// were applied is said by a record of its own.
fn body<'a>(message: &'a Message, record: RecordId, clock: &WallClock) -> RetainedBody<'a> {
    let place = Place { partition: record.partition.0, epoch: 0, offset: record.offset.0 };
    RetainedBody::of(message, place, record.level == Level::Memory, |at| clock.unix_ms(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_a_large_checkpoint_the_next_one_is_later() {
        assert_eq!(distance(32 << 20, 0), (32 << 20, RECORDS_MAX));
        assert_eq!(distance(32 << 20, 10 << 20), (32 << 20, RECORDS_MAX));
        assert_eq!(distance(32 << 20, 1 << 30), (2 << 30, (2 << 30) / RECORD_BYTES));
    }
}
