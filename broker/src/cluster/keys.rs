//! The keys of a cluster and their values.
//!
//! | key | value | lease |
//! | --- | --- | --- |
//! | `cluster` | who the cluster is: never changed once it is there | |
//! | `nodes/{number}` | a node that runs | the node's |
//! | `directories/{number}` | the data directory that counts for a number | |
//! | `leader` | who leads; the revision that wrote it is the epoch | |
//! | `transfer`, `transferred` | what an operator wants of the leader, and what came of it ([`orders`](super::orders)) | the operator's |
//!
//! `leader` has no lease: it stays when its node has gone, so that whoever takes over does it against
//! a revision that only grows, and so that an etcd that was put back in time shows. `directories/` stays, too: a
//! directory that was replaced is refused for good, however long nobody runs under its number.

use super::metadata::{KeyValue, LeaseId, Snapshot};
use super::orders::{Transfer, Transferred};
use super::streams::StreamsRecord;
use ringlane_dataplane::ids::NodeId;
use ringlane_dataplane::replication::hello::DirectoryTag;
use serde::{Deserialize, Serialize};
use std::fmt;

pub(super) const CLUSTER: &str = "cluster";
pub(super) const LEADER: &str = "leader";
pub(super) const TRANSFER: &str = "transfer";
pub(super) const TRANSFERRED: &str = "transferred";
const NODES: &str = "nodes/";
const DIRECTORIES: &str = "directories/";

pub(super) fn node_key(node: NodeId) -> String {
    format!("{NODES}{node}")
}

pub(super) fn directory_key(node: NodeId) -> String {
    format!("{DIRECTORIES}{node}")
}

/// The form of the values; a later one is refused.
const FORMAT: u32 = 1;

/// Sixteen bytes, 32 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id16(pub [u8; 16]);

impl Id16 {
    /// What hellos carry of it.
    #[must_use]
    pub fn tag(self) -> DirectoryTag {
        let [a, b, c, d, e, f, ..] = self.0;
        DirectoryTag([a, b, c, d, e, f])
    }
}

impl fmt::Display for Id16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Id16 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id16 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = crate::startup::manifest::parse_digits(&text);
        parsed.map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("\"{text}\" is not 32 hexadecimal digits"))
        })
    }
}

/// Who a cluster is. Every node's manifest has the same identity.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// The identity of every data directory of the cluster, which all records are bound to.
    pub id: Id16,
    /// Key of the hash of client identifiers (SipHash).
    pub hash_key: Id16,
    /// Partitions of the cluster.
    pub partitions: u32,
    /// The numbers of its nodes, ascending: all of them count for a quorum.
    pub nodes: Vec<u16>,
}

/// A node that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its number.
    pub node: u16,
    /// Its name.
    pub name: String,
    /// Which data directory: tells two nodes with one number apart.
    pub instance: Id16,
    /// Host and port of its replication.
    pub address: String,
    /// Host and port for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_address: Option<String>,
    /// Of its program.
    pub version: String,
    /// Where other nodes pass clients on to it.
    #[serde(default)]
    pub proxied: ProxiedAt,
    /// Where its control plane answers HTTP: what a node knows of its partitions it says there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// What it promises if it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamsRecord>,
}

/// Where a node takes clients that another one passes on, with the PROXY protocol before the client's
/// bytes: an address and port for each kind of listener that it has.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ProxiedAt {
    /// MQTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<String>,
    /// MQTT over WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<String>,
}

/// Who leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    /// Its number.
    pub node: NodeId,
    /// Its epoch: the revision of the transaction that made it the leader.
    pub epoch: u64,
    /// Which try to become the leader this was; random.
    pub(super) claim: Id16,
}

/// The data directory that counts for a number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Directory {
    /// The number.
    pub node: NodeId,
    /// Which one, by [`NodeRecord::instance`]; `None`: the one that was is replaced, and the next empty one will be it.
    pub instance: Option<Id16>,
    /// The revision that said so.
    pub(super) modified: u64,
}

