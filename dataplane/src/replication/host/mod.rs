//! One replica of a partition, joined with its log: carries out what a [`Replica`] asks for.
//!
//! A [`Host`] owns the replica; the partition with its log is whose core runs it. Whoever runs it (a core of the
//! broker, the simulator) gives it what happens and, in each call, a [`Turn`] to work with, the partition among it, and an
//! [`Outside`] that puts messages on links, is asked for what a host cannot do ([`Ask`]), and is handed each record
//! below the high watermark, in order, until this node leads: then its own state is the live one. It knows
//! nothing of sessions.
//!
//! - Messages from links go to [`Host::on_message`], completions of the disk whose tags are this
//!   host's ([`Host::owns`]) to [`Host::on_disk`]; each [`Ask`] says what is called when it was done.
//! - While [`Host::is_leading`], clients' messages are appended to the partition and taken out when they are
//!   committed, as without replicas; else nobody but the host appends to it.
//! - At the end of each turn [`Host::end_turn`] is called, and when [`Host::next_deadline`] has come.
//!
//! A log is truncated, or replaced by a checkpoint, by plain calls on files that nobody has open: the
//! host lets go of all of them first, and is given the log again when that was done.
//!
//! # Checkpoints
//!
//! A leader's host is asked for one by [`Errand::SendCheckpoint`](super::command::Errand::SendCheckpoint): it is told of the newest file by [`Host::send_checkpoint`],
//! or, if there is none, not at all, and asks again after some seconds. It reads the file through the disk seam and sends it, a window at a time.
//! A follower's host writes what comes into the directory of the log; once it is whole it has the name
//! [`received_name`](crate::log::reset::received_name) there. Then [`Ask::Replace`] says that nobody has a file of the log open: [`reset`](crate::log::reset::reset())
//! and [`Host::on_reset`] follow. A start that finds a file of that name goes on at the same place.

mod apply;
mod log;
mod outside;
mod reads;
#[cfg(test)]
mod tests;
mod transfer;

pub use outside::{Ask, Outside, Turn};
pub use transfer::Source;

use super::command::Command;
use super::message::Envelope;
use super::replica::{Opened, Replica, Setup};
use crate::batch::Arrived;
use crate::disk::DiskEvent;
use crate::ids::{NODES_MAX, NodeId, Offset};
use crate::link::{Body, Unsent};
use crate::log::record::RecordSeed;
use crate::log::writer::{Flushed, QuorumMarks, Writer};
use crate::partition::Partition;
use crate::time::Nanos;
use apply::Apply;
use log::LogState;
use reads::PeerRead;
use std::collections::VecDeque;
use transfer::Transfers;

/// Tags of a host: that of its log, and those behind it, for what it reads and for checkpoints.
pub const HOST_TAGS: u32 = 3 + NODES_MAX as u32;
/// The last of them is that of checkpoints.
const TRANSFER_TAG: u32 = HOST_TAGS - 1;

/// A replica of a partition, joined with its log.
#[derive(Debug)]
pub struct Host {
    replica: Replica,
    seed: RecordSeed,
    tag: u32,
    state: LogState,
    apply: Apply,
    /// For other nodes, one each.
    reads: Vec<PeerRead>,
    transfers: Transfers,
    commands: VecDeque<Command>,
    taken: Vec<Command>,
    /// A leadership whose state is not applied yet up to where it begins.
    leads_at: Option<(u64, Offset)>,
    is_leading: bool,
    has_failed: bool,
    head: Vec<u8>,
    pieces_read: u64,
}

impl Host {
    /// A follower of nobody, whose log was opened as `opened` tells. `applied`: the state of the caller has all
    /// below it. The tags from `tag` on, which is that of the log's setup, [`HOST_TAGS`] many, are its own. The
    /// partition that comes with each turn is one of that log ([`Partition::with_log`]).
    #[must_use]
    pub fn new(setup: Setup, opened: Opened, applied: Offset, tag: u32) -> Self {
        Self {
            seed: setup.seed,
            replica: Replica::new(setup, opened),
            tag,
            state: LogState::Open,
            apply: Apply::new(applied),
            reads: Vec::new(),
            transfers: Transfers::new(tag + TRANSFER_TAG),
            commands: VecDeque::new(),
            taken: Vec::new(),
            leads_at: None,
            is_leading: false,
            has_failed: false,
            head: Vec::new(),
            pieces_read: 0,
        }
    }

