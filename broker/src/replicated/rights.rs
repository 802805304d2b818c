//! The rights of other nodes to write into memory of this one, and what is said of links.
//!
//! Over TCP there is no such right: what was sent and not received yet is refused by its epoch. Over RDMA
//! a node may write for as long as there is its link, so that who has to lose the right loses the link,
//! and gets a new one.

use super::replicas::{Ground, Replicas};
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::link::{Carrier, LinkDown, LinkId};
use ringlane_dataplane::replication::hello::Hello;
use ringlane_dataplane::replication::replica::Replica;

/// Refusals without a link in between from which on they are said, and one in how many.
const REFUSALS_FIRST: u32 = 5;
const REFUSALS_SAID: u32 = 100;

impl Replicas {
    /// Takes from these nodes the right to write here, as far as they have one: the replica hears of it
    /// when that is certain.
    pub(super) fn revoke(&mut self, ground: &mut Ground<'_>, index: usize, peers: &[NodeId]) {
        let own = &mut self.own[index];
        let links = peers.iter().filter_map(|peer| own.peers.get(*peer));
        let may_write = |link: &LinkId| ground.links.carrier(*link) == Some(Carrier::Rdma);
        let ending: Vec<LinkId> = links.filter(may_write).collect();
        for link in &ending {
            ground.links.revoke(*link);
        }
        own.revoking.get_or_insert_default().extend(ending);
        self.look_at_rights(ground, index);
    }

    /// A link is over: nobody writes here over it any more.
    pub(super) fn on_revoked(&mut self, ground: &mut Ground<'_>, link: LinkId) {
        for index in 0..self.own.len() {
            if let Some(revoking) = &mut self.own[index].revoking {
                revoking.retain(|ending| *ending != link);
                self.look_at_rights(ground, index);
            }
        }
    }

    fn look_at_rights(&mut self, ground: &mut Ground<'_>, index: usize) {
        if self.own[index].revoking.take_if(|revoking| revoking.is_empty()).is_some() {
            self.with_replica(index, ground, Replica::on_revoked);
        }
    }

    pub(super) fn say_up(&mut self, ground: &Ground<'_>, link: LinkId, hello: &Hello) {
        self.refusals = 0;
        let Some(carrier) = ground.links.carrier(link) else { return };
        if let Some(suppressed) = self.lines.take(ground.now) {
            tracing::info!(
                core = self.core.0, node = hello.from.0, node_core = hello.from_core.0, %carrier, suppressed,
                "a link to a node"
            );
        }
    }

    pub(super) fn say_down(&mut self, ground: &Ground<'_>, cause: LinkDown) {
        let core = self.core.0;
        if let LinkDown::Refused(_) | LinkDown::TurnedAway | LinkDown::NoHello(_) = cause {
            self.refusals += 1;
            // Once may be a node that begins or ends; again and again it is a configuration.
            if self.refusals % REFUSALS_SAID == REFUSALS_FIRST {
                tracing::warn!(core, %cause, refusals = self.refusals, "no link to a node");
            }
        } else if let Some(suppressed) = self.lines.take(ground.now) {
            tracing::debug!(core, %cause, suppressed, "a link between nodes is over");
        }
    }
}
