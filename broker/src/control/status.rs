//! The node at a glance, for people and for programs.

use super::node::{CoreView, LogHealth, Node};
use super::process::Process;
use crate::cluster::status::ClusterStatus;
use crate::metrics::CoreMetrics;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// What `/status` shows.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    name: &'static str,
    version: &'static str,
    state: &'static str,
    pid: u32,
    uptime_seconds: u64,
    transport: String,
    transport_reason: String,
    partitions: u32,
    data_dir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterStatus>,
    listeners: Vec<Listener>,
    log: Log,
    totals: Totals,
    cores: Vec<Core>,
    process: ProcessStatus,
}

#[derive(Debug, Serialize)]
struct Log {
    segments: u64,
    bytes: u64,
    flushed_records: u64,
    flushed_bytes: u64,
    #[serde(flatten)]
    health: LogHealth,
}

#[derive(Debug, Serialize)]
struct Listener {
    kind: &'static str,
    address: String,
}

#[derive(Debug, Serialize)]
struct Totals {
    connections: u64,
    sockets: u64,
    sessions: u64,
    subscriptions: u64,
    retained_messages: u64,
    publishes_received: u64,
    publishes_sent: u64,
    messages_dropped: u64,
}

#[derive(Debug, Serialize)]
struct Core {
    core: u16,
    cpu: u32,
    /// Share of the time since start in busy turns, 0 to 1.
    busy: f64,
    turns: u64,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct ProcessStatus {
    resident_bytes: u64,
    descriptors: u64,
    descriptors_max: u64,
    threads: u64,
}

impl Status {
    pub(super) fn of(node: &Node, process: &Process) -> Self {
        let facts = &node.facts;
        let listeners = facts.listeners.iter();
        let uptime = facts.started.elapsed();
        Self {
            name: env!("CARGO_PKG_NAME"),
            version: env!("CARGO_PKG_VERSION"),
            state: node.state().name(),
            pid: std::process::id(),
            uptime_seconds: uptime.as_secs(),
            transport: facts.transport.clone(),
            transport_reason: facts.transport_reason.clone(),
            partitions: facts.partitions,
            data_dir: facts.data_dir.display().to_string(),
            cluster: node.cluster(),
            listeners: listeners
                .map(|listener| Listener {
                    kind: listener.kind,
                    address: listener.address.to_string(),
                })
                .collect(),
            log: Log {
                segments: node.sum(|metrics| metrics.log_segments.get()),
                bytes: node.sum(|metrics| metrics.log_bytes.get()),
                flushed_records: node.sum(|metrics| metrics.log_flushed_records.get()),
                flushed_bytes: node.sum(|metrics| metrics.log_flushed_bytes.get()),
                health: LogHealth::of(node),
            },
            totals: Totals::of(|of| node.sum(of)),
            cores: facts.cores.iter().map(|view| core(view, uptime)).collect(),
            process: ProcessStatus {
                resident_bytes: process.resident_bytes,
                descriptors: process.descriptors,
                descriptors_max: process.descriptors_max,
                threads: process.threads,
            },
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let uptime = human(self.uptime_seconds);
        let _ = writeln!(text, "ringlane {} is {}", self.version, self.state);
        let _ = writeln!(text, "pid {}, up {uptime}, data in {}", self.pid, self.data_dir);
        let _ = writeln!(text, "transport {} ({})", self.transport, self.transport_reason);
        if let Some(cluster) = &self.cluster {
            cluster_text(&mut text, cluster);
        }
        for listener in &self.listeners {
            let _ = writeln!(text, "{} on {}", listener.kind, listener.address);
        }
        let (process, totals) = (&self.process, &self.totals);
        let mebibytes = process.resident_bytes >> 20;
        let _ = writeln!(
            text,
            "memory {mebibytes} MiB, descriptors {} of {}, {} threads, {} partitions",
            process.descriptors, process.descriptors_max, process.threads, self.partitions
        );
        let log = &self.log;
        let _ = writeln!(
            text,
            "log {} MiB in {} segments, {} records flushed\n{}",
            log.bytes >> 20,
            log.segments,
            log.flushed_records,
            log.health.text()
        );
        let _ = writeln!(
            text,
            "{:>5} {:>4} {:>6} {:>11} {:>10} {:>13} {:>12} {:>12} {:>9}",
            "core",
            "cpu",
            "busy",
            "connections",
            "sessions",
            "subscriptions",
            "received",
            "sent",
            "dropped"
        );
        for core in &self.cores {
            let busy = format!("{:.1}%", 100.0 * core.busy);
            core.totals.row(&mut text, &core.core.to_string(), &core.cpu.to_string(), &busy);
        }
        totals.row(&mut text, "all", "", "");
        text
    }
}

/// What the node is to its cluster.
fn cluster_text(text: &mut String, cluster: &ClusterStatus) {
    let (node, name, role) = (cluster.node, &cluster.name, cluster.role);
    let _ = writeln!(
        text,
        "node {node} ({name}), {role}; {}, epoch {}",
        cluster.leader_text(),
        cluster.epoch
    );
    for follower in cluster.followers() {
        let (partitions, lag) = (cluster.partitions.len(), follower.lag);
        let _ = writeln!(
            text,
            "node {}: in step in {} of {partitions} partitions, {lag} records behind",
            follower.node, follower.in_step
        );
    }
    let (damaged, failed) = cluster.ill();
    if cluster.is_learner {
        let _ = writeln!(text, "it is being filled from the others, and counts for no majority");
    }
    if 0 < damaged + failed {
        let _ = writeln!(text, "replicas that are damaged: {damaged}, with a failed log: {failed}");
    }
    for trouble in [&cluster.no_majority, &cluster.etcd_trouble].into_iter().flatten() {
        let _ = writeln!(text, "{trouble}");
    }
}

fn core(view: &CoreView, uptime: Duration) -> Core {
    Core {
        core: view.core.0,
        cpu: view.cpu,
        busy: busy_share(view.stats.busy_ns.get(), uptime),
        turns: view.stats.turns.get(),
        totals: Totals::of(|of| of(&view.metrics)),
    }
}

/// Measured against the clock: a sleeping core counts its idle time only when it wakes.
fn busy_share(busy_ns: u64, uptime: Duration) -> f64 {
    let share = busy_ns as f64 / 1e9 / uptime.as_secs_f64().max(1e-9);
    (share.min(1.0) * 1000.0).round() / 1000.0
}

/// Whole seconds in the units that people count in.
fn human(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, seconds) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {seconds} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

impl Totals {
    fn of(sum: impl Fn(fn(&CoreMetrics) -> u64) -> u64) -> Self {
        Self {
            connections: sum(|metrics| metrics.connections.get()),
            sockets: sum(|metrics| metrics.sockets.get()),
            sessions: sum(|metrics| metrics.sessions.get()),
            subscriptions: sum(|metrics| metrics.subscriptions.get()),
            retained_messages: sum(|metrics| metrics.retained_messages.get()),
            publishes_received: sum(CoreMetrics::publishes_received),
            publishes_sent: sum(CoreMetrics::publishes_sent),
            messages_dropped: sum(CoreMetrics::messages_dropped),
        }
    }

