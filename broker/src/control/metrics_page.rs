//! The page for Prometheus (text format 0.0.4): every counter of every core, with its help text.

use super::node::{CoreView, Node};
use super::process::Process;
use crate::cluster::status::{ClusterStatus, PartitionStatus};
use crate::metrics::MetricKind;
use ringlane_dataplane::runtime::{CoreStats, Counter, Log2Histogram};
use std::fmt::Write;
use std::time::UNIX_EPOCH;

/// What the page is.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Loop = (&'static str, &'static str, fn(&CoreStats) -> &Counter);

/// The counters of a core's loop.
const LOOP: [Loop; 11] = [
    ("core_turns_total", "Turns of the core's loop.", |stats| &stats.turns),
    ("core_busy_turns_total", "Turns in which anything happened.", |stats| &stats.busy_turns),
    ("core_parks_total", "Times that the core slept.", |stats| &stats.parks),
    ("core_wakes_sent_total", "Sleeping cores that this core woke.", |stats| &stats.wakes_sent),
    ("core_mails_sent_total", "Mails to other cores.", |stats| &stats.mails_sent),
    ("core_mails_received_total", "Mails from other cores.", |stats| &stats.mails_received),
    ("core_timers_fired_total", "Timers that fired.", |stats| &stats.timers_fired),
    (
        "core_disk_events_total",
        "Writes, syncs and other commands to the disk that ended.",
        |stats| &stats.disk_events,
    ),
    ("core_net_events_total", "Events of the socket driver.", |stats| &stats.net_events),
    ("core_link_events_total", "Events of links to other nodes.", |stats| &stats.link_events),
    (
        "core_long_turn_sleeps_total",
        "Times that a core slept within turns that took 5 ms and longer.",
        |stats| &stats.long_turn_sleeps,
    ),
];

/// The same in nanoseconds, shown in seconds.
const LOOP_TIMES: [Loop; 2] = [
    ("core_busy_seconds_total", "Time in busy turns.", |stats| &stats.busy_ns),
    ("core_idle_seconds_total", "Time in idle turns and asleep.", |stats| &stats.idle_ns),
];

/// Buckets of the turn-time histogram that are shown: from 2^8 ns to 2^30 ns, about a second. What
/// is below falls into the first one, what is above into `+Inf`.
const BUCKETS: std::ops::RangeInclusive<usize> = 8..=30;

/// The whole page.
pub(super) fn render(node: &Node, process: &Process) -> String {
    let mut page = Page::default();
    let cores = &node.facts.cores;
    broker_metrics(&mut page, cores);
    mailbox_drops(&mut page, cores);
    loop_metrics(&mut page, cores);
    turn_times(&mut page, cores);
    flush_times(&mut page, cores);
    node_metrics(&mut page, node);
    if let Some(cluster) = node.cluster() {
        cluster_metrics(&mut page, &cluster);
    }
    proxy_metrics(&mut page, node);
    process_metrics(&mut page, node, process);
    page.0
}

fn broker_metrics(page: &mut Page, cores: &[CoreView]) {
    struct Metric {
        name: &'static str,
        kind: MetricKind,
        help: &'static str,
        values: Vec<u64>,
    }
    let mut metrics: Vec<Metric> = Vec::new();
    for (position, core) in cores.iter().enumerate() {
        let mut index = 0;
        core.metrics.each(|name, kind, help, value| {
            if position == 0 {
                metrics.push(Metric { name, kind, help, values: Vec::new() });
            }
            if let Some(metric) = metrics.get_mut(index) {
                metric.values.push(value);
            }
            index += 1;
        });
    }
    for metric in &metrics {
        page.head(metric.name, kind_name(metric.kind), metric.help);
        for (core, value) in cores.iter().zip(&metric.values) {
            page.sample(metric.name, &core_label(core), value);
        }
    }
}

/// Which core was too slow for which.
fn mailbox_drops(page: &mut Page, cores: &[CoreView]) {
    const NAME: &str = "messages_dropped_mailbox_to_total";
    let help = "QoS 0 messages dropped because the mailbox of core `to` stayed full for 10 ms.";
    page.head(NAME, "counter", help);
    for core in cores {
        for (to, counter) in core.metrics.dropped_mailbox_to.iter().enumerate() {
            if to != core.core.index() {
                page.sample(NAME, &format!("{},to=\"{to}\"", core_label(core)), counter.get());
            }
        }
    }
}

