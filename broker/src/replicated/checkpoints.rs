//! Checkpoints of the replicas of a core: those that followers write, what they trim behind them, and those that go from
//! node to node.

use super::control_mail::{Learned, ToControl};
use super::replicas::{Ground, Own, Replicas};
use crate::durable::{Followed, Kept, Standby};
use crate::metrics::CoreMetrics;
use crate::service::AckToken;
use ringlane_dataplane::disk::DiskEvent;
use ringlane_dataplane::ids::{NodeId, Offset, PartitionId};
use ringlane_dataplane::partition::Partition;
use ringlane_dataplane::replication::host::Source;
use ringlane_dataplane::replication::message::CheckpointStart;
use ringlane_dataplane::time::Nanos;

/// What a leader keeps of a log for its followers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    /// From here on those lack records that get them now.
    pub(crate) in_touch: Offset,
    /// And those that are away.
    pub(crate) away: Offset,
}

impl Held {
    /// Nobody else has the log.
    pub(crate) const NOTHING: Self = Self { in_touch: Offset(u64::MAX), away: Offset(u64::MAX) };
}

impl Own {
    fn held(&self) -> Held {
        let mut held = Held::NOTHING;
        let lacks = self.peers.nodes().filter_map(|node| self.host.replica().lacks(node));
        for (from, is_in_touch) in lacks {
            let of = if is_in_touch { &mut held.in_touch } else { &mut held.away };
            *of = from.min(*of);
        }
        held
    }

    /// Once a second: a follower trims its log, and looks whether a checkpoint is due. Segments that went.
    fn look_after(&mut self, index: usize, bytes_max: u64, ground: &mut Ground<'_>) -> usize {
        let (Some(recovery), Some(checkpoints)) = (&mut self.recovery, &mut self.checkpoints)
        else {
            return 0;
        };
        let trimmed = self.host.replica().trimmed_by_leader();
        // Whoever truncates it has the files.
        let log = ground.partitions[index].log_mut().filter(|_| self.host.has_open_log());
        let Some(log) = log else { return 0 };
        let (below, before) = (checkpoints.trim_as_follower(log, trimmed), log.segments().count());
        if log.marks().start < below {
            log.trim(below);
            recovery.trim_epochs(log.marks().start);
        }
        let gone = before - log.segments().count();
        if log.fault().is_none() && !self.host.is_replacing() {
            let applied = self.host.applied();
            let follower = Followed { index, recovery, applied, log };
            checkpoints.look_as_follower(ground.now, &follower, (trimmed, bytes_max), ground.disk);
        }
        gone
    }

    /// Goes on with the checkpoint in the making; when it is to go on without an event.
    fn make(&mut self, index: usize, ground: &mut Ground<'_>) -> Nanos {
        let (Some(recovery), Some(checkpoints)) = (&self.recovery, &mut self.checkpoints) else {
            return Nanos::NEVER;
        };
        // Without what could not be read the state is not whole: a checkpoint of it would hide that from the next process.
        if self.host.is_replacing() || !self.host.has_open_log() || self.has_lost {
            checkpoints.give_up_as_follower(index, ground.disk);
            return Nanos::NEVER;
        }
        let applied = self.host.applied();
        let Some(log) = ground.partitions[index].log() else { return Nanos::NEVER };
        let follower = Followed { index, recovery, applied, log };
        checkpoints.make_as_follower(ground.now, &follower, ground.disk)
    }
}

impl Replicas {
    /// End of turn: what is due of the checkpoints of followers, and of what they trim.
    pub(super) fn keep_checkpoints(&mut self, ground: &mut Ground<'_>) {
        let is_second = self.progress_at <= ground.now;
        let bytes_max = self.checkpoint_size;
        self.checkpoints_at = Nanos::NEVER;
        for (index, own) in self.own.iter_mut().enumerate() {
            if is_second && !self.has_ended {
                self.trimmed += own.look_after(index, bytes_max, ground);
            }
            self.checkpoints_at = self.checkpoints_at.min(own.make(index, ground));
        }
    }

    /// Something that a follower's checkpoint asked of the disk has ended.
    pub(super) fn on_checkpoint_event(
        &mut self,
        ground: &mut Ground<'_>,
        index: usize,
        event: &DiskEvent,
        metrics: &CoreMetrics,
    ) {
        let Some(own) = self.own.get_mut(index) else { return };
        let place = (index, own.partition.0);
        if let Some(checkpoints) = &mut own.checkpoints {
            checkpoints.on_event_as_follower(
                place,
                event,
                ground.now,
                (&mut *ground.disk, metrics),
            );
        }
    }

