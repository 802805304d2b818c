//! How a node that leads hands over: because it is to stop, or because an operator wants another one to lead.
//!
//! A follower that could lead at once is waited for, while clients are served on. Then they leave, what was promised is
//! where it was promised to be, and that follower is asked to take over. A node that is to stop ends once another
//! one leads; one that was asked by an operator begins again, as a follower.

use super::metadata::Metadata;
use super::orders::{Transfer, Transferred, open_wish};
use super::running::{Done, ELECTING, Phase, Running};
use crate::mail::ControlMail;
use crate::replicated::control_mail::ToCore;
use ringlane_dataplane::ids::{CoreId, NodeId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// A follower that was just started takes in its state for seconds: it is waited for as long as so many hand-overs may take.
const WAITS: u32 = 3;
/// It is waited for no longer than that: who stops a node, and who asked for a hand-over, waits as well.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// A leader that is to hand over and has nobody to hand over to yet.
#[derive(Debug)]
pub(super) struct Leaving {
    /// It waits no longer.
    pub(super) until: Instant,
    /// The operator who wants that; else it is to stop.
    wish: Option<Transfer>,
}

impl<M: Metadata> Running<M> {
    /// The node is to stop: a leader hands over first.
    pub(crate) fn begin_stop(&mut self) {
        match self.phase {
            Phase::Leading => self.leave(None),
            Phase::Following => self.end_cores(),
            Phase::Draining(_) | Phase::HandingOver { .. } | Phase::Ending => {}
        }
        self.again = None;
    }

    /// How long a successor is waited for.
    pub(super) fn waits_for_successor(&self) -> Duration {
        (self.hand_over * WAITS).min(WAIT_MAX)
    }

    /// Hands over, now or once somebody could lead at once. Where nobody follows that is not waited for.
    fn leave(&mut self, wish: Option<Transfer>) {
        let until = Instant::now() + self.waits_for_successor();
        self.leaving = Some(Leaving { until, wish });
        if self.reporting.most_complete().is_none() {
            return self.on_no_successor();
        }
        self.look_for_successor();
        if self.leaving.is_some() {
            info!("no follower could lead at once yet: this node goes on until one could");
        }
    }

    /// Whether it leads on although it is to stop.
    pub(super) fn is_to_stop(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.wish.is_none())
    }

    /// Somebody could lead at once: that is what was waited for.
    pub(super) fn look_for_successor(&mut self) {
        if self.leaving.is_none() || !self.is_leading() {
            return;
        }
        let Some(node) = self.reporting.successor() else { return };
        if self.leaving.take().is_some_and(|leaving| leaving.wish.is_some()) {
            self.yield_to(node);
        } else {
            self.drain();
        }
    }

    /// Nobody could lead at once, and that is not waited for any more.
    pub(super) fn on_no_successor(&mut self) {
        let Some(leaving) = self.leaving.take() else { return };
        match leaving.wish {
            Some(wish) => self.refuse(wish, "no follower could lead at once".to_owned()),
            None => self.drain(),
        }
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

    /// Who is to lead: whom the operator has named, if it still could at once; else who could; else who has most.
    fn target(&self) -> Option<NodeId> {
        let named = self.wish.and_then(|wish| wish.to).map(NodeId);
        let named = named.filter(|node| self.reporting.may_lead(*node).is_ok());
        let able = named.or_else(|| self.reporting.successor());
        able.or_else(|| self.reporting.most_complete())
    }

    /// An operator wants somebody else to lead. The leader that is meant hands over, or says why not.
    pub(super) fn on_wish(&mut self, wish: Transfer) {
        let is_known = self.wish.is_some_and(|known| known.id == wish.id);
        if is_known || !matches!(self.phase, Phase::Leading) || wish.epoch != self.given_in {
            return;
        }
        self.wish = Some(wish);
        if self.is_to_stop() {
            return self.refuse(wish, "it is about to stop, and hands over by itself".to_owned());
        }
        let Some(node) = wish.to.map(NodeId) else { return self.leave(Some(wish)) };
        match self.reporting.may_lead(node) {
            Ok(()) => self.yield_to(node),
            Err(why) => self.refuse(wish, why),
        }
    }

    fn yield_to(&mut self, node: NodeId) {
        info!(node = node.0, "an operator wants another node to lead");
        self.again = Some(format!("an operator had it hand over to node {node}"));
        self.drain();
    }

    fn refuse(&mut self, wish: Transfer, why: String) {
        warn!(why, "an operator wants another node to lead, which is refused");
        self.answer(wish, Some(why));
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
