//! What a node keeps of its own, beside the logs: promised epochs, and that a log is damaged.

use super::{Core, Output, Time};
use crate::counters::Counter;
use crate::node::{damage_path, epoch_path, reign_bytes};
use core::time::Duration;
use ringlane_dataplane::disk::{DiskCommand, DiskEvent, DiskToken, FileDriver, FileJob};
use ringlane_dataplane::link::Links;
use ringlane_dataplane::replication::reign::Reign;

/// The tag of what the node itself asks of its disk; lower than those of the logs.
const NODE_TAG: u64 = 1;
/// A write of the node's own that failed is tried again after that.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// What the node has asked of its disk, for one partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OwnJob {
    Epoch(usize, Reign),
    ClearDamage(usize),
}

impl Core {
    pub(super) fn on_disk(&mut self, links: &mut Links, event: DiskEvent, time: Time) {
        if event.token.0 >> 32 == NODE_TAG {
            return self.on_own_job(links, &event, time);
        }
        if let Some(partition) = self.hosts.iter().position(|host| host.owns(&event)) {
            self.with_host(partition, time, links, |host, turn, around| {
                host.on_disk(event, turn, around);
            });
        }
    }

    pub(super) fn give(&mut self, job: OwnJob) {
        self.jobs_given += 1;
        let token = NODE_TAG << 32 | self.jobs_given;
        let work = match job {
            OwnJob::Epoch(partition, reign) => {
                let content = reign_bytes(&reign);
                FileJob::Replace { path: epoch_path(partition), content }
            }
            OwnJob::ClearDamage(partition) => {
                FileJob::Remove { paths: vec![damage_path(partition)] }
            }
        };
        self.jobs.push((token, job));
        self.disk.push(DiskCommand::Job { token: DiskToken(token), job: work });
    }

    pub(super) fn on_own_job(&mut self, links: &mut Links, event: &DiskEvent, time: Time) {
        let Some(at) = self.jobs.iter().position(|(token, _)| *token == event.token.0) else {
            return;
        };
        let (_, job) = self.jobs.swap_remove(at);
        if event.result.is_err() {
            self.again.push((time.now + RETRY_AFTER, job));
            return;
        }
        let (OwnJob::Epoch(partition, _) | OwnJob::ClearDamage(partition)) = job;
        self.with_host(partition, time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| match job {
                OwnJob::Epoch(_, reign) => replica.on_epoch_durable(reign.epoch),
                OwnJob::ClearDamage(_) => replica.on_damage_cleared(),
            });
        });
        if let OwnJob::ClearDamage(_) = job {
            self.outputs.push(Output::Count(Counter::Repaired));
        }
    }

    /// Completions of the disk, as many as `events_max`.
    pub fn complete(&mut self, links: &mut Links, time: Time, events_max: usize) {
        let mut events = Vec::new();
        let mut files = self.files.clone();
        files.complete(&mut self.disk, events_max, &mut |_, event| events.push(event));
        for event in events {
            self.on_disk(links, event, time);
        }
        self.do_asks(links, time);
    }
}
