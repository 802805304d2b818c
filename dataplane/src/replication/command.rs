//! What a [`Replica`](super::replica::Replica) asks for.

use super::message::{CheckpointStart, Envelope};
use super::reign::Reign;
use crate::batch::Batch;
use crate::ids::{NodeId, Offset};
use core::fmt;
use triomphe::Arc;

/// Something to do, in the order in which it was asked for.
#[derive(Clone, Debug)]
pub enum Command {
    /// Puts a message on the link to a node. Without room on it, or without a link, it is dropped and
    /// [`on_no_room`](super::replica::Replica::on_no_room) called.
    Send {
        /// The node.
        to: NodeId,
        /// The head.
        message: Envelope,
        /// Its [`Batch::body`] follows as the body.
        body: Option<Arc<Batch>>,
    },
    /// Puts records into the log, as they are, and [`on_progress`](super::replica::Replica::on_progress) says when they are durable.
    Append {
        /// The records.
        batch: Arc<Batch>,
        /// Offset of the first.
        first: Offset,
        /// Their epoch.
        epoch: u64,
    },
    /// Gives up the records of the log from here on, durably, and then calls `on_truncated`.
    Truncate {
        /// Offset of the first to go.
        to: Offset,
    },
    /// Reads records of the log for another node, and calls
    /// [`on_read`](super::replica::Replica::on_read): of one epoch, so many bytes at most unless the
    /// first record is longer.
    Read {
        /// The node.
        peer: NodeId,
        /// Offset of the first.
        from: Offset,
        /// Bytes of records.
        bytes_max: u32,
    },
    /// From now on the log is appended to in this epoch, which is durable. The first record says that
    /// it begins; it and all that follow are told by `on_sealed`. No client is answered yet.
    StartEpoch {
        /// The epoch.
        epoch: u64,
    },
    /// All that was ever acknowledged by a quorum is in the log, and a quorum has it: clients may be
    /// answered.
    Lead {
        /// The epoch.
        epoch: u64,
        /// Offset of the record that begins it.
        start: Offset,
    },
    /// This node does not lead, or no longer: no client is answered, nothing is appended but what a leader sends.
    Follow {
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// The marks of the cluster have moved.
    Marks {
        /// Up to here a majority of the replicas has the records.
        quorum_accepted: Offset,
        /// Up to here a majority has them durably.
        high_watermark: Offset,
    },
    /// What has to do with a checkpoint on its way between nodes.
    Transfer(Transfer),
    /// What neither the log nor a link is asked for.
    Errand(Errand),
}

/// A checkpoint on its way: what its sender and its receiver do.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// A node has put so much of the checkpoint that it gets onto its disk.
    Taken {
        /// The node.
        peer: NodeId,
        /// Bytes.
        position: u64,
    },
    /// A checkpoint comes, in place of everything that is here. It is kept beside that until it is whole; an earlier one that is
    /// not whole is of no use any more.
    Begin {
        /// What it will be.
        start: CheckpointStart,
    },
    /// A piece of it: it is written, and then [`on_checkpoint_written`](super::replica::Replica::on_checkpoint_written) called.
    Part {
        /// The bytes, which follow those before; their checksum fits.
        bytes: Vec<u8>,
    },
    /// All pieces are written. The state takes, durably, the place of what was here, with an empty log that begins
    /// at [`CheckpointStart::start`], and then [`on_reset`](super::replica::Replica::on_reset) is called. There is no way back: a
    /// crash goes on with it.
    Replace {
        /// What it is.
        start: CheckpointStart,
    },
}

/// Something to do, in the order in which it was asked for, that whoever runs the replica does in its own way.
#[derive(Clone, Debug)]
pub enum Errand {
    /// Makes a promise durable in the manifest, and then calls `on_epoch_durable`. The manifest
    /// never goes back ([`Reign::and`]).
    PersistEpoch(Reign),
    /// Takes from these nodes the right to write here: what they sent and was not received yet is lost. When that is
    /// certain, `on_revoked` is called, at once where there is no such right (TCP).
    Revoke {
        /// The nodes.
        peers: Vec<NodeId>,
    },
    /// A node needs a checkpoint: it lacks what this log does not keep any more. Whoever carries this
    /// out ends an earlier one to that node and sends the messages ([`CheckpointStart`], of
    /// [`checkpoint_start`](super::replica::Replica::checkpoint_start), and [`CheckpointPart`](super::message::CheckpointPart)), at the pace of
    /// [`Transfer::Taken`]: a [host](super::host) does, once it was told of a file. Without one it is asked again.
    SendCheckpoint {
        /// The node.
        peer: NodeId,
    },
    /// Removes the durable note that this replica is damaged, and then calls `on_damage_cleared`.
    ClearDamage,
    /// Something is wrong that nobody heals by trying again. With a peer: the link to it is closed,
    /// and comes up again when both want.
    Refuse {
        /// Whose message it was.
        peer: Option<NodeId>,
        /// What is wrong.
        why: Refusal,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A message makes no sense from this sender, or at this time.
    Protocol(&'static str),
    /// Records that a leader sent are damaged or are none of this log.
    Records,
    /// More came than there was credit for.
    Credit,
    /// Records came that are longer than this log takes.
    TooLong {
        /// Bytes that came in one piece.
        bytes: u64,
        /// Bytes that are taken.
        bytes_max: u64,
    },
    /// Records were to be given up that a quorum holds.
    BelowHighWatermark {
        /// From where on.
        to: Offset,
        /// What is held.
        high_watermark: Offset,
    },
    /// The epoch is no newer than one that was found: the service that gives them out has been set
    /// back, to a backup for example.
    OldEpoch {
        /// What it gave.
        given: u64,
        /// What was found.
        found: u64,
    },
    /// A damaged replica does not lead.
    Damaged,
    /// What this log lacks cannot be fetched from the one that is more complete: that node has to
    /// lead. It has been asked to.
    Behind(NodeId),
    /// Those whose logs are the most complete were asked for what this log lacks, and have none of it to give, or cannot
    /// read it. One of them has been asked to lead.
    Withheld {
        /// Offset of the first record that this log lacks.
        from: Offset,
        /// Who was asked to lead.
        node: NodeId,
    },
    /// The log has failed.
    Failed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(what) => f.write_str(what),
            Self::Records => f.write_str("records that came are damaged, or are none of this log"),
            Self::Credit => f.write_str("more records came than there was credit for"),
            Self::TooLong { bytes, bytes_max } => write!(
                f,
                "{bytes} bytes of records came, and this node takes {bytes_max} at a time: give all nodes the \
                 same mqtt.max_packet_size and the like"
            ),
            Self::BelowHighWatermark { to, high_watermark } => write!(
                f,
                "records from offset {} on were to be given up, and a quorum holds them up to {}",
                to.0, high_watermark.0
            ),
            Self::OldEpoch { given, found } => write!(
                f,
                "epoch {given} is no newer than {found}, which a log holds: etcd has been restored \
                 from an older backup; make its revision pass {found} before this cluster starts"
            ),
            Self::Damaged => f.write_str("a damaged replica cannot lead"),
            Self::Behind(node) => {
                write!(f, "node {node} has a log that this one cannot be made equal to: it leads")
            }
            Self::Withheld { from, node } => write!(
                f,
                "no node gives the records from offset {} on, which this one lacks: those that have them cannot \
                 read them; node {node} is asked to lead",
                from.0
            ),
            Self::Failed => f.write_str("the log of this replica has failed"),
        }
    }
}
