//! What the control thread knows of the node: facts that do not change, and counters to read.

use crate::cluster::proxy::ProxyMetrics;
use crate::cluster::status::ClusterStatus;
use crate::metrics::CoreMetrics;
use ringlane_dataplane::ids::CoreId;
use ringlane_dataplane::runtime::CoreStats;
use serde::Serialize;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};
use tokio::sync::watch;
use tracing_appender::non_blocking::ErrorCounter;

/// One core, seen from outside.
#[derive(Clone, Debug)]
pub struct CoreView {
    /// Its number.
    pub core: CoreId,
    /// The CPU that it is pinned to.
    pub cpu: u32,
    /// What the broker counts.
    pub metrics: Arc<CoreMetrics>,
    /// What its loop counts.
    pub stats: Arc<CoreStats>,
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerView {
    /// `mqtt`, `websocket`, or `replication` for other nodes.
    pub kind: &'static str,
    /// With the port that the kernel chose, if 0 was asked for.
    pub address: SocketAddr,
}

/// What does not change while the node runs.
#[derive(Debug)]
pub struct NodeFacts {
    /// When the process started.
    pub started: Instant,
    /// The same by the wall clock.
    pub started_at: SystemTime,
    /// `io_uring` or `epoll`.
    pub transport: String,
    /// Why that one.
    pub transport_reason: String,
    /// Partitions of the data directory.
    pub partitions: u32,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where clients connect.
    pub listeners: Vec<ListenerView>,
    /// Where the control plane listens.
    pub control: Option<SocketAddr>,
    /// The cores, by number.
    pub cores: Vec<CoreView>,
    /// Log lines that were dropped.
    pub log_lines_dropped: ErrorCounter,
}

/// Where the node is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
    /// Cores are being opened.
    Starting,
    /// Clients are served.
    Ready,
    /// Another node of the cluster leads, or nobody: clients are passed on.
    Following,
    /// Clients are told to leave.
    Draining,
    /// A core has failed; the node is about to end.
    Failed,
}

impl State {
    const ALL: [Self; 5] =
        [Self::Starting, Self::Ready, Self::Following, Self::Draining, Self::Failed];

    /// One word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Following => "following",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// Partitions whose log needs attention.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct LogHealth {
    /// Without room on the disk: publishers get 0x97 or wait.
    pub(super) full: u64,
    /// Failed for good: their clients are turned away.
    pub(super) poisoned: u64,
}

impl LogHealth {
    pub(super) fn of(node: &Node) -> Self {
        Self {
            full: node.sum(|metrics| metrics.log_full.get()),
            poisoned: node.sum(|metrics| metrics.log_poisoned.get()),
        }
    }

    /// One line for each thing that is wrong.
    pub(super) fn text(self) -> String {
        let mut text = String::new();
        if 0 < self.poisoned {
            let line = "partitions with a log that has failed; their clients are turned away until \
                        a restart";
            let _ = writeln!(text, "{} {line}", self.poisoned);
        }
        if 0 < self.full {
            let line = "partitions with a full disk; their publishers get 0x97 or wait";
            let _ = writeln!(text, "{} {line}", self.full);
        }
        text
    }
}

/// The node, as the control plane shows it.
#[derive(Debug)]
pub struct Node {
    /// What does not change.
    pub facts: NodeFacts,
    state: AtomicU8,
    stop_accepting: Arc<AtomicBool>,
    proxy: OnceLock<Arc<ProxyMetrics>>,
    cluster: Option<watch::Receiver<ClusterStatus>>,
}

impl Node {
    /// A node that is starting.
    #[must_use]
    pub fn new(facts: NodeFacts) -> Self {
        let state = AtomicU8::new(State::Starting as u8);
        Self { facts, state, stop_accepting: Arc::default(), proxy: OnceLock::new(), cluster: None }
    }

    /// The same as a node of a cluster.
    #[must_use]
    pub(crate) fn in_cluster(self, status: watch::Receiver<ClusterStatus>) -> Self {
        Self { cluster: Some(status), ..self }
    }

    /// What it is to its cluster, if it has one.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterStatus> {
        self.cluster.as_ref().map(|status| status.borrow().clone())
    }

    /// Why this node cannot say what clients have left, if another one has to be asked.
    pub(super) fn elsewhere(&self) -> Option<String> {
        let cluster = self.cluster().filter(|cluster| !cluster.is_leading())?;
        Some(format!("this node follows, and {}; ask the node that leads", cluster.leader_text()))
    }

    /// Where the node is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        let value = usize::from(self.state.load(Ordering::Relaxed));
        State::ALL.get(value).copied().unwrap_or(State::Failed)
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
        if matches!(state, State::Draining | State::Failed) {
            self.stop_accepting.store(true, Ordering::Relaxed);
        }
    }

    /// Becomes true when the cores shall accept no more clients.
    #[must_use]
    pub fn stop_accepting(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop_accepting)
    }

    /// Shows what the proxy of a node in a cluster counts, from now on.
    pub(crate) fn show_proxy(&self, metrics: Arc<ProxyMetrics>) {
        // A node has one proxy for its life.
        let _ = self.proxy.set(metrics);
    }

    pub(super) fn proxy(&self) -> Option<&ProxyMetrics> {
        self.proxy.get().map(Arc::as_ref)
    }

    /// The sum of a counter over all cores.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&CoreMetrics) -> u64) -> u64 {
        self.facts.cores.iter().map(|core| of(&core.metrics)).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A node with so many cores whose counters are all zero.
    pub(crate) fn node(cores: u16) -> Node {
        let (_, worker) = tracing_appender::non_blocking(std::io::sink());
        let (writer, other) = tracing_appender::non_blocking(std::io::sink());
        drop((worker, other));
        Node::new(NodeFacts {
            started: Instant::now(),
            started_at: SystemTime::now(),
            transport: "epoll".to_owned(),
            transport_reason: "asked for".to_owned(),
            partitions: 4,
            data_dir: PathBuf::from("data"),
            listeners: vec![ListenerView {
                kind: "mqtt",
                address: SocketAddr::from(([127, 0, 0, 1], 1883)),
            }],
            control: None,
            cores: (0..cores).map(|core| view(core, cores)).collect(),
            log_lines_dropped: writer.error_counter(),
        })
    }

    fn view(core: u16, cores: u16) -> CoreView {
        CoreView {
            core: CoreId(core),
            cpu: u32::from(core) + 2,
            metrics: Arc::new(CoreMetrics::new(cores)),
            stats: Arc::default(),
        }
    }

    #[test]
    fn a_node_goes_through_its_states() {
        let node = node(1);
        assert_eq!(node.state(), State::Starting);
        for state in State::ALL {
            node.set_state(state);
            assert_eq!(node.state(), state);
            let stops = matches!(state, State::Draining | State::Failed);
            assert_eq!(node.stop_accepting().load(Ordering::Relaxed), stops, "{state:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_logs_is_named() {
        let node = node(2);
        assert_eq!(LogHealth::of(&node).text(), "");
        node.facts.cores[0].metrics.log_full.set(2);
        node.facts.cores[1].metrics.log_poisoned.set(1);
        let text = LogHealth::of(&node).text();
        assert!(text.starts_with("1 partitions with a log that has failed"), "{text}");
        assert!(text.contains("2 partitions with a full disk"), "{text}");
    }

    #[test]
    fn sums_go_over_all_cores() {
        let node = node(3);
        for core in &node.facts.cores {
            core.metrics.sessions.set(5);
        }
        assert_eq!(node.sum(|metrics| metrics.sessions.get()), 15);
    }
}
