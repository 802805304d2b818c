//! A cluster of three processes and a real etcd: nodes are killed, stopped and paused under load.

#[path = "cluster/sender.rs"]
pub(crate) mod sender;
#[path = "cluster/taker.rs"]
pub(crate) mod taker;

use crate::support;
use crate::support::broker::{self, Place, ringlane};
use crate::support::cluster::{Cluster, member};
use crate::support::etcd::EtcdServer;
use crate::support::{Client, Connect, Gone, Kind, Options, Publish, Transport, Version, Will};
use sender::Sender;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use taker::Taker;

/// How long nothing must come where nothing may.
const SILENCE: Duration = Duration::from_secs(1);

#[test]
fn the_configurations_of_all_nodes_are_accepted() {
    let etcd = EtcdServer::start();
    let places: Vec<Place> = (0..3).map(|_| Place::new()).collect();
    for (node, place) in places.iter().enumerate() {
        let options = member(&Options::new(Transport::Uring).cores(1), &places, node, &etcd);
        let output = ringlane(&options, place, "check-config").output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::remove_dir_all(&place.directory).expect("a directory");
    }
}

#[test]
fn clients_of_every_node_are_served() {
    let cluster = Cluster::start(3);
    for from in 0..3 {
        let to = (from + 1) % 3;
        for version in [Version::V311, Version::V5] {
            let name = format!("{from}-{}", version as u8);
            let mut subscriber =
                cluster.connect(to, &Connect::new(version, &format!("sub-{name}")));
            subscriber.subscribe(&format!("t/{name}"), 2);
            let mut publisher =
                cluster.connect(from, &Connect::new(version, &format!("pub-{name}")));
            for qos in 0..3 {
                publisher.publish(&format!("t/{name}"), format!("{qos}"), qos);
                let received = subscriber.receive_and_acknowledge();
                assert_eq!((received.text(), received.qos), (format!("{qos}"), qos));
            }
        }
        // WebSocket is passed on, too.
        let mut client = Client::open_websocket(cluster[from].websocket, Version::V5);
        client.greet(&Connect::new(Version::V5, &format!("web-{from}")));
        client.publish("t/web", "x", 2);
    }
}

#[test]
fn what_was_acknowledged_is_there_after_leaders_were_killed() {
    kill_leaders(Cluster::start(3));
}

/// Links arrive at cores that they are not for, and clients live on either.
#[test]
fn what_was_acknowledged_is_there_with_two_cores_on_epoll() {
    kill_leaders(Cluster::start_with(&Options::new(Transport::Epoll).cores(2), 3));
}

#[test]
fn nodes_may_have_different_numbers_of_cores() {
    let mut cluster = Cluster::start_with(&Options::new(Transport::Uring).cores(2), 3);
    let follower = cluster.follower();
    cluster.kill(follower);
    cluster.restart_with(follower, &format!("[runtime]\ncores = [{}]", broker::cpus(1).join("")));
    cluster.wait_until_ready(follower);
    kill_leaders(cluster);
}

fn kill_leaders(mut cluster: Cluster) {
    const KILLS: usize = 4;
    let mut there = Taker::subscribed(&cluster, 0, "there", "load/#");
    let mut away = Taker::subscribed(&cluster, 1, "away", "load/#");
    away.leave();
    let mut acknowledged = Vec::new();
    for cycle in 0..KILLS {
        let leader = cluster.leader();
        acknowledged.extend(load_until(&cluster, cycle, || {
            std::thread::sleep(Duration::from_millis(300));
            cluster.kill(leader);
            cluster.leader_after(leader);
            std::thread::sleep(Duration::from_millis(300));
        }));
        cluster.restart(leader);
        cluster.wait_until_ready(leader);
    }
    assert!(KILLS * 30 < acknowledged.len(), "{} acknowledged", acknowledged.len());
    for taker in [&mut there, &mut away] {
        taker.take(&cluster, &acknowledged);
        assert!(taker.repeated("2/").is_empty(), "{:?}", taker.repeated("2/"));
    }
}

/// Publishes through all nodes with QoS 1 and 2 while something happens; gives what was
/// acknowledged, which begins with its QoS.
fn load_until(cluster: &Cluster, cycle: usize, happens: impl FnOnce()) -> Vec<String> {
    let stop = AtomicBool::new(false);
    let publish = |number: usize| {
        let mut sender = Sender::new(&format!("load-{number}"), number);
        let mut sent = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let qos = sent.len() as u8 % 2 + 1;
            let payload = format!("{qos}/{cycle}/{number}/{}", sent.len());
            sender.publish(cluster, &format!("load/{number}"), &payload, qos);
            sent.push(payload);
        }
        sent
    };
    std::thread::scope(|scope| {
        let publish = &publish;
        let publishers: Vec<_> =
            (0..3).map(|number| scope.spawn(move || publish(number))).collect();
        let ends = StopAtEnd(&stop);
        happens();
        drop(ends);
        publishers.into_iter().flat_map(|it| it.join().expect("a publisher")).collect()
    })
}

