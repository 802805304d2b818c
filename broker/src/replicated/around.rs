//! What a replica's host finds around it on a core of the broker.

use crate::durable::{Recovery, Standby};
use ringlane_dataplane::ids::{NodeId, Offset, PartitionId};
use ringlane_dataplane::link::{Body, LinkId, Links, Unsent};
use ringlane_dataplane::log::record::Record;
use ringlane_dataplane::replication::host::{Ask, Outside};
use std::collections::VecDeque;

/// The links of one replica to those of other nodes: one each, while it is up.
#[derive(Debug)]
pub(super) struct PeerLinks(Vec<(NodeId, Option<LinkId>)>);

impl PeerLinks {
    pub(super) fn new(peers: impl Iterator<Item = NodeId>) -> Self {
        Self(peers.map(|node| (node, None)).collect())
    }

    pub(super) fn get(&self, node: NodeId) -> Option<LinkId> {
        self.0.iter().find(|(peer, _)| *peer == node)?.1
    }

    /// The link that counts from now on; gives the one so far.
    pub(super) fn set(&mut self, node: NodeId, link: Option<LinkId>) -> Option<LinkId> {
        let (_, place) = self.0.iter_mut().find(|(peer, _)| *peer == node)?;
        core::mem::replace(place, link)
    }

    /// Who is at the other end of a link.
    pub(super) fn node_of(&self, link: LinkId) -> Option<NodeId> {
        self.0.iter().find(|(_, held)| *held == Some(link)).map(|(node, _)| *node)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().map(|(node, _)| *node)
    }
}

/// What one call of a host may use.
pub(super) struct Around<'a> {
    pub(super) links: &'a mut Links,
    pub(super) peers: &'a PeerLinks,
    /// What hosts ask for, by the place of the replica.
    pub(super) asks: &'a mut VecDeque<(usize, Ask)>,
    pub(super) index: usize,
    pub(super) partition: PartitionId,
    /// What its records add up to; none once the state was given away.
    pub(super) recovery: Option<&'a mut Recovery>,
    /// What is made of that, to lead with.
    pub(super) standby: &'a mut Standby,
}

impl Outside for Around<'_> {
    fn send(&mut self, to: NodeId, head: &[u8], body: Option<Body>) -> Result<(), Unsent> {
        let link = self.peers.get(to).ok_or(Unsent::NotUp)?;
        self.links.send(link, head, body)
    }

    fn ask(&mut self, ask: Ask) {
        self.asks.push_back((self.index, ask));
    }

    fn pass(&mut self, first: Offset, _: u64, epoch: u64) -> bool {
        if let Some(recovery) = &mut self.recovery {
            recovery.on_plain(epoch, first);
        }
        true
    }

    fn apply(&mut self, record: &Record<'_>) {
        // A state that was given away is the live one, or that of a node that ends.
        let Self { recovery: Some(recovery), standby, index, .. } = self else { return };
        let had_failed = recovery.has_failed();
        recovery.on_record_by(record, &mut |state, record| standby.apply(*index, state, record));
        if !had_failed && recovery.has_failed() {
            tracing::error!(
                partition = self.partition.0,
                offset = record.head.offset.0,
                "a record of sessions cannot be read by this release: this node cannot lead; \
                 upgrade ringlane on it"
            );
        }
    }
}
