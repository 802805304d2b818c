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
