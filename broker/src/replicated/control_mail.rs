//! What the cores of a node of a cluster and its control thread tell each other.
//!
//! A core never waits for an answer: it goes on, and the answer is a mail ([`ToCore`]). What it says
//! itself goes into a bounded queue ([`ToControl`]) that has room for all that may be outstanding.

use super::setup::AcceptedClient;
use crate::cluster::peers::PeerFacts;
use crate::delivery::{PostedFilters, Routes};
use crate::durable::{Checkpoints, PartitionState, Recovery};
use crate::service::RestoredState;
use ringlane_dataplane::ids::{CoreId, NodeId, Offset, PartitionId};
use ringlane_dataplane::log::recovery::ReplayFrom;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::replication::message::CheckpointStart;
use ringlane_dataplane::replication::reign::Reign;
use ringlane_dataplane::replication::replica::RoleKind;
use ringlane_dataplane::time::Nanos;

/// The state of a partition that leads. Its checkpoints stay with the core.
#[derive(Debug)]
pub(crate) struct Given {
    /// Offset of the record that begins the epoch: the log is flushed here up to it, and nothing
    /// follows it before [`ToCore::Begin`].
    pub(crate) start: Offset,
    /// What all records below `start` add up to.
    pub(crate) state: Box<PartitionState>,
    /// The filters that records are posted for, with the first partition of each core.
    pub(crate) posted: Option<Box<PostedFilters>>,
}

/// What a core tells the control thread, or asks of it.
#[derive(Debug)]
pub(crate) enum ToControl {
    /// The election of this node (core 0) wants a new epoch of etcd, if none newer than `observed` has been
    /// given: [`ToCore::EpochGiven`] or [`ToCore::EpochRefused`] follows.
    AskForEpoch {
        /// The newest that is known here.
        observed: u64,
    },
    /// Makes an epoch durable in the manifest, which never goes back: [`ToCore::EpochDurable`] to that
    /// core follows, for this epoch or a newer one. One that lies behind the durable one is answered, too.
    PersistEpoch {
        /// Who asks.
        core: CoreId,
        /// The promise with it.
        reign: Reign,
    },
    /// The durable note that a replica lacks records is to go, because it has them again:
    /// [`ToCore::DamageCleared`] follows.
    ClearDamage {
        /// Who asks.
        core: CoreId,
        /// Whose.
        partition: PartitionId,
    },
    /// The log of a partition is to lose its records from `to` on. None of its files is open.
    /// [`ToCore::Truncated`] follows.
    Truncate {
        /// Who asks.
        core: CoreId,
        /// Whose log.
        partition: PartitionId,
        /// Offset of the first record to go.
        to: Offset,
        /// Where its newest checkpoint says that replay begins: what lies before is not read.
        from: Option<ReplayFrom>,
    },
    /// A checkpoint came whole, and takes the place of a partition's log and state. No file of the log is open.
    /// [`ToCore::Replaced`] follows.
    Replace {
        /// Who asks.
        core: CoreId,
        /// Whose.
        partition: PartitionId,
        /// What it is.
        start: CheckpointStart,
        /// The state so far, and the routes of the core: they may be large, and go elsewhere than on a core.
        before: Box<(Option<Recovery>, Routes)>,
    },
    /// A partition leads, and this is what its log says below `start`. When all partitions of the node have
    /// said so for the same epoch, [`ToCore::Begin`] goes to every core.
    State {
        /// Which one.
        partition: PartitionId,
        /// The epoch that it leads in.
        epoch: u64,
        /// The state.
        given: Given,
    },
    /// What the election knows of who leads (core 0), at each change.
    Leader {
        /// The newest epoch that is known.
        epoch: u64,
        /// Who leads in it; `None` while nobody is known to.
        leader: Option<NodeId>,
    },
    /// How the partitions of a core are, once a second.
    Progress {
        /// In rising order.
        partitions: Vec<PartitionProgress>,
        /// The other nodes, as core 0 hears.
        others: Option<Others>,
    },
    /// The core goes on with nothing, because the node cannot go on as it is: it has to begin again.
    /// [`ToCore::End`] to every core is the answer.
    Ended {
        /// Who says so; several cores may.
        core: CoreId,
        /// The newest epoch that its replicas have promised.
        epoch: u64,
        /// Why, for the log.
        why: String,
    },
    /// This node cannot lead as long as it runs: it has a record that it cannot read.
    CannotLead {
        /// Which one, and why.
        why: String,
    },
    /// After a [`ControlMail::Drain`](crate::mail::ControlMail::Drain): the clients of this core have left, and what
    /// its logs have is where it was promised to be, or cannot get there. The core goes on
    /// replicating until [`ToCore::End`].
    Drained {
        /// Who says so.
        core: CoreId,
    },
    /// A client that came while this node follows: for the proxy.
    Client(AcceptedClient),
}

