//! Newtypes for the numbers that name things, so that they cannot be mixed up.

use core::fmt;

/// A core of this node: one pinned thread. Numbered from 0 in configuration order, not by CPU.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct CoreId(pub u16);

/// The largest number of mailbox endpoints of a node (cores and the control thread).
pub const ENDPOINTS_MAX: usize = 128;

impl CoreId {
    /// The position in per-core tables.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A partition: a log, the sessions that hash to it, one owner core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PartitionId(pub u32);

/// Position of a record in its partition: dense, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Offset(pub u64);

/// A connection of one core: a slot and the generation that tells its users apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId {
    /// Position in the core's connection table.
    pub slot: u32,
    /// How often the slot was used before; guards against late completions.
    pub generation: u32,
}

impl ConnectionId {
    /// The position in the core's connection tables.
    #[must_use]
    pub fn index(self) -> usize {
        self.slot as usize
    }
}

/// Which configured listener accepted a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u16);

/// A node of a cluster: one broker process on one machine. Numbered from 1 by the configuration of
/// the cluster, for ever: a number is not given to another machine without `replace`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub u16);

/// The most nodes that a cluster has.
pub const NODES_MAX: usize = 7;

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The link between a core of this node and a core of another one, as this node sees it. It carries
/// the partitions that both of them own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Lane {
    /// The core of this node.
    pub core: CoreId,
    /// The other node.
    pub peer: NodeId,
    /// The core of that one.
    pub peer_core: CoreId,
}
