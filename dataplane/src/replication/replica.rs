//! One replica of a partition: a state machine that is told what happened and says what to do.
//!
//! It holds no record and does no I/O. Whoever runs it (a core of the broker, the simulator) joins it
//! with the log of the partition and the links to the other nodes:
//!
//! - Every message of a link goes through [`wire::decode`](super::wire::decode) and then to
//!   [`Replica::on_message`] of its partition. Links that come up and go down are told, too.
//! - The log tells what it made durable ([`Replica::on_progress`]), and a leader's log each batch that
//!   was sealed ([`Replica::on_sealed`]), before it is on the disk.
//! - At the end of each turn, and when [`Replica::next_deadline`] has come, [`Replica::end_turn`] is called and then
//!   [`Replica::take_commands`]. Commands are carried out in their order; [`Command`] says for each which input follows.
//! - Who becomes leader is decided elsewhere ([`election`](super::election), etcd): [`Replica::campaign`]
//!   with an epoch begins a takeover, [`Replica::step_down`] ends a leadership.
//!
//! # Takeover
//!
//! A candidate makes its epoch durable and *fences* the others: each makes the epoch durable, lets its
//! old leader write no more, and only then reports what its log holds. Of a majority of reports, its own
//! included, the most complete log wins: the highest last epoch, then the highest next offset. The
//! candidate makes its own log equal to that one, begins its epoch with a record of its own, and leads when a
//! majority has that record durably ([`Command::Lead`]).
//!
//! # What may be lost
//!
//! Any message, and any number of them, may be lost or come twice, except pieces of a checkpoint: what is missing is sent
//! again. A link keeps the order of what it delivers. A crash loses what was not flushed; the log is
//! opened again, and a new `Replica` begins with what is in it.

use super::command::{Command, Errand, Refusal};
use super::epochs::EpochTable;
use super::follower::{Follower, Room};
use super::leader::{Awaits, Leader};
use super::message::{Claim, Envelope, Message, Report};
use super::reign::Reign;
use super::takeover::Takeover;
use crate::batch::{Arrived, Batch, BatchPool};
use crate::ids::{NODES_MAX, NodeId, Offset, PartitionId};
use crate::log::record::RecordSeed;
use crate::planted::{self, Bug};
use crate::time::Nanos;
use core::time::Duration;
use triomphe::Arc;

/// How often marks that nothing else carries are told to followers.
pub const MARKS_EVERY: Duration = Duration::from_millis(10);
/// How often what nobody answers is asked for again.
pub const RETRY_EVERY: Duration = Duration::from_millis(100);
/// Bytes of records that are read from the log for another node at a time, unless one is longer.
pub const READ_BYTES_MAX: u32 = 1 << 20;

/// Who a replica is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// This node.
    pub node: NodeId,
    /// The partition.
    pub partition: PartitionId,
    /// All nodes that hold a replica, this one included, whether they are there or not: a majority
    /// is one of these.
    pub members: Vec<NodeId>,
    /// What the checksums of its records begin with.
    pub seed: RecordSeed,
    /// Bytes of the longest record that its log takes. A leader that sends longer ones is refused.
    pub record_bytes_max: u64,
    /// Whether, in epochs that it leads in, a record counts for [`Replica::quorum_accepted`] that is in the memory of a
    /// majority. Else that mark is the high watermark.
    pub counts_memory: bool,
    /// Bytes of records that a follower takes before they are flushed, and so the most that its
    /// leader has in flight to it. A single record may be longer.
    pub window_bytes: u64,
}

/// The log as it was opened. All of it is durable.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opened {
    /// The promise in the manifest: none older is obeyed, and no epoch in the log is newer. A node that has lost its
    /// manifest has lost a promise, too: it begins with the newest epoch that etcd has given to anybody.
    pub reign: Reign,
    /// First offset that is kept.
    pub start: Offset,
    /// Offset that the next record gets.
    pub next: Offset,
    /// The epochs of its records, and that of the record before `start`, which the checkpoint knows. A log of
    /// which nothing is left, and no checkpoint, begins at 0 again.
    pub epochs: EpochTable,
    /// What the log once held, if records are missing: it was damaged and cut, or all of it is gone
    /// ([`Claim::ALL`]). The note is durable until [`Errand::ClearDamage`].
    pub damage: Option<Claim>,
}

