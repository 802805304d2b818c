//! Checkpoints between hosts: a leader's reads a file and sends it, a follower's writes what comes.
//!
//! Neither waits: one piece is read at a time and sent when the link takes it, no further than a window ahead of
//! what the receiver has written.

use super::{Host, Outside, Turn};
use crate::batch::{Batch, BatchPool};
use crate::disk::{Disk, DiskCommand, DiskDone, DiskEvent, DiskToken, FileId, FileJob};
use crate::ids::{NodeId, Offset};
use crate::link::{Body, Unsent};
use crate::log::record::checksum;
use crate::log::reset::received_name;
use crate::replication::CHECKPOINT_WINDOW_BYTES;
use crate::replication::command::Transfer;
use crate::replication::message::{CheckpointPart, CheckpointStart, Envelope, Message};
use std::collections::VecDeque;
use std::path::PathBuf;
use triomphe::Arc;

/// Bytes of a piece of a checkpoint.
const PART_BYTES: u64 = 128 * 1024;

/// A checkpoint that can be sent: durable, and of a state that a majority has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its file. Once it is being sent it may be removed.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Offset of the first record that is not in it.
    pub next: Offset,
}

/// What a host sends and takes of checkpoints.
#[derive(Debug)]
pub(super) struct Transfers {
    tag: u32,
    asked: u32,
    /// One per node, and those that have ended but for something that is under way.
    sends: Vec<Sending>,
    take: Option<Taking>,
    /// A whole one that takes the place of the log.
    replacing: Option<Replacing>,
    head: Vec<u8>,
}

/// What a send waits for.
#[derive(Debug)]
enum Wait {
    /// The file is opened.
    Open(DiskToken),
    /// The link takes what it will be.
    Start,
    /// There is something to be read, if the window is open.
    Turn,
    /// A piece is read.
    Read(DiskToken),
    /// The link takes a piece.
    Part(Arc<Batch>, CheckpointPart),
}

#[derive(Debug)]
struct Sending {
    peer: NodeId,
    start: CheckpointStart,
    file: FileId,
    wait: Wait,
    /// Up to here pieces were sent, and written by the receiver.
    sent: u64,
    taken: u64,
    has_ended: bool,
}

/// What comes, and is written under a temporary name.
#[derive(Debug)]
struct Taking {
    start: CheckpointStart,
    file: FileId,
    /// Bytes that were handed to the disk.
    given: u64,
    /// Pieces that are not written yet, with where each ends. The first is the file itself.
    asked: VecDeque<(DiskToken, u64)>,
}

#[derive(Debug)]
struct Replacing {
    start: CheckpointStart,
    file: FileId,
    /// The file gets its name.
    asked: Option<DiskToken>,
}

impl Transfers {
    pub(super) fn new(tag: u32) -> Self {
        Self { tag, asked: 0, sends: Vec::new(), take: None, replacing: None, head: Vec::new() }
    }

    fn token(&mut self) -> DiskToken {
        self.asked = self.asked.wrapping_add(1);
        DiskToken(u64::from(self.tag) << 32 | u64::from(self.asked))
    }

    fn job(&mut self, disk: &mut Disk, job: FileJob) -> DiskToken {
        let token = self.token();
        disk.push(DiskCommand::Job { token, job });
        token
    }

    /// What takes the place of the log.
    ///
    /// # Panics
    /// If nothing does.
    pub(super) fn replaced_by(&self) -> CheckpointStart {
        self.replacing.as_ref().expect("a checkpoint takes the place of the log").start
    }

    /// It has taken it.
    pub(super) fn end_replacing(&mut self) -> CheckpointStart {
        let start = self.replaced_by();
        self.replacing = None;
        start
    }

    /// Takes no more of what comes: a file without its name is removed by that.
    fn drop_take(&mut self, disk: &mut Disk) {
        if let Some(take) = self.take.take() {
            self.job(disk, FileJob::Close { file: take.file });
        }
    }

    /// Ends the sends that are not `wanted`. A file is closed once nothing is under way on it.
    fn end_sends(&mut self, disk: &mut Disk, mut wanted: impl FnMut(&Sending) -> bool) {
        for index in (0..self.sends.len()).rev() {
            let send = &mut self.sends[index];
            send.has_ended |= !wanted(send);
            let is_used = matches!(send.wait, Wait::Open(_) | Wait::Read(_));
            if send.has_ended && !is_used {
                let file = self.sends.swap_remove(index).file;
                self.job(disk, FileJob::Close { file });
            }
        }
    }

