//! Kills, cuts and pauses at any time, as a seed says: what was acknowledged is delivered, with QoS 2
//! exactly once, and the cluster serves again when everybody is back.

use super::Cluster;
use super::client::Client;
use ringlane_dataplane::disk::memory::MemoryDisk;
use ringlane_mqtt::QoS;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SEEDS: std::ops::Range<u64> = 0..6;
/// Faults and bursts of messages of a run.
const STEPS: u64 = 60;

struct Random(u64);

impl Random {
    /// splitmix64.
    fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.any() % bound
    }
}

/// A client that goes on where it was, as one that keeps its session does.
struct Publisher {
    client: Client,
    qos: QoS,
    sent: BTreeMap<u16, Vec<u8>>,
    was_connected: bool,
}

impl Publisher {
    fn new(id: &str, qos: QoS) -> Self {
        Self { client: Client::new(id), qos, sent: BTreeMap::new(), was_connected: false }
    }

    fn publish(&mut self, cluster: &Cluster, payload: Vec<u8>) {
        let topic_and_payload = ("t/a", &payload[..]);
        let packet_id = self.client.publish(&cluster.outer, topic_and_payload, self.qos, false);
        self.sent.insert(packet_id, payload);
    }

    /// Says again what was not answered [MQTT-4.4.0-1].
    fn go_on(&mut self, cluster: &Cluster) {
        assert!(self.client.session_present || !self.was_connected, "the session is kept");
        self.was_connected = true;
        for (packet_id, payload) in &self.sent {
            if !self.client.acknowledged.contains(packet_id) {
                let again = ("t/a", &payload[..]);
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
    publishers: [Publisher; 2],
    subscriber: Client,
    has_subscribed: bool,
    published: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let mut cores = || 1 + random.below(2) as u16;
        let cores = [cores(), cores(), cores()];
        let disk = |number: u64| MemoryDisk::shuffled(seed * 1000 + number);
        let mut cluster = Cluster::with_disks(cores, disk);
        (0..3).for_each(|node| cluster.start(node));
        let publishers =
            [Publisher::new("one", QoS::AtLeastOnce), Publisher::new("two", QoS::ExactlyOnce)];
        let subscriber = Client::new("subscriber");
        Self { cluster, random, publishers, subscriber, has_subscribed: false, published: 0 }
    }

    fn turn(&mut self) {
        let [one, two] = &mut self.publishers;
        self.cluster.turn(&mut [&mut one.client, &mut two.client, &mut self.subscriber]);
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
        for at in 0..3 {
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
        let at = self.random.below(2) as usize;
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
            0 | 1 if running > 1 => self.cluster.kill(node),
            2..=4 => self.start_all(),
            5 => {
                let hosts = self.cluster.nodes[node].hosts.clone();
                *self.cluster.outer.cut.borrow_mut() = hosts;
            }
            6 => self.cluster.outer.cut.borrow_mut().clear(),
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
        self.cluster.outer.cut.borrow_mut().clear();
        self.start_all();
        self.until("the cluster serves", |run| run.cluster.leader().is_some());
        self.until("all is acknowledged", |run| run.publishers.iter().all(Publisher::is_done));
        self.until("all is delivered", |run| {
            let received: BTreeSet<_> = run.subscriber.received.iter().collect();
            let mut acknowledged = run.publishers.iter().flat_map(Publisher::acknowledged);
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
        truncations += run.cluster.nodes.iter().map(|node| node.truncations).sum::<usize>();
    }
    println!("{leaderships} epochs, {published} messages, {truncations} truncations");
    assert!(SEEDS.end * 2 < leaderships, "leaders change: {leaderships}");
    assert!(truncations > 0, "ends of logs are given up");
}
