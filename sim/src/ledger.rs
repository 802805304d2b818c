//! What was acknowledged, and what nodes agreed on: the rules that hold at every step.

use crate::counters::{Counter, Counters};
use ringlane_dataplane::ids::NodeId;
use std::collections::BTreeMap;

/// What a record is told from others by: its epoch and a hash of what it says.
pub type Mark = (u64, u64);

/// A rule that does not hold any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

/// What is acknowledged, and to be there.
#[derive(Clone, Copy, Debug)]
struct Acked {
    mark: Mark,
    /// Whether it was to be on the disks of a majority, and not only in their memory.
    is_durable: bool,
    /// Whether it was in the memory of a majority, and all of those have lost it.
    is_gone: bool,
}

/// One partition's rules.
#[derive(Clone, Debug, Default)]
struct Agreed {
    /// What was applied by any node, by offset: from then on it is that, for ever.
    records: Vec<Option<Mark>>,
    acked: BTreeMap<u64, Acked>,
}

/// The rules of a cluster.
#[derive(Clone, Debug)]
pub struct Ledger {
    partitions: Vec<Agreed>,
    leaders: BTreeMap<(usize, u64), NodeId>,
}

impl Ledger {
    /// Nothing was acknowledged yet.
    #[must_use]
    pub fn new(partitions: usize) -> Self {
        let partitions = vec![Agreed::default(); partitions];
        Self { partitions, leaders: BTreeMap::new() }
    }

    /// A record below a node's high watermark.
    ///
    /// # Errors
    /// Another node had another one there.
    pub fn on_apply(
        &mut self,
        partition: usize,
        node: NodeId,
        offset: u64,
        mark: Mark,
    ) -> Result<(), Violation> {
        let agreed = &mut self.partitions[partition];
        let at = offset as usize;
        if agreed.records.len() <= at {
            agreed.records.resize(at + 1, None);
        }
        let known = *agreed.records[at].get_or_insert(mark);
        if known != mark {
            let what = format!(
                "logs part below the high watermark: partition {partition} offset {offset}: node \
                 {node} has {mark:?}, another had {known:?}"
            );
            return Err(Violation(what));
        }
        self.check_ack(partition, offset, known)
    }

    fn check_ack(&self, partition: usize, offset: u64, known: Mark) -> Result<(), Violation> {
        match self.partitions[partition].acked.get(&offset) {
            Some(acked) if acked.mark != known && !acked.is_gone => {
                Err(lost(partition, offset, acked))
            }
            _ => Ok(()),
        }
    }

    /// A publisher was told that its message is there.
    ///
    /// # Errors
    /// Another record is there.
    pub fn on_ack(
        &mut self,
        partition: usize,
        offset: u64,
        mark: Mark,
        is_durable: bool,
    ) -> Result<(), Violation> {
        let agreed = &mut self.partitions[partition];
        agreed.acked.insert(offset, Acked { mark, is_durable, is_gone: false });
        let known = agreed.records.get(offset as usize).copied().flatten();
        known.map_or(Ok(()), |known| self.check_ack(partition, offset, known))
    }

    /// A node has lost what it had in memory. What was only promised to be in memory is excused if no node has it
    /// any more: `is_held` says that of a partition, an offset and its epoch.
    pub fn on_crash(&mut self, is_held: impl Fn(usize, u64, u64) -> bool) {
        for (partition, agreed) in self.partitions.iter_mut().enumerate() {
            for (offset, acked) in agreed.acked.iter_mut().filter(|(_, acked)| !acked.is_durable) {
                acked.is_gone |= !is_held(partition, *offset, acked.mark.0);
            }
        }
    }

    /// A node leads, and has applied everything below `start`.
    ///
    /// # Errors
    /// Another one leads in the same epoch, or something acknowledged is missing.
    pub fn on_lead(
        &mut self,
        partition: usize,
        node: NodeId,
        epoch: u64,
        start: u64,
        counters: &mut Counters,
    ) -> Result<(), Violation> {
        let leader = *self.leaders.entry((partition, epoch)).or_insert(node);
        if leader != node {
            let what = format!("nodes {leader} and {node} both lead in epoch {epoch}");
            return Err(Violation(what));
        }
        // What was acknowledged by older epochs only: a leader that is deposed may be told late.
        let older = |acked: &Acked| acked.mark.0 < epoch;
        let agreed = &self.partitions[partition];
        let acked: Vec<_> = agreed.acked.iter().filter(|(_, a)| older(a)).collect();
        let mut done = Vec::new();
        for (&offset, acked) in acked {
            let known = agreed.records.get(offset as usize).copied().flatten();
            let is_there = offset < start && known == Some(acked.mark);
            if !is_there && !acked.is_gone {
                return Err(lost(partition, offset, acked));
            }
            if !is_there {
                counters.count(Counter::Excused);
            }
            done.push(offset);
        }
        let agreed = &mut self.partitions[partition];
        agreed.acked.retain(|offset, _| done.binary_search(offset).is_err());
        Ok(())
    }

    /// How many records nodes have agreed on.
    #[must_use]
    pub fn agreed(&self, partition: usize) -> u64 {
        self.partitions[partition].records.len() as u64
    }
}

fn lost(partition: usize, offset: u64, acked: &Acked) -> Violation {
    Violation(format!(
        "an acknowledged message is lost: partition {partition} offset {offset} epoch {}, durable: \
         {}",
        acked.mark.0, acked.is_durable
    ))
}
