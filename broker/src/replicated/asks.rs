//! What the hosts of replicas ask for, and how a core leads no more.

use super::control_mail::ToControl;
use super::replicas::{Ground, Replicas};
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::log::reader::ReadError;
use ringlane_dataplane::replication::command::{Errand, Refusal};
use ringlane_dataplane::replication::host::Ask;
use ringlane_dataplane::replication::reign::Reign;

impl Replicas {
    pub(super) fn do_asks(&mut self, ground: &mut Ground<'_>) {
        while let Some((index, ask)) = self.asks.pop_front() {
            self.do_ask(ground, index, ask);
        }
    }

    fn do_ask(&mut self, ground: &mut Ground<'_>, index: usize, ask: Ask) {
        let (core, partition) = (self.core, self.own[index].partition);
        match ask {
            Ask::Errand(errand) => self.do_errand(ground, index, errand),
            Ask::Truncate { to } => {
                // One that begins behind the new end would name a place that is used again.
                if let Some(checkpoints) = &mut self.own[index].checkpoints {
                    checkpoints.give_up_as_follower(index, ground.disk);
                }
                let from = self.checkpoint_of(index).map(|kept| kept.from);
                self.tell(ToControl::Truncate { core, partition, to, from });
            }
            Ask::Lead { epoch, start } => self.own[index].leads = Some((epoch, start)),
            Ask::Follow { leader } => self.on_follow(index, leader),
            Ask::Marks { .. } => {
                if !self.risen.contains(&index) {
                    self.risen.push(index);
                }
            }
            Ask::Lost(error) => self.on_lost(index, &error),
            Ask::Replace { start } => self.replace(index, start),
        }
    }

    /// Records of a log cannot be read. Others have them: this node does not lead without them.
    pub(crate) fn on_lost(&mut self, index: usize, error: &ReadError) {
        let own = &mut self.own[index];
        if core::mem::replace(&mut own.has_lost, true) {
            return;
        }
        let partition = own.partition.0;
        self.may_lead = false;
        tracing::error!(
            partition, %error,
            "records of a partition cannot be read: this node goes on as a follower and \
             cannot lead; check the disk, then start it with an empty data_dir"
        );
        // Also of who only follows: what begins again in the same process would not know it.
        let why = format!("partition {partition}: {error}");
        self.tell(ToControl::CannotLead { why: why.clone() });
        if self.gave_state {
            self.end(why);
        }
    }

    fn do_errand(&mut self, ground: &mut Ground<'_>, index: usize, errand: Errand) {
        let (core, partition) = (self.core, self.own[index].partition);
        match errand {
            Errand::PersistEpoch(reign) => self.persist_epoch(index, reign),
            Errand::Revoke { peers } => self.revoke(ground, index, &peers),
            Errand::ClearDamage => self.tell(ToControl::ClearDamage { core, partition }),
            Errand::Refuse { peer: Some(peer), why } => {
                if let Some(suppressed) = self.lines.take(ground.now) {
                    tracing::warn!(partition = partition.0, node = peer.0, %why, suppressed, "a node is refused");
                }
                if let Some(link) = self.own[index].peers.get(peer) {
                    ground.links.revoke(link);
                }
            }
            Errand::Refuse { peer: None, why } => {
                self.own[index].has_failed |= why == Refusal::Failed;
                tracing::error!(partition = partition.0, %why, "this node cannot lead");
                self.gave_up = true;
            }
            Errand::SendCheckpoint { peer } => self.lacking.push((index, peer)),
        }
    }

    fn persist_epoch(&mut self, index: usize, reign: Reign) {
        let is_asked = self.own.iter().any(|own| own.asked_epoch == Some(reign.epoch));
        self.own[index].asked_epoch = Some(reign.epoch);
        // Also of one that has ended for it: the node begins again with what it has promised.
        if !is_asked && !self.is_cut_off {
            self.tell(ToControl::PersistEpoch { core: self.core, reign });
        }
    }

    fn on_follow(&mut self, index: usize, leader: Option<NodeId>) {
        self.own[index].leads = None;
        if self.gave_state {
            let leader = leader.map_or(String::new(), |node| format!(": node {node} leads"));
            self.end(format!("this node does not lead any more{leader}"));
        }
    }

    /// This core cannot go on: the node begins again.
    pub(super) fn end(&mut self, why: String) {
        if !core::mem::replace(&mut self.has_ended, true) {
            let (core, epoch) = (self.core, self.newest().0);
            self.tell(ToControl::Ended { core, epoch, why });
        }
    }

    /// The core is to end: its replicas take part in nothing any more.
    pub(crate) fn cease(&mut self) {
        (self.has_ended, self.has_ceased) = (true, true);
    }

    /// Whether the control thread has said that the core is to end.
    pub(crate) fn has_ceased(&self) -> bool {
        self.has_ceased
    }

    /// Whether the control thread hears nothing of this core any more.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// The clients have left and everything is where it was promised to be; it is said once.
    pub(crate) fn say_drained(&mut self) {
        if !core::mem::replace(&mut self.has_said_drained, true) {
            self.tell(ToControl::Drained { core: self.core });
        }
    }

    pub(super) fn tell(&mut self, mail: ToControl) {
        if let Err(error) = self.to_control.try_send(mail) {
            // It has room for all that may be outstanding; when the control thread ends, so does this core.
            tracing::error!(core = self.core.0, %error, "the control thread does not take what this core says");
            (self.has_ended, self.is_cut_off) = (true, true);
        }
    }
}
