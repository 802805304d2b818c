//! A data directory as that of a node of a cluster: identity, key and partitions are the cluster's,
//! and its epochs come from outside.

use super::manifest::{DataDirectory, ManifestError, random};
use crate::cluster::keys::{ClusterIdentity, Id16};
use crate::cluster::membership::{Joined, Standing};
use crate::config::Config;
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::log::format::COUNT_MAX;
use ringlane_dataplane::replication::reign::Reign;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Which node of a cluster a directory is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub node: u16,
    /// Which directory: another one under the same number is told apart.
    pub instance: Id16,
    /// Whether it has yet to be filled from the others before it counts for a majority: what it had
    /// acknowledged before it was emptied is gone.
    pub is_learner: bool,
    /// Whether it has never been registered as the directory of its number: then it may become that in place of
    /// another one.
    #[serde(default)]
    pub is_new: bool,
    /// Who leads in the epoch of the manifest; 0 if nobody knows.
    #[serde(default)]
    pub leader: u16,
    /// As [`Reign::memory_epoch`].
    #[serde(default)]
    pub memory_epoch: u64,
}

impl Member {
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.node == 0 { Err("member.node is 0".to_owned()) } else { Ok(()) }
    }
}

impl DataDirectory {
    /// Opens the directory of a node of a cluster, or one that may become that.
    ///
    /// # Errors
    /// As [`DataDirectory::open`]; [`ManifestError::OtherNode`].
    pub fn open_member(
        path: &Path,
        node: NodeId,
        partitions_default: u32,
    ) -> Result<Self, ManifestError> {
        // How many partitions there are the cluster says.
        let opened = Self::open_any(path, 0, partitions_default)?;
        match &opened.manifest.member {
            Some(member) if member.node != node.0 => {
                let (path, found) = (opened.file(), member.node);
                Err(ManifestError::OtherNode { path, found, wanted: node.0 })
            }
            Some(_) | None => Ok(opened),
        }
    }

    /// What it says before the node joins its cluster.
    #[must_use]
    pub fn standing(&self, config: &Config) -> Standing {
        let mut nodes: Vec<u16> = config.cluster.members.iter().map(|member| member.node).collect();
        nodes.sort_unstable();
        let manifest = &self.manifest;
        Standing {
            identity: ClusterIdentity {
                id: Id16(manifest.id),
                hash_key: Id16(manifest.key),
                partitions: match config.runtime.partitions {
                    wanted if wanted != 0 && manifest.member.is_none() => wanted,
                    _ => manifest.partitions,
                },
                nodes,
            },
            partitions_wanted: config.runtime.partitions,
            is_member: manifest.member.is_some(),
            // No epoch has begun, so that nothing was appended.
            is_empty: manifest.epoch == 0,
        }
    }

    /// Makes it the directory of a node of the cluster that was joined: durable when this returns.
    ///
    /// # Errors
    /// If the manifest cannot be written.
    ///
    /// # Panics
    /// If it holds anything that is not the cluster's, which joining has refused.
    pub fn adopt(&mut self, joined: &Joined, node: NodeId) -> Result<(), ManifestError> {
        let identity = &joined.identity;
        if let Some(member) = &self.manifest.member {
            assert!(member.node == node.0, "a directory has changed its node");
            assert!(self.manifest.id == identity.id.0, "a directory has changed its cluster");
            return Ok(());
        }
        assert!(self.manifest.epoch == 0, "a directory with a log was taken into a cluster");
        let instance = Id16(random(&self.file())?);
        self.manifest.id = identity.id.0;
        self.manifest.key = identity.hash_key.0;
        self.manifest.partitions = identity.partitions;
        let is_learner = joined.is_learner;
        self.manifest.member = Some(Member {
            node: node.0,
            instance,
            is_learner,
            is_new: true,
            leader: 0,
            memory_epoch: 0,
        });
        self.save()
    }