/// What a replica is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleKind {
    /// It obeys a leader, or waits for one.
    Follower,
    /// It wants to lead.
    Candidate,
    /// It leads; clients are answered only behind [`Command::Lead`].
    Leader,
}

#[derive(Debug)]
pub(super) enum Role {
    Follower(Follower),
    Candidate(Takeover),
    Leader(Box<Leader>),
}

/// An epoch on its way to the disk. Until it is there, nothing is obeyed.
#[derive(Debug)]
struct Pending {
    reign: Reign,
    is_durable: bool,
    is_revoked: bool,
}

/// What is known of the log.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) start: Offset,
    pub(super) next: Offset,
    pub(super) flushed: Offset,
    pub(super) epochs: EpochTable,
}

impl Log {
    /// The epoch of the record before `offset`; 0 in front of the first one. `None`: it is not known
    /// any more.
    pub(super) fn epoch_before(&self, offset: Offset) -> Option<u64> {
        if offset.0 == 0 { Some(0) } else { self.epochs.epoch_before(offset) }
    }
}

/// One replica of a partition.
#[derive(Debug)]
pub struct Replica {
    pub(super) setup: Setup,
    /// Durable.
    pub(super) reign: Reign,
    pending: Option<Pending>,
    pub(super) log: Log,
    pub(super) room: Room,
    pub(super) quorum_accepted: Offset,
    pub(super) high_watermark: Offset,
    pub(super) marks_due: bool,
    pub(super) damage: Option<Claim>,
    /// As [`Report::memory_lost`].
    pub(super) memory_lost: u64,
    pub(super) truncating: Option<Offset>,
    /// Nodes that there is a link to.
    pub(super) up: Vec<NodeId>,
    pub(super) role: Role,
    pub(super) commands: Vec<Command>,
    marks_at: Nanos,
    retry_at: Nanos,
    has_failed: bool,
}

impl Replica {
    /// A follower of nobody, with the log as it was opened.
    ///
    /// # Panics
    /// If the node is no member, there are too many, an epoch of the log is newer than the one in the
    /// manifest, or no epoch is known although there were records.
    #[must_use]
    pub fn new(setup: Setup, opened: Opened) -> Self {
        assert!(setup.members.contains(&setup.node), "this node holds a replica");
        assert!(setup.members.len() <= NODES_MAX, "a cluster has at most {NODES_MAX} nodes");
        let Opened { reign, start, next, epochs, damage } = opened;
        let is_known = !epochs.starts().is_empty() || next.0 == 0;
        assert!(is_known, "what follows is compared by the epoch of the record before");
        assert!(epochs.last_epoch() <= reign.epoch, "an epoch is durable before its first record");
        Self {
            room: Room::new(setup.window_bytes),
            setup,
            reign,
            pending: None,
            log: Log { start, next, flushed: next, epochs },
            quorum_accepted: start,
            high_watermark: start,
            marks_due: false,
            damage,
            memory_lost: if damage == Some(Claim::ALL) { reign.epoch } else { reign.memory_epoch },
            truncating: None,
            up: Vec::new(),
            role: Role::Follower(Follower::new(None)),
            commands: Vec::new(),
            marks_at: Nanos(0),
            retry_at: Nanos(0),
            has_failed: false,
        }
    }