/// Publishers end, too, where a test fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_session_goes_on_at_the_next_leader() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let will = Connect::new(Version::V5, "mortal").will(Will::new("wills", "gone"));
    let mut subscriber = cluster.durable(leader, "session");
    assert_eq!(subscriber.subscribe("t/#", 2), 2);
    assert_eq!(subscriber.subscribe("wills", 1), 1);
    let mut publisher = cluster.durable(leader, "publisher");
    publisher.publish_packet(Publish::new("kept", "retained").qos(1, 0).retain());
    // Half of an exchange in both directions: PUBREL is not sent, PUBREC is not answered.
    publisher.send_publish(&Publish::new("t/half", "half").qos(2, 77));
    assert_eq!(publisher.read_kind(Kind::Pubrec).id(), 77);
    let received = subscriber.receive();
    assert_eq!((received.text(), received.qos), ("half".to_owned(), 2));
    subscriber.acknowledge(Kind::Pubrec, received.id);
    subscriber.read_kind(Kind::Pubrel);
    let _mortal = cluster.connect(leader, &will);

    cluster.kill(leader);
    let next = cluster.leader_after(leader);
    let mut subscriber = cluster.durable(next, "session");
    assert!(subscriber.connack().session_present());
    assert_eq!(subscriber.read_kind(Kind::Pubrel).id(), received.id);
    subscriber.acknowledge(Kind::Pubcomp, received.id);
    let mut publisher = cluster.durable(next, "publisher");
    assert!(publisher.connack().session_present());
    publisher.send_publish(&Publish::new("t/half", "half").qos(2, 77).dup());
    assert_eq!(publisher.read_kind(Kind::Pubrec).id(), 77);
    publisher.acknowledge(Kind::Pubrel, 77);
    assert_eq!(publisher.read_kind(Kind::Pubcomp).id(), 77);
    publisher.publish("t/after", "after", 2);
    let received = subscriber.receive_and_acknowledge();
    assert_eq!(received.text(), "after", "what was published once came once");
    // Who does not come back has died with the leader.
    assert_eq!(subscriber.receive_and_acknowledge().text(), "gone");
    assert_eq!(subscriber.subscribe("kept", 1), 1);
    let received = subscriber.receive_and_acknowledge();
    assert_eq!((received.text(), received.retain), ("retained".to_owned(), true));
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let follower = cluster.follower();
    let mut sender = Sender::new("sender", leader);
    sender.publish(&cluster, "t", "before", 1);
    let mut near = cluster.durable(leader, "near");
    let mut far = cluster.durable(follower, "far");
    cluster.terminate(leader);
    for client in [&mut near, &mut far] {
        let packets = client.expect_closed();
        let last = packets.last().map(|packet| (packet.kind(), packet.reason()));
        let is_told = matches!(last, Some((Kind::Disconnect, 0x8b | 0x9d)));
        assert!(is_told, "{packets:?}");
    }
    cluster.leader_after(leader);
    sender.publish(&cluster, "t", "after", 2);
    cluster.restart(leader);
    cluster.wait_until_ready(leader);
    let mut client = cluster.durable(leader, "near");
    assert!(client.connack().session_present());
    client.publish("t", "again", 1);
}

#[test]
fn a_follower_that_was_away_catches_up_and_counts() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [away, other] = [1, 2].map(|step| (leader + step) % 3);
    let mut taker = Taker::subscribed(&cluster, leader, "taker", "t");
    taker.leave();
    let mut sender = Sender::new("sender", leader);
    let mut sent = Vec::new();
    let mut publish = |cluster: &Cluster, count: usize| {
        for _ in 0..count {
            sent.push(format!("2/{}", sent.len()));
            sender.publish(cluster, "t", sent.last().expect("one"), 2);
        }
        sent.clone()
    };
    cluster.kill(away);
    publish(&cluster, 100);
    cluster.restart(away);
    cluster.wait_until_ready(away);
    // Now it is one half of the majority, and then the whole of what is left of it.
    cluster.kill(other);
    let sent_to_both = publish(&cluster, 20);
    cluster.kill(leader);
    cluster.restart(other);
    cluster.leader_after(leader);
    taker.take(&cluster, &sent_to_both);
    assert!(taker.repeated("2/").is_empty(), "{:?}", taker.repeated("2/"));
}

#[test]
fn a_node_whose_disk_was_emptied_is_filled_again() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [wiped, other] = [1, 2].map(|step| (leader + step) % 3);
    let mut taker = Taker::subscribed(&cluster, leader, "taker", "load/#");
    taker.leave();
    let mut acknowledged = load_until(&cluster, 0, || {
        std::thread::sleep(Duration::from_millis(300));
    });
    cluster.kill(wiped);
    cluster.wipe(wiped);
    cluster.restart(wiped);
    acknowledged.extend(load_until(&cluster, 1, || cluster.wait_until_ready(wiped)));
    cluster.wait_until_in_step(wiped);
    // It counts: what is acknowledged now is on its disk and on that of one that is killed.
    cluster.kill(other);
    Sender::new("sender", leader).publish(&cluster, "load/more", "2/more", 2);
    acknowledged.push("2/more".to_owned());
    cluster.restart(other);
    cluster.wait_until_in_step(other);
    cluster.kill(leader);
    cluster.leader_after(leader);
    taker.take(&cluster, &acknowledged);
    assert!(taker.repeated("2/").is_empty(), "{:?}", taker.repeated("2/"));
}