    /// What it has promised.
    ///
    /// # Panics
    /// If the node is alone.
    #[must_use]
    pub fn reign(&self) -> Reign {
        let member = self.manifest.member.as_ref().expect("a node that is alone promises nothing");
        let epoch = self.manifest.epoch;
        let leader = (member.leader != 0).then_some(NodeId(member.leader));
        Reign { epoch, leader, memory_epoch: member.memory_epoch }
    }

    /// Takes a promise with an epoch from outside, at or above all before: durable when this returns, before
    /// anything is appended or answered in it.
    ///
    /// # Errors
    /// If the manifest cannot be written; then nothing may be answered in it.
    ///
    /// # Panics
    /// If it goes back, or the node is alone.
    pub fn take_promise(&mut self, reign: Reign) -> Result<(), ManifestError> {
        assert!(self.manifest.epoch <= reign.epoch, "an epoch has gone back");
        assert!(reign.epoch <= COUNT_MAX, "an epoch is beyond all that etcd gives");
        let (before, next) = (self.manifest.clone(), self.reign().and(reign));
        self.manifest.epoch = next.epoch;
        if let Some(member) = &mut self.manifest.member {
            member.leader = next.leader.map_or(0, |node| node.0);
            member.memory_epoch = next.memory_epoch;
        }
        if self.manifest == before {
            return Ok(());
        }
        // What is in memory says what is durable.
        self.save().inspect_err(|_| self.manifest = before)
    }

    /// As [`DataDirectory::take_promise`], by nobody knows whom.
    ///
    /// # Errors
    /// As there.
    pub fn take_epoch(&mut self, epoch: u64) -> Result<(), ManifestError> {
        self.take_promise(Reign { epoch, ..Reign::default() })
    }