    /// Goes on with a send as far as it can; whether the link takes more.
    fn send_on(
        &mut self,
        index: usize,
        envelope: &Envelope,
        pool: &mut BatchPool,
        outside: &mut impl Outside,
    ) -> bool {
        let send = &mut self.sends[index];
        let (message, body) = match &send.wait {
            Wait::Start => (Message::CheckpointStart(send.start), None),
            Wait::Part(batch, part) => (Message::CheckpointPart(*part), Some(batch.clone())),
            Wait::Open(_) | Wait::Turn | Wait::Read(_) => return true,
        };
        self.head.clear();
        Envelope { message, ..envelope.clone() }.encode(&mut self.head);
        match outside.send(send.peer, &self.head, body.map(Body::new)) {
            Ok(()) => {
                if let Wait::Part(batch, part) = core::mem::replace(&mut send.wait, Wait::Turn) {
                    send.sent += u64::from(part.bytes);
                    pool.give_out(batch);
                }
                true
            }
            // Pieces are not lost: it is tried again at the end of the next turn.
            Err(Unsent::NoRoom) => false,
            Err(_) => {
                send.has_ended = true;
                false
            }
        }
    }

    /// Has the next piece read, if there is one that the receiver takes.
    fn read_next(&mut self, index: usize, disk: &mut Disk) {
        let send = &self.sends[index];
        let left = send.start.bytes - send.sent;
        let bytes = left.min(PART_BYTES);
        let is_open = send.sent + bytes <= send.taken + CHECKPOINT_WINDOW_BYTES;
        if !matches!(send.wait, Wait::Turn) || left == 0 || !is_open || send.has_ended {
            return;
        }
        let (file, position, token) = (send.file, send.sent, self.token());
        disk.push(DiskCommand::Read { token, file, position, bytes: bytes as u32 });
        self.sends[index].wait = Wait::Read(token);
    }
}

impl Host {
    /// Sends a checkpoint to a node that needs one. To be called after
    /// [`Errand::SendCheckpoint`](crate::replication::command::Errand::SendCheckpoint); what was sent to it before
    /// is of no use any more. Nothing is sent if the node does not need it now.
    pub fn send_checkpoint<A>(&mut self, peer: NodeId, source: &Source, turn: &mut Turn<'_, A>) {
        let is_needed = self.replica.sends_checkpoint(peer);
        let Self { replica, transfers, .. } = self;
        transfers.end_sends(turn.disk, |send| send.peer != peer);
        // A disk that does not answer is asked once: the node asks again.
        let is_busy = transfers.sends.iter().any(|send| send.peer == peer);
        let start = replica.checkpoint_start(peer, source.next, source.bytes);
        let Some(start) = start.filter(|_| is_needed && !is_busy) else { return };
        let file = turn.disk.open_id();
        let path = source.path.clone();
        let wait = Wait::Open(transfers.job(turn.disk, FileJob::Open { file, path }));
        let send = Sending { peer, start, file, wait, sent: 0, taken: 0, has_ended: false };
        transfers.sends.push(send);
    }

    /// Nodes that a checkpoint is on its way to.
    pub fn sends_checkpoints(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.transfers.sends.iter().filter(|send| !send.has_ended).map(|send| send.peer)
    }

    /// Whether a checkpoint is to take the place of the log: nothing else may be written beside it.
    #[must_use]
    pub fn is_replacing(&self) -> bool {
        self.transfers.replacing.is_some()
    }

    pub(super) fn transfer<A>(&mut self, transfer: Transfer, turn: &mut Turn<'_, A>) {
        match transfer {
            Transfer::Taken { peer, position } => {
                let mut sends = self.transfers.sends.iter_mut();
                if let Some(send) = sends.find(|send| send.peer == peer && !send.has_ended) {
                    send.taken = position.min(send.sent).max(send.taken);
                }
            }
            Transfer::Begin { start } => self.begin_take(start, turn),
            Transfer::Part { bytes } => {
                let Some(take) = &mut self.transfers.take else { return };
                take.given += bytes.len() as u64;
                let (file, end) = (take.file, take.given);
                let token = self.transfers.job(turn.disk, FileJob::Append { file, bytes });
                if let Some(take) = &mut self.transfers.take {
                    take.asked.push_back((token, end));
                }
            }
            Transfer::Replace { start } => self.begin_replacing(start, turn),
        }
    }