fn loop_metrics(page: &mut Page, cores: &[CoreView]) {
    for (name, help, of) in LOOP {
        page.head(name, "counter", help);
        for core in cores {
            page.sample(name, &core_label(core), of(&core.stats).get());
        }
    }
    for (name, help, of) in LOOP_TIMES {
        page.head(name, "counter", help);
        for core in cores {
            page.sample(name, &core_label(core), seconds(of(&core.stats).get()));
        }
    }
    page.head("core_cpu", "gauge", "The CPU that the core is pinned to.");
    for core in cores {
        page.sample("core_cpu", &core_label(core), core.cpu);
    }
}

fn turn_times(page: &mut Page, cores: &[CoreView]) {
    let help = "How long busy turns took, waiting excluded.";
    histogram(page, cores, "core_turn_seconds", help, |core| &core.stats.turn_ns);
    let help = "CPU time of busy turns that took 5 ms and longer; for the rest of them the core's \
                thread had no CPU, or slept.";
    histogram(page, cores, "core_long_turn_cpu_seconds", help, |core| &core.stats.long_turn_cpu_ns);
}

fn flush_times(page: &mut Page, cores: &[CoreView]) {
    let help = "How long rounds of the log took, from the write to the end of the sync.";
    histogram(page, cores, "log_flush_seconds", help, |core| &core.metrics.flush_ns);
}

fn histogram(
    page: &mut Page,
    cores: &[CoreView],
    name: &str,
    help: &str,
    of: fn(&CoreView) -> &Log2Histogram,
) {
    page.head(name, "histogram", help);
    for core in cores {
        let histogram = of(core);
        let counts = histogram.counts();
        let label = core_label(core);
        for index in BUCKETS {
            let below: u64 = counts[..=index].iter().sum();
            let most = Log2Histogram::bucket_max(index).map_or(f64::INFINITY, seconds);
            page.sample(&format!("{name}_bucket"), &format!("{label},le=\"{most}\""), below);
        }
        let all: u64 = counts.iter().sum();
        page.sample(&format!("{name}_bucket"), &format!("{label},le=\"+Inf\""), all);
        page.sample(&format!("{name}_sum"), &label, seconds(histogram.sum()));
        page.sample(&format!("{name}_count"), &label, all);
    }
}

fn node_metrics(page: &mut Page, node: &Node) {
    let facts = &node.facts;
    page.head("build_info", "gauge", "The version that runs; always 1.");
    let version = env!("CARGO_PKG_VERSION");
    let labels = format!("version=\"{version}\",transport=\"{}\"", facts.transport);
    page.sample("build_info", &labels, 1);
    page.single("uptime_seconds", "gauge", "Time since start.", facts.started.elapsed().as_secs());
    page.single("cores", "gauge", "Cores of this node.", facts.cores.len());
    page.single("partitions", "gauge", "Partitions of this node.", facts.partitions);
    let dropped = facts.log_lines_dropped.dropped_lines();
    let help = "Log lines dropped because the log could not keep up.";
    page.single("log_lines_dropped_total", "counter", help, dropped);
}

/// Under the names that every Prometheus client uses, without our prefix.
fn process_metrics(page: &mut Page, node: &Node, process: &Process) {
    let started = node.facts.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let started = started.as_secs() as f64;
    let cpu = process.cpu_ticks as f64 / 100.0;
    let lines = [
        ("resident_memory_bytes", "gauge", "Resident memory.", process.resident_bytes as f64),
        ("open_fds", "gauge", "Open descriptors.", process.descriptors as f64),
        ("max_fds", "gauge", "Limit on descriptors; 0 = none.", process.descriptors_max as f64),
        ("threads", "gauge", "Threads.", process.threads as f64),
        ("cpu_seconds_total", "counter", "CPU time, user and system.", cpu),
        ("start_time_seconds", "gauge", "When the process started (Unix time).", started),
    ];
    for (name, kind, help, value) in lines {
        let _ = writeln!(page.0, "# HELP process_{name} {help}");
        let _ = writeln!(page.0, "# TYPE process_{name} {kind}");
        let _ = writeln!(page.0, "process_{name} {value}");
    }
}

