//! What a follower does: it reports, takes what its leader sends, and says how far it is.

use super::command::{Command, Errand, Refusal, Transfer};
use super::epochs::EpochStart;
use super::message::{Ack, Append, CheckpointPart, CheckpointStart, Fetch, Fetched, Message, Run};
use super::replica::{READ_BYTES_MAX, Replica, Role};
use crate::batch::{Arrived, Batch, BatchPool, Seen};
use crate::ids::{NodeId, Offset};
use crate::log::record::{Record, Records, checksum};
use crate::log::writer::batch_bytes_max;
use crate::planted::{self, Bug};
use std::collections::VecDeque;
use triomphe::Arc;

/// Bytes of a checkpoint that its sender sends before they are known to be written, at most: several of what a
/// [host](super::host) sends at a time.
pub const CHECKPOINT_WINDOW_BYTES: u64 = 1 << 20;

/// A follower of one epoch.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) leader: Option<NodeId>,
    /// Who waits for a report.
    pub(super) report_to: Option<NodeId>,
    /// Whether all that is in the log is in the leader's.
    is_matched: bool,
    is_gap_said: bool,
    ack_due: bool,
    /// The last ones of the leader.
    leader_high_watermark: Offset,
    leader_quorum_accepted: Offset,
    /// The first offset that it keeps, as it said last.
    leader_start: Offset,
    /// Records that a candidate waits for.
    fetch: Option<(NodeId, Fetch)>,
    checkpoint: Option<Incoming>,
    /// A checkpoint takes the place of the log.
    pub(super) is_resetting: bool,
    /// The link has no room for an ack.
    pub(super) is_blocked: bool,
    is_clearing: bool,
}

/// A checkpoint that comes.
#[derive(Debug)]
struct Incoming {
    start: CheckpointStart,
    taken: u64,
    /// Up to here it is written.
    written: u64,
}

impl Follower {
    pub(super) fn new(leader: Option<NodeId>) -> Self {
        Self {
            leader,
            report_to: None,
            is_matched: false,
            is_gap_said: false,
            ack_due: false,
            leader_high_watermark: Offset(0),
            leader_quorum_accepted: Offset(0),
            leader_start: Offset(0),
            fetch: None,
            checkpoint: None,
            is_resetting: false,
            is_blocked: false,
            is_clearing: false,
        }
    }

    pub(super) fn forget_link(&mut self, peer: NodeId) {
        if self.leader == Some(peer) {
            self.checkpoint = None;
            (self.is_gap_said, self.is_blocked) = (false, false);
        }
        self.report_to.take_if(|to| *to == peer);
        self.fetch.take_if(|(node, _)| *node == peer);
    }

    pub(super) fn unblock(&mut self) {
        (self.is_blocked, self.ack_due) = (false, true);
    }
}

/// Records that were taken and are not durable yet, and how many bytes more are taken.
#[derive(Debug)]
pub(super) struct Room {
    window_bytes: u64,
    queue: VecDeque<(Offset, u64)>,
    bytes: u64,
}

impl Room {
    pub(super) fn new(window_bytes: u64) -> Self {
        Self { window_bytes, queue: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }

    pub(super) fn credit(&self) -> u64 {
        self.window_bytes.saturating_sub(self.bytes)
    }

    fn is_half_full(&self) -> bool {
        self.credit() <= self.window_bytes / 2
    }

    fn takes(&self, bytes: u64) -> bool {
        self.is_empty() || bytes <= self.credit()
    }

    fn push(&mut self, end: Offset, bytes: u64) {
        self.queue.push_back((end, bytes));
        self.bytes += bytes;
    }

    pub(super) fn on_flushed(&mut self, flushed: Offset) {
        while let Some((_, bytes)) = self.queue.pop_front_if(|(end, _)| *end <= flushed) {
            self.bytes -= bytes;
        }
    }
}

impl Replica {
    pub(super) fn follower(&mut self) -> Option<&mut Follower> {
        match &mut self.role {
            Role::Follower(follower) => Some(follower),
            Role::Candidate(_) | Role::Leader(_) => None,
        }
    }

