//! What operators do to a cluster, on three processes and a real etcd: another node is made the leader, a lost one
//! is replaced, and one is started while there is no etcd.

use crate::cluster::sender::Sender;
use crate::cluster::taker::Taker;
use crate::support::cluster::Cluster;
use serde_json::Value;
use std::fs;
use std::process::Output;

fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}

/// Runs a command that is refused; why.
fn refused(cluster: &Cluster, command: &str) -> String {
    let output = cluster.command(0, command);
    assert_eq!(output.status.code(), Some(1), "{command}: {}", text(&output));
    text(&output)
}

/// Waits until the leader shows that it misses a node, which it does once a second.
fn wait_until_missed(cluster: &Cluster, node: usize) {
    let row = format!("node=\"{}\"", node + 1);
    cluster[cluster.leader()].wait_until("the leader misses it", |leader| {
        let rows = leader.metric_by_label("follower_partitions_in_step");
        rows.iter().any(|(label, value)| *label == row && *value == 0.0)
    });
}

#[test]
fn an_operator_chooses_who_leads() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [next, other] = [1, 2].map(|step| (leader + step) % 3);
    let mut taker = Taker::subscribed(&cluster, leader, "taker", "t");
    let mut sender = Sender::new("sender", leader);
    sender.publish(&cluster, "t", "2/before", 2);
    cluster.wait_until_in_step(next);
    cluster.wait_until_in_step(other);
    let own = refused(&cluster, &format!("cluster transfer-leader {}", leader + 1));
    assert!(own.contains("leads already"), "{own}");
    let pid = cluster[leader].pid();
    let output = cluster.command(other, &format!("cluster transfer-leader {} --json", next + 1));
    assert!(output.status.success(), "{}", text(&output));
    let said: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
    assert_eq!(
        (&said["from"], &said["leader"]),
        (&(leader + 1).into(), &(next + 1).into()),
        "{said}"
    );
    assert_eq!(cluster.leader_after(leader), next);
    sender.publish(&cluster, "t", "2/after", 2);
    // The one that led goes on in its process, and counts: with it alone there is a majority.
    cluster.wait_until_in_step(leader);
    assert_eq!(cluster[leader].pid(), pid);
    cluster.kill(other);
    sender.publish(&cluster, "t", "2/by two", 2);
    wait_until_missed(&cluster, other);
    let gone = refused(&cluster, &format!("cluster transfer-leader {}", other + 1));
    assert!(gone.contains("in step") || gone.contains("does not run"), "{gone}");
    assert_eq!(cluster.try_leader(), Some(next), "nothing has happened");
    // Without a name it is one that could lead at once.
    let output = cluster.command(leader, "cluster transfer-leader");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains(&format!("node {} leads", leader + 1)), "{}", text(&output));
    cluster.restart(other);
    let sent = ["2/before", "2/after", "2/by two"].map(str::to_owned);
    taker.take(&cluster, &sent);
    assert!(taker.repeated("2/").is_empty(), "{:?}", taker.repeated("2/"));
}

#[test]
fn a_lost_node_is_replaced_at_once_and_its_directory_counts_no_more() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [lost, other] = [1, 2].map(|step| (leader + step) % 3);
    let mut sender = Sender::new("sender", leader);
    sender.publish(&cluster, "t", "first", 2);
    let replace = format!("cluster replace {}", lost + 1);
    let runs = refused(&cluster, &replace);
    assert!(runs.contains("stop it first"), "{runs}");
    cluster.kill(lost);
    cluster.wait_for_end(lost);
    let old = cluster[lost].directory().join("old");
    fs::rename(cluster[lost].data_dir(), &old).expect("its data");
    wait_until_missed(&cluster, lost);
    // Its lease has not ended: an empty node would be refused.
    let output = cluster.command(leader, &replace);
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("is free"), "{}", text(&output));
    cluster.restart(lost);
    cluster.wait_until_in_step(lost);
    // It counts: what is acknowledged now is on its disk, too.
    cluster.kill(other);
    sender.publish(&cluster, "t", "second", 2);
    wait_until_missed(&cluster, other);
    cluster.restart(other);
    cluster.wait_until_in_step(other);
    // The old directory lacks that, and is refused although nobody runs under its number.
    cluster.terminate(lost);
    let new = cluster[lost].directory().join("new");
    fs::rename(cluster[lost].data_dir(), &new).expect("its data");
    fs::rename(&old, cluster[lost].data_dir()).expect("its data");
    cluster.restart(lost);
    let (code, log) = cluster.end_of(lost);
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("it was replaced"), "{log}");
    fs::rename(cluster[lost].data_dir(), &old).expect("its data");
    fs::rename(&new, cluster[lost].data_dir()).expect("its data");
    wait_until_missed(&cluster, lost);
    cluster.restart(lost);
    cluster.wait_until_in_step(lost);
}

#[test]
fn a_node_that_is_started_without_etcd_follows() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [one, two] = [1, 2].map(|step| (leader + step) % 3);
    let mut taker = Taker::subscribed(&cluster, leader, "taker", "t");
    let mut sender = Sender::new("sender", leader);
    sender.publish(&cluster, "t", "2/before", 2);
    cluster.wait_until_in_step(one);
    cluster.etcd.kill();
    cluster.kill(one);
    wait_until_missed(&cluster, one);
    cluster.restart(one);
    cluster.wait_until_in_step(one);
    // It is one half of the majority.
    cluster.kill(two);
    sender.publish(&cluster, "t", "2/without etcd", 2);
    wait_until_missed(&cluster, two);
    cluster.etcd.restart();
    cluster.restart(two);
    cluster.wait_until_in_step(two);
    cluster.kill(leader);
    cluster.leader_after(leader);
    taker.take(&cluster, &["2/before".to_owned(), "2/without etcd".to_owned()]);
}
