//! How a node of a cluster is, as its control plane shows it and `ringlane cluster status` reads it.

use super::streams::StreamsDiffer;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a node is to its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It copies the leader's logs, and passes clients on.
    #[default]
    Follower,
    /// It serves the clients of the cluster.
    Leader,
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "follower",
            Self::Leader => "leader",
        })
    }
}

/// A node, as far as it knows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Its number.
    pub node: u16,
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: NodeRole,
    /// The newest epoch that it knows.
    pub epoch: u64,
    /// Who leads in it; `None` while nobody is known to.
    pub leader: Option<u16>,
    /// That node's name.
    pub leader_name: Option<String>,
    /// Whether it has yet to be filled from the others before it counts for a majority.
    pub is_learner: bool,
    /// Why etcd does not answer it, if it does not.
    pub etcd_trouble: Option<String>,
    /// The other nodes that it hears.
    #[serde(default)]
    pub heard: Vec<u16>,
    /// That those are too few for a majority, if they are.
    #[serde(default)]
    pub no_majority: Option<String>,
    /// Why it cannot lead until it is started again, if that is so.
    #[serde(default)]
    pub cannot_lead: Option<String>,
    /// Nodes that run with other streams: what is promised changes with the leader.
    #[serde(default)]
    pub streams_differ: Vec<StreamsDiffer>,
    /// Nodes that could lead at once, as they have told this one.
    #[serde(default)]
    pub ready: Vec<u16>,
    /// How often its cores have begun again since the process started.
    pub begun_again: u64,
    /// Its replicas, by partition; each a second old at most, empty before the first of them said how it is.
    pub partitions: Vec<PartitionStatus>,
}

/// One replica. Offsets are exclusive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its partition.
    pub partition: u32,
    /// `follower`, `candidate` or `leader`.
    pub role: String,
    /// The epoch that is durable.
    pub epoch: u64,
    /// Who leads it, as far as it knows.
    pub leader: Option<u16>,
    /// First offset that is kept.
    pub start: u64,
    /// Behind the last record.
    pub next: u64,
    /// Durable here up to this offset.
    pub flushed: u64,
    /// In the logs of a majority, as a leader knows: what `quorum_memory` is acknowledged by.
    #[serde(default)]
    pub quorum_accepted: u64,
    /// Durable on a majority.
    pub high_watermark: u64,
    /// In the state of the node up to this offset.
    pub applied: u64,
    /// Of a leader: the other nodes.
    pub followers: Vec<FollowerStatus>,
    /// Whether it lacks what its log once held.
    pub is_damaged: bool,
    /// Whether its log has failed.
    pub has_failed: bool,
}

/// What a leader knows of a follower of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// Its number.
    pub node: u16,
    /// What it has in memory at least; `None` likewise.
    #[serde(default)]
    pub accepted: Option<u64>,
    /// What it has durably; `None` if it is not in step: away, or being brought up to date.
    pub flushed: Option<u64>,
    /// Records that it does not have durably.
    pub lag: u64,
}

/// What a leader knows of a follower in all partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct FollowerLag {
    /// Its number.
    pub node: u16,
    /// Partitions in which it is in step.
    pub in_step: u64,
    /// Records that it does not have durably, of all partitions.
    pub lag: u64,
    /// Whether it could lead at once, as it says.
    pub is_ready: bool,
}

impl ClusterStatus {
    /// Whether its clients are served here.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.role == NodeRole::Leader
    }

    /// The other nodes as a leader sees them, by number.
    #[must_use]
    pub fn followers(&self) -> Vec<FollowerLag> {
        let mut found: Vec<FollowerLag> = Vec::new();
        for follower in self.partitions.iter().flat_map(|partition| &partition.followers) {
            let at = found.iter().position(|known| known.node == follower.node);
            let at = at.unwrap_or_else(|| {
                let node = follower.node;
                let is_ready = self.ready.contains(&node);
                found.push(FollowerLag { node, in_step: 0, lag: 0, is_ready });
                found.len() - 1
            });
            found[at].in_step += u64::from(follower.flushed.is_some());
            found[at].lag += follower.lag;
        }
        found.sort_by_key(|follower| follower.node);
        found
    }

    /// Replicas that lack what their logs once held, and those whose logs have failed.
    #[must_use]
    pub fn ill(&self) -> (u64, u64) {
        let count = |is: fn(&PartitionStatus) -> bool| {
            self.partitions.iter().filter(|partition| is(partition)).count() as u64
        };
        (count(|partition| partition.is_damaged), count(|partition| partition.has_failed))
    }

    /// Who leads, in words.
    #[must_use]
    pub fn leader_text(&self) -> String {
        let name = self.leader_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        match self.leader {
            None => "nobody is known to lead".to_owned(),
            Some(node) if node == self.node => format!("this node{name} leads"),
            Some(node) => format!("node {node}{name} leads"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn leader_of_two_partitions() -> ClusterStatus {
        let partition = |partition, lag: Option<u64>| PartitionStatus {
            partition,
            role: "leader".to_owned(),
            epoch: 7,
            leader: Some(1),
            start: 0,
            next: 100,
            flushed: 100,
            quorum_accepted: 100,
            high_watermark: 100,
            applied: 100,
            followers: vec![
                FollowerStatus { node: 3, accepted: None, flushed: None, lag: 100 },
                FollowerStatus {
                    node: 2,
                    accepted: lag.map(|_| 100),
                    flushed: lag.map(|lag| 100 - lag),
                    lag: lag.unwrap_or(100),
                },
            ],
            is_damaged: false,
            has_failed: false,
        };
        ClusterStatus {
            node: 1,
            name: "a".to_owned(),
            role: NodeRole::Leader,
            epoch: 7,
            leader: Some(1),
            leader_name: Some("a".to_owned()),
            heard: vec![2],
            ready: vec![2],
            partitions: vec![partition(0, Some(0)), partition(1, Some(5))],
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn followers_are_summed_over_partitions() {
        let status = leader_of_two_partitions();
        let two = FollowerLag { node: 2, in_step: 2, lag: 5, is_ready: true };
        let three = FollowerLag { node: 3, in_step: 0, lag: 200, is_ready: false };
        assert_eq!(status.followers(), [two, three]);
        assert_eq!(status.ill(), (0, 0));
        assert_eq!(status.leader_text(), "this node (a) leads");
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let status = leader_of_two_partitions();
        let text = serde_json::to_string(&status).unwrap();
        assert!(text.contains("\"role\":\"leader\""), "{text}");
        assert_eq!(serde_json::from_str::<ClusterStatus>(&text).unwrap(), status);
    }
}
