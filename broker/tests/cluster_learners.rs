//! A cluster of three processes whose logs are trimmed: a node that lacks what is not kept any more is rebuilt under load,
//! and then it is what counts.

use crate::cluster::sender::Sender;
use crate::cluster::taker::Taker;
use crate::support::cluster::Cluster;
use crate::support::{Connect, Kind, Options, Publish, Transport, Version};
use std::sync::atomic::{AtomicBool, Ordering};

/// What retention would keep goes at once, and nothing is kept for who is away.
const TRIMMED: &str = r#"
    [replication]
    keep_for_absent = "0B"
    [[stream]]
    name = "default"
    retention_size = 4096
"#;

/// Publishes much that nobody is owed, through all nodes, while something happens.
fn churn(cluster: &Cluster, happens: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let filler = "x".repeat(20_000);
    let publish = |number: usize| {
        let mut sender = Sender::new(&format!("churn-{number}"), number);
        while !stop.load(Ordering::Relaxed) {
            sender.publish(cluster, &format!("churn/{number}"), &filler, 1);
        }
    };
    std::thread::scope(|scope| {
        let publish = &publish;
        (0..4).for_each(|number| drop(scope.spawn(move || publish(number))));
        let ends = StopAtEnd(&stop);
        happens();
        drop(ends);
    });
}

/// Publishers end, too, where a test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn trimmed(cluster: &Cluster, node: usize) -> u64 {
    cluster[node].metric("log_segments_trimmed_total")
}

/// Files of a node's partitions whose name is or ends so.
fn files(cluster: &Cluster, node: usize, name: &str) -> usize {
    let partitions = cluster[node].data_dir().join("partitions");
    let Ok(partitions) = std::fs::read_dir(partitions) else { return 0 };
    let names = partitions.flatten().flat_map(|entry| std::fs::read_dir(entry.path()));
    names
        .flatten()
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().ends_with(name))
        .count()
}

fn owe(cluster: &Cluster, sender: &mut Sender, owed: &mut Vec<String>, count: usize) {
    for _ in 0..count {
        owed.push(format!("2/{}", owed.len()));
        sender.publish(cluster, "owed", owed.last().expect("one"), 2);
    }
}

#[test]
fn a_wiped_node_is_rebuilt_while_logs_are_trimmed_and_then_counts() {
    let mut cluster =
        Cluster::start_with(&Options::new(Transport::Uring).cores(1).config(TRIMMED), 3);
    let leader = cluster.leader();
    let [wiped, other] = [1, 2].map(|step| (leader + step) % 3);
    let mut taker = Taker::subscribed(&cluster, leader, "taker", "owed");
    taker.leave();
    let mut publisher = cluster.durable(leader, "publisher");
    publisher.publish_packet(Publish::new("kept", "retained").qos(1, 0).retain());
    publisher.send_publish(&Publish::new("t/half", "half").qos(2, 77));
    assert_eq!(publisher.read_kind(Kind::Pubrec).id(), 77);
    let (mut sender, mut owed) = (Sender::new("sender", leader), Vec::new());
    // What is owed is older than every checkpoint that is sent later.
    owe(&cluster, &mut sender, &mut owed, 20);
    cluster.wait_until_in_step(wiped);
    cluster.kill(wiped);
    cluster.wipe(wiped);
    churn(&cluster, || {
        cluster[leader].wait_until("the leader trims", |_| 8 < trimmed(&cluster, leader));
        cluster[other].wait_until("a follower trims", |_| 0 < trimmed(&cluster, other));
    });
    cluster.restart(wiped);
    churn(&cluster, || {
        cluster.wait_until_ready(wiped);
        cluster[wiped]
            .wait_until("it is no learner any more", |node| node.metric("cluster_learner") == 0);
    });
    let log = cluster[wiped].log();
    assert!(log.contains("takes the place of a partition's log and state"), "{log}");
    assert_eq!(files(&cluster, wiped, ".received"), 0);
    cluster.wait_until_in_step(wiped);
    // What is acknowledged now is on its disk and on that of the leader, which is lost.
    cluster.kill(other);
    owe(&cluster, &mut sender, &mut owed, 20);
    cluster.kill(leader);
    cluster.wipe(leader);
    cluster.restart(other);
    cluster.leader_after(leader);
    taker.take(&cluster, &owed);
    assert!(taker.repeated("2/").is_empty(), "{:?}", taker.repeated("2/"));
    let mut publisher = cluster.durable(wiped, "publisher");
    assert!(publisher.connack().session_present());
    publisher.send_publish(&Publish::new("t/half", "half").qos(2, 77).dup());
    assert_eq!(publisher.read_kind(Kind::Pubrec).id(), 77);
    publisher.acknowledge(Kind::Pubrel, 77);
    assert_eq!(publisher.read_kind(Kind::Pubcomp).id(), 77);
    let mut late = cluster.connect(other, &Connect::new(Version::V5, "late"));
    assert_eq!(late.subscribe("kept", 1), 1);
    assert_eq!(late.receive_and_acknowledge().text(), "retained");
    // And the leader of before is rebuilt, too.
    cluster.restart(leader);
    cluster.wait_until_in_step(leader);
}
