//! What each level promises in a cluster of three processes and a real etcd, and where clients are sent.

use crate::support::cluster::Cluster;
use crate::support::{Client, Connect, Kind, Options, PATIENCE, Publish, Transport, Version};
use std::time::{Duration, Instant};

/// A stream of each level, and the shortest lease.
const LEVELS: &str = r#"
    [replication]
    lease = "2s"
    [[stream]]
    name = "memory"
    filters = ["memory"]
    level = "memory"
    [[stream]]
    name = "local"
    filters = ["local"]
    level = "local_disk"
    [[stream]]
    name = "quorum-memory"
    filters = ["quorum-memory"]
    level = "quorum_memory"
"#;
const ALL: [&str; 4] = ["memory", "local", "quorum-memory", "disk"];
/// Longer than a lease.
const LEASE_OVER: Duration = Duration::from_millis(2500);
/// How long nothing must come where nothing may.
const SILENCE: Duration = Duration::from_secs(1);

fn start(more: &str) -> Cluster {
    let options = Options::new(Transport::Uring).cores(1);
    Cluster::start_with(&options.config(LEVELS).config(more), 3)
}

/// A publisher and a subscriber of everything, at the leader.
fn pair(cluster: &Cluster) -> (usize, Client, Client) {
    let leader = cluster.leader();
    let connect = |name: &str| cluster.connect(leader, &Connect::new(Version::V5, name));
    let (publisher, mut subscriber) = (connect("publisher"), connect("subscriber"));
    subscriber.subscribe("#", 1);
    (leader, publisher, subscriber)
}

/// Each level answers and delivers.
fn assert_answered(publisher: &mut Client, subscriber: &mut Client, payload: &str) {
    for topic in ALL {
        publisher.publish(topic, payload, 1);
        let received = subscriber.receive_and_acknowledge();
        assert_eq!((received.topic.as_str(), received.text().as_str()), (topic, payload));
    }
}

/// Whether a message of QoS 0 comes: both clients are of one core.
fn delivers_qos0(publisher: &mut Client, subscriber: &mut Client) -> bool {
    publisher.publish("volatile", "0", 0);
    publisher.fence();
    subscriber.fence().iter().any(|packet| packet.kind() == Kind::Publish)
}

/// What comes within a time, or until the connection ends.
fn kinds(client: &mut Client, patience: Duration) -> Vec<Kind> {
    let packets = client.try_closed(patience).unwrap_or_else(|packets| packets);
    packets.iter().map(|packet| packet.kind()).collect()
}

#[test]
fn without_etcd_a_majority_answers_for_every_level_and_qos_0_stops() {
    let mut cluster = start("");
    let (leader, mut publisher, mut subscriber) = pair(&cluster);
    assert_answered(&mut publisher, &mut subscriber, "before");
    assert!(delivers_qos0(&mut publisher, &mut subscriber));
    cluster.etcd.kill();
    std::thread::sleep(LEASE_OVER);
    assert_answered(&mut publisher, &mut subscriber, "without etcd");
    assert!(!delivers_qos0(&mut publisher, &mut subscriber), "its lease has run out");
    let dropped = cluster[leader].metric("messages_dropped_lease_total");
    assert_eq!(dropped, 1);
    cluster.etcd.restart();
    let deadline = Instant::now() + PATIENCE;
    while !delivers_qos0(&mut publisher, &mut subscriber) {
        assert!(Instant::now() < deadline, "QoS 0 does not come back");
    }
    assert_answered(&mut publisher, &mut subscriber, "after");
    assert_eq!(cluster.leader(), leader, "it led all the time");
}