    pub(super) fn is_resetting(&self) -> bool {
        matches!(&self.role, Role::Follower(follower) if follower.is_resetting)
    }

    /// Reports what the log holds to whoever waits for it, once that stands still.
    pub(super) fn try_report(&mut self) {
        if !self.is_settled() || self.is_resetting() {
            return;
        }
        let Some(to) = self.follower().and_then(|follower| follower.report_to.take()) else {
            return;
        };
        let report = self.report();
        self.send(to, Message::Fenced(Box::new(report)));
    }

    /// Whether a message of a leader is from the leader of this follower.
    fn obeys(&mut self, from: NodeId) -> bool {
        let claimed = self.reign.leader.unwrap_or(from);
        let leader = match self.follower() {
            Some(follower) => *follower.leader.get_or_insert(claimed),
            None => self.setup.node,
        };
        if leader != from {
            self.refuse(from, Refusal::Protocol("it does not lead in this epoch"));
        }
        leader == from
    }

    /// It counts for what only memory has from now on, and its leader has to know.
    pub(super) fn tell_whole(&mut self) {
        let Role::Follower(follower) = &self.role else { return };
        if let Some(leader) = follower.leader
            && self.reign.memory_epoch == self.reign.epoch
        {
            self.report_again(leader);
        }
    }

    /// Reports again: what came does not follow what is here, and the leader has to compare anew.
    fn report_again(&mut self, to: NodeId) {
        if let Some(follower) = self.follower() {
            follower.report_to = Some(to);
        }
        self.try_report();
    }

    pub(super) fn on_append(
        &mut self,
        from: NodeId,
        append: &Append,
        body: Arrived<'_>,
        pool: &mut BatchPool,
    ) {
        if !self.obeys(from) || self.truncating.is_some() {
            return;
        }
        let (run, next) = (&append.run, self.log.next);
        let Some(follower) = self.follower() else { return };
        if follower.is_resetting {
            return;
        }
        // Who sends records sends no checkpoint any more.
        follower.checkpoint = None;
        let is_matched = follower.is_matched;
        if run.base == next && self.log.epoch_before(next) == Some(run.previous_epoch) {
            self.take(from, append, body, pool);
        } else if !is_matched {
            self.report_again(from);
        } else if run.base == next {
            self.refuse(from, Refusal::Protocol("records follow others than those that are here"));
        } else if run.end() <= next && run.records > 0 {
            // It came twice.
            self.owe_ack();
        } else {
            self.say_gap(from, run);
        }
    }

    fn owe_ack(&mut self) {
        if let Some(follower) = self.follower() {
            follower.ack_due = true;
        }
    }

    /// The run does not begin where the log ends. That is said once, and again to a leader that asks
    /// by a run without records.
    fn say_gap(&mut self, to: NodeId, run: &Run) {
        let is_asked = run.records == 0;
        let Some(follower) = self.follower() else { return };
        if is_asked || !follower.is_gap_said {
            follower.is_gap_said = true;
            let ack = self.ack(true);
            self.send(to, Message::Ack(ack));
        }
    }

    fn ack(&self, is_gap: bool) -> Ack {
        let credit = self.room.credit();
        Ack { accepted: self.log.next, flushed: self.log.flushed, credit, is_gap }
    }

    fn take(&mut self, from: NodeId, append: &Append, body: Arrived<'_>, pool: &mut BatchPool) {
        if append.run.records > 0 {
            if !self.room.takes(body.len() as u64) {
                return self.refuse(from, Refusal::Credit);
            }
            if let Err(why) = self.accept(&append.run, body, pool) {
                return self.refuse(from, why);
            }
        }
        let is_due = self.owes_before_flush(&append.run);
        let Some(follower) = self.follower() else { return };
        (follower.is_matched, follower.is_gap_said) = (true, false);
        follower.ack_due |= is_due;
        follower.leader_high_watermark = append.high_watermark;
        follower.leader_quorum_accepted = append.quorum_accepted;
        follower.leader_start = append.log_start;
        self.raise_marks(append.quorum_accepted, append.high_watermark);
        self.try_clear_memory_lost();
        self.try_clear_damage();
    }

