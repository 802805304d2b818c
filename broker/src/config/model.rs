//! The configuration as types: every key, its default and its unit.
//!
//! A field's name is its TOML key. `ringlane.example.toml` explains each key to operators, and a
//! test holds the two together.

use super::cluster::{ClusterConfig, ReplicationConfig};
use super::streams::{CommitLogConfig, StreamConfig, in_order};
use super::units::{duration, optional_text, size};
use ringlane_dataplane::ids::ListenerId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;
const GIB: u64 = 1024 * MIB as u64;

/// Everything that can be set.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the node keeps its manifest and its log.
    pub data_dir: PathBuf,
    /// What is promised for which topics; the first one whose filter matches is a topic's.
    pub stream: Vec<StreamConfig>,
    /// Cores, partitions and the socket driver.
    pub runtime: RuntimeConfig,
    /// Where clients connect.
    pub listeners: ListenersConfig,
    /// What operators reach.
    pub control: ControlConfig,
    /// Log lines.
    pub log: LogConfig,
    /// The commit log.
    pub commit_log: CommitLogConfig,
    /// Bounds of the protocol.
    pub mqtt: MqttConfig,
    /// Sessions of clients that are away.
    pub session: SessionConfig,
    /// Retained messages.
    pub retained: RetainedConfig,
    /// Bounds of the node.
    pub limits: LimitsConfig,
    /// `$SYS` topics.
    pub sys: SysConfig,
    /// The cluster that this node belongs to.
    pub cluster: ClusterConfig,
    /// Copies of the log on other nodes.
    pub replication: ReplicationConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("ringlane-data"),
            stream: vec![StreamConfig::rest()],
            runtime: RuntimeConfig::default(),
            listeners: ListenersConfig::default(),
            control: ControlConfig::default(),
            log: LogConfig::default(),
            commit_log: CommitLogConfig::default(),
            mqtt: MqttConfig::default(),
            session: SessionConfig::default(),
            retained: RetainedConfig::default(),
            limits: LimitsConfig::default(),
            sys: SysConfig::default(),
            cluster: ClusterConfig::default(),
            replication: ReplicationConfig::default(),
        }
    }
}

impl Config {
    /// The streams in the order in which they are asked; the last one takes what is left.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamConfig> {
        in_order(&self.stream, self.cluster.is_set())
    }
}

/// Cores, partitions and the socket driver.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Which CPUs get a pinned thread.
    pub cores: Cores,
    /// Partitions of the node; 0 = max(4, cores rounded up to a power of two).
    pub partitions: u32,
    /// What a core does when it has nothing to do.
    pub idle: IdleChoice,
    /// How long `spin-then-park` polls before it sleeps.
    #[serde(with = "duration")]
    pub spin: Duration,
    /// Mails that one core may have on the way to another one.
    pub mailbox_slots: u32,
    /// Which socket driver.
    pub transport: TransportSetting,
    /// Receive buffers that a core provides to the kernel; a power of two.
    pub receive_buffers: u16,
    /// Bytes of one receive buffer.
    #[serde(with = "size")]
    pub receive_buffer_size: u32,
    /// Bytes from which on a send is handed to the kernel without a copy; 0 = never.
    #[serde(with = "size")]
    pub zero_copy_threshold: u32,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            cores: Cores::Auto,
            partitions: 0,
            idle: IdleChoice::SpinThenPark,
            spin: Duration::from_micros(50),
            mailbox_slots: 4096,
            transport: TransportSetting::Auto,
            receive_buffers: 1024,
            receive_buffer_size: 4 * KIB,
            zero_copy_threshold: 0,
        }
    }
}

/// Where clients connect.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenersConfig {
    /// MQTT over TCP.
    pub tcp: TcpListenerConfig,
    /// MQTT over WebSocket.
    pub websocket: WebSocketListenerConfig,
}

impl ListenersConfig {
    /// How many of them there are. Behind them a node of a cluster has one for each that takes the
    /// clients that other nodes pass on, with the PROXY protocol before the client's bytes.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.tcp.enabled) + usize::from(self.websocket.enabled)
    }

    /// Whether a listener is such a one.
    #[must_use]
    pub fn is_passed(&self, listener: ListenerId) -> bool {
        self.count() <= usize::from(listener.0)
    }
}

/// MQTT over TCP.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TcpListenerConfig {
    /// Whether it is opened.
    pub enabled: bool,
    /// Address and port.
    pub bind: SocketAddr,
    /// Whether each connection begins with a header of the PROXY protocol (version 1 or 2), as load
    /// balancers send it; what comes without one is closed.
    pub proxy_protocol: bool,
    /// Connections that the kernel queues per core before they are accepted (listen(2)).
    pub backlog: u32,
}

