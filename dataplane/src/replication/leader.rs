//! What a leader does: it compares each follower's log with its own, sends what is missing, counts
//! who has what, and so moves the marks of the cluster.

use super::command::{Command, Errand, Refusal, Transfer};
use super::epochs::Common;
use super::message::{Ack, Append, CheckpointStart, Message, Report, Run};
use super::quorum;
use super::replica::{READ_BYTES_MAX, Replica, Role};
use super::tail::Tail;
use crate::batch::Batch;
use crate::ids::{NODES_MAX, NodeId, Offset};
use crate::planted::{self, Bug};
use std::collections::VecDeque;
use triomphe::Arc;

/// A checkpoint of which nothing is taken for so many times [`RETRY_EVERY`](super::replica::RETRY_EVERY)
/// begins again.
const CHECKPOINT_RETRIES: u32 = 50;
/// Runs that are in flight to one follower, at most; the credit bounds their bytes.
const IN_FLIGHT_MAX: usize = 1024;

/// A leader, from the moment in which it begins its epoch.
#[derive(Debug)]
pub(super) struct Leader {
    /// Offset of the first record of its epoch, once there is one.
    pub(super) start: Option<Offset>,
    /// Whether a majority has that record.
    pub(super) serves: bool,
    peers: Vec<Peer>,
    tail: Tail,
    /// From here on nothing is sent yet: its round has not begun.
    held_from: Option<Offset>,
}

/// What is due at the end of a turn without an event; the later in this order the sooner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Awaits {
    Nothing,
    /// Somebody may have to be asked again.
    Retry,
    /// Somebody does not know the marks.
    Marks,
}

/// A follower, as its leader sees it.
#[derive(Debug)]
struct Peer {
    node: NodeId,
    /// What it acknowledged in this epoch.
    accepted: Offset,
    flushed: Offset,
    /// As it reported last. Its log is chosen in no takeover, so that what only its memory has would be lost.
    is_damaged: bool,
    /// From here on it lacks records, as far as was ever known: 0 if it never said.
    lacks: Offset,
    state: State,
    /// Its link has no room.
    is_blocked: bool,
}

/// How far the two are.
#[derive(Debug)]
enum State {
    /// It has not reported yet.
    Unknown,
    /// It has to give up its records from here on, and to report again.
    Truncating(Offset),
    /// It needs a checkpoint, and will report again; so many retries ago something of it was taken.
    Behind(u32),
    /// Its log is a part of this one.
    InStep(Flow),
}

/// The marks that followers are told: high watermark, quorum-accepted mark, log start offset.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Told {
    high_watermark: Offset,
    quorum_accepted: Offset,
    log_start: Offset,
}

/// What goes to a follower in step.
#[derive(Debug)]
struct Flow {
    /// Up to here records have been sent.
    sent: Offset,
    /// The ends of runs that are not acknowledged, and their bytes.
    in_flight: VecDeque<(Offset, u64)>,
    in_flight_bytes: u64,
    /// Bytes that it has room for behind what it acknowledged; `None` until it has said so.
    credit: Option<u64>,
    /// Records that are being read for it.
    reading: Option<Offset>,
    /// The marks that it has been told.
    told: Told,
    /// Whether it has answered since it was asked again.
    is_heard: bool,
}

impl Flow {
    fn new(sent: Offset) -> Self {
        Self {
            sent,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            credit: None,
            reading: None,
            told: Told::default(),
            is_heard: false,
        }
    }

    /// Bytes of records that may be sent now; `None`: any number, because nothing waits there.
    fn allowance(&self, accepted: Offset, flushed: Offset) -> Option<u64> {
        if planted::is(Bug::CreditOverrun) {
            return None;
        }
        let Some(credit) = self.credit.filter(|_| self.in_flight.len() < IN_FLIGHT_MAX) else {
            return Some(0);
        };
        let is_idle = self.in_flight.is_empty() && self.sent == accepted && accepted == flushed;
        (!is_idle).then(|| credit.saturating_sub(self.in_flight_bytes))
    }

    fn push(&mut self, run: &Run) {
        self.sent = run.end();
        let bytes = u64::from(run.body_bytes);
        self.in_flight.push_back((run.end(), bytes));
        self.in_flight_bytes += bytes;
    }