    fn row(&self, text: &mut String, core: &str, cpu: &str, busy: &str) {
        let _ = writeln!(
            text,
            "{core:>5} {cpu:>4} {busy:>6} {:>11} {:>10} {:>13} {:>12} {:>12} {:>9}",
            self.connections,
            self.sessions,
            self.subscriptions,
            self.publishes_received,
            self.publishes_sent,
            self.messages_dropped
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::cluster::status::tests::leader_of_two_partitions;

    #[test]
    fn both_forms_show_the_same_node() {
        let node = node(2);
        node.facts.cores[0].metrics.publishes_received_qos1.set(3);
        node.facts.cores[1].metrics.publishes_received_qos0.set(4);
        node.facts.cores[1].stats.busy_ns.set(u64::MAX);
        let status = Status::of(&node, &Process::default());
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["state"], "starting");
        assert_eq!(json["totals"]["publishes_received"], 7);
        assert_eq!(json["cores"][1]["publishes_received"], 4);
        assert_eq!(json["cores"][1]["cpu"], 3);
        assert_eq!(json["cores"][0]["busy"], 0.0);
        assert_eq!(json["cores"][1]["busy"], 1.0);
        assert_eq!(json["listeners"][0]["address"], "127.0.0.1:1883");
        let text = status.text();
        assert!(text.starts_with("ringlane 0."), "{text}");
        assert!(text.contains("100.0%"), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.trim_start().starts_with("all") && last.contains(" 7 "), "{text}");
    }

    #[test]
    fn a_node_of_a_cluster_says_who_leads_and_how_far_the_others_are() {
        let (sender, receiver) = tokio::sync::watch::channel(leader_of_two_partitions());
        let node = node(1).in_cluster(receiver);
        let status = Status::of(&node, &Process::default());
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["cluster"]["partitions"][1]["followers"][1]["lag"], 5);
        let text = status.text();
        assert!(text.contains("node 1 (a), leader; this node (a) leads, epoch 7"), "{text}");
        assert!(text.contains("node 2: in step in 2 of 2 partitions, 5 records behind"), "{text}");
        sender.send_modify(|status| status.etcd_trouble = Some("etcd is away".to_owned()));
        let text = Status::of(&node, &Process::default()).text();
        assert!(text.contains("etcd is away"), "{text}");
    }

    #[test]
    fn the_busy_share_is_that_of_the_time_since_start() {
        assert_eq!(busy_share(250_000_000, Duration::from_secs(1)), 0.25);
        assert_eq!(busy_share(1, Duration::ZERO), 1.0);
        assert_eq!(busy_share(0, Duration::ZERO), 0.0);
    }

    #[test]
    fn times_are_shown_in_two_units() {
        let cases = [(0, "0 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")];
        for (seconds, text) in cases {
            assert_eq!(human(seconds), text);
        }
    }
}
