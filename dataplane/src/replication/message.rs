//! What replicas say to each other, and nodes as wholes; [`wire`](super::wire) has the bytes.

use super::epochs::EpochTable;
use crate::ids::{NodeId, Offset, PartitionId};
use crate::log::format::{BODY_BYTES_MAX, COUNT_MAX};

/// In place of a partition, in messages between nodes as wholes.
pub const WHOLE_NODE: PartitionId = PartitionId(u32::MAX);

/// A message, from whom it does not say: that is the link's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// The partition that it is about, or [`WHOLE_NODE`].
    pub partition: PartitionId,
    /// The highest epoch that is durable on the sender, in that partition.
    pub epoch: u64,
    /// What it says.
    pub message: Message,
}

/// What one replica, or node, says to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// To obey no older epoch from now on, and to report. From a candidate, and from a leader to
    /// each follower that it gets a link to.
    Fence {
        /// Whether what replicas have in memory counts in this epoch.
        counts_memory: bool,
    },
    /// The answer: what the sender's log holds.
    Fenced(Box<Report>),
    /// The epoch of what was received is over: there is a newer one, that of this message.
    Stale,
    /// To give up the records from here on, and to report again.
    Truncate {
        /// The offset of the first record to go.
        to: Offset,
    },
    /// Records for a follower's log, with their bytes as body; without records it carries marks.
    Append(Append),
    /// Up to where a follower has what its leader has.
    Ack(Ack),
    /// A candidate asks for records that it lacks.
    Fetch(Fetch),
    /// The answer, with the bytes of the records as body.
    Fetched(Fetched),
    /// A checkpoint comes: the follower's log begins anew with it.
    CheckpointStart(CheckpointStart),
    /// A piece of it, as body.
    CheckpointPart(CheckpointPart),
    /// Up to where the checkpoint has been taken.
    CheckpointTaken {
        /// Bytes.
        position: u64,
    },
    /// The sender lives.
    Heartbeat(Heartbeat),
    /// To become leader now: the sender, which is that, hands over.
    TakeOver,
}

/// What a log holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// First offset that is kept.
    pub log_start: Offset,
    /// Offset that the next record gets: all below it is at least in memory.
    pub next: Offset,
    /// Up to here records are durable.
    pub flushed: Offset,
    /// Up to here they are known to be held by a quorum.
    pub high_watermark: Offset,
    /// What the log once held and does not hold now, if any of it is missing.
    pub damage: Option<Claim>,
    /// The newest epoch of which it may have had more in memory before it was started anew, until a
    /// leader has brought it up to date; 0 if there is none.
    pub memory_lost: u64,
    /// Its epochs, the newest [`REPORTED_MAX`](super::epochs::REPORTED_MAX).
    pub epochs: EpochTable,
}

impl Report {
    /// Whether its marks do not contradict each other.
    pub(super) fn is_possible(&self) -> bool {
        let last = self.epochs.starts().last();
        self.log_start <= self.flushed
            && self.flushed <= self.next
            && self.high_watermark <= self.next
            && last.is_none_or(|start| start.first < self.next)
            && (last.is_some() || self.next.0 == 0)
    }
}

/// Up to where a damaged log was durable once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Claim {
    /// The highest epoch that anything left of it names.
    pub epoch: u64,
    /// The highest durable mark that anything left of it names.
    pub watermark: Offset,
}

impl Claim {
    /// Of a log of which nothing is left to say what it held.
    pub const ALL: Self = Self { epoch: COUNT_MAX, watermark: Offset(COUNT_MAX) };
}

/// Records of one epoch, one behind the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Offset of the first; without records, of the next.
    pub base: Offset,
    /// How many.
    pub records: u32,
    /// Their bytes, without padding.
    pub body_bytes: u32,
    /// Their epoch; without records that of the record before.
    pub epoch: u64,
    /// The epoch of the record before; 0 if there has never been one.
    pub previous_epoch: u64,
}

impl Run {
    /// Offset of the record behind the last one.
    #[must_use]
    pub fn end(&self) -> Offset {
        Offset(self.base.0 + u64::from(self.records))
    }

    /// Whether its numbers do not contradict each other.
    pub(super) fn is_possible(&self) -> bool {
        let is_empty = self.records == 0;
        self.base.0 <= COUNT_MAX
            && self.epoch <= COUNT_MAX
            && self.previous_epoch <= self.epoch
            && self.body_bytes <= BODY_BYTES_MAX
            && is_empty == (self.body_bytes == 0)
            && (!is_empty || self.epoch == self.previous_epoch)
    }
}

/// Records for a follower, and the leader's marks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Append {
    /// The records.
    pub run: Run,
    /// Up to here a quorum has them durably.
    pub high_watermark: Offset,
    /// Up to here a quorum has them.
    pub quorum_accepted: Offset,
    /// First offset that the leader keeps.
    pub log_start: Offset,
}

/// What a follower has of what its leader has, cumulative.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ack {
    /// Up to here in memory.
    pub accepted: Offset,
    /// Up to here durable.
    pub flushed: Offset,
    /// Bytes of records behind the accepted mark that it has room for.
    pub credit: u64,
    /// What came did not begin at the accepted mark: it is to come again from there.
    pub is_gap: bool,
}

/// What a candidate asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetch {
    /// Offset of the first record.
    pub from: Offset,
    /// Bytes of records, at most, unless the first is longer.
    pub bytes_max: u32,
}

/// What it gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The records; none if there are none, or none any more.
    pub run: Run,
    /// Offset that the next record of the sender gets.
    pub next: Offset,
}

/// What a checkpoint will be, and where the log begins that goes with it.
///
/// The log does not begin behind the checkpoint: what sessions are owed lies in records that are older than
/// their state. So whoever takes one gets the leader's log from its start on, and applies of it what is not in the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointStart {
    /// First offset that the leader keeps: the follower's log begins there.
    pub start: Offset,
    /// The epoch of the record before that; 0 if there has never been one.
    pub epoch: u64,
    /// The checkpoint's replay offset: that of the first record that is not in it, `start` or a later one.
    pub next: Offset,
    /// Its bytes.
    pub bytes: u64,
}

/// A piece of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointPart {
    /// Where in it the piece begins.
    pub position: u64,
    /// Bytes of the piece.
    pub bytes: u32,
    /// Its CRC-32C.
    pub crc: u32,
}

/// What the sender sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The leader that it obeys, or itself, if it leads or is about to.
    pub leader: Option<NodeId>,
    /// Whether it has heard of that leader of late, or is it.
    pub hears_leader: bool,
    /// Whether it could lead at once: its replicas are sound, and its state is there.
    pub could_lead: bool,
}

impl Message {
    /// Bytes of its body, without padding.
    #[must_use]
    pub fn body_bytes(&self) -> u32 {
        match self {
            Self::Append(append) => append.run.body_bytes,
            Self::Fetched(fetched) => fetched.run.body_bytes,
            Self::CheckpointPart(part) => part.bytes,
            _ => 0,
        }
    }
}