/// Of a node in a cluster: what it is, and how far it and the others are.
fn cluster_metrics(page: &mut Page, cluster: &ClusterStatus) {
    let (damaged, failed) = cluster.ill();
    let is_leading = u64::from(cluster.is_leading());
    let singles = [
        ("cluster_leads", "gauge", "1 if this node leads, else 0.", is_leading),
        ("cluster_epoch", "gauge", "The newest epoch that this node knows.", cluster.epoch),
        (
            "cluster_leader",
            "gauge",
            "The number of the node that leads; 0 while none is known to.",
            u64::from(cluster.leader.unwrap_or(0)),
        ),
        (
            "cluster_learner",
            "gauge",
            "1 while this node is being filled from the others and counts for no majority.",
            u64::from(cluster.is_learner),
        ),
        (
            "cluster_etcd_trouble",
            "gauge",
            "1 while etcd does not answer this node.",
            u64::from(cluster.etcd_trouble.is_some()),
        ),
        (
            "cluster_nodes_heard",
            "gauge",
            "Other nodes that this node hears.",
            cluster.heard.len() as u64,
        ),
        (
            "cluster_no_majority",
            "gauge",
            "1 while this node hears too few others for a majority.",
            u64::from(cluster.no_majority.is_some()),
        ),
        (
            "cluster_streams_differ",
            "gauge",
            "Nodes that run with other streams than this one.",
            cluster.streams_differ.len() as u64,
        ),
        (
            "cluster_begun_again_total",
            "counter",
            "Times that this node could not go on and began again as a follower.",
            cluster.begun_again,
        ),
        ("replicas_damaged", "gauge", "Replicas that lack what their logs once held.", damaged),
        ("replicas_failed", "gauge", "Replicas whose logs have failed.", failed),
    ];
    for (name, kind, help, value) in singles {
        page.single(name, kind, help, value);
    }
    replica_metrics(page, cluster);
}

/// How far the replicas of a node are, and as a leader the others.
fn replica_metrics(page: &mut Page, cluster: &ClusterStatus) {
    type Mark = (&'static str, &'static str, fn(&PartitionStatus) -> u64);
    let marks: [Mark; 6] = [
        ("replica_epoch", "The epoch that is durable.", |replica| replica.epoch),
        ("replica_next_offset", "Offset that the next record gets.", |replica| replica.next),
        ("replica_flushed_offset", "Durable on this node below it.", |replica| replica.flushed),
        (
            "replica_quorum_accepted_offset",
            "In the logs of a majority of the nodes below it, as the leader knows.",
            |replica| replica.quorum_accepted,
        ),
        ("replica_high_watermark", "Durable on a majority of the nodes below it.", |replica| {
            replica.high_watermark
        }),
        ("replica_applied_offset", "In the state of this node below it.", |replica| {
            replica.applied
        }),
    ];
    for (name, help, of) in marks {
        page.head(name, "gauge", help);
        for replica in &cluster.partitions {
            page.sample(name, &format!("partition=\"{}\"", replica.partition), of(replica));
        }
    }
    let followers = cluster.followers();
    page.head(
        "follower_lag_records",
        "gauge",
        "Records that a follower does not have durably, as the leader knows.",
    );
    for follower in &followers {
        page.sample("follower_lag_records", &format!("node=\"{}\"", follower.node), follower.lag);
    }
    let help = "Partitions in which a follower is in step, as the leader knows.";
    page.head("follower_partitions_in_step", "gauge", help);
    for follower in &followers {
        let label = format!("node=\"{}\"", follower.node);
        page.sample("follower_partitions_in_step", &label, follower.in_step);
    }
    page.head("follower_ready", "gauge", "1 if a follower says that it could lead at once.");
    for follower in &followers {
        let label = format!("node=\"{}\"", follower.node);
        page.sample("follower_ready", &label, u64::from(follower.is_ready));
    }
}

/// Of a node in a cluster.
fn proxy_metrics(page: &mut Page, node: &Node) {
    let Some(metrics) = node.proxy() else { return };
    metrics.each(|name, kind, help, value| page.single(name, kind_name(kind), help, value));
}

