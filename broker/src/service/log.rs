//! The logs of a core's partitions: what their disks answer, what is due, and what happens when
//! one is full or has failed.
//!
//! A command's token carries who gave it in its upper half: the place of a partition in this core's
//! table ([`log_tag`]), or another user of the disk ([`DiskUser`]).

use super::disk_user::DiskUser;
use super::{Broker, Timer, Turn};
use crate::connection::{End, Phase};
use crate::session::SessionId;
use ringlane_dataplane::disk::DiskEvent;
use ringlane_dataplane::ids::{ConnectionId, PartitionId};
use ringlane_dataplane::log::writer::{self, Flushed, Writer};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::runtime::TimerId;
use ringlane_dataplane::time::Nanos;
use ringlane_mqtt::ReasonCode;
use std::time::Duration;

/// A core stays awake for a round of the log that is likely to end within this time; above it, the
/// wake-up is little beside the wait.
const AWAKE_MAX: Duration = Duration::from_micros(400);
/// And so long behind that.
const AWAKE_BEHIND: Duration = Duration::from_micros(100);

/// What the tokens of a partition's log carry in their upper half: where the partition stands in
/// the table of its owner.
#[must_use]
pub fn log_tag(partition: PartitionId, cores: u16) -> u32 {
    DiskUser::Log.tag(partition.0 / u32::from(cores))
}

/// What a core has said of its logs, so that each change is said once.
#[derive(Debug)]
pub(crate) struct LogWatch {
    /// When the timer fires, if it is armed.
    armed: Option<(Nanos, TimerId)>,
    full: Vec<bool>,
    poisoned: Vec<bool>,
    /// Gauges that go through all segments are set again.
    dirty: bool,
}

impl LogWatch {
    pub(crate) fn new(partitions: usize) -> Self {
        let full = vec![false; partitions];
        Self { armed: None, poisoned: full.clone(), full, dirty: true }
    }
}

impl Broker {
    /// The partition of what the broker publishes itself, which has no log.
    pub(crate) fn own_partition(&self) -> PartitionId {
        super::own_partition(self.core)
    }

    /// Where a partition stands in this core's table.
    pub(crate) fn partition_index(&self, partition: PartitionId) -> usize {
        if partition == self.own_partition() {
            return self.partitions.len() - 1;
        }
        log_tag(partition, self.cores()) as usize
    }

    /// The time of day of this turn, in milliseconds since 1970.
    pub(crate) fn unix_ms(&self, now: Nanos) -> u64 {
        self.clock.unix_ms(now)
    }

    /// Something that was asked of the disk has ended.
    pub(super) fn on_disk_event(&mut self, turn: &mut Turn<'_>, event: DiskEvent) {
        match DiskUser::of(event.token) {
            (DiskUser::Log, index) => self.on_log_event(turn, index as usize, &event),
            (DiskUser::Fetch, reader) => self.on_fetch_event(turn, reader, event),
            (DiskUser::Replay, number) => self.on_reading_event(turn, number, event),
            (DiskUser::Checkpoint, index) => {
                self.on_checkpoint_event(turn, index as usize, &event);
            }
            (DiskUser::Host, number) => self.on_host_event(turn, number, event),
        }
    }

    fn on_log_event(&mut self, turn: &mut Turn<'_>, index: usize, event: &DiskEvent) {
        let flushed = self.partitions[index].on_disk(turn.now, event, turn.disk);
        self.after_log_event(turn, index, flushed);
    }

    /// A log has more than before, or has failed.
    pub(crate) fn after_log_event(
        &mut self,
        turn: &mut Turn<'_>,
        index: usize,
        flushed: Option<Flushed>,
    ) {
        if let Some(flushed) = flushed {
            self.metrics.count_flushed(&flushed);
            self.readings.on_flushed(index);
        }
        let failed = self.partitions[index].log().is_some_and(|log| log.fault().is_some());
        if flushed.is_some() || failed {
            // What waits for a record hears of it, or that it never comes.
            self.serve_fetches(turn, index);
        }
        self.log_watch.dirty = true;
        self.look_at_log(turn, index);
    }

    /// More of a log is committed than before, because other nodes have it.
    pub(crate) fn on_committed_up(&mut self, turn: &mut Turn<'_>, index: usize) {
        self.readings.on_flushed(index);
        self.serve_fetches(turn, index);
    }

    /// Until when it is worth it to wait awake for the disk: for acknowledgements that are likely to
    /// come sooner than a sleeping core would be worth waking for.
    pub(super) fn expected(&self, now: Nanos) -> Option<Nanos> {
        if !self.waits_awake {
            return None;
        }
        let logs = self.partitions.iter().filter_map(|partition| partition.log());
        let ends = logs.filter_map(Writer::expected).map(|at| at + AWAKE_BEHIND);
        ends.filter(|at| (now..now + AWAKE_MAX).contains(at)).max()
    }