#[test]
fn a_leader_without_etcd_and_majority_does_nothing_alone_after_its_lease() {
    // So that it still leads when its lease has run out.
    let mut cluster = start("[replication]\nsuspect_after = \"3s\"\n");
    let (leader, mut publisher, mut subscriber) = pair(&cluster);
    assert_answered(&mut publisher, &mut subscriber, "before");
    let followers = [1, 2].map(|step| (leader + step) % 3);
    cluster.etcd.kill();
    followers.iter().for_each(|follower| cluster.pause(*follower));
    std::thread::sleep(LEASE_OVER);
    let mut late = vec![Publish::new("volatile", "late")];
    late.extend((1000..).zip(ALL).map(|(id, topic)| Publish::new(topic, "late").qos(1, id)));
    for publish in late {
        let _ = publisher.try_send(&publish.encode(Version::V5));
    }
    // It may have noticed by now that nobody follows.
    let (answers, deliveries) = (kinds(&mut publisher, SILENCE), kinds(&mut subscriber, SILENCE));
    assert!(!answers.contains(&Kind::Puback), "{answers:?}");
    assert!(!deliveries.contains(&Kind::Publish), "{deliveries:?}");
    followers.iter().for_each(|follower| cluster.resume(*follower));
    cluster.etcd.restart();
    let leader = cluster.leader();
    let mut client = cluster.durable(leader, "after");
    for topic in ALL {
        client.publish(topic, "after", 2);
    }
}

#[test]
fn what_a_majority_had_in_memory_survives_its_leader() {
    let mut cluster = start("");
    let mut subscriber = cluster.durable(cluster.leader(), "subscriber");
    subscriber.subscribe("quorum-memory", 2);
    drop(subscriber);
    for round in 0..3 {
        let leader = cluster.leader();
        let mut publisher = cluster.durable(leader, "publisher");
        // The last ones are on no disk yet when the process ends.
        for number in 0..50 {
            publisher.publish("quorum-memory", format!("{round}-{number}"), 2);
        }
        cluster.kill(leader);
        cluster.leader_after(leader);
        cluster.restart(leader);
        cluster.wait_until_in_step(leader);
    }
    let mut subscriber = cluster.durable(cluster.leader(), "subscriber");
    for round in 0..3 {
        for number in 0..50 {
            let received = subscriber.receive_and_acknowledge();
            assert_eq!(received.text(), format!("{round}-{number}"), "each once, in order");
        }
    }
}

#[test]
fn clients_of_mqtt_5_are_told_where_the_leader_is_where_that_is_wanted() {
    let cluster = start("[cluster]\nredirect = \"server-reference\"\n");
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut client = Client::open(cluster[follower].tcp, Version::V5);
    client.send(&Connect::new(Version::V5, "moved").encode());
    let connack = client.expect(Kind::Connack);
    assert_eq!((connack.reason(), connack.session_present()), (0x9d, false));
    let reference = connack.properties().text(28).expect("a Server Reference");
    assert_eq!(reference, cluster[leader].tcp.to_string());
    assert!(client.expect_closed().is_empty(), "nothing follows");
    let address = reference.parse().expect("an address");
    let mut client = Client::plain(address, Version::V5, "moved");
    client.publish("t", "there", 2);
    // Others know no reference: they are passed on.
    let mut old = cluster.connect(follower, &Connect::new(Version::V311, "old"));
    old.subscribe("t", 1);
    client.publish("t", "to the old one", 1);
    assert_eq!(old.receive_and_acknowledge().text(), "to the old one");
    let mut web = Client::open_websocket(cluster[follower].websocket, Version::V5);
    web.greet(&Connect::new(Version::V5, "web"));
    web.publish("t", "from the web", 1);
    assert_eq!(old.receive_and_acknowledge().text(), "from the web");
}

#[test]
fn passed_on_clients_of_mqtt_5_are_told_when_their_leader_vanishes() {
    let cluster = start("");
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let mut new = cluster.connect(follower, &Connect::new(Version::V5, "new"));
    let mut old = cluster.connect(follower, &Connect::new(Version::V311, "old"));
    new.publish("t", "x", 1);
    old.publish("t", "x", 1);
    cluster.kill(leader);
    let told = new.expect_closed();
    let told: Vec<_> = told.iter().map(|packet| (packet.kind(), packet.reason())).collect();
    assert_eq!(told, [(Kind::Disconnect, 0x8b)]);
    assert!(old.expect_closed().is_empty(), "3.1.1 has no such packet");
}