    /// The state machine.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Whether clients may be answered: [`Ask::Lead`] was the last that was heard of it.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.is_leading
    }

    /// Up to here records were handed to [`Outside::apply`]; where this node leads, that is where its epoch begins.
    #[must_use]
    pub fn applied(&self) -> Offset {
        self.apply.next
    }

    /// Whether the log can be used: it is not let go of, to be truncated or replaced. One that is let go of does not know
    /// any more where it ends.
    #[must_use]
    pub fn has_open_log(&self) -> bool {
        self.state.is_open()
    }

    /// Pieces of the log that were read for other nodes, because they were not in memory any more.
    #[must_use]
    pub fn pieces_read(&self) -> u64 {
        self.pieces_read
    }

    /// Whether a completion of the disk is this host's.
    #[must_use]
    pub fn owns(&self, event: &DiskEvent) -> bool {
        let tag = (event.token.0 >> 32) as u32;
        (self.tag..self.tag + HOST_TAGS).contains(&tag)
    }

    /// A message has come, whole and decoded.
    pub fn on_message<A>(
        &mut self,
        from: NodeId,
        envelope: &Envelope,
        body: Arrived<'_>,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        self.tell_sealed(turn.partition);
        self.replica.on_message(from, envelope, body, turn.pool);
        self.carry_out(turn, outside);
    }

    /// Something else has happened that is the replica's alone: links, epochs, campaigns.
    pub fn with_replica<A>(
        &mut self,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
        input: impl FnOnce(&mut Replica),
    ) {
        self.tell_sealed(turn.partition);
        input(&mut self.replica);
        self.carry_out(turn, outside);
    }

    /// A command of this host has ended; what it made durable, if anything.
    pub fn on_disk<A>(
        &mut self,
        event: DiskEvent,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) -> Option<Flushed> {
        self.tell_sealed(turn.partition);
        let tag = (event.token.0 >> 32) as u32 - self.tag;
        let flushed = if tag == 0 {
            let flushed = turn.partition.on_disk(turn.now, &event, turn.disk);
            self.tell_progress(turn.partition);
            flushed
        } else if tag == TRANSFER_TAG {
            self.on_transfer_event(event, turn);
            None
        } else {
            self.on_read_event(tag - 1, event, turn);
            None
        };
        self.carry_out(turn, outside);
        flushed
    }

    /// End of turn, after everything that can be has been committed.
    pub fn end_turn<A>(&mut self, turn: &mut Turn<'_, A>, outside: &mut impl Outside) {
        self.tell_sealed(turn.partition);
        self.read_on(turn, outside);
        self.replica.end_turn(turn.now);
        self.carry_out(turn, outside);
        self.end_log_turn(turn, outside);
        self.tell_sealed(turn.partition);
        self.carry_out(turn, outside);
        self.go_on_with_transfers(turn, outside);
        self.lead_when_applied(outside);
    }

    /// When the end of a turn has something to do although nothing happens.
    #[must_use]
    pub fn next_deadline<A>(&self, partition: &Partition<A>) -> Nanos {
        let log = partition.log().map_or(Nanos::NEVER, Writer::next_deadline);
        self.replica.next_deadline().min(log)
    }

    /// Nothing of the log is committed before a leader has said so.
    ///
    /// # Panics
    /// If the log is not the one that the replica was told of.
    fn begin(&self, log: &mut Writer) {
        let next = self.replica.next_offset();
        assert_eq!(log.marks().accepted, next, "the replica counts what the log holds");
        log.note_quorum(self.quorum_marks());
    }

    fn quorum_marks(&self) -> QuorumMarks {
        let (accepted, flushed) = (self.replica.quorum_accepted(), self.replica.high_watermark());
        QuorumMarks { accepted, flushed }
    }

    /// Lets the replica know of what this leader's log was given.
    fn tell_sealed<A>(&mut self, partition: &mut Partition<A>) {
        let Some(log) = partition.log_mut() else { return };
        if log.quorum().is_none() {
            self.begin(log);
        }
        let epoch = log.epoch();
        self.replica.hold(log.holds());
        for (batch, first) in log.take_sealed() {
            self.replica.on_sealed(&batch, first, epoch);
        }
    }

    fn tell_progress<A>(&mut self, partition: &Partition<A>) {
        let Some(log) = partition.log() else { return };
        let (marks, has_failed) = (log.marks(), log.fault().is_some());
        if has_failed && !self.has_failed {
            self.has_failed = true;
            self.replica.on_log_failed();
        } else if !has_failed && self.state.is_open() {
            self.replica.on_progress(marks.start, marks.flushed);
        }
    }

    /// Carries out all that the replica asks for, and what that leads to.
    fn carry_out<A>(&mut self, turn: &mut Turn<'_, A>, outside: &mut impl Outside) {
        loop {
            self.replica.take_commands(&mut self.taken);
            self.commands.extend(self.taken.drain(..));
            let Some(command) = self.commands.pop_front() else { return };
            self.carry_out_one(command, turn, outside);
        }
    }

    fn carry_out_one<A>(
        &mut self,
        command: Command,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        match command {
            Command::Send { to, message, body } => {
                self.send(to, &message, body.map(Body::new), outside);
            }
            Command::Append { batch, first, epoch } => {
                let next = turn.partition.next_offset();
                assert_eq!(first, next, "the replica counts what the log holds");
                turn.partition.append_records(batch.clone(), epoch);
                self.apply.keep(first, batch.clone(), epoch);
                turn.pool.give_out(batch);
            }
            Command::Truncate { to } => self.begin_closing(Some(to), turn),
            Command::Read { peer, from, bytes_max } => {
                self.begin_read(peer, from, bytes_max, turn.partition);
            }
            Command::StartEpoch { epoch } => {
                turn.partition.begin_epoch(turn.pool, epoch, turn.unix_ms);
            }
            Command::Lead { epoch, start } => {
                assert!(self.apply.next <= start, "the state is that of records that are there");
                self.leads_at = Some((epoch, start));
            }
            Command::Follow { leader } => {
                self.stop_leading(turn.partition);
                outside.ask(Ask::Follow { leader });
            }
            Command::Marks { quorum_accepted, high_watermark } => {
                self.note_marks(turn.partition);
                outside.ask(Ask::Marks { quorum_accepted, high_watermark });
            }
            Command::Transfer(transfer) => self.transfer(transfer, turn),
            Command::Errand(errand) => outside.ask(Ask::Errand(errand)),
        }
    }

    fn send(
        &mut self,
        to: NodeId,
        message: &Envelope,
        body: Option<Body>,
        outside: &mut impl Outside,
    ) {
        self.head.clear();
        message.encode(&mut self.head);
        let sent = outside.send(to, &self.head, body);
        if let Err(Unsent::NoRoom | Unsent::NotUp) = sent {
            self.replica.on_no_room(to, &message.message);
        }
    }

    fn stop_leading<A>(&mut self, partition: &mut Partition<A>) {
        (self.is_leading, self.leads_at) = (false, None);
        partition.abandon();
    }

    fn note_marks<A>(&self, partition: &mut Partition<A>) {
        if let Some(log) = partition.log_mut() {
            log.note_quorum(self.quorum_marks());
        }
    }

    fn lead_when_applied(&mut self, outside: &mut impl Outside) {
        let applied = self.apply.next;
        if let Some((epoch, start)) = self.leads_at.take_if(|(_, start)| *start <= applied) {
            self.is_leading = true;
            self.apply.forget();
            outside.ask(Ask::Lead { epoch, start });
        }
    }
}
