//! What each level waits for in a cluster, and what a leader does once its lease has run out.

use super::Cluster;
use super::client::Client;
use crate::config::StreamLevel;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_mqtt::QoS;
use std::time::Duration;

const LEVELS: [(&str, StreamLevel); 4] = [
    ("memory", StreamLevel::Memory),
    ("local", StreamLevel::LocalDisk),
    ("quorum-memory", StreamLevel::QuorumMemory),
    ("quorum-disk", StreamLevel::QuorumDisk),
];
/// Long enough for every disk and link of these tests.
const SOON: Duration = Duration::from_millis(200);

/// A cluster with a stream of each level, whose leader serves a publisher and a subscriber of everything.
struct Served {
    cluster: Cluster,
    leader: usize,
    publisher: Client,
    subscriber: Client,
}

impl Served {
    fn new(cores: u16, lease: Duration, levels: &[(&str, StreamLevel)]) -> Self {
        let mut cluster = Cluster::with_disks([cores; 3], |_| MemoryDisk::new(), levels);
        cluster.etcd.lease = lease;
        (0..3).for_each(|node| cluster.start(node));
        let leader = cluster.wait_for_leader();
        let (publisher, subscriber) = (Client::new("publisher"), Client::new("subscriber"));
        let mut served = Self { cluster, leader, publisher, subscriber };
        let Self { cluster, publisher, subscriber, .. } = &mut served;
        cluster.connect(publisher, leader, 0);
        cluster.connect(subscriber, leader, usize::from(cores - 1));
        subscriber.subscribe(&cluster.outer, "#", QoS::AtLeastOnce);
        cluster.until("no SUBACK", &mut [subscriber], |_, clients| clients[0].subacks == 1);
        served
    }

    fn pass(&mut self, time: Duration) {
        self.cluster.pass(time, &mut [&mut self.publisher, &mut self.subscriber]);
    }

    /// Publishes to these streams with QoS 1, and to none with QoS 0; whether each is answered soon, and whether
    /// QoS 0 comes.
    fn answered<const N: usize>(&mut self, topics: [&str; N], name: &[u8]) -> ([bool; N], bool) {
        let Self { cluster, publisher, subscriber, .. } = self;
        subscriber.received.clear();
        let sent = topics
            .map(|topic| publisher.publish(&cluster.outer, (topic, name), QoS::AtLeastOnce, false));
        publisher.publish(&cluster.outer, ("volatile", b"0"), QoS::AtMostOnce, false);
        self.pass(SOON);
        let answered = sent.map(|id| self.publisher.acknowledged.contains(&id));
        let count =
            |payload: &[u8]| self.subscriber.received.iter().filter(|p| *p == payload).count();
        let answers = answered.iter().filter(|is_answered| **is_answered).count();
        assert_eq!(count(name), answers, "an answer and a delivery have one cause");
        (answered, count(b"0") == 1)
    }

    fn cut_off(&mut self) {
        self.cluster.etcd.is_away = true;
        self.cluster.cut_off(self.leader);
    }
}

const ALL: [&str; 4] = ["memory", "local", "quorum-memory", "quorum-disk"];

#[test]
fn every_level_is_answered_while_all_is_well() {
    for cores in [1, 2] {
        let mut served = Served::new(cores, Duration::from_secs(3), &LEVELS);
        assert_eq!(served.answered(ALL, b"1"), ([true; 4], true));
        // Longer than a lease, which is kept.
        served.pass(Duration::from_secs(5));
        assert_eq!(served.answered(ALL, b"2"), ([true; 4], true));
    }
}

