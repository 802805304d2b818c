//! What the replicas of a core are, and what its part in the election is.

use super::mail::{CoreMail, Standing, View};
use super::replicas::{Ground, Own, Replicas};
use crate::durable::Checkpoints;
use crate::mail::Mail;
use ringlane_dataplane::ids::{CoreId, NodeId};
use ringlane_dataplane::replication::replica::RoleKind;

impl Replicas {
    /// Does what is due of the election, and tells the other cores.
    pub(super) fn elect(&mut self, ground: &mut Ground<'_>) {
        let view = self.view();
        if self.told != Some(view) {
            self.say_view(ground, view);
        }
        let Some(mut elect) = self.elect.take() else { return };
        elect.end_turn(ground.now, &mut self.sends, &mut self.tells);
        for core in (1..self.cores).map(CoreId) {
            let Some(order) = elect.take_order(core) else { continue };
            let mail = Mail::Cluster(Box::new(CoreMail::Order(order)));
            if ground.mesh.send(core, mail).is_err() {
                elect.give_back(core, order);
            }
        }
        let own = elect.take_order(self.core);
        self.elect = Some(elect);
        self.send_whole(ground);
        for mail in core::mem::take(&mut self.tells) {
            self.tell(mail);
        }
        if let Some(order) = own {
            self.on_order(ground, order);
        }
    }

    fn say_view(&mut self, ground: &mut Ground<'_>, view: View) {
        if let Some(elect) = &mut self.elect {
            elect.on_view(self.core, view, ground.now);
            self.told = Some(view);
        } else if ground.mesh.send(CoreId(0), Mail::Cluster(Box::new(CoreMail::View(view)))).is_ok()
        {
            self.told = Some(view);
        }
    }

    /// Messages of this node as a whole.
    fn send_whole(&mut self, ground: &mut Ground<'_>) {
        for (to, message) in self.sends.drain(..) {
            self.head.clear();
            message.encode(&mut self.head);
            let link = self.own.first().and_then(|own| own.peers.get(to));
            // One that finds no room is not missed: there is other traffic.
            let _sent = link.map(|link| ground.links.send(link, &self.head, None));
        }
    }

    pub(super) fn send_arrivals(&mut self, ground: &mut Ground<'_>) {
        for (core, arrival) in self.arrivals.drain(..) {
            // Where the mailbox is full it ends, and its peer dials again.
            let _sent = ground.mesh.send(core, Mail::Cluster(Box::new(CoreMail::Arrival(arrival))));
        }
    }

    pub(super) fn newest(&self) -> (u64, Option<NodeId>) {
        let known = |own: &Own| (own.host.replica().epoch(), own.host.replica().leader());
        self.own.iter().map(known).max().unwrap_or_default()
    }

    fn view(&self) -> View {
        let (epoch, leader) = self.newest();
        let standing = self.standing();
        let is_sound = self.may_lead && self.own.iter().all(Own::is_sound);
        let is_eligible = is_sound && self.is_ready() && !self.has_ended;
        View { epoch, leader, standing, is_eligible }
    }

    pub(super) fn standing(&self) -> Standing {
        let Some(epoch) = self.campaign else { return Standing::Follows };
        let follows = |own: &Own| own.host.replica().role() == RoleKind::Follower;
        let has_lost = |own: &Own| own.has_lost;
        let is_over = self.gave_up || self.has_ended || self.own.iter().any(has_lost);
        if is_over || self.own.iter().any(follows) {
            Standing::GaveUp(epoch)
        } else if self.own.iter().all(|own| own.leads.is_some_and(|(leads, _)| leads == epoch)) {
            Standing::Leads(epoch)
        } else {
            Standing::Campaigns(epoch)
        }
    }

    /// Places of the partitions whose marks have risen since this was asked.
    pub(crate) fn take_risen(&mut self, into: &mut Vec<usize>) {
        into.append(&mut self.risen);
    }

    /// Whether a follower goes on applying without waiting for anything. `before` is what
    /// [`Replicas::applied`] was before the turn.
    pub(super) fn applies_on(&self, before: u64) -> bool {
        let lags = |own: &Own| {
            own.recovery.is_some() && own.host.applied() < own.host.replica().high_watermark()
        };
        before < self.applied() && self.own.iter().any(lags)
    }

    /// Records applied, of all replicas.
    pub(super) fn applied(&self) -> u64 {
        self.own.iter().map(|own| own.host.applied().0).sum()
    }

    /// Whether the state for this epoch was given away, so that this core may lead with it.
    pub(super) fn may_begin(&self, epoch: u64) -> bool {
        self.gave_state && !self.has_ended && self.standing() == Standing::Leads(epoch)
    }

    pub(super) fn take_checkpoints(&mut self) -> Vec<Checkpoints> {
        self.own.iter_mut().map(|own| own.checkpoints.take().unwrap_or_default()).collect()
    }
}