    /// Whether it has never been registered as the directory of its number.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.manifest.member.as_ref().is_some_and(|member| member.is_new)
    }

    /// Notes that it is registered as the directory of its number: durable when this returns. Once another one
    /// takes its place it is refused for good.
    ///
    /// # Errors
    /// If the manifest cannot be written.
    pub fn end_newness(&mut self) -> Result<(), ManifestError> {
        let before = self.manifest.member.clone();
        match &mut self.manifest.member {
            Some(member) if member.is_new => member.is_new = false,
            Some(_) | None => return Ok(()),
        }
        self.save().inspect_err(|_| self.manifest.member = before)
    }

    /// Whether it has yet to be filled from the others before it counts for a majority.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.manifest.member.as_ref().is_some_and(|member| member.is_learner)
    }

    /// Notes that the node has been filled from the others, and counts from now on: durable when this
    /// returns.
    ///
    /// # Errors
    /// If the manifest cannot be written.
    pub fn end_learning(&mut self) -> Result<(), ManifestError> {
        let before = self.manifest.member.clone();
        match &mut self.manifest.member {
            Some(member) if member.is_learner => member.is_learner = false,
            Some(_) | None => return Ok(()),
        }
        self.save().inspect_err(|_| self.manifest.member = before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemberConfig;
    use crate::startup::manifest::tests::Directory;
    use std::fs;

    impl Directory {
        fn open(&self, node: u16) -> Result<DataDirectory, ManifestError> {
            DataDirectory::open_member(&self.0, NodeId(node), 4)
        }
    }

    fn joined(is_learner: bool) -> Joined {
        let identity = ClusterIdentity {
            id: Id16([1; 16]),
            hash_key: Id16([2; 16]),
            partitions: 16,
            nodes: vec![1, 2, 3],
        };
        Joined { identity, is_learner }
    }

    #[test]
    fn a_new_directory_becomes_a_node_s_and_stays_it() {
        let directory = Directory::new();
        let mut first = directory.open(2).unwrap();
        first.adopt(&joined(true), NodeId(2)).unwrap();
        let manifest = first.manifest.clone();
        assert_eq!((manifest.id, manifest.key, manifest.partitions), ([1; 16], [2; 16], 16));
        drop(first);
        let mut second = directory.open(2).unwrap();
        assert_eq!(second.manifest, manifest);
        second.adopt(&joined(false), NodeId(2)).unwrap();
        assert_eq!(second.manifest, manifest, "who is a learner stays one until it is filled");
        second.end_learning().unwrap();
        assert!(second.is_new());
        second.end_newness().unwrap();
        drop(second);
        let member = directory.open(2).unwrap().manifest.member.unwrap();
        assert!(!member.is_learner && !member.is_new);
    }

    #[test]
    fn it_is_refused_under_another_number_and_alone() {
        let directory = Directory::new();
        directory.open(2).unwrap().adopt(&joined(false), NodeId(2)).unwrap();
        let message = directory.open(3).unwrap_err().to_string();
        assert!(message.contains("set cluster.node = 2"), "{message}");
        let message = DataDirectory::open(&directory.0, 0, 4).unwrap_err().to_string();
        assert!(message.contains("cluster.members is empty"), "{message}");
        let text = fs::read_to_string(directory.0.join("manifest.json")).unwrap();
        assert!(text.contains("\"format\": 3"), "an earlier release would open it: {text}");
        let wrong = text.replace("\"node\": 2", "\"node\": 0");
        fs::write(directory.0.join("manifest.json"), wrong).unwrap();
        assert!(directory.open(2).unwrap_err().to_string().contains("member.node is 0"));
    }

    #[test]
    fn epochs_from_outside_are_durable_and_never_go_back() {
        let directory = Directory::new();
        let mut opened = directory.open(1).unwrap();
        opened.adopt(&joined(false), NodeId(1)).unwrap();
        let reign = |epoch, leader, memory_epoch| {
            let leader = (leader > 0).then_some(NodeId(leader));
            Reign { epoch, leader, memory_epoch }
        };
        for (taken, holds) in [
            (reign(7, 0, 0), reign(7, 0, 0)),
            (reign(7, 2, 7), reign(7, 2, 7)),
            (reign(7, 3, 0), reign(7, 2, 7)),
            (reign(900, 1, 7), reign(900, 1, 7)),
            (reign(901, 0, 0), reign(901, 0, 7)),
        ] {
            opened.take_promise(taken).unwrap();
            assert_eq!(opened.reign(), holds);
            let manifest = super::super::manifest::peek(&directory.0).unwrap();
            assert_eq!(manifest, opened.manifest);
        }
        let back = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = opened.take_promise(reign(900, 1, 0));
        }));
        assert!(back.is_err());
    }

    #[test]
    fn a_directory_says_where_it_stands() {
        let directory = Directory::new();
        let mut config = Config::default();
        let member = |node| MemberConfig { node, ..MemberConfig::default() };
        config.cluster.members = vec![member(3), member(1), member(2)];
        let mut opened = directory.open(1).unwrap();
        let standing = opened.standing(&config);
        assert!(standing.is_empty && !standing.is_member);
        assert_eq!((standing.identity.nodes, standing.identity.partitions), (vec![1, 2, 3], 4));
        config.runtime.partitions = 32;
        assert_eq!(opened.standing(&config).identity.partitions, 32, "a new cluster gets it");
        opened.adopt(&joined(false), NodeId(1)).unwrap();
        opened.take_epoch(5).unwrap();
        let standing = opened.standing(&config);
        assert!(!standing.is_empty && standing.is_member);
        assert_eq!(standing.identity.partitions, 16);
    }

    #[test]
    fn a_node_that_was_alone_stays_as_it_is() {
        let directory = Directory::new();
        DataDirectory::open(&directory.0, 0, 4).unwrap().begin_epoch(0).unwrap();
        let text = fs::read_to_string(directory.0.join("manifest.json")).unwrap();
        assert!(text.contains("\"format\": 2") && !text.contains("member"), "{text}");
        let opened = directory.open(1).unwrap();
        assert!(!opened.standing(&Config::default()).is_empty);
    }
}