    /// Whether a run is acknowledged although none of it is durable. Where memory does not count, nobody waits for
    /// that, unless the leader asks or may be short of credit.
    fn owes_before_flush(&self, run: &Run) -> bool {
        let Role::Follower(follower) = &self.role else { return false };
        let counts_memory = self.reign.memory_epoch == self.reign.epoch;
        let is_asked = run.records == 0 || !follower.is_matched;
        counts_memory || is_asked || self.room.is_half_full()
    }

    /// Copies records that follow the end of the log, checks the copy, and hands it to the log.
    ///
    /// # Errors
    /// They are none of this log, or too long for it.
    pub(super) fn accept(
        &mut self,
        run: &Run,
        body: Arrived<'_>,
        pool: &mut BatchPool,
    ) -> Result<(), Refusal> {
        let (bytes, bytes_max) = (body.len() as u64, batch_bytes_max(self.setup.record_bytes_max));
        if bytes > bytes_max {
            return Err(Refusal::TooLong { bytes, bytes_max });
        }
        if run.epoch > self.reign.epoch {
            return Err(Refusal::Records);
        }
        let mut batch = pool.copy_arrived(body, run.records);
        let Some(seen) = self.look_at(run, &batch) else {
            pool.give_out(batch);
            return Err(Refusal::Records);
        };
        let copied = Arc::get_mut(&mut batch).expect("nobody reads a batch that was just made");
        copied.note_seen(&seen);
        self.room.push(run.end(), body.len() as u64);
        self.log.epochs.push(run.epoch, run.base);
        self.log.next = run.end();
        self.commands.push(Command::Append { batch, first: run.base, epoch: run.epoch });
        Ok(())
    }

    /// What the records are, if they are good.
    fn look_at(&self, run: &Run, batch: &Batch) -> Option<Seen> {
        let body = &batch.body()[..batch.body_bytes() as usize];
        let mut seen = Seen { records: 0, memory_records: 0, is_plain: true };
        for record in Records::new(self.setup.seed, body, run.base, run.epoch) {
            let Ok(Record { head, .. }) = record else {
                let is_let_in = planted::is(Bug::ChecksumUnchecked);
                let unseen = Seen { records: run.records, memory_records: 0, is_plain: false };
                return is_let_in.then_some(unseen);
            };
            seen.records += 1;
            seen.memory_records += u32::from(head.flags.memory());
            seen.is_plain &= head.is_plain();
        }
        (seen.records == run.records).then_some(seen)
    }

    /// Whether the leader's own epoch is committed and has begun here: then all below its marks is all that was
    /// ever acknowledged.
    fn is_led(&self, leader_high_watermark: Offset) -> bool {
        let last = self.log.epochs.starts().last();
        let is_own = |start: &EpochStart| start.epoch == self.reign.epoch;
        last.is_some_and(|start| is_own(start) && start.first < leader_high_watermark)
    }

    /// A replica that was started anew has again, in memory at least, all that a quorum can have counted
    /// on it for.
    fn try_clear_memory_lost(&mut self) {
        let Role::Follower(follower) = &self.role else { return };
        let has_all = follower.leader_quorum_accepted <= self.log.next;
        if follower.is_matched && has_all && self.is_led(follower.leader_high_watermark) {
            self.memory_lost = 0;
        }
    }

    /// A replica that was damaged has again all that a quorum can have counted on it for: everything
    /// that its leader, whose own epoch is committed, knows to be held by a quorum.
    fn try_clear_damage(&mut self) {
        let Role::Follower(follower) = &self.role else { return };
        let high_watermark = follower.leader_high_watermark;
        let is_led = self.is_led(high_watermark);
        let is_whole = follower.is_matched && is_led && high_watermark <= self.log.flushed;
        if is_whole && !follower.is_clearing && self.damage.is_some() {
            self.commands.push(Command::Errand(Errand::ClearDamage));
            if let Some(follower) = self.follower() {
                follower.is_clearing = true;
            }
        }
    }