    fn pop(&mut self, accepted: Offset) {
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(end, _)| *end <= accepted) {
            self.in_flight_bytes -= bytes;
        }
    }

    /// What was sent from `base` on was not put on the link.
    fn unsend(&mut self, base: Offset) {
        while let Some((_, bytes)) = self.in_flight.pop_back_if(|(end, _)| base < *end) {
            self.in_flight_bytes -= bytes;
        }
        self.sent = self.sent.min(base);
        self.told = Told::default();
    }

    /// What was sent behind `accepted` did not come: it is sent again.
    fn rewind(&mut self, accepted: Offset) {
        (self.sent, self.in_flight_bytes, self.reading) = (accepted, 0, None);
        self.in_flight.clear();
    }
}

impl Peer {
    fn new(node: NodeId) -> Self {
        let none = Offset(0);
        let state = State::Unknown;
        let (is_damaged, is_blocked) = (false, false);
        Self { node, accepted: none, flushed: none, is_damaged, lacks: none, state, is_blocked }
    }

    /// Up to where its memory counts.
    fn counts(&self) -> Offset {
        if self.is_damaged { Offset(0) } else { self.accepted }
    }

    fn awaits(&self, marks: Told, next: Offset) -> Awaits {
        match &self.state {
            State::InStep(flow) if flow.told != marks => Awaits::Marks,
            State::InStep(_) if next <= self.flushed => Awaits::Nothing,
            State::InStep(_) | State::Unknown | State::Truncating(_) | State::Behind(_) => {
                Awaits::Retry
            }
        }
    }

    fn flow(&mut self) -> Option<&mut Flow> {
        match &mut self.state {
            State::InStep(flow) => Some(flow),
            State::Unknown | State::Truncating(_) | State::Behind(_) => None,
        }
    }
}

impl Leader {
    pub(super) fn new(nodes: impl Iterator<Item = NodeId>) -> Self {
        let peers = nodes.map(Peer::new).collect();
        Self { start: None, serves: false, peers, tail: Tail::default(), held_from: None }
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.node == node)
    }

    pub(super) fn acknowledged(&self, node: NodeId) -> Option<(Offset, Offset)> {
        let peer = self.peers.iter().find(|peer| peer.node == node)?;
        matches!(peer.state, State::InStep(_)).then_some((peer.accepted, peer.flushed))
    }

    /// What a follower has in memory may be lost with the link, for its process may have ended.
    pub(super) fn forget_link(&mut self, node: NodeId) {
        if let Some(peer) = self.peer(node) {
            (peer.state, peer.is_blocked, peer.accepted) = (State::Unknown, false, peer.flushed);
            peer.lacks = peer.lacks.max(peer.flushed);
        }
    }

    /// A run found no room: it, and what comes behind it, was not sent.
    pub(super) fn block(&mut self, node: NodeId, run: &Run) {
        let Some(peer) = self.peer(node) else { return };
        peer.is_blocked = true;
        if let Some(flow) = peer.flow() {
            flow.unsend(run.base);
        }
    }

    pub(super) fn unblock(&mut self, node: NodeId) {
        if let Some(peer) = self.peer(node) {
            peer.is_blocked = false;
        }
    }

    /// What some node up waits for without an event.
    pub(super) fn awaits(&self, up: &[NodeId], marks: Told, next: Offset) -> Awaits {
        let up = self.peers.iter().filter(|peer| !peer.is_blocked && up.contains(&peer.node));
        up.map(|peer| peer.awaits(marks, next)).max().unwrap_or(Awaits::Nothing)
    }

    /// Nobody in step needs the batches below what all of those have.
    fn release(&mut self) {
        let in_step = self.peers.iter().filter(|peer| matches!(peer.state, State::InStep(_)));
        let needed = in_step.map(|peer| peer.accepted).min();
        self.tail.release(needed.unwrap_or(Offset(u64::MAX)));
    }
}

