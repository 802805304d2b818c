//! What a core of a cluster is made of, beside what every core is made of.

use super::control_mail::ToControl;
use super::lease::Boottime;
use crate::durable::{Checkpoints, Recovery};
use crate::service::DiskUser;
use ringlane_dataplane::ids::{ListenerId, NodeId, PartitionId};
use ringlane_dataplane::replication::election;
use ringlane_dataplane::replication::hello::Hello;
use ringlane_dataplane::replication::host::HOST_TAGS;
use ringlane_dataplane::replication::replica::Opened;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::sync::mpsc;

/// What a core of a cluster needs besides. It starts following; the logs of its partitions are in
/// [`CoreSetup::logs`](crate::service::CoreSetup::logs), with the epoch of their last record, and the state of a core that
/// leads comes later.
#[derive(Debug)]
pub struct ClusterSetup {
    /// What this core says first on a link; who it is for is put in.
    pub(crate) hello: Hello,
    /// The other nodes, and where their replication listeners are.
    pub(crate) peers: Vec<(NodeId, SocketAddr)>,
    /// How often a lane that is missing is dialed.
    pub(crate) retry: Duration,
    /// Bytes that wait on a link, at most, unless one message is longer.
    pub(crate) room_bytes: usize,
    /// Who the nodes are and how long silence may last. Every core has it, core 0 elects.
    pub(crate) election: election::Setup,
    /// The newest epoch that this node has made durable, which is that of all its replicas.
    pub(crate) epoch: u64,
    /// Bytes of records that a follower takes before they are flushed.
    pub(crate) window_bytes: u64,
    /// Whether what replicas have in memory counts in the epochs that this node leads in: some stream of
    /// its configuration is at `quorum_memory`.
    pub(crate) counts_memory: bool,
    /// The clock that leases are counted on.
    pub(crate) boottime: Boottime,
    /// Bytes of log behind which the next checkpoint of a follower comes.
    pub(crate) checkpoint_size: u64,
    /// The replicas of this core, in the order of its logs.
    pub(crate) replicas: Vec<ReplicaSetup>,
    /// Whether this node may lead; one that could not read a record of its logs only follows.
    pub(crate) may_lead: bool,
    /// Where to tell the control thread something.
    pub(crate) to_control: mpsc::Sender<ToControl>,
}

/// The replica of one partition as it was opened.
#[derive(Debug)]
pub(crate) struct ReplicaSetup {
    /// What its log holds.
    pub(crate) opened: Opened,
    /// What its newest checkpoint says, and no record behind it: what the log holds above the high
    /// watermark may have to go.
    pub(crate) recovery: Recovery,
    /// Its checkpoints.
    pub(crate) checkpoints: Checkpoints,
}

/// What the tokens of a log carry in a cluster in their upper half ([`LogSetup::tag`](ringlane_dataplane::log::segments::LogSetup::tag)): tags
/// from there on are those of its replica's host.
pub(crate) fn host_tag(partition: PartitionId, cores: u16) -> u32 {
    DiskUser::Host.tag(partition.0 / u32::from(cores) * HOST_TAGS)
}

/// Rooms of the queue to the control thread, for a node with so many partitions: two questions of each,
/// its state, what it cannot read, clients that come in a burst, and what each core says of itself.
pub(crate) fn to_control_rooms(partitions: u32, cores: u16) -> usize {
    partitions as usize * 4 + usize::from(cores) * (CLIENTS_PER_CORE + 16)
}

/// Clients of a core that wait for the control thread to take them, at most: further ones are closed.
pub(crate) const CLIENTS_PER_CORE: usize = 256;

/// A client's connection, with no operation in flight and nothing answered.
#[derive(Debug)]
pub(crate) struct AcceptedClient {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// Where it came in.
    pub(crate) listener: ListenerId,
    /// The client's address, as the connection says.
    pub(crate) peer: SocketAddr,
    /// What it has sent so far.
    pub(crate) bytes: Vec<u8>,
}