#[test]
fn a_leader_without_etcd_asks_a_majority_and_sends_no_qos_0() {
    for cores in [1, 2] {
        let mut served = Served::new(cores, Duration::from_secs(3), &LEVELS);
        served.cluster.etcd.is_away = true;
        assert_eq!(served.answered(ALL, b"1"), ([true; 4], true), "its lease still counts");
        served.pass(Duration::from_secs(3));
        assert_eq!(served.answered(ALL, b"2"), ([true; 4], false), "a majority has them");
        served.cluster.etcd.is_away = false;
        served.pass(SOON);
        assert_eq!(served.answered(ALL, b"3"), ([true; 4], true), "it has been kept again");
        assert_eq!(served.cluster.leader(), Some(served.leader), "and it led all the time");
    }
}

#[test]
fn a_leader_that_nobody_hears_ends_with_its_lease() {
    for cores in [1, 2] {
        let mut served = Served::new(cores, Duration::from_millis(450), &LEVELS);
        served.cut_off();
        // It notices after 600 ms that nobody follows.
        let alone = ["memory", "local"];
        assert_eq!(served.answered(alone, b"1"), ([true; 2], true), "its lease counts");
        served.pass(Duration::from_millis(252));
        assert!(served.cluster.nodes[served.leader].ends.is_empty(), "it still leads");
        let Served { cluster, publisher, .. } = &mut served;
        let sent = alone
            .map(|topic| publisher.publish(&cluster.outer, (topic, b"2"), QoS::AtLeastOnce, false));
        publisher.publish(&cluster.outer, ("volatile", b"late"), QoS::AtMostOnce, false);
        served.pass(Duration::from_secs(1));
        let is_answered = |id: &u16| served.publisher.acknowledged.contains(id);
        assert!(!sent.iter().any(is_answered), "nobody else has them");
        let late: &[&[u8]] = &[b"2", b"late"];
        assert!(!served.subscriber.received.iter().any(|payload| late.contains(&&payload[..])));
        assert!(!served.cluster.nodes[served.leader].ends.is_empty(), "it begins again");
    }
}

#[test]
fn quorum_levels_never_waited_for_a_lease() {
    let mut served = Served::new(1, Duration::from_millis(20), &LEVELS);
    served.cluster.etcd.is_away = true;
    served.pass(SOON);
    let quorum = ["quorum-memory", "quorum-disk"];
    assert_eq!(served.answered(quorum, b"1"), ([true; 2], false));
}

/// The clock of the turns stands still while a host sleeps; that of the lease does not.
#[test]
fn a_host_that_slept_has_no_lease() {
    let mut served = Served::new(1, Duration::from_secs(3), &LEVELS);
    served.cut_off();
    assert_eq!(served.answered(["memory", "local"], b"1"), ([true; 2], true));
    served.cluster.outer.sleep(Duration::from_secs(3600));
    assert_eq!(served.answered(["memory", "local"], b"2"), ([false; 2], false));
}

#[test]
fn a_majority_in_memory_answers_before_any_disk_and_survives_the_leader() {
    let mut served = Served::new(1, Duration::from_secs(3), &LEVELS);
    let mut absent = Client::new("absent");
    served.cluster.connect(&mut absent, served.leader, 0);
    absent.subscribe(&served.cluster.outer, "quorum-memory", QoS::ExactlyOnce);
    served.cluster.until("no SUBACK", &mut [&mut absent], |_, clients| clients[0].subacks == 1);
    absent.hang_up(&served.cluster.outer);
    served.pass(SOON);
    served.cluster.nodes.iter().flat_map(|node| &node.files).for_each(|disk| disk.hold(true));
    let Served { cluster, publisher, leader, .. } = &mut served;
    let (topic, qos) = ("quorum-memory", QoS::ExactlyOnce);
    publisher.releases = false;
    let memory = publisher.publish(&cluster.outer, (topic, b"memory"), qos, false);
    let disk = publisher.publish(&cluster.outer, ("quorum-disk", b"disk"), qos, false);
    cluster.until("no PUBREC", &mut [publisher], |_, clients| {
        clients[0].acknowledged.contains(&memory)
    });
    cluster.pass(SOON, &mut [publisher]);
    assert!(!publisher.acknowledged.contains(&disk), "no disk has it");
    cluster.kill(*leader);
    cluster.nodes.iter().flat_map(|node| &node.files).for_each(|disk| disk.hold(false));
    let next = cluster.wait_for_leader();
    cluster.connect(&mut absent, next, 0);
    cluster.until("not delivered", &mut [&mut absent], |_, clients| {
        clients[0].received.iter().any(|payload| payload == b"memory")
    });
    // Its identifier is taken: the message is not published twice.
    cluster.connect(publisher, next, 0);
    publisher.acknowledged.remove(&memory);
    publisher.publish_as(&cluster.outer, memory, (topic, b"memory"), qos, (false, true));
    cluster.until("no PUBREC", &mut [publisher], |_, clients| {
        clients[0].acknowledged.contains(&memory)
    });
    publisher.release(&cluster.outer, memory);
    cluster.pass(Duration::from_secs(1), &mut [publisher, &mut absent]);
    let times = absent.received.iter().filter(|payload| *payload == b"memory").count();
    assert_eq!(times, 1);
}