fn kind_name(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn core_label(core: &CoreView) -> String {
    format!("core=\"{}\"", core.core)
}

/// The text so far.
#[derive(Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Help texts are our own: no line end and no backslash to escape.
        let _ = writeln!(self.0, "# HELP ringlane_{name} {help}");
        let _ = writeln!(self.0, "# TYPE ringlane_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "ringlane_{name}{{{labels}}} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "ringlane_{name} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::tests::node;
    use super::*;
    use crate::cluster::proxy::ProxyMetrics;
    use crate::cluster::status::tests::leader_of_two_partitions;
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    /// The samples of a page by metric, after every rule of the format was checked.
    fn parse(page: &str) -> BTreeMap<String, Vec<(String, f64)>> {
        let mut helped = BTreeSet::new();
        let mut types = BTreeMap::new();
        let mut samples: BTreeMap<String, Vec<(String, f64)>> = BTreeMap::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help text");
                assert!(!help.is_empty() && !help.contains('\\'), "{line}");
                assert!(helped.insert(name.to_owned()), "{name} twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                types.insert(name.to_owned(), kind.to_owned());
            } else {
                let (key, value) = line.rsplit_once(' ').expect("a sample");
                let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
                let labels = labels.strip_suffix('}').expect("closed labels").to_owned();
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end).filter(|n| types.contains_key(*n)))
                    .unwrap_or(name);
                assert!(helped.contains(family) && types.contains_key(family), "{line}");
                let value = value.parse().expect("a number");
                samples.entry(name.to_owned()).or_default().push((labels, value));
            }
        }
        assert_eq!(helped.len(), types.len());
        samples
    }

    #[test]
    fn every_metric_has_a_head_and_one_sample_per_core() {
        let node = node(2);
        node.facts.cores[1].metrics.connections.set(7);
        node.facts.cores[1].metrics.dropped_mailbox_to[0].set(9);
        let samples = parse(&render(&node, &Process::read()));
        let connections = &samples["ringlane_connections"];
        let expected = [("core=\"0\"".to_owned(), 0.0), ("core=\"1\"".to_owned(), 7.0)];
        assert_eq!(connections.as_slice(), expected);
        let mut names = Vec::new();
        node.facts.cores[0].metrics.each(|name, _, _, _| names.push(name));
        for name in names {
            assert_eq!(samples[&format!("ringlane_{name}")].len(), 2, "{name}");
        }
        let drops = &samples["ringlane_messages_dropped_mailbox_to_total"];
        let expected = [("core=\"0\",to=\"1\"", 0.0), ("core=\"1\",to=\"0\"", 9.0)];
        assert!(drops.iter().map(|(labels, value)| (labels.as_str(), *value)).eq(expected));
        assert_eq!(samples["ringlane_cores"][0].1, 2.0);
        assert!(0.0 < samples["process_resident_memory_bytes"][0].1);
        assert!(1.6e9 < samples["process_start_time_seconds"][0].1);
    }

    #[test]
    fn a_node_of_a_cluster_shows_how_far_the_others_are() {
        let (_sender, receiver) = tokio::sync::watch::channel(leader_of_two_partitions());
        let node = node(1).in_cluster(receiver);
        let samples = parse(&render(&node, &Process::default()));
        assert_eq!(samples["ringlane_cluster_leads"][0].1, 1.0);
        assert_eq!(samples["ringlane_cluster_epoch"][0].1, 7.0);
        assert_eq!(samples["ringlane_cluster_nodes_heard"][0].1, 1.0);
        assert_eq!(samples["ringlane_cluster_no_majority"][0].1, 0.0);
        assert_eq!(samples["ringlane_replica_high_watermark"].len(), 2);
        let expected = [0, 1].map(|partition| (format!("partition=\"{partition}\""), 100.0));
        assert_eq!(samples["ringlane_replica_quorum_accepted_offset"].as_slice(), expected);
        assert_eq!(samples["ringlane_replica_epoch"][1].1, 7.0);
        let expected = [("node=\"2\"".to_owned(), 5.0), ("node=\"3\"".to_owned(), 200.0)];
        assert_eq!(samples["ringlane_follower_lag_records"].as_slice(), expected);
        let expected = [("node=\"2\"".to_owned(), 1.0), ("node=\"3\"".to_owned(), 0.0)];
        assert_eq!(samples["ringlane_follower_ready"].as_slice(), expected);
    }

    #[test]
    fn a_node_of_a_cluster_shows_its_proxy() {
        let node = node(1);
        let page = render(&node, &Process::default());
        assert!(!parse(&page).contains_key("ringlane_proxy_clients"));
        let metrics = Arc::new(ProxyMetrics::default());
        node.show_proxy(Arc::clone(&metrics));
        metrics.refused.add(3);
        let samples = parse(&render(&node, &Process::default()));
        let expected = [(String::new(), 3.0)];
        assert_eq!(samples["ringlane_proxy_clients_refused_total"].as_slice(), expected);
    }

    #[test]
    fn the_histogram_counts_every_turn_and_only_rises() {
        let node = node(1);
        let histogram = &node.facts.cores[0].stats.turn_ns;
        for nanos in [0, 100, 255, 256, 1_000_000, u64::MAX] {
            histogram.record(nanos);
        }
        let samples = parse(&render(&node, &Process::default()));
        let counts: Vec<f64> =
            samples["ringlane_core_turn_seconds_bucket"].iter().map(|sample| sample.1).collect();
        assert!(counts.is_sorted());
        assert_eq!(counts.first(), Some(&3.0), "0 to 255 ns");
        assert_eq!(counts.last(), Some(&6.0));
        assert_eq!(samples["ringlane_core_turn_seconds_count"][0].1, 6.0);
        let label = &samples["ringlane_core_turn_seconds_bucket"][0].0;
        assert_eq!(label, "core=\"0\",le=\"0.000000255\"");
    }
}
