//! What a broker does for the replicas of its partitions, where its node is one of a cluster.

use super::checkpoints::kept_for_followers;
use super::control_mail::ToCore;
use super::mail::CoreMail;
use super::replicas::{Ground, Replicas};
use crate::service::{Broker, Turn};
use ringlane_dataplane::disk::DiskEvent;
use ringlane_dataplane::ids::{CoreId, Offset};
use ringlane_dataplane::link::LinkEvent;
use ringlane_dataplane::time::Nanos;

impl Broker {
    /// Lets the replicas do something; `None` on a node by itself.
    fn with_replicas<R>(
        &mut self,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Replicas, &mut Ground<'_>) -> R,
    ) -> Option<R> {
        let unix_ms = self.unix_ms(turn.now);
        let Self { replicas, partitions, batches, .. } = self;
        let replicas = replicas.as_deref_mut()?;
        Some(act(replicas, &mut Ground::new(turn, unix_ms, batches, partitions)))
    }

    /// Something happened to a link to another node.
    pub(crate) fn on_link_event(&mut self, turn: &mut Turn<'_>, event: LinkEvent<'_>) {
        self.with_replicas(turn, |replicas, ground| replicas.on_link(ground, event));
        self.note_risen(turn);
    }

    /// Another core says something of replicas.
    pub(crate) fn on_core_mail(&mut self, turn: &mut Turn<'_>, from: CoreId, mail: CoreMail) {
        self.with_replicas(turn, |replicas, ground| replicas.on_core_mail(ground, from, mail));
    }

    /// The control thread says something of the cluster.
    pub(crate) fn on_cluster_mail(&mut self, turn: &mut Turn<'_>, mail: ToCore) {
        if let ToCore::End { moved_to } = mail {
            if let Some(replicas) = &mut self.replicas {
                replicas.cease();
            }
            return self.drain_deposed(turn, moved_to);
        }
        self.with_replicas(turn, |replicas, ground| replicas.on_control(ground, mail));
    }

    /// Something that a replica asked of the disk has ended.
    pub(crate) fn on_host_event(&mut self, turn: &mut Turn<'_>, number: u32, event: DiskEvent) {
        let done =
            self.with_replicas(turn, |replicas, ground| replicas.on_disk(ground, number, event));
        let Some((index, flushed)) = done else { return };
        self.after_log_event(turn, index, flushed);
        self.note_risen(turn);
    }

    /// What more of the logs is committed than before is read by those who wait for it.
    fn note_risen(&mut self, turn: &mut Turn<'_>) {
        let Some(replicas) = &mut self.replicas else { return };
        let mut risen = core::mem::take(&mut self.risen);
        replicas.take_risen(&mut risen);
        for index in risen.drain(..) {
            self.on_committed_up(turn, index);
        }
        self.risen = risen;
    }

    /// End of turn for the replicas and their logs: when they have something to do next, and `None` on a
    /// node by itself.
    pub(crate) fn end_turn_of_replicas(&mut self, turn: &mut Turn<'_>) -> Option<Nanos> {
        self.with_replicas(turn, |replicas, ground| replicas.end_turn(ground))?;
        self.note_risen(turn);
        self.send_checkpoints(turn);
        let Self { replicas, partitions, .. } = self;
        replicas.as_ref().map(|replicas| replicas.next_deadline(partitions))
    }

    /// Up to where a log may be trimmed, as far as other nodes go.
    pub(crate) fn kept_for_followers(&self, index: usize) -> Offset {
        let Some(replicas) = self.replicas.as_deref() else { return Offset(u64::MAX) };
        let bytes_max =
            self.config.replication.keep_for_absent / u64::from(self.placement.partitions().max(1));
        kept_for_followers(replicas.held(index), &self.partitions[index], bytes_max)
    }

    /// Sends checkpoints to the nodes that need them; one that is not there yet is made, and asked for again.
    fn send_checkpoints(&mut self, turn: &mut Turn<'_>) {
        let mut lacking = Vec::new();
        if let Some(replicas) = &mut self.replicas {
            replicas.take_lacking(&mut lacking);
        }
        for (index, peer) in lacking {
            match self.newest_checkpoint(turn.now, index) {
                Some(kept) => {
                    self.with_replicas(turn, |replicas, ground| {
                        replicas.send_checkpoint(ground, (index, peer), &kept);
                    });
                }
                None => tracing::info!(
                    partition = self.partitions[index].id().0,
                    node = peer.0,
                    "a node needs a checkpoint of a partition, and there is none yet: it is made"
                ),
            }
        }
    }

    /// The clients have left and the logs are quiet: whether this core may stop. In a cluster the control
    /// thread is told first, once everything is where it was promised to be, and says when.
    pub(crate) fn may_stop(&mut self) -> bool {
        let Self { replicas, partitions, .. } = self;
        let Some(replicas) = replicas else { return true };
        if replicas.has_ceased() {
            return true;
        }
        if replicas.are_committed(partitions) {
            replicas.say_drained();
        }
        false
    }

    /// Whether nobody hears this core any more.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.replicas.as_ref().is_some_and(|replicas| replicas.is_cut_off())
    }
}