impl Directory {
    /// What the hellos of this directory carry; zeros if there is none.
    #[must_use]
    pub fn tag(&self) -> DirectoryTag {
        self.instance.map(Id16::tag).unwrap_or_default()
    }
}

#[derive(Serialize, Deserialize)]
struct DirectoryValue {
    instance: Option<Id16>,
}

/// The value of `directories/{number}`.
pub(super) fn directory_value(instance: Option<Id16>) -> Vec<u8> {
    text(&DirectoryValue { instance })
}

#[derive(Serialize, Deserialize)]
struct LeaderValue {
    node: u16,
    claim: Id16,
}

/// The value of `leader`.
pub(super) fn leader_value(node: NodeId, claim: Id16) -> Vec<u8> {
    text(&LeaderValue { node: node.0, claim })
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    format: u32,
    #[serde(flatten)]
    value: T,
}

pub(super) fn identity_value(identity: &ClusterIdentity) -> Vec<u8> {
    text(&Versioned { format: FORMAT, value: identity })
}

pub(super) fn node_value(record: &NodeRecord) -> Vec<u8> {
    text(record)
}

pub(super) fn text(value: &impl Serialize) -> Vec<u8> {
    // These types have nothing that JSON cannot say.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A node that runs, and the lease that shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Present {
    /// What it says of itself.
    pub record: NodeRecord,
    /// Its lease; `None` only if somebody else wrote the key.
    pub lease: Option<LeaseId>,
}

/// What the keys say, at one revision.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct View {
    /// Of the store.
    pub revision: u64,
    /// Who the cluster is; `None` if nobody has made it.
    pub identity: Option<ClusterIdentity>,
    /// The same as it stands there.
    pub(super) identity_value: Vec<u8>,
    /// Who led last; it may have gone.
    pub leader: Option<Leader>,
    /// Nodes that run, by number.
    pub nodes: Vec<Present>,
    /// The directories that count; none of a number that no node has run under yet.
    pub directories: Vec<Directory>,
    /// What an operator wants of the leader.
    pub transfer: Option<Transfer>,
    /// What came of the last such wish.
    pub transferred: Option<Transferred>,
}

impl View {
    /// The epoch of the last leader; 0 = there was none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.leader.map_or(0, |leader| leader.epoch)
    }

    /// The node with this number, if it runs.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Present> {
        self.nodes.iter().find(|present| present.record.node == node.0)
    }

    /// The directory that counts for this number, if a node has run under it.
    #[must_use]
    pub fn directory(&self, node: NodeId) -> Option<&Directory> {
        self.directories.iter().find(|directory| directory.node == node)
    }

    /// Understands what was read.
    ///
    /// # Errors
    /// The key that cannot be understood, and why.
    pub fn of(snapshot: &Snapshot) -> Result<Self, String> {
        let mut view = Self { revision: snapshot.revision, ..Self::default() };
        for entry in &snapshot.entries {
            let understood = match entry.key.as_str() {
                CLUSTER => identity(entry).map(|found| {
                    view.identity = Some(found);
                    view.identity_value = entry.value.clone();
                }),
                LEADER => leader(entry).map(|found| view.leader = Some(found)),
                // What somebody wrote here by hand is no reason to stand still.
                TRANSFER => {
                    view.transfer = serde_json::from_slice(&entry.value).ok();
                    Ok(())
                }
                TRANSFERRED => {
                    view.transferred = serde_json::from_slice(&entry.value).ok();
                    Ok(())
                }
                key if key.starts_with(NODES) => present(entry).map(|found| view.nodes.push(found)),
                key if key.starts_with(DIRECTORIES) => {
                    directory(entry).map(|found| view.directories.push(found))
                }
                _ => Ok(()),
            };
            understood.map_err(|error| format!("key {}: {error}", entry.key))?;
        }
        view.nodes.sort_by_key(|present| present.record.node);
        Ok(view)
    }
}

