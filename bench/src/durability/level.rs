//! What the nodes of a cluster promise, and so what they may be struck with.

use super::host::Fault;
use anyhow::{Result, bail};
use clap::ValueEnum;

/// The level that all streams of a cluster are at.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug, Default)]
#[value(rename_all = "snake_case")]
pub enum Level {
    /// Acknowledged on the disks of a majority.
    #[default]
    QuorumDisk,
    /// Acknowledged in the memory of a majority: one node at a time may be lost, and the next one once that
    /// has again what the others have.
    QuorumMemory,
    /// Acknowledged on the disk of the leader: it may be lost in a fail-over, but not in a hand-over.
    LocalDisk,
    /// Acknowledged in the memory of the leader: the same.
    Memory,
}

impl Level {
    /// As it is configured.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QuorumDisk => "quorum_disk",
            Self::QuorumMemory => "quorum_memory",
            Self::LocalDisk => "local_disk",
            Self::Memory => "memory",
        }
    }

    /// Whether what was acknowledged survives all nodes at once.
    pub(super) fn survives_all(self) -> bool {
        self == Self::QuorumDisk
    }

    /// Whether what one node acknowledged is promised by that one alone.
    pub(super) fn is_of_one_node(self) -> bool {
        matches!(self, Self::LocalDisk | Self::Memory)
    }

    /// Whether it promises something of a fault.
    ///
    /// # Errors
    /// If nothing can be held against it.
    pub(super) fn check(self, fault: Fault) -> Result<()> {
        let name = self.name();
        match fault {
            Fault::Term | Fault::None => Ok(()),
            Fault::Kill if !self.is_of_one_node() => Ok(()),
            Fault::Kill => bail!(
                "what the leader acknowledged at {name} may be lost with it: with --level {name} the \
                 fault is term or none"
            ),
            Fault::PowerLoss | Fault::FullDisk | Fault::WriteError | Fault::Command => {
                bail!("with --cluster the fault is kill, term or none, not {}", fault.name())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_of_one_node_is_held_to_hand_overs_alone() {
        for level in [Level::QuorumDisk, Level::QuorumMemory, Level::LocalDisk, Level::Memory] {
            assert!(level.check(Fault::Term).is_ok() && level.check(Fault::PowerLoss).is_err());
            assert_eq!(level.check(Fault::Kill).is_ok(), !level.is_of_one_node(), "{level:?}");
        }
        let message = Level::Memory.check(Fault::Kill).unwrap_err().to_string();
        assert!(message.contains("term or none"), "{message}");
    }
}