    /// The epoch that is durable: no older one is obeyed.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.reign.epoch
    }

    /// What it is.
    #[must_use]
    pub fn role(&self) -> RoleKind {
        match &self.role {
            Role::Follower(_) => RoleKind::Follower,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// Whether it leads and clients may be answered.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.serves)
    }

    /// Who leads, as far as this replica knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.setup.node),
        }
    }

    /// Up to here a majority of the replicas has the records durably.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Up to here a majority of the replicas has the records.
    #[must_use]
    pub fn quorum_accepted(&self) -> Offset {
        self.quorum_accepted
    }

    /// Offset that the next record gets.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.log.next
    }

    /// The epochs of the log.
    #[must_use]
    pub fn epochs(&self) -> &EpochTable {
        &self.log.epochs
    }

    /// What is missing of the log.
    #[must_use]
    pub fn damage(&self) -> Option<Claim> {
        self.damage
    }

    /// Whether it may lack what it had in memory before it was started anew, so that it does not show what a
    /// majority had in memory. A leader ends that.
    #[must_use]
    pub fn has_lost_memory(&self) -> bool {
        self.memory_lost != 0
    }

    /// What a follower has acknowledged to this leader: accepted and flushed. `None`: it is not in
    /// step, or this is no leader.
    #[must_use]
    pub fn acknowledged(&self, peer: NodeId) -> Option<(Offset, Offset)> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.acknowledged(peer)
    }

    /// Puts what is to be done behind what is in `into`.
    pub fn take_commands(&mut self, into: &mut Vec<Command>) {
        into.append(&mut self.commands);
    }

    /// A message has come. Its body is read only here.
    pub fn on_message(
        &mut self,
        from: NodeId,
        envelope: &Envelope,
        body: Arrived<'_>,
        pool: &mut BatchPool,
    ) {
        let is_peer = from != self.setup.node && self.setup.members.contains(&from);
        if self.has_failed || !is_peer {
            return;
        }
        let promised = self.promised();
        match &envelope.message {
            Message::Fence { counts_memory } => {
                self.on_fence(from, envelope.epoch, *counts_memory);
            }
            _ if envelope.epoch > promised => self.on_newer(),
            message if envelope.epoch < promised => self.on_older(from, message),
            _ if self.pending.is_some() => {}
            message => self.on_current(from, message, body, pool),
        }
    }

    fn on_current(
        &mut self,
        from: NodeId,
        message: &Message,
        body: Arrived<'_>,
        pool: &mut BatchPool,
    ) {
        match message {
            Message::Fenced(report) => self.on_report(from, report),
            Message::Append(append) => self.on_append(from, append, body, pool),
            Message::Ack(ack) => self.on_ack(from, ack),
            Message::Truncate { to } => self.on_truncate(from, *to),
            Message::Fetch(fetch) => self.on_fetch(from, *fetch),
            Message::Fetched(fetched) => self.on_fetched(from, fetched, body, pool),
            Message::CheckpointStart(start) => self.on_checkpoint_start(from, *start),
            Message::CheckpointPart(part) => {
                let body = body.own().expect("the records of an append alone are left elsewhere");
                self.on_checkpoint_part(from, *part, body);
            }
            Message::CheckpointTaken { position } => self.on_checkpoint_taken(from, *position),
            Message::Fence { .. } | Message::Stale | Message::Heartbeat(_) | Message::TakeOver => {}
        }
    }

    /// Somebody obeys a newer epoch: this leadership is over.
    fn on_newer(&mut self) {
        if !matches!(self.role, Role::Follower(_)) {
            self.follow(None);
        }
    }

    /// Who leads in an older epoch is told so; what answers an older question is passed over.
    fn on_older(&mut self, from: NodeId, message: &Message) {
        let is_of_leader = matches!(
            message,
            Message::Append(_)
                | Message::Truncate { .. }
                | Message::Fetch(_)
                | Message::CheckpointStart(_)
                | Message::CheckpointPart(_)
        );
        if is_of_leader && self.pending.is_none() {
            self.send(from, Message::Stale);
        }
    }

    fn on_fence(&mut self, from: NodeId, epoch: u64, counts_memory: bool) {
        let promised = self.promised();
        if epoch < promised {
            if epoch < self.reign.epoch {
                self.send(from, Message::Stale);
            }
            return;
        }
        let claimed = self.promise().leader;
        let is_other = |leader: Option<NodeId>| leader.is_some_and(|leader| leader != from);
        // Who began with an epoch of which it knew no more than the number takes down the rest.
        let is_fuller = self.promise().next(epoch, from, counts_memory) != self.promise();
        if epoch > promised || (is_fuller && !is_other(claimed)) {
            let revoked = self.others(from);
            self.follow(Some(from));
            self.begin_epoch(epoch, from, counts_memory, revoked);
        }
        let claimed = self.promise().leader;
        match &mut self.role {
            Role::Follower(follower) if !is_other(claimed) && !is_other(follower.leader) => {
                follower.leader = Some(from);
                follower.report_to = Some(from);
                self.try_report();
            }
            _ => self.refuse(from, Refusal::Protocol("two nodes claim the same epoch")),
        }
    }

    /// The nodes that may have a right to write here that they must lose: the leader so far, or all
    /// if nobody knows who that is.
    fn others(&self, new: NodeId) -> Vec<NodeId> {
        let old = self.leader();
        if old == Some(self.setup.node) {
            return Vec::new();
        }
        let is_old = |node: &NodeId| old.is_none_or(|old| old == *node);
        self.up.iter().copied().filter(|node| is_old(node) && *node != new).collect()
    }

    fn begin_epoch(
        &mut self,
        epoch: u64,
        leader: NodeId,
        counts_memory: bool,
        revoked: Vec<NodeId>,
    ) {
        let reign = self.promise().next(epoch, leader, counts_memory);
        self.pending = Some(Pending { reign, is_durable: false, is_revoked: revoked.is_empty() });
        if !revoked.is_empty() {
            self.commands.push(Command::Errand(Errand::Revoke { peers: revoked }));
        }
        self.commands.push(Command::Errand(Errand::PersistEpoch(reign)));
    }

    /// Becomes the leader of `epoch`, which was given to this node, if a majority obeys.
    pub fn campaign(&mut self, epoch: u64) {
        let found = self.promised();
        let refusal = if self.has_failed {
            Some(Refusal::Failed)
        } else if self.damage.is_some() {
            Some(Refusal::Damaged)
        } else if epoch <= found {
            Some(Refusal::OldEpoch { given: epoch, found })
        } else if self.is_resetting() {
            Some(Refusal::Protocol("a checkpoint is being taken"))
        } else {
            None
        };
        if let Some(why) = refusal {
            self.commands.push(Command::Errand(Errand::Refuse { peer: None, why }));
            return;
        }
        let revoked = self.others(self.setup.node);
        self.follow(None);
        self.role = Role::Candidate(Takeover::default());
        self.begin_epoch(epoch, self.setup.node, self.setup.counts_memory, revoked);
    }

    /// Gives up leading, or wanting to.
    pub fn step_down(&mut self) {
        self.on_newer();
    }

    /// This epoch, or a newer one, is durable in the manifest.
    pub fn on_epoch_durable(&mut self, epoch: u64) {
        if let Some(pending) = self.pending.as_mut().filter(|p| p.reign.epoch <= epoch) {
            pending.is_durable = true;
            self.reign = pending.reign;
        }
        self.settle();
    }

    /// Nobody but a new leader can write here any more.
    pub fn on_revoked(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.is_revoked = true;
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.pending.take_if(|pending| pending.is_durable && pending.is_revoked).is_none() {
            return;
        }
        match self.role {
            Role::Follower(_) => self.try_report(),
            Role::Candidate(_) => self.begin_collecting(),
            Role::Leader(_) => unreachable!("who leads has made its epoch durable before"),
        }
    }

    /// There is a link to a node.
    pub fn on_link_up(&mut self, peer: NodeId) {
        if !self.up.contains(&peer) {
            self.up.push(peer);
        }
        self.forget_link(peer);
        if !matches!(self.role, Role::Follower(_)) && self.pending.is_none() {
            self.fence(peer);
        }
    }

    /// Has a node obey the own epoch.
    pub(super) fn fence(&mut self, peer: NodeId) {
        let counts_memory = self.setup.counts_memory;
        self.send(peer, Message::Fence { counts_memory });
    }

    /// There is none any more. What was on its way is lost.
    pub fn on_link_down(&mut self, peer: NodeId) {
        self.up.retain(|up| *up != peer);
        self.forget_link(peer);
    }

    fn forget_link(&mut self, peer: NodeId) {
        match &mut self.role {
            Role::Follower(follower) => follower.forget_link(peer),
            Role::Candidate(_) => self.lose_candidate_link(peer),
            Role::Leader(leader) => leader.forget_link(peer),
        }
    }

    /// A message could not be put on the link to a node. No records and no acks are sent to it until
    /// [`Replica::on_room`], or until the link has been down.
    pub fn on_no_room(&mut self, peer: NodeId, message: &Message) {
        match (&mut self.role, message) {
            (Role::Leader(leader), Message::Append(append)) => leader.block(peer, &append.run),
            (Role::Follower(follower), Message::Ack(_)) => follower.is_blocked = true,
            // Whatever else it was, it is said again.
            _ => {}
        }
    }

    /// There is room again.
    pub fn on_room(&mut self, peer: NodeId) {
        match &mut self.role {
            Role::Leader(leader) => {
                leader.unblock(peer);
                self.pump(peer);
            }
            Role::Follower(follower) if follower.leader == Some(peer) => follower.unblock(),
            Role::Follower(_) | Role::Candidate(_) => {}
        }
    }

    /// The log of this leader has a new batch of `epoch`, whose first record has the offset `first`.
    ///
    /// # Panics
    /// If it is not the next one, or of another epoch than a leader's own: what replicas count would
    /// not be what the log holds.
    pub fn on_sealed(&mut self, batch: &Arc<Batch>, first: Offset, epoch: u64) {
        assert_eq!(first, self.log.next, "batches are told of without a gap");
        assert!(!batch.is_empty(), "a batch has records");
        self.log.next = Offset(first.0 + batch.len() as u64);
        assert!(epoch <= self.reign.epoch, "an epoch is durable before its first record");
        self.log.epochs.push(epoch, first);
        if let Role::Leader(leader) = &mut self.role {
            assert_eq!(epoch, self.reign.epoch, "a leader appends in its own epoch");
            leader.start.get_or_insert(first);
            self.replicate(batch, first);
        }
        // Else it was on its way into the log when the leadership ended, and nobody else has it.
    }

    /// The log has made records durable: up to `flushed`. `start` is the first offset that it keeps.
    ///
    /// # Panics
    /// If a mark goes back, or is beyond the end of the log.
    pub fn on_progress(&mut self, start: Offset, flushed: Offset) {
        assert!(self.log.flushed <= flushed, "what is durable stays so");
        assert!(flushed <= self.log.next, "only what is there can be durable");
        let has_risen = core::mem::replace(&mut self.log.flushed, flushed) < flushed;
        if self.log.start < start {
            self.log.start = start;
            self.log.epochs.trim(start);
        }
        self.room.on_flushed(flushed);
        match &self.role {
            Role::Follower(_) => self.on_follower_progress(has_risen),
            Role::Candidate(_) => self.fetch_more(),
            Role::Leader(_) => self.on_leader_progress(),
        }
    }

    /// The records of the log from `next` on have gone, all others are durable.
    ///
    /// # Panics
    /// If this was not asked for.
    pub fn on_truncated(&mut self, next: Offset) {
        assert_eq!(self.truncating.take(), Some(next), "only what was asked for is given up");
        assert!(self.high_watermark <= next, "what a quorum holds is not given up");
        self.log.next = next;
        self.log.flushed = next;
        self.log.epochs.truncate(next);
        self.room.clear();
        match &mut self.role {
            Role::Follower(follower) => {
                follower.report_to = follower.leader;
                self.try_report();
            }
            Role::Candidate(_) => self.on_candidate_truncated(),
            Role::Leader(_) => unreachable!("nobody leads whose log is being truncated"),
        }
    }

    /// Records were read for another node; `None` if they are not there any more, or the log cannot
    /// be read.
    ///
    /// # Panics
    /// If they are of more than one epoch.
    pub fn on_read(&mut self, peer: NodeId, from: Offset, batch: Option<&Arc<Batch>>) {
        match &self.role {
            Role::Follower(_) => self.on_read_to_answer(peer, from, batch),
            Role::Candidate(_) => {}
            Role::Leader(_) => self.on_read_to_send(peer, from, batch),
        }
    }

    /// A write or sync of the log has failed: this replica takes part in nothing any more.
    pub fn on_log_failed(&mut self) {
        self.has_failed = true;
        self.on_newer();
        self.commands.push(Command::Errand(Errand::Refuse { peer: None, why: Refusal::Failed }));
    }

    /// The durable note that this replica is damaged is gone.
    pub fn on_damage_cleared(&mut self) {
        self.damage = None;
        self.tell_whole();
    }

    /// Does what is due.
    pub fn end_turn(&mut self, now: Nanos) {
        let (marks, retry) = (self.marks_at <= now, self.retry_at <= now);
        if marks {
            self.marks_at = now + MARKS_EVERY;
        }
        if retry {
            self.retry_at = now + RETRY_EVERY;
        }
        if self.has_failed {
            return;
        }
        match &self.role {
            Role::Follower(_) => self.acknowledge(),
            Role::Candidate(_) if retry && self.pending.is_none() => self.ask_again(),
            Role::Candidate(_) => {}
            Role::Leader(_) => self.tell(marks, retry),
        }
        if core::mem::take(&mut self.marks_due) {
            let (quorum_accepted, high_watermark) = (self.quorum_accepted, self.high_watermark);
            self.commands.push(Command::Marks { quorum_accepted, high_watermark });
        }
    }

    /// When the end of a turn has something to do although nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Nanos {
        match &self.role {
            Role::Follower(_) => Nanos::NEVER,
            Role::Candidate(_) => self.retry_at,
            Role::Leader(leader) => match leader.awaits(&self.up, self.told(), self.log.next) {
                Awaits::Nothing => Nanos::NEVER,
                Awaits::Retry => self.retry_at,
                Awaits::Marks => self.marks_at.min(self.retry_at),
            },
        }
    }

    /// The newest epoch that is durable, or soon will be.
    fn promised(&self) -> u64 {
        self.promise().epoch
    }

    fn promise(&self) -> Reign {
        self.pending.as_ref().map_or(self.reign, |pending| pending.reign)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_none() && self.truncating.is_none()
    }

    /// Becomes a follower, of somebody who is known or not. Whoever led is told.
    pub(super) fn follow(&mut self, leader: Option<NodeId>) {
        let was_resetting = self.is_resetting();
        let mut follower = Follower::new(leader);
        follower.is_resetting = was_resetting;
        self.role = Role::Follower(follower);
        self.commands.push(Command::Follow { leader });
    }

    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.send_with(to, message, None);
    }

    pub(super) fn send_with(&mut self, to: NodeId, message: Message, body: Option<Arc<Batch>>) {
        let message =
            Envelope { partition: self.setup.partition, epoch: self.reign.epoch, message };
        self.commands.push(Command::Send { to, message, body });
    }

    pub(super) fn refuse(&mut self, peer: NodeId, why: Refusal) {
        self.commands.push(Command::Errand(Errand::Refuse { peer: Some(peer), why }));
    }

    /// What the log holds.
    pub(super) fn report(&self) -> Report {
        Report {
            log_start: self.log.start,
            next: self.log.next,
            flushed: self.log.flushed,
            high_watermark: self.high_watermark,
            damage: self.damage,
            memory_lost: self.memory_lost,
            epochs: self.log.epochs.clone(),
        }
    }

    /// The marks of the cluster are at least these, and no more than this log has.
    pub(super) fn raise_marks(&mut self, quorum_accepted: Offset, high_watermark: Offset) {
        let known = if planted::is(Bug::WatermarkBack) { Offset(0) } else { self.high_watermark };
        let high_watermark = high_watermark.min(self.log.next).max(known);
        let quorum_accepted =
            quorum_accepted.min(self.log.next).max(self.quorum_accepted).max(high_watermark);
        if (quorum_accepted, high_watermark) != (self.quorum_accepted, self.high_watermark) {
            (self.quorum_accepted, self.high_watermark) = (quorum_accepted, high_watermark);
            self.marks_due = true;
        }
    }
}