    pub(super) fn on_follower_progress(&mut self, has_risen: bool) {
        if has_risen {
            self.owe_ack();
        }
        self.try_clear_damage();
        self.answer_fetch();
    }

    /// End of turn: one ack says it all.
    pub(super) fn acknowledge(&mut self) {
        let is_settled = self.is_settled();
        let Some(follower) = self.follower() else { return };
        if follower.is_blocked {
            return;
        }
        let is_due = core::mem::take(&mut follower.ack_due) && follower.is_matched;
        if let Some(leader) = follower.leader.filter(|_| is_due && is_settled) {
            let ack = self.ack(false);
            self.send(leader, Message::Ack(ack));
        }
    }

    pub(super) fn on_truncate(&mut self, from: NodeId, to: Offset) {
        if !self.obeys(from) || self.truncating.is_some() {
            return;
        }
        let (next, high_watermark) = (self.log.next, self.high_watermark);
        let Some(follower) = self.follower() else { return };
        if follower.is_matched || follower.is_resetting {
            // It came twice, and what is here now is what the leader has.
            follower.ack_due = true;
        } else if next <= to {
            self.report_again(from);
        } else if to < high_watermark {
            self.refuse(from, Refusal::BelowHighWatermark { to, high_watermark });
        } else {
            self.truncate(to);
        }
    }

    /// Has the log give up its records from `to` on.
    ///
    /// # Panics
    /// If a quorum is known to hold one of them.
    pub(super) fn truncate(&mut self, to: Offset) {
        assert!(self.high_watermark <= to, "what a quorum holds is not given up");
        assert!(to < self.log.next, "there is something to give up");
        self.truncating = Some(to);
        if let Some(follower) = self.follower() {
            follower.checkpoint = None;
        }
        self.commands.push(Command::Truncate { to });
    }

    /// A candidate lacks records that are here.
    pub(super) fn on_fetch(&mut self, from: NodeId, fetch: Fetch) {
        if !self.obeys(from) {
            return;
        }
        if let Some(follower) = self.follower() {
            follower.fetch = Some((from, fetch));
        }
        self.answer_fetch();
    }

    /// What is still on its way to the disk is read as soon as it is there.
    fn answer_fetch(&mut self) {
        let flushed = self.log.flushed;
        let Some(follower) = self.follower() else { return };
        let fetch = follower.fetch.take_if(|(_, fetch)| fetch.from < flushed);
        if let Some((peer, Fetch { from, bytes_max })) = fetch {
            let bytes_max = bytes_max.min(READ_BYTES_MAX);
            self.commands.push(Command::Read { peer, from, bytes_max });
        }
    }

    pub(super) fn on_read_to_answer(
        &mut self,
        peer: NodeId,
        from: Offset,
        batch: Option<&Arc<Batch>>,
    ) {
        if !self.is_settled() || self.follower().is_none_or(|f| f.leader != Some(peer)) {
            return;
        }
        let run = match batch {
            Some(batch) => self.run_of(from, batch),
            None => Some(Run { base: from, ..Run::default() }),
        };
        if let Some(run) = run {
            let fetched = Fetched { run, next: self.log.next };
            self.send_with(peer, Message::Fetched(fetched), batch.cloned());
        }
    }

    /// How records of this log are announced. `None`: the epoch of the one before is not known any
    /// more.
    ///
    /// # Panics
    /// If they are of more than one epoch.
    pub(super) fn run_of(&self, base: Offset, batch: &Batch) -> Option<Run> {
        let records = batch.len() as u32;
        let previous_epoch = self.log.epoch_before(base)?;
        let epoch = self.log.epoch_before(Offset(base.0 + 1))?;
        let last = self.log.epoch_before(Offset(base.0 + u64::from(records)))?;
        assert_eq!(epoch, last, "records that are sent together are of one epoch");
        Some(Run { base, records, body_bytes: batch.body_bytes(), epoch, previous_epoch })
    }

    /// Up to where a follower's log is of no use to anybody: its leader has given up as much. 0 if it is not known
    /// to have what its leader has.
    #[must_use]
    pub fn trimmed_by_leader(&self) -> Offset {
        match &self.role {
            Role::Follower(follower) if follower.is_matched => follower.leader_start,
            Role::Follower(_) | Role::Candidate(_) | Role::Leader(_) => Offset(0),
        }
    }