    /// Segments that were trimmed since this was asked.
    pub(super) fn take_trimmed(&mut self) -> u64 {
        core::mem::take(&mut self.trimmed) as u64
    }

    /// The newest checkpoint of a replica that follows.
    pub(super) fn checkpoint_of(&self, index: usize) -> Option<&Kept> {
        self.own[index].checkpoints.as_ref()?.newest_kept()
    }

    // ---- from node to node ----

    /// Nodes that need a checkpoint, with the places of partitions, of a core that leads already: its broker has them.
    pub(crate) fn take_lacking(&mut self, into: &mut Vec<(usize, NodeId)>) {
        into.append(&mut self.lacking);
    }

    /// A core that is about to lead still has its checkpoints.
    pub(super) fn send_known_checkpoints(&mut self, ground: &mut Ground<'_>) {
        for (index, peer) in core::mem::take(&mut self.lacking) {
            if self.own[index].checkpoints.is_none() {
                self.lacking.push((index, peer));
            } else if let Some(kept) = self.checkpoint_of(index).cloned() {
                self.send_checkpoint(ground, (index, peer), &kept);
            }
        }
    }

    /// Sends a checkpoint to a node that needs it.
    pub(crate) fn send_checkpoint(
        &mut self,
        ground: &mut Ground<'_>,
        (index, peer): (usize, NodeId),
        kept: &Kept,
    ) {
        let Kept { from, path, bytes } = kept.clone();
        tracing::info!(
            partition = self.own[index].partition.0,
            node = peer.0,
            bytes,
            offset = from.offset.0,
            "a node lacks what this log does not keep any more: it gets a checkpoint, and then the log"
        );
        let source = Source { path, bytes, next: from.offset };
        self.with_host(index, ground, |host, turn, _| host.send_checkpoint(peer, &source, turn));
    }

    /// A checkpoint came whole: it takes the place of a log and its state, elsewhere.
    pub(super) fn replace(&mut self, index: usize, start: CheckpointStart) {
        let own = &mut self.own[index];
        let (core, partition) = (self.core, own.partition);
        let recovery = own.recovery.take();
        own.checkpoints = None;
        // What is made of the states of all partitions of the core is made anew.
        (self.is_warm, self.has_said_ready) = (false, false);
        let Standby { routes, .. } = self.take_standby();
        let before = Box::new((recovery, routes));
        self.tell(ToControl::Replace { core, partition, start, before });
    }

    pub(super) fn on_replaced(
        &mut self,
        ground: &mut Ground<'_>,
        partition: PartitionId,
        learned: Learned,
    ) {
        let Some(index) = self.place_of(partition).filter(|_| !self.has_ended) else { return };
        let Learned { writer, recovery, checkpoints } = learned;
        let own = &mut self.own[index];
        (own.recovery, own.checkpoints) = (Some(recovery), Some(checkpoints));
        own.has_lost = false;
        self.with_host(index, ground, |host, turn, around| host.on_reset(writer, turn, around));
    }

    // ---- what a leader keeps ----

    /// What the log of the partition at this place is kept for, beside all else.
    pub(crate) fn held(&self, index: usize) -> Held {
        self.own[index].held()
    }
}

/// Up to where a log may be trimmed, as far as its followers go. For those in touch all is kept that they lack, unless the disk
/// is full; for those that are away no more than `bytes_max`. Whoever lacks more gets a checkpoint.
pub(crate) fn kept_for_followers(
    held: Held,
    partition: &Partition<AckToken>,
    bytes_max: u64,
) -> Offset {
    let Some(log) = partition.log() else { return Offset(u64::MAX) };
    let mut bytes = 0;
    let sealed = log.segments().sealed().iter().rev();
    let kept = sealed.take_while(|sealed| {
        bytes += sealed.file_bytes;
        bytes <= bytes_max
    });
    let first = kept.last().map(|sealed| sealed.base);
    let away = held.away.max(first.unwrap_or(log.marks().flushed));
    let in_touch = if log.full().is_some() { Offset(u64::MAX) } else { held.in_touch };
    in_touch.min(away)
}
