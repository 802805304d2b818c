//! Kills, cuts and pauses at any time, as a seed says: what was acknowledged is delivered, with QoS 2
//! exactly once, and the cluster serves again when everybody is back.
//!
//! A seed draws the level at which that is promised: at `quorum_memory` one node at a time is lost, and the next one
//! when all have again what the others have. Beside it somebody publishes at a level of one node, which promises
//! nothing of a fail-over, but is answered in the end.

use super::Cluster;
use super::client::Client;
use crate::config::StreamLevel;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_dataplane::random::Random;
use ringlane_mqtt::QoS;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SEEDS: std::ops::Range<u64> = 0..6;
/// Faults and bursts of messages of a run.
const STEPS: u64 = 60;

/// A client that goes on where it was, as one that keeps its session does.
struct Publisher {
    client: Client,
    qos: QoS,
    topic: &'static str,
    sent: BTreeMap<u16, Vec<u8>>,
    was_connected: bool,
}

impl Publisher {
    fn new(id: &str, qos: QoS, topic: &'static str) -> Self {
        Self { client: Client::new(id), qos, topic, sent: BTreeMap::new(), was_connected: false }
    }

    fn publish(&mut self, cluster: &Cluster, payload: Vec<u8>) {
        let topic_and_payload = (self.topic, &payload[..]);
        let packet_id = self.client.publish(&cluster.outer, topic_and_payload, self.qos, false);
        self.sent.insert(packet_id, payload);
    }

    /// Says again what was not answered [MQTT-4.4.0-1].
    fn go_on(&mut self, cluster: &Cluster) {
        assert!(self.client.session_present || !self.was_connected, "the session is kept");
        self.was_connected = true;
        for (packet_id, payload) in &self.sent {
            if !self.client.acknowledged.contains(packet_id) {
                let again = (self.topic, &payload[..]);
                let flags = (false, true);
                self.client.publish_as(&cluster.outer, *packet_id, again, self.qos, flags);
            } else if self.qos == QoS::ExactlyOnce && !self.client.completed.contains(packet_id) {
                self.client.release(&cluster.outer, *packet_id);
            }
        }
    }

    fn is_done(&self) -> bool {
        let answered = match self.qos {
            QoS::ExactlyOnce => &self.client.completed,
            QoS::AtMostOnce | QoS::AtLeastOnce => &self.client.acknowledged,
        };
        self.sent.keys().all(|packet_id| answered.contains(packet_id))
    }

    fn acknowledged(&self) -> impl Iterator<Item = &Vec<u8>> {
        let sent = self.sent.iter();
        sent.filter(|(id, _)| self.client.acknowledged.contains(id)).map(|(_, payload)| payload)
    }
}