/// What the control thread tells a core.
#[derive(Debug)]
pub enum ToCore {
    /// etcd has given this node an epoch (core 0).
    EpochGiven {
        /// The epoch.
        epoch: u64,
    },
    /// It has not, or was not reached (core 0).
    EpochRefused,
    /// etcd says that an epoch was given, and to whom (core 0).
    EpochSeen {
        /// The epoch.
        epoch: u64,
        /// Who has it.
        leader: Option<NodeId>,
    },
    /// What is known of other nodes, where that has changed.
    Peers(Vec<PeerFacts>),
    /// An epoch is durable in the manifest.
    EpochDurable {
        /// The epoch, which no replica of this node obeys an older one of.
        epoch: u64,
    },
    /// A log was truncated as [`ToControl::Truncate`] said, and opened again.
    Truncated {
        /// Whose.
        partition: PartitionId,
        /// The log, whose tag and setup are those of the one before.
        writer: Box<Writer>,
    },
    /// A checkpoint took the place of a log and of its state as [`ToControl::Replace`] said.
    Replaced {
        /// Whose.
        partition: PartitionId,
        /// What it came to.
        learned: Box<Learned>,
    },
    /// The durable note that a replica lacks records is gone.
    DamageCleared {
        /// Whose.
        partition: PartitionId,
    },
    /// All partitions of this node lead: clients are served from now on.
    Begin {
        /// The epoch.
        epoch: u64,
        /// What this core takes over. Checkpoints in it are not looked at: the core has them.
        state: Box<RestoredState>,
    },
    /// Until when the lease of this node counts for the epoch that it leads in; behind [`ToCore::Begin`], and
    /// whenever that changes.
    Lease {
        /// Its end (`CLOCK_BOOTTIME`), counted from when the keep-alive was sent; 0 if it does not count.
        until: Nanos,
    },
    /// Hands the leadership over (core 0), after all cores have said [`ToControl::Drained`].
    TransferTo(NodeId),
    /// Ends this core, which cannot go on: clients are told and have a second for it, also where the node stops then;
    /// what was appended is flushed, then its thread ends.
    End {
        /// Where a client should go (`host:port`, MQTT 5 server reference), if that is known.
        moved_to: Option<String>,
    },
}

/// What a partition begins anew with.
#[derive(Debug)]
pub struct Learned {
    /// Its log, which is empty.
    pub(crate) writer: Writer,
    /// Its state, that of the checkpoint.
    pub(crate) recovery: Recovery,
    /// The checkpoint itself.
    pub(crate) checkpoints: Checkpoints,
}

/// The other nodes of the cluster, as a node hears.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Others {
    /// Those that are heard.
    pub(crate) heard: Vec<NodeId>,
    /// Those that could lead at once.
    pub(crate) ready: Vec<NodeId>,
}

/// How one replica is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PartitionProgress {
    /// Its partition.
    pub(crate) partition: PartitionId,
    /// What it is.
    pub(crate) role: RoleKind,
    /// Whether it leads and its clients are served.
    pub(crate) is_leading: bool,
    /// The epoch that is durable.
    pub(crate) epoch: u64,
    /// Who leads it, as far as it knows.
    pub(crate) leader: Option<NodeId>,
    /// First offset that is kept.
    pub(crate) start: Offset,
    /// Behind the last record.
    pub(crate) next: Offset,
    /// Durable here up to this offset.
    pub(crate) flushed: Offset,
    /// In the logs of a majority.
    pub(crate) quorum_accepted: Offset,
    /// Durable on a majority.
    pub(crate) high_watermark: Offset,
    /// A follower has applied all below; a leader's state is the live one.
    pub(crate) applied: Offset,
    /// Of a leader: the other nodes, with what each has accepted and flushed, if it is in step.
    pub(crate) followers: Vec<(NodeId, Option<(Offset, Offset)>)>,
    /// Whether it lacks what its log once held.
    pub(crate) is_damaged: bool,
    /// Whether its log has failed.
    pub(crate) has_failed: bool,
}
