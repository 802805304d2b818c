//! What the control thread of a node does for its cluster, on three processes and a real etcd: who
//! leads shows, operators are sent there, an emptied node is filled, and etcd may come late.

use crate::support;
use crate::support::broker::Place;
use crate::support::cluster::{Cluster, member};
use crate::support::etcd::EtcdServer;
use crate::support::{Broker, Connect, Options, PATIENCE, Transport, Version};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// What `ringlane cluster status --json` says.
fn status(cluster: &Cluster) -> Value {
    let output = cluster.status();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

/// The row of a node, by its place.
fn replica(status: &Value, node: usize) -> Value {
    let rows = status["replicas"].as_array().expect("replicas").iter();
    rows.into_iter().find(|row| row["node"] == node as u64 + 1).cloned().unwrap_or_default()
}

/// Waits until `ringlane cluster status` says something.
fn wait_for(cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        let status = status(cluster);
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "{what}: {status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until all of three nodes have the same log, and are well.
fn wait_until_level(cluster: &Cluster) {
    let is_well = |row: &Value| {
        let says = &row["status"];
        row["lag_records"] == 0 && row["in_step"] == 4 && says["is_learner"] == false
    };
    wait_for(cluster, "all are level", |status| (0..3).all(|node| is_well(&replica(status, node))));
}

fn publish(cluster: &Cluster, node: usize, client: &str, topic: &str) {
    let mut client = cluster.connect(node, &Connect::new(Version::V5, client));
    client.publish(topic, "kept", 1);
}

#[test]
fn who_leads_and_how_far_the_others_are_shows_everywhere() {
    let cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    publish(&cluster, leader, "p", "t");
    wait_until_level(&cluster);
    let status = status(&cluster);
    let number = leader as u64 + 1;
    assert_eq!((&status["leader"], &status["nodes_running"]), (&number.into(), &3.into()));
    for node in 0..3 {
        let says = replica(&status, node)["status"].clone();
        let role = if node == leader { "leader" } else { "follower" };
        assert_eq!((&says["role"], &says["epoch"]), (&role.into(), &status["epoch"]), "{says}");
        let partitions = says["partitions"].as_array().expect("partitions");
        assert_eq!(partitions.len(), 4);
        assert!(partitions.iter().all(|p| p["applied"] == p["high_watermark"]), "{says}");
        let broker = &cluster[node];
        let is_leading = u64::from(node == leader);
        let (_, page) = broker.get("/metrics");
        for line in [format!("cluster_leads {is_leading}"), format!("cluster_leader {number}")] {
            assert!(page.contains(&format!("\nringlane_{line}\n")), "{line}");
        }
        for path in ["/readyz", "/livez"] {
            let (code, text) = broker.get(path);
            assert_eq!(code, 200, "{text}");
            assert!(text.contains("leads"), "{text}");
        }
    }
    assert_eq!(cluster[leader].metric_by_label("follower_lag_records").len(), 2);
    let text = cluster.command(follower, "cluster status");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let name = format!("n{}", leader + 1);
    let leads = |line: &str| line.contains(&name) && line.contains("leader");
    assert!(text.contains("3 of 3 run") && text.lines().any(leads), "{text}");
    let refused = cluster.command(follower, "ctl sessions");
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    let expected = format!("this node follows, and node {number} ({name}) leads");
    assert!(refused.contains(&expected), "{refused}");
    let answered = cluster.command(leader, "ctl sessions");
    assert!(answered.status.success(), "{answered:?}");
}

#[test]
fn a_node_whose_disk_was_emptied_is_filled_before_it_counts() {
    let mut cluster = Cluster::start(3);
    let (leader, emptied) = (cluster.leader(), cluster.follower());
    drop(cluster.durable(leader, "absent"));
    for number in 0..50 {
        publish(&cluster, leader, "p", &format!("t/{number}"));
    }
    cluster.terminate(emptied);
    fs::remove_dir_all(cluster[emptied].data_dir()).expect("a data directory");
    cluster.restart(emptied);
    // What etcd says of it may be from before.
    cluster[emptied].wait_until("it is filled", |node| {
        let manifest = fs::read_to_string(node.data_dir().join("manifest.json"));
        manifest.is_ok_and(|manifest| manifest.contains("\"is_learner\": false"))
    });
    wait_until_level(&cluster);
    // With another one gone, a majority needs what it was filled with.
    let other = (0..3).find(|node| *node != leader && *node != emptied).expect("three nodes");
    cluster.terminate(other);
    cluster.terminate(leader);
    cluster.restart(other);
    let next = cluster.leader();
    assert_ne!(next, leader);
    let mut session = cluster.durable(next, "absent");
    assert!(session.connack().session_present(), "{:?}", session.connack());
    session.publish("t", "on", 1);
}

#[test]
fn a_node_waits_for_etcd_and_can_be_stopped_meanwhile() {
    let mut etcd = EtcdServer::start();
    etcd.kill();
    let places: Vec<Place> = (0..3).map(|_| Place::new()).collect();
    let base = Options::new(Transport::Uring).cores(1);
    let options = member(&base, &places, 0, &etcd);
    let mut places = places.into_iter();
    let mut node = Broker::launch(places.next().expect("three"), &options);
    let says = |node: &Broker| node.log().contains("etcd does not answer");
    node.wait_until("it says that etcd is missing", says);
    assert_eq!(node.get("/readyz").0, 503);
    assert_eq!(node.get("/livez").0, 200);
    node.terminate();
    assert_eq!(node.wait().code(), Some(0), "{}", node.log());
    node.spawn_again(&options);
    node.wait_until("it waits again", says);
    etcd.restart();
    node.wait_until("it has joined", |node| node.log().contains("joined the cluster"));
    node.wait_until("it follows", |node| node.get("/readyz").1.contains("nobody is known"));
    for place in places {
        fs::remove_dir_all(&place.directory).expect("a directory");
    }
}

#[test]
fn the_number_of_cores_may_differ_and_change() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut subscriber = cluster.durable(leader, "s");
    subscriber.subscribe("t/#", 1);
    drop(subscriber);
    let two = cores(2);
    for (round, cores) in [two.as_str(), "0", two.as_str()].into_iter().enumerate() {
        for node in 0..3 {
            publish(&cluster, node, &format!("p{round}-{node}"), &format!("t/{round}/{node}"));
            cluster.terminate(node);
            cluster.restart_with(node, &format!("[runtime]\ncores = [{cores}]\n"));
            cluster.wait_until_ready(node);
            wait_until_level(&cluster);
        }
    }
    let mut subscriber = cluster.durable(cluster.leader(), "s");
    let mut topics: Vec<String> =
        (0..9).map(|_| subscriber.receive_and_acknowledge().topic).collect();
    topics.sort();
    topics.dedup();
    assert_eq!(topics.len(), 9, "{topics:?}");
}

/// So many of the CPUs that this process may run on, as the configuration names them.
fn cores(count: usize) -> String {
    support::broker::cpus(count).join(", ")
}