#[test]
fn clusters_have_one_node_or_five() {
    let mut one = Cluster::start(1);
    Sender::new("sender", 0).publish(&one, "t", "x", 2);
    one.terminate(0);
    one.restart(0);
    one.leader();
    Sender::new("sender", 0).publish(&one, "t", "y", 1);
    let five = Cluster::start(5);
    let mut taker = Taker::subscribed(&five, 0, "taker", "t");
    let mut sender = Sender::new("sender", 1);
    let first = five.leader();
    five.kill(first);
    let second = five.leader_after(first);
    sender.publish(&five, "t", "2/three of five", 2);
    five.kill(second);
    (0..5).filter(|node| ![first, second].contains(node)).for_each(|node| {
        five.wait_until_ready(node);
    });
    sender.publish(&five, "t", "2/still three", 2);
    taker.take(&five, &["2/three of five".to_owned(), "2/still three".to_owned()]);
    assert!(taker.repeated("2/").is_empty());
}

#[test]
fn without_a_majority_nothing_is_acknowledged_until_there_is_one() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let [one, two] = [1, 2].map(|step| (leader + step) % 3);
    let mut sender = Sender::new("sender", leader);
    sender.publish(&cluster, "t", "before", 1);
    let mut client = cluster.durable(leader, "client");
    cluster.kill(one);
    cluster.kill(two);
    let _ = client.try_send(&Publish::new("t", "alone").qos(1, 1).encode(Version::V5));
    let answers = match client.try_read(SILENCE) {
        Ok(packet) => vec![packet.kind()],
        Err(Gone::Closed | Gone::TimedOut) => Vec::new(),
    };
    assert!(!answers.contains(&Kind::Puback), "{answers:?}");
    cluster.wait_until_said(leader, (503, "0 of the 2 other nodes are heard"));
    cluster.restart(one);
    sender.publish(&cluster, "t", "again", 2);
    cluster.wait_until_ready(leader);
    cluster.restart(two);
    cluster.wait_until_ready(two);
    sender.leave();
    sender.publish(&cluster, "t", "by all", 1);
    // A follower that is left alone has heard of a leader, and does not know that it has gone.
    let leader = cluster.leader();
    let [one, left] = [1, 2].map(|step| (leader + step) % 3);
    cluster.kill(leader);
    cluster.kill(one);
    cluster.wait_until_said(left, (503, "0 of the 2 other nodes are heard"));
}

#[test]
fn a_leader_goes_on_without_etcd() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut taker = Taker::subscribed(&cluster, cluster.follower(), "taker", "load/#");
    cluster.etcd.kill();
    let acknowledged = load_until(&cluster, 0, || {
        // Longer than a lease.
        std::thread::sleep(Duration::from_secs(5));
    });
    assert_eq!(cluster.try_leader(), Some(leader));
    taker.take(&cluster, &acknowledged);
    cluster.etcd.restart();
    // It is needed to change who leads.
    cluster.kill(leader);
    cluster.leader_after(leader);
    Sender::new("sender", leader).publish(&cluster, "t", "after", 1);
}

#[test]
fn a_leader_that_stood_still_is_not_believed_any_more() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut old = cluster.durable(leader, "old");
    let mut taker = Taker::subscribed(&cluster, (leader + 1) % 3, "taker", "t");
    cluster.pause(leader);
    let next = cluster.leader_after(leader);
    old.send(&Publish::new("t", "too late").qos(1, 9).encode(Version::V5));
    let mut sender = Sender::new("sender", next);
    sender.publish(&cluster, "t", "1/in time", 1);
    cluster.resume(leader);
    // What the old leader took is acknowledged by nobody.
    let packets = old.try_closed(support::PATIENCE).expect("it ends its clients");
    assert!(packets.iter().all(|packet| packet.kind() != Kind::Puback), "{packets:?}");
    cluster.wait_until_ready(leader);
    taker.take(&cluster, &["1/in time".to_owned()]);
    assert!(!taker.taken.contains_key("too late"));
    let mut through = cluster.durable(leader, "through");
    through.publish("t", "1/through", 1);
    taker.take(&cluster, &["1/through".to_owned()]);
}

#[test]
fn everything_is_there_after_all_nodes_lost_their_power() {
    let mut cluster = Cluster::start(3);
    let mut taker = Taker::subscribed(&cluster, 0, "taker", "load/#");
    taker.leave();
    let acknowledged = load_until(&cluster, 0, || {
        std::thread::sleep(Duration::from_millis(500));
    });
    (0..3).for_each(|node| cluster.kill(node));
    (0..3).for_each(|node| cluster.restart(node));
    cluster.leader();
    taker.take(&cluster, &acknowledged);
    assert!(taker.repeated("2/").is_empty(), "{:?}", taker.repeated("2/"));
}
