//! Who leads: the election of a node, and what it has the replicas do.

use super::{Core, Output, Time};
use crate::counters::Counter;
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::link::Links;
use ringlane_dataplane::replication::election;
use ringlane_dataplane::replication::host::Host;
use ringlane_dataplane::replication::replica::RoleKind;

impl Core {
    /// Etcd gave an epoch.
    pub fn on_epoch_given(&mut self, epoch: u64, time: Time) {
        if epoch <= self.election.epoch() {
            self.outputs.push(Output::Count(Counter::OldEpoch));
        }
        self.election.on_epoch_given(epoch, time.now);
    }

    /// Etcd has given another epoch to another node, or says nothing.
    pub fn on_epoch_refused(&mut self, newer: Option<(u64, NodeId)>, time: Time) {
        if let Some((epoch, leader)) = newer {
            self.election.on_epoch_seen(epoch, Some(leader), time.now);
        }
        self.election.on_epoch_refused(time.now);
    }

    pub(super) fn step_down(&mut self, links: &mut Links, time: Time) {
        self.with_all(time, links, |host, turn, around| {
            host.with_replica(turn, around, |replica| replica.step_down());
        });
    }

    /// Lets the election know how the replicas are, and does what it asks for.
    pub(super) fn elect(&mut self, links: &mut Links, time: Time) {
        for host in &self.hosts {
            let replica = host.replica();
            self.election.on_epoch_seen(replica.epoch(), replica.leader(), time.now);
        }
        self.election.set_eligible(self.hosts.iter().all(|host| host.replica().damage().is_none()));
        if let Some(epoch) = self.campaigns {
            let follows = |host: &Host| host.replica().role() == RoleKind::Follower;
            if self.hosts.iter().any(follows) {
                self.campaigns = None;
                self.election.on_gave_up(time.now);
            } else if self.hosts.iter().all(Host::is_leading) {
                self.election.on_leading(epoch, time.now);
            }
        }
        self.election.end_turn(time.now);
        let mut commands = Vec::new();
        self.election.take_commands(&mut commands);
        for command in commands {
            self.do_elect(links, command, time);
        }
        self.do_asks(links, time);
    }

    pub(super) fn do_elect(&mut self, links: &mut Links, command: election::Command, time: Time) {
        match command {
            election::Command::Send { to, message } => self.say(links, to, &message),
            election::Command::AskForEpoch { observed } => {
                self.outputs.push(Output::AskForEpoch(observed));
            }
            election::Command::Campaign { epoch } => {
                self.campaigns = Some(epoch);
                self.with_all(time, links, |host, turn, around| {
                    host.with_replica(turn, around, |replica| replica.campaign(epoch));
                });
            }
            election::Command::StepDown => {
                self.campaigns = None;
                self.step_down(links, time);
            }
        }
    }
}
