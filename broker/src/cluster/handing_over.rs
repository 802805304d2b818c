//! How a node that leads hands over: because it is to stop, or because an operator wants another one to lead.
//!
//! Clients leave, what was promised is where it was promised to be, and then a follower that is in step is asked to
//! take over. A node that is to stop ends once another one leads; one that was asked by an operator begins
//! again, as a follower.

use super::metadata::Metadata;
use super::orders::{Transfer, Transferred, open_wish};
use super::running::{Done, ELECTING, Phase, Running};
use crate::mail::ControlMail;
use crate::replicated::control_mail::ToCore;
use ringlane_dataplane::ids::{CoreId, NodeId};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::{info, warn};

impl<M: Metadata> Running<M> {
    /// The node is to stop: a leader hands over first.
    pub(crate) fn begin_stop(&mut self) {
        match self.phase {
            Phase::Leading => self.drain(),
            Phase::Following => self.end_cores(),
            Phase::Draining(_) | Phase::HandingOver { .. } | Phase::Ending => {}
        }
        self.again = None;
    }

    fn drain(&mut self) {
        self.phase = Phase::Draining((0..self.cores).map(CoreId).collect());
        for core in (0..self.cores).map(CoreId) {
            self.mails.push((core, ControlMail::Drain));
        }
    }

    pub(super) fn on_drained(&mut self, core: CoreId) {
        let Phase::Draining(left) = &mut self.phase else { return };
        left.remove(&core);
        if !left.is_empty() {
            return;
        }
        let Some(target) = self.target() else {
            warn!("no follower is in step: the others elect a leader once this node has gone");
            return self.end_cores();
        };
        info!(node = target.0, "handing over");
        self.phase = Phase::HandingOver { until: Instant::now() + self.hand_over };
        self.tell(ELECTING, ToCore::TransferTo(target));
    }

    /// Who is to lead: whom the operator has named, if it is still in step; else who has most.
    fn target(&self) -> Option<NodeId> {
        let named = self.wish.and_then(|wish| wish.to).map(NodeId);
        let named = named.filter(|node| self.reporting.may_lead(*node).is_ok());
        named.or_else(|| self.reporting.most_complete())
    }

    /// An operator wants somebody else to lead. The leader that is meant hands over, or says why not.
    pub(super) fn on_wish(&mut self, wish: Transfer) {
        let is_known = self.wish.is_some_and(|known| known.id == wish.id);
        if is_known || !matches!(self.phase, Phase::Leading) || wish.epoch != self.given_in {
            return;
        }
        self.wish = Some(wish);
        let able = match wish.to.map(NodeId) {
            Some(node) => self.reporting.may_lead(node).map(|()| node),
            None => self.reporting.most_complete().ok_or("no follower is in step".to_owned()),
        };
        match able {
            Ok(node) => {
                info!(node = node.0, "an operator wants another node to lead");
                self.again = Some(format!("an operator had it hand over to node {node}"));
                self.drain();
            }
            Err(why) => {
                warn!(why, "an operator wants another node to lead, which is refused");
                self.answer(wish, Some(why));
            }
        }
    }

    /// This node leads: it was asked to, if the leader before it was asked to hand over.
    pub(super) fn answer_as_next(&mut self, epoch: u64) {
        let wish = open_wish(&self.known.borrow().view).filter(|wish| wish.epoch < epoch);
        if let Some(wish) = wish {
            self.wish = Some(wish);
            self.answer(wish, None);
        }
    }

    fn answer(&mut self, wish: Transfer, refused: Option<String>) {
        let answer =
            Transferred { id: wish.id, leader: self.node.0, epoch: self.given_in, refused };
        let keeper = Arc::clone(&self.keeper);
        self.jobs.spawn(async move {
            Done::Answered(keeper.membership().store().commit(&answer.put()).await)
        });
    }
}
