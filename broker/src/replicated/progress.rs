//! What a core says of its replicas, and what they say of how far its logs have got.

use super::control_mail::{Others, PartitionProgress, ToControl};
use super::replicas::{Ground, Own, Replicas};
use crate::service::AckToken;
use ringlane_dataplane::partition::Partition;

impl Own {
    fn progress(&self, partition: &Partition<AckToken>) -> PartitionProgress {
        let (replica, marks) = (self.host.replica(), partition.marks());
        let follower = |node| (node, replica.acknowledged(node));
        PartitionProgress {
            partition: self.partition,
            role: replica.role(),
            is_leading: self.leads.is_some() && self.recovery.is_none(),
            epoch: replica.epoch(),
            leader: replica.leader(),
            start: marks.start,
            next: marks.accepted,
            flushed: marks.flushed,
            quorum_accepted: replica.quorum_accepted(),
            high_watermark: replica.high_watermark(),
            applied: self.host.applied(),
            followers: self.peers.nodes().map(follower).collect(),
            is_damaged: replica.damage().is_some(),
            has_failed: partition.log().is_some_and(|log| log.fault().is_some()),
        }
    }
}

impl Replicas {
    /// Tells the control thread how the replicas are. That is left out while it is busy: it comes again.
    pub(super) fn tell_progress(&self, ground: &Ground<'_>) {
        if self.to_control.capacity() * 2 < self.to_control.max_capacity() {
            return;
        }
        let all = self.own.iter().zip(ground.partitions.iter());
        let partitions = all.map(|(own, partition)| own.progress(partition)).collect();
        let others = self.elect.as_ref().map(|elect| Others {
            heard: elect.election.heard(ground.now).collect(),
            ready: elect.election.ready(ground.now).collect(),
        });
        // One that gets lost is not missed.
        let _sent = self.to_control.try_send(ToControl::Progress { partitions, others });
    }

    /// Whether everything that was accepted is where it was promised to be.
    pub(crate) fn are_committed(&self, partitions: &[Partition<AckToken>]) -> bool {
        let all = self.own.iter().zip(partitions);
        let is_committed = |partition: &Partition<AckToken>| {
            let marks = partition.marks();
            marks.high_watermark == marks.accepted
        };
        all.into_iter().all(|(_, partition)| is_committed(partition))
    }
}