/// What a node acknowledged alone may be lost with it, and nothing else with that.
#[test]
fn a_level_of_one_node_may_lose_what_it_acknowledged_and_no_more() {
    for level in ["memory", "local"] {
        let mut served = Served::new(1, Duration::from_secs(3), &LEVELS);
        let mut absent = Client::new("absent");
        served.cluster.connect(&mut absent, served.leader, 0);
        absent.subscribe(&served.cluster.outer, level, QoS::ExactlyOnce);
        served.cluster.until("no SUBACK", &mut [&mut absent], |_, c| c[0].subacks == 1);
        absent.hang_up(&served.cluster.outer);
        served.pass(SOON);
        served.cut_off();
        assert_eq!(served.answered([level], b"lost"), ([true], true));
        served.cluster.kill(served.leader);
        served.cluster.etcd.is_away = false;
        let next = served.cluster.wait_for_leader();
        served.cluster.join();
        served.cluster.start(served.leader);
        let Served { cluster, publisher, .. } = &mut served;
        cluster.connect(publisher, next, 0);
        let id = publisher.publish(&cluster.outer, (level, b"kept"), QoS::ExactlyOnce, false);
        cluster.connect(&mut absent, next, 0);
        cluster.until("not delivered", &mut [publisher, &mut absent], |_, clients| {
            clients[0].completed.contains(&id)
                && clients[1].received.iter().any(|payload| payload == b"kept")
        });
        cluster.pass(Duration::from_secs(2), &mut [publisher, &mut absent]);
        cluster.wait_for_followers();
        assert_eq!(absent.received, [b"kept"], "{level}");
    }
}

/// [MQTT-4.6.0-6], also where the first one waits for other nodes.
#[test]
fn qos_0_does_not_pass_a_retained_message_that_waits() {
    // With and without a stream for which memory counts.
    let all = ALL.map(|topic| (topic, LEVELS.len())).into_iter();
    for (level, streams) in all.chain([("memory", 2), ("local", 2), ("quorum-disk", 2)]) {
        let mut served = Served::new(1, Duration::from_secs(3), &LEVELS[..streams]);
        let Served { cluster, publisher, .. } = &mut served;
        publisher.publish(&cluster.outer, ("quorum-memory", b"first"), QoS::AtLeastOnce, false);
        publisher.publish(&cluster.outer, (level, b"second"), QoS::AtLeastOnce, true);
        publisher.publish(&cluster.outer, (level, b"third"), QoS::AtMostOnce, true);
        publisher.publish(&cluster.outer, (level, b"fourth"), QoS::AtMostOnce, false);
        served.pass(SOON);
        let is_qos0 = |payload: &&Vec<u8>| [&b"third"[..], b"fourth"].contains(&&payload[..]);
        let came: Vec<_> = served.subscriber.received.iter().filter(is_qos0).collect();
        assert_eq!(came, [&b"third"[..], b"fourth"], "{level}");
    }
}