    /// Says once that a log is full, has room again, or has failed.
    fn look_at_log(&mut self, turn: &mut Turn<'_>, index: usize) {
        let Some(log) = self.partitions[index].log() else { return };
        let partition = self.partitions[index].id();
        let (full, fault) = (log.full(), log.fault().cloned());
        if let Some(fault) = fault {
            if !core::mem::replace(&mut self.log_watch.poisoned[index], true) {
                tracing::error!(
                    core = self.core.0, partition = partition.0, file = %fault.path.display(),
                    position = fault.position, at = ?fault.at, error = %fault.error,
                    "the log of a partition has failed: it acknowledges nothing any more, and its \
                     clients are turned away; the other partitions go on. Check the disk, then \
                     restart: everything that was acknowledged is recovered"
                );
                self.metrics.log_poisoned.add(1);
                self.turn_away(turn, partition);
            }
            return;
        }
        let was = core::mem::replace(&mut self.log_watch.full[index], full.is_some());
        match full {
            Some(error) if !was => {
                tracing::error!(
                    core = self.core.0, partition = partition.0, %error,
                    "no room for the next segment of a partition's log: its publishers get 0x97 or \
                     wait; make room, it goes on by itself"
                );
                self.metrics.log_full.add(1);
            }
            None if was => {
                tracing::info!(
                    core = self.core.0,
                    partition = partition.0,
                    "there is room for a partition's log again"
                );
                self.metrics.log_full.sub(1);
            }
            Some(_) | None => {}
        }
    }

    /// Whether the log of a partition has failed.
    pub(crate) fn is_poisoned(&self, partition: PartitionId) -> bool {
        let index = self.partition_index(partition);
        self.partitions.get(index).and_then(Partition::log).is_some_and(|log| log.fault().is_some())
    }

    /// Disconnects the clients of a partition that can promise them nothing any more. Their wills
    /// are not published, for there is no log to put them into; after a restart they are.
    fn turn_away(&mut self, turn: &mut Turn<'_>, partition: PartitionId) {
        for id in self.connections.ids() {
            if self.client_partition(id) == Some(partition) {
                self.send_disconnect(turn, id, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR, None);
                self.end_connection(turn, id, End::Shutdown);
            }
        }
    }

    fn client_partition(&self, id: ConnectionId) -> Option<PartitionId> {
        let session: SessionId = match self.connections.get(id)?.phase {
            Phase::Connected(session) | Phase::Opening { session, .. } => session,
            Phase::Greeting | Phase::Moving(_) => return None,
        };
        self.sessions.get(session).map(|session| session.partition)
    }

    /// End of turn: what was accepted goes to the disk, as far as each log can take it now.
    pub(super) fn write_logs(&mut self, turn: &mut Turn<'_>) {
        if !self.has_logs && self.replicas.is_none() {
            return;
        }
        let deadline = match self.end_turn_of_replicas(turn) {
            Some(deadline) => deadline,
            None => self.end_turn_of_logs(turn),
        };
        self.arm_log_timer(turn, deadline);
        self.show_logs();
    }

    fn end_turn_of_logs(&mut self, turn: &mut Turn<'_>) -> Nanos {
        let unix_ms = self.unix_ms(turn.now);
        let mut deadline = Nanos::NEVER;
        for partition in &mut self.partitions {
            partition.end_turn(turn.now, unix_ms, turn.disk);
            if let Some(log) = partition.log() {
                deadline = deadline.min(log.next_deadline());
            }
        }
        deadline
    }

    /// A deadline that moves on finds the timer armed: it fires early, and is armed again.
    fn arm_log_timer(&mut self, turn: &mut Turn<'_>, deadline: Nanos) {
        match self.log_watch.armed {
            Some((at, _)) if at <= deadline => return,
            None if deadline == Nanos::NEVER => return,
            Some((_, later)) => {
                turn.timers.cancel(later);
            }
            None => {}
        }
        self.log_watch.armed = Some((deadline, turn.timers.schedule(deadline, Timer::Log)));
    }

    /// The end of the turn does what is due.
    pub(super) fn on_log_timer(&mut self) {
        self.log_watch.armed = None;
    }

    /// Gauges of all logs, after something of theirs has ended.
    fn show_logs(&mut self) {
        if !core::mem::take(&mut self.log_watch.dirty) {
            return;
        }
        let (mut segments, mut bytes, mut failed) = (0, 0, 0);
        for log in self.partitions.iter().filter_map(Partition::log) {
            segments += log.segments().count() as u64;
            bytes += log.segments().file_bytes();
            failed += log.segments().failed_jobs();
        }
        self.metrics.log_segments.set(segments);
        self.metrics.log_bytes.set(bytes);
        self.metrics.log_failed_jobs.set(failed);
    }

    /// Whether a publish of this partition's clients is taken by its log.
    pub(crate) fn log_admission(&self, partition: PartitionId) -> writer::Admission {
        let partition = self.partitions.get(self.partition_index(partition));
        partition.map_or(writer::Admission::Open, Partition::admission)
    }

    /// Whether everything that was accepted is durable, and says so, before the end. What has failed
    /// is not waited for, nor a disk that is still full when the clients have had their time.
    pub(super) fn logs_are_quiet(&mut self) -> bool {
        let (mut quiet, core, late) = (true, self.core, self.clients_have_left);
        for partition in &mut self.partitions {
            let Some(log) = partition.log_mut().filter(|log| log.fault().is_none()) else {
                continue;
            };
            log.close_soon();
            if !log.is_quiet() && log.full().is_some() && late {
                tracing::error!(
                    core = core.0,
                    bytes = log.queue_bytes(),
                    "the disk is full: the newest records of a partition are not on it"
                );
            } else {
                quiet &= log.is_quiet();
            }
        }
        quiet
    }
}