    fn begin_take<A>(&mut self, start: CheckpointStart, turn: &mut Turn<'_, A>) {
        self.transfers.drop_take(turn.disk);
        let Some(log) = turn.partition.log() else { return };
        let path = log.segments().directory().join(received_name(start.start));
        let file = turn.disk.open_id();
        let token = self.transfers.job(turn.disk, FileJob::Begin { file, path });
        let asked = VecDeque::from([(token, 0)]);
        self.transfers.take = Some(Taking { start, file, given: 0, asked });
    }

    /// It gets its name, and there is no way back.
    fn begin_replacing<A>(&mut self, start: CheckpointStart, turn: &mut Turn<'_, A>) {
        let take = self.transfers.take.take();
        let take = take.filter(|take| take.start == start && take.given == start.bytes);
        let file = take.expect("what is whole was written").file;
        let asked = Some(self.transfers.job(turn.disk, FileJob::Publish { file }));
        self.transfers.replacing = Some(Replacing { start, file, asked });
    }

    pub(super) fn on_transfer_event<A>(&mut self, event: DiskEvent, turn: &mut Turn<'_, A>) {
        let DiskEvent { token, result } = event;
        let sends = &mut self.transfers.sends;
        let is_asked = |send: &Sending| match send.wait {
            Wait::Open(asked) | Wait::Read(asked) => asked == token,
            Wait::Start | Wait::Turn | Wait::Part(..) => false,
        };
        if let Some(index) = sends.iter().position(is_asked) {
            let send = &mut sends[index];
            let is_opened = matches!(send.wait, Wait::Open(_));
            send.wait = Wait::Turn;
            match result {
                Ok(DiskDone::Done) if is_opened => send.wait = Wait::Start,
                Ok(DiskDone::Read(bytes)) => Self::on_part(send, &bytes, turn),
                // It is gone, or cannot be read: the node asks again.
                Ok(DiskDone::Done) | Err(_) => send.has_ended = true,
            }
            return;
        }
        let asked = self.transfers.take.as_mut().and_then(|take| {
            take.asked.pop_front_if(|(asked, _)| *asked == token).map(|(_, end)| end)
        });
        if let Some(end) = asked {
            return self.on_written(end, result.is_ok(), turn);
        }
        let is_named = |replacing: &Replacing| replacing.asked == Some(token);
        if self.transfers.replacing.as_ref().is_some_and(is_named) {
            self.on_named(result.is_ok(), turn);
        }
    }

    fn on_part<A>(send: &mut Sending, bytes: &[u8], turn: &mut Turn<'_, A>) {
        let wanted = (send.start.bytes - send.sent).min(PART_BYTES);
        if bytes.len() as u64 != wanted {
            send.has_ended = true;
            return;
        }
        let (position, crc) = (send.sent, checksum(bytes));
        let part = CheckpointPart { position, bytes: bytes.len() as u32, crc };
        send.wait = Wait::Part(turn.pool.copy_records(bytes, 1), part);
    }

    fn on_written<A>(&mut self, end: u64, is_done: bool, turn: &mut Turn<'_, A>) {
        if !is_done {
            self.transfers.drop_take(turn.disk);
            self.replica.on_checkpoint_failed();
        } else if end > 0 {
            self.replica.on_checkpoint_written(end);
        }
    }

    fn on_named<A>(&mut self, is_done: bool, turn: &mut Turn<'_, A>) {
        let Some(replacing) = &mut self.transfers.replacing else { return };
        replacing.asked = None;
        let file = replacing.file;
        self.transfers.job(turn.disk, FileJob::Close { file });
        if is_done {
            self.begin_closing(None, turn);
        } else {
            // Whether it has its name, nobody knows: the next start does.
            self.has_failed = true;
            self.replica.on_log_failed();
        }
    }

    /// End of turn: what is of no use any more ends, and all else goes on.
    pub(super) fn go_on_with_transfers<A>(
        &mut self,
        turn: &mut Turn<'_, A>,
        outside: &mut impl Outside,
    ) {
        let Self { replica, transfers, .. } = self;
        if transfers.take.is_some() && !replica.takes_checkpoint() {
            transfers.drop_take(turn.disk);
        }
        if transfers.sends.is_empty() {
            return;
        }
        transfers.end_sends(turn.disk, |send| replica.sends_checkpoint(send.peer));
        // What it says is put in for each message.
        let message = Message::Stale;
        let (partition, epoch) = (turn.partition.id(), replica.epoch());
        let envelope = Envelope { partition, epoch, message };
        for index in 0..transfers.sends.len() {
            if transfers.send_on(index, &envelope, turn.pool, outside) {
                transfers.read_next(index, turn.disk);
            }
        }
    }
}