impl Replica {
    fn leader_mut(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            Role::Candidate(_) | Role::Follower(_) => None,
        }
    }

    fn peer_mut(&mut self, node: NodeId) -> Option<&mut Peer> {
        self.leader_mut().and_then(|leader| leader.peer(node))
    }

    fn flow_mut(&mut self, node: NodeId) -> Option<&mut Flow> {
        self.peer_mut(node).and_then(Peer::flow)
    }

    pub(super) fn other_nodes(&self) -> impl Iterator<Item = NodeId> + use<> {
        let members = self.setup.members.clone();
        let own = self.setup.node;
        members.into_iter().filter(move |node| *node != own)
    }

    pub(super) fn on_report(&mut self, from: NodeId, report: &Report) {
        match self.role {
            Role::Follower(_) => {}
            Role::Candidate(_) => self.on_candidate_report(from, report),
            Role::Leader(_) => self.compare(from, report),
        }
    }

    /// Finds out up to where a follower's log is a part of this one, and has the rest of it given up.
    pub(super) fn compare(&mut self, node: NodeId, report: &Report) {
        let common = self.log.epochs.common(self.log.next, report.epochs.starts(), report.next);
        let state = match common {
            Common::Below(to) if !self.can_send_from(to) => State::Behind(0),
            Common::Below(to) if planted::is(Bug::TruncateTooFew) && to.0 + 1 < report.next.0 => {
                State::Truncating(Offset(to.0 + 1))
            }
            Common::Below(to) if planted::is(Bug::TruncateTooFew) => {
                State::InStep(Flow::new(to.max(report.next)))
            }
            Common::Below(to) if to < report.next => State::Truncating(to),
            Common::Below(to) => State::InStep(Flow::new(to)),
            Common::Before(to) if report.log_start < to => State::Truncating(to),
            Common::Before(_) | Common::Unknown => State::Behind(0),
        };
        if let State::Truncating(to) = state
            && to < report.high_watermark
        {
            let high_watermark = report.high_watermark;
            return self.refuse(node, Refusal::BelowHighWatermark { to, high_watermark });
        }
        let lacks = match common {
            Common::Below(to) => to.max(self.log.start),
            Common::Before(_) | Common::Unknown => self.log.start,
        };
        let is_behind = matches!(state, State::Behind(_));
        let Some(peer) = self.peer_mut(node) else { return };
        (peer.lacks, peer.is_damaged) = (lacks, report.damage.is_some());
        // What it had before it reported counts only when it says so again.
        (peer.accepted, peer.flushed, peer.state) = (Offset(0), Offset(0), state);
        if is_behind {
            self.commands.push(Command::Errand(Errand::SendCheckpoint { peer: node }));
        } else if let State::Truncating(to) = peer.state {
            self.send(node, Message::Truncate { to });
        } else {
            // It says how much room it has before it gets records.
            self.send_marks(node);
        }
    }

    fn can_send_from(&self, offset: Offset) -> bool {
        self.log.start <= offset && self.log.epoch_before(offset).is_some()
    }

    pub(super) fn replicate(&mut self, batch: &Arc<Batch>, first: Offset) {
        if let Some(leader) = self.leader_mut() {
            leader.tail.push(batch.clone(), first);
            leader.release();
        }
        self.pump_all();
        self.count();
    }

    pub(super) fn on_leader_progress(&mut self) {
        self.count();
        self.pump_all();
    }

    fn pump_all(&mut self) {
        for index in 0..self.up.len() {
            self.pump(self.up[index]);
        }
    }

    /// Whether records that come now are sent later, when the log of this leader begins to write them.
    pub fn hold(&mut self, holds: bool) {
        let next = self.log.next;
        let Some(leader) = self.leader_mut() else { return };
        if holds {
            leader.held_from.get_or_insert(next);
        } else if leader.held_from.take().is_some() {
            self.pump_all();
        }
    }

    /// Sends a follower what it lacks, as much as it has credit for.
    pub(super) fn pump(&mut self, node: NodeId) {
        while self.send_next(node) {}
    }

    /// Sends the next run. Whether another one may follow.
    fn send_next(&mut self, node: NodeId) -> bool {
        let next = self.log.next;
        let Some(leader) = self.leader_mut() else { return false };
        let end = leader.held_from.unwrap_or(next);
        let Some(peer) = leader.peers.iter_mut().find(|peer| peer.node == node) else {
            return false;
        };
        let (accepted, flushed, is_blocked) = (peer.accepted, peer.flushed, peer.is_blocked);
        let Some(flow) = peer.flow() else { return false };
        let allowance = flow.allowance(accepted, flushed);
        if is_blocked || flow.reading.is_some() || end <= flow.sent || allowance == Some(0) {
            return false;
        }
        let from = flow.sent;
        let Some(batch) = leader.tail.find(from).cloned() else {
            self.read_for(node, from, allowance);
            return false;
        };
        if allowance.is_some_and(|bytes| bytes < u64::from(batch.body_bytes())) {
            return false;
        }
        self.send_run(node, from, &batch)
    }

    /// What is not kept in memory is read, once it is in the file.
    fn read_for(&mut self, peer: NodeId, from: Offset, allowance: Option<u64>) {
        if self.log.flushed <= from {
            return;
        }
        let Some(flow) = self.flow_mut(peer) else { return };
        flow.reading = Some(from);
        let bytes = allowance.map_or(READ_BYTES_MAX, |bytes| bytes.min(u64::from(u32::MAX)) as u32);
        let bytes_max = bytes.min(READ_BYTES_MAX);
        self.commands.push(Command::Read { peer, from, bytes_max });
    }

    fn send_run(&mut self, node: NodeId, from: Offset, batch: &Arc<Batch>) -> bool {
        let Some(run) = self.run_of(from, batch) else { return false };
        let append = self.append(run);
        let told = self.told();
        let Some(flow) = self.flow_mut(node) else { return false };
        flow.push(&run);
        flow.told = told;
        self.send_with(node, Message::Append(append), Some(batch.clone()));
        true
    }

    fn append(&self, run: Run) -> Append {
        Append {
            run,
            high_watermark: self.high_watermark,
            quorum_accepted: self.quorum_accepted,
            log_start: self.log.start,
        }
    }

    /// Tells a follower the marks, and asks how far it is.
    fn send_marks(&mut self, node: NodeId) {
        let told = self.told();
        let Some(flow) = self.flow_mut(node) else { return };
        let base = flow.sent;
        (flow.told, flow.is_heard) = (told, false);
        let Some(epoch) = self.log.epoch_before(base) else { return };
        let run = Run { base, epoch, previous_epoch: epoch, ..Run::default() };
        let append = self.append(run);
        self.send(node, Message::Append(append));
    }

    pub(super) fn on_read_to_send(
        &mut self,
        node: NodeId,
        from: Offset,
        batch: Option<&Arc<Batch>>,
    ) {
        let is_kept = self.can_send_from(from);
        let Some(peer) = self.peer_mut(node) else { return };
        let (accepted, flushed) = (peer.accepted, peer.flushed);
        let Some(flow) = peer.flow() else { return };
        if flow.reading.take_if(|reading| *reading == from).is_none() {
            return;
        }
        let Some(batch) = batch else {
            if !is_kept {
                peer.state = State::Behind(0);
                self.commands.push(Command::Errand(Errand::SendCheckpoint { peer: node }));
            }
            return;
        };
        let allowance = flow.allowance(accepted, flushed);
        let fits = allowance.is_none_or(|bytes| u64::from(batch.body_bytes()) <= bytes);
        if flow.sent == from && fits && self.send_run(node, from, batch) {
            self.pump(node);
        }
    }

    pub(super) fn on_ack(&mut self, from: NodeId, ack: &Ack) {
        let next = self.log.next;
        let Some(peer) = self.peer_mut(from) else { return };
        let State::InStep(flow) = &mut peer.state else { return };
        if ack.accepted > next {
            return self.refuse(from, Refusal::Protocol("an ack of records that were never sent"));
        }
        if ack.accepted < peer.accepted {
            // An older one that comes again.
            return;
        }
        peer.accepted = ack.accepted;
        peer.flushed = peer.flushed.max(ack.flushed);
        flow.is_heard = true;
        flow.credit = Some(ack.credit);
        flow.pop(ack.accepted);
        if ack.is_gap || flow.sent < ack.accepted {
            flow.rewind(ack.accepted);
        }
        self.count();
        if let Some(leader) = self.leader_mut() {
            leader.release();
        }
        self.pump(from);
    }

    pub(super) fn on_checkpoint_taken(&mut self, peer: NodeId, position: u64) {
        if let Some(State::Behind(silence)) = self.peer_mut(peer).map(|peer| &mut peer.state) {
            *silence = 0;
            self.commands.push(Command::Transfer(Transfer::Taken { peer, position }));
        }
    }

    /// Whether a node needs a checkpoint, and can be reached.
    #[must_use]
    pub fn sends_checkpoint(&self, peer: NodeId) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let is_behind =
            |other: &Peer| other.node == peer && matches!(other.state, State::Behind(_));
        self.up.contains(&peer) && leader.peers.iter().any(is_behind)
    }

    /// What a checkpoint of so many bytes will be that a node gets, which replay goes on behind at `next`. From here on the
    /// node needs this log from its start. `None`: this is no leader, or nobody knows what comes before the log's start.
    pub fn checkpoint_start(
        &mut self,
        peer: NodeId,
        next: Offset,
        bytes: u64,
    ) -> Option<CheckpointStart> {
        let start = self.log.start;
        let epoch = self.log.epoch_before(start)?;
        self.peer_mut(peer)?.lacks = start;
        (start <= next).then_some(CheckpointStart { start, epoch, next, bytes })
    }

    /// From where on a follower lacks records of this leader's log, as far as is known, and whether it is in touch: it
    /// gets them now, or the checkpoint that they go with. `None`: this is no leader.
    #[must_use]
    pub fn lacks(&self, peer: NodeId) -> Option<(Offset, bool)> {
        let Role::Leader(leader) = &self.role else { return None };
        let peer = leader.peers.iter().find(|other| other.node == peer)?;
        let is_known = !matches!(peer.state, State::Unknown);
        Some((peer.lacks.max(peer.flushed), is_known && self.up.contains(&peer.node)))
    }

    pub(super) fn told(&self) -> Told {
        Told {
            high_watermark: self.high_watermark,
            quorum_accepted: self.quorum_accepted,
            log_start: self.log.start,
        }
    }

    /// Moves the marks of the cluster to where a majority is. None moves before the first record of
    /// this leader's own epoch is below it: older records may be held by a majority and still be
    /// given up, if the next leader has never seen them (Raft, figure 8).
    fn count(&mut self) {
        let (accepted, flushed) = (self.log.next, self.log.flushed);
        let Role::Leader(leader) = &self.role else { return };
        let Some(start) = leader.start else { return };
        let quorum_accepted = majority_of(accepted, leader.peers.iter().map(Peer::counts));
        let high_watermark = majority_of(flushed, leader.peers.iter().map(|peer| peer.flushed));
        let began = |mark: Offset| if start < mark { mark } else { Offset(0) };
        let quorum_accepted =
            if self.setup.counts_memory { quorum_accepted } else { high_watermark };
        self.raise_marks(began(quorum_accepted), began(high_watermark));
        let (epoch, is_begun) = (self.reign.epoch, start < self.high_watermark);
        if let Some(leader) = self.leader_mut().filter(|leader| is_begun && !leader.serves) {
            leader.serves = true;
            self.memory_lost = 0;
            self.commands.push(Command::Lead { epoch, start });
        }
    }

    /// End of turn: what nothing else has told.
    pub(super) fn tell(&mut self, marks: bool, retry: bool) {
        if !marks && !retry {
            return;
        }
        let (now, next) = (self.told(), self.log.next);
        for index in 0..self.up.len() {
            let node = self.up[index];
            let Some(peer) = self.peer_mut(node).filter(|peer| !peer.is_blocked) else { continue };
            let lags = peer.flushed < next;
            match &mut peer.state {
                State::Unknown if retry => self.fence(node),
                State::Truncating(to) if retry => {
                    let to = *to;
                    self.send(node, Message::Truncate { to });
                }
                State::InStep(flow) => {
                    let is_silent = retry && lags && !core::mem::take(&mut flow.is_heard);
                    if is_silent || (marks && flow.told != now) {
                        self.send_marks(node);
                    }
                    self.pump(node);
                }
                State::Behind(silence) if retry => {
                    *silence += 1;
                    if *silence > CHECKPOINT_RETRIES {
                        peer.state = State::Unknown;
                    }
                }
                State::Unknown | State::Truncating(_) | State::Behind(_) => {}
            }
        }
    }
}

fn majority_of(own: Offset, peers: impl ExactSizeIterator<Item = Offset>) -> Offset {
    let mut marks = [own; NODES_MAX];
    let count = 1 + peers.len();
    for (mark, peer) in marks[1..].iter_mut().zip(peers) {
        *mark = peer;
    }
    if planted::is(Bug::AckBeforeQuorum) {
        return own;
    }
    if planted::is(Bug::AckTwice) {
        marks[1..count].sort_unstable();
        marks[count - 2] = marks[count - 1];
    }
    quorum::mark(&mut marks[..count])
}