struct Run {
    cluster: Cluster,
    random: Random,
    /// The last one publishes at a level of one node.
    publishers: [Publisher; 3],
    level: StreamLevel,
    subscriber: Client,
    has_subscribed: bool,
    published: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut cores = || 1 + random.below(2) as u16;
        let cores = [cores(), cores(), cores()];
        let disk = |number: u64| MemoryDisk::shuffled(seed * 1000 + number);
        let mut one_of = |levels: [StreamLevel; 2]| levels[random.below(2) as usize];
        let level = one_of([StreamLevel::QuorumDisk, StreamLevel::QuorumMemory]);
        let alone = one_of([StreamLevel::LocalDisk, StreamLevel::Memory]);
        let mut cluster = Cluster::with_disks(cores, disk, &[("t/#", level), ("alone/#", alone)]);
        (0..3).for_each(|node| cluster.start(node));
        let publishers = [
            Publisher::new("one", QoS::AtLeastOnce, "t/a"),
            Publisher::new("two", QoS::ExactlyOnce, "t/a"),
            Publisher::new("three", QoS::AtLeastOnce, "alone/a"),
        ];
        let (subscriber, has_subscribed) = (Client::new("subscriber"), false);
        Self { cluster, random, publishers, level, subscriber, has_subscribed, published: 0 }
    }

    fn turn(&mut self) {
        let [one, two, three] = self.publishers.each_mut().map(|publisher| &mut publisher.client);
        self.cluster.turn(&mut [one, two, three, &mut self.subscriber]);
    }

    fn pass(&mut self, turns: u64) {
        for _ in 0..turns {
            self.turn();
            self.connect();
        }
    }

    /// Whoever has no connection gets one to whoever leads.
    fn connect(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let cores = u64::from(self.cluster.nodes[leader].cores);
        for at in 0..=self.publishers.len() {
            let client =
                self.publishers.get_mut(at).map_or(&mut self.subscriber, |p| &mut p.client);
            if !client.has_wire() {
                let core = self.random.below(cores) as usize;
                self.cluster.dial(client, leader, core);
            }
        }
        for publisher in &mut self.publishers {
            if publisher.client.take_connected() {
                publisher.go_on(&self.cluster);
            }
        }
        if self.subscriber.take_connected() && !self.has_subscribed {
            self.subscriber.subscribe(&self.cluster.outer, "t/#", QoS::ExactlyOnce);
        }
        self.has_subscribed |= self.subscriber.subacks > 0;
    }

    /// Clients that nobody answers try anew.
    fn hang_up(&mut self) {
        for publisher in &mut self.publishers {
            publisher.client.hang_up(&self.cluster.outer);
        }
        self.subscriber.hang_up(&self.cluster.outer);
    }

    fn publish(&mut self) {
        let at = self.random.below(self.publishers.len() as u64) as usize;
        for _ in 0..self.random.below(20) {
            self.published += 1;
            let payload = format!("{at}-{}", self.published).into_bytes();
            if self.has_subscribed && self.publishers[at].client.connected {
                self.publishers[at].publish(&self.cluster, payload);
            }
        }
    }

    fn fault(&mut self) {
        let node = self.random.below(3) as usize;
        let running = self.cluster.nodes.iter().filter(|node| node.is_running()).count();
        match self.random.below(8) {
            0 | 1 if running > 1 && self.cluster.may_lose_one(self.level) => {
                self.cluster.kill(node);
                self.cluster.forget_progress();
            }
            2..=4 => self.start_all(),
            5 => self.cluster.cut_off(node),
            6 => self.cluster.join(),
            7 => self.hang_up(),
            _ => {}
        }
    }

    fn start_all(&mut self) {
        for node in 0..3 {
            if !self.cluster.nodes[node].is_running() {
                self.cluster.start(node);
            }
        }
    }

    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for turns in 0..20_000 {
            if holds(self) {
                return;
            }
            if turns % 2000 == 1999 {
                self.hang_up();
            }
            self.turn();
            self.connect();
        }
        panic!("{what}: {:?}", self.cluster.describe());
    }

    fn heal(&mut self) {
        self.cluster.join();
        self.start_all();
        self.until("the cluster serves", |run| run.cluster.leader().is_some());
        self.until("all is acknowledged", |run| run.publishers.iter().all(Publisher::is_done));
        self.until("all is delivered", |run| {
            let received: BTreeSet<_> = run.subscriber.received.iter().collect();
            let mut acknowledged = run.publishers[..2].iter().flat_map(Publisher::acknowledged);
            acknowledged.all(|payload| received.contains(payload))
        });
    }

    fn check_once(&self) {
        let mut times = BTreeMap::new();
        for payload in &self.subscriber.received {
            *times.entry(payload).or_insert(0) += 1;
        }
        for payload in self.publishers[1].sent.values() {
            assert_eq!(times.get(payload), Some(&1), "{}", String::from_utf8_lossy(payload));
        }
    }
}

#[test]
fn what_was_acknowledged_survives_faults_at_any_time() {
    let (mut leaderships, mut published, mut truncations) = (0, 0, 0);
    let mut levels = BTreeSet::new();
    for seed in SEEDS {
        // A seed that fails is the last one named.
        println!("seed {seed}");
        let mut run = Run::new(seed);
        run.until("there is a leader", |run| run.cluster.leader().is_some());
        run.until("there is a subscriber", |run| run.has_subscribed);
        for _ in 0..STEPS {
            run.publish();
            if run.random.below(3) == 0 {
                run.fault();
            }
            let turns = 1 + run.random.below(200);
            run.pass(turns);
        }
        run.heal();
        run.cluster.pass(Duration::from_millis(200), &mut []);
        run.check_once();
        leaderships += run.cluster.etcd.epoch;
        published += run.published;
        levels.insert(format!("{:?}", run.level));
        truncations += run.cluster.nodes.iter().map(|node| node.truncations).sum::<usize>();
    }
    println!("{leaderships} epochs, {published} messages, {truncations} truncations");
    assert!(SEEDS.end * 2 < leaderships, "leaders change: {leaderships}");
    assert_eq!(levels.len(), 2, "both are drawn");
    assert!(truncations > 0, "ends of logs are given up");
}