fn identity(entry: &KeyValue) -> Result<ClusterIdentity, String> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u32,
    }
    let wrong = |error: serde_json::Error| error.to_string();
    let FormatOnly { format } = serde_json::from_slice(&entry.value).map_err(wrong)?;
    if format != FORMAT {
        return Err(format!("format {format} was written by a later release; upgrade ringlane"));
    }
    let found: Versioned<ClusterIdentity> = serde_json::from_slice(&entry.value).map_err(wrong)?;
    if found.value.partitions == 0 {
        return Err("partitions is 0".to_owned());
    }
    Ok(found.value)
}

fn leader(entry: &KeyValue) -> Result<Leader, String> {
    let found: LeaderValue =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    Ok(Leader { node: NodeId(found.node), epoch: entry.modified, claim: found.claim })
}

fn present(entry: &KeyValue) -> Result<Present, String> {
    let record: NodeRecord =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    if entry.key != node_key(NodeId(record.node)) {
        return Err(format!("its value is that of node {}", record.node));
    }
    Ok(Present { record, lease: entry.lease })
}

fn directory(entry: &KeyValue) -> Result<Directory, String> {
    let number = entry.key.strip_prefix(DIRECTORIES).and_then(|number| number.parse().ok());
    let node = NodeId(number.ok_or("it names no node")?);
    let DirectoryValue { instance } =
        serde_json::from_slice(&entry.value).map_err(|error| error.to_string())?;
    Ok(Directory { node, instance, modified: entry.modified })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &[u8], revision: u64) -> KeyValue {
        KeyValue { key: key.to_owned(), value: value.to_vec(), modified: revision, lease: None }
    }

    fn identity_of_three() -> ClusterIdentity {
        ClusterIdentity {
            id: Id16([1; 16]),
            hash_key: Id16([2; 16]),
            partitions: 8,
            nodes: vec![1, 2, 3],
        }
    }

    #[test]
    fn what_is_written_is_understood() {
        let record = NodeRecord {
            node: 2,
            name: "b".to_owned(),
            instance: Id16([9; 16]),
            address: "10.0.0.2:7883".to_owned(),
            advertised_address: None,
            version: "0.1.0".to_owned(),
            proxied: ProxiedAt { mqtt: Some("10.0.0.2:4711".to_owned()), websocket: None },
            control: None,
            streams: None,
        };
        let snapshot = Snapshot {
            revision: 40,
            entries: vec![
                entry(CLUSTER, &identity_value(&identity_of_three()), 3),
                entry(LEADER, &leader_value(NodeId(2), Id16([7; 16])), 17),
                entry(&node_key(NodeId(2)), &node_value(&record), 5),
                entry("directories/2", &directory_value(Some(Id16([9; 16]))), 8),
                entry("directories/3", &directory_value(None), 9),
                entry(TRANSFER, b"by hand", 10),
                entry("something/of/a/later/release", b"x", 6),
            ],
        };
        let view = View::of(&snapshot).unwrap();
        assert_eq!(view.identity, Some(identity_of_three()));
        assert_eq!((view.epoch(), view.leader.unwrap().node), (17, NodeId(2)));
        assert_eq!(view.node(NodeId(2)).unwrap().record, record);
        assert_eq!(view.node(NodeId(1)), None);
        let tag = |node| view.directory(NodeId(node)).map(Directory::tag);
        assert_eq!(tag(1), None);
        assert_eq!(tag(2), Some(DirectoryTag([9; 6])));
        assert_eq!(tag(3), Some(DirectoryTag::default()), "that of none");
        assert_eq!(view.transfer, None);
    }

    #[test]
    fn what_cannot_be_understood_names_its_key() {
        let later = br#"{"format":2,"other":[]}"#.as_slice();
        let cases = [
            (CLUSTER, later, "later release"),
            (CLUSTER, b"x".as_slice(), "key cluster"),
            (LEADER, b"{}".as_slice(), "key leader"),
            ("nodes/1", b"{\"node\":2}".as_slice(), "key nodes/1"),
            ("directories/x", b"{}".as_slice(), "key directories/x"),
        ];
        for (key, value, expected) in cases {
            let snapshot = Snapshot { revision: 9, entries: vec![entry(key, value, 3)] };
            let message = View::of(&snapshot).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
