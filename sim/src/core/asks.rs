//! What the replicas of a node ask for, and cannot do themselves.

use super::disk::OwnJob;
use super::{Core, Output, Time};
use crate::counters::Counter;
use crate::node::{CLUSTER, log_setup, open_log};
use ringlane_dataplane::ids::{NodeId, Offset, PartitionId};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::log::format::SegmentId;
use ringlane_dataplane::log::scan::LogOwner;
use ringlane_dataplane::log::segments::LogSetup;
use ringlane_dataplane::log::truncate::truncate;
use ringlane_dataplane::log::writer::Writer;
use ringlane_dataplane::replication::command::{Errand, Refusal};
use ringlane_dataplane::replication::host::Ask;

/// Why a checkpoint is wrong here.
const NO_CHECKPOINT: &str = "nothing is trimmed here, and nobody needs a checkpoint";

impl Core {
    pub(super) fn do_asks(&mut self, links: &mut Links, time: Time) {
        while let Some((partition, ask)) = self.asks.pop_front() {
            self.do_ask(links, partition, ask, time);
        }
    }

    pub(super) fn do_ask(&mut self, links: &mut Links, partition: usize, ask: Ask, time: Time) {
        match ask {
            Ask::Errand(errand) => self.do_errand(links, partition, errand, time),
            Ask::Truncate { to } => self.truncate(links, partition, to.0, time),
            Ask::Lead { epoch, start } => {
                self.has_led = true;
                self.outputs.push(Output::Count(Counter::LeaderChange));
                self.outputs.push(Output::Leads(partition, epoch, start.0));
            }
            Ask::Marks { high_watermark, .. } => {
                self.outputs.push(Output::Marks(partition, high_watermark.0));
            }
            Ask::Lost(error) => self.fail(format!("records cannot be read: {error}")),
            Ask::Follow { .. } if self.has_led => self.outputs.push(Output::BeginsAgain),
            Ask::Follow { .. } => {}
            Ask::Replace { .. } => self.fail(NO_CHECKPOINT.to_owned()),
        }
    }

    pub(super) fn do_errand(
        &mut self,
        links: &mut Links,
        partition: usize,
        errand: Errand,
        time: Time,
    ) {
        match errand {
            Errand::PersistEpoch(reign) => self.give(OwnJob::Epoch(partition, reign)),
            // Nobody writes into another's memory here: what was not received is not seen.
            Errand::Revoke { .. } => {
                self.with_host(partition, time, links, |host, turn, around| {
                    host.with_replica(turn, around, |replica| replica.on_revoked());
                });
            }
            Errand::ClearDamage => self.give(OwnJob::ClearDamage(partition)),
            Errand::Refuse { peer: Some(peer), why } => self.on_peer_refused(links, peer, why),
            Errand::Refuse { peer: None, why } => self.on_refused(links, why, time),
            Errand::SendCheckpoint { .. } => self.fail(NO_CHECKPOINT.to_owned()),
        }
    }

    pub(super) fn truncate(&mut self, links: &mut Links, partition: usize, to: u64, time: Time) {
        let epoch = self.hosts[partition].replica().epoch();
        let setup = log_setup(partition, epoch, self.random.any());
        let owner = LogOwner { directory: CLUSTER, partition: PartitionId(partition as u32) };
        let to = Offset(to);
        let id = SegmentId(core::array::from_fn(|_| self.random.any() as u8));
        let cut = truncate(&mut self.files, &setup.directory, &owner, None, to, id);
        let opened = cut.and_then(|_| open_log(&mut self.files, &setup, &owner));
        let writer = match opened {
            Ok((recovered, _)) => {
                let setup = LogSetup { epoch: recovered.epoch, ..setup };
                Writer::new(setup, recovered.log_end())
            }
            Err(error) => return self.fail(format!("after truncation: {error}")),
        };
        self.outputs.push(Output::Count(Counter::Truncation));
        self.with_host(partition, time, links, |host, turn, around| {
            host.on_truncated(writer, turn, around);
        });
    }

    pub(super) fn on_peer_refused(&mut self, links: &mut Links, peer: NodeId, why: Refusal) {
        let is_wrong = match why {
            Refusal::Records => !self.was_corrupted,
            Refusal::BelowHighWatermark { .. } | Refusal::Credit => true,
            _ => false,
        };
        if is_wrong {
            self.fail(format!("node {} refuses node {peer}: {why}", self.node));
        }
        // One core on each node, which has all partitions: any of them names the link.
        if let Some(link) = self.lanes.link_of(peer, PartitionId(0)) {
            links.revoke(link);
        }
    }

    pub(super) fn on_refused(&mut self, links: &mut Links, why: Refusal, time: Time) {
        if let Refusal::OldEpoch { .. } = why {
            self.outputs.push(Output::Count(Counter::OldEpoch));
        }
        if let Refusal::BelowHighWatermark { .. } = why {
            self.fail(format!("node {}: {why}", self.node));
        }
        self.election.on_gave_up(time.now);
        self.step_down(links, time);
    }
}