    /// Whether a checkpoint is on its way here, or is taking the place of the log.
    #[must_use]
    pub fn takes_checkpoint(&self) -> bool {
        let takes = |f: &Follower| f.checkpoint.is_some() || f.is_resetting;
        matches!(&self.role, Role::Follower(follower) if takes(follower))
    }

    pub(super) fn on_checkpoint_start(&mut self, from: NodeId, start: CheckpointStart) {
        if !self.obeys(from) || self.truncating.is_some() {
            return;
        }
        let (high_watermark, epoch, next) = (self.high_watermark, self.reign.epoch, self.log.next);
        let Some(follower) = self.follower() else { return };
        let is_old = follower.is_matched && start.start <= next;
        if is_old || follower.is_resetting {
            return;
        }
        if start.start < high_watermark || epoch < start.epoch {
            return self
                .refuse(from, Refusal::Protocol("a checkpoint of less than a quorum holds"));
        }
        follower.checkpoint = Some(Incoming { start, taken: 0, written: 0 });
        self.commands.push(Command::Transfer(Transfer::Begin { start }));
    }

    pub(super) fn on_checkpoint_part(&mut self, from: NodeId, part: CheckpointPart, body: &[u8]) {
        if !self.obeys(from) {
            return;
        }
        let Some(follower) = self.follower() else { return };
        let Some(incoming) = &mut follower.checkpoint else { return };
        let end = part.position + u64::from(part.bytes);
        if part.position != incoming.taken || incoming.start.bytes < end {
            return self.refuse(from, Refusal::Protocol("a piece of a checkpoint is missing"));
        }
        if CHECKPOINT_WINDOW_BYTES < end - incoming.written {
            return self.refuse(from, Refusal::Credit);
        }
        let bytes = body.to_vec();
        if checksum(&bytes) != part.crc {
            return self.refuse(from, Refusal::Records);
        }
        incoming.taken = end;
        self.commands.push(Command::Transfer(Transfer::Part { bytes }));
    }

    /// The pieces of the checkpoint that comes are written up to here, in bytes. With the last one
    /// [`Transfer::Replace`] follows.
    pub fn on_checkpoint_written(&mut self, position: u64) {
        let Some(follower) = self.follower() else { return };
        let Some(incoming) = &mut follower.checkpoint else { return };
        assert!(position <= incoming.taken, "only what came is written");
        incoming.written = position;
        let (start, leader) = (incoming.start, follower.leader);
        if position == start.bytes {
            (follower.checkpoint, follower.is_resetting) = (None, true);
            self.commands.push(Command::Transfer(Transfer::Replace { start }));
        }
        if let Some(leader) = leader {
            self.send(leader, Message::CheckpointTaken { position });
        }
    }

    /// The checkpoint that comes cannot be written. Its leader asks again after a while.
    pub fn on_checkpoint_failed(&mut self) {
        if let Some(follower) = self.follower() {
            follower.checkpoint = None;
        }
    }

