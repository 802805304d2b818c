//! What a node has promised, as it keeps it.

use crate::ids::NodeId;

/// A promise: durable in the manifest of a node before it answers in that epoch. All partitions of a node
/// have one in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reign {
    /// No older epoch is obeyed.
    pub epoch: u64,
    /// Who leads in it. Nobody else is obeyed, should the number be given twice. `None`: nobody knows.
    pub leader: Option<NodeId>,
    /// The newest epoch, up to that one, in which what replicas have in memory counts
    /// ([`Setup::counts_memory`](super::replica::Setup::counts_memory)); 0 if there was none.
    pub memory_epoch: u64,
}

impl Reign {
    /// What follows when a node obeys `leader` in a newer epoch.
    #[must_use]
    pub(super) fn next(self, epoch: u64, leader: NodeId, counts_memory: bool) -> Self {
        let memory_epoch = if counts_memory { epoch } else { self.memory_epoch };
        Self { epoch, leader: Some(leader), memory_epoch }
    }

    /// What holds when both were promised, by two partitions of a node.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (older, newer) = if self.epoch < other.epoch { (self, other) } else { (other, self) };
        let is_same = older.epoch == newer.epoch;
        let leader = newer.leader.or(older.leader.filter(|_| is_same));
        Self { leader, memory_epoch: self.memory_epoch.max(other.memory_epoch), ..newer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_never_go_back() {
        let first = Reign::default().next(5, NodeId(1), true);
        assert_eq!(first, Reign { epoch: 5, leader: Some(NodeId(1)), memory_epoch: 5 });
        let second = first.next(7, NodeId(2), false);
        assert_eq!(second, Reign { epoch: 7, leader: Some(NodeId(2)), memory_epoch: 5 });
        let other = Reign { epoch: 6, leader: Some(NodeId(3)), memory_epoch: 6 };
        let both = Reign { memory_epoch: 6, ..second };
        assert_eq!((second.and(other), other.and(second)), (both, both));
        let number = Reign { epoch: 7, ..Reign::default() };
        assert_eq!((second.and(number), number.and(second)), (second, second));
    }
}