impl Default for TcpListenerConfig {
    fn default() -> Self {
        Self { enabled: true, bind: loopback(1883), proxy_protocol: false, backlog: 4096 }
    }
}

/// MQTT over WebSocket, without TLS.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketListenerConfig {
    /// Whether it is opened.
    pub enabled: bool,
    /// Address and port.
    pub bind: SocketAddr,
    /// Whether each connection begins with a header of the PROXY protocol (version 1 or 2), as load
    /// balancers send it; what comes without one is closed.
    pub proxy_protocol: bool,
    /// The path of the upgrade request.
    pub path: String,
    /// Values of the `Origin` header that are let in; empty = any.
    pub allowed_origins: Vec<String>,
}

impl Default for WebSocketListenerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            bind: loopback(8083),
            proxy_protocol: false,
            path: "/mqtt".to_owned(),
            allowed_origins: Vec::new(),
        }
    }
}

/// What operators reach: HTTP with metrics, status and health, and the socket of `ringlane ctl`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Whether it is opened.
    pub enabled: bool,
    /// Address and port.
    pub bind: SocketAddr,
    /// The operator's socket, relative to `data_dir`; empty = none.
    pub socket: PathBuf,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self { enabled: true, bind: loopback(18083), socket: PathBuf::from("ctl.sock") }
    }
}

impl ControlConfig {
    /// Where the operator's socket is, if there is one.
    #[must_use]
    pub fn socket_path(&self, data_dir: &Path) -> Option<PathBuf> {
        (!self.socket.as_os_str().is_empty()).then(|| data_dir.join(&self.socket))
    }
}

/// Log lines; they go to stderr.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// The least important lines that are written.
    pub level: LogLevel,
    /// For people or for programs.
    pub format: LogFormat,
}

/// Bounds of the protocol.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// Largest packet that is accepted, in bytes; announced as Maximum Packet Size.
    #[serde(with = "size")]
    pub max_packet_size: u32,
    /// Largest CONNECT packet, in bytes.
    #[serde(with = "size")]
    pub max_connect_size: u32,
    /// Time from accept to a complete CONNECT packet.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Longest client identifier, in bytes.
    pub max_client_id_length: u16,
    /// Most levels of a topic name or filter.
    pub max_topic_levels: u16,
    /// Longest topic name or filter, in bytes.
    pub max_topic_length: u16,
    /// Topic aliases that a client may use towards the broker.
    pub topic_alias_maximum: u16,
    /// Topic aliases that the broker uses towards a client that allows them.
    pub topic_alias_maximum_out: u16,
    /// QoS 1 and 2 publishes that a client may have in flight; announced as Receive Maximum.
    pub receive_maximum: u16,
    /// QoS 1 and 2 messages in flight to a client.
    pub max_inflight_messages: u16,
    /// Bytes of QoS 1 and 2 messages in flight to a client.
    #[serde(with = "size")]
    pub max_inflight_bytes: u64,
    /// Longest keep alive interval; 0 = any. Longer ones are shortened (Server Keep Alive).
    #[serde(with = "duration")]
    pub max_keep_alive: Duration,
    /// Subscriptions of one client.
    pub max_subscriptions: u32,
    /// Replay subscriptions of one client.
    pub max_replays: u16,
    /// User properties of one packet.
    pub max_user_properties: u16,
    /// Bytes of all user properties of one packet.
    #[serde(with = "size")]
    pub max_user_properties_size: u32,
    /// Whether payloads that claim to be UTF-8 are checked.
    pub validate_payload_format: bool,
    /// Server Reference sent when this node drains; none if empty.
    #[serde(with = "optional_text")]
    pub server_reference: Option<String>,
    /// Time that clients get to take their last bytes when the node stops.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            max_packet_size: MIB,
            max_connect_size: 64 * KIB,
            connect_timeout: Duration::from_secs(10),
            max_client_id_length: 1024,
            max_topic_levels: 128,
            max_topic_length: 4096,
            topic_alias_maximum: 16,
            topic_alias_maximum_out: 16,
            receive_maximum: 1024,
            max_inflight_messages: 1024,
            max_inflight_bytes: u64::from(MIB),
            max_keep_alive: Duration::from_secs(600),
            max_subscriptions: 1000,
            max_replays: 8,
            max_user_properties: 64,
            max_user_properties_size: 16 * KIB,
            validate_payload_format: false,
            server_reference: None,
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Sessions of clients that are away.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Sessions of the node, connected or not.
    pub max_sessions: u64,
    /// Longest session expiry interval; 0 = no cap.
    #[serde(with = "duration")]
    pub max_expiry: Duration,
    /// Bytes that may wait for one absent session; then the stream says what happens.
    #[serde(with = "size")]
    pub max_backlog: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self { max_sessions: 1_000_000, max_expiry: Duration::ZERO, max_backlog: GIB }
    }
}