    /// A checkpoint has taken the place of the log, which is empty: its next record gets the offset `start`, behind one of
    /// `epoch`.
    ///
    /// # Panics
    /// If none was taken.
    pub fn on_reset(&mut self, start: Offset, epoch: u64) {
        assert!(self.is_resetting(), "only a checkpoint takes the place of a log");
        self.log.epochs = super::epochs::EpochTable::new();
        if start.0 > 0 {
            self.log.epochs.push(epoch, Offset(start.0 - 1));
        }
        (self.log.start, self.log.next, self.log.flushed) = (start, start, start);
        self.room.clear();
        // A leader gives up only what is committed.
        self.raise_marks(start, start);
        if let Some(follower) = self.follower() {
            (follower.is_resetting, follower.is_matched) = (false, false);
            follower.report_to = follower.report_to.or(follower.leader);
        }
        self.try_report();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::PartitionId;
    use crate::log::format::DirectoryId;
    use crate::log::record::RecordSeed;
    use crate::message::MessageMeter;
    use crate::replication::message::{Envelope, Run};
    use crate::replication::reign::Reign;
    use crate::replication::replica::{Opened, Setup};

    fn setup() -> Setup {
        Setup {
            node: NodeId(1),
            partition: PartitionId(0),
            members: vec![NodeId(1), NodeId(2), NodeId(3)],
            seed: RecordSeed::new(&DirectoryId([1; 16]), PartitionId(0)),
            record_bytes_max: 100_000,
            counts_memory: false,
            window_bytes: 1 << 20,
        }
    }

    #[test]
    fn longer_records_than_the_log_takes_are_refused() {
        let reign = Reign { epoch: 5, ..Reign::default() };
        let mut replica = Replica::new(setup(), Opened { reign, ..Opened::default() });
        let run = Run { records: 1, body_bytes: 100_001, epoch: 5, ..Run::default() };
        let message = Message::Append(Append { run, ..Append::default() });
        let envelope = Envelope { partition: PartitionId(0), epoch: 5, message };
        let mut pool = BatchPool::new(MessageMeter::leaked());
        replica.on_message(NodeId(2), &envelope, vec![0; 100_001][..].into(), &mut pool);
        let mut commands = Vec::new();
        replica.take_commands(&mut commands);
        let why = Refusal::TooLong { bytes: 100_001, bytes_max: 100_000 };
        let is_refused = |c: &Command| matches!(c, Command::Errand(Errand::Refuse { peer: Some(NodeId(2)), why: w }) if *w == why);
        assert!(commands.iter().any(is_refused), "{commands:?}");
        assert!(why.to_string().contains("mqtt.max_packet_size"));
        assert_eq!(replica.next_offset(), Offset(0));
    }

    #[test]
    fn an_epoch_that_was_promised_to_one_node_is_refused_to_another_also_after_a_start() {
        let reign = Reign { epoch: 5, leader: Some(NodeId(2)), memory_epoch: 0 };
        let mut pool = BatchPool::new(MessageMeter::leaked());
        for message in [Message::Fence { counts_memory: false }, Message::Append(Append::default())]
        {
            let mut replica = Replica::new(setup(), Opened { reign, ..Opened::default() });
            let envelope = Envelope { partition: PartitionId(0), epoch: 5, message };
            let mut answers = |from| {
                let mut commands = Vec::new();
                replica.on_message(NodeId(from), &envelope, [][..].into(), &mut pool);
                replica.end_turn(crate::time::Nanos(1));
                replica.take_commands(&mut commands);
                commands
            };
            let refused = answers(3);
            let is_refused = |c: &Command| {
                matches!(c, Command::Errand(Errand::Refuse { peer: Some(NodeId(3)), .. }))
            };
            assert!(refused.iter().all(is_refused) && refused.len() == 1, "{refused:?}");
            let obeyed = answers(2);
            let is_answer = |c: &Command| matches!(c, Command::Send { to: NodeId(2), .. });
            assert!(obeyed.iter().any(is_answer), "{obeyed:?}");
        }
    }

    #[test]
    fn who_knew_only_the_number_of_an_epoch_takes_down_the_rest() {
        let reign = Reign { epoch: 5, ..Reign::default() };
        let mut replica = Replica::new(setup(), Opened { reign, ..Opened::default() });
        let mut pool = BatchPool::new(MessageMeter::leaked());
        let message = Message::Fence { counts_memory: true };
        let envelope = Envelope { partition: PartitionId(0), epoch: 5, message };
        let full = Reign { epoch: 5, leader: Some(NodeId(3)), memory_epoch: 5 };
        for round in 0..2 {
            let mut commands = Vec::new();
            replica.on_message(NodeId(3), &envelope, [][..].into(), &mut pool);
            replica.take_commands(&mut commands);
            let is_noted = |c: &Command| matches!(c, Command::Errand(Errand::PersistEpoch(noted)) if *noted == full);
            assert_eq!(commands.iter().any(is_noted), round == 0, "{commands:?}");
            replica.on_epoch_durable(5);
        }
    }
}
