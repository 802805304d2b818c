//! The cluster that a node belongs to, the etcd that says who leads, and replication.

use super::optional::{address, auto};
use super::units::{duration, optional_text, size};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The cluster. Without members the node is alone, and needs no etcd.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Its name: several clusters may share an etcd.
    pub name: String,
    /// The number of this node among the members; 0 = none.
    pub node: u16,
    /// What becomes of clients of a node that follows.
    pub redirect: Redirect,
    /// All nodes, this one included; the same on each of them.
    pub members: Vec<MemberConfig>,
    /// Where it is kept who leads.
    pub etcd: EtcdConfig,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            name: "ringlane".to_owned(),
            node: 0,
            members: Vec::new(),
            redirect: Redirect::default(),
            etcd: EtcdConfig::default(),
        }
    }
}

impl ClusterConfig {
    /// Whether this node is one of a cluster.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.members.is_empty()
    }

    /// This node among the members.
    #[must_use]
    pub fn own(&self) -> Option<&MemberConfig> {
        self.members.iter().find(|member| member.node == self.node)
    }
}

/// What becomes of clients that connect to a node that follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Redirect {
    /// They are passed on to the leader.
    #[default]
    Proxy,
    /// Those that speak MQTT 5 over TCP are told the leader's `advertised_address` (reason code 0x9D, Server
    /// Reference [MQTT5 §4.11]); the others are passed on.
    ServerReference,
}

/// One node of the cluster.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberConfig {
    /// Its number, from 1, for the life of the cluster.
    pub node: u16,
    /// Its name, for people.
    pub name: String,
    /// Host and port at which the other nodes reach its replication.
    pub address: String,
    /// Host and port at which clients reach it; none if empty.
    #[serde(with = "optional_text")]
    pub advertised_address: Option<String>,
}

/// Where the cluster's metadata are.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// Client URLs of its members, such as `http://10.0.0.9:2379`; tried in turn.
    pub endpoints: Vec<String>,
    /// What the keys begin with; the cluster's name follows.
    pub prefix: String,
    /// The user, if etcd asks for one; none if empty.
    #[serde(with = "optional_text")]
    pub username: Option<String>,
    /// The file with that user's password.
    pub password_file: PathBuf,
    /// How long one endpoint may take to answer before the next one is asked.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/ringlane".to_owned(),
            username: None,
            password_file: PathBuf::new(),
            timeout: Duration::from_millis(500),
        }
    }
}

/// Copies of the log on other nodes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicationConfig {
    /// Where the other nodes are listened for; none = the address of this node among the members.
    #[serde(with = "address")]
    pub bind: Option<SocketAddr>,
    /// What carries it.
    pub transport: ReplicationTransport,
    /// How often a leader that has nothing to send says that it is there.
    #[serde(with = "duration")]
    pub heartbeat: Duration,
    /// After so much silence of the leader another node takes over.
    #[serde(with = "duration")]
    pub suspect_after: Duration,
    /// How long a leader that etcd does not answer goes on with what needs no quorum.
    #[serde(with = "duration")]
    pub lease: Duration,
    /// Bytes of log of the node that are kept for nodes that are away, although nobody else needs them, shared out between the
    /// partitions. Who lacks more gets a checkpoint.
    #[serde(with = "size")]
    pub keep_for_absent: u64,
    /// Clients that a node which follows passes on to the leader at once.
    pub proxy_connections: u32,
    /// RDMA.
    pub rdma: RdmaConfig,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            bind: None,
            transport: ReplicationTransport::default(),
            heartbeat: Duration::from_millis(50),
            suspect_after: Duration::from_millis(300),
            lease: Duration::from_secs(3),
            keep_for_absent: 10 << 30,
            proxy_connections: 10_000,
            rdma: RdmaConfig::default(),
        }
    }
}

/// What carries replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationTransport {
    /// RDMA where there are a device and its libraries, else TCP.
    #[default]
    Auto,
    /// RDMA, or the broker does not start.
    Rdma,
    /// TCP.
    Tcp,
}

/// How RDMA is used. Numbers are those of ibv_modify_qp(3).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RdmaConfig {
    /// The device, such as `mlx5_0`; none = the first one with an active port.
    #[serde(with = "optional_text")]
    pub device: Option<String>,
    /// The port, from 1; none = the first active one.
    #[serde(with = "auto")]
    pub port: Option<u16>,
    /// Index into the port's table of addresses; none = the first RoCE v2 address of IPv4.
    #[serde(with = "auto")]
    pub gid_index: Option<u16>,
    /// Bytes of a packet: 256, 512, 1024, 2048 or 4096; none = the port's active MTU.
    #[serde(with = "auto")]
    pub mtu: Option<u32>,
    /// Traffic class, of which the DSCP is the upper six bits.
    pub traffic_class: u8,
    /// A packet is sent again after 4.096 us times two to the power of this.
    pub timeout: u8,
    /// How often, before the link is given up.
    pub retry: u8,
}

impl Default for RdmaConfig {
    fn default() -> Self {
        Self {
            device: None,
            port: None,
            gid_index: None,
            mtu: None,
            // DSCP 26, which switches for RoCE are set up for.
            traffic_class: 104,
            // With three retries an end is noticed after 4 times 67 ms.
            timeout: 14,
            retry: 3,
        }
    }
}