/// Retained messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetainedConfig {
    /// Retained messages of the node.
    pub max_messages: u64,
    /// Bytes of all retained messages of the node.
    #[serde(with = "size")]
    pub max_bytes: u64,
}

impl Default for RetainedConfig {
    fn default() -> Self {
        Self { max_messages: 100_000, max_bytes: GIB }
    }
}

/// Bounds of the node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Connections of the node; 0 = what `RLIMIT_NOFILE` allows, less a reserve.
    pub max_connections: u32,
    /// Bytes of messages that the node may hold; 0 = half of the memory.
    #[serde(with = "size")]
    pub memory: u64,
    /// Unsent bytes of a connection from which on it is a slow one: its QoS 0 holds up publishers for
    /// at most 10 ms and is then dropped.
    #[serde(with = "size")]
    pub write_buffer_high: u32,
    /// Unsent bytes of a connection at which it is closed.
    #[serde(with = "size")]
    pub write_buffer_max: u32,
    /// Replay subscriptions of connected clients of the node.
    pub max_replays: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_connections: 0,
            memory: 0,
            write_buffer_high: MIB,
            write_buffer_max: 4 * MIB,
            max_replays: 128,
        }
    }
}

/// `$SYS` topics.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SysConfig {
    /// Whether they are published.
    pub enabled: bool,
    /// How often.
    #[serde(with = "duration")]
    pub interval: Duration,
}

impl Default for SysConfig {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_secs(10) }
    }
}

/// What a core does when it has nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdleChoice {
    /// Never sleeps.
    Spin,
    /// Polls for `runtime.spin`, then sleeps.
    #[default]
    SpinThenPark,
    /// Sleeps at once.
    Park,
}

/// Which socket driver is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TransportSetting {
    /// io_uring where the kernel has what it takes, else epoll.
    #[default]
    Auto,
    /// io_uring, or the broker does not start.
    Uring,
    /// epoll.
    Epoll,
}

/// The least important log lines that are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing works as it should.
    Error,
    /// Something needs attention.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Which CPUs get a core.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Cores {
    /// All CPUs that this process may run on (affinity mask and cpuset).
    #[default]
    Auto,
    /// These CPUs, in this order: the first one is core 0.
    List(Vec<u32>),
}

/// The largest number of CPUs that one range of a list may name: a typing error such as
/// `0-99999999` must not build a huge list.
const RANGE_MAX: u32 = 4096;

impl FromStr for Cores {
    type Err = String;

    /// Parses `auto` or a CPU list in the kernel's form, such as `2,3,6` or `0-3,8`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "auto" {
            return Ok(Self::Auto);
        }
        let mut list = Vec::new();
        for part in text.split(',') {
            append_range(part.trim(), &mut list)?;
        }
        Ok(Self::List(list))
    }
}

fn append_range(part: &str, list: &mut Vec<u32>) -> Result<(), String> {
    let wrong = || format!("\"{part}\" is no CPU number or range; write auto, 2,3,6 or 0-3");
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let first: u32 = first.trim().parse().map_err(|_| wrong())?;
    let last: u32 = last.trim().parse().map_err(|_| wrong())?;
    if last < first || RANGE_MAX <= last - first {
        return Err(wrong());
    }
    list.extend(first..=last);
    Ok(())
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::List(list) => {
                let list: Vec<String> = list.iter().map(ToString::to_string).collect();
                f.write_str(&list.join(","))
            }
        }
    }
}

impl Serialize for Cores {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::List(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CoresVisitor)
    }
}

struct CoresVisitor;

impl<'de> serde::de::Visitor<'de> for CoresVisitor {
    type Value = Cores;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a list of CPU numbers such as [2, 3, 6]")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cores, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Cores, E> {
        let cpu = u32::try_from(number).map_err(|_| E::custom("a CPU number is not negative"))?;
        Ok(Cores::List(vec![cpu]))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Cores, A::Error> {
        let mut list = Vec::new();
        while let Some(cpu) = seq.next_element::<u32>()? {
            list.push(cpu);
        }
        Ok(Cores::List(list))
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
